//! What clients may not do, and what they are told.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use engine::balance::Dial;
use engine::policy::{RetryOn, RetryPolicy, TrafficPolicy};
use engine::{Nanos, Protocol};
use http::Response;
use telemetry::metrics::Cursor;
use testkit::raw::{Raw, RawServer};
use testkit::wait;

use crate::http2;
use crate::ways::reason;
use crate::world::{Sidecar, World, endpoint, plain};

const POST: &str = "POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n";
const GET: &str = "GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n";

fn world(change: impl FnOnce(&mut proxy::settings::Limits)) -> (World, RawServer, Sidecar) {
    let app = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|settings| change(&mut settings.limits));
    (world, app, client)
}

#[track_caller]
fn refused(mut raw: Raw, status: u16, why: &str) {
    let head = raw.read_head();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert_eq!(reason(&head), why);
    assert!(head.to_ascii_lowercase().contains("connection: close\r\n"), "{head}");
    raw.read_to_end();
}

#[test]
fn heads_and_targets_are_bounded() {
    let (_world, app, client) = world(|_| {});
    let mut raw = client.connect();
    raw.send(format!("GET http://cart/ HTTP/1.1\r\nHost: cart\r\nX: {}", "x".repeat(70_000)));
    refused(raw, 431, "head_too_large");
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n").send("X: y\r\n".repeat(200)).send("\r\n");
    refused(raw, 431, "head_too_large");
    let mut raw = client.connect();
    raw.send(format!("GET http://cart/{} HTTP/1.1\r\nHost: cart\r\n\r\n", "x".repeat(20_000)));
    refused(raw, 414, "target_too_long");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn a_head_that_comes_too_slowly_is_refused() {
    let (_world, app, client) = world(|limits| limits.head_timeout = Duration::from_millis(200));
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHo");
    refused(raw, 408, "head_timeout");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn a_handshake_that_an_instance_does_not_answer_is_given_up() {
    let silent = RawServer::start(|_, mut raw| drop(raw.read_to_end()));
    let world = World::new();
    let (sni, identity) = ("p80.cart-0.shop.heddle".into(), "spiffe://mesh.test/ns/shop/sa/cart".into());
    let instance = endpoint("cart-0", Dial::Mesh { address: silent.address(), sni, identity });
    let patient = Nanos::from_millis(60_000);
    let policy = TrafficPolicy { connect_timeout: patient, ..TrafficPolicy::default() };
    world.publish_with(Protocol::Http1, vec![instance], policy, None);
    let client = world.client(|settings| settings.limits.handshake_timeout = Duration::from_millis(100));
    let head = client.connect().send(GET).read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(reason(&head), "connect_failed");
}

#[test]
fn an_answers_head_is_bounded() {
    for (answer, fits) in [
        (format!("X: {}\r\n", "x".repeat(60_000)), true),
        (format!("X: {}\r\n", "x".repeat(70_000)), false),
        ("X: y\r\n".repeat(127), true),
        ("X: y\r\n".repeat(128), false),
    ] {
        let app = RawServer::start(move |_, mut raw| {
            raw.next_head();
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{answer}\r\n"));
            raw.read_to_end();
        });
        let world = World::new();
        world.publish(Protocol::Http1, vec![plain(app.address())]);
        let client = world.client(|_| {});
        let head = client.connect().send(POST).read_head();
        match fits {
            true => assert!(head.starts_with("HTTP/1.1 200 "), "{head}"),
            false => {
                assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
                assert_eq!(reason(&head), "upstream_protocol");
            }
        }
    }
}

#[test]
fn trailers_and_methods_are_bounded() {
    let (_world, _app, client) = world(|_| {});
    let mut raw = client.connect();
    raw.send(format!("{} http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n", "M".repeat(33)));
    refused(raw, 400, "bad_request");
    let mut raw = client.connect();
    raw.send(format!("{} http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n", "M".repeat(32)));
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));

    let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(17_000));
    let sent = trailers.clone();
    let app = RawServer::start(move |_, mut raw| {
        if raw.read_head().starts_with("GET ") {
            raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
                .expect("5\r\ngo on")
                .send(&sent);
        }
        raw.read_to_end();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let post = "POST http://cart/ HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut raw = client.connect();
    raw.send(post).send(&trailers);
    refused(raw, 431, "head_too_large");
    let mut raw = client.connect();
    raw.send(post.replace("POST", "GET")).read_head();
    raw.expect("3\r\nabc\r\n").send("5\r\ngo on\r\n");
    let rest = raw.read_to_end();
    assert!(!rest.ends_with(b"\r\n\r\n"), "{}", rest.escape_ascii());
}

#[test]
fn a_tunnel_inside_of_a_tunnel_is_refused() {
    let (_world, _app, client) = world(|_| {});
    let connect = "CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n";
    let mut raw = client.connect();
    assert!(raw.send(connect).read_head().starts_with("HTTP/1.1 200 "));
    raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
    raw.send(connect);
    refused(raw, 400, "bad_request");
}

#[test]
fn many_slow_clients_hold_up_nobody_and_are_let_go() {
    let (_world, app, client) = world(|limits| limits.head_timeout = Duration::from_secs(4));
    let mut slow: Vec<Raw> = (0..200).map(|_| client.connect()).collect();
    // A byte now and then does not make the time longer, which counts from the first one.
    for part in ["GET http://cart/ HTTP/1.1\r\nHo", "s", "t"] {
        for raw in &mut slow {
            raw.send(part);
        }
        let mut raw = client.connect();
        raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
        assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
    }
    for raw in slow {
        refused(raw, 408, "head_timeout");
    }
    assert!(app.accepted() >= 1);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let (_world, _app, client) = world(|limits| limits.keep_alive = Duration::from_millis(100));
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
    raw.read_head();
    raw.expect_end();
    // One that was opened ahead of its first request may be quiet for as long as between two of them,
    client.connect().expect_end();
    // but what it speaks must be known soon after its first byte.
    let (_world, _app, client) = world(|limits| {
        limits.detect_timeout = Duration::from_millis(100);
        limits.head_timeout = Duration::from_millis(100);
    });
    let mut raw = client.connect();
    raw.send("PRI * HTTP");
    refused(raw, 408, "head_timeout");
}

#[test]
fn ambiguous_messages_are_refused_and_go_no_further() {
    let (_world, app, client) = world(|_| {});
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: +4",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "X : y",
        "Host: other",
    ] {
        let mut raw = client.connect();
        raw.send(format!("POST http://cart/ HTTP/1.1\r\nHost: cart\r\n{fields}\r\n\r\n"));
        raw.send("GET http://cart/smuggled HTTP/1.1\r\nHost: cart\r\n\r\n");
        refused(raw, 400, "bad_request");
    }
    let mut raw = client.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: gzip, chunked\r\n\r\n");
    refused(raw, 501, "coding_not_supported");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn a_body_that_breaks_its_framing_ends_the_request() {
    let (ended, end) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        ended.send(raw.read_to_end()).unwrap();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n");
    raw.send("3\r\nabc\r\nzz\r\n");
    refused(raw, 400, "bad_request");
    let seen = end.recv_timeout(testkit::wait::LONG).expect("the application sees the end");
    assert!(!seen.ends_with(b"0\r\n\r\n"), "{}", seen.escape_ascii());
}

#[test]
fn a_body_that_stands_still_is_given_up() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_to_end();
    });
    let world = World::new();
    let policy = TrafficPolicy { idle_timeout: Some(Nanos::from_millis(200)), ..TrafficPolicy::default() };
    world.publish_with(Protocol::Http1, vec![plain(app.address())], policy, None);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send("PUT http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 10\r\n\r\nabc");
    refused(raw, 504, "idle_timeout");
    assert_eq!(app.accepted(), 1);
}

