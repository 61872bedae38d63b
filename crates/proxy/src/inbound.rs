//! What comes in from other sidecars: mutual TLS, then the application.

use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;

use engine::authorize::Decision;
use engine::detect::Detected;
use engine::{Protocol, Reason};
use net::ahead::ReadAhead;
use net::tls::{self, Alpn};
use telemetry::metrics::PeerRefusal;
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::end::End;
use crate::identify::{Other, Spoken};
use crate::io::Io;
use crate::link::{self, Link, Role};
use crate::listen::{self, Heard};
use crate::reply::{self, Refusal};
use crate::route::{Caller, Door, Way};
use crate::target::Target;
use crate::term::Term;
use crate::upstream::{self, Route};
use crate::worker::{Side, Worker};
use crate::{deadline::Deadline, http1, http2, identify, peers, tcp};

/// The first byte of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// Serves one connection from another sidecar.
pub(crate) async fn serve(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let limit = worker.limits().handshake_timeout;
    let refuse = |why, detail: &dyn Display| worker.observer.peers.refused_caller(peer, why, detail, worker.now());
    let accepted = tokio::time::timeout(limit, Box::pin(accept(worker, stream))).await;
    let (io, caller) = match accepted {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(Problem::PlainText(stream))) => {
            refuse(PeerRefusal::PlainText, &"it speaks plain text");
            return refuse_plain_text(worker, stream).await;
        }
        Ok(Err(Problem::Handshake(error))) => {
            return match peers::cause(&error) {
                Some(why) => refuse(why, &error),
                None => tracing::debug!(%peer, %error, "a handshake came to nothing"),
            };
        }
        Err(_) => return refuse(PeerRefusal::Timeout, &format_args!("its handshake took longer than {limit:?}")),
    };
    let Some(port) = called_port(&caller.sni, &worker.shared.settings.workload) else {
        let detail = format_args!("{} wants somebody else, {:?}", caller.id, caller.sni);
        return refuse(PeerRefusal::WrongName, &detail);
    };
    if worker.shared.settings.own_port(port) {
        let detail = format_args!("{} wants to leave from here as this workload, by port {port}", caller.id);
        return refuse(PeerRefusal::OwnPort, &detail);
    }
    let address = SocketAddr::new(worker.shared.settings.application, port);
    let term = Some(Term::of_server(caller.expires, worker.now()));
    let who = Caller { term, ..Caller::new(worker, Some(caller.id), address, peer) };
    let door = Door::new(Way::Inbound(who), peer);
    let conn = |io| Conn::new(io, Buffer::default());
    match caller.alpn {
        Alpn::Link => streams(worker, door, io).await,
        // Requests alone come here: a tunnel is made by the forward proxy.
        Alpn::Http1 => drop(http1::serve(worker, &door, conn(io)).await),
        Alpn::Http2 => http2::serve(worker, door, conn(io)).await,
        Alpn::Tcp => opaque(worker, &door, conn(io), None).await,
    }
}

/// Serves one connection that the kernel redirected on its way to `address` of the application: its caller has no sidecar, and
/// so no proved identity.
pub(crate) async fn serve_plain(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, address: SocketAddr) {
    if worker.shared.settings.own_port(address.port()) {
        let detail = format_args!("it wants to leave from here as this workload, by {address}");
        worker.observer.peers.refused_caller(peer, PeerRefusal::OwnPort, detail, worker.now());
        return Io::Tcp(stream).abort_on_close();
    }
    let door = Door::new(Way::Inbound(Caller::new(worker, None, address, peer)), peer);
    identify::serve(worker, door, Conn::new(Io::Tcp(stream), Buffer::default())).await;
}

/// What a caller without a sidecar speaks. A sidecar says so in its handshake.
pub(crate) async fn identify(worker: &Rc<Worker>, door: &Door, caller: &Caller, conn: &mut Conn) -> Spoken {
    let target = Target::from(caller.address);
    let (protocol, http_alone) = match &*worker.shared.live.inbound.load() {
        None => (Protocol::Auto, false),
        Some(inbound) => {
            let port = caller.address.port();
            (inbound.port(port).map_or(Protocol::Auto, |port| port.protocol), inbound.authorizer.needs_http(port))
        }
    };
    // The application is not troubled by somebody who may not speak to it.
    let opening = async {
        judge(worker, door, caller)?;
        dial(worker, caller).await
    };
    match protocol {
        Protocol::Http1 | Protocol::Http2 => identify::by_preface(worker, Side::In, conn).await,
        _ if http_alone => {
            Box::pin(identify::http_alone(worker, Side::In, conn, &target, opening, |conn| conn)).await.0
        }
        Protocol::Tcp | Protocol::Tls => Spoken::Opaque(Other::Application(None)),
        Protocol::Auto if worker.server_speaks_first(&target) => Spoken::Opaque(Other::Application(None)),
        Protocol::Auto => {
            let listened = listen::both(worker, Side::In, conn, &target, opening, |conn| conn).await;
            match listened.heard {
                Heard::Client(detected @ (Detected::Http1 | Detected::Http2)) => identify::http(detected),
                Heard::Gone => Spoken::Gone,
                Heard::Client(_) | Heard::Other | Heard::Nobody => match listened.other.transpose() {
                    Ok(opened) => Spoken::Opaque(Other::Application(opened)),
                    Err(refusal) => Spoken::Refused(refusal),
                },
            }
        }
    }
}

