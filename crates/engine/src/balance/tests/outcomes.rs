//! Failures and reports over time: what is chosen while some instances are not well.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::policy::{Algorithm, CheckPolicy};

/// What was sent where, and what became of it.
struct Played {
    sent: Vec<u64>,
    failed: u64,
}

/// One request a millisecond for `ms` milliseconds. `serve` says for an endpoint's place and a time how long the answer takes
/// and what it is.
fn play(set: &EndpointSet, from: u64, ms: u64, serve: impl Fn(usize, u64) -> (u64, Outcome)) -> Played {
    let mut rng = Rng::seeded(9);
    let mut played = Played { sent: vec![0; set.endpoints().len()], failed: 0 };
    let mut pending = Vec::new();
    let mut ends = BinaryHeap::new();
    for now in from..from + ms {
        set.review(at(now));
        while let Some(Reverse((end, request))) = ends.peek().copied()
            && end <= now
        {
            ends.pop();
            let (request, outcome): (InFlight, Outcome) = Option::take(&mut pending[request]).expect("it ends once");
            request.finish(at(end), outcome, set);
        }
        let chosen = set.choose(at(now), &mut rng, &Ask::default(), |_| true).expect("there is one");
        let place = set.endpoints().iter().position(|e| Arc::ptr_eq(e, &chosen)).expect("it is of the set");
        let (latency, outcome) = serve(place, now);
        played.sent[place] += 1;
        played.failed += u64::from(outcome.is_failure());
        ends.push(Reverse((now + latency, pending.len())));
        pending.push(Some((InFlight::start(chosen, Class::default(), at(now)), outcome)));
    }
    played
}

fn by_default(endpoints: impl IntoIterator<Item = Endpoint>, algorithm: Algorithm) -> EndpointSet {
    let policy = BalancePolicy { algorithm, ..BalancePolicy::default() };
    EndpointSet::new(endpoints.into_iter().map(Arc::new).collect(), policy, &Locality::default())
}

fn ten(algorithm: Algorithm) -> EndpointSet {
    by_default((0..10).map(|i| endpoint(&i.to_string())), algorithm)
}

/// Half of ten fail at once, and one of the others is not well by its check: four of ten are usable, so all are used again,
/// also those that were ejected. What they answer then must count.
#[test]
fn what_fails_at_once_attracts_nothing_in_a_panic_either() {
    let set = ten(Algorithm::Fastest);
    play(&set, 0, 1_000, |_, _| (20, Outcome::Success));
    let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
    set.endpoints()[9].load.checked(false, &checks);
    let fails = |place, _| if place < 5 { (1, failure()) } else { (20, Outcome::Success) };
    let played = play(&set, 1_000, 60_000, fails);
    assert!(set.view().panic(), "four of ten are usable");
    assert!(played.failed < 600, "{} of 60,000 failed", played.failed);
}

/// The same where they are left out because they asked for it.
#[test]
fn what_sheds_load_attracts_nothing_in_a_panic() {
    let set = ten(Algorithm::Fastest);
    let mut rng = Rng::seeded(9);
    let mut failed = 0;
    let mut pending = std::collections::VecDeque::new();
    for now in 0..60_000u64 {
        set.review(at(now));
        while let Some((end, _)) = pending.front()
            && *end <= now
        {
            let (end, request): (u64, InFlight) = pending.pop_front().expect("it was seen");
            request.finish(at(end), Outcome::Success, &set);
        }
        let chosen = set.choose(at(now), &mut rng, &Ask::default(), |_| true).expect("there is one");
        let sheds = chosen.workload.parse::<u32>().expect("a number") < 6;
        let mut request = InFlight::start(chosen, Class::default(), at(now));
        if sheds {
            failed += 1;
            request.answered(at(now + 1));
            request.refused(Nanos::from_millis(2_000), at(now + 1));
            request.finish(at(now + 1), failure(), &set);
        } else {
            pending.push_back((now + 20, request));
        }
    }
    assert!(failed < 600, "{failed} of 60,000 failed");
}

