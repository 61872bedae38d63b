//! Many requests on one connection between two sidecars.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Barrier};

use engine::Protocol;
use engine::authorize::Authorizer;
use engine::balance::{Dial, Endpoint};
use net::tls::{self, Alpn};
use testkit::raw::{Raw, RawServer};
use testkit::wait::LONG;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

/// Passes bytes on to `to` and back, and counts connections.
fn counting(to: std::net::SocketAddr) -> RawServer {
    RawServer::start(move |_, raw| {
        let up = TcpStream::connect(to).unwrap();
        let pass = |mut from: TcpStream, mut to: TcpStream| {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        };
        let down = raw.stream().try_clone().unwrap();
        down.set_read_timeout(None).unwrap();
        std::thread::scope(|scope| {
            let (from, to) = (down.try_clone().unwrap(), up.try_clone().unwrap());
            scope.spawn(move || pass(from, to));
            pass(up, down);
        });
    })
}

fn get(raw: &mut Raw, path: &str) {
    raw.send(format!("GET http://cart/{path} HTTP/1.1\r\nHost: cart\r\n\r\n"));
}

#[test]
fn small_requests_share_a_connection_and_large_ones_get_their_own() {
    const TOGETHER: usize = 8;
    const LARGE: usize = 256 * 1024;
    let all_here = Arc::new(Barrier::new(TOGETHER));
    let app = RawServer::start(move |_, mut raw| {
        while let Some(head) = raw.next_head() {
            let length = if head.starts_with("GET /large ") { LARGE } else { 2 };
            if head.starts_with("GET /together ") {
                all_here.wait();
            }
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).send(vec![b'x'; length]);
        }
    });
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let between = counting(server.inbound());
    let endpoint = server.endpoint(app.address().port());
    let Dial::Mesh { sni, identity, .. } = endpoint.dial.clone() else { panic!("it has a sidecar") };
    let dial = Dial::Mesh { address: between.address(), sni, identity };
    world.publish(Protocol::Http1, vec![Endpoint { dial, ..endpoint }]);
    let client = world.client(|_| {});
    let mut clients: Vec<Raw> = (0..TOGETHER).map(|_| client.connect()).collect();
    clients.iter_mut().for_each(|raw| get(raw, "together"));
    for raw in &mut clients {
        assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        raw.expect("xx");
    }
    assert_eq!(between.accepted(), 1, "all of them were under way at once");
    for _ in 0..3 {
        get(&mut clients[0], "large");
        clients[0].read_head();
        clients[0].expect(vec![b'x'; LARGE]);
    }
    assert_eq!(between.accepted(), 2, "the first was not known to be large");
    for _ in 0..100 {
        get(&mut clients[0], "small");
        clients[0].read_head();
        clients[0].expect("xx");
    }
    assert_eq!(between.accepted(), 2);
    drop((clients, client, server));
}

#[test]
fn a_client_that_does_not_read_holds_nobody_else_up() {
    const LARGE: usize = 8 * 1024 * 1024;
    let app = RawServer::start(|_, mut raw| {
        while let Some(head) = raw.next_head() {
            let length = if head.starts_with("GET /large ") { LARGE } else { 2 };
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).send(vec![b'x'; length]);
        }
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let (mut slow, mut other) = (client.connect(), client.connect());
    get(&mut slow, "large");
    slow.read_head();
    for _ in 0..20 {
        get(&mut other, "small");
        other.read_head();
        other.expect("xx");
    }
    slow.expect(vec![b'x'; LARGE]);
}

/// The wire as docs/architecture.md has it, and its end when a peer does not keep to it.
#[test]
fn a_link_is_frames_over_tls_and_nonsense_ends_it() {
    let app = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let sni = format!("p{}.cart-0.shop.heddle", app.address().port());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.inbound()).await.unwrap();
        let identity = "spiffe://mesh.test/ns/shop/sa/cart";
        let mut link = tls::connect(stream, &world.identity("client"), identity, &sni, Alpn::Link).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
        let (open, data) = ([5, 0, 0, 0, 0, 0, 0, 7], [0, 0, 0, request.len() as u8, 0, 0, 0, 7]);
        let bytes = [open.as_slice(), &data, request].concat();
        link.write_all(&bytes).await.unwrap();
        let mut frame = [0; 8];
        tokio::time::timeout(LONG, link.read_exact(&mut frame)).await.expect("it answers").unwrap();
        assert_eq!((&frame[..3], &frame[4..]), (&[0, 0, 0][..], &[0, 0, 0, 7][..]));
        let mut got = vec![0; usize::from(frame[3])];
        tokio::time::timeout(LONG, link.read_exact(&mut got)).await.expect("it goes on").unwrap();
        let text = String::from_utf8_lossy(&got);
        // How long the application took is told behind the fields that are its own.
        let rest = text.strip_prefix("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nheddle-load: 1 ").expect("its fields");
        let (micros, body) = rest.split_once("\r\n\r\n").expect("the head's end");
        assert!(micros.parse::<u32>().is_ok() && body == "ok", "{text}");
        link.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        got.clear();
        // An error is as good as the end.
        let _ = tokio::time::timeout(LONG, link.read_to_end(&mut got)).await.expect("it is closed");
        assert_eq!(got, b"");
    });
}

