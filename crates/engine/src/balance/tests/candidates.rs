//! Which endpoints may be chosen: groups, panic, sessions, comparison with peers, new endpoints.

use super::*;
use crate::policy::{Algorithm, CheckPolicy, HashKey, SlowStart};

fn policy(algorithm: Algorithm) -> BalancePolicy {
    BalancePolicy { algorithm, ..BalancePolicy::default() }
}

fn built(endpoints: impl IntoIterator<Item = Endpoint>, policy: BalancePolicy) -> EndpointSet {
    let here = Locality { region: "north".into(), zone: "a".into() };
    EndpointSet::new(endpoints.into_iter().map(Arc::new).collect(), policy, &here)
}

fn placed(name: &str, region: &str, zone: &str) -> Endpoint {
    Endpoint { locality: Locality { region: region.into(), zone: zone.into() }, ..endpoint(name) }
}

/// The share of `name`s that begin so, in percent.
fn percent(set: &EndpointSet, now: u64, begin: &str) -> f64 {
    let shares = shares(set, at(now), &[]);
    shares.iter().filter(|(name, _)| name.starts_with(begin)).map(|(_, n)| *n).sum::<usize>() as f64 / 10.0
}

#[test]
fn near_endpoints_come_first_and_spill_over_below_the_threshold() {
    let near = (0..10).map(|i| placed(&format!("near-{i}"), "north", "a"));
    let next = (0..10).map(|i| placed(&format!("region-{i}"), "north", "b"));
    let far = (0..10).map(|i| placed(&format!("far-{i}"), "south", "a"));
    let set = built(near.chain(next).chain(far), policy(Algorithm::Random));
    assert_eq!(percent(&set, 1, "near"), 100.0);
    let of = |name: &str| set.endpoints().iter().filter(|e| e.workload.starts_with(name)).cloned().collect::<Vec<_>>();
    let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
    of("near")[..3].iter().for_each(|e| e.load.checked(false, &checks));
    assert_eq!(percent(&set, 200, "near"), 100.0, "70 % are enough");
    // 35 % usable of 70 % wanted: half stays.
    of("near")[3..6].iter().for_each(|e| e.load.checked(false, &checks));
    let half = percent(&set, 400, "near");
    assert!((50.0..65.0).contains(&half), "{half}");
    assert!((percent(&set, 400, "region") + half - 100.0).abs() < 0.1, "the region takes the rest");
    of("near").iter().chain(&of("region")).for_each(|e| e.load.checked(false, &checks));
    assert_eq!(percent(&set, 600, "far"), 100.0, "a zone that is well is better than two that are not");
    of("near")[..2].iter().for_each(|e| e.load.checked(true, &checks));
    of("far")[..6].iter().for_each(|e| e.load.checked(false, &checks));
    assert_eq!(shares(&set, at(800), &[]).len(), 20, "none is well by itself: panic, by what each can bear");
    let near = percent(&set, 800, "near");
    assert!((25.0..42.0).contains(&near), "two of six: {near}");
}

#[test]
fn a_smaller_group_stands_in_for_a_sick_one() {
    let built = || {
        let first = (0..2).map(|i| endpoint(&format!("first-{i}")));
        let second = Endpoint { priority: 1, ..endpoint("second-0") };
        built(first.chain([second]), policy(Algorithm::Random))
    };
    let set = built();
    assert_eq!(percent(&set, 1, "first"), 100.0);
    let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
    set.endpoints()[..2].iter().for_each(|e| e.load.checked(false, &checks));
    assert_eq!(percent(&set, 200, "second"), 100.0, "by health checks");
    // Without health checks both are ejected: who stands in for them is as many as the cap would leave.
    let set = built();
    set.review(at(1));
    let fail = |n: usize| (0..5).for_each(|i| send(&set, &set.endpoints()[n], 10 + i, 11 + i, failure()));
    (0..2).for_each(fail);
    set.review(at(120));
    send(&set, &set.endpoints()[1], 121, 122, failure());
    assert_eq!(percent(&set, 230, "second"), 100.0, "by ejection");
    fail(2);
    assert!(!set.endpoints()[2].load.ejected(at(231)), "the last one stays");
}

/// One standby is no stand-in for ten that fail, perhaps for a reason that it shares.
#[test]
fn the_cap_holds_where_the_other_group_is_too_small() {
    let first = (0..10).map(|i| endpoint(&format!("first-{i}")));
    let second = Endpoint { priority: 1, ..endpoint("second-0") };
    let set = built(first.chain([second]), policy(Algorithm::Random));
    set.review(at(1));
    for endpoint in &set.endpoints()[..10] {
        (0..5).for_each(|i| send(&set, endpoint, 10 + i, 11 + i, failure()));
    }
    assert_eq!(set.endpoints().iter().filter(|e| e.load.ejected(at(20))).count(), 5, "half of eleven");
}

