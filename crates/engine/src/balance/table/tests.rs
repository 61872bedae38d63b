use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    let one = |(i, weight): (usize, &u32)| Endpoint {
        weight: *weight,
        ..Endpoint::plain(format!("shop/cart-{i}"), ([127, 0, 0, 1], 80).into())
    };
    weights.iter().enumerate().map(one).map(Arc::new).collect()
}

fn shares(table: &Table, count: usize) -> Vec<f64> {
    let mut shares = vec![0.0; count];
    for session in 0u32..20_000 {
        let first = table.walk(hash(&session.to_le_bytes())).next().expect("an entry");
        shares[first] += 1.0 / 20_000.0;
    }
    shares
}

#[test]
fn shares_follow_the_weights() {
    let all = endpoints(&[1, 1, 2, 4]);
    let members = [0, 1, 2, 3];
    for (table, slack) in [(Table::maglev(&members, &all), 0.02), (Table::ring(&members, &all), 0.06)] {
        let shares = shares(&table.expect("there are members"), 4);
        for (share, wanted) in shares.iter().zip([0.125, 0.125, 0.25, 0.5]) {
            assert!((share - wanted).abs() < slack, "{shares:?}");
        }
    }
}

#[test]
fn ranks_follow_the_weights() {
    let all = endpoints(&[1, 1, 2, 4]);
    let mut firsts = [0.0f64; 4];
    for session in 0u32..20_000 {
        let ranks = all.iter().map(|endpoint| rank(hash(&session.to_le_bytes()), endpoint));
        let first = ranks.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).expect("there are four").0;
        firsts[first] += 1.0 / 20_000.0;
    }
    for (share, wanted) in firsts.iter().zip([0.125, 0.125, 0.25, 0.5]) {
        assert!((share - wanted).abs() < 0.02, "{firsts:?}");
    }
}

#[test]
fn a_walk_meets_every_endpoint_and_nobody_has_no_table() {
    let all = endpoints(&[1; 30]);
    let members: Vec<u32> = (0..30).collect();
    for table in [Table::maglev(&members, &all), Table::ring(&members, &all)] {
        let mut met: Vec<usize> = table.expect("there are members").walk(hash(b"session")).collect();
        met.sort_unstable();
        met.dedup();
        assert_eq!(met, (0..30).collect::<Vec<_>>());
    }
    assert!(Table::maglev(&[], &all).is_none() && Table::ring(&[], &all).is_none());
}

/// Another version or another machine must not send sessions elsewhere.
#[test]
fn hashes_are_what_they_always_were() {
    assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
    assert_ne!(hash(b"a"), hash(b"b"));
}

#[test]
fn thousands_of_endpoints_fit() {
    let all = endpoints(&vec![1; 5_000]);
    let members: Vec<u32> = (0..5_000).collect();
    let maglev = Table::maglev(&members, &all).expect("there are members");
    assert_eq!(maglev.entries.len(), 65_521);
    let ring = Table::ring(&members, &all).expect("there are members");
    assert!(ring.entries.len() <= 2 * POINTS_ALL, "{}", ring.entries.len());
}

/// Of ten thousand, of which one weighs a million times as much as the others, that one has every entry; going through a million
/// passes of ten thousand until another has a turn would take minutes.
#[test]
fn one_huge_weight_costs_no_more_than_equal_ones() {
    let mut weights = vec![1; 10_000];
    weights[5_000] = 1_000_000;
    let all = endpoints(&weights);
    let members: Vec<u32> = (0..10_000).collect();
    let table = Table::maglev(&members, &all).expect("there are members");
    assert!(table.entries.iter().all(|entry| *entry == 5_000));
    let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
    // A hundred passes of the light ones: a hundred million turns of the heavy one are in between.
    let light = turns(&weights).skip(999_999).take(10_000).filter(|position| *position != 5_000).count();
    assert_eq!(light, 9_999, "the light ones come when it has had a million turns");
}

/// As in the paper: in each pass everybody gets its weight as credit, and a turn for each that is worth the heaviest.
fn passes(weights: &[u64], count: usize) -> Vec<Vec<usize>> {
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    let mut credits = vec![0; weights.len()];
    let mut pass = || {
        credits.iter_mut().zip(weights).for_each(|(credit, weight)| *credit += weight);
        let rich: Vec<usize> = (0..weights.len()).filter(|i| credits[*i] >= heaviest).collect();
        rich.iter().for_each(|i| credits[*i] -= heaviest);
        rich
    };
    (0..count).map(|_| pass()).collect()
}

proptest! {
    #[test]
    fn turns_are_those_of_the_passes(weights in prop::collection::vec(1u64..50, 1..20)) {
        let mut all = turns(&weights);
        for pass in passes(&weights, 100) {
            let mut turns: Vec<usize> = all.by_ref().take(pass.len()).collect();
            turns.sort_unstable();
            prop_assert_eq!(turns, pass);
        }
    }
}
