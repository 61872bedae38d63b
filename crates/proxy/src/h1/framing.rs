//! How long a message's body is (RFC 9112, section 6).

use super::Version;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Up to the end of the connection; responses only.
    UntilClose,
    /// The connection changes its protocol after this head: CONNECT answered with 2xx, or 101.
    Tunnel,
}

impl Framing {
    /// The framing to use towards a client of `version`: HTTP/1.0 knows no chunks, so the end of the connection ends them.
    pub(crate) fn towards(self, version: Version) -> Framing {
        match (self, version) {
            (Framing::Chunked, Version::Http10) => Framing::UntilClose,
            (framing, _) => framing,
        }
    }
}
