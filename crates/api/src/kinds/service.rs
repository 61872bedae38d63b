//! `v1/Service`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// `v1/Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// The labels that an instance must have; empty: none is selected.
    pub selector: BTreeMap<String, String>,
    /// Its TCP ports, in the order written; names and numbers are unique.
    pub ports: Vec<ServicePort>,
    /// `clusterIP`, when written and not `None`.
    pub cluster_ip: Option<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty only where it is the only port.
    pub name: String,
    /// What clients call.
    pub port: u16,
    /// What instances listen on; the same number when not written.
    pub target_port: PortRef,
    /// What it speaks: `appProtocol`, else the name's first word, else to be detected.
    pub protocol: AppProtocol,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By name, to be looked up among the ports of each instance.
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortRef::Number(n) => n.fmt(f),
            PortRef::Name(n) => n.fmt(f),
        }
    }
}

/// What a port speaks, as far as it is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// Nothing is declared: look at the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS; gRPC.
    Http2,
    /// Opaque bytes.
    Tcp,
    /// The application's own TLS.
    Tls,
}
