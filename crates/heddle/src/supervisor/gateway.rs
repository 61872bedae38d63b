//! Gateways on one machine: a proxy each, without an application, bound on the loopback address.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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

/// By declared port.
pub(crate) type Places = BTreeMap<u16, Chosen>;

/// A running gateway.
#[derive(Debug)]
pub(crate) struct GatewayProxy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) listeners: Vec<Bound>,
    places: Places,
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

/// Where a declared port is.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) address: SocketAddr,
    /// Keeps other meshes from choosing the address while the proxy starts, or starts again.
    _claim: AddressLock,
    /// Why it is not the one that was declared.
    pub(crate) moved: Option<String>,
}

impl Bound {
    /// What to type.
    pub(crate) fn url(&self) -> String {
        if self.http { format!("http://{}", self.address) } else { format!("tcp://{}", self.address) }
    }
}

impl GatewayProxy {
    /// Binds every port that `gateway` declares, moved where that cannot be, and starts the proxy. `kept` is what
    /// [`GatewayProxy::end`] of an earlier proxy of the same gateway returned.
    pub(crate) fn start(
        mesh: &Mesh,
        namespace: &str,
        name: &str,
        gateway: &Gateway,
        ip: IpAddr,
        mut kept: Places,
    ) -> anyhow::Result<GatewayProxy> {
        let mut places = Places::new();
        let mut listeners: Vec<Bound> = Vec::new();
        for listener in &gateway.listeners {
            let place = match places.entry(listener.port) {
                Entry::Occupied(place) => place.into_mut(),
                Entry::Vacant(place) => place.insert(match kept.remove(&listener.port) {
                    Some(chosen) => chosen,
                    None => mesh.choose(name, listener.port)?,
                }),
            };
            listeners.push(Bound {
                listener: listener.name.clone(),
                declared: listener.port,
                address: place.address,
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
        let sidecar = Sidecar::start(&workload_name(name), &settings, mesh.tokens(), None, &mesh.reporter)?;
        // There is no application: it is ready when its proxy is.
        sidecar.ready(true);
        Ok(GatewayProxy { namespace: namespace.to_owned(), name: name.to_owned(), ip, listeners, places, sidecar })
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

    /// Ends it, after at most `limit` for requests under way. Returns where it was, for its successor.
    pub(crate) async fn end(mut self, limit: Duration) -> Places {
        self.sidecar.drain(limit);
        self.sidecar.ended().await;
        self.places
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

/// The address for `declared`.
pub(crate) fn choose(declared: u16) -> io::Result<Chosen> {
    let wanted = SocketAddr::new(HOST, declared);
    let why = match claim(wanted) {
        Ok(claim) => return Ok(Chosen { address: wanted, _claim: claim, moved: None }),
        Err(why) => why,
    };
    let why = match why.kind() {
        io::ErrorKind::PermissionDenied => format!("port {declared} needs privileges"),
        io::ErrorKind::AddrInUse => format!("port {declared} is in use"),
        _ => format!("port {declared} cannot be bound ({why})"),
    };
    let first = if declared < 1024 { declared + MOVE } else { declared.saturating_add(1) };
    let mut next = (first..=first.saturating_add(TRIES)).map(|port| SocketAddr::new(HOST, port));
    let (address, claim) = match next.find_map(|address| Some((address, claim(address).ok()?))) {
        Some(found) => found,
        None => {
            let any = TcpListener::bind(SocketAddr::new(HOST, 0))?.local_addr()?;
            (any, claim(any)?)
        }
    };
    Ok(Chosen { address, _claim: claim, moved: Some(why) })
}

/// Claims `address` if it can be bound: nobody listens there, and no other mesh's gateway is going to.
fn claim(address: SocketAddr) -> io::Result<AddressLock> {
    let taken = |_| io::Error::from(io::ErrorKind::AddrInUse);
    let claim = AddressLock::claim(address).map_err(taken)?;
    AddressLock::take(address).map_err(taken)?;
    TcpListener::bind(address)?;
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_moved_and_said() {
        let holder = TcpListener::bind((HOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let chosen = choose(port).unwrap();
        assert_ne!(chosen.address.port(), port);
        assert_eq!(chosen.address.ip(), HOST);
        assert!(chosen.moved.unwrap().contains("in use"));
        TcpListener::bind(chosen.address).unwrap();
    }

    #[test]
    fn a_port_that_another_mesh_listens_on_is_moved() {
        let free_port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
        let _lock = AddressLock::take(free_port).unwrap();
        assert_ne!(choose(free_port.port()).unwrap().address, free_port);
    }

    #[test]
    fn a_free_port_is_kept_and_chosen_by_one() {
        let free_port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
        let first = choose(free_port.port()).unwrap();
        assert_eq!((first.address, &first.moved), (free_port, &None));
        // Its proxy does not listen yet, or has just died.
        let second = choose(free_port.port()).unwrap();
        assert!(second.address != free_port && second.moved.unwrap().contains("in use"));
        drop(first);
        assert_eq!(choose(free_port.port()).unwrap().address, free_port);
    }
}
