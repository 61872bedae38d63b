//! The data path as a server: cases by section of RFC 9113.

use std::sync::atomic::{AtomicU32, Ordering};

use engine::Protocol;
use testkit::http2::{Frame, PREFACE, Peer, block, flag, frame, kind, settings};
use testkit::raw::RawServer;

use crate::expect::Must::{self, Connection, Nothing};
use crate::expect::{alive, code, expect};
use crate::world::{Sidecar, World, plain};

/// A sidecar before an application that answers every request at once.
struct Stage {
    sidecar: Sidecar,
    _app: RawServer,
    _world: World,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(2, |_| {})
    }

    /// The application's answers have `length` bytes.
    fn with(length: usize, limits: impl FnOnce(&mut proxy::settings::Limits)) -> Stage {
        let app = RawServer::start(move |_, mut raw| {
            if raw.next_head().is_some_and(|head| !head.starts_with("GET /wait")) {
                raw.offer(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"));
                raw.offer(vec![b'x'; length]).finish();
            }
            raw.read_to_end();
        });
        let world = World::new();
        world.publish(Protocol::Http1, vec![plain(app.address())]);
        let sidecar = world.client(|settings| limits(&mut settings.limits));
        Stage { sidecar, _app: app, _world: world }
    }

    fn connect(&self) -> Peer {
        Peer::connect(self.sidecar.outbound(), &[])
    }

    /// What follows `bytes` on a connection of its own.
    #[track_caller]
    fn case(&self, name: &str, bytes: Vec<Vec<u8>>, must: Must) {
        let mut peer = self.connect();
        peer.raw().offer(bytes.concat());
        expect(name, &mut peer, must);
    }

    #[track_caller]
    fn cases(&self, cases: Vec<(&str, Vec<Vec<u8>>, Must)>) {
        for (name, bytes, must) in cases {
            self.case(name, bytes, must);
        }
    }
}

/// A stream error of stream 1.
const fn stream(codes: &'static [u32]) -> Must {
    Must::Stream { stream: 1, codes, answer: false }
}

/// A malformed request on stream 1 (8.1.1).
const MALFORMED: Must = Must::Stream { stream: 1, codes: &[code::PROTOCOL], answer: true };

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "cart")];
const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "cart")];
/// The application does not answer it.
const WAIT: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/wait"), (":authority", "cart")];

fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block(fields))
}

/// A whole request on stream 1.
fn get() -> Vec<u8> {
    headers(flag::END, 1, GET)
}

/// A request on stream 1 whose body is to follow and which is not answered meanwhile.
fn open() -> Vec<u8> {
    headers(flag::END_HEADERS, 1, WAIT)
}

