use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::policy::{BalancePolicy, OutlierPolicy};
use crate::{Nanos, Outcome, Rng};

mod bad_input;
mod candidates;
mod outcomes;
mod simulation;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Nanos {
    Nanos(ms * MS)
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint::plain(name, ([127, 0, 0, 1], 80).into())
}

fn set(endpoints: impl IntoIterator<Item = Endpoint>) -> EndpointSet {
    with(endpoints, OutlierPolicy::default())
}

fn with(endpoints: impl IntoIterator<Item = Endpoint>, outlier: OutlierPolicy) -> EndpointSet {
    let policy = BalancePolicy { outlier, panic_percent: 0, ..BalancePolicy::default() };
    EndpointSet::new(endpoints.into_iter().map(Arc::new).collect(), policy, &Locality::default())
}

fn many(n: usize) -> EndpointSet {
    set((0..n).map(|i| endpoint(&format!("shop/cart-{i}"))))
}

/// One request from start to end.
fn send(peers: &EndpointSet, endpoint: &Arc<Endpoint>, start: u64, end: u64, outcome: Outcome) {
    InFlight::start(Arc::clone(endpoint), Class::default(), at(start)).finish(at(end), outcome, peers);
}

fn never() -> OutlierPolicy {
    OutlierPolicy { consecutive_failures: 0, consecutive_gateway_failures: 0, ..OutlierPolicy::default() }
}

fn failure() -> Outcome {
    Outcome::from_status(503)
}

/// How often each endpoint is chosen in a thousand draws of which nothing is learnt.
fn shares(set: &EndpointSet, now: Nanos, tried: &[u64]) -> BTreeMap<Box<str>, usize> {
    let mut rng = Rng::seeded(7);
    let mut shares = BTreeMap::new();
    set.review(now);
    for _ in 0..1000 {
        let chosen = set.choose(now, &mut rng, &Ask { tried, ..Ask::default() }, |_| true).expect("there is one");
        *shares.entry(chosen.workload.clone()).or_default() += 1;
    }
    shares
}

#[test]
fn sizes() {
    assert_eq!(size_of::<Load>(), 192, "three cache lines");
    assert!(size_of::<InFlight>() <= 40);
    assert!(size_of::<Endpoint>() <= 152);
}

#[test]
fn nothing_to_choose_from() {
    let mut rng = Rng::seeded(1);
    assert!(many(0).choose(at(1), &mut rng, &Ask::default(), |_| true).is_none());
    let down = set([Endpoint { health: Health::NotReady, ..endpoint("a") }]);
    assert!(down.choose(at(1), &mut rng, &Ask::default(), |_| true).is_none());
}

#[test]
fn tiers_are_used_in_order() {
    let mut draining = endpoint("draining");
    draining.health = Health::Draining;
    let mut down = endpoint("down");
    down.health = Health::NotReady;
    let set = set([endpoint("a"), endpoint("b"), draining, down]);
    let only = |tried: &[u64]| shares(&set, at(1), tried).into_keys().collect::<Vec<_>>();
    let id = |i: usize| set.endpoints()[i].load.id;
    assert_eq!(only(&[]), ["a".into(), "b".into()]);
    assert_eq!(only(&[id(0)]), ["b".into()]);
    set.endpoints()[1].load.eject(at(0), &set.policy().outlier);
    assert_eq!(only(&[]), ["a".into()]);
    assert_eq!(only(&[id(0)]), ["b".into()], "ejected before tried");
    assert_eq!(only(&[id(0), id(1)]), ["a".into()], "tried before draining");
    let rest = EndpointSet::new(set.endpoints()[2..].to_vec(), BalancePolicy::default(), &Locality::default());
    assert_eq!(shares(&rest, at(1), &[id(2)])["draining"], 1000, "the last one, even if tried");
}

