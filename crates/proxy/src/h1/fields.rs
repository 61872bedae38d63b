//! Header and trailer fields as ranges into the bytes that they came in.

use std::ops::Range;

use engine::Reason;

use super::Problem;

/// Most fields that one head may hold whatever the settings say: it sizes an array on the stack (8 KiB).
pub(crate) const MAX_FIELDS: usize = 256;

/// Largest head whatever the settings say, so that offsets fit into 32 bits by a wide margin.
pub(super) const MAX_HEAD: usize = 1 << 20;

/// Fields that `Connection` may name without effect: they are for every recipient, and a hop that loses one of them reads another
/// message than the one before it (RFC 9110, 7.6.1 forbids to name them; removing them on request is a known attack).
const NOT_NOMINATED: [&str; 8] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "authorization",
    "cookie",
    "forwarded",
    "x-forwarded-for",
];

/// Part of a head's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) const fn new(start: usize, end: usize) -> Span {
        // Heads are at most MAX_HEAD long.
        Span { start: start as u32, end: end as u32 }
    }

    pub(super) const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Fields that the codec itself has to know; every other one is the applications' business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Expect,
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    Upgrade,
    /// `Proxy-Authorization`, `Proxy-Authenticate`, `Proxy-Authentication-Info`: between a client and its proxy.
    ProxyCredentials,
    /// `heddle-load`, which goes from sidecar to sidecar alone.
    Load,
    /// `endpoint-load-metrics`.
    Orca,
    /// The rest of `heddle-*`.
    Mesh,
    /// `Cookie`, of which HTTP/2 may have several and HTTP/1 has one.
    Cookie,
}

impl Kind {
    /// As a member of a set of kinds.
    pub(super) const fn bit(self) -> u16 {
        1 << self as u8
    }

    /// The kind of the field `name`, in any case.
    #[inline]
    pub(super) fn of(name: &[u8]) -> Kind {
        match name.len() {
            2 if is(name, b"te") => Kind::Te,
            4 if is(name, b"host") => Kind::Host,
            6 if is(name, b"cookie") => Kind::Cookie,
            6 if is(name, b"expect") => Kind::Expect,
            7 if is(name, b"trailer") => Kind::Trailer,
            7 if is(name, b"upgrade") => Kind::Upgrade,
            10 if is(name, b"connection") => Kind::Connection,
            10 if is(name, b"keep-alive") => Kind::KeepAlive,
            14 if is(name, b"content-length") => Kind::ContentLength,
            16 if is(name, b"proxy-connection") => Kind::ProxyConnection,
            17 if is(name, b"transfer-encoding") => Kind::TransferEncoding,
            18 if is(name, b"proxy-authenticate") => Kind::ProxyCredentials,
            19 if is(name, b"proxy-authorization") => Kind::ProxyCredentials,
            25 if is(name, b"proxy-authentication-info") => Kind::ProxyCredentials,
            11 if is(name, b"heddle-load") => Kind::Load,
            21 if is(name, b"endpoint-load-metrics") => Kind::Orca,
            8.. if is(&name[..7], b"heddle-") => Kind::Mesh,
            _ => Kind::Other,
        }
    }

    /// Whether it frames the message or steers the connection, so that neither route edits nor trailers may touch it.
    pub(super) const fn is_steering(self) -> bool {
        !matches!(
            self,
            Kind::Other | Kind::Load | Kind::Orca | Kind::Mesh | Kind::ProxyCredentials | Kind::Expect | Kind::Cookie
        )
    }
}

/// Whether `name` is `known`, which is in lower case, in any case. All bytes are compared, of letters without the bit that is their
/// case: of a name that is written down the compiler makes a few instructions on words of it.
#[inline(always)]
pub(super) fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let counts = |known: &u8| if known.is_ascii_lowercase() { !0x20 } else { !0 };
    name.iter().zip(known).fold(0, |odd, (byte, known)| odd | (byte ^ known) & counts(known)) == 0
}