fn data(flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

/// Frames of `stream` until it has ended: the status and how much of a body.
#[track_caller]
fn answer(peer: &mut Peer, stream: u32) -> (Option<u16>, usize) {
    let (mut status, mut length) = (None, 0);
    loop {
        let next = peer.next_frame().expect("an answer");
        assert!(![kind::GOAWAY, kind::RST_STREAM].contains(&next.kind), "{next:?}");
        if next.stream == stream {
            match next.kind {
                kind::HEADERS => status = status.or(next.status()),
                kind::DATA => length += next.payload.len(),
                _ => {}
            }
            if next.flags & flag::END_STREAM != 0 {
                return (status, length);
            }
        }
    }
}

#[test]
fn s3_4_the_preface() {
    let stage = Stage::new();
    let mut peer = Peer::silent(stage.sidecar.outbound());
    peer.raw().send(PREFACE).send(frame(kind::SETTINGS, 0, 0, b""));
    let first = peer.next_of_all().unwrap();
    assert_eq!((first.kind, first.flags), (kind::SETTINGS, 0), "the server's preface is SETTINGS");
    let mut peer = Peer::silent(stage.sidecar.outbound());
    peer.raw().send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    let said = peer.raw().read_to_end();
    assert!(!said.windows(12).any(|window| window == b"HTTP/1.1 200"), "{}", said.escape_ascii());
    // Who does not begin with SETTINGS is not served.
    for (name, first) in [("3.4 PING first", frame(kind::PING, 0, 0, b"12345678")), ("3.4 HEADERS first", get())] {
        let mut peer = Peer::silent(stage.sidecar.outbound());
        peer.raw().send(PREFACE).send(first).finish();
        while let Some(next) = peer.next_frame() {
            assert_eq!((next.kind, next.number(4)), (kind::GOAWAY, code::PROTOCOL), "{name}: {next:?}");
        }
    }
}

#[test]
fn s4_frames() {
    let stage = Stage::new();
    let largest = vec![0; 16_384];
    let too_large = vec![0; 16_385];
    let mut reserved = frame(kind::PING, 0xfe, 0, b"reserved");
    reserved[5] = 0x80;
    stage.cases(vec![
        ("4.1 unknown kinds are ignored", vec![frame(0x16, 0xff, 0, b"12345678"), frame(0xbe, 0, 7, b"")], Nothing),
        ("4.1 undefined flags and the reserved bit are ignored", vec![reserved], Nothing),
        ("4.2 the largest frame", vec![open(), data(0, 1, &largest)], Nothing),
        ("4.2 DATA too large", vec![open(), data(0, 1, &too_large)], stream(&[code::FRAME_SIZE])),
        (
            "4.2 HEADERS too large",
            vec![frame(kind::HEADERS, flag::END, 1, &too_large)],
            Connection(&[code::FRAME_SIZE]),
        ),
        ("4.2 SETTINGS too large", vec![frame(kind::SETTINGS, 0, 0, &too_large)], Connection(&[code::FRAME_SIZE])),
        (
            "4.3 a block that cannot be decoded",
            vec![frame(kind::HEADERS, flag::END, 1, b"\xff\xff\xff\xff\xff\xff")],
            Connection(&[code::COMPRESSION]),
        ),
        (
            "4.3 PRIORITY within a block",
            vec![headers(flag::END_STREAM, 1, GET), frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")],
            Connection(&[code::PROTOCOL]),
        ),
        (
            "4.3 another stream's HEADERS within a block",
            vec![headers(flag::END_STREAM, 1, GET), headers(flag::END, 3, GET)],
            Connection(&[code::PROTOCOL]),
        ),
    ]);
}

#[test]
fn s5_1_states_of_streams() {
    let stage = Stage::new();
    let idle = Connection(&[code::PROTOCOL]);
    let half = || headers(flag::END, 1, WAIT);
    stage.cases(vec![
        ("idle: DATA", vec![data(0, 1, b"x")], idle),
        ("idle: RST_STREAM", vec![reset(1, code::CANCEL)], idle),
        ("idle: WINDOW_UPDATE", vec![window(1, 100)], idle),
        ("idle: CONTINUATION", vec![frame(kind::CONTINUATION, flag::END_HEADERS, 1, block(GET))], idle),
        ("idle: PRIORITY", vec![frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")], Nothing),
        ("half closed: DATA", vec![half(), data(flag::END_STREAM, 1, b"x")], stream(&[code::STREAM_CLOSED])),
        ("half closed: HEADERS", vec![half(), headers(flag::END, 1, GET)], stream(&[code::STREAM_CLOSED])),
        (
            "half closed: CONTINUATION",
            vec![half(), frame(kind::CONTINUATION, flag::END_HEADERS, 1, block(GET))],
            Connection(&[code::PROTOCOL]),
        ),
        (
            "half closed: WINDOW_UPDATE and PRIORITY",
            vec![half(), window(1, 100), frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")],
            Nothing,
        ),
        (
            "reset: WINDOW_UPDATE, RST_STREAM, PRIORITY",
            vec![half(), reset(1, 8), window(1, 9), reset(1, 8), frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10")],
            Nothing,
        ),
        (
            "reset: CONTINUATION",
            vec![half(), reset(1, 8), frame(kind::CONTINUATION, flag::END_HEADERS, 1, block(GET))],
            Connection(&[code::PROTOCOL, code::STREAM_CLOSED]),
        ),
    ]);
    // After both halves have ended.
    for (name, bytes) in [("DATA", data(0, 1, b"x")), ("HEADERS", headers(flag::END, 1, GET))] {
        let mut peer = stage.connect();
        peer.raw().send(get());
        assert_eq!(answer(&mut peer, 1).0, Some(200));
        peer.raw().send(bytes);
        expect(&format!("closed: {name}"), &mut peer, stream(&[code::STREAM_CLOSED]));
    }
}

#[test]
fn s5_1_1_numbers_of_streams() {
    let stage = Stage::new();
    let wrong = Connection(&[code::PROTOCOL, code::STREAM_CLOSED]);
    stage.cases(vec![
        ("an even number", vec![headers(flag::END, 2, GET)], Connection(&[code::PROTOCOL])),
        ("a lower number", vec![headers(flag::END, 5, WAIT), headers(flag::END, 3, GET)], wrong),
        ("numbers may be left out", vec![headers(flag::END, 5, WAIT), headers(flag::END, 77, WAIT)], Nothing),
    ]);
}

#[test]
fn s5_1_2_too_many_streams() {
    let stage = Stage::with(2, |limits| limits.streams = 2);
    let mut peer = stage.connect();
    for id in [1, 3, 5] {
        peer.raw().send(headers(flag::END, id, WAIT));
    }
    let must = Must::Stream { stream: 5, codes: &[code::REFUSED, code::PROTOCOL], answer: false };
    expect("a stream beyond the limit", &mut peer, must);
}

#[test]
fn s5_5_extensions() {
    let stage = Stage::new();
    stage.cases(vec![
        ("an unknown frame on a stream", vec![open(), frame(0xee, 0, 1, b"what")], Nothing),
        (
            "an unknown frame within a block",
            vec![headers(flag::END_STREAM, 1, GET), frame(0xee, 0, 1, b"what")],
            Connection(&[code::PROTOCOL]),
        ),
        ("unknown settings", vec![frame(kind::SETTINGS, 0, 0, settings(&[(0xfff0, 7), (0, u32::MAX)]))], Nothing),
    ]);
}

#[test]
fn s6_1_to_6_4_data_headers_priority_reset() {
    let stage = Stage::new();
    let protocol = Connection(&[code::PROTOCOL]);
    let size = Connection(&[code::FRAME_SIZE]);
    stage.cases(vec![
        ("6.1 DATA of stream 0", vec![data(0, 0, b"x")], protocol),
        ("6.1 padding too long", vec![open(), data(flag::PADDED, 1, b"\x06hello")], protocol),
        ("6.1 padding as long as it may be", vec![open(), data(flag::PADDED, 1, b"\x05hello")], Nothing),
        ("6.2 HEADERS of stream 0", vec![headers(flag::END, 0, GET)], protocol),
        (
            "6.2 padding too long",
            vec![frame(kind::HEADERS, flag::END | flag::PADDED, 1, b"\x05\x82\x86\x84")],
            protocol,
        ),
        (
            "6.2 another frame within a block",
            vec![headers(flag::END_STREAM, 1, GET), frame(kind::PING, 0, 0, b"12345678")],
            protocol,
        ),
        (
            "6.2 priority is skipped",
            vec![frame(
                kind::HEADERS,
                flag::END | flag::PRIORITY,
                1,
                [b"\x80\0\0\x03\x10".to_vec(), block(GET)].concat(),
            )],
            Nothing,
        ),
        ("6.3 PRIORITY of stream 0", vec![frame(kind::PRIORITY, 0, 0, b"\0\0\0\x01\x10")], protocol),
        (
            "6.3 PRIORITY of a wrong length",
            vec![open(), frame(kind::PRIORITY, 0, 1, b"\0\0\0\0")],
            stream(&[code::FRAME_SIZE]),
        ),
        ("6.4 RST_STREAM of stream 0", vec![reset(0, 8)], protocol),
        ("6.4 RST_STREAM of a wrong length", vec![open(), frame(kind::RST_STREAM, 0, 1, b"\0\0\0")], size),
    ]);
}

#[test]
fn s6_5_settings() {
    let stage = Stage::new();
    let size = Connection(&[code::FRAME_SIZE]);
    let protocol = Connection(&[code::PROTOCOL]);
    let set = |values: &[(u16, u32)]| vec![frame(kind::SETTINGS, 0, 0, settings(values))];
    stage.cases(vec![
        ("6.5 an ACK with a payload", vec![frame(kind::SETTINGS, flag::ACK, 0, settings(&[(1, 1)]))], size),
        ("6.5 SETTINGS of a stream", vec![frame(kind::SETTINGS, 0, 1, b"")], protocol),
        ("6.5 a length that is no multiple of six", vec![frame(kind::SETTINGS, 0, 0, b"\0\x03\0")], size),
        ("6.5.2 ENABLE_PUSH", set(&[(2, 2)]), protocol),
        ("6.5.2 INITIAL_WINDOW_SIZE", set(&[(4, 1 << 31)]), Connection(&[code::FLOW_CONTROL])),
        ("6.5.2 MAX_FRAME_SIZE too small", set(&[(5, 16_383)]), protocol),
        ("6.5.2 MAX_FRAME_SIZE too large", set(&[(5, 1 << 24)]), protocol),
        ("6.5.3 a setting twice: the last counts", set(&[(4, 1), (4, 65_535), (5, 16_384), (5, 16_385)]), Nothing),
    ]);
    let mut peer = stage.connect();
    let acknowledged = |next: &Frame| next.kind == kind::SETTINGS && next.flags == flag::ACK;
    while !acknowledged(&peer.next_of_all().expect("an acknowledgement")) {}
}

#[test]
fn s6_6_to_6_8_push_ping_goaway() {
    let stage = Stage::new();
    let protocol = Connection(&[code::PROTOCOL]);
    let size = Connection(&[code::FRAME_SIZE]);
    let goaway =
        |stream: u32, code: u32| frame(kind::GOAWAY, 0, stream, [0_u32.to_be_bytes(), code.to_be_bytes()].concat());
    stage.cases(vec![
        (
            "8.4 a client that pushes",
            vec![
                open(),
                frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, [b"\0\0\0\x02".to_vec(), block(GET)].concat()),
            ],
            protocol,
        ),
        ("6.7 PING of a stream", vec![frame(kind::PING, 0, 1, b"12345678")], protocol),
        ("6.7 PING of a wrong length", vec![frame(kind::PING, 0, 0, b"123456")], size),
        ("6.8 GOAWAY of a stream", vec![goaway(1, 0)], protocol),
        ("7 an unknown code in RST_STREAM", vec![open(), reset(1, 0xff)], Nothing),
    ]);
    let mut peer = stage.connect();
    peer.send(kind::PING, flag::ACK, 0, b"unasked!");
    alive("6.7 an answer to no PING", &mut peer);
    // Streams that were taken are still served.
    let mut peer = stage.connect();
    peer.raw().send([get(), goaway(0, 0xff)].concat());
    assert_eq!(answer(&mut peer, 1).0, Some(200));
}

#[test]
fn s6_9_windows() {
    let stage = Stage::new();
    let size = Connection(&[code::FRAME_SIZE]);
    let most = (1 << 31) - 1;
    stage.cases(vec![
        ("6.9 nothing, for the connection", vec![window(0, 0)], Connection(&[code::PROTOCOL])),
        ("6.9 nothing, for a stream", vec![open(), window(1, 0)], stream(&[code::PROTOCOL])),
        ("6.9 a wrong length", vec![frame(kind::WINDOW_UPDATE, 0, 0, b"\0\0\x01")], size),
        (
            "6.9.1 too much, for the connection",
            vec![window(0, most), window(0, most)],
            Connection(&[code::FLOW_CONTROL]),
        ),
        ("6.9.1 too much, for a stream", vec![open(), window(1, most), window(1, most)], stream(&[code::FLOW_CONTROL])),
        (
            "6.9.2 too much, by a setting",
            vec![open(), window(1, most - 65_535), frame(kind::SETTINGS, 0, 0, settings(&[(4, 65_536)]))],
            Connection(&[code::FLOW_CONTROL]),
        ),
    ]);
}

#[test]
fn s6_9_windows_are_kept_to() {
    let stage = Stage::with(1000, |_| {});
    let mut peer = Peer::connect(stage.sidecar.outbound(), &[(4, 3)]);
    peer.raw().send(get());
    let take = |peer: &mut Peer, wanted: usize| {
        let mut got = 0;
        while got < wanted {
            let next = peer.next_frame().unwrap();
            assert_ne!(next.kind, kind::GOAWAY, "{next:?}");
            if next.kind == kind::DATA {
                got += next.payload.len();
                assert!(got <= wanted, "{got} bytes where {wanted} are allowed");
            }
        }
        alive("what is allowed was sent", peer);
    };
    take(&mut peer, 3);
    peer.raw().send(window(1, 5));
    take(&mut peer, 5);
    // 6.9.2: a setting changes the windows of open streams, also to less than nothing.
    peer.raw().send(frame(kind::SETTINGS, 0, 0, settings(&[(4, 13)])));
    take(&mut peer, 10);
    peer.raw().send([frame(kind::SETTINGS, 0, 0, settings(&[(4, 0)])), window(1, 13)].concat());
    alive("a window that is nothing", &mut peer);
    peer.raw().send(window(1, 7));
    take(&mut peer, 7);
    peer.raw().send(window(1, 1 << 20));
    assert_eq!(answer(&mut peer, 1).1, 1000 - 25);
}

#[test]
fn s6_10_continuation() {
    let stage = Stage::new();
    let protocol = Connection(&[code::PROTOCOL]);
    let block = block(GET);
    let first = |flags| frame(kind::HEADERS, flags, 1, &block[..9]);
    let more = |flags, range: std::ops::Range<usize>| frame(kind::CONTINUATION, flags, 1, &block[range]);
    let whole = block.len();
    stage.cases(vec![
        (
            "of stream 0",
            vec![first(flag::END_STREAM), frame(kind::CONTINUATION, flag::END_HEADERS, 0, &block[9..])],
            protocol,
        ),
        (
            "of another stream",
            vec![first(flag::END_STREAM), frame(kind::CONTINUATION, flag::END_HEADERS, 3, &block[9..])],
            protocol,
        ),
        ("DATA in between", vec![first(flag::END_STREAM), data(flag::END_STREAM, 1, b"")], protocol),
        ("after the end of a block", vec![open(), frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"")], protocol),
        ("after DATA", vec![open(), data(0, 1, b"x"), frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"")], protocol),
    ]);
    let mut peer = stage.connect();
    peer.raw()
        .send([first(flag::END_STREAM), more(0, 9..9), more(0, 9..20), more(flag::END_HEADERS, 20..whole)].concat());
    assert_eq!(answer(&mut peer, 1).0, Some(200), "a block in four pieces");
}

#[test]
fn s8_1_messages() {
    let stage = Stage::new();
    let trailers = |fields: &[(&str, &str)]| vec![open(), headers(flag::END, 1, fields)];
    let length = |bytes: &str| headers(flag::END_HEADERS, 1, &[POST, &[("content-length", bytes)]].concat());
    stage.cases(vec![
        ("8.1 trailers without the end", vec![open(), headers(flag::END_HEADERS, 1, &[("x-a", "b")])], MALFORMED),
        ("8.1 pseudo fields in trailers", trailers(&[(":method", "GET")]), MALFORMED),
        ("8.1.1 more than content-length", vec![length("1"), data(flag::END_STREAM, 1, b"test")], MALFORMED),
        ("8.1.1 less than content-length", vec![length("5"), data(flag::END_STREAM, 1, b"test")], MALFORMED),
        (
            "8.1.1 more, in pieces",
            vec![length("5"), data(0, 1, b"test"), data(flag::END_STREAM, 1, b"test")],
            MALFORMED,
        ),
        (
            "8.1.1 no body where one is said to come",
            vec![headers(flag::END, 1, &[POST, &[("content-length", "5")]].concat())],
            MALFORMED,
        ),
    ]);
    let mut peer = stage.connect();
    let head = headers(flag::END_HEADERS, 1, POST);
    peer.raw().send([head, data(0, 1, b"x"), headers(flag::END, 1, &[("x-trailer", "1")])].concat());
    assert_eq!(answer(&mut peer, 1).0, Some(200), "trailers are fine");
}

#[test]
fn s8_2_fields() {
    let stage = Stage::new();
    for field in [
        ("X-Upper", "a"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers, deflate"),
        ("x-a", "b\r\nc"),
        ("x-a", "b\0c"),
        ("x-a", "b\nc"),
        ("x a", "b"),
        ("x:a", "b"),
        ("", "b"),
        ("x\0", "b"),
    ] {
        stage.case(&format!("8.2 {field:?}"), vec![headers(flag::END, 1, &[GET, &[field]].concat())], MALFORMED);
    }
    let mut peer = stage.connect();
    peer.raw().send(headers(flag::END, 1, &[GET, &[("te", "trailers"), ("x-a", "")]].concat()));
    assert_eq!(answer(&mut peer, 1).0, Some(200), "te: trailers is fine");
}

#[test]
fn s8_3_pseudo_fields() {
    let stage = Stage::new();
    let without = |name: &str| GET.iter().copied().filter(|(other, _)| *other != name).collect::<Vec<_>>();
    let with = |field: (&'static str, &'static str)| [GET, &[field]].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("an unknown one", with((":test", "ok"))),
        ("one of responses", with((":status", "200"))),
        ("one behind others", [&[("x-a", "b")], GET].concat()),
        (":path empty", [&without(":path")[..], &[(":path", "")]].concat()),
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        (":method twice", with((":method", "GET"))),
        (":scheme twice", with((":scheme", "http"))),
        (":path twice", with((":path", "/"))),
    ];
    for (name, fields) in cases {
        stage.case(&format!("8.3 {name}"), vec![headers(flag::END, 1, &fields)], MALFORMED);
    }
}

#[test]
fn streams_that_break_do_not_break_others() {
    let stage = Stage::new();
    let mut peer = stage.connect();
    let next = AtomicU32::new(1);
    let id = || next.fetch_add(2, Ordering::Relaxed);
    for _ in 0..5 {
        let (bad, good) = (id(), id());
        peer.raw().send(headers(flag::END, bad, &[GET, &[("connection", "close")]].concat()));
        peer.raw().send(headers(flag::END, good, GET));
        let mut answered = false;
        while !answered {
            let next = peer.next_frame().unwrap();
            assert_ne!(next.kind, kind::GOAWAY, "{next:?}");
            assert!(next.kind != kind::RST_STREAM || next.stream == bad, "{next:?}");
            answered = next.stream == good && next.flags & flag::END_STREAM != 0;
        }
    }
}
