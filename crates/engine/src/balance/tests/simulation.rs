//! A small seeded simulation: an open stream of requests against endpoints of given speed, with the real code choosing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// How an endpoint behaves at a time: latency in milliseconds and whether it fails.
type Behaviour = fn(at_ms: u64) -> (u64, bool);

/// Sends a request every `gap` microseconds for `seconds`; returns how many went to each endpoint in each second.
fn run(behaviours: &[Behaviour], gap: u64, seconds: u64, outlier: OutlierPolicy) -> Vec<Vec<u32>> {
    let set = with((0..behaviours.len()).map(|i| endpoint(&i.to_string())), outlier);
    let mut rng = Rng::seeded(42);
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut under_way: Vec<Option<(InFlight, Outcome)>> = Vec::new();
    let mut sent = vec![vec![0; behaviours.len()]; seconds as usize];
    for now in (0..seconds * 1_000_000).step_by(gap as usize) {
        while let Some(&Reverse((end, index))) = ends.peek().filter(|Reverse((end, _))| *end <= now) {
            ends.pop();
            let (request, outcome) = under_way[index].take().expect("ends once");
            request.finish(Nanos(end * 1000), outcome, &set);
        }
        let chosen = set.choose(Nanos(now * 1000), &mut rng, &Ask::default(), |_| true).expect("there is one");
        let which = set.endpoints().iter().position(|e| Arc::ptr_eq(e, &chosen)).expect("of the set");
        sent[(now / 1_000_000) as usize][which] += 1;
        let (ms, failed) = behaviours[which](now / 1000);
        let outcome = if failed { failure() } else { Outcome::Success };
        ends.push(Reverse((now + ms * 1000, under_way.len())));
        under_way.push(Some((InFlight::start(chosen, Class::default(), Nanos(now * 1000)), outcome)));
    }
    sent
}

fn share(sent: &[Vec<u32>], which: usize) -> f64 {
    let of = |which: usize| sent.iter().map(|second| f64::from(second[which])).sum::<f64>();
    of(which) / (0..sent[0].len()).map(of).sum::<f64>()
}

#[test]
fn a_slow_instance_gets_little() {
    let sent = run(&[|_| (10, false), |_| (10, false), |_| (200, false)], 2_000, 60, never());
    assert!(share(&sent, 2) < 0.05, "{}", share(&sent, 2));
    assert!((share(&sent, 0) - share(&sent, 1)).abs() < 0.1, "equals are treated as equals");
}

#[test]
fn an_instance_that_fails_fast_gets_less_than_a_healthy_one() {
    for gap in [500, 5_000, 50_000] {
        let sent = run(&[|_| (20, false), |_| (1, true)], gap, 60, never());
        assert!(share(&sent, 1) < 0.2, "every {gap} µs: {}", share(&sent, 1));
    }
    let sent = run(&[|_| (20, false), |_| (1, true)], 2_000, 60, OutlierPolicy::default());
    assert!(share(&sent, 1) < 0.02, "with ejection: {}", share(&sent, 1));
}

/// The memory of how fast it was must not fade while all it does is fail.
#[test]
fn an_instance_that_has_been_failing_for_minutes_stays_unattractive() {
    let behaviours: [Behaviour; 2] = [|_| (20, false), |ms| if ms < 10_000 { (20, false) } else { (1, true) }];
    for gap in [500, 5_000, 50_000] {
        let sent = run(&behaviours, gap, 400, never());
        assert!(share(&sent[300..], 1) < 0.005, "every {gap} µs: {}", share(&sent[300..], 1));
    }
}

#[test]
fn an_instance_that_was_slow_is_found_again() {
    let behaviours: [Behaviour; 2] = [|_| (10, false), |ms| if ms < 20_000 { (500, false) } else { (10, false) }];
    let sent = run(&behaviours, 5_000, 120, never());
    assert!(share(&sent[..20], 1) < 0.1, "while slow: {}", share(&sent[..20], 1));
    assert!(share(&sent[90..], 1) > 0.3, "once it is fast: {}", share(&sent[90..], 1));
}

#[test]
fn an_instance_that_failed_is_found_again() {
    for outlier in [never(), OutlierPolicy::default()] {
        let sent = run(&[|_| (10, false), |ms| (10, ms < 20_000)], 5_000, 120, outlier);
        assert!(share(&sent[2..20], 1) < 0.1, "while failing: {}", share(&sent[2..20], 1));
        assert!(share(&sent[90..], 1) > 0.3, "once it is well: {}", share(&sent[90..], 1));
    }
}

#[test]
fn a_new_instance_is_neither_flooded_nor_starved() {
    // The second endpoint has never answered when it starts: in its first second it gets about an equal part.
    let set = many(2);
    for i in 0..100 {
        send(&set, &set.endpoints()[0], i * 10, i * 10 + 2, Outcome::Success);
    }
    let mut rng = Rng::seeded(9);
    let mut to_new = 0;
    for i in 0..1000 {
        let now = 1_000 + i * 3;
        let chosen = set.choose(at(now), &mut rng, &Ask::default(), |_| true).expect("there is one");
        to_new += u32::from(Arc::ptr_eq(&chosen, &set.endpoints()[1]));
        send(&set, &chosen, now, now + 2, Outcome::Success);
    }
    assert!((350..=650).contains(&to_new), "{to_new} of 1000");
}

/// One hiccup, as every program has when it starts, must not cost an instance its share for long.
#[test]
fn an_instance_that_had_one_peak_is_soon_used_like_its_equals() {
    let behaviours: [Behaviour; 2] = [|_| (2, false), |ms| if ms < 50 { (300, false) } else { (2, false) }];
    for gap in [500, 5_000, 50_000] {
        let sent = run(&behaviours, gap, 30, OutlierPolicy::default());
        assert!(share(&sent[5..], 1) > 0.4, "every {gap} µs: {}", share(&sent[5..], 1));
    }
}

#[test]
fn an_instance_that_was_restarted_is_soon_used_again() {
    let behaviours: [Behaviour; 2] =
        [|_| (10, false), |ms| if (5_000..8_000).contains(&ms) { (1, true) } else { (10, false) }];
    for gap in [500, 5_000, 50_000] {
        for outlier in [never(), OutlierPolicy::default()] {
            let sent = run(&behaviours, gap, 40, outlier);
            assert!(share(&sent[20..], 1) > 0.4, "every {gap} µs: {}", share(&sent[20..], 1));
        }
    }
}

/// In a large set as in a small one: by chance alone one of a thousand would be tried after minutes.
#[test]
fn one_of_a_thousand_that_was_slow_is_found_again() {
    let mut behaviours: Vec<Behaviour> = vec![|_| (10, false); 1_000];
    behaviours[500] = |ms| if ms < 5_000 { (1_000, false) } else { (10, false) };
    let sent = run(&behaviours, 1_000, 60, never());
    let of = |seconds: std::ops::Range<usize>| sent[seconds].iter().map(|second| second[500]).sum::<u32>();
    assert!(of(0..5) > 0, "it was found to be slow");
    // Eight times what it took is over after 13 s, and then a trial comes within 8 s on average.
    assert!(of(10..40) > 0, "it was tried again");
    assert!(of(40..60) > 5, "and is used like the others, each of which gets twenty: {}", of(40..60));
}
