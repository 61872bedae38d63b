use proptest::prelude::*;

use super::*;
use crate::Rng;
use crate::policy::RetryOn;

fn at(seconds: u64) -> Nanos {
    Nanos(seconds * 1_000_000_000)
}

fn policy() -> RetryPolicy {
    RetryPolicy { budget_percent: 20, budget_min_per_second: 1, ..RetryPolicy::default() }
}

fn failed(outcome: Outcome) -> Failed {
    Failed { outcome, attempts: 1, idempotent: true, sent: true, replayable: true, left: None }
}

fn retried(policy: &RetryPolicy, failed: Failed) -> bool {
    decide(policy, &RetryBudget::new(policy), failed, at(1), &mut Rng::seeded(1)).is_some()
}

#[test]
fn the_budget_is_a_share_of_the_last_ten_seconds_and_a_minimum() {
    let budget = RetryBudget::new(&policy());
    for _ in 0..100 {
        budget.deposit(at(100));
    }
    let spend = |now| (0..1000).take_while(|_| budget.withdraw(now)).count();
    assert_eq!(spend(at(100)), 30, "20 % of 100, and one a second");
    assert_eq!(spend(at(109)), 0, "nothing is forgotten yet");
    assert_eq!(spend(at(110)), 10, "only the minimum is left after ten seconds");
    assert_eq!(spend(at(125)), 10);
}

#[test]
fn a_budget_of_nothing_allows_nothing() {
    let none = RetryPolicy { budget_percent: 0, budget_min_per_second: 0, ..policy() };
    let budget = RetryBudget::new(&none);
    budget.deposit(at(5));
    assert!(!budget.withdraw(at(5)));
}

#[test]
fn a_repetition_that_would_come_too_late_is_none_and_costs_none_of_the_budget() {
    let slow = RetryPolicy { backoff_base: at(3_600), backoff_max: at(3_600), ..policy() };
    let budget = RetryBudget::new(&slow);
    let late = Failed { left: Some(Nanos::from_millis(1)), ..failed(Outcome::Reset) };
    for seed in 0..100 {
        assert_eq!(decide(&slow, &budget, late, at(1), &mut Rng::seeded(seed)), None);
    }
    assert!(budget.withdraw(at(1)));
    let over = RetryPolicy { backoff_base: Nanos(0), backoff_max: Nanos(0), ..policy() };
    assert!(!retried(&over, Failed { left: Some(Nanos(0)), ..late }));
    assert!(retried(&over, late));
}

#[test]
fn a_connect_failure_is_retried_whatever_the_method() {
    let post = Failed { idempotent: false, replayable: false, ..failed(Outcome::ConnectFailure) };
    assert!(retried(&policy(), post));
    let mut off = policy();
    off.on.connect_failure = false;
    assert!(!retried(&off, post));
}

#[test]
fn what_was_sent_is_repeated_only_if_idempotent_or_named() {
    for outcome in [Outcome::Reset, Outcome::Timeout] {
        let post = Failed { idempotent: false, ..failed(outcome) };
        assert!(retried(&policy(), failed(outcome)));
        assert!(!retried(&policy(), post));
        assert!(retried(&policy(), Failed { sent: false, ..post }), "nothing was sent");
        assert!(!retried(&policy(), Failed { replayable: false, ..failed(outcome) }));
    }
    let unavailable = Failed { idempotent: false, ..failed(Outcome::from_status(503)) };
    assert!(!retried(&policy(), unavailable));
    for on in
        [RetryOn { server_errors: true, ..RetryOn::default() }, RetryOn { gateway_errors: true, ..RetryOn::default() }]
    {
        assert!(retried(&RetryPolicy { on, ..policy() }, unavailable));
    }
    let gateway = RetryOn { gateway_errors: true, ..RetryOn::default() };
    assert!(!retried(&RetryPolicy { on: gateway, ..policy() }, failed(Outcome::from_status(500))));
    let named = RetryPolicy { statuses: vec![429, 503], ..policy() };
    assert!(retried(&named, unavailable));
    assert!(retried(&named, failed(Outcome::ServerError(ServerError::Http(429)))));
    assert!(!retried(&named, Failed { replayable: false, ..unavailable }));
    let grpc = RetryPolicy { grpc_statuses: vec![8, 14], ..policy() };
    assert!(retried(&grpc, failed(Outcome::from_grpc(14))));
    assert!(!retried(&grpc, failed(Outcome::from_grpc(13))));
}

#[test]
fn success_and_a_client_gone_are_never_retried() {
    let mut all = policy();
    all.on = RetryOn { server_errors: true, gateway_errors: true, reset: true, connect_failure: true };
    assert!(!retried(&all, failed(Outcome::Success)));
    assert!(!retried(&all, failed(Outcome::Cancelled)));
}

#[test]
fn attempts_are_bounded_and_a_refusal_costs_no_budget() {
    let one = RetryPolicy { attempts: 1, budget_percent: 0, ..policy() };
    let budget = RetryBudget::new(&one);
    let mut rng = Rng::seeded(3);
    let second = Failed { attempts: 2, ..failed(Outcome::Reset) };
    for _ in 0..50 {
        assert_eq!(decide(&one, &budget, second, at(1), &mut rng), None);
    }
    let first = failed(Outcome::Reset);
    let granted = (0..50).filter(|_| decide(&one, &budget, first, at(1), &mut rng).is_some()).count();
    assert_eq!(granted, 10);
}

proptest! {
    #[test]
    fn waits_stay_below_the_doubling_bound(seed: u64, attempts in 1u32..80, base in 0u64..1_000_000_000, max in 0u64..10_000_000_000) {
        let policy = RetryPolicy { attempts: 100, backoff_base: Nanos(base), backoff_max: Nanos(max), ..policy() };
        let failed = Failed { attempts, ..failed(Outcome::Reset) };
        let wait = decide(&policy, &RetryBudget::new(&policy), failed, at(1), &mut Rng::seeded(seed));
        let doubled = u128::from(base) << (attempts - 1).min(60);
        prop_assert!(u128::from(wait.expect("within the budget").0) <= doubled.min(u128::from(max)));
    }

    #[test]
    fn retries_never_exceed_share_and_minimum(events in prop::collection::vec((0u64..300_000_000, any::<bool>()), 1..400)) {
        let budget = RetryBudget::new(&policy());
        let (mut now, mut deposits, mut granted) = (50_000_000_000u64, 0u64, Vec::new());
        for (step, deposit) in events {
            now += step;
            if deposit {
                budget.deposit(Nanos(now));
                deposits += 1;
            } else if budget.withdraw(Nanos(now)) {
                granted.push(now / 1_000_000_000);
            }
            let second = now / 1_000_000_000;
            let recent = granted.iter().filter(|&&s| s + 10 > second).count() as u64;
            prop_assert!(recent <= deposits / 5 + 10);
        }
    }
}
