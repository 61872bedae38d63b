//! One traffic policy, checked: what it says, and where it is silent.

use engine::Nanos;
use engine::policy::{
    Algorithm, CheckPolicy, HashKey, HealthCheck, OutlierPolicy, Probe, RetryOn, RetryPolicy, SlowStart,
};
use proto::mesh;

use super::problem::{Problem, Result, Within};

/// A new instance begins with this share of its weight, in percent; Envoy's figure.
const SLOW_START_PERCENT: u32 = 10;

/// What one policy says; `None` where it is silent, `Some(None)` where it says "no limit".
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) request_timeout: Option<Option<Nanos>>,
    pub(crate) attempt_timeout: Option<Option<Nanos>>,
    pub(crate) connect_timeout: Option<Nanos>,
    pub(crate) idle_timeout: Option<Option<Nanos>>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) outlier: Option<OutlierPolicy>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) hash: Option<HashKey>,
    /// `hash` was written as a session affinity.
    pub(crate) affinity: bool,
    pub(crate) slow_start: Option<Option<SlowStart>>,
    pub(crate) panic_percent: Option<u32>,
    pub(crate) prefer_local: Option<bool>,
    pub(crate) failover_percent: Option<u32>,
    pub(crate) bound_percent: Option<u32>,
    pub(crate) probes_per_second: Option<u32>,
    pub(crate) log_decisions: Option<u32>,
    pub(crate) check: Option<HealthCheck>,
}

pub(crate) fn traffic(rules: &mesh::TrafficRules) -> Result<Traffic> {
    let limit = |ms: Option<u64>| ms.map(|ms| (ms > 0).then(|| Nanos::from_millis(ms)));
    if rules.connect_timeout_ms == Some(0) {
        return Problem::new("connect_timeout_ms", "must be more than zero, for connections cannot wait for ever");
    }
    let algorithm = algorithm(&rules.algorithm)?;
    let hash = match (&rules.affinity, &rules.hash_key) {
        (Some(_), Some(_)) => return Problem::new("affinity", "hash_key says already which requests belong together"),
        (Some(rules), None) => Some(affinity(rules).within(|| "affinity".into())?),
        (None, Some(rules)) => Some(key(rules).within(|| "hash_key".into())?),
        (None, None) => None,
    };
    if hash.is_none() && matches!(algorithm, Some(Algorithm::RingHash | Algorithm::Maglev)) {
        return Problem::new("hash_key", format!("is missing, and `{}` needs one", rules.algorithm));
    }
    let slow_start = rules.slow_start_ms.map(|ms| {
        let window = Nanos::from_millis(ms);
        (ms > 0).then_some(SlowStart { window, min_percent: SLOW_START_PERCENT })
    });
    if let Some(percent @ 1..=100) = rules.hash_bound_percent {
        return Problem::new("hash_bound_percent", format!("{percent} is no more than the average"));
    }
    Ok(Traffic {
        request_timeout: limit(rules.request_timeout_ms),
        attempt_timeout: limit(rules.attempt_timeout_ms),
        connect_timeout: rules.connect_timeout_ms.map(Nanos::from_millis),
        idle_timeout: limit(rules.idle_timeout_ms),
        retry: rules.retry.as_ref().map(retry).transpose().within(|| "retry".into())?,
        outlier: rules.outlier.map(|rules| outlier(&rules)).transpose().within(|| "outlier".into())?,
        algorithm,
        hash,
        affinity: rules.affinity.is_some(),
        slow_start,
        panic_percent: percent("panic_percent", rules.panic_percent)?,
        prefer_local: rules.prefer_local,
        failover_percent: percent("failover_percent", rules.failover_percent)?,
        bound_percent: rules.hash_bound_percent,
        probes_per_second: rules.probes_per_second,
        log_decisions: rules.log_decisions,
        check: rules.health_check.as_ref().map(check).transpose().within(|| "health_check".into())?,
    })
}

