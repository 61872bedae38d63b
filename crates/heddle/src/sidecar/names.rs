//! Questions for names: those of an application in a network of its own, and those that the kernel redirects to addresses of
//! the settings (redirect mode).

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use proxy::{Clock, dns};

use super::take;
use super::wiring::Wiring;

/// Names the servers that this machine asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Answers what comes over these sockets from now on.
pub(super) fn answer(udp: Vec<UdpSocket>, tcp: Vec<TcpListener>, wiring: &Wiring, clock: Clock) -> anyhow::Result<()> {
    let options = dns::Options { udp, tcp, discover: wiring.discover(), clock, resolv_conf: RESOLV_CONF.into() };
    dns::start(options).context("cannot answer questions for names")
}

/// The sockets at `addresses`: those that a predecessor had, and new ones. Taken out of what it handed over.
pub(super) fn open(
    addresses: &[SocketAddr],
    datagrams: &mut Vec<UdpSocket>,
    listeners: &mut Vec<TcpListener>,
) -> anyhow::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for address in addresses {
        let place = datagrams.iter().position(|socket| socket.local_addr().is_ok_and(|other| other == *address));
        let failed = |kind: &str| format!("cannot listen on {address} ({kind}) for questions for names");
        udp.push(match place {
            Some(place) => datagrams.swap_remove(place),
            None => UdpSocket::bind(address).with_context(|| failed("UDP"))?,
        });
        tcp.push(match take(listeners, *address) {
            Some(listener) => listener,
            None => TcpListener::bind(address).with_context(|| failed("TCP"))?,
        });
    }
    Ok((udp, tcp))
}

/// Copies for a successor.
pub(super) fn copies(udp: &[UdpSocket], tcp: &[TcpListener]) -> std::io::Result<Vec<OwnedFd>> {
    let descriptors = udp.iter().map(AsFd::as_fd).chain(tcp.iter().map(AsFd::as_fd));
    descriptors.map(|descriptor| descriptor.try_clone_to_owned()).collect()
}
