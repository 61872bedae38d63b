//! The choose and send phases: an instance, a connection, the request on it, and again if that fails and may be repeated.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use engine::balance::{Class, InFlight};
use engine::policy::TrafficPolicy;
use engine::retry::{self, Failed};
use engine::snapshot::AccessLog;
use engine::{Nanos, Outcome, Protocol, Reason, RequestHead};
use smallvec::SmallVec;

use crate::choose::{Try, choose, hear};
use crate::deadline::Deadline;
use crate::end::{End, Fault};
use crate::h1::{self, Framing};
use crate::observe::Record;
use crate::outside;
use crate::reply::{REASON, Refusal};
use crate::request;
use crate::route::{Door, Plan};
use crate::term::Term;
use crate::transfer::{Broken, Transfer};
use crate::upstream::{self, Upstream, Wire};
use crate::worker::Worker;

/// Interim answers (1xx) that may come for one request, all attempts together. They go to the client whether it reads or
/// not, since only bodies have flow control: with heads of 64 KiB they take 2 MiB. Applications send one or two.
const INTERIM_ANSWERS: u32 = 32;

/// One request on its way: what every phase needs of it.
pub(crate) struct Call<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) door: &'a Door,
    /// The client.
    pub(crate) down: &'a mut End,
    pub(crate) head: &'a h1::Request,
    /// How the request's body ends.
    pub(crate) framing: Framing,
    /// What the answer's framing depends on.
    pub(crate) asked: h1::Asked,
    /// The response's head, once there is one.
    pub(crate) response: &'a mut h1::Response,
    pub(crate) deadline: &'a mut Deadline,
    pub(crate) record: Record,
    /// When the whole request must be over.
    pub(crate) due: Option<Nanos>,
    /// Interim answers so far.
    pub(crate) interims: u32,
    /// The `set-cookie` that binds the client's session to the chosen instance.
    pub(crate) binding: Option<Box<str>>,
}

impl Call<'_> {
    /// Why the time of an exchange with a peer whose connection lasts for `up` is over.
    pub(crate) fn overdue(&self, up: Option<Term>) -> Reason {
        let now = self.worker.now();
        match self.door.term().into_iter().chain(up).any(|term| term.is_over(now)) {
            true => Reason::CertificateExpired,
            false => Reason::RequestTimeout,
        }
    }
}

/// A response has begun.
pub(crate) struct Answer<'u> {
    pub(crate) upstream: Upstream,
    /// The request's body, which may still be on its way.
    pub(crate) upload: &'u mut Transfer,
    /// The receiver of the request's body has failed.
    pub(crate) upload_broken: bool,
    /// Counted as in flight until the response has ended.
    pub(crate) in_flight: Option<InFlight>,
    /// When the head came.
    pub(crate) at: Nanos,
    /// When the last of the request came in, if the client had to be waited for.
    pub(crate) asked: Option<Nanos>,
    /// The other side is a verified sidecar.
    pub(crate) mesh: bool,
}

/// One attempt's request was sent, as far as it was taken, and its answer's head has come.
struct Sent {
    upload_broken: bool,
    asked: Option<Nanos>,
}

/// What went wrong with one attempt.
struct Failure {
    refusal: Refusal,
    outcome: Outcome,
    /// Any byte can have reached the application.
    sent: bool,
    /// The client is at fault or gone: no attempt will help.
    client: bool,
}

impl Failure {
    /// Time was up before anything was sent; `why` no connection was there by then.
    fn late(call: &Call<'_>, why: Option<Failure>) -> Failure {
        let (reason, outcome) = match call.overdue(None) {
            Reason::RequestTimeout if call.due.is_none_or(|due| call.worker.recently() < due) => {
                (Reason::AttemptTimeout, Outcome::ConnectFailure)
            }
            reason => (reason, Outcome::Timeout),
        };
        let text = why.map_or_else(|| "".into(), |failure| failure.refusal.text);
        Failure { refusal: Refusal::new(reason, text), outcome, sent: false, client: false }
    }

