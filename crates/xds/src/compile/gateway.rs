//! Gateways: listeners, and the routes that attach to each.

use engine::Protocol;
use engine::route::{HostMatch, RouteInput, RouteTable};
use engine::snapshot::{Gateway, GatewayListener};
use proto::mesh;

use super::policy::Place;
use super::problem::{self, Problem, Result, Within};
use super::resources::Resources;
use super::route::{self, Route};
use super::{Compiler, Direction, SeriesKey};

/// A gateway that can be used.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) routes: Vec<String>,
    pub(crate) policies: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    port: u16,
    host: HostMatch,
    http: bool,
    routes: Vec<String>,
}

pub(crate) fn parse(name: &str, gateway: mesh::Gateway) -> Result<Declared> {
    problem::pair("", name)?;
    let mut listeners = Vec::new();
    for (i, one) in gateway.listeners.into_iter().enumerate() {
        listeners.push(listener(one).within(|| format!("listeners[{i}]"))?);
    }
    Ok(Declared { name: name.to_owned(), listeners, routes: gateway.routes, policies: gateway.policies })
}

fn listener(listener: mesh::GatewayListener) -> Result<Listener> {
    let http = match problem::protocol("protocol", listener.protocol)? {
        Protocol::Http1 | Protocol::Http2 | Protocol::Auto => true,
        Protocol::Tcp => false,
        Protocol::Tls => {
            return Problem::new("protocol", "TLS listeners are not implemented; use HTTP or TCP");
        }
    };
    Ok(Listener {
        port: problem::port("port", listener.port)?,
        host: route::hostname(&listener.hostname).within(|| "hostname".into())?,
        name: listener.name,
        http,
        routes: listener.routes,
    })
}

impl Compiler {
    /// The gateway with the routes that are held.
    pub(crate) fn gateway(&mut self, resources: &Resources, gateway: &Declared) -> Gateway {
        let listeners = gateway.listeners.iter().map(|one| self.gateway_listener(resources, gateway, one)).collect();
        Gateway { name: gateway.name.as_str().into(), listeners }
    }

    fn gateway_listener(&mut self, resources: &Resources, gateway: &Declared, listener: &Listener) -> GatewayListener {
        let (namespace, name) = gateway.name.split_once('/').unwrap_or_default();
        let place = Place { kind: "Gateway", namespace, name, section: &listener.name, towards: None, route: None };
        let mut routes: Vec<&Route> = listener.routes.iter().filter_map(|name| resources.route(name)).collect();
        routes.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut inputs = Vec::new();
        let mut tcp = None;
        for route in routes {
            let Some(hosts) = route::intersect(&listener.host, &route.hosts) else {
                continue;
            };
            if listener.http && !route.http.is_empty() {
                let rules = self.http_rules(resources, &gateway.policies, &place, route, Direction::Gateway);
                inputs.push(RouteInput { hosts, created: route.created, name: ordered_name(route), rules });
            } else if !listener.http && tcp.is_none() {
                tcp = self.tcp_rule(resources, &gateway.policies, &place, route, Direction::Gateway);
            }
        }
        let key = SeriesKey { direction: Direction::Gateway, service: gateway.name.clone(), route: String::new() };
        GatewayListener {
            name: listener.name.as_str().into(),
            port: listener.port,
            http: listener.http.then(|| RouteTable::new(inputs)),
            tcp,
            series: (self.series)(&key),
        }
    }
}

/// What precedence between routes of equal age goes by: `namespace/name`, then the kind.
pub(crate) fn ordered_name(route: &Route) -> Box<str> {
    format!("{}/{} {}", route.namespace, route.object, route.kind).into()
}
