//! The way back: an answer's head and body to the client, while the rest of the request's body goes the other way.

use std::future::poll_fn;
use std::task::Poll;

use engine::{Nanos, Outcome, Reason};
use smallvec::SmallVec;

use crate::end::{End, Fault};
use crate::h1::{self, Connection, Framing, Version};
use crate::h2::Code;
use crate::load;
use crate::pool::Used;
use crate::reply::Refusal;
use crate::route::Plan;
use crate::send::{Answer, Call, earlier, finish};
use crate::term::{self, Term};
use crate::transfer::{Broken, Transfer, parse_grpc_status};
use crate::tunnel;

/// What becomes of the client's connection (HTTP/1; a stream of HTTP/2 is over in any case).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request may come.
    Continue,
    /// It is closed, once the client had time to read what was written.
    Close,
    /// It is cut off, so that the client sees that the answer is not whole.
    Abort,
}

/// How the body's way ended.
enum Ended {
    Whole,
    Upstream(Fault),
    Client,
    TimedOut(Reason),
}

/// Forwards an answer.
pub(crate) async fn relay(call: &mut Call<'_>, plan: &Plan, mut answer: Answer<'_>) -> After {
    let idle = plan.policy().map_or(call.worker.defaults.idle_timeout, |policy| policy.idle_timeout);
    call.due = earlier(call.due, answer.upstream.expires.map(|term| term.ends));
    let status = call.response.status();
    call.record.status = status;
    if matches!(plan, Plan::Application { .. }) {
        learn(call, &answer, status);
    }
    let begun = match begin(call, plan, &mut answer) {
        Ok(begun) => begun,
        Err(fault) => {
            // The client's stream is gone, or the answer has no form in its HTTP.
            let upstream = !matches!(fault, Fault::Reset(_));
            finish(
                plan,
                answer.in_flight.take(),
                answer.at,
                if upstream { Outcome::Reset } else { Outcome::Cancelled },
            );
            call.record.failure = upstream;
            return After::Abort;
        }
    };
    if begun.incoming == Framing::Tunnel {
        return upgraded(call, plan, answer, idle).await;
    }
    let mut download = Transfer::new(&answer.upstream.end, begun.incoming, begun.outgoing, None);
    if begun.bodiless {
        download.skip();
    }
    let ended = pump(call, &mut answer, &mut download, idle).await;
    call.record.received = answer.upload.forwarded();
    call.record.sent = download.forwarded();
    let grpc = download.grpc_status().or(begun.grpc_status);
    let outcome = match &ended {
        Ended::Whole => grpc.map_or_else(|| Outcome::from_status(status), Outcome::from_grpc),
        Ended::Upstream(_) => Outcome::Reset,
        Ended::Client | Ended::TimedOut(Reason::CertificateExpired) => Outcome::Cancelled,
        Ended::TimedOut(_) => Outcome::Timeout,
    };
    call.record.failure = outcome.is_failure();
    // A failure is one of now, and leaves the instance out from now on; otherwise the time of the head counts, which is noted.
    let at = if outcome.is_failure() { call.worker.now() } else { call.worker.recently() };
    finish(plan, answer.in_flight.take(), at, outcome);
    match ended {
        Ended::Whole => done(call, answer, &download, &begun),
        Ended::Upstream(fault) => {
            call.record.reason = Some(match fault {
                Fault::Protocol(problem) => problem.reason,
                Fault::Gone | Fault::Refused | Fault::Reset(_) => Reason::UpstreamReset,
            });
            abort(call.down)
        }
        Ended::Client => {
            call.record.reason = Some(Reason::ClientGone);
            abort(call.down)
        }
        Ended::TimedOut(reason) => {
            call.record.reason = Some(reason);
            abort(call.down)
        }
    }
}

/// Learns of the application's load from its answer. A failure's latency says nothing: it must not look fast. Nor does that of
/// an answer to a request which its client is still sending.
fn learn(call: &Call<'_>, answer: &Answer<'_>, status: u16) {
    if status < 500 && answer.upload.is_done() {
        let asked = answer.asked.unwrap_or(call.record.started);
        call.worker.served(answer.at.since(asked), answer.at);
    }
    if let Some(said) = call.response.orca() {
        call.worker.application_said(said);
    }
}

