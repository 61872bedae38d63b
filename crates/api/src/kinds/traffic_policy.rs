//! `heddle.dev/v1alpha1` TrafficPolicy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::target::{self, TargetKind, TargetRef};
use crate::read::{At, Map};

mod balance;
mod health;

pub use balance::{Algorithm, LoadBalancing, RequestKey, SessionAffinity};
pub use health::{HealthCheck, HealthProbe, OutlierDetection};

/// How requests are sent. What is `None` was not written: a wider policy or the engine's default decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// What it applies to; never empty.
    pub targets: Vec<TargetRef>,
    /// `loadBalancing`.
    pub load_balancing: LoadBalancing,
    /// `sessionAffinity`.
    pub session_affinity: Option<SessionAffinity>,
    /// `healthChecks`.
    pub health_check: Option<HealthCheck>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `retries`.
    pub retries: Option<Retries>,
    /// `outlierDetection`.
    pub outlier: Option<OutlierDetection>,
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
    /// `conditions`, sorted; `reset` and `connect-failure` when neither `conditions`, `statuses` nor `grpcStatuses` was written.
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

/// Reads `spec`.
pub(crate) fn read(spec: &mut Map<'_>, namespace: &str) -> TrafficPolicy {
    const TARGETS: &[TargetKind] = &[
        TargetKind::Service,
        TargetKind::HttpRoute,
        TargetKind::GrpcRoute,
        TargetKind::TcpRoute,
        TargetKind::Gateway,
        TargetKind::Namespace,
        TargetKind::Mesh,
    ];
    spec.not_yet(&["hedging", "circuitBreaking", "rateLimits", "faults", "mirroring"]);
    let targets = target::read(spec, namespace, TARGETS).unwrap_or_else(|| {
        spec.require("targetRefs");
        Vec::new()
    });
    let load_balancing = spec.get("loadBalancing").and_then(|at| balance::read(&at)).unwrap_or_default();
    let affinity = spec.get("sessionAffinity");
    if let (Some(at), Some(_)) = (&affinity, &load_balancing.hash_key) {
        at.error("loadBalancing.hashKey says already which requests belong together");
    }
    TrafficPolicy {
        targets,
        load_balancing,
        session_affinity: affinity.and_then(|at| balance::read_affinity(&at)),
        health_check: spec.get("healthChecks").and_then(|at| health::read_check(&at)),
        timeouts: spec.get("timeouts").and_then(|at| read_timeouts(&at)).unwrap_or_default(),
        retries: spec.get("retries").and_then(|at| read_retries(&at)),
        outlier: spec.get("outlierDetection").and_then(|at| health::read_outlier(&at)),
    }
}

fn read_timeouts(at: &At<'_>) -> Option<Timeouts> {
    let mut map = at.map()?;
    let mut field = |name| map.get(name).and_then(|at| at.duration());
    let (request, attempt, idle) = (field("request"), field("attempt"), field("idle"));
    let connect = map.get("connect").and_then(|at| at.positive_duration());
    map.finish();
    if let (Some(request), Some(attempt)) = (request, attempt)
        && attempt > request
        && !request.is_zero()
    {
        at.error("attempt is longer than request, which bounds all attempts together");
    }
    Some(Timeouts { request, attempt, connect, idle })
}

fn read_retries(at: &At<'_>) -> Option<Retries> {
    use RetryCondition::{ConnectFailure, GatewayError, Reset, ServerError};
    let mut map = at.map()?;
    let attempts = map.get("attempts").and_then(|at| at.integer(0..=10)).unwrap_or(2);
    if let Some(field) = map.get("on") {
        field.error_help(
            "this list is called conditions",
            "YAML readers of an older standard, kubectl's among them, take the key `on` for `true`",
        );
    }
    let words = [ServerError, GatewayError, Reset, ConnectFailure].map(|c| (c.name(), c));
    let on = map.get("conditions").map(|at| at.each(8, |at| at.choice(&words)));
    let status = |at: &At<'_>| at.integer(400..=599).and_then(|n| u16::try_from(n).ok());
    let statuses = map.get("statuses").map(|at| at.each(64, status));
    let grpc = map.get("grpcStatuses").map(|at| at.each(17, |at| at.choice(&GRPC_STATUSES)));
    let backoff = map.get("backoff").and_then(|at| read_backoff(&at)).unwrap_or_default();
    let budget = map.get("budget").and_then(|at| read_budget(&at)).unwrap_or_default();
    map.finish();
    let on = match (&on, &statuses, &grpc) {
        (None, None, None) => vec![Reset, ConnectFailure],
        _ => sorted(on.unwrap_or_default()),
    };
    let statuses = sorted(statuses.unwrap_or_default());
    Some(Retries { attempts, on, statuses, grpc_statuses: sorted(grpc.unwrap_or_default()), backoff, budget })
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

fn read_backoff(at: &At<'_>) -> Option<Backoff> {
    let mut map = at.map()?;
    let base = map.get("base").and_then(|at| at.positive_duration());
    let max = map.get("max").and_then(|at| at.positive_duration());
    map.finish();
    if let (Some(base), Some(max)) = (base, max)
        && base > max
    {
        at.error("base is longer than max");
    }
    Some(Backoff { base, max })
}

fn read_budget(at: &At<'_>) -> Option<Budget> {
    let mut map = at.map()?;
    let percent = map.get("percent").and_then(|at| at.integer(0..=100));
    let min_per_second = map.get("minPerSecond").and_then(|at| at.integer(0..=1_000_000));
    map.finish();
    Some(Budget { percent, min_per_second })
}

/// The statuses that can mean a failure, by name (grpc/grpc `doc/statuscodes.md`).
const GRPC_STATUSES: [(&str, u8); 16] = [
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];

#[cfg(test)]
mod tests;
