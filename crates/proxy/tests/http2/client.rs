//! The data path as a client of a server that breaks the rules, or uses all that they allow.

use engine::Protocol;
use testkit::http2::{Peer, block, flag, frame, kind, settings};
use testkit::raw::{Raw, RawServer};

use crate::expect::Must::{self, Connection};
use crate::expect::{code, expect};
use crate::world::{Sidecar, World, plain};

const MALFORMED: Must = Must::Stream { stream: 1, codes: &[code::PROTOCOL], answer: false };

fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block(fields))
}

fn ok(flags: u8) -> Vec<u8> {
    headers(flags, 1, &[(":status", "200")])
}

/// Reads up to the head of a request, and says its stream.
#[track_caller]
fn request(peer: &mut Peer) -> Option<u32> {
    loop {
        let next = peer.next_frame()?;
        if next.kind == kind::HEADERS {
            return Some(next.stream);
        }
    }
}

/// Answers every further request well.
fn serve(mut peer: Peer) {
    while let Some(stream) = request(&mut peer) {
        peer.raw().offer(headers(flag::END, stream, &[(":status", "200"), ("x-server", "good")]));
    }
}

/// A sidecar before a server whose first connection runs `script` and whose others serve.
struct Stage {
    sidecar: Sidecar,
    server: RawServer,
    _world: World,
}

impl Stage {
    fn new(script: impl Fn(Raw) + Send + Sync + 'static) -> Stage {
        let server = RawServer::start(move |number, raw| match number {
            0 => script(raw),
            _ => serve(Peer::server(raw, &[])),
        });
        let world = World::new();
        world.publish(Protocol::Http2, vec![plain(server.address())]);
        let sidecar = world.client(|_| {});
        Stage { sidecar, server, _world: world }
    }

    /// Sends a request over HTTP/1, and returns the head of the answer; nothing, if it was cut off before that.
    #[track_caller]
    fn get(&self) -> String {
        let mut raw = self.sidecar.connect();
        raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n").next_head().unwrap_or_default()
    }

    /// Waits for the script.
    fn finish(self) {
        drop(self.sidecar);
        self.server.finish();
    }
}

/// What follows `bytes` in answer to a request.
#[track_caller]
fn case(name: &'static str, bytes: Vec<Vec<u8>>, must: Must) {
    let stage = Stage::new(move |raw| {
        let mut peer = Peer::server(raw, &[]);
        assert_eq!(request(&mut peer), Some(1), "{name}");
        peer.raw().offer(bytes.concat());
        expect(name, &mut peer, must);
    });
    let head = stage.get();
    // What is malformed is never passed on; trying again at another connection is.
    let well = ["HTTP/1.1 50", "HTTP/1.1 200"].iter().any(|start| head.starts_with(start));
    assert!(head.is_empty() || well, "{name}: {head}");
    assert!(!head.contains("x-bad"), "{name}: {head}");
    stage.finish();
}

#[test]
fn s3_4_the_preface() {
    let stage = Stage::new(|raw| {
        let mut peer = Peer::silent_server(raw);
        let first = peer.next_of_all().unwrap();
        assert_eq!((first.kind, first.flags), (kind::SETTINGS, 0));
        let pushes = first.payload.chunks(6).find(|setting| setting[..2] == [0, 2]);
        assert_eq!(pushes, Some(&b"\0\x02\0\0\0\0"[..]), "we take no pushes");
        // A server that does not begin with SETTINGS.
        peer.raw().offer(frame(kind::PING, 0, 0, b"12345678"));
        expect("a server begins with PING", &mut peer, Connection(&[code::PROTOCOL]));
    });
    let head = stage.get();
    assert!(head.starts_with("HTTP/1.1 50") || head.contains("x-server: good"), "{head}");
    stage.finish();
}

