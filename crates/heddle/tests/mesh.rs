//! A mesh at work: routes, identities, `exec`, metrics, lists.

mod support;

use nix::sys::signal::Signal;
use support::{Mesh, PAIR};
use testkit::load::curl;
use testkit::wait::{LONG, until};

#[test]
fn requests_take_their_routes_with_the_identity_of_who_asks() {
    let mesh = Mesh::up(PAIR);

    // Through the gateway, which is allowed, and by name from inside.
    let answer = curl([mesh.gateway()]);
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("\"instance\":\"back-"), "{}", answer.text());
    for name in ["back", "back.pair", "back.pair.svc", "back.pair.svc.cluster.local"] {
        assert!(mesh.instance_of("front", &format!("http://{name}/")).starts_with("back-"), "{name}");
    }

    // By a header's rule.
    let answer = mesh.exec("front", ["curl", "-s", "-H", "x-to: front", "http://back/"]).success();
    assert!(answer.contains("front-0"), "{answer}");

    // Who may not, is told so.
    let denied = mesh.exec("back", ["curl", "-si", "http://back/"]).success();
    assert!(denied.starts_with("HTTP/1.1 403") && denied.contains("heddle-reason: denied"), "{denied}");
    let (status, _) = mesh.ask("back", "http://front/");
    assert_eq!(status, 200, "front has no policy");

    // `exec` is never an endpoint.
    assert_eq!(mesh.ready("pair/back"), ["back-0", "back-1"]);
    mesh.end(Signal::SIGINT);
}

#[test]
fn exec_is_quick_and_passes_exit_codes_on() {
    let mesh = Mesh::up(PAIR);
    assert_eq!(mesh.exec("front", ["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(mesh.exec("front", ["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    let missing = mesh.exec("front", ["no-such-command"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(missing.stderr.contains("no-such-command"), "{}", missing.stderr);
    let unknown = mesh.exec("frnt", ["true"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("did you mean front?"), "{}", unknown.stderr);

    // Its environment is that of an instance.
    let environment = mesh.exec("front", ["env"]).success();
    for part in ["POD_NAMESPACE=pair", "BACK_SERVICE_PORT=", "BACK_SERVICE_PORT_HTTP="] {
        assert!(environment.contains(part), "{part} is missing in\n{environment}");
    }
    // Where connections are redirected, no variable need say so.
    assert_eq!(environment.contains("http_proxy=http://127."), std::env::var_os("HEDDLE_TEST_MODE").is_none());
    // A service's own port on the instance's address takes the same way.
    let command = "curl -s --noproxy '*' -H 'host: back' http://$BACK_SERVICE_HOST:$BACK_SERVICE_PORT/";
    assert!(mesh.exec("front", ["sh", "-c", command]).success().contains("back-"));

    let before = std::time::Instant::now();
    mesh.exec("front", ["true"]).success();
    let took = before.elapsed();
    assert!(took.as_millis() < 3_000, "it took {took:?}");
    until("what exec left to be gone", LONG, || {
        let left: Vec<_> = std::fs::read_dir(mesh.runtime().join("instances"))
            .map_err(|e| e.to_string())?
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().contains("exec"))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    mesh.end(Signal::SIGTERM);
}

#[test]
fn exec_that_is_ended_at_any_time_leaves_nothing() {
    let mesh = Mesh::up(PAIR);
    let guests = || {
        let entries = std::fs::read_dir(mesh.runtime().join("instances")).expect("the folder").flatten();
        entries.filter(|e| e.file_name().to_string_lossy().contains("exec-")).count()
    };
    // As soon as there is something to leave behind, and when it runs.
    for running in [false, true] {
        let mut exec = mesh.heddle.start(["exec", "front", "--", "sh", "-c", "echo it runs; exec sleep 1000"]);
        until("its folder", LONG, || if guests() > 0 { Ok(()) } else { Err(exec.stderr()) });
        if running {
            exec.wait_line("it runs", LONG);
        }
        exec.signal(Signal::SIGTERM);
        assert_eq!(exec.wait(LONG).code(), Some(128 + Signal::SIGTERM as i32), "{}", exec.stderr());
        assert_eq!(guests(), 0);
    }
    mesh.end(Signal::SIGINT);
}

#[test]
fn people_see_what_happens() {
    let mesh = Mesh::up(PAIR);
    for _ in 0..20 {
        assert_eq!(curl([mesh.gateway()]).status, 200);
    }
    // The gateway's own metrics, a sidecar's metrics and health.
    let gateway = mesh.status["gateways"][0]["metrics"].as_str().unwrap().to_owned();
    let text = curl([&gateway]).text().to_owned();
    assert!(text.contains("heddle_requests_total{direction=\"gateway\",service=\"pair/back\""), "{text}");
    assert!(
        text.contains("heddle_endpoint_requests_total{service=\"pair/back\",port=\"80\",workload=\"pair/back-0\"}"),
        "{text}"
    );
    assert!(text.contains("heddle_certificate_not_after_seconds"), "{text}");
    let base = gateway.strip_suffix("/metrics").unwrap();
    assert_eq!(curl([format!("{base}/ready")]).status, 200);
    assert_eq!(curl([format!("{base}/live")]).status, 200);

    // Lists and numbers, for people and programs.
    let list = mesh.heddle.run(["get"]).success();
    assert!(list.contains("HTTPRoute") && list.contains("pair") && list.contains("mesh.yaml:"), "{list}");
    let one = mesh.heddle.run(["get", "svc", "back"]).success();
    assert!(one.contains("2 endpoints"), "{one}");
    let none = mesh.heddle.run(["get", "svc", "nothing"]);
    assert_eq!(none.status.code(), Some(1));
    let identities = mesh.instances();
    assert!(identities.iter().any(|i| i["identity"] == "spiffe://test.example/ns/pair/sa/back"), "{identities:?}");
    until("statistics", LONG, || {
        let stats = mesh.heddle.run(["stat", "-o", "json"]).success();
        let stats: serde_json::Value = serde_json::from_str(&stats).map_err(|e| e.to_string())?;
        let sum: u64 = stats["endpoints"].as_array().into_iter().flatten().filter_map(|e| e["requests"].as_u64()).sum();
        if sum >= 20 { Ok(()) } else { Err(stats.to_string()) }
    });
    let table = mesh.heddle.run(["stats"]).success();
    assert!(table.contains("pair/back") && table.contains("SHARE"), "{table}");
    mesh.end(Signal::SIGINT);
}
