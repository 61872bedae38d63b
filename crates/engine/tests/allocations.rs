//! A choice allocates nothing, which takes an allocator of its own to see.

use std::hint::black_box;
use std::sync::Arc;

use engine::balance::{Ask, Class, Endpoint, EndpointSet, InFlight, Locality};
use engine::policy::{Algorithm, BalancePolicy, SlowStart};
use engine::{Nanos, Outcome, Rng};

const ALL: [Algorithm; 6] = [
    Algorithm::Fastest,
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::RingHash,
    Algorithm::Maglev,
];

fn endpoint(i: usize) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        weight: 1 + i as u32 % 3,
        ..Endpoint::plain(format!("shop/cart-{i}"), ([127, 0, 0, 1], 80).into())
    })
}

/// Allocations in a thousand choices with and without a hash, each with its request and the answer.
fn counted(set: &EndpointSet, mut rng: Rng) -> u64 {
    let round = |i: u64, rng: &mut Rng| {
        let now = Nanos::from_millis(100_000 + i);
        let ask = Ask { hash: i.is_multiple_of(2).then_some(i), ..Ask::default() };
        let chosen = set.choose(now, rng, &ask, |_| i.is_multiple_of(3)).expect("there is one");
        let request = InFlight::start(chosen, Class::default(), now);
        request.finish(now.after(Nanos::from_millis(5)), Outcome::Success, set);
        black_box(set.probe_due(now, rng));
    };
    allocation_counter::measure(|| (0..1_000).for_each(|i| round(i, &mut rng))).count_total
}

#[test]
fn a_choice_allocates_nothing() {
    assert_eq!(allocation_counter::measure(|| drop(black_box(Box::new(1)))).count_total, 1, "it is counted at all");
    let slow_start = SlowStart { window: Nanos::from_millis(1_000_000), min_percent: 10 };
    for (algorithm, size) in ALL.into_iter().flat_map(|algorithm| [1, 10, 10_000].map(|size| (algorithm, size))) {
        for slow_start in [None, Some(slow_start)] {
            let policy = BalancePolicy { algorithm, slow_start, panic_percent: 0, ..BalancePolicy::default() };
            let set = EndpointSet::new((0..size).map(endpoint).collect(), policy, &Locality::default());
            set.review(Nanos::from_millis(100_000));
            assert_eq!(counted(&set, Rng::seeded(1)), 0, "{algorithm:?} of {size}, {slow_start:?}");
            if size <= 10 {
                // All are left out, so that all are looked at.
                let now = Nanos::from_millis(100_000);
                set.endpoints().iter().for_each(|e| e.load.retry_after(Nanos::from_millis(60_000), now));
                assert_eq!(counted(&set, Rng::seeded(2)), 0, "{algorithm:?} of {size}, left out");
            }
        }
    }
}
