//! Applications end after what others have under way with them, and before their own way out.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::Mesh;
use support::manifest::{STRICT, WHO, client, instances, service};
use testkit::heddle::Heddle;
use testkit::process::{Command, Process};
use testkit::wait::{LONG, until};

/// Answers POST after as many seconds as the path says, having made the file `began`. SIGTERM ends it at once.
const SLOW: &[u8] = br#"
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        open(sys.argv[3] + "/began", "w").close()
        time.sleep(float(self.path[1:]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"#;

/// A request of `client-0` that takes `seconds`, and is under way now.
fn post(mesh: &Mesh, seconds: &str) -> Process {
    let proxy = format!("http://{}", mesh.forward_proxy("client-0"));
    let asked = format!("http://slow/{seconds}");
    let words = ["-s", "-m", "60", "-w", "%{http_code}\n", "-X", "POST", "-x", &proxy, &asked];
    let request = Command::new("curl").args(words).start();
    let began = mesh.folder.path().join("began");
    until("the request to arrive", LONG, || if began.exists() { Ok(()) } else { Err(request.stderr()) });
    request
}

#[test]
fn what_takes_long_is_finished_by_an_instance_that_ends_after_its_proxy_was_replaced() {
    let slow = instances("slow", "slow", 1, "exec python3 slow.py \"$POD_IP\" 8080 .");
    let slow = slow.replace("terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 60");
    let manifest = [STRICT.to_owned(), client(), service("slow", "http"), slow].concat();
    let mesh = Mesh::with_files(&manifest, &[("slow.py", SLOW)]);
    let mut request = post(&mesh, "9");
    let new = |line: &str| line.contains("heddle proxy ") && line.contains("--replace");
    mesh.up.signal(Signal::SIGUSR2);
    until("new proxies", LONG, || {
        let found = support::processes(mesh.heddle.runtime()).into_iter().filter(|(_, line)| new(line)).count();
        if found == 2 { Ok(()) } else { Err(format!("{found}\n{}", mesh.said())) }
    });
    mesh.edit("name: slow, namespace: t}\nspec:\n  replicas: 1", "name: slow, namespace: t}\nspec:\n  replicas: 0");
    request.wait_line("200", LONG);
    until("the end of the instance", LONG, || match mesh.ready("t/slow") {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    mesh.end(Signal::SIGTERM);
}

/// A mesh with the service `back`, which tells who it is, and the instance `last-0`, which does `words` when it is told to end.
fn with_last_words(heddle: Heddle, words: &str) -> Mesh {
    let last = format!(
        "trap \"{words}; exit 0\" TERM; \"$HEDDLE\" demo-service --role catalog --listen \"$POD_IP:8080\" & wait"
    );
    let last = instances("last", "last", 1, &last)
        .replace("terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 60");
    let parts = [
        STRICT.to_owned(),
        client(),
        service("back", "http"),
        instances("back", "back", 1, WHO),
        service("last", "http"),
        last,
    ];
    Mesh::run_with_files(heddle, &parts.concat(), &[])
}

/// Calls `back` and keeps the status in the file `said`.
const CALL: &str = "curl -s -m 10 --retry 20 --retry-delay 1 --retry-connrefused -o answer -w %{http_code} http://back/ > said.part; mv said.part said";

/// Ends the instance `last-0`.
fn end_last(mesh: &Mesh) {
    mesh.edit("name: last, namespace: t}\nspec:\n  replicas: 1", "name: last, namespace: t}\nspec:\n  replicas: 0");
}

/// Waits for a file that a program makes, and returns its contents.
fn said(mesh: &Mesh, name: &str) -> String {
    let path = mesh.folder.path().join(name);
    until(&format!("the file {name}"), LONG, || {
        std::fs::read_to_string(&path).map_err(|error| format!("{error}\n{}", mesh.said()))
    })
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn last_words(heddle: Heddle) {
    let mesh = with_last_words(heddle, CALL);
    end_last(&mesh);
    assert_eq!(said(&mesh, "said"), "200");
    mesh.end(Signal::SIGTERM);
}

/// A control group's signal reaches the sidecars and the helpers of namespaces too, and is not for them.
#[test]
fn sidecars_leave_it_to_their_supervisor_when_they_end() {
    let mesh = with_last_words(Heddle::of_user(support::USER), &format!("sleep 2; {CALL}"));
    let proxies = || -> Vec<u32> {
        let all = support::processes(mesh.heddle.runtime()).into_iter();
        let ours = |line: &str| line.contains("heddle proxy ") || line.contains("heddle inside ");
        all.filter(|(_, line)| ours(line)).map(|(pid, _)| pid).collect()
    };
    let before = proxies();
    assert_eq!(before.len(), 6);
    end_last(&mesh);
    for pid in &before {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            kill(Pid::from_raw(i32::try_from(*pid).unwrap()), signal).unwrap();
        }
    }
    assert_eq!(said(&mesh, "said"), "200");
    let left = proxies();
    assert!(left.len() >= 4 && left.iter().all(|pid| before.contains(pid)), "{before:?} {left:?}\n{}", mesh.said());
    mesh.end(Signal::SIGTERM);
}

#[test]
fn a_sidecar_that_dies_while_its_application_ends_is_started_again() {
    let mesh = with_last_words(Heddle::new(), &format!("touch ending; until test -e go; do sleep 0.1; done; {CALL}"));
    end_last(&mesh);
    said(&mesh, "ending");
    mesh.kill(&["heddle proxy", "last-0"]);
    std::fs::write(mesh.folder.path().join("go"), "").unwrap();
    assert_eq!(said(&mesh, "said"), "200");
    until("the end of the instance", LONG, || match mesh.instances().into_iter().find(|i| i["name"] == "last-0") {
        None => Ok(()),
        Some(instance) => Err(format!("{instance}\n{}", mesh.said())),
    });
    mesh.end(Signal::SIGTERM);
}

/// Also where nothing is under way.
#[test]
fn whoever_has_not_heard_that_an_instance_ends_is_served_for_a_second() {
    let mesh = with_last_words(Heddle::new(), "date +%s.%N > told.part; mv told.part told");
    let begin = now();
    end_last(&mesh);
    let told: f64 = said(&mesh, "told").trim().parse().unwrap();
    let passed = told - begin.as_secs_f64();
    assert!(passed >= 1.0, "its application was told after {passed} s");
    mesh.end(Signal::SIGTERM);
}

/// Reads slowly until the end, and says how many bytes came and how they ended.
const SINK: &[u8] = br#"
import os, socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    peer, _ = server.accept()
    count, end = 0, "end"
    try:
        while data := peer.recv(65536):
            count += len(data)
            time.sleep(0.005)
    except ConnectionError:
        end = "reset"
    if count:
        with open("got.part", "w") as file:
            file.write(f"{count} {end}")
        os.rename("got.part", "got")
"#;

/// Sends ten million bytes and is gone.
const SEND: &str = "import os, socket
peer = socket.create_connection((os.environ['SINK_SERVICE_HOST'], int(os.environ['SINK_SERVICE_PORT'])))
peer.sendall(bytes(10_000_000))
peer.close()";

#[test]
fn what_a_command_has_written_arrives_though_it_has_ended() {
    let sink = instances("sink", "sink", 1, "exec python3 sink.py \"$POD_IP\" 8080");
    let manifest = [STRICT.to_owned(), client(), service("sink", "tcp"), sink].concat();
    let mesh = Mesh::with_files(&manifest, &[("sink.py", SINK)]);
    let sent = mesh.heddle.run(["exec", "client.t", "--", "python3", "-c", SEND]);
    assert!(sent.status.success() && !sent.stderr.contains("cut off"), "{sent:?}");
    assert_eq!(said(&mesh, "got"), "10000000 end");
    mesh.end(Signal::SIGTERM);
}

#[test]
fn an_application_that_ends_can_call_others() {
    last_words(Heddle::new());
}

#[test]
fn an_application_in_namespaces_that_ends_can_call_others() {
    last_words(Heddle::of_user(support::USER));
}

#[test]
fn a_second_request_to_end_waits_for_nobody() {
    let deaf =
        "trap : TERM; \"$HEDDLE\" demo-service --role catalog --listen \"$POD_IP:8080\" & while :; do sleep 0.1; done";
    let deaf = instances("deaf", "deaf", 1, deaf).replace("GracePeriodSeconds: 5", "GracePeriodSeconds: 600");
    let mut mesh = Mesh::with_files(&[STRICT.to_owned(), service("deaf", "http"), deaf].concat(), &[]);
    mesh.up.signal(Signal::SIGINT);
    mesh.up.wait_line("ending; again to kill", LONG);
    // It is told to end, and does not: its shell has nothing to wait for but the next turn.
    mesh.process(&["while :; do sleep"]);
    mesh.end(Signal::SIGINT);
}

#[test]
fn asked_for_new_proxies_a_mesh_without_any_goes_on() {
    let mesh = Mesh::up(&service("none", "http"));
    mesh.up.signal(Signal::SIGUSR2);
    assert!(mesh.heddle.run(["get", "services"]).status.success());
    mesh.end(Signal::SIGTERM);
}

#[test]
fn run_finishes_what_is_under_way_before_its_command_is_told() {
    let manifest = [STRICT.to_owned(), client(), service("slow", "http")].concat();
    let mesh = Mesh::with_files(&manifest, &[("slow.py", SLOW)]);
    let folder: &Path = mesh.folder.path();
    let script = format!("exec python3 {0}/slow.py $POD_IP 8080 {0}", folder.display());
    let words = ["run", "--service", "slow", "-n", "t", "--port", "8080", "--protocol", "http", "--", "sh", "-c"];
    let mut run = mesh.heddle.start(words.into_iter().chain([script.as_str()]));
    until("the instance", LONG, || match mesh.ready("t/slow") {
        one if one.len() == 1 => Ok(()),
        other => Err(format!("{other:?}{}", run.stderr())),
    });
    let mut request = post(&mesh, "3");
    run.signal(Signal::SIGTERM);
    request.wait_line("200", LONG);
    assert_eq!(run.wait(LONG).code(), Some(128 + 15), "what its command ended with");
    mesh.end(Signal::SIGINT);
}
