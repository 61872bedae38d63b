//! Questions for names: those of an application in a network of its own, and those that the kernel redirects to addresses of
//! the settings (redirect mode).

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;
use net::drain::Watch;
use proxy::{Clock, Discover, dns};

use super::settings::SidecarSettings;
use super::take;

/// Names the servers that this machine asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Sockets over which names are asked for, and what answers need; not answered yet.
pub(super) struct Names {
    discover: Arc<dyn Discover>,
    clock: Clock,
    workload: String,
    drain: Watch,
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

impl Names {
    /// No sockets yet.
    pub(super) fn new(settings: &SidecarSettings, discover: Arc<dyn Discover>, clock: Clock, drain: Watch) -> Names {
        let workload = settings.proxy.workload.clone();
        Names { discover, clock, workload, drain, udp: Vec::new(), tcp: Vec::new() }
    }

    /// Adds the sockets at `addresses`: those that a predecessor had, which are taken out of what it handed over, and new ones.
    /// Returns copies for a successor.
    pub(super) fn open(
        &mut self,
        addresses: &[SocketAddr],
        datagrams: &mut Vec<UdpSocket>,
        listeners: &mut Vec<TcpListener>,
    ) -> anyhow::Result<Vec<OwnedFd>> {
        let mut copies = Vec::new();
        for address in addresses {
            let place = datagrams.iter().position(|socket| socket.local_addr().is_ok_and(|other| other == *address));
            let failed = |kind: &str| format!("cannot listen on {address} ({kind}) for questions for names");
            let udp = match place {
                Some(place) => datagrams.swap_remove(place),
                None => UdpSocket::bind(address).with_context(|| failed("UDP"))?,
            };
            let tcp = match take(listeners, *address) {
                Some(listener) => listener,
                None => TcpListener::bind(address).with_context(|| failed("TCP"))?,
            };
            for socket in [udp.as_fd(), tcp.as_fd()] {
                copies.push(socket.try_clone_to_owned().context("the sockets for names cannot be handed over later")?);
            }
            self.udp.push(udp);
            self.tcp.push(tcp);
        }
        Ok(copies)
    }

    /// Answers what comes over them from now on.
    pub(super) fn answer(self) -> anyhow::Result<()> {
        let Names { discover, clock, workload, drain, udp, tcp } = self;
        let options = dns::Options { udp, tcp, discover, clock, workload, drain, resolv_conf: RESOLV_CONF.into() };
        dns::start(options).context("cannot answer questions for names")
    }
}
