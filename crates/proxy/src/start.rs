//! Starting the data plane.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Weak};

use engine::snapshot::Live;
use net::dial;
use net::identity::Identity;
use net::inside::Sockets;
use net::listen::{self, Acceptor, AddressLock};
use telemetry::access_log::AccessLog;
use telemetry::metrics::Registry;
use tokio::sync::watch;

use crate::accept::{self, Entry};
use crate::check;
use crate::load::ServerLoad;
use crate::observe::Observer;
use crate::worker::{Shared, Side, Worker};
use crate::{Clock, Discover, Settings};

/// What a data plane is made of.
pub struct Parts {
    /// What it was started with.
    pub settings: Settings,
    /// How destinations are learnt.
    pub discover: Arc<dyn Discover>,
    /// Everything that is not a destination.
    pub live: Arc<Live>,
    /// Who it is.
    pub identity: Identity,
    /// The clock whose times [`engine::snapshot::Slot`]s and loads see; one per process.
    pub clock: Clock,
    /// Where it counts.
    pub registry: Arc<Registry>,
    /// Where requests are logged, if the mesh asks for it; `None`: nowhere.
    pub access_log: Option<Arc<AccessLog>>,
    /// When the way in ends, that of a gateway too. Begin it through [`net::drain::Drain::begin`]; every connection holds a guard.
    pub drain: net::drain::Watch,
    /// When the way out ends, which an application needs for longer; the workers end when both have closed.
    pub drain_out: net::drain::Watch,
    /// Sockets that listen already, because somebody else made them: in another network namespace, or in the process that this
    /// one replaces. One at an address of the settings is used instead of a new one; others are closed.
    pub listeners: Vec<TcpListener>,
    /// Where the application is in a network of its own: sockets of that network, to reach it.
    pub inside: Option<Sockets>,
    /// Connections are taken as soon as this is true. Who takes another process's place leaves them to that one until it can
    /// serve: it listens on the same sockets.
    pub open: watch::Receiver<bool>,
}

/// A data plane at work.
#[derive(Debug)]
pub struct Running {
    workers: net::worker::Workers,
    locks: Vec<AddressLock>,
    /// What the workers listen on, as long as they do.
    listeners: Vec<Weak<tokio::net::TcpListener>>,
}

/// Locks and binds every address of the settings, then starts the workers.
///
/// # Errors
/// An address is held by another proxy or cannot be bound, or a thread cannot be started. The message names the address.
pub fn start(parts: Parts) -> io::Result<Running> {
    let Parts { settings, discover, live, identity, clock, registry, access_log, .. } = parts;
    let Parts { drain, drain_out, listeners, inside, open, .. } = parts;
    let given = Given::new(listeners)?;
    let entries = accept::entries(&settings);
    let mut locks = Vec::with_capacity(entries.len());
    // Who made a listener answers for its address.
    for (address, _) in entries.iter().filter(|(address, _)| !given.has(*address)) {
        locks.push(AddressLock::take(*address).map_err(|error| io::Error::new(io::ErrorKind::AddrInUse, error))?);
    }
    let count = settings.workers.max(1);
    let load = ServerLoad::new(count);
    let shared = Arc::new(Shared { settings, discover, live, identity, clock, drain, drain_out, inside, load, open });
    // Held here alone, so that no listener outlives what is done with it: one that nobody accepts from would swallow connections.
    let given = Arc::new(given);
    let offered = Arc::downgrade(&given);
    let (report, bound) = mpsc::channel();
    let workers = net::worker::spawn(count, "data", move |index| {
        let observer = Observer::new(&registry, access_log.as_ref().map(|log| log.handle()));
        let worker = Worker::new(index, Arc::clone(&shared), observer, seed(index));
        let (report, entries, given) = (report.clone(), entries.clone(), Weak::clone(&offered));
        async move {
            let given = given.upgrade().ok_or_else(|| io::Error::other("another worker could not start"));
            let bound = given
                .and_then(|given| bind(&entries, &given, index, count))
                .and_then(|bound| transparent(&worker, bound));
            match bound {
                Err(error) => {
                    // `start` waits for every report and fails on the first error; then nobody listens here.
                    let _ = report.send(Err(error));
                }
                Ok(listeners) => {
                    let weak =
                        listeners.iter().map(|(acceptor, _)| Arc::downgrade(acceptor.listener())).collect::<Vec<_>>();
                    for (acceptor, entry) in listeners {
                        tokio::task::spawn_local(accept::run(std::rc::Rc::clone(&worker), acceptor, entry));
                    }
                    let _ = report.send(Ok(weak));
                    drop(report);
                    run(worker).await;
                }
            }
        }
    })
    .map_err(io::Error::other)?;
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.extend(bound.recv().map_err(|_| io::Error::other("a worker ended before it listened"))??);
    }
    Ok(Running { workers, locks, listeners })
}

