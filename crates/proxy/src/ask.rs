//! Requests of the proxy's own: probes of load, and health checks. Small, without a request body over HTTP/1, and each
//! bounded in time by whoever makes it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use engine::Nanos;

use crate::end::End;
use crate::h1;
use crate::pool::{Peer, Used};
use crate::transfer::parse_grpc_status;
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
    let upstream = match upstream::pooled(worker, peer, wire, now) {
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
        let used = Used { bytes: 0, keeps: response.keeps_for() };
        worker.pool.borrow_mut().put(peer, conn, expires, worker.now(), used);
    }
    Some(reply)
}

async fn http2(upstream: Upstream, question: &Question<'_>) -> Option<Reply> {
    let Upstream { end: End::H2(stream), .. } = upstream else { return None };
    let message = question.grpc.as_ref().map(|message| {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        // A message of ours is a service's name.
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.extend_from_slice(message);
        framed
    });
    let head = question.method == "HEAD";
    let sent = stream.send_request(message.is_none(), head, |encoder, out| {
        encoder.begin(out);
        let mut field = |name: &str, value: &str| encoder.field(name.as_bytes(), value.as_bytes(), false, out);
        field(":method", question.method);
        field(":scheme", "http");
        field(":authority", question.host);
        field(":path", question.path);
        if message.is_some() {
            field("content-type", "application/grpc");
            field("te", "trailers");
        }
        if let Some(mark) = question.mark {
            field(mark, "1");
        }
    });
    sent.ok()?;
    let mut left = message.as_deref().unwrap_or_default();
    while !left.is_empty() {
        let n = poll_fn(|cx| stream.poll_send(cx, left, true)).await.ok()?;
        left = &left[n..];
    }
    let mut response = h1::Response::default();
    loop {
        poll_fn(|cx| stream.poll_answer(cx, &mut response)).await.ok()?;
        if !response.is_interim() {
            break;
        }
    }
    let status = |fields: &h1::Fields| fields.get("grpc-status").and_then(parse_grpc_status).map(u32::from);
    let mut reply = Reply {
        status: response.status(),
        load: response.load().map(<[u8]>::to_vec),
        body: Bytes::new(),
        grpc_status: status(response.fields()),
    };
    let mut read = BytesMut::new();
    while read.len() < BODY && poll_fn(|cx| stream.poll_body(cx, 0)).await.ok()? {
        let n = {
            let data = stream.body(0);
            let n = data.len().min(BODY - read.len());
            read.extend_from_slice(&data[..n]);
            n
        };
        stream.consume(n);
    }
    reply.body = read.freeze();
    // Of a longer body the status says it all, as over HTTP/1; the stream is reset.
    if let Some(trailers) = stream.trailers() {
        reply.grpc_status = reply.grpc_status.or(status(&trailers));
    }
    Some(reply)
}