#[test]
fn weights_divide_the_cost() {
    let set = set([Endpoint { weight: 3, ..endpoint("big") }, endpoint("small")]);
    let mut rng = Rng::seeded(5);
    let mut under_way = Vec::new();
    // Requests that do not end: the number in flight comes to be as the weights.
    for _ in 0..400 {
        let chosen = set.choose(at(1), &mut rng, &Ask::default(), |_| true).expect("there is one");
        under_way.push(InFlight::start(chosen, Class::default(), at(1)));
    }
    let big = set.endpoints()[0].load.in_flight();
    assert!((297..=303).contains(&big), "{big} of 400");
    drop(under_way);
    assert_eq!(set.endpoints()[0].load.in_flight(), 0);
}

#[test]
fn instances_that_are_alike_share_the_work() {
    let set = many(3);
    for (endpoint, ms) in set.endpoints().iter().zip([100, 139, 141]) {
        send(&set, endpoint, 0, ms, Outcome::Success);
    }
    let shares = shares(&set, at(200), &[]);
    assert!((400..600).contains(&shares["shop/cart-0"]) && (400..600).contains(&shares["shop/cart-1"]), "{shares:?}");
    assert_eq!(shares.get("shop/cart-2"), None, "more than the tolerance slower");
    // The tolerance is one of estimates: requests in flight are known for sure.
    let _request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(200));
    assert_eq!(self::shares(&set, at(200), &[])["shop/cart-1"], 1000);
}

#[test]
fn a_cold_connection_costs_but_never_keeps_a_new_endpoint_out() {
    let set = many(2);
    send(&set, &set.endpoints()[0], 0, 2, Outcome::Success);
    let cold = |e: &Endpoint| e.load.id == set.endpoints()[0].load.id;
    let mut rng = Rng::seeded(2);
    let mut to_new = 0;
    for _ in 0..1000 {
        let chosen = set.choose(at(2), &mut rng, &Ask::default(), cold).expect("there is one");
        to_new += usize::from(Arc::ptr_eq(&chosen, &set.endpoints()[1]));
    }
    assert!((400..600).contains(&to_new), "an equal chance until its first answer: {to_new}");
    send(&set, &set.endpoints()[1], 0, 2, Outcome::Success);
    for _ in 0..100 {
        let chosen = set.choose(at(2), &mut rng, &Ask::default(), cold).expect("there is one");
        assert!(Arc::ptr_eq(&chosen, &set.endpoints()[0]), "equally fast, and warm");
    }
}

#[test]
fn a_new_endpoint_is_held_back_by_its_requests_in_flight() {
    let set = many(2);
    send(&set, &set.endpoints()[0], 0, 1, Outcome::Success);
    let _first = InFlight::start(Arc::clone(&set.endpoints()[1]), Class::default(), at(1));
    assert_eq!(shares(&set, at(1), &[])["shop/cart-0"], 1000);
}

