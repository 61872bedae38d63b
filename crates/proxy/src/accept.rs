//! The accept phase: one loop a listener, one task a connection.

use std::net::SocketAddr;
use std::rc::Rc;

use net::listen::Acceptor;
use tokio::net::TcpStream;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::io::Io;
use crate::route::{Door, Way};
use crate::settings::Settings;
use crate::target::Target;
use crate::worker::Worker;
use crate::{identify, inbound};

/// What a listener is for.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Forward,
    Service(Target),
    Inbound,
    Gateway(u16),
}

/// Every listener that `settings` ask for.
pub(crate) fn entries(settings: &Settings) -> Vec<(SocketAddr, Entry)> {
    let service = |listener: &crate::settings::ServiceListener| {
        let target = Target { host: listener.service.to_ascii_lowercase().into(), port: listener.port };
        (listener.listen, Entry::Service(target))
    };
    let inbound = settings.inbound.map(|address| (address, Entry::Inbound));
    let outbound = settings.outbound.map(|address| (address, Entry::Forward));
    let services = settings.services.iter().map(service);
    let gateway = settings.gateway.iter().map(|binding| (binding.listen, Entry::Gateway(binding.port)));
    inbound.into_iter().chain(outbound).chain(services).chain(gateway).collect()
}

/// Accepts connections until the proxy has told its peers that it drains, and they had time to hear it.
pub(crate) async fn run(worker: Rc<Worker>, mut acceptor: Acceptor, entry: Entry) {
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = worker.drained_quietly() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (worker, entry) = (Rc::clone(&worker), entry.clone());
                tokio::task::spawn_local(connection(worker, entry, stream, peer));
            }
            Err(error) => {
                tracing::error!(%error, ?entry, "a listener has failed");
                return;
            }
        }
    }
}

async fn connection(worker: Rc<Worker>, entry: Entry, stream: TcpStream, peer: SocketAddr) {
    let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
    // At the limit the connection is closed at once, so that its client learns of it.
    let Some(_presence) = worker.enter(&waker) else { return };
    let way = match entry {
        Entry::Inbound => return inbound::serve(&worker, stream, peer).await,
        Entry::Forward => Way::Forward,
        Entry::Service(target) => Way::Fixed(target),
        Entry::Gateway(port) => Way::Gateway(port),
    };
    let conn = Conn::new(Io::Tcp(stream), Buffer::default());
    identify::serve(&worker, Door { way, peer, depth: 0 }, conn).await;
}
