//! A proxy's own pages: metrics and health.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use net::identity::Identity;
use net::listen::Acceptor;
use proxy::Clock;
use telemetry::metrics::{Registry, Sample, SampleKind};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use xds::client::Client;

use super::ending::Order;
use super::statistics;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;

/// Largest head of a request, bytes (431 beyond it).
const HEAD: usize = 16 * 1024;

/// From a connection's start to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The one request of a connection and its answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// What a drain that names no limit is given.
const DRAIN: Duration = Duration::from_secs(30);

/// Who asks, and at which address.
#[derive(Clone, Copy)]
struct Asker {
    ip: IpAddr,
    asked_at: IpAddr,
}

impl Asker {
    /// Whether it is on this machine, or in this pod.
    fn is_beside_us(self) -> bool {
        self.ip.is_loopback() || self.ip == self.asked_at
    }
}

/// What the pages show.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) registry: Arc<Registry>,
    pub(super) client: Client,
    pub(super) identity: Identity,
    pub(super) clock: Clock,
    pub(super) ready: watch::Receiver<bool>,
    /// Who is told to drain; nobody where a supervisor does that.
    pub(super) drain: Option<mpsc::Sender<Order>>,
}

/// The pages at work, until dropped.
#[derive(Debug)]
pub(super) struct Pages {
    listener: Arc<TcpListener>,
    task: JoinHandle<()>,
}

impl Pages {
    /// A copy of the listening socket, for a successor.
    pub(super) fn socket(&self) -> std::io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the pages at `address` from now on, on `listener` if that is there already.
pub(super) async fn serve(
    address: SocketAddr,
    listener: Option<std::net::TcpListener>,
    page: Page,
) -> anyhow::Result<Pages> {
    let listener = match listener {
        Some(listener) => listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)),
        None => net::listen::tcp_reuseport(address, BACKLOG),
    };
    let listener = listener.with_context(|| format!("cannot listen on {address} for metrics"))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .route("/drain", post(drain))
        .with_state(page);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut acceptor = Acceptor::new(listener);
    let listener = Arc::clone(acceptor.listener());
    let task = tokio::spawn(async move {
        while let Ok((stream, peer)) = acceptor.accept().await {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            // A connection that is gone already asks nothing.
            let Ok(own) = stream.local_addr() else { continue };
            let asker = Asker { ip: peer.ip().to_canonical(), asked_at: own.ip().to_canonical() };
            let service = TowerToHyperService::new(router.clone().layer(Extension(asker)));
            tokio::spawn(async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(HEAD)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // However it ended, its place is free for the next.
                let _ = tokio::time::timeout(EXCHANGE_TIMEOUT, served).await;
                drop(slot);
            });
        }
    });
    Ok(Pages { listener, task })
}

async fn metrics(State(page): State<Page>) -> impl IntoResponse {
    let mut samples = statistics::samples(&page.client, page.clock);
    if let Some(validity) = page.identity.validity() {
        let mut time = |name, help, time: SystemTime| {
            let value = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            samples.push(Sample { name, help, kind: SampleKind::Gauge, labels: Vec::new(), value });
        };
        time("heddle_certificate_not_before_seconds", "The certificate is valid from here.", validity.not_before);
        time("heddle_certificate_not_after_seconds", "The certificate is valid until here.", validity.not_after);
    }
    samples.push(Sample {
        name: "heddle_control_connected",
        help: "Whether the stream to the control plane is open.",
        kind: SampleKind::Gauge,
        labels: Vec::new(),
        value: f64::from(u8::from(*page.client.connected().borrow())),
    });
    let text = page.registry.render_prometheus(&samples);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn ready(State(page): State<Page>) -> impl IntoResponse {
    if *page.ready.borrow() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use engine::Nanos;
    use telemetry::metrics::{Class, Direction, SeriesKey};

    use super::*;

    async fn pages() -> (SocketAddr, Arc<Registry>) {
        let (registry, address) = (Registry::new(), testkit::address::free());
        let nobody = || -> xds::client::Connecting { Box::pin(std::future::pending()) };
        let settings = xds::client::Settings::new("shop/front-0");
        let page = Page {
            registry: Arc::clone(&registry),
            client: Client::start(settings, nobody, Arc::new(|_| engine::SeriesId(0))),
            identity: Identity::generate().expect("a key"),
            clock: Clock::start(),
            ready: watch::channel(true).1,
            drain: None,
        };
        // For the test's whole life.
        std::mem::forget(serve(address, None, page).await.expect("a free address"));
        (address, registry)
    }

    fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(text.as_bytes()).expect("it takes a line");
        stream
    }

    const GET: &str = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";

    #[tokio::test]
    async fn connections_beyond_the_limit_wait() {
        let (address, _) = pages().await;
        let mut held: Vec<TcpStream> = (0..CONNECTIONS).map(|_| send(address, "GET /live")).collect();
        let more = send(address, GET);
        more.set_nonblocking(true).expect("a socket");
        let mut more = tokio::net::TcpStream::from_std(more).expect("a socket");
        let mut answer = String::new();
        let read = tokio::io::AsyncReadExt::read_to_string(&mut more, &mut answer);
        tokio::pin!(read);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut read).await;
        assert!(early.is_err(), "all places are taken: {early:?}");
        held.pop();
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        read.expect("there is room again").expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_too_slow_is_let_go() {
        let (address, registry) = pages().await;
        let recorder = registry.recorder();
        // More than sockets hold for somebody who does not read.
        for n in 0..telemetry::metrics::SERIES_LIMIT - 1 {
            let key = SeriesKey { direction: Direction::Outbound, service: format!("s/{n}").into(), route: "".into() };
            recorder.request(registry.series(&key), Class::Success, None, Nanos(1), false);
        }
        let mut slow = send(address, &GET.replace("live", "metrics"));
        // The runtime's clock jumps when there is nothing to do but to wait.
        tokio::time::sleep(EXCHANGE_TIMEOUT + Duration::from_secs(1)).await;
        let mut got = Vec::new();
        let _ = slow.read_to_end(&mut got);
        let text = String::from_utf8_lossy(&got);
        let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")).expect("a length");
        assert!(got.len() < length.parse().expect("a number"), "{length} bytes came whole");
    }
}

/// What a drain is asked for with.
#[derive(serde::Deserialize)]
struct DrainQuery {
    seconds: Option<u64>,
    way: Option<Way>,
}

/// What is to end alone.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum Way {
    In,
}

/// Begins to drain. Only who is on this machine may ask: whoever else can reach the page could end the proxy. Nor may a web page in a
/// browser on this machine, which says where it is from.
async fn drain(
    State(page): State<Page>,
    Extension(asker): Extension<Asker>,
    headers: HeaderMap,
    Query(query): Query<DrainQuery>,
) -> (StatusCode, &'static str) {
    if !asker.is_beside_us() || headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "only from beside the proxy\n");
    }
    let Some(drain) = &page.drain else {
        return (StatusCode::CONFLICT, "its supervisor drains this proxy\n");
    };
    let limit = query.seconds.map_or(DRAIN, Duration::from_secs);
    let order = match query.way {
        None => Order::Finish(limit),
        Some(Way::In) => Order::Drain(limit),
    };
    // Whoever has just asked as much is not waited for.
    let _ = drain.try_send(order);
    (StatusCode::ACCEPTED, "draining\n")
}