/// Those who asked to be left alone use up nothing of what may be ejected.
#[test]
fn retry_after_leaves_room_for_ejections() {
    let set = built((0..4).map(|i| endpoint(&i.to_string())), policy(Algorithm::RoundRobin));
    set.endpoints()[..2].iter().for_each(|e| e.load.retry_after(Nanos::from_millis(60_000), at(0)));
    set.review(at(1));
    (0..5).for_each(|i| send(&set, &set.endpoints()[2], 10 + i, 11 + i, failure()));
    assert!(set.endpoints()[2].load.ejected(at(20)));
}

/// A page is loaded by several requests at once; what was in flight at the last review says nothing of them.
#[test]
fn a_session_stays_together_while_it_has_requests_in_flight() {
    let policy = BalancePolicy { hash: Some(HashKey::Header("user".into())), ..policy(Algorithm::Fastest) };
    let set = built((0..3).map(|i| endpoint(&i.to_string())), policy);
    set.review(at(1));
    let ask = Ask { hash: Some(hash(b"ann")), ..Ask::default() };
    let mut rng = Rng::seeded(1);
    let under_way: Vec<_> = (0..6)
        .map(|_| set.choose(at(2), &mut rng, &ask, |_| true).expect("there is one"))
        .map(|chosen| InFlight::start(chosen, Class::default(), at(2)))
        .collect();
    let place = under_way[0].endpoint();
    assert!(under_way.iter().all(|request| Arc::ptr_eq(request.endpoint(), place)));
}

/// The only endpoint that ever failed is always far from the mean as standard deviations go.
#[test]
fn one_failure_among_many_requests_ejects_nobody() {
    let set = built((0..5).map(|i| endpoint(&i.to_string())), policy(Algorithm::RoundRobin));
    set.review(at(1));
    for endpoint in set.endpoints() {
        (0..150).for_each(|i| send(&set, endpoint, 60 * i, 60 * i + 10, Outcome::Success));
    }
    send(&set, &set.endpoints()[2], 9_000, 9_010, failure());
    set.review(at(10_500));
    assert!(set.endpoints().iter().all(|e| !e.load.ejected(at(10_500))));
}

#[test]
fn priorities_come_before_nearness_and_nearness_can_be_turned_off() {
    let endpoints = || {
        [
            Endpoint { priority: 1, ..placed("second", "north", "a") },
            placed("first", "south", "b"),
            placed("near", "north", "a"),
        ]
    };
    let set = built(endpoints(), policy(Algorithm::Random));
    assert_eq!(percent(&set, 1, "near"), 100.0);
    let set = built(endpoints(), BalancePolicy { prefer_local: false, ..policy(Algorithm::Random) });
    assert_eq!(percent(&set, 1, "second"), 0.0);
    assert!((40.0..60.0).contains(&percent(&set, 1, "first")));
}

#[test]
fn too_few_usable_endpoints_are_a_panic() {
    let set = built((0..10).map(|i| endpoint(&i.to_string())), policy(Algorithm::Fastest));
    let checks = CheckPolicy::default();
    let fail = |n: usize| set.endpoints()[n].load.checked(false, &checks);
    (0..5).for_each(|n| (0..3).for_each(|_| fail(n)));
    assert_eq!(shares(&set, at(1), &[]).len(), 5, "half are enough");
    (0..2).for_each(|_| fail(5));
    assert!(!set.endpoints()[5].load.unhealthy(), "two of three");
    fail(5);
    assert_eq!(shares(&set, at(300), &[]).len(), 10, "a sick one is better than an overloaded one");
    let explained = set.explain(at(300), &mut Rng::seeded(1), &Ask::default(), |_| true);
    assert_eq!(explained.iter().filter(|c| c.standing == Standing::Panic).count(), 6);
    for n in 0..6 {
        (0..2).for_each(|_| set.endpoints()[n].load.checked(true, &checks));
    }
    assert!(set.endpoints().iter().all(|e| !e.load.unhealthy()));
}

#[test]
fn round_robin_takes_turns_by_weight_and_leaves_out_who_is_left_out() {
    let set = built((0..4).map(|i| endpoint(&i.to_string())), policy(Algorithm::RoundRobin));
    assert!(shares(&set, at(1), &[]).values().all(|n| *n == 250));
    set.endpoints()[0].load.retry_after(Nanos::from_millis(1_000), at(1));
    assert_eq!(shares(&set, at(2), &[]).get("0"), None);
    let weighted = [1, 2, 7].map(|weight| Endpoint { weight, ..endpoint(&weight.to_string()) });
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random] {
        let set =
            built(weighted.iter().map(|e| Endpoint { weight: e.weight, ..endpoint(&e.workload) }), policy(algorithm));
        let shares = shares(&set, at(1), &[]);
        let near = |name: &str, wanted: usize| shares[name].abs_diff(wanted) < 45;
        assert!(near("1", 100) && near("2", 200) && near("7", 700), "{algorithm:?}: {shares:?}");
    }
}

