//! The accept phase: one loop a listener, one task a connection.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use net::drain::{Guard, Taking};
use net::listen::Acceptor;
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::io::Io;
use crate::route::{Door, Way};
use crate::settings::Settings;
use crate::target::Target;
use crate::worker::{Side, Worker};
use crate::{identify, inbound};

/// What a listener is for.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Forward,
    Service(Target),
    /// What the kernel redirected to this port on its way out.
    Redirected(u16),
    /// From other sidecars.
    Inbound,
    /// What the kernel redirected to this port on its way in; other sidecars come unredirected.
    RedirectedInbound(u16),
    Gateway(u16),
}

impl Entry {
    /// Whose connections it takes.
    fn side(&self) -> Side {
        match self {
            Entry::Forward | Entry::Service(_) | Entry::Redirected(_) => Side::Out,
            Entry::Inbound | Entry::RedirectedInbound(_) | Entry::Gateway(_) => Side::In,
        }
    }
}

/// Every listener that `settings` ask for.
pub(crate) fn entries(settings: &Settings) -> Vec<(SocketAddr, Entry)> {
    let service = |listener: &crate::settings::ServiceListener| {
        let target = Target { host: listener.service.to_ascii_lowercase().into(), port: listener.port };
        (listener.listen, Entry::Service(target))
    };
    let redirected = settings.redirected.iter().map(|address| (*address, Entry::Redirected(address.port())));
    let redirected_inbound =
        settings.redirected_inbound.iter().map(|address| (*address, Entry::RedirectedInbound(address.port())));
    // Where everything that comes in is redirected, a listener on all addresses takes other sidecars' connections too.
    let covers = |address: &SocketAddr| {
        let same =
            |other: &SocketAddr| other == address || (other.port() == address.port() && other.ip().is_unspecified());
        settings.redirected_inbound.iter().any(same)
    };
    let inbound = settings.inbound.filter(|address| !covers(address)).map(|address| (address, Entry::Inbound));
    let outbound = settings.outbound.map(|address| (address, Entry::Forward));
    let services = settings.services.iter().map(service);
    let gateway = settings.gateway.iter().map(|binding| (binding.listen, Entry::Gateway(binding.port)));
    let redirected = redirected.chain(redirected_inbound);
    inbound.into_iter().chain(outbound).chain(redirected).chain(services).chain(gateway).collect()
}

/// Accepts connections until the proxy has told its peers that it drains, and they had time to hear it. From this call on, and
/// not only when the task first runs, whoever ends the proxy waits for that.
pub(crate) fn run(worker: Rc<Worker>, acceptor: Acceptor, entry: Entry) -> impl Future<Output = ()> {
    let taking = worker.ending(entry.side()).taking();
    accept(worker, acceptor, entry, taking)
}

async fn accept(worker: Rc<Worker>, acceptor: Acceptor, entry: Entry, taking: Taking) {
    // Before the listener, which is thus closed first.
    let _taking = taking;
    let mut acceptor = acceptor;
    // Made once: its time must not begin anew with every connection that comes.
    let mut quiet = pin!(worker.drained_quietly(entry.side()));
    let mut open = worker.shared.open.clone();
    tokio::select! {
        () = &mut quiet => return,
        opened = open.wait_for(|open| *open) => if opened.is_err() { return },
    }
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut quiet => return,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (worker, entry) = (Rc::clone(&worker), entry.clone());
                // Taken here: when this loop ends, every connection that it took is known.
                let guard = worker.ending(entry.side()).guard();
                tokio::task::spawn_local(connection(worker, entry, stream, peer, guard));
            }
            Err(error) => {
                tracing::error!(%error, ?entry, "a listener has failed");
                return;
            }
        }
    }
}

async fn connection(worker: Rc<Worker>, entry: Entry, stream: TcpStream, peer: SocketAddr, guard: Guard) {
    let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
    // At the limit the connection is closed at once, so that its client learns of it.
    let Some(_presence) = worker.enter(guard, &waker) else { return };
    let way = match entry {
        Entry::Inbound => return inbound::serve(&worker, stream, peer).await,
        Entry::Forward => Way::Forward,
        Entry::Service(target) => Way::Fixed(target),
        Entry::Redirected(port) => match meant(&stream, peer, port) {
            Some(Meant::Other(address)) => Way::Fixed(address.into()),
            // It was meant for this listener, and to dial that would come back here for ever.
            Some(Meant::Here) | None => return Io::Tcp(stream).abort_on_close(),
        },
        Entry::RedirectedInbound(port) => match meant(&stream, peer, port) {
            Some(Meant::Other(address)) => return inbound::serve_plain(&worker, stream, peer, address).await,
            Some(Meant::Here) => return inbound::serve(&worker, stream, peer).await,
            None => return,
        },
        Entry::Gateway(port) => Way::Gateway(port),
    };
    let conn = Conn::new(Io::Tcp(stream), Buffer::default());
    identify::serve(&worker, Door::new(way, peer), conn).await;
}

/// What a connection that came to a listener for redirected ones was meant for.
enum Meant {
    /// This proxy.
    Here,
    /// Somebody else.
    Other(SocketAddr),
}

/// `port` is the listener's: TPROXY leaves the destination in place, so that alone tells such a connection from one that was
/// meant for the listener. `None`: the connection is gone.
fn meant(stream: &TcpStream, peer: SocketAddr, port: u16) -> Option<Meant> {
    let known = net::original::destination(stream).and_then(|meant| Ok((meant, stream.local_addr()?)));
    match known {
        Ok((meant, own)) if meant == own && own.port() == port => Some(Meant::Here),
        Ok((meant, _)) => Some(Meant::Other(meant)),
        Err(error) => {
            tracing::debug!(%peer, %error, "where a connection was meant to go cannot be known");
            None
        }
    }
}
