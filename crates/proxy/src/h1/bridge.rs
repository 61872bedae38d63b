//! Heads on their way from one version of HTTP to the other, and to HTTP/2 from either (RFC 9113, 8.2 and 8.3).
//!
//! Going to HTTP/2, hop-by-hop fields go and names become lower case. Coming from HTTP/2, `host` is written from `:authority`,
//! `cookie` fields are joined, and the framing fields are written anew.

use engine::RequestHead as _;

use super::fields::{Kind, TRAILING};
use super::forward::{Filter, additions, write_additions};
use super::reply::{put, write_status_line};
use super::{Connection, Fields, Form, Framing, Request, RequestEdit, Response, ResponseEdit, Target, Version};
use crate::h2::hpack::Encoder;

/// Kinds that have no place in HTTP/2 (RFC 9113, 8.2.2), or that pseudo fields stand for. `te` is written anew.
const NOT_IN_HTTP2: u16 = Kind::Host.bit()
    | Kind::Connection.bit()
    | Kind::KeepAlive.bit()
    | Kind::ProxyConnection.bit()
    | Kind::TransferEncoding.bit()
    | Kind::Te.bit()
    | Kind::Upgrade.bit()
    | Kind::ProxyCredentials.bit();

impl Request {
    /// Appends the head as it is forwarded over HTTP/2 to `out`, as a header block. `edit` is applied as [`Request::forward`] does,
    /// but a `set` of `host` is left to the caller.
    pub(crate) fn encode(&self, edit: &RequestEdit<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.begin(out);
        encoder.field(b":method", self.method().as_bytes(), false, out);
        let authority = edit.host.unwrap_or(self.authority());
        if self.form() != Form::Authority {
            let scheme = if self.version() == Version::Http2 { self.fields().text(self.scheme) } else { "http" };
            encoder.field(b":scheme", scheme.as_bytes(), false, out);
            self.encode_path(&edit.target, encoder, out);
        }
        if !authority.is_empty() {
            encoder.field(b":authority", authority.as_bytes(), false, out);
        }
        let mut drop = NOT_IN_HTTP2 | Kind::Load.bit();
        if edit.strip {
            drop |= Kind::Mesh.bit();
        }
        if self.version() == Version::Http10 {
            drop |= Kind::Expect.bit();
        }
        let nominates = self.steering().nominates;
        Filter { fields: self.fields(), drop, nominates, edits: edit.edits }.encode(encoder, out);
        if self.accepts_trailers() {
            encoder.field(b"te", b"trailers", false, out);
        }
        encode_additions(edit.edits, edit.add, encoder, out);
    }

    fn encode_path(&self, target: &Target<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let sent = self.path_and_query();
        let path = match target {
            Target::Path(path) => path,
            Target::Origin | Target::AsSent if sent.first() == Some(&b'/') => {
                return encoder.field(b":path", sent, false, out);
            }
            Target::Origin | Target::AsSent => self.path(),
        };
        match self.query() {
            None => encoder.field(b":path", path.as_bytes(), false, out),
            Some(query) => encoder.field(b":path", format!("{path}?{query}").as_bytes(), false, out),
        }
    }

    /// Appends a head that came over HTTP/2 as an HTTP/1.1 head. The body keeps the framing of [`Request::framing`].
    #[inline(never)]
    pub(super) fn write_http1(&self, edit: &RequestEdit<'_>, out: &mut Vec<u8>) {
        out.reserve(self.fields().raw().len() + 256);
        let authority = self.authority();
        out.extend_from_slice(self.method().as_bytes());
        out.push(b' ');
        match (&edit.target, self.query()) {
            _ if self.form() == Form::Authority => out.extend_from_slice(authority.as_bytes()),
            (Target::Path(path), None) => out.extend_from_slice(path.as_bytes()),
            (Target::Path(path), Some(query)) => put(out, format_args!("{path}?{query}")),
            (Target::AsSent, _) if self.form() == Form::Origin => {
                put(out, format_args!("{}://{authority}{}", self.fields().text(self.scheme), self.target()));
            }
            (Target::Origin | Target::AsSent, _) => out.extend_from_slice(self.target().as_bytes()),
        }
        let set = additions(edit.edits).filter(|(name, _)| name.eq_ignore_ascii_case("host")).last();
        let host = edit.host.or(set.map(|(_, value)| value)).unwrap_or(authority);
        put(out, format_args!(" HTTP/1.1\r\nhost: {host}\r\n"));
        let mut drop = NOT_IN_HTTP2 | Kind::Load.bit() | Kind::ContentLength.bit();
        if edit.strip {
            drop |= Kind::Mesh.bit();
        }
        if self.framing() != Framing::Chunked {
            drop |= Kind::Trailer.bit();
        }
        Filter { fields: self.fields(), drop, nominates: false, edits: edit.edits }.write_http1(out);
        if self.accepts_trailers() {
            out.extend_from_slice(b"te: trailers\r\nconnection: TE\r\n");
        }
        write_framing(self.framing(), out);
        write_additions(edit.edits, edit.add, out);
        out.extend_from_slice(b"\r\n");
    }
}

