//! A sidecar's answer: made of what it runs with.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::balance::{self, Ask, Dial, EndpointSet, Standing};
use engine::policy::{HashKey, TrafficPolicy};
use engine::route::{self, Backends, Rule, WeightedBackend};
use engine::snapshot::{Destination, Gateway, Resolution, TcpRule};
use engine::{Nanos, Protocol, RequestHead, Rng, SeriesId};
use proto::mesh;
use proxy::Clock;
use xds::client::Client;
use xds::session::{Explainer, Explaining};

use super::model::{Backend, Candidate, Explanation, Route, Verdict};
use super::policy;

/// A destination that is not known yet is asked for, this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Instances that are shown of one backend.
const CANDIDATES: usize = 100;

/// Nanoseconds in a microsecond.
const NANOS: f64 = 1e3;

/// Answers for a sidecar whose application has the address `own`.
pub(crate) fn explainer(client: Client, clock: Clock, own: IpAddr) -> Explainer {
    Arc::new(move |request| -> Explaining {
        let client = client.clone();
        Box::pin(async move {
            let id = request.id;
            match explain(&client, clock, own, request).await {
                Ok(explanation) => match serde_json::to_string(&explanation) {
                    Ok(explanation) => mesh::ExplainAnswer { id, explanation, error: String::new() },
                    Err(error) => mesh::ExplainAnswer { id, error: error.to_string(), ..Default::default() },
                },
                Err(error) => mesh::ExplainAnswer { id, error, ..Default::default() },
            }
        })
    })
}

async fn explain(
    client: &Client,
    clock: Clock,
    own: IpAddr,
    request: mesh::ExplainRequest,
) -> Result<Explanation, String> {
    let asked = Asked::new(&request, own)?;
    let mut explanation = Explanation { service: request.service.clone(), ..Explanation::default() };
    let way = match client.live().gateway.load_full() {
        Some(gateway) => through_gateway(&gateway, request.port, &asked, &mut explanation)?,
        None => {
            let destination = destination(client, &request.service).await?;
            to_service(&destination, request.port, &asked, &mut explanation)?
        }
    };
    let Some(way) = way else {
        explanation.answer = Some("404 no_route: no rule fits".to_owned());
        return Ok(explanation);
    };
    explanation.rule = Some(way.name().to_owned());
    if let Way::Http(rule, prefix) = &way
        && let Some(redirect) = &rule.redirect
    {
        let location = redirect.location(&asked, "http", explanation.port, *prefix);
        explanation.answer = Some(format!("{} redirect to {location}", redirect.status));
        return Ok(explanation);
    }
    explanation.policies = policy::of_rule(way.policy());
    let backends = way.backends();
    if backends.total == 0 {
        explanation.answer = Some("500 invalid_backend: no backend has a weight".to_owned());
    }
    let mut rng = Rng::seeded(RandomState::new().hash_one(0u8));
    let now = clock.now();
    explanation.backends = backends.list.iter().map(|share| backend(share, &way, &asked, now, &mut rng)).collect();
    Ok(explanation)
}

/// What a request or a connection goes by.
enum Way {
    /// A rule, and how many bytes of the path its prefix takes.
    Http(Arc<Rule>, usize),
    /// The rule of opaque connections.
    Opaque(Arc<TcpRule>),
}

impl Way {
    fn name(&self) -> &str {
        match self {
            Way::Http(rule, _) => &rule.name,
            Way::Opaque(rule) => &rule.name,
        }
    }

    fn policy(&self) -> &TrafficPolicy {
        match self {
            Way::Http(rule, _) => &rule.policy,
            Way::Opaque(rule) => &rule.policy,
        }
    }

    fn backends(&self) -> &Backends {
        match self {
            Way::Http(rule, _) => &rule.backends,
            Way::Opaque(rule) => &rule.backends,
        }
    }

    fn series(&self) -> SeriesId {
        match self {
            Way::Http(rule, _) => rule.series,
            Way::Opaque(rule) => rule.series,
        }
    }
}

/// From an application to a service's port.
fn to_service(
    destination: &Destination,
    port: u32,
    asked: &Asked,
    explanation: &mut Explanation,
) -> Result<Option<Way>, String> {
    let found = match port {
        0 => destination.ports.first(),
        number => u16::try_from(number).ok().and_then(|number| destination.port(number)),
    };
    let Some(port) = found else {
        let ports: Vec<String> = destination.ports.iter().map(|p| p.port.to_string()).collect();
        return Err(format!("{} has no such port; it has {}", explanation.service, ports.join(", ")));
    };
    explanation.service = destination.name.to_string();
    explanation.port = port.port;
    explanation.protocol = policy::protocol(port.protocol).to_owned();
    let is_opaque = matches!(port.protocol, Protocol::Tcp | Protocol::Tls);
    let way = match &port.http {
        Some(table) => {
            explanation.routes = table.explain(asked).iter().map(route).collect();
            table.find(asked).map(|found| Way::Http(Arc::clone(found.rule), found.prefix))
        }
        None if is_opaque => Some(Way::Opaque(Arc::clone(&port.tcp))),
        None => Some(Way::Http(Arc::clone(&port.implicit), 0)),
    };
    // Where the port is not declared to speak HTTP, connections that do not are taken by the other rule.
    if matches!(way, Some(Way::Opaque(_))) || port.protocol == Protocol::Auto {
        explanation.routes.extend(opaque(&port.tcp, &way));
    }
    Ok(way)
}

