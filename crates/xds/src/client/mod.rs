//! A proxy's end of delta xDS: what it holds, what it asks for, and what it publishes to the data path.

mod deps;
mod names;
mod persist;
mod series;
mod state;
mod task;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::balance::{Backend, Locality};
use engine::snapshot::{Live, Resolution, Slot};
use engine::{Nanos, SeriesId};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use self::names::{Ask, Names};
use self::state::State;
use self::task::{Task, Timers};
use crate::compile::{Backends, Compiler, Series};

/// Why no connection could be made.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// A connection being made.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send>>;

/// Makes connections to the control plane: Unix socket or TCP, with TLS. Called anew for every stream, so that it can use
/// the newest certificate. The channel should have keep-alive set, for that is what notices a dead peer.
pub trait Connect: Send + Sync + 'static {
    /// Starts one connection.
    fn connect(&self) -> Connecting;
}

impl<F> Connect for F
where
    F: Fn() -> Connecting + Send + Sync + 'static,
{
    fn connect(&self) -> Connecting {
        self()
    }
}

/// What a client is and keeps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `namespace/name` of the proxy's workload, whose inbound configuration is always held.
    pub workload: String,
    /// The mesh, for the control plane's logs.
    pub mesh: String,
    /// `namespace/name` of the Gateway that this proxy is, if it is one.
    pub gateway: Option<String>,
    /// Where the proxy runs: instances near it come first.
    pub locality: Locality,
    /// Where everything held is kept for a start without control plane (`resources.bin`); `None`: nowhere.
    pub store: Option<PathBuf>,
    /// A destination that nobody has read for this long is dropped.
    pub idle: Duration,
    /// Most names asked for at once.
    pub names: usize,
    /// The first wait before connecting again; doubles each time, with jitter.
    pub backoff_base: Duration,
    /// The longest.
    pub backoff_max: Duration,
    /// Changes are written to `store` at most this often.
    pub store_every: Duration,
}

impl Settings {
    /// The defaults for `workload`: 10 minutes idle, 10,000 names, 100 ms to 10 s between connections.
    pub fn new(workload: impl Into<String>) -> Settings {
        Settings {
            workload: workload.into(),
            mesh: String::new(),
            gateway: None,
            locality: Locality::default(),
            store: None,
            idle: Duration::from_secs(600),
            names: 10_000,
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            store_every: Duration::from_secs(1),
        }
    }
}

/// Keeps one stream to the control plane and what it brings. Clones share it; it ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    names: Arc<Names>,
    asks: mpsc::UnboundedSender<Ask>,
    live: Arc<Live>,
    changes: watch::Receiver<u64>,
    connected: watch::Receiver<bool>,
    backends: Backends,
    store_left: Arc<AtomicBool>,
}

impl Client {
    /// Publishes what the store holds, then starts the client's task on the current tokio runtime.
    pub fn start(settings: Settings, connect: impl Connect, series: Series) -> Client {
        let names = Arc::new(Names::new(settings.names));
        let compiler = Compiler::new(series, settings.locality.clone());
        let backends = compiler.known();
        let mut state = State::new(settings.workload.clone(), settings.gateway.clone(), compiler);
        if let Some(path) = &settings.store {
            match persist::read(path, &settings.workload) {
                Ok(None) => {}
                Ok(Some(mut saved)) => {
                    for name in std::mem::take(&mut saved.names) {
                        if let Some((_, _, Some(ask))) = names.claim(&name, None) {
                            state.ask(ask.name, ask.slot, ask.notify);
                        }
                    }
                    persist::restore(saved, &mut state);
                }
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "the configuration kept from the last run is not used");
                }
            }
        }
        let live = state.live.clone();
        // What there is from the last run is published before anybody can ask.
        state.sync();
        let (changes, changed) = watch::channel(0);
        let (connected, is_connected) = watch::channel(false);
        let (asks, asked) = mpsc::unbounded_channel();
        let store_left = Arc::<AtomicBool>::default();
        let task = Task {
            store_left: store_left.clone(),
            timers: Timers::new(settings.idle),
            settings,
            connect: Arc::new(connect),
            state,
            names: names.clone(),
            asks: asked,
            changes,
            connected,
        };
        tokio::spawn(task.run());
        Client { names, asks, live, changes: changed, connected: is_connected, backends, store_left }
    }

    /// Leaves [`Settings::store`] to somebody else from now on: to the process that has taken this one's place.
    pub fn leave_store(&self) {
        self.store_left.store(true, Ordering::Relaxed);
    }

    /// Mesh settings, inbound and gateway configuration, kept up to date.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Changes whenever something in [`Client::live`] does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Whether a stream to the control plane is open.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// The backends that rules and connections hold now, in order of service and port: what there is to report on.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.backends.list()
    }

    /// The series that what is published now counts in. Others may be forgotten when they have been quiet for long.
    pub fn series_in_use(&self) -> HashSet<SeriesId> {
        series::in_use(&self.live, &self.names.kept())
    }

    /// The slot where `name` (a host in lower case without port, or `address:port`) is published; asks for it if nobody
    /// has. `None` when too many names are held.
    ///
    /// There is one slot for a name as long as anybody holds it. A name that has not been read for the idle time is no
    /// longer kept up to date: its slot, where still held, becomes `Pending`, and `slot` or [`Client::resolved`] asks again.
    pub fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        let (slot, _, ask) = self.names.claim(name, None)?;
        self.ask(ask);
        Some(slot)
    }

    /// Resolves when `slot`, which must be that of `name`, is no longer pending. Asks again for a name that was dropped;
    /// where that is not possible, for too many are held, it never resolves.
    pub fn resolved(&self, name: &str, slot: Arc<Slot>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let pending = |slot: &Slot| matches!(**slot.get(Nanos::default()), Resolution::Pending);
        if !pending(&slot) {
            return Box::pin(std::future::ready(()));
        }
        let Some((_, notify, ask)) = self.names.claim(name, Some(slot.clone())) else {
            return Box::pin(std::future::pending());
        };
        self.ask(ask);
        Box::pin(async move {
            loop {
                let mut notified = std::pin::pin!(notify.notified());
                // From here on no notification is missed.
                notified.as_mut().enable();
                if !pending(&slot) {
                    return;
                }
                notified.await;
            }
        })
    }

    fn ask(&self, ask: Option<Ask>) {
        if let Some(ask) = ask {
            // The task lives as long as any client does, unless its runtime ended; then nothing will be answered anyway.
            let _ = self.asks.send(ask);
        }
    }
}
