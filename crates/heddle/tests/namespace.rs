//! Namespace mode, run by an ordinary user with programs that know nothing of a mesh.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use support::Mesh;
use testkit::heddle::Heddle;
use testkit::process::Finished;
use testkit::wait::{LONG, until};

/// A service whose instances all listen on the same port of all addresses, the same with an address of IPv6, and a headless one.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: cart6, namespace: shop}
spec:
  clusterIP: "fd00:77::1"
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      containers:
      - name: cart
        image: example/cart
        command: [python3, -u, serve.py, $(POD_NAME), "8080"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: tcp-db, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: db
        image: example/db
        command: [python3, -u, serve.py, $(POD_NAME), "8080"]
        ports: [{name: tcp-db, containerPort: 8080}]
"#;

/// Answers every request with its first argument, on all addresses, and closes the connection.
const SERVE: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), Handler).serve_forever()
"#;

fn shop() -> Mesh {
    Mesh::of_user(SHOP, &[("serve.py", SERVE)])
}

/// Runs a shell's command as `cart`.
#[track_caller]
fn shell(mesh: &Mesh, command: &str) -> Finished {
    mesh.exec("cart", ["sh", "-c", command])
}

/// The address of an instance.
fn address(mesh: &Mesh, name: &str) -> String {
    let instances = mesh.status["instances"].as_array().expect("a list");
    let found = instances.iter().find(|i| i["name"] == name).expect("it runs");
    found["address"].as_str().expect("an address").to_owned()
}

#[test]
fn every_name_and_address_leads_where_it_should() {
    let mesh = shop();
    for name in ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local", "CART"] {
        let (status, body) = mesh.ask("cart", &format!("http://{name}/"));
        assert!(status == 200 && body.starts_with("cart-"), "{name}: {status} {body}");
    }
    // Every connection is balanced, and a variable says where the service is.
    let many = shell(
        &mesh,
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do curl -s http://$CART_SERVICE_HOST:$CART_SERVICE_PORT/; echo; done",
    );
    let text = many.success();
    assert!(text.contains("cart-0") && text.contains("cart-1"), "{text}");

    // IPv6, by address and by name.
    for url in ["http://[fd00:77::1]/", "http://cart6.shop/"] {
        let (status, body) = mesh.ask("cart", url);
        assert!(status == 200 && body.starts_with("cart-"), "{url}: {status} {body}");
    }

    // Headless: both instances, and each by its name or its address.
    for (name, instance) in [("db-0.db", "db-0"), ("db-1.db.shop", "db-1"), ("db-1.db.shop.svc.cluster.local", "db-1")]
    {
        assert_eq!(mesh.ask("cart", &format!("http://{name}:8080/")), (200, instance.to_owned()), "{name}");
    }
    let (db_0, db_1) = (address(&mesh, "db-0"), address(&mesh, "db-1"));
    assert_eq!(mesh.ask("cart", &format!("http://{db_1}:8080/")).1, "db-1");
    let both = shell(&mesh, "getent ahostsv4 db | cut -d' ' -f1 | sort -u").success();
    assert_eq!(both.lines().collect::<Vec<_>>(), [&*db_0, &*db_1]);

    // Names that are nobody's, over UDP and over TCP; a name that is there but has no address of the kind asked for.
    let lookup = "import socket, sys\ntry: print(socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET)[0][4][0])\nexcept socket.gaierror as e: print(e.errno == socket.EAI_NONAME)";
    for name in ["none.shop.svc.cluster.local", "cart.none.svc", "none.cluster.local"] {
        assert_eq!(mesh.exec("cart", ["python3", "-c", lookup, name]).success(), "True\n", "{name}");
    }
    let over_tcp = shell(&mesh, "RES_OPTIONS=use-vc getent ahostsv4 cart.shop.svc.cluster.local").success();
    assert!(over_tcp.starts_with("24"), "{over_tcp}");

    // An instance talks to itself without its sidecar, and finds nobody at an address that no instance has.
    let own = "python3 serve.py self 9000 & until curl -s http://$POD_IP:9000/; do sleep 0.05; done; curl -s http://127.0.0.1:9000/ http://localhost:9000/; kill $!";
    let folder = mesh.folder.path().display();
    assert_eq!(shell(&mesh, &format!("cd {folder}; {own}")).success(), "selfselfself");
    let nobody = format!("{}.200", db_0.rsplit_once('.').expect("an address").0);
    assert_ne!(shell(&mesh, &format!("curl -s -m 5 http://{nobody}:15020/metrics")).status.code(), Some(0));
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_program_is_who_it_is_outside_and_has_no_rights_inside() {
    let mesh = shop();
    let own = |uid: Uid| if uid.is_root() { support::USER } else { uid.as_raw() };
    let text = shell(
        &mesh,
        "id -u; grep -h Cap[PE] /proc/self/status | cut -f2; ls /sys/class/net 2>/dev/null; env | grep -ci proxy",
    )
    .stdout;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(&*own(Uid::effective()).to_string()), "{text}");
    assert!(lines.clone().take(2).all(|l| l.chars().all(|c| c == '0')), "{text}");
    assert_eq!(lines.next_back(), Some("0"), "no variable tells of a proxy: {text}");
    // It can neither change the rules nor mark its own packets.
    let mark = "import socket\ns = socket.socket()\ntry: s.setsockopt(socket.SOL_SOCKET, 36, 0x433353)\nexcept PermissionError: print('no')";
    assert_eq!(mesh.exec("cart", ["python3", "-c", mark]).success(), "no\n");
    assert_ne!(shell(&mesh, "PATH=$PATH:/usr/sbin nft flush ruleset").status.code(), Some(0));
    assert_ne!(shell(&mesh, "PATH=$PATH:/usr/sbin ip link set lo down").status.code(), Some(0));
    // What is not TCP or DNS goes nowhere, and its sender is told.
    let udp = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ntry: s.sendto(b'x', ('192.0.2.1', 123))\nexcept PermissionError: print('no')\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 9999)); s.sendto(b'me', ('127.0.0.1', 9999)); print(s.recv(9))";
    assert_eq!(mesh.exec("cart", ["python3", "-c", udp]).success(), "no\nb'me'\n");
    mesh.end(Signal::SIGINT);
}

