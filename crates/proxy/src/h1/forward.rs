//! Writing a received head onwards: hop-by-hop fields go, route edits apply, everything else is copied in runs.
//!
//! No `Via` is added (RFC 9110, 7.6.3 asks for one): other meshes and the usual reverse proxies add none either, and servers behave
//! differently when they see it (nginx stops compressing).

use engine::edit::HeaderEdits;

use super::fields::{Field, Kind, members};
use super::framing::Steering;
use super::target::Form;
use super::{Fields, Framing, Request, Response, Version};

/// What becomes of the request target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Target<'a> {
    /// Origin form: absolute form loses scheme and authority (RFC 9112, 3.2.1); asterisk and authority form stay.
    #[default]
    Origin,
    /// Exactly as it came, for another forward proxy.
    AsSent,
    /// This path (it begins with `/` and holds no space or control character), and the query that came.
    Path(&'a str),
}

/// How a request is changed on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestEdit<'a> {
    /// The target.
    pub(crate) target: Target<'a>,
    /// The new `Host`; absent: the request's own authority.
    pub(crate) host: Option<&'a str>,
    /// Route edits, in order of application. A `set` of `host` is the new host unless `host` is given; other fields that frame
    /// the message or steer the connection (`connection`, `content-length`, `transfer-encoding`, …) are never edited.
    pub(crate) edits: &'a [&'a HeaderEdits],
    /// Fields of the mesh's own, written last; same-named ones of the request stay (but `heddle-*` go, if `strip`).
    pub(crate) add: &'a [(&'a str, &'a [u8])],
    /// Remove `heddle-*`; `heddle-load` never passes on.
    pub(crate) strip: bool,
    /// Keep `Upgrade` and say `Connection: upgrade`, if [`Request::upgrade`] finds one.
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
    /// Route edits, in order of application; see [`RequestEdit::edits`].
    pub(crate) edits: &'a [&'a HeaderEdits],
    /// Fields of the mesh's own, written last.
    pub(crate) add: &'a [(&'a str, &'a [u8])],
    /// Remove `heddle-*`; `heddle-load` never passes on.
    pub(crate) strip: bool,
    /// Keep `Upgrade` and say `Connection: upgrade` (a 101 that is forwarded).
    pub(crate) upgrade: bool,
    /// Keep `Proxy-Authenticate` (only from another forward proxy).
    pub(crate) proxy_credentials: bool,
}

/// Kinds that never pass on unless something keeps them.
const HOP_BY_HOP: u16 = Kind::Connection.bit()
    | Kind::KeepAlive.bit()
    | Kind::ProxyConnection.bit()
    | Kind::Te.bit()
    | Kind::Upgrade.bit()
    | Kind::ProxyCredentials.bit();

/// Which fields of a head stay.
pub(super) struct Filter<'a> {
    pub(super) fields: &'a Fields,
    /// Kinds that go.
    pub(super) drop: u16,
    pub(super) nominates: bool,
    pub(super) edits: &'a [&'a HeaderEdits],
}

impl Filter<'_> {
    /// Whether the whole head can be copied as it is.
    fn passes_all(&self) -> bool {
        !self.fields.has(self.drop) && !self.nominates && self.edits.is_empty()
    }

    #[inline(always)]
    pub(super) fn drops(&self, field: &Field) -> bool {
        field.kind.bit() & self.drop != 0
            || (self.nominates || !self.edits.is_empty()) && self.drops_name(self.fields.name(field), field.kind)
    }

    fn drops_name(&self, name: &[u8], kind: Kind) -> bool {
        self.nominates && self.fields.nominated(name) || !kind.is_steering() && replaced(self.edits, name)
    }

    /// Appends the field lines that stay, in runs. `host` replaces the value of `Host`.
    pub(super) fn copy(&self, start: usize, host: Option<&[u8]>, out: &mut Vec<u8>) {
        let raw = self.fields.raw();
        let end = raw.len() - 2;
        if self.passes_all() && host.is_none() {
            out.extend_from_slice(&raw[start..end]);
            return;
        }
        let mut run = start;
        let mut line = self.fields.list().first().map_or(end, |field| field.name.start as usize);
        for field in self.fields.list() {
            if self.drops(field) {
                out.extend_from_slice(&raw[run..line]);
                run = field.end as usize;
            } else if let (Kind::Host, Some(host)) = (field.kind, host) {
                out.extend_from_slice(&raw[run..field.name.end as usize]);
                out.extend_from_slice(b": ");
                out.extend_from_slice(host);
                run = field.end as usize - 2;
            }
            line = field.end as usize;
        }
        out.extend_from_slice(&raw[run..end]);
    }
}

