//! A proxy's own pages: metrics and health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use net::identity::Identity;
use net::listen::Acceptor;
use proxy::Clock;
use telemetry::metrics::{Registry, Sample, SampleKind};
use tokio::sync::{Semaphore, watch};
use xds::client::Client;

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

/// What the pages show.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) registry: Arc<Registry>,
    pub(super) client: Client,
    pub(super) identity: Identity,
    pub(super) clock: Clock,
    pub(super) ready: watch::Receiver<bool>,
}

/// Serves the pages at `address` from now on.
pub(super) async fn serve(address: SocketAddr, page: Page) -> anyhow::Result<()> {
    let listener = net::listen::tcp_reuseport(address, BACKLOG)
        .with_context(|| format!("cannot listen on {address} for metrics"))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .with_state(page);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(async move {
        let mut acceptor = Acceptor::new(listener);
        while let Ok((stream, _)) = acceptor.accept().await {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let service = TowerToHyperService::new(router.clone());
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
    Ok(())
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
