//! What is learnt of one endpoint, as atomics that all workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Class;
use crate::policy::{CheckPolicy, OutlierPolicy};
use crate::{Nanos, Outcome};

/// Time constant of learning: an answer that comes this long after the last one counts half.
const TAU_MS: f32 = 5_000.0;

/// A clock that is further back than this, in milliseconds, has jumped.
const JUMP_MS: i32 = 3_600_000;

/// What one answer counts at least: an estimate follows the last twenty answers of a busy endpoint, and twice as fast where
/// they are slower than was thought. A peak that took over at once, as in Finagle, makes the estimate as noisy as the
/// slowest answers are: in the simulator it costs half as much again of the 99th percentile on sound but unequal instances.
const SHARE_MIN: f32 = 0.05;
const SHARE_MIN_SLOWER: f32 = 0.1;

/// What an answer counts at least that is the first for a second, as that to a trial is.
const SHARE_MIN_TRIAL: f32 = 0.5;

/// An answer that took less than this part of what was known replaces it if it is the first for a second.
const RECOVERED: f32 = 0.5;

/// Taken as latency in nanoseconds where nothing is known of any candidate; 30 ms as in Linkerd. Between unknown endpoints it
/// decides nothing.
pub(super) const SEED: f32 = 30e6;

/// The least latency, 1 µs, so that requests in flight count at the fastest endpoint too; zero stands for an unknown one.
const FLOOR: f32 = 1e3;

/// The greatest, about eleven days.
const CEILING: f32 = 1e15;

/// How much one outcome moves the share of failures: about the last ten count.
const OUTCOME_SHARE: f32 = 0.1;

/// An endpoint that fails always costs this many times as much again.
const FAILING_COST: f32 = 100.0;

/// After a second in which nothing was heard of it and nothing was waited for, an endpoint gets a trial.
const PATIENCE: f32 = 1e9;

/// A slow endpoint waits for its trial this many times its latency, so that trials keep it busy a tenth of the time at most.
const PATIENCE_LATENCIES: f32 = 8.0;

/// The longest wait for a trial; reached after five failures in a row.
const PATIENCE_MAX: f32 = 30e9;

/// A reported latency of at least this part of what is known says the same. Above the part by which a choice tells a slower
/// endpoint from a quick one, or one in between would be neither chosen nor tried.
const CONFIRMS: f32 = 1.0 / 1.2;

/// `Retry-After` is believed up to this.
const RETRY_AFTER_MAX: Nanos = Nanos::from_millis(60_000);

/// What a new report of requests in flight counts against the ones before.
const REPORT_SHARE: f32 = 0.5;

/// More requests in flight are not believed of a report: what is beyond tells nothing more.
const REPORT_MAX: u32 = 100_000;

/// Latency classes of one endpoint. They are what makes a third cache line.
pub const CLASSES: usize = 8;

/// What the proxy has learnt of one endpoint. Atomics; shared by all workers; three cache lines, of which a choice reads the
/// first and a word of the second.
///
/// Updates of the estimates by two workers at once may lose one of the samples, which an average can bear; counts are exact.
/// Numbers that are not counts are `f32`: seven digits are more than any measurement here has.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Load {
    /// Unique in the process; the key of connection pools.
    pub id: u64,
    /// Requests sent so far.
    started: AtomicU64,
    /// The last answer, or the last request after which there was one to wait for.
    quiet_since: AtomicU64,
    /// Left out until then: ejected, or at its own wish.
    left_out_until: AtomicU64,
    /// Requests of those whose answer has begun or that ended without; wraps as the lower half of `started` does.
    answered: AtomicU32,
    /// Requests of those that have ended; wraps.
    ended: AtomicU32,
    /// Recent share of failures, 0 to 1.
    failing: AtomicF32,
    /// Requests of others in flight there, as its sidecar last said.
    elsewhere: AtomicF32,
    /// What the last request was expected to take, nanoseconds.
    expected: AtomicF32,
    /// When the first request was sent of those since the last answer, in microseconds (which wrap after an hour), or zero.
    owed_since: AtomicU32,
    /// Whether active health checks say that it is not well, 0 or 1.
    unhealthy: AtomicU32,
    /// A part of its weight while it is new, 0 to 1; zero stands for one.
    ramp: AtomicF32,
    latencies: [Estimate; CLASSES],
    failures: AtomicU32,
    /// Failures in a row.
    streak: AtomicU32,
    gateway_streak: AtomicU32,
    /// Ejections in a row without a success between; above zero after an ejection's end means probation.
    ejections: AtomicU32,
    /// Health checks in a row that contradict `unhealthy`.
    checks: AtomicU32,
    /// When its first request was sent, or when it was first seen to start slowly; or zero. Zero again where it was restarted.
    first: AtomicU64,
    /// Outcomes since endpoints were last compared.
    window: AtomicU32,
    window_failures: AtomicU32,
    /// What its sidecar last said of its latency, nanoseconds; zero: nothing.
    reported: AtomicF32,
    /// Requests sent since the last answer.
    unheard: AtomicU32,
    /// When the last request of each class was sent, in [`tick`]s.
    sent: [AtomicU16; CLASSES],
}