impl Response {
    /// Appends the head as it is forwarded over HTTP/2 to `out`, as a header block. `edit` is applied as [`Response::forward`] does.
    pub(crate) fn encode(&self, edit: &ResponseEdit<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.begin(out);
        encoder.status(self.status(), out);
        let mut drop = NOT_IN_HTTP2 | Kind::Load.bit();
        if edit.strip {
            drop |= Kind::Mesh.bit();
        }
        if self.status() < 200 || self.status() == 204 || self.framing() == Framing::Tunnel {
            drop |= Kind::ContentLength.bit();
        }
        let nominates = self.steering().nominates;
        Filter { fields: self.fields(), drop, nominates, edits: edit.edits }.encode(encoder, out);
        encode_additions(edit.edits, edit.add, encoder, out);
    }

    /// Appends a head that came over HTTP/2 as an HTTP/1.1 head.
    #[inline(never)]
    pub(super) fn write_http1(&self, edit: &ResponseEdit<'_>, out: &mut Vec<u8>) {
        out.reserve(self.fields().raw().len() + 256);
        let status = self.status();
        write_status_line(status, out);
        // Of HEAD and 304 the length says what GET would have brought.
        let keep_length = edit.framing == Framing::None && status >= 200 && status != 204;
        let mut drop = NOT_IN_HTTP2 | Kind::Load.bit();
        if !keep_length {
            drop |= Kind::ContentLength.bit();
        }
        if edit.strip {
            drop |= Kind::Mesh.bit();
        }
        if edit.framing != Framing::Chunked {
            drop |= Kind::Trailer.bit();
        }
        Filter { fields: self.fields(), drop, nominates: false, edits: edit.edits }.write_http1(out);
        write_framing(edit.framing, out);
        match edit.connection {
            Connection::Default => {}
            Connection::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
            Connection::Close => out.extend_from_slice(b"connection: close\r\n"),
        }
        write_additions(edit.edits, edit.add, out);
        out.extend_from_slice(b"\r\n");
    }
}

impl Fields {
    /// Appends trailers as a header block, without those that would frame or steer a message and without `heddle-*`.
    pub(crate) fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.begin_trailers(out);
        Filter { fields: self, drop: !TRAILING, nominates: false, edits: &[] }.encode(encoder, out);
    }
}

impl Filter<'_> {
    /// Appends the fields that stay to a header block.
    fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        for field in self.fields.list().iter().filter(|field| !self.drops(field)) {
            encoder.field(self.fields.name(field), self.fields.value(field), field.secret, out);
        }
    }

    /// Appends the field lines that stay of a head that came over HTTP/2. Cookies become one field (RFC 9113, 8.2.3).
    fn write_http1(mut self, out: &mut Vec<u8>) {
        let cookies = || self.fields.of_kind(Kind::Cookie).filter(|field| !self.drops(field));
        if self.fields.has(Kind::Cookie.bit()) && cookies().count() > 1 {
            let mut separator: &[u8] = b"cookie: ";
            for cookie in cookies() {
                out.extend_from_slice(separator);
                out.extend_from_slice(self.fields.value(cookie));
                separator = b"; ";
            }
            out.extend_from_slice(b"\r\n");
            self.drop |= Kind::Cookie.bit();
        }
        self.copy(self.fields.lines_at(), None, out);
    }
}

fn encode_additions(
    edits: &[&engine::edit::HeaderEdits],
    add: &[(&str, &[u8])],
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
    for (name, value) in additions(edits).filter(|(name, _)| !Kind::of(name.as_bytes()).is_steering()) {
        encoder.field(name.as_bytes(), value.as_bytes(), false, out);
    }
    for (name, value) in add {
        // The load differs in every answer: it would push what is of use out of the table.
        let changing = Kind::of(name.as_bytes()) == Kind::Load;
        encoder.field(name.as_bytes(), value, changing, out);
    }
}

fn write_framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Length(length) => put(out, format_args!("content-length: {length}\r\n")),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose | Framing::Tunnel => {}
    }
}

#[cfg(test)]
mod tests;
