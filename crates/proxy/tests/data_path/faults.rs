//! What a proxy does when there is too much of something.

use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use engine::Protocol;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy::settings::ServiceListener;
use testkit::netns::Namespace;
use testkit::raw::{Raw, RawServer};
use testkit::wait::{LONG, until};

use crate::ways::reason;
use crate::world::{World, plain};

const GET: &str = "GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n";

fn answering() -> RawServer {
    RawServer::start(|_, mut raw| {
        while raw.next_head().is_some() {
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

#[test]
fn twenty_thousand_connections_are_kept_and_served() {
    // Both ends are in this process, which may open so many files and no more; half of it where that is too few.
    let wanted: u64 = 2 * 20_000 + 2_000;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let allowed = if setrlimit(Resource::RLIMIT_NOFILE, wanted, most.max(wanted)).is_ok() { wanted } else { most };
    setrlimit(Resource::RLIMIT_NOFILE, allowed.min(wanted), most.max(allowed)).unwrap();
    let count = usize::try_from((allowed.min(wanted) - 2_000) / 2).unwrap();
    eprintln!("with {count} connections");
    let app = answering();
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let connect = |_| TcpStream::connect(client.outbound()).expect("a connection");
    let mut connections: Vec<TcpStream> = (0..count).map(connect).collect();
    for place in [0, count / 2, count - 1] {
        let mut raw = Raw::new(connections[place].try_clone().unwrap());
        raw.send(GET).read_head();
        raw.expect("ok");
    }
    // When they go, there is room as before.
    connections.clear();
    client.connect().send(GET).read_head();
}

#[test]
fn heads_that_come_slowly_hold_up_nobody_and_are_given_up() {
    let app = answering();
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|settings| settings.limits.head_timeout = Duration::from_secs(1));
    let mut slow: Vec<Raw> = (0..300).map(|_| client.connect()).collect();
    for raw in &mut slow {
        raw.send("GET http://cart/ HTTP/1.1\r\nX-a: b\r\n");
    }
    let mut raw = client.connect();
    raw.send(GET).read_head();
    raw.expect("ok");
    for mut raw in slow {
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        assert_eq!(reason(&head), "head_timeout");
    }
}

#[test]
fn without_a_free_local_port_the_caller_is_told_and_the_next_one_is_served() {
    let Some(inside) = Namespace::new() else { return };
    inside.run(|| {
        // Four ports for each destination.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").unwrap();
        let (let_go, may_go) = mpsc::channel::<()>();
        let may_go = std::sync::Mutex::new(may_go);
        let app = RawServer::start_on("127.0.0.1:8080".parse().unwrap(), move |_, mut raw| {
            if raw.next_head().is_some() {
                may_go.lock().unwrap().recv_timeout(LONG).expect("the test says so");
                raw.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let world = World::new();
        world.publish(Protocol::Http1, vec![plain(app.address())]);
        let other = "127.0.0.1:9001".parse().unwrap();
        let client = world.client(|settings| {
            settings.outbound = Some("127.0.0.1:9000".parse().unwrap());
            settings.services.push(ServiceListener { listen: other, service: "cart".to_owned(), port: 80 });
        });
        let mut busy: Vec<Raw> = (0..4).map(|_| client.connect()).collect();
        for raw in &mut busy {
            raw.send(GET);
        }
        until("four connections", LONG, || if app.accepted() == 4 { Ok(()) } else { Err(app.accepted().to_string()) });
        let mut raw = Raw::connect(other);
        raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(reason(&head), "connect_failed");
        (0..4).for_each(|_| let_go.send(()).unwrap());
        for raw in &mut busy {
            assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
        }
        // A port that the other side closed is free at once, one that we closed ourselves (whoever is faster) a second later. The
        // test has four of them, too, for a connection each time that it is refused.
        drop((raw, busy));
        until("a free port and the instance's return", LONG, || {
            let stream = TcpStream::connect(other).map_err(|error| error.to_string())?;
            let mut raw = Raw::new(stream);
            let_go.send(()).unwrap();
            raw.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n");
            let head = raw.read_head();
            if head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(head) }
        });
    });
}