/// What a failure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burden {
    /// All of it.
    Full,
    /// It was sent while the endpoint was left out: it makes the endpoint dearer than others, and no ejection longer.
    Cost,
    /// Nothing: it was under way when an ejection began, which it must not prolong or burden the return from.
    None,
}

/// Latency of one class: an `f32` in nanoseconds, zero for unknown, and when it was updated in milliseconds (which wrap after
/// seven weeks), in one word so that both change at once.
#[derive(Debug, Default)]
struct Estimate(AtomicU64);

#[derive(Debug, Default)]
struct AtomicF32(AtomicU32);

impl AtomicF32 {
    #[inline]
    fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Relaxed))
    }

    fn set(&self, value: f32) {
        self.0.store(value.to_bits(), Relaxed);
    }
}

impl Estimate {
    #[inline]
    fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Relaxed) as u32)
    }

    fn set(&self, latency: f32, ms: u32) {
        self.0.store(u64::from(ms) << 32 | u64::from(latency.to_bits()), Relaxed);
    }

    /// Nanoseconds since it was updated.
    fn age(&self, now: Nanos) -> f32 {
        since((self.0.load(Relaxed) >> 32) as u32, now).0 as f32 * 1e6
    }

    /// Blends in a sample that was taken at `at`: it counts the more the longer the silence before it, one above the estimate more
    /// than one below. What is older than what is known, a long stream's, begins no new silence.
    fn learn(&self, sample: f32, at: Nanos, now: Nanos) {
        let word = self.0.load(Relaxed);
        let known = f32::from_bits(word as u32);
        let last = (word >> 32) as u32;
        let ago = u32::try_from(now.since(at).0 / 1_000_000).unwrap_or(u32::MAX);
        let (silence, ms) = match since(last, now) {
            (0, latest) => (0, latest),
            (whole, latest) if whole > ago => (whole - ago, latest.wrapping_sub(ago)),
            _ => (0, last),
        };
        let sample = sample.clamp(FLOOR, CEILING);
        let trial = silence >= 1_000;
        let share = if known == 0.0 || trial && sample < RECOVERED * known {
            1.0
        } else {
            // x / (1 + x) instead of 1 - exp(-x): as good, quicker, and the same on every machine.
            let least = match (trial, sample > known) {
                (true, _) => SHARE_MIN_TRIAL,
                (false, true) => SHARE_MIN_SLOWER,
                (false, false) => SHARE_MIN,
            };
            least.max(silence as f32 / (silence as f32 + TAU_MS))
        };
        self.set(known + share * (sample - known), ms);
    }
}

/// Milliseconds from `last` to `now`, and the later of the two. Answers are not learnt in the order in which they came (a long
/// body, another worker), so a little before is no time at all; only a clock that has jumped back for an hour starts again.
fn since(last: u32, now: Nanos) -> (u32, u32) {
    let now = millis(now);
    match now.wrapping_sub(last) as i32 {
        past @ 0.. => (past as u32, now),
        back if back > -JUMP_MS => (0, last),
        _ => (0, now),
    }
}

fn millis(now: Nanos) -> u32 {
    (now.0 / 1_000_000) as u32
}

/// A clock of 67 ms a tick, which wraps after 73 minutes: enough to tell who waits for a trial.
const TICK_BITS: u32 = 26;

#[inline]
fn tick(now: Nanos) -> u16 {
    (now.0 >> TICK_BITS) as u16
}

