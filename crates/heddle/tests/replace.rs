//! Proxies are replaced in place while requests are under way, and nobody notices.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::manifest::{STRICT, WHO, client, instances, service};
use support::{Mesh, PAIR};
use testkit::load::try_curl;
use testkit::process::{Command, Process};
use testkit::raw::Raw;
use testkit::steady::Steady;
use testkit::wait::{LONG, until};

/// A request whose answer has no body.
const HEAD: &str = "HEAD http://back/ HTTP/1.1\r\nHost: back\r\n\r\n";

/// One that calls, and two that are called.
fn two(protocol: &str, command: &str) -> String {
    [STRICT.to_owned(), client(), service("back", protocol), instances("back", "back", 2, command)].concat()
}

/// The proxies that run.
fn proxies(mesh: &Mesh) -> BTreeSet<u32> {
    let all = support::processes(mesh.heddle.runtime());
    all.into_iter().filter(|(_, line)| line.contains("heddle proxy ")).map(|(pid, _)| pid).collect()
}

/// Asks for new proxies, and waits until there is one for each instance.
fn replace(mesh: &Mesh) -> BTreeSet<u32> {
    let (old, wanted) = (proxies(mesh), mesh.instances().len());
    mesh.up.signal(Signal::SIGUSR2);
    until("new proxies", LONG, || {
        let new: BTreeSet<u32> = proxies(mesh).difference(&old).copied().collect();
        if new.len() == wanted { Ok(()) } else { Err(format!("{new:?}\n{}", mesh.said())) }
    });
    old
}

fn gone(mesh: &Mesh, old: &BTreeSet<u32>) {
    until("the end of the old proxies", LONG, || {
        let left: Vec<u32> = proxies(mesh).intersection(old).copied().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}\n{}", mesh.said())) }
    });
}

#[test]
fn no_request_is_lost_when_every_proxy_is_replaced() {
    let mesh = Mesh::with_files(&two("http", WHO), &[]);
    let proxy = mesh.forward_proxy("client-0");
    // A connection that is quiet for the whole time, and is then served by the process that has it.
    let mut quiet = Raw::connect(proxy);
    quiet.send(HEAD);
    assert!(quiet.read_head().starts_with("HTTP/1.1 200 "));
    let load = Steady::start(proxy, "http://back/", 300, 12);
    load.go_on(100);
    let first = replace(&mesh);
    load.go_on(500);
    replace(&mesh);
    load.go_on(500);
    let seen = load.finish();
    assert_eq!(seen.failed, 0, "{seen:#?}\n{}", mesh.said());
    quiet.send(HEAD);
    let head = quiet.read_head();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.to_ascii_lowercase().contains("connection: close"), "{head}");
    drop(quiet);
    gone(&mesh, &first);
    // New ones are replaced like old ones, and the control plane counts each instance once.
    assert_eq!(mesh.ready("t/back"), ["back-0", "back-1"]);
    mesh.end(Signal::SIGTERM);
}

