//! What a TrafficPolicy says of the choice among instances, seen from outside; and `heddle explain`, which says why.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::Mesh;
use support::manifest::{NGINX, STRICT, THINGS, WHO, client, instances, service};
use testkit::load::{Answer, curl};
use testkit::wait::{LONG, until};

/// A policy on the service `back` with these fields.
fn policy(fields: &str) -> String {
    format!(
        "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: back, namespace: t}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: back}}]
{fields}"
    )
}

/// The answer that the sidecar at `proxy` gives for `url`.
#[track_caller]
fn ask(proxy: SocketAddr, more: &[&str], url: &str) -> Answer {
    let proxy = format!("http://{proxy}");
    curl(["--proxy", &proxy].into_iter().chain(more.iter().copied()).chain([url]))
}

/// The instance that an answer of [`WHO`] names.
#[track_caller]
fn instance(answer: &Answer) -> String {
    let json: Value = serde_json::from_str(answer.text()).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    json["instance"].as_str().unwrap_or_else(|| panic!("no instance in {answer:?}")).to_owned()
}

/// `heddle explain t/back -o json` with `more`.
#[track_caller]
fn explain(mesh: &Mesh, more: &[&str]) -> Value {
    let answer = mesh.heddle.run(["explain", "t/back", "-o", "json"].into_iter().chain(more.iter().copied()));
    serde_json::from_str(&answer.success()).expect("it is JSON")
}

/// The candidates of the first backend of an explanation, by name without namespace.
#[track_caller]
fn candidates(explanation: &Value) -> BTreeMap<String, Value> {
    let list = explanation["explanation"]["backends"][0]["candidates"].as_array().expect("candidates").clone();
    let name = |c: &Value| c["instance"].as_str().unwrap_or_default().trim_start_matches("t/").to_owned();
    list.into_iter().map(|c| (name(&c), c)).collect()
}

/// What `docs/balancing.md` makes of the terms of a candidate.
fn cost(candidate: &Value) -> f64 {
    let term = |name: &str| candidate[name].as_f64().unwrap_or_else(|| panic!("no {name} in {candidate:#}"));
    let latency = candidate["latency"].as_f64();
    let known = latency.filter(|latency| *latency > 1.4 * term("assumed")).unwrap_or(term("assumed"));
    let elsewhere = if latency.is_some() { term("elsewhere") } else { 0.0 };
    let own = (term("inFlight") * (1.0 + elsewhere / 2.0) + elsewhere + 0.5) / term("weight");
    let queue = term("spread") + term("idle") + own.max(term("idle"));
    (known * term("overdue") + term("connecting")) * (1.0 + 100.0 * term("failing")) * queue.powf(1.5)
}

#[track_caller]
fn costs_what_its_terms_make(candidate: &Value) {
    let (shown, expected) = (candidate["cost"].as_f64().expect("a cost"), cost(candidate));
    assert!((shown - expected).abs() <= 1e-3 * expected, "{expected} is not the cost in {candidate:#}");
    assert!(candidate["patience"].as_f64() >= Some(1e6), "{candidate:#}");
}

