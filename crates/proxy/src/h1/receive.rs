//! Heads and trailers that come over HTTP/2, field by field as their block is decoded (RFC 9113, section 8).
//!
//! What the specification calls malformed ends the stream. What is well-formed and still not served (a head that is too large,
//! an authority that is none) is kept as far as it goes, so that it can be answered and counted.

use engine::Reason;

use super::fields::{Kind, MAX_FIELDS, MAX_HEAD, Span, bad};
use super::framing::{Steering, content_length};
use super::request::{HEAD_TOO_LARGE, METHOD_BYTES, TARGET_TOO_LONG};
use super::{Fields, Form, Framing, Problem, Request, Response, Version, target};
use crate::settings::Limits;

/// What a field counts for beside its letters (RFC 9113, 6.5.2).
const OVERHEAD: usize = 32;

/// What came of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// All of it is good.
    Whole,
    /// It is not served, and its sender can be told why.
    Refused(Problem),
    /// The stream ends; which rule was broken.
    Malformed(&'static str),
}

/// Which letters a name may hold: those of a token, lower case (RFC 9113, 8.2.1; RFC 9110, 5.6.2).
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = matches!(byte as u8, b'a'..=b'z' | b'0'..=b'9')
            || matches!(byte as u8, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
            || matches!(byte as u8, b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// Which bytes a value may hold: no control characters but the tab (RFC 9110, 5.5).
const IN_VALUE: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 32 {
        table[byte] = byte == b'\t' as usize;
        byte += 1;
    }
    table[0x7f] = false;
    table
};

/// Which bytes a target may hold: printable ASCII without `#`, which begins what is never sent.
const IN_TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = byte != b'#' as usize;
        byte += 1;
    }
    table
};

/// Eight times this byte.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The top bit of each byte.
const TOPS: u64 = all(0x80);

/// Calls `check` with eight bytes at a time until it finds fault; the last ones may be among those before. `None`: there are fewer
/// than eight.
#[inline]
fn words(bytes: &[u8], check: impl Fn(u64) -> bool) -> Option<bool> {
    let last = bytes.last_chunk()?;
    let (whole, _) = bytes.as_chunks();
    Some(whole.iter().all(|chunk| check(u64::from_le_bytes(*chunk))) && check(u64::from_le_bytes(*last)))
}

/// Whether `bytes` can be a field's name; it may be empty. Lower-case letters and hyphens, of which names are made as a rule, are
/// looked at eight at a time: adding 0x1f carries into the top bit from 'a' on, adding 0x05 from behind 'z' on, and adding 0x7f
/// to what differs from a hyphen by any bit.
#[inline]
fn is_name(bytes: &[u8]) -> bool {
    let usual = |word: u64| {
        let low = word & !TOPS;
        let letter = (low + all(0x1f)) & !(low + all(0x05));
        let hyphen = !((low ^ all(b'-')) + all(0x7f));
        (letter | hyphen) & !word & TOPS == TOPS
    };
    words(bytes, usual) == Some(true) || all_in(&IN_NAME, bytes)
}

/// Whether `bytes` can be a field's value: the same for bytes that are neither below 0x20 nor 0x7f.
#[inline]
fn is_value(bytes: &[u8]) -> bool {
    let usual = |word: u64| {
        let low = word & !TOPS;
        let printable = (low + all(0x60)) & ((low ^ all(0x7f)) + all(0x7f));
        (printable | word) & TOPS == TOPS
    };
    words(bytes, usual) == Some(true) || all_in(&IN_VALUE, bytes)
}

fn all_in(table: &[bool; 256], bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| table[usize::from(*byte)])
}

/// What a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Request,
    Response,
    Trailers,
}

/// A block that is being received.
pub(crate) struct Block<'a> {
    fields: &'a mut Fields,
    of: Of,
    limits: &'a Limits,
    size: usize,
    /// A field that is no pseudo field has come.
    regular: bool,
    malformed: Option<&'static str>,
    refused: Option<Problem>,
    length: Option<u64>,
    method: Option<Span>,
    scheme: Option<Span>,
    authority: Option<Span>,
    path: Option<Span>,
    status: Option<u16>,
}

