//! A proxy's end of delta xDS: what it holds, what it asks for, and what it publishes to the data path.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use engine::snapshot::{Live, Slot};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::compile::Series;

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
pub struct Client {}

impl Client {
    /// Publishes what the store holds, then starts the client's task on the current tokio runtime.
    pub fn start(_settings: Settings, _connect: impl Connect, _series: Series) -> Client {
        todo!()
    }

    /// Mesh settings, inbound and gateway configuration, kept up to date.
    pub fn live(&self) -> &Arc<Live> {
        todo!()
    }

    /// Changes whenever something in [`Client::live`] does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// Whether a stream to the control plane is open.
    pub fn connected(&self) -> watch::Receiver<bool> {
        todo!()
    }

    /// The slot where `name` (a host in lower case without port, or `address:port`) is published; asks for it if nobody
    /// has. `None` when too many names are held.
    ///
    /// There is one slot for a name as long as anybody holds it. A name that has not been read for the idle time is no
    /// longer kept up to date: its slot, where still held, becomes `Pending`, and `slot` or [`Client::resolved`] asks again.
    pub fn slot(&self, _name: &str) -> Option<Arc<Slot>> {
        todo!()
    }

    /// Resolves when `slot`, which must be that of `name`, is no longer pending. Asks again for a name that was dropped.
    pub fn resolved(
        &self,
        _name: &str,
        _slot: Arc<Slot>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        todo!()
    }
}
