//! Resources as they are held: decoded, checked, and each with a revision that changes when it does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

use prost::Message;
use proto::mesh;

use super::policy::{self, Policy};
use super::problem::{self, Problem, Result, Within};
use super::route::{self, Route};
use super::{endpoint, gateway};
use crate::Kind;

/// A decoded and checked resource.
#[derive(Debug)]
pub(crate) enum Body {
    Trust(engine::snapshot::Mesh),
    Policy(Policy),
    Route(Route),
    Endpoint(endpoint::Instance),
    Workload(mesh::Workload),
    Service(Service),
    Gateway(gateway::Declared),
}

/// A service with its ports checked.
#[derive(Debug)]
pub(crate) struct Service {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    pub(crate) routes: Vec<String>,
    pub(crate) policies: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) protocol: engine::Protocol,
}

impl Service {
    pub(crate) fn namespace(&self) -> &str {
        self.name.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(crate) fn object(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, name)| name)
    }

    pub(crate) fn port(&self, port: u16) -> Option<&Port> {
        self.ports.binary_search_by_key(&port, |p| p.port).ok().map(|i| &self.ports[i])
    }
}

/// The user's object that an encoded resource came from, as far as that can be read.
pub(crate) fn origin(kind: Kind, body: &[u8]) -> Option<mesh::Origin> {
    match kind {
        Kind::Policy => mesh::Policy::decode(body).ok()?.origin,
        Kind::Route => mesh::Route::decode(body).ok()?.origin,
        Kind::Service => mesh::Service::decode(body).ok()?.origin,
        Kind::Gateway => mesh::Gateway::decode(body).ok()?.origin,
        Kind::Trust | Kind::Endpoint | Kind::Workload => None,
    }
}

/// Decodes and checks a resource.
pub(crate) fn parse(kind: Kind, name: &str, bytes: &[u8]) -> Result<Body> {
    match kind {
        Kind::Trust => trust(decode(bytes)?).map(Body::Trust),
        Kind::Policy => policy::parse(name, exact(bytes)?).map(Body::Policy),
        Kind::Route => route::parse(name, exact(bytes)?).map(Body::Route),
        Kind::Endpoint => endpoint::parse(name, decode(bytes)?).map(Body::Endpoint),
        Kind::Workload => workload(name, decode(bytes)?).map(Body::Workload),
        Kind::Service => service(name, decode(bytes)?).map(Body::Service),
        Kind::Gateway => gateway::parse(name, decode(bytes)?).map(Body::Gateway),
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).or_else(|error| Problem::new("", format!("the message cannot be decoded: {error}")))
}

/// Decodes what must be understood wholly: a condition of a newer control plane that is silently left out would let through
/// what it is there to stop.
fn exact<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    let message: M = decode(bytes)?;
    match message.encoded_len() == bytes.len() {
        true => Ok(message),
        false => Problem::new("", "holds fields that this version of the proxy does not know; upgrade it"),
    }
}

fn named(name: &str, namespace: &str, object: &str) -> Result<()> {
    problem::pair("", name)?;
    match name.split_once('/') == Some((namespace, object)) {
        true => Ok(()),
        false => Problem::new("name", format!("`{namespace}/{object}` is not the resource's name, `{name}`")),
    }
}

fn trust(trust: mesh::Trust) -> Result<engine::snapshot::Mesh> {
    use engine::snapshot::AccessLog;
    let access_log = match trust.access_log.as_str() {
        "" | "off" => AccessLog::Off,
        "errors" => AccessLog::Errors,
        "all" => AccessLog::All,
        other => {
            let reason = format!("`{}` is not one of off, errors and all", other.escape_debug());
            return Problem::new("access_log", reason);
        }
    };
    if trust.trust_domain.is_empty() {
        return Problem::new("trust_domain", "is empty");
    }
    Ok(engine::snapshot::Mesh {
        trust_domain: trust.trust_domain.into(),
        roots: trust.roots,
        strict: trust.strict,
        registered_only: trust.registered_only,
        access_log,
    })
}

