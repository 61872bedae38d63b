//! Answers that the mesh makes up itself.

use std::io::Write as _;

use engine::Reason;

/// An answer of the mesh's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    /// The HTTP status; of most reasons `reason.status()`.
    pub(crate) status: u16,
    /// Sent as `heddle-reason`.
    pub(crate) reason: Reason,
    /// More fields, such as `location`; valid names and values.
    pub(crate) fields: &'a [(&'a str, &'a str)],
    /// Plain text for people; a line end is added.
    pub(crate) text: &'a str,
    /// Say `Connection: close`.
    pub(crate) close: bool,
    /// Answer to HEAD: no body.
    pub(crate) head_only: bool,
}

/// Appends `reply` to `out`: HTTP/1.1, `heddle-reason`, `content-type: text/plain`, `content-length`.
pub(crate) fn write_reply(reply: &Reply<'_>, out: &mut Vec<u8>) {
    write_status_line(reply.status, out);
    put(out, format_args!("heddle-reason: {}\r\ncontent-type: text/plain; charset=utf-8\r\n", reply.reason.code()));
    put(out, format_args!("content-length: {}\r\n", reply.text.len() + 1));
    for (name, value) in reply.fields {
        put(out, format_args!("{name}: {value}\r\n"));
    }
    if reply.close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !reply.head_only {
        put(out, format_args!("{}\n", reply.text));
    }
}

/// Appends a status line with the reason phrase that the registry has for `status`; none where it has none.
pub(super) fn write_status_line(status: u16, out: &mut Vec<u8>) {
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    put(out, format_args!("HTTP/1.1 {status} {}\r\n", phrase.unwrap_or_default()));
}

/// Appends formatted text.
pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests;
