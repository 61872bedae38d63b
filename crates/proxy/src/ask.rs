//! Requests of the proxy's own: probes of load, and health checks. Small, without a request body over HTTP/1, and each
//! bounded in time by whoever makes it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use engine::Nanos;
use http::{HeaderMap, Request};

use crate::end::End;
use crate::h1;
use crate::pool::Peer;
use crate::upstream::{self, Route, Upstream, Wire};
use crate::worker::Worker;

/// Most of a body that is read of an answer.
const BODY: usize = 16 * 1024;

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    /// A field that says `1`.
    pub(crate) mark: Option<&'a str>,
    /// A gRPC message; only over HTTP/2.
    pub(crate) grpc: Option<Bytes>,
}

/// What was answered.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `heddle-load`.
    pub(crate) load: Option<Vec<u8>>,
    /// Of an answer over HTTP/2, at most 16 KiB.
    pub(crate) body: Bytes,
    /// `grpc-status`, of head or trailers.
    pub(crate) grpc_status: Option<u32>,
}

/// Asks over a connection of the pool, or a new one. Bounded by `limit` for the connection alone; the caller bounds the rest.
pub(crate) async fn ask(
    worker: &Rc<Worker>,
    peer: Peer,
    route: Route<'_>,
    wire: Wire,
    question: &Question<'_>,
    limit: Nanos,
) -> Option<Reply> {
    let now = worker.now();
    let pooled = (wire == Wire::Http1).then(|| upstream::pooled(worker, peer, now)).flatten();
    let upstream = match pooled {
        Some(upstream) => upstream,
        None => upstream::open(worker, peer, route, wire, limit).await.ok()?,
    };
    match wire {
        Wire::Http1 => http1(worker, upstream, question).await,
        Wire::Http2 => http2(upstream, question).await,
    }
}

async fn http1(worker: &Rc<Worker>, upstream: Upstream, question: &Question<'_>) -> Option<Reply> {
    let Upstream { end: End::H1(mut conn), peer, expires, .. } = upstream else { return None };
    let Question { method, path, host, mark, .. } = question;
    let mark = mark.map(|name| format!("{name}: 1\r\n")).unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: heddle\r\n{mark}\r\n");
    conn.output.extend_from_slice(head.as_bytes());
    poll_fn(|cx| conn.poll_flush(cx)).await.ok()?;
    let mut response = h1::Response::default();
    let limits = worker.limits();
    let asked = h1::Asked::new(method, false);
    let parsed = poll_fn(|cx| {
        loop {
            if !conn.input.is_empty() {
                match response.parse(conn.input.bytes(), asked, limits) {
                    Ok(Some(n)) => {
                        conn.input.take(n);
                        if !response.is_interim() {
                            return Poll::Ready(Some(()));
                        }
                        response.reset();
                        continue;
                    }
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(None),
                }
            }
            match ready!(conn.poll_fill(cx, worker, limits.head_bytes + crate::buffer::SIZE)) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(None),
            }
        }
    });
    parsed.await?;
    let reply = Reply { status: response.status(), load: response.load().map(<[u8]>::to_vec), ..Reply::default() };
    // Only what is wholly read can be used again; a body is not worth waiting for.
    let empty = matches!(response.framing(), h1::Framing::None | h1::Framing::Length(0));
    if empty && response.keep_alive() && conn.input.is_empty() {
        conn.rest(worker);
        worker.pool.borrow_mut().put(peer, conn, expires, worker.now(), 0);
    }
    Some(reply)
}

async fn http2(mut upstream: Upstream, question: &Question<'_>) -> Option<Reply> {
    let mut requests = upstream.requests.take()?;
    let mut request = Request::builder()
        .method(question.method)
        .uri(format!("http://{}{}", question.host, question.path))
        .version(http::Version::HTTP_2);
    if question.grpc.is_some() {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    if let Some(mark) = question.mark {
        request = request.header(mark, "1");
    }
    let request = request.body(()).ok()?;
    let (answer, mut send) = requests.send_request(request, question.grpc.is_none()).ok()?;
    if let Some(message) = &question.grpc {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.extend_from_slice(&[0]);
        // A message of ours is a service's name.
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(message);
        send.send_data(framed.freeze(), true).ok()?;
    }
    let (parts, mut body) = answer.await.ok()?.into_parts();
    let status = |map: &HeaderMap| map.get("grpc-status").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut reply = Reply {
        status: parts.status.as_u16(),
        load: parts.headers.get(crate::load::LOAD).map(|value| value.as_bytes().to_vec()),
        body: Bytes::new(),
        grpc_status: status(&parts.headers),
    };
    let mut read = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data[..data.len().min(BODY - read.len())]);
        if read.len() == BODY {
            // As over HTTP/1, the status says it all. Dropping the body takes the rest back.
            break;
        }
    }
    let whole = read.len() < BODY;
    reply.body = read.freeze();
    if whole && let Ok(Some(trailers)) = body.trailers().await {
        reply.grpc_status = reply.grpc_status.or(status(&trailers));
    }
    Some(reply)
}
