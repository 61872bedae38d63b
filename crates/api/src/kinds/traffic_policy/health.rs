//! `outlierDetection` and `healthChecks`: which instances are left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::read::{At, Map};
use crate::text;

/// The shortest time between two health checks of one instance, or two comparisons. Every caller's proxy makes its own.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// The longest: beyond it they say nothing of now.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// When an instance is left out for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Failures of any kind in a row; 0: never.
    pub consecutive_failures: Option<u32>,
    /// Connections that could not be made or broke, silence, 502, 503 and 504 in a row; 0: never.
    pub consecutive_gateway_errors: Option<u32>,
    /// How long requests are counted before instances are compared.
    pub interval: Option<Duration>,
    /// So many thousandths of a standard deviation below the mean share of successes; 0: never.
    pub success_rate_stdev_factor: Option<u32>,
    /// More than this share, in percent, of the latency of its peers; 0: never.
    pub latency_percent: Option<u32>,
    /// An instance with fewer requests in an interval is not compared.
    pub minimum_requests: Option<u32>,
    /// With fewer instances to compare none is left out by comparison.
    pub minimum_instances: Option<u32>,
    /// The first ejection; the n-th in a row takes n times as long.
    pub base_ejection: Option<Duration>,
    /// The longest ejection.
    pub max_ejection: Option<Duration>,
    /// At most this share of a service's instances, 0 to 100.
    pub max_ejected_percent: Option<u32>,
}

/// `healthChecks`: requests that the proxy makes by itself to see who is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// Time between two checks of one instance, a tenth more or less; 10 s when not written.
    pub interval: Duration,
    /// An answer takes no longer; 1 s when not written.
    pub timeout: Duration,
    /// Good answers in a row that bring an instance back; 2 when not written.
    pub healthy_threshold: u32,
    /// Bad ones in a row that take it out; 3 when not written.
    pub unhealthy_threshold: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthProbe {
    /// `GET`.
    Http {
        /// Path and query.
        path: String,
        /// `Host`; empty: the service's name.
        host: String,
        /// Statuses that are well, sorted; empty: 200 to 399.
        statuses: Vec<u16>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service that is asked about; empty: the server as a whole.
        service: String,
    },
    /// A connection is enough.
    Tcp,
}

/// Reads `outlierDetection`.
pub(super) fn read_outlier(at: &At<'_>) -> Option<OutlierDetection> {
    let mut map = at.map()?;
    let mut count = |name| map.get(name).and_then(|at| at.integer(0..=1_000_000));
    let consecutive_failures = count("consecutiveFailures");
    let consecutive_gateway_errors = count("consecutiveGatewayErrors");
    let success_rate_stdev_factor = map.get("successRateStdevFactor").and_then(|at| at.integer(0..=10_000));
    let latency_percent = map.get("latencyPercent").and_then(|at| latency_percent(&at));
    let minimum_requests = map.get("minimumRequests").and_then(|at| at.integer(1..=1_000_000));
    let minimum_instances = map.get("minimumInstances").and_then(|at| at.integer(2..=10_000));
    let interval = map.get("interval").and_then(|at| interval(&at));
    let base_ejection = map.get("baseEjection").and_then(|at| at.positive_duration());
    let max_ejection = map.get("maxEjection").and_then(|at| at.positive_duration());
    let max_ejected_percent = map.get("maxEjectedPercent").and_then(|at| at.integer(0..=100));
    map.finish();
    if let (Some(base), Some(max)) = (base_ejection, max_ejection)
        && base > max
    {
        at.error("baseEjection is longer than maxEjection");
    }
    Some(OutlierDetection {
        consecutive_failures,
        consecutive_gateway_errors,
        interval,
        success_rate_stdev_factor,
        latency_percent,
        minimum_requests,
        minimum_instances,
        base_ejection,
        max_ejection,
        max_ejected_percent,
    })
}

/// A share that the peers' own spread reaches every day takes out instances that are well.
fn latency_percent(at: &At<'_>) -> Option<u32> {
    let percent = at.integer(0..=100_000)?;
    if (1..150).contains(&percent) {
        at.error_help(format!("{percent} would take out instances that are well"), "0 (never), or 150 and more");
        return None;
    }
    Some(percent)
}

/// A time between two looks.
fn interval(at: &At<'_>) -> Option<Duration> {
    let interval = at.positive_duration()?;
    if !(SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
        at.error("is not from 100ms to 1h");
        return None;
    }
    Some(interval)
}

/// Reads `healthChecks`.
pub(super) fn read_check(at: &At<'_>) -> Option<HealthCheck> {
    let mut map = at.map()?;
    let before = at.errors();
    let http = map.get("http").and_then(|at| read_http(&at));
    let grpc = map.get("grpc").and_then(|at| read_grpc(&at));
    let tcp = map.get("tcp").and_then(|at| at.map().map(Map::finish)).map(|()| HealthProbe::Tcp);
    let interval = map.get("interval").and_then(|at| interval(&at));
    let timeout = map.get("timeout").and_then(|at| at.positive_duration());
    let healthy_threshold = map.get("healthyThreshold").and_then(|at| at.integer(1..=100));
    let unhealthy_threshold = map.get("unhealthyThreshold").and_then(|at| at.integer(1..=100));
    map.finish();
    let mut probes = [http, grpc, tcp].into_iter().flatten();
    let (probe, second) = (probes.next(), probes.next());
    if second.is_some() || (probe.is_none() && at.errors() == before) {
        at.error("exactly one of these must be written: http, grpc, tcp");
    }
    let interval = interval.unwrap_or(Duration::from_secs(10));
    // What is not written never contradicts what is.
    let timeout_written = timeout.is_some();
    let timeout = timeout.unwrap_or(Duration::from_secs(1).min(interval));
    if timeout_written && timeout > interval {
        at.error("timeout is longer than interval");
    }
    Some(HealthCheck {
        probe: probe?,
        interval,
        timeout,
        healthy_threshold: healthy_threshold.unwrap_or(2),
        unhealthy_threshold: unhealthy_threshold.unwrap_or(3),
    })
}

fn read_http(at: &At<'_>) -> Option<HealthProbe> {
    let mut map = at.map()?;
    let path = map.get("path").and_then(|at| at.parse(check_path));
    let host = map.get("host").and_then(|at| at.parse(text::host));
    let status = |at: &At<'_>| at.integer(200..=599).and_then(|n| u16::try_from(n).ok());
    let mut statuses = map.get("statuses").map(|at| at.each(32, status)).unwrap_or_default();
    map.finish();
    statuses.sort_unstable();
    statuses.dedup();
    Some(HealthProbe::Http { path: path.unwrap_or_else(|| "/".to_owned()), host: host.unwrap_or_default(), statuses })
}

/// Path and query as they stand in a request line.
fn check_path(path: &str) -> Result<String, String> {
    match path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|c| (0x21..0x7f).contains(&c) && c != b'#') {
        true => Ok(path.to_owned()),
        false => Err("is not a path: it begins with `/` and has no blank, `#` or control character".to_owned()),
    }
}

fn read_grpc(at: &At<'_>) -> Option<HealthProbe> {
    let mut map = at.map()?;
    let service = map.get("service").and_then(|at| at.parse(text::printable)).unwrap_or_default();
    map.finish();
    Some(HealthProbe::Grpc { service })
}
