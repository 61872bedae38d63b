//! Peers that were turned away before any request: each is a security event, so every one is counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Direction, Registry};

/// Why a connection with a peer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRefusal {
    /// Its certificate has expired or is not valid yet.
    Expired,
    /// No root of the mesh vouches for its certificate.
    UnknownRoot,
    /// It is somebody else than whom we called, or of another trust domain.
    WrongIdentity,
    /// Its certificate is unusable for another reason.
    BadCertificate,
    /// It showed none.
    NoCertificate,
    /// It did not accept our certificate.
    RefusedUs,
    /// It does not speak the TLS of the mesh.
    Protocol,
    /// Its handshake took too long.
    Timeout,
    /// It spoke plain text where mutual TLS is demanded.
    PlainText,
    /// It asked for another workload than the one here.
    WrongName,
    /// It asked for a port of the sidecar's own.
    OwnPort,
}

impl PeerRefusal {
    /// Every one there is.
    pub const ALL: [PeerRefusal; 11] = [
        PeerRefusal::Expired,
        PeerRefusal::UnknownRoot,
        PeerRefusal::WrongIdentity,
        PeerRefusal::BadCertificate,
        PeerRefusal::NoCertificate,
        PeerRefusal::RefusedUs,
        PeerRefusal::Protocol,
        PeerRefusal::Timeout,
        PeerRefusal::PlainText,
        PeerRefusal::WrongName,
        PeerRefusal::OwnPort,
    ];

    /// The word in labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            PeerRefusal::Expired => "expired",
            PeerRefusal::UnknownRoot => "unknown_root",
            PeerRefusal::WrongIdentity => "wrong_identity",
            PeerRefusal::BadCertificate => "bad_certificate",
            PeerRefusal::NoCertificate => "no_certificate",
            PeerRefusal::RefusedUs => "refused_us",
            PeerRefusal::Protocol => "protocol",
            PeerRefusal::Timeout => "timeout",
            PeerRefusal::PlainText => "plain_text",
            PeerRefusal::WrongName => "wrong_name",
            PeerRefusal::OwnPort => "own_port",
        }
    }
}

/// Peers call us, or we call them, from a sidecar as from a gateway.
const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// Counts by direction and cause.
#[derive(Debug, Default)]
pub(super) struct Refusals([[AtomicU64; PeerRefusal::ALL.len()]; DIRECTIONS.len()]);

impl Refusals {
    /// What is not zero.
    pub(super) fn read(&self) -> impl Iterator<Item = (Direction, PeerRefusal, u64)> {
        DIRECTIONS.into_iter().zip(&self.0).flat_map(|(direction, counts)| {
            let read = move |(why, count): (PeerRefusal, &AtomicU64)| (direction, why, count.load(Ordering::Relaxed));
            PeerRefusal::ALL.into_iter().zip(counts).map(read).filter(|(.., count)| *count > 0)
        })
    }
}

impl Registry {
    /// Counts a peer that was refused: one that called us (`Inbound`) or that we called (every other direction). Refusals are
    /// rare, so the workers share the counters.
    pub fn peer_refused(&self, direction: Direction, why: PeerRefusal) {
        let called = usize::from(direction != Direction::Inbound);
        self.refusals.0[called][why as usize].fetch_add(1, Ordering::Relaxed);
    }
}
