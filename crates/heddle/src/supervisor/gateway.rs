//! Gateways on one machine: a proxy each, without an application, bound on the loopback address or where they are told to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use api::{Gateway, ListenerProtocol};
use net::listen::{self, AddressLock};
use proxy::settings::GatewayBinding;
use serde::Serialize;

use super::Mesh;
use super::sidecar::{ProxyState, Sidecar};
use crate::sidecar::settings::{Registration, explicit};

/// Where browsers and curl on this machine reach a gateway that names no addresses: nobody else's traffic comes in unasked.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A privileged port is moved up by this many, as people do by hand: 80 becomes 8080, 443 becomes 8443.
const MOVE: u16 = 8000;

/// Ports that are tried one after the other before the system chooses one.
const TRIES: u16 = 50;

/// By address and declared port.
pub(crate) type Places = BTreeMap<SocketAddr, Chosen>;

/// A running gateway.
#[derive(Debug)]
pub(crate) struct GatewayProxy {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) listeners: Vec<Bound>,
    addresses: Vec<IpAddr>,
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
        // All addresses are none that can be called.
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("{}://{}", if self.http { "http" } else { "tcp" }, SocketAddr::new(ip, self.address.port()))
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
            for ip in hosts(gateway) {
                let declared = SocketAddr::new(ip, listener.port);
                let place = match places.entry(declared) {
                    Entry::Occupied(place) => place.into_mut(),
                    Entry::Vacant(place) => place.insert(match kept.remove(&declared) {
                        Some(chosen) => chosen,
                        None => mesh.choose(name, declared)?,
                    }),
                };
                listeners.push(Bound {
                    listener: listener.name.clone(),
                    declared: listener.port,
                    address: place.address,
                    http: listener.protocol == ListenerProtocol::Http,
                });
            }
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
        Ok(GatewayProxy {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ip,
            listeners,
            addresses: gateway.addresses.clone(),
            places,
            sidecar,
        })
    }

    /// Whether its addresses and ports are still those that `gateway` declares; all else changes without a restart.
    pub(crate) fn fits(&self, gateway: &Gateway) -> bool {
        let declared = gateway.listeners.iter().flat_map(|l| {
            hosts(gateway).into_iter().map(move |_| (&l.name, l.port, l.protocol == ListenerProtocol::Http))
        });
        self.addresses == gateway.addresses
            && declared.eq(self.listeners.iter().map(|b| (&b.listener, b.declared, b.http)))
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
        self.sidecar.end(limit);
        self.sidecar.ended().await;
        self.places
    }
}

/// Where `gateway` listens.
fn hosts(gateway: &Gateway) -> Vec<IpAddr> {
    if gateway.addresses.is_empty() { vec![HOST] } else { gateway.addresses.clone() }
}

/// Whether `gateway` has a listener at `address`.
pub(crate) fn declares(gateway: &Gateway, address: SocketAddr) -> bool {
    let port = gateway.listeners.iter().any(|listener| listener.port == address.port());
    port && hosts(gateway).into_iter().any(|ip| ip == address.ip())
}

/// Name of the workload that a gateway's proxy is; no Deployment makes one like it.
fn workload_name(gateway: &str) -> String {
    format!("gateway-{gateway}")
}

/// One binding an address and port, though several listeners may share it.
fn bindings(listeners: &[Bound]) -> Vec<GatewayBinding> {
    let mut bindings: Vec<GatewayBinding> =
        listeners.iter().map(|b| GatewayBinding { listen: b.address, port: b.declared }).collect();
    bindings.sort_by_key(|b| (b.port, b.listen));
    bindings.dedup_by_key(|b| (b.port, b.listen));
    bindings
}

/// `wanted`, or another port of the same address where that cannot be had.
///
/// # Errors
/// The address is not this machine's, or has no free port.
pub(crate) fn choose(wanted: SocketAddr) -> io::Result<Chosen> {
    let declared = wanted.port();
    let why = match claim(wanted) {
        Ok(claim) => return Ok(Chosen { address: wanted, _claim: claim, moved: None }),
        Err(why) if why.kind() == io::ErrorKind::AddrNotAvailable => return Err(why),
        Err(why) => why,
    };
    let why = match why.kind() {
        io::ErrorKind::PermissionDenied => format!("port {declared} needs privileges"),
        io::ErrorKind::AddrInUse => format!("port {declared} is in use"),
        _ => format!("port {declared} cannot be bound ({why})"),
    };
    let first = if declared < 1024 { declared + MOVE } else { declared.saturating_add(1) };
    let mut next = (first..=first.saturating_add(TRIES)).map(|port| SocketAddr::new(wanted.ip(), port));
    let (address, claim) = match next.find_map(|address| Some((address, claim(address).ok()?))) {
        Some(found) => found,
        None => {
            let any = listen::free(SocketAddr::new(wanted.ip(), 0))?;
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
    listen::free(address)?;
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn choose_port(port: u16) -> Chosen {
        choose(SocketAddr::new(HOST, port)).unwrap()
    }

    #[test]
    fn an_address_of_another_machine_is_refused_and_all_addresses_are_told_by_one() {
        // Of the block that is for documentation (RFC 5737).
        let refused = choose("192.0.2.1:8080".parse().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        let url = |address: &str| {
            let bound = Bound { listener: String::new(), declared: 1, address: address.parse().unwrap(), http: true };
            bound.url()
        };
        assert_eq!(url("0.0.0.0:81"), "http://127.0.0.1:81");
        assert_eq!(url("[::]:81"), "http://[::1]:81");
        assert_eq!(url("10.0.0.1:81"), "http://10.0.0.1:81");
    }

    #[test]
    fn a_port_in_use_is_moved_and_said() {
        let holder = TcpListener::bind((HOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let chosen = choose_port(port);
        assert_ne!(chosen.address.port(), port);
        assert_eq!(chosen.address.ip(), HOST);
        assert!(chosen.moved.unwrap().contains("in use"));
        TcpListener::bind(chosen.address).unwrap();
    }

    #[test]
    fn a_port_that_another_mesh_listens_on_is_moved() {
        let free_port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
        let _lock = AddressLock::take(free_port).unwrap();
        assert_ne!(choose_port(free_port.port()).address, free_port);
    }

    #[test]
    fn a_free_port_is_kept_and_chosen_by_one() {
        let free_port = TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap();
        let first = choose_port(free_port.port());
        assert_eq!((first.address, &first.moved), (free_port, &None));
        // Its proxy does not listen yet, or has just died.
        let second = choose_port(free_port.port());
        assert!(second.address != free_port && second.moved.unwrap().contains("in use"));
        drop(first);
        assert_eq!(choose_port(free_port.port()).address, free_port);
    }
}
