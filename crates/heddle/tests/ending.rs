//! Applications end after what others have under way with them, and before their own way out.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod support;

use std::path::Path;

use nix::sys::signal::Signal;
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

fn last_words(heddle: Heddle) {
    let last =
        "trap \"curl -s -m 10 -o answer -w %{http_code} http://back/ > said.part; mv said.part said; exit 0\" TERM;
         \"$HEDDLE\" demo-service --role catalog --listen \"$POD_IP:8080\" & wait"
            .replace("\n         ", " ");
    let parts = [
        STRICT.to_owned(),
        client(),
        service("back", "http"),
        instances("back", "back", 1, WHO),
        service("last", "http"),
        instances("last", "last", 1, &last),
    ];
    let mesh = Mesh::run_with_files(heddle, &parts.concat(), &[]);
    mesh.edit("name: last, namespace: t}\nspec:\n  replicas: 1", "name: last, namespace: t}\nspec:\n  replicas: 0");
    let said = mesh.folder.path().join("said");
    until("its last words", LONG, || match std::fs::read_to_string(&said) {
        Ok(status) if status == "200" => Ok(()),
        other => Err(format!("{other:?}\n{}", mesh.said())),
    });
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
