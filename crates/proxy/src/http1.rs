//! Serving one HTTP/1 client connection. One task drives it and, while a request is under way, the other side's connection too.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use engine::{Nanos, Reason, RequestHead as _};
use tokio::io::AsyncWrite;

use crate::conn::Conn;
use crate::deadline::Deadline;
use crate::end::End;
use crate::forward::forward;
use crate::h1::{self, Form};
use crate::observe::About;
use crate::relay::After;
use crate::reply::{self, Refusal};
use crate::route::{Door, Way};
use crate::send::{Call, earlier};
use crate::target::Target;
use crate::worker::{Heads, Worker};

/// After an answer that ends a connection, how long its client may take to read it and to stop sending. Closing at once would
/// make the kernel throw the answer away if more came in (RFC 9112, 9.6).
const LINGER: Nanos = Nanos::from_millis(2_000);

/// And how much it may send meanwhile, bytes: many clients write all of their request before they read why it was refused.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What a connection turned into when it is not closed.
pub(crate) struct Tunnel {
    pub(crate) conn: Conn,
    pub(crate) target: Target,
}

/// How waiting for a head ended.
enum Heard {
    Head,
    /// Nothing more comes, and no request had begun.
    Quiet,
    Refused(Refusal),
}

/// Serves requests until the connection ends or becomes a tunnel.
pub(crate) async fn serve(worker: &Rc<Worker>, door: &Door, conn: Conn) -> Option<Tunnel> {
    let mut down = End::H1(Box::new(conn));
    let mut deadline = Deadline::new(worker.shared.clock);
    let mut idle_since = worker.now();
    loop {
        let unused = idle_since.after(Nanos::from(worker.limits().keep_alive));
        deadline.set(earlier(Some(unused), door.term().map(|term| term.leaves)));
        let End::H1(conn) = &mut down else { return None };
        if !wait(worker, door, conn, &mut deadline).await {
            return None;
        }
        let mut heads = worker.lend_heads();
        let after = match hear(worker, conn, &mut heads, &mut deadline).await {
            Heard::Quiet => After::Abort,
            Heard::Refused(refusal) => refuse(worker, door, &mut down, &mut deadline, &refusal).await,
            Heard::Head => match destination(worker, door, &heads.request) {
                Err(refusal) => refuse(worker, door, &mut down, &mut deadline, &refusal).await,
                Ok(Some(target)) if heads.request.form() == Form::Authority => {
                    worker.give_back_heads(heads);
                    return crate::connect::open(worker, door, down, target, &mut deadline).await;
                }
                Ok(target) => {
                    let mut call = begin(worker, door, &mut down, &mut heads, &mut deadline);
                    forward(&mut call, target.as_ref()).await
                }
            },
        };
        worker.give_back_heads(heads);
        match after {
            After::Continue => idle_since = worker.recently(),
            After::Close => {
                linger(worker, down, deadline).await;
                return None;
            }
            After::Abort => return None,
        }
    }
}

/// Waits for the first byte of a request, without a buffer. False: the connection has ended, or is to be ended.
async fn wait(worker: &Worker, door: &Door, conn: &mut Conn, deadline: &mut Deadline) -> bool {
    if !conn.input.is_empty() {
        // What is answered here and now could go on for ever where a client sends one request behind the other.
        tokio::task::coop::consume_budget().await;
        return true;
    }
    poll_fn(|cx| match conn.poll_fill(cx, worker, worker.limits().head_bytes) {
        Poll::Ready(Ok(n)) => Poll::Ready(n > 0),
        Poll::Ready(Err(_)) => Poll::Ready(false),
        Poll::Pending if worker.closes_idle(door.side()) || deadline.poll(cx).is_ready() => Poll::Ready(false),
        Poll::Pending => {
            conn.rest(worker);
            Poll::Pending
        }
    })
    .await
}

