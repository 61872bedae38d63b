//! Connections to whoever answers: endpoints through their sidecar or plain, the application, hosts outside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::SystemTime;

use engine::balance::Dial;
use engine::{Nanos, Reason};
use net::ahead::ReadAhead;
use net::dial;
use net::tls::{self, Alpn};
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::end::End;
use crate::h2::{self, Connection};
use crate::io::Io;
use crate::link::{self, Link, Role, Stream};
use crate::peers;
use crate::pool::{Peer, Place};
use crate::reply::Refusal;
use crate::term::Term;
use crate::worker::Worker;

/// Which HTTP is spoken to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// Where to connect, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route<'a> {
    /// To an endpoint.
    Endpoint(&'a Dial),
    /// In plain text.
    Address(SocketAddr),
    /// In plain text, in the name of somebody at that address.
    As(SocketAddr, IpAddr),
}

/// A connection, or a place on one, for one request.
pub(crate) struct Upstream {
    /// HTTP/1: the connection. HTTP/2: the stream, which the request opens.
    pub(crate) end: End,
    /// Whom it leads to.
    pub(crate) peer: Peer,
    /// It carried other requests before.
    pub(crate) reused: bool,
    /// How long the connection lasts.
    pub(crate) expires: Option<Term>,
}

/// A pooled HTTP/1 connection, or a place on a shared HTTP/2 connection, if there is one.
pub(crate) fn pooled(worker: &Worker, peer: Peer, wire: Wire, now: Nanos) -> Option<Upstream> {
    let mut pool = worker.pool.borrow_mut();
    let (end, expires) = match wire {
        Wire::Http1 => pool.take(peer, now).map(|(conn, expires)| (End::H1(conn), expires))?,
        Wire::Http2 => pool.free_place(peer, now).map(|(stream, expires)| (End::H2(stream), expires))?,
    };
    Some(Upstream { end, peer, reused: true, expires })
}

/// A new HTTP/1 connection, or a place on a shared or new HTTP/2 connection, within `limit`.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    peer: Peer,
    route: Route<'_>,
    wire: Wire,
    limit: Nanos,
) -> Result<Upstream, Refusal> {
    match tokio::time::timeout(limit.duration(), open_unbounded(worker, peer, &route, wire)).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(
            Reason::ConnectFailed,
            format!("no connection to {} within {:?}", route.address(), limit.duration()),
        )),
    }
}

async fn open_unbounded(worker: &Rc<Worker>, peer: Peer, route: &Route<'_>, wire: Wire) -> Result<Upstream, Refusal> {
    match wire {
        Wire::Http1 => {
            let bulky = worker.pool.borrow().is_bulky(peer);
            let (io, expires, reused) = match route {
                Route::Endpoint(Dial::Mesh { .. }) if !bulky => {
                    let (stream, expires, reused) = stream(worker, peer, route).await?;
                    (Io::Stream(stream), expires, reused)
                }
                Route::Endpoint(_) | Route::Address(_) | Route::As(..) => {
                    let (io, expires) = connect(worker, route, Alpn::Http1).await?;
                    (io, expires, false)
                }
            };
            let end = End::H1(Box::new(Conn::new(io, Buffer::default())));
            Ok(Upstream { end, peer, reused, expires })
        }
        Wire::Http2 => {
            let (stream, expires, reused) = place(worker, peer, route).await?;
            Ok(Upstream { end: End::H2(stream), peer, reused, expires })
        }
    }
}

/// A stream on a shared or new link, how long the link lasts, and whether it is shared.
async fn stream(worker: &Rc<Worker>, peer: Peer, route: &Route<'_>) -> Result<(Stream, Option<Term>, bool), Refusal> {
    let mut reused = true;
    loop {
        let place = worker.pool.borrow_mut().stream(peer, worker.now());
        match place {
            Place::Ready((stream, expires)) => return Ok((stream, expires, reused)),
            Place::Wait(attempt) => attempt.ended().await,
            Place::Open(permit) => {
                let (io, expires) = connect(worker, route, Alpn::Link).await?;
                let link = Link::new(worker.buffers());
                let (driver, shared) = (Rc::clone(worker), Rc::clone(&link));
                tokio::task::spawn_local(async move { link::drive(&driver, shared, io, Role::Client, expires).await });
                worker.pool.borrow_mut().share_link(peer, link, expires, worker.now());
                drop(permit);
                reused = false;
            }
        }
    }
}

