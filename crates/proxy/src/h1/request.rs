//! A request's head.

use std::mem::MaybeUninit;

use engine::Reason;

use super::fields::{Kind, MAX_FIELDS, MAX_HEAD, Scan, Span, bad, refused};
use super::framing::{Steering, declared, steering};
use super::{Fields, Form, Framing, Problem, Version};
use super::{plain, target};
use crate::settings::Limits;

/// Longest method. The longest registered one (UPDATEREDIRECTREF) has 17 letters.
pub(super) const METHOD_BYTES: usize = 32;

/// What a request line holds besides its target: method, two spaces, version, line end.
const LINE_BYTES: usize = METHOD_BYTES + 12;

pub(super) const TARGET_TOO_LONG: Problem =
    Problem { reason: Reason::TargetTooLong, what: "the request target is too long" };
pub(super) const HEAD_TOO_LARGE: Problem = Problem { reason: Reason::HeadTooLarge, what: "the head is too large" };

/// What a request line says, and how long the head is; lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    method: usize,
    target: usize,
    version: Version,
    length: usize,
}

impl Line {
    fn fits(&self, limits: &Limits) -> Result<(), Problem> {
        if self.method > METHOD_BYTES {
            return Err(bad("the method is too long"));
        }
        if self.target > limits.target_bytes {
            return Err(TARGET_TOO_LONG);
        }
        if self.length > limits.head_bytes.min(MAX_HEAD) {
            return Err(HEAD_TOO_LARGE);
        }
        Ok(())
    }
}

/// A request's head. Reuse one per connection: parsing keeps its buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(super) fields: Fields,
    pub(super) scan: Scan,
    pub(super) version: Version,
    pub(super) form: Form,
    pub(super) method: Span,
    pub(super) target: Span,
    /// Over HTTP/2.
    pub(super) scheme: Span,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
    pub(super) authority: Span,
    pub(super) framing: Framing,
    pub(super) steering: Steering,
    /// The `Host` field does not say what the authority is.
    pub(super) host_differs: bool,
}

impl Request {
    /// Parses a head from the start of `input`, copying it. `Ok(Some(n))`: the head took `n` bytes. `Ok(None)`: more is needed;
    /// call again with the same bytes and those that follow (what was seen is not looked at again). After an error, or to
    /// give up a half-read head, call [`Request::reset`].
    ///
    /// One empty line before the request line is skipped (RFC 9112, 2.2).
    pub(crate) fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, Problem> {
        let skipped = match input {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => 2,
            _ => 0,
        };
        let input = &input[skipped..];
        if matches!(input, [] | [b'\r'] | [b'\n', ..] | [b'\r', _, ..]) {
            return if input.is_empty() { Ok(None) } else { Err(bad("an empty request line")) };
        }
        if self.scan.begun() && !self.scan.finds_end(input)? {
            return self.wait(input, limits);
        }
        match self.read(input, limits)? {
            Some(length) => {
                self.scan = Scan::default();
                Ok(Some(skipped + length))
            }
            None if self.scan.finds_end(input)? => Err(bad("malformed head")),
            None => self.wait(input, limits),
        }
    }

    /// The head has not ended: may it still become one?
    fn wait(&self, input: &[u8], limits: &Limits) -> Result<Option<usize>, Problem> {
        if self.scan.in_start_line() && input.len() > limits.target_bytes + LINE_BYTES {
            return Err(TARGET_TOO_LONG);
        }
        if input.len() >= limits.head_bytes.min(MAX_HEAD) {
            return Err(HEAD_TOO_LARGE);
        }
        Ok(None)
    }