    fn before_sending(refusal: Refusal) -> Failure {
        Failure { refusal, outcome: Outcome::ConnectFailure, sent: false, client: false }
    }
}

/// Which HTTP goes to the other side: what its port was declared to speak, else what the client speaks. gRPC stays HTTP/2 even
/// where HTTP/1 was declared, since nothing else carries it.
pub(crate) fn wire(call: &Call<'_>, declared: Protocol) -> Wire {
    let client = match call.down {
        End::H1(_) => Wire::Http1,
        End::H2(_) => Wire::Http2,
    };
    match declared {
        Protocol::Http1 if client == Wire::Http2 && call.head.is_grpc() => Wire::Http2,
        Protocol::Http1 => Wire::Http1,
        Protocol::Http2 => Wire::Http2,
        Protocol::Auto | Protocol::Tcp | Protocol::Tls => client,
    }
}

/// An upgrade is forwarded from HTTP/1 to HTTP/1 alone.
fn asked(call: &Call<'_>, wire: Wire) -> h1::Asked {
    let upgrade = wire == Wire::Http1 && call.head.upgrade().is_some();
    h1::Asked::new(call.head.method(), upgrade)
}

/// Sends the request, with its body `upload`, until an answer begins.
pub(crate) async fn send<'u>(
    call: &mut Call<'_>,
    plan: &Plan,
    wire: Wire,
    upload: &'u mut Transfer,
) -> Result<Answer<'u>, Refusal> {
    call.asked = asked(call, wire);
    let worker = call.worker;
    let policy: &TrafficPolicy = plan.policy().unwrap_or(&worker.defaults);
    let mut tried: SmallVec<[u64; 4]> = SmallVec::new();
    let mut fresh = false;
    let mut class = Class::default();
    if let Plan::Rule(choice) = plan {
        choice.rule.budget.deposit(call.record.started);
        class = choice.backend().class(choice.rule.series);
    }
    let logs = call.worker.access_log() != AccessLog::Off;
    let mut first = true;
    loop {
        // The first attempt begins where the request did, or where its destination was found out.
        let now = if std::mem::take(&mut first) { call.worker.recently() } else { call.worker.now() };
        let mut attempt = match plan {
            Plan::Rule(choice) => choose(call, choice, class, &tried, now)?,
            Plan::Application { address, source, .. } => Try::application(*address, *source),
            Plan::Outside(target) => Try::outside(outside::address(worker, target).await?),
        };
        call.record.attempts += 1;
        if logs {
            call.record.endpoint = attempt.in_flight.as_ref().map(InFlight::endpoint).cloned();
        }
        let due = earlier(call.due, policy.attempt_timeout.map(|length| now.after(length)));
        let pooled = if fresh { None } else { upstream::pooled(worker, attempt.peer, wire, now) };
        let upstream = match pooled {
            Some(upstream) => Ok(upstream),
            None => connect(call, &attempt, wire, policy.connect_timeout, now, due).await,
        };
        let failure = match upstream {
            Err(failure) => failure,
            Ok(mut upstream) => {
                let reused = upstream.reused && wire == Wire::Http1;
                let due = earlier(due, upstream.expires.map(|term| term.ends));
                call.deadline.set(earlier(due, policy.idle_timeout.map(|idle| now.after(idle))));
                // A pooled connection was ready at once, and the clock need not be read again.
                if !reused && let Some(in_flight) = &mut attempt.in_flight {
                    in_flight.connected(call.worker.now());
                }
                let sent = transmit(call, plan, &mut upstream, upload, due, policy.idle_timeout).await;
                let at = call.worker.now();
                match sent {
                    Ok(Sent { upload_broken, asked }) => {
                        let mesh = attempt.is_mesh();
                        if let Some(in_flight) = &mut attempt.in_flight {
                            answered(call, in_flight, asked, mesh, at);
                        }
                        let (outcome, reached) = judge(call, mesh);
                        let again = outcome
                            .is_failure()
                            .then(|| may_repeat(call, plan, policy, outcome, reached, upload, at))
                            .flatten();
                        let Some(wait) = again else {
                            upload.settle(call.down);
                            let in_flight = attempt.in_flight;
                            return Ok(Answer { upstream, upload, upload_broken, in_flight, at, asked, mesh });
                        };
                        finish(plan, attempt.in_flight, at, outcome);
                        request::discard(call, upstream, upload);
                        pause(call, wait).await?;
                        upload.restart();
                        tried.extend(attempt.peer.endpoint());
                        continue;
                    }
                    // Once, outside of the budget.
                    Err(failure) if reused && !fresh && had_ended(&failure, call.head, upload) => {
                        drop(attempt);
                        call.record.attempts -= 1;
                        upload.restart();
                        fresh = true;
                        continue;
                    }
                    Err(failure) => failure,
                }
            }
        };
        let now = call.worker.now();
        // A client that gives up in the middle of its own request says nothing of the instance.
        if !failure.client || upload.is_done() {
            finish(plan, attempt.in_flight, now, failure.outcome);
        }
        if failure.client || call.due.is_some_and(|due| now >= due) {
            return Err(failure.refusal);
        }
        match may_repeat(call, plan, policy, failure.outcome, failure.sent, upload, now) {
            None => return Err(failure.refusal),
            Some(wait) => pause(call, wait).await?,
        }
        upload.restart();
        tried.extend(attempt.peer.endpoint());
    }
}

