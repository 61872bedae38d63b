//! The worked examples, run as they are.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use support::{Mesh, examples};
use testkit::grpc;
use testkit::load::curl;
use testkit::wait::{LONG, until};

#[test]
fn polyglot_carries_nginx_grpc_and_plain_tcp() {
    let python = grpc::python();
    let mesh = Mesh::example("polyglot", &[("PYTHON", &python)]);
    let gateway = &mesh.status["gateways"][0];

    let page = curl([mesh.gateway()]);
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Served by nginx"), "{}", page.text());
    assert!(page.header("server").unwrap().starts_with("nginx"));
    assert!(page.header("x-instance").unwrap().starts_with("pages-"));

    // gRPC, by name, from Python, through the forward proxy that the environment names.
    let python = python.to_str().unwrap();
    let script = mesh.folder.path().join("greet.py");
    let script = script.to_str().unwrap();
    let answer = mesh.exec("pages", [python, script, "Ada"]).success();
    assert!(answer.starts_with("Hello, Ada! greeter-"), "{answer}");
    let other = mesh.exec("pages", [python, script, "3", "Count"]);
    assert!(other.stderr.contains("UNIMPLEMENTED"), "a method without a rule: {other:?}");

    // Plain TCP through the gateway: the server speaks first.
    let listeners = gateway["listeners"].as_array().unwrap();
    let address = listeners.iter().find(|l| l["listener"] == "shout").unwrap()["address"].as_str().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "This is shout-0. Say something.\n");
    stream.write_all(b"hello\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "HELLO\n");

    // And from inside by variables: the greeter may, pages may not.
    let client = "import os, socket\n\
        s = socket.create_connection((os.environ['SHOUT_SERVICE_HOST'], int(os.environ['SHOUT_SERVICE_PORT'])), 10)\n\
        s.settimeout(10)\n\
        print(s.makefile('r').readline())";
    let allowed = mesh.exec("greeter", ["python3", "-c", client]).success();
    assert!(allowed.contains("This is shout-0"), "{allowed}");
    let denied = mesh.exec("pages", ["python3", "-c", client]);
    assert!(!denied.stdout.contains("shout-0"), "{denied:?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn canary_splits_redirects_cuts_off_and_tries_again() {
    let mesh = Mesh::example("canary", &[]);
    let gateway = mesh.gateway();

    let versions: Vec<String> = (0..60).map(|_| curl([&gateway]).text().to_owned()).collect();
    let two = versions.iter().filter(|v| v.contains("version two")).count();
    let one = versions.iter().filter(|v| v.contains("version one")).count();
    // Nine to one: 6 of 60 are expected; fewer than 1 or more than 20 happen once in some hundred and some million runs.
    assert_eq!(one + two, 60, "the failures of version two are tried again: {versions:?}");
    assert!(two <= 20, "{two} of 60");

    let answer = mesh.exec("front", ["curl", "-si", "-H", "x-canary: yes", "http://hello/"]).success();
    assert!(answer.contains("version two") && answer.contains("x-version: two"), "{answer}");

    let moved = curl([&format!("{gateway}/moved/anywhere")]);
    assert_eq!((moved.status, moved.header("heddle-reason")), (302, Some("redirect")));
    assert!(moved.header("location").unwrap().ends_with("/old"), "{moved:?}");
    let cut_off = curl([&format!("{gateway}/slow")]);
    assert_eq!((cut_off.status, cut_off.header("heddle-reason")), (504, Some("request_timeout")));

    let denied = mesh.exec("hello-v1", ["curl", "-si", "http://hello/"]).success();
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");

    // The job ran as a member of the mesh and has ended, and its sidecar with it.
    until("the job's end", LONG, || {
        let left = support::processes(mesh.heddle.runtime());
        if left.iter().any(|(_, line)| line.contains("greet")) { Err(format!("{left:?}")) } else { Ok(()) }
    });
    assert!(mesh.said().contains("heard: hello from version"), "{}", mesh.said());
    mesh.end(Signal::SIGINT);
}

#[test]
fn shop_serves_pages_and_hides_what_is_slow_and_flaky() {
    let mesh = Mesh::example("shop", &[]);
    for _ in 0..50 {
        let page = curl([mesh.gateway()]);
        assert_eq!(page.status, 200, "{}", page.text());
    }
    let next = mesh.exec("web", ["curl", "-s", "-H", "x-next: yes", "http://cart/"]).success();
    assert!(next.contains("cart-next-0"), "{next}");
    let denied = mesh.exec("catalog", ["curl", "-si", "http://cart/"]).success();
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");

    // The slow one of three gets clearly less than its third.
    until("the slow instance to be avoided", LONG, || {
        let stats = mesh.heddle.run(["stat", "-o", "json"]).success();
        let stats: serde_json::Value = serde_json::from_str(&stats).map_err(|e| e.to_string())?;
        let of =
            |name: &str| stats["endpoints"].as_array().into_iter().flatten().find(|e| e["workload"] == name).cloned();
        let slow = of("shop/catalog-slow-0").ok_or("not called yet")?;
        let share = slow["share"].as_f64().unwrap_or(1.0);
        if share < 0.2 { Ok(()) } else { Err(stats.to_string()) }
    });
    mesh.end(Signal::SIGINT);
}

#[test]
fn every_example_is_valid() {
    let heddle = testkit::heddle::Heddle::new();
    for name in ["shop", "polyglot", "canary"] {
        let said = heddle.run(["validate", examples().join(name).to_str().unwrap()]).success();
        assert!(said.contains("objects are good (0 notices and warnings)"), "{name}: {said}");
    }
}