#[test]
fn after_an_upgrade_proxies_are_replaced_and_what_dies_comes_back() {
    let mesh = Mesh::upgradable(&two("http", WHO));
    let proxy = mesh.forward_proxy("client-0");
    // It keeps the process that has it, which must not stand in anybody's way.
    let mut quiet = Raw::connect(proxy);
    quiet.send(HEAD);
    assert!(quiet.read_head().starts_with("HTTP/1.1 200 "));
    mesh.heddle.renew();
    let old = replace(&mesh);
    let line = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let new = proxies(&mesh).difference(&old).copied().find(|pid| line(pid).contains("t.client-0/"));
    kill(Pid::from_raw(i32::try_from(new.unwrap()).unwrap()), Signal::SIGKILL).unwrap();
    let proxy = format!("http://{proxy}");
    until("an answer", Duration::from_secs(8), || match try_curl(["-m", "2", "-x", &proxy, "http://back/"])? {
        answer if answer.status == 200 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    mesh.kill(&["heddle control"]);
    until("a new control plane", LONG, || match mesh.heddle.run(["get", "instances"]) {
        list if list.status.success() => Ok(()),
        list => Err(format!("{}{}", list.stderr, mesh.said())),
    });
    drop(quiet);
    mesh.end(Signal::SIGTERM);
}

#[test]
fn a_proxy_without_descriptors_for_its_successor_goes_on() {
    let mesh = Mesh::with_files(&two("http", WHO), &[]);
    let mut quiet = Raw::connect(mesh.forward_proxy("client-0"));
    quiet.send(HEAD);
    assert!(quiet.read_head().starts_with("HTTP/1.1 200 "));
    let pid = mesh.process(&["heddle proxy ", "t.client-0/"]).to_string();
    let limit = |files: &str| {
        let words = ["--pid", &pid, &format!("--nofile={files}")];
        Command::new("prlimit").args(words).run(LONG).success()
    };
    // Those that it has are above that.
    limit("4:1000");
    mesh.up.signal(Signal::SIGUSR2);
    until("the report", LONG, || match mesh.said() {
        said if said.contains("the proxy of client-0 was not replaced") => Ok(()),
        said => Err(said),
    });
    limit("1000:1000");
    quiet.send(HEAD);
    assert!(quiet.read_head().starts_with("HTTP/1.1 200 "));
    mesh.end(Signal::SIGTERM);
}

/// The old processes end while the new ones begin to serve; if the supervisor hears of both at once, the new ones stay.
#[test]
fn a_supervisor_that_hears_of_replacements_late_keeps_the_new_proxies() {
    let manifest = [STRICT.to_owned(), client(), service("back", "http"), instances("back", "back", 4, WHO)].concat();
    let mesh = Mesh::with_files(&manifest, &[]);
    // It is stopped when all have been started and none serves yet, or few.
    let old = replace(&mesh);
    mesh.up.signal(Signal::SIGSTOP);
    gone(&mesh, &old);
    let serving = proxies(&mesh);
    mesh.up.signal(Signal::SIGCONT);
    // It does that when it has heard everything.
    assert_eq!(replace(&mesh), serving);
    assert!(!mesh.said().contains("started again"), "{}", mesh.said());
    mesh.end(Signal::SIGTERM);
}

/// Sockets that the process holds more than once.
fn copies(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let sockets: Vec<_> = links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect();
    sockets.len() - sockets.iter().collect::<BTreeSet<_>>().len()
}

#[test]
fn a_proxy_beside_a_namespace_holds_its_listeners_no_oftener_for_having_been_replaced() {
    let mesh = Mesh::in_mode("namespace", &two("http", WHO));
    let all = || proxies(&mesh).into_iter().map(copies).collect::<Vec<_>>();
    let before = all();
    for _ in 0..3 {
        let old = replace(&mesh);
        gone(&mesh, &old);
    }
    assert_eq!(all(), before);
    mesh.end(Signal::SIGTERM);
}

#[test]
fn a_new_proxy_without_a_certificate_gets_one_before_it_takes_over() {
    let mesh = Mesh::with_files(&two("http", WHO), &[]);
    // As if it had expired while nobody could renew it.
    for file in ["certificate.pem", "key.pem"] {
        std::fs::remove_file(mesh.runtime().join("instances/t.client-0").join(file)).unwrap();
    }
    let old = replace(&mesh);
    gone(&mesh, &old);
    let proxy = format!("http://{}", mesh.forward_proxy("client-0"));
    assert_eq!(try_curl(["-m", "10", "-x", &proxy, "http://back/"]).unwrap().status, 200, "{}", mesh.said());
    mesh.end(Signal::SIGTERM);
}

/// Everything in a container ends with its first process, so that one stays.
#[test]
fn the_first_process_of_a_container_is_not_replaced() {
    let mesh = Mesh::up(PAIR);
    let settings = std::fs::read(mesh.runtime().join("instances/pair.back-0/settings.json")).unwrap();
    let mut settings: Value = serde_json::from_slice(&settings).unwrap();
    let admin = testkit::address::free();
    settings["directory"] = mesh.folder.path().join("first").to_str().into();
    settings["proxy"]["workload"] = "pair/first-0".into();
    settings["proxy"]["application"] = admin.ip().to_string().into();
    settings["proxy"]["outbound"] = testkit::address::free().to_string().into();
    settings["proxy"]["inbound"] = Value::Null;
    settings["proxy"]["services"] = Value::Array(Vec::new());
    settings["admin"] = admin.to_string().into();
    let file = mesh.folder.path().join("first.json");
    std::fs::write(&file, settings.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let proxy = [mesh.heddle.binary().to_str().unwrap(), "proxy", "--standalone", "--settings", file];
    let container = if nix::unistd::Uid::effective().is_root() { "-pf" } else { "-Urpf" };
    let mut first = mesh.heddle.program("unshare", [&[container, "--kill-child"], proxy.as_slice()].concat()).start();
    let live = || try_curl(["-m", "5", &format!("http://{admin}/live")]).map(|answer| answer.status);
    until("it to work", LONG, || match live() {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}{}", first.stderr())),
    });
    let inside = support::processes(mesh.heddle.runtime());
    let inside: Vec<_> = inside.iter().filter(|(_, line)| line.starts_with(proxy[0]) && line.contains(file)).collect();
    let [(pid, _)] = inside.as_slice() else { panic!("{inside:?}") };
    let pid = Pid::from_raw(i32::try_from(*pid).unwrap());
    kill(pid, Signal::SIGUSR2).unwrap();
    first.wait_line("it is the first process of its container", LONG);
    let refused = mesh.heddle.run(["proxy", "--standalone", "--replace", "--settings", file]);
    assert!(!refused.status.success() && refused.stderr.contains("no proxy that could be replaced"), "{refused:?}");
    assert_eq!(live().unwrap(), 200);
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(first.wait(LONG).success());
    mesh.end(Signal::SIGTERM);
}

/// What the streams have seen last.
fn streams(load: &Process) -> Value {
    let said = load.stdout();
    // The last line may not be whole.
    said.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// Waits until `count` more streams have ended well.
fn go_on(load: &Process, count: u64) {
    let before = streams(load)["finished"].as_u64().unwrap_or_default();
    until(&format!("{count} more streams"), LONG, || {
        let seen = streams(load);
        assert_eq!(seen["broken"].as_array().map_or(0, Vec::len), 0, "{seen:#}");
        if seen["finished"].as_u64() >= Some(before + count) { Ok(()) } else { Err(format!("{seen}{}", load.stderr())) }
    });
}

#[test]
fn no_stream_is_broken_when_proxies_control_plane_and_instances_are_replaced() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/");
    let python = testkit::grpc::python();
    let serve = format!("exec {} {script}grpc_calls.py serve \"$POD_IP:8080\"", python.display());
    let manifest = [STRICT.to_owned(), client(), service("calls", "grpc"), instances("calls", "calls", 2, &serve)];
    let mesh = Mesh::with_files(&manifest.concat(), &[]);
    let target = mesh.service_port("client-0", "calls").to_string();
    let load = Command::new(&python).args([format!("{script}grpc_streams.py"), target]).start();
    go_on(&load, 20);
    replace(&mesh);
    go_on(&load, 40);
    mesh.kill(&["heddle control"]);
    go_on(&load, 40);
    // New instances in place of the old ones, one after the other; a stream takes less than they have to end.
    mesh.edit("grpc_calls.py serve", "grpc_calls.py  serve");
    until("the new instances", LONG, || match mesh.ready("t/calls") {
        ready if ready.len() == 2 && !ready.iter().any(|name| ["calls-0", "calls-1"].contains(&name.as_str())) => {
            Ok(())
        }
        ready => Err(format!("{ready:?}\n{}", mesh.said())),
    });
    go_on(&load, 40);
    mesh.end(Signal::SIGTERM);
}

#[test]
fn a_proxy_that_cannot_be_made_replaceable_serves_and_tries_again() {
    let mesh = Mesh::with_files(&two("http", WHO), &[]);
    let door = mesh.runtime().join("instances/t.client-0/replace.sock");
    std::fs::remove_file(&door).unwrap();
    // No socket can take its place.
    std::fs::create_dir_all(door.join("in-the-way")).unwrap();
    mesh.kill(&["heddle proxy", "client-0"]);
    let proxy = mesh.forward_proxy("client-0");
    until("an answer", LONG, || {
        let answer = try_curl(["-x", &format!("http://{proxy}"), "http://back/"])?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}\n{}", mesh.said())) }
    });
    until("a word about it", LONG, || {
        let said = mesh.said();
        if said.contains("cannot be replaced in place") { Ok(()) } else { Err(said) }
    });
    let serving = mesh.process(&["heddle proxy", "client-0"]);
    std::fs::remove_dir_all(&door).unwrap();
    until("the door", LONG, || if door.exists() { Ok(()) } else { Err(mesh.said()) });
    assert_eq!(mesh.process(&["heddle proxy", "client-0"]), serving, "it is still the same one");
    mesh.end(Signal::SIGTERM);
}
