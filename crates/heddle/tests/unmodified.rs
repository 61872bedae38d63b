//! Programs that know nothing of a mesh, in namespace mode of an ordinary user: one that is linked statically and has a resolver of
//! its own, NATS, and SSH.

mod support;

use std::path::Path;

use nix::sys::signal::Signal;
use support::Mesh;
use testkit::process::Command;
use testkit::wait::LONG;

/// A service and its one instance, which runs `command` by a shell and listens on `port`.
fn service(name: &str, port: u16, command: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: main
        command: [sh, -ec, '{command}']
        ports: [{{containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"
    )
}

/// Publishes to itself, through the server.
const NATS: &str = r#"
import socket
with socket.create_connection(("nats.shop", 4222), timeout=10) as s:
    f = s.makefile("rwb")
    print(f.readline().decode()[:6])
    f.write(b"CONNECT {\"verbose\":false}\r\nSUB words 1\r\nPUB words 5\r\nhello\r\nPING\r\n")
    f.flush()
    print(f.readline().decode().strip(), f.readline().decode().strip(), f.readline().decode().strip())
"#;

/// A server of an ordinary user, with a key that it has just made.
const SSHD: &str = "ssh-keygen -q -t ed25519 -N \"\" -f host; exec /usr/sbin/sshd -D -e -f /dev/null -h $PWD/host -p 22 -o PidFile=none -o UsePAM=no";

fn compile(folder: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/static_client.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let program = folder.join("client");
    let compile = Command::new(rustc).args(["--edition=2024", "-Ctarget-feature=+crt-static", source, "-o"]);
    compile.args([&program]).run(LONG).success();
    // It asks for no loader, so nothing that a mesh could preload would be loaded.
    let loader = Command::new("readelf").args(["-l".as_ref(), program.as_os_str()]).run(LONG).success();
    assert!(!loader.contains("INTERP"), "{loader}");
}

#[test]
fn a_static_binary_nats_and_ssh_work_as_they_are() {
    let pages = "exec python3 -u serve.py pages 8080";
    let manifest = [
        "apiVersion: heddle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec: {mtls: {mode: strict}}\n",
        &service("pages", 8080, pages),
        &service("nats", 4222, "PATH=$PATH:/usr/sbin; exec nats-server --addr 0.0.0.0 --port 4222"),
        &service("ssh", 22, SSHD),
    ];
    let serve = "import http.server, sys\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(self):\n        self.send_response(200)\n        self.send_header('content-length', '5')\n        self.end_headers()\n        self.wfile.write(b'pages')\nhttp.server.ThreadingHTTPServer(('0.0.0.0', int(sys.argv[2])), H).serve_forever()\n";
    let mesh = Mesh::of_user(&manifest.concat(), &[("serve.py", serve), ("nats.py", NATS)]);
    compile(mesh.folder.path());
    let folder = mesh.folder.path().display().to_string();
    let run = |command: &str| mesh.exec("nats", ["sh", "-c", &format!("cd {folder}; {command}")]);

    // A proxy that is nowhere, which it does not ask.
    let page =
        run("HTTP_PROXY=http://192.0.2.1:9 http_proxy=http://192.0.2.1:9 ./client pages.shop.svc.cluster.local 8080");
    let page = page.success();
    assert!(page.starts_with("24") && page.ends_with(" HTTP/1.1 200 OK pages\n"), "{page}");

    assert_eq!(run("python3 nats.py").success(), "INFO {\nMSG words 1 5 hello PONG\n");

    // A whole session up to the door: an ordinary user's sshd may not look up anybody's account, so it lets nobody in.
    let ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null ssh.shop true";
    let refused = run(ssh);
    assert_eq!(refused.status.code(), Some(255), "{refused:?}");
    assert!(refused.stderr.contains("@ssh.shop: Permission denied (publickey"), "{}", refused.stderr);
    // The server's key is the one that it made, so nobody stands in between.
    let scanned = run("ssh-keyscan -T 5 ssh 2>/dev/null | cut -d\" \" -f3; cut -d\" \" -f2 host.pub").success();
    let keys: Vec<&str> = scanned.lines().collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{scanned}");
    mesh.end(Signal::SIGTERM);
}
