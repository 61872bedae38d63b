//! `gateway.networking.k8s.io` Gateway.

use serde::{Deserialize, Serialize};

use crate::object::Kind;

/// A way in from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// `gatewayClassName`, as written.
    pub class: String,
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
