//! Settings in the words of a TrafficPolicy.

use engine::policy::{
    Algorithm, BalancePolicy, HashKey, OutlierPolicy, Probe, RetryOn, RetryPolicy, Source, TrafficPolicy,
};
use engine::{Nanos, Protocol};

use super::model::Setting;

/// As in `heddle.mesh.v1`.
pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "detected",
        Protocol::Http1 => "http",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
        Protocol::Tls => "tls",
    }
}

pub(super) fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Fastest => "fastest",
        Algorithm::LeastRequest => "least-request",
        Algorithm::RoundRobin => "round-robin",
        Algorithm::Random => "random",
        Algorithm::RingHash => "ring-hash",
        Algorithm::Maglev => "maglev",
    }
}

pub(super) fn key(key: &HashKey) -> String {
    match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie { name, .. } => format!("cookie {name}"),
        HashKey::Source => "source address".to_owned(),
    }
}

/// What holds for the requests of a rule.
pub(super) fn of_rule(policy: &TrafficPolicy) -> Vec<Setting> {
    let limit = |length: Option<Nanos>| length.map_or_else(|| "none".to_owned(), time);
    let mut settings = vec![
        ("timeouts.request", limit(policy.request_timeout)),
        ("timeouts.attempt", limit(policy.attempt_timeout)),
        ("timeouts.connect", time(policy.connect_timeout)),
        ("timeouts.idle", limit(policy.idle_timeout)),
        ("retries", retries(&policy.retry)),
    ];
    if policy.log_decisions > 0 {
        settings.push(("loadBalancing.logDecisions", policy.log_decisions.to_string()));
    }
    attributed(settings, &policy.sources)
}

/// What holds for the choice among the instances of a backend.
pub(super) fn of_backend(policy: &BalancePolicy) -> Vec<Setting> {
    let percent = |n: u32| format!("{n} %");
    let mut settings = vec![
        ("loadBalancing.algorithm", algorithm(policy.algorithm).to_owned()),
        ("loadBalancing.preferLocal", policy.prefer_local.to_string()),
        ("loadBalancing.failoverThreshold", percent(policy.failover_percent)),
        ("loadBalancing.panicThreshold", percent(policy.panic_percent)),
    ];
    if let Some(hash) = &policy.hash {
        // Whoever reads this looks for the field that was written.
        let affinity = policy.sources.iter().any(|source| source.field == "sessionAffinity");
        let field = if affinity { "sessionAffinity" } else { "loadBalancing.hashKey" };
        settings.push((field, key(hash)));
        let bound = if policy.bound_percent == 0 { "none".to_owned() } else { percent(policy.bound_percent) };
        settings.push(("loadBalancing.hashBound", bound));
    }
    if let Some(slow) = &policy.slow_start {
        settings.push(("loadBalancing.slowStart", time(slow.window)));
    }
    if policy.algorithm == Algorithm::Fastest {
        settings.push(("loadBalancing.probesPerSecond", policy.probes_per_second.to_string()));
    }
    settings.extend(outlier(&policy.outlier).into_iter().map(|value| ("outlierDetection", value)));
    if let Some(check) = &policy.check {
        let what = match &check.probe {
            Probe::Http { path, .. } => format!("GET {path}"),
            Probe::Grpc { service } => format!("gRPC health of {service:?}"),
            Probe::Tcp => "TCP".to_owned(),
        };
        settings.push(("healthChecks", format!("{what} every {}", time(check.interval))));
    }
    attributed(settings, &policy.sources)
}

fn attributed(settings: Vec<(&str, String)>, sources: &[Source]) -> Vec<Setting> {
    let from = |field: &str| {
        let found = sources.iter().find(|source| source.field == field);
        found.map_or_else(|| "default".to_owned(), |source| source.object.to_string())
    };
    let setting = |(field, value): (&str, String)| Setting { field: field.to_owned(), value, from: from(field) };
    settings.into_iter().map(setting).collect()
}

fn retries(policy: &RetryPolicy) -> String {
    if policy.attempts == 0 {
        return "never".to_owned();
    }
    let RetryOn { server_errors, gateway_errors, reset, connect_failure } = policy.on;
    let words = [
        (server_errors, "5xx"),
        (gateway_errors, "gateway-error"),
        (reset, "reset"),
        (connect_failure, "connect-failure"),
    ];
    let words = words.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned());
    let statuses = policy.statuses.iter().map(ToString::to_string);
    let grpc = policy.grpc_statuses.iter().map(|status| format!("gRPC {status}"));
    let on: Vec<String> = words.chain(statuses).chain(grpc).collect();
    let (percent, least) = (policy.budget_percent, policy.budget_min_per_second);
    format!("{} on {}, budget {percent} % and {least}/s", policy.attempts, on.join(", "))
}

/// In the words of people, one line a reason.
fn outlier(policy: &OutlierPolicy) -> Vec<String> {
    let mut when = Vec::new();
    match (policy.consecutive_failures, policy.consecutive_gateway_failures) {
        (0, 0) => {}
        (n, 0) => when.push(format!("{n} failures in a row")),
        (0, n) => when.push(format!("{n} gateway errors in a row")),
        (n, m) => when.push(format!("{n} failures or {m} gateway errors in a row")),
    }
    if policy.success_rate_stdev > 0 {
        when.push(format!("{:.1} deviations fewer successes", f64::from(policy.success_rate_stdev) / 1e3));
    }
    if policy.latency_percent > 0 {
        when.push(format!("{} % of the peers' latency", policy.latency_percent));
    }
    match when.first_mut() {
        None => when.push("off".to_owned()),
        Some(first) => {
            let most = policy.max_ejected_percent;
            first.push_str(&format!("; out for {}, at most {most} %", time(policy.base_ejection)));
        }
    }
    when
}

/// A length of time in its largest whole unit.
fn time(length: Nanos) -> String {
    match length.0 / 1_000_000 {
        0 => format!("{} us", length.0 / 1000),
        ms if ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_called_what_was_written_and_has_a_bound_only_if_one_was() {
        let session = BalancePolicy {
            hash: Some(HashKey::Header("user".into())),
            bound_percent: 0,
            sources: vec![Source { field: "sessionAffinity", object: "TrafficPolicy shop/cart".into() }],
            ..BalancePolicy::default()
        };
        let of = |policy: &BalancePolicy, field: &str| {
            let found = of_backend(policy).into_iter().find(|setting| setting.field == field);
            found.map(|setting| (setting.value, setting.from))
        };
        let written = ("header user".to_owned(), "TrafficPolicy shop/cart".to_owned());
        assert_eq!(of(&session, "sessionAffinity"), Some(written));
        assert_eq!(of(&session, "loadBalancing.hashKey"), None);
        let bound = |value: &str| Some((value.to_owned(), "default".to_owned()));
        assert_eq!(of(&session, "loadBalancing.hashBound"), bound("none"));
        let bounded = BalancePolicy { bound_percent: 125, ..session };
        assert_eq!(of(&bounded, "loadBalancing.hashBound"), bound("125 %"));
    }
}
