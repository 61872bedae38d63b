use std::sync::Arc;

use super::super::{Dial, Health, Load, Locality};
use super::*;

fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    let one = |(i, weight): (usize, &u32)| Endpoint {
        workload: format!("shop/cart-{i}").into(),
        address: [127, 0, 0, 1].into(),
        dial: Dial::Plain(([127, 0, 0, 1], 80).into()),
        weight: *weight,
        priority: 0,
        locality: Locality::default(),
        health: Health::Ready,
        load: Load::new(),
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
