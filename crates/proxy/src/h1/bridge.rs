//! Between HTTP/1 heads and the `http` crate's, for HTTP/2 on one side (RFC 9113, 8.2 and 8.3).
//!
//! Going to HTTP/2, hop-by-hop fields go and names become lower case. Coming from HTTP/2, `host` is written from `:authority`,
//! `cookie` fields are joined, and the framing fields are written anew.

use engine::Reason;
use engine::edit::HeaderEdits;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use super::fields::{Kind, bad, members};
use super::reply::{put, write_status_line};
use super::{Connection, Fields, Form, Framing, Problem, Request, Response, framing, target};

/// The HTTP/2 head of a request as the engine sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Head<'a>(pub(crate) &'a http::request::Parts);

impl engine::RequestHead for Http2Head<'_> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn path(&self) -> &str {
        self.0.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.0.uri.query()
    }

    fn authority(&self) -> &str {
        let host = || self.0.headers.get(HOST).and_then(|host| host.to_str().ok());
        self.0.uri.authority().map(|authority| authority.as_str()).or_else(host).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.headers.get(name).map(|value| value.as_bytes().trim_ascii())
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.0.headers.get_all(name).iter().for_each(|value| see(value.as_bytes().trim_ascii()));
    }
}

/// Kinds that have no place in HTTP/2 (RFC 9113, 8.2.2), or that pseudo fields stand for.
const NOT_IN_HTTP2: u16 = Kind::Host.bit()
    | Kind::Connection.bit()
    | Kind::KeepAlive.bit()
    | Kind::ProxyConnection.bit()
    | Kind::TransferEncoding.bit()
    | Kind::Te.bit()
    | Kind::Upgrade.bit()
    | Kind::ProxyCredentials.bit();

impl Request {
    /// The head for HTTP/2. `host` replaces the request's authority, `path` its path (without query; it begins with `/`). `strip`
    /// removes `heddle-*`. Apply route edits to the result with [`apply`].
    pub(crate) fn to_parts(
        &self,
        host: Option<&str>,
        path: Option<&str>,
        strip: bool,
    ) -> Result<http::request::Parts, Problem> {
        use engine::RequestHead as _;
        let authority = host.unwrap_or(self.authority());
        let uri = match self.form() {
            Form::Authority => Uri::builder().authority(authority),
            _ => {
                let path = path.unwrap_or(self.path());
                let target = match self.query() {
                    Some(query) => format!("{path}?{query}"),
                    None => path.to_owned(),
                };
                let builder = Uri::builder().path_and_query(target);
                if authority.is_empty() { builder } else { builder.scheme("http").authority(authority) }
            }
        };
        let mut head = http::Request::builder()
            .method(self.method())
            .uri(uri.build().map_err(|_| bad("the request target has no form in HTTP/2"))?)
            .version(Version::HTTP_2)
            .body(())
            .map_err(|_| bad("the request has no form in HTTP/2"))?
            .into_parts()
            .0;
        let mut drop = NOT_IN_HTTP2 | Kind::Load.bit();
        if strip {
            drop |= Kind::Mesh.bit();
        }
        if self.version() == super::Version::Http10 {
            drop |= Kind::Expect.bit();
        }
        self.fields().copy_to(&mut head.headers, drop, self.steering().nominates)?;
        if self.accepts_trailers() {
            head.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        Ok(head)
    }
}

impl Response {
    /// The head for HTTP/2. `strip` removes `heddle-*`; `heddle-load` never passes on.
    pub(crate) fn to_parts(&self, strip: bool) -> Result<http::response::Parts, Problem> {
        let mut head = http::Response::builder()
            .status(self.status())
            .version(Version::HTTP_2)
            .body(())
            .map_err(|_| upstream("the status has no form in HTTP/2"))?
            .into_parts()
            .0;
        let mut drop = NOT_IN_HTTP2 | Kind::Load.bit();
        if strip {
            drop |= Kind::Mesh.bit();
        }
        if self.status() < 200 || self.status() == 204 || self.framing() == Framing::Tunnel {
            drop |= Kind::ContentLength.bit();
        }
        self.fields()
            .copy_to(&mut head.headers, drop, self.steering().nominates)
            .map_err(|problem| upstream(problem.what))?;
        Ok(head)
    }
}

const fn upstream(what: &'static str) -> Problem {
    Problem { reason: Reason::UpstreamProtocol, what }
}

impl Fields {
    fn copy_to(&self, map: &mut HeaderMap, drop: u16, nominates: bool) -> Result<(), Problem> {
        map.reserve(self.list().len());
        for field in self.list() {
            let name = self.name(field);
            if field.kind.bit() & drop != 0 || (nominates && self.nominated(name)) {
                continue;
            }
            let name = HeaderName::from_bytes(name).map_err(|_| bad("invalid header name"))?;
            let value = HeaderValue::from_bytes(self.value(field)).map_err(|_| bad("invalid header value"))?;
            map.try_append(name, value).map_err(|_| bad("too many header fields"))?;
        }
        Ok(())
    }

