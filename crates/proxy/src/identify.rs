//! The identify phase: what a connection speaks. What its port was declared to speak wins; otherwise its first bytes tell.
//!
//! Where no HTTP rule is attached, the other side is dialled while the client is listened to ([`crate::listen`]), so that a
//! server that speaks first (MySQL, SMTP) is heard at once. That a server spoke first is remembered for its destination; that a
//! client was slow is not.

use std::rc::Rc;
use std::sync::Arc;

use engine::detect::Detected;
use engine::snapshot::{Resolution, TcpRule};
use engine::{Protocol, Reason};

use crate::conn::Conn;
use crate::listen::{self, Heard};
use crate::reply::Refusal;
use crate::route::{self, Door, Way};
use crate::target::Target;
use crate::tcp::{self, Opened};
use crate::worker::{Side, Worker};
use crate::{http1, http2, inbound, sni};

/// What a connection speaks.
pub(crate) enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Opaque(Other),
    /// It may not go where it wants.
    Refused(Refusal),
    /// It has ended.
    Gone,
}

/// The other side of an opaque connection, perhaps connected already.
pub(crate) enum Other {
    /// By this rule.
    Rule(Arc<TcpRule>, Option<Opened>),
    /// A host that the mesh does not know.
    Outside(Option<Conn>),
    /// The application beside us.
    Application(Option<Conn>),
}

/// Serves a connection that came in through `door` until it ends.
pub(crate) async fn serve(worker: &Rc<Worker>, mut door: Door, mut conn: Conn) {
    loop {
        let spoken = match &door.way {
            Way::Forward => by_preface(worker, door.side(), &mut conn).await,
            Way::Fixed(target) => to_target(worker, &door, target, &mut conn).await,
            Way::Gateway(port) => match route::gateway_tcp(worker, *port) {
                Some(rule) => Spoken::Opaque(Other::Rule(rule, None)),
                None => by_preface(worker, door.side(), &mut conn).await,
            },
            Way::Inbound(caller) => inbound::identify(worker, &door, caller, &mut conn).await,
        };
        match spoken {
            Spoken::Http2 => return http2::serve(worker, door, conn).await,
            Spoken::Http1 => match http1::serve(worker, &door, conn).await {
                None => return,
                Some(tunnel) => {
                    conn = tunnel.conn;
                    door = Door::new(Way::Fixed(tunnel.target), door.peer);
                }
            },
            Spoken::Opaque(Other::Rule(rule, opened)) => return tcp::carry(worker, &door, conn, &rule, opened).await,
            Spoken::Opaque(Other::Outside(opened)) => return tcp::carry_outside(worker, &door, conn, opened).await,
            Spoken::Opaque(Other::Application(opened)) => return inbound::opaque(worker, &door, conn, opened).await,
            Spoken::Refused(refusal) => return tcp::refuse(worker, &door, conn, &refusal),
            Spoken::Gone => return,
        }
    }
}

async fn to_target(worker: &Rc<Worker>, door: &Door, target: &Target, conn: &mut Conn) -> Spoken {
    let resolution = match route::resolve(worker, target).await {
        Ok(resolution) => resolution,
        Err(refusal) => return Spoken::Refused(refusal),
    };
    let Resolution::Found(destination) = &**resolution else {
        drop(resolution);
        return to_outside(worker, target, conn).await;
    };
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
        Protocol::Http1 | Protocol::Http2 => by_preface(worker, door.side(), conn).await,
        _ if http_only => {
            let opening = tcp::open(worker, &rule, door.peer.ip());
            let (spoken, opened) = Box::pin(http_alone(worker, door.side(), conn, target, opening, Opened::conn)).await;
            if let Some(opened) = opened {
                opened.keep(worker);
            }
            spoken
        }
        Protocol::Tcp | Protocol::Tls => Spoken::Opaque(Other::Rule(rule, None)),
        Protocol::Auto if worker.server_speaks_first(target) => Spoken::Opaque(Other::Rule(rule, None)),
        Protocol::Auto => {
            let opening = tcp::open(worker, &rule, door.peer.ip());
            let listened = listen::both(worker, door.side(), conn, target, opening, Opened::conn).await;
            match listened.heard {
                Heard::Client(detected @ (Detected::Http1 | Detected::Http2)) => {
                    if let Some(Ok(up)) = listened.other {
                        up.keep(worker);
                    }
                    http(detected)
                }
                Heard::Gone => Spoken::Gone,
                Heard::Client(_) | Heard::Other | Heard::Nobody => match listened.other.transpose() {
                    Ok(opened) => Spoken::Opaque(Other::Rule(rule, opened)),
                    Err(refusal) => Spoken::Refused(refusal),
                },
            }
        }
    }
}