fn service(name: &str, service: mesh::Service) -> Result<Service> {
    named(name, &service.namespace, &service.name)?;
    let mut ports: Vec<Port> = Vec::new();
    for (i, port) in service.ports.into_iter().enumerate() {
        let number = problem::port("port", port.port).within(|| format!("ports[{i}]"))?;
        let protocol = problem::protocol("protocol", port.protocol).within(|| format!("ports[{i}]"))?;
        if ports.last().is_some_and(|last| last.port >= number) {
            return Problem::new(format!("ports[{i}].port"), "the ports are not sorted, or one is there twice");
        }
        ports.push(Port { port: number, name: port.name, protocol });
    }
    let mut addresses = Vec::new();
    for (i, text) in service.addresses.iter().enumerate() {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                let field = format!("addresses[{i}]");
                return Problem::new(field, format!("`{}` is not an IP address", text.escape_debug()));
            }
        }
    }
    Ok(Service { name: name.to_owned(), addresses, ports, routes: service.routes, policies: service.policies })
}

fn workload(name: &str, workload: mesh::Workload) -> Result<mesh::Workload> {
    named(name, &workload.namespace, &workload.name)?;
    let mut last = 0;
    for (i, port) in workload.ports.iter().enumerate() {
        let number = problem::port("port", port.port).within(|| format!("ports[{i}]"))?;
        problem::protocol("protocol", port.protocol).within(|| format!("ports[{i}]"))?;
        if number <= last {
            return Problem::new(format!("ports[{i}].port"), "the ports are not sorted, or one is there twice");
        }
        last = number;
    }
    Ok(workload)
}

/// One resource as it was received.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) version: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: Body,
    /// Greater than that of whatever was held before.
    pub(crate) revision: u64,
}

/// Everything that is held, by kind and canonical name.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    kinds: [BTreeMap<String, Resource>; Kind::COUNT],
    revision: u64,
}

impl Resources {
    pub(crate) fn insert(&mut self, kind: Kind, name: &str, version: String, bytes: Vec<u8>, body: Body) {
        self.revision += 1;
        let resource = Resource { version, bytes, body, revision: self.revision };
        self.kinds[kind as usize].insert(name.to_owned(), resource);
    }

    pub(crate) fn remove(&mut self, kind: Kind, name: &str) -> bool {
        self.kinds[kind as usize].remove(name).is_some()
    }

    pub(crate) fn retain(&mut self, kind: Kind, mut keep: impl FnMut(&str) -> bool) {
        self.kinds[kind as usize].retain(|name, _| keep(name));
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.kinds[kind as usize].get(name)
    }

    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = (&str, &Resource)> {
        self.kinds[kind as usize].iter().map(|(name, resource)| (name.as_str(), resource))
    }

    /// The revision of what is held by this name; 0 when nothing is.
    pub(crate) fn revision(&self, kind: Kind, name: &str) -> u64 {
        self.get(kind, name).map_or(0, |resource| resource.revision)
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&Policy> {
        match &self.get(Kind::Policy, name)?.body {
            Body::Policy(policy) => Some(policy),
            _ => None,
        }
    }

    pub(crate) fn route(&self, name: &str) -> Option<&Route> {
        match &self.get(Kind::Route, name)?.body {
            Body::Route(route) => Some(route),
            _ => None,
        }
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        match &self.get(Kind::Service, name)?.body {
            Body::Service(service) => Some(service),
            _ => None,
        }
    }

    pub(crate) fn gateway(&self, name: &str) -> Option<&gateway::Declared> {
        match &self.get(Kind::Gateway, name)?.body {
            Body::Gateway(gateway) => Some(gateway),
            _ => None,
        }
    }

    pub(crate) fn workload(&self, name: &str) -> Option<&mesh::Workload> {
        match &self.get(Kind::Workload, name)?.body {
            Body::Workload(workload) => Some(workload),
            _ => None,
        }
    }

    /// The instance that is held by this name.
    pub(crate) fn endpoint(&self, name: &str) -> Option<&endpoint::Instance> {
        match &self.get(Kind::Endpoint, name)?.body {
            Body::Endpoint(instance) => Some(instance),
            _ => None,
        }
    }

    /// The instances of `service`, sorted by resource name.
    pub(crate) fn endpoints(&self, service: &str) -> impl Iterator<Item = &endpoint::Instance> {
        let prefix = format!("{service}/");
        let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
        let beneath = self.kinds[Kind::Endpoint as usize].range(from);
        beneath.take_while(move |(name, _)| name.starts_with(&prefix)).filter_map(|(_, resource)| {
            match &resource.body {
                Body::Endpoint(instance) => Some(instance),
                _ => None,
            }
        })
    }
}
