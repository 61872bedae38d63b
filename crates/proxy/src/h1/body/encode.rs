//! Writes bodies.

use engine::Reason;

use crate::h1::fields::TRAILING;
use crate::h1::{Fields, Framing, Problem};

const TOO_LONG: Problem = Problem { reason: Reason::Internal, what: "more content than announced" };
const TOO_SHORT: Problem = Problem { reason: Reason::Internal, what: "less content than announced" };

/// What precedes a piece of content on the wire; nothing unless the body is chunked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Prefix {
    bytes: [u8; 18],
    start: u8,
    end: u8,
}

impl Prefix {
    /// The size line of a chunk of `size` bytes.
    fn chunk(mut size: usize) -> Prefix {
        let mut bytes = [0; 18];
        bytes[16..].copy_from_slice(b"\r\n");
        let mut start = 16;
        loop {
            start -= 1;
            bytes[start] = b"0123456789abcdef"[size & 15];
            size >>= 4;
            if size == 0 {
                break Prefix { bytes, start: start as u8, end: 18 };
            }
        }
    }

    /// The bytes to write before the content.
    pub(crate) fn before(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// The bytes to write after the content.
    pub(crate) fn after(&self) -> &'static [u8] {
        if self.end == 0 { b"" } else { b"\r\n" }
    }
}

/// Writes a body.
#[derive(Debug)]
pub(crate) struct Encoder {
    framing: Framing,
    /// Of [`Framing::Length`]: what is still to be written.
    left: u64,
}

impl Encoder {
    /// For a body of `framing`.
    pub(crate) fn new(framing: Framing) -> Encoder {
        let left = if let Framing::Length(length) = framing { length } else { 0 };
        Encoder { framing, left }
    }

    /// Announces `length` bytes of content, which the caller writes between [`Prefix::before`] and [`Prefix::after`]: for vectored
    /// writes. An error when it is more than the head promised.
    pub(crate) fn prefix(&mut self, length: usize) -> Result<Prefix, Problem> {
        match self.framing {
            Framing::Chunked if length > 0 => return Ok(Prefix::chunk(length)),
            Framing::Chunked | Framing::UntilClose | Framing::Tunnel => {}
            Framing::None | Framing::Length(_) => {
                self.left = self.left.checked_sub(length as u64).ok_or(TOO_LONG)?;
            }
        }
        Ok(Prefix::default())
    }

    /// Appends `data` with its framing. An error when it is more than the head promised.
    pub(crate) fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        let prefix = self.prefix(data.len())?;
        out.reserve(data.len() + 20);
        out.extend_from_slice(prefix.before());
        out.extend_from_slice(data);
        out.extend_from_slice(prefix.after());
        Ok(())
    }

    /// Ends the body: the last chunk and `trailers`, where the framing has them. Trailers that would frame or steer a message, and
    /// `heddle-*`, are left out (RFC 9110, 6.5.1). An error when less was written than the head promised.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), Problem> {
        if self.left > 0 {
            return Err(TOO_SHORT);
        }
        if self.framing != Framing::Chunked {
            return Ok(());
        }
        out.extend_from_slice(b"0\r\n");
        if let Some(trailers) = trailers {
            for field in trailers.list().iter().filter(|field| field.kind.bit() & TRAILING != 0) {
                out.extend_from_slice(&trailers.raw()[field.name.start as usize..field.end as usize]);
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}