/// Answers of other streams fill the link; the word that a client waits for before it sends its body must not be forgotten.
#[tokio::test]
async fn an_interim_answer_that_has_to_wait_goes_out_when_the_link_takes_it() {
    const LARGE: usize = 8 * 1024 * 1024;
    const STREAMS: u8 = 20;
    let (told, heard) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        let Some(head) = raw.next_head() else { return };
        if head.starts_with("POST /") {
            raw.send("HTTP/1.1 100 Continue\r\n\r\n");
            told.send(()).unwrap();
            raw.expect("body");
        } else if head.starts_with("GET /large ") {
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            // It is cut off in the end.
            let _ = raw.stream().write_all(&vec![b'x'; LARGE]);
        } else {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let identity = world.identity("client");
    let connect = async |alpn| {
        let stream = tokio::net::TcpStream::connect(server.inbound()).await.unwrap();
        let sni = format!("p{}.cart-0.shop.heddle", app.address().port());
        tls::connect(stream, &identity, "spiffe://mesh.test/ns/shop/sa/cart", &sni, alpn).await.unwrap()
    };
    let mut link = connect(Alpn::Link).await;
    let request = |stream: u8, request: &[u8]| {
        [&[5, 0, 0, 0, 0, 0, 0, stream], &[0, 0, 0, request.len() as u8, 0, 0, 0, stream][..], request].concat()
    };
    for stream in 0..STREAMS {
        link.write_all(&request(stream, b"GET /large HTTP/1.1\r\nHost: cart\r\n\r\n")).await.unwrap();
    }
    // What a request on another connection takes, the one worker has seen: the link is full.
    let settle = async || {
        for _ in 0..3 {
            let mut other = connect(Alpn::Http1).await;
            other.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut got = Vec::new();
            let _ = tokio::time::timeout(LONG, other.read_to_end(&mut got)).await.expect("it is answered");
            assert!(got.ends_with(b"ok"));
        }
    };
    settle().await;
    let post = b"POST / HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    link.write_all(&request(STREAMS, post)).await.unwrap();
    heard.recv_timeout(LONG).unwrap();
    settle().await;
    loop {
        let mut header = [0; 8];
        tokio::time::timeout(LONG, link.read_exact(&mut header)).await.expect("there is more").unwrap();
        let length = usize::from(header[2]) << 8 | usize::from(header[3]);
        let mut payload = vec![0; length];
        link.read_exact(&mut payload).await.unwrap();
        if header[7] == STREAMS {
            assert!(payload.starts_with(b"HTTP/1.1 100 Continue\r\n"), "{}", payload.escape_ascii());
            break;
        }
    }
}

/// A server that has too many streams refuses the next one before it looks at it, so whatever was asked there can be asked again.
#[tokio::test]
async fn a_request_on_a_stream_that_the_server_refuses_is_repeated() {
    const REFUSE: u8 = 6;
    let world = World::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = "spiffe://mesh.test/ns/shop/sa/cart";
    let dial = Dial::Mesh {
        address: listener.local_addr().unwrap(),
        sni: "p80.cart-0.shop.heddle".into(),
        identity: identity.into(),
    };
    world.publish(Protocol::Http1, vec![crate::world::endpoint("cart-0", dial)]);
    let client = world.client(|_| {});
    let asked = tokio::task::spawn_blocking(move || {
        let mut raw = client.connect();
        raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 4\r\n\r\nonce");
        let head = raw.read_head();
        (client, head)
    });
    let (stream, _) = listener.accept().await.unwrap();
    let (mut link, peer) = tls::accept(stream, &world.identity("cart")).await.unwrap();
    assert_eq!(peer.alpn, Alpn::Link);
    let mut opened = 0;
    let serve = async {
        loop {
            let mut header = [0; 8];
            link.read_exact(&mut header).await.unwrap();
            let length = usize::from(header[2]) << 8 | usize::from(header[3]);
            let mut payload = vec![0; length];
            link.read_exact(&mut payload).await.unwrap();
            let stream = &header[4..];
            opened += usize::from(header[0] == 5);
            if header[0] == 5 && opened == 1 {
                link.write_all(&[[REFUSE, 0, 0, 0].as_slice(), stream].concat()).await.unwrap();
            }
            if header[0] == 0 && opened == 2 && payload.ends_with(b"once") {
                let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                let frame = [[0, 0, 0, answer.len() as u8].as_slice(), stream, answer].concat();
                link.write_all(&frame).await.unwrap();
                return;
            }
        }
    };
    let answered = async { tokio::join!(serve, asked).1.unwrap() };
    let (_client, head) = tokio::time::timeout(LONG, answered).await.expect("it is asked again");
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
}
