//! Instances: their endpoints, their own configuration, and the service that stands for one of them alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::{Kind as Object, ObjectKey, PortRef, Spec};
use net::spiffe;
use proto::mesh;
use sources::Snapshot;
use xds::server::{Alias, Published};

use super::{CLUSTER_DOMAIN, Guarded, Index, path, protocol};

/// One instance, however it became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) service_account: String,
    /// Whether it can be called at all: a gateway or an `exec` cannot.
    pub(crate) endpoint: bool,
    /// Where applications see it.
    pub(crate) address: IpAddr,
    /// Its sidecar's inbound listener; `None`: no sidecar.
    pub(crate) dial: Option<SocketAddr>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Services of its own namespace that it names itself.
    pub(crate) services: BTreeSet<String>,
    pub(crate) ports: Vec<MemberPort>,
    pub(crate) weight: u32,
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) priority: u32,
    pub(crate) health: mesh::Health,
}

/// A port that an instance declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberPort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) protocol: mesh::Protocol,
}

/// The Workload objects of a snapshot.
pub(crate) fn written(snapshot: &Snapshot) -> impl Iterator<Item = (ObjectKey, Member)> {
    snapshot.of_kind(Object::Workload).filter_map(|(key, object)| {
        let Spec::Workload(workload) = &object.spec else { return None };
        let standing = api::Standing::of_labels(&object.meta.labels);
        let or = |written: &String, label: String| if written.is_empty() { label } else { written.clone() };
        let member = Member {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            service_account: workload.service_account.clone(),
            endpoint: true,
            address: workload.address,
            dial: workload.dial,
            labels: object.meta.labels.clone(),
            services: BTreeSet::new(),
            ports: workload
                .ports
                .iter()
                .map(|p| MemberPort { name: p.name.clone(), port: p.port, protocol: protocol(p.protocol) })
                .collect(),
            weight: workload.weight.unwrap_or(standing.weight),
            region: or(&workload.locality.region, standing.region),
            zone: or(&workload.locality.zone, standing.zone),
            priority: standing.priority,
            health: mesh::Health::Unknown,
        };
        Some((key.clone(), member))
    })
}

impl Member {
    /// `namespace/name`.
    pub(crate) fn path(&self) -> String {
        path(&self.namespace, &self.name)
    }

    /// The port that a service's target means on this instance.
    fn target(&self, target: &PortRef) -> Option<u16> {
        match target {
            PortRef::Number(n) => Some(*n),
            PortRef::Name(name) => self.ports.iter().find(|p| p.name == *name).map(|p| p.port),
        }
    }

    /// Whether `service`, of the same namespace, has this instance as an endpoint.
    fn belongs(&self, name: &str, service: &api::Service) -> bool {
        let selected = !service.selector.is_empty()
            && service.selector.iter().all(|(label, value)| self.labels.get(label) == Some(value));
        selected || self.services.contains(name)
    }
}

impl Index {
    /// Whether `ip` is the address of a service.
    pub(crate) fn is_service_address(&self, ip: IpAddr) -> bool {
        self.taken.contains(&ip)
    }

    /// The address that stands for a service; a headless one has none.
    pub(crate) fn address_of(&self, namespace: &str, name: &str) -> Option<IpAddr> {
        self.addresses.get(&(namespace.into(), name.into())).copied()
    }

    /// `namespace/name` of the services that have `member` as an endpoint, sorted.
    pub(crate) fn services_of(&self, member: &Member) -> Vec<String> {
        self.selecting(member).map(|(name, _)| path(&member.namespace, name)).collect()
    }

    /// The services that have `member` as an endpoint, in order of their names.
    fn selecting<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = (&'a str, &'a api::Service)> {
        let namespace: Arc<str> = member.namespace.as_str().into();
        let mut names: BTreeSet<Arc<str>> = member.services.iter().map(|name| name.as_str().into()).collect();
        for (label, value) in &member.labels {
            let known = self.selectors.get(&(Arc::clone(&namespace), label.clone(), value.clone()));
            names.extend(known.into_iter().flatten().cloned());
        }
        names.into_iter().filter_map(move |name| {
            let ((_, name), object) = self.services.get_key_value(&(Arc::clone(&namespace), name))?;
            match &object.spec {
                Spec::Service(service) if member.belongs(name, service) => Some((&**name, service)),
                _ => None,
            }
        })
    }

    /// The SPIFFE ID that `member`'s sidecar has.
    fn identity(&self, member: &Member) -> Option<spiffe::Id> {
        spiffe::Id::new(&self.trust_domain, &member.namespace, &member.service_account).ok()
    }

    /// Everything that is published for one instance. `own` says which of its `address:port` stand for this instance alone.
    pub(crate) fn member(&self, member: &Member, mut own: impl FnMut(SocketAddr) -> bool) -> Vec<Published> {
        let mut published = Vec::new();
        let dial = member.dial.zip(self.identity(member));
        let mut reachable = BTreeMap::new();
        let mut hosts = Vec::new();
        for (name, service) in self.selecting(member) {
            if service.headless {
                hosts.extend(names_within(member, name));
            }
            let mut ports: Vec<_> = service
                .ports
                .iter()
                .filter_map(|p| Some((p, member.target(&p.target_port)?)))
                .map(|(p, target)| {
                    reachable.entry(target).or_insert(protocol(p.protocol));
                    mesh::EndpointPort { service_port: p.port.into(), target_port: target.into() }
                })
                .collect();
            if ports.is_empty() {
                continue;
            }
            ports.sort_by_key(|p| p.service_port);
            published.push(endpoint(member, name, ports, dial.as_ref()));
        }
        for port in &member.ports {
            reachable.entry(port.port).or_insert(port.protocol);
        }
        published.push(self.workload(member));
        published.extend(alone(member, hosts, &reachable, dial.as_ref(), &mut own));
        published
    }

