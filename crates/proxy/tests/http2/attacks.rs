//! Peers that keep to the grammar and mean harm. Each must be cut off soon, with ENHANCE_YOUR_CALM or the code of what it breaks;
//! the limits are in `docs/limits.md`.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::Protocol;
use testkit::http2::{Peer, block, flag, frame, kind, settings};
use testkit::raw::{Raw, RawServer};
use testkit::wait;

use crate::expect::code;
use crate::world::{Sidecar, World, plain};

/// What an attack may send before it must have been cut off.
const MOST: usize = 16 << 20;

const WAIT: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/wait"), (":authority", "cart")];

/// A sidecar before an application that never answers.
struct Stage {
    sidecar: Sidecar,
    app: RawServer,
    _world: World,
}

impl Stage {
    fn new() -> Stage {
        let app = RawServer::start(|_, mut raw| drop(raw.read_to_end()));
        let world = World::new();
        world.publish(Protocol::Http1, vec![plain(app.address())]);
        let sidecar = world.client(|_| {});
        Stage { sidecar, app, _world: world }
    }

    /// Sends what `next` makes, reading all answers, until it is cut off; it must say why.
    #[track_caller]
    fn flood(&self, name: &str, first: &[u8], mut next: impl FnMut() -> Vec<u8>) {
        let mut peer = Peer::connect(self.sidecar.outbound(), &[]);
        peer.raw().send(first);
        let reading = peer.raw().stream().try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut peer = Peer::from(Raw::new(reading));
            let mut said = None;
            while let Some(frame) = peer.next_of_all() {
                if frame.kind == kind::GOAWAY {
                    said = Some(frame.number(4));
                }
            }
            said
        });
        let mut sent = 0;
        while sent < MOST {
            // A few hundred frames at a time, so that the attack is not slowed down by system calls.
            let bytes: Vec<u8> = (0..200).flat_map(|_| next()).collect();
            sent += bytes.len();
            if peer.raw().stream().write_all(&bytes).is_err() {
                break;
            }
        }
        assert!(sent < MOST, "{name}: {sent} bytes were taken");
        let said = reader.join().unwrap();
        assert!(matches!(said, Some(code::CALM | code::PROTOCOL)), "{name}: it ended with {said:?}");
        self.serves(name);
    }

    /// Others are served: at least a PING, since the application does not answer.
    #[track_caller]
    fn serves(&self, name: &str) {
        let mut peer = Peer::connect(self.sidecar.outbound(), &[]);
        crate::expect::alive(name, &mut peer);
    }
}

fn head(flags: u8, stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block(WAIT))
}

/// Numbers of a client's streams, in order.
fn numbers() -> impl FnMut() -> u32 {
    let mut next = 1;
    move || {
        next += 2;
        next - 2
    }
}

#[test]
fn frames_that_bring_nothing() {
    let stage = Stage::new();
    let open = head(flag::END_HEADERS, 1);
    let mut window = 0_u32;
    stage.flood("PING", b"", || frame(kind::PING, 0, 0, b"12345678"));
    stage.flood("SETTINGS", b"", || frame(kind::SETTINGS, 0, 0, settings(&[(4, 65_535)])));
    stage.flood("windows up and down", &open, || {
        window ^= 0xffff;
        frame(kind::SETTINGS, 0, 0, settings(&[(4, window)]))
    });
    stage.flood("PRIORITY", b"", || frame(kind::PRIORITY, 0, 1, b"\0\0\0\0\x10"));
    stage.flood("empty DATA", &open, || frame(kind::DATA, 0, 1, b""));
    stage.flood("DATA of padding", &open, || frame(kind::DATA, flag::PADDED, 1, b"\0"));
    stage.flood("WINDOW_UPDATE", &open, || frame(kind::WINDOW_UPDATE, 0, 1, b"\0\0\0\x01"));
    stage.flood("unknown frames", b"", || frame(0xee, 0, 0, b""));
}

#[test]
fn heads_without_end() {
    let stage = Stage::new();
    let open = frame(kind::HEADERS, flag::END_STREAM, 1, block(WAIT));
    stage.flood("CONTINUATION, empty", &open, || frame(kind::CONTINUATION, 0, 1, b""));
    stage.flood("CONTINUATION", &open, || frame(kind::CONTINUATION, 0, 1, block(&[("x", "y".repeat(100))])));
    assert_eq!(stage.app.accepted(), 0);
}

