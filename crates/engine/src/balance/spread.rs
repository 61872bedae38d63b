//! Drawing members of a group in proportion to their weights, in constant time.

use super::Endpoint;
use crate::Rng;

/// The members of a group as something to draw from.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Positions in the set; empty where all of it are members.
    members: Box<[u32]>,
    /// How many there are.
    count: u32,
    /// Empty where all weigh the same.
    slots: Box<[Slot]>,
}

/// Walker's alias method (1977): a member keeps a part of its slot and lends the rest to one other.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Kept if the coin is less than this, in 2^-32.
    keep: u32,
    other: u32,
}

impl Spread {
    /// Of `members`, positions among `all`.
    pub(super) fn new(members: Vec<u32>, all: &[impl AsRef<Endpoint>]) -> Spread {
        let weights: Vec<u64> = members.iter().map(|&i| u64::from(all[i as usize].as_ref().weight.max(1))).collect();
        let equal = weights.iter().all(|weight| Some(weight) == weights.first());
        let slots = if equal { Box::default() } else { alias(&weights) };
        let count = members.len() as u32;
        let members = if members.len() == all.len() { Box::default() } else { members.into_boxed_slice() };
        Spread { members, count, slots }
    }

    pub(super) fn len(&self) -> u32 {
        self.count
    }

    /// Whether weights differ.
    pub(super) fn is_weighted(&self) -> bool {
        !self.slots.is_empty()
    }

    /// All members, as positions in the set.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.count).map(|place| self.member(place))
    }

    /// Whether the endpoint at this position in the set is one.
    pub(super) fn contains(&self, position: usize) -> bool {
        match u32::try_from(position) {
            Ok(position) if !self.members.is_empty() => self.members.binary_search(&position).is_ok(),
            _ => position < self.count as usize,
        }
    }

    /// One at random; there must be one.
    #[inline]
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        self.member(self.place(rng.next_u64()))
    }

    /// One at random that was not drawn before: `drawn` are the places, sorted, of which there must be fewer than members.
    /// Returns its place. Where weights differ it may be one of `drawn` all the same.
    #[inline]
    pub(super) fn draw_other(&self, drawn: &[u32], rng: &mut Rng) -> u32 {
        if !self.slots.is_empty() {
            return self.place(rng.next_u64());
        }
        let place = rng.below(self.count - drawn.len() as u32);
        drawn.iter().fold(place, |place, drawn| place + u32::from(place >= *drawn))
    }

    /// The turn-th in a round. With unequal weights the golden ratio spaces the turns of each evenly (Weyl's sequence).
    pub(super) fn turn(&self, turn: u64) -> usize {
        if self.slots.is_empty() {
            return self.member((turn % u64::from(self.count.max(1))) as u32);
        }
        self.member(self.place(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    #[inline]
    fn place(&self, bits: u64) -> u32 {
        let place = u128::from(bits) * u128::from(self.count);
        let (mut slot, coin) = ((place >> 64) as u32, (place as u64 >> 32) as u32);
        if let Some(kept) = self.slots.get(slot as usize)
            && coin >= kept.keep
        {
            slot = kept.other;
        }
        slot
    }

    /// The position in the set of the member at `place`.
    #[inline]
    pub(super) fn member(&self, place: u32) -> usize {
        self.members.get(place as usize).map_or(place, |member| *member) as usize
    }
}

/// Vose's construction (1991), in whole numbers: each slot has room for the total, each member brings its weight times the number of slots.
fn alias(weights: &[u64]) -> Box<[Slot]> {
    let (count, total) = (weights.len() as u128, weights.iter().map(|w| u128::from(*w)).sum::<u128>());
    let mut parts: Vec<u128> = weights.iter().map(|w| u128::from(*w) * count).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|&i| parts[i] < total);
    let mut slots: Vec<Slot> = (0..weights.len() as u32).map(|other| Slot { keep: u32::MAX, other }).collect();
    while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
        small.pop();
        let keep = (parts[poor] << 32) / total.max(1);
        slots[poor] = Slot { keep: keep.min(u128::from(u32::MAX)) as u32, other: rich as u32 };
        parts[rich] -= total - parts[poor];
        if parts[rich] < total {
            large.pop();
            small.push(rich);
        }
    }
    slots.into_boxed_slice()
}

#[cfg(test)]
mod tests;