/// Kinds that trailers may have on their way: none that would frame or steer a message, nor `heddle-*` (RFC 9110, 6.5.1).
pub(super) const TRAILING: u16 = Kind::Other.bit() | Kind::Orca.bit() | Kind::Cookie.bit();

/// One field line: `name`, colon, whitespace, `value`, whitespace, CR LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
    /// The start of the next line.
    pub(super) end: u32,
    pub(super) kind: Kind,
    /// It came over HTTP/2 as one that must not enter a compression table (RFC 7541, 7.1.3), and goes on as such.
    pub(super) secret: bool,
}

/// Fields in the order received, with the bytes that they came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// The whole head, start line and last empty line included; of trailers everything up to that line. Of a head that came over
    /// HTTP/2: the values of its pseudo fields, then lines and an empty line as HTTP/1 has them.
    raw: Vec<u8>,
    list: Vec<Field>,
    /// Which kinds occur, as [`Kind::bit`]s.
    kinds: u16,
}

impl Fields {
    /// The first value of `name` (lower case), without surrounding whitespace.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.list.iter().find(|field| self.name(field).eq_ignore_ascii_case(name.as_bytes()))?;
        Some(self.value(found))
    }

    /// Every value of `name`, in any case, without surrounding whitespace.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = move |field: &&Field| self.name(field).eq_ignore_ascii_case(name.as_bytes());
        self.list.iter().filter(named).map(|field| self.value(field))
    }

    /// Every field in order, for the tests: name as sent, value without surrounding whitespace.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list.iter().map(|field| (self.name(field), self.value(field)))
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How much memory its bytes have, used or not.
    pub(crate) fn memory(&self) -> usize {
        self.raw.capacity()
    }

    /// Forgets everything but the memory.
    pub(crate) fn clear(&mut self) {
        self.raw.clear();
        self.list.clear();
        self.kinds = 0;
    }

    /// Becomes the same as `other`, in the memory that there is.
    pub(crate) fn copy(&mut self, other: &Fields) {
        self.clear();
        self.raw.extend_from_slice(&other.raw);
        self.list.extend_from_slice(&other.list);
        self.kinds = other.kinds;
    }

    /// Adds a field of the bytes that are kept next.
    pub(super) fn add(&mut self, field: Field) {
        self.kinds |= field.kind.bit();
        self.list.push(field);
    }

    /// The bytes that all spans refer to.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub(super) fn list(&self) -> &[Field] {
        &self.list
    }

    /// Adds bytes that are no field.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.raw.len();
        self.raw.extend_from_slice(bytes);
        Span::new(start, self.raw.len())
    }

    /// Where the first field begins, or the last empty line.
    pub(super) fn lines_at(&self) -> usize {
        self.list.first().map_or(self.raw.len() - 2, |field| field.name.start as usize)
    }

    /// The fields of one kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Field> {
        self.list.iter().filter(move |field| field.kind == kind)
    }

    /// Whether any of a set of kinds occurs.
    pub(super) fn has(&self, kinds: u16) -> bool {
        self.kinds & kinds != 0
    }

    pub(super) fn name(&self, field: &Field) -> &[u8] {
        &self.raw[field.name.range()]
    }

    pub(super) fn value(&self, field: &Field) -> &[u8] {
        &self.raw[field.value.range()]
    }

    /// Whether a `Connection` field names `name`, so that the field goes no further.
    pub(super) fn nominated(&self, name: &[u8]) -> bool {
        let named = |field: &Field| members(self.value(field)).any(|option| option.eq_ignore_ascii_case(name));
        self.of_kind(Kind::Connection).any(named)
            && !NOT_NOMINATED.iter().any(|kept| kept.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Text that parsing has found to be UTF-8.
    pub(super) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(&self.raw[span.range()]).expect("parsing checked that it is text")
    }

    /// Adds a field that did not come as a line of HTTP/1. Name and value are valid.
    pub(super) fn push_as(&mut self, name: &[u8], value: &[u8], kind: Kind, secret: bool) {
        let start = self.raw.len();
        self.raw.reserve(name.len() + value.len() + 4);
        self.raw.extend_from_slice(name);
        self.raw.extend_from_slice(b": ");
        self.raw.extend_from_slice(value);
        self.raw.extend_from_slice(b"\r\n");
        self.kinds |= kind.bit();
        self.list.push(Field {
            name: Span::new(start, start + name.len()),
            value: Span::new(start + name.len() + 2, self.raw.len() - 2),
            end: self.raw.len() as u32,
            kind,
            secret,
        });
    }

    /// The same, for tests.
    #[cfg(test)]
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_as(name, value, Kind::of(name), false);
    }

    /// Takes over what `httparse` found in `head`, whose field lines begin at `start`. Refuses what `httparse` lets pass: line ends
    /// that are not CR LF, and anything between two lines.
    pub(super) fn fill(&mut self, head: &[u8], start: usize, found: &[httparse::Header<'_>]) -> Result<(), Problem> {
        self.clear();
        let mut at = start;
        for header in found {
            let name = Span::new(at, at + header.name.len());
            let colon = name.end as usize;
            if header.name.is_empty() || offset(head, header.name.as_bytes()) != at || head.get(colon) != Some(&b':') {
                return Err(bad("malformed header line"));
            }
            // The address of an empty value is not relied on.
            let value = if header.value.is_empty() { colon + 1 } else { offset(head, header.value) };
            let value = Span::new(value, value + header.value.len());
            let mut end = value.end as usize;
            while matches!(head.get(end), Some(b' ' | b'\t')) {
                end += 1;
            }
            if head.get(end..end + 2) != Some(b"\r\n".as_slice()) {
                return Err(bad("a line does not end with CR LF"));
            }
            at = end + 2;
            let kind = Kind::of(header.name.as_bytes());
            self.add(Field { name, value, end: at as u32, kind, secret: false });
        }
        if head.get(at..) != Some(b"\r\n".as_slice()) {
            return Err(bad("the head does not end with CR LF"));
        }
        self.raw.extend_from_slice(head);
        Ok(())
    }
}

