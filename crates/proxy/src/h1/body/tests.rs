use super::*;
use crate::h1::{Fields, Framing, Problem};

/// Content, trailers, and what is left of the input; `None` when the end was not found.
fn decode(framing: Framing, input: &str) -> Result<Option<(String, String, String)>, Problem> {
    let mut decoder = Decoder::new(framing, 100);
    let (mut content, mut at) = (String::new(), 0);
    loop {
        match decoder.decode(&input.as_bytes()[at..])? {
            Part::Data(range) => {
                content.push_str(&input[at + range.start..at + range.end]);
                at += range.end;
            }
            Part::More(_) => return Ok(None),
            Part::End(used) => {
                assert!(decoder.ended());
                let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
                let trailers = decoder.trailers().into_iter().flat_map(Fields::iter);
                let trailers = trailers.map(|(name, value)| format!("{}={};", text(name), text(value))).collect();
                return Ok(Some((content, trailers, input[at + used..].to_owned())));
            }
        }
    }
}

fn chunked(input: &str) -> Result<Option<(String, String, String)>, Problem> {
    decode(Framing::Chunked, input)
}

#[test]
fn lengths_end_where_they_say() {
    let full = |c: &str, r: &str| Ok(Some((c.to_owned(), String::new(), r.to_owned())));
    assert_eq!(decode(Framing::None, "GET"), full("", "GET"));
    assert_eq!(decode(Framing::Length(0), "GET"), full("", "GET"));
    assert_eq!(decode(Framing::Length(5), "helloGET"), full("hello", "GET"));
    assert_eq!(decode(Framing::Length(5), "hell"), Ok(None));
    assert_eq!(decode(Framing::UntilClose, "hello"), Ok(None));
}

#[test]
fn the_end_of_the_connection_ends_some_bodies() {
    for (framing, ends) in [
        (Framing::None, true),
        (Framing::UntilClose, true),
        (Framing::Tunnel, true),
        (Framing::Length(1), false),
        (Framing::Chunked, false),
    ] {
        assert_eq!(Decoder::new(framing, 0).eof().is_ok(), ends, "{framing:?}");
    }
}