impl<'a> Block<'a> {
    fn new(fields: &'a mut Fields, of: Of, limits: &'a Limits) -> Block<'a> {
        fields.clear();
        Block {
            fields,
            of,
            limits,
            size: 0,
            regular: false,
            malformed: None,
            refused: None,
            length: None,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            status: None,
        }
    }

    /// Takes one field.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], secret: bool) {
        self.size += name.len() + value.len() + OVERHEAD;
        if self.malformed.is_some() {
            return;
        }
        if self.size > self.limits.head_bytes.min(MAX_HEAD) {
            self.refused.get_or_insert(HEAD_TOO_LARGE);
            return;
        }
        let taken = match name.first() {
            Some(b':') => self.pseudo(name, value),
            _ => self.regular(name, value, secret),
        };
        self.malformed = taken.err();
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if self.regular {
            return Err("a pseudo field after other fields");
        }
        let slot = match (self.of, name) {
            (Of::Request, b":method") if value.len() > METHOD_BYTES || !value.iter().all(is_token) => {
                return Err("an invalid :method");
            }
            (Of::Request, b":method") => &mut self.method,
            (Of::Request, b":scheme") if !value.iter().all(is_token) => return Err("an invalid :scheme"),
            (Of::Request, b":scheme") => &mut self.scheme,
            (Of::Request, b":authority") if !all_in(&IN_TARGET, value) => return Err("an invalid :authority"),
            (Of::Request, b":authority") => &mut self.authority,
            (Of::Request, b":path") if !all_in(&IN_TARGET, value) => return Err("an invalid :path"),
            (Of::Request, b":path") => &mut self.path,
            (Of::Response, b":status") if self.status.is_none() => {
                self.status = Some(status(value).ok_or("an invalid :status")?);
                return Ok(());
            }
            (Of::Trailers, _) => return Err("a pseudo field in trailers"),
            _ => return Err("a pseudo field that is unknown, repeated or of the other side"),
        };
        if slot.is_some() {
            return Err("a repeated pseudo field");
        }
        *slot = Some(self.fields.keep(value));
        if name == b":path" && value.len() > self.limits.target_bytes {
            self.refused = Some(TARGET_TOO_LONG);
        }
        Ok(())
    }

    fn regular(&mut self, name: &[u8], value: &[u8], secret: bool) -> Result<(), &'static str> {
        self.regular = true;
        if name.is_empty() || !is_name(name) {
            return Err("an invalid field name, or one in upper case");
        }
        let padded = matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
        if padded || !is_value(value) {
            return Err("an invalid field value");
        }
        let kind = Kind::of(name);
        match kind {
            Kind::Connection | Kind::KeepAlive | Kind::ProxyConnection | Kind::TransferEncoding | Kind::Upgrade => {
                return Err("a field of HTTP/1 connections");
            }
            Kind::Te if value != b"trailers" => return Err("a TE field other than trailers"),
            Kind::ContentLength if self.of != Of::Trailers => {
                let length = content_length(value).map_err(|problem| problem.what)?;
                if self.length.replace(length).is_some() {
                    return Err("several Content-Length fields");
                }
            }
            _ => {}
        }
        if self.fields.list().len() >= self.limits.headers.min(MAX_FIELDS) {
            self.refused.get_or_insert(Problem { reason: Reason::HeadTooLarge, what: "too many header fields" });
            return Ok(());
        }
        self.fields.push_as(name, value, kind, secret);
        Ok(())
    }
}

/// A byte of a token (RFC 9110, 5.6.2).
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_uppercase() || IN_NAME[usize::from(*byte)]
}

/// Three digits, from 100 on. There is no 101 in HTTP/2 (RFC 9113, 8.6).
fn status(value: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else { return None };
    let digit = |byte: &u8| u16::from(byte - b'0');
    Some(digit(a) * 100 + digit(b) * 10 + digit(c)).filter(|status| *status != 101)
}

