//! Request targets and authorities (RFC 9112, section 3.2).

use std::net::Ipv6Addr;

use super::Problem;
use super::fields::{Span, bad};

/// The form of a request target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://authority/path?query`
    Absolute,
    /// `host:port`, of CONNECT alone.
    Authority,
    /// `*`, of OPTIONS alone.
    Asterisk,
}

/// A target taken apart; spans count from the start of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) form: Form,
    /// Empty unless absolute or authority form.
    pub(super) authority: Span,
    /// Without query; empty where absolute form has none.
    pub(super) path: Span,
    /// Without `?`.
    pub(super) query: Option<Span>,
}

/// Takes `target` apart. `http` and `https` are the schemes that absolute form may have.
pub(super) fn parse(method: &str, target: &str) -> Result<Parts, Problem> {
    let bytes = target.as_bytes();
    // Nothing before the path of any form may hold either, so the first question mark begins the query.
    let special = memchr::memchr2(b'?', b'#', bytes);
    if special.is_some_and(|at| bytes[at] == b'#' || memchr::memchr(b'#', &bytes[at..]).is_some()) {
        return Err(bad("a fragment in the request target"));
    }
    let path_and_query = |start: usize| match special {
        Some(at) => (Span::new(start, at), Some(Span::new(at + 1, bytes.len()))),
        None => (Span::new(start, bytes.len()), None),
    };
    let connect = method == "CONNECT";
    if bytes.first() == Some(&b'/') && !connect {
        let (path, query) = path_and_query(0);
        return Ok(Parts { form: Form::Origin, authority: Span::default(), path, query });
    }
    let whole = Span::new(0, bytes.len());
    if connect {
        // The port is not optional: there is no scheme to take it from (RFC 9110, 9.3.6).
        return match authority(bytes)? {
            Some(port) if port != 0 => {
                Ok(Parts { form: Form::Authority, authority: whole, path: Span::default(), query: None })
            }
            _ => Err(bad("CONNECT needs host:port")),
        };
    }
    if target == "*" {
        if method != "OPTIONS" {
            return Err(bad("the target * is for OPTIONS alone"));
        }
        return Ok(Parts { form: Form::Asterisk, authority: Span::default(), path: whole, query: None });
    }
    let start = ["http://", "https://"]
        .iter()
        .find(|scheme| bytes.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes())))
        .ok_or(bad("invalid request target"))?
        .len();
    let end = memchr::memchr2(b'/', b'?', &bytes[start..]).map_or(bytes.len(), |at| start + at);
    if start == end {
        return Err(bad("no authority in the request target"));
    }
    authority(&bytes[start..end])?;
    let (path, query) = path_and_query(end);
    Ok(Parts { form: Form::Absolute, authority: Span::new(start, end), path, query })
}

/// The bytes that a host name may hold, as a table: every request's host is checked.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// Checks `host` or `host:port` and returns the port. Stricter than RFC 3986: letters, digits, `-`, `.`, `_` and `~` of names, and
/// IPv6 addresses in brackets; no percent-encoding, no user information, no zone.
pub(super) fn authority(value: &[u8]) -> Result<Option<u16>, Problem> {
    const INVALID: Problem = bad("invalid host");
    let (host, port) = if value.first() == Some(&b'[') {
        let end = memchr::memchr(b']', value).ok_or(INVALID)?;
        let address = std::str::from_utf8(&value[1..end]).map_err(|_| INVALID)?;
        address.parse::<Ipv6Addr>().map_err(|_| INVALID)?;
        (&value[..=end], &value[end + 1..])
    } else {
        // What is behind the name is a port, or refused as none.
        value.split_at(value.iter().position(|&byte| !IN_NAME[byte as usize]).unwrap_or(value.len()))
    };
    if port.is_empty() {
        return Ok(None);
    }
    let digits = port.strip_prefix(b":").ok_or(INVALID)?;
    if host.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    if digits.is_empty() {
        return Ok(None);
    }
    let port = digits.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    u16::try_from(port).map(Some).map_err(|_| INVALID)
}

#[cfg(test)]
mod tests;
