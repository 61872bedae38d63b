//! A request as it leaves: edited by its rule, in the form that the other side speaks.

use std::borrow::Cow;
use std::task::Context;

use engine::RequestHead;
use engine::edit::HeaderEdits;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response};
use smallvec::SmallVec;

use crate::end::{End, Fault};
use crate::h1::{self, Framing};
use crate::message::Head;
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
    fn of(plan: &'a Plan, head: &Head<'_>) -> Edits<'a> {
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

    fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.host.is_none() && self.path.is_none()
    }
}

/// The request's body on its way to a side that speaks `wire`.
pub(crate) fn upload(call: &Call<'_>, wire: Wire) -> Result<Transfer, h1::Problem> {
    let outgoing = match (wire, call.head) {
        (Wire::Http2, _) => None,
        (Wire::Http1, Head::H1(_)) => Some(call.framing),
        (Wire::Http1, Head::H2(parts)) => Some(h1::bridge::request_framing(parts, ended(call.down))?),
    };
    Ok(Transfer::new(call.down, call.framing, outgoing, Some(call.worker.limits().replay_bytes)))
}

/// Whether an HTTP/2 client's request has no body.
fn ended(down: &End) -> bool {
    match down {
        End::H1(_) => false,
        End::H2(stream) => stream.ended(),
    }
}

/// Whether the client sends no further request on its connection.
pub(crate) fn is_last(head: &Head<'_>) -> bool {
    match head {
        Head::H1(request) => !request.keep_alive(),
        Head::H2(_) => false,
    }
}

/// Whether an HTTP/1.0 client did not say whom it asks, which HTTP/1.1 has to; servers refuse an empty `Host`.
fn nameless(head: &Head<'_>) -> bool {
    matches!(head, Head::H1(request) if request.version() == h1::Version::Http10 && request.authority().is_empty())
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
    let name = nameless(&call.head).then(|| destination(plan));
    let mut edits = Edits::of(plan, &call.head);
    edits.host = edits.host.or(name.as_deref());
    match &mut upstream.end {
        End::H1(conn) => {
            if conn.output.capacity() == 0 {
                conn.output = call.worker.lend_output();
            }
            if call.asked.upgrade || may_fill(upload.outgoing()) {
                conn.io.wait_for_reader();
            }
            match call.head {
                Head::H1(request) => {
                    let through =
                        matches!(plan, Plan::Outside(_)) && call.worker.shared.settings.upstream_proxy.is_some();
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
                    request.forward(&edit, &mut conn.output);
                }
                Head::H2(parts) => {
                    let edited = edited(parts, &edits)?;
                    h1::bridge::write_request(&edited, None, upload.outgoing(), &mut conn.output)?;
                }
            }
            Ok(())
        }
        End::H2(stream) => {
            let parts = match call.head {
                Head::H1(request) => {
                    let mut parts = request.to_parts(edits.host, edits.path.as_deref(), true)?;
                    for edit in &edits.headers {
                        h1::bridge::apply(edit, &mut parts.headers);
                    }
                    parts
                }
                Head::H2(parts) => edited(parts, &edits)?.into_owned(),
            };
            let bodiless = match call.head {
                Head::H1(_) => matches!(call.framing, Framing::None | Framing::Length(0)),
                Head::H2(_) => upload.is_fresh() && ended(call.down),
            };
            let Some(mut requests) = upstream.requests.take() else { return Err(Fault::Gone) };
            let (answer, send) = requests.send_request(Request::from_parts(parts, ()), bodiless)?;
            if bodiless {
                upload.skip();
            }
            upstream.answer = Some(answer);
            stream.send = Some(send);
            Ok(())
        }
    }
}

/// An HTTP/2 head after `edits`, without what only the mesh may say. Not copied where nothing changes.
fn edited<'a>(
    parts: &'a http::request::Parts,
    edits: &Edits<'_>,
) -> Result<Cow<'a, http::request::Parts>, h1::Problem> {
    let internal = parts.headers.keys().any(|name| name.as_str().starts_with("heddle-"));
    if edits.is_empty() && !internal {
        return Ok(Cow::Borrowed(parts));
    }
    let mut parts = parts.clone();
    if internal {
        strip(&mut parts.headers);
    }
    for edit in &edits.headers {
        h1::bridge::apply(edit, &mut parts.headers);
    }
    if edits.host.is_some() || edits.path.is_some() {
        parts.headers.remove(http::header::HOST);
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        if let Some(host) = edits.host {
            uri.authority = Authority::try_from(host).ok();
            uri.scheme.get_or_insert(Scheme::HTTP);
        }
        if let Some(path) = &edits.path {
            let query = uri.path_and_query.as_ref().and_then(PathAndQuery::query);
            let text = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            uri.path_and_query = PathAndQuery::try_from(text).ok();
        }
        let bad = h1::Problem { reason: engine::Reason::BadRequest, what: "the rewritten target is invalid" };
        parts.uri = http::Uri::from_parts(uri).map_err(|_| bad)?;
    }
    Ok(Cow::Owned(parts))
}

/// Removes what only the mesh may say.
pub(crate) fn strip(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| name.as_str().starts_with("heddle-")).cloned() {
        headers.remove(name);
    }
}

/// An interim answer.
pub(crate) enum Interim<'a> {
    /// Over HTTP/1.
    H1(&'a h1::Response),
    /// Over HTTP/2.
    H2(Response<()>),
}

/// Passes an interim answer on; to an HTTP/1.0 client there is nothing to pass.
pub(crate) fn interim(
    cx: &mut Context<'_>,
    down: &mut End,
    head: &Head<'_>,
    interim: Interim<'_>,
) -> Result<(), Fault> {
    match down {
        End::H1(conn) => {
            if !matches!(head, Head::H1(request) if request.version() == h1::Version::Http11) {
                return Ok(());
            }
            match interim {
                Interim::H1(response) => {
                    response.forward(&h1::ResponseEdit { strip: true, ..Default::default() }, &mut conn.output)
                }
                Interim::H2(response) => {
                    let parts = response.into_parts().0;
                    h1::bridge::write_response(&parts, Framing::None, h1::Connection::Default, &mut conn.output);
                }
            }
            // What does not go out at once goes with the answer; an error shows again then.
            let _ = conn.poll_flush(cx);
        }
        End::H2(stream) => {
            let response = match interim {
                Interim::H1(response) => Response::from_parts(response.to_parts(true)?, ()),
                Interim::H2(response) => response,
            };
            if let Some(respond) = &mut stream.respond {
                respond.send_informational(response)?;
            }
        }
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
        call.worker.pool.borrow_mut().put(peer, conn, expires, call.worker.now(), body as u64);
    }
}
