//! Connections to whoever answers: endpoints through their sidecar or plain, the application, hosts outside.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::SystemTime;

use engine::balance::Dial;
use engine::{Nanos, Reason};
use h2::client::{self, ResponseFuture, SendRequest};
use net::ahead::ReadAhead;
use net::dial;
use net::tls::{self, Alpn};
use tokio::net::TcpStream;

use bytes::Bytes;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::end::{self, End};
use crate::gather;
use crate::io::Io;
use crate::link::{self, Link, Role, Stream};
use crate::peers;
use crate::pool::{Lease, Peer, Place};
use crate::reply::Refusal;
use crate::term::{self, Term};
use crate::worker::Worker;

/// How far an HTTP/2 peer may be ahead of us on one stream: what a slow reader can make us hold.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;

/// And on all streams of a connection together.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

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
    /// HTTP/1: the connection. HTTP/2: the stream, once the request is sent.
    pub(crate) end: End,
    /// HTTP/2 before the request is sent.
    pub(crate) requests: Option<SendRequest<Bytes>>,
    /// HTTP/2 after it.
    pub(crate) answer: Option<ResponseFuture>,
    /// The place on an HTTP/2 connection, held until the stream is over.
    pub(crate) _lease: Option<Lease>,
    /// Whom it leads to.
    pub(crate) peer: Peer,
    /// It carried other requests before.
    pub(crate) reused: bool,
    /// How long the connection lasts.
    pub(crate) expires: Option<Term>,
}

/// A pooled HTTP/1 connection, if there is one.
pub(crate) fn pooled(worker: &Worker, peer: Peer, now: Nanos) -> Option<Upstream> {
    let (conn, expires) = worker.pool.borrow_mut().take(peer, now)?;
    Some(Upstream { end: End::H1(conn), requests: None, answer: None, _lease: None, peer, reused: true, expires })
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
            let end = End::H1(Conn::new(io, Buffer::default()));
            Ok(Upstream { end, requests: None, answer: None, _lease: None, peer, reused, expires })
        }
        Wire::Http2 => {
            let (requests, lease, reused) = place(worker, peer, route).await?;
            let end = End::H2(end::Stream::default());
            Ok(Upstream {
                end,
                requests: Some(requests),
                answer: None,
                _lease: Some(lease),
                peer,
                reused,
                expires: None,
            })
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
                let link = Link::new();
                let (driver, shared) = (Rc::clone(worker), Rc::clone(&link));
                tokio::task::spawn_local(async move { link::drive(&driver, shared, io, Role::Client, expires).await });
                worker.pool.borrow_mut().share_link(peer, link, expires, worker.now());
                drop(permit);
                reused = false;
            }
        }
    }
}

async fn place(
    worker: &Rc<Worker>,
    peer: Peer,
    route: &Route<'_>,
) -> Result<(SendRequest<Bytes>, Lease, bool), Refusal> {
    loop {
        let place = worker.pool.borrow_mut().place(peer, worker.now());
        match place {
            Place::Ready((requests, lease)) => return Ok((requests, lease, true)),
            Place::Wait(attempt) => attempt.ended().await,
            Place::Open(permit) => {
                let (io, expires) = connect(worker, route, Alpn::Http2).await?;
                let (io, outlet) = gather::around(io);
                let handshake = client::Builder::new()
                    .initial_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(u32::try_from(worker.limits().head_bytes).unwrap_or(u32::MAX))
                    .enable_push(false)
                    .handshake(io);
                let (requests, connection) = outlet.driving(handshake).await.map_err(|error| {
                    Refusal::new(Reason::ConnectFailed, format!("{}: HTTP/2 preface: {error}", route.address()))
                })?;
                // The connection ends when its last handle is dropped its peer ends it or its time is over; streams learn of errors themselves.
                let over = term::over(&worker.shared.clock, expires);
                tokio::task::spawn_local(async move {
                    tokio::select! {
                        biased;
                        ended = outlet.driving(connection) => if let Err(error) = ended {
                            tracing::debug!(%error, "HTTP/2 connection ended");
                        },
                        () = over => {}
                    }
                });
                let mut requests = requests;
                poll_fn(|cx| requests.poll_ready(cx))
                    .await
                    .map_err(|error| Refusal::new(Reason::ConnectFailed, format!("{}: {error}", route.address())))?;
                let lease = worker.pool.borrow_mut().share(peer, requests.clone(), expires, worker.now());
                drop(permit);
                return Ok((requests, lease, false));
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
