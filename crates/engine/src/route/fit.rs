//! Whether a request fits one match.

use smallvec::SmallVec;

use super::{Match, Misfit, PathMatch, ValueMatch, ValueRule};
use crate::RequestHead;

impl Match {
    /// The match of a rule that names none.
    pub(super) fn everything() -> Match {
        Match { path: PathMatch::Prefix("".into()), method: None, headers: Vec::new(), query: Vec::new(), grpc: false }
    }

    /// All parts where the path is a regular expression; other paths are found by the table.
    pub(super) fn path_and_rest(&self, path: &str, head: &impl RequestHead) -> bool {
        matches!(&self.path, PathMatch::Regex(regex) if regex.is_match(path)) && self.rest(head)
    }

    /// All parts but the path.
    #[inline]
    pub(super) fn rest(&self, head: &impl RequestHead) -> bool {
        self.misfit(head).is_none()
    }

    /// The first part but the path that `head` does not fit.
    #[inline]
    pub(super) fn misfit(&self, head: &impl RequestHead) -> Option<Misfit<'_>> {
        if let Some(method) = self.method.as_deref().filter(|method| *method != head.method()) {
            return Some(Misfit::Method(method));
        }
        if self.grpc && !grpc(head) {
            return Some(Misfit::Grpc);
        }
        if let Some(header) = self.headers.iter().find(|header| !header.fits_header(head)) {
            return Some(Misfit::Header(header));
        }
        let mut query = self.query.iter();
        query.find(|parameter| !parameter.fits_query(head.query().unwrap_or(""))).map(Misfit::Query)
    }
}

/// `application/grpc`, alone or with a subtype such as `+proto` or a parameter. Media types ignore case.
fn grpc(head: &impl RequestHead) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    head.header("content-type").is_some_and(|value| {
        value.get(..TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
            && matches!(value.get(TYPE.len()), None | Some(b'+' | b';'))
    })
}

impl ValueMatch {
    /// Whether the header's first value is as it must be; a header that is absent is not.
    pub(crate) fn fits_header(&self, head: &impl RequestHead) -> bool {
        head.header(&self.name).is_some_and(|value| self.value.fits(value))
    }

    /// The same where a caller must not get by with a second value: `any` of them, or all and at least one. What no regular
    /// expression can look at, since it is not text, counts as found where any would do.
    pub(crate) fn fits_headers(&self, head: &impl RequestHead, any: bool) -> bool {
        let (mut seen, mut fitting) = (0, 0);
        head.each_value(&self.name, &mut |value| {
            let opaque = matches!(self.value, ValueRule::Regex(_)) && std::str::from_utf8(value).is_err();
            seen += 1;
            fitting += usize::from(self.value.fits(value) || (any && opaque));
        });
        fitting > 0 && (any || fitting == seen)
    }

    /// Whether the first parameter of the name is as it must be.
    fn fits_query(&self, query: &str) -> bool {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut named = pairs.filter(|(name, _)| decoded(name).eq(self.name.bytes()));
        let Some((_, value)) = named.next() else { return false };
        match &self.value {
            ValueRule::Exact(exact) => decoded(value).eq(exact.bytes()),
            ValueRule::Regex(_) if !value.contains(['%', '+']) => self.value.fits(value.as_bytes()),
            ValueRule::Regex(_) => self.value.fits(&decoded(value).collect::<SmallVec<[u8; 128]>>()),
        }
    }
}

impl ValueRule {
    fn fits(&self, value: &[u8]) -> bool {
        match self {
            ValueRule::Exact(exact) => exact.as_bytes() == value,
            ValueRule::Regex(regex) => std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
        }
    }
}

/// The bytes of a query's name or value with `+` as space and `%41` as `A`; a `%` that no two digits follow stands for
/// itself (WHATWG URL, `application/x-www-form-urlencoded`).
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (byte, after) = match *rest {
            [] => return None,
            [b'%', high, low, ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [b'+', ..] => (b' ', 1),
            [byte, ..] => (byte, 1),
        };
        rest = &rest[after..];
        Some(byte)
    })
}

/// The value of a hexadecimal digit.
pub(crate) fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}
