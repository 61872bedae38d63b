//! A real control plane in a directory of its own, and proxies that talk to it.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use net::identity::Identity;
use proto::mesh;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};
use xds::session::{Event, Options, Session};

/// Everything that should happen happens within this.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const SHOP: &str = r"
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: http, appProtocol: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      containers: [{name: cart, image: cart, command: [cart], ports: [{name: http, containerPort: 8080}]}]
";

pub const ROUTE: &str = r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: cart}]
  rules:
  - backendRefs: [{name: cart, port: 80}]
";

pub struct Plane {
    pub dir: Arc<TempDir>,
    pub config: control::Config,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), control::Error>>>,
}

impl Plane {
    /// A control plane over `manifests`, with short times.
    pub async fn start(manifests: &str) -> Plane {
        Plane::start_with(manifests, |_| {}).await
    }

    pub async fn start_with(manifests: &str, change: impl FnOnce(&mut control::Config)) -> Plane {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("shop.yaml"), manifests).unwrap();
        let mut config = control::Config::new(dir.path().join("run"), vec![dir.path().join("shop.yaml")]);
        change(&mut config);
        let mut plane = Plane { dir, config, stop: None, thread: None };
        plane.again().await;
        plane
    }

    /// Starts (again) in the same directory.
    pub async fn again(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Starts, ready or not.
    pub fn launch(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let config = self.config.clone();
        // A runtime of its own, so that all its connections end with it, as with a process.
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(control::run(config, async {
                let _ = stopped.await;
            }))
        }));
        self.stop = Some(stop);
    }

    pub async fn ready(&self) {
        until("the control plane is ready", async || {
            let health: Option<control::admin::model::Health> = self.try_get("/v1/health").await;
            health.is_some_and(|h| h.ready)
        })
        .await;
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }

    pub fn edit(&self, manifests: &str) {
        std::fs::write(self.dir.path().join("shop.yaml"), manifests).unwrap();
    }

    pub fn run_dir(&self) -> PathBuf {
        self.config.runtime_dir.clone()
    }

    async fn request(&self, text: String) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.run_dir().join("admin.sock")).await.ok()?;
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub async fn get_raw(&self, path: &str) -> (u16, String) {
        self.request(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await.unwrap()
    }

    pub async fn try_get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        serde_json::from_str(&self.request(text).await?.1).ok()
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.get_raw(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    pub async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        self.request(head + body).await.unwrap()
    }

    pub async fn token(&self, workload: &str, service_account: &str) -> String {
        self.token_for(&format!(r#"{{"workload":"{workload}","serviceAccount":"{service_account}"}}"#)).await
    }

    pub async fn token_for(&self, request: &str) -> String {
        let (status, answer) = self.post("/v1/tokens", request).await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<control::admin::model::TokenResponse>(&answer).unwrap().token
    }

    /// Follows `/v1/watch`.
    pub async fn watch(&self) -> Watch {
        let mut stream = UnixStream::connect(self.run_dir().join("admin.sock")).await.unwrap();
        stream.write_all(b"GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        Watch(BufReader::new(stream))
    }

    /// A key that trusts this mesh and has no certificate yet.
    pub fn identity(&self) -> Identity {
        let identity = Identity::generate().unwrap();
        identity.set_roots(net::identity::read_certificates(&self.run_dir().join("roots.pem")).unwrap()).unwrap();
        identity
    }

    pub fn connector(
        &self,
        identity: &Identity,
    ) -> impl Fn() -> xds::client::Connecting + Clone + Send + Sync + 'static {
        let (socket, identity) = (self.run_dir().join("control.sock"), identity.clone());
        move || {
            let (socket, identity) = (socket.clone(), identity.clone());
            Box::pin(async move { connect(socket, identity).await })
        }
    }

    /// A proxy of `workload` with a token.
    pub async fn proxy(&self, registration: mesh::Registration) -> Proxy {
        let token = self.token(&registration.workload, &registration.service_account).await;
        self.proxy_with(self.identity(), registration, Some(token), Box::new(mesh::Statistics::default))
    }

    pub fn proxy_with(
        &self,
        identity: Identity,
        registration: mesh::Registration,
        token: Option<String>,
        statistics: xds::session::StatisticsSource,
    ) -> Proxy {
        let connector = Arc::new(self.connector(&identity));
        let version = "test".into();
        let options = Options { identity: identity.clone(), registration, version, token, explainer: None };
        let (session, events) = xds::session::start(options, connector, statistics);
        Proxy { session, events, identity }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Watch(BufReader<UnixStream>);

impl Watch {
    pub async fn next(&mut self) -> control::admin::model::Desired {
        loop {
            let mut line = String::new();
            let read =
                tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
            assert_ne!(read, 0, "the watch has ended");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

pub struct Proxy {
    pub session: Session,
    pub events: mpsc::Receiver<Event>,
    pub identity: Identity,
}

impl Proxy {
    pub async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").unwrap()
    }

    /// Waits until it is registered, over whatever problems.
    pub async fn registered(&mut self) {
        while self.event().await != Event::Registered {}
    }
}

pub async fn connect(socket: PathBuf, identity: Identity) -> Result<Channel, Box<dyn Error + Send + Sync>> {
    over(UnixStream::connect(socket).await?, identity).await
}

/// A channel over a connected socket.
pub async fn over<S>(socket: S, identity: Identity) -> Result<Channel, Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = net::tls::connect_control(socket, &identity).await?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        std::future::ready(once.take().ok_or_else(|| std::io::Error::other("a channel connects once")))
    });
    Ok(Endpoint::from_static("http://control").connect_with_connector(connector).await?)
}

/// What an instance of `cart` registers.
pub fn cart(n: u8) -> mesh::Registration {
    mesh::Registration {
        workload: format!("shop/cart-{n}"),
        service_account: "cart".into(),
        address: format!("127.77.0.{n}"),
        dial: format!("127.77.0.{n}:15006"),
        labels: vec![mesh::Label { name: "app".into(), value: "cart".into() }],
        ports: vec![mesh::NamedPort { name: "http".into(), port: 8080, protocol: mesh::Protocol::Http1.into() }],
        state: mesh::State::Ready.into(),
        ..Default::default()
    }
}

/// What a caller without endpoints registers.
pub fn web() -> mesh::Registration {
    mesh::Registration { workload: "shop/web-0".into(), service_account: "web".into(), ..Default::default() }
}

/// Waits until `condition` holds, and says how long it took.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}