    /// Trailers for HTTP/2, without those that would frame or steer a message and without `heddle-*`.
    pub(crate) fn to_map(&self) -> Result<HeaderMap, Problem> {
        let mut map = HeaderMap::new();
        self.copy_to(&mut map, !(Kind::Other.bit() | Kind::Orca.bit()), false)?;
        Ok(map)
    }

    /// Trailers from HTTP/2.
    pub(crate) fn from_map(map: &HeaderMap) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in map {
            fields.push(name.as_str().as_bytes(), value.as_bytes());
        }
        fields
    }
}

/// The framing for HTTP/1 of a request that came over HTTP/2. `ended`: nothing follows its head.
pub(crate) fn request_framing(parts: &http::request::Parts, ended: bool) -> Result<Framing, Problem> {
    match declared_length(&parts.headers)? {
        _ if parts.method == http::Method::CONNECT => Ok(Framing::Tunnel),
        Some(length) if ended && length > 0 => Err(bad("less content than announced")),
        Some(length) => Ok(Framing::Length(length)),
        None if ended => Ok(Framing::None),
        None => Ok(Framing::Chunked),
    }
}

/// The framing for an HTTP/1.1 client of a response that came over HTTP/2 in answer to `method`. `ended`: nothing follows its head.
pub(crate) fn response_framing(parts: &http::response::Parts, method: &str, ended: bool) -> Result<Framing, Problem> {
    let status = parts.status.as_u16();
    if method == "CONNECT" && parts.status.is_success() {
        return Ok(Framing::Tunnel);
    }
    if status < 200 || status == 204 || status == 304 || method == "HEAD" {
        return Ok(Framing::None);
    }
    match declared_length(&parts.headers).map_err(|problem| upstream(problem.what))? {
        Some(length) if ended && length > 0 => Err(upstream("less content than announced")),
        Some(length) => Ok(Framing::Length(length)),
        None if ended => Ok(Framing::Length(0)),
        None => Ok(Framing::Chunked),
    }
}

fn declared_length(map: &HeaderMap) -> Result<Option<u64>, Problem> {
    let mut lengths = map.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (_, Some(_)) => Err(bad("several Content-Length fields")),
        (Some(length), None) => framing::content_length(length.as_bytes()).map(Some),
        (None, None) => Ok(None),
    }
}

