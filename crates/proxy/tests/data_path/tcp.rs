//! Opaque connections.

use std::time::{Duration, Instant};

use engine::Protocol;
use engine::policy::TrafficPolicy;
use engine::route::RouteInput;
use testkit::raw::{Raw, RawServer};
use testkit::wait::{LONG, until};

use crate::world::{World, listener, plain};

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    let app = RawServer::start(|_, mut raw| {
        raw.send("220 ready\r\n");
        raw.expect("HELO\r\n").send("250 ok\r\n");
        raw.expect_end();
    });
    let world = World::new();
    let server = world.server(app.address(), Protocol::Auto, Default::default());
    world.publish(Protocol::Auto, vec![server.endpoint(app.address().port())]);
    let mut at = None;
    let client = world.client(|settings| {
        at = Some(listener(settings));
        settings.limits.detect_timeout = Duration::from_secs(20);
    });
    for _ in 0..2 {
        let begin = Instant::now();
        let mut raw = Raw::connect(at.unwrap());
        raw.expect("220 ready\r\n");
        assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
        raw.send("HELO\r\n").expect("250 ok\r\n").finish();
        raw.expect_end();
    }
    drop((client, server));
    app.finish();
}

#[test]
fn a_client_that_speaks_first_is_carried_as_it_is() {
    let app = RawServer::start(|_, mut raw| {
        raw.expect("\x00\x01binary");
        raw.send("yranib\x01\x00");
        raw.expect_end();
    });
    let world = World::new();
    for protocol in [Protocol::Auto, Protocol::Tcp] {
        let server = world.server(app.address(), protocol, Default::default());
        world.publish(protocol, vec![server.endpoint(app.address().port())]);
        let mut at = None;
        let _client = world.client(|settings| at = Some(listener(settings)));
        let mut raw = Raw::connect(at.unwrap());
        raw.send("\x00\x01binary").expect("yranib\x01\x00").finish();
        raw.expect_end();
    }
    app.finish();
}

#[test]
fn http_on_a_port_of_unknown_protocol_is_recognised() {
    let app = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let backend = world.publish(Protocol::Auto, vec![plain(app.address())]);
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    let mut raw = Raw::connect(at.unwrap());
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        raw.read_head();
        raw.expect("ok");
    }
    // Where the dial was quicker than the client's first bytes, what was dialled for an opaque connection was chosen too.
    let chosen = backend.endpoints.load().endpoints()[0].load.requests();
    assert!((3..=4).contains(&chosen), "each request was counted: {chosen}");
}

/// Publishes a service at `address` with an HTTP route that takes no request.
fn publish_with_route(world: &World, address: std::net::SocketAddr) {
    world.publish_with(
        Protocol::Auto,
        vec![plain(address)],
        TrafficPolicy::default(),
        Some(&|_| vec![RouteInput { hosts: Vec::new(), created: 0, name: "shop/none".into(), rules: Vec::new() }]),
    );
}

#[test]
fn who_waits_for_a_server_behind_http_rules_is_refused_when_it_speaks() {
    let app = RawServer::start(|_, mut raw| {
        raw.offer("220 ready\r\n");
        raw.next_head();
    });
    let world = World::new();
    publish_with_route(&world, app.address());
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    for _ in 0..3 {
        let begin = Instant::now();
        let mut raw = Raw::connect(at.unwrap());
        raw.expect_end();
        assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    }
}

#[test]
fn who_is_slow_to_speak_http_behind_http_rules_is_served() {
    let (dialled, hear) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        dialled.send(()).unwrap();
        raw.expect_end();
    });
    let world = World::new();
    publish_with_route(&world, app.address());
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    let mut raw = Raw::connect(at.unwrap());
    // A server that says nothing tells nothing.
    hear.recv_timeout(LONG).unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 404 "));
    // Nor does one that cannot be reached.
    publish_with_route(&world, testkit::address::free());
    let mut raw = Raw::connect(at.unwrap());
    raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_port_with_http_rules_takes_no_opaque_bytes() {
    let app = RawServer::start(|_, mut raw| raw.expect_end());
    let world = World::new();
    publish_with_route(&world, app.address());
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    let mut raw = Raw::connect(at.unwrap());
    raw.send("\x00\x01binary\r\n\r\n");
    raw.expect_end();
    // It may have been dialled, and has heard nothing.
    app.finish();
}

