//! What is learnt of instances besides their answers: load that their sidecars tell, probes, health checks, refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use engine::authorize::{Action, Authorizer, Policy, Rule};
use engine::balance::{Backend, EndpointSet, Load, Locality};
use engine::policy::{Algorithm, BalancePolicy, CheckPolicy, HealthCheck, Probe};
use engine::{Nanos, Protocol};
use http::{HeaderMap, Request, Response};
use net::tls::{self, Alpn};
use telemetry::metrics::{Direction, SeriesKey};
use testkit::address;
use testkit::raw::{Raw, RawServer};
use testkit::wait::{LONG, until};

use crate::http2::{app, test};
use crate::world::{World, plain};

/// An application that answers every request with `head`, and counts them.
fn answering(head: &'static str) -> (RawServer, Arc<AtomicUsize>) {
    answering_after(Duration::ZERO, head)
}

/// The same for one that takes a while.
fn answering_after(time: Duration, head: &'static str) -> (RawServer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(time);
            raw.send(format!("{head}Content-Length: 2\r\n\r\nok"));
        }
    });
    (app, asked)
}

/// Gives the endpoints of `backend` another policy.
fn set_policy(backend: &Backend, policy: BalancePolicy) {
    let old = backend.endpoints.load_full();
    let set = EndpointSet::new(old.endpoints().to_vec(), policy, &Locality::default());
    backend.endpoints.store(Arc::new(set.following(&old)));
}

fn load(backend: &Backend, at: usize) -> Arc<Load> {
    Arc::clone(&backend.endpoints.load().endpoints()[at].load)
}

fn get(raw: &mut Raw) -> String {
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
    let head = raw.read_head();
    raw.expect("ok");
    head
}

#[test]
fn load_is_believed_of_verified_sidecars_alone() {
    // Both applications claim to be idle; only what a sidecar adds itself is heard.
    let (app, _) =
        answering("HTTP/1.1 200 OK\r\nheddle-load: 77 1\r\nendpoint-load-metrics: TEXT cpu_utilization=0.9\r\n");
    let world = World::new();
    let backend = world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let head = get(&mut client.connect());
    assert!(!head.contains("heddle-load"), "{head}");
    let said = load(&backend, 0);
    assert_eq!((said.reported_latency(), said.elsewhere()), (None, 0.0), "whoever has no certificate says nothing");

    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let backend = world.publish(Protocol::Http1, vec![server.endpoint(app.address().port())]);
    let head = get(&mut client.connect());
    assert!(!head.contains("heddle-load") && head.contains("endpoint-load-metrics"), "{head}");
    let said = load(&backend, 0);
    assert!(said.reported_latency() > Some(1_000.0), "measured by the sidecar, not what the application claims");
    // 0.9 / (1 - 0.9) requests, one of which is ours.
    assert!(said.elsewhere() > 0.0 && said.elsewhere() <= 9.0, "{}", said.elsewhere());
}

