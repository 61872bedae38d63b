//! Services as their callers see them, and a workload's own inbound side.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::balance::{Backend, EndpointSet};
use engine::edit::HeaderEdits;
use engine::retry::RetryBudget;
use engine::route::{Backends, Match, RouteInput, RouteTable, Rule, WeightedBackend};
use engine::snapshot::{Destination, DestinationPort, Inbound, InboundPort, TcpRule};
use proto::mesh;
use tokio::time::Instant;

use super::gateway::ordered_name;
use super::policy::{self, Place};
use super::resources::{Port, Resources, Service};
use super::route::{HttpRule, Route, Share};
use super::{Compiler, Direction, SeriesKey, authorize, endpoint, problem};

impl Compiler {
    /// The service with the routes and policies that are held.
    pub(crate) fn destination(&mut self, resources: &Resources, service: &Service) -> Destination {
        let ports = service.ports.iter().map(|port| self.port(resources, service, port)).collect();
        Destination { name: service.name.as_str().into(), addresses: service.addresses.clone(), ports }
    }

    fn port(&mut self, resources: &Resources, service: &Service, port: &Port) -> DestinationPort {
        let place = place(service, port);
        let mut routes: Vec<&Route> = service.routes.iter().filter_map(|name| resources.route(name)).collect();
        routes.retain(|route| attached(route, service, port));
        routes.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut inputs = Vec::new();
        let mut tcp = None;
        for route in routes {
            if !route.http.is_empty() {
                let rules = self.http_rules(resources, &service.policies, &place, route, Direction::Outbound);
                let name = ordered_name(route);
                inputs.push(RouteInput { hosts: Vec::new(), created: route.created, name, rules });
            } else if tcp.is_none() {
                tcp = self.tcp_rule(resources, &service.policies, &place, route, Direction::Outbound);
            }
        }
        let backend = self.backend(resources, service, port);
        let policy = Arc::new(policy::merge(resources, &service.policies, &place));
        let key = SeriesKey { direction: Direction::Outbound, service: service.name.clone(), route: String::new() };
        let series = (self.series)(&key);
        let own = || Backends { list: [straight(&backend)].into_iter().collect(), total: 1 };
        let implicit = Arc::new(Rule {
            name: "".into(),
            redirect: None,
            rewrite: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            backends: own(),
            budget: Arc::new(RetryBudget::new(&policy.retry)),
            policy: policy.clone(),
            series,
        });
        DestinationPort {
            port: port.port,
            protocol: port.protocol,
            http: (!inputs.is_empty()).then(|| RouteTable::new(inputs)),
            tcp: tcp.unwrap_or_else(|| Arc::new(TcpRule { name: "".into(), backends: own(), policy, series })),
            implicit,
            backend,
        }
    }

    /// The rules of `route` at `place`, where the policies `names` apply.
    pub(crate) fn http_rules(
        &mut self,
        resources: &Resources,
        names: &[String],
        place: &Place<'_>,
        route: &Route,
        direction: Direction,
    ) -> Vec<(Vec<Match>, Arc<Rule>)> {
        let one = |rule: &HttpRule| {
            let place = Place { route: Some([&route.kind, &route.namespace, &route.object, &rule.name]), ..*place };
            let only = only_service(&rule.backends).filter(|_| direction == Direction::Gateway);
            let mut policy = match only.and_then(|name| resources.service(name)) {
                Some(service) => {
                    let place = Place { towards: Some((service.namespace(), service.object())), ..place };
                    policy::merge(resources, &[names, &service.policies].concat(), &place)
                }
                None => policy::merge(resources, names, &place),
            };
            policy::limit(&mut policy, &route.name, rule);
            let name = format!("{}/{}", route.name, rule.name);
            let compiled = Rule {
                redirect: rule.redirect.clone(),
                rewrite: rule.rewrite.clone(),
                request_headers: rule.request_headers.clone(),
                response_headers: rule.response_headers.clone(),
                backends: self.backends(resources, &rule.backends),
                budget: Arc::new(RetryBudget::new(&policy.retry)),
                policy: Arc::new(policy),
                series: self.route_series(direction, &place, &rule.backends, &name),
                name: name.into(),
            };
            (rule.matches.clone(), Arc::new(compiled))
        };
        route.http.iter().map(one).collect()
    }

    /// The rule of a TCPRoute: its first, for there is nothing by which to tell connections apart.
    pub(crate) fn tcp_rule(
        &mut self,
        resources: &Resources,
        names: &[String],
        place: &Place<'_>,
        route: &Route,
        direction: Direction,
    ) -> Option<Arc<TcpRule>> {
        let rule = route.tcp.first()?;
        let place = Place { route: Some([&route.kind, &route.namespace, &route.object, &rule.name]), ..*place };
        let name = format!("{}/{}", route.name, rule.name);
        Some(Arc::new(TcpRule {
            backends: self.backends(resources, &rule.backends),
            policy: Arc::new(policy::merge(resources, names, &place)),
            series: self.route_series(direction, &place, &rule.backends, &name),
            name: name.into(),
        }))
    }

    /// A service's routes are counted under it; a gateway's under the service that they send to first.
    fn route_series(&self, direction: Direction, place: &Place<'_>, shares: &[Share], route: &str) -> engine::SeriesId {
        let own = || format!("{}/{}", place.namespace, place.name);
        let service = match direction {
            Direction::Gateway => {
                shares.iter().find(|share| share.invalid.is_none()).map_or_else(own, |share| share.service.clone())
            }
            Direction::Inbound | Direction::Outbound => own(),
        };
        (self.series)(&SeriesKey { direction, service, route: route.to_owned() })
    }

