//! Peers that use HTTP/2 as a weapon.

use std::io::{Read, Write};
use std::net::TcpStream;

use engine::Protocol;
use testkit::raw::RawServer;
use testkit::wait::LONG;

use crate::http2::{call, client, request, test};
use crate::world::{Sidecar, World, plain};

/// What a client says first (RFC 9113, 3.4), with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// `:method GET`, `:scheme http`, `:path /` from HPACK's static table, and `:authority cart` as a literal.
const GET_CART: &[u8] = b"\x82\x86\x84\x01\x04cart";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Writes until the peer has had enough or `most` bytes are out; then what it said.
fn flood(stream: &mut TcpStream, mut next: impl FnMut() -> Vec<u8>, most: usize) -> (usize, Vec<u8>) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    let mut sent = 0;
    while sent < most {
        let bytes = next();
        sent += bytes.len();
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
    let mut said = Vec::new();
    // A reset may take the last words with it.
    let _ = stream.read_to_end(&mut said);
    (sent, said)
}

/// Whether `said` holds a GOAWAY frame.
fn goaway(mut said: &[u8]) -> bool {
    while said.len() >= 9 {
        let length = usize::from(said[0]) << 16 | usize::from(said[1]) << 8 | usize::from(said[2]);
        if said[3] == GOAWAY {
            return true;
        }
        said = said.get(9 + length..).unwrap_or_default();
    }
    false
}

/// A client's sidecar in front of an application that never answers.
struct Stage {
    app: RawServer,
    world: World,
    sidecar: Sidecar,
}

impl Stage {
    fn new() -> Stage {
        let app = RawServer::start(|_, mut raw| drop(raw.read_to_end()));
        let world = World::new();
        world.publish(Protocol::Http2, vec![plain(app.address())]);
        let sidecar = world.client(|_| {});
        Stage { app, world, sidecar }
    }

    /// A connection that has begun well.
    fn attack(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.sidecar.outbound()).unwrap();
        stream.write_all(PREFACE).unwrap();
        stream
    }
}

#[test]
fn a_head_without_end_closes_the_connection() {
    let stage = Stage::new();
    let mut stream = stage.attack();
    stream.write_all(&frame(HEADERS, END_STREAM, 1, GET_CART)).unwrap();
    // A literal field without indexing: name of one byte, value of 100.
    let mut field = b"\x00\x01x\x64".to_vec();
    field.extend([b'y'; 100]);
    let most = 64 << 20;
    let (sent, _) = flood(&mut stream, || frame(CONTINUATION, 0, 1, &field.repeat(150)), most);
    assert!(sent < most, "it read {sent} bytes of one head");
    assert_eq!(stage.app.accepted(), 0);
}

#[test]
fn streams_that_are_reset_at_once_close_the_connection() {
    let stage = Stage::new();
    let mut stream = stage.attack();
    let mut id = 1;
    let burst = || {
        let mut bytes = Vec::new();
        for _ in 0..200 {
            bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, id, GET_CART));
            bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            id += 2;
        }
        bytes
    };
    let most = 8 << 20;
    let (sent, said) = flood(&mut stream, burst, most);
    assert!(sent < most && (said.is_empty() || goaway(&said)), "{sent} bytes were read, {} said", said.len());
}

#[test]
fn a_head_that_is_too_large_is_answered_with_431() {
    test(async {
        let Stage { app, world, sidecar } = Stage::new();
        let client = client(sidecar.outbound()).await;
        let large = |bytes: usize| {
            let mut large = request("GET", "/");
            for n in 0..bytes / 10_000 {
                let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
                large.headers_mut().insert(name, http::HeaderValue::try_from("y".repeat(10_000)).unwrap());
            }
            large
        };
        // 65,536 are allowed. What is not far beyond them is answered as over HTTP/1, and counted.
        let (head, body, _) = call(&client, large(70_000), b"").await;
        assert_eq!(head.status(), 431);
        assert_eq!(head.headers()["heddle-reason"], "head_too_large");
        assert!(!body.is_empty());
        let metrics = world.registry.render_prometheus(&[]);
        assert!(metrics.contains("class=\"4xx\",reason=\"head_too_large\"} 1"), "{metrics}");
        // So is what is far beyond them, though none of it is kept; and the connection serves on.
        let (head, ..) = call(&client, large(200_000), b"").await;
        assert_eq!(head.status(), 431);
        assert_eq!(head.headers()["heddle-reason"], "head_too_large");
        assert_eq!(app.accepted(), 0);
        // What is beyond four times as much is not even decoded.
        let mut client = client.ready().await.unwrap();
        let error = client.send_request(large(600_000), true).unwrap().0.await.unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    });
}
