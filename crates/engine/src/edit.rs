//! What a route changes in a request or a response: headers, host, path.

use crate::RequestHead;
use crate::request::host;

/// Header edits, in Gateway API's order: set, add, remove. Names are lower case and valid, values valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace every value of the name, or add it.
    pub set: Vec<(Box<str>, Box<str>)>,
    /// Add one more value.
    pub add: Vec<(Box<str>, Box<str>)>,
    /// Remove every value of the name.
    pub remove: Vec<Box<str>>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// A change of path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// Replace the whole path.
    Full(Box<str>),
    /// Replace the matched prefix.
    Prefix(Box<str>),
}

/// A URL rewrite before forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new host, replacing the authority.
    pub hostname: Option<Box<str>>,
    /// The new path.
    pub path: Option<PathEdit>,
}

/// A redirect instead of forwarding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; absent: as the request came.
    pub scheme: Option<Box<str>>,
    /// Absent: the request's own host.
    pub hostname: Option<Box<str>>,
    /// Absent: the well-known port of `scheme` if that is given, else the port the request came to.
    pub port: Option<u16>,
    /// Absent: the request's own path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl PathEdit {
    /// The new path of a request for `path`, of which the rule's prefix matched the first `prefix` bytes
    /// ([`crate::route::Found::prefix`]). As Gateway API's table for `ReplacePrefixMatch` says, a slash at the end of the
    /// replacement does not double the one that follows, and nothing left is `/`. A path that does not begin with a slash
    /// (the `*` of OPTIONS) stays as it is.
    pub fn apply(&self, path: &str, prefix: usize) -> String {
        match self {
            _ if !path.starts_with('/') => path.to_owned(),
            PathEdit::Full(full) => rooted(full, ""),
            PathEdit::Prefix(new) => match path.get(prefix..).unwrap_or_default() {
                "" => rooted(new, ""),
                rest => rooted(new.strip_suffix('/').unwrap_or(new), rest),
            },
        }
    }
}

fn rooted(start: &str, rest: &str) -> String {
    let slash = if start.is_empty() && rest.starts_with('/') || start.starts_with('/') { "" } else { "/" };
    [slash, start, rest].concat()
}

impl Redirect {
    /// The `Location` of the answer to `head`, which came by `scheme` to the listener's `port`, and of whose path the
    /// rule's prefix matched `prefix` bytes. The query is kept unless the new path has its own. A port that the scheme
    /// implies is left out (Gateway API).
    pub fn location(&self, head: &impl RequestHead, scheme: &str, port: u16, prefix: usize) -> String {
        let port = match (self.port, self.scheme.as_deref()) {
            (Some(port), _) => port,
            (None, Some("https")) => 443,
            (None, Some(_)) => 80,
            (None, None) => port,
        };
        let scheme = self.scheme.as_deref().unwrap_or(scheme);
        let host = self.hostname.as_deref().unwrap_or_else(|| host(head.authority()));
        let mut location = format!("{scheme}://{host}");
        if !matches!((scheme, port), ("http", 80) | ("https", 443)) {
            location.push(':');
            location.push_str(&port.to_string());
        }
        match &self.path {
            Some(edit) => location.push_str(&edit.apply(head.path(), prefix)),
            None if head.path().starts_with('/') => location.push_str(head.path()),
            None => location.push('/'),
        }
        // The authority holds no question mark, so one that is there belongs to the new path.
        if let Some(query) = head.query().filter(|_| self.path.is_none() || !location.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

#[cfg(test)]
mod tests;
