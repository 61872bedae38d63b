//! Choosing an instance: power of two choices over a peak-sensitive EWMA of latency, requests in flight and outcomes.
//!
//! Two endpoints are drawn at random and the cheaper one is taken (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing", 2001). The cost of one more request at an endpoint is
//!
//! ```text
//! (latency + connecting) · (1 + 100 · failing) · (in flight + 1) / weight
//! ```
//!
//! - *latency* is a peak-sensitive EWMA as in Finagle: a sample above it takes over at once, one below is blended in
//!   ([`Load`]). Unlike Finagle's it does not decay while nothing is heard, which asks a slow endpoint again too soon and one
//!   that had a single peak too late.
//! - Instead, an endpoint of which nothing was heard for a while and that has nothing in flight gets one request as a trial,
//!   whatever it costs. If that is answered, the answer replaces what was known. The wait is a second, eight times the
//!   latency if that is more, twice as long for each failure in a row, 30 s at most.
//! - *failing* is the recent share of failures. A failure's own latency never lowers the estimate, so failing fast
//!   attracts nothing; an endpoint that always fails is as dear as one that takes a hundred times as long.
//! - A request that was cancelled before its answer is no failure, but its latency was at least the time until then. So an
//!   endpoint that stands still does not look faster than its peers because its clients give up first.
//! - *connecting* is added where this worker has no ready connection: a millisecond, or the latency if that is less.
//! - An endpoint never heard of is taken to be as fast as the other candidate, without the cost of connecting. So it gets
//!   its turn at once, and no more than that: its requests in flight hold it back until its first answer. Neither zero
//!   (everything would rush to it) nor a fixed seed (which starves it behind fast peers) has both properties.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::OutlierPolicy;
use crate::{Nanos, Outcome, Protocol, Rng};

mod load;

pub use load::Load;

/// What making a connection (TCP and TLS, both sides verified) adds to a first request at most: about what it takes within
/// one data centre.
const CONNECT_COST: f64 = 1_000_000.0;

/// How often two endpoints are drawn before all are looked at. With half of the endpoints usable, each draw of two
/// succeeds in one case of four; a scan is the exception, not the rule.
const DRAWS: usize = 4;

/// One service port as something to send to. It outlives changes of its endpoints; every rule that names the same service
/// port shares it.
#[derive(Debug)]
pub struct Backend {
    /// `namespace/name`.
    pub service: Box<str>,
    /// The service port.
    pub port: u16,
    /// What the port was declared to speak.
    pub protocol: Protocol,
    /// Where its instances are now. Swapped whole; what was learnt of an endpoint stays in its [`Load`].
    pub endpoints: ArcSwap<EndpointSet>,
}

/// The endpoints of one backend at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Sorted by workload.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// When to leave one out.
    pub outlier: OutlierPolicy,
}

/// One instance behind one service port.
#[derive(Debug)]
pub struct Endpoint {
    /// `namespace/name` of the workload.
    pub workload: Box<str>,
    /// How to reach it.
    pub dial: Dial,
    /// 1 and up.
    pub weight: u32,
    /// As discovery says.
    pub health: Health,
    /// What was learnt of it; shared by successive versions of the same endpoint. Its `id` is the key for pools.
    pub load: Arc<Load>,
}

/// How to reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dial {
    /// Through its sidecar, with mutual TLS.
    Mesh {
        /// The sidecar's inbound address.
        address: SocketAddr,
        /// Names workload and target port: `p<port>.<workload>.<namespace>.heddle`.
        sni: Box<str>,
        /// The SPIFFE ID that it must prove.
        identity: Box<str>,
    },
    /// In plain text.
    Plain(SocketAddr),
}

/// Readiness as discovery reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// May be used.
    #[default]
    Ready,
    /// May not be used.
    NotReady,
    /// Used only when nothing else is left.
    Draining,
}

/// One request under way at an endpoint. Dropped without [`InFlight::finish`] it teaches nothing.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Nanos,
    /// When its connection was ready; the same as `started` until that is told.
    sent: Nanos,
    answered: Option<NonZeroU64>,
}

/// How willingly an endpoint is used; less is better. The order is that of [`EndpointSet::choose`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Fresh,
    Ejected,
    Tried,
    TriedEjected,
    Draining,
    TriedDraining,
}

impl Endpoint {
    /// Predicted cost of one more request, in nanoseconds divided by the weight; lower is better. For people and
    /// statistics; [`EndpointSet::choose`] knows more, the other candidate and whether a connection is ready.
    pub fn score(&self) -> f64 {
        self.load.score() / f64::from(self.weight.max(1))
    }

    #[inline]
    fn tier(&self, now: Nanos, tried: &[u64]) -> Option<Tier> {
        let tried = tried.contains(&self.load.id);
        let tier = match (self.health, self.load.ejected(now), tried) {
            (Health::NotReady, _, _) => return None,
            (Health::Ready, false, false) => Tier::Fresh,
            (Health::Ready, true, false) => Tier::Ejected,
            (Health::Ready, false, true) => Tier::Tried,
            (Health::Ready, true, true) => Tier::TriedEjected,
            (Health::Draining, _, false) => Tier::Draining,
            (Health::Draining, _, true) => Tier::TriedDraining,
        };
        Some(tier)
    }
}

