//! Parts die, come and go while requests are under way, and no caller notices.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::Mesh;
use support::manifest::{NGINX_HTTP2, STRICT, WHO, client, instances, service};
use testkit::load::{Report, h2load};
use testkit::steady::Steady;
use testkit::wait::{LONG, until};

/// One that calls, and three that are called.
fn three(protocol: &str, command: &str) -> String {
    [
        STRICT.to_owned(),
        client(),
        service("back", protocol),
        instances("back", "back", 3, command),
        // An instance that was killed is soon called again, which these tests wait for.
        "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: back, namespace: t}
spec:
  targetRefs: [{group: \"\", kind: Service, name: back}]
  outlierDetection: {baseEjection: 500ms}
"
        .to_owned(),
    ]
    .concat()
}

/// Kills the processes with these words in their command lines, and waits for their successors.
fn replace(mesh: &Mesh, all: &[&[&str]]) {
    let old: Vec<Pid> = all.iter().map(|words| mesh.process(words)).collect();
    for pid in &old {
        kill(*pid, Signal::SIGKILL).expect("it is ours");
    }
    for (words, old) in all.iter().zip(old) {
        until("a successor", LONG, || if mesh.process(words) == old { Err("it lives".to_owned()) } else { Ok(()) });
    }
}

/// Waits until these are the instances that are ready; a control plane that was killed may be away at first.
fn wait_ready(mesh: &Mesh, names: &[&str]) {
    until("the control plane", LONG, || match mesh.heddle.run(["get", "instances"]) {
        list if list.status.success() => Ok(()),
        list => Err(list.stderr),
    });
    until("the instances", LONG, || match mesh.ready("t/back") {
        ready if ready == names => Ok(()),
        ready => Err(format!("{ready:?}\n{}", mesh.said())),
    });
}

/// Waits until `instance` answers again.
fn wait_answers(mesh: &Mesh, load: &Steady, instance: &str) {
    let before = load.seen().with(instance);
    until(&format!("an answer of {instance}"), LONG, || {
        let seen = load.seen();
        if seen.with(instance) > before {
            Ok(())
        } else {
            Err(format!("{seen:?}\n{}", mesh.heddle.run(["stat"]).stdout))
        }
    });
}

#[test]
fn no_request_is_lost_when_instances_are_killed() {
    let mesh = Mesh::with_files(&three("http", WHO), &[]);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/", 200, 8);
    load.go_on(100);

    let address = format!("{}:8080", mesh.address("back-0"));
    replace(&mesh, &[&["demo-service", &address]]);
    wait_answers(&mesh, &load, "back-0");

    let address = format!("{}:8080", mesh.address("back-1"));
    replace(&mesh, &[&["heddle proxy", "t.back-1/"], &["demo-service", &address]]);
    wait_answers(&mesh, &load, "back-1");

    replace(&mesh, &[&["heddle proxy", "t.back-2/"]]);
    wait_answers(&mesh, &load, "back-2");
    wait_ready(&mesh, &["back-0", "back-1", "back-2"]);
    let seen = load.finish();
    assert_eq!(seen.failed, 0, "{seen:#?}\n{}", mesh.said());
    mesh.end(Signal::SIGINT);
}

#[test]
fn no_request_is_lost_when_instances_are_replaced_on_purpose() {
    let mesh = Mesh::with_files(&three("http", WHO), &[]);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/", 200, 8);
    load.go_on(100);

    mesh.edit("replicas: 3", "replicas: 2");
    wait_ready(&mesh, &["back-0", "back-1"]);
    mesh.edit("replicas: 2", "replicas: 3");
    // A new instance has a name that no other one had.
    wait_ready(&mesh, &["back-0", "back-1", "back-3"]);
    wait_answers(&mesh, &load, "back-3");

    // The one that calls has another role, and stays.
    mesh.edit("--role cart --delay 1", "--role cart --fail 0 --delay 1");
    until("new instances alone", LONG, || match mesh.ready("t/back") {
        ready if ready.len() == 3 && !ready.iter().any(|n| ["back-0", "back-1", "back-3"].contains(&n.as_str())) => {
            Ok(())
        }
        ready => Err(format!("{ready:?}\n{}", mesh.said())),
    });
    load.go_on(100);
    let seen = load.finish();
    assert_eq!(seen.failed, 0, "{seen:#?}\n{}", mesh.said());
    mesh.end(Signal::SIGINT);
}

/// `h2load` again and again, until it is told to stop.
struct Http2Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Report>>,
}

impl Http2Load {
    fn start(url: String) -> Http2Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut reports = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                reports.push(h2load(["-c4", "-m8", "--rps=50", "-n400", &url]));
            }
            reports
        });
        Http2Load { stop, thread }
    }

    fn finish(self) -> Vec<Report> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("h2load reports")
    }
}

