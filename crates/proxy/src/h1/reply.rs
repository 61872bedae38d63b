//! Answers that the mesh makes up itself.

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

/// Appends `reply` to `out`.
pub(crate) fn write_reply(_reply: &Reply<'_>, _out: &mut Vec<u8>) {
    todo!()
}