#[test]
fn estimates_follow_slower_answers_faster_and_a_good_one_after_silence_at_once() {
    let set = many(1);
    let (endpoint, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    let latency = || load.latency(Class::default()).expect("known") / MS as f64;
    let near = |a: f64, b: f64| (a - b).abs() < 0.01;
    assert_eq!(load.latency(Class::default()), None);
    send(&set, endpoint, 0, 100, Outcome::Success);
    assert_eq!(latency(), 100.0, "the first answer is all there is");
    InFlight::start(Arc::clone(endpoint), Class::default(), at(90)).finish(at(100), Outcome::Success, &set);
    assert!(near(latency(), 95.5), "a twentieth of the difference: {}", latency());
    InFlight::start(Arc::clone(endpoint), Class::default(), at(0)).finish(at(101), Outcome::Success, &set);
    assert!(near(latency(), 96.05), "a tenth of it: {}", latency());
    send(&set, endpoint, 100, 601, Outcome::Success);
    let share = 500.0 / 5_500.0;
    assert!(near(latency(), 96.05 + f64::max(share, 0.1) * (501.0 - 96.05)), "{}", latency());
    send(&set, endpoint, 9_990, 10_000, Outcome::Success);
    assert_eq!(latency(), 10.0, "what was long ago says nothing of now");
    send(&set, endpoint, 10_985, 11_000, Outcome::Success);
    assert!(near(latency(), 12.5), "an answer after a second of silence counts half where it fits: {}", latency());
}

#[test]
fn answers_are_learnt_in_any_order() {
    let set = many(1);
    let (endpoint, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    let start = |ms: u64| InFlight::start(Arc::clone(endpoint), Class::default(), at(ms));
    send(&set, endpoint, 0, 100, Outcome::Success);
    send(&set, endpoint, 100, 101, failure());
    let (known, failing) = (load.latency(Class::default()).expect("known"), load.failing());
    // Its head came before what was learnt last, its body ended after it.
    let mut late = start(98);
    late.answered(at(99));
    late.finish(at(99), Outcome::Success, &set);
    assert!(load.latency(Class::default()).expect("known") > 0.9 * known, "it counts as any other");
    assert!(load.failing() > 0.8 * failing, "and is no sign of recovery");
}

#[test]
fn a_request_that_takes_long_by_its_nature_keeps_no_others_away() {
    let set = many(2);
    let (endpoint, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    for endpoint in set.endpoints() {
        send(&set, endpoint, 0, 10, Outcome::Success);
    }
    let _poll = InFlight::start(Arc::clone(endpoint), Class::default(), at(10));
    assert!(load.overdue(at(1_000)) > 10.0, "alone it cannot be told from a stall");
    send(&set, endpoint, 1_000, 1_010, Outcome::Success);
    assert_eq!(load.overdue(at(60_000)), 1.0, "an answer since then says that all is well");
    assert!(load.trial(at(60_000), Class::default()), "and it is tried again though it still owes that answer");
}

#[test]
fn trials_wait_longer_for_what_is_slow_or_fails() {
    let set = many(2);
    let (endpoint, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    let trial = |ms: u64| load.trial(at(ms), Class::default());
    assert!(!trial(5_000), "of a new endpoint nothing is out of date");
    send(&set, endpoint, 0, 500, Outcome::Success);
    assert!(!trial(4_499) && trial(4_500), "eight times 500 ms");
    let one = InFlight::start(Arc::clone(endpoint), Class::default(), at(4_500));
    // An hour's poll is no stall: another is tried after twice the time, and so on.
    assert!(!trial(12_499) && trial(12_500), "the others wait for its answer");
    let two = InFlight::start(Arc::clone(endpoint), Class::default(), at(12_500));
    assert!(!trial(20_499) && trial(20_500));
    drop(two);
    one.finish(at(4_510), Outcome::Success, &set);
    assert!(!trial(5_509) && trial(5_510), "a second at least");
    for (failures, wait) in [(1, 2_000), (2, 4_000), (3, 8_000), (4, 16_000)] {
        let now = 100_000 * failures;
        send(&set, endpoint, now - 1, now, failure());
        assert!(!trial(now + wait - 1) && trial(now + wait), "after {failures} failures");
    }
    load.forgive(false);
    assert!(trial(401_000) && load.failing() == 0.0);
}

/// One route was slow once and is sent nowhere near since; another keeps the instance busy.
#[test]
fn a_route_gets_its_own_trials() {
    let set = many(2);
    let (endpoint, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    let (slow, busy) = (Class(1), Class(2));
    let answer = |class, start, end| {
        InFlight::start(Arc::clone(endpoint), class, at(start)).finish(at(end), Outcome::Success, &set)
    };
    answer(slow, 0, 2_000);
    for i in 0..4_000 {
        answer(busy, 2_000 + 10 * i, 2_005 + 10 * i);
        let now = at(2_006 + 10 * i);
        assert!(!load.trial(now, busy), "it has just answered");
        let waited = 6 + 10 * i;
        assert_eq!(load.trial(now, slow), waited >= 16_000, "eight times two seconds: {waited} ms");
    }
    assert!(load.silence(at(42_000), slow) >= Nanos::from_millis(39_999));
    let trial = InFlight::start(Arc::clone(endpoint), slow, at(42_000));
    answer(busy, 42_000, 42_010);
    assert!(!load.trial(at(58_000), slow), "the others wait for its answer");
    answer(busy, 72_000, 72_010);
    assert!(load.trial(at(72_100), slow), "but no longer than half a minute");
    trial.finish(at(72_200), Outcome::Success, &set);
    answer(slow, 72_200, 72_210);
    assert!(!load.trial(at(73_000), slow));
}

#[test]
fn streaming_counts_as_latency_only_to_the_head() {
    let set = many(1);
    let mut request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(0));
    request.answered(at(5));
    request.finish(at(5_000), Outcome::Success, &set);
    assert!(set.endpoints()[0].load.latency(Class::default()).expect("known") <= 5.0 * MS as f64);
}

#[test]
fn connecting_counts_as_no_latency() {
    let set = many(1);
    let mut request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(0));
    request.connected(at(200));
    request.answered(at(205));
    request.finish(at(5_000), Outcome::Success, &set);
    assert!(set.endpoints()[0].load.latency(Class::default()).expect("known") <= 5.0 * MS as f64);
    // A peer of the same speed whose connections were there from the start does not get everything.
    let set = many(2);
    let mut request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(0));
    request.connected(at(200));
    request.finish(at(205), Outcome::Success, &set);
    send(&set, &set.endpoints()[1], 200, 205, Outcome::Success);
    assert!(shares(&set, at(205), &[]).values().all(|share| *share > 400));
}

#[test]
fn a_cancelled_request_took_at_least_until_then() {
    let set = many(2);
    let (slow, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    send(&set, slow, 0, 10, Outcome::Success);
    send(&set, slow, 10, 910, Outcome::Cancelled);
    let share = 900.0 / 5_900.0;
    let known = load.latency(Class::default()).expect("known") / MS as f64;
    assert!((known - (10.0 + share * 890.0)).abs() < 0.1, "as an answer of 900 ms would: {known}");
    let before = load.latency(Class::default());
    send(&set, slow, 915, 920, Outcome::Cancelled);
    assert_eq!(load.latency(Class::default()), before, "a lower bound never lowers the estimate");
    assert_eq!((load.requests(), load.failures(), load.in_flight()), (3, 0, 0));
    assert_eq!(load.failing(), 0.0);

    send(&set, slow, 920, 930, failure());
    let failing = load.failing();
    send(&set, slow, 3_000, 5_000, Outcome::Cancelled);
    assert_eq!(load.failing(), failing, "neither a failure nor a success");
    assert_eq!(load.failures(), 1);
}

#[test]
fn an_endpoint_that_stands_still_while_its_clients_give_up_attracts_nothing() {
    let set = many(2);
    send(&set, &set.endpoints()[0], 0, 20, Outcome::Success);
    send(&set, &set.endpoints()[1], 0, 20, Outcome::Success);
    // Both have been slow, and what is known fades; one answers quickly again, the other does not answer at all.
    for i in 0..100 {
        let now = 20_000 + 1_000 * i;
        send(&set, &set.endpoints()[0], now, now + 500, Outcome::Cancelled);
        send(&set, &set.endpoints()[1], now, now + 20, Outcome::Success);
    }
    assert_eq!(shares(&set, at(119_500), &[]).get("shop/cart-0"), None);
}

#[test]
fn a_cancelled_request_to_an_unknown_endpoint_makes_it_no_faster_than_its_peers() {
    let set = many(2);
    let load = &set.endpoints()[0].load;
    send(&set, &set.endpoints()[0], 0, 20, Outcome::Cancelled);
    assert_eq!(load.latency(Class::default()), None, "too soon to say anything");
    send(&set, &set.endpoints()[1], 0, 20, Outcome::Success);
    send(&set, &set.endpoints()[0], 20, 30, Outcome::Cancelled);
    assert_eq!(load.latency(Class::default()), None, "sooner than its peer answers");
    send(&set, &set.endpoints()[0], 30, 55, Outcome::Cancelled);
    assert_eq!(load.latency(Class::default()), Some(25.0 * MS as f64));
}

#[test]
fn what_is_dropped_or_was_answered_before_it_was_cancelled_teaches_nothing() {
    let set = many(1);
    let load = &set.endpoints()[0].load;
    drop(InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(0)));
    let mut request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(0));
    request.answered(at(5));
    request.finish(at(900), Outcome::Cancelled, &set);
    assert_eq!((load.requests(), load.failures(), load.in_flight()), (2, 0, 0));
    assert_eq!(load.latency(Class::default()), None);
}

#[test]
fn ejection_after_failures_in_a_row_with_growing_time() {
    let set = many(3);
    let (bad, load) = (&set.endpoints()[0], &set.endpoints()[0].load);
    for i in 0..4 {
        send(&set, bad, i, i + 1, failure());
    }
    send(&set, bad, 4, 5, Outcome::Success);
    for i in 5..9 {
        send(&set, bad, i, i + 1, failure());
    }
    assert!(!load.ejected(at(9)), "a success between starts the count again");
    send(&set, bad, 9, 10, failure());
    assert!(load.ejected(at(10)) && load.ejected(at(5_009)) && !load.ejected(at(5_010)));
    assert_eq!(load.latency(Class::default()), None, "it comes back as if new");

    send(&set, bad, 5_000, 5_011, failure());
    assert!(!load.ejected(at(5_011)), "sent before it came back");
    set.review(at(5_012));
    send(&set, bad, 5_012, 5_013, failure());
    assert!(load.ejected(at(15_012)) && !load.ejected(at(15_013)), "one failure on probation, twice the time");
    send(&set, bad, 15_013, 15_014, Outcome::Success);
    send(&set, bad, 15_014, 15_015, failure());
    assert!(!load.ejected(at(15_015)), "probation is over");
    assert_eq!(load.failures(), 12);
}

#[test]
fn failures_that_end_after_the_ejection_began_do_not_burden_the_return() {
    let set = many(3);
    let bad = &set.endpoints()[0];
    let late: Vec<_> = (0..20).map(|_| InFlight::start(Arc::clone(bad), Class::default(), at(0))).collect();
    for i in 0..5 {
        send(&set, bad, i, i + 1, failure());
    }
    late.into_iter().for_each(|request| request.finish(at(5_000), failure(), &set));
    assert_eq!(bad.load.failures(), 25);
    assert!(!bad.load.ejected(at(5_005)));
    assert_eq!((bad.load.latency(Class::default()), bad.load.failing()), (None, 0.0));
}

#[test]
fn ejection_time_is_bounded_and_zero_turns_it_off() {
    let policy = OutlierPolicy { max_ejection: Nanos::from_millis(12_000), ..OutlierPolicy::default() };
    let set = with((0..3).map(|i| endpoint(&i.to_string())), policy);
    let load = &set.endpoints()[0].load;
    let mut now = 0;
    for _ in 0..50 {
        for _ in 0..5 {
            send(&set, &set.endpoints()[0], now, now + 1, failure());
        }
        assert!(load.ejected(at(now + 1)) && !load.ejected(at(now + 12_002)));
        now += 12_002;
        set.review(at(now));
    }
    let set = with([endpoint("a"), endpoint("b")], never());
    for _ in 0..50 {
        send(&set, &set.endpoints()[1], now, now + 1, failure());
    }
    assert!(!set.endpoints()[1].load.ejected(at(now + 1)));
}

#[test]
fn the_share_of_ejected_endpoints_is_capped() {
    let ejected_of = |n: usize, percent: u32| {
        let policy = OutlierPolicy { max_ejected_percent: percent, ..OutlierPolicy::default() };
        let set = with((0..n).map(|i| endpoint(&i.to_string())), policy);
        for endpoint in set.endpoints() {
            for i in 0..10 {
                send(&set, endpoint, i, i + 1, failure());
            }
        }
        set.endpoints().iter().filter(|e| e.load.ejected(at(10))).count()
    };
    assert_eq!(ejected_of(1, 50), 0);
    assert_eq!(ejected_of(2, 0), 1, "always one of two or more");
    assert_eq!(ejected_of(3, 50), 1);
    assert_eq!(ejected_of(10, 50), 5);
    assert_eq!(ejected_of(10, 100), 10);
}

#[test]
fn all_ejected_still_serve() {
    let set = many(2);
    for endpoint in set.endpoints() {
        endpoint.load.eject(at(0), &set.policy().outlier);
    }
    assert_eq!(shares(&set, at(1), &[]).len(), 2);
}

#[test]
fn load_is_counted_exactly_by_many_threads() {
    let set = many(1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..1000 {
                    let outcome = if i % 10 == 0 { failure() } else { Outcome::Success };
                    send(&set, &set.endpoints()[0], i, i + 1, outcome);
                }
            });
        }
    });
    let load = &set.endpoints()[0].load;
    assert_eq!((load.requests(), load.failures(), load.in_flight()), (4000, 400, 0));
}

