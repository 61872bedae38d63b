//! Who gets how many requests, and whether everybody who counts them agrees.

mod support;

use nix::sys::signal::Signal;
use support::Mesh;
use support::manifest::{NGINX, STRICT, WHO, client, instances, service};
use testkit::steady::Steady;
use testkit::wait::{LONG, until};

#[test]
fn a_slow_instance_gets_little_and_everybody_counts_the_same() {
    let slow = WHO.replace("--delay 1", "--delay 60");
    let manifest = [
        &STRICT.replace("mtls:", "accessLog: all, mtls:"),
        &client(),
        &service("back", "http"),
        &instances("back", "back", 2, WHO),
        &instances("slow", "back", 1, &slow),
    ];
    let mesh = Mesh::with_files(&manifest.map(String::as_str).concat(), &[]);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/", 150, 8);
    load.go_on(900);
    let seen = load.finish();
    assert_eq!(seen.failed, 0, "{seen:#?}");
    assert!(seen.with("slow-0") * 10 < seen.good, "less than a tenth: {seen:#?}");
    for name in ["back-0", "back-1"] {
        assert!(seen.with(name) * 5 > seen.good, "more than a fifth: {seen:#?}");
    }

    // A request is counted when its last byte is out, which its receiver may see first.
    for name in ["back-0", "back-1", "slow-0"] {
        let words = ["heddle_requests_total{direction=\"inbound\"", "service=\"t/back\"", "class=\"2xx\""];
        until("the server's count", LONG, || match mesh.metric(name, &words) {
            count if count == seen.with(name) as f64 => Ok(()),
            count => Err(format!("{name}: {count} of {seen:?}")),
        });
    }
    let words = ["heddle_requests_total{direction=\"outbound\"", "service=\"t/back\"", "class=\"2xx\""];
    until("the client's count", LONG, || match mesh.metric("client-0", &words) {
        count if count == seen.good as f64 => Ok(()),
        count => Err(format!("{count} of {seen:?}")),
    });

    // Who called is in the log of who was called, and who they are is in the list of instances.
    let identity = "\"identity\":\"spiffe://test.example/ns/t/sa/client\"";
    let said = mesh.said();
    let line = said.lines().find(|line| line.starts_with("slow-0/proxy") && line.contains("\"direction\":\"inbound\""));
    assert!(line.is_some_and(|line| line.contains(identity) && line.contains("\"status\":200")), "{line:?}");
    let slow = mesh.instances().into_iter().find(|i| i["name"] == "slow-0").expect("it is there");
    assert_eq!(slow["identity"], "spiffe://test.example/ns/t/sa/back");
    mesh.end(Signal::SIGINT);
}

#[test]
fn weights_divide_requests() {
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: back, namespace: t}
spec:
  parentRefs: [{group: \"\", kind: Service, name: back}]
  rules:
  - backendRefs: [{name: back, port: 80, weight: 3}, {name: next, port: 80, weight: 1}]
";
    let parts = [client(), service("back", "http"), service("next", "http"), route.to_owned()];
    let apps = [instances("back", "back", 2, WHO), instances("next", "next", 1, WHO)];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat(), apps.concat()].concat(), &[]);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/", 200, 8);
    load.go_on(800);
    let seen = load.finish();
    // Each request is drawn on its own: a quarter, and five standard deviations of a binomial distribution.
    let (all, next) = (seen.good as f64, seen.with("next-0") as f64);
    let bound = 5.0 * (all * 0.25 * 0.75).sqrt();
    assert!((next - all * 0.25).abs() < bound && seen.failed == 0, "{next} of {all}, bound {bound}: {seen:#?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_failing_instance_is_left_out_and_comes_back() {
    let policy = "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: back, namespace: t}
spec:
  targetRefs: [{group: \"\", kind: Service, name: back}]
  outlierDetection: {consecutiveFailures: 5, baseEjection: 1s}
";
    let apps = instances("back", "back", 3, NGINX);
    let mesh = Mesh::with_files(&[STRICT, &client(), &service("back", "http"), &apps, policy].concat(), &[]);
    let load = Steady::start(mesh.forward_proxy("client-0"), "http://back/who", 200, 8);
    let answers = |count: u64| {
        let before = load.seen().good;
        until("answers", LONG, || match load.seen() {
            seen if seen.good >= before + count => Ok(()),
            seen => Err(format!("{seen:?}")),
        });
    };
    load.go_on(100);
    // Each is in use, also one whose first answer was slow and that is tried again later.
    until("all three", LONG, || match load.seen() {
        seen if (0..3).all(|n| seen.with(&format!("back-{n}")) >= 20) => Ok(()),
        seen => Err(format!("{seen:?}")),
    });

    let broken = mesh.folder.path().join("broken-back-1");
    std::fs::write(&broken, "").expect("a file");
    answers(600);
    let seen = load.seen();
    // Five in a row and what was under way leave it out; then one for each time it is tried again, 1 s, 2 s, … later.
    assert!((1..=25).contains(&seen.failed), "{seen:#?}");
    std::fs::remove_file(&broken).expect("it is there");
    let before = load.seen().with("back-1");
    until("its return", LONG, || match load.seen() {
        seen if seen.with("back-1") > before + 20 => Ok(()),
        seen => Err(format!("{seen:?}\n{}", mesh.heddle.run(["stat"]).stdout)),
    });
    mesh.end(Signal::SIGINT);
}
