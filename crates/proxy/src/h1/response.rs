//! A response's head.

use std::mem::MaybeUninit;

use engine::{Nanos, Reason};

use super::fields::{Kind, MAX_FIELDS, MAX_HEAD, Scan, bad, members, refused};
use super::framing::{Steering, content_length, declared, steering};
use super::request::HEAD_TOO_LARGE;
use super::{Fields, Framing, Problem, Version, plain};
use crate::settings::Limits;

/// No connection is kept without a request for longer, whatever its server says, seconds.
const LONGEST_KEPT: u64 = 86_400;

/// What of the request decides how its response is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The method was HEAD: no body comes, whatever the fields say.
    pub(crate) head: bool,
    /// The method was CONNECT: 2xx makes a tunnel.
    pub(crate) connect: bool,
    /// An upgrade was forwarded, so that 101 may be answered.
    pub(crate) upgrade: bool,
}

impl Asked {
    /// For a request with this method, sent with or without `Upgrade`.
    pub(crate) fn new(method: &str, upgrade: bool) -> Asked {
        Asked { head: method == "HEAD", connect: method == "CONNECT", upgrade }
    }
}

/// A response's head. Reuse one per connection: parsing keeps its buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(super) fields: Fields,
    pub(super) scan: Scan,
    pub(super) version: Version,
    pub(super) status: u16,
    /// Where the status line ends and the fields begin.
    pub(super) fields_at: usize,
    pub(super) framing: Framing,
    pub(super) steering: Steering,
}

impl Response {
    /// Parses a head from the start of `input`, as [`super::Request::parse`] does. Every refusal is an
    /// [`Reason::UpstreamProtocol`].
    pub(crate) fn parse(&mut self, input: &[u8], asked: Asked, limits: &Limits) -> Result<Option<usize>, Problem> {
        self.find(input, asked, limits)
            .map_err(|problem| Problem { reason: Reason::UpstreamProtocol, what: problem.what })
    }

    fn find(&mut self, input: &[u8], asked: Asked, limits: &Limits) -> Result<Option<usize>, Problem> {
        match input.first() {
            None => return Ok(None),
            Some(b'H') => {}
            Some(_) => return Err(bad("not an HTTP response")),
        }
        if self.scan.begun() && !self.scan.finds_end(input)? {
            return wait(input, limits);
        }
        match self.read(input, asked, limits)? {
            Some(length) => {
                self.scan = Scan::default();
                Ok(Some(length))
            }
            None if self.scan.finds_end(input)? => Err(bad("malformed head")),
            None => wait(input, limits),
        }
    }

