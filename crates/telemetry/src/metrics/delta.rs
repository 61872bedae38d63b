//! What was counted since somebody last asked, for the statistics that a proxy reports.

use super::recorder::Totals;
use super::{Registry, SeriesKey};

/// Where a reader of [`Registry::deltas`] is. A fresh one has seen nothing.
#[derive(Debug, Default)]
pub struct Cursor {
    /// By series id: the generation of the series and what it had counted.
    seen: Vec<Option<(u32, Seen)>>,
}

#[derive(Debug)]
struct Seen {
    requests: u64,
    failures: u64,
    latency: Box<[u64]>,
}

/// What one series has counted since the cursor's last call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Which series.
    pub key: SeriesKey,
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that count as failures.
    pub failures: u64,
    /// Buckets of [`crate::histogram`] that grew, and by how much; sorted by bucket.
    pub latency: Vec<(u32, u64)>,
}

impl Registry {
    /// What each series has counted since the last call with this cursor; only series that counted anything. What a series
    /// counted before it expired is not lost if this is called more often than series expire.
    pub fn deltas(&self, cursor: &mut Cursor) -> Vec<Delta> {
        let mut deltas = Vec::new();
        for reading in self.read() {
            let id = reading.id as usize;
            if cursor.seen.len() <= id {
                cursor.seen.resize_with(id + 1, || None);
            }
            let seen = cursor.seen[id].take().filter(|(generation, _)| *generation == reading.generation);
            let (delta, now) = reading.totals.delta(reading.key, seen.map(|(_, seen)| seen));
            cursor.seen[id] = Some((reading.generation, now));
            if delta.requests > 0 || !delta.latency.is_empty() {
                deltas.push(delta);
            }
        }
        deltas
    }
}

impl Totals {
    fn delta(self, key: SeriesKey, seen: Option<Seen>) -> (Delta, Seen) {
        let now = Seen { requests: self.count(), failures: self.failures, latency: self.latency };
        let old = |bucket: usize| seen.as_ref().map_or(0, |seen| seen.latency[bucket]);
        let latency = now.latency.iter().enumerate();
        let delta = Delta {
            key,
            requests: now.requests.saturating_sub(seen.as_ref().map_or(0, |seen| seen.requests)),
            failures: now.failures.saturating_sub(seen.as_ref().map_or(0, |seen| seen.failures)),
            latency: latency
                .map(|(bucket, count)| (bucket as u32, count.saturating_sub(old(bucket))))
                .filter(|(_, count)| *count > 0)
                .collect(),
        };
        (delta, now)
    }
}
