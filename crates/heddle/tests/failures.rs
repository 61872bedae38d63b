//! Parts die while the mesh runs; none of it is noticed by who asks. Nothing is left when it ends.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use support::manifest::{STRICT, WHO, instances, service};
use support::{Mesh, PAIR, nothing_left, processes};
use testkit::heddle::Heddle;
use testkit::load::{curl, h2load};
use testkit::raw::Raw;
use testkit::wait::{LONG, until};

#[test]
fn a_killed_instance_is_started_again_and_no_request_is_lost() {
    let mesh = Mesh::up(PAIR);
    let address = mesh.status["instances"][0]["address"].as_str().unwrap().to_owned();
    assert_eq!(mesh.status["instances"][0]["name"], "back-0");
    let words = ["demo-service".to_owned(), format!("{address}:8080")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let url = mesh.gateway();
    let load = std::thread::spawn(move || h2load(["--h1", "-c4", "-n", "2000", &url]));
    until("the load to begin", LONG, || {
        let stats = mesh.heddle.run(["stat", "-o", "json"]).stdout;
        let stats: serde_json::Value = serde_json::from_str(&stats).map_err(|e| e.to_string())?;
        let sum: u64 = stats["endpoints"].as_array().into_iter().flatten().filter_map(|e| e["requests"].as_u64()).sum();
        if sum > 20 { Ok(()) } else { Err(stats.to_string()) }
    });
    mesh.kill(&words);
    let report = load.join().unwrap();
    assert_eq!(
        (report.done, report.refused, report.failed),
        (2000, 0, 0),
        "{report:?}
{}",
        mesh.said()
    );
    assert!(mesh.said().contains("back-0: killed by SIGKILL; started again in 100ms"), "{}", mesh.said());
    until("it to be back", LONG, || match mesh.ready("pair/back") {
        names if names == ["back-0", "back-1"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    mesh.end(Signal::SIGINT);
}

#[test]
fn traffic_does_not_notice_that_the_control_plane_died() {
    let mesh = Mesh::up(PAIR);
    assert_eq!(curl([mesh.gateway()]).status, 200);
    let old = mesh.process(&["heddle control"]);
    mesh.kill(&["heddle control"]);
    for _ in 0..50 {
        assert_eq!(curl([mesh.gateway()]).status, 200, "{}", mesh.said());
    }
    until("a new control plane that knows everyone", LONG, || match mesh.heddle.run(["get", "instances"]) {
        answer if answer.status.success() && answer.stdout.matches(" ready ").count() >= 4 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    assert_ne!(mesh.process(&["heddle control"]), old);
    // It leads again: an edit takes effect.
    mesh.edit(
        "backendRefs: [{name: back, port: 80}]\n---\napiVersion: v1",
        "backendRefs: [{name: front, port: 80}]\n---\napiVersion: v1",
    );
    until("the new route", LONG, || match curl([mesh.gateway()]) {
        answer if answer.text().contains("front-0") => Ok(()),
        answer => Err(answer.text().to_owned()),
    });
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_proxy_that_starts_without_control_plane_serves_from_its_last_good_configuration() {
    let mesh = Mesh::up(PAIR);
    assert!(mesh.instance_of("front", "http://back/").starts_with("back-"));
    assert_eq!(curl([mesh.gateway()]).status, 200);
    // The configuration is written within a second of its last change.
    until("the configuration to be kept", LONG, || {
        let kept = |name: &str| mesh.runtime().join("instances").join(name).join("resources.bin").is_file();
        if kept("pair.gateway-door") && kept("pair.back-0") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    // A control plane that is stopped answers nobody, and is not started again either.
    let control = mesh.process(&["heddle control"]);
    nix::sys::signal::kill(control, Signal::SIGSTOP).unwrap();
    let old = mesh.process(&["heddle proxy", "gateway-door"]);
    mesh.kill(&["heddle proxy", "gateway-door"]);
    mesh.kill(&["heddle proxy", "back-0"]);
    mesh.kill(&["heddle proxy", "back-1"]);
    until("an answer from what was kept", LONG, || {
        let answer = testkit::load::try_curl([mesh.gateway()])?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}\n{}", mesh.said())) }
    });
    assert_ne!(mesh.process(&["heddle proxy", "gateway-door"]), old);
    nix::sys::signal::kill(control, Signal::SIGCONT).unwrap();
    mesh.end(Signal::SIGINT);
}

#[test]
fn two_meshes_do_not_disturb_each_other() {
    // A port that no other test declares.
    let port = testkit::address::free().port();
    let pair = PAIR.replace("port: 8080, protocol: HTTP", &format!("port: {port}, protocol: HTTP"));
    let one = Mesh::up(&pair);
    let two = Mesh::up(&pair.replace("test.example", "other.example").replace("--role catalog", "--role web"));
    assert!(one.gateway().ends_with(&format!(":{port}")), "{}", one.gateway());
    assert_ne!(one.gateway(), two.gateway(), "the second one's port is moved");
    assert!(two.said().contains("is in use, so it listens on"), "{}", two.said());
    for _ in 0..5 {
        assert_eq!(curl([one.gateway()]).status, 200);
        // It has no backends of its own kind, and says so; what matters is who answers.
        assert!(curl([two.gateway()]).text().contains("\"catalog\":null"));
    }
    assert!(one.instances().iter().all(|i| i["identity"].as_str().unwrap().starts_with("spiffe://test.example/")));
    two.end(Signal::SIGINT);
    assert_eq!(curl([one.gateway()]).status, 200);
    one.end(Signal::SIGTERM);
}

#[test]
fn a_killed_supervisor_takes_its_children_with_it_and_its_directory_is_used_again() {
    let mesh = Mesh::up(PAIR);
    // Not the group: the supervisor alone, as the kernel's out-of-memory killer does it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(mesh.up.id()).unwrap()), Signal::SIGKILL).unwrap();
    until("its children to be gone", LONG, || match processes(mesh.heddle.runtime()) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert!(mesh.runtime().join("mesh.json").exists(), "it had no time to clear up");
    let path = mesh.folder.path().to_str().unwrap();
    let mut again = mesh.heddle.start(["up", "--name", "m", path]);
    again.wait_line("m is up after", LONG);
    again.signal(Signal::SIGINT);
    assert!(again.wait(Duration::from_secs(10)).success());
    nothing_left(&mesh.heddle);
}

#[test]
fn a_hangup_ends_it_and_names_are_held_by_one() {
    let mesh = Mesh::up(PAIR);
    let path = mesh.folder.path().to_str().unwrap().to_owned();
    let second = mesh.heddle.run(["up", "--name", "m", &path]);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stderr.contains("a mesh runs in") && second.stderr.contains("--name"), "{}", second.stderr);
    mesh.end(Signal::SIGHUP);
}

/// A program that does not listen to SIGTERM, and neither does what it starts.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & while true; do sleep 1; done";

#[test]
fn a_stubborn_application_is_killed_with_what_it_started() {
    let command = "exec \"$HEDDLE\" demo-service --role cart --listen \"$POD_IP:8080\"";
    assert!(PAIR.contains(command));
    let manifest = PAIR.replace(command, &format!("\"{STUBBORN}\""));
    // Nothing listens, so nothing is ever ready: the probes are taken out.
    let manifest = manifest.replace("readinessProbe: {httpGet: {path: /healthz, port: http}}", "tty: false");
    let manifest = manifest.replacen("ports: [{name: http, containerPort: 8080}]", "ports: []", 1);
    for signals in [1, 2] {
        let mesh = Mesh::up(&manifest);
        until("the grandchild", LONG, || {
            let all = processes(mesh.heddle.runtime());
            if all.iter().any(|(_, line)| line.contains("sleep 1000")) { Ok(()) } else { Err(format!("{all:?}")) }
        });
        let before = std::time::Instant::now();
        for _ in 0..signals {
            mesh.up.signal(Signal::SIGINT);
            until("the signal to be seen", LONG, || {
                if mesh.said().contains("ending; again to kill") { Ok(()) } else { Err(mesh.said()) }
            });
        }
        mesh.end(Signal::SIGCONT);
        eprintln!("after {signals} signals it took {:?}", before.elapsed());
    }
}

/// Starts daemons, which no signal to its process group reaches: one, and where it is asked for one that forgets where it is from.
const DAEMONS: &str = r#"
setsid sh -c 'echo $$ >> left; exec sleep 1000' &
[ "$1" = forgetful ] && env -i PATH="$PATH" setsid sh -c 'echo $$ >> left; exec sleep 1000' &
exec "$HEDDLE" demo-service --role cart --listen "$POD_IP:8080"
"#;

/// Ends `mesh` when the daemons of its two instances run, and waits for their end.
#[track_caller]
fn ends_with_its_daemons(mesh: Mesh, daemons: usize) {
    let list = mesh.folder.path().join("left");
    let pids: Vec<String> = until("the daemons", LONG, || {
        let text = std::fs::read_to_string(&list).unwrap_or_default();
        let pids: Vec<String> = text.lines().map(str::to_owned).collect();
        if pids.len() == daemons { Ok(pids) } else { Err(text) }
    });
    let alive = |pid: &String| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(pids.iter().all(alive), "{pids:?}");
    mesh.up.signal(Signal::SIGINT);
    let mut mesh = mesh;
    assert!(mesh.up.wait(LONG).success());
    until("their end", LONG, || if pids.iter().any(alive) { Err(format!("{pids:?}")) } else { Ok(()) });
    nothing_left(&mesh.heddle);
}

#[test]
fn daemons_end_with_the_application_that_started_them() {
    let manifest =
        |command: &str| STRICT.to_owned() + &service("cart", "http") + &instances("cart", "cart", 2, command);
    let files = [("daemons.sh", DAEMONS)];
    let bytes = files.map(|(name, text)| (name, text.as_bytes()));
    ends_with_its_daemons(Mesh::with_files(&manifest("exec sh daemons.sh"), &bytes), 2);
    ends_with_its_daemons(Mesh::of_user(&manifest("exec sh daemons.sh forgetful"), &files), 4);
}

/// As on a machine that sees the processes of a container: a mesh of the same name has the same addresses in there.
#[test]
fn what_an_application_left_behind_is_looked_for_in_its_own_mesh_alone() {
    let manifest = STRICT.to_owned() + &service("cart", "http") + &instances("cart", "cart", 1, WHO);
    let mesh = Mesh::with_files(&manifest, &[]);
    let other = Heddle::new();
    let network = if nix::unistd::Uid::effective().is_root() { "-n" } else { "-rn" };
    let binary = other.binary().to_str().expect("letters");
    let folder = mesh.folder.path().to_str().expect("letters");
    let address = mesh.address("cart-0").to_string();
    // A name that gets the same addresses where nobody else has them.
    let is_alike = |name: &String| address.starts_with(&format!("127.{}.", net::block::preferred(name)));
    let name = (0..).map(|n| format!("m{n}")).find(is_alike).expect("names do not end");
    let script = "ip link set lo up && exec \"$0\" up --name \"$2\" -o json \"$1\"";
    let mut up = other.program("unshare", [network, "sh", "-c", script, binary, folder, &name]).start();
    let line = up.wait_line("\"up\":true", LONG);
    assert!(line.contains(&format!("\"{address}\"")), "the same addresses: {line}");
    mesh.kill(&["demo-service", &address]);
    until("it to be back", LONG, || match mesh.ready("t/cart") {
        names if !names.is_empty() && mesh.said().contains("cart-0: killed by SIGKILL") => Ok(()),
        names => Err(format!("{names:?}\n{}", mesh.said())),
    });
    up.signal(Signal::SIGINT);
    assert!(up.wait(LONG).success());
    assert!(!up.stderr().contains("killed by"), "{}", up.stderr());
    nothing_left(&other);
    mesh.end(Signal::SIGINT);
}

#[test]
fn an_application_that_cannot_run_is_told_and_tried_again() {
    let heddle = Heddle::new();
    let folder = tempfile::tempdir().unwrap();
    let manifest = PAIR.replace("exec \"$HEDDLE\" demo-service --role cart", "exec no-such-program");
    std::fs::write(folder.path().join("mesh.yaml"), manifest).unwrap();
    let mut up = heddle.start(["up", "--name", "m", folder.path().to_str().unwrap()]);
    up.wait_line("front-0: exit status 127; started again in 200ms", LONG);
    // The rest runs.
    until("the others", LONG, || match heddle.run(["get", "instances"]) {
        list if list.stdout.lines().any(|l| l.contains("back-1") && l.contains(" ready ")) => Ok(()),
        list => Err(format!("{list:?}")),
    });
    up.signal(Signal::SIGINT);
    assert!(up.wait(Duration::from_secs(10)).success());
    nothing_left(&heddle);
}

/// Descriptors of a sidecar run out: what it has goes on, what is new waits, and nobody is forgotten.
#[test]
fn a_sidecar_without_free_descriptors_serves_on_when_some_are_free() {
    let mesh = Mesh::up(PAIR);
    let proxy = mesh.process(&["heddle proxy", "pair.front-0/"]);
    let open = std::fs::read_dir(format!("/proc/{proxy}/fd")).expect("it is ours").count();
    let limit = open + 20;
    let limited =
        testkit::process::Command::new("prlimit").args([format!("--pid={proxy}"), format!("--nofile={limit}")]);
    limited.run(LONG).success();
    let settings = mesh.runtime().join("instances/pair.front-0/settings.json");
    let settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(settings).expect("settings")).expect("they are JSON");
    let address = settings["proxy"]["outbound"].as_str().expect("a forward proxy").parse().expect("an address");
    let get = "GET http://back/ HTTP/1.1\r\nHost: back\r\n\r\n";
    // More than it can take; the rest wait in the kernel's queue.
    let mut many: Vec<Raw> = (0..60).map(|_| Raw::connect(address)).collect();
    let mut waiting = many.pop().expect("there are 60");
    waiting.send(get);
    drop(many);
    // Its turn has come, and there is a descriptor for the other side as well.
    let head = waiting.read_head();
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    until("good answers", LONG, || {
        let mut raw = Raw::connect(address);
        raw.send(get);
        let head = raw.read_head();
        if head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(head) }
    });
}
