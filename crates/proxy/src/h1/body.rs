//! Bodies: finding their end, and writing them.

use std::ops::Range;

use super::{Fields, Framing, Problem};

/// What the next bytes of a body are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Content at this range of the input. Everything up to its end is used up; decode the rest next.
    Data(Range<usize>),
    /// So many bytes are used up; keep the others and call again when more have arrived.
    More(usize),
    /// The body has ended; so many bytes are used up. What follows is the next message.
    End(usize),
}

/// Finds content and end of a body. Never copies content.
#[derive(Debug)]
pub(crate) struct Decoder {}

impl Decoder {
    /// For a body of `framing`, with trailers of at most `trailer_bytes`.
    pub(crate) fn new(_framing: Framing, _trailer_bytes: usize) -> Decoder {
        todo!()
    }

    /// The next part of `input`, which starts where the last part ended.
    pub(crate) fn decode(&mut self, _input: &[u8]) -> Result<Part, Problem> {
        todo!()
    }

    /// Like [`Decoder::decode`], but `Data` is a run of bytes as they came, chunk framing included and validated: for forwarding
    /// chunks to an HTTP/1 peer unchanged. The last chunk and the trailers are not part of any run; write them with
    /// [`Encoder::finish`].
    pub(crate) fn pass(&mut self, _input: &[u8]) -> Result<Part, Problem> {
        todo!()
    }

    /// The connection ended. An error unless the body may end so or has ended.
    pub(crate) fn eof(&mut self) -> Result<(), Problem> {
        todo!()
    }

    /// Whether the end has been seen.
    pub(crate) fn ended(&self) -> bool {
        todo!()
    }

    /// The trailers, once the end has been seen.
    pub(crate) fn trailers(&self) -> Option<&Fields> {
        todo!()
    }
}

/// Writes a body.
#[derive(Debug)]
pub(crate) struct Encoder {}

impl Encoder {
    /// For a body of `framing`.
    pub(crate) fn new(_framing: Framing) -> Encoder {
        todo!()
    }

    /// Appends `data` with its framing. An error when it is more than was announced.
    pub(crate) fn data(&mut self, _data: &[u8], _out: &mut Vec<u8>) -> Result<(), Problem> {
        todo!()
    }

    /// Ends the body: the last chunk and `trailers`, where the framing has them. An error when less was written than announced.
    pub(crate) fn finish(
        &mut self,
        _trailers: Option<&Fields>,
        _out: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        todo!()
    }
}
