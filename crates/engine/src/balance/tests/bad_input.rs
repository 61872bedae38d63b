//! Nonsense from configuration, clocks and servers.

use super::*;
use crate::policy::Algorithm;

const ALL: [Algorithm; 6] = [
    Algorithm::Fastest,
    Algorithm::LeastRequest,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::RingHash,
    Algorithm::Maglev,
];

fn built(weights: &[u32], algorithm: Algorithm) -> EndpointSet {
    let endpoints = weights.iter().zip(0..).map(|(&weight, i)| Endpoint { weight, ..endpoint(&format!("e{i}")) });
    let policy = BalancePolicy { algorithm, ..BalancePolicy::default() };
    EndpointSet::new(endpoints.map(Arc::new).collect(), policy, &Locality::default())
}

#[test]
fn weights_of_zero_and_of_thousands_of_millions_are_weights() {
    for algorithm in ALL {
        let set = built(&[0, 0, 0], algorithm);
        assert_eq!(shares(&set, at(1), &[]).len(), 3, "{algorithm:?}: none weighs more than another");
        let set = built(&[u32::MAX, 0, 1], algorithm);
        let shares = shares(&set, at(1), &[]);
        assert!(
            shares["e0"] >= 990 || matches!(algorithm, Algorithm::RingHash | Algorithm::Maglev),
            "{algorithm:?}: {shares:?}"
        );
        let ask = Ask { hash: Some(7), ..Ask::default() };
        assert!(set.choose(at(1), &mut Rng::seeded(1), &ask, |_| true).is_some());
        let set = built(&[u32::MAX; 300], algorithm);
        assert!(set.choose(at(1), &mut Rng::seeded(1), &ask, |_| true).is_some());
    }
}

