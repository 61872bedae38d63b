//! Who may call whom.

use std::time::Duration;

use engine::Protocol;
use engine::authorize::{Action, Authorizer, Pattern, Policy, Rule};
use engine::balance::{Dial, Endpoint};
use engine::snapshot::Inbound;
use net::tls::{self, Alpn};
use proxy::settings::ServiceListener;
use testkit::address;
use testkit::ca::{Ca, Leaf};
use testkit::raw::{Raw, RawServer};
use testkit::wait::{LONG, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ways::reason;
use crate::world::{World, endpoint, listener, live, settings};

const GET: &str = "GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n";

fn app() -> RawServer {
    RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

fn policy(action: Action, rule: Rule) -> Authorizer {
    Authorizer { policies: vec![Policy { name: "shop/policy".into(), action, rules: vec![rule], unusable: false }] }
}

fn identity(account: &str) -> Rule {
    let id = format!("spiffe://mesh.test/ns/shop/sa/{account}");
    Rule { identities: vec![Pattern::parse(&id)], ..Rule::default() }
}

#[test]
fn a_caller_is_allowed_or_denied_by_its_identity_and_request() {
    let app = app();
    let world = World::new();
    let path = |path: &str| Rule { paths: vec![Pattern::parse(path)], ..Rule::default() };
    for (authorizer, status) in [
        (policy(Action::Allow, identity("client")), 200),
        (policy(Action::Allow, identity("other")), 403),
        (policy(Action::Deny, identity("client")), 403),
        (policy(Action::Deny, path("/private*")), 200),
        (policy(Action::Deny, path("/")), 403),
    ] {
        let server = world.server(app.address(), Protocol::Http1, authorizer);
        world.publish(Protocol::Http1, vec![server.endpoint(app.address().port())]);
        let client = world.client(|_| {});
        let mut raw = client.connect();
        raw.send(GET);
        let head = raw.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(reason(&head), if status == 403 { "denied" } else { "none" });
    }
}

#[test]
fn opaque_connections_are_judged_too() {
    let app = RawServer::start(|_, mut raw| {
        raw.send("hello");
        raw.expect_end();
    });
    let world = World::new();
    for (authorizer, allowed) in
        [(policy(Action::Allow, identity("client")), true), (policy(Action::Allow, identity("other")), false)]
    {
        let server = world.server(app.address(), Protocol::Tcp, authorizer);
        world.publish(Protocol::Tcp, vec![server.endpoint(app.address().port())]);
        let mut at = None;
        let _client = world.client(|settings| at = Some(listener(settings)));
        let mut raw = Raw::connect(at.unwrap());
        if allowed {
            raw.expect("hello").finish();
        }
        raw.expect_end();
    }
}

/// A sidecar's own listeners share the application's address. Whoever could come in for one of them would go out again with this
/// workload's identity.
#[test]
fn a_peer_cannot_leave_again_with_the_identity_of_whom_it_calls() {
    let app = app();
    let world = World::new();
    let behind = world.server_named("pay-0", app.address(), Protocol::Auto, policy(Action::Allow, identity("cart")));
    world.publish(
        Protocol::Auto,
        vec![Endpoint { workload: "shop/pay-0".into(), ..behind.endpoint(app.address().port()) }],
    );
    let mut settings = settings("shop/cart-0");
    settings.application = address::loopback().into();
    let free = || address::free_on(settings.application);
    let (own, proxy, service) = (free(), free(), free());
    (settings.inbound, settings.outbound) = (Some(own), Some(proxy));
    settings.services.push(ServiceListener { listen: service, service: "cart".into(), port: 80 });
    let key = telemetry::metrics::SeriesKey {
        direction: telemetry::metrics::Direction::Inbound,
        service: "shop/cart".into(),
        route: "".into(),
    };
    let series = world.registry.series(&key);
    let inbound = Inbound { workload: "shop/cart-0".into(), ports: vec![], authorizer: Authorizer::default(), series };
    let cart = world.start(settings, world.identity("cart"), live(Some(inbound)));
    let mut raw = Raw::connect(proxy);
    raw.send(GET);
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "), "cart itself may call pay");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for port in [proxy.port(), service.port(), own.port()] {
        for alpn in [Alpn::Http1, Alpn::Tcp] {
            runtime.block_on(async {
                let stream = tokio::net::TcpStream::connect(cart.inbound()).await.unwrap();
                let sni = format!("p{port}.cart-0.shop.heddle");
                let cart = "spiffe://mesh.test/ns/shop/sa/cart";
                let mut stream = tls::connect(stream, &world.identity("client"), cart, &sni, alpn).await.unwrap();
                let mut got = Vec::new();
                // An error is as good as the end.
                let _ = stream.write_all(GET.as_bytes()).await;
                let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut got));
                let _ = read.await.expect("it is closed");
                assert_eq!(String::from_utf8_lossy(&got), "", "port {port}, {alpn:?}");
            });
        }
    }
}

