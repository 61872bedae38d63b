//! Traffic policies: checked one by one, then merged for each place where requests are sent.

use engine::Nanos;
use engine::policy::{BalancePolicy, OutlierPolicy, RetryOn, RetryPolicy, TrafficPolicy};
use proto::mesh;

use super::authorize;
use super::problem::{Problem, Result, Within};
use super::resources::Resources;

/// A policy that can be used.
#[derive(Debug)]
pub(crate) struct Policy {
    /// `Kind/namespace/name`.
    pub(crate) name: String,
    pub(crate) targets: Vec<mesh::PolicyTarget>,
    pub(crate) created: i64,
    pub(crate) rules: Rules,
}

#[derive(Debug)]
pub(crate) enum Rules {
    Traffic(Box<Traffic>),
    /// Compiled when the workload that it guards is, since the engine owns its copy.
    Authorization(mesh::AuthorizationRules),
}

/// What one policy says; `None` where it is silent, `Some(None)` where it says "no limit".
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    request_timeout: Option<Option<Nanos>>,
    attempt_timeout: Option<Option<Nanos>>,
    connect_timeout: Option<Nanos>,
    idle_timeout: Option<Option<Nanos>>,
    retry: Option<RetryPolicy>,
    outlier: Option<OutlierPolicy>,
}

pub(crate) fn parse(name: &str, policy: mesh::Policy) -> Result<Policy> {
    let rules = match policy.kind {
        Some(mesh::policy::Kind::Traffic(rules)) => {
            Rules::Traffic(Box::new(traffic(&rules).within(|| "traffic".into())?))
        }
        Some(mesh::policy::Kind::Authorization(rules)) => {
            authorize::policy(name, &rules).within(|| "authorization".into())?;
            Rules::Authorization(rules)
        }
        None => {
            return Problem::new("", "is neither a traffic nor an authorization policy that this version knows");
        }
    };
    Ok(Policy { name: name.to_owned(), targets: policy.targets, created: policy.created_unix_ms, rules })
}

fn traffic(rules: &mesh::TrafficRules) -> Result<Traffic> {
    // The engine has one algorithm so far.
    if !matches!(rules.algorithm.as_str(), "" | "fastest") {
        return Problem::new(
            "algorithm",
            format!("`{}` is not implemented; leave it out or say `fastest`", rules.algorithm.escape_debug()),
        );
    }
    let later = [
        ("hash_key", rules.hash_key.is_some()),
        ("slow_start_ms", rules.slow_start_ms.is_some()),
        ("panic_percent", rules.panic_percent.is_some()),
        ("locality", !rules.locality.is_empty()),
        ("failover_percent", rules.failover_percent.is_some()),
        ("log_decisions", rules.log_decisions.is_some()),
        ("affinity", rules.affinity.is_some()),
        ("health_check", rules.health_check.is_some()),
    ];
    if let Some((field, _)) = later.iter().find(|(_, written)| *written) {
        return Problem::new(*field, "is not implemented yet; leave it out");
    }
    let limit = |ms: Option<u64>| ms.map(|ms| (ms > 0).then(|| Nanos::from_millis(ms)));
    if rules.connect_timeout_ms == Some(0) {
        return Problem::new("connect_timeout_ms", "must be more than zero, for connections cannot wait for ever");
    }
    Ok(Traffic {
        request_timeout: limit(rules.request_timeout_ms),
        attempt_timeout: limit(rules.attempt_timeout_ms),
        connect_timeout: rules.connect_timeout_ms.map(Nanos::from_millis),
        idle_timeout: limit(rules.idle_timeout_ms),
        retry: rules.retry.as_ref().map(retry).transpose().within(|| "retry".into())?,
        outlier: rules.outlier.map(|rules| outlier(&rules)).transpose().within(|| "outlier".into())?,
    })
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
    let later = [rules.consecutive_5xx, rules.consecutive_gateway_errors, rules.consecutive_connect_failures];
    if later.iter().any(Option::is_some) || rules.success_rate.is_some() || rules.latency.is_some() {
        return Problem::new("", "only consecutive_failures is implemented yet; leave the others out");
    }
    let max_ejected_percent = rules.max_ejected_percent.unwrap_or(defaults.max_ejected_percent);
    if max_ejected_percent > 100 {
        return Problem::new("max_ejected_percent", format!("{max_ejected_percent} is more than 100"));
    }
    let consecutive_failures = rules.consecutive_failures.unwrap_or(defaults.consecutive_failures);
    Ok(OutlierPolicy {
        consecutive_failures,
        consecutive_gateway_failures: defaults.consecutive_gateway_failures.min(consecutive_failures),
        base_ejection,
        max_ejection,
        max_ejected_percent,
        ..defaults
    })
}

