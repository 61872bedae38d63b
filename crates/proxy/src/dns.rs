//! Names for an application whose network is its own: names of the mesh are answered here, all others by the servers that this
//! machine asks.
//!
//! What a name means is asked of [`Discover`], as for a request: a service's name means the addresses that stand for it, or those
//! of its ready instances where it is headless; the name of an instance of a headless service means that instance. What the
//! control plane does not know is asked of others (`forward`), but for names that only the mesh can have.

mod forward;
mod message;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::balance::Health;
use engine::snapshot::{Destination, Resolution};
use net::drain::{State, Watch};
use net::listen::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use self::forward::Servers;
use self::message::{Answer, Question};
use crate::foreign::{self, in_cluster};
use crate::{Clock, Discover};

/// Questions that are answered at a time; over UDP more are dropped, as a network would, and over TCP more wait.
const QUESTIONS: usize = 512;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// A connection without a question is closed after this time (RFC 7766, 6.2.3 recommends seconds).
const IDLE: Duration = Duration::from_secs(10);

/// The longest wait for what a name means. Clients ask again after five seconds.
const DISCOVERY: Duration = Duration::from_secs(2);

/// The largest datagram: a question of more is cut off, and then not understood.
const DATAGRAM: usize = 4_096;

/// Addresses in one answer. They fit a datagram of the size that nearly everybody allows (1,232 bytes).
const ADDRESSES: usize = 64;

/// Once this process answers no more, a connection without a question is closed after this time.
const QUIET: Duration = Duration::from_secs(1);

/// What a server of names needs.
pub struct Options {
    /// Sockets of the application's network.
    pub udp: Vec<UdpSocket>,
    /// Listeners there.
    pub tcp: Vec<TcpListener>,
    /// What names of the mesh mean.
    pub discover: Arc<dyn Discover>,
    /// The clock of `discover`'s slots.
    pub clock: Clock,
    /// `namespace/name` of the workload that asks.
    pub workload: String,
    /// When answering ends: at once where another process has taken this one's place, for it hears the questions that come to the
    /// same sockets; otherwise with the process, which each question that is under way holds up.
    pub drain: Watch,
    /// The file that names this machine's servers (resolv.conf(5)); it is read again when it changes.
    pub resolv_conf: PathBuf,
}

struct Server {
    discover: Arc<dyn Discover>,
    clock: Clock,
    workload: String,
    drain: Watch,
    others: Servers,
    slots: Arc<Semaphore>,
    /// The turn of the instances of headless services, so that not all callers take the first.
    turn: AtomicUsize,
}

/// Serves from now on, on the runtime that this is called in.
///
/// # Errors
/// A socket cannot be waited for.
pub fn start(options: Options) -> io::Result<()> {
    let server = Arc::new(Server {
        discover: options.discover,
        clock: options.clock,
        workload: options.workload,
        drain: options.drain,
        others: Servers::new(options.resolv_conf),
        slots: Arc::new(Semaphore::new(QUESTIONS)),
        turn: AtomicUsize::new(0),
    });
    for socket in options.udp {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
        tokio::spawn(Arc::clone(&server).datagrams(socket));
    }
    for listener in options.tcp {
        listener.set_nonblocking(true)?;
        let acceptor = Acceptor::new(tokio::net::TcpListener::from_std(listener)?);
        tokio::spawn(Arc::clone(&server).connections(acceptor));
    }
    Ok(())
}

impl Server {
    async fn datagrams(self: Arc<Self>, socket: Arc<tokio::net::UdpSocket>) {
        let mut buffer = vec![0; DATAGRAM];
        let mut drain = self.drain.clone();
        loop {
            let received = tokio::select! {
                biased;
                () = left(&mut drain) => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            let (length, from) = match received {
                Ok(received) => received,
                // An earlier answer could not be delivered; the socket itself is well.
                Err(error) => {
                    tracing::debug!(%error, "a question for a name was not received");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { continue };
            let guard = self.drain.guard();
            let (server, socket, question) = (Arc::clone(&self), Arc::clone(&socket), buffer[..length].to_vec());
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&question, false).await {
                    // Who does not hear it asks again.
                    let _ = socket.send_to(&answer, from).await;
                }
                drop((slot, guard));
            });
        }
    }