proptest! {
    #[test]
    fn candidates_are_distinct_usable_and_equally_likely(
        healths in prop::collection::vec(0u8..3, 2..12),
        seed: u64,
    ) {
        let set = set(healths.iter().enumerate().map(|(i, health)| Endpoint {
            health: [Health::Ready, Health::NotReady, Health::Draining][usize::from(*health)],
            ..endpoint(&i.to_string())
        }));
        let mut rng = Rng::seeded(seed);
        let best = healths.iter().map(|h| [0, 9, 1][usize::from(*h)]).min().unwrap_or(9);
        let usable: Vec<_> =
            set.endpoints().iter().filter(|e| set::tier(e, at(0), &Ask::default(), false).map_or(9, |t| if t == set::Tier::Fresh { 0 } else { 1 }) == best).collect();
        let mut counts = BTreeMap::new();
        const ROUNDS: usize = 3000;
        for _ in 0..ROUNDS {
            let drawn = set.candidates::<2>(at(0), &mut rng, &Ask::default());
            match drawn.as_ref().map_or(&[][..], |drawn| drawn.as_slice()) {
                [] => prop_assert_eq!(best, 9),
                [first] => {
                    prop_assert_eq!(usable.len(), 1);
                    prop_assert!(Arc::ptr_eq(first, usable[0]));
                }
                [first, second, ..] => {
                    prop_assert!(!Arc::ptr_eq(first, second));
                    prop_assert!(usable.iter().any(|e| Arc::ptr_eq(e, first)));
                    prop_assert!(usable.iter().any(|e| Arc::ptr_eq(e, second)));
                    *counts.entry(first.workload.clone()).or_insert(0usize) += 1;
                }
            }
        }
        for count in counts.values() {
            let expected = ROUNDS as f64 / usable.len() as f64;
            prop_assert!((*count as f64 - expected).abs() < 6.0 * expected.sqrt(), "{counts:?}");
        }
    }

    /// Scores stay numbers whatever happens.
    #[test]
    fn scores_are_positive_and_finite(
        events in prop::collection::vec((0u64..u64::MAX / 4, 0u64..u64::MAX / 4, 0u8..4), 0..60),
    ) {
        let set = many(2);
        for (start, length, kind) in events {
            let outcome = [Outcome::Success, failure(), Outcome::Timeout, Outcome::Cancelled][usize::from(kind)];
            let request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), Nanos(start));
            request.finish(Nanos(start + length), outcome, &set);
            let load = &set.endpoints()[0].load;
            let score = load.score(Nanos(start));
            prop_assert!(score.is_finite() && score > 0.0, "{score}");
            prop_assert!((0.0..=1.0).contains(&load.failing()));
        }
    }

    /// A failure never makes an endpoint cheaper, however fast it was.
    #[test]
    fn a_failure_never_lowers_the_score(
        before in prop::collection::vec((1u64..2_000, any::<bool>()), 0..20),
        latency in 0u64..5_000_000_000,
    ) {
        let set = with([endpoint("a"), endpoint("b")], never());
        let mut now = 0;
        for (ms, failed) in before {
            let outcome = if failed { failure() } else { Outcome::Success };
            send(&set, &set.endpoints()[0], now, now + ms, outcome);
            now += ms;
        }
        let end = at(now).after(Nanos(latency));
        let request = InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(now));
        let load = &set.endpoints()[0].load;
        let score = |load: &Load| load.score(end) / (f64::from(load.in_flight()) + 1.0);
        let was = score(load);
        request.finish(end, failure(), &set);
        prop_assert!(score(load) >= was * 0.999_999, "{was} then {}", score(load));
    }
}