impl EndpointSet {
    /// Picks an endpoint: two distinct ones at random among the usable, then the lower score. `tried` are not picked again
    /// while others are left. `warm` tells whether this worker has a ready connection; a cold one costs more. Ready and
    /// not ejected first; if none, ejected; if none, tried before; if none, draining; never one that is not ready. `None`
    /// only when there is none.
    #[inline]
    pub fn choose(
        &self,
        now: Nanos,
        rng: &mut Rng,
        tried: &[u64],
        warm: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let (first, second) = self.candidates(now, rng, tried)?;
        let Some(second) = second else { return Some(Arc::clone(first)) };
        let cheaper = if cost(second, first, now, &warm) < cost(first, second, now, &warm) { second } else { first };
        Some(Arc::clone(cheaper))
    }

    /// One or two distinct endpoints of the best tier there is, every pair with the same probability and in random order.
    #[inline]
    fn candidates(&self, now: Nanos, rng: &mut Rng, tried: &[u64]) -> Option<(&Arc<Endpoint>, Option<&Arc<Endpoint>>)> {
        // More than 2^32 endpoints do not fit in memory.
        let n = self.endpoints.len() as u32;
        if n >= 2 {
            for _ in 0..DRAWS {
                let first = rng.below(n);
                let other = rng.below(n - 1);
                let second = if other < first { other } else { other + 1 };
                let (first, second) = (&self.endpoints[first as usize], &self.endpoints[second as usize]);
                let usable = |e: &Endpoint| e.tier(now, tried) == Some(Tier::Fresh);
                if usable(first) && usable(second) {
                    return Some((first, Some(second)));
                }
            }
        }
        self.scan(now, rng, tried)
    }

    /// The same by looking at all of them: a reservoir of two that starts again when a better tier turns up.
    #[cold]
    fn scan(&self, now: Nanos, rng: &mut Rng, tried: &[u64]) -> Option<(&Arc<Endpoint>, Option<&Arc<Endpoint>>)> {
        let (mut best, mut seen) = (None, 0);
        let mut kept = [None, None];
        for endpoint in &self.endpoints {
            let Some(tier) = endpoint.tier(now, tried) else { continue };
            if best.is_none_or(|best| tier < best) {
                (best, seen, kept) = (Some(tier), 0, [None, None]);
            }
            if best != Some(tier) {
                continue;
            }
            seen += 1;
            let place = if seen <= 2 { seen - 1 } else { rng.below(seen) };
            if let Some(kept) = kept.get_mut(place as usize) {
                *kept = Some(endpoint);
            }
        }
        // The order of a reservoir is not random, and the first wins a tie.
        match (kept, rng.below(2)) {
            ([Some(a), Some(b)], 1) => Some((b, Some(a))),
            ([first, second], _) => first.map(|first| (first, second)),
        }
    }

    /// The least latency that is known of an endpoint, in nanoseconds. Looks at all of them.
    fn fastest(&self) -> Option<f64> {
        self.endpoints.iter().filter_map(|e| e.load.latency()).min_by(f64::total_cmp)
    }

    /// Whether one more endpoint may be ejected. Looks at all of them, but only when one has failed too often. Workers that
    /// eject different endpoints in the same instant may exceed the share by one each.
    fn may_eject(&self, now: Nanos) -> bool {
        let ready = || self.endpoints.iter().filter(|e| e.health == Health::Ready);
        let (all, out) = (ready().count(), ready().filter(|e| e.load.ejected(now)).count());
        let share = all * self.outlier.max_ejected_percent.min(100) as usize / 100;
        out < share.max(usize::from(all >= 2))
    }
}

/// What one more request at `endpoint` costs where `other` is the alternative.
#[inline]
fn cost(endpoint: &Endpoint, other: &Endpoint, now: Nanos, warm: &impl Fn(&Endpoint) -> bool) -> f64 {
    if endpoint.load.trial(now) {
        return 0.0;
    }
    let base = match endpoint.load.latency() {
        Some(latency) if warm(endpoint) => latency,
        Some(latency) => latency + latency.min(CONNECT_COST),
        None => other.load.latency().unwrap_or(load::SEED),
    };
    endpoint.load.cost(base) / f64::from(endpoint.weight.max(1))
}

impl InFlight {
    /// Counts a request as sent to `endpoint`.
    pub fn start(endpoint: Arc<Endpoint>, started: Nanos) -> InFlight {
        endpoint.load.start();
        InFlight { endpoint, started, sent: started, answered: None }
    }

    /// Where it went.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When it was sent.
    pub fn started(&self) -> Nanos {
        self.started
    }

    /// The connection is ready. What making it took does not count as latency: it is paid once, the choice adds it where a
    /// connection has to be made, and an instance that was just started would be shunned for its first handshake.
    pub fn connected(&mut self, now: Nanos) {
        self.sent = now;
    }

    /// The response's head has arrived. What follows it, a day of streaming perhaps, does not count as latency.
    pub fn answered(&mut self, now: Nanos) {
        self.answered = NonZeroU64::new(now.0);
    }

    /// Records how it ended: latency (from [`InFlight::connected`], if that was called, to [`InFlight::answered`], or else to
    /// `now`), outcome, ejection by the policy of `peers`. Of a cancelled request without an answer the time until now is a
    /// lower bound of its latency; drop one that was cancelled for a reason that says nothing of the endpoint.
    pub fn finish(self, now: Nanos, outcome: Outcome, peers: &EndpointSet) {
        let load = &self.endpoint.load;
        let latency = self.answered.map_or(now, |at| Nanos(at.get())).since(self.sent);
        if outcome == Outcome::Cancelled {
            if self.answered.is_none() {
                load.cancelled(latency, self.started, now, || peers.fastest());
            }
        } else if !outcome.is_failure() {
            load.succeeded(latency, self.started, now);
        } else if load.failed(latency, self.started, now, &peers.outlier) && peers.may_eject(now) {
            load.eject(now, &peers.outlier);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.load.end();
    }
}

#[cfg(test)]
mod tests;