/// The neighbour of one that is left out must not get its turns as well.
#[test]
fn turns_of_one_that_is_left_out_go_to_all_others() {
    let set = built((0..4).map(|i| endpoint(&i.to_string())), policy(Algorithm::RoundRobin));
    set.endpoints()[0].load.retry_after(Nanos::from_millis(1_000), at(1));
    let shares = shares(&set, at(2), &[]);
    assert!(shares.values().all(|n| (300..367).contains(n)), "{shares:?}");
}

/// Plays a number of clients that always have a request under way, each of which takes as long as any other; returns the
/// share of the first endpoint in percent.
fn heavy_share(algorithm: Algorithm, weights: &[u32], clients: usize) -> f64 {
    let endpoints = weights.iter().zip(0..).map(|(&weight, i)| Endpoint { weight, ..endpoint(&format!("e{i:04}")) });
    let set = built(endpoints, policy(algorithm));
    let mut rng = Rng::seeded(11);
    let mut under_way = std::collections::VecDeque::new();
    let (mut heavy, rounds) = (0, 20_000u64);
    for i in 0..rounds {
        let now = i * 10 / clients as u64;
        if under_way.len() == clients {
            let request: InFlight = under_way.pop_front().expect("clients");
            request.finish(at(now), Outcome::Success, &set);
        }
        let chosen = set.choose(at(now), &mut rng, &Ask::default(), |_| true).expect("there is one");
        heavy += u32::from(Arc::ptr_eq(&chosen, &set.endpoints()[0]));
        under_way.push_back(InFlight::start(chosen, Class::default(), at(now)));
    }
    f64::from(heavy) * 100.0 / rounds as f64
}

#[test]
fn weights_are_shares_however_little_there_is_to_do() {
    for algorithm in [Algorithm::Fastest, Algorithm::LeastRequest] {
        for clients in [1, 2, 3, 5, 10, 30, 100] {
            let share = heavy_share(algorithm, &[9, 1], clients);
            assert!((84.0..94.0).contains(&share), "{algorithm:?}, {clients} at once: {share}");
            let share = heavy_share(algorithm, &[2, 1, 1], clients);
            // With one under way the busy one is avoided, which is half or a quarter of what there is.
            assert!((39.0..60.0).contains(&share), "{algorithm:?}, {clients} at once: {share}");
        }
        let mut many = vec![1; 200];
        many[0] = 50;
        for clients in [1, 10, 100] {
            let share = heavy_share(algorithm, &many, clients);
            assert!((16.0..25.0).contains(&share), "50 of 249 is 20 %: {algorithm:?}, {clients} at once: {share}");
        }
    }
}

/// A lighter one that is quicker gets more than its share, but not everything.
#[test]
fn weights_bound_what_the_quickest_gets() {
    let set = built([Endpoint { weight: 9, ..endpoint("heavy") }, endpoint("light")], policy(Algorithm::Fastest));
    send(&set, &set.endpoints()[0], 0, 30, Outcome::Success);
    send(&set, &set.endpoints()[1], 20, 30, Outcome::Success);
    let light = percent(&set, 30, "light");
    assert!((41.0..53.0).contains(&light), "drawn at least once in six: 47 %: {light}");
}

#[test]
fn slow_start_is_a_share_too() {
    let slow_start = Some(SlowStart { window: Nanos::from_millis(10_000), min_percent: 10 });
    for algorithm in [Algorithm::Fastest, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let endpoints = [endpoint("new"), endpoint("old"), endpoint("older")];
        let set = built(endpoints, BalancePolicy { slow_start, ..policy(algorithm) });
        set.endpoints()[1..].iter().for_each(|old| send(&set, old, 0, 10, Outcome::Success));
        set.review(at(20_000));
        let new = percent(&set, 20_000, "new");
        assert!((3.0..7.5).contains(&new), "a twenty-first: {algorithm:?}: {new}");
        let grown = percent(&set, 40_000, "new");
        assert!((27.0..40.0).contains(&grown), "{algorithm:?}: {grown}");
    }
}

