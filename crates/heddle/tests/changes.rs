//! Files change while the mesh runs.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::manifest::{STRICT, WHO, client, instances, service};
use support::{Mesh, PAIR};
use testkit::load::{curl, try_curl};
use testkit::wait::{LONG, until};

/// "Well under a second", on a machine that may be busy with other tests.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn an_edit_takes_effect_and_a_bad_one_leaves_the_good_state() {
    let mesh = Mesh::up(PAIR);
    let answers = |who: &str| {
        let text = curl([mesh.gateway()]).text().to_owned();
        if text.contains(who) { Ok(()) } else { Err(text) }
    };
    until("the old route", SOON, || answers("back-"));

    let before = Instant::now();
    mesh.edit(
        "backendRefs: [{name: back, port: 80}]\n---\napiVersion: v1",
        "backendRefs: [{name: front, port: 80}]\n---\napiVersion: v1",
    );
    until("the new route", SOON, || answers("front-0"));
    eprintln!("from the edit to its effect: {:?}", before.elapsed());

    // A bad edit is reported with its place, and nothing changes.
    mesh.edit(
        "backendRefs: [{name: front, port: 80}]\n---\napiVersion: v1",
        "backendRef: [{name: back, port: 80}]\n---\napiVersion: v1",
    );
    let told = until("the report", SOON, || {
        let said = mesh.said();
        if said.contains("there is no field \"backendRef\"") { Ok(said) } else { Err(said) }
    });
    assert!(told.contains("mesh.yaml:22:5"), "{told}");
    assert!(told.contains("did you mean \"backendRefs\"?"), "{told}");
    answers("front-0").unwrap();

    // Mended, it counts again.
    mesh.edit("backendRef: [{name: back", "backendRefs: [{name: back");
    until("the mended route", SOON, || answers("back-"));
    mesh.end(Signal::SIGINT);
}

