//! Traffic policies: checked one by one, then merged for each place where requests are sent.

use engine::Nanos;
use engine::policy::{BalancePolicy, HashKey, Source, TrafficPolicy};
use proto::mesh;

use super::authorize;
use super::problem::{Problem, Result, Within};
use super::resources::Resources;
use super::route::HttpRule;
use super::traffic::{Traffic, traffic};

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

/// One policy that speaks of a place.
struct Layer<'a> {
    level: u8,
    name: &'a str,
    traffic: &'a Traffic,
}

/// What `names` say of `place`: the most specific first, among equals the older, then by name.
fn order<'a>(resources: &'a Resources, names: &'a [String], place: &Place<'_>) -> Vec<Layer<'a>> {
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
    found.into_iter().map(|(level, policy, traffic)| Layer { level, name: &policy.name, traffic }).collect()
}

/// Takes settings from the layers, and remembers which one each came from.
struct Merge<'a> {
    layers: Vec<Layer<'a>>,
    sources: Vec<Source>,
}

impl Merge<'_> {
    /// What the first layer says that says something of `field`, or the default.
    fn take<T>(&mut self, field: &'static str, default: T, of: impl Fn(&Traffic) -> Option<T>) -> T {
        let Some((layer, value)) = self.layers.iter().find_map(|layer| Some((layer, of(layer.traffic)?))) else {
            return default;
        };
        self.sources.push(Source { field, object: layer.name.into() });
        value
    }
}

impl Merge<'_> {
    /// Which requests belong together. Whoever chooses an algorithm chooses whether there are sessions, too: a key of a wider
    /// policy, made for another algorithm, does not stay in force. Also says whether it was written as a session affinity.
    fn hash(&mut self) -> Option<(HashKey, bool)> {
        let deciding = self.layers.iter().find(|l| l.traffic.algorithm.is_some() || l.traffic.hash.is_some())?;
        let level = deciding.level;
        let said = |l: &&Layer<'_>| l.level == level && l.traffic.hash.is_some();
        let layer = self.layers.iter().find(said)?;
        let affinity = layer.traffic.affinity;
        let field = if affinity { "sessionAffinity" } else { "loadBalancing.hashKey" };
        self.sources.push(Source { field, object: layer.name.into() });
        Some((layer.traffic.hash.clone()?, affinity))
    }
}

/// How requests are sent from `place`, by the policies `names` and the built-in defaults.
pub(crate) fn merge(resources: &Resources, names: &[String], place: &Place<'_>) -> TrafficPolicy {
    let mut from = Merge { layers: order(resources, names, place), sources: Vec::new() };
    let defaults = TrafficPolicy::default();
    let merged = TrafficPolicy {
        request_timeout: from.take("timeouts.request", defaults.request_timeout, |t| t.request_timeout),
        attempt_timeout: from.take("timeouts.attempt", defaults.attempt_timeout, |t| t.attempt_timeout),
        connect_timeout: from.take("timeouts.connect", defaults.connect_timeout, |t| t.connect_timeout),
        idle_timeout: from.take("timeouts.idle", defaults.idle_timeout, |t| t.idle_timeout),
        retry: from.take("retries", defaults.retry, |t| t.retry.clone()),
        log_decisions: from.take("loadBalancing.logDecisions", defaults.log_decisions, |t| t.log_decisions),
        sources: Vec::new(),
    };
    TrafficPolicy { sources: from.sources, ..merged }
}

/// What a route's rule says of its own time, which comes before all policies.
pub(crate) fn limit(policy: &mut TrafficPolicy, route: &str, rule: &HttpRule) {
    let mut own = |field: &'static str, limit: Option<Option<Nanos>>, held: &mut Option<Nanos>| {
        let Some(limit) = limit else { return };
        *held = limit;
        policy.sources.retain(|source| source.field != field);
        policy.sources.push(Source { field, object: route.into() });
    };
    own("timeouts.request", rule.request_timeout, &mut policy.request_timeout);
    own("timeouts.attempt", rule.attempt_timeout, &mut policy.attempt_timeout);
}

/// How an endpoint of `place` is chosen and when it is left out.
pub(crate) fn merge_balance(resources: &Resources, names: &[String], place: &Place<'_>) -> BalancePolicy {
    let mut from = Merge { layers: order(resources, names, place), sources: Vec::new() };
    let defaults = BalancePolicy::default();
    let hash = from.hash();
    // A session is promised to stay; a bounded load is what `hashKey` promises.
    let bound_percent = if matches!(hash, Some((_, true))) { 0 } else { defaults.bound_percent };
    let merged = BalancePolicy {
        algorithm: from.take("loadBalancing.algorithm", defaults.algorithm, |t| t.algorithm),
        bound_percent: from.take("loadBalancing.hashBound", bound_percent, |t| t.bound_percent),
        prefer_local: from.take("loadBalancing.preferLocal", defaults.prefer_local, |t| t.prefer_local),
        failover_percent: from
            .take("loadBalancing.failoverThreshold", defaults.failover_percent, |t| t.failover_percent),
        panic_percent: from.take("loadBalancing.panicThreshold", defaults.panic_percent, |t| t.panic_percent),
        slow_start: from.take("loadBalancing.slowStart", defaults.slow_start, |t| t.slow_start),
        probes_per_second: from
            .take("loadBalancing.probesPerSecond", defaults.probes_per_second, |t| t.probes_per_second),
        outlier: from.take("outlierDetection", defaults.outlier, |t| t.outlier),
        check: from.take("healthChecks", defaults.check, |t| t.check.clone().map(Some)),
        hash: hash.map(|(key, _)| key),
        sources: Vec::new(),
    };
    BalancePolicy { sources: from.sources, ..merged }
}
