//! What a running mesh does with garbage, silence and what is too large, and what people are told about what cannot be had.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Mesh, PAIR};
use testkit::address;
use testkit::ca::{Ca, Leaf};
use testkit::heddle::Heddle;
use testkit::process::Finished;
use testkit::raw::Raw;
use testkit::wait::{LONG, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What every socket closes a silent or a broken connection within: the longest limit of `docs/limits.md` and some leeway
/// for a machine with much to do.
const BOUND: Duration = Duration::from_secs(25);

/// The sockets of an instance and of a gateway.
struct Doors {
    forward: SocketAddr,
    inbound: SocketAddr,
    metrics: SocketAddr,
    gateway: SocketAddr,
}

impl Doors {
    fn of(mesh: &Mesh) -> Doors {
        let ip = mesh.status["instances"][0]["address"].as_str().expect("an instance has an address");
        let at = |port: u16| SocketAddr::new(ip.parse().expect("an address"), port);
        let gateway = mesh.gateway();
        let gateway = gateway.trim_start_matches("http://").trim_end_matches('/').parse().expect("an address");
        Doors { forward: at(15001), inbound: at(15006), metrics: at(15020), gateway }
    }

    /// Those that speak HTTP/1.
    fn http(&self) -> [SocketAddr; 3] {
        [self.forward, self.metrics, self.gateway]
    }
}

#[track_caller]
fn answer(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(address);
    raw.send(bytes);
    String::from_utf8_lossy(&raw.read_to_end()).into_owned()
}

/// What a Unix socket answers to `bytes` until it closes the connection; a panic when it does not.
#[track_caller]
fn unix_answer(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(BOUND)).expect("a limit");
    // It may have been closed already, which is an answer too.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{} stays open: {error}", socket.display()),
    }
    answer
}

