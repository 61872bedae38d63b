//! From the text of one file to its objects.

use crate::diagnostic::Diagnostic;
use crate::object::{Object, ObjectKey};

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The objects that can be used, in the order written.
    pub objects: Vec<Object>,
    /// Objects that were recognised but cannot be used.
    pub failed: Vec<Failed>,
    /// Some document could not even be recognised, so an object that is missing here may be one of those.
    pub incomplete: bool,
    /// Everything there is to say about it, in the order of the lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// An object that cannot be used.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which one.
    pub key: ObjectKey,
    /// What stands for it where no earlier good version is held: an authorization policy that denies its targets (fail
    /// closed). `None` for other kinds.
    pub fallback: Option<Object>,
}

/// Reads every document of a YAML or JSON file. `file` is the name that diagnostics show.
pub fn parse(_file: &str, _bytes: &[u8]) -> Parsed {
    todo!()
}
