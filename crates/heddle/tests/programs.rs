//! HTTP of programs that are not ours, byte by byte, through both sidecars.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::Mesh;
use support::manifest::{NGINX, STRICT, THINGS, client, instances, service};
use testkit::load::{Answer, curl};
use testkit::raw::Raw;

/// Bytes of which no part looks like another.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

#[test]
fn nginx_serves_as_it_does_without_a_mesh() {
    let big = noise(5_000_000);
    let manifest = [STRICT, &client(), &service("pages", "http"), &instances("pages", "pages", 1, NGINX)].concat();
    let mesh = Mesh::with_files(&manifest, &[("public/big", &big), ("public/small", b"small\n")]);
    let proxy = format!("http://{}", mesh.forward_proxy("client-0"));
    let ask = |args: &[&str]| -> Answer { curl(["--proxy", &proxy].into_iter().chain(args.iter().copied())) };

    let answer = ask(&["http://pages/big"]);
    assert_eq!((answer.status, answer.body == big), (200, true));
    assert!(answer.header("server").is_some_and(|s| s.starts_with("nginx")), "{:?}", answer.headers);
    let tag = answer.header("etag").expect("nginx sends one").to_owned();

    let part = ask(&["-r", "4000000-4000999", "http://pages/big"]);
    assert_eq!((part.status, &*part.body), (206, &big[4_000_000..4_001_000]));
    assert_eq!(part.header("content-range"), Some("bytes 4000000-4000999/5000000"));

    let same = ask(&["-H", &format!("if-none-match: {tag}"), "http://pages/big"]);
    assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some(&*tag)));

    let head = ask(&["--head", "http://pages/big"]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("5000000")));
    assert_eq!(ask(&["http://pages/none"]).status, 404);

    // One connection, with answers that have no body and answers of both kinds of clients in between.
    let mut raw = Raw::connect(mesh.service_port("client-0", "pages"));
    for _ in 0..3 {
        raw.send("HEAD /small HTTP/1.1\r\nHost: pages\r\n\r\nGET /small HTTP/1.1\r\nHost: pages\r\n\r\n");
        for body in ["", "small\n"] {
            let head = raw.read_head();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 6\r\n"), "{head}");
            raw.expect(body);
        }
    }
    raw.send("GET /small HTTP/1.0\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    raw.expect("small\n");
    raw.expect_end();
    mesh.end(Signal::SIGINT);
}

#[test]
fn heads_bodies_and_upgrades_arrive_as_they_were_sent() {
    let manifest = [STRICT, &client(), &service("things", "http"), &instances("things", "things", 1, THINGS)].concat();
    let mesh = Mesh::with_files(&manifest, &[]);
    let address = mesh.service_port("client-0", "things");
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).expect("the program answers JSON") };

    // Names in their case and order, doubled ones too, nothing added and nothing taken away.
    let lines = ["Host: things", "X-Zeta: 1", "x-alpha: 2", "X-zeta: 3", "ACCEPT: */*", "Cookie: a=b; c=d"];
    let mut raw = Raw::connect(address);
    raw.send(format!("GET /head?a=%20b HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n")));
    let head = raw.read_head();
    assert!(head.contains("\r\nX-Second: 2\r\nx-first: 1\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"), "{head}");
    assert!(!head.contains("heddle"), "{head}");
    let seen = json(&raw.read_through("}"));
    let mut wanted = vec!["GET /head?a=%20b HTTP/1.1"];
    wanted.extend(lines);
    assert_eq!(seen["head"], serde_json::json!(wanted));

    // The client waits with its body until it is told to go on.
    raw.send("POST /wait HTTP/1.1\r\nHost: things\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    raw.expect("HTTP/1.1 100 Continue\r\n\r\n").send("hello");
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
    assert_eq!(json(&raw.read_through("}"))["length"], 5);

    // Uploads of both framings, and an answer in very small chunks.
    let big = noise(3_000_000);
    let file = mesh.folder.path().join("upload");
    std::fs::write(&file, &big).expect("a file");
    let (file, url) = (format!("@{}", file.display()), format!("http://{address}/chunked"));
    let plain = json(&curl(["--data-binary", &file, &url]).body);
    let chunked = json(&curl(["--data-binary", &file, "-H", "transfer-encoding: chunked", &url]).body);
    assert_eq!((&plain["length"], &plain["sha256"]), (&serde_json::json!(3_000_000), &chunked["sha256"]));
    assert_eq!(chunked["length"], 3_000_000);
    let sums = testkit::process::Command::new("sha256sum").args([&file[1..]]).run(testkit::wait::LONG).success();
    assert!(sums.starts_with(plain["sha256"].as_str().expect("a text")), "{sums}");
    let framed = |seen: &Value, field: &str| seen["head"].to_string().to_lowercase().contains(field);
    assert!(framed(&plain, "content-length: 3000000") && framed(&chunked, "transfer-encoding: chunked"), "{chunked}");

    // WebSocket, with the key and the frames of RFC 6455.
    let mut raw = Raw::connect(address);
    raw.send("GET /ws HTTP/1.1\r\nHost: things\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    raw.send("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    for _ in 0..3 {
        raw.send(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58").expect(b"\x81\x05Hello");
    }
    raw.send(b"\x88\x80\0\0\0\0").expect_end();
    mesh.end(Signal::SIGINT);
}
