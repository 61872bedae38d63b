//! The ways in: forward proxy, CONNECT, addresses that stand for a service; and hosts that the mesh does not know.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::Protocol;
use engine::snapshot::Mesh;
use proxy::settings::GatewayBinding;
use testkit::address;
use testkit::raw::{Raw, RawServer};

use crate::world::{World, listener, plain};

fn answering(body: &'static str) -> RawServer {
    RawServer::start(move |_, mut raw| {
        while let Some(head) = raw.next_head() {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let host =
                head.lines().find(|line| line.to_ascii_lowercase().starts_with("host:")).unwrap_or_default().to_owned();
            let text = format!("{body} {target} {host}");
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
        }
    })
}

/// The reason in an answer of the mesh.
pub(crate) fn reason(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("heddle-reason: ")).unwrap_or("none")
}

#[test]
fn a_tunnel_to_a_service_is_looked_into() {
    let app = answering("cart");
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Auto);
    let mut raw = client.connect();
    raw.send("CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
    for _ in 0..2 {
        raw.send("GET /inside HTTP/1.1\r\nHost: cart\r\n\r\n");
        raw.read_head();
        raw.expect("cart /inside Host: cart");
    }
}

#[test]
fn an_address_stands_for_a_service() {
    let app = answering("cart");
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let mut at = None;
    let client = world.client(|settings| at = Some(listener(settings)));
    let at = at.unwrap();
    let mut raw = Raw::connect(at);
    raw.send("GET /x HTTP/1.1\r\nHost: whatever\r\n\r\n");
    raw.read_head();
    raw.expect("cart /x Host: whatever");
    // The same address as an authority at the forward proxy.
    let mut raw = client.connect();
    raw.send(format!("GET http://{at}/y HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    raw.read_head();
    raw.expect(format!("cart /y Host: {at}"));
}

#[test]
fn a_host_that_the_mesh_does_not_know_is_called_directly_unless_forbidden() {
    let outside = answering("outside");
    let at = outside.address();
    let world = World::new();
    let client = world.client(|_| {});
    let mut raw = client.connect();
    raw.send(format!("GET http://{at}/p HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    raw.read_head();
    raw.expect(format!("outside /p Host: {at}"));
    let mut tunnel = client.connect();
    tunnel.send(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    assert!(tunnel.read_head().starts_with("HTTP/1.1 200 "));
    tunnel.send("GET /t HTTP/1.1\r\nHost: t\r\n\r\n");
    tunnel.read_head();
    tunnel.expect("outside /t Host: t");

    client.live.mesh.store(Arc::new(Mesh { registered_only: true, ..Mesh::default() }));
    raw.send(format!("GET http://{at}/p HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert_eq!(reason(&head), "not_registered");
}

#[test]
fn a_proxy_before_us_is_used_for_what_is_outside() {
    let upstream = RawServer::start(|_, mut raw| {
        let head = raw.read_head();
        if head.starts_with("CONNECT elsewhere.test:443 ") {
            raw.send("HTTP/1.1 200 OK\r\n\r\n").expect("bytes").send("setyb");
        } else {
            assert!(head.starts_with("GET http://elsewhere.test/p HTTP/1.1\r\n"), "{head}");
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let at = upstream.address().to_string();
    let client = world.client(|settings| settings.upstream_proxy = Some(at));
    let mut raw = client.connect();
    raw.send("GET http://elsewhere.test/p HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n");
    raw.read_head();
    raw.expect("ok");
    let mut tunnel = client.connect();
    tunnel.send("CONNECT elsewhere.test:443 HTTP/1.1\r\nHost: elsewhere.test:443\r\n\r\n");
    assert!(tunnel.read_head().starts_with("HTTP/1.1 200 "));
    tunnel.send("bytes").expect("setyb");
    drop((raw, tunnel, client));
    upstream.finish();
}

#[test]
fn without_a_control_plane_the_wide_world_is_called_and_nothing_that_may_be_the_meshs() {
    let upstream = RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let names = ["203.0.113.7:80", "10.0.0.7:80", "example.org", "cart", "cart.shop"].map(str::to_owned);
    world.names.silent.lock().unwrap().extend(names);
    let at = upstream.address().to_string();
    let client = world.client(|settings| {
        settings.upstream_proxy = Some(at);
        settings.limits.discovery_timeout = std::time::Duration::from_millis(600);
    });
    let ask = |host: &str| {
        let mut raw = client.connect();
        raw.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        raw.read_head()
    };
    assert_eq!(reason(&ask("203.0.113.7")), "discovery_unavailable", "whoever is there has the last word");
    world.names.alone.store(true, Ordering::Relaxed);
    for host in ["203.0.113.7", "example.org"] {
        let head = ask(host);
        assert!(head.starts_with("HTTP/1.1 200 "), "{host}: {head}");
    }
    for host in ["10.0.0.7", "cart", "cart.shop"] {
        assert_eq!(reason(&ask(host)), "discovery_unavailable", "{host}");
    }
    client.live.mesh.store(Arc::new(Mesh { registered_only: true, ..Mesh::default() }));
    assert_eq!(reason(&ask("203.0.113.7")), "not_registered");
}

#[test]
fn requests_without_a_usable_destination_are_told_why() {
    let world = World::new();
    let app = answering("cart");
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    world.names.silent.lock().unwrap().push("slow".to_owned());
    let client = world.client(|settings| settings.limits.discovery_timeout = std::time::Duration::from_millis(100));
    let own = client.outbound();
    for (target, status, why) in [
        ("/origin".to_owned(), 400, "no_destination"),
        ("https://cart/".to_owned(), 400, "no_destination"),
        ("http://cart:81/".to_owned(), 502, "no_such_port"),
        ("http://name.invalid/".to_owned(), 502, "name_not_found"),
        ("http://slow/".to_owned(), 503, "discovery_unavailable"),
        (format!("http://{own}/"), 400, "no_destination"),
    ] {
        let mut raw = client.connect();
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: cart\r\n\r\n"));
        let head = raw.read_head();
        // A Host that contradicts an absolute target is overruled by it (RFC 9112, 3.2.2).
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
        assert_eq!(reason(&head), why, "{target}");
    }
}

#[test]
fn a_gateway_without_configuration_says_so() {
    let world = World::new();
    let listen = address::free();
    let _gateway = world.client(|settings| {
        settings.gateway = vec![GatewayBinding { listen, port: 80 }];
    });
    let mut raw = Raw::connect(listen);
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(reason(&head), "not_ready");
}

#[test]
fn headers_of_the_mesh_come_from_the_mesh_alone() {
    let app = RawServer::start(|_, mut raw| {
        let head = raw.read_head();
        assert!(!head.contains("heddle-"), "{head}");
        raw.send("HTTP/1.1 200 OK\r\nHeddle-Reason: denied\r\nContent-Length: 0\r\n\r\n");
    });
    let world = World::new();
    let (client, _server) = world.pair(app.address(), Protocol::Http1);
    let mut raw = client.connect();
    raw.send("GET http://cart/ HTTP/1.1\r\nHost: cart\r\nheddle-load: 1\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.to_ascii_lowercase().contains("heddle-"), "{head}");
    drop((raw, client, _server));
    app.finish();
}