impl Request {
    /// Takes a request's head from a header block that `decode` goes through. `ended`: nothing follows it.
    ///
    /// # Errors
    /// Those of `decode`; the head is not to be used then.
    pub(crate) fn receive<E>(
        &mut self,
        limits: &Limits,
        ended: bool,
        decode: impl FnOnce(&mut Block<'_>) -> Result<(), E>,
    ) -> Result<Receipt, E> {
        let mut fields = std::mem::take(&mut self.fields);
        let mut block = Block::new(&mut fields, Of::Request, limits);
        decode(&mut block)?;
        let Block { malformed, refused, length, method, scheme, authority, path, .. } = block;
        fields.keep(b"\r\n");
        *self = Request {
            fields,
            version: Version::Http2,
            method: method.unwrap_or_default(),
            scheme: scheme.unwrap_or_default(),
            steering: Steering { keep_alive: true, ..Steering::default() },
            ..Request::default()
        };
        if let Some(what) = malformed {
            return Ok(Receipt::Malformed(what));
        }
        if let Err(problem) = self.take_authority(authority) {
            return Ok(Receipt::Refused(refused.unwrap_or(problem)));
        }
        let is_connect = self.fields.text(self.method) == "CONNECT";
        self.framing = match length {
            _ if is_connect => Framing::Tunnel,
            Some(length) if ended && length > 0 => return Ok(Receipt::Malformed("less content than announced")),
            Some(length) => Framing::Length(length),
            None if ended => Framing::None,
            None => Framing::Chunked,
        };
        // A head that was too large may lack what came too late in it.
        if let Some(problem) = refused {
            return Ok(Receipt::Refused(problem));
        }
        if method.is_none_or(|method| method.range().is_empty()) {
            return Ok(Receipt::Malformed("a request without :method"));
        }
        match (is_connect, path) {
            (true, None) if scheme.is_none() && authority.is_some() => {
                self.form = Form::Authority;
                Ok(Receipt::Whole)
            }
            (true, _) => Ok(Receipt::Malformed("CONNECT is made of :method and :authority alone")),
            (false, Some(path)) if scheme.is_some_and(|scheme| !scheme.range().is_empty()) => Ok(self.take_path(path)),
            (false, _) => Ok(Receipt::Malformed("a request without :scheme or :path")),
        }
    }

    /// `:authority` says whom a request is for, or else `host` does; they must not differ (RFC 9113, 8.3.1).
    fn take_authority(&mut self, given: Option<Span>) -> Result<(), Problem> {
        let raw = self.fields.raw();
        let mut hosts = self.fields.of_kind(Kind::Host);
        let host = hosts.next().map(|field| field.value);
        if hosts.next().is_some() {
            return Err(bad("several host fields"));
        }
        let Some(authority) = given.or(host) else { return Ok(()) };
        if host.is_some_and(|host| !raw[host.range()].eq_ignore_ascii_case(&raw[authority.range()])) {
            return Err(bad("the host field contradicts :authority"));
        }
        target::authority(&raw[authority.range()])?;
        self.authority = authority;
        Ok(())
    }

    fn take_path(&mut self, target: Span) -> Receipt {
        let bytes = &self.fields.raw()[target.range()];
        let start = target.start as usize;
        match bytes.first() {
            Some(b'/') => self.form = Form::Origin,
            Some(b'*') if bytes.len() == 1 && self.fields.text(self.method) == "OPTIONS" => self.form = Form::Asterisk,
            Some(_) => return Receipt::Refused(bad("invalid request target")),
            None => return Receipt::Malformed("an empty :path"),
        }
        self.target = target;
        self.path = target;
        if let Some(at) = memchr::memchr(b'?', bytes) {
            self.path = Span::new(start, start + at);
            self.query = Some(Span::new(start + at + 1, target.end as usize));
        }
        Receipt::Whole
    }
}

impl Response {
    /// Takes a response's head from a header block that `decode` goes through. `ended`: nothing follows it. `head`: it answers
    /// HEAD.
    ///
    /// # Errors
    /// Those of `decode`; the head is not to be used then.
    pub(crate) fn receive<E>(
        &mut self,
        limits: &Limits,
        ended: bool,
        head: bool,
        decode: impl FnOnce(&mut Block<'_>) -> Result<(), E>,
    ) -> Result<Receipt, E> {
        let mut fields = std::mem::take(&mut self.fields);
        let mut block = Block::new(&mut fields, Of::Response, limits);
        decode(&mut block)?;
        let Block { malformed, refused, length, status, .. } = block;
        fields.keep(b"\r\n");
        *self = Response {
            fields,
            version: Version::Http2,
            status: status.unwrap_or_default(),
            steering: Steering { keep_alive: true, ..Steering::default() },
            ..Response::default()
        };
        if let Some(what) = malformed {
            return Ok(Receipt::Malformed(what));
        }
        if let Some(Problem { what, .. }) = refused {
            return Ok(Receipt::Refused(Problem { reason: Reason::UpstreamProtocol, what }));
        }
        let Some(status) = status else { return Ok(Receipt::Malformed("a response without :status")) };
        if status < 200 && ended {
            return Ok(Receipt::Malformed("an interim response that ends the stream"));
        }
        self.framing = match length {
            _ if status < 200 || matches!(status, 204 | 304) || head => Framing::None,
            Some(length) if ended && length > 0 => return Ok(Receipt::Malformed("less content than announced")),
            Some(length) => Framing::Length(length),
            None if ended => Framing::Length(0),
            None => Framing::Chunked,
        };
        Ok(Receipt::Whole)
    }
}

impl Fields {
    /// Takes trailers from a header block that `decode` goes through.
    ///
    /// # Errors
    /// Those of `decode`.
    pub(crate) fn receive<E>(
        &mut self,
        limits: &Limits,
        decode: impl FnOnce(&mut Block<'_>) -> Result<(), E>,
    ) -> Result<Receipt, E> {
        let mut block = Block::new(self, Of::Trailers, limits);
        decode(&mut block)?;
        let Block { malformed, refused, .. } = block;
        Ok(match (malformed, refused) {
            (Some(what), _) => Receipt::Malformed(what),
            (None, Some(problem)) => Receipt::Malformed(problem.what),
            (None, None) => Receipt::Whole,
        })
    }
}

#[cfg(test)]
mod tests;
