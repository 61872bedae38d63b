//! What a proxy process is started with, and the limits that it keeps.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::target::Target;

/// What the supervisor (or whoever starts `heddle proxy`) decides; everything else comes from the control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// `namespace/name` of the workload.
    pub workload: String,
    /// Address on which the application listens.
    pub application: IpAddr,
    /// Where other sidecars connect (mutual TLS). Absent: nothing comes in (a gateway, an `exec`).
    #[serde(default)]
    pub inbound: Option<SocketAddr>,
    /// The forward proxy (explicit mode).
    #[serde(default)]
    pub outbound: Option<SocketAddr>,
    /// Where the kernel redirects what the application sends; every connection carries the address that it was meant for.
    #[serde(default)]
    pub redirected: Vec<SocketAddr>,
    /// Where the kernel redirects what is sent to the application. Other sidecars may come here too, unredirected.
    #[serde(default)]
    pub redirected_inbound: Vec<SocketAddr>,
    /// The application is called in the name of its callers' addresses, as `heddle init --tproxy` provides for.
    #[serde(default)]
    pub keep_source: bool,
    /// Addresses that stand for a service port each (explicit mode).
    #[serde(default)]
    pub services: Vec<ServiceListener>,
    /// A gateway's listeners as they are really bound.
    #[serde(default)]
    pub gateway: Vec<GatewayBinding>,
    /// Where this process listens for other things than traffic, such as metrics.
    #[serde(default)]
    pub reserved: Vec<SocketAddr>,
    /// A forward proxy that outside destinations are reached through, `host:port`.
    #[serde(default)]
    pub upstream_proxy: Option<String>,
    /// Data-path threads.
    #[serde(default = "one")]
    pub workers: usize,
    /// What it refuses to exceed.
    #[serde(default)]
    pub limits: Limits,
}

impl Settings {
    /// `target`, or the service port that a listener of ours at this address stands for.
    pub(crate) fn service_at(&self, target: Target) -> Target {
        let listens = |listener: &&ServiceListener| target.is_address() && target.address() == Some(listener.listen);
        match self.services.iter().find(listens) {
            Some(listener) => Target { host: listener.service.to_ascii_lowercase().into(), port: listener.port },
            None => target,
        }
    }

    /// Whether `port` on the application's address is one that this proxy listens on itself. No peer may come in for it: what
    /// leaves from there leaves with this workload's identity.
    pub(crate) fn own_port(&self, port: u16) -> bool {
        let ours = |listen: SocketAddr| {
            listen.port() == port && (listen.ip() == self.application || listen.ip().is_unspecified())
        };
        let services = self.services.iter().map(|service| service.listen);
        self.own().chain(services).any(ours)
    }

    /// Where it listens without standing for a service.
    fn own(&self) -> impl Iterator<Item = SocketAddr> {
        let redirected = self.redirected.iter().chain(&self.redirected_inbound).copied();
        let gateway = self.gateway.iter().map(|binding| binding.listen);
        self.inbound
            .into_iter()
            .chain(self.outbound)
            .chain(redirected)
            .chain(gateway)
            .chain(self.reserved.iter().copied())
    }

    /// Whether `address` is one that this proxy listens on itself, where it stands for no service. A listener on all addresses
    /// is meant by the application's address and by loopback addresses.
    pub(crate) fn listens_on(&self, address: SocketAddr) -> bool {
        let beside = address.ip() == self.application || address.ip().is_loopback();
        self.own().any(|listen| {
            listen == address || listen.port() == address.port() && listen.ip().is_unspecified() && beside
        })
    }
}

fn one() -> usize {
    1
}

/// A local address that stands for a service port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceListener {
    /// Where to listen.
    pub listen: SocketAddr,
    /// A name of the service that [`crate::Discover`] knows.
    pub service: String,
    /// The service port.
    pub port: u16,
}

/// Where a gateway's listener is bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayBinding {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The port that the Gateway declares.
    pub port: u16,
}

/// Every limit of the data path, with its default. Documented in `docs/limits.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request or response head, bytes (431 `head_too_large`). nginx allows 4 × 8 KiB, Envoy 60 KiB.
    pub head_bytes: usize,
    /// Most headers in a head (431 `head_too_large`).
    pub headers: usize,
    /// Longest request target, bytes (414 `target_too_long`).
    pub target_bytes: usize,
    /// From the first byte of a head to its last (408 `head_timeout`).
    pub head_timeout: Duration,
    /// A client connection without a request, before its first one too.
    pub keep_alive: Duration,
    /// An unused upstream connection. Shorter than common servers' own (nginx 75 s, Node 5 s is a known exception).
    pub pool_idle: Duration,
    /// Idle upstream HTTP/1 connections per endpoint and worker.
    pub pool_per_endpoint: usize,
    /// Streams on one HTTP/2 connection, either way.
    pub streams: u32,
    /// Client connections per worker; more are accepted and closed at once.
    pub connections: usize,
    /// The longest wait for a destination that was asked for (503 `discovery_unavailable`).
    pub discovery_timeout: Duration,
    /// Largest request body kept for a retry, bytes; a larger one is not retried once sent.
    pub replay_bytes: usize,
    /// A TLS handshake, either way.
    pub handshake_timeout: Duration,
    /// From the first byte of a connection to those that tell what it speaks, where only HTTP may come.
    pub detect_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_bytes: 64 * 1024,
            headers: 128,
            target_bytes: 16 * 1024,
            head_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(300),
            pool_idle: Duration::from_secs(60),
            pool_per_endpoint: 128,
            streams: 100,
            connections: 50_000,
            discovery_timeout: Duration::from_secs(5),
            replay_bytes: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            detect_timeout: Duration::from_secs(10),
        }
    }
}