#[test]
fn a_clock_that_jumps_stops_nothing() {
    let set = many(3);
    let times = [5_000_000_000, 10, u64::MAX / (2 * MS), 3, 5_000_000_000, 0];
    for (i, &now) in times.iter().cycle().take(60).enumerate() {
        let chosen = set.choose(at(now), &mut Rng::seeded(i as u64), &Ask::default(), |_| true).expect("there is one");
        let mut request = InFlight::start(chosen, Class::default(), at(now));
        let end = at(times[(i + 1) % times.len()]);
        request.answered(end);
        request.finish(end, if i % 7 == 0 { failure() } else { Outcome::Success }, &set);
        let _ = set.probe_due(end, &mut Rng::seeded(1));
        for candidate in set.weigh(at(now), &Ask::default(), |_| true) {
            assert!(candidate.terms.cost.is_finite() && candidate.terms.cost > 0.0, "{:?}", candidate.terms);
        }
    }
    // The clock goes on from where it fell back to: peers answer, and everybody is used again within half a minute.
    let mut seen = BTreeMap::<Box<str>, u32>::new();
    for i in 0..60_000u64 {
        let chosen = set.choose(at(1_000 + i), &mut Rng::seeded(i), &Ask::default(), |_| true).expect("there is one");
        *seen.entry(chosen.workload.clone()).or_default() += 1;
        send(&set, &chosen, 1_000 + i, 1_001 + i, Outcome::Success);
    }
    for c in set.weigh(at(61_000), &Ask::default(), |_| true) {
        println!("{:?} {:?} {:?}", c.standing, c.terms, c.endpoint.load);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// Of one whose `Load` comes back with it, as whoever compiles resources sees to for a minute; see
/// `an_endpoint_that_comes_back_within_a_minute_is_known` there.
#[test]
fn an_endpoint_that_comes_and_goes_with_its_load_stays_known_and_its_peers_do_not_notice() {
    let all: Vec<Arc<Endpoint>> = (0..5).map(|i| Arc::new(endpoint(&format!("e{i}")))).collect();
    let mut set = EndpointSet::new(all.clone(), BalancePolicy::default(), &Locality::default());
    let mut rng = Rng::seeded(3);
    let mut to_slow = 0;
    for i in 0..20_000u64 {
        if i % 50 == 0 {
            // It comes and goes twenty times a second.
            let here = if i % 100 == 0 { all.clone() } else { all[..4].to_vec() };
            set = EndpointSet::new(here, BalancePolicy::default(), &Locality::default()).following(&set);
        }
        let chosen = set.choose(at(i), &mut rng, &Ask::default(), |_| true).expect("there is one");
        let slow = &*chosen.workload == "e4";
        to_slow += u32::from(slow);
        send(&set, &chosen, i, i + if slow { 300 } else { 5 }, Outcome::Success);
    }
    assert!((1..60).contains(&to_slow), "it is slow each time, which is not forgotten: {to_slow}");
}

#[test]
fn a_server_that_claims_to_be_idle_is_judged_by_its_answers() {
    let set = many(2);
    let (honest, liar) = (&set.endpoints()[0], &set.endpoints()[1]);
    let mut rng = Rng::seeded(4);
    let mut to_liar = 0;
    for i in 0..20_000u64 {
        honest.load.reported(3, Some(Nanos::from_millis(10)), at(i));
        liar.load.reported(0, Some(Nanos(1)), at(i));
        let chosen = set.choose(at(i), &mut rng, &Ask::default(), |_| true).expect("there is one");
        let lies = Arc::ptr_eq(&chosen, liar);
        to_liar += u32::from(lies);
        send(&set, &chosen, i, i + if lies { 200 } else { 10 }, Outcome::Success);
    }
    assert!(to_liar < 400, "{to_liar} of 20,000");
}

#[test]
fn what_one_server_says_of_itself_changes_nothing_between_others() {
    let set = many(3);
    for (endpoint, latency) in set.endpoints().iter().zip([10, 20, 10]) {
        send(&set, endpoint, 0, latency, Outcome::Success);
    }
    let _busy: Vec<_> =
        (0..4).map(|_| InFlight::start(Arc::clone(&set.endpoints()[0]), Class::default(), at(20))).collect();
    set.endpoints()[2].load.reported(198, None, at(20));
    assert_eq!(set.endpoints()[2].load.elsewhere(), 99.0);
    assert_eq!(shares(&set, at(20), &[])["shop/cart-1"], 1000, "idle, and twice as slow as one with four in flight");
}

#[test]
fn absurd_reports_starve_nobody_for_good() {
    let set = many(2);
    let boaster = &set.endpoints()[1];
    set.endpoints().iter().for_each(|e| send(&set, e, 0, 10, Outcome::Success));
    boaster.load.reported(u32::MAX, Some(Nanos(u64::MAX)), at(10));
    assert!(boaster.load.elsewhere() <= 100_000.0);
    assert_eq!(shares(&set, at(500), &[]).get("shop/cart-1"), None, "who says that it is busy is spared");
    // Its first answer, to a trial, says otherwise.
    let trials = shares(&set, at(5_000), &[]);
    assert!(trials["shop/cart-1"] > 50, "{trials:?}");
    for i in 0..40 {
        send(&set, boaster, 5_000 + i, 5_001 + i, Outcome::Success);
        boaster.load.reported(0, None, at(5_001 + i));
    }
    assert!(boaster.load.elsewhere() < 0.001, "what it says now replaces what it said");
}

#[test]
fn a_retry_after_hides_no_failure() {
    let set = many(3);
    let endpoint = &set.endpoints()[0];
    for ms in 0..5 {
        let mut request = InFlight::start(Arc::clone(endpoint), Class::default(), at(10 * ms));
        request.answered(at(10 * ms + 1));
        request.refused(Nanos(0), at(10 * ms + 1));
        request.finish(at(10 * ms + 1), failure(), &set);
    }
    assert!(endpoint.load.ejected(at(1_000)), "five in a row");
    // Nor does a later ejection shorten what was asked for.
    let endpoint = &set.endpoints()[1];
    endpoint.load.retry_after(Nanos::from_millis(50_000), at(0));
    endpoint.load.eject(at(1), &OutlierPolicy::default());
    assert!(endpoint.load.ejected(at(49_999)));
}

/// One burst of answers that shed load is one ejection, whether their bodies end before the next head comes or later.
#[test]
fn a_burst_of_retry_after_is_paid_for_once() {
    for together in [false, true] {
        let set = many(10);
        let endpoint = &set.endpoints()[0];
        let mut burst: Vec<_> =
            (0..20).map(|_| InFlight::start(Arc::clone(endpoint), Class::default(), at(0))).collect();
        let hear = |request: &mut InFlight, ms| {
            request.answered(at(ms));
            request.refused(Nanos::from_millis(1_000), at(ms));
        };
        if together {
            burst.iter_mut().for_each(|request| hear(request, 1));
        }
        for (mut request, ms) in burst.into_iter().zip(1..) {
            if !together {
                hear(&mut request, ms);
            }
            request.finish(at(ms), failure(), &set);
        }
        assert!(endpoint.load.ejected(at(4_900)), "five in a row");
        assert!(!endpoint.load.ejected(at(5_100)), "{together}: until {:?}", endpoint.load.left_out_until());
        assert_eq!(endpoint.load.failing(), 0.0, "nor does it burden the return");
    }
}

#[test]
fn retry_after_is_kept_but_not_for_ever() {
    let set = many(3);
    let endpoint = &set.endpoints()[0];
    let limited = || {
        let mut request = InFlight::start(Arc::clone(endpoint), Class::default(), at(0));
        request.answered(at(1));
        request.limited(Some(Nanos(u64::MAX)), at(1));
        request.finish(at(1), Outcome::from_status(429), &set);
    };
    (0..7).for_each(|_| limited());
    assert!(!endpoint.load.ejected(at(2)), "what one caller is told says nothing of others");
    limited();
    assert_eq!(shares(&set, at(59_000), &[]).get("shop/cart-0"), None, "the rule there");
    assert!(!endpoint.load.ejected(at(60_002)), "a minute is believed");
    assert_eq!(endpoint.load.failures(), 0, "it is no failure of the server");
    assert!(endpoint.load.failing() > 0.0, "but that it was quick attracts nothing");
    // All of them ask for less: then somebody is asked all the same.
    set.endpoints().iter().for_each(|e| e.load.retry_after(Nanos::from_millis(5_000), at(70_000)));
    assert_eq!(shares(&set, at(70_001), &[]).len(), 3);
}
