//! Active health checks, and where a setting comes from.

use super::CheckPolicy;
use crate::Nanos;

/// Requests that a proxy makes by itself to see which endpoints are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between two checks of one endpoint; whoever checks adds jitter.
    pub interval: Nanos,
    /// An answer takes no longer.
    pub timeout: Nanos,
    /// When results change an endpoint's state.
    pub policy: CheckPolicy,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET`.
    Http {
        /// Path and query.
        path: Box<str>,
        /// `Host`; empty: the service's name.
        host: Box<str>,
        /// Statuses that are well, sorted; empty: 200 to 399.
        statuses: Vec<u16>,
    },
    /// `grpc.health.v1.Health/Check` (grpc/grpc `doc/health-checking.md`).
    Grpc {
        /// The service that is asked about; empty: the server as a whole.
        service: Box<str>,
    },
    /// A connection is enough.
    Tcp,
}

impl Probe {
    /// Whether an HTTP status passes.
    pub fn passes(&self, status: u16) -> bool {
        match self {
            Probe::Http { statuses, .. } if statuses.is_empty() => (200..400).contains(&status),
            Probe::Http { statuses, .. } => statuses.binary_search(&status).is_ok(),
            Probe::Grpc { .. } => status == 200,
            Probe::Tcp => true,
        }
    }
}

/// Which object a setting comes from, for people. Only settings that an object makes have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As it is called in the object.
    pub field: &'static str,
    /// `Kind/namespace/name` of the object.
    pub object: Box<str>,
}