#[test]
fn malformed_answers() {
    case("no :status", vec![headers(flag::END, 1, &[("x-bad", "1")])], MALFORMED);
    case(
        ":status twice",
        vec![headers(flag::END, 1, &[(":status", "200"), (":status", "200"), ("x-bad", "1")])],
        MALFORMED,
    );
    case(
        "a field of requests",
        vec![headers(flag::END, 1, &[(":status", "200"), (":path", "/"), ("x-bad", "1")])],
        MALFORMED,
    );
    case("a pseudo field behind others", vec![headers(flag::END, 1, &[("x-bad", "1"), (":status", "200")])], MALFORMED);
    case("upper case", vec![headers(flag::END, 1, &[(":status", "200"), ("X-Bad", "1"), ("x-bad", "1")])], MALFORMED);
    case(
        "a field of the connection",
        vec![headers(flag::END, 1, &[(":status", "200"), ("connection", "close"), ("x-bad", "1")])],
        MALFORMED,
    );
    case(
        "an end of line in a value",
        vec![headers(flag::END, 1, &[(":status", "200"), ("x-a", "b\r\nx-bad: 1")])],
        MALFORMED,
    );
    for status in ["abc", "99", "1000", "", "20"] {
        case("a status that is none", vec![headers(flag::END, 1, &[(":status", status), ("x-bad", "1")])], MALFORMED);
    }
    case("an interim answer that ends", vec![headers(flag::END, 1, &[(":status", "103")])], MALFORMED);
    case(
        "DATA before the head",
        vec![frame(kind::DATA, flag::END_STREAM, 1, b"x-bad")],
        Must::Stream { stream: 1, codes: &[code::PROTOCOL], answer: false },
    );
}

#[test]
fn malformed_bodies() {
    let length = |bytes: &str| headers(flag::END_HEADERS, 1, &[(":status", "200"), ("content-length", bytes)]);
    let data = |flags, bytes: &[u8]| frame(kind::DATA, flags, 1, bytes);
    case("less than content-length", vec![length("5"), data(flag::END_STREAM, b"test")], MALFORMED);
    case("more than content-length", vec![length("3"), data(flag::END_STREAM, b"test")], MALFORMED);
    case(
        "trailers without the end",
        vec![ok(flag::END_HEADERS), headers(flag::END_HEADERS, 1, &[("x-a", "b")])],
        MALFORMED,
    );
    case(
        "pseudo fields in trailers",
        vec![ok(flag::END_HEADERS), headers(flag::END, 1, &[(":status", "200")])],
        MALFORMED,
    );
}

