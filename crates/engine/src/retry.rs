//! Whether to try again: outcome, idempotence and a budget.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outcome::ServerError;
use crate::policy::RetryPolicy;
use crate::{Nanos, Outcome, Rng};

/// Seconds that a budget remembers (Finagle's `RetryBudget` keeps ten too).
const WINDOW: usize = 10;

/// Bounds retries to a share of the requests of the last ten seconds. Shared by workers; atomics. Workers that withdraw in
/// the same instant may overdraw it by one each.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    reserve: u64,
    deposits: Window,
    withdrawals: Window,
}

impl RetryBudget {
    /// A budget with the policy's share and minimum. The minimum of all ten seconds can be spent at once.
    pub fn new(policy: &RetryPolicy) -> Self {
        RetryBudget {
            percent: u64::from(policy.budget_percent),
            reserve: u64::from(policy.budget_min_per_second) * WINDOW as u64,
            deposits: Window::default(),
            withdrawals: Window::default(),
        }
    }

    /// Counts one original request.
    #[inline]
    pub fn deposit(&self, now: Nanos) {
        self.deposits.add(now);
    }

    /// Takes one retry; false when the budget is spent.
    pub fn withdraw(&self, now: Nanos) -> bool {
        let allowed = self.deposits.sum(now) * self.percent / 100 + self.reserve;
        if self.withdrawals.sum(now) >= allowed {
            return false;
        }
        self.withdrawals.add(now);
        true
    }
}

/// Counts events of the last ten seconds. A bucket holds its second in the upper half and the count of that second in the
/// lower.
#[derive(Debug, Default)]
struct Window([AtomicU64; WINDOW]);

impl Window {
    fn add(&self, now: Nanos) {
        let second = seconds(now);
        let bucket = &self.0[second as usize % WINDOW];
        let mut held = bucket.load(Ordering::Relaxed);
        loop {
            if held >> 32 == second {
                // A count of 2^32 in one second is out of reach.
                bucket.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let fresh = second << 32 | 1;
            match bucket.compare_exchange_weak(held, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => held = other,
            }
        }
    }

    fn sum(&self, now: Nanos) -> u64 {
        let second = seconds(now);
        let held = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        held.filter(|held| second.wrapping_sub(held >> 32) < WINDOW as u64).map(|held| held & u64::from(u32::MAX)).sum()
    }
}

fn seconds(now: Nanos) -> u64 {
    now.0 / 1_000_000_000
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// How it ended. An answer with a status that the policy may name is passed as [`Outcome::ServerError`], even if it does
    /// not blame the server (a 429, say); [`RetryPolicy::names`] tells beforehand.
    pub outcome: Outcome,
    /// Attempts made so far, the failed one included.
    pub attempts: u32,
    /// GET, HEAD, OPTIONS, TRACE, PUT, DELETE (RFC 9110, 9.2.2).
    pub idempotent: bool,
    /// Whether any byte of the request can have reached the application.
    pub sent: bool,
    /// Whether the whole request can be sent again.
    pub replayable: bool,
    /// How long the request may still take, pauses included; `None`: as long as it likes.
    pub left: Option<Nanos>,
}

/// How long to wait before the next attempt; `None`: do not. A request that may have had effects is repeated only if it is
/// idempotent or the policy names its outcome, and none for which there would be no time left. The wait is a random part ("full jitter") of a bound that starts at the
/// policy's base and doubles with every attempt.
pub fn decide(policy: &RetryPolicy, budget: &RetryBudget, failed: Failed, now: Nanos, rng: &mut Rng) -> Option<Nanos> {
    let sent = failed.sent && failed.outcome != Outcome::ConnectFailure;
    let wanted = match failed.outcome {
        Outcome::Success | Outcome::Cancelled => false,
        Outcome::ConnectFailure => policy.on.connect_failure,
        Outcome::Reset | Outcome::Timeout => policy.on.reset && (!sent || failed.idempotent),
        Outcome::ServerError(error) => policy.names(error),
    };
    if !wanted || failed.attempts > policy.attempts || (sent && !failed.replayable) {
        return None;
    }
    let wait = backoff(policy, failed.attempts, rng);
    if failed.left.is_some_and(|left| wait >= left) {
        return None;
    }
    budget.withdraw(now).then_some(wait)
}

impl RetryPolicy {
    /// Whether an answer with this status may be tried again, whatever the method.
    pub fn names(&self, error: ServerError) -> bool {
        match error {
            ServerError::Http(status) => {
                self.statuses.binary_search(&status).is_ok()
                    || (self.on.server_errors && status >= 500)
                    || (self.on.gateway_errors && (502..=504).contains(&status))
            }
            ServerError::Grpc(status) => self.grpc_statuses.binary_search(&status).is_ok(),
        }
    }
}

fn backoff(policy: &RetryPolicy, attempts: u32, rng: &mut Rng) -> Nanos {
    let doublings = attempts.saturating_sub(1).min(63);
    let bound = u128::from(policy.backoff_base.0) << doublings;
    let bound = bound.min(u128::from(policy.backoff_max.0));
    Nanos(((u128::from(rng.next_u64()) * (bound + 1)) >> 64) as u64)
}

/// Whether repeating `method` has the effect of doing it once (RFC 9110, 9.2.2).
pub fn idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests;