/// The answer is over: keeps the connection to the other side where it can be used again.
fn done(call: &mut Call<'_>, answer: Answer<'_>, download: &Transfer, begun: &Begun) -> After {
    if begun.outgoing == Some(Framing::UntilClose)
        && let End::H1(conn) = &*call.down
    {
        conn.io.is_whole();
    }
    let upload_done = answer.upload.is_done() && !answer.upload_broken;
    if let End::H1(mut conn) = answer.upstream.end {
        let reusable = begun.upstream_keeps && download.is_done() && conn.input.is_empty();
        if upload_done && reusable && !call.worker.draining(call.door.side()) {
            conn.rest(call.worker);
            let bytes = call.record.received + call.record.sent;
            let used = Used { bytes, keeps: call.response.keeps_for() };
            let (peer, expires) = (answer.upstream.peer, answer.upstream.expires);
            call.worker.pool.borrow_mut().put(peer, conn, expires, answer.at, used);
        }
    }
    if upload_done && begun.client_keeps { After::Continue } else { After::Close }
}

/// Shows the client that the answer is not whole.
fn abort(down: &mut End) -> After {
    match down {
        End::H1(conn) => conn.io.abort_on_close(),
        End::H2(stream) => stream.reset(Code::InternalError),
    }
    After::Abort
}

/// What the head decided.
struct Begun {
    incoming: Framing,
    outgoing: Option<Framing>,
    bodiless: bool,
    client_keeps: bool,
    upstream_keeps: bool,
    grpc_status: Option<u8>,
}

/// Hands the head to the client.
fn begin(call: &mut Call<'_>, plan: &Plan, answer: &mut Answer<'_>) -> Result<Begun, Fault> {
    let edits = match plan {
        Plan::Rule(choice) if !choice.rule.response_headers.is_empty() => Some(&choice.rule.response_headers),
        _ => None,
    };
    // Only a verified sidecar may speak for the mesh.
    let strip = !answer.mesh;
    // And only one is told of our application's load.
    let told = (matches!(plan, Plan::Application { .. }) && call.door.identity().is_some())
        .then(|| call.worker.shared.load.report(answer.at).value());
    let incoming = call.response.framing();
    let upstream_keeps = call.response.keep_alive() && incoming != Framing::UntilClose;
    let grpc_status = match &answer.upstream.end {
        End::H1(_) => None,
        End::H2(_) => call.response.fields().get("grpc-status").and_then(parse_grpc_status),
    };
    let mut add: SmallVec<[(&str, &[u8]); 2]> = SmallVec::new();
    if let Some(value) = &told {
        add.push((load::LOAD, value.bytes()));
    }
    if let Some(cookie) = &call.binding {
        add.push(("set-cookie", cookie.as_bytes()));
    }
    let mut edit = h1::ResponseEdit {
        framing: incoming,
        connection: Connection::Default,
        edits: edits.as_slice(),
        add: &add,
        strip,
        upgrade: incoming == Framing::Tunnel,
        proxy_credentials: matches!(plan, Plan::Outside(_)) && call.worker.shared.settings.upstream_proxy.is_some(),
    };
    let (outgoing, client_keeps, bodiless) = match &mut *call.down {
        End::H1(conn) => {
            if conn.output.capacity() == 0 {
                conn.output = call.worker.lend_output();
            }
            let outgoing = incoming.towards(call.head.version());
            // An answer that comes before its request was read whole ends the connection, and says so (RFC 9112, 9.6).
            let keep = call.head.keep_alive()
                && answer.upload.is_done()
                && !call.door.is_leaving(call.worker)
                && outgoing != Framing::UntilClose;
            edit.framing = outgoing;
            edit.connection = match (keep, call.head.version()) {
                (false, _) => Connection::Close,
                (true, Version::Http10) => Connection::KeepAlive,
                (true, Version::Http11 | Version::Http2) => Connection::Default,
            };
            call.response.forward(&edit, &mut conn.output);
            if outgoing == Framing::UntilClose {
                conn.io.abort_unless_whole();
            }
            (Some(outgoing), keep, false)
        }
        End::H2(stream) => {
            let ended = match &answer.upstream.end {
                End::H1(_) => false,
                End::H2(up) => up.is_bodiless(),
            };
            let bodiless = ended || matches!(incoming, Framing::None | Framing::Length(0));
            stream.send_answer(bodiless, |encoder, out| call.response.encode(&edit, encoder, out))?;
            (None, true, bodiless)
        }
    };
    Ok(Begun { incoming, outgoing, bodiless, client_keeps, upstream_keeps, grpc_status })
}

