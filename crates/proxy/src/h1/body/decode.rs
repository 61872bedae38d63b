//! Finds where a body ends, and its content on the way.

use std::ops::Range;

use engine::Reason;

use crate::h1::fields::{MAX_FIELDS, MAX_HEAD, Scan, bad, refused};
use crate::h1::{Fields, Framing, Problem};

/// Longest line that begins a chunk, extensions and line end included. Extensions that anyone uses are short.
const SIZE_LINE_BYTES: usize = 256;

/// How far the framing of the chunks of one body may outgrow what such chunks need (16 bytes each and twice their content), so that a
/// sender cannot make every byte cost a long line.
const EXCESS_BYTES: usize = 16 * 1024;

const TRAILERS_TOO_LARGE: Problem = Problem { reason: Reason::HeadTooLarge, what: "the trailers are too large" };

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes of a body of known length are to come.
    Length(u64),
    /// A chunk's size line is to come.
    Size,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// The line end after a chunk's content is to come.
    ChunkEnd,
    /// The trailer section is to come.
    Trailers,
    UntilClose,
    Ended,
}

/// Finds content and end of a body. Never copies content.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    excess: usize,
    trailer_bytes: usize,
    scan: Scan,
    trailers: Option<Box<Fields>>,
}

impl Decoder {
    /// For a body of `framing`, with trailers of at most `trailer_bytes`. After a head with [`Framing::Tunnel`] everything up to
    /// the end of the connection is content.
    pub(crate) fn new(framing: Framing, trailer_bytes: usize) -> Decoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose | Framing::Tunnel => State::UntilClose,
        };
        let trailer_bytes = trailer_bytes.min(MAX_HEAD);
        Decoder { state, excess: 0, trailer_bytes, scan: Scan::default(), trailers: None }
    }

    /// How many bytes of a body of known length are to come; `None` for other framings.
    pub(crate) fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// So many bytes of a body of known length, no more than are to come, have gone another way.
    pub(crate) fn skip(&mut self, n: u64) {
        if let State::Length(left) = self.state {
            debug_assert!(n <= left);
            self.state = if n < left { State::Length(left - n) } else { State::Ended };
        }
    }

    /// The next part of `input`, which starts where the last part ended.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<Part, Problem> {
        self.decode_from(input, 0)
    }

    fn decode_from(&mut self, input: &[u8], mut at: usize) -> Result<Part, Problem> {
        loop {
            match self.state {
                State::Ended => return Ok(Part::End(at)),
                State::UntilClose if input.is_empty() => return Ok(Part::More(0)),
                State::UntilClose => return Ok(Part::Data(0..input.len())),
                State::Length(left) | State::Chunk(left) => {
                    let take = fit(left, input.len() - at);
                    if take == 0 {
                        return Ok(Part::More(at));
                    }
                    self.state = match (self.state, left - take as u64) {
                        (State::Length(_), 0) => State::Ended,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::Chunk(left),
                    };
                    return Ok(Part::Data(at..at + take));
                }
                State::Size => {
                    let Some((size, used)) = size_line(&input[at..])? else {
                        return Ok(Part::More(at));
                    };
                    self.begin_chunk(size, used)?;
                    at += used;
                }
                State::ChunkEnd => {
                    if !chunk_end(&input[at..])? {
                        return Ok(Part::More(at));
                    }
                    self.state = State::Size;
                    at += 2;
                }
                State::Trailers => {
                    let Some(used) = self.read_trailers(&input[at..])? else {
                        return Ok(Part::More(at));
                    };
                    self.state = State::Ended;
                    at += used;
                }
            }
        }
    }

    /// Like [`Decoder::decode`], but `Data` is a run of bytes as they came, chunk framing included and validated: for forwarding
    /// chunks to an HTTP/1 peer unchanged. The last chunk and the trailers are not part of any run; write them with
    /// [`super::Encoder::finish`].
    pub(crate) fn pass(&mut self, input: &[u8]) -> Result<Part, Problem> {
        let mut at = 0;
        loop {
            match self.state {
                State::Chunk(left) => {
                    let take = fit(left, input.len() - at);
                    at += take;
                    self.state = if take as u64 == left { State::ChunkEnd } else { State::Chunk(left - take as u64) };
                    if at == input.len() {
                        break;
                    }
                }
                State::Size => match size_line(&input[at..])? {
                    // The run ends before the last chunk, which the next call comes upon again.
                    None => break,
                    Some((0, _)) if at > 0 => break,
                    Some((size, used)) => {
                        self.begin_chunk(size, used)?;
                        at += used;
                    }
                },
                State::ChunkEnd => {
                    if !chunk_end(&input[at..])? {
                        break;
                    }
                    self.state = State::Size;
                    at += 2;
                }
                State::Trailers | State::Length(_) | State::UntilClose | State::Ended => {
                    return self.decode_from(input, at);
                }
            }
        }
        Ok(if at == 0 { Part::More(0) } else { Part::Data(0..at) })
    }

    fn begin_chunk(&mut self, size: u64, line: usize) -> Result<(), Problem> {
        let allowed = usize::try_from(size.saturating_mul(2).saturating_add(16)).unwrap_or(usize::MAX);
        self.excess = (self.excess + line).saturating_sub(allowed);
        if self.excess > EXCESS_BYTES {
            return Err(bad("the chunks are mostly framing"));
        }
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
        Ok(())
    }

    /// How long the trailer section is, once it has all arrived.
    fn read_trailers(&mut self, input: &[u8]) -> Result<Option<usize>, Problem> {
        if input.starts_with(b"\r\n") {
            return Ok(Some(2));
        }
        let ended = self.scan.finds_end(input)?;
        if !ended {
            return if input.len() > self.trailer_bytes { Err(TRAILERS_TOO_LARGE) } else { Ok(None) };
        }
        let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
        match httparse::parse_headers(input, &mut slots) {
            Ok(httparse::Status::Complete((used, found))) => {
                if used > self.trailer_bytes {
                    return Err(TRAILERS_TOO_LARGE);
                }
                self.trailers.get_or_insert_default().fill(&input[..used], 0, found)?;
                Ok(Some(used))
            }
            Ok(httparse::Status::Partial) => Err(bad("malformed trailers")),
            Err(error) => Err(refused(error)),
        }
    }

    /// The connection ended. An error unless the body may end so or has ended.
    pub(crate) fn eof(&mut self) -> Result<(), Problem> {
        match self.state {
            State::UntilClose | State::Ended => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(bad("the connection ended within the body")),
        }
    }

    /// Whether the end has been seen.
    pub(crate) fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The trailers, once the end has been seen and if there are any.
    pub(crate) fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_deref()
    }
}

