//! What comes in from other sidecars: mutual TLS, then the application.

use std::net::SocketAddr;
use std::rc::Rc;

use engine::Reason;
use engine::authorize::{self, Decision};
use net::tls::{self, Alpn};
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::end::End;
use crate::io::Io;
use crate::reply::{self, Refusal};
use crate::route::{Caller, Door, Way};
use crate::upstream::{self, Route};
use crate::worker::Worker;
use crate::{deadline::Deadline, http1, http2, tcp};

/// The first byte of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// Serves one connection from another sidecar.
pub(crate) async fn serve(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let limit = worker.limits().handshake_timeout;
    let accepted = tokio::time::timeout(limit, Box::pin(accept(worker, stream))).await;
    let (io, caller) = match accepted {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(Problem::PlainText(stream))) => return refuse_plain_text(worker, stream).await,
        Ok(Err(Problem::Handshake(error))) => {
            tracing::info!(%peer, %error, "refused a peer");
            return;
        }
        Err(_) => {
            tracing::info!(%peer, "refused a peer: its handshake took longer than {limit:?}");
            return;
        }
    };
    let Some(port) = called_port(&caller.sni, &worker.shared.settings.workload) else {
        tracing::info!(%peer, caller = %caller.id, name = caller.sni, "refused a peer that wants somebody else");
        return;
    };
    if worker.shared.settings.own_port(port) {
        tracing::info!(%peer, caller = %caller.id, port, "refused a peer that wants to leave from here as this workload");
        return;
    }
    let door = Door { way: Way::Inbound(Caller { id: caller.id, port }), peer, depth: 0 };
    let conn = Conn::new(io, Buffer::default());
    match caller.alpn {
        // Requests alone come here: a tunnel is made by the forward proxy.
        Alpn::Http1 => drop(http1::serve(worker, &door, conn).await),
        Alpn::Http2 => http2::serve(worker, door, conn).await,
        Alpn::Tcp => opaque(worker, &door, port, conn).await,
    }
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
    let (stream, peer) = tls::accept(stream, &worker.shared.identity).await.map_err(Problem::Handshake)?;
    Ok((Io::Server(Box::new(stream)), peer))
}

/// Says in HTTP/1, which most who come here by mistake speak, that mutual TLS is needed.
async fn refuse_plain_text(worker: &Worker, stream: TcpStream) {
    let mut down = End::H1(Conn::new(Io::Tcp(stream), Buffer::default()));
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

async fn opaque(worker: &Rc<Worker>, door: &Door, port: u16, mut conn: Conn) {
    let Way::Inbound(caller) = &door.way else { return };
    let mut record = worker.observer.begin(door.direction(), worker.now());
    match judge(worker, door, caller) {
        Err(refusal) => return tcp::refuse(worker, door, conn, &refusal),
        Ok(series) => record.series = series,
    }
    let address = SocketAddr::new(worker.shared.settings.application, port);
    let limit = worker.defaults.connect_timeout.duration();
    let connected = tokio::time::timeout(limit, upstream::connect(worker, &Route::Address(address), Alpn::Tcp)).await;
    match connected {
        Ok(Ok((io, _))) => {
            let mut up = Conn::new(io, Buffer::default());
            tcp::carry_between(worker, door, record, &mut conn, &mut up, worker.defaults.idle_timeout).await;
        }
        Ok(Err(refusal)) => tcp::refuse(worker, door, conn, &refusal),
        Err(_) => tcp::refuse(worker, door, conn, &Reason::ConnectFailed.into()),
    }
}

/// Whether a connection whose requests are not seen may come in, and where it is counted.
fn judge(worker: &Worker, door: &Door, caller: &Caller) -> Result<engine::SeriesId, Refusal> {
    let inbound = worker.shared.live.inbound.load();
    let Some(inbound) = &*inbound else { return Err(Reason::NotReady.into()) };
    let who = authorize::Caller { identity: Some(caller.id.as_str()), address: door.peer.ip(), port: caller.port };
    match inbound.authorizer.connection(&who) {
        Decision::Deny(_) => Err(Reason::Denied.into()),
        Decision::Allow => {
            let declared = inbound.ports.iter().find(|port| port.port == caller.port);
            Ok(declared.map_or(inbound.series, |port| port.series))
        }
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
