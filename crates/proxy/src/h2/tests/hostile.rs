//! Peers that break the rules, or keep them and mean harm.

use super::*;

/// A server of ours that a client has greeted.
fn greeted() -> End {
    let mut server = End::server();
    let mut hello = PREFACE.to_vec();
    frame::write_settings(&[], &mut hello);
    server.take(&hello).unwrap();
    server.output();
    server
}

/// A client of ours with one request, which a server has greeted.
fn asked(head: bool) -> (End, Stream) {
    let mut client = End::client();
    let mut hello = Vec::new();
    frame::write_settings(&[], &mut hello);
    client.take(&hello).unwrap();
    let stream = client.connection.place().unwrap();
    stream.send_request(true, head, request(&[])).unwrap();
    client.output();
    (client, stream)
}

fn get(stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let block = block(&mut Encoder::new(), &[&GET, more].concat());
    frame(Kind::Headers, flags | flag::END_HEADERS, stream, &block)
}

/// The codes of RST_STREAM for `stream`.
fn resets(bytes: &[u8], stream: u32) -> Vec<Code> {
    let of = |(header, payload): &(Header, Vec<u8>)| {
        (header.kind == Kind::Reset && header.stream == stream).then(|| frame::reset_code(payload))
    };
    frames(bytes).iter().filter_map(of).collect()
}

/// How many times `next` is taken until the connection ends, and with which code.
fn flood(server: &mut End, mut next: impl FnMut(u32) -> Vec<u8>) -> (u32, Code) {
    for n in 0..20_000 {
        if let Err(broken) = server.take(&next(n)) {
            return (n, broken.code);
        }
        server.accepted.clear();
        server.output();
    }
    panic!("there is no limit");
}

