//! `gateway.networking.k8s.io` Gateway.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::object::Kind;
use crate::read::{At, Map};
use crate::text;

/// A way in from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// `gatewayClassName`, as written.
    pub class: String,
    /// Where it listens on this machine; empty: where `heddle up` chooses. No two are alike.
    pub addresses: Vec<IpAddr>,
    /// Its listeners; names are unique.
    pub listeners: Vec<Listener>,
}

/// One listener of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Lower case, exact or `*.suffix`; empty: every host.
    pub hostname: String,
    /// As declared.
    pub port: u16,
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// Which namespaces' routes may attach.
    pub allowed_namespaces: AllowedNamespaces,
    /// Which kinds of routes may attach; never empty.
    pub allowed_kinds: Vec<Kind>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 without TLS.
    Http,
    /// Opaque bytes.
    Tcp,
}

/// Which namespaces' routes may attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowedNamespaces {
    /// The gateway's own.
    #[default]
    Same,
    /// Every one.
    All,
}

/// Reads `spec`.
pub(crate) fn read(spec: &mut Map<'_>, _namespace: &str) -> Gateway {
    spec.not_yet(&["infrastructure", "backendTLS", "tls", "allowedListeners", "defaultScope"]);
    let class = spec.require("gatewayClassName").and_then(|at| at.parse(text::subdomain)).unwrap_or_default();
    let mut listeners: Vec<Listener> = Vec::new();
    if let Some(list) = spec.require("listeners") {
        let errors = list.errors();
        for at in list.list(64) {
            let Some(listener) = read_listener(&at) else {
                continue;
            };
            if listeners.iter().any(|l| l.name == listener.name) {
                at.error(format!("two listeners have the name \"{}\"", listener.name));
            }
            if let Some(other) = listeners.iter().find(|l| conflict(l, &listener)) {
                at.error(format!("conflicts with the listener \"{}\": same port {}", other.name, listener.port));
            }
            listeners.push(listener);
        }
        if listeners.is_empty() && list.errors() == errors {
            list.error("needs at least one listener");
        }
    }
    let addresses = spec.get("addresses").map(|list| read_addresses(&list)).unwrap_or_default();
    Gateway { class, addresses, listeners }
}

/// Gateway API's bound is 16.
fn read_addresses(list: &At<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for at in list.list(16) {
        let Some(mut map) = at.map() else { continue };
        let kind = map.get("type");
        let value = map.require("value");
        map.finish();
        if let Some(kind) = kind.filter(|kind| kind.string().is_some_and(|text| text != "IPAddress")) {
            kind.error_help("only addresses of the type IPAddress are implemented", "write the address itself");
            continue;
        }
        let Some((value, address)) = value.and_then(|at| at.address().map(|address| (at, address))) else { continue };
        if addresses.contains(&address) {
            value.error(format!("{address} is there already"));
            continue;
        }
        addresses.push(address);
    }
    addresses
}

/// Whether two listeners cannot be told apart: one port with other protocols, or with one host.
fn conflict(a: &Listener, b: &Listener) -> bool {
    a.port == b.port && (a.protocol != b.protocol || a.protocol == ListenerProtocol::Tcp || a.hostname == b.hostname)
}

fn read_listener(at: &At<'_>) -> Option<Listener> {
    let mut map = at.map()?;
    let name = map.require("name").and_then(|at| at.parse(text::subdomain));
    let hostname_at = map.get("hostname");
    let hostname = hostname_at.as_ref().and_then(|at| at.parse(text::host_pattern)).unwrap_or_default();
    let port = map.require("port").and_then(|at| at.port());
    let protocol = map.require("protocol").and_then(|at| read_protocol(&at));
    map.not_yet(&["tls"]);
    let allowed = map.get("allowedRoutes");
    map.finish();
    let protocol = protocol?;
    if let (Some(at), ListenerProtocol::Tcp) = (hostname_at, protocol) {
        at.error("a TCP listener cannot tell hosts apart");
    }
    let mut listener = Listener {
        name: name?,
        hostname,
        port: port?,
        protocol,
        allowed_namespaces: AllowedNamespaces::Same,
        allowed_kinds: protocol.kinds().to_vec(),
    };
    if let Some(at) = allowed {
        read_allowed(&at, &mut listener);
    }
    Some(listener)
}

impl ListenerProtocol {
    /// The kinds of routes that can attach.
    const fn kinds(self) -> &'static [Kind] {
        match self {
            ListenerProtocol::Http => &[Kind::HttpRoute, Kind::GrpcRoute],
            ListenerProtocol::Tcp => &[Kind::TcpRoute],
        }
    }
}

fn read_protocol(at: &At<'_>) -> Option<ListenerProtocol> {
    let text = at.string()?;
    if ["HTTPS", "TLS", "UDP"].contains(&text) {
        at.error_help(format!("{text} listeners are not implemented yet"), "the protocols there are: HTTP, TCP");
        return None;
    }
    at.choice(&[("HTTP", ListenerProtocol::Http), ("TCP", ListenerProtocol::Tcp)])
}

fn read_allowed(at: &At<'_>, listener: &mut Listener) {
    let Some(mut map) = at.map() else { return };
    if let Some(mut namespaces) = map.get("namespaces").and_then(|at| at.map()) {
        if let Some(from) = namespaces.get("from") {
            if from.string() == Some("Selector") {
                from.error_help("not implemented yet", "use Same or All");
            } else if let Some(allowed) =
                from.choice(&[("Same", AllowedNamespaces::Same), ("All", AllowedNamespaces::All)])
            {
                listener.allowed_namespaces = allowed;
            }
        }
        namespaces.not_yet(&["selector"]);
        namespaces.finish();
    }
    if let Some(kinds) = map.get("kinds") {
        let allowed = listener.protocol.kinds().iter().map(|k| (k.name(), *k)).collect::<Vec<_>>();
        listener.allowed_kinds = kinds.each(8, |at| {
            let mut map = at.map()?;
            if let Some(group) = map.get("group")
                && group.string().is_some_and(|g| g != Kind::HttpRoute.group())
            {
                group.error(format!("the group of routes is \"{}\"", Kind::HttpRoute.group()));
            }
            let kind = map.require("kind").and_then(|at| at.choice(&allowed));
            map.finish();
            kind
        });
    }
    map.finish();
}
