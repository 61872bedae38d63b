//! Consistent hashing: from a hash to a sequence of endpoints that changes little when endpoints come and go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::Endpoint;

/// A Maglev table has about this many entries an endpoint, so that shares differ by a percent or so.
const ENTRIES: usize = 100;

/// Sizes of Maglev tables: primes, so that every step visits every entry. The last takes 256 KiB.
const SIZES: [usize; 5] = [251, 1_021, 4_093, 16_381, 65_521];

/// Points on a ring an endpoint of average weight, and on the whole ring about.
const POINTS: usize = 160;
const POINTS_ALL: usize = 65_536;

/// The most points that a heavy endpoint has, as a multiple of the average.
const HEAVY: usize = 16;

/// Where hashes lead. Both kinds are walked the same way: from an entry to those after it.
#[derive(Debug)]
pub(super) struct Table {
    /// Sorted; empty for Maglev, where the hash is the place itself.
    points: Box<[u64]>,
    /// Positions in the set.
    entries: Box<[u32]>,
}

/// A hash for [`super::Ask::hash`]: FNV-1a, finished as splitmix64 does. It is the same in every proxy and version, so that
/// all send a session to the same endpoint.
pub fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    mix(fnv)
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Where an endpoint stands for a hash among others, the least first: each is the first for as many hashes as its weight says,
/// and where one goes its own go to others as their weights say. An exponential variate, of which the least of many belongs
/// to each in proportion to its rate.
pub(super) fn rank(hash: u64, endpoint: &Endpoint) -> f64 {
    let bits = mix(hash ^ mix(self::hash(endpoint.workload.as_bytes())));
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(endpoint.weight.max(1))
}

impl Table {
    /// A ring (Karger et al., STOC 1997): an endpoint has points in proportion to its weight.
    pub(super) fn ring(members: &[u32], all: &[impl AsRef<Endpoint>]) -> Option<Table> {
        let total: u64 = members.iter().map(|&i| weight(all, i)).sum();
        let average = (POINTS_ALL / members.len().max(1)).clamp(1, POINTS);
        let mut ring: Vec<(u64, u32)> = Vec::with_capacity(average * members.len());
        for &member in members {
            let part = weight(all, member) as f64 * members.len() as f64 / total as f64;
            let points = ((part * average as f64).round() as usize).clamp(1, HEAVY * average);
            let name = hash(all[member as usize].as_ref().workload.as_bytes());
            ring.extend(
                (0..points as u64).map(|i| (mix(name.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))), member)),
            );
        }
        ring.sort_unstable();
        let (points, entries): (Vec<u64>, Vec<u32>) = ring.into_iter().unzip();
        (!entries.is_empty()).then(|| Table { points: points.into(), entries: entries.into() })
    }

    /// Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): endpoints take turns to claim the next free entry of their own
    /// permutation, the heavier ones more often.
    pub(super) fn maglev(members: &[u32], all: &[impl AsRef<Endpoint>]) -> Option<Table> {
        if members.is_empty() {
            return None;
        }
        let wanted = members.len().saturating_mul(ENTRIES);
        let size = SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]) as u64;
        const FREE: u32 = u32::MAX;
        let mut entries = vec![FREE; size as usize];
        let mut places: Vec<(u64, u64)> = members
            .iter()
            .map(|&member| {
                let name = hash(all[member as usize].as_ref().workload.as_bytes());
                (name % size, mix(name) % (size - 1) + 1)
            })
            .collect();
        let weights: Vec<u64> = members.iter().map(|&member| weight(all, member)).collect();
        // Each turn claims one entry.
        for turn in turns(&weights).take(size as usize) {
            let (place, step) = &mut places[turn];
            while entries[*place as usize] != FREE {
                *place = (*place + *step) % size;
            }
            entries[*place as usize] = members[turn];
        }
        Some(Table { points: Box::default(), entries: entries.into() })
    }

    /// The endpoints for `hash`, the first choice first; each maybe more than once.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = if self.points.is_empty() {
            ((u128::from(hash) * self.entries.len() as u128) >> 64) as usize
        } else {
            self.points.partition_point(|point| *point < hash) % self.entries.len()
        };
        self.entries[start..].iter().chain(&self.entries[..start]).map(|&member| member as usize)
    }
}

/// Positions among `weights`, for ever, each as often as its weight says: in every pass the heaviest have a turn, who weighs half
/// of that in every other pass, and so on. Those of equal weight have their turns together. A turn takes the same time
/// however far apart the weights are: passes without a turn for some are not gone through.
fn turns(weights: &[u64]) -> impl Iterator<Item = usize> {
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    let mut alike: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (position, weight) in weights.iter().enumerate() {
        alike.entry((*weight).max(1)).or_default().push(position);
    }
    let alike: Vec<(u64, Vec<usize>)> = alike.into_iter().collect();
    // The pass of a turn, turns being counted from one; among those of one pass the lighter come first.
    let pass = move |turn: u64, weight: u64| (turn * heaviest).div_ceil(weight);
    let first = |(class, (weight, _)): (usize, &(u64, _))| Reverse((pass(1, *weight), class, 1));
    let mut due: BinaryHeap<Reverse<(u64, usize, u64)>> = alike.iter().enumerate().map(first).collect();
    let mut current = (0, usize::MAX);
    std::iter::from_fn(move || {
        if current.1 >= alike.get(current.0)?.1.len() {
            let mut next = due.peek_mut()?;
            let Reverse((_, class, turn)) = *next;
            *next = Reverse((pass(turn + 1, alike[class].0), class, turn + 1));
            current = (class, 0);
        }
        current.1 += 1;
        alike[current.0].1.get(current.1 - 1).copied()
    })
}

fn weight(all: &[impl AsRef<Endpoint>], member: u32) -> u64 {
    u64::from(all[member as usize].as_ref().weight.max(1))
}

#[cfg(test)]
mod tests;