/// Whether a connection that was used before had most likely been closed while it waited, so that the request can be sent on a new
/// one: nothing is known of the instance then, and the request was most likely never read.
fn had_ended(failure: &Failure, head: &h1::Request, upload: &Transfer) -> bool {
    !failure.client
        && failure.outcome == Outcome::Reset
        && upload.can_restart()
        && (!failure.sent || retry::idempotent(head.method()))
}

/// Learns that an answer has come. `asked`: when the request's last byte was sent, if that was later than the rest: a client that
/// sends slowly makes no instance slow.
fn answered(call: &Call<'_>, in_flight: &mut InFlight, asked: Option<Nanos>, mesh: bool, at: Nanos) {
    if let Some(asked) = asked {
        in_flight.connected(asked);
    }
    in_flight.answered(at);
    hear(call, in_flight, mesh, at);
}

/// Records the end of an attempt.
pub(crate) fn finish(plan: &Plan, in_flight: Option<InFlight>, at: Nanos, outcome: Outcome) {
    if let (Some(in_flight), Plan::Rule(choice)) = (in_flight, plan) {
        in_flight.finish(at, outcome, &**choice.backend());
    }
}

pub(crate) fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A new connection for one attempt, within `limit` and before `due`; but not for a client that is gone.
async fn connect(
    call: &mut Call<'_>,
    attempt: &Try,
    wire: Wire,
    limit: Nanos,
    now: Nanos,
    due: Option<Nanos>,
) -> Result<Upstream, Failure> {
    let limit = due.map_or(limit, |due| limit.min(due.since(now)));
    // Boxed: connecting is rare, and its state, a TLS handshake, would make every connection's task larger.
    let mut opening = Box::pin(upstream::open(call.worker, attempt.peer, attempt.route(), wire, limit));
    let opened = poll_fn(|cx| match opening.as_mut().poll(cx) {
        Poll::Ready(opened) => Poll::Ready(opened.map_err(Failure::before_sending)),
        Poll::Pending => poll_gone(cx, call).map(|()| Err(client_failed(Fault::Gone))),
    });
    let opened = opened.await;
    // A request that is overdue is not sent.
    if due.is_some_and(|due| call.worker.now() >= due) && !opened.as_ref().is_err_and(|failure| failure.client) {
        return Err(Failure::late(call, opened.err()));
    }
    opened
}

