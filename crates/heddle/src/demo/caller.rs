//! A small HTTP/1.1 client that keeps connections and uses the forward proxy of `http_proxy`, as common programs do.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest answer that is read.
const MAX_BODY: usize = 1 << 20;

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Idle connections that are kept.
const MAX_IDLE: usize = 64;

/// Calls by URL, through one forward proxy when there is one.
pub(crate) struct Caller {
    proxy: Option<String>,
    idle: Mutex<Vec<(String, SendRequest<Empty<Bytes>>)>>,
}

impl Caller {
    /// Takes `http_proxy` from the environment.
    pub(crate) fn from_environment() -> anyhow::Result<Caller> {
        let proxy = match std::env::var("http_proxy") {
            Ok(url) if !url.is_empty() => {
                let uri: Uri = url.parse().with_context(|| format!("http_proxy is no URL: {url}"))?;
                Some(uri.authority().context("http_proxy names no host")?.to_string())
            }
            _ => None,
        };
        Ok(Caller { proxy, idle: Mutex::default() })
    }

    /// Without a forward proxy.
    pub(crate) fn direct() -> Caller {
        Caller { proxy: None, idle: Mutex::default() }
    }

    /// Status and body of what `url` (only `http`) answers.
    pub(crate) async fn get(&self, url: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        tokio::time::timeout(TIMEOUT, self.exchange(&uri)).await.with_context(|| format!("{url} does not answer"))?
    }

    async fn exchange(&self, uri: &Uri) -> anyhow::Result<(StatusCode, Bytes)> {
        let Some(authority) = uri.authority() else { bail!("{uri} names no host") };
        let dial = match &self.proxy {
            Some(proxy) => proxy.clone(),
            None if authority.port().is_some() => authority.to_string(),
            None => format!("{authority}:80"),
        };
        let target = match &self.proxy {
            Some(_) => uri.clone(),
            None => Uri::try_from(uri.path_and_query().map_or("/", |p| p.as_str()))?,
        };
        let mut sender = self.connection(&dial).await?;
        let request = Request::get(target).header("host", authority.as_str()).body(Empty::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(|e| anyhow::anyhow!(e))?;
        let body = body.to_bytes();
        let mut idle = self.idle.lock().expect("no panic while the lock is held");
        if idle.len() < MAX_IDLE {
            idle.push((dial, sender));
        }
        Ok((status, body))
    }

    /// A kept connection that still lives, or a new one.
    async fn connection(&self, dial: &str) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        loop {
            let kept = {
                let mut idle = self.idle.lock().expect("no panic while the lock is held");
                idle.iter().rposition(|(to, _)| to == dial).map(|at| idle.swap_remove(at).1)
            };
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(dial).await.with_context(|| format!("cannot connect to {dial}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