/// Where `part` begins in `whole`, of which it is a piece.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

/// A refusal of a malformed message.
pub(super) const fn bad(what: &'static str) -> Problem {
    Problem { reason: Reason::BadRequest, what }
}

/// What `httparse` refused, in our words.
pub(super) fn refused(error: httparse::Error) -> Problem {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Problem { reason: Reason::HeadTooLarge, what: "too many header fields" },
        Error::Version => Problem { reason: Reason::VersionNotSupported, what: "unknown HTTP version" },
        Error::HeaderName => bad("invalid header name"),
        Error::HeaderValue => bad("invalid header value"),
        Error::NewLine => bad("invalid line end"),
        Error::Status => bad("invalid status"),
        Error::Token => bad("malformed start line"),
    }
}

/// The members of a comma-separated list, trimmed, empty ones left out (RFC 9110, 5.6.1).
pub(super) fn members(mut value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let split = move || {
        while !value.is_empty() {
            let end = memchr::memchr(b',', value).unwrap_or(value.len());
            let member = value[..end].trim_ascii();
            value = &value[value.len().min(end + 1)..];
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    };
    std::iter::from_fn(split)
}

/// Looks for the end of a head that arrives in pieces, at each byte once, so that a slow sender costs no more than a fast one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    seen: usize,
    line: usize,
}

impl Scan {
    /// Whether an earlier call saw part of this head.
    pub(super) fn begun(&self) -> bool {
        self.seen > 0
    }

    /// Whether the start line has not ended yet.
    pub(super) fn in_start_line(&self) -> bool {
        self.line == 0
    }

    /// Whether `input` holds an empty line. Refuses line feeds without carriage return.
    pub(super) fn finds_end(&mut self, input: &[u8]) -> Result<bool, Problem> {
        let from = self.seen;
        for at in memchr::memchr_iter(b'\n', &input[from..]) {
            let at = from + at;
            if at == 0 || input[at - 1] != b'\r' {
                return Err(bad("a line does not end with CR LF"));
            }
            if at == self.line + 1 {
                return Ok(true);
            }
            self.line = at + 1;
        }
        self.seen = input.len();
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