fn percent(field: &str, value: Option<u32>) -> Result<Option<u32>> {
    match value {
        Some(more @ 101..) => Problem::new(field, format!("{more} is more than 100")),
        fits => Ok(fits),
    }
}

fn algorithm(name: &str) -> Result<Option<Algorithm>> {
    Ok(Some(match name {
        "" => return Ok(None),
        "fastest" => Algorithm::Fastest,
        "least-request" => Algorithm::LeastRequest,
        "round-robin" => Algorithm::RoundRobin,
        "random" => Algorithm::Random,
        "ring-hash" => Algorithm::RingHash,
        "maglev" => Algorithm::Maglev,
        other => {
            let known = "fastest, least-request, round-robin, random, ring-hash and maglev";
            return Problem::new("algorithm", format!("`{}` is not one of {known}", other.escape_debug()));
        }
    }))
}

fn key(rules: &mesh::RequestKey) -> Result<HashKey> {
    use mesh::request_key::Kind;
    match &rules.kind {
        Some(Kind::Header(name)) if !name.is_empty() => Ok(HashKey::Header(name.to_ascii_lowercase().into())),
        Some(Kind::Cookie(name)) if !name.is_empty() => {
            Ok(HashKey::Cookie { name: name.as_str().into(), max_age: None })
        }
        Some(Kind::SourceAddress(true)) => Ok(HashKey::Source),
        _ => Problem::new("", "names nothing that a request has"),
    }
}

fn affinity(rules: &mesh::AffinityRules) -> Result<HashKey> {
    use mesh::affinity_rules::Kind;
    match &rules.kind {
        Some(Kind::Cookie(cookie)) if !cookie.name.is_empty() => {
            let max_age = Nanos::from_millis(cookie.lifetime_seconds.saturating_mul(1000));
            Ok(HashKey::Cookie { name: cookie.name.as_str().into(), max_age: Some(max_age) })
        }
        Some(Kind::Key(rules)) => key(rules),
        _ => Problem::new("", "is neither a cookie with a name nor a key"),
    }
}

fn check(rules: &mesh::HealthCheckRules) -> Result<HealthCheck> {
    use mesh::health_check_rules::Kind;
    let probe = match &rules.kind {
        Some(Kind::Http(http)) => {
            let mut statuses = Vec::new();
            for (i, status) in http.statuses.iter().enumerate() {
                match u16::try_from(*status) {
                    Ok(status @ 200..=599) => statuses.push(status),
                    _ => {
                        let reason = format!("{status} is not a status from 200 to 599");
                        return Problem::new(format!("http.statuses[{i}]"), reason);
                    }
                }
            }
            statuses.sort_unstable();
            let line = |text: &str| text.bytes().all(|c| (0x21..0x7f).contains(&c));
            if !http.path.starts_with('/') || !line(&http.path) || !line(&http.host) {
                return Problem::new("http", "path and host cannot stand in a request");
            }
            Probe::Http { path: http.path.as_str().into(), host: http.host.as_str().into(), statuses }
        }
        Some(Kind::Grpc(grpc)) => Probe::Grpc { service: grpc.service.as_str().into() },
        Some(Kind::Tcp(_)) => Probe::Tcp,
        None => return Problem::new("", "asks for nothing that this version knows"),
    };
    if rules.interval_ms < 100 || rules.timeout_ms == 0 || rules.timeout_ms > rules.interval_ms {
        return Problem::new("interval_ms", "is less than 100, or than timeout_ms, which must not be zero");
    }
    let policy = CheckPolicy {
        healthy_after: rules.healthy_threshold.max(1),
        unhealthy_after: rules.unhealthy_threshold.max(1),
    };
    let (interval, timeout) = (Nanos::from_millis(rules.interval_ms), Nanos::from_millis(rules.timeout_ms));
    Ok(HealthCheck { probe, interval, timeout, policy })
}