#[test]
fn a_hashed_header_sticks_and_explain_knows_where() {
    let fields = "  loadBalancing: {algorithm: ring-hash, hashKey: {header: x-user}}\n";
    let parts = [client(), service("back", "http"), instances("back", "back", 3, WHO), policy(fields)];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[]);
    let proxy = mesh.forward_proxy("client-0");
    let mut used = BTreeSet::new();
    for user in 0..12 {
        let header = format!("x-user: u{user}");
        let first = instance(&ask(proxy, &["-H", &header], "http://back/"));
        for _ in 0..3 {
            assert_eq!(instance(&ask(proxy, &["-H", &header], "http://back/")), first, "{header}");
        }
        let explanation = explain(&mesh, &["--from", "client-0", "-H", &header]);
        let likely = candidates(&explanation)[&first]["probability"].as_f64();
        assert_eq!(likely, Some(1.0), "{header} {first}: {explanation:#}");
        used.insert(first);
    }
    assert!(used.len() > 1, "{used:?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_session_stays_with_its_instance_while_others_come_and_go() {
    let fields = "  sessionAffinity: {cookie: {name: sid, lifetime: 1h}}\n";
    let parts = [client(), service("back", "http"), instances("back", "back", 3, WHO), policy(fields)];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[]);
    let proxy = mesh.forward_proxy("client-0");
    let first = ask(proxy, &[], "http://back/");
    let home = instance(&first);
    let set = first.header("set-cookie").expect("a cookie");
    assert_eq!(set, format!("sid=t/{home}; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"));
    let cookie = format!("a=b; sid=t/{home}");
    let stays = || {
        for _ in 0..12 {
            let answer = ask(proxy, &["-b", &cookie], "http://back/");
            assert_eq!(instance(&answer), home);
            assert_eq!(answer.header("set-cookie"), None, "nothing new is to be said");
        }
    };
    stays();
    mesh.edit("replicas: 3", "replicas: 5");
    until("five instances", LONG, || match mesh.ready("t/back").len() {
        5 => Ok(()),
        n => Err(format!("{n}")),
    });
    stays();
    // A cookie that names nobody, and one whose instance is gone, lead to another one, which is told.
    let lost = ask(proxy, &["-b", "sid=t/back-77"], "http://back/");
    let said = lost.header("set-cookie").unwrap_or_default();
    assert!(said.starts_with(&format!("sid=t/{};", instance(&lost))), "{lost:?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_health_check_takes_an_instance_out_that_says_it_is_ready_and_back() {
    let fields = "  outlierDetection: {consecutiveFailures: 0}
  loadBalancing: {panicThreshold: 0}
  healthChecks: {http: {path: /who}, interval: 200ms, unhealthyThreshold: 2, healthyThreshold: 2}\n";
    let parts = [client(), service("back", "http"), instances("back", "back", 3, NGINX), policy(fields)];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[("public/page", b"good")]);
    let proxy = mesh.forward_proxy("client-0");
    let who = || ask(proxy, &[], "http://back/page").header("x-instance").expect("it says who it is").to_owned();
    who();
    let broken = mesh.folder.path().join("broken-back-1");
    fs::write(&broken, "").expect("a file");
    let standing = |wanted: &str| {
        until(wanted, LONG, || {
            let explanation = explain(&mesh, &["--from", "client-0"]);
            let candidate = candidates(&explanation)["back-1"].clone();
            if candidate["standing"] == wanted { Ok(candidate) } else { Err(candidate.to_string()) }
        })
    };
    standing("unhealthy");
    // The first explanation may have been under way when the check failed.
    assert_eq!(standing("unhealthy")["probability"], 0.0);
    // The pages themselves were always good, so nothing else can keep it away.
    for _ in 0..30 {
        assert_ne!(who(), "back-1");
    }
    fs::remove_file(&broken).expect("it is there");
    standing("usable");
    until("requests there", LONG, || if who() == "back-1" { Ok(()) } else { Err("others".to_owned()) });
    mesh.end(Signal::SIGINT);
}

#[test]
fn the_own_zone_comes_first_and_the_other_one_helps_out() {
    let zone = |text: String, name: &str, zone: &str| {
        let labels = format!("set: {name}}}\n      annotations");
        assert!(text.contains(&labels), "{text}");
        text.replace(&labels, &format!("set: {name}, topology.kubernetes.io/zone: {zone}}}\n      annotations"))
    };
    let here = zone(instances("here", "back", 2, WHO), "here", "a");
    let there = zone(instances("there", "back", 2, WHO), "there", "b");
    let caller = zone(client(), "client", "a");
    let parts = [caller, service("back", "http"), here, there, policy("  loadBalancing: {preferLocal: true}\n")];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[]);
    let proxy = mesh.forward_proxy("client-0");
    for _ in 0..30 {
        let name = instance(&ask(proxy, &[], "http://back/"));
        assert!(name.starts_with("here-"), "{name}");
    }
    let explanation = explain(&mesh, &["--from", "client-0"]);
    let all = candidates(&explanation);
    let near = |name: &str| all[name]["nearness"].as_str().unwrap_or_default().to_owned();
    assert_eq!((near("here-0").as_str(), near("there-0").as_str()), ("zone", "region"), "{explanation:#}");
    assert_eq!(all["there-0"]["probability"], 0.0);

    // Its own zone empties: no request fails.
    mesh.edit("name: here, namespace: t}\nspec:\n  replicas: 2", "name: here, namespace: t}\nspec:\n  replicas: 0");
    until("the other zone", LONG, || match instance(&ask(proxy, &[], "http://back/")) {
        name if name.starts_with("there-") => Ok(()),
        name => Err(name),
    });
    mesh.end(Signal::SIGINT);
}