#[test]
fn servers_that_break_the_connection() {
    let protocol = Connection(&[code::PROTOCOL]);
    let push =
        frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, [b"\0\0\0\x02".to_vec(), block(&[(":path", "/")])].concat());
    case("8.4 a push that we refused beforehand", vec![push], protocol);
    case(
        "5.1.1 an answer on a stream that a server opens",
        vec![headers(flag::END, 2, &[(":status", "200")])],
        protocol,
    );
    case("5.1 an answer to nothing", vec![headers(flag::END, 99, &[(":status", "200")])], protocol);
    case("5.1 DATA of nothing", vec![frame(kind::DATA, 0, 99, b"x")], protocol);
    case("6.5.2 a server that enables pushes", vec![frame(kind::SETTINGS, 0, 0, settings(&[(2, 1)]))], protocol);
    case(
        "4.3 a block that cannot be decoded",
        vec![frame(kind::HEADERS, flag::END, 1, b"\xff\xff\xff\xff\xff\xff")],
        Connection(&[code::COMPRESSION]),
    );
    case(
        "4.2 a frame that is too large",
        vec![frame(kind::HEADERS, flag::END, 1, vec![0; 16_385])],
        Connection(&[code::FRAME_SIZE]),
    );
    case(
        "6.9.1 a window that overflows",
        vec![frame(kind::WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")],
        Connection(&[code::FLOW_CONTROL]),
    );
    case("6.7 PING of a wrong length", vec![frame(kind::PING, 0, 0, b"1234")], Connection(&[code::FRAME_SIZE]));
}

#[test]
fn what_a_server_may_do() {
    let early = || headers(flag::END_HEADERS, 1, &[(":status", "103"), ("link", "</a>")]);
    let good = |flags| headers(flags, 1, &[(":status", "200"), ("x-server", "good")]);
    let cases: Vec<(&'static str, Vec<Vec<u8>>)> = vec![
        ("interim answers", vec![early(), early(), good(flag::END)]),
        (
            "unknown frames, flags and settings",
            vec![
                frame(0xbb, 0xff, 1, b"x"),
                frame(kind::SETTINGS, 0, 0, settings(&[(0xff, 1)])),
                good(flag::END | 0x42),
            ],
        ),
        (
            "frames on what has ended",
            vec![
                good(flag::END),
                frame(kind::WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"),
                frame(kind::RST_STREAM, 0, 1, b"\0\0\0\0"),
                frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x01"),
            ],
        ),
        (
            "padding, and an empty last frame",
            vec![
                good(flag::END_HEADERS),
                frame(kind::DATA, flag::PADDED, 1, b"\x02\0\0"),
                frame(kind::DATA, flag::END_STREAM, 1, b""),
            ],
        ),
        ("trailers", vec![good(flag::END_HEADERS), headers(flag::END, 1, &[("x-trailer", "1")])]),
    ];
    for (name, bytes) in cases {
        let stage = Stage::new(move |raw| {
            let mut peer = Peer::server(raw, &[]);
            assert_eq!(request(&mut peer), Some(1), "{name}");
            peer.raw().offer(bytes.concat());
            // The next request may come before anything that were asked now is answered; that it comes shows that all is well.
            serve(peer);
        });
        let mut raw = stage.sidecar.connect();
        raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
        let mut head = raw.read_head();
        while head.starts_with("HTTP/1.1 103 ") {
            head = raw.read_head();
        }
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("x-server: good"), "{name}: {head}");
        // And the connection is used again.
        assert!(stage.get().starts_with("HTTP/1.1 200 "), "{name}");
        assert_eq!(stage.server.accepted(), 1, "{name}");
        drop(raw);
        stage.finish();
    }
}

#[test]
fn what_a_server_has_not_looked_at_goes_elsewhere() {
    let refused = frame(kind::RST_STREAM, 0, 1, code::REFUSED.to_be_bytes());
    let goaway = frame(kind::GOAWAY, 0, 0, [0; 8]);
    for (name, bytes) in [("REFUSED_STREAM", refused), ("GOAWAY before the stream", goaway)] {
        let stage = Stage::new(move |raw| {
            let mut peer = Peer::server(raw, &[]);
            assert_eq!(request(&mut peer), Some(1), "{name}");
            peer.raw().offer(&bytes);
            // A stream that was refused may be tried again on the same connection.
            serve(peer);
        });
        let mut raw = stage.sidecar.connect();
        raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello");
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("x-server: good"), "{name}: {head}");
        drop(raw);
        stage.finish();
    }
}

#[test]
fn s6_9_windows_are_kept_to() {
    let (heard, settled) = std::sync::mpsc::channel();
    let stage = Stage::new(move |raw| {
        let mut peer = Peer::server(raw, &[(4, 3)]);
        loop {
            let next = peer.next_of_all().unwrap();
            if next.kind == kind::SETTINGS && next.flags == flag::ACK {
                break;
            }
        }
        heard.send(()).unwrap();
        let (mut got, mut allowed) = (Vec::<u8>::new(), 3);
        loop {
            let next = peer.next_frame().unwrap();
            if next.kind == kind::DATA {
                got.extend(&next.payload);
                assert!(got.len() <= allowed, "{} bytes where {allowed} are allowed", got.len());
                if next.flags & flag::END_STREAM != 0 {
                    break;
                }
                if got.len() == allowed {
                    allowed += 4;
                    peer.raw().send(frame(kind::WINDOW_UPDATE, 0, 1, b"\0\0\0\x04"));
                }
            }
        }
        assert_eq!(got, b"hello, window of three");
        peer.raw().send(headers(flag::END, 1, &[(":status", "200")]));
        serve(peer);
    });
    let mut raw = stage.sidecar.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 22\r\n\r\n");
    // A body that was sent before the settings were read would not have to keep to them.
    settled.recv_timeout(testkit::wait::LONG).expect("the settings are acknowledged");
    raw.send("hello, window of three");
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
    drop(raw);
    stage.finish();
}
