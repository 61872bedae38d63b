//! What is wrong with a resource, and the small checks that many fields share.

use engine::Protocol;
use proto::mesh;
use regex::{Regex, RegexBuilder};

/// A wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Its path in the message: `http[0].matches[1].path.regex`.
    pub(crate) field: String,
    /// Cause and way out, in a sentence.
    pub(crate) reason: String,
}

pub(crate) type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    pub(crate) fn new<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T> {
        Err(Problem { field: field.into(), reason: reason.into() })
    }
}

/// Prefixes the field of an error.
pub(crate) trait Within {
    /// The same error as seen from the message around it.
    fn within(self, outer: impl FnOnce() -> String) -> Self;
}

impl<T> Within for Result<T> {
    fn within(self, outer: impl FnOnce() -> String) -> Self {
        self.map_err(|mut problem| {
            let outer = outer();
            let separator = if problem.field.is_empty() || problem.field.starts_with('[') { "" } else { "." };
            problem.field = format!("{outer}{separator}{}", problem.field);
            problem
        })
    }
}

/// A port from 1 to 65535.
pub(crate) fn port(field: &str, value: u32) -> Result<u16> {
    match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Problem::new(field, format!("{value} is not a port; 1 to 65535 are")),
    }
}

/// A protocol of the wire's enumeration.
pub(crate) fn protocol(field: &str, value: i32) -> Result<Protocol> {
    match mesh::Protocol::try_from(value) {
        Ok(mesh::Protocol::Auto) => Ok(Protocol::Auto),
        Ok(mesh::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(mesh::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(mesh::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(mesh::Protocol::Tls) => Ok(Protocol::Tls),
        Err(_) => Problem::new(field, format!("this version knows no protocol of number {value}")),
    }
}

/// The longest expression, and the most memory one may compile to. Gateway API sets no limit; Envoy's default refuses what
/// RE2 calls a program size over 100. Expressions are linear in the input, so only memory needs a bound.
const REGEX_LENGTH: usize = 4096;
const REGEX_BYTES: usize = 256 * 1024;

/// Compiles an expression that must match the whole text.
pub(crate) fn regex(field: &str, pattern: &str) -> Result<Regex> {
    if pattern.len() > REGEX_LENGTH {
        return Problem::new(field, format!("the expression has {} bytes; {REGEX_LENGTH} are allowed", pattern.len()));
    }
    let compile = |pattern: &str| {
        RegexBuilder::new(pattern).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).nest_limit(64).build()
    };
    // Alone first: `a)(b` must not become valid by being anchored.
    match compile(pattern).and_then(|_| compile(&format!("^(?:{pattern})$"))) {
        Ok(regex) => Ok(regex),
        Err(regex::Error::CompiledTooBig(limit)) => {
            Problem::new(field, format!("the expression needs more than {limit} bytes when compiled; make it simpler"))
        }
        Err(error) => Problem::new(field, format!("not a regular expression: {error}")),
    }
}

/// An HTTP token (RFC 9110, 5.6.2), in lower case.
pub(crate) fn header_name(field: &str, name: &str) -> Result<Box<str>> {
    token(field, name).map(|()| name.to_ascii_lowercase().into())
}

/// An HTTP token (RFC 9110, 5.6.2).
pub(crate) fn token(field: &str, text: &str) -> Result<()> {
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.bytes().all(tchar) {
        true => Ok(()),
        false => Problem::new(field, format!("`{}` is not an HTTP token", text.escape_debug())),
    }
}

/// A header's value (RFC 9110, 5.5).
pub(crate) fn header_value(field: &str, value: &str) -> Result<Box<str>> {
    let bad = |b: u8| (b < 0x20 && b != b'\t') || b == 0x7f;
    match value.bytes().any(bad) || value.trim() != value {
        true => Problem::new(field, format!("`{}` cannot be a header's value", value.escape_debug())),
        false => Ok(value.into()),
    }
}

/// A host name: letters, digits, `-`, `_` and dots.
pub(crate) fn host(field: &str, name: &str) -> Result<Box<str>> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(name.to_ascii_lowercase().into()),
        false => Problem::new(field, format!("`{}` is not a host name", name.escape_debug())),
    }
}

/// `namespace/name`.
pub(crate) fn pair<'a>(field: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace, name))
        }
        _ => Problem::new(field, format!("`{}` is not `namespace/name`", text.escape_debug())),
    }
}
