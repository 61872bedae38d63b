//! The identify phase: what a connection speaks. What its port was declared to speak wins; otherwise its first bytes tell.
//!
//! Where no HTTP rule is attached, the other side is dialled while the client is listened to, so that a server that speaks first
//! (MySQL, SMTP) is heard at once. That a server spoke first is remembered for its destination; that a client was slow is not.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use engine::detect::{Detected, detect};
use engine::snapshot::{Resolution, TcpRule};
use engine::{Nanos, Protocol, Reason};

use crate::conn::Conn;
use crate::deadline::Deadline;
use crate::reply::Refusal;
use crate::route::{self, Door, Way};
use crate::target::Target;
use crate::tcp::{self, Opened};
use crate::worker::Worker;
use crate::{http1, http2};

/// What a connection speaks.
enum Spoken {
    Http1,
    Http2,
    /// Opaque bytes, by this rule, perhaps with the other side connected already.
    Opaque(Arc<TcpRule>, Option<Opened>),
    /// Opaque bytes to a host that the mesh does not know.
    Outside,
    Refused(Refusal),
    Gone,
}

/// Serves a connection that came in through `door` until it ends.
pub(crate) async fn serve(worker: &Rc<Worker>, mut door: Door, mut conn: Conn) {
    loop {
        let spoken = match &door.way {
            Way::Forward => by_preface(worker, &mut conn).await,
            Way::Fixed(target) => to_target(worker, target, &mut conn).await,
            Way::Gateway(port) => match route::gateway_tcp(worker, *port) {
                Some(rule) => Spoken::Opaque(rule, None),
                None => by_preface(worker, &mut conn).await,
            },
            // What a sidecar speaks was agreed on in the handshake; see `inbound`.
            Way::Inbound(_) => by_preface(worker, &mut conn).await,
        };
        match spoken {
            Spoken::Http2 => return http2::serve(worker, door, conn).await,
            Spoken::Http1 => match http1::serve(worker, &door, conn).await {
                None => return,
                Some(tunnel) => {
                    conn = tunnel.conn;
                    door = Door { way: Way::Fixed(tunnel.target), peer: door.peer, depth: door.depth + 1 };
                }
            },
            Spoken::Opaque(rule, opened) => return tcp::carry(worker, &door, conn, &rule, opened).await,
            Spoken::Outside => return tcp::carry_outside(worker, &door, conn).await,
            Spoken::Refused(refusal) => return tcp::refuse(worker, &door, conn, &refusal),
            Spoken::Gone => return,
        }
    }
}

async fn to_target(worker: &Rc<Worker>, target: &Target, conn: &mut Conn) -> Spoken {
    let resolution = match route::resolve(worker, target).await {
        Ok(resolution) => resolution,
        Err(refusal) => return Spoken::Refused(refusal),
    };
    let Resolution::Found(destination) = &**resolution else { return Spoken::Outside };
    let Some(port) = destination.port(target.port) else {
        return Spoken::Refused(Refusal::new(
            Reason::NoSuchPort,
            format!("{} has no port {}", destination.name, target.port),
        ));
    };
    let http_only = port.http.is_some();
    let (protocol, rule) = (port.protocol, Arc::clone(&port.tcp));
    drop(resolution);
    match protocol {
        Protocol::Http1 | Protocol::Http2 => by_preface(worker, conn).await,
        Protocol::Tcp | Protocol::Tls if !http_only => Spoken::Opaque(rule, None),
        _ if http_only => match listen(worker, conn).await {
            Detected::Http1 => Spoken::Http1,
            Detected::Http2 => Spoken::Http2,
            Detected::More if conn.input.is_empty() => Spoken::Gone,
            _ => {
                Spoken::Refused(Refusal::new(Reason::NotHttp, format!("{target} has HTTP rules, and this is not HTTP")))
            }
        },
        _ if worker.server_speaks_first(target) => Spoken::Opaque(rule, None),
        _ => while_dialling(worker, target, conn, rule).await,
    }
}

/// HTTP for certain; which one?
async fn by_preface(worker: &Worker, conn: &mut Conn) -> Spoken {
    match listen(worker, conn).await {
        Detected::Http2 => Spoken::Http2,
        Detected::More if conn.input.is_empty() => Spoken::Gone,
        // What is not HTTP/1 either is refused by its parser, with an answer.
        _ => Spoken::Http1,
    }
}

/// Reads until the first bytes are enough to tell, or time is up, or nothing more comes: then `More`.
async fn listen(worker: &Worker, conn: &mut Conn) -> Detected {
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(Some(worker.now().after(Nanos::from(worker.limits().detect_timeout))));
    poll_fn(|cx| {
        loop {
            match detect(conn.input.bytes()) {
                Detected::More => {}
                decided => return Poll::Ready(decided),
            }
            match conn.poll_fill(cx, worker, worker.limits().head_bytes) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Detected::More),
                Poll::Pending if worker.closes_idle() => return Poll::Ready(Detected::More),
                Poll::Pending => return deadline.poll(cx).map(|()| Detected::More),
            }
        }
    })
    .await
}

/// Listens to the client and to the server, whichever speaks first.
async fn while_dialling(worker: &Rc<Worker>, target: &Target, conn: &mut Conn, rule: Arc<TcpRule>) -> Spoken {
    // A client that speaks first has usually done so when its connection is accepted, or does so at once; one turn of the
    // runtime saves dialling for nothing.
    tokio::task::yield_now().await;
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(Some(worker.now().after(Nanos::from(worker.limits().detect_timeout))));
    let mut opening = Box::pin(tcp::open(worker, &rule));
    let mut opened: Option<Result<Opened, Refusal>> = None;
    let heard = poll_fn(|cx| {
        loop {
            match detect(conn.input.bytes()) {
                Detected::More => {}
                decided => return Poll::Ready(Some(decided)),
            }
            match conn.poll_fill(cx, worker, worker.limits().head_bytes) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                // A client that only listens may have closed its side already.
                Poll::Ready(Ok(_)) => return Poll::Ready(Some(Detected::Opaque)),
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        if opened.is_none()
            && let Poll::Ready(result) = opening.as_mut().poll(cx)
        {
            opened = Some(result);
        }
        if let Some(Ok(up)) = &mut opened
            && up.conn.poll_fill(cx, worker, crate::buffer::SIZE).is_ready()
        {
            worker.remember_server_speaks_first(target);
            return Poll::Ready(Some(Detected::Opaque));
        }
        deadline.poll(cx).map(|()| Some(Detected::Opaque))
    })
    .await;
    drop(opening);
    match heard {
        Some(Detected::Http1 | Detected::Http2) => {
            if let Some(Ok(up)) = opened {
                up.keep(worker);
            }
            if heard == Some(Detected::Http1) { Spoken::Http1 } else { Spoken::Http2 }
        }
        Some(_) => match opened.transpose() {
            Ok(opened) => Spoken::Opaque(rule, opened),
            Err(refusal) => Spoken::Refused(refusal),
        },
        None => Spoken::Gone,
    }
}