#[test]
fn a_probe_is_answered_by_the_sidecar_and_only_to_sidecars() {
    let (application, asked) = answering("HTTP/1.1 200 OK\r\n");
    let world = World::new();
    let server = world.server(application.address(), Protocol::Http1, Authorizer::default());
    let sni = format!("p{}.cart-0.shop.heddle", application.address().port());
    test(async {
        let stream = tokio::net::TcpStream::connect(server.inbound()).await.unwrap();
        let identity = "spiffe://mesh.test/ns/shop/sa/cart";
        let tls = tls::connect(stream, &world.identity("client"), identity, &sni, Alpn::Http2).await.unwrap();
        let (client, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(connection);
        let ask = async |mark: bool| {
            let mut request = Request::builder().method("OPTIONS").uri("http://x/.well-known/heddle/load");
            if mark {
                request = request.header("heddle-probe", "1");
            }
            let mut client: h2::client::SendRequest<Bytes> = client.clone().ready().await.unwrap();
            client.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap()
        };
        let probed = ask(true).await;
        let said = &probed.headers()["heddle-load"];
        assert_eq!((probed.status().as_u16(), said.as_bytes()), (204, &b"0 0"[..]));
        assert_eq!(asked.load(Ordering::Relaxed), 0, "the application heard nothing");
        assert_eq!(ask(false).await.status(), 200, "without the mark it is for the application");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    });
    // Through a client's sidecar the mark is gone, so that applications cannot ask.
    world.publish(Protocol::Http1, vec![server.endpoint(application.address().port())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send("OPTIONS http://cart/.well-known/heddle/load HTTP/1.1\r\nHost: cart\r\nheddle-probe: 1\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 200"));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn an_idle_instance_is_probed_while_others_are_called() {
    let world = World::new();
    // So long that what its sidecar measures is what its callers see.
    let (slow, slow_asked) = answering_after(Duration::from_millis(50), "HTTP/1.1 200 OK\r\n");
    let (fast, _) = answering("HTTP/1.1 200 OK\r\n");
    let servers = [
        world.server_named("cart-0", slow.address(), Protocol::Http1, Authorizer::default()),
        world.server_named("cart-1", fast.address(), Protocol::Http1, Authorizer::default()),
    ];
    let endpoints = vec![servers[0].endpoint(slow.address().port()), servers[1].endpoint(fast.address().port())];
    let backend = world.publish(Protocol::Http1, endpoints);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    until("one request there", LONG, || {
        get(&mut raw);
        if load(&backend, 0).requests() > 0 { Ok(()) } else { Err("none".to_owned()) }
    });
    // The other one is so much faster that it is hardly chosen from now on, and its load is heard of all the same.
    let idle = load(&backend, 0);
    set_policy(&backend, BalancePolicy { probes_per_second: 100, ..BalancePolicy::default() });
    let (mut quiet, mut requests) = (idle.quiet_since(), idle.requests());
    until("a probe", LONG, || {
        get(&mut raw);
        // A request of its own says as much, so only news without one are those of a probe: an answer that is no better than
        // what is known puts the next trial request off.
        let (heard, sent) = (idle.quiet_since(), idle.requests());
        if heard > quiet && sent == requests && slow_asked.load(Ordering::Relaxed) as u64 == sent {
            return Ok(());
        }
        (quiet, requests) = (heard, sent);
        Err(format!("{quiet:?}, {requests} requests"))
    });
}

#[test]
fn who_asks_for_less_is_left_alone() {
    let (limited, asked) = answering("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\n");
    let (other, _) = answering("HTTP/1.1 200 OK\r\n");
    let world = World::new();
    let backend = world.publish(Protocol::Http1, vec![plain(limited.address()), plain(other.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    // One refusal is between that caller and the service. Seven of ten are the rule there; what avoids it is turned off for them.
    let algorithm = Algorithm::RoundRobin;
    set_policy(&backend, BalancePolicy { algorithm, ..BalancePolicy::default() });
    until("refusals", LONG, || {
        let _ = get(&mut raw);
        let asked = asked.load(Ordering::Relaxed);
        if asked >= 8 { Ok(()) } else { Err(asked.to_string()) }
    });
    for _ in 0..50 {
        assert!(get(&mut raw).contains(" 200 "), "it asked for thirty seconds");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 8);
    let failures: u64 = (0..2).map(|at| load(&backend, at).failures()).sum();
    assert_eq!(failures, 0, "it is no failure");
}

/// The sidecar of one of two instances denies what the other allows, as while a policy comes to one after the other. It does so
/// at once, and the application takes its time.
#[test]
fn a_sidecar_that_denies_attracts_nothing() {
    let (app, _) = answering_after(Duration::from_millis(5), "HTTP/1.1 200 OK\r\n");
    let world = World::new();
    let all = Policy { name: "shop/all".into(), action: Action::Deny, rules: vec![Rule::default()], unusable: false };
    let denies = Authorizer { policies: vec![all] };
    let sidecars = [("cart-0", denies), ("cart-1", Authorizer::default())]
        .map(|(name, authorizer)| world.server_named(name, app.address(), Protocol::Http1, authorizer));
    world.publish(Protocol::Http1, sidecars.iter().map(|sidecar| sidecar.endpoint(app.address().port())).collect());
    let client = world.client(|_| {});
    let mut denied = 0;
    for _ in 0..100 {
        let mut raw = client.connect();
        raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n");
        denied += usize::from(raw.read_head().starts_with("HTTP/1.1 403 "));
    }
    assert!((1..50).contains(&denied), "{denied} of 100 were denied");
}

fn check(probe: Probe) -> BalancePolicy {
    let (interval, timeout) = (Nanos::from_millis(100), Nanos::from_millis(100));
    let policy = CheckPolicy { healthy_after: 2, unhealthy_after: 2 };
    BalancePolicy { check: Some(HealthCheck { probe, interval, timeout, policy }), ..BalancePolicy::default() }
}

fn unhealthy(load: &Load, wanted: bool) {
    until(if wanted { "unhealthy" } else { "healthy" }, LONG, || {
        if load.unhealthy() == wanted { Ok(()) } else { Err(load.unhealthy().to_string()) }
    });
}

#[test]
fn a_tcp_check_sees_through_a_sidecar_that_its_application_is_gone() {
    let world = World::new();
    let at = address::free();
    let server = world.server(at, Protocol::Tcp, Authorizer::default());
    let backend = world.publish(Protocol::Tcp, vec![server.endpoint(at.port())]);
    set_policy(&backend, check(Probe::Tcp));
    let _client = world.client(|_| {});
    let load = load(&backend, 0);
    unhealthy(&load, true);
    let silent = RawServer::start_on(at, |_, mut raw| {
        raw.read_to_end();
    });
    unhealthy(&load, false);
    drop(silent);
    unhealthy(&load, true);
    // Without a check nothing is held against it.
    set_policy(&backend, BalancePolicy::default());
    unhealthy(&load, false);
}

#[test]
fn a_grpc_check_asks_the_health_service() {
    test(async {
        let serving = Arc::new(AtomicBool::new(true));
        let says = Arc::clone(&serving);
        let (at, _) = app(move |request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>| {
            let says = Arc::clone(&says);
            async move {
                let (parts, mut body) = request.into_parts();
                let message = crate::http2::read(&mut body).await;
                let asked = parts.uri.path() == "/grpc.health.v1.Health/Check" && message == b"\0\0\0\0\x03\x0a\x01a";
                let status = if says.load(Ordering::Relaxed) { 1 } else { 2 };
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut send = respond.send_response(head, false).unwrap();
                send.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
                let code = if asked { "0" } else { "12" };
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
                send.send_trailers(trailers).unwrap();
            }
        })
        .await;
        tokio::task::spawn_blocking(move || {
            let world = World::new();
            let server = world.server(at, Protocol::Http2, Authorizer::default());
            let backend = world.publish(Protocol::Http2, vec![server.endpoint(at.port())]);
            set_policy(&backend, check(Probe::Grpc { service: "a".into() }));
            let _client = world.client(|_| {});
            let load = load(&backend, 0);
            serving.store(false, Ordering::Relaxed);
            unhealthy(&load, true);
            serving.store(true, Ordering::Relaxed);
            unhealthy(&load, false);
            // Another service is not known there.
            set_policy(&backend, check(Probe::Grpc { service: "b".into() }));
            unhealthy(&load, true);
        })
        .await
        .unwrap();
    });
}

/// What an application shows at its health path may be long; the status says it all, as over HTTP/1.
#[test]
fn an_http_check_over_http2_does_not_mind_a_long_body() {
    test(async {
        let well = Arc::new(AtomicBool::new(false));
        let says = Arc::clone(&well);
        let (at, _) = app(move |_, mut respond: h2::server::SendResponse<Bytes>| {
            let status = if says.load(Ordering::Relaxed) { 200 } else { 500 };
            async move {
                let head = Response::builder().status(status).body(()).unwrap();
                let mut send = respond.send_response(head, false).unwrap();
                // The caller may have seen enough before all of it is taken.
                let _ = send.send_data(Bytes::from(vec![b'x'; 60_000]), true);
            }
        })
        .await;
        tokio::task::spawn_blocking(move || {
            let world = World::new();
            let backend = world.publish(Protocol::Http2, vec![plain(at)]);
            set_policy(&backend, check(Probe::Http { path: "/".into(), host: "".into(), statuses: Vec::new() }));
            let _client = world.client(|_| {});
            let load = load(&backend, 0);
            unhealthy(&load, true);
            well.store(true, Ordering::Relaxed);
            unhealthy(&load, false);
        })
        .await
        .unwrap();
    });
}

#[test]
fn an_http_check_takes_the_statuses_that_it_is_told() {
    let (app, _) = answering("HTTP/1.1 404 Not Found\r\n");
    let world = World::new();
    let backend = world.publish(Protocol::Http1, vec![plain(app.address())]);
    let http = |statuses| Probe::Http { path: "/up".into(), host: "".into(), statuses };
    set_policy(&backend, check(http(Vec::new())));
    let _client = world.client(|_| {});
    let load = load(&backend, 0);
    unhealthy(&load, true);
    set_policy(&backend, check(http(vec![404])));
    unhealthy(&load, false);
}

/// However many workers there are: an answer takes half of a check's time here, so that two that check on their own would
/// soon be seen together.
#[test]
fn an_instance_is_checked_by_one_worker_at_a_time() {
    let (made, under_way, most) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (Arc::clone(&made), Arc::clone(&most));
    let app = RawServer::start(move |_, mut raw| {
        while raw.next_head().is_some() {
            seen.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            under_way.fetch_sub(1, Ordering::SeqCst);
            counted.fetch_add(1, Ordering::SeqCst);
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let world = World::new();
    let backend = world.publish(Protocol::Http1, vec![plain(app.address())]);
    // A check whose answer is late would be followed by one that meets it: this one may be late by seconds.
    let mut policy = check(Probe::Http { path: "/".into(), host: "".into(), statuses: Vec::new() });
    policy.check.as_mut().unwrap().timeout = Nanos::from_millis(10_000);
    set_policy(&backend, policy);
    let _client = world.client(|settings| settings.workers = 4);
    until("checks", LONG, || match made.load(Ordering::SeqCst) {
        made if made >= 20 => Ok(()),
        made => Err(made.to_string()),
    });
    assert_eq!(most.load(Ordering::SeqCst), 1, "checks at once");
}

/// A second of the client's own is no latency of the application, neither in what its sidecar tells nor in what the caller's sees.
#[test]
fn a_client_that_uploads_slowly_makes_no_application_slow() {
    const PAUSE: Duration = Duration::from_secs(2);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let app = RawServer::start(move |_, mut raw| {
        raw.read_head();
        raw.expect("half");
        begun.send(()).unwrap();
        raw.expect("rest");
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let backend = world.publish(Protocol::Http1, vec![server.endpoint(app.address().port())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 8\r\n\r\nhalf");
    has_begun.recv_timeout(LONG).unwrap();
    std::thread::sleep(PAUSE);
    raw.send("rest").read_head();
    raw.expect("ok");
    let load = load(&backend, 0);
    let told = load.reported_latency().expect("its sidecar tells");
    let key = SeriesKey { direction: Direction::Outbound, service: "shop/cart".into(), route: "".into() };
    let class = backend.class(world.registry.series(&key));
    // It is learnt when the answer's last byte has gone, which the client may see first.
    let measured = until("a measurement", LONG, || load.latency(class).ok_or("none yet".to_owned()));
    let half = PAUSE.as_nanos() as f64 / 2.0;
    assert!(told < half && measured < half, "told {told} ns, measured {measured} ns");
}
