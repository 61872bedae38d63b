//! What a TrafficPolicy says, as proxies are told it.

use std::collections::BTreeSet;

use api::{HealthProbe, RequestKey, SessionAffinity};
use proto::mesh;

use super::millis;

pub(super) fn traffic(policy: &api::TrafficPolicy) -> mesh::TrafficRules {
    let balancing = &policy.load_balancing;
    mesh::TrafficRules {
        algorithm: balancing.algorithm.map(|a| a.name().to_owned()).unwrap_or_default(),
        request_timeout_ms: policy.timeouts.request.map(millis),
        attempt_timeout_ms: policy.timeouts.attempt.map(millis),
        connect_timeout_ms: policy.timeouts.connect.map(millis),
        idle_timeout_ms: policy.timeouts.idle.map(millis),
        retry: policy.retries.as_ref().map(retry),
        outlier: policy.outlier.as_ref().map(outlier),
        hash_key: balancing.hash_key.as_ref().map(key),
        slow_start_ms: balancing.slow_start.map(millis),
        panic_percent: balancing.panic_threshold,
        prefer_local: balancing.prefer_local,
        failover_percent: balancing.failover_threshold,
        hash_bound_percent: balancing.hash_bound,
        probes_per_second: balancing.probes_per_second,
        log_decisions: balancing.log_decisions,
        affinity: policy.session_affinity.as_ref().map(affinity),
        health_check: policy.health_check.as_ref().map(health_check),
    }
}

fn retry(retries: &api::Retries) -> mesh::RetryRules {
    let conditions: BTreeSet<_> = retries.on.iter().map(|c| c.name().to_owned()).collect();
    mesh::RetryRules {
        attempts: retries.attempts,
        conditions: conditions.into_iter().collect(),
        statuses: retries.statuses.iter().map(|s| u32::from(*s)).collect(),
        grpc_statuses: retries.grpc_statuses.iter().map(|s| u32::from(*s)).collect(),
        backoff_base_ms: retries.backoff.base.map(millis),
        backoff_max_ms: retries.backoff.max.map(millis),
        budget_percent: retries.budget.percent,
        budget_min_per_second: retries.budget.min_per_second,
    }
}

fn outlier(outlier: &api::OutlierDetection) -> mesh::OutlierRules {
    mesh::OutlierRules {
        consecutive_failures: outlier.consecutive_failures,
        base_ejection_ms: outlier.base_ejection.map(millis),
        max_ejection_ms: outlier.max_ejection.map(millis),
        max_ejected_percent: outlier.max_ejected_percent,
        consecutive_gateway_errors: outlier.consecutive_gateway_errors,
        interval_ms: outlier.interval.map(millis),
        success_rate_stdev_factor: outlier.success_rate_stdev_factor,
        latency_percent: outlier.latency_percent,
        minimum_requests: outlier.minimum_requests,
        minimum_instances: outlier.minimum_instances,
    }
}

fn key(key: &RequestKey) -> mesh::RequestKey {
    use mesh::request_key::Kind;
    let kind = match key {
        RequestKey::Header(name) => Kind::Header(name.clone()),
        RequestKey::Cookie(name) => Kind::Cookie(name.clone()),
        RequestKey::SourceAddress => Kind::SourceAddress(true),
    };
    mesh::RequestKey { kind: Some(kind) }
}

fn affinity(affinity: &SessionAffinity) -> mesh::AffinityRules {
    use mesh::affinity_rules::Kind;
    let kind = match affinity {
        SessionAffinity::Cookie { name, lifetime } => {
            Kind::Cookie(mesh::AffinityCookie { name: name.clone(), lifetime_seconds: lifetime.as_secs() })
        }
        SessionAffinity::Key(of) => Kind::Key(key(of)),
    };
    mesh::AffinityRules { kind: Some(kind) }
}

fn health_check(check: &api::HealthCheck) -> mesh::HealthCheckRules {
    use mesh::health_check_rules::Kind;
    let kind = match &check.probe {
        HealthProbe::Http { path, host, statuses } => Kind::Http(mesh::HttpCheck {
            path: path.clone(),
            host: host.clone(),
            statuses: statuses.iter().map(|s| u32::from(*s)).collect(),
        }),
        HealthProbe::Grpc { service } => Kind::Grpc(mesh::GrpcCheck { service: service.clone() }),
        HealthProbe::Tcp => Kind::Tcp(mesh::TcpCheck {}),
    };
    mesh::HealthCheckRules {
        kind: Some(kind),
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        healthy_threshold: check.healthy_threshold,
        unhealthy_threshold: check.unhealthy_threshold,
    }
}