/// How an answer counts, and whether the request can have reached the application. A sidecar that answers itself says why.
fn judge(call: &Call<'_>, mesh: bool) -> (Outcome, bool) {
    let status = call.response.status();
    let field = |name: &str| call.response.fields().get(name);
    let reason = if mesh && (status >= 500 || call.head.is_grpc()) { field(REASON) } else { None };
    match reason {
        Some(b"connect_failed" | b"not_ready" | b"draining" | b"overloaded") => (Outcome::ConnectFailure, false),
        Some(b"upstream_reset") => (Outcome::Reset, true),
        _ => {
            let grpc = field("grpc-status").and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
            (grpc.map_or_else(|| Outcome::from_status(status), Outcome::from_grpc), true)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "each is a fact of the failed attempt")]
fn may_repeat(
    call: &Call<'_>,
    plan: &Plan,
    policy: &TrafficPolicy,
    outcome: Outcome,
    sent: bool,
    upload: &Transfer,
    now: Nanos,
) -> Option<Nanos> {
    let Plan::Rule(choice) = plan else { return None };
    if !upload.can_restart() {
        return None;
    }
    let left = call.due.map(|due| due.since(now));
    let idempotent = retry::idempotent(call.head.method());
    let failed = Failed { outcome, attempts: call.record.attempts, idempotent, sent, replayable: true, left };
    retry::decide(&policy.retry, &choice.rule.budget, failed, now, &mut call.worker.rng())
}

/// Waits before the next attempt, but not for a client that is gone.
async fn pause(call: &mut Call<'_>, wait: Nanos) -> Result<(), Refusal> {
    call.deadline.set(Some(call.worker.now().after(wait)));
    poll_fn(|cx| match poll_gone(cx, call) {
        Poll::Ready(()) => Poll::Ready(Err(Reason::ClientGone.into())),
        Poll::Pending => call.deadline.poll(cx).map(Ok),
    })
    .await
}

/// Ready when nobody waits for the answer any more. What is left of the request is read ahead meanwhile, within bounds.
fn poll_gone(cx: &mut Context<'_>, call: &mut Call<'_>) -> Poll<()> {
    call.down.poll_gone(cx, call.worker, call.worker.limits().head_bytes, !call.head.keep_alive())
}

/// Writes the request and waits for the head of its answer, both at once, until `due` or until nothing has moved for `idle`
/// (the call's deadline is set to the earlier one).
async fn transmit(
    call: &mut Call<'_>,
    plan: &Plan,
    upstream: &mut Upstream,
    upload: &mut Transfer,
    due: Option<Nanos>,
    idle: Option<Nanos>,
) -> Result<Sent, Failure> {
    request::begin(call, plan, upstream, upload).map_err(|fault| failed(fault, false))?;
    let mut moved = 0;
    let mut broken = false;
    let mut asked = None;
    call.response.reset();
    poll_fn(|cx| {
        if !upload.is_done() && !broken {
            let starved = upload.is_starved();
            match upload.poll(cx, call.worker, call.down, &mut upstream.end) {
                Poll::Ready(Err(Broken::Source(fault))) => return Poll::Ready(Err(client_failed(fault))),
                // The answer may be on its way all the same.
                Poll::Ready(Err(Broken::Sink(_))) => broken = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if starved && !upload.is_starved() {
                asked = Some(call.worker.now());
            }
        }
        match poll_head(cx, call, upstream) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(Sent { upload_broken: broken, asked })),
            Poll::Ready(Err(fault)) => return Poll::Ready(Err(failed(fault, true))),
            Poll::Pending => {}
        }
        // An interim answer that did not go out at once: its client may wait for it before it sends its body.
        if let End::H1(down) = &mut *call.down
            && down.unwritten() > 0
            && let Poll::Ready(Err(_)) = down.poll_flush(cx)
        {
            return Poll::Ready(Err(client_failed(Fault::Gone)));
        }
        if upload.is_done() && poll_gone(cx, call).is_ready() {
            return Poll::Ready(Err(client_failed(Fault::Gone)));
        }
        while call.deadline.poll(cx).is_ready() {
            let rung = call.deadline.due();
            if rung != due && std::mem::replace(&mut moved, upload.forwarded()) != upload.forwarded() {
                call.deadline.set(earlier(due, idle.map(|idle| call.worker.now().after(idle))));
                continue;
            }
            let reason = match rung {
                _ if rung != due => Reason::IdleTimeout,
                _ => match call.overdue(upstream.expires) {
                    Reason::RequestTimeout if rung != call.due => Reason::AttemptTimeout,
                    reason => reason,
                },
            };
            return Poll::Ready(Err(too_long(reason, upload)));
        }
        Poll::Pending
    })
    .await
}