#[test]
fn a_server_that_is_somebody_else_gets_no_request() {
    let app = app();
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let port = app.address().port();
    let dial = |sni: &str, account: &str| Dial::Mesh {
        address: server.inbound(),
        sni: sni.into(),
        identity: format!("spiffe://mesh.test/ns/shop/sa/{account}").into(),
    };
    let client = world.client(|_| {});
    for (dial, why) in [
        (dial(&format!("p{port}.cart-0.shop.heddle"), "impostor"), "identity_mismatch"),
        (dial(&format!("p{port}.cart-1.shop.heddle"), "cart"), "upstream_reset"),
    ] {
        world.publish(Protocol::Http1, vec![endpoint("cart-0", dial)]);
        let mut raw = client.connect();
        raw.send("POST http://cart/ HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\n\r\n");
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(reason(&head), why);
    }
    assert_eq!(app.accepted(), 0);
    let metrics = world.registry.render_prometheus(&[]);
    // What is not zero is shown. How often each was tried is the retry's business.
    for (direction, why) in [("outbound", "wrong_identity"), ("inbound", "wrong_name")] {
        let counter = format!("heddle_peers_refused_total{{direction=\"{direction}\",reason=\"{why}\"}}");
        assert!(metrics.contains(&counter), "{counter}\n{metrics}");
    }
}

#[test]
fn nothing_comes_in_before_the_configuration_is_held() {
    let app = app();
    let world = World::new();
    let (client, server) = world.pair(app.address(), Protocol::Http1);
    let held = server.live.inbound.swap(None);
    let mut raw = client.connect();
    raw.send(GET);
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(reason(&head), "not_ready");
    server.live.inbound.store(held);
    let mut raw = client.connect();
    raw.send(GET);
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_inbound_port_takes_known_peers_alone() {
    let app = app();
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    let mut raw = Raw::connect(server.inbound());
    raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(reason(&head), "plain_text_refused");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sni = format!("p{}.cart-0.shop.heddle", app.address().port());
    let strangers = [Ca::new().workload("shop", "client"), world.ca.issue(&Leaf::of("shop", "client").expired())];
    for stranger in strangers {
        // It trusts the server, but the server does not trust it.
        stranger.set_roots(vec![world.ca.root()]).unwrap();
        let answered = runtime.block_on(async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let stream = tokio::net::TcpStream::connect(server.inbound()).await.unwrap();
            let id = "spiffe://mesh.test/ns/shop/sa/cart";
            let Ok(mut stream) = tls::connect(stream, &stranger, id, &sni, Alpn::Http1).await else { return 0 };
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer.len()
        });
        assert_eq!(answered, 0);
    }
    assert_eq!(app.accepted(), 0);
    // A refused peer hears of it before it is counted.
    for why in ["plain_text", "unknown_root", "expired"] {
        let line = format!("heddle_peers_refused_total{{direction=\"inbound\",reason=\"{why}\"}} 1");
        until(&line, LONG, || {
            let metrics = world.registry.render_prometheus(&[]);
            if metrics.lines().any(|l| l == line) { Ok(()) } else { Err(metrics) }
        });
    }
}

#[test]
fn a_sidecar_without_a_certificate_calls_nobody() {
    let app = app();
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    world.publish(Protocol::Http1, vec![server.endpoint(app.address().port())]);
    let mut settings = settings("shop/client-0");
    settings.outbound = Some(address::free());
    let client = world.start(settings, net::identity::Identity::generate().unwrap(), live(None));
    let mut raw = client.connect();
    raw.send(GET);
    assert_eq!(reason(&raw.read_head()), "not_ready");
}

#[test]
fn a_sidecar_whose_certificate_has_expired_calls_nobody_and_blames_nobody() {
    let app = app();
    let world = World::new();
    let server = world.server(app.address(), Protocol::Http1, Authorizer::default());
    world.publish(Protocol::Http1, vec![server.endpoint(app.address().port())]);
    let mut settings = settings("shop/client-0");
    settings.outbound = Some(address::free());
    let identity = world.identity("client");
    let expired = world.ca.sign(&identity.csr().unwrap(), &Leaf::of("shop", "client").expired());
    let good = world.ca.sign(&identity.csr().unwrap(), &Leaf::of("shop", "client"));
    identity.install(expired, vec![world.ca.root()]).unwrap();
    let client = world.start(settings, identity.clone(), live(None));
    let mut raw = client.connect();
    raw.send(GET);
    let head = raw.read_head();
    assert_eq!((reason(&head), app.accepted()), ("not_ready", 0), "{head}");
    assert!(!world.registry.render_prometheus(&[]).contains("heddle_peers_refused_total{"), "no peer was refused");
    // Renewed, it calls again.
    identity.install(good, vec![world.ca.root()]).unwrap();
    let mut raw = client.connect();
    raw.send(GET);
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
}