#[test]
fn streams_that_end_at_once() {
    let stage = Stage::new();
    let mut id = numbers();
    stage.flood("rapid reset", b"", || {
        let stream = id();
        [head(flag::END, stream), frame(kind::RST_STREAM, 0, stream, code::CANCEL.to_be_bytes())].concat()
    });
    // CVE-2025-8671: the server is made to reset the streams itself.
    let mut id = numbers();
    stage.flood("made you reset by a window of nothing", b"", || {
        let stream = id();
        [head(flag::END_HEADERS, stream), frame(kind::WINDOW_UPDATE, 0, stream, [0; 4])].concat()
    });
    let mut id = numbers();
    stage.flood("made you reset by a window too large", b"", || {
        let stream = id();
        [head(flag::END_HEADERS, stream), frame(kind::WINDOW_UPDATE, 0, stream, b"\x7f\xff\xff\xff")].concat()
    });
    let mut id = numbers();
    stage.flood("made you reset by DATA after the end", b"", || {
        let stream = id();
        [head(flag::END, stream), frame(kind::DATA, 0, stream, b"x")].concat()
    });
    let mut id = numbers();
    stage.flood("malformed requests", b"", || frame(kind::HEADERS, flag::END, id(), block(&[(":method", "GET")])));
    let mut id = numbers();
    stage.flood("streams beyond the limit", b"", || head(flag::END, id()));
}

/// A block of a few kilobytes whose fields would be many megabytes is refused as too large, and costs its connection nothing.
#[test]
fn a_bomb_of_compressed_fields() {
    let stage = Stage::new();
    let mut peer = Peer::connect(stage.sidecar.outbound(), &[]);
    let mut bomb = block(WAIT);
    // One field of 4,000 bytes enters the table; then it is named ten thousand times.
    bomb.extend(b"\x40\x01x\x7f\xa1\x1e");
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 10_000]);
    peer.send(kind::HEADERS, flag::END, 1, bomb);
    loop {
        let next = peer.next_frame().expect("an answer");
        assert_ne!(next.kind, kind::GOAWAY, "{next:?}");
        if next.stream == 1 && [kind::HEADERS, kind::RST_STREAM].contains(&next.kind) {
            assert!(next.kind == kind::RST_STREAM || next.status() == Some(431), "{next:?}");
            break;
        }
    }
    crate::expect::alive("after the bomb", &mut peer);
    assert_eq!(stage.app.accepted(), 0);
}

/// Heads are under no flow control, so a client that asks and never reads could make us hold any number of answers.
#[test]
fn a_peer_that_reads_nothing_is_not_listened_to() {
    const BATCH: usize = 40;
    const HEAD: usize = 12 * 1024;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let app = RawServer::start(move |_, mut raw| {
        let answer = format!("HTTP/1.1 200 OK\r\nx: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(HEAD));
        while raw.next_head().is_some() {
            count.fetch_add(1, Ordering::Relaxed);
            raw.offer(&answer);
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let sidecar = world.client(|_| {});
    let mut peer = Peer::connect(sidecar.outbound(), &[]);
    let (mut id, mut sent) = (numbers(), 0);
    loop {
        // Never more at a time than a connection may have open.
        let batch: Vec<u8> = (0..BATCH).flat_map(|_| head(flag::END, id())).collect();
        peer.raw().send(batch);
        sent += BATCH;
        let mut same = (0, 0);
        let stalled = wait::until("the requests to be served, or not to be", wait::LONG, || {
            let now = asked.load(Ordering::Relaxed);
            same = if now == same.0 { (now, same.1 + 1) } else { (now, 0) };
            match now {
                _ if now == sent => Ok(false),
                _ if same.1 >= 50 => Ok(true),
                _ => Err(format!("{now} of {sent}")),
            }
        });
        if stalled {
            break;
        }
        // Besides what we hold, the kernel takes some megabytes on either side.
        assert!(sent * HEAD < 2 * MOST, "{sent} requests were served for a client that reads nothing");
    }
    // Nothing of it is lost when it reads in the end.
    let mut answered = 0;
    while answered < sent {
        let frame = peer.next_frame().expect("the connection goes on");
        assert_eq!(frame.kind, kind::HEADERS, "{frame:?}");
        answered += 1;
    }
    crate::expect::alive("after it has read", &mut peer);
}
