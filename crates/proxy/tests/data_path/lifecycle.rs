//! Starting and ending.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::Protocol;
use proxy::Settings;
use testkit::raw::{Raw, RawServer};
use testkit::wait;
use tokio::sync::watch;

use crate::world::{World, listener, live, plain, settings};

const GET: &str = "GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n";

/// An application that answers each request when it is told to.
fn held() -> (RawServer, mpsc::Sender<()>) {
    let (answer, go) = mpsc::channel::<()>();
    let go = Arc::new(Mutex::new(go));
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        go.lock().unwrap().recv_timeout(wait::LONG).unwrap();
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        raw.expect_end();
    });
    (app, answer)
}

#[test]
fn draining_is_announced_and_waits_for_what_is_under_way() {
    let (app, answer) = held();
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut idle = client.connect();
    let mut raw = client.connect();
    raw.send(GET);
    wait::until("the request to arrive", wait::LONG, || {
        if app.accepted() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    client.drain(Duration::from_secs(20));
    // A connection without a request is closed once its peer had time to learn of it; by then the drain has begun.
    idle.expect_end();
    answer.send(()).unwrap();
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("onnection: close\r\n"), "{head}");
    raw.expect("ok").expect_end();
    assert_eq!(client.ended(), 0, "nothing was cut off");
}

/// Whom nobody answers any more must be refused, however many come, so that they go elsewhere.
#[test]
fn a_listener_closes_when_its_peers_had_time_to_hear_though_connections_keep_coming() {
    let grace = Duration::from_secs(10);
    let world = World::new();
    let client = world.client(|_| {});
    let begin = Instant::now();
    client.drain(grace);
    let mut accepted = 0;
    wait::until("a connection to be refused", wait::LONG, || match TcpStream::connect(client.outbound()) {
        Ok(_) => {
            accepted += 1;
            Err(format!("{accepted} were accepted"))
        }
        Err(_) => Ok(()),
    });
    assert!(begin.elapsed() < grace / 2, "it took {:?}, and {accepted} were accepted", begin.elapsed());
    assert!(accepted > 10, "they kept coming: {accepted}");
}

#[test]
fn new_work_is_taken_for_a_second_though_there_is_none() {
    let world = World::new();
    let client = world.client(|_| {});
    let begin = Instant::now();
    client.drain(Duration::from_secs(10));
    client.shut();
    assert!(begin.elapsed() >= Duration::from_secs(1), "it took {:?}", begin.elapsed());
    // Another test may have been given the port meanwhile, and lets it go again.
    wait::until("a connection to be refused", wait::LONG, || match TcpStream::connect(client.outbound()) {
        Ok(_) => Err("somebody listens there".to_owned()),
        Err(_) => Ok(()),
    });
}

#[test]
fn what_outlives_the_grace_is_cut_off() {
    let app = RawServer::start(|_, mut raw| {
        raw.read_head();
        raw.expect_end();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(GET);
    wait::until("the request to arrive", wait::LONG, || {
        if app.accepted() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    client.drain(Duration::from_millis(50));
    assert_eq!(client.ended(), 1);
    raw.expect_end();
}

/// What has no other end than that of its connection must not look whole.
#[test]
fn what_is_cut_off_is_seen_to_be() {
    let (report, seen) = mpsc::channel();
    let report = Mutex::new(report);
    let app = RawServer::start(move |_, mut raw| {
        raw.expect("much");
        raw.send("HTTP/1.1 200 OK\r\n\r\nmuch");
        let _ = report.lock().unwrap().send(raw.stream().read_to_end(&mut Vec::new()).is_err());
    });
    let world = World::new();
    world.publish(Protocol::Tcp, vec![plain(app.address())]);
    let mut at = None;
    let client = world.client(|settings| at = Some(listener(settings)));
    // One that ends in order does so still.
    let mut whole = Raw::connect(at.unwrap());
    whole.send("much").finish();
    whole.expect("HTTP/1.1 200 OK\r\n\r\nmuch").expect_end();
    assert!(!seen.recv_timeout(wait::LONG).unwrap(), "an end, not a reset");
    let mut opaque = Raw::connect(at.unwrap());
    opaque.send("much").expect("HTTP/1.1 200 OK\r\n\r\nmuch");
    client.drain(Duration::from_millis(50));
    assert_eq!(client.ended(), 1);
    assert!(opaque.stream().read_to_end(&mut Vec::new()).is_err(), "a reset, not an end, for who calls");
    assert!(seen.recv_timeout(wait::LONG).unwrap(), "a reset, not an end, for who is called");
}

#[test]
fn a_body_without_a_length_is_cut_off_with_a_reset_and_ends_in_order() {
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        raw.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nmuch");
        let _ = ended.lock().unwrap().recv_timeout(wait::LONG);
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let ask = || {
        let mut raw = client.connect();
        raw.send(GET.replace("1.1", "1.0")).read_head();
        raw.expect("much");
        raw
    };
    let mut whole = ask();
    end.send(()).unwrap();
    whole.expect_end();
    drop(whole);
    let cut = ask();
    client.drain(Duration::from_millis(50));
    assert_ne!(client.ended(), 0);
    assert!(cut.stream().read_to_end(&mut Vec::new()).is_err(), "a reset, not an end");
    drop(end);
}

#[test]
fn an_address_that_another_proxy_holds_is_named() {
    let world = World::new();
    let first = world.client(|_| {});
    let (_drain, watch) = net::drain::channel();
    let error = proxy::start(proxy::Parts {
        settings: first.settings.clone(),
        discover: Arc::clone(&world.names) as Arc<dyn proxy::Discover>,
        live: Arc::clone(&first.live),
        identity: world.identity("client"),
        clock: world.clock,
        registry: Arc::clone(&world.registry),
        access_log: None,
        drain: watch.clone(),
        drain_out: watch,
        listeners: Vec::new(),
        inside: None,
        open: watch::channel(true).1,
    })
    .expect_err("the address is taken")
    .to_string();
    assert!(error.contains(&first.outbound().to_string()), "{error}");
}

#[test]
fn two_workers_share_the_listeners() {
    let app = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|settings| settings.workers = 2);
    let mut kept: Vec<Raw> = (0..32).map(|_| client.connect()).collect();
    for raw in &mut kept {
        raw.send(GET).read_head();
        raw.expect("ok");
    }
    // Each worker has a pool of its own, so two connections to the application show that both served.
    wait::until("both workers to serve", wait::LONG, || {
        if app.accepted() >= 2 { Ok(()) } else { Err(format!("{} connections", app.accepted())) }
    });
}

#[test]
fn listeners_that_were_handed_over_close_with_the_drain_and_those_without_use_at_once() {
    let (app, answer) = held();
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let [used, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let no_use = other.local_addr().unwrap();
    let settings = Settings { outbound: Some(used.local_addr().unwrap()), ..settings("shop/client-0") };
    let client =
        world.start_with(settings, world.identity("client"), live(None), vec![used, other], watch::channel(true).1);
    // Whoever connects there would wait for ever.
    TcpStream::connect(no_use).expect_err("nobody listens there");
    let mut idle = client.connect();
    let mut raw = client.connect();
    raw.send(GET);
    wait::until("the request to arrive", wait::LONG, || {
        if app.accepted() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    client.drain(Duration::from_secs(60));
    idle.expect_end();
    wait::until("a connection to be refused", wait::LONG, || match TcpStream::connect(client.outbound()) {
        Ok(_) => Err("it is taken".to_owned()),
        Err(_) => Ok(()),
    });
    answer.send(()).unwrap();
    raw.read_head();
    raw.expect("ok").expect_end();
    assert_eq!(client.ended(), 0, "nothing was cut off");
}

/// Who takes another's place listens on the same socket. What comes there is the old one's until the new one can serve.
#[test]
fn a_successor_takes_no_connection_before_it_may() {
    let app = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (knows, knows_not) = (World::new(), World::new());
    knows.publish(Protocol::Http1, vec![plain(app.address())]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Settings { outbound: Some(listener.local_addr().unwrap()), ..settings("shop/client-0") };
    let start = |world: &World, open| {
        let listeners = vec![listener.try_clone().unwrap()];
        world.start_with(settings.clone(), world.identity("client"), live(None), listeners, open)
    };
    let old = start(&knows, watch::channel(true).1);
    let (opens, open) = watch::channel(false);
    let new = start(&knows_not, open);
    drop(listener);
    for _ in 0..64 {
        old.connect().send(GET).expect("HTTP/1.1 200 ");
    }
    old.drain(Duration::from_millis(50));
    old.ended();
    let mut waits = new.connect();
    waits.send(GET);
    opens.send(true).unwrap();
    waits.expect("HTTP/1.1 5");
}
