//! Redirect mode with real kernel rules: two pods, each a network namespace, joined by a cable. Needs root.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod support;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use testkit::heddle::Heddle;
use testkit::netns::{self, Namespace};
use testkit::process::{Command, Finished, Process};
use testkit::raw::Raw;
use testkit::wait::{LONG, until};

/// The user that the sidecars run as.
const SIDECAR: u32 = 1337;
/// The user that the applications run as.
const APPLICATION: u32 = 65_534;

/// Where the control plane listens: in the client's pod.
const CONTROL: &str = "10.201.0.1:15012";

/// Asks for names and answers.
const NAMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/names.py");

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: greet, port: 22, targetPort: 2222}]
---
apiVersion: v1
kind: Service
metadata: {name: cart-six, namespace: shop}
spec:
  clusterIP: fd00:96::10
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

struct Pods {
    heddle: Heddle,
    client: Namespace,
    server: Namespace,
    folder: tempfile::TempDir,
    /// Where sidecars tell a service manager how far they are.
    notify: UnixDatagram,
    control: Process,
}

impl Drop for Pods {
    /// What has taken a sidecar's place is no child of the test, and would outlive it.
    fn drop(&mut self) {
        for (pid, _) in support::processes(self.heddle.runtime()) {
            let pid = i32::try_from(pid).expect("process numbers are small");
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Pods {
    /// Two pods and a control plane.
    fn new() -> Option<Pods> {
        let (client, server) = (Namespace::new()?, Namespace::new()?);
        let heddle = Heddle::new();
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let manifest = folder.path().join("mesh.yaml");
        fs::write(&manifest, MANIFEST).unwrap();
        fs::write(folder.path().join("resolv.conf"), "nameserver 10.201.0.2\n").unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(LONG)).unwrap();
        fs::set_permissions(folder.path().join("notify"), fs::Permissions::from_mode(0o777)).unwrap();
        let plane = heddle.runtime().join("plane");
        let args = ["control", manifest.to_str().unwrap(), "--runtime", plane.to_str().unwrap(), "--name", "far"];
        server.run(|| {
            let pair = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &client.path()];
            netns::run(&pair);
            connect("10.201.0.2/24", "fd00:201::2/64", "10.201.0.1", "fd00:201::1");
        });
        client.run(|| connect("10.201.0.1/24", "fd00:201::1/64", "10.201.0.2", "fd00:201::2"));
        let control = heddle.surround(client.command(heddle.binary(), args).args(["--listen", CONTROL]));
        let control = control.start();
        client.run(|| testkit::address::wait_listening(CONTROL.parse().unwrap()));
        Some(Pods { heddle, client, server, folder, notify, control })
    }

    /// Starts a sidecar as a user of its own, and waits until it is ready.
    fn sidecar(&self, pod: &Namespace, name: &str, ip: &str, labels: serde_json::Value, ports: &[u16]) -> Process {
        self.sidecar_with(pod, name, ip, labels, ports, false)
    }

    fn sidecar_with(
        &self,
        pod: &Namespace,
        name: &str,
        ip: &str,
        labels: serde_json::Value,
        ports: &[u16],
        keep_source: bool,
    ) -> Process {
        let directory = self.folder.path().join(name);
        fs::create_dir(&directory).unwrap();
        let plane = self.heddle.runtime().join("plane");
        let workload = format!("shop/{name}");
        let token = self
            .heddle
            .run(["token", "--workload", &workload, "--service-account", name, "--runtime", plane.to_str().unwrap()])
            .success();
        let settings = json!({
            "mesh": "far",
            "proxy": {
                "workload": workload,
                "application": ip,
                "inbound": format!("{ip}:15006"),
                "redirected": ["0.0.0.0:15001", "[::]:15001"],
                "keepSource": keep_source,
                "redirectedInbound": ["0.0.0.0:15006", "[::]:15006"],
            },
            "control": {"tcp": CONTROL},
            "roots": directory.join("roots.pem"),
            "directory": directory,
            "names": ["127.0.0.1:15053", "[::1]:15053"],
            "admin": "0.0.0.0:15020",
            "registration": {
                "serviceAccount": name,
                "labels": labels,
                "ports": ports.iter().map(|port| json!({"port": port})).collect::<Vec<_>>(),
            },
        });
        fs::write(directory.join("settings.json"), settings.to_string()).unwrap();
        fs::write(directory.join("token"), token.trim()).unwrap();
        fs::copy(plane.join("roots.pem"), directory.join("roots.pem")).unwrap();
        fs::set_permissions(directory.join("token"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        for file in ["", "settings.json", "token", "roots.pem"] {
            chown(directory.join(file), Some(SIDECAR), Some(SIDECAR)).unwrap();
        }
        let settings = directory.join("settings.json");
        let token = directory.join("token");
        let args = [
            "proxy",
            "--standalone",
            "--settings",
            settings.to_str().unwrap(),
            "--token-file",
            token.to_str().unwrap(),
        ];
        let capabilities: &[&str] =
            if keep_source { &["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"] } else { &[] };
        // The machine's servers of names are the server's pod.
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let resolv_conf = self.folder.path().join("resolv.conf");
        let mounted = ["--mount", "sh", "-c", mount, resolv_conf.to_str().unwrap()].map(str::to_owned);
        let sidecar = user_command(SIDECAR, capabilities, self.heddle.binary(), &args);
        let sidecar = pod.command("unshare", mounted.into_iter().chain(sidecar));
        let notify = self.folder.path().join("notify");
        let sidecar = self.heddle.surround(sidecar).env("NOTIFY_SOCKET", notify).start();
        until("the sidecar to be ready", LONG, || {
            let page = curl(pod, SIDECAR, &format!("http://{ip}:15020/ready"));
            if page.stdout == "ready\n" { Ok(()) } else { Err(format!("{page:?}; {}", sidecar.stderr())) }
        });
        sidecar
    }

    fn init(&self, pod: &Namespace, args: &[&str]) -> Finished {
        // The control plane in the client's pod is none of its application.
        let command = pod.command(self.heddle.binary(), ["init", "--exclude-inbound-port", "15012"].iter().chain(args));
        self.heddle.surround(command).run(LONG)
    }

    /// The next thing that a sidecar tells its service manager.
    fn told(&self) -> String {
        let mut bytes = [0; 100];
        let length = self.notify.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// How many requests and connections the server's sidecar has let in.
    fn let_in(&self) -> f64 {
        let page = curl(&self.server, SIDECAR, "http://10.201.0.2:15020/metrics").success();
        let counted = |line: &str| line.starts_with("heddle_requests_total{") && line.contains("direction=\"inbound\"");
        page.lines().filter(|line| counted(line)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Addresses at the end of a cable; everything unknown goes to the other end.
fn connect(v4: &str, v6: &str, gateway4: &str, gateway6: &str) {
    netns::run(&["ip", "address", "add", v4, "dev", "eth0"]);
    netns::run(&["ip", "address", "add", v6, "dev", "eth0", "nodad"]);
    netns::run(&["ip", "link", "set", "eth0", "up"]);
    netns::run(&["ip", "route", "add", "default", "via", gateway4]);
    netns::run(&["ip", "-6", "route", "add", "default", "via", gateway6]);
}

fn as_user(pod: &Namespace, user: u32, program: impl AsRef<Path>, args: &[&str]) -> Command {
    let command = user_command(user, &[], program.as_ref(), args);
    pod.command(&command[0], &command[1..])
}

/// `program` run by `user`, and `options` for who runs it.
fn user_command(user: u32, options: &[&str], program: &Path, args: &[&str]) -> Vec<String> {
    let user = user.to_string();
    let prefix = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
    let words = [&prefix, options, &[program.to_str().unwrap()], args].concat();
    words.into_iter().map(str::to_owned).collect()
}

fn curl(pod: &Namespace, user: u32, url: &str) -> Finished {
    as_user(pod, user, "curl", &["-sS", "--max-time", "10", url]).run(LONG)
}

/// An application that says who calls it.
fn application(pod: &Namespace) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/pod.py");
    let mut application = pod.command("python3", [script]).start();
    application.wait_line("serving", LONG);
    application
}

#[test]
fn what_pods_say_to_each_other_passes_their_sidecars() {
    let Some(pods) = Pods::new() else { return };
    let (client, server) = (&pods.client, &pods.server);
    let _application = application(server);
    for pod in [client, server] {
        // Once more changes nothing.
        pods.init(pod, &[]).success();
        pods.init(pod, &[]).success();
        let tables = pod.run(|| netns::run(&["nft", "list", "tables"]));
        assert_eq!(tables.trim(), "table inet heddle");
    }
    let mut there = pods.sidecar(server, "cart-0", "10.201.0.2", json!({"app": "cart"}), &[8080, 2222]);
    let mut here = pods.sidecar(client, "front-0", "10.201.0.1", json!({}), &[]);
    let mut let_in = pods.let_in();
    // By the service's address, of either kind, and by the instance's own.
    for url in ["http://10.96.0.10/", "http://[fd00:96::10]/", "http://10.201.0.2:8080/"] {
        let page = until(&format!("{url} to be there"), LONG, || {
            let page = curl(client, APPLICATION, url);
            if page.status.success() { Ok(page.stdout.clone()) } else { Err(format!("{page:?}")) }
        });
        assert!(page.starts_with("hello "), "{url}: {page}");
        let now = pods.let_in();
        assert!(now > let_in, "{url} did not pass the server's sidecar: {now}");
        let_in = now;
    }
    // A server that speaks first.
    client.run(|| {
        let mut raw = Raw::connect("10.96.0.10:22".parse().unwrap());
        raw.expect("220 here\r\n").finish();
    });
    // From somebody without a sidecar.
    let page = curl(client, SIDECAR, "http://10.201.0.2:8080/").success();
    assert!(page.starts_with("hello "), "{page}");
    assert!(pods.let_in() > let_in, "the caller without sidecar passed the server's by");
    // To oneself: by the service, by one's own address, by loopback.
    for url in ["http://10.96.0.10/", "http://10.201.0.2:8080/", "http://127.0.0.1:8080/", "http://[::1]:8080/"] {
        let page = curl(server, APPLICATION, url).success();
        assert!(page.starts_with("hello "), "{url}: {page}");
    }
    // The sidecar's own port leads nowhere.
    assert!(!curl(client, APPLICATION, "http://10.201.0.1:15001/").status.success());
    // A sidecar without supervisor is replaced by a process of its own making; connections that are open stay.
    let proxies = || -> Vec<u32> {
        let all = support::processes(pods.heddle.runtime());
        all.into_iter().filter(|(_, line)| line.contains("front-0/settings.json")).map(|(pid, _)| pid).collect()
    };
    client.run(|| {
        let mut open = Raw::connect("10.96.0.10:22".parse().unwrap());
        open.expect("220 here\r\n");
        here.signal(Signal::SIGUSR2);
        until("the old process to hand over", LONG, || {
            let mut asked = Raw::connect("10.96.0.10:22".parse().unwrap());
            asked.expect("220 here\r\n");
            let page = curl(client, SIDECAR, "http://10.201.0.1:15020/metrics").stdout;
            // The new one counts from nothing, though it may know of the service from what the old one kept.
            let of_old = |line: &str| line.starts_with("heddle_requests_total") && line.contains("cart-six");
            let counted = page.lines().any(|line| of_old(line) && !line.ends_with(" 0"));
            if proxies().len() == 2 && !page.is_empty() && !counted { Ok(()) } else { Err(page + &here.stderr()) }
        });
        assert!(curl(client, APPLICATION, "http://10.96.0.10/").success().starts_with("hello "));
        open.finish();
    });
    // The old one ends when its work is done,
    assert!(here.wait(LONG).success(), "{}", here.stderr());
    // and the new one when it is told to, which only somebody beside it may do.
    let drain = ["-sS", "--fail", "-X", "POST", "http://10.201.0.1:15020/drain?seconds=1"];
    assert!(!as_user(server, SIDECAR, "curl", &drain).run(LONG).status.success());
    // Nor may a web page in somebody's browser.
    let page = [&drain[..], &["-H", "Origin: http://example.com"]].concat();
    assert!(!as_user(client, APPLICATION, "curl", &page).run(LONG).status.success());
    assert_eq!(as_user(client, APPLICATION, "curl", &drain).run(LONG).success(), "draining\n");
    until("the end of the new one", LONG, || if proxies().is_empty() { Ok(()) } else { Err("it runs".to_owned()) });
    // Without its sidecar an application is cut off.
    assert!(!curl(client, APPLICATION, "http://10.201.0.2:8080/").status.success());
    // Exclusions are.
    pods.init(client, &["--exclude-outbound-port", "8080"]).success();
    curl(client, APPLICATION, "http://10.201.0.2:8080/").success();
    pods.init(client, &["--exclude-destination", "10.201.0.0/16,fd00:201::/32"]).success();
    curl(client, APPLICATION, "http://10.201.0.2:8080/").success();
    there.kill();
    assert!(!curl(client, APPLICATION, "http://10.201.0.2:8080/").status.success());
    pods.init(server, &["--exclude-inbound-port", "8080"]).success();
    curl(client, APPLICATION, "http://10.201.0.2:8080/").success();
    pods.init(server, &["--exclude-source", "10.201.0.1"]).success();
    curl(client, APPLICATION, "http://10.201.0.2:8080/").success();
    // And without rules everything is as it was.
    for pod in [client, server] {
        pods.init(pod, &["--remove"]).success();
        pods.init(pod, &["--remove"]).success();
        assert_eq!(pod.run(|| netns::run(&["nft", "list", "ruleset"])).trim(), "");
    }
    curl(client, APPLICATION, "http://10.201.0.2:8080/").success();
}

/// Asks `server` for `name` as `user`; the addresses, or the code of a refusal.
fn ask_name(pod: &Namespace, user: u32, way: &str, server: &str, name: &str) -> String {
    let asked = as_user(pod, user, "/usr/bin/python3", &[NAMES, "ask", way, server, name]).run(LONG);
    if asked.status.success() { asked.stdout.trim().to_owned() } else { asked.stderr }
}

#[test]
fn questions_for_names_come_to_the_sidecar() {
    let Some(pods) = Pods::new() else { return };
    let (client, server) = (&pods.client, &pods.server);
    let mut others = server.command("python3", [NAMES, "answer"]).start();
    others.wait_line("serving", LONG);
    pods.init(client, &[]).success();
    let sidecar = pods.sidecar(client, "front-0", "10.201.0.1", json!({}), &[]);
    // Whatever server is asked, over whatever, one on a loopback address too.
    for asked in ["10.201.0.2", "fd00:201::2", "127.0.0.53", "::1"] {
        for way in ["udp", "tcp"] {
            let ask = |name| ask_name(client, APPLICATION, way, asked, name);
            assert_eq!(ask("cart.shop.svc.cluster.local"), "10.96.0.10", "{way} {asked}");
            assert_eq!(ask("cart.shop"), "10.96.0.10", "{way} {asked}");
            assert_eq!(ask("none.shop.svc.cluster.local"), "code 3", "{way} {asked}");
            // All other names are asked of this machine's servers, past the rules.
            assert_eq!(ask("example.org"), "192.0.2.99", "{way} {asked}");
            // The sidecar itself asks whom it means to ask.
            if !asked.starts_with("127") && asked != "::1" {
                assert_eq!(ask_name(client, SIDECAR, way, asked, "cart.shop"), "192.0.2.99", "{way} {asked}");
            }
        }
    }
    // A successor answers over the same sockets: nobody waits for an answer meanwhile.
    sidecar.signal(Signal::SIGUSR2);
    until("the old process to be gone", LONG, || {
        assert_eq!(ask_name(client, APPLICATION, "udp", "10.201.0.2", "cart.shop"), "10.96.0.10");
        assert_eq!(ask_name(client, APPLICATION, "tcp", "10.201.0.2", "cart.shop"), "10.96.0.10");
        let all = support::processes(pods.heddle.runtime());
        let run = all.iter().filter(|(_, line)| line.contains("front-0/settings.json")).map(|(pid, _)| *pid);
        let run: Vec<u32> = run.collect();
        if run.len() == 1 && run[0] != sidecar.id() { Ok(()) } else { Err(format!("{run:?}; {}", sidecar.stderr())) }
    });
    assert_eq!(ask_name(client, APPLICATION, "udp", "fd00:201::2", "cart.shop"), "10.96.0.10");
    // Left alone, and as it was.
    for args in [["--exclude-outbound-port", "53"].as_slice(), &["--exclude-destination", "10.201.0.2"], &["--remove"]]
    {
        pods.init(client, args).success();
        for way in ["udp", "tcp"] {
            assert_eq!(ask_name(client, APPLICATION, way, "10.201.0.2", "cart.shop"), "192.0.2.99", "{args:?} {way}");
        }
    }
}

#[test]
fn no_lookup_is_lost_or_late_when_a_sidecar_is_replaced() {
    let Some(pods) = Pods::new() else { return };
    let (client, server) = (&pods.client, &pods.server);
    let mut others = server.command("python3", [NAMES, "answer", "0.3"]).start();
    others.wait_line("serving", LONG);
    pods.init(client, &[]).success();
    let mut sidecar = pods.sidecar(client, "front-0", "10.201.0.1", json!({}), &[]);
    let asking = as_user(client, APPLICATION, "/usr/bin/python3", &[NAMES, "many", "10.201.0.2", "example.org"]);
    let mut asking = asking.with_input().start();
    asking.wait_line("asking", LONG);
    sidecar.signal(Signal::SIGUSR2);
    assert!(sidecar.wait(LONG).success(), "{}", sidecar.stderr());
    drop(asking.stdin());
    let said = asking.wait_line("slowest", LONG);
    let numbers: Vec<u32> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [asked, lost, slowest] = numbers[..] else { panic!("{said}") };
    assert!(asked > 5 && lost == 0 && (300..1_000).contains(&slowest), "{said}\n{}", sidecar.stderr());
}

#[test]
fn without_an_answering_control_plane_the_wide_world_is_reached() {
    let Some(pods) = Pods::new() else { return };
    let (client, server) = (&pods.client, &pods.server);
    let mut others = server.command("python3", [NAMES, "answer"]).start();
    others.wait_line("serving", LONG);
    let _application = application(server);
    server.run(|| netns::run(&["ip", "address", "add", "203.0.113.9/32", "dev", "eth0"]));
    pods.init(client, &[]).success();
    let sidecar = pods.sidecar(client, "front-0", "10.201.0.1", json!({}), &[]);
    let ask = |name| ask_name(client, APPLICATION, "udp", "10.201.0.2", name);
    assert_eq!(ask("cart.shop"), "10.96.0.10");
    pods.control.signal(Signal::SIGSTOP);
    until("a name that nobody has asked for", LONG, || match ask("api.example.org") {
        found if found == "192.0.2.99" => Ok(()),
        other => Err(format!("{other}; {}", sidecar.stderr())),
    });
    assert_eq!(ask("cart.shop"), "10.96.0.10", "what is known stays");
    assert_eq!(ask("db.shop"), "code 2", "it may be the mesh's");
    assert_eq!(curl(client, APPLICATION, "http://203.0.113.9:8080/").success(), "hello 10.201.0.1");
    let near = curl(client, APPLICATION, "http://10.201.0.2:8080/");
    assert!(!near.status.success(), "it may be an instance's: {near:?}");
    pods.control.signal(Signal::SIGCONT);
    until("an answer of the control plane", LONG, || match ask("db.shop") {
        found if found == "192.0.2.99" => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_replaced_proxy_finishes_within_its_limit() {
    let Some(pods) = Pods::new() else { return };
    let client = &pods.client;
    let _application = application(client);
    pods.init(client, &[]).success();
    let mut sidecar = pods.sidecar(client, "front-0", "10.201.0.1", json!({"app": "cart"}), &[8080, 2222]);
    let file = pods.folder.path().join("front-0/settings.json");
    let settings = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut value);
        fs::write(&file, value.to_string()).unwrap();
    };
    let old = sidecar.id();
    assert_eq!(pods.told(), format!("READY=1\nMAINPID={old}"));
    // The first one has ten minutes; its successor, by what the file says now, one second.
    settings(&|value| value["finishSeconds"] = json!(1));
    let successors = || -> Vec<u32> {
        let all = support::processes(pods.heddle.runtime());
        all.into_iter().filter(|(_, line)| line.contains("front-0/settings.json")).map(|(pid, _)| pid).collect()
    };
    sidecar.signal(Signal::SIGUSR2);
    assert!(sidecar.wait(LONG).success(), "it has nothing to finish: {}", sidecar.stderr());
    let [second] = successors()[..] else { panic!("{:?}", successors()) };
    assert_ne!(second, old);
    assert_eq!(pods.told(), format!("READY=1\nMAINPID={second}"));
    client.run(|| {
        until("the service", LONG, || match curl(client, APPLICATION, "http://10.96.0.10/") {
            page if page.status.success() => Ok(()),
            page => Err(format!("{page:?}")),
        });
        // Nothing ends this connection but the limit.
        let mut open = Raw::connect("10.96.0.10:22".parse().unwrap());
        open.expect("220 here\r\n");
        kill(Pid::from_raw(i32::try_from(second).unwrap()), Signal::SIGUSR2).unwrap();
        until("the second process to be gone", LONG, || match successors() {
            run if run.len() == 1 && run[0] != second => Ok(()),
            run => Err(format!("{run:?}")),
        });
        open.expect_end();
    });
    let [third] = successors()[..] else { panic!("{:?}", successors()) };
    assert_eq!(pods.told(), format!("READY=1\nMAINPID={third}"));
    kill(Pid::from_raw(i32::try_from(third).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(pods.told(), "STOPPING=1");
}

/// Answers when there is a file `go` in the folder, with what another service says; has made the file `began` before.
const RELAY: &str = "
import http.server, os, sys, time, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(sys.argv[1] + '/began', 'w').close()
        while not os.path.exists(sys.argv[1] + '/go'):
            time.sleep(0.05)
        body = urllib.request.urlopen('http://10.201.0.1:8080/', timeout=10).read()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('0.0.0.0', 9090), Handler).serve_forever()
";

#[test]
fn what_a_drained_pod_finishes_may_call_others() {
    let Some(pods) = Pods::new() else { return };
    let (client, server) = (&pods.client, &pods.server);
    let _application = application(client);
    let folder = pods.folder.path();
    let _relay = server.command("python3", ["-c", RELAY, folder.to_str().unwrap()]).start();
    server.run(|| testkit::address::wait_listening("10.201.0.2:9090".parse().unwrap()));
    pods.init(server, &[]).success();
    let mut sidecar = pods.sidecar(server, "cart-0", "10.201.0.2", json!({"app": "cart"}), &[9090]);
    let url = "http://10.201.0.2:9090/";
    let asked = as_user(client, SIDECAR, "curl", &["-sS", "--fail", "--max-time", "30", url]).start();
    until("the request", LONG, || if folder.join("began").exists() { Ok(()) } else { Err(asked.stderr()) });
    let drain = |query: &str| {
        let url = format!("http://10.201.0.2:15020/drain?{query}");
        assert_eq!(
            as_user(server, APPLICATION, "curl", &["-sS", "-X", "POST", &url]).run(LONG).success(),
            "draining\n"
        );
    };
    // Way in alone: nothing new comes in, and what is there goes on.
    drain("seconds=60&way=in");
    client.run(|| {
        until("new connections to be refused", LONG, || match TcpStream::connect("10.201.0.2:9090") {
            Ok(_) => Err("it is taken".to_owned()),
            Err(_) => Ok(()),
        });
    });
    drain("seconds=60");
    fs::write(folder.join("go"), "").unwrap();
    let mut asked = asked;
    assert!(asked.wait(LONG).success(), "{}", asked.stderr());
    assert!(asked.stdout().starts_with("hello "), "{}", asked.stdout());
    assert!(sidecar.wait(LONG).success(), "{}", sidecar.stderr());
}

#[test]
fn rules_are_shown_and_refused_with_a_way_out() {
    let heddle = Heddle::new();
    let shown = heddle.run(["init", "--dry-run", "--uid", "1000", "--exclude-destination", "10.1.2.3/8"]).success();
    let wanted = [
        "meta skuid { 1000 } return",
        "ip daddr { 10.0.0.0/8 } return",
        "meta l4proto { tcp, udp } th dport 53 redirect to :15053",
        "redirect to :15001",
        "redirect to :15006",
    ];
    for rule in wanted {
        assert!(shown.contains(rule), "{shown}");
    }
    let removed = heddle.run(["init", "--dry-run", "--remove"]).success();
    assert_eq!(removed, "table inet heddle\ndelete table inet heddle\n");
    let Some(inside) = Namespace::new() else { return };
    // Without the right to change the network.
    let refused = heddle.surround(as_user(&inside, APPLICATION, heddle.binary(), &["init"])).run(LONG);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("nft -f - was refused") && refused.stderr.contains("CAP_NET_ADMIN"),
        "{}",
        refused.stderr
    );
}

#[test]
fn an_application_can_see_its_callers_addresses() {
    let Some(pods) = Pods::new() else { return };
    let (client, server) = (&pods.client, &pods.server);
    let _application = application(server);
    pods.init(client, &[]).success();
    let _there = pods.sidecar_with(server, "cart-0", "10.201.0.2", json!({"app": "cart"}), &[8080], true);
    let _here = pods.sidecar(client, "front-0", "10.201.0.1", json!({}), &[]);
    // Once more changes nothing.
    for _ in 0..2 {
        pods.init(server, &["--tproxy"]).success();
        // Callers without a sidecar, and one that has one.
        assert_eq!(curl(client, SIDECAR, "http://10.201.0.2:8080/").success(), "hello 10.201.0.1");
        assert_eq!(curl(client, SIDECAR, "http://[fd00:201::2]:8080/").success(), "hello fd00:201::1");
        assert_eq!(curl(client, APPLICATION, "http://10.96.0.10/").success(), "hello 10.201.0.1");
        // The application calls itself; its sidecar keeps a connection in the name of each caller.
        assert_eq!(curl(server, APPLICATION, "http://10.96.0.10/").success(), "hello 10.201.0.2");
    }
    pods.init(server, &["--remove"]).success();
    let rules = server.run(|| netns::run(&["ip", "rule"]));
    assert!(!rules.contains("18501"), "{rules}");
    // Where IPv6 is switched off, as in many containers, IPv4 works.
    server.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap());
    pods.init(server, &["--tproxy"]).success();
    assert_eq!(curl(client, SIDECAR, "http://10.201.0.2:8080/").success(), "hello 10.201.0.1");
}
