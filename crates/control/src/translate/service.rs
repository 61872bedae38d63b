//! Services as their callers see them.

use std::net::IpAddr;

use api::{Kind as Object, ObjectKey, Spec};
use proto::mesh;
use sources::Snapshot;
use xds::server::Alias;

use super::policy::Policies;
use super::route::Routes;
use super::{CLUSTER_DOMAIN, Translation, origin, path, protocol};

pub(super) fn translate(snapshot: &Snapshot, routes: &Routes, policies: &Policies, out: &mut Translation) {
    for (key, object) in snapshot.of_kind(Object::Service) {
        let Spec::Service(service) = &object.spec else { continue };
        let routes = routes.of_service(key);
        let policies = policies.of_service(key, &routes);
        let address = out.index.address_of(&key.namespace, &key.name);
        let message = mesh::Service {
            origin: Some(origin(key)),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            hosts: hosts(key),
            addresses: address.iter().map(ToString::to_string).collect(),
            ports: ports(service),
            routes,
            policies,
        };
        out.push(xds::Kind::Service, path(&key.namespace, &key.name), &message, aliases(key, service, address), key);
        out.conditions.hold(key, "Programmed", "Programmed");
    }
}

/// The names that mean this service, fully qualified first.
fn hosts(key: &ObjectKey) -> Vec<String> {
    let (name, namespace) = (&key.name, &key.namespace);
    vec![
        format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
        name.to_string(),
    ]
}

fn ports(service: &api::Service) -> Vec<mesh::ServicePort> {
    let mut ports: Vec<_> = service
        .ports
        .iter()
        .map(|p| mesh::ServicePort { port: p.port.into(), name: p.name.clone(), protocol: protocol(p.protocol).into() })
        .collect();
    ports.sort_by_key(|p| p.port);
    ports
}

/// The bare name is for callers of the same namespace alone; the others are everybody's.
fn aliases(key: &ObjectKey, service: &api::Service, address: Option<IpAddr>) -> Vec<Alias> {
    let mut aliases: Vec<Alias> = hosts(key)
        .into_iter()
        .map(|name| {
            let namespace = (*name == *key.name).then(|| key.namespace.to_string());
            Alias { name, namespace }
        })
        .collect();
    if let Some(ip) = address {
        let addresses = service.ports.iter().map(|p| std::net::SocketAddr::new(ip, p.port).to_string());
        aliases.extend(addresses.map(|name| Alias { name, namespace: None }));
    }
    aliases.sort();
    aliases
}
