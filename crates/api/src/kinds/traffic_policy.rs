//! `heddle.dev/v1alpha1` TrafficPolicy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::target::TargetRef;

/// How requests are sent. What is `None` was not written: a wider policy or the engine's default decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// What it applies to; never empty.
    pub targets: Vec<TargetRef>,
    /// `loadBalancing.algorithm`.
    pub algorithm: Option<Algorithm>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `retries`.
    pub retries: Option<Retries>,
    /// `outlierDetection`.
    pub outlier: Option<OutlierDetection>,
}

/// How an instance is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// The lowest predicted completion time of two or more random candidates.
    Fastest,
}

impl Algorithm {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Fastest => "fastest",
        }
    }
}

/// How long things may take; zero: no limit (`connect` is never zero).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// From the request's head to the end of the response, retries included.
    pub request: Option<Duration>,
    /// One attempt, up to the response's head.
    pub attempt: Option<Duration>,
    /// Making a connection.
    pub connect: Option<Duration>,
    /// Nothing sent either way.
    pub idle: Option<Duration>,
}

/// When to try again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// After the first; 0 turns retries off, 2 when not written.
    pub attempts: u32,
    /// `on`, without doubles; `reset` and `connect-failure` when neither `on`, `statuses` nor `grpcStatuses` was written.
    pub on: Vec<RetryCondition>,
    /// HTTP statuses, sorted.
    pub statuses: Vec<u16>,
    /// gRPC statuses by number, sorted.
    pub grpc_statuses: Vec<u8>,
    /// `backoff`.
    pub backoff: Backoff,
    /// `budget`.
    pub budget: Budget,
}

/// Which outcomes may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RetryCondition {
    /// Any 5xx.
    #[serde(rename = "5xx")]
    ServerError,
    /// 502, 503 and 504.
    #[serde(rename = "gateway-error")]
    GatewayError,
    /// The connection broke, or time ran out, before the response's head.
    #[serde(rename = "reset")]
    Reset,
    /// No connection could be made.
    #[serde(rename = "connect-failure")]
    ConnectFailure,
}

impl RetryCondition {
    /// As it is written, here and in `heddle.mesh.v1`.
    pub const fn name(self) -> &'static str {
        match self {
            RetryCondition::ServerError => "5xx",
            RetryCondition::GatewayError => "gateway-error",
            RetryCondition::Reset => "reset",
            RetryCondition::ConnectFailure => "connect-failure",
        }
    }
}

/// How long to wait before a retry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backoff {
    /// Before the first; doubles each time.
    pub base: Option<Duration>,
    /// The longest.
    pub max: Option<Duration>,
}

/// How many retries the requests of the last ten seconds pay for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Budget {
    /// Share of the requests, 0 to 100.
    pub percent: Option<u32>,
    /// And this many a second whatever the share.
    pub min_per_second: Option<u32>,
}

/// When an instance is left out for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Failures in a row; 0: never.
    pub consecutive_failures: Option<u32>,
    /// The first ejection; the n-th in a row takes n times as long.
    pub base_ejection: Option<Duration>,
    /// The longest ejection.
    pub max_ejection: Option<Duration>,
    /// At most this share of a service's instances, 0 to 100.
    pub max_ejected_percent: Option<u32>,
}
