//! Resources → `engine::snapshot`.
//!
//! First each resource alone is decoded and checked ([`check`]); what is wrong with it is found here. Then what belongs
//! together is put together, which cannot fail: what is missing by then is a share that answers 500, or a policy that denies.

mod authorize;
mod backends;
mod destination;
pub(crate) mod endpoint;
mod gateway;
mod gone;
mod policy;
mod problem;
pub(crate) mod resources;
mod route;
mod traffic;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use engine::SeriesId;
use engine::balance::Locality;
use proto::mesh::Refusal;

use crate::Kind;

pub(crate) use backends::Backends;

/// Which way the requests of a series go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the proxy's own instance.
    Inbound,
    /// From the proxy's own instance.
    Outbound,
    /// Through a gateway.
    Gateway,
}

/// What a metric series counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// Which way.
    pub direction: Direction,
    /// `namespace/name` of the service called (or of the gateway, for what matches no route); empty where it has none.
    pub service: String,
    /// `Kind/namespace/name/rule`; empty for the implicit rule.
    pub route: String,
}

/// Hands out the series of a key; the same key gets the same series.
pub type Series = Arc<dyn Fn(&SeriesKey) -> SeriesId + Send + Sync>;

/// Whether a proxy would accept this resource. The control plane asks before it sends; the proxy runs the same code.
///
/// # Errors
///
/// Which field is wrong and why, with the user's object that it came from.
pub fn check(kind: Kind, name: &str, version: &str, body: &[u8]) -> Result<(), Box<Refusal>> {
    parse(kind, name, version, body).map(drop)
}

/// Decodes and checks.
pub(crate) fn parse(kind: Kind, name: &str, version: &str, body: &[u8]) -> Result<resources::Body, Box<Refusal>> {
    resources::parse(kind, name, body).map_err(|problem| {
        Box::new(Refusal {
            name: name.to_owned(),
            version: version.to_owned(),
            origin: resources::origin(kind, body),
            field: problem.field,
            reason: problem.reason,
        })
    })
}

/// Puts resources together. It remembers the backends that are in use, so that whatever names the same service port shares
/// one.
pub(crate) struct Compiler {
    series: Series,
    backends: Backends,
    gone: gone::Gone,
    /// Where the proxy runs.
    here: Locality,
}

impl Compiler {
    /// For a proxy that runs `here`.
    pub(crate) fn new(series: Series, here: Locality) -> Compiler {
        Compiler { series, backends: Backends::default(), gone: gone::Gone::default(), here }
    }

    /// The backends that are in use.
    pub(crate) fn known(&self) -> Backends {
        self.backends.clone()
    }
}
