//! Writing a received head onwards: hop-by-hop fields go, route edits apply, everything else is copied in runs.

use engine::edit::HeaderEdits;

use super::{Framing, Request, Response};

/// What becomes of the request target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Target<'a> {
    /// Origin form: absolute form loses scheme and authority (RFC 9112, 3.2.1); asterisk and authority form stay.
    #[default]
    Origin,
    /// Exactly as it came, for another forward proxy.
    AsSent,
    /// This path, and the query that came.
    Path(&'a str),
}

/// How a request is changed on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestEdit<'a> {
    /// The target.
    pub(crate) target: Target<'a>,
    /// The new `Host`; absent: the request's own authority.
    pub(crate) host: Option<&'a str>,
    /// Route edits, in order of application. `host` in a `set` rewrites the host; fields that frame or steer the connection
    /// (`connection`, `content-length`, `transfer-encoding`, …) are never edited.
    pub(crate) edits: &'a [&'a HeaderEdits],
    /// Fields of the mesh's own, written last; same-named ones of the request are not removed (`heddle-*` are, if `strip`).
    pub(crate) add: &'a [(&'a str, &'a [u8])],
    /// Remove `heddle-*`.
    pub(crate) strip: bool,
    /// Keep `Upgrade` and say `Connection: upgrade`, if the request has one.
    pub(crate) upgrade: bool,
    /// Keep `Proxy-Authorization` (only towards another forward proxy).
    pub(crate) proxy_credentials: bool,
}

/// What to tell the client about the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Connection {
    /// Nothing: HTTP/1.1's default is to keep it.
    #[default]
    Default,
    /// `Connection: keep-alive`, for HTTP/1.0 clients that asked.
    KeepAlive,
    /// `Connection: close`.
    Close,
}

/// How a response is changed on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResponseEdit<'a> {
    /// The framing towards the client; see [`Framing::towards`].
    pub(crate) framing: Framing,
    /// What to say about the connection.
    pub(crate) connection: Connection,
    /// Route edits, in order of application.
    pub(crate) edits: &'a [&'a HeaderEdits],
    /// Fields of the mesh's own, written last.
    pub(crate) add: &'a [(&'a str, &'a [u8])],
    /// Remove `heddle-*`.
    pub(crate) strip: bool,
    /// Keep `Upgrade` and say `Connection: upgrade` (a 101 that is forwarded).
    pub(crate) upgrade: bool,
}

impl Request {
    /// Appends the head as it is forwarded to `out`, as HTTP/1.1. The body keeps the framing of [`Request::framing`].
    pub(crate) fn forward(&self, _edit: &RequestEdit<'_>, _out: &mut Vec<u8>) {
        todo!()
    }
}

impl Response {
    /// Appends the head as it is forwarded to `out`, as HTTP/1.1.
    pub(crate) fn forward(&self, _edit: &ResponseEdit<'_>, _out: &mut Vec<u8>) {
        todo!()
    }
}