/// The rule of opaque connections as one of those that are considered; nothing where there is no such route.
fn opaque(rule: &TcpRule, way: &Option<Way>) -> Option<Route> {
    let (fits, verdict, why) = match way {
        Some(Way::Opaque(_)) => ("every connection", Verdict::Taken, ""),
        _ => ("connections that do not speak HTTP", Verdict::Misfit, "this is asked about an HTTP request"),
    };
    let (rule, fits, why) = (rule.name.to_string(), fits.to_owned(), why.to_owned());
    (!rule.is_empty()).then_some(Route { rule, fits, verdict, why })
}

/// From outside, through a listener of a gateway, whatever service was named: its routes say where to.
fn through_gateway(
    gateway: &Gateway,
    port: u32,
    asked: &Asked,
    explanation: &mut Explanation,
) -> Result<Option<Way>, String> {
    let wanted = match port {
        0 => gateway.listeners.first().map(|listener| listener.port),
        number => u16::try_from(number).ok(),
    };
    let listeners: Vec<_> = gateway.listeners.iter().filter(|listener| Some(listener.port) == wanted).collect();
    let Some(first) = listeners.first() else {
        let ports: BTreeSet<u16> = gateway.listeners.iter().map(|listener| listener.port).collect();
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        return Err(format!("the gateway {} has no such listener; it has {}", gateway.name, ports.join(", ")));
    };
    explanation.port = first.port;
    explanation.protocol = if first.tcp.is_some() { "tcp" } else { "http" }.to_owned();
    let mut way = listeners.iter().find_map(|listener| listener.tcp.clone()).map(Way::Opaque);
    if let Some(Way::Opaque(rule)) = &way {
        explanation.routes.extend(opaque(rule, &way));
    }
    // Of listeners of one port the first with a rule that fits is taken.
    for table in listeners.iter().filter_map(|listener| listener.http.as_ref()) {
        let taken = way.is_some();
        explanation.routes.extend(table.explain(asked).iter().map(route).map(|route| match route.verdict {
            Verdict::Taken if taken => Route { verdict: Verdict::Outranked, ..route },
            _ => route,
        }));
        way = way.or_else(|| table.find(asked).map(|found| Way::Http(Arc::clone(found.rule), found.prefix)));
    }
    Ok(way)
}

/// What the proxy would send to, asked for if need be.
async fn destination(client: &Client, service: &str) -> Result<Arc<Destination>, String> {
    let Some((namespace, name)) = service.split_once('/') else {
        return Err(format!("{service:?} is not NAMESPACE/SERVICE"));
    };
    let host = format!("{name}.{namespace}");
    let Some(slot) = client.slot(&host) else {
        return Err("the sidecar holds too many names to ask for one more".into());
    };
    let known = tokio::time::timeout(PATIENCE, client.resolved(&host, Arc::clone(&slot))).await;
    match (known, &*slot.peek()) {
        (_, Resolution::Found(destination)) => Ok(Arc::clone(destination)),
        (Ok(()), Resolution::NotFound) => {
            Err(format!("there is no service {service}; `heddle get services` lists those that there are"))
        }
        _ => Err(format!("the sidecar was not told what {service} is within {PATIENCE:?}")),
    }
}

fn route(considered: &route::Considered<'_>) -> Route {
    let host = if considered.host.is_empty() { String::new() } else { format!("host {} and ", considered.host) };
    let (verdict, why) = match considered.verdict {
        route::Verdict::Taken => (Verdict::Taken, String::new()),
        route::Verdict::Outranked => (Verdict::Outranked, String::new()),
        route::Verdict::Misfit(misfit) => (Verdict::Misfit, misfit.to_string()),
    };
    Route { rule: considered.rule.name.to_string(), fits: format!("{host}{}", considered.fits), verdict, why }
}

fn backend(share: &WeightedBackend, way: &Way, asked: &Asked, now: Nanos, rng: &mut Rng) -> Backend {
    let part = f64::from(share.weight) / f64::from(way.backends().total.max(1));
    let target = match &share.target {
        Ok(target) => target,
        Err(why) => {
            return Backend {
                service: String::new(),
                share: part,
                invalid: Some(why.to_string()),
                algorithm: String::new(),
                key: None,
                policies: Vec::new(),
                candidates: Vec::new(),
                instances: 0,
            };
        }
    };
    let set = target.endpoints.load();
    let opaque = matches!(way, Way::Opaque(_));
    // Of an opaque connection nothing but its client's address is known.
    let known = set.policy().hash.as_ref().filter(|key| !opaque || matches!(key, HashKey::Source));
    let key = known.and_then(|key| Some((policy::key(key), asked.key(key)?)));
    let bound = known.and_then(|key| proxy::session::instance(key, asked));
    let hash = key.as_ref().filter(|_| bound.is_none()).map(|(_, value)| balance::hash(value));
    let ask = Ask { class: target.known_class(way.series()), hash, tried: &[] };
    Backend {
        service: format!("{}:{}", target.service, target.port),
        share: part,
        invalid: None,
        algorithm: policy::algorithm(set.policy().algorithm).to_owned(),
        key: key.map(|(name, value)| format!("{name} = {}", String::from_utf8_lossy(&value))),
        policies: policy::of_backend(set.policy()),
        candidates: candidates(&set, &ask, bound.as_deref(), opaque, now, rng),
        instances: set.endpoints().len(),
    }
}