/// Where requests are sent from or to, as policies target it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// `Service` or `Gateway`.
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// Port name or listener name.
    pub(crate) section: &'a str,
    /// The one service that a gateway's rule sends to (`namespace`, `name`): what its owner says of it holds there too.
    pub(crate) towards: Option<(&'a str, &'a str)>,
    /// Kind, namespace, name and rule of the route, if it is a route's rule.
    pub(crate) route: Option<[&'a str; 4]>,
}

impl Place<'_> {
    /// How specifically `target` speaks of this place: mesh, namespace, the service behind a gateway, object, its section,
    /// route, its rule.
    fn level(&self, target: &mesh::PolicyTarget) -> Option<u8> {
        let is = |kind: &str, namespace: &str, name: &str| {
            target.kind == kind && target.namespace == namespace && target.name == name
        };
        match target.kind.as_str() {
            "Mesh" => return Some(0),
            "Namespace" => return (target.name == self.namespace).then_some(1),
            _ => {}
        }
        let (section, whole) = match self.route {
            Some([kind, namespace, name, rule]) if is(kind, namespace, name) => (rule, 5),
            _ if is(self.kind, self.namespace, self.name) => (self.section, 3),
            _ => {
                let towards = self.towards.is_some_and(|(namespace, name)| is("Service", namespace, name));
                return (towards && target.section.is_empty()).then_some(2);
            }
        };
        match target.section.as_str() {
            "" => Some(whole),
            own if own == section => Some(whole + 1),
            _ => None,
        }
    }
}

/// What `names` say of `place`: the most specific first, among equals the older, then by name.
fn order<'a>(resources: &'a Resources, names: &'a [String], place: &Place<'_>) -> Vec<&'a Traffic> {
    let mut found: Vec<(u8, &Policy, &Traffic)> = Vec::new();
    for policy in names.iter().filter_map(|name| resources.policy(name)) {
        let Rules::Traffic(traffic) = &policy.rules else {
            continue;
        };
        if let Some(level) = policy.targets.iter().filter_map(|target| place.level(target)).max() {
            found.push((level, policy, traffic));
        }
    }
    found.sort_by(|(a, p, _), (b, q, _)| b.cmp(a).then_with(|| (p.created, &p.name).cmp(&(q.created, &q.name))));
    found.into_iter().map(|(_, _, traffic)| traffic).collect()
}

/// How requests are sent from `place`, by the policies `names` and the built-in defaults.
pub(crate) fn merge(resources: &Resources, names: &[String], place: &Place<'_>) -> TrafficPolicy {
    let layers = order(resources, names, place);
    let defaults = TrafficPolicy::default();
    TrafficPolicy {
        request_timeout: layers.iter().find_map(|l| l.request_timeout).unwrap_or(defaults.request_timeout),
        attempt_timeout: layers.iter().find_map(|l| l.attempt_timeout).unwrap_or(defaults.attempt_timeout),
        connect_timeout: layers.iter().find_map(|l| l.connect_timeout).unwrap_or(defaults.connect_timeout),
        idle_timeout: layers.iter().find_map(|l| l.idle_timeout).unwrap_or(defaults.idle_timeout),
        retry: layers.iter().find_map(|l| l.retry.clone()).unwrap_or(defaults.retry),
    }
}

/// How an endpoint of `place` is chosen and when it is left out.
pub(crate) fn merge_balance(resources: &Resources, names: &[String], place: &Place<'_>) -> BalancePolicy {
    let outlier = order(resources, names, place).iter().find_map(|layer| layer.outlier).unwrap_or_default();
    BalancePolicy { outlier, ..BalancePolicy::default() }
}