    fn backends(&mut self, resources: &Resources, shares: &[Share]) -> Backends {
        let list = shares.iter().map(|share| WeightedBackend {
            weight: share.weight,
            target: self.target(resources, share),
            request_headers: share.request_headers.clone(),
        });
        Backends::new(list)
    }

    fn target(&mut self, resources: &Resources, share: &Share) -> Result<Arc<Backend>, Box<str>> {
        if let Some(why) = &share.invalid {
            return Err(why.clone());
        }
        let Some(service) = resources.service(&share.service) else {
            return Err(format!("there is no service {}", share.service).into());
        };
        let Some(port) = service.port(share.port) else {
            return Err(format!("service {} has no port {}", share.service, share.port).into());
        };
        Ok(self.backend(resources, service, port))
    }

    /// The one backend of a service port, as long as it speaks the same protocol: pools and what was learnt hang on it.
    fn backend(&mut self, resources: &Resources, service: &Service, port: &Port) -> Arc<Backend> {
        let known = self.backends.get(&service.name, port.port);
        if let Some(known) = known.filter(|known| known.protocol == port.protocol) {
            return known;
        }
        let balance = policy::merge_balance(resources, &service.policies, &place(service, port));
        let none = EndpointSet::default();
        let instances = resources.endpoints(&service.name);
        let gone = &mut self.gone.of(&service.name, port.port, Instant::now());
        let set = endpoint::set(&none, instances, port.port, balance, &self.here, gone).unwrap_or(none);
        let backend = Arc::new(Backend::new(service.name.as_str(), port.port, port.protocol, set));
        self.backends.insert(&backend);
        backend
    }

    /// Gives the backends of `service` the endpoints that are held now. `workloads`, named without the service's namespace: those
    /// alone may have changed, and neither policies nor ports; `None`: anything may. Routes are not touched.
    pub(crate) fn refresh(&mut self, resources: &Resources, service: &str, workloads: Option<&BTreeSet<String>>) {
        let namespace = service.split_once('/').map_or("", |(namespace, _)| namespace);
        let instance =
            |name: &String| (format!("{namespace}/{name}"), resources.endpoint(&format!("{service}/{name}")));
        let changed: Option<Vec<_>> = workloads.map(|names| names.iter().map(instance).collect());
        let now = Instant::now();
        for backend in self.backends.of(service) {
            let (old, port) = (backend.endpoints.load(), backend.port);
            let gone = &mut self.gone.of(service, port, now);
            let set = if let Some(changed) = &changed {
                endpoint::patched(&old, changed.iter().map(|(w, i)| (w.as_str(), *i)), port, &self.here, gone)
            } else {
                let declared = resources.service(service).and_then(|s| s.port(port).map(|port| (s, port)));
                let balance = match declared {
                    Some((service, port)) => policy::merge_balance(resources, &service.policies, &place(service, port)),
                    None => old.policy().clone(),
                };
                endpoint::set(&old, resources.endpoints(service), port, balance, &self.here, gone)
            };
            if let Some(set) = set {
                backend.endpoints.store(Arc::new(set));
            }
        }
    }

    /// Forgets backends that no rule and no connection uses any more, and instances that left long ago.
    pub(crate) fn sweep(&mut self) {
        self.backends.sweep();
        self.gone.sweep(Instant::now());
    }

    /// The inbound side of `workload`. Policies that are not held deny, so whoever calls this holds all that are good.
    pub(crate) fn inbound(&self, resources: &Resources, workload: &mesh::Workload) -> Inbound {
        let series = |service: &str| {
            let key = SeriesKey { direction: Direction::Inbound, service: service.to_owned(), route: String::new() };
            (self.series)(&key)
        };
        let port = |port: &mesh::WorkloadPort| {
            // Checked when the workload was taken.
            let number = problem::port("", port.port).ok()?;
            let protocol = problem::protocol("", port.protocol).ok()?;
            Some(InboundPort { port: number, protocol, series: series(&port.service) })
        };
        Inbound {
            workload: format!("{}/{}", workload.namespace, workload.name).into(),
            ports: workload.ports.iter().filter_map(port).collect(),
            authorizer: authorize::authorizer(resources, &workload.policies),
            series: series(""),
        }
    }
}

/// The service that all shares name, if it is one.
fn only_service(shares: &[Share]) -> Option<&str> {
    let (first, rest) = shares.split_first()?;
    rest.iter().all(|share| share.service == first.service).then_some(first.service.as_str())
}

fn straight(backend: &Arc<Backend>) -> WeightedBackend {
    WeightedBackend { weight: 1, target: Ok(backend.clone()), request_headers: HeaderEdits::default() }
}

fn place<'a>(service: &'a Service, port: &'a Port) -> Place<'a> {
    let (namespace, name) = (service.namespace(), service.object());
    Place { kind: "Service", namespace, name, section: &port.name, towards: None, route: None }
}

fn attached(route: &Route, service: &Service, port: &Port) -> bool {
    route.parents.iter().any(|parent| {
        parent.kind == "Service"
            && parent.namespace == service.namespace()
            && parent.name == service.object()
            && (parent.port == 0 || parent.port == u32::from(port.port))
            && (parent.section.is_empty() || parent.section == port.name)
    })
}