/// Reads a request's head.
async fn hear(worker: &Worker, conn: &mut Conn, heads: &mut Heads, deadline: &mut Deadline) -> Heard {
    let limits = worker.limits();
    let mut begun = false;
    poll_fn(|cx| {
        loop {
            match heads.request.parse(conn.input.bytes(), limits) {
                Ok(Some(n)) => {
                    conn.input.take(n);
                    return Poll::Ready(Heard::Head);
                }
                Ok(None) => {}
                Err(problem) => return Poll::Ready(Heard::Refused(problem.into())),
            }
            if !begun {
                begun = true;
                deadline.set(Some(worker.now().after(Nanos::from(limits.head_timeout))));
            }
            // Room for one byte more than a head may have, so that the codec sees that it is too large.
            match conn.poll_fill(cx, worker, limits.head_bytes + crate::buffer::SIZE) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) if conn.input.bytes().iter().all(|b| matches!(b, b'\r' | b'\n')) => {
                    return Poll::Ready(Heard::Quiet);
                }
                Poll::Ready(Ok(_)) => {
                    return Poll::Ready(Heard::Refused(Refusal::new(
                        Reason::BadRequest,
                        "the request's head is not whole",
                    )));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Heard::Quiet),
                Poll::Pending if deadline.poll(cx).is_ready() => {
                    return Poll::Ready(Heard::Refused(Reason::HeadTimeout.into()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// What a request to the forward proxy names; `None` for the other ways in, which know where they lead.
fn destination(worker: &Worker, door: &Door, request: &h1::Request) -> Result<Option<Target>, Refusal> {
    if !matches!(door.way, Way::Forward) {
        return match request.form() {
            Form::Authority => Err(Refusal::new(Reason::BadRequest, "CONNECT is for the forward proxy")),
            _ => Ok(None),
        };
    }
    let default = match request.form() {
        Form::Absolute if has_scheme(request.target(), "http") => 80,
        Form::Authority => 443,
        Form::Absolute => {
            return Err(Refusal::new(
                Reason::NoDestination,
                "the forward proxy takes http: alone; use CONNECT for the rest",
            ));
        }
        Form::Origin | Form::Asterisk => {
            return Err(Refusal::new(Reason::NoDestination, "this is a forward proxy: send the whole URL, or CONNECT"));
        }
    };
    let Some(target) = Target::parse(request.authority(), default) else {
        return Err(Refusal::new(Reason::NoDestination, "the request names no host"));
    };
    Ok(Some(worker.shared.settings.service_at(target)))
}

fn has_scheme(target: &str, scheme: &str) -> bool {
    target.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(scheme))
}

/// A request whose head was read.
fn begin<'a>(
    worker: &'a Rc<Worker>,
    door: &'a Door,
    down: &'a mut End,
    heads: &'a mut Heads,
    deadline: &'a mut Deadline,
) -> Call<'a> {
    let Heads { request, response } = heads;
    Call {
        worker,
        door,
        down,
        head: request,
        framing: request.framing(),
        asked: h1::Asked::default(),
        response,
        deadline,
        record: worker.observer.begin(door.direction(), worker.now()),
        due: None,
        interims: 0,
        binding: None,
    }
}

/// Answers something that never became a request.
async fn refuse(worker: &Worker, door: &Door, down: &mut End, deadline: &mut Deadline, refusal: &Refusal) -> After {
    let now = worker.now();
    let mut record = worker.observer.begin(door.direction(), now);
    record.status = refusal.status();
    record.reason = Some(refusal.reason);
    worker.observer.finish(&record, About::Unknown, door.identity(), worker.access_log(), now);
    deadline.set(Some(now.after(LINGER)));
    if reply::answer(down, None, refusal, true).is_err() || reply::flush(down, deadline).await.is_err() {
        return After::Abort;
    }
    After::Close
}

/// Closes a connection whose client may still be sending.
async fn linger(worker: &Worker, down: End, mut deadline: Deadline) {
    let End::H1(mut conn) = down else { return };
    deadline.set(Some(worker.now().after(LINGER)));
    let mut seen = 0;
    let mut shut = false;
    poll_fn(|cx| {
        // Over TLS this is a record, which a client that reads nothing does not take.
        if !shut {
            match Pin::new(&mut conn.io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(cx),
            }
        }
        loop {
            let held = conn.input.len();
            conn.input.take(held);
            match conn.poll_fill(cx, worker, crate::buffer::SIZE) {
                Poll::Ready(Ok(n)) if n > 0 && seen < LINGER_BYTES => seen += n,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return deadline.poll(cx),
            }
        }
    })
    .await;
}