#[test]
fn no_request_is_lost_over_http2() {
    let mesh = Mesh::with_files(&three("kubernetes.io/h2c", NGINX_HTTP2), &[]);
    let called = |name: &str| mesh.metric(name, &["heddle_requests_total", "inbound", "2xx"]);
    let url = format!("http://{}/who", mesh.service_port("client-0", "back"));
    let load = Http2Load::start(url);
    until("the load", LONG, || if called("back-0") > 50.0 { Ok(()) } else { Err(mesh.said()) });

    replace(&mesh, &[&["nginx", "back-0"]]);
    wait_ready(&mesh, &["back-0", "back-1", "back-2"]);
    replace(&mesh, &[&["heddle proxy", "t.back-1/"], &["nginx", "back-1"]]);
    wait_ready(&mesh, &["back-0", "back-1", "back-2"]);
    // A proxy that was started again counts from nothing.
    until("the instance that was killed to be called", LONG, || {
        if called("back-1") > 50.0 { Ok(()) } else { Err(mesh.heddle.run(["stat"]).stdout) }
    });
    mesh.edit("replicas: 3", "replicas: 1");
    wait_ready(&mesh, &["back-0"]);
    let reports = load.finish();
    for report in &reports {
        assert_eq!((report.done, report.refused, report.failed), (400, 0, 0), "{reports:?}\n{}", mesh.said());
    }
    mesh.end(Signal::SIGINT);
}

#[test]
fn no_request_and_no_endpoint_is_lost_with_the_control_plane() {
    let mesh = Mesh::with_files(&three("http", WHO), &[]);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/", 200, 8);
    load.go_on(100);

    replace(&mesh, &[&["heddle control"]]);
    wait_ready(&mesh, &["back-0", "back-1", "back-2"]);
    for name in ["back-0", "back-1", "back-2"] {
        wait_answers(&mesh, &load, name);
    }

    // With nobody to ask, a sidecar that starts again serves as it did.
    let kept = mesh.runtime().join("instances/t.back-0/resources.bin");
    until("the configuration to be kept", LONG, || if kept.is_file() { Ok(()) } else { Err("not yet".to_owned()) });
    let control = mesh.process(&["heddle control"]);
    kill(control, Signal::SIGSTOP).expect("it is ours");
    replace(&mesh, &[&["heddle proxy", "t.back-0/"]]);
    wait_answers(&mesh, &load, "back-0");
    kill(control, Signal::SIGCONT).expect("it is ours");
    let seen = load.finish();
    assert_eq!(seen.failed, 0, "{seen:#?}\n{}", mesh.said());
    mesh.end(Signal::SIGINT);
}

/// The scheduling policies of a process's workers, and of its other threads, as sched(7) numbers them.
fn policies(pid: Pid) -> (Vec<u32>, Vec<u32>) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let thread = |folder: std::path::PathBuf| {
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let (name, after) = stat.split_once('(')?.1.rsplit_once(')')?;
        // The name is the second field, the policy the 41st (proc_pid_stat(5)).
        Some((name.starts_with("data-"), after.split_whitespace().nth(38)?.parse().ok()?))
    };
    let all: Vec<(bool, u32)> = threads.filter_map(|entry| thread(entry.ok()?.path())).collect();
    let of = |workers| all.iter().filter(|(worker, _)| *worker == workers).map(|(_, policy)| *policy).collect();
    (of(true), of(false))
}

#[test]
fn a_worker_preempts_nobody_while_it_is_busy_and_other_threads_are_scheduled_as_ever() {
    const BATCH: u32 = 3;
    let mesh = Mesh::with_files(&three("http", WHO), &[]);
    let sidecar = mesh.process(&["heddle proxy", "t.client-0/"]);
    let wait_for = |policy: u32| {
        until("another policy", LONG, || match policies(sidecar) {
            (workers, others) if workers == [policy] => Ok(others),
            all => Err(format!("{all:?}\n{}", mesh.said())),
        })
    };
    wait_for(0);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/", 1_000, 32);
    let others = wait_for(BATCH);
    assert!(!others.is_empty() && others.iter().all(|&policy| policy == 0), "{others:?}");
    assert_eq!(load.finish().failed, 0);
    wait_for(0);
    mesh.end(Signal::SIGINT);
}