/// A set of `n` of which one is old, after the others have come.
fn mostly_new(n: usize, algorithm: Algorithm) -> EndpointSet {
    let slow_start = Some(SlowStart { window: Nanos::from_millis(10_000), min_percent: 10 });
    let endpoints = (0..n).map(|i| endpoint(&if i == 0 { "old".into() } else { format!("new-{i}") }));
    let set = built(endpoints, BalancePolicy { slow_start, ..policy(algorithm) });
    let old = set.endpoints().iter().find(|e| &*e.workload == "old").expect("it is there");
    send(&set, old, 0, 10, Outcome::Success);
    set.review(at(20_000));
    set
}

#[test]
fn shares_are_weights_where_nearly_all_are_new() {
    for algorithm in [Algorithm::Fastest, Algorithm::RoundRobin, Algorithm::Random] {
        let set = mostly_new(100, algorithm);
        let mut rng = Rng::seeded(9);
        let chosen = (0..50_000).filter_map(|_| set.choose(at(20_000), &mut rng, &Ask::default(), |_| true));
        let old = chosen.filter(|e| &*e.workload == "old").count() as f64 / 500.0;
        // Four standard deviations are 0.5. A round robin gives it its turn besides, as everybody.
        assert!((8.6..9.8).contains(&old), "1 / (1 + 99 / 10) = 9.2 %: {algorithm:?}: {old}");
    }
}

/// What is looked at is drawn, so draws are what it costs.
#[test]
fn a_choice_among_many_of_which_one_is_old_looks_at_few() {
    for algorithm in [Algorithm::Fastest, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let set = mostly_new(10_000, algorithm);
        let most = (0..1_000)
            .map(|seed| {
                let (mut rng, mut again) = (Rng::seeded(seed), Rng::seeded(seed));
                assert!(set.choose(at(20_000), &mut rng, &Ask::default(), |_| true).is_some());
                let (end, mut draws) = (format!("{rng:?}"), 0);
                while format!("{again:?}") != end {
                    again.next_u64();
                    draws += 1;
                }
                draws
            })
            .max();
        // Eighty looks, each with a coin, and 64 for a trial.
        assert!(most.is_some_and(|most| most <= 240), "{algorithm:?}: {most:?}");
    }
}

#[test]
fn sessions_stay_and_move_little_when_an_endpoint_goes() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev, Algorithm::Fastest] {
        let policy = BalancePolicy { hash: Some(HashKey::Source), ..policy(algorithm) };
        let set = built((0..10).map(|i| endpoint(&format!("e{i}"))), policy.clone());
        let of = |set: &EndpointSet, session: u64| {
            let ask = Ask { hash: Some(hash(&session.to_le_bytes())), ..Ask::default() };
            set.choose(at(1), &mut Rng::seeded(session), &ask, |_| true).expect("there is one").workload.clone()
        };
        let before: Vec<_> = (0..2_000).map(|session| of(&set, session)).collect();
        let mut counts = BTreeMap::<_, usize>::new();
        before.iter().for_each(|name| *counts.entry(name.clone()).or_default() += 1);
        assert!(counts.len() == 10 && counts.values().all(|n| (110..320).contains(n)), "{algorithm:?}: {counts:?}");
        assert!((0..100).all(|session| of(&set, session) == before[session as usize]));
        let fewer = built((0..9).map(|i| endpoint(&format!("e{i}"))), policy);
        let moved = (0..2_000).filter(|&s| &*before[s as usize] != "e9" && of(&fewer, s) != before[s as usize]).count();
        assert!(moved < 120, "{algorithm:?}: {moved} sessions moved that need not have");
    }
}

#[test]
fn a_busy_endpoint_passes_sessions_on() {
    let set = built((0..4).map(|i| endpoint(&i.to_string())), policy(Algorithm::Maglev));
    let ask = Ask { hash: Some(hash(b"popular")), ..Ask::default() };
    let mut rng = Rng::seeded(1);
    let mut under_way = Vec::new();
    for i in 0..400 {
        set.review(at(200 * i));
        let chosen = set.choose(at(200 * i), &mut rng, &ask, |_| true).expect("there is one");
        under_way.push(InFlight::start(chosen, Class::default(), at(200 * i)));
    }
    let most = set.endpoints().iter().map(|e| e.load.in_flight()).max().expect("four");
    assert!((100..=127).contains(&most), "a quarter of the average above it at most: {most}");
}

#[test]
fn an_endpoint_far_worse_than_its_peers_is_ejected() {
    let set = built((0..10).map(|i| endpoint(&i.to_string())), policy(Algorithm::RoundRobin));
    let _ = shares(&set, at(1), &[]);
    for round in 0..150 {
        for (i, endpoint) in set.endpoints().iter().enumerate() {
            // One fails every third request, never two in a row; one takes twenty times as long.
            let outcome = if i == 3 && round % 3 == 0 { failure() } else { Outcome::Success };
            let latency = if i == 7 { 200 } else { 10 };
            send(&set, endpoint, 60 * round, 60 * round + latency, outcome);
        }
    }
    assert!(set.endpoints().iter().all(|e| !e.load.ejected(at(9_500))));
    let _ = shares(&set, at(10_500), &[]);
    let out: Vec<_> = set.endpoints().iter().filter(|e| e.load.ejected(at(10_500))).map(|e| &*e.workload).collect();
    assert_eq!(out, ["3", "7"]);
}