/// It is ejected for five failures in a row and sound since. That peers are compared later must not eject it again: neither for
/// those that were still under way then, nor for what it did before.
#[test]
fn what_is_paid_for_ejects_nobody_twice() {
    let stalls = |now: u64| (2_000..3_500).contains(&now).then_some((1_000u64, Outcome::Timeout));
    let sways = |now: u64| {
        ((1_000..3_000).contains(&now) && (now / 10).is_multiple_of(2) || (3_000..3_100).contains(&now))
            .then_some((20, failure()))
    };
    for fails in [&stalls as &dyn Fn(u64) -> Option<(u64, Outcome)>, &sways] {
        let set = ten(Algorithm::RoundRobin);
        let serve = |place, now| fails(now).filter(|_| place == 0).unwrap_or((20, Outcome::Success));
        play(&set, 100, 8_000, serve);
        let load = &set.endpoints()[0].load;
        assert!(load.left_out_until() > at(3_000), "it was ejected");
        let back = load.left_out_until();
        play(&set, 8_100, 3_000, serve);
        assert_eq!(load.left_out_until(), back, "the end of the interval ejects nobody");
    }
}

/// All of the first priority fail and are left out. The five that stand in for them lose one that fails as well.
#[test]
fn who_stands_in_for_others_loses_its_own_that_fail() {
    let first = (0..5).map(|i| endpoint(&format!("a{i}")));
    let second = (0..5).map(|i| Endpoint { priority: 1, ..endpoint(&format!("b{i}")) });
    let set = by_default(first.chain(second), Algorithm::RoundRobin);
    let fails = |place, _| if place <= 5 { (1, failure()) } else { (5, Outcome::Success) };
    let played = play(&set, 0, 60_000, fails);
    assert!(played.failed < 300, "{} of 60,000 failed; {:?}", played.failed, played.sent);
}

/// Three that take 30 ms, of which one is thought to take 50. Probes say that it takes 30 ms now, or that it goes on taking 50.
#[test]
fn reports_put_no_trial_off_for_ever() {
    for (reported, least) in [(30, 10_000), (50, 10)] {
        let set = many(3);
        let mut rng = Rng::seeded(1);
        for (endpoint, ms) in set.endpoints().iter().zip([50, 30, 30]) {
            send(&set, endpoint, 0, ms, Outcome::Success);
        }
        let mut to_it = 0;
        for now in 100..600_100u64 {
            if now.is_multiple_of(100)
                && let Some(idle) = set.probe_due(at(now), &mut rng)
            {
                idle.load.reported(0, Some(Nanos::from_millis(reported)), at(now));
            }
            if !now.is_multiple_of(10) {
                continue;
            }
            let chosen = set.choose(at(now), &mut rng, &Ask::default(), |_| true).expect("there is one");
            let is_it = Arc::ptr_eq(&chosen, &set.endpoints()[0]);
            to_it += u64::from(is_it);
            // A server that always claims to be slow is found out by its answers.
            send(&set, &chosen, now, now + 30, Outcome::Success);
        }
        assert!(to_it >= least, "{reported} ms reported: {to_it} of 60,000");
    }
}

/// Its readiness flaps, and it fails whenever it is ready.
#[test]
fn who_fails_whenever_it_is_ready_is_left_out_for_longer_each_time() {
    let set = many(3);
    let (bad, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    (0..5).for_each(|i| send(&set, bad, i, i + 1, failure()));
    assert_eq!(load.left_out_until(), at(5_005));
    let mut now = 1_000;
    for turn in 2..6 {
        load.forgive(false);
        set.review(at(now));
        assert!(!load.ejected(at(now)), "it is ready: it gets a chance");
        send(&set, bad, now, now + 1, failure());
        assert_eq!(load.left_out_until(), at(now + 1 + turn * 5_000), "one failure is enough");
        now += 2_000;
    }
    load.forgive(false);
    set.review(at(now));
    send(&set, bad, now, now + 1, Outcome::Success);
    send(&set, bad, now + 1, now + 2, failure());
    assert!(!load.ejected(at(now + 2)), "a success ends it");
}
