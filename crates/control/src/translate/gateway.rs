//! Gateways: ways in from outside.

use std::collections::BTreeSet;

use api::{Kind as Object, ListenerProtocol, Spec};
use proto::mesh;
use sources::Snapshot;

use super::policy::Policies;
use super::route::Routes;
use super::{Translation, origin, path};

pub(super) fn translate(snapshot: &Snapshot, routes: &Routes, policies: &Policies, out: &mut Translation) {
    for (key, object) in snapshot.of_kind(Object::Gateway) {
        let Spec::Gateway(gateway) = &object.spec else { continue };
        let listeners: Vec<_> = gateway
            .listeners
            .iter()
            .map(|listener| mesh::GatewayListener {
                name: listener.name.clone(),
                port: listener.port.into(),
                hostname: listener.hostname.clone(),
                protocol: match listener.protocol {
                    ListenerProtocol::Http => mesh::Protocol::Http1,
                    ListenerProtocol::Tcp => mesh::Protocol::Tcp,
                }
                .into(),
                routes: routes.of_listener(key, &listener.name),
            })
            .collect();
        let routes: BTreeSet<String> = listeners.iter().flat_map(|l| l.routes.iter().cloned()).collect();
        let routes: Vec<String> = routes.into_iter().collect();
        let policies = policies.of_gateway(key, &routes);
        let message = mesh::Gateway {
            origin: Some(origin(key)),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            listeners,
            routes,
            policies,
        };
        out.push(xds::Kind::Gateway, path(&key.namespace, &key.name), &message, Vec::new(), key);
        out.conditions.hold(key, "Programmed", "Programmed");
    }
}
