//! What is learnt of one endpoint, as atomics that all workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Nanos;
use crate::policy::OutlierPolicy;

/// Time constant of the decay, 10 s as in Finagle: what was learnt 10 s ago counts 37 %.
const TAU: f64 = 10e9;

/// Taken as latency in nanoseconds where nothing is known of either candidate; 30 ms as in Linkerd. Between two unknown
/// endpoints it decides nothing.
pub(super) const SEED: f64 = 30e6;

/// Idle decay stops here, 1 µs, so that requests in flight still count at endpoints that were idle for minutes.
const FLOOR: f64 = 1e3;

/// How much one outcome moves the share of failures: about the last ten count.
const OUTCOME_SHARE: f64 = 0.1;

/// An endpoint that fails always costs this many times as much again.
const FAILING_COST: f64 = 100.0;

/// Marks that no latency is known.
const UNKNOWN: f64 = -1.0;

/// What the proxy has learnt of one endpoint. Atomics; shared by all workers; one cache line.
///
/// Updates of the estimates by two workers at once may lose one of the samples, which an average can bear; counts are exact.
#[derive(Debug)]
#[repr(align(64))]
pub struct Load {
    /// Unique in the process; the key of connection pools.
    pub id: u64,
    /// Peak-sensitive EWMA of latency when last updated, nanoseconds, or [`UNKNOWN`]; bits of an `f64`.
    latency: AtomicU64,
    /// Recent share of failures when last updated, 0 to 1; bits of an `f64`.
    failing: AtomicU64,
    /// When the two were updated.
    updated: AtomicU64,
    /// Left out until then.
    ejected_until: AtomicU64,
    requests: AtomicU64,
    /// Wraps only after four thousand million failures.
    failures: AtomicU32,
    in_flight: AtomicU32,
    /// Failures in a row.
    streak: AtomicU32,
    /// Ejections in a row without a success between; above zero after an ejection's end means probation.
    ejections: AtomicU32,
}

impl Default for Load {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Load {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            latency: AtomicU64::new(UNKNOWN.to_bits()),
            failing: AtomicU64::new(0f64.to_bits()),
            updated: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            in_flight: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
        }
    }
}