    /// The instance's own configuration, for its inbound side.
    fn workload(&self, member: &Member) -> Published {
        let mut ports: BTreeMap<u16, mesh::WorkloadPort> = BTreeMap::new();
        let mut policies: BTreeSet<&String> = BTreeSet::new();
        let mut guard = |guarded: Guarded| policies.extend(self.guards.get(&guarded).into_iter().flatten());
        guard(Guarded::Mesh);
        guard(Guarded::Namespace(member.namespace.clone()));
        for (name, service) in self.selecting(member) {
            guard(Guarded::Service(member.namespace.clone(), name.to_owned()));
            for port in &service.ports {
                let Some(target) = member.target(&port.target_port) else { continue };
                ports.entry(target).or_insert_with(|| mesh::WorkloadPort {
                    port: target.into(),
                    protocol: protocol(port.protocol).into(),
                    service: path(&member.namespace, name),
                    service_port: port.port.into(),
                });
            }
        }
        for port in &member.ports {
            ports.entry(port.port).or_insert_with(|| mesh::WorkloadPort {
                port: port.port.into(),
                protocol: port.protocol.into(),
                service: String::new(),
                service_port: 0,
            });
        }
        let message = mesh::Workload {
            namespace: member.namespace.clone(),
            name: member.name.clone(),
            service_account: member.service_account.clone(),
            ports: ports.into_values().collect(),
            policies: policies.into_iter().cloned().collect(),
        };
        Published::new(xds::Kind::Workload, member.path(), &message, Vec::new())
    }
}

fn endpoint(
    member: &Member,
    service: &str,
    ports: Vec<mesh::EndpointPort>,
    dial: Option<&(SocketAddr, spiffe::Id)>,
) -> Published {
    let service = path(&member.namespace, service);
    let name = format!("{service}/{}", member.name);
    let message = mesh::Endpoint {
        service,
        workload: member.path(),
        address: member.address.to_string(),
        dial: dial.map(|(dial, _)| dial.to_string()).unwrap_or_default(),
        identity: dial.map(|(_, identity)| identity.to_string()).unwrap_or_default(),
        ports,
        weight: member.weight,
        health: member.health.into(),
        region: member.region.clone(),
        zone: member.zone.clone(),
        priority: member.priority,
    };
    Published::new(xds::Kind::Endpoint, name, &message, Vec::new())
}

/// The names of an instance of a headless service (`db-0.db`), fully qualified first. Kubernetes has them for the instances of a
/// StatefulSet; here all have.
fn names_within(member: &Member, service: &str) -> [String; 4] {
    let short = format!("{}.{service}", member.name);
    let name = format!("{short}.{}", member.namespace);
    [format!("{name}.svc.{CLUSTER_DOMAIN}"), format!("{name}.svc"), name, short]
}

/// The instance's address as a destination of its own: a service without routes whose one endpoint it is. No object can have
/// its name, for `@` is not allowed in one.
fn alone(
    member: &Member,
    hosts: Vec<String>,
    reachable: &BTreeMap<u16, mesh::Protocol>,
    dial: Option<&(SocketAddr, spiffe::Id)>,
    own: &mut impl FnMut(SocketAddr) -> bool,
) -> Vec<Published> {
    let ports: Vec<_> = reachable.iter().filter(|(port, _)| own(SocketAddr::new(member.address, **port))).collect();
    if ports.is_empty() || !member.endpoint {
        return Vec::new();
    }
    let name = format!("@{}", member.name);
    let message = mesh::Service {
        origin: None,
        namespace: member.namespace.clone(),
        name: name.clone(),
        hosts: hosts.clone(),
        addresses: vec![member.address.to_string()],
        ports: ports
            .iter()
            .map(|(port, protocol)| mesh::ServicePort {
                port: u32::from(**port),
                name: String::new(),
                protocol: (**protocol).into(),
            })
            .collect(),
        routes: Vec::new(),
        policies: Vec::new(),
    };
    let at = ports.iter().map(|(port, _)| SocketAddr::new(member.address, **port).to_string());
    let mut aliases: Vec<Alias> = at.map(|name| Alias { name, namespace: None }).collect();
    // As with services, the shortest name is for callers of the same namespace alone.
    aliases.extend(hosts.into_iter().map(|host| {
        let namespace = (host.split('.').count() == 2).then(|| member.namespace.clone());
        Alias { name: host, namespace }
    }));
    aliases.sort();
    let same = ports
        .iter()
        .map(|(port, _)| mesh::EndpointPort { service_port: u32::from(**port), target_port: u32::from(**port) })
        .collect();
    vec![
        Published::new(xds::Kind::Service, path(&member.namespace, &name), &message, aliases),
        endpoint(member, &name, same, dial),
    ]
}
