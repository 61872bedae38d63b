//! Starting the data plane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use engine::snapshot::Live;
use net::identity::Identity;
use net::listen::{self, Acceptor, AddressLock};
use telemetry::access_log::AccessLog;
use telemetry::metrics::Registry;

use crate::accept::{self, Entry};
use crate::observe::Observer;
use crate::worker::{Shared, Worker};
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
    /// When to end. Begin it through [`net::drain::Drain::begin`]; every connection holds a guard.
    pub drain: net::drain::Watch,
}

/// A data plane at work.
#[derive(Debug)]
pub struct Running {
    workers: net::worker::Workers,
    _locks: Vec<AddressLock>,
}

/// Locks and binds every address of the settings, then starts the workers.
///
/// # Errors
/// An address is held by another proxy or cannot be bound, or a thread cannot be started. The message names the address.
pub fn start(parts: Parts) -> io::Result<Running> {
    let Parts { settings, discover, live, identity, clock, registry, access_log, drain } = parts;
    let entries = accept::entries(&settings);
    let mut locks = Vec::with_capacity(entries.len());
    for (address, _) in &entries {
        locks.push(AddressLock::take(*address).map_err(|error| io::Error::new(io::ErrorKind::AddrInUse, error))?);
    }
    let count = settings.workers.max(1);
    let shared = Arc::new(Shared { settings, discover, live, identity, clock, drain });
    let (report, bound) = mpsc::channel();
    let workers = net::worker::spawn(count, "data", move |index| {
        let observer = Observer::new(&registry, access_log.as_ref().map(|log| log.handle()));
        let worker = Worker::new(Arc::clone(&shared), observer, seed(index));
        let (report, entries) = (report.clone(), entries.clone());
        async move {
            match bind(&entries) {
                Err(error) => {
                    // `start` waits for every report and fails on the first error; then nobody listens here.
                    let _ = report.send(Err(error));
                }
                Ok(listeners) => {
                    let _ = report.send(Ok(()));
                    drop(report);
                    run(worker, listeners).await;
                }
            }
        }
    })
    .map_err(io::Error::other)?;
    for _ in 0..count {
        bound.recv().map_err(|_| io::Error::other("a worker ended before it listened"))??;
    }
    Ok(Running { workers, _locks: locks })
}

/// A worker's listeners. Called inside its runtime.
fn bind(entries: &[(SocketAddr, Entry)]) -> io::Result<Vec<(Acceptor, Entry)>> {
    let listen = |(address, entry): &(SocketAddr, Entry)| match listen::tcp_reuseport(*address, listen::BACKLOG) {
        Ok(listener) => Ok((Acceptor::new(listener), entry.clone())),
        Err(error) => Err(io::Error::new(error.kind(), format!("listening on {address}: {error}"))),
    };
    entries.iter().map(listen).collect()
}

/// Runs until the drain has closed; then what is left of its connections is cut off with the runtime.
async fn run(worker: std::rc::Rc<Worker>, listeners: Vec<(Acceptor, Entry)>) {
    for (acceptor, entry) in listeners {
        tokio::task::spawn_local(accept::run(std::rc::Rc::clone(&worker), acceptor, entry));
    }
    let mut drain = worker.shared.drain.clone();
    let mut closing = worker.shared.drain.clone();
    let draining = async {
        drain.draining().await;
        worker.drain().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = closing.closed() => {}
        () = draining => {}
        () = worker.tidy() => {}
    }
}

/// Seeds differ between workers and between proxies, so that they do not all choose alike.
fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    static STARTS: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one((index, STARTS.fetch_add(1, Ordering::Relaxed)))
}

impl Running {
    /// Waits until all workers have ended, which they do when the drain has closed.
    ///
    /// # Errors
    /// A worker panicked, which is a defect.
    pub async fn join(self) -> Result<(), net::worker::Error> {
        self.workers.finished().await
    }
}