/// `bound`: the instance that the request's session is at. `opaque`: it is a connection that carries no requests, and is made anew.
fn candidates(
    set: &EndpointSet,
    ask: &Ask<'_>,
    bound: Option<&str>,
    opaque: bool,
    now: Nanos,
    rng: &mut Rng,
) -> Vec<Candidate> {
    // Which connections are ready is each worker's own affair; to an instance that was called there usually is one.
    let warm = |endpoint: &balance::Endpoint| !opaque && endpoint.load.requests() > 0;
    let mut all = set.explain(now, rng, ask, warm);
    if let Some(bound) = bound.and_then(|bound| set.named(bound, now, ask)) {
        let is_bound = |candidate: &balance::Candidate| Arc::ptr_eq(&candidate.endpoint, bound);
        all.iter_mut().for_each(|candidate| candidate.probability = if is_bound(candidate) { 1.0 } else { 0.0 });
        all.sort_by_key(|candidate| !is_bound(candidate));
    }
    all.into_iter().take(CANDIDATES).map(|candidate| one(&candidate, now)).collect()
}

fn one(candidate: &balance::Candidate, now: Nanos) -> Candidate {
    let (endpoint, terms) = (&candidate.endpoint, &candidate.terms);
    let (standing, back_in) = match candidate.standing {
        Standing::Usable => ("usable", None),
        Standing::Panic => ("panic", None),
        Standing::LeftOut { until } => ("leftOut", Some(until.since(now).0 as f64 / NANOS)),
        Standing::Unhealthy => ("unhealthy", None),
        Standing::Tried => ("tried", None),
        Standing::Draining => ("draining", None),
        Standing::NotReady => ("notReady", None),
    };
    let place = &endpoint.locality;
    Candidate {
        instance: endpoint.workload.to_string(),
        address: match &endpoint.dial {
            Dial::Mesh { address, .. } | Dial::Plain(address) => address.to_string(),
        },
        probability: candidate.probability,
        standing: standing.to_owned(),
        back_in,
        group: candidate.group,
        group_share: candidate.group_share,
        priority: endpoint.priority,
        nearness: ["zone", "region"].get(candidate.distance as usize).unwrap_or(&"elsewhere").to_string(),
        locality: match (&*place.region, &*place.zone) {
            ("", zone) => zone.to_owned(),
            (region, "") => region.to_owned(),
            (region, zone) => format!("{region}/{zone}"),
        },
        latency: terms.latency.map(|latency| latency / NANOS),
        assumed: terms.assumed / NANOS,
        overdue: terms.overdue,
        connecting: terms.connecting / NANOS,
        failing: terms.failing,
        in_flight: terms.in_flight,
        elsewhere: terms.elsewhere,
        reported_latency: terms.reported_latency.map(|latency| latency / NANOS),
        weight: terms.weight,
        spread: terms.spread,
        idle: terms.idle,
        trial: terms.trial,
        silence: terms.silence.0 as f64 / NANOS,
        patience: terms.patience.0 as f64 / NANOS,
        cost: terms.cost / NANOS,
        requests: endpoint.load.requests(),
        failures: endpoint.load.failures(),
    }
}

/// The request that is asked about.
#[derive(Debug)]
struct Asked {
    method: String,
    path: String,
    query: Option<String>,
    authority: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    source: IpAddr,
}

impl Asked {
    fn new(request: &mesh::ExplainRequest, own: IpAddr) -> Result<Asked, String> {
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        let target = or(&request.path, "/");
        if !target.starts_with('/') {
            return Err(format!("the path {target:?} does not begin with a slash"));
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (target, None),
        };
        let name = request.service.split_once('/').map_or(request.service.as_str(), |(_, name)| name);
        let source = match request.source.as_str() {
            "" => own,
            text => text.parse().map_err(|_| format!("the source {text:?} is not an IP address"))?,
        };
        Ok(Asked {
            method: or(&request.method, "GET"),
            path,
            query,
            authority: or(&request.authority, name),
            headers: request.headers.iter().map(|h| (h.name.clone(), h.value.trim().to_owned())).collect(),
            source,
        })
    }

    /// What of it is hashed.
    fn key(&self, key: &HashKey) -> Option<Vec<u8>> {
        proxy::session::key(key, self, self.source).map(|value| value.into_owned())
    }
}

impl RequestHead for Asked {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_bytes())
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.headers.iter().filter(|(known, _)| known == name).for_each(|(_, value)| see(value.as_bytes()));
    }
}