#[test]
fn requests_that_spill_over_stay_in_the_group_that_takes_them() {
    let first = (0..10).map(|i| endpoint(&format!("first-{i}")));
    let second = (0..3).map(|i| Endpoint { priority: 1, ..endpoint(&format!("second-{i}")) });
    let policy = BalancePolicy { panic_percent: 0, ..BalancePolicy::default() };
    let set = built(first.chain(second), policy);
    let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
    let sick = |e: &&Arc<Endpoint>| !matches!(&*e.workload, "first-0" | "second-0" | "second-1");
    set.endpoints().iter().filter(sick).for_each(|e| e.load.checked(false, &checks));
    // One of ten usable where 70 % are wanted: a seventh.
    let stays = percent(&set, 200, "first");
    assert!((8.0..20.0).contains(&stays), "{stays}");
}

#[test]
fn slow_start_grows_the_weight() {
    let slow_start = Some(SlowStart { window: Nanos::from_millis(10_000), min_percent: 10 });
    let set = built([endpoint("old"), endpoint("new")], BalancePolicy { slow_start, ..BalancePolicy::default() });
    let (new, old) = (&set.endpoints()[0], &set.endpoints()[1]);
    // Both are seen; one is never sent anything, and grows all the same.
    send(&set, old, 20_000, 20_010, Outcome::Success);
    set.review(at(20_010));
    let weights = |now: u64| {
        let _ = shares(&set, at(now), &[]);
        [set::weight(old), set::weight(new)]
    };
    assert_eq!(weights(20_010)[1], 0.1f32);
    assert!((0.45..0.55).contains(&weights(25_010)[1]));
    assert_eq!(weights(40_000), [1.0, 1.0]);
}

#[test]
fn probes_go_to_idle_endpoints_within_the_budget() {
    let set = built((0..4).map(|i| endpoint(&i.to_string())), BalancePolicy::default());
    let mut rng = Rng::seeded(1);
    assert!(set.probe_due(at(5_000), &mut rng).is_none(), "nothing was ever sent there");
    set.endpoints().iter().for_each(|e| send(&set, e, 5_000, 5_010, Outcome::Success));
    assert!(set.probe_due(at(5_100), &mut rng).is_none(), "just heard of");
    let probes = (6_000..7_000).filter(|ms| set.probe_due(at(*ms), &mut rng).is_some()).count();
    assert!((9..=11).contains(&probes), "ten a second: {probes}");
    let off = built([endpoint("a")], BalancePolicy { probes_per_second: 0, ..BalancePolicy::default() });
    send(&off, &off.endpoints()[0], 0, 1, Outcome::Success);
    assert!(off.probe_due(at(5_000), &mut rng).is_none());
}

/// A review in steps of one endpoint finds what one does that looks at all at once.
#[test]
fn a_review_may_be_made_piece_by_piece() {
    for step in [1, 3, usize::MAX] {
        let first = (0..10).map(|i| endpoint(&format!("first-{i}")));
        let second = (0..4).map(|i| Endpoint { priority: 1, ..endpoint(&format!("second-{i}")) });
        let set = built(first.chain(second), policy(Algorithm::Random));
        let review = |now: u64| {
            let mut review = set.review_due(at(now)).expect("it is due");
            assert!(set.review_due(at(now)).is_none(), "one at a time");
            let mut steps = 1;
            while !review.step(&set, at(now), step) {
                steps += 1;
            }
            steps
        };
        review(1);
        for round in 0..150 {
            for (i, endpoint) in set.endpoints().iter().enumerate() {
                let outcome = if i < 4 && round % 3 == 0 { failure() } else { Outcome::Success };
                send(&set, endpoint, 60 * round, 60 * round + 10, outcome);
            }
        }
        let steps = review(10_500);
        assert!(if step == 1 { steps >= 3 * 14 } else { steps <= 15 }, "{steps} steps of {step}");
        // Four of fourteen fail a third: each is 1.58 standard deviations below the mean, so nobody is ejected.
        assert!(set.endpoints().iter().all(|e| !e.load.ejected(at(10_500))));
        let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
        set.endpoints()[..6].iter().for_each(|e| e.load.checked(false, &checks));
        review(11_500);
        let stays = percent(&set, 11_500, "first");
        assert!((50.0..65.0).contains(&stays), "40 of 70 %: step {step}: {stays}");
    }
}

