//! Resources → `engine::snapshot`.

use std::sync::Arc;

use engine::SeriesId;
use proto::mesh::Refusal;

use crate::Kind;

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
pub fn check(_kind: Kind, _name: &str, _version: &str, _body: &[u8]) -> Result<(), Box<Refusal>> {
    todo!()
}
