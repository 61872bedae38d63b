use proptest::prelude::*;

use super::*;
use crate::Rng;

proptest! {
    /// Every weight gets its share, give or take one in 2^32 for each slot.
    #[test]
    fn shares_are_as_the_weights(weights in prop::collection::vec(1u64..1_000_000, 1..40)) {
        let slots = alias(&weights);
        let mut parts = vec![0u64; weights.len()];
        for (i, slot) in slots.iter().enumerate() {
            parts[i] += u64::from(slot.keep);
            parts[slot.other as usize] += (1 << 32) - u64::from(slot.keep);
        }
        let (total, whole) = (weights.iter().sum::<u64>() as f64, weights.len() as f64 * 4_294_967_296.0);
        for (weight, part) in weights.iter().zip(parts) {
            let (wanted, got) = (*weight as f64 / total, part as f64 / whole);
            prop_assert!((wanted - got).abs() < 1e-6, "{wanted} {got}");
        }
    }

    /// What was drawn is not drawn again where all weigh the same.
    #[test]
    fn others_are_others(count in 2u32..20, seed: u64) {
        let spread = Spread { count, ..Spread::default() };
        let mut rng = Rng::seeded(seed);
        let mut drawn = Vec::new();
        for _ in 0..count {
            let place = spread.draw_other(&drawn, &mut rng);
            prop_assert!(place < count && !drawn.contains(&place));
            drawn.push(place);
            drawn.sort_unstable();
        }
    }
}