    fn read(&mut self, input: &[u8], asked: Asked, limits: &Limits) -> Result<Option<usize>, Problem> {
        let length = match self.read_plain(input, limits) {
            Some(length) => length,
            None => match self.read_any(input, limits)? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        self.steering = steering(&self.fields, self.version);
        self.take_framing(asked)?;
        Ok(Some(length))
    }

    /// The quick way, for heads of the usual form: takes status and fields over. `None`: it is not of that form.
    pub(super) fn read_plain(&mut self, input: &[u8], limits: &Limits) -> Option<usize> {
        let (status, fields_at) = plain::status_line(input)?;
        let length = self.fields.take_plain(input, fields_at, limits.headers.min(MAX_FIELDS))?;
        (self.status, self.fields_at, self.version) = (status, fields_at, Version::Http11);
        (length <= limits.head_bytes.min(MAX_HEAD)).then_some(length)
    }

    /// The way for all heads. `None`: more is needed.
    #[cold]
    pub(super) fn read_any(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, Problem> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let slots = &mut slots[..limits.headers.min(MAX_FIELDS)];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut parsed, input, slots) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        if length > limits.head_bytes.min(MAX_HEAD) {
            return Err(HEAD_TOO_LARGE);
        }
        let head = &input[..length];
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err(bad("malformed status line"));
        };
        if status < 100 {
            return Err(bad("invalid status"));
        }
        self.fields_at = memchr::memchr(b'\n', head).ok_or(bad("malformed status line"))? + 1;
        if head.get(self.fields_at - 2) != Some(&b'\r') {
            return Err(bad("a line does not end with CR LF"));
        }
        self.fields.fill(head, self.fields_at, parsed.headers)?;
        self.status = status;
        self.version = if version == 0 { Version::Http10 } else { Version::Http11 };
        Ok(Some(length))
    }

    /// What a server's sidecar says of its load.
    pub(crate) fn load(&self) -> Option<&[u8]> {
        self.of(Kind::Load)
    }

    /// What the application says of its load.
    pub(crate) fn orca(&self) -> Option<&[u8]> {
        self.of(Kind::Orca)
    }

    fn of(&self, kind: Kind) -> Option<&[u8]> {
        if !self.fields.has(kind.bit()) {
            return None;
        }
        self.fields.of_kind(kind).next().map(|field| self.fields.value(field))
    }

    /// RFC 9112, 6.3, in its order.
    fn take_framing(&mut self, asked: Asked) -> Result<(), Problem> {
        let tunnel = asked.connect && (200..300).contains(&self.status);
        if self.status == 101 && !asked.upgrade {
            return Err(bad("101 that nobody asked for"));
        }
        if tunnel || self.status == 101 {
            // A client ignores what they say of a body (RFC 9110, 9.3.6).
            self.framing = Framing::Tunnel;
            self.steering.keep_alive = false;
            return Ok(());
        }
        let declared = declared(&self.fields, self.version)?;
        let empty = self.status < 200 || self.status == 204;
        if empty && self.fields.has(Kind::TransferEncoding.bit()) {
            return Err(bad("Transfer-Encoding in a response that has no body"));
        }
        if empty && !matches!(declared, None | Some(Framing::Length(0))) {
            if self.status < 200 {
                return Err(bad("an interim response with a body"));
            }
            // Bytes that might follow must not become the next response.
            self.steering.keep_alive = false;
        }
        self.framing = match declared {
            _ if empty || asked.head || self.status == 304 => Framing::None,
            Some(framing) => framing,
            None => Framing::UntilClose,
        };
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
        *self = Response { fields, ..Response::default() };
    }

    /// Becomes the same as `other`, in the memory that there is.
    pub(crate) fn copy(&mut self, other: &Response) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.copy(&other.fields);
        *self = Response { fields, ..*other };
    }

    /// The version of the sender.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The status code, 100 to 999.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// An interim response (1xx other than 101): forward it if the client is not HTTP/1.0, then parse the next head.
    pub(crate) fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// How the body that follows ends.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the connection may be used again once the body has ended.
    pub(crate) fn keep_alive(&self) -> bool {
        self.steering.keep_alive && self.framing != Framing::UntilClose
    }

    /// How long the sender keeps the connection without a request, if it says so (`Keep-Alive: timeout=5`, in seconds; RFC
    /// 2068, 19.7.1.1, which HTTP/1.1 servers still send).
    pub(crate) fn keeps_for(&self) -> Option<Nanos> {
        let seconds = members(self.of(Kind::KeepAlive)?).find_map(|member| {
            let at = memchr::memchr(b'=', member)?;
            let (name, value) = (member[..at].trim_ascii(), member[at + 1..].trim_ascii());
            name.eq_ignore_ascii_case(b"timeout").then(|| content_length(value).ok()).flatten()
        })?;
        Some(Nanos::from_millis(seconds.min(LONGEST_KEPT) * 1_000))
    }

    /// The header fields.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    pub(super) fn steering(&self) -> Steering {
        self.steering
    }

    /// The status line, line end included.
    pub(super) fn status_line(&self) -> &[u8] {
        &self.fields.raw()[..self.fields_at]
    }
}

fn wait(input: &[u8], limits: &Limits) -> Result<Option<usize>, Problem> {
    if input.len() >= limits.head_bytes.min(MAX_HEAD) { Err(HEAD_TOO_LARGE) } else { Ok(None) }
}

#[cfg(test)]
mod tests;