/// Serves every stream of a link as a connection of its own.
async fn streams(worker: &Rc<Worker>, door: Door, io: Io) {
    let term = door.term();
    // Its streams have flow control of their own, so the peer has no reason not to read.
    io.expect_reader();
    let door = Rc::new(door);
    let mut accept = |stream| {
        let (worker, door) = (Rc::clone(worker), Rc::clone(&door));
        tokio::task::spawn_local(async move {
            let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
            let Some(_presence) = worker.enter(worker.ending(Side::In).guard(), &waker) else { return };
            http1::serve(&worker, &door, Conn::new(Io::Stream(stream), Buffer::default())).await;
        });
    };
    link::drive(worker, Link::new(worker.buffers()), io, Role::Server(&mut accept), term).await;
}

enum Problem {
    PlainText(TcpStream),
    Handshake(tls::Error),
}

async fn accept(worker: &Worker, stream: TcpStream) -> Result<(Io, tls::Peer), Problem> {
    let mut first = [0; 1];
    let seen = stream.peek(&mut first).await.map_err(|error| Problem::Handshake(tls::Error::Io(error)))?;
    if seen == 1 && first[0] != HANDSHAKE {
        return Err(Problem::PlainText(stream));
    }
    let (stream, peer) =
        tls::accept(ReadAhead::new(stream), &worker.shared.identity).await.map_err(Problem::Handshake)?;
    Ok((Io::Server(Box::new(stream)), peer))
}

/// Says in HTTP/1, which most who come here by mistake speak, that mutual TLS is needed.
async fn refuse_plain_text(worker: &Worker, stream: TcpStream) {
    let mut down = End::H1(Box::new(Conn::new(Io::Tcp(stream), Buffer::default())));
    let refusal = Refusal::new(Reason::PlainTextRefused, "this port takes mutual TLS from other sidecars alone");
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(Some(worker.now().after(worker.limits().handshake_timeout.into())));
    if reply::answer(&mut down, None, &refusal, true).is_ok() {
        // The connection is closed either way.
        let _ = reply::flush(&mut down, &mut deadline).await;
    }
}

/// The port in `p<port>.<workload>.<namespace>.heddle`, if that is `own` (`namespace/workload`).
fn called_port(sni: &str, own: &str) -> Option<u16> {
    let (namespace, workload) = own.split_once('/')?;
    let rest = sni.strip_prefix('p')?.strip_suffix(".heddle")?.strip_suffix(namespace)?.strip_suffix('.')?;
    let port = rest.strip_suffix(workload)?.strip_suffix('.')?;
    port.parse().ok().filter(|port| *port != 0)
}

/// Carries a connection to the application, if its caller may; `opened` is one to the application that is there already.
pub(crate) async fn opaque(worker: &Rc<Worker>, door: &Door, mut conn: Conn, opened: Option<Conn>) {
    let Way::Inbound(caller) = &door.way else { return };
    let mut record = worker.observer.begin(door.direction(), worker.now());
    match judge(worker, door, caller) {
        Err(refusal) => return tcp::refuse(worker, door, conn, &refusal),
        Ok(series) => record.series = series,
    }
    let opened = match opened {
        Some(opened) => Ok(opened),
        None => dial(worker, caller).await,
    };
    match opened {
        Ok(mut up) => {
            tcp::carry_between(worker, door, record, &mut conn, &mut up, worker.defaults.idle_timeout, None).await;
        }
        Err(refusal) => tcp::refuse(worker, door, conn, &refusal),
    }
}

/// Connects to the application.
async fn dial(worker: &Worker, caller: &Caller) -> Result<Conn, Refusal> {
    let limit = worker.defaults.connect_timeout.duration();
    let route = caller.source.map_or(Route::Address(caller.address), |source| Route::As(caller.address, source));
    match tokio::time::timeout(limit, upstream::connect(worker, &route, Alpn::Tcp)).await {
        Ok(connected) => connected.map(|(io, _)| Conn::new(io, Buffer::default())),
        Err(_) => Err(Reason::ConnectFailed.into()),
    }
}

/// Whether a connection whose requests are not seen may come in, and where it is counted.
fn judge(worker: &Worker, door: &Door, caller: &Caller) -> Result<engine::SeriesId, Refusal> {
    let inbound = worker.shared.live.inbound.load();
    let Some(inbound) = &*inbound else { return Err(Reason::NotReady.into()) };
    if caller.is_refused(worker) {
        return Err(Reason::PlainTextRefused.into());
    }
    match inbound.authorizer.connection(&caller.who(door.peer)) {
        Decision::Deny(_) => Err(Reason::Denied.into()),
        Decision::Allow => Ok(inbound.port(caller.address.port()).map_or(inbound.series, |port| port.series)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_be_ones_own() {
        let own = "shop/cart-0";
        assert_eq!(called_port("p8080.cart-0.shop.heddle", own), Some(8080));
        for other in [
            "p8080.cart-1.shop.heddle",
            "p8080.cart-0.shopp.heddle",
            "p0.cart-0.shop.heddle",
            "8080.cart-0.shop.heddle",
            "p8080cart-0.shop.heddle",
            "p.cart-0.shop.heddle",
            "p+1.cart-0.shop.heddle2",
            "",
        ] {
            assert_eq!(called_port(other, own), None, "{other}");
        }
    }
}
