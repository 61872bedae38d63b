//! Sessions by a hash: requests with the same one go to the same endpoint, in every proxy, as long as that may be used.

use std::ops::Range;
use std::sync::Arc;

use super::Endpoint;
use super::set::{Ask, EndpointSet, Group, Tier, tier, weight};
use super::table::{Table, rank};
use crate::Nanos;
use crate::policy::{Algorithm, BalancePolicy};

/// How many entries of a table are looked at before the first usable one is taken, busy or not; and among how many members one
/// is looked for by rank where none of those entries is usable.
const WALK: usize = 128;

/// With so many requests in flight an endpoint is not busy, whatever the average: that is as old as the last review, and a
/// page that a browser loads by six requests at once is one session.
const BURST: f32 = 8.0;

/// Priorities that have a table, the best ones. Sessions that end up beyond them are found by looking at all endpoints.
const TABLES: usize = 4;

/// Where sessions lead within one priority, near or not: which endpoint has one must not depend on the caller.
#[derive(Debug)]
pub(super) struct Sessions {
    table: Table,
    /// Of this priority.
    groups: Range<usize>,
    members: usize,
}

/// What `policy` needs for the endpoints of `groups`; nothing where it knows no sessions.
pub(super) fn sessions(policy: &BalancePolicy, groups: &[Group], endpoints: &[Arc<Endpoint>]) -> Box<[Sessions]> {
    let build = match (policy.algorithm, &policy.hash) {
        (Algorithm::RingHash, _) => Table::ring,
        (Algorithm::Maglev, _) | (_, Some(_)) => Table::maglev,
        _ => return Box::default(),
    };
    let mut from = 0;
    let one = |same: &[Group]| {
        let groups = from..from + same.len();
        from = groups.end;
        let mut members: Vec<u32> = same.iter().flat_map(|group| group.members.iter()).map(|i| i as u32).collect();
        members.sort_unstable();
        Some(Sessions { table: build(&members, endpoints)?, groups, members: members.len() })
    };
    groups.chunk_by(|a, b| a.priority == b.priority).take(TABLES).filter_map(one).collect()
}

impl EndpointSet {
    /// The endpoint of a session, where the policy knows sessions: of the best priority that has a usable one. Where none has,
    /// that of the best tier (see [`EndpointSet::choose`]), so that sessions stay together also then.
    pub(super) fn by_hash(&self, hash: u64, now: Nanos, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        let best = self.sessions().iter().find_map(|one| self.within(one, hash, now, ask));
        best.or_else(|| {
            let hashes = self.policy().hash.is_some()
                || matches!(self.policy().algorithm, Algorithm::RingHash | Algorithm::Maglev);
            hashes.then(|| self.by_rank(0..self.endpoints().len(), hash, now, ask).map(|(_, found)| found)).flatten()
        })
    }

    /// The first usable endpoint that is not too busy (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded
    /// Loads", 2018); if all are, the first usable one.
    fn within(&self, one: &Sessions, hash: u64, now: Nanos, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        let (panic, bound) = (self.view().panic(), self.policy().bound_percent);
        let mut first = None;
        for endpoint in one.table.walk(hash).take(WALK).map(|i| &self.endpoints()[i]) {
            if !self.is_usable(endpoint, now, ask, panic) {
                continue;
            }
            let most = self.view().in_flight() * weight(endpoint) * bound.max(101) as f32 / 100.0;
            if bound == 0 || endpoint.load.in_flight() as f32 <= most.ceil().max(BURST) {
                return Some(endpoint);
            }
            first = first.or(Some(endpoint));
        }
        // A few of which one has nearly every entry.
        let few = || self.groups()[one.groups.clone()].iter().flat_map(|group| group.members.iter());
        match first {
            None if one.members <= WALK => {
                self.by_rank(few(), hash, now, ask).filter(|(tier, _)| *tier == Tier::Fresh).map(|(_, found)| found)
            }
            _ => first,
        }
    }

    /// Of the best tier and in it of the best priority, the one that the hash and the weights rank first (rendezvous hashing:
    /// Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998). Looks at all of `places`.
    #[cold]
    fn by_rank(
        &self,
        places: impl Iterator<Item = usize>,
        hash: u64,
        now: Nanos,
        ask: &Ask<'_>,
    ) -> Option<(Tier, &Arc<Endpoint>)> {
        let panic = self.view().panic();
        let standing = |place| {
            let endpoint: &Arc<Endpoint> = &self.endpoints()[place];
            Some((tier(endpoint, now, ask, panic)?, rank(hash, endpoint), endpoint))
        };
        let best = places.filter_map(standing).min_by(|(a_tier, a_rank, a), (b_tier, b_rank, b)| {
            (a_tier, a.priority).cmp(&(b_tier, b.priority)).then(a_rank.total_cmp(b_rank))
        });
        best.map(|(tier, _, endpoint)| (tier, endpoint))
    }
}