#[test]
fn the_load_of_a_server_is_told_to_sidecars_alone() {
    let parts = [client(), service("back", "http"), instances("back", "back", 1, THINGS)];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[]);
    let proxy = mesh.forward_proxy("client-0");
    let lies = ["-H", "heddle-load: 0 1", "-H", "heddle-probe: 1"];
    for path in ["", ".well-known/heddle/load"] {
        for more in [&[][..], &lies] {
            let answer = ask(proxy, more, &format!("http://back/{path}"));
            // The program sends back the head that it got.
            let text = format!("{:?} {}", answer.headers, answer.text()).to_ascii_lowercase();
            assert!(!text.contains("heddle-"), "neither a request's nor an answer's leaves a sidecar: {text}");
        }
    }
    // A probe is what a sidecar asks. The same from an application is the other application's to answer.
    let answer = ask(proxy, &["-X", "OPTIONS", "-H", "heddle-probe: 1"], "http://back/.well-known/heddle/load");
    assert_eq!((answer.status, answer.header("heddle-load")), (501, None), "{answer:?}");
    // What was said between the sidecars is known to the caller's.
    let known = until("a report", LONG, || {
        ask(proxy, &[], "http://back/");
        let explanation = explain(&mesh, &["--from", "client-0"]);
        match candidates(&explanation)["back-0"]["reportedLatency"].as_f64() {
            Some(latency) => Ok(latency),
            None => Err(explanation.to_string()),
        }
    });
    assert!(known > 0.0 && known < 5e6, "{known} us");
    mesh.end(Signal::SIGINT);
}

#[test]
fn explain_knows_the_routes_of_opaque_connections_and_of_gateways() {
    let port = testkit::address::free().port();
    let routes = format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: back, namespace: t}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: back}}]
  rules:
  - backendRefs: [{{name: back, port: 80}}, {{name: other, port: 80, weight: 3}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: free, namespace: t}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: free}}]
  rules:
  - backendRefs: [{{name: other, port: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: free, namespace: t}}
spec:
  selector: {{app: other}}
  ports: [{{name: any, port: 80, targetPort: 8080}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: door, namespace: t}}
spec:
  gatewayClassName: heddle
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: door, namespace: t}}
spec:
  parentRefs: [{{name: door}}]
  hostnames: [shop.example]
  rules:
  - name: all
    backendRefs: [{{name: web, port: 80}}]
"
    );
    let services = [service("back", "tcp"), service("other", "tcp"), service("web", "http")].concat();
    let parts = [client(), services, instances("back", "back", 1, WHO), instances("other", "other", 1, WHO), routes];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[]);

    let found = explain(&mesh, &["--from", "client-0"]);
    let found = &found["explanation"];
    assert_eq!(
        (found["rule"].as_str(), found["protocol"].as_str()),
        (Some("TCPRoute/t/back/0"), Some("tcp")),
        "{found:#}"
    );
    let backends: Vec<_> = (0..2).map(|i| (&found["backends"][i]["service"], &found["backends"][i]["share"])).collect();
    assert_eq!(backends, [(&json!("t/back:80"), &json!(0.25)), (&json!("t/other:80"), &json!(0.75))]);
    assert_eq!(found["backends"][1]["candidates"][0]["instance"], "t/other-0", "{found:#}");

    let text = mesh.heddle.run(["explain", "t/back", "--from", "client-0"]).success();
    assert!(text.contains("TCPRoute/t/back/0  every connection  taken") && !text.contains("no routes"), "{text}");
    let text = mesh.heddle.run(["explain", "t/free", "--from", "client-0"]).success();
    let considered = "TCPRoute/t/free/0  connections that do not speak HTTP  no: this is asked about an HTTP request";
    assert!(text.contains(considered) && text.contains("no route for this request"), "{text}");

    let none = explain(&mesh, &["--from", "gateway-door"]);
    assert_eq!(none["explanation"]["answer"], "404 no_route: no rule fits", "{none:#}");
    let found = explain(&mesh, &["--from", "gateway-door", "--host", "shop.example", "--port", &port.to_string()]);
    let found = &found["explanation"];
    assert_eq!(found["rule"], "HTTPRoute/t/door/all", "{found:#}");
    assert_eq!(found["backends"][0]["service"], "t/web:80", "{found:#}");
    let wrong = mesh.heddle.run(["explain", "t/back", "--from", "gateway-door", "--port", "1"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stderr.contains(&format!("t/door has no such listener; it has {port}")), "{}", wrong.stderr);
    mesh.end(Signal::SIGINT);
}