/// Whether an edit among `edits` removes what came before it under `name`.
fn replaced(edits: &[&HeaderEdits], name: &[u8]) -> bool {
    let is = |other: &str| other.as_bytes().eq_ignore_ascii_case(name);
    edits.iter().any(|edit| edit.set.iter().any(|(other, _)| is(other)) || edit.remove.iter().any(|other| is(other)))
}

/// What `edits` add, as far as no later one takes it away again.
pub(super) fn additions<'a>(edits: &'a [&'a HeaderEdits]) -> impl Iterator<Item = (&'a str, &'a str)> {
    edits.iter().enumerate().flat_map(move |(index, edit)| {
        edit.set.iter().chain(&edit.add).map(|(name, value)| (&**name, &**value)).filter(move |(name, _)| {
            !edit.remove.iter().any(|other| other.eq_ignore_ascii_case(name))
                && !replaced(&edits[index + 1..], name.as_bytes())
        })
    })
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_additions(edits: &[&HeaderEdits], add: &[(&str, &[u8])], out: &mut Vec<u8>) {
    if !edits.is_empty() {
        for (name, value) in additions(edits).filter(|(name, _)| !Kind::of(name.as_bytes()).is_steering()) {
            write_field(name.as_bytes(), value.as_bytes(), out);
        }
    }
    for (name, value) in add {
        write_field(name.as_bytes(), value, out);
    }
}

impl Request {
    /// Appends the head as it is forwarded to `out`, as HTTP/1.1. The body keeps the framing of [`Request::framing`].
    pub(crate) fn forward(&self, edit: &RequestEdit<'_>, out: &mut Vec<u8>) {
        if self.version() == Version::Http2 {
            return self.write_http1(edit, out);
        }
        let raw = self.fields().raw();
        out.reserve(raw.len() + 256);
        let start = self.write_line(&edit.target, out);
        let upgrade = edit.upgrade && self.upgrade().is_some();
        let mut drop = HOP_BY_HOP | Kind::Load.bit();
        if edit.strip {
            drop |= Kind::Mesh.bit();
        }
        if edit.proxy_credentials {
            drop &= !Kind::ProxyCredentials.bit();
        }
        if upgrade {
            drop &= !Kind::Upgrade.bit();
        }
        if self.framing() != Framing::Chunked {
            drop |= Kind::Trailer.bit();
        }
        if self.version() == Version::Http10 {
            drop |= Kind::Expect.bit();
        }
        let set = additions(edit.edits).filter(|(name, _)| name.eq_ignore_ascii_case("host")).last();
        let own = self.host_differs().then(|| engine::RequestHead::authority(self));
        let host = edit.host.or(set.map(|(_, value)| value)).or(own).map(str::as_bytes);
        let Steering { nominates, .. } = self.steering();
        let filter = Filter { fields: self.fields(), drop, nominates, edits: edit.edits };
        if !self.fields().has(Kind::Host.bit()) {
            write_field(b"Host", host.unwrap_or_default(), out);
        }
        filter.copy(start, host, out);
        let trailers = self.accepts_trailers();
        match (upgrade, trailers) {
            (true, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE, upgrade\r\n"),
            (true, false) => out.extend_from_slice(b"Connection: upgrade\r\n"),
            (false, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
            (false, false) => {}
        }
        write_additions(edit.edits, edit.add, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the request line if it changes. Returns where the bytes to copy begin.
    fn write_line(&self, target: &Target<'_>, out: &mut Vec<u8>) -> usize {
        let changed = match target {
            Target::AsSent => false,
            Target::Origin => self.form() == Form::Absolute,
            Target::Path(_) => self.form() != Form::Authority,
        };
        if !changed && self.version() == Version::Http11 {
            return if self.fields().has(Kind::Host.bit()) { 0 } else { self.write_line_as_is(out) };
        }
        out.extend_from_slice(engine::RequestHead::method(self).as_bytes());
        out.push(b' ');
        match target {
            Target::Path(path) if changed => {
                out.extend_from_slice(path.as_bytes());
                if let Some(query) = engine::RequestHead::query(self) {
                    out.push(b'?');
                    out.extend_from_slice(query.as_bytes());
                }
            }
            _ if changed => {
                let rest = self.path_and_query();
                if rest.first() != Some(&b'/') {
                    // `http://host` and `http://host?query`; or `*`, which has no query.
                    out.extend_from_slice(engine::RequestHead::path(self).as_bytes());
                }
                out.extend_from_slice(rest);
            }
            _ => out.extend_from_slice(self.target().as_bytes()),
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.fields_at()
    }

    fn write_line_as_is(&self, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(&self.fields().raw()[..self.fields_at()]);
        self.fields_at()
    }

    /// Whether the client takes trailers (`TE: trailers`, RFC 9110, 10.1.4), the one thing of `TE` that can pass a proxy.
    pub(super) fn accepts_trailers(&self) -> bool {
        let listed = |field| members(self.fields().value(field)).any(|member| member.eq_ignore_ascii_case(b"trailers"));
        self.fields().has(Kind::Te.bit()) && self.fields().of_kind(Kind::Te).any(listed)
    }
}

impl Response {
    /// Appends the head as it is forwarded to `out`, as HTTP/1.1.
    pub(crate) fn forward(&self, edit: &ResponseEdit<'_>, out: &mut Vec<u8>) {
        if self.version() == Version::Http2 {
            return self.write_http1(edit, out);
        }
        out.reserve(self.fields().raw().len() + 256);
        let start = self.write_line(out);
        let mut drop = HOP_BY_HOP | Kind::Load.bit();
        if edit.strip {
            drop |= Kind::Mesh.bit();
        }
        if edit.proxy_credentials {
            drop &= !Kind::ProxyCredentials.bit();
        }
        if edit.upgrade {
            drop &= !Kind::Upgrade.bit();
        }
        if edit.framing != Framing::Chunked {
            drop |= Kind::TransferEncoding.bit() | Kind::Trailer.bit();
        }
        // 1xx, 204 and an accepted CONNECT may have no Content-Length (RFC 9110, 8.6).
        let no_length = self.status() < 200 || self.status() == 204;
        if no_length || matches!(edit.framing, Framing::Chunked | Framing::UntilClose | Framing::Tunnel) {
            drop |= Kind::ContentLength.bit();
        }
        let Steering { nominates, .. } = self.steering();
        Filter { fields: self.fields(), drop, nominates, edits: edit.edits }.copy(start, None, out);
        if edit.framing == Framing::Chunked && !self.fields().has(Kind::TransferEncoding.bit()) {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        match edit.connection {
            _ if edit.upgrade && self.status() == 101 => out.extend_from_slice(b"Connection: upgrade\r\n"),
            Connection::Default => {}
            Connection::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            Connection::Close => out.extend_from_slice(b"Connection: close\r\n"),
        }
        write_additions(edit.edits, edit.add, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the status line if it changes: our version, and the space after the code that some servers leave out. Returns where
    /// the bytes to copy begin.
    fn write_line(&self, out: &mut Vec<u8>) -> usize {
        let line = self.status_line();
        let (code, reason) = line["HTTP/1.1 ".len()..].split_at(3);
        if self.version() == Version::Http11 && reason.first() == Some(&b' ') {
            return 0;
        }
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(code);
        if reason.first() != Some(&b' ') {
            out.push(b' ');
        }
        out.extend_from_slice(reason);
        line.len()
    }
}

#[cfg(test)]
mod tests;