/// To an address that the mesh does not know. The name that a TLS client asks for may be one that the mesh knows; a tunnel's
/// client has named its destination already.
async fn to_outside(worker: &Rc<Worker>, target: &Target, conn: &mut Conn) -> Spoken {
    if !target.is_address() || worker.server_speaks_first(target) {
        return Spoken::Opaque(Other::Outside(None));
    }
    let opening = crate::outside::open(worker, target);
    let listened = Box::pin(listen::both(worker, Side::Out, conn, target, opening, |conn| conn)).await;
    if listened.heard == Heard::Gone {
        return Spoken::Gone;
    }
    if listened.heard == Heard::Client(Detected::Tls)
        && let Some(rule) = by_server_name(worker, target.port, conn).await
    {
        return Spoken::Opaque(Other::Rule(rule, None));
    }
    match listened.other.transpose() {
        Ok(opened) => Spoken::Opaque(Other::Outside(opened)),
        Err(refusal) => Spoken::Refused(refusal),
    }
}

/// The rule of the destination that a TLS client names, if the mesh knows that and its requests need not be seen.
async fn by_server_name(worker: &Rc<Worker>, port: u16, conn: &mut Conn) -> Option<Arc<TcpRule>> {
    let host = sni::server_name(worker, conn).await?;
    // Who cannot say what the name is says nothing of the address.
    let resolution = route::resolve(worker, &Target { host, port }).await.ok()?;
    let Resolution::Found(destination) = &**resolution else { return None };
    let port = destination.port(port)?;
    port.http.is_none().then(|| Arc::clone(&port.tcp))
}

/// Which HTTP it is.
pub(crate) fn http(detected: Detected) -> Spoken {
    if detected == Detected::Http2 { Spoken::Http2 } else { Spoken::Http1 }
}

/// HTTP for certain; which one?
pub(crate) async fn by_preface(worker: &Worker, side: Side, conn: &mut Conn) -> Spoken {
    match listen::client(worker, side, conn).await {
        Detected::More if conn.input.is_empty() => Spoken::Gone,
        // What is not HTTP/1 either is refused by its parser, with an answer.
        detected => http(detected),
    }
}

/// Rules that look at requests are attached: what is not HTTP would pass them by. The other side is dialled by `opening` and
/// listened to, for who waits for a server's first words would wait in vain: it is refused when they come. What was opened is
/// returned where the client speaks HTTP.
pub(crate) async fn http_alone<U>(
    worker: &Worker,
    side: Side,
    conn: &mut Conn,
    target: &Target,
    opening: impl Future<Output = Result<U, Refusal>>,
    conn_of: impl Fn(&mut U) -> &mut Conn,
) -> (Spoken, Option<U>) {
    let refused = |what| Spoken::Refused(Refusal::new(Reason::NotHttp, format!("{target} has HTTP rules, and {what}")));
    let listened = listen::both(worker, side, conn, target, opening, conn_of).await;
    let detected = match listened.heard {
        Heard::Client(detected @ (Detected::Http1 | Detected::Http2)) => {
            return (http(detected), listened.other.and_then(Result::ok));
        }
        Heard::Client(detected) => detected,
        Heard::Gone => return (Spoken::Gone, None),
        Heard::Other if worker.server_speaks_first(target) => return (refused("its server speaks first"), None),
        // Neither tells what the client will speak.
        Heard::Other | Heard::Nobody => {
            drop(listened.other);
            listen::client(worker, side, conn).await
        }
    };
    let spoken = match detected {
        Detected::Http1 | Detected::Http2 => http(detected),
        _ if conn.input.is_empty() => Spoken::Gone,
        _ => refused("this is not HTTP"),
    };
    (spoken, None)
}