/// Never zero, which stands for no time at all.
#[inline]
fn micros(now: Nanos) -> u32 {
    ((now.0 / 1_000) as u32).max(1)
}

impl Default for Load {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Load {
            id: NEXT.fetch_add(1, Relaxed),
            started: AtomicU64::default(),
            quiet_since: AtomicU64::default(),
            left_out_until: AtomicU64::default(),
            answered: AtomicU32::default(),
            ended: AtomicU32::default(),
            failing: AtomicF32::default(),
            elsewhere: AtomicF32::default(),
            expected: AtomicF32::default(),
            owed_since: AtomicU32::default(),
            unhealthy: AtomicU32::default(),
            ramp: AtomicF32::default(),
            latencies: Default::default(),
            failures: AtomicU32::default(),
            streak: AtomicU32::default(),
            gateway_streak: AtomicU32::default(),
            ejections: AtomicU32::default(),
            checks: AtomicU32::default(),
            first: AtomicU64::default(),
            window: AtomicU32::default(),
            window_failures: AtomicU32::default(),
            reported: AtomicF32::default(),
            unheard: AtomicU32::default(),
            sent: Default::default(),
        }
    }
}

/// What others read.
impl Load {
    /// Fresh state for an endpoint never seen before.
    pub fn new() -> Arc<Load> {
        Arc::default()
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        self.started.load(Relaxed)
    }

    /// Of those, the failures; wraps after four thousand million.
    pub fn failures(&self) -> u64 {
        u64::from(self.failures.load(Relaxed))
    }