#[test]
fn interim_answers_are_bounded() {
    let app = RawServer::start(|_, mut raw| {
        while let Some(head) = raw.next_head() {
            let count = if head.contains("/flood") { 33 } else { 32 };
            raw.send("HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n".repeat(count));
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    // On one connection: each request is counted for itself, and what is tried again is not counted anew.
    for (path, status) in [("", 200), ("", 200), ("flood", 502)] {
        raw.send(format!("GET http://cart/{path} HTTP/1.1\r\nHost: cart\r\n\r\n"));
        for _ in 0..32 {
            assert!(raw.read_head().starts_with("HTTP/1.1 103 "));
        }
        let head = raw.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        if status == 502 {
            assert_eq!(reason(&head), "upstream_protocol");
        }
    }
}

#[test]
fn interim_answers_over_http2_are_bounded() {
    http2::test(async {
        let (at, _) = http2::app(|request, mut respond| async move {
            let count = if request.uri().path() == "/flood" { 33 } else { 32 };
            for _ in 0..count {
                respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
            }
            // The stream may have been reset by now.
            let _ = respond.send_response(Response::new(()), true);
        })
        .await;
        let world = World::new();
        world.publish(Protocol::Http2, vec![plain(at)]);
        let sidecar = world.client(|_| {});
        let client = http2::client(sidecar.outbound()).await;
        let (head, ..) = http2::call(&client, http2::request("GET", "/"), b"").await;
        assert_eq!(head.status(), 200);
        let (head, ..) = http2::call(&client, http2::request("GET", "/flood"), b"").await;
        assert_eq!(head.status(), 502);
        assert_eq!(head.headers()["heddle-reason"], "upstream_protocol");
    });
}

#[test]
fn garbage_and_half_open_connections_are_closed() {
    let (_world, app, client) = world(|limits| limits.detect_timeout = Duration::from_millis(300));
    let mut raw = client.connect();
    raw.send("\x16\x03\x01\x00\x05\x01garbage\r\n\r\n");
    refused(raw, 400, "bad_request");
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: ca").finish();
    refused(raw, 400, "bad_request");
    client.connect().finish().expect_end();
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/3.0\r\nHost: cart\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 400 ") || head.starts_with("HTTP/1.1 505 "), "{head}");
    assert_eq!(app.accepted(), 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let (_world, _app, client) = world(|limits| limits.connections = 2);
    let mut kept: Vec<Raw> = (0..2).map(|_| client.connect()).collect();
    for raw in &mut kept {
        raw.send(GET).read_head();
    }
    client.connect().expect_end();
    drop(kept.pop());
    testkit::wait::until("a place", testkit::wait::LONG, || {
        let mut raw = client.connect();
        raw.send(GET);
        raw.next_head().ok_or_else(|| "no place yet".to_owned())
    });
}

#[test]
fn unused_upstream_connections_are_closed() {
    let (closed, end) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        closed.send(()).unwrap();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|settings| settings.limits.pool_idle = Duration::from_millis(100));
    let mut raw = client.connect();
    raw.send(GET).read_head();
    end.recv_timeout(testkit::wait::LONG).expect("the application sees the end");
    raw.send(GET).read_head();
    assert_eq!(app.accepted(), 2);
}

#[test]
fn no_more_upstream_connections_are_kept_than_allowed() {
    let together = std::sync::Arc::new(std::sync::Barrier::new(2));
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            // Nobody is answered before both have asked.
            together.wait();
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|settings| settings.limits.pool_per_endpoint = 1);
    let mut pair = [client.connect(), client.connect()];
    for accepted in [2, 3] {
        for raw in &mut pair {
            raw.send(GET);
        }
        for raw in &mut pair {
            assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(app.accepted(), accepted);
    }
}

#[test]
fn a_body_that_is_too_large_to_keep_is_not_sent_twice() {
    let busy = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.expect("0123456789");
            raw.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let world = World::new();
    let on = RetryOn { gateway_errors: true, ..RetryOn::default() };
    let retry = RetryPolicy { attempts: 2, on, backoff_base: Nanos::from_millis(1), ..RetryPolicy::default() };
    let post = "POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 10\r\n\r\n0123456789";
    for (limit, attempts) in [(10, 3), (9, 1)] {
        let policy = TrafficPolicy { retry: retry.clone(), ..TrafficPolicy::default() };
        let backend = world.publish_with(Protocol::Http1, vec![plain(busy.address())], policy, None);
        let client = world.client(|settings| settings.limits.replay_bytes = limit);
        let mut raw = client.connect();
        assert!(raw.send(post).read_head().starts_with("HTTP/1.1 503 "));
        let endpoints = backend.endpoints.load();
        assert_eq!(endpoints.endpoints()[0].load.requests(), attempts, "{limit}");
    }
}

/// One turn of a connection is 128 of such requests, and a client like the second here takes a few turns of the first one's.
#[test]
fn requests_that_are_answered_here_leave_others_their_turn() {
    let world = World::new();
    world.publish(Protocol::Http1, Vec::new());
    let client = world.client(|_| {});
    let flood = TcpStream::connect(client.outbound()).unwrap();
    let served = || -> u64 { world.registry.deltas(&mut Cursor::default()).iter().map(|delta| delta.requests).sum() };
    std::thread::scope(|threads| {
        threads.spawn(|| while (&flood).write_all(GET.repeat(1_000).as_bytes()).is_ok() {});
        threads.spawn(|| while (&flood).read(&mut [0; 65_536]).is_ok_and(|n| n > 0) {});
        wait::until("the flood is served", wait::LONG, || match served() {
            many if many > 1_000 => Ok(()),
            few => Err(format!("{few} requests")),
        });
        // The least of some, for on a busy machine this thread is what waits.
        let meanwhile = (0..10).map(|_| {
            let before = served();
            assert_eq!(reason(&client.connect().send(GET).read_head()), "no_endpoint");
            served() - before
        });
        let least = meanwhile.min();
        flood.shutdown(Shutdown::Both).unwrap();
        assert!(least.is_some_and(|least| least < 1_500), "{least:?} requests of the flood came first");
    });
}
