//! Heads of both versions of HTTP, and the HTTP/1 codec: bytes in, bytes out, no sockets.
//!
//! A head is kept as it was received, in one buffer, with its fields as ranges into that buffer. Forwarding a head copies the
//! runs of bytes between the fields that change, so names, case, order and exact values survive. Plain heads are found in one pass (`plain.rs`), the
//! grammar of all others comes from `httparse`;
//! what makes a message unambiguous (RFC 9112, sections 2 to 7) is decided here, and every ambiguity is refused.
//!
//! A head that comes over HTTP/2 is kept in the same form (`receive.rs`), so that routing, edits and forwarding know one kind of
//! head, and each is written as HTTP/1 (`forward.rs`, `bridge.rs`) or as a header block (`bridge.rs`).

mod body;
mod bridge;
mod fields;
mod forward;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod plain;
mod receive;
mod reply;
mod request;
mod response;
mod target;

pub(crate) use body::{Decoder, Encoder, Part};
pub(crate) use fields::Fields;
pub(crate) use forward::{Connection, RequestEdit, ResponseEdit, Target};
pub(crate) use framing::Framing;
#[cfg(any(test, feature = "fuzzing"))]
use receive::Block;
pub(crate) use receive::Receipt;
pub(crate) use reply::{Reply, write_reply};
pub(crate) use request::Request;
pub(crate) use response::{Asked, Response};
pub(crate) use target::Form;

use engine::Reason;

/// Why a message was refused. The connection that it came on cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Problem {
    /// What to answer, count and log. Of a response always [`Reason::UpstreamProtocol`].
    pub(crate) reason: Reason,
    /// What is wrong, for people.
    pub(crate) what: &'static str,
}

/// The version that a message was sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

#[cfg(test)]
mod tests;
