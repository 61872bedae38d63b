//! Listening for the first bytes of a connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use engine::Nanos;
use engine::detect::{Detected, detect};

use crate::buffer::SIZE;
use crate::conn::Conn;
use crate::deadline::Deadline;
use crate::reply::Refusal;
use crate::target::Target;
use crate::worker::{Side, Worker};

/// How long a client that has begun to speak may leave open what it speaks, where the other side may be waiting for it. An HTTP
/// client sends the bytes that tell in its first packet; an opaque protocol whose first message looks like the beginning of HTTP
/// is held up for this long, once per connection.
pub(crate) const PARTIAL: Nanos = Nanos::from_millis(100);

/// Who was heard first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The client, speaking this.
    Client(Detected),
    /// The other side.
    Other,
    /// Neither, and there is no more to wait for.
    Nobody,
    /// The client has gone.
    Gone,
}

/// How listening to both sides ended.
pub(crate) struct Listened<U> {
    pub(crate) heard: Heard,
    /// The other side, if it was reached or could not be by then.
    pub(crate) other: Option<Result<U, Refusal>>,
}

/// Reads until the client's first bytes are enough to tell, or time is up, or nothing more comes: then `More`. A connection may
/// be quiet for as long as one between two requests; once it has begun to speak it must be quick.
pub(crate) async fn client(worker: &Worker, side: Side, conn: &mut Conn) -> Detected {
    let limits = worker.limits();
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(Some(worker.now().after(Nanos::from(limits.keep_alive))));
    let mut begun = false;
    poll_fn(|cx| {
        loop {
            match first_words(cx, worker, conn) {
                Poll::Ready(Ok(decided)) => return Poll::Ready(decided),
                Poll::Ready(Err(_)) => return Poll::Ready(Detected::More),
                Poll::Pending if worker.closes_idle(side) => return Poll::Ready(Detected::More),
                Poll::Pending if begun || conn.input.is_empty() => return deadline.poll(cx).map(|()| Detected::More),
                Poll::Pending => {
                    begun = true;
                    deadline.set(Some(worker.now().after(Nanos::from(limits.detect_timeout))));
                }
            }
        }
    })
    .await
}

/// Dials the other side of `target` by `opening` and listens to both; `conn_of` finds the connection in what is opened. That the
/// other side spoke first is remembered.
pub(crate) async fn both<U>(
    worker: &Worker,
    side: Side,
    conn: &mut Conn,
    target: &Target,
    opening: impl Future<Output = Result<U, Refusal>>,
    conn_of: impl Fn(&mut U) -> &mut Conn,
) -> Listened<U> {
    // A client that speaks first has usually done so when its connection is accepted, or does so at once; one turn of the
    // runtime saves dialling for nothing.
    tokio::task::yield_now().await;
    let mut opening = pin!(opening);
    let mut other: Option<Result<U, Refusal>> = None;
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(Some(worker.now().after(Nanos::from(worker.limits().keep_alive))));
    let (mut hurry, mut settings) = (false, false);
    let heard = poll_fn(|cx| {
        match first_words(cx, worker, conn) {
            // A client that only listens may have closed its side already.
            Poll::Ready(Ok(Detected::More)) => return Poll::Ready(Heard::Client(Detected::Opaque)),
            Poll::Ready(Ok(decided)) => return Poll::Ready(Heard::Client(decided)),
            Poll::Ready(Err(_)) => return Poll::Ready(Heard::Gone),
            Poll::Pending => {}
        }
        if other.is_none()
            && let Poll::Ready(result) = opening.as_mut().poll(cx)
        {
            other = Some(result);
        }
        if let Some(Ok(up)) = &mut other
            && !settings
        {
            let up = conn_of(up);
            match up.poll_fill(cx, worker, SIZE) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    if is_settings(up.input.bytes()) {
                        // An HTTP/2 server says this to everybody, and its client is still to speak. What it will say goes over
                        // another connection if it is HTTP, and over this one if not.
                        settings = true;
                    } else {
                        // What an HTTP server says to a client that is silent for too long (408) is no greeting.
                        if !up.input.bytes().starts_with(b"HTTP/") {
                            worker.remember_server_speaks_first(target);
                        }
                        return Poll::Ready(Heard::Other);
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Heard::Nobody),
                Poll::Pending => {}
            }
        }
        if worker.closes_idle(side) && conn.input.is_empty() {
            return Poll::Ready(Heard::Gone);
        }
        // A client that has begun must not wait for long; one whose other side cannot be reached may still turn out to speak HTTP,
        // in which the reason can be told.
        if !hurry && (!conn.input.is_empty() || matches!(other, Some(Err(_)))) {
            hurry = true;
            deadline.set(Some(worker.now().after(PARTIAL)));
        }
        deadline.poll(cx).map(|()| Heard::Nobody)
    })
    .await;
    Listened { heard, other }
}

/// Whether these are the beginning of an HTTP/2 server's first words: a SETTINGS frame, which it sends before it has heard anything
/// (RFC 9113, 3.4 and 6.5).
fn is_settings(bytes: &[u8]) -> bool {
    match bytes {
        [a, b, c, 4, 0, 0, 0, 0, 0, ..] => u32::from_be_bytes([0, *a, *b, *c]).is_multiple_of(6),
        _ => false,
    }
}

/// What the client's bytes are. `More`: it sends no more, and they do not tell.
fn first_words(cx: &mut Context<'_>, worker: &Worker, conn: &mut Conn) -> Poll<std::io::Result<Detected>> {
    loop {
        match detect(conn.input.bytes()) {
            Detected::More => {}
            decided => return Poll::Ready(Ok(decided)),
        }
        match conn.poll_fill(cx, worker, worker.limits().head_bytes) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Detected::More)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    }
}