    fn read(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, Problem> {
        let line = match self.read_plain(input, limits) {
            Some(line) => line,
            None => match self.read_any(input, limits)? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        self.version = line.version;
        self.method = Span::new(0, line.method);
        let target = line.method + 1;
        self.target = Span::new(target, target + line.target);
        let parts = target::parse(engine::RequestHead::method(self), self.target())?;
        self.take_target(parts, target)?;
        self.take_fields(parts.form == Form::Authority)?;
        Ok(Some(line.length))
    }

    /// The quick way, for heads of the usual form: takes the fields over and says what it found. `None`: it is not of that form.
    pub(super) fn read_plain(&mut self, input: &[u8], limits: &Limits) -> Option<Line> {
        let (method, target, fields_at) = plain::request_line(input)?;
        let length = self.fields.take_plain(input, fields_at, limits.headers.min(MAX_FIELDS))?;
        let line = Line { method, target, version: Version::Http11, length };
        line.fits(limits).is_ok().then_some(line)
    }

    /// The way for all heads. `None`: more is needed.
    #[cold]
    pub(super) fn read_any(&mut self, input: &[u8], limits: &Limits) -> Result<Option<Line>, Problem> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let slots = &mut slots[..limits.headers.min(MAX_FIELDS)];
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(input, slots) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::Version) if !names_http(input) => {
                return Err(bad("malformed request line"));
            }
            Err(error) => return Err(refused(error)),
        };
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(bad("malformed request line"));
        };
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        let line = Line { method: method.len(), target: target.len(), version, length };
        line.fits(limits)?;
        let fields_at = method.len() + 1 + target.len() + " HTTP/1.1\r\n".len();
        if input.get(fields_at - 2..fields_at) != Some(b"\r\n".as_slice()) {
            return Err(bad("malformed request line"));
        }
        self.fields.fill(&input[..length], fields_at, parsed.headers)?;
        Ok(Some(line))
    }

    /// Sets what the target decides, and the authority, which absolute and authority form take precedence for over `Host`
    /// (RFC 9112, 3.2.2).
    fn take_target(&mut self, parts: target::Parts, at: usize) -> Result<(), Problem> {
        let moved = |span: Span| Span::new(at + span.start as usize, at + span.end as usize);
        self.form = parts.form;
        self.path = moved(parts.path);
        self.query = parts.query.map(moved);
        self.authority = moved(parts.authority);
        self.host_differs = false;
        let mut hosts = self.fields.of_kind(Kind::Host);
        let host = hosts.next().map(|field| field.value);
        if hosts.next().is_some() {
            return Err(bad("several Host fields"));
        }
        let Some(host) = host else {
            self.host_differs = true;
            return if self.version == Version::Http11 { Err(bad("no Host field")) } else { Ok(()) };
        };
        target::authority(&self.fields.raw()[host.range()])?;
        if matches!(parts.form, Form::Absolute | Form::Authority) {
            let raw = self.fields.raw();
            self.host_differs = !raw[host.range()].eq_ignore_ascii_case(&raw[self.authority.range()]);
        } else {
            self.authority = host;
        }
        Ok(())
    }

    fn take_fields(&mut self, connect: bool) -> Result<(), Problem> {
        self.framing = declared(&self.fields, self.version)?.unwrap_or(Framing::None);
        if connect && !matches!(self.framing, Framing::None | Framing::Length(0)) {
            return Err(bad("CONNECT with a body"));
        }
        self.steering = steering(&self.fields, self.version);
        Ok(())
    }

    /// How much memory its bytes have, used or not.
    pub(crate) fn memory(&self) -> usize {
        self.fields.memory()
    }

    /// Forgets everything but the memory.
    pub(crate) fn reset(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Request { fields, ..Request::default() };
    }

    /// Becomes the same as `other`, in the memory that there is.
    pub(crate) fn copy(&mut self, other: &Request) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.copy(&other.fields);
        *self = Request { fields, ..*other };
    }

    /// Whether it is a gRPC request (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
    pub(crate) fn is_grpc(&self) -> bool {
        let kind = self.fields.get("content-type").and_then(|value| value.strip_prefix(b"application/grpc"));
        kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }

    /// The version of the sender.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The form of the target.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// The target as sent.
    pub(crate) fn target(&self) -> &str {
        self.fields.text(self.target)
    }

    /// How the body that follows ends: `None`, `Length` or `Chunked`.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client wants to use the connection again.
    pub(crate) fn keep_alive(&self) -> bool {
        self.steering.keep_alive
    }

    /// The protocol that the client wants to switch to, such as `websocket`: `Connection: upgrade`, one `Upgrade` field with one
    /// member, HTTP/1.1 and no body, or it is not one that could be forwarded. Neither is a switch to HTTP/2: its requests would
    /// pass unseen, by rules and authorization ("h2c smuggling"), and RFC 9113, 3.1 has given it up.
    pub(crate) fn upgrade(&self) -> Option<&str> {
        if !self.steering.upgrade || self.version == Version::Http10 || self.framing != Framing::None {
            return None;
        }
        let mut found = self.fields.of_kind(Kind::Upgrade);
        let protocol = std::str::from_utf8(self.fields.value(found.next()?)).ok()?;
        let name = protocol.split('/').next().unwrap_or_default();
        let to_http = ["h2", "h2c", "http", "tls"].iter().any(|known| name.eq_ignore_ascii_case(known));
        (found.next().is_none() && !name.is_empty() && !protocol.contains(',') && !to_http).then_some(protocol)
    }

    /// The header fields.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    pub(super) fn steering(&self) -> Steering {
        self.steering
    }

    /// Whether the `Host` field has to be written anew even if nobody asked for it.
    pub(super) fn host_differs(&self) -> bool {
        self.host_differs
    }

    /// Where the request line ends and the fields begin.
    pub(super) fn fields_at(&self) -> usize {
        self.target.end as usize + " HTTP/1.1\r\n".len()
    }

    /// Path and query as they came; empty where absolute form has neither.
    pub(super) fn path_and_query(&self) -> &[u8] {
        &self.fields.raw()[self.path.start as usize..self.target.end as usize]
    }
}

/// Whether the first line of `input` is that of an HTTP request, whatever the version.
fn names_http(input: &[u8]) -> bool {
    let line = &input[..memchr::memchr(b'\n', input).unwrap_or(input.len())];
    let mut parts = line.split(|&byte| byte == b' ').skip(1);
    parts.next().is_some_and(|target| !target.is_empty())
        && parts.next().is_some_and(|version| version.starts_with(b"HTTP/"))
}

impl engine::RequestHead for Request {
    fn method(&self) -> &str {
        // It is asked for several times a request, and nearly always one of these.
        match &self.fields.raw()[self.method.range()] {
            b"GET" => "GET",
            b"POST" => "POST",
            b"PUT" => "PUT",
            b"HEAD" => "HEAD",
            b"DELETE" => "DELETE",
            _ => self.fields.text(self.method),
        }
    }

    fn path(&self) -> &str {
        match self.fields.text(self.path) {
            // An absolute-form OPTIONS without path stands for the whole server (RFC 9112, 3.2.4).
            "" if self.form == Form::Absolute && self.query.is_none() && self.method() == "OPTIONS" => "*",
            "" if self.form == Form::Absolute => "/",
            path => path,
        }
    }

    fn query(&self) -> Option<&str> {
        self.query.map(|query| self.fields.text(query))
    }

    fn authority(&self) -> &str {
        self.fields.text(self.authority)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.fields.all(name).for_each(see);
    }
}

#[cfg(test)]
mod tests;
