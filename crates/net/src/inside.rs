//! The inside of an instance's own namespaces, in which every address is local and every connection ends in its sidecar.
//!
//! A small process, the *helper*, makes the namespaces ([`run`]): a user namespace in which the caller is who it is outside
//! (none where the caller may do without), a network namespace and a mount namespace. It hands the namespaces and the
//! listening sockets that it made inside to whoever started it, and then makes sockets: the sidecar lives outside, and to reach
//! the application it needs sockets of the network inside. They come in batches ([`Sockets`]), so that a connection does not
//! wait for one. The namespaces outlive the helper; another one can join them.
//!
//! | what | where |
//! |---|---|
//! | what is set up inside | `setup.rs` |
//! | why it may be refused | `refused.rs` |
//! | processes that are started inside | [`Namespaces`] |
//! | sockets from inside | [`Sockets`] |

mod enter;
mod refused;
mod setup;
mod sockets;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use serde::{Deserialize, Serialize};

use crate::handoff;

pub use enter::Namespaces;
pub use refused::Refused;
pub use sockets::Sockets;

/// Where connections of the application end: the sidecar's port inside, on the loopback addresses of both families.
pub const OUTBOUND_PORT: u16 = 15_001;

/// Where the application's DNS questions end, likewise.
pub const DNS_PORT: u16 = 15_053;

/// The mark of the sidecar's own sockets inside ("heddle" on a telephone's keys, cut to fit): they are not redirected.
pub const MARK: u32 = 0x0043_3353;

/// Sockets of one batch. A sidecar holds about this many unused ones, each a descriptor and some 2 KiB of the kernel's memory.
const BATCH: usize = 32;

/// What a helper is told first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Make namespaces. Comes with the helper's ends of the channels over which sockets are asked for.
    Make(Plan),
    /// Join namespaces. Comes with the same and, before them, the namespaces: of users if there is one, network, mounts.
    Join {
        /// Whether there is a namespace of users.
        user: bool,
        /// The family of the sockets to make.
        ip: IpAddr,
    },
}

/// What is to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The instance's own address.
    pub ip: IpAddr,
    /// The network whose addresses are instances', though they are loopback addresses, and its length in bits.
    pub instances: (IpAddr, u8),
    /// What `/etc/resolv.conf` says inside.
    pub resolv_conf: String,
}

/// What a helper answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// Comes with the namespaces (as in [`Order::Join`]) and the sockets: for each family those that listen for connections
    /// and for DNS over TCP, and the one for DNS over UDP.
    Made {
        user: bool,
        families: usize,
    },
    Refused(Refused),
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// Where processes can be started.
    pub namespaces: Namespaces,
    /// Sockets for the sidecar.
    pub listeners: Listeners,
}

/// Sockets that were made inside.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Connections of the application, at [`OUTBOUND_PORT`].
    pub outbound: Vec<OwnedFd>,
    /// DNS over TCP, at [`DNS_PORT`].
    pub dns_tcp: Vec<OwnedFd>,
    /// DNS over UDP, at [`DNS_PORT`].
    pub dns_udp: Vec<OwnedFd>,
}

impl Listeners {
    /// Sockets of one family.
    const EACH: usize = 3;

    /// In the order in which they are handed over.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        let families = self.outbound.iter().zip(&self.dns_tcp).zip(&self.dns_udp);
        families.flat_map(|((outbound, tcp), udp)| [outbound.as_fd(), tcp.as_fd(), udp.as_fd()]).collect()
    }

    /// Where connections of the application end.
    ///
    /// # Errors
    /// What the system says.
    pub fn outbound_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let address = |socket: &OwnedFd| socket2::SockRef::from(socket).local_addr();
        self.outbound.iter().filter_map(|socket| address(socket).map(|found| found.as_socket()).transpose()).collect()
    }

    /// From that order; what is left over is closed.
    pub fn from_all(sockets: Vec<OwnedFd>) -> Listeners {
        let mut listeners = Listeners::default();
        let mut sockets = sockets.into_iter();
        while let (Some(outbound), Some(tcp), Some(udp)) = (sockets.next(), sockets.next(), sockets.next()) {
            listeners.outbound.push(outbound);
            listeners.dns_tcp.push(tcp);
            listeners.dns_udp.push(udp);
        }
        listeners
    }
}

