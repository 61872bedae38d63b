//! Between HTTP/1 heads and the `http` crate's, for HTTP/2 on one side (RFC 9113, 8.2 and 8.3).

use engine::edit::HeaderEdits;

use super::{Fields, Framing, Problem, Request, Response};

impl Request {
    /// The head for HTTP/2: lower-case names, no connection fields, `:authority` from the request's authority unless `host`
    /// replaces it, `path` instead of the request's own where given (query included).
    pub(crate) fn to_parts(
        &self,
        _host: Option<&str>,
        _path: Option<&str>,
        _strip: bool,
    ) -> Result<http::request::Parts, Problem> {
        todo!()
    }
}

impl Response {
    /// The head for HTTP/2.
    pub(crate) fn to_parts(&self, _strip: bool) -> Result<http::response::Parts, Problem> {
        todo!()
    }
}

impl Fields {
    /// Trailers for HTTP/2.
    pub(crate) fn to_map(&self) -> Result<http::HeaderMap, Problem> {
        todo!()
    }

    /// Trailers from HTTP/2.
    pub(crate) fn from_map(_map: &http::HeaderMap) -> Fields {
        todo!()
    }
}

/// Appends a request that came over HTTP/2 as an HTTP/1.1 head: `host` from `:authority`, cookie fields joined, framing fields
/// as `framing` says.
pub(crate) fn write_request(
    _parts: &http::request::Parts,
    _framing: Framing,
    _out: &mut Vec<u8>,
) -> Result<(), Problem> {
    todo!()
}

/// Appends a response that came over HTTP/2 as an HTTP/1.1 head.
pub(crate) fn write_response(
    _parts: &http::response::Parts,
    _framing: Framing,
    _close: bool,
    _out: &mut Vec<u8>,
) {
    todo!()
}

/// Applies route edits to a head of the `http` crate.
pub(crate) fn apply(_edits: &HeaderEdits, _map: &mut http::HeaderMap) {
    todo!()
}
