//! `targetRefs` of policies.

use serde::{Deserialize, Serialize};

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetRef {
    /// What it is.
    pub kind: TargetKind,
    /// Always the policy's own namespace; empty for a Mesh.
    pub namespace: String,
    /// Its name; of a Namespace the policy's own namespace.
    pub name: String,
    /// Port name, rule name or listener name; empty: the whole object.
    pub section: String,
}

/// What policies can apply to, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// Requests that take this route.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// Requests that take this route.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// Connections that take this route.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// Calls to this service.
    Service,
    /// What comes in by this gateway.
    Gateway,
    /// Every service of the policy's namespace.
    Namespace,
    /// Everything.
    Mesh,
}

impl TargetKind {
    /// As it is written in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            TargetKind::HttpRoute => "HTTPRoute",
            TargetKind::GrpcRoute => "GRPCRoute",
            TargetKind::TcpRoute => "TCPRoute",
            TargetKind::Service => "Service",
            TargetKind::Gateway => "Gateway",
            TargetKind::Namespace => "Namespace",
            TargetKind::Mesh => "Mesh",
        }
    }
}