#[test]
fn another_instance_is_dialled_when_one_cannot_be_reached() {
    let app = RawServer::start(|_, mut raw| {
        raw.expect("hello").send("ok");
    });
    let world = World::new();
    let nobody = testkit::address::free();
    world.publish(Protocol::Tcp, vec![plain(nobody), plain(app.address())]);
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    for _ in 0..8 {
        let mut raw = Raw::connect(at.unwrap());
        raw.send("hello").expect("ok");
    }
}

#[test]
fn a_reset_is_passed_on() {
    let app = RawServer::start(|_, mut raw| {
        raw.expect("go");
        raw.reset();
    });
    let world = World::new();
    world.publish(Protocol::Tcp, vec![plain(app.address())]);
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    let mut raw = Raw::connect(at.unwrap());
    raw.send("go");
    raw.expect_end();
}

#[test]
fn an_unfinished_beginning_is_passed_on_soon() {
    // It could become HTTP, and its server waits for it.
    let app = RawServer::start(|_, mut raw| {
        raw.expect("HELO").send("OLEH");
    });
    let world = World::new();
    world.publish(Protocol::Auto, vec![plain(app.address())]);
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    let begin = Instant::now();
    Raw::connect(at.unwrap()).send("HELO").expect("OLEH");
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
}

#[test]
fn a_silent_client_and_a_server_that_only_closes_make_no_port_opaque() {
    let app = RawServer::start(|number, mut raw| {
        match number {
            // It gives up its client without a word, or with the word of an HTTP server.
            0 => return,
            1 => {
                raw.send("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            _ => {}
        }
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let backend = world.publish(Protocol::Auto, vec![plain(app.address())]);
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    Raw::connect(at.unwrap()).expect_end();
    assert!(Raw::connect(at.unwrap()).read_head().starts_with("HTTP/1.1 408 "));
    let before = backend.endpoints.load().endpoints()[0].load.requests();
    let mut raw = Raw::connect(at.unwrap());
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").read_head();
        raw.expect("ok");
    }
    assert!(backend.endpoints.load().endpoints()[0].load.requests() >= before + 2, "each request was counted");
}

#[test]
fn a_connection_that_is_cut_off_without_an_answer_counts_as_a_failure() {
    let app = RawServer::start(|_, mut raw| {
        raw.expect("ping");
        raw.reset();
    });
    let world = World::new();
    let server = world.server(app.address(), Protocol::Tcp, Default::default());
    for endpoint in [plain(app.address()), server.endpoint(app.address().port())] {
        let backend = world.publish(Protocol::Tcp, vec![endpoint]);
        let mut at = None;
        let _client = world.client(|settings| at = Some(listener(settings)));
        for count in 1..=2 {
            let mut raw = Raw::connect(at.unwrap());
            raw.send("ping");
            assert!(raw.next_head().is_none());
            until("it to be counted", LONG, || match backend.endpoints.load().endpoints()[0].load.failures() {
                failures if failures == count => Ok(()),
                failures => Err(failures.to_string()),
            });
        }
    }
}

#[test]
fn settings_of_an_http2_server_are_no_greeting() {
    const HELLO: &[u8] = b"hello, and no HTTP";
    const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
    let (told, tell) = std::sync::mpsc::channel();
    let http = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_http = std::sync::Arc::clone(&http);
    let app = RawServer::start(move |_, mut raw| {
        if !is_http.load(std::sync::atomic::Ordering::Acquire) {
            raw.offer(SETTINGS);
            told.send(()).unwrap();
            // A client may speak just before the dial is over; that connection is given up for another.
            if raw.next_bytes(HELLO.len()).is_some_and(|bytes| bytes == HELLO) {
                raw.send("hello");
            }
            return;
        }
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let backend = world.publish(Protocol::Auto, vec![plain(app.address())]);
    let mut at = None;
    let _client = world.client(|settings| at = Some(listener(settings)));
    for _ in 0..8 {
        while tell.try_recv().is_ok() {}
        // Slow to speak; what the server has said is for it all the same, as it turns out to speak something else.
        let mut raw = Raw::connect(at.unwrap());
        tell.recv_timeout(testkit::wait::LONG).unwrap();
        raw.send(HELLO).expect(SETTINGS).expect("hello");
    }
    http.store(true, std::sync::atomic::Ordering::Release);
    let before = backend.endpoints.load().endpoints()[0].load.requests();
    let mut raw = Raw::connect(at.unwrap());
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").read_head();
        raw.expect("ok");
    }
    assert!(backend.endpoints.load().endpoints()[0].load.requests() >= before + 2, "each request was counted");
}
