//! The services of the demo's shop: plain HTTP programs that know nothing of a mesh. They call each other by name, through
//! the forward proxy that the usual variables name.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::caller::Caller;

/// What `heddle demo-service` is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServiceArgs {
    /// Which part of the shop to play.
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", required_unless_present = "target")]
    pub(crate) listen: Option<SocketAddr>,
    /// How long an answer takes at least, milliseconds.
    #[arg(long, default_value_t = 2, value_name = "MS")]
    pub(crate) delay: u64,
    /// How much longer it may take, milliseconds.
    #[arg(long, default_value_t = 4, value_name = "MS")]
    pub(crate) jitter: u64,
    /// How many requests of a hundred fail with status 500.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(crate) fail: u64,
    /// What the load calls.
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,
    /// How many requests a second the load makes.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) rate: u64,
}

/// The parts of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The front end: asks the three others for each page.
    Web,
    /// What there is to buy.
    Catalog,
    /// What the customer has chosen.
    Cart,
    /// What else the customer may like.
    Recommendations,
    /// Customers.
    Load,
}

struct Service {
    args: ServiceArgs,
    instance: String,
    caller: Caller,
    served: AtomicU64,
}

/// Serves until the process is ended.
pub(crate) async fn serve(args: ServiceArgs) -> anyhow::Result<()> {
    let listen = args.listen.context("--listen is missing")?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let instance = std::env::var("POD_NAME").unwrap_or_else(|_| "unknown".to_owned());
    let service = Arc::new(Service { args, instance, caller: Caller::from_environment()?, served: AtomicU64::new(0) });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors or a connection that died in the queue: both pass.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        tokio::spawn(async move {
            let handler = service_fn(|request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            // A client that went away is none of this program's business.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), handler).await;
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/healthz" {
            return respond(StatusCode::OK, &json!({"ok": true}));
        }
        let dice = mix(self.served.fetch_add(1, Ordering::Relaxed) ^ u64::from(std::process::id()) << 32);
        let jitter = if self.args.jitter == 0 { 0 } else { dice % (self.args.jitter * 1_000) };
        tokio::time::sleep(Duration::from_micros(self.args.delay * 1_000 + jitter)).await;
        if (dice >> 32) % 100 < self.args.fail {
            return respond(StatusCode::INTERNAL_SERVER_ERROR, &json!({"instance": self.instance, "error": "flaky"}));
        }
        let (status, mut body) = match self.args.role {
            Role::Web => self.page().await,
            Role::Catalog => (StatusCode::OK, json!({"items": ["thread", "cloth", "shuttle"]})),
            Role::Cart => (StatusCode::OK, json!({"chosen": ["thread"]})),
            Role::Recommendations => (StatusCode::OK, json!({"try": ["cloth"]})),
            Role::Load => (StatusCode::NOT_FOUND, json!({})),
        };
        body["instance"] = json!(self.instance);
        respond(status, &body)
    }

    /// The front page: the three backends are asked at once.
    async fn page(&self) -> (StatusCode, Value) {
        let ask = |url: &'static str| async move {
            match self.caller.get(url).await {
                Ok((status, body)) if status.is_success() => serde_json::from_slice(&body).ok(),
                Ok(_) | Err(_) => None,
            }
        };
        let (catalog, cart, recommendations): (Option<Value>, Option<Value>, Option<Value>) =
            tokio::join!(ask("http://catalog/"), ask("http://cart/"), ask("http://recommendations/"));
        let whole = catalog.is_some() && cart.is_some() && recommendations.is_some();
        let status = if whole { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
        (status, json!({"catalog": catalog, "cart": cart, "recommendations": recommendations}))
    }
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// A number that looks random (the finalizer of splitmix64, Steele and others 2014); good enough to vary answers.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