    /// Requests in flight now, those whose answers are still streaming included.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        (self.started.load(Relaxed) as u32).wrapping_sub(self.ended.load(Relaxed))
    }

    /// Requests whose answers have not begun.
    #[inline]
    pub fn waiting(&self) -> u32 {
        (self.started.load(Relaxed) as u32).wrapping_sub(self.answered.load(Relaxed))
    }

    /// Requests of other callers in flight there, as far as its sidecar has told.
    #[inline]
    pub fn elsewhere(&self) -> f32 {
        self.elsewhere.get()
    }

    /// What its sidecar last said of its latency, in nanoseconds.
    pub fn reported_latency(&self) -> Option<f64> {
        Some(f64::from(self.reported.get())).filter(|latency| *latency > 0.0)
    }

    /// Predicted cost of one more request, in nanoseconds, from the greatest latency of its classes; lower is better. Weight,
    /// connecting and the other candidates are not in it. An endpoint never heard of is shown as if it took 30 ms.
    pub fn score(&self, now: Nanos) -> f64 {
        let latency = self.latencies.iter().map(Estimate::get).fold(0.0, f32::max);
        let latency = if latency > 0.0 { latency } else { SEED };
        f64::from(latency * self.overdue(now) * self.penalty()) * (f64::from(self.in_flight()) + 1.0)
    }

    /// Whether it is left out now: ejected, or because it asked for it (`Retry-After`).
    #[inline]
    pub fn ejected(&self, now: Nanos) -> bool {
        now.0 < self.left_out_until.load(Relaxed)
    }

    /// Whether it is left out for its failures, not (only) at its own wish.
    pub(super) fn is_out_for_failures(&self, now: Nanos) -> bool {
        self.ejections.load(Relaxed) > 0 && self.ejected(now)
    }

    /// Ejections in a row without a success between.
    pub(super) fn ejections(&self) -> u32 {
        self.ejections.load(Relaxed)
    }

    /// Whether an ejection has already been paid for what was sent at `started`.
    pub(super) fn is_paid(&self, started: Nanos) -> bool {
        self.is_out_for_failures(started)
    }

    /// Until when it is left out; in the past if it is not.
    pub fn left_out_until(&self) -> Nanos {
        Nanos(self.left_out_until.load(Relaxed))
    }

    /// Whether active health checks say that it is not well.
    #[inline]
    pub fn unhealthy(&self) -> bool {
        self.unhealthy.load(Relaxed) != 0
    }

    /// The estimate of latency in nanoseconds; `None` before the first answer in this class.
    #[inline]
    pub fn latency(&self, class: Class) -> Option<f64> {
        let latency = self.estimate(class);
        (latency > 0.0).then_some(f64::from(latency))
    }

    /// The recent share of failures, 0 to 1.
    #[inline]
    pub fn failing(&self) -> f64 {
        f64::from(self.failing.get())
    }

    /// Whether what is known is so old that one request should find out how the endpoint is now. Others wait for its answer; where
    /// none comes the next is due after twice the time, and so on: what is waited for may be something that takes long by its
    /// nature, which says nothing of other requests.
    #[inline]
    pub fn trial(&self, now: Nanos, class: Class) -> bool {
        if self.started.load(Relaxed) == 0 {
            return false;
        }
        let patience = self.patience(class).0 as f32;
        match self.owed(now) {
            None if self.quiet(now).0 as f32 >= patience => true,
            Some(owed) if owed >= patience * (1u32 << self.unheard.load(Relaxed).min(16)) as f32 => true,
            _ => self.class_trial(now, class, patience),
        }
    }

    /// The same where requests of other classes keep the endpoint busy: what they find out says nothing of this one. While its
    /// requests are not answered, the next trial is due after twice the time, too.
    fn class_trial(&self, now: Nanos, class: Class, patience: f32) -> bool {
        // Asked first: it answers most, and what other classes have learnt is eight words to look at.
        if self.latencies[class.index()].age(now) < patience {
            return false;
        }
        let Some(silence) = self.class_silence(now, class) else { return false };
        let ticks = tick(now).wrapping_sub(self.sent[class.index()].load(Relaxed));
        let sent = (u64::from(ticks) << TICK_BITS) as f32;
        sent >= patience.max((silence - sent).min(PATIENCE_MAX))
    }

    /// Nanoseconds since anything was learnt of this class, if it is known and something was learnt of others since.
    fn class_silence(&self, now: Nanos, class: Class) -> Option<f32> {
        let own = &self.latencies[class.index()];
        let silence = own.age(now);
        let newer = self.latencies.iter().any(|other| other.get() > 0.0 && other.age(now) < silence);
        (own.get() > 0.0 && newer).then_some(silence)
    }

    /// How long nothing has been heard of it; of this class, where it answers others.
    pub fn silence(&self, now: Nanos, class: Class) -> Nanos {
        let whole = self.quiet(now);
        self.class_silence(now, class).map_or(whole, |silence| whole.max(Nanos(silence as u64)))
    }

    /// The same by the last answer alone. One of more than an hour ahead was noted before the clock jumped back.
    fn quiet(&self, now: Nanos) -> Nanos {
        let last = self.quiet_since();
        let jumped = last.since(now).0 / 1_000_000 > JUMP_MS as u64;
        if jumped { Nanos(PATIENCE_MAX as u64) } else { now.since(last) }
    }

    /// Nanoseconds since the first request that was sent after the last answer, if there is one.
    #[inline]
    fn owed(&self, now: Nanos) -> Option<f32> {
        (self.owed_since.load(Relaxed) != 0 && self.waiting() > 0).then(|| self.since_owed(now))
    }

    fn since_owed(&self, now: Nanos) -> f32 {
        (micros(now).wrapping_sub(self.owed_since.load(Relaxed)) as i32).max(0) as f32 * 1e3
    }

    /// How long nothing must have been heard before a trial: longer for what was slow, twice as long for each failure in a row.
    pub fn patience(&self, class: Class) -> Nanos {
        let slow = (PATIENCE_LATENCIES * self.estimate(class)).max(PATIENCE);
        let failures = self.streak.load(Relaxed).min(5);
        Nanos((slow * (1u32 << failures) as f32).min(PATIENCE_MAX) as u64)
    }

    /// The last answer, or the start of the wait for one.
    pub fn quiet_since(&self) -> Nanos {
        Nanos(self.quiet_since.load(Relaxed))
    }

    /// By how much what is waited for is late: how long nothing has been heard since a request was sent, divided by the time
    /// that a whole answer was expected to take; 1 while that is not over.
    #[inline]
    pub(super) fn overdue(&self, now: Nanos) -> f32 {
        let expected = self.expected.get();
        match self.owed(now) {
            Some(owed) if expected > 0.0 => (owed / expected).max(1.0),
            _ => 1.0,
        }
    }

    /// What failures multiply the cost by.
    #[inline]
    pub(super) fn penalty(&self) -> f32 {
        1.0 + FAILING_COST * self.failing.get()
    }

    #[inline]
    pub(super) fn estimate(&self, class: Class) -> f32 {
        self.latencies[class.index()].get()
    }

    /// The part of its weight that it has while it is new.
    #[inline]
    pub(super) fn ramp(&self) -> f32 {
        let ramp = self.ramp.get();
        if ramp > 0.0 { ramp } else { 1.0 }
    }
}

