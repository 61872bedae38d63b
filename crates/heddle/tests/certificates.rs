//! What the proxy process does with certificates that the mesh's own authority signed, and that have expired.

mod support;

use std::path::Path;

use net::identity::Identity;
use net::tls::{self, Alpn};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Mesh, PAIR};
use testkit::address;
use testkit::ca::{Ca, Leaf};
use testkit::load::curl;
use testkit::wait::{LONG, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What an instance of `back`, called with `identity` for its `port`, answers: all bytes until the end, or the error that was met.
fn call_back(mesh: &Mesh, identity: &Identity, port: u16) -> Result<String, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect((mesh.address("back-0"), 15006)).await.expect("it listens");
        let server = "spiffe://test.example/ns/pair/sa/back";
        let sni = format!("p{port}.back-0.pair.heddle");
        let stream = tls::connect(stream, identity, server, &sni, Alpn::Http1).await;
        // TLS 1.3 tells a client what became of its certificate with the first bytes that it reads.
        let mut stream = stream.expect("the server's certificate is good");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: back\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
}

#[test]
fn a_sidecar_refuses_a_caller_whose_certificate_has_expired() {
    let mesh = Mesh::up(PAIR);
    let ca = Ca::open(&mesh.runtime().join("ca"));
    let front = Leaf::in_domain("test.example", "pair", "front");
    let answer = call_back(&mesh, &ca.issue(&front), 8080).expect("a good certificate is let in");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let error = call_back(&mesh, &ca.issue(&front.expired()), 8080).expect_err("an expired one is not");
    assert_eq!(
        tls::refusal(&error).map(|alert| format!("{alert:?}")).as_deref(),
        Some("CertificateExpired"),
        "{error}"
    );
    let counted = mesh.metric("back-0", &["heddle_peers_refused_total{direction=\"inbound\",reason=\"expired\"}"]);
    assert_eq!(counted, 1.0);
    until("it to be told", LONG, || {
        let said = mesh.said();
        let told = said.lines().any(|l| {
            l.contains("back-0/proxy")
                && l.contains("refused a caller: the peer's certificate has expired")
                && l.contains("WARN")
        });
        if told { Ok(()) } else { Err(said) }
    });
    mesh.end(Signal::SIGINT);
}

#[test]
fn nobody_comes_in_for_what_a_sidecar_listens_on_itself() {
    let mesh = Mesh::up(PAIR);
    let identity = Ca::open(&mesh.runtime().join("ca")).issue(&Leaf::in_domain("test.example", "pair", "front"));
    // The forward proxy, the inbound side, the metrics with `/drain`, and a service's port.
    for (count, port) in (1_u8..).zip([15001, 15006, 15020, 16000]) {
        let answer = call_back(&mesh, &identity, port).unwrap_or_default();
        assert_eq!(answer, "", "port {port}");
        until("it to be counted", LONG, || {
            let counter = "heddle_peers_refused_total{direction=\"inbound\",reason=\"own_port\"}";
            match mesh.metric("back-0", &[counter]) {
                n if n == f64::from(count) => Ok(()),
                n => Err(n.to_string()),
            }
        });
    }
    mesh.end(Signal::SIGINT);
}

/// A proxy's directory with a key of its own and a certificate for `leaf`.
fn keep(directory: &Path, ca: &Ca, leaf: &Leaf) {
    ca.issue(leaf).save(directory).expect("the directory takes it");
}

#[test]
fn a_sidecar_refuses_an_instance_whose_certificate_has_expired() {
    let mesh = Mesh::up(PAIR);
    let ca = Ca::open(&mesh.runtime().join("ca"));
    // An instance elsewhere, whose sidecar has been without a control plane for too long.
    let inbound = address::free();
    let settings = mesh.runtime().join("instances/pair.back-0/settings.json");
    let mut settings: Value =
        serde_json::from_str(&std::fs::read_to_string(settings).expect("the settings")).expect("JSON");
    let directory = mesh.folder.path().join("old");
    std::fs::create_dir(&directory).expect("a folder");
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("a private one");
    settings["directory"] = json!(directory);
    settings["control"] = json!({"unix": mesh.folder.path().join("nothing.sock")});
    settings["admin"] = Value::Null;
    settings["proxy"]["workload"] = json!("pair/old-0");
    settings["registration"]["serviceAccount"] = json!("old");
    settings["proxy"]["application"] = json!(inbound.ip());
    settings["proxy"]["inbound"] = json!(inbound);
    settings["proxy"]["outbound"] = Value::Null;
    settings["proxy"]["services"] = json!([]);
    let file = mesh.folder.path().join("old.json");
    std::fs::write(&file, settings.to_string()).expect("the settings");
    let start = |leaf: &Leaf| {
        keep(&directory, &ca, leaf);
        let proxy = mesh.heddle.start(["proxy", "--standalone", "--settings", file.to_str().expect("letters")]);
        until("the proxy to listen", LONG, || {
            std::net::TcpStream::connect(inbound).map(drop).map_err(|e| format!("{e}: {}", proxy.stderr()))
        });
        proxy
    };
    let leaf = Leaf::in_domain("test.example", "pair", "old").granting("pair/old-0");
    let mut proxy = start(&leaf.clone().expired());
    std::fs::write(
        mesh.folder.path().join("old.yaml"),
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: old, namespace: pair}}
spec: {{selector: {{app: old}}, ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]}}
---
apiVersion: heddle.dev/v1alpha1
kind: Workload
metadata: {{name: old-0, namespace: pair, labels: {{app: old}}}}
spec:
  address: {}
  dial: \"{inbound}\"
  serviceAccountName: old
  ports: [{{name: http, port: 8080}}]
",
            inbound.ip()
        ),
    )
    .expect("a manifest");

    let through = format!("http://{}", mesh.forward_proxy("front-0"));
    let ask = || curl(["-x", through.as_str(), "http://old.pair/"]);
    let answer = until("the service to be known", LONG, || match ask() {
        answer if answer.status == 503 => Ok(answer),
        other => Err(format!("{} {}", other.status, other.text())),
    });
    assert_eq!(answer.header("heddle-reason"), Some("identity_mismatch"), "{}", answer.text());
    assert!(answer.text().contains("has expired"), "{}", answer.text());
    let counted = mesh.metric("front-0", &["heddle_requests_total", "pair/old", "reason=\"identity_mismatch\""]);
    assert!(counted >= 1.0, "{counted}");
    let counted = mesh.metric("front-0", &["heddle_peers_refused_total{direction=\"outbound\",reason=\"expired\"}"]);
    assert!(counted >= 1.0, "{counted}");
    until("it to be told", LONG, || {
        let said = mesh.said();
        let told = said.lines().any(|l| l.contains("front-0/proxy") && l.contains("WARN") && l.contains("has expired"));
        if told { Ok(()) } else { Err(said) }
    });

    // With a good certificate the same proxy is talked to, which then has no configuration to let anybody in.
    proxy.terminate(LONG);
    let mut proxy = start(&leaf);
    until("the renewed one to be believed", LONG, || match ask() {
        answer if answer.header("heddle-reason") == Some("not_ready") => Ok(()),
        other => Err(format!("{} {}", other.status, other.text())),
    });
    proxy.terminate(LONG);
    mesh.end(Signal::SIGINT);
}