#[test]
fn explain_says_which_rule_and_why_and_from_where() {
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: back, namespace: t}
spec:
  parentRefs: [{group: \"\", kind: Service, name: back}]
  rules:
  - name: users
    matches: [{path: {value: /v2}, headers: [{name: x-user, value: a}]}]
    backendRefs: [{name: back, port: 80, weight: 3}, {name: gone, port: 80}]
    timeouts: {request: 7s}
  - name: posts
    matches: [{method: POST}]
    backendRefs: [{name: back, port: 80}]
";
    let fields = "  timeouts: {request: 5s, attempt: 2s}\n  loadBalancing: {logDecisions: 1}\n";
    let parts =
        [client(), service("back", "http"), instances("back", "back", 2, WHO), policy(fields), route.to_owned()];
    let mesh = Mesh::with_files(&[STRICT.to_owned(), parts.concat()].concat(), &[]);
    let proxy = mesh.forward_proxy("client-0");
    ask(proxy, &["-H", "x-user: a"], "http://back/v2/x");

    let found = explain(&mesh, &["--path", "/v2/x?y=z", "-H", "X-User: a", "--from", "client-0"]);
    assert_eq!(found["from"], "t/client-0");
    let found = &found["explanation"];
    assert_eq!(found["rule"], "HTTPRoute/t/back/users", "{found:#}");
    let verdicts: Vec<_> = found["routes"]
        .as_array()
        .expect("routes")
        .iter()
        .map(|r| (r["verdict"].as_str(), r["why"].as_str()))
        .collect();
    assert_eq!(verdicts, [(Some("taken"), None), (Some("misfit"), Some("the method is not POST"))]);
    let setting = |name: &str| {
        let all = found["policies"].as_array().expect("policies");
        let one = all.iter().find(|s| s["field"] == name).unwrap_or_else(|| panic!("{name} is not in {found:#}"));
        (one["value"].as_str().unwrap_or_default().to_owned(), one["from"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(setting("timeouts.request"), ("7 s".to_owned(), "HTTPRoute/t/back".to_owned()));
    assert_eq!(setting("timeouts.attempt"), ("2 s".to_owned(), "TrafficPolicy/t/back".to_owned()));
    assert_eq!(setting("timeouts.connect"), ("5 s".to_owned(), "default".to_owned()));
    let backends = found["backends"].as_array().expect("backends");
    assert_eq!((backends[0]["share"].as_f64(), backends[1]["share"].as_f64()), (Some(0.75), Some(0.25)));
    assert!(backends[1]["invalid"].as_str().is_some_and(|why| why.contains("t/gone")), "{found:#}");
    let chances: f64 = backends[0]["candidates"]
        .as_array()
        .expect("candidates")
        .iter()
        .filter_map(|c| c["probability"].as_f64())
        .sum();
    assert!((chances - 1.0).abs() < 1e-6, "{chances}");
    backends[0]["candidates"].as_array().expect("candidates").iter().for_each(costs_what_its_terms_make);

    let none = explain(&mesh, &["--path", "/v2/x", "--from", "t/client-0"]);
    assert_eq!(none["explanation"]["rule"], Value::Null);
    assert_eq!(none["explanation"]["answer"], "404 no_route: no rule fits");
    // For people.
    let text = mesh.heddle.run(["explain", "t/back", "-X", "POST"]).success();
    for part in [
        "t/back/posts  any path and method POST",
        "taken",
        "timeouts.attempt",
        "TrafficPolicy/t/back",
        "CHANCE",
        "of all: least latency",
        "spread 0, idle 0.5",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    for (more, why) in [
        (&["t/gone"][..], "there is no service t/gone"),
        (&["t/back", "--from", "nobody-0"], "t/nobody-0 has no open stream"),
        (&["t/back", "--port", "81"], "t/back has no such port; it has 80"),
        (&["t/back", "--path", "x"], "does not begin with a slash"),
        (&["t/b/c"], "is not NAMESPACE/SERVICE"),
    ] {
        let answer = mesh.heddle.run(["explain"].into_iter().chain(more.iter().copied()));
        assert_eq!(answer.status.code(), Some(1), "{more:?}");
        assert!(answer.stderr.contains(why), "{more:?}: {}", answer.stderr);
    }

    // Decisions of real requests are in the access log, though nothing has failed.
    let line = until("the line", LONG, || {
        ask(proxy, &["-d", ""], "http://back/");
        let said = mesh.said();
        let line =
            said.lines().find(|l| l.starts_with("client-0/proxy") && l.contains("\"decision\":")).map(str::to_owned);
        line.ok_or(said)
    });
    let json: Value = serde_json::from_str(&line[line.find('{').expect("an object")..]).expect("it is JSON");
    let seen = json["decision"].as_array().expect("instances");
    assert_eq!(seen[0]["instance"], json["endpoint"], "the chosen one comes first: {json:#}");
    assert!(matches!(seen[0]["by"].as_str(), Some("cost" | "trial")) && seen[1]["by"].is_null(), "{json:#}");
    assert!(seen.len() == 2 && seen.iter().all(|c| c["costMicros"].as_f64() > Some(0.0)), "{json:#}");
    mesh.end(Signal::SIGINT);
}
