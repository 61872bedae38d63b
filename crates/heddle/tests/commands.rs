//! Commands one by one, and what they say to bad input.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use support::{Mesh, PAIR, nothing_left};
use testkit::address;
use testkit::heddle::Heddle;
use testkit::load::try_curl;
use testkit::wait::{LONG, until};

fn write(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("mesh.yaml");
    fs::write(&path, text).expect("a manifest");
    let path = path.to_str().expect("a path of letters").to_owned();
    (folder, path)
}

/// The line, from 1, on which `text` first holds `part`.
fn line_of(text: &str, part: &str) -> usize {
    text[..text.find(part).expect("it is there")].matches('\n').count() + 1
}

#[test]
fn validate_says_where_and_why() {
    let heddle = Heddle::new();
    let (_folder, good) = write(PAIR);
    let said = heddle.run(["validate", &good]).success();
    assert!(said.contains("9 objects are good"), "{said}");

    // What is replaced, by what, what the message must hold, and the text at which it must point.
    for (from, to, message, at) in [
        ("replicas: 2", "replicas: two", "spec.replicas", "replicas: two"),
        ("action: allow", "action: perhaps", "\"perhaps\" is not one of", "perhaps"),
        ("metadata: {name: front", "metadata: {nmae: front", "nmae", ""),
        ("spec:\n  trustDomain", "spec: [\n  trustDomain", "", ""),
    ] {
        assert!(PAIR.contains(from), "{from}");
        let text = PAIR.replacen(from, to, 1);
        let (_folder, bad) = write(&text);
        let answer = heddle.run(["validate", &bad]);
        assert_eq!(answer.status.code(), Some(1), "{to}: {answer:?}");
        let line = if at.is_empty() { String::new() } else { format!("{}:", line_of(&text, at)) };
        assert!(answer.stderr.contains(&format!("mesh.yaml:{line}")), "{to}: {}", answer.stderr);
        assert!(answer.stderr.contains(message), "{to}: {}", answer.stderr);
        // And for programs.
        let answer = heddle.run(["validate", "-o", "json", &bad]);
        let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!((answer.status.code(), &report["valid"]), (Some(1), &serde_json::Value::Bool(false)));
        assert!(report["diagnostics"][0]["line"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn dangling_references_are_warnings_that_strict_makes_errors() {
    let heddle = Heddle::new();
    let text = PAIR.replace("backendRefs: [{name: back,", "backendRefs: [{name: bakc,");
    let (_folder, path) = write(&text);
    let answer = heddle.run(["validate", &path]);
    assert_eq!(answer.status.code(), Some(0), "{answer:?}");
    let place = format!("mesh.yaml:{}:", line_of(&text, "name: bakc"));
    assert!(
        answer.stderr.contains("there is no Service pair/bakc") && answer.stderr.contains(&place),
        "{}",
        answer.stderr
    );
    assert_eq!(heddle.run(["validate", "--strict", &path]).status.code(), Some(1));

    // Two objects of one name: the first counts.
    let text = PAIR.replace("kind: Service\nmetadata: {name: front", "kind: Service\nmetadata: {name: back");
    let (_folder, path) = write(&text);
    let answer = heddle.run(["validate", "--strict", &path]);
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    assert!(answer.stderr.contains("Service pair/back is written twice"), "{}", answer.stderr);
}

#[test]
fn up_starts_nothing_when_manifests_are_bad() {
    let heddle = Heddle::new();
    let text = PAIR.replace("replicas: 2", "replicas: two");
    let (_folder, bad) = write(&text);
    let answer = heddle.run(["up", &bad]);
    assert_eq!(answer.status.code(), Some(1));
    let place = format!("mesh.yaml:{}:", line_of(&text, "replicas: two"));
    assert!(answer.stderr.contains(&place) && answer.stderr.contains("nothing was started"), "{}", answer.stderr);
    let missing = heddle.run(["up", "/no/such/file.yaml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.contains("/no/such/file.yaml"), "{}", missing.stderr);
    nothing_left(&heddle);
}

#[test]
fn commands_without_a_mesh_say_how_to_start_one() {
    let heddle = Heddle::new();
    for command in [&["get"][..], &["stat"], &["exec", "web", "--", "true"], &["token", "--workload", "a/b"]] {
        let answer = heddle.run(command);
        assert_eq!(answer.status.code(), Some(1), "{command:?}");
        assert!(answer.stderr.contains("no mesh runs here; start one with"), "{command:?}: {}", answer.stderr);
    }
    assert_eq!(heddle.run(["no-such-command"]).status.code(), Some(2));
    assert!(heddle.run(["--version"]).success().starts_with("heddle "));
}

#[test]
fn run_joins_the_mesh_on_this_machine_and_gives_the_commands_exit_code() {
    let mesh = Mesh::up(PAIR);
    let command = "exec \"$HEDDLE\" demo-service --role cart --listen \"$POD_IP:9000\"";
    let mut run = mesh.heddle.start([
        "run",
        "--service",
        "back",
        "-n",
        "pair",
        "--port",
        "9000",
        "--protocol",
        "http",
        "--",
        "sh",
        "-c",
        command,
    ]);
    let name = until("a third instance", LONG, || {
        mesh.ready("pair/back").into_iter().find(|n| n != "back-0" && n != "back-1").ok_or_else(|| run.stderr())
    });
    assert!(name.starts_with("back-"));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait(LONG).code(), Some(128 + 15), "what its command ended with");
    until("it to be gone", LONG, || match mesh.ready("pair/back") {
        names if names == ["back-0", "back-1"] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let code =
        mesh.heddle.run(["run", "--service", "back", "-n", "pair", "--port", "9000", "--", "sh", "-c", "exit 3"]);
    assert_eq!(code.status.code(), Some(3), "{code:?}");
    mesh.end(Signal::SIGINT);
}

#[test]
fn run_joins_a_control_plane_over_tcp_with_a_token() {
    let heddle = Heddle::new();
    let (_folder, manifest) = write(PAIR);
    let runtime = heddle.runtime().join("plane");
    let runtime_text = runtime.to_str().unwrap();
    let listen = address::free().to_string();
    let mut control =
        heddle.start(["control", &manifest, "--runtime", runtime_text, "--listen", &listen, "--name", "far"]);
    until("the control plane", LONG, || match heddle.run(["get", "--runtime", runtime_text]) {
        list if list.status.success() => Ok(()),
        list => Err(list.stderr),
    });

    // Without a token, and with one that was never made.
    let roots = runtime.join("roots.pem");
    let roots = roots.to_str().unwrap();
    let base =
        ["run", "--service", "back", "-n", "pair", "--port", "9000", "--control", &listen, "--address", "127.0.0.1"];
    let none = heddle.run(base.iter().chain(&["--roots", roots, "--", "true"]));
    assert!(none.stderr.contains("wants a join token"), "{}", none.stderr);

    // A token is bound to a workload; the name of this one is chosen by us.
    let token = heddle
        .run([
            "token",
            "--runtime",
            runtime_text,
            "--workload",
            "pair/far-1",
            "--service-account",
            "back",
            "--service",
            "back",
        ])
        .success();
    let file = heddle.runtime().join("token");
    fs::write(&file, &token).unwrap();
    let named = ["--roots", roots, "--token-file", file.to_str().unwrap(), "--name", "far-1"];
    let script = "curl -s \"http://$FRONT_SERVICE_HOST:$FRONT_SERVICE_PORT/\"; echo
        exec \"$HEDDLE\" demo-service --role cart --listen \"$POD_IP:9000\"";
    let command = ["--", "sh", "-c", script];
    let open = heddle.run(base.iter().chain(&named).chain(&command));
    assert!(open.stderr.contains("chmod 600"), "a token that others may read is refused: {}", open.stderr);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut run = heddle.start(base.iter().chain(&named).chain(&command));
    until("the instance", LONG, || {
        let list = heddle.run(["get", "instances", "--runtime", runtime_text, "-o", "json"]).stdout;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list).map_err(|e| e.to_string())?;
        let found =
            list.iter().any(|i| i["name"] == "far-1" && i["state"] == "ready" && i["services"][0] == "pair/back");
        if found { Ok(()) } else { Err(format!("{list:?}\n{}", run.stderr())) }
    });
    // What other services its namespace has was asked of the control plane before it started. This one has no instance.
    run.wait_line("pair/front:80 has no instance that may be used", LONG);
    run.signal(Signal::SIGINT);
    run.signal(Signal::SIGTERM);
    run.wait(LONG);
    // One that was made for another service is refused with a word, and its holder is no instance of this one.
    let other = [
        "token",
        "--runtime",
        runtime_text,
        "--workload",
        "pair/far-2",
        "--service-account",
        "back",
        "--service",
        "front",
    ];
    fs::write(&file, heddle.run(other).success()).unwrap();
    let wrong = ["--roots", roots, "--token-file", file.to_str().unwrap(), "--name", "far-2", "--", "true"];
    let wrong = heddle.run(base.iter().chain(&wrong));
    assert!(!wrong.status.success() && wrong.stderr.contains("made for other labels and services"), "{wrong:?}");
    fs::write(&file, &token).unwrap();
    // Used once, it is of no use to another.
    let again = heddle.run(base.iter().chain(&named).chain(&["--", "true"]));
    assert!(!again.status.success(), "{again:?}");
    assert!(again.stderr.contains("token"), "{}", again.stderr);
    assert!(control.terminate(LONG).success());
}

#[test]
fn run_says_that_no_control_plane_is_there() {
    let heddle = Heddle::new();
    let (nobody, roots) = (address::free().to_string(), heddle.runtime().join("roots.pem"));
    let ca = testkit::ca::Ca::new();
    fs::write(&roots, net::identity::encode(&[ca.root()])).unwrap();
    let roots = roots.to_str().unwrap();
    let words =
        ["run", "--service", "a", "--port", "1", "--control", &nobody, "--roots", roots, "--address", "127.0.0.1"];
    let answer = heddle.command(words).args(["--", "true"]).env("HEDDLE_JOIN_TOKEN", "x").run(LONG);
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    assert!(answer.stderr.contains(&format!("no control plane at {nobody}: Connection refused")), "{}", answer.stderr);
    let processes = support::processes(heddle.runtime());
    assert!(processes.is_empty(), "{processes:?}");
}

#[test]
fn a_run_that_is_ended_before_its_command_starts_leaves_nothing() {
    let heddle = Heddle::new();
    // A control plane that says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let control = silent.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    fs::write(&roots, net::identity::encode(&[testkit::ca::Ca::new().root()])).unwrap();
    let words = ["run", "--service", "a", "--port", "1", "--control", &control, "--address", "127.0.0.1", "--roots"];
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let command = heddle.command(words).args([roots.to_str().unwrap(), "--", "true"]);
        let mut run = command.env("HEDDLE_JOIN_TOKEN", "x").start();
        until("its sidecar", LONG, || {
            let processes = support::processes(heddle.runtime());
            if processes.iter().any(|(_, line)| line.contains(" proxy ")) { Ok(()) } else { Err(run.stderr()) }
        });
        run.signal(signal);
        assert_eq!(run.wait(LONG).code(), Some(128 + signal as i32), "{}", run.stderr());
        nothing_left(&heddle);
    }
}

#[test]
fn demo_ends_by_itself_with_a_summary() {
    let heddle = Heddle::as_shipped();
    let answer = heddle.run(["demo", "--for", "12s", "-o", "json"]);
    let summary: serde_json::Value =
        serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", answer.stdout, answer.stderr));
    assert!(answer.status.success(), "{summary:#}\n{}", answer.stderr);
    assert_eq!(summary["ok"], true, "{summary:#}");
    assert!(summary["firstRoutedRequestMs"].as_u64().is_some(), "{summary:#}");
    assert!(summary["requests"].as_u64().unwrap() > 50, "{summary:#}");
    nothing_left(&heddle);
}

#[test]
fn demo_prints_tables_where_there_is_no_terminal_and_ends_at_once_with_ctrl_c() {
    let heddle = Heddle::as_shipped_to(support::USER);
    let mut demo = heddle.start(["demo", "--name", "d"]);
    let gateway = demo.wait_line("a page, through the gateway", LONG);
    demo.wait_line("SHARE", LONG);
    let url = gateway.split_whitespace().find(|w| w.starts_with("http://")).unwrap();
    until("a page", LONG, || match try_curl([url]) {
        Ok(page) if page.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Every hint works as it is printed, by whoever types it.
    let said = demo.stdout();
    let hints: Vec<(&str, &str)> =
        said.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("   # ")).collect();
    assert_eq!(hints.len(), 9, "{said}");
    for (command, why) in hints {
        let answer = heddle.program("sh", ["-c", command]).run(LONG);
        assert!(answer.status.success(), "{command}: {answer:?}");
        if why.contains("403") {
            assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{command}: {answer:?}");
        } else if command.contains("curl") {
            assert!(answer.stdout.contains('{') || answer.stdout.contains('<'), "{command}: {answer:?}");
        }
    }
    demo.wait_line("killed by SIGTERM", LONG);
    demo.signal(Signal::SIGINT);
    assert!(demo.wait(LONG).success());
    assert!(demo.stdout().contains("pages in"), "{}", demo.stdout());
    nothing_left(&heddle);
}

#[test]
fn simulate_gives_tables_plots_and_json_and_names_what_is_wrong() {
    let heddle = Heddle::new();
    let (folder, times) = write("# milliseconds\n5\n7.5\n");
    let plots = folder.path().join("plots").to_str().expect("a path of letters").to_owned();
    let arguments = ["simulate", "finagle", "--algorithms", "fastest,random", "--times", &times, "--plots", &plots];
    let said = heddle.run(arguments).success();
    assert!(said.contains("fastest") && said.contains("random") && !said.contains("c3"), "{said}");
    let svg = fs::read_to_string(folder.path().join("plots/finagle.svg")).expect("a plot");
    assert!(svg.starts_with("<svg"), "{svg}");
    let json = heddle.run(["simulate", "finagle", "--algorithms", "random", "-o", "json"]).success();
    let rows: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(rows[0]["requests"].as_u64() > Some(50_000) && rows[0]["p99"].as_f64() >= Some(1_999.0), "{rows}");

    let (_bad, bad) = write("1\nfast\n");
    for (arguments, message) in [
        (&["simulate", "nonsense"][..], "there is no scenario `nonsense`; there are finagle"),
        (&["simulate", "--algorithms", "magic"], "there is no algorithm `magic`; there are fastest"),
        (&["simulate", "--times", &bad], "line 2: `fast` is not a time in milliseconds"),
        (&["simulate", "--times", "/nowhere"], "cannot read /nowhere"),
    ] {
        let answer = heddle.run(arguments.iter().copied());
        assert!(!answer.status.success() && answer.stderr.contains(message), "{arguments:?}: {answer:?}");
    }
}