/// Endpoints of the first group that are ejected, as far as the set has counted.
fn ejected(set: &EndpointSet) -> u32 {
    set.groups()[0].ejected.load(std::sync::atomic::Ordering::Relaxed)
}

/// What is ejected behind the back of a review is not forgotten when it ends.
#[test]
fn a_review_in_steps_keeps_what_is_ejected_meanwhile() {
    let set = built((0..10).map(|i| endpoint(&i.to_string())), policy(Algorithm::Random));
    set.review(at(1));
    let mut review = set.review_due(at(200)).expect("it is due");
    assert!(!review.step(&set, at(200), 5));
    (0..5).for_each(|i| send(&set, &set.endpoints()[0], 200 + i, 201 + i, failure()));
    assert!(set.endpoints()[0].load.ejected(at(206)));
    while !review.step(&set, at(206), 5) {}
    assert_eq!(ejected(&set), 1);
    set.review(at(400));
    assert_eq!(ejected(&set), 1);
    set.review(at(6_000));
    assert_eq!(ejected(&set), 0, "it is back");
}

/// A change of the set neither forgets what the last review found nor waits for the next.
#[test]
fn what_a_review_found_outlives_changes_of_the_set() {
    let all = || (0..10).map(|i| endpoint(&i.to_string()));
    let set = built(all(), policy(Algorithm::Random));
    let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
    set.endpoints()[..6].iter().for_each(|e| e.load.checked(false, &checks));
    assert_eq!(shares(&set, at(100), &[]).len(), 10, "panic");
    let here = Locality { region: "north".into(), zone: "a".into() };
    let next = EndpointSet::new(set.endpoints()[1..].to_vec(), policy(Algorithm::Random), &here).following(&set);
    let mut rng = Rng::seeded(1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        seen.insert(next.choose(at(101), &mut rng, &Ask::default(), |_| true).expect("there is one").workload.clone());
    }
    assert_eq!(seen.len(), 9, "still a panic");
}

#[test]
fn classes_that_nobody_uses_are_given_to_others() {
    let backend = Backend::new("shop/cart", 80, crate::Protocol::Http1, many(2));
    let set = backend.endpoints.load();
    let series = crate::SeriesId;
    let first: Vec<Class> = (0..7).map(|i| backend.class(series(i))).collect();
    let answer = |class, now: u64| {
        let request = InFlight::start(Arc::clone(&set.endpoints()[0]), class, at(now));
        request.finish(at(now + 5), Outcome::Success, &**set);
    };
    first.iter().for_each(|class| answer(*class, 1));
    assert_eq!(backend.class(series(7)), Class::default(), "all are taken");
    let review = |now: u64| {
        if let Some(mut review) = set.review_due(at(now)) {
            while !review.step(&set, at(now), 1) {}
            backend.free_classes(&review, at(now));
        }
    };
    for second in (10..=700).step_by(10) {
        // The first goes on; nobody asks for the others any more.
        answer(first[0], second * 1_000);
        review(second * 1_000 + 20);
        if second < 600 {
            assert_eq!(backend.class(series(7)), Class::default(), "after {second} s");
        }
    }
    assert_eq!(backend.class(series(0)), first[0], "it is used");
    let late = backend.class(series(7));
    assert!(late != Class::default() && late != first[0]);
    assert_eq!(set.endpoints()[0].load.latency(late), None, "what others taught is forgotten");
    assert_eq!(backend.class(series(7)), late);
    // Whoever comes back gets another place, and one that is used keeps its own though places before it are free.
    let last = backend.class(series(6));
    assert!(last != late && last != first[0] && backend.class(series(6)) == last);
}

#[test]
fn classes_keep_a_slow_route_from_hiding_a_fast_one() {
    let backend = Backend::new("shop/cart", 80, crate::Protocol::Http1, many(2));
    let (slow, fast) = (backend.class(crate::SeriesId(70)), backend.class(crate::SeriesId(71)));
    assert!(slow != fast && backend.class(crate::SeriesId(70)) == slow);
    let more: Vec<_> = (0..20).map(|i| backend.class(crate::SeriesId(i))).collect();
    assert!(more[5..].iter().all(|class| *class == Class::default()), "seven have one each, the others share one");
    let set = backend.endpoints.load();
    let answer = |endpoint: usize, class, ms| {
        let endpoint = Arc::clone(&set.endpoints()[endpoint]);
        InFlight::start(endpoint, class, at(0)).finish(at(ms), Outcome::Success, &**set);
    };
    // Good at what the other is bad at.
    answer(0, slow, 900);
    answer(0, fast, 5);
    answer(1, slow, 400);
    answer(1, fast, 50);
    let chosen = |class| {
        let ask = Ask { class, ..Ask::default() };
        set.choose(at(901), &mut Rng::seeded(1), &ask, |_| true).expect("there is one").workload.clone()
    };
    assert_eq!((&*chosen(slow), &*chosen(fast)), ("shop/cart-1", "shop/cart-0"));
}