impl Load {
    /// Fresh state for an endpoint never seen before.
    pub fn new() -> Arc<Load> {
        Arc::default()
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Of those, the failures.
    pub fn failures(&self) -> u64 {
        u64::from(self.failures.load(Ordering::Relaxed))
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Predicted cost of one more request, in nanoseconds; lower is better. Weight and connecting are not in it. An
    /// endpoint never heard of is shown as if it took 30 ms.
    pub fn score(&self, now: Nanos) -> f64 {
        self.cost(self.latency(now).unwrap_or(SEED), now)
    }

    /// Whether it is left out now.
    #[inline]
    pub fn ejected(&self, now: Nanos) -> bool {
        now.0 < self.ejected_until.load(Ordering::Relaxed)
    }

    /// The estimate of latency in nanoseconds, decayed to `now`; `None` before the first answer.
    #[inline]
    pub fn latency(&self, now: Nanos) -> Option<f64> {
        let latency = read(&self.latency);
        (latency >= 0.0).then(|| (latency * self.decay(now)).max(FLOOR))
    }

    /// The recent share of failures, 0 to 1, decayed to `now`.
    #[inline]
    pub fn failing(&self, now: Nanos) -> f64 {
        let failing = read(&self.failing);
        if failing == 0.0 { 0.0 } else { failing * self.decay(now) }
    }

    /// The cost of one more request whose latency would be `latency`.
    #[inline]
    pub(super) fn cost(&self, latency: f64, now: Nanos) -> f64 {
        latency * (1.0 + FAILING_COST * self.failing(now)) * (f64::from(self.in_flight()) + 1.0)
    }

    pub(super) fn start(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Learns from an answer to a request that was sent at `started`.
    pub(super) fn succeeded(&self, latency: Nanos, started: Nanos, now: Nanos) {
        self.learn(Some(latency.0 as f64), 0.0, now);
        // An answer to what was sent before an ejection ended says nothing about the endpoint after it.
        if started.0 >= self.ejected_until.load(Ordering::Relaxed) {
            self.streak.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// Learns from a failure; true when the endpoint has failed often enough to be ejected.
    pub(super) fn failed(&self, latency: Nanos, started: Nanos, now: Nanos, policy: &OutlierPolicy) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if started.0 < self.ejected_until.load(Ordering::Relaxed) {
            // Sent before the ejection ended: it has been paid for, and must not burden the endpoint when it comes back.
            return false;
        }
        // How long a failure took tells nothing good: it may raise what is known, and never lowers it or begins it. What is
        // known does not fade either while failures go on, or the endpoint would come to look fast by failing long.
        let known = read(&self.latency);
        let sample = (known >= 0.0).then(|| known.max(latency.0 as f64));
        self.learn(sample, 1.0, now);
        if policy.consecutive_failures == 0 {
            return false;
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed) + 1;
        let probation = self.ejections.load(Ordering::Relaxed) > 0;
        probation || streak >= policy.consecutive_failures
    }

    /// Learns from a request that was cancelled after `elapsed` without an answer: its latency was at least that. It never
    /// lowers the estimate, and is neither a success nor a failure. `fastest` is the least latency known of a peer, in
    /// nanoseconds, asked for only where nothing is known of this endpoint.
    pub(super) fn cancelled(&self, elapsed: Nanos, started: Nanos, now: Nanos, fastest: impl FnOnce() -> Option<f64>) {
        if started.0 < self.ejected_until.load(Ordering::Relaxed) {
            return;
        }
        // Where nothing is known the endpoint is taken to be as fast as the others. A client that gives up sooner than they
        // answer must not make it look faster than that.
        let elapsed = elapsed.0 as f64;
        if elapsed > self.latency(now).or_else(fastest).unwrap_or(SEED) {
            write(&self.failing, self.failing(now));
            write(&self.latency, elapsed);
            self.updated.store(now.0, Ordering::Relaxed);
        }
    }

    /// Leaves it out for a time that grows with each ejection in a row. What was learnt is forgotten, so that it comes back
    /// as an endpoint never heard of and its past does not starve it.
    pub(super) fn eject(&self, now: Nanos, policy: &OutlierPolicy) {
        let before = self.ejected_until.load(Ordering::Relaxed);
        let ejections = u64::from(self.ejections.load(Ordering::Relaxed)) + 1;
        let length = policy.base_ejection.0.saturating_mul(ejections);
        let until = now.after(Nanos(length.min(policy.max_ejection.0)));
        // Of workers that see the last failure at the same time, one ejects.
        let swapped = self.ejected_until.compare_exchange(before, until.0, Ordering::Relaxed, Ordering::Relaxed);
        if now.0 < before || swapped.is_err() {
            return;
        }
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        write(&self.latency, UNKNOWN);
        write(&self.failing, 0.0);
    }

    fn learn(&self, sample: Option<f64>, failure: f64, now: Nanos) {
        let kept = self.decay(now);
        if let Some(sample) = sample {
            let known = read(&self.latency) * kept;
            // Unknown is negative, so that the first sample takes over like any higher one.
            write(&self.latency, if sample > known { sample } else { sample * (1.0 - kept) + known });
        }
        let failing = read(&self.failing) * kept;
        write(&self.failing, failing + OUTCOME_SHARE * (failure - failing));
        self.updated.store(now.0, Ordering::Relaxed);
    }

    /// The part of what was known at the last update that still counts.
    #[inline]
    fn decay(&self, now: Nanos) -> f64 {
        let elapsed = now.since(Nanos(self.updated.load(Ordering::Relaxed))).0 as f64 / TAU;
        // To first order while little time has passed, which is the busy case and spares the exponential.
        if elapsed < 1e-3 { 1.0 - elapsed } else { (-elapsed).exp() }
    }
}

fn read(bits: &AtomicU64) -> f64 {
    f64::from_bits(bits.load(Ordering::Relaxed))
}

fn write(bits: &AtomicU64, value: f64) {
    bits.store(value.to_bits(), Ordering::Relaxed);
}
