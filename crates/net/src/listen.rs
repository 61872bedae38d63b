//! Listeners of workers, the lock that keeps one address to one proxy, and who else has an address.

mod holder;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

pub use holder::{Holder, holder};

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn` (4,096 by default).
pub const BACKLOG: i32 = 4096;

/// The first pause after an accept error that will not go away by itself at once.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest one: descriptors may come free at any time.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Listens on `addr` beside the other workers that do the same (SO_REUSEPORT: the kernel spreads connections over them).
/// Accepted connections inherit TCP_NODELAY, which Linux copies from the listener, so it costs no call of its own.
///
/// Call it inside the worker's runtime. SO_REUSEPORT would let a second proxy of the same user join silently: hold an
/// [`AddressLock`] for the address.
///
/// # Errors
/// What the system says; see [`AddressLock`] for an address that is in use.
pub fn tcp_reuseport(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// Tries whether `addr` can be listened on: nobody else does, and this user may. Says which port that is, where `addr` leaves
/// it to the system. Nothing is accepted meanwhile, and IPv6 is apart from IPv4, as for [`tcp_reuseport`].
///
/// # Errors
/// Why not.
pub fn free(addr: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections that have just ended do not stand in a server's way.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(1)?;
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Lets `listener` take connections to addresses that are not this machine's, and TPROXY hand them to it.
///
/// # Errors
/// Without CAP_NET_ADMIN or CAP_NET_RAW the system refuses.
pub fn transparent(listener: &TcpListener) -> io::Result<()> {
    // One option for both kinds of addresses in Linux.
    socket2::SockRef::from(listener).set_ip_transparent_v4(true)
}

/// The listening sockets that this process was started with at descriptors 3 to 2 + `count`. Call it once, before anything else
/// is opened.
///
/// # Errors
/// One of them is no listening TCP socket.
#[allow(unsafe_code, reason = "a descriptor's number alone comes from the process that started this one")]
pub fn inherited(count: u16) -> io::Result<Vec<std::net::TcpListener>> {
    use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
    const FIRST: RawFd = 3;
    let mut listeners = Vec::with_capacity(count.into());
    for fd in (FIRST..).take(count.into()) {
        // SAFETY: nothing of this process has opened a descriptor of this number: the function is called before anything is
        // opened, and what it opens itself is closed again. So the number is the starter's, or stands for nothing and every
        // call on it fails. Where it turns out to be something else, it is not closed.
        let socket = unsafe { Socket::from_raw_fd(fd) };
        if !matches!(socket.is_listener(), Ok(true)) {
            let _ = socket.into_raw_fd();
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {fd} is no listening socket")));
        }
        socket.set_cloexec(true)?;
        listeners.push(socket.into());
    }
    Ok(listeners)
}

/// Another process's sockets by what they are for.
#[derive(Debug, Default)]
pub struct Sorted {
    /// Listening sockets of TCP.
    pub listeners: Vec<std::net::TcpListener>,
    /// Sockets of UDP.
    pub datagrams: Vec<std::net::UdpSocket>,
    /// Locks of the listeners' addresses, which only need to be held.
    pub locks: Vec<OwnedFd>,
}

/// Sorts the sockets that another process has handed over.
///
/// # Errors
/// One of them is no socket.
pub fn sort(sockets: Vec<OwnedFd>) -> io::Result<Sorted> {
    let mut sorted = Sorted::default();
    for socket in sockets {
        match socket2::SockRef::from(&socket).protocol()? {
            Some(Protocol::TCP) => sorted.listeners.push(socket.into()),
            Some(Protocol::UDP) => sorted.datagrams.push(socket.into()),
            Some(_) | None => sorted.locks.push(socket),
        }
    }
    Ok(sorted)
}

/// The right to listen on an address, held as an abstract Unix socket that disappears with its holder, however it ends.
/// It reaches as far as the network namespace, as the address itself does.
#[derive(Debug)]
pub struct AddressLock {
    socket: UnixDatagram,
}

/// Somebody else listens there.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another proxy holds the address.
    #[error(
        "{0} is held by another heddle proxy: end that one (`ss -xlp | grep heddle-listen-{0}` shows it), or choose another address"
    )]
    Held(SocketAddr),
    /// The system refused the lock itself.
    #[error("locking {0}: {1}")]
    Io(SocketAddr, io::Error),
}

impl AsFd for AddressLock {
    /// Whoever holds the descriptor, or a copy of it, holds the lock.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AddressLock {
    /// Takes the address, or says who has it.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(addr: SocketAddr) -> Result<AddressLock, LockError> {
        Self::named("listen", addr)
    }

    /// Claims the address for a proxy that the caller is going to start, and start again: nobody else who claims before he
    /// starts one chooses the same address in between. The proxy itself takes the address ([`AddressLock::take`]).
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn claim(addr: SocketAddr) -> Result<AddressLock, LockError> {
        Self::named("claim", addr)
    }

    fn named(what: &str, addr: SocketAddr) -> Result<AddressLock, LockError> {
        match abstract_lock(&format!("heddle-{what}-{addr}")) {
            Ok(Some(socket)) => Ok(AddressLock { socket }),
            Ok(None) => Err(LockError::Held(addr)),
            Err(error) => Err(LockError::Io(addr, error)),
        }
    }
}

/// Binds an abstract Unix socket; `None` when somebody holds it. A datagram socket has no queue in which peers could wait.
pub(crate) fn abstract_lock(name: &str) -> io::Result<Option<UnixDatagram>> {
    match UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(name)?) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// Accepts connections and outlives passing errors.
#[derive(Debug)]
pub struct Acceptor {
    listener: Arc<TcpListener>,
    pause: Duration,
}

impl Acceptor {
    /// Wraps a listener.
    pub fn new(listener: TcpListener) -> Acceptor {
        Acceptor { listener: Arc::new(listener), pause: FIRST_PAUSE }
    }

    /// The next connection. Errors of one connection are skipped; a lack of descriptors or memory is logged and waited out
    /// with a growing, jittered pause, because the waiting connection stays at the head of the queue and a plain loop would
    /// spin on it. Cancel safe.
    ///
    /// # Errors
    /// Only an error that makes the listener useless.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = FIRST_PAUSE;
                    return Ok(accepted);
                }
                Err(error) => error,
            };
            match triage(&error) {
                Triage::Permanent => return Err(error),
                Triage::OneConnection => {}
                Triage::Exhausted => {
                    let pause = jitter(self.pause);
                    tracing::warn!(%error, ?pause, "cannot accept connections for now; raise the limit of open files if this stays");
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The listener itself.
    pub fn listener(&self) -> &Arc<TcpListener> {
        &self.listener
    }
}

/// What an accept error means for the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Triage {
    /// It will never accept again.
    Permanent,
    /// One connection was lost before it was accepted; the next may be had at once.
    OneConnection,
    /// Nothing can be accepted until something is freed.
    Exhausted,
}

/// The classes of accept(2): its manual asks to treat the network errors of a new connection like EAGAIN.
fn triage(error: &io::Error) -> Triage {
    let Some(code) = error.raw_os_error() else { return Triage::Permanent };
    match Errno::from_raw(code) {
        Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP | Errno::EFAULT => Triage::Permanent,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => Triage::Exhausted,
        _ => Triage::OneConnection,
    }
}

/// Between half of `pause` and all of it, so that many proxies on one machine do not wake together.
fn jitter(pause: Duration) -> Duration {
    // `RandomState` draws fresh keys from the system's randomness; hashing nothing yields a number that depends on them.
    let random = RandomState::new().hash_one(());
    pause / 2 + (pause / 2).mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests;
