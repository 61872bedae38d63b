//! Instances that fail: what is tried again, what is not, and what the client is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use engine::balance::Dial;
use engine::policy::{RetryOn, RetryPolicy, TrafficPolicy};
use engine::{Nanos, Protocol};
use testkit::address;
use testkit::raw::{Raw, RawServer};
use testkit::wait;

use crate::ways::reason;
use crate::world::{World, endpoint, plain};

const GET: &str = "GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n";
const POST: &str = "POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 4\r\n\r\nbody";

fn good() -> RawServer {
    RawServer::start(|_, mut raw| {
        while let Some(head) = raw.next_head() {
            if head.starts_with("POST") {
                raw.expect("body");
            }
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

/// Reads a request and breaks the connection.
fn breaking() -> RawServer {
    RawServer::start(|_, mut raw| {
        raw.next_head();
        raw.reset();
    })
}

#[test]
fn an_instance_that_refuses_connections_costs_no_request() {
    let app = good();
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(address::free()), plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    for request in [GET, POST].into_iter().cycle().take(20) {
        raw.send(request);
        assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        raw.expect("ok");
    }
}

#[test]
fn a_broken_answer_is_tried_again_only_if_that_is_safe() {
    let (bad, app) = (breaking(), good());
    let world = World::new();
    let client = world.client(|_| {});
    world.publish(Protocol::Http1, vec![plain(bad.address()), plain(app.address())]);
    let mut raw = client.connect();
    for _ in 0..10 {
        raw.send(GET);
        assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        raw.expect("ok");
    }
    world.publish(Protocol::Http1, vec![plain(bad.address())]);
    let mut raw = client.connect();
    let before = bad.accepted();
    raw.send(POST);
    let head = raw.read_head();
    assert_eq!((reason(&head), bad.accepted() - before), ("upstream_reset", 1), "{head}");
}

#[test]
fn a_kept_connection_that_is_dead_is_replaced() {
    // Every connection serves one request and then ends without having said so.
    let app = RawServer::start(|_, mut raw| {
        raw.next_head();
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let world = World::new();
    world.publish_with(
        Protocol::Http1,
        vec![plain(app.address())],
        TrafficPolicy { retry: RetryPolicy { attempts: 0, ..RetryPolicy::default() }, ..TrafficPolicy::default() },
        None,
    );
    let client = world.client(|_| {});
    let mut raw = client.connect();
    for _ in 0..20 {
        raw.send(GET);
        assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        raw.expect("ok");
    }
}

#[test]
fn statuses_that_a_policy_names_are_tried_again_with_the_whole_body() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            raw.expect("body");
            let answer = if seen.fetch_add(1, Ordering::Relaxed) < 2 { "503 Busy" } else { "200 OK" };
            raw.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nok"));
        }
    });
    let world = World::new();
    let on = RetryOn { gateway_errors: true, ..RetryOn::default() };
    let retry = RetryPolicy { attempts: 2, on, backoff_base: Nanos::from_millis(1), ..RetryPolicy::default() };
    let policy = TrafficPolicy { retry, ..TrafficPolicy::default() };
    world.publish_with(Protocol::Http1, vec![plain(app.address())], policy, None);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(POST);
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(count.load(Ordering::Relaxed), 3);
    assert_eq!(app.accepted(), 1, "the connection of a refused answer is used again");
}

#[test]
fn an_application_that_is_down_is_known_to_have_seen_nothing() {
    let (down, app) = (address::free(), good());
    let world = World::new();
    let dead = world.server_named("cart-0", down, Protocol::Http1, Default::default());
    let alive = world.server_named("cart-1", app.address(), Protocol::Http1, Default::default());
    world.publish(Protocol::Http1, vec![dead.endpoint(down.port()), alive.endpoint(app.address().port())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    for _ in 0..20 {
        raw.send(POST);
        assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        raw.expect("ok");
    }
}

#[test]
fn time_limits_end_in_their_own_reasons() {
    let app = RawServer::start(|_, mut raw| {
        raw.next_head();
        raw.expect_end();
    });
    let world = World::new();
    let client = world.client(|_| {});
    let limit = Some(Nanos::from_millis(100));
    let once = RetryPolicy { attempts: 0, ..RetryPolicy::default() };
    for (policy, why) in [
        (TrafficPolicy { request_timeout: limit, ..TrafficPolicy::default() }, "request_timeout"),
        (TrafficPolicy { attempt_timeout: limit, retry: once, ..TrafficPolicy::default() }, "attempt_timeout"),
    ] {
        world.publish_with(Protocol::Http1, vec![plain(app.address())], policy, None);
        let mut raw = client.connect();
        raw.send(GET);
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
        assert_eq!(reason(&head), why);
    }
}

/// An instance that cannot be reached must not take more of a request's time than an attempt may.
#[test]
fn connecting_is_part_of_an_attempt() {
    // Long enough for a sound instance on a busy machine.
    let limit = Nanos::from_millis(700);
    let (silent, app) = (RawServer::start(|_, mut raw| drop(raw.read_to_end())), good());
    let world = World::new();
    let client = world.client(|_| {});
    // It takes connections, and never answers a handshake.
    let stalls = || {
        let (sni, identity) = ("p80.cart-0.shop.heddle".into(), "spiffe://mesh.test/ns/shop/sa/cart".into());
        endpoint("cart-0", Dial::Mesh { address: silent.address(), sni, identity })
    };
    let policy = |attempts| TrafficPolicy {
        attempt_timeout: Some(limit),
        connect_timeout: Nanos::from_millis(60_000),
        retry: RetryPolicy { attempts, ..RetryPolicy::default() },
        ..TrafficPolicy::default()
    };
    let begin = Instant::now();
    world.publish_with(Protocol::Http1, vec![stalls()], policy(0), None);
    let head = client.connect().send(GET).read_head();
    assert_eq!((&head[..12], reason(&head)), ("HTTP/1.1 504", "attempt_timeout"), "{head}");
    world.publish_with(Protocol::Http1, vec![stalls(), plain(app.address())], policy(1), None);
    let mut raw = client.connect();
    for _ in 0..8 {
        let head = raw.send(POST).read_head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        raw.expect("ok");
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
}

/// Answers every request with 503, and counts them.
fn busy() -> (RawServer, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            seen.fetch_add(1, Ordering::Relaxed);
            raw.send("HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nsorry");
        }
    });
    (app, count)
}

fn repeats_after(pause: Nanos) -> RetryPolicy {
    let on = RetryOn { gateway_errors: true, ..RetryOn::default() };
    RetryPolicy { attempts: 8, on, backoff_base: pause, backoff_max: pause, ..RetryPolicy::default() }
}

#[test]
fn nothing_is_repeated_for_a_client_that_is_gone() {
    let (app, count) = busy();
    let world = World::new();
    let policy = TrafficPolicy { retry: repeats_after(Nanos::from_millis(3_000)), ..TrafficPolicy::default() };
    world.publish_with(Protocol::Http1, vec![plain(app.address())], policy, None);
    let client = world.client(|_| {});
    const CLIENTS: usize = 8;
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| client.connect()).collect();
    for raw in &mut clients {
        raw.send(GET);
    }
    wait::until("the first attempts", wait::LONG, || {
        let seen = count.load(Ordering::Relaxed);
        if seen >= CLIENTS { Ok(()) } else { Err(format!("{seen} requests")) }
    });
    drop(clients);
    // What is under way ends before the proxy does.
    client.drain(Duration::from_secs(60));
    assert_eq!(client.ended(), 0);
    let seen = count.load(Ordering::Relaxed);
    // Pauses are random: one may be too short for its client to go in.
    assert!(seen < CLIENTS + CLIENTS / 2, "{seen} requests for {CLIENTS} clients");
}

#[test]
fn an_answer_is_not_thrown_away_for_a_repetition_that_would_come_too_late() {
    let (app, count) = busy();
    let world = World::new();
    let policy = TrafficPolicy {
        request_timeout: Some(Nanos::from_millis(5_000)),
        retry: repeats_after(Nanos::from_millis(3_600_000)),
        ..TrafficPolicy::default()
    };
    world.publish_with(Protocol::Http1, vec![plain(app.address())], policy, None);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    // The pause is random: one of a thousand is short enough.
    let head = raw.send(GET).read_head();
    assert!(head.starts_with("HTTP/1.1 503 Busy\r\n"), "{head}");
    raw.expect("sorry");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn silence_in_the_middle_of_an_answer_ends_it() {
    let app = RawServer::start(|_, mut raw| {
        raw.next_head();
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        raw.expect_end();
    });
    let world = World::new();
    let policy = TrafficPolicy { idle_timeout: Some(Nanos::from_millis(100)), ..TrafficPolicy::default() };
    world.publish_with(Protocol::Http1, vec![plain(app.address())], policy, None);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(GET).read_head();
    raw.expect("half").expect_end();
}

#[test]
fn nonsense_from_an_instance_is_its_own_reason() {
    let app = RawServer::start(|_, mut raw| {
        raw.next_head();
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx");
        raw.read_to_end();
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(POST);
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!(reason(&head), "upstream_protocol");
}

#[test]
fn a_service_without_instances_says_so() {
    let world = World::new();
    world.publish(Protocol::Http1, Vec::new());
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(GET);
    assert_eq!(reason(&raw.read_head()), "no_endpoint");
}

/// The promise: no idempotent request is lost whose answer had not begun when its instance died.
#[test]
fn killing_an_instance_under_load_loses_no_request() {
    let world = World::new();
    let stays = good();
    let stays_too = good();
    let dies: Arc<Mutex<Vec<Raw>>> = Arc::default();
    let connections = Arc::clone(&dies);
    let dead = Arc::new(AtomicUsize::new(0));
    let killed = Arc::clone(&dead);
    let mortal = RawServer::start(move |_, mut raw| {
        let handle = Raw::new(raw.stream().try_clone().unwrap());
        {
            // One that arrives after the kill is not to be held open by the list.
            let mut connections = connections.lock().unwrap();
            if killed.load(Ordering::Relaxed) == 1 {
                return;
            }
            connections.push(handle);
        }
        while killed.load(Ordering::Relaxed) == 0 && raw.next_head().is_some() {
            if killed.load(Ordering::Relaxed) == 1 {
                return;
            }
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    world.publish(Protocol::Http1, vec![plain(stays.address()), plain(stays_too.address()), plain(mortal.address())]);
    let client = world.client(|_| {});
    let at = client.outbound();
    let done = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let mut raw = Raw::connect(at);
                for _ in 0..400 {
                    raw.send(GET);
                    let head = raw.read_head();
                    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                    raw.expect("ok");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait::until("half of the load", wait::LONG, || {
        let done = done.load(Ordering::Relaxed);
        if done > 1_500 { Ok(()) } else { Err(format!("{done} requests")) }
    });
    {
        let mut connections = dies.lock().unwrap();
        dead.store(1, Ordering::Relaxed);
        for raw in connections.drain(..) {
            let _ = raw.stream().shutdown(std::net::Shutdown::Both);
        }
    }
    drop(mortal);
    for thread in load {
        thread.join().expect("no request is lost");
    }
    assert_eq!(done.load(Ordering::Relaxed), 3_200);
}