/// A connection was opened for a client that then spoke something else.
#[test]
fn what_was_never_sent_leaves_nothing_behind() {
    let set = many(2);
    let endpoint = &set.endpoints()[0];
    let load = &endpoint.load;
    send(&set, endpoint, 0, 10, Outcome::Success);
    let start = |ms| InFlight::start(Arc::clone(endpoint), Class::default(), at(ms));
    start(1_000).unsent();
    assert_eq!((load.requests(), load.in_flight(), load.waiting()), (1, 0, 0));
    let real = start(100_000);
    start(100_001).unsent();
    assert_eq!((load.requests(), load.in_flight(), load.waiting()), (2, 1, 1));
    assert_eq!(load.overdue(at(100_010)), 1.0, "it is owed for ten milliseconds");
    assert!(load.overdue(at(100_100)) >= 10.0 - 1e-3);
    drop(real);
}

#[test]
fn who_gave_up_long_ago_is_owed_nothing_now() {
    let set = many(2);
    let endpoint = &set.endpoints()[0];
    send(&set, endpoint, 0, 10, Outcome::Success);
    let start = |ms| InFlight::start(Arc::clone(endpoint), Class::default(), at(ms));
    drop(start(1_000));
    let soon = start(1_500);
    assert!(endpoint.load.overdue(at(1_501)) > 40.0, "it stands still, perhaps");
    drop(soon);
    let later = start(60_000);
    assert_eq!(endpoint.load.overdue(at(60_010)), 1.0);
    assert!(endpoint.load.overdue(at(60_100)) > 9.0);
    drop(later);
}