/// What is learnt.
impl Load {
    /// Counts a request as sent. `expected`: nanoseconds, zero if nothing is known.
    pub(super) fn start(&self, class: Class, now: Nanos) {
        let before = self.started.fetch_add(1, Relaxed);
        if before as u32 == self.answered.load(Relaxed) {
            self.quiet_since.store(now.0, Relaxed);
        }
        if before == 0 && self.first.load(Relaxed) == 0 {
            self.first.store(now.0.max(1), Relaxed);
        }
        let unheard = self.unheard.load(Relaxed);
        // What was owed when all who waited gave up says nothing of now once a trial would be due.
        let idle = before as u32 == self.answered.load(Relaxed);
        if unheard == 0 || idle && self.since_owed(now) >= self.patience(class).0 as f32 {
            self.owed_since.store(micros(now), Relaxed);
        }
        // Two workers at once may count one; it is only for how long to wait.
        self.unheard.store(unheard.saturating_add(1), Relaxed);
        self.expected.set(self.estimate(class));
        self.sent[class.index()].store(tick(now), Relaxed);
    }

    /// The answer to a request has begun.
    pub(super) fn answered(&self, now: Nanos) {
        self.quiet_since.store(now.0, Relaxed);
        self.owed_since.store(0, Relaxed);
        self.unheard.store(0, Relaxed);
        self.answered.fetch_add(1, Relaxed);
    }