/// As much of `left` as there is room for.
fn fit(left: u64, room: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(room)
}

/// Reads a chunk's size line (RFC 9112, 7.1): its size and its own length, once it is whole. Refused: more than 16 digits, whitespace
/// after the size, control characters in extensions, a line end other than CR LF.
fn size_line(input: &[u8]) -> Result<Option<(u64, usize)>, Problem> {
    const INVALID: Problem = bad("invalid chunk size");
    let digits = input.iter().take(17).take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > 16 || (digits == 0 && !input.is_empty()) {
        return Err(INVALID);
    }
    let size = input[..digits].iter().fold(0u64, |sum, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        sum << 4 | u64::from(value)
    });
    match input[digits..] {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((size, digits + 2))),
        [b';', ref rest @ ..] => {
            let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
            let length = rest.iter().take(SIZE_LINE_BYTES).take_while(|byte| is_text(byte)).count();
            let line = digits + 1 + length + 2;
            if line > SIZE_LINE_BYTES {
                return Err(bad("the chunk extensions are too long"));
            }
            match rest[length..] {
                [] | [b'\r'] => Ok(None),
                [b'\r', b'\n', ..] => Ok(Some((size, line))),
                _ => Err(bad("invalid chunk extension")),
            }
        }
        _ => Err(INVALID),
    }
}

/// Whether `input` begins with the line end that follows a chunk's content; false while it is not whole.
fn chunk_end(input: &[u8]) -> Result<bool, Problem> {
    match input {
        [] | [b'\r'] => Ok(false),
        [b'\r', b'\n', ..] => Ok(true),
        _ => Err(bad("a chunk is longer than its size")),
    }
}