/// A place for a stream on a shared or new HTTP/2 connection, how long that lasts, and whether it is shared.
async fn place(
    worker: &Rc<Worker>,
    peer: Peer,
    route: &Route<'_>,
) -> Result<(h2::Stream, Option<Term>, bool), Refusal> {
    let mut reused = true;
    loop {
        let place = worker.pool.borrow_mut().place(peer, worker.now());
        match place {
            Place::Ready((stream, expires)) => return Ok((stream, expires, reused)),
            Place::Wait(attempt) => attempt.ended().await,
            Place::Open(permit) => {
                let (io, expires) = connect(worker, route, Alpn::Http2).await?;
                let connection = Connection::client(worker.limits(), &worker.streams);
                let (driver, shared) = (Rc::clone(worker), Rc::clone(&connection));
                tokio::task::spawn_local(async move {
                    h2::drive(&driver, shared, io, Buffer::default(), h2::Role::Client, expires).await;
                });
                worker.pool.borrow_mut().share(peer, connection, expires, worker.now());
                drop(permit);
                reused = false;
            }
        }
    }
}

/// Connects, with mutual TLS where the route says so. Says how long the connection lasts.
pub(crate) async fn connect(worker: &Worker, route: &Route<'_>, alpn: Alpn) -> Result<(Io, Option<Term>), Refusal> {
    let (address, mesh) = match route {
        Route::Endpoint(Dial::Plain(address)) | Route::Address(address) | Route::As(address, _) => (*address, None),
        Route::Endpoint(Dial::Mesh { address, sni, identity }) => (*address, Some((sni, identity))),
    };
    if mesh.is_some() && expired(worker) {
        // Every peer would refuse it, and the peers are not to blame.
        return Err(Refusal::new(
            Reason::NotReady,
            "this workload's certificate has expired; no control plane has renewed it",
        ));
    }
    let failed = |error: io::Error| Refusal::new(Reason::ConnectFailed, format!("connecting to {address}: {error}"));
    let stream = match (route, &worker.shared.inside) {
        (Route::As(_, source), _) => dial::connect_as(*source, address).await,
        // Its address means the application inside, and its sidecar outside.
        (_, Some(inside)) if mesh.is_none() && address.ip() == worker.shared.settings.application => {
            inside.take().await.connect(address).await
        }
        _ => TcpStream::connect(address).await,
    };
    let stream = stream.map_err(failed)?;
    // A tunnel's slow reader is waited for; so is that of a long body on a connection of its own (`Io::wait_for_reader`).
    let bound = (alpn != Alpn::Tcp).then_some(dial::UNACKNOWLEDGED);
    dial::prepare(&stream, bound).map_err(failed)?;
    if mesh.is_none() && address.ip().is_loopback() {
        dial::stays_here(&stream);
    }
    let Some((sni, identity)) = mesh else { return Ok((Io::Tcp(stream), None)) };
    let handshake = tls::connect(ReadAhead::new(stream), &worker.shared.identity, identity, sni, alpn);
    match tokio::time::timeout(worker.limits().handshake_timeout, handshake).await {
        Ok(Ok(stream)) => {
            // The server ends the connection with our certificate, as we do with its.
            let own = worker.shared.identity.validity().map(|validity| validity.not_after);
            let end = tls::peer_expiry(&stream).into_iter().chain(own).min();
            let expires = end.map(|end| Term::of_client(end, worker.now()));
            Ok((Io::Client(Box::new(stream)), expires))
        }
        Ok(Err(error)) => {
            if let Some(why) = peers::cause(&error) {
                worker.observer.peers.refused_called(address, why, format_args!("{sni}: {error}"), worker.now());
            }
            Err(Refusal::new(handshake_reason(&error), format!("TLS with {address} ({sni}): {error}")))
        }
        Err(_) => Err(Refusal::new(Reason::ConnectFailed, format!("TLS with {address} ({sni}) took too long"))),
    }
}

fn expired(worker: &Worker) -> bool {
    worker.shared.identity.validity().is_some_and(|validity| validity.not_after <= SystemTime::now())
}

fn handshake_reason(error: &tls::Error) -> Reason {
    match error {
        tls::Error::Expired
        | tls::Error::UnknownRoot
        | tls::Error::WrongIdentity { .. }
        | tls::Error::Certificate(_)
        | tls::Error::NoCertificate => Reason::IdentityMismatch,
        tls::Error::NotReady(_) => Reason::NotReady,
        tls::Error::Refused(_) | tls::Error::Protocol(_) | tls::Error::Io(_) => Reason::ConnectFailed,
    }
}

impl Route<'_> {
    /// The address that is dialled.
    fn address(&self) -> SocketAddr {
        match self {
            Route::Endpoint(Dial::Plain(address) | Dial::Mesh { address, .. })
            | Route::Address(address)
            | Route::As(address, _) => *address,
        }
    }
}
