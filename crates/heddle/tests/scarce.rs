//! Namespace mode where something is scarce: what is short for a while is waited for.

mod support;

use nix::sys::signal::Signal;
use support::nothing_left;
use testkit::heddle::Heddle;
use testkit::process::{Command, Process};
use testkit::wait::{LONG, until};

/// So many instances, each of which says how many files it may open.
fn manifest(replicas: usize) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: many}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: many}}}}
  template:
    metadata: {{labels: {{app: many}}}}
    spec:
      containers:
      - name: many
        image: example/many
        command: [sh, -c, "echo limit $(ulimit -Sn).; exec sleep 1000"]
"#
    )
}

/// Waits until `up`, which is `heddle up`, is up.
#[track_caller]
fn is_up(up: &Process) {
    until("the mesh to be up", LONG, || match up.stdout().contains(" is up after ") {
        true => Ok(()),
        false => Err(format!("{}\n{}", up.stdout(), up.stderr())),
    });
}

#[test]
fn the_usual_limit_of_open_files_bounds_applications_and_not_their_number() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("mesh.yaml"), manifest(6)).expect("a manifest");
    let heddle = Heddle::in_mode("namespace");
    let words = ["--nofile=150:", &heddle.binary().to_string_lossy(), "up", "--name", "m"].map(str::to_owned);
    let mut up = heddle.surround(Command::new("prlimit").args(words).args([folder.path()])).start();
    is_up(&up);
    until("every instance to speak", LONG, || match up.stdout().matches("limit 150.").count() {
        6 => Ok(()),
        count => Err(format!("{count}: {}", up.stdout())),
    });
    assert!(up.terminate(LONG).success());
    nothing_left(&heddle);
}

#[test]
fn an_instance_that_gets_no_namespaces_gets_them_when_there_are_some() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("mesh.yaml"), manifest(2)).expect("a manifest");
    let heddle = Heddle::in_mode("namespace");
    // In a namespace of users of its own it is root, and can be forbidden to make many others.
    let setting = "/proc/sys/user/max_net_namespaces";
    let script =
        format!("echo 1 > {setting} && exec {} up --name m {}", heddle.binary().display(), folder.path().display());
    let mut up = heddle.surround(Command::new("unshare").args(["-Ur", "sh", "-c", &script])).start();
    until("the second to be refused", LONG, || {
        let said = format!("{}\n{}", up.stdout(), up.stderr());
        // The way out is said too.
        let refused = said.contains("tried again in") && said.contains("max_net_namespaces");
        if refused && said.contains("--mode explicit") { Ok(()) } else { Err(said) }
    });
    let (process, raise) = (up.id().to_string(), format!("echo 100 > {setting}"));
    Command::new("nsenter")
        .args(["-U", "-t", &process, "--preserve-credentials", "sh", "-c", &raise])
        .run(LONG)
        .success();
    is_up(&up);
    up.signal(Signal::SIGTERM);
    assert!(up.wait(LONG).success());
    nothing_left(&heddle);
}