/// A stream of an hour says what its server was like an hour ago.
#[test]
fn the_end_of_a_long_stream_teaches_nothing_of_now() {
    let set = many(2);
    let (endpoint, hour) = (&set.endpoints()[0], 3_600_000);
    let mut stream = InFlight::start(Arc::clone(endpoint), Class::default(), at(0));
    stream.answered(at(1));
    for second in 1..=2 * 3_600 {
        send(&set, endpoint, second * 1_000, second * 1_000 + 100, Outcome::Success);
    }
    let now = 2 * hour + 5_000;
    stream.finish(at(now), Outcome::Success, &set);
    let latency = endpoint.load.latency(Class::default()).expect("it is known") / 1e6;
    assert!((90.0..=100.0).contains(&latency), "{latency} ms");
    let age = endpoint.load.learnt_ago(Class::default(), at(now)).expect("it is known") / 1e6;
    assert_eq!(age.round(), 4_900.0, "when anything was learnt last stays what it was");
}

/// A caller's quota says nothing of other callers.
#[test]
fn grpc_that_asks_for_less_ejects_nobody() {
    let set = many(3);
    let endpoint = &set.endpoints()[0];
    send(&set, endpoint, 0, 100, Outcome::Success);
    (1..20).for_each(|i| send(&set, endpoint, i * 1_000, i * 1_000 + 1, Outcome::from_grpc(8)));
    assert!(!endpoint.load.ejected(at(20_000)));
    assert_eq!(endpoint.load.failures(), 0, "it is no failure of the server");
    assert!(endpoint.load.failing() > 0.5, "but attracts nothing");
    assert!(endpoint.load.latency(Class::default()).expect("it is known") >= 100e6, "nor does that it was quick");
}

#[test]
fn who_only_looks_takes_no_latency_class() {
    let backend = Backend::new("shop/cart", 80, Protocol::Http1, many(1));
    assert_eq!(backend.known_class(SeriesId(7)), Class::default());
    let claimed = backend.class(SeriesId(7));
    assert_ne!(claimed, Class::default());
    assert_eq!(backend.known_class(SeriesId(7)), claimed);
}