/// Both bodies at once, until the answer's is over.
async fn pump(call: &mut Call<'_>, answer: &mut Answer<'_>, download: &mut Transfer, idle: Option<Nanos>) -> Ended {
    let last = !call.head.keep_alive();
    let ahead = call.worker.limits().head_bytes;
    let mut moved = None;
    // Unlimited until something has to be waited for, so that a short answer looks at no clock.
    let (mut waits, mut waited) = (false, false);
    let ended = poll_fn(|cx| {
        if !answer.upload.is_done() && !answer.upload_broken {
            match answer.upload.poll(cx, call.worker, call.down, &mut answer.upstream.end) {
                Poll::Ready(Err(Broken::Source(_))) => return Poll::Ready(Ended::Client),
                Poll::Ready(Err(Broken::Sink(_))) => answer.upload_broken = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match download.poll(cx, call.worker, &mut answer.upstream.end, call.down) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ended::Whole),
            Poll::Ready(Err(Broken::Source(fault))) => return Poll::Ready(Ended::Upstream(fault)),
            Poll::Ready(Err(Broken::Sink(fault))) => {
                tracing::debug!(?fault, "the client stopped reading");
                return Poll::Ready(Ended::Client);
            }
            Poll::Pending => {}
        }
        if answer.upload.is_done() && call.down.poll_gone(cx, call.worker, ahead, last).is_ready() {
            return Poll::Ready(Ended::Client);
        }
        // A timer that rings without anything having moved since it was set means silence. Silence can so last up to twice
        // the limit before it is noticed, which saves looking at the clock for every piece.
        loop {
            if !waits {
                (waits, waited) = (true, true);
                let silent = idle.map(|idle| call.worker.now().after(idle));
                call.deadline.set(earlier(call.due, silent));
            }
            if call.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if call.due.is_some_and(|due| call.deadline.due() == Some(due)) {
                return Poll::Ready(Ended::TimedOut(call.overdue(answer.upstream.expires)));
            }
            let now = (answer.upload.forwarded(), download.forwarded());
            if moved.replace(now) == Some(now) {
                return Poll::Ready(Ended::TimedOut(Reason::IdleTimeout));
            }
            waits = false;
        }
    })
    .await;
    if waited {
        call.worker.now();
    }
    ended
}

/// 101: from here on both sides speak something else.
async fn upgraded(call: &mut Call<'_>, plan: &Plan, mut answer: Answer<'_>, idle: Option<Nanos>) -> After {
    let (End::H1(down), End::H1(up)) = (&mut *call.down, &mut answer.upstream.end) else { return After::Abort };
    let over = term::over(&call.worker.shared.clock, Term::first(call.door.term(), answer.upstream.expires));
    let copied = Box::pin(tunnel::join(down, up, idle, over)).await;
    call.worker.now();
    call.record.received = copied.received;
    call.record.sent = copied.sent;
    if let Some((reason, client)) = copied.fault {
        call.record.reason = Some(reason);
        call.record.failure = !client;
    }
    finish(plan, answer.in_flight.take(), call.worker.now(), copied.outcome());
    After::Abort
}

/// What an answer to a refused request does to an HTTP/1 connection.
pub(crate) fn after_refusal(refusal: &Refusal, keep: bool) -> After {
    match refusal.reason {
        Reason::ClientGone => After::Abort,
        _ if keep => After::Continue,
        _ => After::Close,
    }
}
