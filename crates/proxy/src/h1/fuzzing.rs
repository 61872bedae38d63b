//! Laws of the codec that must hold for any bytes. The fuzz targets, the property tests and the replay of the corpus call these;
//! each panics when a law is broken.

use super::{
    Asked, Block, Connection, Decoder, Encoder, Fields, Framing, Part, Problem, Receipt, Request, RequestEdit,
    Response, ResponseEdit,
};
use crate::h2::hpack;
use crate::settings::Limits;

/// Small enough that a fuzzer reaches them.
fn limits() -> Limits {
    Limits { head_bytes: 4096, headers: 32, target_bytes: 512, ..Limits::default() }
}

/// For heads that we wrote: forwarding may add a field or two.
fn wide() -> Limits {
    Limits { head_bytes: 16384, headers: 64, target_bytes: 1024, ..Limits::default() }
}

type Parsed = Result<Option<usize>, Problem>;

/// Offers growing prefixes of `data`, as a slow sender would, until there is an answer.
fn in_pieces(data: &[u8], mut parse: impl FnMut(&[u8]) -> Parsed) -> Parsed {
    for end in (1..data.len()).filter(|end| *end < 300 || end % 97 == 0).chain([data.len()]) {
        let answer = parse(&data[..end]);
        if answer != Ok(None) {
            return answer;
        }
    }
    Ok(None)
}

/// The same bytes are taken, refused or waited for however they arrive. Only a refusal may come late: once the head is whole.
fn agree(data: &[u8], whole: Parsed, pieces: Parsed) {
    match (whole, pieces) {
        (Err(_), Err(_)) => {}
        (Err(_), Ok(None)) => {
            assert!(memchr::memmem::find(data, b"\r\n\r\n").is_none(), "whole {whole:?}, in pieces waiting")
        }
        _ => assert_eq!(whole, pieces),
    }
}

