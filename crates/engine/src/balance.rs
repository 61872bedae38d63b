//! Choosing an instance: power of two choices over a peak-sensitive EWMA of latency, requests in flight and outcomes.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::policy::OutlierPolicy;
use crate::{Nanos, Outcome, Protocol, Rng};

/// One service port as something to send to. It outlives changes of its endpoints; every rule that names the same service
/// port shares it.
#[derive(Debug)]
pub struct Backend {
    /// `namespace/name`.
    pub service: Box<str>,
    /// The service port.
    pub port: u16,
    /// What the port was declared to speak.
    pub protocol: Protocol,
    /// Where its instances are now. Swapped whole; what was learnt of an endpoint stays in its [`Load`].
    pub endpoints: ArcSwap<EndpointSet>,
}

/// The endpoints of one backend at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Sorted by workload.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// When to leave one out.
    pub outlier: OutlierPolicy,
}

/// One instance behind one service port.
#[derive(Debug)]
pub struct Endpoint {
    /// `namespace/name` of the workload.
    pub workload: Box<str>,
    /// How to reach it.
    pub dial: Dial,
    /// 1 and up.
    pub weight: u32,
    /// As discovery says.
    pub health: Health,
    /// What was learnt of it; shared by successive versions of the same endpoint. Its `id` is the key for pools.
    pub load: Arc<Load>,
}

/// How to reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dial {
    /// Through its sidecar, with mutual TLS.
    Mesh {
        /// The sidecar's inbound address.
        address: SocketAddr,
        /// Names workload and target port: `p<port>.<workload>.<namespace>.heddle`.
        sni: Box<str>,
        /// The SPIFFE ID that it must prove.
        identity: Box<str>,
    },
    /// In plain text.
    Plain(SocketAddr),
}

/// Readiness as discovery reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// May be used.
    #[default]
    Ready,
    /// May not be used.
    NotReady,
    /// Used only when nothing else is left.
    Draining,
}

/// What the proxy has learnt of one endpoint. Atomics; shared by all workers.
#[derive(Debug)]
pub struct Load {
    /// Unique in the process; the key of connection pools.
    pub id: u64,
    // the engine's author adds the atomics here
}

/// One request under way at an endpoint. Dropped without [`InFlight::finish`] it counts as [`Outcome::Cancelled`].
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Nanos,
}

impl Load {
    /// Fresh state for an endpoint never seen before.
    pub fn new() -> Arc<Load> {
        todo!()
    }

    /// Requests sent so far.
    pub fn requests(&self) -> u64 {
        todo!()
    }

    /// Of those, the failures.
    pub fn failures(&self) -> u64 {
        todo!()
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> u32 {
        todo!()
    }

    /// Predicted cost of one more request, in nanoseconds; lower is better.
    pub fn score(&self, _now: Nanos) -> f64 {
        todo!()
    }

    /// Whether it is left out now.
    pub fn ejected(&self, _now: Nanos) -> bool {
        todo!()
    }
}

impl EndpointSet {
    /// Picks an endpoint: two distinct ones at random among the usable, then the lower score. `tried` are not picked again
    /// while others are left. `warm` tells whether this worker has a ready connection; a cold one costs more. Ready and
    /// not ejected first; if none, ejected; if none, draining; never one that is not ready. `None` only when there is none.
    pub fn choose(
        &self,
        _now: Nanos,
        _rng: &mut Rng,
        _tried: &[u64],
        _warm: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        todo!()
    }
}

impl InFlight {
    /// Counts a request as sent to `endpoint`.
    pub fn start(endpoint: Arc<Endpoint>, started: Nanos) -> InFlight {
        InFlight { endpoint, started }
    }

    /// Where it went.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When it was sent.
    pub fn started(&self) -> Nanos {
        self.started
    }

    /// Records how it ended: latency (to the response's head for streams), outcome, ejection by `outlier` among `peers`.
    pub fn finish(self, _now: Nanos, _outcome: Outcome, _peers: &EndpointSet) {
        todo!()
    }
}
