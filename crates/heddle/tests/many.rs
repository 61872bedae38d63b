//! Very many connections to one sidecar: 1,000 in CI, and as many as `HEDDLE_TEST_CONNECTIONS` says.

mod support;

use std::io::Write;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use support::{Mesh, PAIR};
use testkit::process::{Command, Process};
use testkit::raw::Raw;
use testkit::wait::{LONG, until};

/// Client processes: each has a limit of open files as well.
const CLIENTS: u64 = 8;

/// What a sidecar has open besides: connections to instances and to the control plane, and what it listens on.
const BESIDES: u64 = 200;

/// Thousands of connections take their time.
const LONGER: Duration = Duration::from_secs(180);

#[test]
fn many_connections_are_served_and_given_back() {
    let count: u64 = std::env::var("HEDDLE_TEST_CONNECTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000);
    // The sidecar inherits a low limit, as programs usually have it, and raises it itself to the hard one.
    let hard = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit").1.max(count + BESIDES);
    setrlimit(Resource::RLIMIT_NOFILE, 900, hard).expect("the hard limit is high enough, or root runs this");
    let mesh = Mesh::up(PAIR);
    let proxy = mesh.process(&["heddle proxy", "pair.front-0/"]);
    let open = || std::fs::read_dir(format!("/proc/{proxy}/fd")).expect("it is ours").count() as u64;
    let before = open();
    let address = mesh.forward_proxy("front-0");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/hold.py");
    let limit = format!("--nofile={hard}");
    let start = |count: u64| -> Process {
        let hold = ["python3", script, &address.ip().to_string(), &address.port().to_string(), &count.to_string()];
        Command::new("prlimit").args([&limit]).args(hold).with_input().start()
    };
    let mut clients: Vec<Process> = (0..CLIENTS).map(|_| start(count / CLIENTS)).collect();
    for client in &mut clients {
        client.wait_line("held", LONGER);
    }
    let held = open();
    assert!(held >= before + count / CLIENTS * CLIENTS, "{held} descriptors for {count} connections");
    // One more, and all of them once more.
    let mut raw = Raw::connect(address);
    raw.send("GET http://back/ HTTP/1.1\r\nHost: back\r\n\r\n");
    assert!(raw.read_head().starts_with("HTTP/1.1 200 "));
    for client in &mut clients {
        client.stdin().expect("it reads").write_all(b"again\n").expect("it reads");
        client.wait_line("served", LONGER);
    }
    drop((clients, raw));
    until("descriptors to be closed", LONG, || match open() {
        // Connections to instances stay in the pool for a minute.
        now if now <= before + BESIDES => Ok(()),
        now => Err(format!("{now} instead of {before}")),
    });
    mesh.end(Signal::SIGTERM);
}
