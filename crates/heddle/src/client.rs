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

/// The longest wait for the head of an answer, and then for its body.
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

    /// A one-use token for whom `request` names.
    pub(crate) async fn token(&self, request: &TokenRequest) -> anyhow::Result<TokenResponse> {
        self.post("/v1/tokens", request).await
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
        Ok(Watch { body: answer.into_body(), buffer: Vec::new(), searched: 0 })
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
    let body = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(answer.into_body(), MAX_BODY).collect())
        .await
        .with_context(|| format!("the control plane's answer to {path} did not end within {ANSWER_TIMEOUT:?}"))?
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
    /// So many bytes of `buffer` hold no end of a line.
    searched: usize,
}

impl Watch {
    /// The next state; `None` when the control plane went away. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Desired>> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line).context("a line of /v1/watch is not understood")?));
            }
            self.searched = self.buffer.len();
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A mesh whose control plane answers everything with `head` and then, over and over, `more`; where that is empty, it
    /// stops there.
    fn control_plane(head: &'static str, more: &'static str) -> (tempfile::TempDir, Client) {
        let runtime = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(runtime.path().join("admin.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    stream.read_exact(&mut [0; 16]).await.unwrap();
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let more = more.repeat(16 * 1024);
                    while !more.is_empty() && stream.write_all(more.as_bytes()).await.is_ok() {}
                    stream.read_to_end(&mut Vec::new()).await
                });
            }
        });
        let client = Client::new(runtime.path());
        (runtime, client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_stops_half_way_is_given_up() {
        for (head, said) in [
            ("", "does not answer"),
            ("HTTP/1.1 200 OK\r\nContent-", "does not answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "did not end within"),
        ] {
            let (_runtime, client) = control_plane(head, "");
            let begin = tokio::time::Instant::now();
            let error = client.get::<serde_json::Value>("/v1/health").await.unwrap_err();
            assert!(format!("{error:#}").contains(said), "{head:?}: {error:#}");
            assert!(begin.elapsed() >= ANSWER_TIMEOUT && begin.elapsed() < 2 * ANSWER_TIMEOUT, "{:?}", begin.elapsed());
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_an_error() {
        let endless = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        let (_runtime, client) = control_plane(endless, "[1, 2, 3, 4, 5, 6, 7, 8, 9, 0], ");
        let error = client.get::<serde_json::Value>("/v1/objects").await.unwrap_err();
        assert!(format!("{error:#}").contains("limit"), "{error:#}");
        let error = client.watch().await.unwrap().next().await.unwrap_err();
        assert!(format!("{error:#}").contains("longer than"), "{error:#}");
    }
}