    async fn connections(self: Arc<Self>, mut acceptor: Acceptor) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut drain = self.drain.clone();
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, acceptor.accept().await)
            };
            let (place, accepted) = tokio::select! {
                biased;
                () = left(&mut drain) => return,
                accepted = accept => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "names are no longer answered over TCP");
                    return;
                }
            };
            let (server, guard) = (Arc::clone(&self), self.drain.guard());
            tokio::spawn(async move {
                // However it ends, there is nobody to tell.
                let _ = server.connection(stream).await;
                drop((place, guard));
            });
        }
    }

    /// Answers question after question; each and each answer has its length before it (RFC 1035, 4.2.2).
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let mut drain = self.drain.clone();
        loop {
            let length = tokio::select! {
                length = tokio::time::timeout(IDLE, stream.read_u16()) => length.map_err(late)??,
                () = async {
                    drain.draining().await;
                    tokio::time::sleep(QUIET).await;
                } => return Ok(()),
            };
            let mut question = vec![0; length.into()];
            tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await.map_err(late)??;
            let slot = self.slots.acquire().await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            let Some(answer) = self.answer(&question, true).await else { return Ok(()) };
            drop(slot);
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(&answer);
            tokio::time::timeout(IDLE, stream.write_all(&bytes)).await.map_err(late)??;
        }
    }

    /// The answer to the message `bytes`; none to what is no question at all.
    async fn answer(&self, bytes: &[u8], stream: bool) -> Option<Vec<u8>> {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(answer) => return answer,
        };
        let answer = match self.known(&question.name).await {
            Known::Addresses(addresses) => question.answer(Answer::Addresses(&addresses), stream),
            Known::NoSuchName => question.answer(Answer::NoSuchName, stream),
            Known::Unclear => question.answer(Answer::Failure, stream),
            // Inside every address can be reached as far as anybody can tell, so a program would take one that is not.
            Known::Others if question.wants_v6() && !has_v6() => question.answer(Answer::Addresses(&[]), stream),
            Known::Others => match self.others.ask(bytes, stream).await {
                Some(answer) => return Some(answer),
                None => question.answer(Answer::Failure, stream),
            },
            Known::Foreign if question.wants_v6() && !has_v6() => question.answer(Answer::Addresses(&[]), stream),
            Known::Foreign => match self.others.ask(bytes, stream).await {
                Some(answer) if !forward::denies(&answer) => return Some(answer),
                Some(_) | None => question.answer(Answer::Failure, stream),
            },
        };
        Some(answer)
    }

    /// What is known of `name`, which is in lower case without a final dot.
    async fn known(&self, name: &str) -> Known {
        if let Some(known) = by_itself(name) {
            return known;
        }
        let own = in_cluster(name);
        let unknown = || if own { Known::NoSuchName } else { Known::Others };
        if !is_host(name) {
            return unknown();
        }
        // As many names as can be held are in use; what is surely none of the mesh's need not be.
        let Some(slot) = self.discover.slot(name) else { return if own { Known::Unclear } else { Known::Others } };
        let alone = || foreign::host(name, &self.workload) && self.discover.alone();
        if matches!(**slot.get(self.clock.now()), Resolution::Pending) {
            let limit = if alone() { foreign::PATIENCE } else { DISCOVERY };
            let resolved = self.discover.resolved(name, Arc::clone(&slot));
            // Whether it came or not is seen in the slot.
            let _ = tokio::time::timeout(limit, resolved).await;
        }
        match &**slot.get(self.clock.now()) {
            Resolution::Found(destination) => Known::Addresses(self.addresses(destination)),
            Resolution::NotFound => unknown(),
            Resolution::Pending if alone() => Known::Foreign,
            Resolution::Pending => Known::Unclear,
        }
    }

    /// Where `destination` is called: at its own addresses, or at its ready instances', each time from another one on.
    fn addresses(&self, destination: &Destination) -> Vec<IpAddr> {
        if !destination.addresses.is_empty() {
            return destination.addresses.clone();
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for port in &destination.ports {
            let endpoints = port.backend.endpoints.load();
            let ready = endpoints.endpoints().iter().filter(|endpoint| endpoint.health == Health::Ready);
            addresses.extend(ready.map(|endpoint| endpoint.address));
        }
        addresses.sort_unstable();
        addresses.dedup();
        if !addresses.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        addresses.truncate(ADDRESSES);
        addresses
    }
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It means these.
    Addresses(Vec<IpAddr>),
    /// There is no such name in the mesh, and nobody else can have it.
    NoSuchName,
    /// The control plane does not say.
    Unclear,
    /// It is not the mesh's.
    Others,
    /// The control plane is not there to say, but it does not look like the mesh's. Others may say what it is, and not that it is
    /// nothing.
    Foreign,
}

/// Names that need nobody's word: `localhost` (RFC 6761, 6.3), and names of addresses that mean nothing to others.
fn by_itself(name: &str) -> Option<Known> {
    if name == "localhost" || name.ends_with(".localhost") {
        let addresses = vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        return Some(Known::Addresses(addresses));
    }
    let first = name.strip_suffix(".in-addr.arpa")?.rsplit('.').next()?.parse::<u8>().ok()?;
    // Of instances, and of services (`control` chooses them there).
    (first == 127 || (240..=247).contains(&first)).then_some(Known::NoSuchName)
}

/// Whether this machine has a way to addresses of IPv6. Nothing is sent: connecting a datagram socket only looks the way up.
fn has_v6() -> bool {
    // An address of the documentation's block (RFC 3849): there is a way to it if there is one to the rest of the world.
    let far = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 53);
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok_and(|socket| socket.connect(far).is_ok())
}

/// Resolves when another process has taken this one's place, or time is up. Cancel safe.
async fn left(drain: &mut Watch) {
    while !matches!(drain.state(), State::Leaving(_) | State::Closed) {
        drain.changed().await;
    }
}

/// Whether `name` can be a host's: what `Discover` is asked for is kept.
fn is_host(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !name.is_empty()
        && name.bytes().all(valid)
        && name.parse::<IpAddr>().is_err()
        && name.parse::<SocketAddr>().is_err()
}

#[cfg(test)]
mod tests;
