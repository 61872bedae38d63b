//! Whether to try again: outcome, idempotence and a budget.

use crate::policy::RetryPolicy;
use crate::{Nanos, Outcome, Rng};

/// Bounds retries to a share of the requests of the last ten seconds. Shared by workers; atomics.
#[derive(Debug)]
pub struct RetryBudget {}

impl RetryBudget {
    /// A budget with the policy's share and minimum.
    pub fn new(_policy: &RetryPolicy) -> Self {
        todo!()
    }

    /// Counts one original request.
    pub fn deposit(&self, _now: Nanos) {
        todo!()
    }

    /// Takes one retry; false when the budget is spent.
    pub fn withdraw(&self, _now: Nanos) -> bool {
        todo!()
    }
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// How it ended.
    pub outcome: Outcome,
    /// Attempts made so far, the failed one included.
    pub attempts: u32,
    /// GET, HEAD, OPTIONS, TRACE, PUT, DELETE (RFC 9110, 9.2.2).
    pub idempotent: bool,
    /// Whether any byte of the request can have reached the application.
    pub sent: bool,
    /// Whether the whole request can be sent again.
    pub replayable: bool,
}

/// How long to wait before the next attempt; `None`: do not. A request that may have had effects is repeated only if it is
/// idempotent or the policy names its outcome.
pub fn decide(
    _policy: &RetryPolicy,
    _budget: &RetryBudget,
    _failed: Failed,
    _now: Nanos,
    _rng: &mut Rng,
) -> Option<Nanos> {
    todo!()
}

/// Whether repeating `method` has the effect of doing it once (RFC 9110, 9.2.2).
pub fn idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}
