use proptest::prelude::*;

use super::*;

#[test]
fn bounds_meet_and_every_begin_is_in_its_bucket() {
    assert_eq!(bucket_bounds(0), (0, 1024));
    for i in 0..BUCKETS {
        let (low, high) = bucket_bounds(i);
        assert_eq!(bucket(low), i, "begin of {i}");
        assert_eq!(bucket(high - 1), i, "end of {i}");
        if i + 1 < BUCKETS {
            assert_eq!(bucket(high), i + 1);
        }
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    assert_eq!(bucket_bounds(BUCKETS - 1).0, 1 << 37);
}

#[test]
fn there_are_few_buckets_and_they_reach_from_one_microsecond_to_a_hundred_seconds() {
    const { assert!(BUCKETS <= 200) };
    assert_eq!(bucket(1_100), 1);
    assert!(bucket(100_000_000_000) < BUCKETS - 1);
}

#[test]
fn quantiles_of_a_known_distribution() {
    let mut counts = vec![0; BUCKETS];
    for ms in 1..=1000u64 {
        counts[bucket(ms * 1_000_000)] += 1;
    }
    for (q, ms) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0), (0.0, 1.0)] {
        let found = quantile(&counts, q).expect("not empty") as f64 / 1e6;
        assert!((found / ms - 1.0).abs() < 0.06, "quantile {q}: {found} ms");
    }
    assert_eq!(quantile(&[0; BUCKETS], 0.5), None);
    assert_eq!(quantile(&[], 0.5), None);
}

proptest! {
    #[test]
    fn buckets_grow_with_the_value(a: u64, b: u64) {
        let (a, b) = (a.min(b), a.max(b));
        prop_assert!(bucket(a) <= bucket(b));
        let (low, high) = bucket_bounds(bucket(a));
        prop_assert!(low <= a && (a < high || high == u64::MAX));
    }

    #[test]
    fn the_middle_is_within_six_percent(nanos in 1_024u64..100_000_000_000) {
        let middle = middle(bucket(nanos)) as f64;
        prop_assert!((middle / nanos as f64 - 1.0).abs() < 0.06);
    }

    #[test]
    fn a_higher_quantile_is_never_lower(counts in proptest::collection::vec(0u64..50, BUCKETS), p in 0.0..1.0f64, q in 0.0..1.0f64) {
        let (p, q) = (p.min(q), p.max(q));
        prop_assert!(quantile(&counts, p) <= quantile(&counts, q));
    }
}