fn retry(rules: &mesh::RetryRules) -> Result<RetryPolicy> {
    let defaults = RetryPolicy::default();
    let mut on = if rules.conditions.is_empty() { defaults.on } else { RetryOn::default() };
    for (i, condition) in rules.conditions.iter().enumerate() {
        match condition.as_str() {
            "5xx" => on.server_errors = true,
            "gateway-error" => on.gateway_errors = true,
            "reset" => on.reset = true,
            "connect-failure" => on.connect_failure = true,
            "retriable-status" => {} // `statuses` says which.
            other => {
                let known = "5xx, gateway-error, reset, connect-failure and retriable-status";
                let reason = format!("`{}` is not one of {known}", other.escape_debug());
                return Problem::new(format!("conditions[{i}]"), reason);
            }
        }
    }
    let mut statuses = Vec::new();
    for (i, status) in rules.statuses.iter().enumerate() {
        match u16::try_from(*status) {
            Ok(status @ 400..=599) => statuses.push(status),
            _ => {
                return Problem::new(format!("statuses[{i}]"), format!("{status} is not a status from 400 to 599"));
            }
        }
    }
    let mut grpc_statuses = Vec::new();
    for (i, status) in rules.grpc_statuses.iter().enumerate() {
        match u8::try_from(*status) {
            Ok(status @ 1..=16) => grpc_statuses.push(status),
            _ => {
                return Problem::new(format!("grpc_statuses[{i}]"), format!("{status} is not a status from 1 to 16"));
            }
        }
    }
    statuses.sort_unstable();
    grpc_statuses.sort_unstable();
    let backoff_base = rules.backoff_base_ms.map_or(defaults.backoff_base, Nanos::from_millis);
    let backoff_max = rules.backoff_max_ms.map_or(defaults.backoff_max.max(backoff_base), Nanos::from_millis);
    if backoff_max < backoff_base {
        return Problem::new("backoff_max_ms", "is less than the first wait");
    }
    Ok(RetryPolicy {
        attempts: rules.attempts,
        on,
        statuses,
        grpc_statuses,
        backoff_base,
        backoff_max,
        budget_percent: rules.budget_percent.unwrap_or(defaults.budget_percent),
        budget_min_per_second: rules.budget_min_per_second.unwrap_or(defaults.budget_min_per_second),
    })
}

fn outlier(rules: &mesh::OutlierRules) -> Result<OutlierPolicy> {
    let defaults = OutlierPolicy::default();
    let base_ejection = rules.base_ejection_ms.map_or(defaults.base_ejection, Nanos::from_millis);
    let max_ejection = rules.max_ejection_ms.map_or(defaults.max_ejection.max(base_ejection), Nanos::from_millis);
    if max_ejection < base_ejection {
        return Problem::new("max_ejection_ms", "is less than the first ejection");
    }
    if rules.interval_ms == Some(0) {
        return Problem::new("interval_ms", "must be more than zero");
    }
    let max_ejected_percent = percent("max_ejected_percent", rules.max_ejected_percent)?;
    let or = |written: Option<u32>, default: u32| written.unwrap_or(default);
    let consecutive_failures = or(rules.consecutive_failures, defaults.consecutive_failures);
    // Those are failures too: whoever is patient with all of them, or wants none to count, means them as well.
    let gateway = match consecutive_failures {
        0 => 0,
        n => defaults.consecutive_gateway_failures.max(n),
    };
    Ok(OutlierPolicy {
        consecutive_failures,
        consecutive_gateway_failures: or(rules.consecutive_gateway_errors, gateway),
        base_ejection,
        max_ejection,
        max_ejected_percent: or(max_ejected_percent, defaults.max_ejected_percent),
        interval: rules.interval_ms.map_or(defaults.interval, Nanos::from_millis),
        success_rate_stdev: or(rules.success_rate_stdev_factor, defaults.success_rate_stdev),
        latency_percent: or(rules.latency_percent, defaults.latency_percent),
        min_requests: or(rules.minimum_requests, defaults.min_requests),
        min_hosts: or(rules.minimum_instances, defaults.min_hosts),
    })
}