#[test]
fn replicas_and_templates_follow_without_a_failed_request() {
    let mesh = Mesh::up(PAIR);
    mesh.edit("replicas: 2", "replicas: 3");
    until("a third instance", LONG, || match mesh.ready("pair/back") {
        three if three.len() == 3 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    mesh.edit("replicas: 3", "replicas: 1");
    until("one instance", LONG, || match mesh.instances().iter().filter(|i| i["services"][0] == "pair/back").count() {
        1 => Ok(()),
        other => Err(format!("{other}")),
    });
    assert_eq!(mesh.ready("pair/back"), ["back-0"]);

    // A rolling replacement, watched from outside: somebody always answers.
    mesh.edit("--role catalog", "--jitter 1 --role catalog");
    let mut answered = 0;
    until("a new instance alone", LONG, || {
        let answer = try_curl([mesh.gateway()])?;
        assert_eq!(answer.status, 200, "after {answered} good answers: {} {}", answer.text(), mesh.said());
        answered += 1;
        match mesh.ready("pair/back") {
            names if names == ["back-1"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(curl([mesh.gateway()]).text().contains("back-1"));
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_gateway_follows_its_ports_and_goes_when_it_is_removed() {
    // Ports of its own: other meshes take theirs from 8080 on.
    let (first, second) = (testkit::address::free().port(), testkit::address::free().port());
    let listener = |port: u16| format!("port: {port}, protocol: HTTP");
    let mesh = Mesh::up(&PAIR.replace("port: 8080, protocol: HTTP", &listener(first)));
    let old = mesh.gateway();
    assert_eq!(curl([&old]).status, 200);
    mesh.edit(&listener(first), &listener(second));
    let new = until("the new address", LONG, || {
        let said = mesh.said();
        let found = said.lines().find_map(|l| l.split_once("gateway door listens on ")).map(|(_, url)| url.to_owned());
        found.ok_or(said)
    });
    until("an answer there", LONG, || match try_curl([&new])? {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text().to_owned()),
    });
    until("nobody to listen at the old one", LONG, || match try_curl([&old]) {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    });
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: door";
    mesh.edit(gateway, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: door");
    until("its end", LONG, || match try_curl([&new]) {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    });
    // The rest goes on.
    assert!(mesh.instance_of("front", "http://back/").starts_with("back-"));
    mesh.end(Signal::SIGINT);
}

#[test]
fn gateways_swap_ports_and_change_names_in_one_edit() {
    let (first, second) = (testkit::address::free().port(), testkit::address::free().port());
    let manifest = |door: u16, side: u16, name: &str| {
        let own = PAIR.replace("port: 8080, protocol: HTTP", &format!("port: {door}, protocol: HTTP"));
        format!(
            "{own}---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: pair}}
spec:
  gatewayClassName: heddle
  listeners: [{{name: http, port: {side}, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: side, namespace: pair}}
spec:
  parentRefs: [{{name: {name}}}]
  rules:
  - backendRefs: [{{name: front, port: 80}}]
"
        )
    };
    let mesh = Mesh::up(&manifest(first, second, "side"));
    let leads = |port: u16, who: &str| {
        until(&format!("port {port} to lead to {who}"), LONG, || {
            match try_curl([format!("http://127.0.0.1:{port}/")])? {
                answer if answer.text().contains(who) => Ok(()),
                answer => Err(answer.text().to_owned()),
            }
        });
    };
    leads(first, "back-");
    leads(second, "front-");
    let file = mesh.folder.path().join("mesh.yaml");
    std::fs::write(&file, manifest(second, first, "side")).unwrap();
    leads(second, "back-");
    leads(first, "front-");
    // Another name and another port at once.
    std::fs::write(&file, manifest(first, second, "yard")).unwrap();
    leads(first, "back-");
    leads(second, "front-");
    let said = mesh.said();
    assert!(said.contains(&format!("gateway yard listens on http://127.0.0.1:{second}")), "{said}");
    assert!(!said.contains("in use"), "no port was moved: {said}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_gateway_that_cannot_run_is_tried_again_by_itself() {
    let mesh = Mesh::up(PAIR);
    let in_the_way = mesh.runtime().join("instances/pair.gateway-late");
    std::fs::write(&in_the_way, "").unwrap();
    let port = testkit::address::free().port();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: late, namespace: pair}}
spec:
  gatewayClassName: heddle
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
"
    );
    std::fs::write(mesh.folder.path().join("late.yaml"), gateway).unwrap();
    for wait in ["100ms", "200ms"] {
        until("the report", LONG, || match mesh.said() {
            said if said.contains(&format!("pair.gateway-late is not a folder; tried again in {wait}")) => Ok(()),
            said => Err(said),
        });
    }
    std::fs::remove_file(&in_the_way).unwrap();
    until("the gateway", LONG, || match try_curl([format!("http://127.0.0.1:{port}/")])? {
        // It runs and has no route.
        answer if answer.header("heddle-reason") == Some("no_route") => Ok(()),
        answer => Err(answer.text().to_owned()),
    });
    assert!(mesh.said().contains(&format!("gateway late listens on http://127.0.0.1:{port}")), "{}", mesh.said());
    mesh.end(Signal::SIGINT);
}

#[test]
fn what_is_removed_ends_and_what_is_added_runs() {
    let mesh = Mesh::up(PAIR);
    let extra = mesh.folder.path().join("extra.yaml");
    let manifest = "
apiVersion: v1
kind: Service
metadata: {name: extra, namespace: pair}
spec: {selector: {app: extra}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: extra, namespace: pair}
spec:
  replicas: 2
  serviceName: extra
  selector: {matchLabels: {app: extra}}
  template:
    metadata: {labels: {app: extra}}
    spec:
      serviceAccountName: extra
      containers:
      - name: extra
        command: [\"$(HEDDLE)\", demo-service, --role, cart, --listen, \"$(WHERE)\"]
        env: [{name: WHERE, value: \"$(POD_IP):8080\"}]
        ports: [{containerPort: 8080}]
";
    std::fs::write(&extra, manifest).unwrap();
    until("the added service", LONG, || match mesh.ready("pair/extra") {
        two if two == ["extra-0", "extra-1"] => Ok(()),
        other => Err(format!("{other:?}\n{}", mesh.said())),
    });
    assert!(mesh.instance_of("front", "http://extra/").starts_with("extra-"));

    std::fs::remove_file(&extra).unwrap();
    until("its end", LONG, || {
        let left = support::processes(mesh.heddle.runtime());
        if left.iter().any(|(_, line)| line.contains("extra")) { Err(format!("{left:?}")) } else { Ok(()) }
    });
    // Its name is nobody's: it has no address, or the answer is an error.
    let answer = mesh.exec("front", ["curl", "-sf", "http://extra/"]);
    assert!(matches!(answer.status.code(), Some(6 | 22)), "{answer:?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn service_account_and_labels_are_changed_where_names_stay() {
    let green = service("green", "http").replace("{app: green}", "{tier: green}");
    let manifest = [STRICT.to_owned(), client(), service("db", "http"), green, instances("db", "db", 1, WHO)].concat();
    let (rest, set) = manifest.rsplit_once("kind: Deployment").unwrap();
    let mesh = Mesh::with_files(&format!("{rest}kind: StatefulSet{set}"), &[]);
    assert_eq!(mesh.instance_of("client", "http://db/"), "db-0");
    mesh.edit("serviceAccountName: db", "serviceAccountName: other");
    until("the instance with its new name", LONG, || match mesh.instances() {
        all if all.iter().any(|i| {
            i["name"] == "db-0"
                && i["identity"].as_str().is_some_and(|id| id.ends_with("/sa/other"))
                && i["state"] == "ready"
        }) =>
        {
            Ok(())
        }
        all => Err(format!("{all:?}\n{}", mesh.said())),
    });
    assert_eq!(mesh.instance_of("client", "http://db/"), "db-0");
    // Its certificate is for the labels that it had.
    mesh.edit("labels: {app: db, set: db}", "labels: {app: db, set: db, tier: green}");
    until("the instance with its new label", LONG, || match mesh.ready("t/green") {
        one if one == ["db-0"] => Ok(()),
        other => Err(format!("{other:?}\n{}", mesh.said())),
    });
    assert_eq!(mesh.instance_of("client", "http://green/"), "db-0");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_gateway_listens_where_its_addresses_say() {
    // A port that no instance has on its own address.
    let port = testkit::address::free().port();
    let mesh = Mesh::up(&PAIR.replace("port: 8080, protocol: HTTP", &format!("port: {port}, protocol: HTTP")));
    let here = mesh.gateway();
    assert_eq!(here, format!("http://127.0.0.1:{port}"));
    // Every address of this block is this machine's, and without being told a gateway listens on one of them.
    let elsewhere = format!("http://127.9.9.9:{port}");
    assert!(try_curl([&elsewhere]).is_err());
    mesh.edit(
        "spec:\n  gatewayClassName: heddle",
        "spec:\n  addresses: [{value: 0.0.0.0}]\n  gatewayClassName: heddle",
    );
    let answers = |url: &str| {
        until(url, LONG, || match try_curl([url])? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}\n{}", mesh.said())),
        })
    };
    answers(&elsewhere);
    answers(&here);
    // Nobody's here: it is said, and mended with the next edit.
    mesh.edit("addresses: [{value: 0.0.0.0}]", "addresses: [{value: 192.0.2.1}]");
    until("the report", LONG, || match mesh.said() {
        said if said.contains("cannot listen on 192.0.2.1; is that an address of this machine?") => Ok(()),
        said => Err(said),
    });
    mesh.edit("addresses: [{value: 192.0.2.1}]", "addresses: [{value: 127.0.0.1}, {value: \"::1\"}]");
    answers(&here);
    answers(&format!("http://[::1]:{port}"));
    mesh.end(Signal::SIGINT);
}
