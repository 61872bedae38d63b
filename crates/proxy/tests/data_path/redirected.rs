//! Connections that the kernel redirected, in a network namespace with real rules.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use engine::Protocol;
use engine::SeriesId;
use engine::policy::TrafficPolicy;
use engine::snapshot::{Inbound, InboundPort, Mesh};
use testkit::netns::{self, Namespace};
use testkit::raw::{Raw, RawServer};
use tokio::sync::watch;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::world::{World, backend, destination, live, plain, settings};

/// Every address is local, and everything but what is meant for 15006 directly goes to 15001 (from here) or 15006.
const RULES: &str = "
table inet test {
    chain output {
        type nat hook output priority -100
        tcp dport { 15001, 15006 } return
        meta l4proto tcp redirect to :15001
    }
}";

fn greeting(name: &'static str) -> RawServer {
    RawServer::start(move |_, mut raw| {
        while let Some(head) = raw.next_head() {
            let text = format!("{name} {}", head.split(' ').nth(1).unwrap_or_default());
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
        }
    })
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

/// Listening sockets at 15001 and 15006 of both kinds of the namespace's addresses.
fn listeners() -> Vec<TcpListener> {
    netns::run(&["ip", "route", "add", "local", "default", "dev", "lo"]);
    netns::run(&["ip", "-6", "route", "add", "local", "default", "dev", "lo"]);
    netns::nft(RULES);
    let listen = |address: &SocketAddr| net::listen::tcp_reuseport(*address, 16).expect("a namespace's ports are free");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    ["0.0.0.0:15001", "[::]:15001", "0.0.0.0:15006", "[::]:15006"]
        .map(at)
        .iter()
        .map(|address| listen(address).into_std().expect("a listener"))
        .collect()
}

/// A sidecar outside that holds the listeners inside.
fn sidecar(world: &World, application: SocketAddr, strict: bool, listeners: Vec<TcpListener>) -> crate::world::Sidecar {
    let mut settings = settings("shop/client-0");
    settings.application = application.ip();
    settings.redirected = vec![at("0.0.0.0:15001"), at("[::]:15001")];
    settings.redirected_inbound = vec![at("0.0.0.0:15006"), at("[::]:15006")];
    let inbound = Inbound {
        workload: "shop/client-0".into(),
        ports: vec![InboundPort { port: 8080, protocol: Protocol::Auto, series: SeriesId::default() }],
        authorizer: Default::default(),
        series: SeriesId::default(),
    };
    let live = live(Some(inbound));
    live.mesh.store(Arc::new(Mesh { strict, trust_domain: "mesh.test".into(), ..Mesh::default() }));
    world.start_with(settings, world.identity("client"), live, listeners, watch::channel(true).1)
}

#[test]
fn a_redirected_connection_goes_where_it_was_meant_to() {
    let cart = greeting("cart");
    let world = World::new();
    let backend = backend("shop/cart", 80, Protocol::Auto, vec![plain(cart.address())]);
    for name in ["10.96.0.1:80", "[fd00::1]:80"] {
        let series = SeriesId::default();
        let cart = destination("shop/cart", 80, Protocol::Auto, None, &backend, TrafficPolicy::default(), series);
        world.names.publish(name, cart);
    }
    let outside = RawServer::start(|_, mut raw| {
        raw.send("220 outside\r\n").expect_end();
    });
    let Some(inside) = Namespace::new() else { return };
    let _sidecar = sidecar(&world, at("10.0.0.7:8080"), false, inside.run(listeners));
    inside.run(|| {
        for service in ["10.96.0.1:80", "[fd00::1]:80"] {
            let mut raw = Raw::connect(at(service));
            raw.send("GET /a HTTP/1.1\r\nHost: whatever\r\n\r\n").read_head();
            raw.expect("cart /a");
        }
        // Nobody of the mesh: it is dialled from where the sidecar is.
        let mut raw = Raw::connect(outside.address());
        raw.expect("220 outside\r\n").finish();
        raw.expect_end();
        // The sidecar's own ports lead nowhere: they would lead back to it.
        for own in ["127.0.0.1:15001", "10.0.0.7:15001", "[::1]:15001"] {
            // It is cut off before or after its client has noticed that it was accepted.
            if let Ok(stream) = TcpStream::connect(at(own)) {
                Raw::new(stream).expect_end();
            }
        }
    });
}

#[test]
fn a_caller_without_sidecar_is_let_in_unless_the_mesh_is_strict() {
    let world = World::new();
    let application = greeting("application");
    let address = application.address();
    for strict in [false, true] {
        let Some(inside) = Namespace::new() else { return };
        let _sidecar = sidecar(&world, address, strict, inside.run(listeners));
        inside.run(|| {
            netns::nft(&format!("insert rule inet test output tcp dport {} redirect to :15006", address.port()));
            let mut raw = Raw::connect(address);
            raw.send("GET /b HTTP/1.1\r\nHost: whatever\r\n\r\n");
            let head = raw.read_head();
            if strict {
                assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
                assert_eq!(crate::ways::reason(&head), "plain_text_refused");
            } else {
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                raw.expect("application /b");
                // Who has not proved to be a sidecar learns nothing of the load: the application answers, or nobody.
                let mut raw = Raw::connect(address);
                raw.send("OPTIONS /.well-known/heddle/load HTTP/1.1\r\nHost: whatever\r\nheddle-probe: 1\r\n\r\n");
                let head = raw.read_head();
                assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("heddle-load"), "{head}");
                raw.expect("application /.well-known/heddle/load");
            }
            // Directly, the same listener takes mutual TLS alone.
            let mut raw = Raw::connect(at("127.0.0.1:15006"));
            raw.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(raw.read_head().starts_with("HTTP/1.1 403 "));
        });
    }
}

/// A ClientHello that asks for `name`.
fn hello(name: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_tls_client_is_led_by_the_name_that_it_asks_for() {
    let answering = |text: &'static str| {
        RawServer::start(move |_, mut raw| {
            // How every ClientHello begins.
            raw.expect(b"\x16\x03\x01").send(text);
        })
    };
    let (known, outside) = (answering("known"), answering("outside"));
    let world = World::new();
    let nobody = testkit::address::free();
    let backend = backend("shop/cart", nobody.port(), Protocol::Tls, vec![plain(known.address())]);
    let (policy, series) = (TrafficPolicy::default(), SeriesId::default());
    let cart = destination("shop/cart", nobody.port(), Protocol::Tls, None, &backend, policy, series);
    world.names.publish("cart.example", cart);
    let Some(inside) = Namespace::new() else { return };
    let sidecar = sidecar(&world, at("10.0.0.7:8080"), false, inside.run(listeners));
    inside.run(|| {
        // The address is nobody's that the mesh knows, and nobody listens there; the name is known.
        Raw::connect(nobody).send(hello("cart.example")).expect("known");
        Raw::connect(outside.address()).send(hello("elsewhere.example")).expect("outside");
        // Where only what is registered may be called, the name is what counts.
        sidecar.live.mesh.store(Arc::new(Mesh { registered_only: true, ..Mesh::default() }));
        Raw::connect(nobody).send(hello("cart.example")).expect("known");
        Raw::connect(outside.address()).send(hello("elsewhere.example")).expect_end();
    });
}
