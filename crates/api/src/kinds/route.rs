//! What routes share, and `gateway.networking.k8s.io` TCPRoute.

use serde::{Deserialize, Serialize};

use super::http_filter::{self, HeaderEdits};
use crate::read::{At, Map};
use crate::text;

/// What a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Gateway when not written.
    pub kind: ParentKind,
    /// The route's own when not written.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Listener or service port name; empty: every one.
    pub section: String,
    /// Listener or service port; `None`: every one.
    pub port: Option<u16>,
}

/// What a route can attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ParentKind {
    /// Calls from outside.
    Gateway,
    /// Calls from inside the mesh to this service (GAMMA).
    Service,
}

/// A service that gets a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// The route's own when not written.
    pub namespace: String,
    /// The service's name.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// Its part of the sum, 0 to 1,000,000; 1 when not written.
    pub weight: u32,
    /// Edits for this backend alone; empty in a TCPRoute.
    pub request_headers: HeaderEdits,
}

/// `gateway.networking.k8s.io` TCPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpRoute {
    /// What it attaches to.
    pub parents: Vec<ParentRef>,
    /// Its rules; only the first can ever be taken.
    pub rules: Vec<TcpRule>,
}

/// One rule of a TCPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpRule {
    /// Its name; empty when not written.
    pub name: String,
    /// Shares of the connections.
    pub backends: Vec<BackendRef>,
}

/// Gateway API's bounds on lists.
pub(crate) const MAX_PARENTS: usize = 32;
pub(crate) const MAX_RULES: usize = 16;
pub(crate) const MAX_BACKENDS: usize = 16;

/// Reads `spec` of a TCPRoute.
pub(crate) fn read_tcp(spec: &mut Map<'_>, namespace: &str) -> TcpRoute {
    let parents = read_parents(spec, namespace);
    let rules = spec.require("rules").map(|at| at.each(MAX_RULES, |at| read_tcp_rule(at, namespace)));
    if let Some(at) = spec.get("rules")
        && rules.as_ref().is_some_and(|r| r.len() > 1)
    {
        at.warn("only the first rule of a TCPRoute can be taken", "put all backends into one rule");
    }
    TcpRoute { parents, rules: rules.unwrap_or_default() }
}

fn read_tcp_rule(at: &At<'_>, namespace: &str) -> Option<TcpRule> {
    let mut map = at.map()?;
    let name = map.get("name").and_then(|at| at.parse(text::subdomain)).unwrap_or_default();
    let backends = map
        .require("backendRefs")
        .map(|at| at.each(MAX_BACKENDS, |at| read_backend(at, namespace, false)))
        .unwrap_or_default();
    map.finish();
    Some(TcpRule { name, backends })
}

/// Reads `parentRefs`.
pub(crate) fn read_parents(spec: &mut Map<'_>, namespace: &str) -> Vec<ParentRef> {
    spec.not_yet(&["useDefaultGateways"]);
    let Some(field) = spec.require("parentRefs") else {
        return Vec::new();
    };
    let errors = field.errors();
    let parents = field.each(MAX_PARENTS, |at| read_parent(at, namespace));
    if parents.is_empty() && field.errors() == errors {
        field.error_help("names nothing", "name the Gateway or the Service that the route is for");
    }
    for (i, parent) in parents.iter().enumerate() {
        if parents[..i].contains(parent) {
            field.error(format!("names {} twice", parent.name));
        }
    }
    parents
}

fn read_parent(at: &At<'_>, own: &str) -> Option<ParentRef> {
    let mut map = at.map()?;
    let group = map.written("group");
    let kind = match map.get("kind") {
        Some(at) => at.choice(&[("Gateway", ParentKind::Gateway), ("Service", ParentKind::Service)]),
        None => Some(ParentKind::Gateway),
    };
    let namespace = map.get("namespace").and_then(|at| at.parse(text::label));
    let name = map.require("name").and_then(|at| at.parse(text::subdomain));
    let section = map.get("sectionName").and_then(|at| at.parse(text::subdomain)).unwrap_or_default();
    let port = map.get("port").and_then(|at| at.port());
    map.finish();
    let kind = kind?;
    // The group is Gateway API's own unless it is written, so a Service needs `group: ""`; saying so beats guessing.
    let written = match &group {
        Some(at) if at.node.is_null() => "",
        Some(at) => at.string()?,
        None => ParentKind::Gateway.group(),
    };
    if written != kind.group() {
        group.as_ref().unwrap_or(at).error_help(
            format!("there is no kind {} in the group \"{written}\"", kind.name()),
            format!("write group: \"{}\"", kind.group()),
        );
    }
    Some(ParentRef { kind, namespace: namespace.unwrap_or_else(|| own.to_owned()), name: name?, section, port })
}

impl ParentKind {
    /// As it is written in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            ParentKind::Gateway => "Gateway",
            ParentKind::Service => "Service",
        }
    }

    /// Its API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            ParentKind::Gateway => "gateway.networking.k8s.io",
            ParentKind::Service => "",
        }
    }
}

/// Reads one of `backendRefs`; `filters` may stand in those of HTTPRoute and GRPCRoute alone.
pub(crate) fn read_backend(at: &At<'_>, own: &str, filters: bool) -> Option<BackendRef> {
    let mut map = at.map()?;
    if let Some(group) = map.get("group")
        && group.string().is_some_and(|g| !g.is_empty())
    {
        group.error_help("not implemented yet", "the only backends are Services, whose group is \"\"");
    }
    if let Some(kind) = map.get("kind")
        && kind.string().is_some_and(|k| k != "Service")
    {
        kind.error_help("not implemented yet", "the only backends are Services");
    }
    let namespace = map.get("namespace").and_then(|at| at.parse(text::label));
    let name = map.require("name").and_then(|at| at.parse(text::label));
    let port = map.require("port").and_then(|at| at.port());
    let weight = map.get("weight").map_or(Some(1), |at| at.integer(0..=1_000_000));
    let request_headers = if filters { map.get("filters").map(|at| http_filter::read_of_backend(&at)) } else { None };
    map.finish();
    Some(BackendRef {
        namespace: namespace.unwrap_or_else(|| own.to_owned()),
        name: name?,
        port: port?,
        weight: weight?,
        request_headers: request_headers.unwrap_or_default(),
    })
}