/// Appends a request that came over HTTP/2 as an HTTP/1.1 head. `framing` is that of [`request_framing`]. `host` replaces the
/// authority. Refused: user information or other invalid characters in the authority, and a `host` field that contradicts
/// `:authority` (RFC 9113, 8.3.1).
pub(crate) fn write_request(
    parts: &http::request::Parts,
    host: Option<&str>,
    framing: Framing,
    out: &mut Vec<u8>,
) -> Result<(), Problem> {
    use engine::RequestHead as _;
    let head = Http2Head(parts);
    let authority = head.authority();
    target::authority(authority.as_bytes())?;
    if parts.headers.get_all(HOST).iter().any(|field| !field.as_bytes().eq_ignore_ascii_case(authority.as_bytes())) {
        return Err(bad("the host field contradicts :authority"));
    }
    let connect = parts.method == http::Method::CONNECT;
    match (connect, parts.uri.path_and_query().map(|target| target.as_str())) {
        (true, _) => put(out, format_args!("CONNECT {authority} HTTP/1.1\r\n")),
        (false, Some(target))
            if target.starts_with('/') || (target == "*" && parts.method == http::Method::OPTIONS) =>
        {
            put(out, format_args!("{} {target} HTTP/1.1\r\n", parts.method));
        }
        (false, _) => return Err(bad("invalid request target")),
    }
    put(out, format_args!("host: {}\r\n", host.unwrap_or(authority)));
    write_fields(&parts.headers, NOT_IN_HTTP2 | Kind::ContentLength.bit(), out);
    if parts.headers.get_all(TE).iter().flat_map(|te| members(te.as_bytes())).any(|te| te == b"trailers") {
        out.extend_from_slice(b"te: trailers\r\nconnection: TE\r\n");
    }
    write_framing(framing, out);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a response that came over HTTP/2 as an HTTP/1.1 head. `framing` is that of [`response_framing`] as
/// [`Framing::towards`] changes it for the client.
pub(crate) fn write_response(
    parts: &http::response::Parts,
    framing: Framing,
    connection: Connection,
    out: &mut Vec<u8>,
) {
    let status = parts.status.as_u16();
    write_status_line(status, out);
    // Of HEAD and 304 the length says what GET would have brought.
    let keep_length = framing == Framing::None && status >= 200 && status != 204;
    let drop = NOT_IN_HTTP2 & !Kind::Host.bit() | if keep_length { 0 } else { Kind::ContentLength.bit() };
    write_fields(&parts.headers, drop, out);
    write_framing(framing, out);
    match connection {
        Connection::Default => {}
        Connection::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Connection::Close => out.extend_from_slice(b"connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

fn write_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Length(length) => put(out, format_args!("content-length: {length}\r\n")),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose | Framing::Tunnel => {}
    }
}

/// Writes the fields of `map` but those of the kinds in `drop`. Cookies become one field (RFC 9113, 8.2.3).
fn write_fields(map: &HeaderMap, drop: u16, out: &mut Vec<u8>) {
    let mut cookies = map.get_all(COOKIE).iter();
    for (name, value) in map {
        if Kind::of(name.as_str().as_bytes()).bit() & drop != 0 {
            continue;
        }
        if name == COOKIE {
            // The first occurrence takes all; the others find nothing left.
            let mut separator: &[u8] = b"cookie: ";
            for cookie in cookies.by_ref() {
                out.extend_from_slice(separator);
                out.extend_from_slice(cookie.as_bytes());
                separator = b"; ";
            }
            if separator == b"; " {
                out.extend_from_slice(b"\r\n");
            }
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Applies route edits to a head of the `http` crate, by the rules of [`super::RequestEdit::edits`]. A `set` of `host` is left to
/// the caller, who knows where the authority goes.
pub(crate) fn apply(edits: &HeaderEdits, map: &mut HeaderMap) {
    let parsed = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        (!Kind::of(name.as_str().as_bytes()).is_steering()).then_some((name, value))
    };
    for (name, value) in edits.set.iter().filter_map(|(name, value)| parsed(name, value)) {
        map.insert(name, value);
    }
    for (name, value) in edits.add.iter().filter_map(|(name, value)| parsed(name, value)) {
        map.append(name, value);
    }
    for name in edits.remove.iter().filter(|name| !Kind::of(name.as_bytes()).is_steering()) {
        map.remove(&**name);
    }
}

#[cfg(test)]
mod tests;
