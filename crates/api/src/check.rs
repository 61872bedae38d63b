//! What can only be seen when all objects are looked at together.

use crate::diagnostic::Diagnostic;
use crate::object::Object;

/// Two objects of one name, references to what does not exist or may not be referred to (errors), services that select
/// nothing (warnings). The objects stay usable: a reference that dangles makes its share of requests fail.
pub fn check<'a>(_objects: impl IntoIterator<Item = &'a Object>) -> Vec<Diagnostic> {
    todo!()
}
