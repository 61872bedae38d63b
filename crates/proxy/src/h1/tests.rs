//! What the codec's parts must do together, for any bytes.

use engine::RequestHead as _;
use proptest::prelude::*;

use super::*;
use crate::settings::Limits;

mod reference;

/// Field lines of every sort: mostly good ones, since one bad one spoils a head.
fn line() -> impl Strategy<Value = String> {
    let good = prop::sample::select(vec![
        "Content-Length: 5",
        "content-length:0",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding:\tChunked ",
        "Connection: close",
        "Connection: keep-alive, x-hop",
        "Connection: content-length, Upgrade",
        "Upgrade: websocket",
        "TE: trailers, gzip",
        "Trailer: x",
        "Keep-Alive: timeout=5",
        "Expect: 100-continue",
        "X-Hop: 1",
        "heddle-x: 3",
        "Proxy-Authorization: Basic x",
    ]);
    let bad = prop::sample::select(vec![
        "host: b:80",
        "Content-Length: 5, 5",
        "content-length: +5",
        "Content-Length : 5",
        "Transfer-Encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        " folded",
    ]);
    let free = "[A-Za-z-]{1,12}:[ \t]{0,2}[!-~]{0,20}[ ]{0,2}";
    prop_oneof![10 => good.prop_map(str::to_owned), 1 => bad.prop_map(str::to_owned), 10 => free]
}

fn head(start: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let host = prop::sample::select(vec!["Host: a\r\n", "Host: a\r\n", "Host: a\r\n", "hOST:a:80 \r\n", ""]);
    (start, host, prop::collection::vec(line(), 0..8)).prop_map(|(start, host, lines)| {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!("{start}\r\n{host}{lines}\r\n").into_bytes()
    })
}

fn request_head() -> impl Strategy<Value = Vec<u8>> {
    let methods = prop::sample::select(vec!["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "PURGE"]);
    let targets = prop::sample::select(vec!["/", "/a/b?c=d", "*", "http://a/x", "http://b?y", "a:443", "/é", "x"]);
    let versions = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0"]);
    head((methods, targets, versions).prop_map(|(method, target, version)| format!("{method} {target} {version}")))
}

fn response_head() -> impl Strategy<Value = Vec<u8>> {
    let versions = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    let statuses = prop::sample::select(vec![100, 101, 103, 200, 204, 206, 304, 404, 500]);
    let start = (versions, statuses, prop::sample::select(vec!["", " ", " OK"]));
    head(start.prop_map(|(version, status, reason)| format!("{version} {status}{reason}")))
}

fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), prop::sample::select(vec!["", ";a", ";a=\"b\""]));
    let trailers = prop::collection::vec(line(), 0..3);
    (prop::collection::vec(chunk, 0..6), trailers, "[a-z]{0,3}").prop_map(|(chunks, trailers, rest)| {
        let mut out = Vec::new();
        for (content, extension) in chunks {
            out.extend_from_slice(format!("{:x}{extension}\r\n", content.len()).as_bytes());
            out.extend_from_slice(&content);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n");
        trailers.iter().for_each(|line| out.extend_from_slice(format!("{line}\r\n").as_bytes()));
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(rest.as_bytes());
        out
    })
}

/// A few bytes of a valid message replaced, removed or added: near misses find more than noise does.
fn mutated(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n :,\t\0;0".to_vec())];
    let change = (any::<prop::sample::Index>(), 0..3u8, byte);
    (valid, prop::collection::vec(change, 0..4)).prop_map(|(mut bytes, changes)| {
        for (index, how, byte) in changes {
            let at = index.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_keep_the_laws(data in mutated(request_head())) {
        fuzzing::request(&data);
    }

    #[test]
    fn responses_keep_the_laws(asked in 0..8u8, data in mutated(response_head())) {
        fuzzing::response(&[&[asked], data.as_slice()].concat());
    }

    #[test]
    fn chunks_keep_the_laws(data in mutated(chunks())) {
        fuzzing::chunked(&data);
    }

    #[test]
    fn requests_are_framed_as_the_reference_says(data in mutated(request_head())) {
        let mut head = Request::default();
        let ours = head.parse(&data, &Limits::default()).map(|taken| taken.map(|length| (length, head.framing())));
        match (ours, reference::request(&data)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
            // A head that is not whole may be refused early or later.
            (Err(_), Err(_) | Ok(None)) => {}
            (ours, theirs) => prop_assert!(false, "{:?} {:?}", ours, theirs),
        }
    }

    #[test]
    fn responses_are_framed_as_the_reference_says(asked in 0..8u8, data in mutated(response_head())) {
        let asked = Asked { head: asked & 1 != 0, connect: asked & 2 != 0, upgrade: asked & 4 != 0 };
        let mut head = Response::default();
        let ours = head.parse(&data, asked, &Limits::default()).map(|taken| taken.map(|length| (length, head.framing())));
        match (ours, reference::response(&data, asked)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
            (Err(_), Err(_) | Ok(None)) => {}
            (ours, theirs) => prop_assert!(false, "{:?} {:?}", ours, theirs),
        }
    }

    #[test]
    fn end_to_end_fields_survive_in_order_and_case(data in request_head()) {
        let mut head = Request::default();
        if !matches!(head.parse(&data, &Limits::default()), Ok(Some(_))) {
            return Ok(());
        }
        let mut out = Vec::new();
        head.forward(&RequestEdit::default(), &mut out);
        let mut next = Request::default();
        prop_assert_eq!(next.parse(&out, &Limits::default()), Ok(Some(out.len())));
        // The host may change with an absolute target and is compared apart.
        prop_assert_eq!(next.authority(), head.authority());
        prop_assert_eq!(reference::end_to_end(head.fields()), reference::end_to_end(next.fields()));
    }

    #[test]
    fn content_survives_encoding(content in prop::collection::vec(any::<u8>(), 0..2000), sizes in prop::collection::vec(1..300usize, 1..8)) {
        let mut encoder = Encoder::new(Framing::Chunked);
        let (mut out, mut rest) = (Vec::new(), content.as_slice());
        for size in sizes.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*size));
            encoder.data(now, &mut out).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        encoder.finish(None, &mut out).unwrap();
        fuzzing::chunked(&out);
        let mut decoder = Decoder::new(Framing::Chunked, 0);
        let (mut decoded, mut at) = (Vec::new(), 0);
        while let Part::Data(range) = decoder.decode(&out[at..]).unwrap() {
            decoded.extend_from_slice(&out[at + range.start..at + range.end]);
            at += range.end;
        }
        prop_assert!(decoder.ended());
        prop_assert_eq!(decoded, content);
    }
}