fn stable(set: &EndpointSet, now: u64, expected: &str) -> BTreeMap<Box<str>, usize> {
    let mut rng = Rng::seeded(3);
    let mut taken = BTreeMap::new();
    for session in 0..100u32 {
        let ask = Ask { hash: Some(hash(&session.to_le_bytes())), ..Ask::default() };
        let mut choose = || set.choose(at(now), &mut rng, &ask, |_| true).expect("there is one");
        let first = choose();
        assert!(first.workload.starts_with(expected), "{}", first.workload);
        assert!((0..5).all(|_| Arc::ptr_eq(&choose(), &first)), "session {session} stays");
        *taken.entry(first.workload.clone()).or_default() += 1;
    }
    taken
}

#[test]
fn sessions_stay_together_where_the_first_priority_is_down() {
    for algorithm in [Algorithm::Fastest, Algorithm::RingHash, Algorithm::Maglev] {
        let first = (0..2).map(|i| endpoint(&format!("first-{i}")));
        let second = (0..3).map(|i| Endpoint { priority: 1, ..endpoint(&format!("second-{i}")) });
        // Beyond those that have a table.
        let beyond = (0..9).map(|i| Endpoint { priority: 2 + i / 3, ..endpoint(&format!("third-{i}")) });
        let last = (0..3).map(|i| Endpoint { priority: 9, ..endpoint(&format!("last-{i}")) });
        let hash = Some(HashKey::Source);
        let policy = BalancePolicy { hash, panic_percent: 0, ..policy(algorithm) };
        let set = built(first.chain(second).chain(beyond).chain(last), policy);
        let fails = |name: &str| {
            let checks = CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
            set.endpoints()
                .iter()
                .filter(|e| e.workload.starts_with(name))
                .for_each(|e| e.load.checked(false, &checks));
        };
        stable(&set, 1, "first");
        fails("first");
        assert_eq!(stable(&set, 2, "second").len(), 3, "all of them have sessions");
        fails("second-0");
        assert_eq!(stable(&set, 2, "second").len(), 2);
        fails("second");
        fails("third");
        assert_eq!(stable(&set, 3, "last").len(), 3);
        fails("last");
        stable(&set, 4, "first");
    }
}

#[test]
fn sessions_stay_together_where_who_has_nearly_all_of_them_is_left_out() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let heavy = Endpoint { weight: 1_000_000, ..endpoint("heavy") };
        let light = (0..2).map(|i| endpoint(&format!("light-{i}")));
        let policy = BalancePolicy { hash: Some(HashKey::Source), panic_percent: 0, ..policy(algorithm) };
        let set = built(light.chain([heavy]), policy);
        set.endpoints()[0].load.checked(false, &CheckPolicy { healthy_after: 1, unhealthy_after: 1 });
        let taken = stable(&set, 1, "light");
        assert!(taken.values().all(|sessions| *sessions > 20), "{taken:?}");
    }
}

/// It was down and comes back at the same address: another process, or the same one with empty caches.
#[test]
fn an_instance_that_was_restarted_starts_slowly_again() {
    let slow_start = Some(SlowStart { window: Nanos::from_millis(10_000), min_percent: 10 });
    let slow = BalancePolicy { slow_start, ..policy(Algorithm::Random) };
    let set = built([endpoint("old"), endpoint("restarted")], slow.clone());
    set.endpoints().iter().for_each(|e| send(&set, e, 0, 10, Outcome::Success));
    assert!((40.0..60.0).contains(&percent(&set, 20_000, "restarted")));
    set.endpoints()[1].load.forgive(true);
    let again = EndpointSet::sorted(set.endpoints().to_vec(), slow, &Locality::default()).following(&set);
    let share = percent(&again, 30_000, "restarted");
    assert!((5.0..14.0).contains(&share), "an eleventh: {share}");
    assert!((40.0..60.0).contains(&percent(&again, 41_000, "restarted")));
}

/// As `sessionAffinity` asks for, where no bound is written.
#[test]
fn a_session_without_a_bound_stays_however_busy_its_instance_is() {
    let hash_by = Some(HashKey::Header("user".into()));
    let set = built(
        (0..3).map(|i| endpoint(&i.to_string())),
        BalancePolicy { hash: hash_by, bound_percent: 0, ..policy(Algorithm::Fastest) },
    );
    let ask = Ask { hash: Some(hash(b"ann")), ..Ask::default() };
    let mut rng = Rng::seeded(1);
    let under_way: Vec<_> = (0..200)
        .map(|i| (i, set.choose(at(i), &mut rng, &ask, |_| true).expect("there is one")))
        .map(|(i, chosen)| InFlight::start(chosen, Class::default(), at(i)))
        .collect();
    let place = under_way[0].endpoint();
    assert!(under_way.iter().all(|request| Arc::ptr_eq(request.endpoint(), place)));
}