/// An address of this machine that is not a loopback address, if it has one: what others see it as.
fn outer() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn without_its_sidecar_nothing_gets_out() {
    let mesh = shop();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let Some(outer) = outer() else {
        panic!("this machine has no network; the test needs one address that is not loopback")
    };
    let script = format!(
        "echo begun; read line; python3 - <<'E'\nimport socket\ns = socket.socket(); s.settimeout(2)\ntry:\n    s.connect(('{outer}', {port})); s.send(b'x'); print('said', s.recv(1))\nexcept OSError as e: print('nothing:', type(e).__name__)\nE\n"
    );
    let mut exec = mesh.heddle.command(["exec", "cart", "--", "sh", "-c", &script]).with_input().start();
    exec.wait_line("begun", LONG);
    // The way is there, but for the sidecar; and nobody starts another one.
    let supervisor = mesh.process(&["exec cart"]);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    mesh.kill(&["proxy", "exec-"]);
    exec.stdin().unwrap().write_all(b"go\n").unwrap();
    let line = exec.wait_line("nothing:", LONG);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{line}");
    kill(supervisor, Signal::SIGCONT).unwrap();
    drop(exec);
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_helper_or_a_sidecar_that_dies_comes_back() {
    let mesh = shop();
    let calls =
        "for i in $(seq 100); do curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://cart/; done | sort | uniq -c";
    // Each call is a connection to the application of its own, and there are not as many sockets in stock.
    let helpers: Vec<Pid> = support::processes(mesh.heddle.runtime())
        .into_iter()
        .filter(|(_, line)| line.contains("heddle inside"))
        .map(|(pid, _)| Pid::from_raw(i32::try_from(pid).expect("a process id")))
        .collect();
    assert_eq!(helpers.len(), 4, "one an instance");
    for helper in helpers {
        kill(helper, Signal::SIGKILL).unwrap();
    }
    let answers = shell(&mesh, calls).success();
    assert_eq!(answers.split_whitespace().collect::<Vec<_>>(), ["100", "200"], "{answers}");
    until("helpers", LONG, || {
        let lines = support::processes(mesh.heddle.runtime());
        let count = lines.iter().filter(|(_, line)| line.contains("heddle inside")).count();
        if count == 4 { Ok(()) } else { Err(format!("{lines:?}")) }
    });
    mesh.kill(&["proxy", "shop.cart-0"]);
    until("the killed sidecar's instance", LONG, || {
        let text = shell(&mesh, "for i in 1 2 3 4 5 6 7 8; do curl -s -m 5 http://cart/; echo; done").stdout;
        if text.contains("cart-0") { Ok(()) } else { Err(text) }
    });
    mesh.end(Signal::SIGTERM);
}

/// Every network namespace that a process is in or holds open.
fn networks() -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let own = process.path().join("ns/net");
        let open = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten().map(|e| e.path());
        let links = open.chain([own]).filter_map(|path| std::fs::read_link(path).ok());
        found.extend(links.map(|l| l.display().to_string()).filter(|l| l.starts_with("net:[")));
    }
    found
}

