//! What is learnt of one endpoint, as atomics that all workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Nanos;
use crate::policy::OutlierPolicy;

/// Time constant of learning: an answer that comes this long after the last one counts 63 %.
const TAU: f64 = 2e9;

/// Taken as latency in nanoseconds where nothing is known of either candidate; 30 ms as in Linkerd. Between two unknown
/// endpoints it decides nothing.
pub(super) const SEED: f64 = 30e6;

/// The least latency, 1 µs, so that requests in flight count at the fastest endpoint too.
const FLOOR: f64 = 1e3;

/// After a second in which nothing was heard of it and nothing was in flight, an endpoint gets a trial.
const PATIENCE: f64 = 1e9;

/// A slow endpoint waits for its trial this many times its latency, so that trials keep it busy a tenth of the time at most.
const PATIENCE_LATENCIES: f64 = 8.0;

/// The longest wait for a trial; reached after five failures in a row.
const PATIENCE_MAX: f64 = 30e9;

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
    pub fn score(&self) -> f64 {
        self.cost(self.latency().unwrap_or(SEED))
    }

    /// Whether it is left out now.
    #[inline]
    pub fn ejected(&self, now: Nanos) -> bool {
        now.0 < self.ejected_until.load(Ordering::Relaxed)
    }

    /// The estimate of latency in nanoseconds; `None` before the first answer.
    #[inline]
    pub fn latency(&self) -> Option<f64> {
        let latency = read(&self.latency);
        (latency >= 0.0).then(|| latency.max(FLOOR))
    }

    /// The recent share of failures, 0 to 1.
    #[inline]
    pub fn failing(&self) -> f64 {
        read(&self.failing)
    }

    /// Whether what is known is so old that one request should find out how the endpoint is now. Others wait for its answer:
    /// with a request in flight there is no trial.
    #[inline]
    pub fn trial(&self, now: Nanos) -> bool {
        if self.in_flight() > 0 {
            return false;
        }
        let updated = self.updated.load(Ordering::Relaxed);
        let silence = now.since(Nanos(updated)).0 as f64;
        updated > 0 && silence >= PATIENCE && silence >= self.patience()
    }

    /// How long nothing must have been heard before a trial: longer for what was slow, twice as long for each failure in a row.
    fn patience(&self) -> f64 {
        let slow = (PATIENCE_LATENCIES * read(&self.latency)).max(PATIENCE);
        let failures = self.streak.load(Ordering::Relaxed).min(5);
        (slow * f64::from(1u32 << failures)).min(PATIENCE_MAX)
    }

    /// The cost of one more request whose latency would be `latency`.
    #[inline]
    pub(super) fn cost(&self, latency: f64) -> f64 {
        latency * (1.0 + FAILING_COST * self.failing()) * (f64::from(self.in_flight()) + 1.0)
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
        let streak = self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let probation = self.ejections.load(Ordering::Relaxed) > 0;
        policy.consecutive_failures > 0 && (probation || streak >= policy.consecutive_failures)
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
        if elapsed >= self.latency().or_else(fastest).unwrap_or(SEED) {
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

    /// Forgets its failures, and the ejection that they brought: discovery says that it is ready again, so it is not the
    /// process that failed. Its latency stays.
    pub fn forgive(&self) {
        self.ejected_until.store(0, Ordering::Relaxed);
        self.ejections.store(0, Ordering::Relaxed);
        self.streak.store(0, Ordering::Relaxed);
        write(&self.failing, 0.0);
    }

    fn learn(&self, sample: Option<f64>, failure: f64, now: Nanos) {
        let silence = now.since(Nanos(self.updated.load(Ordering::Relaxed))).0 as f64;
        // To first order while little time has passed, which is the busy case and spares the exponential. A success after a
        // silence that is worth a trial takes over whole: what was before says nothing of now.
        let kept = match silence / TAU {
            elapsed if elapsed < 1e-3 => 1.0 - elapsed,
            _ if silence >= PATIENCE && failure == 0.0 => 0.0,
            elapsed => (-elapsed).exp(),
        };
        if let Some(sample) = sample {
            let known = read(&self.latency);
            // Unknown is negative, so that the first sample takes over like any higher one.
            write(&self.latency, if sample > known { sample } else { sample + kept * (known - sample) });
        }
        let failing = read(&self.failing);
        let failing = if failure == 0.0 { failing * kept } else { failing };
        write(&self.failing, failing + OUTCOME_SHARE * (failure - failing));
        self.updated.store(now.0, Ordering::Relaxed);
    }
}

fn read(bits: &AtomicU64) -> f64 {
    f64::from_bits(bits.load(Ordering::Relaxed))
}

fn write(bits: &AtomicU64, value: f64) {
    bits.store(value.to_bits(), Ordering::Relaxed);
}
