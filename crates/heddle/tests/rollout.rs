//! At full load every instance, then every sidecar with the gateway, then the control plane is replaced, and nobody notices.

mod support;

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use support::Mesh;
use support::manifest::{NGINX, STRICT, instances, service};
use testkit::heddle::Heddle;
use testkit::steady::Steady;
use testkit::wait::{LONG, until};

const SUPPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/");

/// An application that calls and is called by nobody; it begins when there is a file `go` beside it.
fn caller(name: &str, command: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: t}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: main
        command: [sh, -c, 'until [ -f go ]; do sleep 0.1; done; exec {command} > {name}.out 2>&1']
"
    )
}

fn manifest(port: u16) -> String {
    let python = testkit::grpc::python();
    let python = python.display();
    let door = format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: door, namespace: t}}
spec: {{gatewayClassName: heddle, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: door, namespace: t}}
spec: {{parentRefs: [{{name: door}}], rules: [{{backendRefs: [{{name: back, port: 80}}]}}]}}
"
    );
    let parts = [
        STRICT.to_owned(),
        door,
        service("back", "http"),
        instances("back", "back", 2, NGINX),
        service("calls", "grpc"),
        instances("calls", "calls", 2, &format!("exec {python} {SUPPORT}grpc_calls.py serve \"$POD_IP:8080\"")),
        caller("wrk", "wrk -t1 -c16 -d1000s --timeout 10s http://$BACK_SERVICE_HOST:$BACK_SERVICE_PORT/who"),
        caller("streams", &format!("{python} {SUPPORT}grpc_streams.py $CALLS_SERVICE_HOST:$CALLS_SERVICE_PORT")),
    ];
    // A stream takes two seconds, and more on a machine that is as busy as this test makes it.
    parts.concat().replace("terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 25")
}

/// What the streams have seen last.
fn streams(mesh: &Mesh) -> Value {
    let said = fs::read_to_string(mesh.folder.path().join("streams.out")).unwrap_or_default();
    // The last line may not be whole.
    said.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// Waits until the load has gone on for a while.
fn go_on(mesh: &Mesh, steady: &Steady) {
    let (streamed, good) = (streams(mesh)["finished"].as_u64().unwrap_or_default(), steady.seen().good);
    until("the load to go on", LONG, || {
        let (seen, asked) = (streams(mesh), steady.seen());
        assert_eq!(seen["broken"].as_array().map_or(0, Vec::len), 0, "{seen:#}\n{}", mesh.said());
        assert_eq!(asked.failed, 0, "{asked:#?}\n{}", mesh.said());
        match seen["finished"].as_u64() {
            Some(now) if now >= streamed + 30 && asked.good >= good + 200 => Ok(()),
            _ => Err(format!("{seen}\n{asked:?}")),
        }
    });
}

fn proxies(mesh: &Mesh) -> BTreeSet<u32> {
    let all = support::processes(mesh.heddle.runtime());
    all.into_iter().filter(|(_, line)| line.contains("heddle proxy ")).map(|(pid, _)| pid).collect()
}

/// Waits until `service` has two ready instances, none of which is among the first two.
fn renewed(mesh: &Mesh, service: &str) {
    until("the new instances", LONG, || match mesh.ready(&format!("t/{service}")) {
        ready if ready.len() == 2 && !ready.iter().any(|n| n.ends_with("-0") || n.ends_with("-1")) => Ok(()),
        ready => Err(format!("{ready:?}\n{}", mesh.said())),
    });
}

fn nothing_is_lost(heddle: Heddle) {
    let mesh = Mesh::run_with_files(heddle, &manifest(testkit::address::free().port()), &[]);
    let gateway = mesh.gateway();
    let address = gateway.trim_start_matches("http://").parse().expect("an address");
    let steady = Steady::start(address, &format!("{gateway}/who"), 200, 8);
    fs::write(mesh.folder.path().join("go"), "").expect("a file");
    go_on(&mesh, &steady);

    mesh.edit("exec sh nginx.sh", "exec sh  nginx.sh");
    renewed(&mesh, "back");
    mesh.edit("grpc_calls.py serve", "grpc_calls.py  serve");
    renewed(&mesh, "calls");
    go_on(&mesh, &steady);

    let (old, wanted) = (proxies(&mesh), mesh.instances().len());
    assert!(wanted >= 7, "the gateway's proxy is replaced as well");
    mesh.up.signal(Signal::SIGUSR2);
    until("new proxies", LONG, || match proxies(&mesh).difference(&old).count() {
        new if new == wanted => Ok(()),
        new => Err(format!("{new} of {wanted}\n{}", mesh.said())),
    });
    go_on(&mesh, &steady);

    mesh.kill(&["heddle control"]);
    until("a new control plane that knows everyone", LONG, || match mesh.heddle.run(["get", "instances"]) {
        list if list.status.success() && list.stdout.matches(" ready ").count() == wanted => Ok(()),
        list => Err(format!("{list:?}")),
    });
    go_on(&mesh, &steady);

    let seen = steady.finish();
    assert_eq!(seen.failed, 0, "{seen:#?}\n{}", mesh.said());
    kill(mesh.process(&["wrk", "-t1"]), Signal::SIGINT).expect("it is ours");
    let file = mesh.folder.path().join("wrk.out");
    let report = until("wrk's report", LONG, || match fs::read_to_string(&file).unwrap_or_default() {
        text if text.contains("Requests/sec") => Ok(text),
        text => Err(text),
    });
    eprintln!("{report}");
    // What wrk says only when there is something to say.
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}\n{}", mesh.said());
    mesh.end(Signal::SIGTERM);
}

#[test]
fn nothing_is_lost_at_full_load_in_explicit_mode() {
    nothing_is_lost(Heddle::in_mode("explicit"));
}

#[test]
fn nothing_is_lost_at_full_load_in_namespace_mode() {
    nothing_is_lost(Heddle::in_mode("namespace"));
}
