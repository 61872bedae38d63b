//! Frames of a link.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | kind |
//! | 3 | length of what follows the header, big endian |
//! | 4 | stream, big endian |

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 8;

/// Most bytes behind a header, so that a whole frame fits one TLS record (RFC 8446, 5.1).
pub(super) const LARGEST: usize = 16 * 1024 - HEADER;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Bytes of a stream.
    Data,
    /// The sender's half of a stream is over.
    End,
    /// The stream is cut off, both halves.
    Reset,
    /// The sender has taken so many bytes of the stream (32 bits, big endian), which may be sent again.
    Window,
    /// The sender takes no further streams; `stream` is zero.
    Leave,
    /// A client's new stream.
    Open,
    /// The server does not take a stream that was just opened: nothing of it was looked at.
    Refuse,
}

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) length: usize,
    pub(super) stream: u32,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        // `length` is at most LARGEST, which has 14 bits.
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [self.kind as u8, a, b, c, s, t, u, v]
    }

    /// The header that `bytes` begin with; `None`: more is needed.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
        let Some(&[kind, a, b, c, s, t, u, v]) = bytes.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let (kind, fits) = match kind {
            0 => (Kind::Data, length > 0 && length <= LARGEST),
            1 => (Kind::End, length == 0),
            2 => (Kind::Reset, length == 0),
            3 => (Kind::Window, length == 4),
            4 => (Kind::Leave, length == 0),
            5 => (Kind::Open, length == 0),
            6 => (Kind::Refuse, length == 0),
            _ => return Err(Malformed("a frame of an unknown kind")),
        };
        if !fits {
            return Err(Malformed("a frame of a wrong length"));
        }
        Ok(Some(Header { kind, length, stream: u32::from_be_bytes([s, t, u, v]) }))
    }
}

/// The peer does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);