#[test]
fn garbage_is_answered_or_cut_off_and_the_mesh_goes_on() {
    let mesh = Mesh::up(PAIR);
    let doors = Doors::of(&mesh);
    for garbage in
        [&b"\x00\xff\xfegarbage\r\n\r\n"[..], b"\x16\x03\x01\x00\x05\x01oops\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        for address in doors.http() {
            let answer = answer(address, garbage);
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(matches!(status, "400" | "505"), "{address}: {answer:?}");
        }
    }
    for address in [doors.forward, doors.gateway] {
        assert!(answer(address, "not HTTP\r\n\r\n").to_lowercase().contains("heddle-reason: bad_request"), "{address}");
    }
    // Plain text and a broken handshake where mutual TLS is spoken.
    let plain = answer(doors.inbound, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(plain.starts_with("HTTP/1.1 403 ") && plain.contains("plain_text_refused"), "{plain}");
    let broken = answer(doors.inbound, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".repeat(10));
    assert!(!broken.contains("HTTP"), "{broken:?}");
    // Only an alert, at most, comes out of the control socket.
    let control = unix_answer(&mesh.runtime().join("control.sock"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(control.len() < 16, "{}", control.escape_ascii());
    let admin = unix_answer(&mesh.runtime().join("admin.sock"), b"\x00garbage\r\n\r\n");
    assert!(admin.starts_with(b"HTTP/1.1 400 "), "{}", admin.escape_ascii());

    assert_eq!(mesh.ask("front", "http://back.pair/").0, 200);
    mesh.end(Signal::SIGINT);
}

#[test]
fn who_says_nothing_or_stops_half_way_is_let_go() {
    let mesh = Mesh::up(PAIR);
    let doors = Doors::of(&mesh);
    let began = Instant::now();
    let mut waiting = Vec::new();
    for address in [doors.forward, doors.metrics, doors.gateway, doors.inbound] {
        // A client of a proxy may connect before it has anything to say (`keepAlive`).
        let silent = (address == doors.metrics || address == doors.inbound).then_some(&b""[..]);
        for half in silent.into_iter().chain([&b"GET / HTTP/1.1\r\nHo"[..], b"\x16\x03\x01"]) {
            waiting.push(std::thread::spawn(move || {
                let mut raw = Raw::connect(address);
                raw.stream().set_read_timeout(Some(BOUND)).expect("a limit");
                raw.send(half).read_to_end();
            }));
        }
    }
    for socket in ["control.sock", "admin.sock"] {
        let socket = mesh.runtime().join(socket);
        for half in [&b""[..], b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", b"\x16\x03\x01"] {
            let socket = socket.clone();
            waiting.push(std::thread::spawn(move || drop(unix_answer(&socket, half))));
        }
    }
    for thread in waiting {
        thread.join().expect("every one is closed in time");
    }
    assert!(began.elapsed() < BOUND);
    mesh.end(Signal::SIGINT);
}

#[test]
fn heads_that_are_too_large_are_refused_with_status_and_reason() {
    let mesh = Mesh::up(PAIR);
    let doors = Doors::of(&mesh);
    let large = "x".repeat(70_000);
    for address in [doors.forward, doors.gateway] {
        let head = answer(address, format!("GET http://back.pair/ HTTP/1.1\r\nHost: back.pair\r\nX: {large}\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 431 ") && head.contains("heddle-reason: head_too_large"), "{head}");
        let target =
            answer(address, format!("GET http://back.pair/{} HTTP/1.1\r\nHost: back.pair\r\n\r\n", &large[..20_000]));
        assert!(target.starts_with("HTTP/1.1 414 ") && target.contains("heddle-reason: target_too_long"), "{target}");
    }
    let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {large}\r\n\r\n");
    assert!(answer(doors.metrics, &head).starts_with("HTTP/1.1 431 "));
    assert!(unix_answer(&mesh.runtime().join("admin.sock"), head.as_bytes()).starts_with(b"HTTP/1.1 431 "));
    mesh.end(Signal::SIGINT);
}

#[test]
fn strangers_are_refused_by_sidecars_and_by_the_control_plane() {
    let mesh = Mesh::up(PAIR);
    let inbound = Doors::of(&mesh).inbound;
    let name = mesh.status["instances"][0]["name"].as_str().expect("a name");
    let set = mesh.status["instances"][0]["set"].as_str().expect("a set");
    let server = format!("spiffe://test.example/ns/pair/sa/{set}");
    let roots = net::identity::read_certificates(&mesh.runtime().join("roots.pem")).expect("the roots");
    // Who says that it is `front`, which may call, but whom another authority vouches for; an expired one; and the control
    // plane's own name.
    let foreign = Ca::new();
    let leaf = |namespace: &str, account: &str| Leaf::in_domain("test.example", namespace, account);
    for stranger in [leaf("pair", "front"), leaf("pair", "front").expired(), leaf("heddle-system", "control")] {
        let identity = foreign.issue(&stranger);
        identity.set_roots(roots.clone()).expect("roots");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let said = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(inbound).await.expect("it listens");
            let sni = format!("p8080.{name}.pair.heddle");
            let mut said = Vec::new();
            if let Ok(mut stream) = net::tls::connect(stream, &identity, &server, &sni, net::tls::Alpn::Http1).await {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: back\r\n\r\n").await;
                let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut said)).await.expect("it is cut off");
            }
            let stream =
                tokio::net::UnixStream::connect(mesh.runtime().join("control.sock")).await.expect("it listens");
            if let Ok(mut stream) = net::tls::connect_control(stream, &identity).await {
                let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut said)).await.expect("it is cut off");
            }
            said
        });
        assert!(said.is_empty(), "{}", said.escape_ascii());
    }
    until("the control plane to say so", LONG, || {
        let said = mesh.said();
        if said.contains("no root of the mesh vouches for the peer's certificate") { Ok(()) } else { Err(said) }
    });
    mesh.end(Signal::SIGINT);
}

/// That `answer` failed with `code` and said all of `words`.
#[track_caller]
fn failed(answer: &Finished, code: i32, words: &[&str]) {
    assert_eq!(answer.status.code(), Some(code), "{answer:?}");
    for word in words {
        assert!(answer.stderr.contains(word), "{word:?} is not said: {}", answer.stderr);
    }
}