fn descriptors(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

#[test]
fn what_ends_leaves_nothing_behind() {
    let cycles: usize = std::env::var("HEDDLE_TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mesh = shop();
    let supervisor = Pid::from_raw(i32::try_from(mesh.up.id()).unwrap());
    shell(&mesh, "true").success();
    let before = networks().len();
    let open = descriptors(supervisor);
    for _ in 0..cycles {
        shell(&mesh, "curl -s -m 5 http://cart/").success();
    }
    // And an instance of the mesh itself.
    for round in 0..3 {
        let name = format!("db-{}", round % 2);
        mesh.kill(&["python3", &name, "serve.py"]);
        until("its successor", LONG, || {
            let answer = shell(&mesh, &format!("curl -s -m 5 http://{name}.db:8080/")).stdout;
            if answer == name { Ok(()) } else { Err(answer) }
        });
    }
    until("namespaces to be gone", LONG, || match networks().len() {
        now if now <= before => Ok(()),
        now => Err(format!("{now} instead of {before}")),
    });
    until("descriptors to be closed", LONG, || match descriptors(supervisor) {
        now if now <= open => Ok(()),
        now => Err(format!("{now} instead of {open}")),
    });
    let left: Vec<_> =
        std::fs::read_dir(mesh.runtime().join("instances")).unwrap().flatten().map(|e| e.path()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn a_machine_that_allows_no_namespaces_is_told_which_setting() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("mesh.yaml"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n",
    )
    .unwrap();
    let heddle = Heddle::new();
    // In a namespace of users of its own it is root, and can be forbidden to make others.
    let inside = |arguments: &str| {
        let binary = heddle.binary().display();
        let script = format!("echo 0 > /proc/sys/user/max_net_namespaces && exec {binary} {arguments}");
        heddle.surround(testkit::process::Command::new("unshare").args(["-Ur", "sh", "-c", &script])).run(LONG)
    };
    let up = |mode: &str| inside(&format!("up --name m --mode {mode} --for 1s {}", folder.path().display()));
    let refused = up("namespace");
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("user.max_net_namespaces is 0"), "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("--mode explicit"), "{}", refused.stderr);
    let fallen_back = up("auto");
    let said = format!("{}{}", fallen_back.stdout, fallen_back.stderr);
    assert!(fallen_back.status.success() && said.contains("user.max_net_namespaces is 0"), "{said}");
    assert!(said.contains("explicit mode") && said.contains("m is up"), "{said}");
    // So are those who run one command, which the mesh may or may not let go on.
    let mut mesh = heddle.start(["up", "--name", "m", folder.path().to_str().unwrap()]);
    mesh.wait_line("m is up", LONG);
    for command in ["exec --mode auto a -- true", "run --mode auto --service a --port 80 -- true"] {
        let said = inside(command).stderr;
        assert!(said.contains("explicit mode") && said.contains("user.max_net_namespaces is 0"), "{command}: {said}");
    }
    mesh.terminate(LONG);
}

#[test]
fn a_chroot_is_named_where_it_is_what_forbids_namespaces() {
    // Everything is there as it was. Who starts is root in it, outside or in a namespace of users; an ordinary user where root can
    // make it one.
    let script = "for folder in /*; do
                    if [ -d \"$folder\" ]; then mkdir -p \"$0$folder\" && mount --rbind \"$folder\" \"$0$folder\" || exit 99; fi
                  done
                  exec chroot $USERSPEC \"$0\" \"$@\"";
    let refused = |heddle: Heddle, unshare: &str, user: &str| {
        let (root, folder) = (tempfile::tempdir().unwrap(), heddle.folder());
        std::fs::write(folder.path().join("mesh.yaml"), SHOP).unwrap();
        let [root, folder, binary] = [root.path(), folder.path(), heddle.binary()].map(|path| path.to_str().unwrap());
        let words = [unshare, "sh", "-c", script, root, binary, "up", "--name", "m", "--mode", "namespace", folder];
        let command = testkit::process::Command::new("unshare").args(words).env("USERSPEC", user);
        let refused = heddle.surround(command).run(LONG);
        assert!(refused.stderr.contains("heddle runs in a chroot"), "{user:?}: {refused:?}");
    };
    if Uid::effective().is_root() {
        refused(Heddle::new(), "-m", "");
        refused(Heddle::of_user(support::USER), "-m", "--userspec=65534:65534");
    } else {
        refused(Heddle::new(), "-Urm", "");
    }
}

#[test]
fn programs_from_debian_work_as_they_are() {
    let bin = postgres();
    let manifest = format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: pg, namespace: shop}}
spec: {{selector: {{app: pg}}, ports: [{{name: tcp-pg, port: 5432}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: pg, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: pg}}}}
  template:
    metadata: {{labels: {{app: pg}}}}
    spec:
      containers:
      - name: pg
        image: postgres
        command: [sh, -ec, "{bin}/initdb -D pg -U shop -A trust >/dev/null; echo 'host all all all trust' >> pg/pg_hba.conf; exec {bin}/postgres -D pg -k '' -c listen_addresses='*'"]
        ports: [{{containerPort: 5432}}]
---
apiVersion: v1
kind: Service
metadata: {{name: redis, namespace: shop}}
spec: {{selector: {{app: redis}}, ports: [{{name: tcp-redis, port: 6379}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: redis, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: redis}}}}
  template:
    metadata: {{labels: {{app: redis}}}}
    spec:
      containers:
      - name: redis
        image: redis
        command: [redis-server, --port, "6379", --bind, "0.0.0.0", --protected-mode, "no", --save, ""]
        ports: [{{containerPort: 6379}}]
---
apiVersion: v1
kind: Service
metadata: {{name: pages, namespace: shop}}
spec: {{selector: {{app: pages}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: pages, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: pages}}}}
  template:
    metadata: {{labels: {{app: pages}}}}
    spec:
      containers:
      - name: pages
        image: nginx
        command: [sh, -c, "PATH=$PATH:/usr/sbin exec nginx -p $PWD -c nginx.conf -e stderr"]
        ports: [{{containerPort: 80}}]
"#,
        bin = bin.display()
    );
    const NGINX: &str = "daemon off; pid nginx.pid; events {}\nhttp { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; server { listen 80; listen [::]:80; return 200 pages; } }\n";
    let mesh = Mesh::of_user(&manifest, &[("nginx.conf", NGINX)]);
    // PostgreSQL refuses to run as root, as a pretended one too.
    let sql = "select current_user || ' ' || 6 * 7";
    let answer = mesh.exec("pages", ["psql", "-h", "pg", "-U", "shop", "-d", "postgres", "-Atc", sql]).success();
    assert_eq!(answer, "shop 42\n");
    let answer = mesh.exec("pages", ["redis-cli", "-h", "redis.shop", "SET", "a", "b"]).success();
    assert_eq!(answer, "OK\n");
    // On a port that only root may have elsewhere.
    assert_eq!(mesh.ask("redis", "http://pages/"), (200, "pages".to_owned()));
    mesh.end(Signal::SIGINT);
}

/// Where Debian puts PostgreSQL's servers, or where they are in `PATH`.
fn postgres() -> std::path::PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("bin")).find(|bin| bin.join("initdb").exists());
    found.expect("`cargo xtask tools` installs PostgreSQL")
}

#[test]
fn a_sidecar_is_handed_its_sockets_again_after_each_death() {
    let mesh = shop();
    for _ in 0..3 {
        mesh.kill(&["proxy", "shop.db-0"]);
        until("the instance to be called", Duration::from_secs(20), || {
            let answer = shell(&mesh, "curl -s -m 5 http://db-0.db:8080/").stdout;
            if answer == "db-0" { Ok(()) } else { Err(answer) }
        });
    }
    assert!(Path::new(&mesh.runtime()).exists());
    mesh.end(Signal::SIGINT);
}
