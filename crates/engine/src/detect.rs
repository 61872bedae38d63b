//! What the first bytes of a connection are.

/// What they look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 preface (RFC 9113, 3.4).
    Http2,
    /// A TLS ClientHello record.
    Tls,
    /// Something else.
    Opaque,
    /// Not enough bytes yet.
    More,
}

/// The most bytes that [`detect`] ever needs.
pub const PEEK_LIMIT: usize = 64;

/// The longest method that counts as one; the longest registered has 17 letters (UPDATEREDIRECTREF).
const METHOD_LIMIT: usize = 24;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Judges the first bytes of a connection. Pure: the same bytes give the same answer, and a longer prefix never changes an
/// answer other than [`Detected::More`]. With [`PEEK_LIMIT`] bytes the answer is never `More`.
///
/// HTTP/1 is a method (RFC 9110, 5.6.2), a space and the start of a request target in one of the four forms of RFC 9112,
/// 3.2. A word and a space alone are not enough: `EHLO there` (SMTP), `get key` (memcached) and `CONNECT {` (NATS) begin
/// like that too.
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes.first() {
        None => Detected::More,
        Some(0x16) => tls(bytes),
        _ => match preface(bytes) {
            Some(decided) => decided,
            None => http1(bytes),
        },
    }
}

/// The HTTP/2 preface begins like an HTTP/1 request, so it is looked for first. `None`: it is not the preface.
fn preface(bytes: &[u8]) -> Option<Detected> {
    let seen = bytes.len().min(PREFACE.len());
    if bytes[..seen] != PREFACE[..seen] {
        None
    } else if seen == PREFACE.len() {
        Some(Detected::Http2)
    } else {
        Some(Detected::More)
    }
}

/// A handshake record (RFC 8446, 5.1) of version 3.0 to 3.4 whose first message is a ClientHello.
fn tls(bytes: &[u8]) -> Detected {
    let fits = |index: usize, fit: fn(u8) -> bool| bytes.get(index).is_none_or(|&byte| fit(byte));
    if !fits(1, |b| b == 3) || !fits(2, |b| b <= 4) || !fits(5, |b| b == 1) {
        Detected::Opaque
    } else if bytes.len() < 6 {
        Detected::More
    } else {
        Detected::Tls
    }
}

fn http1(bytes: &[u8]) -> Detected {
    let bytes = &bytes[..bytes.len().min(PEEK_LIMIT)];
    let Some(end) = bytes.iter().position(|&byte| !token(byte)) else {
        return if bytes.len() > METHOD_LIMIT { Detected::Opaque } else { Detected::More };
    };
    if end == 0 || end > METHOD_LIMIT || bytes[end] != b' ' {
        return Detected::Opaque;
    }
    let (method, target) = (&bytes[..end], &bytes[end + 1..]);
    if method == b"CONNECT" { authority_form(target) } else { other_forms(target) }
}

fn other_forms(target: &[u8]) -> Detected {
    match target {
        [] | [b'*'] => Detected::More,
        [b'/', ..] | [b'*', b' ', ..] => Detected::Http1,
        _ => ["http://", "https://"]
            .iter()
            .map(|scheme| {
                let seen = target.len().min(scheme.len());
                if !target[..seen].eq_ignore_ascii_case(&scheme.as_bytes()[..seen]) {
                    Detected::Opaque
                } else if seen < scheme.len() {
                    Detected::More
                } else {
                    Detected::Http1
                }
            })
            .find(|&detected| detected != Detected::Opaque)
            .unwrap_or(Detected::Opaque),
    }
}

/// A host, a colon and a digit; or more of a host than is looked at.
fn authority_form(target: &[u8]) -> Detected {
    const ROOM: usize = PEEK_LIMIT - "CONNECT ".len();
    let bracketed = target.first() == Some(&b'[');
    let host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    let literal = |byte: u8| byte.is_ascii_hexdigit() || b":.[%".contains(&byte);
    let end = target.iter().position(|&byte| if bracketed { !literal(byte) } else { !host(byte) });
    let Some(mut end) = end else {
        return if target.len() >= ROOM { Detected::Http1 } else { Detected::More };
    };
    if bracketed {
        if target[end] != b']' {
            return Detected::Opaque;
        }
        end += 1;
    }
    match target[end..] {
        [] | [b':'] if target.len() >= ROOM => Detected::Http1,
        [] => Detected::More,
        [b':'] if end > 0 => Detected::More,
        [b':', digit, ..] if end > 0 && digit.is_ascii_digit() => Detected::Http1,
        _ => Detected::Opaque,
    }
}

/// `tchar` of RFC 9110, 5.6.2.
fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
