//! Peers that are refused before any request. Each is a security event: all are counted, and the log tells of them so that a
//! flood of them cannot fill it.

use std::cell::RefCell;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use engine::Nanos;
use net::tls;
use telemetry::metrics::{Direction, PeerRefusal, Registry};

/// Of one direction and cause a worker tells the first at once, and then at most one in this time, with how many it kept quiet
/// about.
const QUIET: Nanos = Nanos::from_millis(10_000);

/// What one worker has refused.
pub(crate) struct Peers {
    registry: Arc<Registry>,
    /// Callers', then the called ones', by cause.
    told: RefCell<[[Told; PeerRefusal::ALL.len()]; 2]>,
}

/// What the log was told of one cause.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    last: Option<Nanos>,
    kept: u64,
}

impl Peers {
    pub(crate) fn new(registry: Arc<Registry>) -> Peers {
        Peers { registry, told: RefCell::default() }
    }

    /// A peer that called us is refused.
    pub(crate) fn refused_caller(&self, peer: SocketAddr, why: PeerRefusal, detail: impl Display, now: Nanos) {
        self.registry.peer_refused(Direction::Inbound, why);
        match self.told.borrow_mut()[0][why as usize].tell(now) {
            Some(more) => tracing::warn!(%peer, reason = why.name(), more, "refused a caller: {detail}"),
            None => tracing::debug!(%peer, reason = why.name(), "refused a caller: {detail}"),
        }
    }

    /// A peer that we called is refused, or has refused us.
    pub(crate) fn refused_called(&self, peer: SocketAddr, why: PeerRefusal, detail: impl Display, now: Nanos) {
        self.registry.peer_refused(Direction::Outbound, why);
        match self.told.borrow_mut()[1][why as usize].tell(now) {
            Some(more) => tracing::warn!(%peer, reason = why.name(), more, "refused an instance: {detail}"),
            None => tracing::debug!(%peer, reason = why.name(), "refused an instance: {detail}"),
        }
    }
}

impl Told {
    /// How many were kept quiet, if this one is to be told.
    fn tell(&mut self, now: Nanos) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < QUIET) {
            self.kept += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.kept))
    }
}

/// What a failed handshake says of the peer; `None` where it says nothing.
pub(crate) fn cause(error: &tls::Error) -> Option<PeerRefusal> {
    match error {
        tls::Error::Expired => Some(PeerRefusal::Expired),
        tls::Error::UnknownRoot => Some(PeerRefusal::UnknownRoot),
        tls::Error::WrongIdentity { .. } => Some(PeerRefusal::WrongIdentity),
        tls::Error::Certificate(_) => Some(PeerRefusal::BadCertificate),
        tls::Error::NoCertificate => Some(PeerRefusal::NoCertificate),
        tls::Error::Refused(_) => Some(PeerRefusal::RefusedUs),
        tls::Error::Protocol(_) => Some(PeerRefusal::Protocol),
        tls::Error::NotReady(_) | tls::Error::Io(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_now_and_then() {
        let mut told = Told::default();
        let at = |ms: u64| Nanos::from_millis(ms);
        assert_eq!(told.tell(at(0)), Some(0));
        assert_eq!((told.tell(at(1)), told.tell(at(9_999))), (None, None));
        assert_eq!(told.tell(at(10_000)), Some(2), "with those that were not told");
        assert_eq!(told.tell(at(10_001)), None);
        assert_eq!(told.tell(at(30_000)), Some(1));

        let registry = Registry::new();
        let peers = Peers::new(Arc::clone(&registry));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        for ms in 0..100 {
            peers.refused_caller(peer, PeerRefusal::Expired, "it is old", at(ms));
        }
        peers.refused_called(peer, PeerRefusal::UnknownRoot, "", at(0));
        let text = registry.render_prometheus(&[]);
        let line = |words: &str| text.lines().any(|line| line == format!("heddle_peers_refused_total{words}"));
        assert!(line("{direction=\"inbound\",reason=\"expired\"} 100"), "{text}");
        assert!(line("{direction=\"outbound\",reason=\"unknown_root\"} 1"), "{text}");
    }
}