/// The head of the answer; interim answers are passed on.
fn poll_head(cx: &mut Context<'_>, call: &mut Call<'_>, upstream: &mut Upstream) -> Poll<Result<(), Fault>> {
    match &mut upstream.end {
        End::H1(conn) => loop {
            if !conn.input.is_empty()
                && let Some(n) = call.response.parse(conn.input.bytes(), call.asked, call.worker.limits())?
            {
                conn.input.take(n);
                if !call.response.is_interim() {
                    return Poll::Ready(Ok(()));
                }
                count_interim(&mut call.interims)?;
                request::interim(cx, call.down, call.head, call.response)?;
                call.response.reset();
                continue;
            }
            // One byte more than a head may have, so that the codec sees that it is too large.
            let limit = call.worker.limits().head_bytes + crate::buffer::SIZE;
            if ready!(conn.poll_fill(cx, call.worker, limit))? == 0 {
                return Poll::Ready(Err(Fault::Gone));
            }
        },
        End::H2(stream) => loop {
            ready!(stream.poll_answer(cx, call.response))?;
            if !call.response.is_interim() {
                return Poll::Ready(Ok(()));
            }
            count_interim(&mut call.interims)?;
            request::interim(cx, call.down, call.head, call.response)?;
        },
    }
}

fn count_interim(interims: &mut u32) -> Result<(), h1::Problem> {
    *interims += 1;
    if *interims > INTERIM_ANSWERS {
        return Err(h1::Problem { reason: Reason::UpstreamProtocol, what: "too many interim answers (1xx)" });
    }
    Ok(())
}

/// The other side failed before its answer began.
fn failed(fault: Fault, written: bool) -> Failure {
    match fault {
        Fault::Gone => Failure {
            refusal: Refusal::new(Reason::UpstreamReset, "the connection ended before an answer"),
            outcome: Outcome::Reset,
            sent: written,
            client: false,
        },
        Fault::Refused => Failure::before_sending(Refusal::new(
            Reason::ConnectFailed,
            "the instance's sidecar has too many requests of this one under way",
        )),
        Fault::Protocol(problem) => {
            Failure { refusal: problem.into(), outcome: Outcome::Reset, sent: true, client: false }
        }
        Fault::Reset(reset) => {
            let refusal = Refusal::new(Reason::UpstreamReset, format!("the stream ended before an answer: {reset}"));
            let outcome = if reset.unprocessed { Outcome::ConnectFailure } else { Outcome::Reset };
            Failure { refusal, outcome, sent: written && !reset.unprocessed, client: false }
        }
    }
}

/// Time is up. A body that stands still in the middle is nobody's fault that could be told, and no reason to begin again.
fn too_long(reason: Reason, upload: &Transfer) -> Failure {
    let stuck = reason == Reason::IdleTimeout && !upload.is_done();
    // That a certificate was not renewed is not the instance's doing alone, and its slowness was no reason.
    let outcome = if stuck || reason == Reason::CertificateExpired { Outcome::Cancelled } else { Outcome::Timeout };
    Failure { refusal: reason.into(), outcome, sent: true, client: stuck }
}

/// The client failed, broke its protocol or went away.
fn client_failed(fault: Fault) -> Failure {
    let refusal = match fault {
        Fault::Protocol(problem) => problem.into(),
        Fault::Gone | Fault::Refused | Fault::Reset(_) => Reason::ClientGone.into(),
    };
    Failure { refusal, outcome: Outcome::Cancelled, sent: true, client: true }
}
