//! A client of the control plane's admin socket: HTTP/1 with JSON bodies over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use control::admin::model::{Desired, ExplainRequest, ExplainResponse, Failure, TokenRequest, TokenResponse};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// The longest wait for the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer, and the largest line of a watch: a mesh of ten thousand objects takes some 20 MB.
const MAX_BODY: usize = 64 << 20;

/// The admin socket of one mesh.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// The client of the mesh whose runtime directory is `runtime`. Connects with each call.
    pub(crate) fn new(runtime: &Path) -> Client {
        Client { socket: runtime.join("admin.sock") }
    }

    /// Reads `path`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        decode(path, answer).await
    }

    /// A one-use token for `workload` (`namespace/name`) with the identity of `service_account`.
    pub(crate) async fn token(&self, workload: &str, service_account: &str) -> anyhow::Result<TokenResponse> {
        let request = TokenRequest { workload: workload.to_owned(), service_account: service_account.to_owned() };
        self.post("/v1/tokens", &request).await
    }

    /// How a sidecar would send a request.
    pub(crate) async fn explain(&self, request: &ExplainRequest) -> anyhow::Result<ExplainResponse> {
        self.post("/v1/explain", request).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("the request has no JSON form")?;
        let answer = self.send(Method::POST, path, body.into()).await?;
        decode(path, answer).await
    }

    /// Follows what a supervisor has to run.
    pub(crate) async fn watch(&self) -> anyhow::Result<Watch> {
        let answer = self.send(Method::GET, "/v1/watch", Bytes::new()).await?;
        if !answer.status().is_success() {
            bail!("the control plane answers /v1/watch with {}", answer.status());
        }
        Ok(Watch { body: answer.into_body(), buffer: Vec::new() })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "admin")
                .header("content-type", "application/json")
                .body(Full::new(body))?;
            anyhow::Ok(sender.send_request(request).await?)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| {
                let (socket, dir) = (self.socket.display(), self.socket.parent().unwrap_or(Path::new(".")).display());
                format!(
                    "the control plane does not answer on {socket} (is it running? start one with: heddle control --runtime {dir} PATH)"
                )
            })
    }
}

async fn decode<T: DeserializeOwned>(path: &str, answer: Response<Incoming>) -> anyhow::Result<T> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!("the control plane's answer to {path} broke off: {e}"))?
        .to_bytes();
    if !status.is_success() {
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => bail!("{}", failure.error),
            Err(_) => bail!("the control plane answers {path} with {status}"),
        }
    }
    serde_json::from_slice(&body).with_context(|| {
        format!("the control plane's answer to {path} is not understood (are both of one version of heddle?)")
    })
}

/// The lines of `GET /v1/watch`.
#[derive(Debug)]
pub(crate) struct Watch {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next state; `None` when the control plane went away. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Desired>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line).context("a line of /v1/watch is not understood")?));
            }
            if self.buffer.len() > MAX_BODY {
                bail!("a line of /v1/watch is longer than {MAX_BODY} bytes");
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}