#[test]
fn what_breaks_the_connections_rules_ends_it() {
    let window = |stream, n: u32| frame(Kind::WindowUpdate, 0, stream, &n.to_be_bytes());
    let headers = |flags, stream| frame(Kind::Headers, flags, stream, &[0x82]);
    for (what, bytes, code) in [
        ("not first SETTINGS", frame(Kind::Settings, 1, 0, &[]), None),
        ("DATA on 0", frame(Kind::Data, 0, 0, b"x"), Some(Code::ProtocolError)),
        ("DATA on idle", frame(Kind::Data, 0, 1, b"x"), Some(Code::ProtocolError)),
        ("RST_STREAM on idle", frame(Kind::Reset, 0, 1, &[0; 4]), Some(Code::ProtocolError)),
        ("WINDOW_UPDATE on idle", window(1, 1), Some(Code::ProtocolError)),
        ("WINDOW_UPDATE of 0", window(0, 0), Some(Code::ProtocolError)),
        ("WINDOW_UPDATE beyond", window(0, (1 << 31) - 1), Some(Code::FlowControl)),
        ("HEADERS on even", get(2, 0, &[]), Some(Code::ProtocolError)),
        ("PUSH_PROMISE", frame(Kind::Push, 4, 1, &[0; 8]), Some(Code::ProtocolError)),
        ("CONTINUATION alone", frame(Kind::Continuation, 4, 1, &[]), Some(Code::ProtocolError)),
        ("interrupted", [headers(0, 1), frame(Kind::Ping, 0, 0, &[0; 8])].concat(), Some(Code::ProtocolError)),
        ("other stream's", [headers(0, 1), frame(Kind::Continuation, 4, 3, &[])].concat(), Some(Code::ProtocolError)),
        ("bad block", frame(Kind::Headers, 4, 1, &[0xff; 9]), Some(Code::Compression)),
        ("PING of 7", frame(Kind::Ping, 0, 0, &[0; 7]), Some(Code::FrameSize)),
        ("too large", frame(Kind::Data, 0, 1, &[0; 16_385]), Some(Code::FrameSize)),
        ("padding", [get(1, 0, &[]), frame(Kind::Data, 8, 1, &[2, 0])].concat(), Some(Code::ProtocolError)),
        ("depends on itself", frame(Kind::Headers, 0x24, 1, &[0, 0, 0, 1, 0, 0x82]), Some(Code::ProtocolError)),
        (
            "window of a stream",
            {
                let mut out = get(1, 0, &[]);
                out.extend(window(1, 1 << 30));
                frame::write_settings(&[(setting::INITIAL_WINDOW_SIZE, (1 << 31) - 1)], &mut out);
                out
            },
            Some(Code::FlowControl),
        ),
    ] {
        let broken = greeted().take(&bytes).err().map(|broken| broken.code);
        assert_eq!(broken, code, "{what}");
    }
    let mut server = End::server();
    assert_eq!(server.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r").err(), None);
    assert!(server.take(b"X").is_err());
    let mut server = End::server();
    server.take(PREFACE).unwrap();
    assert!(server.take(&frame(Kind::Ping, 0, 0, &[0; 8])).is_err(), "the first frame is not SETTINGS");
}

#[test]
fn what_breaks_a_streams_rules_ends_the_stream_alone() {
    let data = |flags, bytes: &[u8]| frame(Kind::Data, flags, 1, bytes);
    let window = |n: u32| frame(Kind::WindowUpdate, 0, 1, &n.to_be_bytes());
    let one = ("content-length", "1");
    for (what, bytes, code) in [
        ("WINDOW_UPDATE of 0", [get(1, 0, &[]), window(0)].concat(), Code::ProtocolError),
        ("WINDOW_UPDATE beyond", [get(1, 0, &[]), window((1 << 31) - 1)].concat(), Code::FlowControl),
        ("more than announced", [get(1, 0, &[one]), data(0, b"ab")].concat(), Code::ProtocolError),
        ("less than announced", [get(1, 0, &[one]), data(1, b"")].concat(), Code::ProtocolError),
        ("DATA behind the end", [get(1, 1, &[]), data(0, b"a")].concat(), Code::StreamClosed),
        ("HEADERS behind the end", [get(1, 1, &[]), get(1, 1, &[])].concat(), Code::StreamClosed),
        ("trailers without end", [get(1, 0, &[]), get(1, 0, &[])].concat(), Code::ProtocolError),
        ("pseudo fields in trailers", [get(1, 0, &[]), get(1, 1, &[])].concat(), Code::ProtocolError),
        ("upper case", get(1, 1, &[("connection", "x")]), Code::ProtocolError),
    ] {
        let mut server = greeted();
        server.take(&bytes).unwrap();
        assert_eq!(resets(&server.output(), 1), [code], "{what}");
        // What follows for the stream does no harm, and other streams are served.
        server.take(&[data(0, b"late"), window(1), get(3, 1, &[])].concat()).unwrap();
        assert_eq!(resets(&server.output(), 1), [], "{what}");
        let mut head = Request::default();
        assert_eq!(server.accepted.pop().unwrap().take_request(&mut head), None);
    }
}

#[test]
fn answers_that_break_the_rules_end_their_stream() {
    let mut encoder = Encoder::new();
    let mut head = |flags, fields: &[(&str, &str)]| {
        frame(Kind::Headers, flags | flag::END_HEADERS, 1, &block(&mut encoder, fields))
    };
    let data = frame(Kind::Data, 1, 1, b"x");
    for (what, is_head, bytes, code) in [
        ("DATA first", false, data.clone(), Code::ProtocolError),
        ("no status", false, head(1, &[("x", "1")]), Code::ProtocolError),
        ("body of HEAD", true, [head(0, &[(":status", "200")]), data.clone()].concat(), Code::ProtocolError),
        ("body of 204", false, [head(0, &[(":status", "204")]), data.clone()].concat(), Code::ProtocolError),
        ("1xx with an end", false, head(1, &[(":status", "103")]), Code::ProtocolError),
        ("too many 1xx", false, head(0, &[(":status", "103")]).repeat(INTERIMS + 1), Code::EnhanceYourCalm),
        ("too large", false, head(1, &[(":status", "200"), ("x", &"y".repeat(16_000))]), Code::EnhanceYourCalm),
    ] {
        let (mut client, stream) = asked(is_head);
        client.limits.head_bytes = 10_000;
        client.take(&bytes).unwrap();
        assert_eq!(resets(&client.output(), 1), [code], "{what}");
        let mut response = Response::default();
        while let Poll::Ready(Ok(())) = stream.poll_answer(&cx(), &mut response) {
            if !response.is_interim() {
                reset(stream.poll_body(&cx(), 0));
                break;
            }
        }
    }
}

#[test]
fn streams_that_end_early_are_bounded() {
    let cancel = |stream| frame(Kind::Reset, 0, stream, &8_u32.to_be_bytes());
    let rapid = |n: u32| [get(2 * n + 1, 1, &[]), cancel(2 * n + 1)].concat();
    let (n, code) = flood(&mut greeted(), rapid);
    assert!((400..600).contains(&n) && code == Code::EnhanceYourCalm, "{n} {code:?}");
    // Resets that we are made to send (CVE-2025-8671).
    let tricked = |n: u32| [get(2 * n + 1, 1, &[]), frame(Kind::WindowUpdate, 0, 2 * n + 1, &[0; 4])].concat();
    let (n, code) = flood(&mut greeted(), tricked);
    assert!((300..600).contains(&n) && code == Code::EnhanceYourCalm, "{n} {code:?}");
    let malformed = |n: u32| get(2 * n + 1, 1, &[("connection", "x")]);
    let (n, code) = flood(&mut greeted(), malformed);
    assert!((400..600).contains(&n) && code == Code::EnhanceYourCalm, "{n} {code:?}");
}

#[test]
fn frames_that_bring_nothing_are_bounded() {
    let mut many = Vec::new();
    frame::write_settings(&[(setting::INITIAL_WINDOW_SIZE, 1)], &mut many);
    for (what, bytes) in [
        ("PING", frame(Kind::Ping, 0, 0, &[0; 8])),
        ("SETTINGS", many),
        ("SETTINGS ACK", frame(Kind::Settings, 1, 0, &[])),
        ("PRIORITY", frame(Kind::Priority, 0, 1, &[0; 5])),
        ("unknown", frame(Kind::Unknown(99), 0, 0, b"x")),
        ("empty DATA", frame(Kind::Data, 0, 1, b"")),
        ("padding alone", frame(Kind::Data, 8, 1, &[3, 0, 0, 0])),
        ("WINDOW_UPDATE", frame(Kind::WindowUpdate, 0, 1, &1_u32.to_be_bytes())),
        ("GOAWAY", frame(Kind::GoAway, 0, 0, &[0; 8])),
    ] {
        let mut server = greeted();
        server.take(&get(1, 0, &[])).unwrap();
        let _held = std::mem::take(&mut server.accepted);
        let (n, code) = flood(&mut server, |_| bytes.clone());
        assert!((1_500..2_100).contains(&n) && code == Code::EnhanceYourCalm, "{what}: {n} {code:?}");
    }
    let mut server = greeted();
    server.take(&frame(Kind::Headers, 0, 1, &[0x82])).unwrap();
    let (n, code) = flood(&mut server, |_| frame(Kind::Continuation, 0, 1, &[]));
    assert!((1_500..2_100).contains(&n) && code == Code::EnhanceYourCalm, "{n} {code:?}");
}

#[test]
fn a_head_far_too_large_ends_the_connection_and_a_large_one_keeps_it_in_step() {
    let mut server = greeted();
    let mut encoder = Encoder::new();
    let large: Vec<(String, String)> = (0..9).map(|n| (format!("x-{n}"), "y".repeat(10_000))).collect();
    let fields: Vec<(&str, &str)> =
        GET.into_iter().chain(large.iter().map(|(name, value)| (&**name, &**value))).chain([("z", "last")]).collect();
    for stream in [1, 3, 5] {
        let mut bytes = Vec::new();
        let start = frame::open_block(&mut bytes);
        bytes.extend(block(&mut encoder, &fields));
        frame::close_block(start, stream, true, 16_384, &mut bytes);
        server.take(&bytes).unwrap();
        let mut head = Request::default();
        let refused = server.accepted.pop().unwrap().take_request(&mut head).unwrap();
        assert_eq!(refused.reason, engine::Reason::HeadTooLarge);
    }
    // `z` entered the table when it came for the second time, behind what nobody kept.
    let small = frame(Kind::Headers, 5, 7, &block(&mut encoder, &[&GET, &[("z", "last")][..]].concat()));
    server.take(&small).unwrap();
    let mut head = Request::default();
    assert_eq!(server.accepted.pop().unwrap().take_request(&mut head), None);
    assert_eq!(head.header("z"), Some(b"last".as_slice()));

    server.take(&frame(Kind::Headers, 0, 9, &[0x82])).unwrap();
    let (n, code) = flood(&mut server, |_| frame(Kind::Continuation, 0, 9, &[0x82; 16_384]));
    assert!(n <= 16 && code == Code::EnhanceYourCalm, "{n} {code:?}");
}

#[test]
fn a_block_of_few_bytes_makes_no_large_head() {
    let mut server = greeted();
    // A field of 4,000 bytes enters the table, and is named 16,000 times.
    let mut bomb = block(&mut Encoder::new(), &GET);
    bomb.extend([0x40, 1, b'x', 0x7f]);
    bomb.extend([0xa1, 0x1e]); // 127 + 33 + 30 * 128 = 4,000
    bomb.extend([b'y'; 4_000]);
    bomb.extend(vec![0xbe; 12_000]);
    server.take(&frame(Kind::Headers, 5, 1, &bomb)).unwrap();
    let mut head = Request::default();
    assert_eq!(server.accepted[0].take_request(&mut head).unwrap().reason, engine::Reason::HeadTooLarge);
    assert!(head.fields().iter().map(|(_, value)| value.len()).sum::<usize>() <= server.limits.head_bytes);
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let mut server = greeted();
    let most = server.limits.streams;
    for n in 0..most + 1 {
        server.take(&get(2 * n + 1, 0, &[])).unwrap();
    }
    assert_eq!(server.accepted.len(), most as usize);
    assert_eq!(resets(&server.output(), 2 * most + 1), [Code::Refused]);
    // Streams that were reset and that somebody still holds count too, twice as many.
    let mut id = 2 * most + 3;
    for n in 0..most {
        server.take(&frame(Kind::Reset, 0, 2 * n + 1, &[0; 4])).unwrap();
        server.take(&get(id, 0, &[])).unwrap();
        id += 2;
    }
    assert_eq!(server.accepted.len(), 2 * most as usize);
    server.output();
    server.take(&frame(Kind::Reset, 0, id - 2, &[0; 4])).unwrap();
    server.take(&get(id, 0, &[])).unwrap();
    assert_eq!(resets(&server.output(), id), [Code::Refused]);
    server.accepted.clear();
    server.take(&get(id + 2, 0, &[])).unwrap();
    assert_eq!(server.accepted.len(), 1);
}

#[test]
fn a_client_that_has_not_read_the_limit_yet_keeps_its_connection() {
    // Envoy opens up to 1,024 streams on a fresh connection before it has read any SETTINGS.
    let mut server = greeted();
    let most = server.limits.streams;
    for n in 0..1024 {
        server.take(&get(2 * n + 1, 0, &[])).unwrap();
    }
    assert_eq!(server.accepted.len(), most as usize);
    let output = server.output();
    assert!((most..1024).all(|n| resets(&output, 2 * n + 1) == [Code::Refused]));
}

#[test]
fn a_sender_beyond_a_window_is_stopped() {
    let piece = |stream| frame(Kind::Data, 0, stream, &[0; 16_384]);
    let mut server = greeted();
    server.take(&get(1, 0, &[])).unwrap();
    for _ in 0..STREAM_WINDOW / 16_384 {
        server.take(&piece(1)).unwrap();
    }
    assert_eq!(resets(&server.output(), 1), []);
    server.take(&piece(1)).unwrap();
    assert_eq!(resets(&server.output(), 1), [Code::FlowControl]);

    let mut server = greeted();
    let per_stream = STREAM_WINDOW / 16_384;
    let mut sent = 16_384;
    for n in 0..CONNECTION_WINDOW / STREAM_WINDOW {
        server.take(&get(2 * n + 1, 0, &[])).unwrap();
        for _ in 0..per_stream {
            server.take(&piece(2 * n + 1)).unwrap();
            sent += 16_384;
        }
    }
    assert!(sent > CONNECTION_WINDOW);
    let next = 2 * (CONNECTION_WINDOW / STREAM_WINDOW) + 1;
    server.take(&get(next, 0, &[])).unwrap();
    assert_eq!(server.take(&piece(next)).unwrap_err().code, Code::FlowControl);
}

#[test]
fn padding_and_priority_are_taken_off() {
    let mut server = greeted();
    let mut payload = vec![3, 0, 0, 0, 0, 15];
    payload.extend(block(&mut Encoder::new(), &GET));
    payload.extend([0; 3]);
    let flags = flag::PADDED | flag::PRIORITY | flag::END_HEADERS;
    let bytes = [frame(Kind::Headers, flags, 1, &payload), frame(Kind::Data, 9, 1, b"\x02ab\0\0")].concat();
    // A byte at a time.
    bytes.iter().for_each(|byte| server.take(&[*byte]).unwrap());
    let stream = &server.accepted[0];
    assert_eq!(stream.take_request(&mut Request::default()), None);
    assert!(*stream.body(0) == *b"ab" && stream.ended());
}

proptest! {
    /// No bytes make it panic, however they are cut, and an error comes at the same byte or later.
    #[test]
    fn any_frames_are_taken_or_refused(
        bytes in proptest::collection::vec(
            (0..11_u8, any::<u8>(), 0..8_u32, proptest::collection::vec(any::<u8>(), 0..40)), 0..30),
        step in 1..50_usize,
    ) {
        let bytes: Vec<u8> = bytes
            .iter()
            .flat_map(|(kind, flags, stream, payload)| {
                let mut out = vec![0, 0, payload.len() as u8, *kind, *flags];
                out.extend(stream.to_be_bytes());
                out.extend(payload);
                out
            })
            .collect();
        let (mut whole, mut pieces) = (greeted(), greeted());
        let at_once = whole.take(&bytes);
        let mut cut = Ok(());
        for piece in bytes.chunks(step) {
            cut = pieces.take(piece);
            if cut.is_err() {
                break;
            }
        }
        prop_assert_eq!(at_once, cut);
        prop_assert_eq!(whole.output(), pieces.output());
        let (mut client, _stream) = asked(false);
        // Either is fine, but for a panic.
        let _ = client.take(&bytes);
    }
}

/// What we write is what a decoder of the peer's reads.
#[test]
fn our_words_are_well_formed() {
    let client = End::client();
    let stream = client.connection.place().unwrap();
    stream.send_request(false, false, request(&[("x", "1")])).unwrap();
    let said = frames(&client.output());
    let kinds: Vec<Kind> = said.iter().map(|(header, _)| header.kind).collect();
    assert_eq!(kinds, [Kind::Settings, Kind::WindowUpdate, Kind::Headers]);
    let settings: Vec<_> = frame::settings(&said[0].1).collect();
    assert!(settings.contains(&(setting::ENABLE_PUSH, 0)), "{settings:?}");
    let mut fields = 0;
    Decoder::new(4096).decode(&said[2].1, &mut |_, _, _| fields += 1).unwrap();
    assert_eq!(fields, 5);
}
