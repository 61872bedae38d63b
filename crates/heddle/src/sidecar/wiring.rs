//! Joins the xDS client, the control plane's address and the data path, which do not know each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use engine::balance::{Backend, Locality};
use engine::snapshot::Slot;
use hyper_util::rt::TokioIo;
use net::identity::Identity;
use proxy::Discover;
use telemetry::metrics::{Direction, Registry, SeriesKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Uri};
use xds::client::{Client, Connect, ConnectError, Connecting};

use super::settings::{ControlAddress, SidecarSettings};

/// A dead control plane is noticed after one interval and one timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// See [`KEEP_ALIVE`].
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait for a connection with its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What connects a proxy with its control plane.
pub(super) struct Wiring {
    /// Holds the configuration.
    pub(super) client: Client,
    /// Makes connections with whatever certificate there is.
    pub(super) connector: Arc<dyn Connect>,
}

impl Wiring {
    /// Starts the xDS client; it calls the control plane when `certified` is true.
    pub(super) fn start(
        settings: &SidecarSettings,
        identity: &Identity,
        registry: &Arc<Registry>,
        certified: watch::Receiver<bool>,
    ) -> Wiring {
        let connector = Connector { control: settings.control.clone(), identity: identity.clone() };
        let mut options = xds::client::Settings::new(settings.proxy.workload.clone());
        options.mesh = settings.mesh.clone();
        options.gateway = settings.gateway.clone();
        options.locality = Locality {
            region: settings.registration.region.as_str().into(),
            zone: settings.registration.zone.as_str().into(),
        };
        options.store = Some(settings.directory.join("resources.bin"));
        let registry = registry.clone();
        let series: xds::compile::Series = Arc::new(move |key| registry.series(&convert(key)));
        let patient = Patient { connector: connector.clone(), certified };
        Wiring { client: Client::start(options, patient, series), connector: Arc::new(connector) }
    }

    /// The data path's way to learn destinations.
    pub(super) fn discover(&self) -> Arc<dyn Discover> {
        Arc::new(Destinations(self.client.clone()))
    }
}

fn convert(key: &xds::compile::SeriesKey) -> SeriesKey {
    let direction = match key.direction {
        xds::compile::Direction::Inbound => Direction::Inbound,
        xds::compile::Direction::Outbound => Direction::Outbound,
        xds::compile::Direction::Gateway => Direction::Gateway,
    };
    SeriesKey { direction, service: key.service.as_str().into(), route: key.route.as_str().into() }
}

struct Destinations(Client);

impl Discover for Destinations {
    fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.0.slot(name)
    }

    fn resolved(&self, name: &str, slot: Arc<Slot>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.resolved(name, slot)
    }

    fn alone(&self) -> bool {
        // The settings of a mesh name its trust domain.
        let known = !self.0.live().mesh.load().trust_domain.is_empty();
        known && !*self.0.connected().borrow()
    }

    fn backends(&self) -> Vec<Arc<Backend>> {
        self.0.backends()
    }
}

#[derive(Clone)]
struct Connector {
    control: ControlAddress,
    identity: Identity,
}

impl Connect for Connector {
    fn connect(&self) -> Connecting {
        let this = self.clone();
        Box::pin(async move { this.channel().await })
    }
}

impl Connector {
    async fn channel(self) -> Result<Channel, ConnectError> {
        // The address is the connector's business; gRPC wants some name for its `:authority`.
        let endpoint = Endpoint::from_static("https://control.heddle-system.heddle")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_timeout(CONNECT_TIMEOUT);
        let connect = tower::service_fn(move |_: Uri| {
            let this = self.clone();
            async move { this.stream().await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connect).await.map_err(|e| innermost(&e).into())
    }

    async fn stream(&self) -> Result<Pin<Box<dyn Stream>>, ConnectError> {
        let failed = |place: &str, e: std::io::Error| format!("no control plane at {place}: {e}");
        match &self.control {
            ControlAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|e| failed(&path.display().to_string(), e))?;
                Ok(Box::pin(net::tls::connect_control(stream, &self.identity).await?))
            }
            ControlAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|e| failed(address, e))?;
                net::dial::prepare(&stream, Some(net::dial::UNACKNOWLEDGED))?;
                Ok(Box::pin(net::tls::connect_control(stream, &self.identity).await?))
            }
        }
    }
}

/// gRPC's transport wraps what went wrong several times.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// Calls only with a certificate: without one there is nothing to be had but a certificate, which the session asks for.
struct Patient {
    connector: Connector,
    certified: watch::Receiver<bool>,
}

impl Connect for Patient {
    fn connect(&self) -> Connecting {
        let (connector, mut certified) = (self.connector.clone(), self.certified.clone());
        Box::pin(async move {
            // Its sender lives as long as the process.
            let _ = certified.wait_for(|c| *c).await;
            connector.channel().await
        })
    }
}