fn list(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// What the quick way takes, the other takes as well and finds the same in it.
fn ways_agree_on_requests(data: &[u8]) {
    let (mut quick, mut slow) = (Request::default(), Request::default());
    if let Some(line) = quick.read_plain(data, &limits()) {
        assert_eq!(slow.read_any(data, &limits()), Ok(Some(line)));
        assert_eq!(quick.fields(), slow.fields());
    }
}

/// The same of responses.
fn ways_agree_on_responses(data: &[u8]) {
    let (mut quick, mut slow) = (Response::default(), Response::default());
    if let Some(length) = quick.read_plain(data, &limits()) {
        assert_eq!(slow.read_any(data, &limits()), Ok(Some(length)));
        let line = |head: &Response| (head.version(), head.status(), head.status_line().to_vec());
        assert_eq!((line(&quick), quick.fields()), (line(&slow), slow.fields()));
    }
}

/// Parsing does not depend on how bytes are split, and what is forwarded reads as what was received.
pub fn request(data: &[u8]) {
    use engine::RequestHead as _;
    ways_agree_on_requests(data);
    let mut head = Request::default();
    let whole = head.parse(data, &limits());
    let mut slow = Request::default();
    agree(data, whole, in_pieces(data, |input| slow.parse(input, &limits())));
    let Ok(Some(length)) = whole else { return };
    assert!(length <= data.len());
    assert_eq!(list(head.fields()), list(slow.fields()));

    let mut out = Vec::new();
    head.forward(&RequestEdit { strip: true, ..RequestEdit::default() }, &mut out);
    let mut next = Request::default();
    assert_eq!(next.parse(&out, &wide()), Ok(Some(out.len())), "{}", out.escape_ascii());
    assert_eq!(next.framing(), head.framing());
    assert_eq!(next.method(), head.method());
    assert_eq!((next.path(), next.query()), (head.path(), head.query()));
    assert_eq!(next.authority(), head.authority());
    let mut again = Vec::new();
    next.forward(&RequestEdit { strip: true, ..RequestEdit::default() }, &mut again);
    assert_eq!(out.escape_ascii().to_string(), again.escape_ascii().to_string());

    // By way of HTTP/2. CONNECT is not served there.
    let ended = matches!(head.framing(), Framing::None | Framing::Length(0));
    let (mut encoder, mut out) = (hpack::Encoder::new(), Vec::new());
    head.encode(&RequestEdit { strip: true, ..RequestEdit::default() }, &mut encoder, &mut out);
    let mut over = Request::default();
    if head.method() != "CONNECT" && over.receive(&wide(), ended, |block| unpack(&out, block)) == Ok(Receipt::Whole) {
        assert_eq!((over.method(), over.path(), over.query()), (head.method(), head.path(), head.query()));
        let mut out = Vec::new();
        over.forward(&RequestEdit { strip: true, ..RequestEdit::default() }, &mut out);
        assert_eq!(next.parse(&out, &wide()), Ok(Some(out.len())), "{}", out.escape_ascii());
        assert_eq!(next.framing(), head.framing());
    }
}

fn unpack(bytes: &[u8], block: &mut Block<'_>) -> Result<(), hpack::Error> {
    hpack::Decoder::new(4096).decode(bytes, &mut |name, value, secret| block.field(name, value, secret))
}

/// The same for responses. The three low bits of the first byte say what was asked.
pub fn response(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let asked = Asked { head: first & 1 != 0, connect: first & 2 != 0, upgrade: first & 4 != 0 };
    ways_agree_on_responses(data);
    let mut head = Response::default();
    let whole = head.parse(data, asked, &limits());
    let mut slow = Response::default();
    agree(data, whole, in_pieces(data, |input| slow.parse(input, asked, &limits())));
    let Ok(Some(length)) = whole else { return };
    assert!(length <= data.len());
    assert_eq!(list(head.fields()), list(slow.fields()));

    let framing = head.framing().towards(super::Version::Http11);
    let edit =
        ResponseEdit { framing, strip: true, upgrade: true, connection: Connection::Close, ..ResponseEdit::default() };
    let mut out = Vec::new();
    head.forward(&edit, &mut out);
    let mut next = Response::default();
    assert_eq!(next.parse(&out, asked, &wide()), Ok(Some(out.len())), "{}", out.escape_ascii());
    assert_eq!(next.framing(), framing);
    assert_eq!(next.status(), head.status());
    let ended = matches!(head.framing(), Framing::None | Framing::Length(0)) && !head.is_interim();
    let (mut encoder, mut out) = (hpack::Encoder::new(), Vec::new());
    head.encode(&ResponseEdit { strip: true, ..ResponseEdit::default() }, &mut encoder, &mut out);
    let mut over = Response::default();
    if over.receive(&wide(), ended, asked.head, |block| unpack(&out, block)) == Ok(Receipt::Whole) {
        assert_eq!(over.status(), head.status());
        let mut out = Vec::new();
        over.forward(&ResponseEdit { framing, strip: true, ..ResponseEdit::default() }, &mut out);
        let read = next.parse(&out, asked, &wide());
        assert_eq!(read, Ok(Some(out.len())), "{}", out.escape_ascii());
        assert_eq!(next.framing(), framing);
    }
}

/// What a body was found to hold: content, trailers, and how much of the input it took.
#[derive(Debug, PartialEq)]
struct Body {
    content: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    used: usize,
}

/// Decodes `data` as it arrives `step` bytes at a time.
fn decode(data: &[u8], step: usize, pass: bool) -> Result<Option<Body>, Problem> {
    let mut decoder = Decoder::new(Framing::Chunked, 1024);
    let (mut content, mut used, mut arrived) = (Vec::new(), 0, step.min(data.len()));
    loop {
        let input = &data[used..arrived];
        match if pass { decoder.pass(input)? } else { decoder.decode(input)? } {
            Part::Data(range) => {
                content.extend_from_slice(&input[range.clone()]);
                used += range.end;
            }
            Part::More(n) => {
                used += n;
                if arrived == data.len() {
                    return Ok(None);
                }
                arrived = data.len().min(arrived + step);
            }
            Part::End(n) => {
                used += n;
                let trailers = decoder.trailers().map(list).unwrap_or_default();
                if pass {
                    Encoder::new(Framing::Chunked).finish(decoder.trailers(), &mut content)?;
                }
                return Ok(Some(Body { content, trailers, used }));
            }
        }
    }
}

/// Chunks are found alike however they arrive; passing them through and encoding them anew both keep content.
pub fn chunked(data: &[u8]) {
    let whole = decode(data, usize::MAX, false);
    for step in [1, 2, 7] {
        let pieces = decode(data, step, false);
        assert_eq!(whole.is_err(), pieces.is_err(), "{whole:?} {pieces:?}");
        if whole.is_ok() {
            assert_eq!(whole, pieces);
        }
    }
    let raw = decode(data, usize::MAX, true);
    let raw_pieces = decode(data, 3, true);
    assert_eq!(whole.is_err(), raw.is_err());
    assert_eq!(whole.is_err(), raw_pieces.is_err());
    let Ok(Some(body)) = whole else { return };
    for passed in [raw, raw_pieces] {
        let passed = passed.ok().flatten().expect("the plain decoder found the end");
        assert_eq!(passed.used, body.used);
        let again = decode(&passed.content, usize::MAX, false).ok().flatten().expect("passed chunks are chunks");
        assert_eq!(again.content, body.content);
        assert_eq!(again.used, passed.content.len());
    }
    let mut encoder = Encoder::new(Framing::Chunked);
    let mut out = Vec::new();
    for piece in body.content.chunks(11) {
        encoder.data(piece, &mut out).expect("chunks are not limited");
    }
    encoder.finish(None, &mut out).expect("chunks are not limited");
    let again = decode(&out, usize::MAX, false).ok().flatten().expect("encoded chunks are chunks");
    assert_eq!(again.content, body.content);
}

/// One round of the codec's benchmark: parses `input` into `head` and appends the forwarded head to `out`. Returns its length.
#[derive(Default)]
pub struct Round(Request, Limits);

impl Round {
    /// Parses `input` and appends what is forwarded to `out`; false when it is refused or not whole.
    pub fn run(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        let parsed = matches!(self.0.parse(input, &self.1), Ok(Some(_)));
        if parsed {
            self.0.forward(&RequestEdit { strip: true, ..RequestEdit::default() }, out);
        }
        parsed
    }
}