/// Listeners that somebody else made, by address.
struct Given(HashMap<SocketAddr, Vec<TcpListener>>);

impl Given {
    fn new(listeners: Vec<TcpListener>) -> io::Result<Given> {
        let mut given: HashMap<SocketAddr, Vec<TcpListener>> = HashMap::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            given.entry(listener.local_addr()?).or_default().push(listener);
        }
        Ok(Given(given))
    }

    fn has(&self, address: SocketAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// What worker `index` of `count` listens on. Every socket is in some worker's hands, or connections would wait in it for
    /// ever; workers beyond the number of sockets share one.
    fn of(&self, address: SocketAddr, index: usize, count: usize) -> io::Result<Vec<tokio::net::TcpListener>> {
        let Some(sockets) = self.0.get(&address) else {
            let listener = listen::tcp_reuseport(address, listen::BACKLOG);
            return Ok(vec![listener.map_err(|error| name(address, &error))?]);
        };
        let mine = (0..sockets.len().max(count)).filter(|socket| socket % count == index);
        let open = |socket: usize| tokio::net::TcpListener::from_std(sockets[socket % sockets.len()].try_clone()?);
        mine.map(open).collect::<io::Result<_>>().map_err(|error| name(address, &error))
    }
}

fn name(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("listening on {address}: {error}"))
}

/// A worker's listeners. Called inside its runtime.
fn bind(
    entries: &[(SocketAddr, Entry)],
    given: &Given,
    index: usize,
    count: usize,
) -> io::Result<Vec<(Acceptor, Entry)>> {
    let mut listeners = Vec::with_capacity(entries.len());
    for (address, entry) in entries {
        let sockets = given.of(*address, index, count)?;
        if matches!(entry, Entry::Forward | Entry::Service(_)) && address.ip().is_loopback() {
            sockets.iter().for_each(dial::stays_here);
        }
        listeners.extend(sockets.into_iter().map(|socket| (Acceptor::new(socket), entry.clone())));
    }
    Ok(listeners)
}

/// Lets TPROXY hand connections to the listeners that it needs.
fn transparent(worker: &Worker, listeners: Vec<(Acceptor, Entry)>) -> io::Result<Vec<(Acceptor, Entry)>> {
    if worker.shared.settings.keep_source {
        for (acceptor, entry) in &listeners {
            if matches!(entry, Entry::RedirectedInbound(_)) {
                listen::transparent(acceptor.listener()).map_err(|error| {
                    io::Error::new(error.kind(), format!("keepSource needs CAP_NET_ADMIN: {error}"))
                })?;
            }
        }
    }
    Ok(listeners)
}

/// Runs until both drains have closed; then what is left of its connections is cut off with the runtime.
async fn run(worker: std::rc::Rc<Worker>) {
    if worker.is_first() {
        tokio::task::spawn_local(check::run(std::rc::Rc::clone(&worker)));
        tokio::task::spawn_local(crate::review::run(std::rc::Rc::clone(&worker)));
    }
    let (mut inward, mut outward) = (worker.shared.drain.clone(), worker.shared.drain_out.clone());
    let closed = async {
        inward.closed().await;
        outward.closed().await;
    };
    let draining = async {
        tokio::join!(worker.drain(Side::In), worker.drain(Side::Out));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = closed => {}
        () = draining => {}
        () = worker.tidy() => {}
        () = net::schedule::run() => {}
    }
}

/// Seeds differ between workers and between proxies, so that they do not all choose alike.
fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    static STARTS: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one((index, STARTS.fetch_add(1, Ordering::Relaxed)))
}

impl Running {
    /// Copies of its listening sockets and of the locks of their addresses, for the process that takes its place. As long as
    /// anybody holds one, connections come to it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = self.listeners.iter().filter_map(Weak::upgrade).map(|l| l.as_fd().try_clone_to_owned());
        listeners.chain(self.locks.iter().map(|lock| lock.as_fd().try_clone_to_owned())).collect()
    }

    /// Lets go of the locks of its addresses, for the process that has taken its place and holds them too: if that one dies,
    /// another can start.
    pub fn let_go(&mut self) {
        self.locks.clear();
    }

    /// Waits until all workers have ended, which they do when the drain has closed.
    ///
    /// # Errors
    /// A worker panicked, which is a defect.
    pub async fn join(self) -> Result<(), net::worker::Error> {
        self.workers.finished().await
    }
}
