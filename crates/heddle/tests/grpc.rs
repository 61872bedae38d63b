//! gRPC of an implementation that is not ours, client and server, through the mesh.

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::Mesh;
use support::manifest::{STRICT, WHO, client, instances, service};
use testkit::grpc;
use testkit::wait::{LONG, until};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/grpc_calls.py");

fn manifest() -> String {
    let python = grpc::python();
    let serve = format!("exec {} {SCRIPT} serve \"$POD_IP:8080\"", python.display());
    [
        STRICT.to_owned(),
        client(),
        service("other", "http"),
        instances("other", "other", 1, WHO),
        service("calls", "grpc"),
        instances("calls", "calls", 3, &serve),
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: t}
spec:
  parentRefs: [{group: \"\", kind: Service, name: calls}]
  rules:
  - matches: [{method: {service: t.Calls, method: '[^H].*', type: RegularExpression}}]
    backendRefs: [{name: calls, port: 80}]
  - matches: [{method: {service: t.Calls, method: Hidden}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-word, value: from-the-route}]}
    backendRefs: [{name: calls, port: 80}]
---
apiVersion: heddle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: calls, namespace: t}
spec:
  targetRefs: [{group: \"\", kind: Service, name: calls}]
  action: allow
  rules:
  - from: [{serviceAccounts: [client]}]
"
        .to_owned(),
    ]
    .concat()
}

/// Runs the client with the identity of `service`. `target` is expanded by a shell.
fn call(mesh: &Mesh, service: &str, what: &str, target: &str) -> Value {
    let command = format!("exec {} {SCRIPT} {what} \"{target}\"", grpc::python().display());
    let finished = mesh.exec(service, ["sh", "-c", &command]);
    let (stdout, stderr) = (finished.stdout.clone(), finished.stderr.clone());
    assert!(finished.status.success(), "{stdout}\n{stderr}\n{}", mesh.said());
    let line = stdout.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"))
}

fn judge(seen: &Value, mesh: &Mesh) {
    let echo = &seen["echo"];
    assert_eq!((&echo["code"], &echo["reply"]), (&json!("OK"), &json!("hello")), "{seen:#}\n{}", mesh.said());
    assert_eq!(echo["headers"]["x-early"], "first", "{echo:#}");
    assert_eq!(echo["headers"]["x-data-bin"], "00ff", "{echo:#}");
    assert_eq!(echo["trailers"]["x-saw"], "woven", "{echo:#}");
    assert!(echo["trailers"]["x-user-agent"].as_str().expect("a text").starts_with("grpc-python/"), "{echo:#}");

    assert_eq!((&seen["big"], &seen["count"]), (&json!(true), &json!(true)), "{seen:#}");
    assert_eq!(seen["total"], 1_000_000);
    assert_eq!(seen["chat"], json!(["FIRST", "SECOND", "THIRD"]));

    // Calls ended in the middle of much data, in both directions: their servers were told.
    assert_eq!(seen["ended"], json!(["CANCELLED", "DEADLINE_EXCEEDED", "CANCELLED", "DEADLINE_EXCEEDED"]), "{seen:#}");

    let fail = &seen["fail"];
    assert_eq!((&fail["code"], &fail["details"]), (&json!("RESOURCE_EXHAUSTED"), &json!("as asked: 100% \u{2603}")));
    assert_eq!(fail["trailers"]["x-detail"], "a detail");
    assert_eq!(seen["late"]["code"], "DEADLINE_EXCEEDED", "{}", seen["late"]);

    // By the route of this one method, and what the application says itself to one that it does not have.
    assert_eq!(seen["hidden"]["trailers"]["x-saw"], "from-the-route", "{seen:#}");
    assert_eq!(seen["nothing"]["code"], "UNIMPLEMENTED");
    assert_eq!(seen["nothing"]["headers"].get("heddle-reason"), None);

    // One connection of the client, all instances.
    let shares = seen["shares"].as_object().expect("an object");
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["calls-0", "calls-1", "calls-2"], "{seen:#}");
    assert!(shares.values().all(|share| share.as_u64() >= Some(5)), "{seen:#}");
}

#[test]
fn calls_of_every_kind_are_carried_and_balanced_one_by_one() {
    let mesh = Mesh::with_files(&manifest(), &[]);
    // Through CONNECT, which grpc does where the variables name a proxy, and by the service's address.
    judge(&call(&mesh, "client", "call", "calls:80"), &mesh);
    judge(&call(&mesh, "client", "call", "$CALLS_SERVICE_HOST:$CALLS_SERVICE_PORT"), &mesh);

    // A refusal of the mesh is a status of gRPC, with the reason beside it.
    let denied = call(&mesh, "other", "one", "calls:80");
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied:#}");
    assert!(denied.to_string().contains("\"heddle-reason\":\"denied\""), "{denied:#}");
    let denied = call(&mesh, "other", "one", "$CALLS_SERVICE_HOST:$CALLS_SERVICE_PORT");
    assert_eq!(denied["code"], "PERMISSION_DENIED", "{denied:#}");

    // Nobody is there, once the last call under way has ended: the status says that it is worth another try.
    mesh.edit("replicas: 3", "replicas: 0");
    until("nobody", LONG, || match call(&mesh, "client", "one", "calls:80") {
        nobody
            if nobody["code"] == "UNAVAILABLE" && nobody.to_string().contains("\"heddle-reason\":\"no_endpoint\"") =>
        {
            Ok(())
        }
        other => Err(format!("{other:#}")),
    });
    mesh.end(Signal::SIGINT);
}
