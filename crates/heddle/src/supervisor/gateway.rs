//! Gateways on one machine: a proxy each, without an application, bound on the loopback address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use api::{Gateway, ListenerProtocol};
use net::listen::AddressLock;
use proxy::settings::GatewayBinding;
use serde::Serialize;

use super::Mesh;
use super::sidecar::{ProxyState, Sidecar};
use crate::sidecar::settings::{Registration, explicit};

/// Where browsers and curl on this machine reach a gateway.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A privileged port is moved up by this many, as people do by hand: 80 becomes 8080, 443 becomes 8443.
const MOVE: u16 = 8000;

/// Ports that are tried one after the other before the system chooses one.
const TRIES: u16 = 50;

/// A running gateway.
#[derive(Debug)]
pub(crate) struct GatewayProxy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) listeners: Vec<Bound>,
    sidecar: Sidecar,
}

/// A listener of a gateway as it is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bound {
    /// The listener's name.
    pub(crate) listener: String,
    /// The port that the Gateway declares.
    pub(crate) declared: u16,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Whether it speaks HTTP.
    pub(crate) http: bool,
}

impl Bound {
    /// What to type.
    pub(crate) fn url(&self) -> String {
        if self.http { format!("http://{}", self.address) } else { format!("tcp://{}", self.address) }
    }
}

impl GatewayProxy {
    /// Binds every port that `gateway` declares, moved where that cannot be, and starts the proxy. `kept` are the addresses
    /// of an earlier proxy of the same gateway, which must have ended.
    pub(crate) fn start(
        mesh: &Mesh,
        namespace: &str,
        name: &str,
        gateway: &Gateway,
        ip: IpAddr,
        kept: &[Bound],
    ) -> anyhow::Result<GatewayProxy> {
        let mut listeners: Vec<Bound> = Vec::new();
        for listener in &gateway.listeners {
            let same = listeners.iter().chain(kept).find(|b| b.declared == listener.port).map(|b| b.address);
            let address = match same {
                Some(address) => address,
                None => mesh.choose(name, listener.port, &listeners)?,
            };
            listeners.push(Bound {
                listener: listener.name.clone(),
                declared: listener.port,
                address,
                http: listener.protocol == ListenerProtocol::Http,
            });
        }
        let mut data = explicit(format!("{namespace}/{}", workload_name(name)), ip, None);
        data.outbound = None;
        data.gateway = bindings(&listeners);
        // A gateway carries everybody's traffic: one worker per core.
        data.workers = std::thread::available_parallelism().map_or(1, usize::from);
        let settings = mesh.settings(
            data,
            Some(format!("{namespace}/{name}")),
            Registration { service_account: name.to_owned(), node: mesh.node.clone(), ..Registration::default() },
        );
        let sidecar = Sidecar::start(&workload_name(name), &settings, mesh.tokens(), &mesh.reporter)?;
        // There is no application: it is ready when its proxy is.
        sidecar.ready(true);
        Ok(GatewayProxy { namespace: namespace.to_owned(), name: name.to_owned(), ip, listeners, sidecar })
    }

    /// Whether its ports are still those that `gateway` declares; all else changes without a restart.
    pub(crate) fn fits(&self, gateway: &Gateway) -> bool {
        let declared = gateway.listeners.iter().map(|l| (&l.name, l.port, l.protocol == ListenerProtocol::Http));
        declared.eq(self.listeners.iter().map(|b| (&b.listener, b.declared, b.http)))
    }

    /// Whether it takes requests.
    pub(crate) fn ready(&self) -> bool {
        *self.sidecar.state().borrow() == ProxyState::Ready
    }

    /// Changes when it gets ready or stops being so.
    pub(crate) fn state(&self) -> tokio::sync::watch::Receiver<ProxyState> {
        self.sidecar.state()
    }

    /// Ends it, after at most `limit` for requests under way.
    pub(crate) async fn end(mut self, limit: Duration) {
        self.sidecar.drain(limit);
        self.sidecar.ended().await;
    }
}

/// Name of the workload that a gateway's proxy is; no Deployment makes one like it.
fn workload_name(gateway: &str) -> String {
    format!("gateway-{gateway}")
}

/// One binding a port, though several listeners may share it.
fn bindings(listeners: &[Bound]) -> Vec<GatewayBinding> {
    let mut bindings: Vec<GatewayBinding> =
        listeners.iter().map(|b| GatewayBinding { listen: b.address, port: b.declared }).collect();
    bindings.sort_by_key(|b| b.port);
    bindings.dedup_by_key(|b| b.port);
    bindings
}

/// The address for `declared`, and why it is another port, if it is. `taken` are those chosen already.
pub(crate) fn choose(declared: u16, taken: &[SocketAddr]) -> io::Result<(SocketAddr, Option<String>)> {
    let wanted = SocketAddr::new(HOST, declared);
    let Err(why) = free(wanted, taken) else { return Ok((wanted, None)) };
    let why = match why.kind() {
        io::ErrorKind::PermissionDenied => format!("port {declared} needs privileges"),
        io::ErrorKind::AddrInUse => format!("port {declared} is in use"),
        _ => format!("port {declared} cannot be bound ({why})"),
    };
    let first = if declared < 1024 { declared + MOVE } else { declared.saturating_add(1) };
    let next = (first..=first.saturating_add(TRIES)).map(|port| SocketAddr::new(HOST, port));
    let found = next.into_iter().find(|address| free(*address, taken).is_ok());
    let address = match found {
        Some(address) => address,
        None => TcpListener::bind(SocketAddr::new(HOST, 0))?.local_addr()?,
    };
    Ok((address, Some(why)))
}

/// Whether `address` can be bound: nobody listens there and no other mesh's gateway holds it.
fn free(address: SocketAddr, taken: &[SocketAddr]) -> io::Result<()> {
    if taken.contains(&address) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    AddressLock::take(address).map_err(|_| io::Error::from(io::ErrorKind::AddrInUse))?;
    TcpListener::bind(address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_moved_and_said() {
        let holder = TcpListener::bind((HOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let (address, why) = choose(port, &[]).unwrap();
        assert_ne!(address.port(), port);
        assert_eq!(address.ip(), HOST);
        assert!(why.unwrap().contains("in use"));
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_port_that_another_mesh_has_chosen_is_moved() {
        let free_port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
        let _lock = AddressLock::take(free_port).unwrap();
        assert_ne!(choose(free_port.port(), &[]).unwrap().0, free_port);
    }

    #[test]
    fn a_free_port_is_kept() {
        let free_port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
        assert_eq!(choose(free_port.port(), &[]).unwrap(), (free_port, None));
        assert_ne!(choose(free_port.port(), &[free_port]).unwrap().0, free_port);
    }
}
