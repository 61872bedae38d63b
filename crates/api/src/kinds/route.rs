//! What routes share, and `gateway.networking.k8s.io` TCPRoute.

use serde::{Deserialize, Serialize};

use super::http_route::HeaderEdits;

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