/// Reads what a helper answers to [`Order::Make`].
///
/// # Errors
/// Why it was refused; see [`Refused`].
pub fn made(message: handoff::Message) -> Result<Made, Refused> {
    if message.bytes.is_empty() {
        return Err(Refused::new("the process that sets up the namespaces ended without a word", None));
    }
    let unclear = || Refused::new("the process that sets up the namespaces says what is not understood", None);
    let (user, families) = match serde_json::from_slice(&message.bytes) {
        Ok(Answer::Made { user, families }) => (user, families),
        Ok(Answer::Refused(refused)) => return Err(refused),
        Err(_) => return Err(unclear()),
    };
    let mut descriptors = message.descriptors;
    let namespaces = usize::from(user) + 2;
    if descriptors.len() != namespaces + families * Listeners::EACH {
        return Err(unclear());
    }
    let listeners = Listeners::from_all(descriptors.split_off(namespaces));
    let namespaces = Namespaces::from_all(user, descriptors).ok_or_else(unclear)?;
    Ok(Made { namespaces, listeners })
}

/// The helper's life: takes its order from `control`, answers there, and makes sockets until nobody is left to ask for them.
/// The process must have no other thread.
///
/// # Errors
/// What the system says, when it cannot go on. A refusal to set up is answered and no error.
pub fn run(control: OwnedFd) -> io::Result<()> {
    let message = handoff::receive(&control)?;
    let (ip, channels) = match serde_json::from_slice(&message.bytes)? {
        Order::Make(plan) => match setup::setup(&plan) {
            Err(refused) => {
                handoff::send(&control, &serde_json::to_vec(&Answer::Refused(refused))?, &[])?;
                return Ok(());
            }
            Ok(made) => {
                let families = made.listeners.outbound.len();
                let answer = Answer::Made { user: made.namespaces.has_user(), families };
                let mut descriptors = made.namespaces.all();
                descriptors.extend(made.listeners.all());
                handoff::send(&control, &serde_json::to_vec(&answer)?, &descriptors)?;
                (plan.ip, message.descriptors)
            }
        },
        Order::Join { user, ip } => {
            let mut descriptors = message.descriptors;
            let channels = descriptors.split_off((usize::from(user) + 2).min(descriptors.len()));
            let namespaces = Namespaces::from_all(user, descriptors);
            namespaces.ok_or(io::ErrorKind::InvalidInput)?.join()?;
            (ip, channels)
        }
    };
    drop(control);
    setup::keep_only_marking()?;
    serve(ip, channels)
}

/// Answers every question with as many sockets as it asks for.
fn serve(ip: IpAddr, mut channels: Vec<OwnedFd>) -> io::Result<()> {
    while !channels.is_empty() {
        let mut waiting: Vec<PollFd<'_>> =
            channels.iter().map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = waiting.iter().map(|one| one.any().unwrap_or(true)).collect();
        let mut ready = ready.into_iter();
        channels.retain(|channel| !ready.next().unwrap_or_default() || answer(ip, channel));
    }
    Ok(())
}

/// Answers one question; false when its asker is gone.
fn answer(ip: IpAddr, channel: &OwnedFd) -> bool {
    let wanted = match handoff::receive(channel) {
        Ok(message) if message.bytes.is_empty() => return false,
        Ok(message) => wanted(&message.bytes),
        Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
    };
    // Who is out of descriptors gives what there is; who is given none asks again after a while.
    let sockets: Vec<OwnedFd> = (0..wanted).map_while(|_| marked_socket(ip).ok()).collect();
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    match handoff::send(channel, b"sockets", &borrowed) {
        Ok(()) => true,
        // It has not read the last answers yet, and will ask again when it has.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// How many sockets a question asks for: a decimal number. Another version may say something else and gets a batch.
fn wanted(question: &[u8]) -> usize {
    let number = std::str::from_utf8(question).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(BATCH).min(BATCH)
}

/// An unconnected TCP socket that is not redirected.
fn marked_socket(ip: IpAddr) -> io::Result<OwnedFd> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::Mark, &MARK)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
