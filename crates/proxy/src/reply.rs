//! Answers that the mesh makes up itself.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::Poll;

use engine::Reason;

use crate::deadline::Deadline;
use crate::end::{End, Fault};
use crate::h1::{self, Problem};
use crate::h2::hpack::Encoder;
use crate::send::Call;

/// The header that carries a reason's code.
pub(crate) const REASON: &str = "heddle-reason";

/// Why a request or a connection is not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The code.
    pub(crate) reason: Reason,
    /// For people; empty: the reason's own word says it.
    pub(crate) text: Cow<'static, str>,
    /// Of a redirect: its status, and where to.
    pub(crate) redirect: Option<Box<(u16, String)>>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { reason, text: text.into(), redirect: None }
    }

    pub(crate) fn redirect(status: u16, location: String) -> Refusal {
        Refusal { reason: Reason::Redirect, text: Cow::Borrowed(""), redirect: Some(Box::new((status, location))) }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> u16 {
        self.redirect.as_ref().map_or(self.reason.status(), |redirect| redirect.0)
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        Refusal::new(reason, "")
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::new(problem.reason, problem.what)
    }
}

/// Hands the answer to `down`. `close`: an HTTP/1 client is told that the connection ends.
pub(crate) fn answer(down: &mut End, head: Option<&h1::Request>, refusal: &Refusal, close: bool) -> Result<(), Fault> {
    let location = refusal.redirect.as_ref().map(|redirect| redirect.1.as_str());
    let head_only = head.is_some_and(|head| engine::RequestHead::method(head) == "HEAD");
    let text = if refusal.text.is_empty() { refusal.reason.code() } else { &refusal.text };
    match down {
        End::H1(conn) => {
            let fields = location.map(|location| ("location", location));
            let reply = h1::Reply {
                status: refusal.status(),
                reason: refusal.reason,
                fields: fields.as_slice(),
                text,
                close,
                head_only,
            };
            h1::write_reply(&reply, &mut conn.output);
            Ok(())
        }
        End::H2(stream) => {
            let grpc = head.is_some_and(h1::Request::is_grpc);
            let body = !grpc && !head_only;
            stream.send_answer(!body, |encoder, out| encode(refusal, location, grpc, text, encoder, out))?;
            if body {
                // Short, and the stream's first: it finds the window open, or its client is told no more than the status.
                stream.send_whole(format!("{text}\n").as_bytes());
            }
            Ok(())
        }
    }
}

/// Whether an HTTP/1 client's connection can go on after a refusal: its request has no body that would have to be read first.
pub(crate) fn keeps(call: &Call<'_>, refusal: &Refusal) -> bool {
    let bodiless = matches!(call.framing, h1::Framing::None | h1::Framing::Length(0));
    let wants = call.head.keep_alive() && !call.door.is_leaving(call.worker);
    let sound = !matches!(refusal.reason, Reason::BadRequest | Reason::ClientGone);
    bodiless && wants && sound
}

/// Writes what was answered.
pub(crate) async fn flush(down: &mut End, deadline: &mut Deadline) -> Result<(), Fault> {
    poll_fn(|cx| match down.poll_flush(cx) {
        Poll::Pending if deadline.poll(cx).is_ready() => Poll::Ready(Err(Fault::Gone)),
        other => other,
    })
    .await
}

/// The head over HTTP/2. gRPC clients read their own status, so they get an answer of trailers only with HTTP status 200.
fn encode(refusal: &Refusal, location: Option<&str>, grpc: bool, text: &str, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encoder.status(if grpc { 200 } else { refusal.status() }, out);
    let mut field = |name: &str, value: &str| encoder.field(name.as_bytes(), value.as_bytes(), false, out);
    field(REASON, refusal.reason.code());
    if grpc {
        field("content-type", "application/grpc");
        field("grpc-status", &grpc_status(refusal.reason).to_string());
        field("grpc-message", &percent_encoded(text));
    } else {
        field("content-type", "text/plain; charset=utf-8");
        if let Some(location) = location {
            field("location", location);
        }
    }
}

/// The gRPC status of a reason, after gRPC's own table for HTTP statuses (`http-grpc-status-mapping.md`), with
/// DEADLINE_EXCEEDED for what took too long and PERMISSION_DENIED for what is not allowed.
fn grpc_status(reason: Reason) -> u16 {
    match reason.status() {
        400 | 431 | 414 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        429 | 502 | 503 => 14,
        _ => 2,
    }
}

/// As `grpc-message` is written: printable ASCII but for `%`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
