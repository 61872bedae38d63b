//! A request as it leaves: edited by its rule, in the form that the other side speaks.

use std::task::Context;

use engine::RequestHead;
use engine::edit::HeaderEdits;
use smallvec::SmallVec;

use crate::end::{End, Fault};
use crate::h1::{self, Framing, Version};
use crate::pool::Used;
use crate::route::Plan;
use crate::send::Call;
use crate::transfer::Transfer;
use crate::upstream::{Upstream, Wire};

/// What a plan changes in a request.
#[derive(Default)]
struct Edits<'a> {
    headers: SmallVec<[&'a HeaderEdits; 2]>,
    host: Option<&'a str>,
    path: Option<String>,
}

impl<'a> Edits<'a> {
    fn of(plan: &'a Plan, head: &h1::Request) -> Edits<'a> {
        let Plan::Rule(choice) = plan else { return Edits::default() };
        let all = [&choice.rule.request_headers, &choice.share().request_headers];
        let headers: SmallVec<[&HeaderEdits; 2]> = all.into_iter().filter(|edits| !edits.is_empty()).collect();
        let rewrite = choice.rule.rewrite.as_ref();
        let set_host = headers.iter().rev().flat_map(|edits| &edits.set).find(|(name, _)| &**name == "host");
        let host =
            rewrite.and_then(|rewrite| rewrite.hostname.as_deref()).or_else(|| set_host.map(|(_, value)| &**value));
        let path =
            rewrite.and_then(|rewrite| rewrite.path.as_ref()).map(|change| change.apply(head.path(), choice.prefix));
        Edits { headers, host, path }
    }
}

/// The request's body on its way to a side that speaks `wire`.
pub(crate) fn upload(call: &Call<'_>, wire: Wire) -> Transfer {
    let outgoing = match wire {
        Wire::Http2 => None,
        Wire::Http1 => Some(call.framing),
    };
    Transfer::new(call.down, call.framing, outgoing, Some(call.worker.limits().replay_bytes))
}

/// Whether the client did not say whom it asks, which HTTP/1.1 has to; servers refuse an empty `Host`.
fn nameless(head: &h1::Request) -> bool {
    head.version() == Version::Http10 && head.authority().is_empty()
}

/// Whom a request is for, where its client did not say.
fn destination(plan: &Plan) -> String {
    match plan {
        Plan::Rule(choice) => {
            let service = &choice.backend().service;
            service
                .split_once('/')
                .map_or_else(|| service.to_string(), |(namespace, name)| format!("{name}.{namespace}"))
        }
        Plan::Application { address, .. } => address.to_string(),
        Plan::Outside(target) => target.to_string(),
    }
}

/// A body of at most this many bytes fits any socket's buffer, whether its reader reads or not: Linux takes 64 KiB at the start.
const FITS: u64 = 16 * 1024;

/// Whether a body can fill the buffer of a peer that does not read it.
fn may_fill(body: Framing) -> bool {
    match body {
        Framing::None => false,
        Framing::Length(length) => length > FITS,
        Framing::Chunked | Framing::UntilClose | Framing::Tunnel => true,
    }
}

/// Hands the head to the other side.
pub(crate) fn begin(
    call: &mut Call<'_>,
    plan: &Plan,
    upstream: &mut Upstream,
    upload: &mut Transfer,
) -> Result<(), Fault> {
    let name = nameless(call.head).then(|| destination(plan));
    let mut edits = Edits::of(plan, call.head);
    edits.host = edits.host.or(name.as_deref());
    let through = matches!(plan, Plan::Outside(_)) && call.worker.shared.settings.upstream_proxy.is_some();
    let target = match (&edits.path, through) {
        (Some(path), _) => h1::Target::Path(path),
        (None, true) => h1::Target::AsSent,
        (None, false) => h1::Target::Origin,
    };
    let edit = h1::RequestEdit {
        target,
        host: edits.host,
        edits: &edits.headers,
        add: &[],
        strip: true,
        upgrade: call.asked.upgrade,
        proxy_credentials: through,
    };
    match &mut upstream.end {
        End::H1(conn) => {
            if conn.output.capacity() == 0 {
                conn.output = call.worker.lend_output();
            }
            if call.asked.upgrade || may_fill(call.framing) {
                conn.io.wait_for_reader();
            }
            call.head.forward(&edit, &mut conn.output);
        }
        End::H2(stream) => {
            let bodiless = match call.down {
                End::H1(_) => matches!(call.framing, Framing::None | Framing::Length(0)),
                End::H2(down) => down.is_bodiless(),
            };
            stream.send_request(bodiless, call.asked.head, |encoder, out| call.head.encode(&edit, encoder, out))?;
            if bodiless {
                upload.skip();
            }
        }
    }
    Ok(())
}

/// Passes an interim answer on; to an HTTP/1.0 client there is nothing to pass.
pub(crate) fn interim(
    cx: &mut Context<'_>,
    down: &mut End,
    head: &h1::Request,
    response: &h1::Response,
) -> Result<(), Fault> {
    let edit = h1::ResponseEdit { strip: true, ..Default::default() };
    match down {
        End::H1(_) if head.version() != Version::Http11 => {}
        End::H1(conn) => {
            response.forward(&edit, &mut conn.output);
            // What does not go out at once goes with the answer; an error shows again then.
            let _ = conn.poll_flush(cx);
        }
        End::H2(stream) => stream.send_answer(false, |encoder, out| response.encode(&edit, encoder, out))?,
    }
    Ok(())
}

/// Lets go of a connection whose answer is not wanted: an HTTP/1 connection with the whole answer in its buffer can be used again.
pub(crate) fn discard(call: &Call<'_>, upstream: Upstream, upload: &Transfer) {
    let Upstream { end: End::H1(mut conn), peer, expires, .. } = upstream else { return };
    let body = match call.response.framing() {
        Framing::None => 0,
        Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        _ => return,
    };
    if call.response.keep_alive() && upload.is_done() && conn.input.len() == body {
        conn.input.take(body);
        conn.rest(call.worker);
        let used = Used { bytes: body as u64, keeps: call.response.keeps_for() };
        call.worker.pool.borrow_mut().put(peer, conn, expires, call.worker.now(), used);
    }
}