#[test]
fn what_is_taken_is_named_with_a_way_out() {
    let mesh = Mesh::up(PAIR);
    let runtime = mesh.runtime();
    let dir = runtime.to_str().expect("letters");
    // A second control plane on one runtime directory.
    let second = mesh.heddle.run(["control", "--runtime", dir]);
    failed(&second, 1, &["another control plane (process ", dir, "end it"]);

    // A second proxy on the addresses of the first.
    let name = mesh.status["instances"][0]["name"].as_str().expect("a name");
    let settings = runtime.join(format!("instances/pair.{name}/settings.json"));
    let text = std::fs::read_to_string(&settings).expect("the settings");
    let again = mesh.heddle.run(["proxy", "--standalone", "--settings", settings.to_str().expect("letters")]);
    failed(&again, 1, &[":150", "is held by another heddle proxy", "end that one"]);

    // A proxy whose port somebody else has.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|a| (a, taken)).expect("an address");
    let mut other: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    other["directory"] = mesh.folder.path().join("other").to_str().into();
    other["proxy"]["outbound"] = taken.0.to_string().into();
    other["proxy"]["services"] = serde_json::json!([]);
    other["proxy"]["inbound"] = serde_json::Value::Null;
    let path = mesh.folder.path().join("other.json");
    std::fs::write(&path, other.to_string()).expect("the settings");
    let refused = mesh.heddle.run(["proxy", "--standalone", "--settings", path.to_str().expect("letters")]);
    failed(&refused, 1, &[&taken.0.to_string(), "in use"]);

    assert_eq!(mesh.ask("front", "http://back.pair/").0, 200, "the first ones go on");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_gateways_port_that_is_taken_is_moved_and_said() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let mesh = Mesh::up(&PAIR.replace("port: 8080, protocol: HTTP", &format!("port: {port}, protocol: HTTP")));
    let moved = mesh.gateway();
    assert!(!moved.contains(&format!(":{port}")), "{moved}");
    let said = until("the move to be said", LONG, || {
        let said = mesh.said();
        said.lines().find(|l| l.contains(&format!("port {port}"))).map(str::to_owned).ok_or(said)
    });
    assert!(said.contains("gateway door") && said.contains("listens on"), "{said}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn an_applications_port_that_is_taken_is_named_with_a_way_out() {
    let mesh = Mesh::up(PAIR);
    let first: Ipv4Addr =
        mesh.status["instances"][0]["address"].as_str().and_then(|a| a.parse().ok()).expect("an address");
    // Whichever address of the mesh's block the next instance gets, we were there before.
    let [_, block, ..] = first.octets();
    let taken: Vec<_> =
        (1..100).filter_map(|host| TcpListener::bind((Ipv4Addr::new(127, block, 0, host), 8080)).ok()).collect();
    let own = format!("process {} (", std::process::id());
    mesh.edit("replicas: 2", "replicas: 3");
    let said = until("the port to be named", LONG, || {
        let said = mesh.said();
        said.lines().find(|l| l.contains("back-2: its port")).map(str::to_owned).ok_or(said)
    });
    let place = said.split_whitespace().find(|w| w.ends_with(":8080")).expect("address and port");
    assert!(taken.iter().any(|t| t.local_addr().is_ok_and(|a| a.to_string() == place)), "{said}");
    for word in [&own, &format!("which listens on {place}"), "end that process", "another port", "started again in"] {
        assert!(said.contains(word), "{word:?} is not said: {said}");
    }
    assert_eq!(mesh.ready("pair/back"), ["back-0", "back-1"], "a stranger is not taken for the application");
    drop(taken);
    until("the instance to start by itself", LONG, || match mesh.ready("pair/back") {
        ready if ready.len() == 3 => Ok(()),
        ready => Err(format!("{ready:?}")),
    });

    // `run`, and a stranger that listens everywhere.
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    let (port, place) = (taken.local_addr().map(|a| a.port().to_string()), taken.local_addr());
    let (port, place) = (port.expect("a port"), place.expect("an address"));
    let run = |port: &str| {
        mesh.heddle.run([
            "run",
            "-n",
            "pair",
            "--service",
            "back",
            "--name",
            "mine",
            "--port",
            port,
            "--",
            "sh",
            "-c",
            "exit 3",
        ])
    };
    let words =
        ["mine cannot run", &format!(":{port} is in use by"), &own, &format!("listens on {place}"), "on $POD_IP"];
    failed(&run(&port), 1, &words);
    drop(taken);
    assert_eq!(run(&port).status.code(), Some(3), "the command's own");
    // The sidecar is on the same address.
    failed(
        &run("15006"),
        1,
        &["mine cannot run", "port 15006", "sidecar's own", "15001, 15006, 15020", "another port"],
    );
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let heddle = Heddle::new();
    let folder = tempfile::tempdir().expect("a folder");
    let line = "annotations: {heddle.dev/command: exec \"$HEDDLE\" demo-service --role cart --listen \"$POD_IP:8080\"}";
    assert!(PAIR.contains(line));
    let manifest = PAIR.replace(line, "annotations: {}").replacen("command: [heddle]", "command: [no-such-program]", 1);
    std::fs::write(folder.path().join("mesh.yaml"), manifest).expect("a manifest");
    let mut up = heddle.start(["up", "--name", "m", folder.path().to_str().expect("letters")]);
    let said = up.wait_line("no-such-program", LONG);
    assert!(
        said.contains("front-0: cannot start") && said.contains("PATH") && said.contains("started again in"),
        "{said}"
    );
    let exec = heddle.run(["exec", "-n", "pair", "back", "--", "no-such-program"]);
    failed(&exec, 127, &["cannot start \"no-such-program\"", "is it installed"]);
    let run = heddle.run(["run", "-n", "pair", "--service", "back", "--port", "9000", "--", "./no-such-program"]);
    failed(&run, 127, &["cannot start \"./no-such-program\"", "is the path right"]);
    up.signal(Signal::SIGINT);
    assert!(up.wait(LONG).success());
}

#[test]
fn a_control_plane_that_is_not_there_is_missed_at_once() {
    let heddle = Heddle::new();
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nothing");
    let dir = nowhere.to_str().expect("letters");
    let socket = format!("{dir}/control.sock");
    for command in [
        &["get", "--runtime", dir][..],
        &["stat", "--runtime", dir],
        &["exec", "--runtime", dir, "back", "--", "true"],
        &["run", "--runtime", dir, "--service", "back", "--port", "1", "--", "true"],
        &["token", "--runtime", dir, "--workload", "a/b"],
        &["run", "--control", &socket, "--service", "back", "--port", "1", "--", "true"],
    ] {
        let began = Instant::now();
        failed(&heddle.run(command), 1, &[dir, "start one"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{command:?}");
    }
    // A mesh that the environment names stands in nobody's way.
    let other = heddle.command(["get", "--runtime", dir]).env("HEDDLE_MESH", "other").run(LONG);
    failed(&other, 1, &[dir, "start one"]);
    failed(&heddle.run(["proxy", "--settings", &format!("{dir}.json")]), 1, &["--settings", dir]);

    // Over TCP there may be nobody; a proxy keeps trying, says so, and gives up with its supervisor.
    let port = address::free().to_string();
    let token = folder.path().join("token");
    net::files::write_private(&token, b"nonsense").expect("a token");
    let ca = Ca::new();
    let roots = folder.path().join("roots.pem");
    ca.workload("shop", "any").save(folder.path()).expect("roots");
    let began = Instant::now();
    let answer = heddle.run([
        "run",
        "--control",
        &port,
        "--token-file",
        token.to_str().expect("letters"),
        "--roots",
        roots.to_str().expect("letters"),
        "--service",
        "back",
        "--port",
        "1",
        "--",
        "true",
    ]);
    failed(&answer, 1, &[&port, "no control plane at"]);
    assert!(began.elapsed() < BOUND);
}