/// What is usual was added up before it was slow, without it.
#[test]
fn who_was_not_among_the_peers_is_not_compared_with_them() {
    let set = built((0..10).map(|i| endpoint(&i.to_string())), policy(Algorithm::Random));
    set.review(at(1));
    for round in 0..150 {
        set.endpoints()[..9].iter().for_each(|e| send(&set, e, 60 * round, 60 * round + 10, Outcome::Success));
    }
    let mut review = set.review_due(at(10_500)).expect("it is due");
    assert!(!review.step(&set, at(10_500), usize::MAX));
    let late = &set.endpoints()[9];
    (0..150).for_each(|round| send(&set, late, 60 * round, 60 * round + 1_000, Outcome::Success));
    while !review.step(&set, at(10_501), usize::MAX) {}
    assert!(!late.load.ejected(at(10_502)), "not yet");
}

/// The formula of `docs/balancing.md`, of nothing but what an explanation shows.
fn cost(terms: &Terms) -> f64 {
    let known = terms.latency.filter(|latency| *latency > 1.4 * terms.assumed).unwrap_or(terms.assumed);
    let elsewhere = if terms.latency.is_some() { terms.elsewhere } else { 0.0 };
    let in_flight = f64::from(terms.in_flight);
    let own_queue = (in_flight * (1.0 + elsewhere / 2.0) + elsewhere + 0.5) / terms.weight;
    let queue = terms.spread + terms.idle + own_queue.max(terms.idle);
    (known * terms.overdue + terms.connecting) * (1.0 + 100.0 * terms.failing) * queue.powf(1.5)
}

proptest! {
    #[test]
    fn the_cost_follows_from_the_terms_that_are_shown(
        instances in prop::collection::vec((1..20u32, 0..12u32, 0..4u64, 0..9u32, any::<bool>()), 1..9),
        wait in 0..2_000u64,
    ) {
        let all = instances.iter().zip(0..).map(|(one, i)| Endpoint { weight: one.0, ..endpoint(&format!("e{i}")) });
        let set = with(all, never());
        let mut under_way = Vec::new();
        for ((_, in_flight, latency, elsewhere, fails), endpoint) in instances.iter().zip(set.endpoints()) {
            if *latency > 0 {
                send(&set, endpoint, 1, 1 + 10 * latency, if *fails { failure() } else { Outcome::Success });
                endpoint.load.reported(*elsewhere, None, at(50));
            }
            under_way.extend((0..*in_flight).map(|_| InFlight::start(Arc::clone(endpoint), Class::default(), at(60))));
        }
        let warm = |endpoint: &Endpoint| endpoint.weight.is_multiple_of(2);
        for candidate in set.weigh(at(60 + wait), &Ask::default(), warm) {
            let (shown, expected) = (candidate.terms.cost, cost(&candidate.terms));
            prop_assert!((shown - expected).abs() <= 1e-4 * expected, "{expected} is not {:?}", candidate.terms);
        }
    }
}

#[test]
fn a_choice_says_what_it_went_by() {
    let by = |algorithm, hash, now| {
        let set = built([endpoint("a"), endpoint("b")], policy(algorithm));
        set.endpoints().iter().for_each(|e| send(&set, e, 1, 2, Outcome::Success));
        let ask = Ask { hash, ..Ask::default() };
        let mut rng = Rng::seeded(3);
        let mut ways: Vec<By> = Vec::new();
        for _ in 0..100 {
            let (_, by) = set.choose_by(at(now), &mut rng, &ask, |_| true).expect("there are two");
            if !ways.contains(&by) {
                ways.push(by);
            }
        }
        ways
    };
    assert_eq!(by(Algorithm::Fastest, None, 3), [By::Cost], "both have just answered");
    let later = by(Algorithm::Fastest, None, 5_000);
    assert!(later.len() == 2 && later.contains(&By::Trial) && later.contains(&By::Cost), "{later:?}");
    assert_eq!(by(Algorithm::RingHash, Some(7), 3), [By::Hash]);
    assert_eq!(by(Algorithm::RingHash, None, 3), [By::Chance]);
    assert_eq!(by(Algorithm::LeastRequest, None, 3), [By::InFlight]);
    assert_eq!(by(Algorithm::RoundRobin, None, 3), [By::Turn]);
    assert_eq!(by(Algorithm::Random, None, 3), [By::Chance]);
}
