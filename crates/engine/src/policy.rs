//! Traffic policy as a request finds it: merged, defaults filled in, nothing left to decide.

use crate::Nanos;

mod balance;
mod check;

pub use balance::{Algorithm, BalancePolicy, CheckPolicy, HashKey, OutlierPolicy, SlowStart};
pub use check::{HealthCheck, Probe, Source};

/// How requests of one rule are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// From the request's head to the end of the response; `None`: no limit.
    pub request_timeout: Option<Nanos>,
    /// The same for one attempt, up to the response's head.
    pub attempt_timeout: Option<Nanos>,
    /// Making a connection, TLS included.
    pub connect_timeout: Nanos,
    /// Nothing sent either way, on a stream, a tunnel or an opaque connection; `None`: no limit.
    pub idle_timeout: Option<Nanos>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// One in so many requests is logged with the decision that was made for it; 0: none.
    pub log_decisions: u32,
    /// Where these settings come from.
    pub sources: Vec<Source>,
}

/// When and how often to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first; 0: never.
    pub attempts: u32,
    /// Which outcomes may be tried again.
    pub on: RetryOn,
    /// HTTP statuses besides those of `on`, sorted.
    pub statuses: Vec<u16>,
    /// gRPC statuses, sorted.
    pub grpc_statuses: Vec<u8>,
    /// Before the first retry; doubles each time, with full jitter.
    pub backoff_base: Nanos,
    /// The longest wait.
    pub backoff_max: Nanos,
    /// Retries may add this share, in percent, to the requests of the last ten seconds.
    pub budget_percent: u32,
    /// And this many a second whatever the share.
    pub budget_min_per_second: u32,
}

/// Sets of retryable outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// Any 5xx.
    pub server_errors: bool,
    /// 502, 503 and 504.
    pub gateway_errors: bool,
    /// The connection broke, or time ran out, before the response's head.
    pub reset: bool,
    /// No connection could be made; the request never left.
    pub connect_failure: bool,
}

impl Default for TrafficPolicy {
    /// No request timeout (streams live long), 5 s to connect, two retries of what is safe to repeat.
    fn default() -> Self {
        TrafficPolicy {
            request_timeout: None,
            attempt_timeout: None,
            connect_timeout: Nanos::from_millis(5_000),
            idle_timeout: Some(Nanos::from_millis(3_600_000)),
            retry: RetryPolicy::default(),
            log_decisions: 0,
            sources: Vec::new(),
        }
    }
}

impl Default for RetryPolicy {
    /// Two retries of connection failures and resets (idempotent methods only for the latter), a budget of 20 % plus 10/s
    /// (Linkerd's and Finagle's figures).
    fn default() -> Self {
        RetryPolicy {
            attempts: 2,
            on: RetryOn { server_errors: false, gateway_errors: false, reset: true, connect_failure: true },
            statuses: Vec::new(),
            grpc_statuses: Vec::new(),
            backoff_base: Nanos::from_millis(5),
            backoff_max: Nanos::from_millis(250),
            budget_percent: 20,
            budget_min_per_second: 10,
        }
    }
}
