//! Serving one HTTP/2 client connection: a task for the connection, and one for each stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use engine::{Nanos, Reason, RequestHead as _};
use h2::RecvStream;
use h2::server::{self, Connection, SendResponse};
use http::Request;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};

use crate::conn::Conn;
use crate::crew;
use crate::deadline::Deadline;
use crate::end::{End, Stream};
use crate::forward::forward;
use crate::gather::{self, Gather};
use crate::h1::{self, Framing};
use crate::message::Head;
use crate::reply::{self, Refusal};
use crate::route::{Door, Way};
use crate::send::{Call, earlier};
use crate::target::Target;
use crate::upstream::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::worker::{Heads, Worker};

/// Streams that the peer has reset and we have not seen yet; beyond it the connection is closed (the "rapid reset" attack,
/// CVE-2023-44487).
const PENDING_RESETS: usize = 20;

/// So much more than `headBytes` the codec lets through: a head that is too large by no more gets an answer that says so, is
/// counted and logged. Beyond it the codec answers 431 by itself, and keeps nothing.
const SLACK: usize = 16 * 1024;

/// After an answer that came before its request had ended: how long the rest may still come, and how much of it, bytes. What is
/// on its way is nobody's fault, but `h2` answers each frame of a stream that is over with a reset, and closes a connection after
/// 1,024 of them however long it has lived, with every request on it.
const LINGER: Nanos = Nanos::from_millis(1_000);
const LINGER_BYTES: usize = 64 * 1024;

/// What a field counts for beside its letters (RFC 9113, 6.5.2).
const FIELD: usize = 32;

/// Serves streams until the connection ends.
pub(crate) async fn serve(worker: &Rc<Worker>, door: Door, conn: Conn) {
    let limits = worker.limits();
    let (conn, outlet) = gather::around(conn);
    let handshake = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes + SLACK).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .handshake::<_, Bytes>(conn);
    let handshake = outlet.driving(handshake);
    let Ok(Ok(connection)) = tokio::time::timeout(limits.head_timeout, handshake).await else { return };
    outlet.driving(drive(worker, Rc::new(door), connection)).await;
}

/// Counts a stream as open until it is dropped.
struct Active(Rc<Cell<usize>>);

impl Active {
    fn new(count: &Rc<Cell<usize>>) -> Active {
        count.set(count.get() + 1);
        Active(Rc::clone(count))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn drive(worker: &Rc<Worker>, door: Rc<Door>, mut connection: Connection<Gather<Conn>, Bytes>) {
    let active = Rc::new(Cell::new(0));
    let keep_alive = Nanos::from(worker.limits().keep_alive);
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(earlier(Some(worker.now().after(keep_alive)), door.term().map(|term| term.leaves)));
    let mut leaving = false;
    let mut served = 0_u64;
    let mut seen = 0;
    poll_fn(|cx| {
        loop {
            if !leaving && door.is_leaving(worker) {
                leaving = true;
                connection.graceful_shutdown();
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    served += 1;
                    let active = Active::new(&active);
                    crew::serve(worker, Job { door: Rc::clone(&door), request, respond, _active: active });
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending if deadline.poll(cx).is_pending() => return Poll::Pending,
                // A timer that rings without a new stream since it was set, and with none open, means that nobody needs
                // the connection any more.
                Poll::Pending => {
                    if active.get() == 0 && served == seen && !leaving {
                        leaving = true;
                        connection.graceful_shutdown();
                    }
                    seen = served;
                    deadline.set(Some(worker.now().after(keep_alive)));
                }
            }
        }
    })
    .await;
}

/// A stream to serve.
pub(crate) struct Job {
    door: Rc<Door>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    _active: Active,
}

/// Serves one stream.
pub(crate) async fn stream(worker: &Rc<Worker>, job: Job) {
    let Job { door, request, respond, _active } = job;
    let door = &*door;
    let (parts, body) = request.into_parts();
    let mut down = End::H2(Stream { recv: Some(body), send: None, respond: Some(respond) });
    let mut heads = worker.lend_heads();
    let mut deadline = Deadline::new(worker.shared.clock);
    let head = Head::H2(&parts);
    let named = match list_size(&parts) > worker.limits().head_bytes {
        true => Err(Refusal::new(Reason::HeadTooLarge, "the headers are larger than this proxy takes")),
        false => destination(worker, door, &head),
    };
    match named {
        Err(refusal) => refuse(worker, door, &mut down, &head, &refusal),
        Ok(target) => {
            let Heads { response, .. } = &mut *heads;
            let mut call = Call {
                worker,
                door,
                down: &mut down,
                head,
                framing: Framing::None,
                asked: h1::Asked::default(),
                response,
                deadline: &mut deadline,
                record: worker.observer.begin(door.direction(), worker.now()),
                due: None,
                interims: 0,
                binding: None,
            };
            forward(&mut call, target.as_ref()).await;
        }
    }
    worker.give_back_heads(heads);
    linger(worker, &mut down, &mut deadline).await;
}

/// Lets a request end whose answer came first.
async fn linger(worker: &Worker, down: &mut End, deadline: &mut Deadline) {
    let End::H2(stream) = down else { return };
    if stream.ended() {
        return;
    }
    deadline.set(Some(worker.now().after(LINGER)));
    let mut seen = 0;
    poll_fn(|cx| {
        loop {
            match stream.poll_data(cx) {
                Poll::Ready(Ok(Some(bytes))) if seen < LINGER_BYTES => {
                    seen += bytes.len();
                    stream.release(bytes.len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(cx),
            }
        }
    })
    .await;
}

/// The size of a request's header list as HTTP/2 counts it.
fn list_size(parts: &Parts) -> usize {
    let pseudo = |name: &str, value: Option<&str>| value.map_or(0, |value| name.len() + value.len() + FIELD);
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum();
    fields
        + pseudo(":method", Some(parts.method.as_str()))
        + pseudo(":scheme", parts.uri.scheme_str())
        + pseudo(":authority", parts.uri.authority().map(Authority::as_str))
        + pseudo(":path", parts.uri.path_and_query().map(PathAndQuery::as_str))
}

/// What a request to the forward proxy names; `None` for the other ways in.
fn destination(worker: &Worker, door: &Door, head: &Head<'_>) -> Result<Option<Target>, Refusal> {
    if head.method() == "CONNECT" {
        return Err(Refusal::new(Reason::BadRequest, "CONNECT is served over HTTP/1 alone"));
    }
    if !matches!(door.way, Way::Forward) {
        return Ok(None);
    }
    let target =
        Target::parse(head.authority(), 80).ok_or(Refusal::new(Reason::NoDestination, "the request names no host"))?;
    Ok(Some(worker.shared.settings.service_at(target)))
}

fn refuse(worker: &Worker, door: &Door, down: &mut End, head: &Head<'_>, refusal: &Refusal) {
    let now = worker.now();
    let mut record = worker.observer.begin(door.direction(), now);
    record.status = refusal.status();
    record.reason = Some(refusal.reason);
    worker.observer.finish(&record, door.identity(), worker.shared.live.mesh.load().access_log, now);
    // An error means that the stream is gone, with whoever would have read the answer.
    let _ = reply::answer(down, Some(head), refusal, false);
}