#[test]
fn chunks_are_read() {
    let full = |c: &str, t: &str, r: &str| Ok(Some((c.to_owned(), t.to_owned(), r.to_owned())));
    assert_eq!(chunked("0\r\n\r\nGET"), full("", "", "GET"));
    assert_eq!(chunked("5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n"), full("hello!", "", ""));
    assert_eq!(chunked("00000000000000Aa;x=\"y;\t\"\r\n"), Ok(None));
    assert_eq!(chunked("000A\r\n0123456789\r\n000\r\n\r\n"), full("0123456789", "", ""));
    assert_eq!(chunked("0\r\nX-A: 1\r\nx-b:2 \r\n\r\n."), full("", "X-A=1;x-b=2;", "."));
    assert_eq!(chunked("0;last\r\n\r\n"), full("", "", ""));
    for partial in [
        "",
        "5",
        "5\r",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r",
        "5\r\nhello\r\n",
        "0\r\n",
        "0\r\n\r",
        "0\r\nA: b\r\n",
        "5;a",
    ] {
        assert_eq!(chunked(partial), Ok(None), "{partial:?}");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let long = format!("5;{}\r\n", "a".repeat(300));
    let table = [
        "x",
        "\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1\t;a\r\n",
        "1\n",
        "1\rx",
        "1;a\n",
        "1;a\rb\r\n",
        "1;a\0\r\n",
        "1;\u{e9}\r\n",
        "00000000000000001\r\n",
        "11111111111111111\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\rb",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\n\n",
        &long,
    ];
    for input in table {
        assert!(chunked(input).is_err(), "{input:?}");
    }
    assert!(chunked(&format!("0\r\nA: {}\r\n\r\n", "b".repeat(100))).is_err());
    assert!(chunked(&format!("0\r\nA: {}", "b".repeat(100))).is_err());
}

#[test]
fn a_body_of_framing_alone_is_refused() {
    let wordy = format!("1;{}\r\nx\r\n", "a".repeat(200));
    assert!(chunked(&wordy.repeat(1000)).is_err());
    assert_eq!(chunked(&"1\r\nx\r\n".repeat(5000)), Ok(None));
    let fair = format!("64;{}\r\n{}\r\n", "a".repeat(200), "x".repeat(100));
    assert_eq!(chunked(&fair.repeat(1000)), Ok(None));
}

#[test]
fn passing_keeps_the_bytes_of_chunks() {
    let input = b"5;a=b\r\nhello\r\n01\r\n!\r\n0;z\r\nX-A: 1\r\nContent-Length: 7\r\nheddle-x: 1\r\n\r\nGET";
    let mut decoder = Decoder::new(Framing::Chunked, 100);
    let run = b"5;a=b\r\nhello\r\n01\r\n!\r\n".len();
    assert_eq!(decoder.pass(input), Ok(Part::Data(0..run)));
    assert_eq!(decoder.pass(&input[run..]), Ok(Part::End(input.len() - run - 3)));
    let mut out = Vec::new();
    Encoder::new(Framing::Chunked).finish(decoder.trailers(), &mut out).unwrap();
    assert_eq!(out, b"0\r\nX-A: 1\r\n\r\n");
    let mut decoder = Decoder::new(Framing::Chunked, 100);
    assert_eq!(decoder.pass(b"5\r\nhel"), Ok(Part::Data(0..6)));
    assert_eq!(decoder.pass(b"lo\r\n0"), Ok(Part::Data(0..4)));
    assert_eq!(decoder.pass(b"0"), Ok(Part::More(0)));
    assert_eq!(decoder.pass(b"0\r"), Ok(Part::More(0)));
    assert_eq!(decoder.pass(b"0\r\n\r"), Ok(Part::More(3)));
    assert_eq!(decoder.pass(b"\r\n"), Ok(Part::End(2)));
    let mut plain = Decoder::new(Framing::Length(3), 0);
    assert_eq!(plain.pass(b"abcd"), Ok(Part::Data(0..3)));
    assert_eq!(plain.pass(b"d"), Ok(Part::End(0)));
}

#[test]
fn encoders_keep_their_promise() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Framing::Chunked);
    encoder.data(b"", &mut out).unwrap();
    encoder.data(&[b'a'; 26], &mut out).unwrap();
    encoder.finish(None, &mut out).unwrap();
    assert_eq!(out, [b"1a\r\n".as_slice(), &[b'a'; 26], b"\r\n0\r\n\r\n"].concat());

    let mut out = Vec::new();
    let mut encoder = Encoder::new(Framing::Length(3));
    encoder.data(b"ab", &mut out).unwrap();
    assert!(encoder.finish(None, &mut out).is_err());
    assert!(encoder.data(b"cd", &mut out).is_err());
    encoder.data(b"c", &mut out).unwrap();
    encoder.finish(None, &mut out).unwrap();
    assert_eq!(out, b"abc");
    assert!(Encoder::new(Framing::None).data(b"a", &mut out).is_err());

    let mut out = Vec::new();
    let mut encoder = Encoder::new(Framing::UntilClose);
    encoder.data(b"ab", &mut out).unwrap();
    encoder.finish(None, &mut out).unwrap();
    assert_eq!(out, b"ab");
}

#[test]
fn prefixes_suit_vectored_writes() {
    let mut encoder = Encoder::new(Framing::Chunked);
    for length in [1, 15, 16, 255, 4096, usize::MAX] {
        let prefix = encoder.prefix(length).unwrap();
        assert_eq!(prefix.before(), format!("{length:x}\r\n").as_bytes());
        assert_eq!(prefix.after(), b"\r\n");
    }
    let plain = Encoder::new(Framing::Length(9)).prefix(9).unwrap();
    assert_eq!((plain.before(), plain.after()), (b"".as_slice(), b"".as_slice()));
}
