//! What a route changes in a request or a response: headers, host, path.

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
