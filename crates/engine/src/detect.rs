//! What the first bytes of a connection are.

/// What they look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// An HTTP/1 request line.
    Http1,
    /// The HTTP/2 preface (RFC 9113, 3.4).
    Http2,
    /// A TLS ClientHello record.
    Tls,
    /// Something else.
    Opaque,
    /// Not enough bytes yet.
    More,
}

/// The most bytes that [`detect`] ever needs.
pub const PEEK_LIMIT: usize = 64;

/// Judges the first bytes of a connection. Pure: the same bytes give the same answer, and a longer prefix never changes an
/// answer other than [`Detected::More`].
pub fn detect(_bytes: &[u8]) -> Detected {
    todo!()
}
