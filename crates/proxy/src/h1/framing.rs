//! How long a message's body is (RFC 9112, section 6).

use engine::Reason;

use super::fields::{Fields, Kind, bad, is, members};
use super::{Problem, Version};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Up to the end of the connection; responses only.
    UntilClose,
    /// The connection changes its protocol after this head: CONNECT answered with 2xx, or 101.
    Tunnel,
}

impl Framing {
    /// The framing to use towards a client of `version`. HTTP/1.0 knows no chunks, so the end of the connection ends such a body;
    /// for HTTP/1.1 a body that ends with the upstream's connection becomes chunks, and the client's connection stays.
    pub(crate) fn towards(self, version: Version) -> Framing {
        match (self, version) {
            (Framing::Chunked, Version::Http10) => Framing::UntilClose,
            (Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (framing, _) => framing,
        }
    }
}

/// What a head's fields say of its body. Ambiguities are refused rather than resolved, since the next hop might resolve them
/// otherwise (request smuggling; RFC 9112, 11.2): both fields, repeated fields even of one value, transfer codings besides
/// `chunked`, any transfer coding in HTTP/1.0.
pub(super) fn declared(fields: &Fields, version: Version) -> Result<Option<Framing>, Problem> {
    let only = |kind, several| {
        let mut found = fields.of_kind(kind);
        let value = found.next().map(|field| fields.value(field));
        if found.next().is_some() { Err(bad(several)) } else { Ok(value) }
    };
    match (fields.has(Kind::TransferEncoding.bit()), fields.has(Kind::ContentLength.bit())) {
        (true, true) => Err(bad("both Transfer-Encoding and Content-Length")),
        (true, false) if version == Version::Http10 => Err(bad("Transfer-Encoding in HTTP/1.0")),
        (true, false) => {
            let coding = only(Kind::TransferEncoding, "several Transfer-Encoding fields")?;
            coding.map(|coding| chunked(coding).map(|()| Framing::Chunked)).transpose()
        }
        (false, true) => {
            let length = only(Kind::ContentLength, "several Content-Length fields")?;
            length.map(|length| content_length(length).map(Framing::Length)).transpose()
        }
        (false, false) => Ok(None),
    }
}

/// Accepts `chunked` alone. Codings before a final `chunked` are valid and not supported; without `chunked` at the end the
/// length is not known (RFC 9112, 6.1 and 6.3).
fn chunked(value: &[u8]) -> Result<(), Problem> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    let count = members(value).filter(|member| is_chunked(member)).count();
    match members(value).last() {
        Some(last) if is_chunked(last) && count == 1 && members(value).count() > 1 => {
            Err(Problem { reason: Reason::CodingNotSupported, what: "a transfer coding other than chunked" })
        }
        Some(last) if is_chunked(last) => Err(bad("malformed Transfer-Encoding")),
        _ => Err(bad("Transfer-Encoding does not end with chunked")),
    }
}

/// Digits alone, of a number that fits into 64 bits. Lists are refused, those of equal members too.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Problem> {
    const INVALID: Problem = bad("invalid Content-Length");
    if value.is_empty() {
        return Err(INVALID);
    }
    value.iter().try_fold(0u64, |sum, byte| {
        if !byte.is_ascii_digit() {
            return Err(INVALID);
        }
        sum.checked_mul(10).and_then(|sum| sum.checked_add(u64::from(byte - b'0'))).ok_or(INVALID)
    })
}

/// What a head says about its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Steering {
    /// The connection may be used again.
    pub(super) keep_alive: bool,
    /// `Connection` lists `upgrade`.
    pub(super) upgrade: bool,
    /// `Connection` lists names of other fields, which therefore go no further.
    pub(super) nominates: bool,
}

/// Reads the `Connection` fields (RFC 9112, 9.3). A `close` outweighs a `keep-alive`.
pub(super) fn steering(fields: &Fields, version: Version) -> Steering {
    let mut steering = Steering { keep_alive: version == Version::Http11, ..Steering::default() };
    if !fields.has(Kind::Connection.bit()) {
        return steering;
    }
    let mut close = false;
    for field in fields.of_kind(Kind::Connection) {
        for option in members(fields.value(field)) {
            if is(option, b"keep-alive") {
                steering.keep_alive = true;
            } else if is(option, b"close") {
                close = true;
            } else if is(option, b"upgrade") {
                steering.upgrade = true;
            } else if !is(option, b"te") {
                steering.nominates = true;
            }
        }
    }
    steering.keep_alive &= !close;
    steering
}

#[cfg(test)]
mod tests;
