//! HTTP/2 (RFC 9113): frames and header compression, bytes in and bytes out, no sockets.

pub(crate) mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod hpack;
