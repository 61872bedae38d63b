//! HTTP/1.1 through one sidecar and through two.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::Protocol;
use testkit::raw::{Raw, RawServer};
use testkit::wait;

use crate::world::{World, plain};

/// An application that answers each request on a connection with its number there and what it was sent.
fn echo() -> RawServer {
    RawServer::start(|connection, mut raw| {
        let mut request = 0;
        while let Some(head) = raw.next_head() {
            request += 1;
            let body = format!("connection {connection} request {request}\n{head}");
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    })
}

#[test]
fn a_get_goes_through_two_sidecars_on_kept_connections() {
    let app = echo();
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    for request in 1..=3 {
        raw.send("GET http://cart/path?q=1 HTTP/1.1\r\nHost: cart\r\nX-Case: Kept\r\n\r\n");
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let seen = "GET /path?q=1 HTTP/1.1\r\nHost: cart\r\nX-Case: Kept\r\n\r\n";
        raw.expect(format!("connection 0 request {request}\n{seen}"));
    }
    assert_eq!(app.accepted(), 1);
}

#[test]
fn bodies_of_announced_length_and_in_chunks_arrive_whole() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_head();
        raw.expect("hello");
        raw.send("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok");
        let head = raw.read_head();
        assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
        let body = raw.read_through("\r\n\r\n");
        assert_eq!(body, b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n");
        raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
        raw.send("3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n");
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello");
    assert!(raw.read_head().starts_with("HTTP/1.1 201 Created\r\n"));
    raw.expect("ok");
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
    raw.send("5\r\nhello\r\n").send("6\r\n world\r\n").send("0\r\nX-Sum: 11\r\n\r\n");
    assert!(raw.read_head().contains("Transfer-Encoding: chunked\r\n"));
    raw.expect("3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n");
    drop((client, _server));
    app.finish();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let app = echo();
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    let request = |n| format!("GET http://cart/{n} HTTP/1.1\r\nHost: cart\r\n\r\n");
    raw.send([request(1), request(2), request(3)].concat());
    for n in 1..=3 {
        raw.read_head();
        raw.expect(format!("connection 0 request {n}\nGET /{n} HTTP/1.1\r\nHost: cart\r\n\r\n"));
    }
}

#[test]
fn a_client_that_waits_for_100_is_told_by_the_application() {
    let app = RawServer::start(|_, mut raw| {
        assert!(raw.read_head().contains("Expect: 100-continue\r\n"));
        raw.send("HTTP/1.1 100 Continue\r\n\r\n");
        raw.expect("body");
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("PUT http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(raw.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("body");
    assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
    drop((client, _server));
    app.finish();
}

#[test]
fn an_answer_before_the_end_of_the_request_reaches_the_client() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_head();
        raw.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 1000000\r\n\r\nthe beginning");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
    assert!(head.contains("Connection: close\r\n"), "it cannot take another request: {head}");
    raw.expect("no").expect_end();
}

#[test]
fn a_connection_is_given_up_before_the_time_that_its_server_keeps_it() {
    let (over, told) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: max=100, timeout=1\r\n\r\nok");
        }
        over.send(()).unwrap();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|settings| settings.limits.pool_idle = 2 * wait::LONG);
    let mut raw = client.connect();
    let mut post = || {
        raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
        let head = raw.read_head();
        assert!(!head.contains("Keep-Alive"), "that is between the sidecar and the application: {head}");
        raw.expect("ok");
    };
    post();
    told.recv_timeout(wait::LONG).expect("the sidecar closes it");
    post();
    assert_eq!(app.accepted(), 2);
}

#[test]
fn both_bodies_stream_at_the_same_time() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_head();
        raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            raw.expect("4\r\nping\r\n");
            raw.send("4\r\npong\r\n");
        }
        raw.expect("0\r\n\r\n");
        raw.send("0\r\n\r\n");
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n");
    raw.read_head();
    for _ in 0..3 {
        raw.send("4\r\nping\r\n").expect("4\r\npong\r\n");
    }
    raw.send("0\r\n\r\n").expect("0\r\n\r\n");
    drop((client, _server));
    app.finish();
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let app = RawServer::start(|_, mut raw| {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast",
        ] {
            raw.read_head();
            raw.send(answer);
        }
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("HEAD http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
    assert!(raw.read_head().contains("Content-Length: 5\r\n"));
    for status in ["204", "304", "200"] {
        raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
        let head = raw.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    raw.expect("last");
    assert_eq!(app.accepted(), 1);
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let app = RawServer::start(|_, mut raw| {
        let head = raw.read_head();
        assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
        raw.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        raw.expect("frame");
        raw.send("emarf");
        raw.expect_end();
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("GET http://cart/ws HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("Upgrade: websocket\r\n"), "{head}");
    raw.expect("hello").send("frame").expect("emarf").finish();
    raw.expect_end();
    app.finish();
}

#[test]
fn an_upgraded_connection_that_its_instance_resets_is_no_success() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_head();
        raw.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        raw.expect("frame");
        raw.reset();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send("GET http://cart/ws HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    raw.read_head();
    raw.expect("hello").send("frame").expect_end();
    wait::until("the connection to be counted", wait::LONG, || {
        let metrics = world.registry.render_prometheus(&[]);
        if metrics.contains("reason=\"upstream_reset\"} 1") { Ok(()) } else { Err(metrics) }
    });
}

/// Many clients write all of their request before they read.
#[test]
fn a_client_that_writes_a_long_body_first_reads_why_it_is_refused() {
    const BODY: usize = 4 * 1024 * 1024;
    let world = World::new();
    world.publish(Protocol::Http1, Vec::new());
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(format!("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: {BODY}\r\n\r\n"));
    raw.send(vec![b'x'; BODY]);
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

#[test]
fn a_slow_reader_stops_the_sender() {
    const BODY: usize = 256 * 1024 * 1024;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
        let piece = vec![b'x'; 256 * 1024];
        for _ in 0..BODY / piece.len() {
            raw.send(&piece);
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
    raw.read_head();
    // When nothing has moved for a while, the buffers on the way are full: those of three connections in the kernel, and
    // the little that the sidecars hold.
    let mut last = (0, 0);
    let stalled = wait::until("the sender to stop", wait::LONG, || {
        let now = sent.load(Ordering::Relaxed);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        if last.1 >= 50 { Ok(now) } else { Err(format!("{now} bytes sent")) }
    });
    assert!(stalled < 64 * 1024 * 1024, "{stalled} bytes were taken from the sender");
    let mut got = 0;
    let mut space = vec![0; 1024 * 1024];
    while got < BODY - 1024 * 1024 {
        let n = raw.stream().read(&mut space).unwrap();
        assert!(n > 0, "the end came after {got} bytes");
        got += n;
    }
    drop(raw);
}

#[test]
fn a_client_of_http_1_0_gets_an_answer_that_it_understands() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_head();
        raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.0\r\n\r\n");
    let head = raw.read_head();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    raw.expect("abc").expect_end();
}

#[test]
fn an_answer_that_is_cut_off_is_not_taken_for_whole() {
    let (seen, begun) = std::sync::mpsc::channel::<()>();
    let begun = std::sync::Mutex::new(begun);
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        begun.lock().unwrap().recv_timeout(wait::LONG).unwrap();
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
    raw.read_head();
    seen.send(()).unwrap();
    let rest = raw.read_to_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", rest.escape_ascii());
}

#[test]
fn a_request_is_given_up_when_its_client_goes_away() {
    let (gone, ended) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        raw.expect_end();
        gone.send(()).unwrap();
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("GET http://cart/slow HTTP/1.1\r\nHost: cart\r\n\r\n");
    wait::until("the request to arrive", wait::LONG, || {
        if app.accepted() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    drop(raw);
    ended.recv_timeout(wait::LONG).expect("the application sees the end");
}

#[test]
fn a_client_that_closes_its_side_after_its_last_request_is_answered() {
    let (ask, go) = std::sync::mpsc::channel::<()>();
    let go = std::sync::Mutex::new(go);
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        go.lock().unwrap().recv_timeout(wait::LONG).unwrap();
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw: Raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").finish();
    wait::until("the request to arrive", wait::LONG, || {
        if app.accepted() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    ask.send(()).unwrap();
    assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
    raw.expect("ok").expect_end();
}

/// Long bodies between plain connections pass inside the kernel; what follows on the same connections is not lost in it.
#[test]
fn long_bodies_pass_whole_both_ways_and_one_that_is_cut_off_is_not_whole() {
    const LONG: usize = 3 * 1024 * 1024 + 17;
    let body: Arc<Vec<u8>> = Arc::new((0..LONG).map(|n| (n / 3 + n * 7) as u8).collect());
    let sent = Arc::clone(&body);
    let app = RawServer::start(move |_, mut raw| {
        while let Some(head) = raw.next_head() {
            if head.starts_with("POST ") {
                raw.expect(&*sent);
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                continue;
            }
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\n"));
            if head.starts_with("GET /cut ") {
                raw.send(&sent[..LONG / 2]);
                return;
            }
            raw.send(&*sent);
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    for _ in 0..2 {
        raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
        assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.expect(&*body);
        raw.send(format!("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: {LONG}\r\n\r\n")).send(&*body);
        assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
        raw.expect("ok");
    }
    assert_eq!(app.accepted(), 1);
    raw.send("GET http://cart/cut HTTP/1.1\r\nHost: cart\r\n\r\n");
    raw.read_head();
    let mut got = Vec::new();
    assert!(raw.stream().read_to_end(&mut got).is_err(), "a reset, not an end");
    assert!(got.len() <= LONG / 2);
}

/// What does not fit into a socket is written when its client reads at last, and nobody else waits for that.
#[test]
fn many_clients_that_read_late_get_every_answer_whole() {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 300;
    let body = "0123456789abcdef".repeat(512);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            raw.send(&answer);
        }
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    // Nobody reads before all have sent.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut raw = client.connect();
            raw.send(format!("GET http://cart/{number} HTTP/1.1\r\nHost: cart\r\n\r\n").repeat(REQUESTS));
            raw
        })
        .collect();
    std::thread::scope(|threads| {
        for mut raw in clients {
            let body = &body;
            threads.spawn(move || {
                for _ in 0..REQUESTS {
                    assert!(raw.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
                    raw.expect(body.as_str());
                }
            });
        }
    });
}
