//! What a proxy runs with, published piece by piece and read without locks.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::authorize::Authorizer;
use crate::balance::Backend;
use crate::policy::TrafficPolicy;
use crate::route::{Backends, RouteTable, Rule};
use crate::{Nanos, Protocol, SeriesId};

/// A service as its callers see it: published only when every route and policy that it lists is held.
#[derive(Debug)]
pub struct Destination {
    /// `namespace/name`.
    pub name: Box<str>,
    /// The addresses that stand for it; a headless service has none but its instances'.
    pub addresses: Vec<IpAddr>,
    /// Sorted by port.
    pub ports: Vec<DestinationPort>,
}

/// One port of a destination.
#[derive(Debug)]
pub struct DestinationPort {
    /// The service port.
    pub port: u16,
    /// As declared.
    pub protocol: Protocol,
    /// HTTP routes; `None` when none is attached, and then every request takes `implicit`.
    pub http: Option<RouteTable>,
    /// The rule of opaque connections: a TCPRoute's, or `implicit`.
    pub tcp: Arc<TcpRule>,
    /// Straight to the service's own instances.
    pub implicit: Arc<Rule>,
    /// The service's own instances.
    pub backend: Arc<Backend>,
}

/// What an opaque connection holds once it is routed.
#[derive(Debug)]
pub struct TcpRule {
    /// For people; empty for the implicit rule.
    pub name: Box<str>,
    /// Where to.
    pub backends: Backends,
    /// How.
    pub policy: Arc<TrafficPolicy>,
    /// Where its connections are counted.
    pub series: SeriesId,
}

impl Destination {
    /// The port numbered `port`.
    pub fn port(&self, port: u16) -> Option<&DestinationPort> {
        self.ports.binary_search_by_key(&port, |p| p.port).ok().map(|i| &self.ports[i])
    }
}

/// What is known of a name that was asked for.
#[derive(Clone, Debug, Default)]
pub enum Resolution {
    /// Nothing yet: asked, not answered.
    #[default]
    Pending,
    /// This destination.
    Found(Arc<Destination>),
    /// The control plane says that there is none.
    NotFound,
}

/// Where the answer for one name is published. Kept by whoever asks often.
#[derive(Debug, Default)]
pub struct Slot {
    state: ArcSwap<Resolution>,
    used: AtomicU64,
}

impl Slot {
    /// The answer now. `now` is remembered, at most once a second, so that unused names can be dropped.
    pub fn get(&self, now: Nanos) -> arc_swap::Guard<Arc<Resolution>> {
        if now.0 > self.used.load(Ordering::Relaxed).saturating_add(1_000_000_000) {
            self.used.store(now.0, Ordering::Relaxed);
        }
        self.state.load()
    }

    /// The answer now, without counting as a reader.
    pub fn peek(&self) -> Arc<Resolution> {
        self.state.load_full()
    }

    /// Publishes an answer.
    pub fn set(&self, resolution: Resolution) {
        self.state.store(Arc::new(resolution));
    }

    /// When it was last read, to the second.
    pub fn last_used(&self) -> Nanos {
        Nanos(self.used.load(Ordering::Relaxed))
    }
}

/// The proxy's own instance: how to treat what comes in.
#[derive(Debug)]
pub struct Inbound {
    /// `namespace/name` of the workload.
    pub workload: Box<str>,
    /// Sorted by port. A port that is not listed is forwarded as `Protocol::Auto` with the same authorizer.
    pub ports: Vec<InboundPort>,
    /// Guards every port.
    pub authorizer: Authorizer,
    /// Where calls to ports that are not listed are counted.
    pub series: SeriesId,
}

impl Inbound {
    /// What was declared of the application's port `port`.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.binary_search_by_key(&port, |declared| declared.port).ok().map(|i| &self.ports[i])
    }
}

/// One port of the application.
#[derive(Debug)]
pub struct InboundPort {
    /// Where the application listens.
    pub port: u16,
    /// As declared.
    pub protocol: Protocol,
    /// Where its requests are counted.
    pub series: SeriesId,
}

/// A gateway's own listeners.
#[derive(Debug)]
pub struct Gateway {
    /// `namespace/name`.
    pub name: Box<str>,
    /// As declared.
    pub listeners: Vec<GatewayListener>,
}

/// One listener.
#[derive(Debug)]
pub struct GatewayListener {
    /// Its name.
    pub name: Box<str>,
    /// As declared; where it is really bound is the supervisor's business.
    pub port: u16,
    /// Routes of an HTTP listener.
    pub http: Option<RouteTable>,
    /// Rule of a TCP listener.
    pub tcp: Option<Arc<TcpRule>>,
    /// Where requests that match nothing are counted.
    pub series: SeriesId,
}

/// Mesh-wide settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// `example.org` of `spiffe://example.org/…`.
    pub trust_domain: Box<str>,
    /// DER certificates.
    pub roots: Vec<Vec<u8>>,
    /// Refuse plain text from other workloads.
    pub strict: bool,
    /// Refuse destinations that the mesh does not know.
    pub registered_only: bool,
    /// What to log.
    pub access_log: AccessLog,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Failures and refusals.
    Errors,
    /// All.
    All,
}

/// Everything of a proxy that is not a destination.
#[derive(Debug, Default)]
pub struct Live {
    /// Mesh-wide settings.
    pub mesh: ArcSwap<Mesh>,
    /// `None` until the workload and all its policies are held: then everything inbound is refused with `not_ready`.
    pub inbound: ArcSwapOption<Inbound>,
    /// Only of a gateway.
    pub gateway: ArcSwapOption<Gateway>,
}