    /// A request will not be answered.
    pub(super) fn unanswered(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    /// A request that was counted as sent was not. It is counted as over when it is dropped, which is taken back here too.
    pub(super) fn unsent(&self) {
        self.started.fetch_sub(1, Relaxed);
        self.answered.fetch_sub(1, Relaxed);
        self.ended.fetch_sub(1, Relaxed);
        // As exact as `start` is.
        let unheard = self.unheard.load(Relaxed);
        self.unheard.store(unheard.saturating_sub(1), Relaxed);
        if unheard <= 1 {
            self.owed_since.store(0, Relaxed);
        }
    }

    pub(super) fn end(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Learns from an answer that came at `at` to a request that was sent at `started`. `refused`: the answer was quick because it
    /// asked for less.
    pub(super) fn succeeded(&self, class: Class, latency: Nanos, started: Nanos, at: Nanos, now: Nanos, refused: bool) {
        self.window.fetch_add(1, Relaxed);
        if refused {
            self.fails();
            self.slow(class, latency, now);
            return;
        }
        let silence = at.since(Nanos(self.latest(class, now)));
        self.latencies[class.index()].learn(latency.0 as f32, at, now);
        let failing = self.failing.get();
        if failing > 0.0 {
            // After a silence that is worth a trial, what was before says nothing of now.
            let kept = if silence.0 as f32 >= PATIENCE { 0.0 } else { 1.0 - OUTCOME_SHARE };
            let failing = failing * kept;
            self.failing.set(if failing < 1e-4 { 0.0 } else { failing });
        }
        // An answer to what was sent before an ejection ended says nothing about the endpoint after it.
        if self.streak.load(Relaxed) | self.gateway_streak.load(Relaxed) | self.ejections.load(Relaxed) > 0
            && started.0 >= self.left_out_until.load(Relaxed)
        {
            self.streak.store(0, Relaxed);
            self.gateway_streak.store(0, Relaxed);
            self.ejections.store(0, Relaxed);
        }
    }

    /// Learns from a failure; true when the endpoint has failed often enough to be ejected.
    pub(super) fn failed(
        &self,
        class: Class,
        latency: Nanos,
        burden: Burden,
        now: Nanos,
        (outcome, policy): (Outcome, &OutlierPolicy),
    ) -> bool {
        self.failures.fetch_add(1, Relaxed);
        if burden == Burden::None {
            return false;
        }
        self.slow(class, latency, now);
        self.fails();
        if burden == Burden::Cost {
            return false;
        }
        self.window.fetch_add(1, Relaxed);
        self.window_failures.fetch_add(1, Relaxed);
        let count = |streak: &AtomicU32| streak.fetch_add(1, Relaxed).saturating_add(1);
        let reached = |streak: u32, limit: u32| limit > 0 && streak >= limit;
        let any = count(&self.streak);
        let gateway = if outcome.is_gateway_failure() { count(&self.gateway_streak) } else { 0 };
        let probation = self.ejections.load(Relaxed) > 0;
        let ejects = policy.consecutive_failures > 0 || policy.consecutive_gateway_failures > 0;
        probation && ejects
            || reached(any, policy.consecutive_failures)
            || reached(gateway, policy.consecutive_gateway_failures)
    }

    fn fails(&self) {
        let failing = self.failing.get();
        self.failing.set(failing + OUTCOME_SHARE * (1.0 - failing));
    }

    /// How long a failure took tells nothing good: it may raise what is known, and never lowers it or begins it.
    fn slow(&self, class: Class, latency: Nanos, now: Nanos) {
        let estimate = &self.latencies[class.index()];
        let known = estimate.get();
        if known > 0.0 {
            estimate.set(known.max(latency.0 as f32).min(CEILING), millis(now));
        }
    }

    /// When this class was last updated, as far as milliseconds tell.
    fn latest(&self, class: Class, now: Nanos) -> u64 {
        let word = self.latencies[class.index()].0.load(Relaxed);
        now.0.saturating_sub(u64::from(since((word >> 32) as u32, now).0) * 1_000_000)
    }

    /// Learns from a request that was cancelled after `elapsed` without an answer: its latency was at least that. It counts as
    /// an answer of that latency would, but never lowers the estimate, and is neither a success nor a failure. `fastest` is the least latency known of a peer, in
    /// nanoseconds, asked for only where nothing is known of this endpoint.
    pub(super) fn cancelled(
        &self,
        class: Class,
        elapsed: Nanos,
        started: Nanos,
        now: Nanos,
        fastest: impl FnOnce() -> Option<f32>,
    ) {
        if started.0 < self.left_out_until.load(Relaxed) {
            return;
        }
        // Where nothing is known the endpoint is taken to be as fast as the others. A client that gives up sooner than they
        // answer must not make it look faster than that.
        let (elapsed, known) = (elapsed.0 as f32, self.estimate(class));
        if elapsed >= if known > 0.0 { known } else { fastest().unwrap_or(SEED) } {
            self.latencies[class.index()].learn(elapsed, now, now);
            self.quiet_since.store(now.0, Relaxed);
        }
    }

    /// What the endpoint's own sidecar says: requests in flight there (ours included), and its recent latency. Only from a
    /// verified peer, with an answer or with that to a probe.
    ///
    /// Requests of others count like ours. The latency never lowers what was observed here: a server that claims to be fast is
    /// still judged by its answers. It only decides what is found out next: one that is about what is known puts a trial off,
    /// since it would show the same, and a better one brings the trial forward to a second after the last answer. Half a minute
    /// after the last answer no report puts it off any more: it speaks of the requests of others.
    pub fn reported(&self, in_flight: u32, latency: Option<Nanos>, now: Nanos) {
        let others = in_flight.min(REPORT_MAX).saturating_sub(self.in_flight()) as f32;
        let before = self.elsewhere.get();
        self.elsewhere.set(before + REPORT_SHARE * (others - before));
        let Some(latency) = latency else { return };
        let latency = (latency.0 as f32).clamp(FLOOR, CEILING);
        self.reported.set(latency);
        let known = self.latencies.iter().map(Estimate::get).fold(0.0, f32::max);
        if self.waiting() == 0 && self.streak.load(Relaxed) == 0 && known > 0.0 && latency >= known * CONFIRMS {
            let learnt =
                self.latencies.iter().filter(|estimate| estimate.get() > 0.0).map(|estimate| estimate.age(now));
            if learnt.fold(f32::INFINITY, f32::min) < PATIENCE_MAX {
                self.quiet_since.store(now.0, Relaxed);
            }
        }
    }

    /// The endpoint asks to be left alone for `length` (`Retry-After`), which is believed up to a minute. It is then used as an
    /// ejected one is: only if nothing else is left.
    pub fn retry_after(&self, length: Nanos, now: Nanos) {
        let until = now.after(length.min(RETRY_AFTER_MAX));
        self.left_out_until.fetch_max(until.0, Relaxed);
    }

    /// The result of an active health check.
    pub fn checked(&self, passed: bool, policy: &CheckPolicy) {
        if passed != self.unhealthy() {
            self.checks.store(0, Relaxed);
            return;
        }
        let enough = if passed { policy.healthy_after } else { policy.unhealthy_after };
        if self.checks.fetch_add(1, Relaxed).saturating_add(1) >= enough {
            self.checks.store(0, Relaxed);
            self.unhealthy.store(u32::from(!passed), Relaxed);
        }
    }

    /// Health checks are no longer made: nothing is held against it.
    pub fn unchecked(&self) {
        self.checks.store(0, Relaxed);
        self.unhealthy.store(0, Relaxed);
    }

    /// Forgets its failures, and ends the ejection that they brought: discovery says that it is ready again, so it is not the
    /// process that failed. Its latency stays. So does the count of ejections, until a success: one that fails whenever it is
    /// ready is ejected by one failure, and for longer each time. With a slow start it begins anew: the process may have just
    /// been started.
    pub fn forgive(&self, slow_start: bool) {
        if slow_start {
            self.first.store(0, Relaxed);
        }
        self.left_out_until.store(0, Relaxed);
        self.streak.store(0, Relaxed);
        self.gateway_streak.store(0, Relaxed);
        self.failing.set(0.0);
    }

    /// Leaves it out for a time that grows with each ejection in a row. What was learnt is forgotten, so that it comes back
    /// as an endpoint never heard of and its past does not starve it. False if it is left out for as long already.
    pub(super) fn eject(&self, now: Nanos, policy: &OutlierPolicy) -> bool {
        let before = self.left_out_until.load(Relaxed);
        let ejections = u64::from(self.ejections.load(Relaxed)) + 1;
        let length = policy.base_ejection.0.saturating_mul(ejections).min(policy.max_ejection.0);
        let until = now.after(Nanos(length)).0;
        // Of workers that see the last failure at the same time, one ejects; and no time that is already set gets shorter.
        if until <= before || self.left_out_until.compare_exchange(before, until, Relaxed, Relaxed).is_err() {
            return false;
        }
        self.ejections.fetch_add(1, Relaxed);
        self.streak.store(0, Relaxed);
        self.gateway_streak.store(0, Relaxed);
        self.latencies.iter().for_each(|estimate| estimate.set(0.0, 0));
        self.failing.set(0.0);
        // What it did before is paid for, and must not eject it again when peers are compared.
        self.take_window();
        true
    }

    /// Nothing is known of this class any more.
    pub(super) fn forget(&self, class: Class) {
        self.latencies[class.index()].set(0.0, 0);
    }

    /// Nanoseconds since anything was learnt of this class; `None`: nothing is known.
    pub(super) fn learnt_ago(&self, class: Class, now: Nanos) -> Option<f32> {
        let estimate = &self.latencies[class.index()];
        (estimate.get() > 0.0).then(|| estimate.age(now))
    }

    /// Gives an endpoint that nothing was sent to since it was started the least part of its weight.
    pub(super) fn begin(&self, slow_start: &crate::policy::SlowStart) {
        if self.first.load(Relaxed) == 0 {
            self.ramp.set(slow_start.min_percent.clamp(1, 100) as f32 / 100.0);
        }
    }

    /// Outcomes and failures since it was last asked, which starts the count again.
    pub(super) fn take_window(&self) -> (u32, u32) {
        (self.window.swap(0, Relaxed), self.window_failures.swap(0, Relaxed))
    }

    /// The same without starting again.
    pub(super) fn window(&self) -> (u32, u32) {
        (self.window.load(Relaxed), self.window_failures.load(Relaxed))
    }

    /// Sets the part of the weight for an endpoint of this age.
    pub(super) fn grow(&self, now: Nanos, slow_start: Option<&crate::policy::SlowStart>) {
        let Some(slow_start) = slow_start else {
            return self.ramp.set(0.0);
        };
        // One that is too dear to be sent anything grows all the same, or it would never be.
        if self.first.load(Relaxed) == 0 {
            self.first.store(now.0.max(1), Relaxed);
        }
        let age = now.since(Nanos(self.first.load(Relaxed))).0;
        let least = slow_start.min_percent.clamp(1, 100) as f32 / 100.0;
        self.ramp.set((age as f32 / slow_start.window.0.max(1) as f32).clamp(least, 1.0));
    }
}
