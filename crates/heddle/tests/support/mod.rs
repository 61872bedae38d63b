//! A mesh that a test runs with the real binary, in a runtime directory and a folder of manifests of its own.

// Each test program uses a part of this.
#![allow(dead_code)]

pub(crate) mod manifest;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use testkit::heddle::Heddle;
use testkit::process::{Finished, Process};
use testkit::wait::{LONG, until};

/// Two services that a test can do most things with: `front` may call `back`, and nobody else may. Both tell who answered.
pub(crate) const PAIR: &str = include_str!("pair.yaml");

/// Who runs meshes of an ordinary user, where root runs the tests: `nobody`, whom every system has. PostgreSQL asks for a name.
pub(crate) const USER: u32 = 65_534;

/// A running mesh.
pub(crate) struct Mesh {
    pub(crate) heddle: Heddle,
    pub(crate) up: Process,
    pub(crate) folder: TempDir,
    /// What `heddle up -o json` said when everything was up.
    pub(crate) status: Value,
}

impl Mesh {
    /// Runs one manifest.
    #[track_caller]
    pub(crate) fn up(manifest: &str) -> Mesh {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("mesh.yaml"), manifest).expect("a manifest");
        Mesh::start(folder, &[])
    }

    /// Runs one manifest beside `files` as an ordinary user, in namespace mode.
    #[track_caller]
    pub(crate) fn of_user(manifest: &str, files: &[(&str, &str)]) -> Mesh {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files.iter().chain(&[("mesh.yaml", manifest)]) {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER)).expect("root may give it away");
        }
        Mesh::run(Heddle::of_user(USER), folder, &[])
    }

    /// Runs one manifest by a binary that [`Heddle::renew`] replaces.
    #[track_caller]
    pub(crate) fn upgradable(manifest: &str) -> Mesh {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("mesh.yaml"), manifest).expect("a manifest");
        Mesh::run(Heddle::linked(), folder, &[])
    }

    /// Runs a copy of `examples/NAME` as it is shipped.
    #[track_caller]
    pub(crate) fn example(name: &str, env: &[(&str, &Path)]) -> Mesh {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&examples().join(name), folder.path());
        Mesh::run(Heddle::as_shipped(), folder, env)
    }

    #[track_caller]
    fn start(folder: TempDir, env: &[(&str, &Path)]) -> Mesh {
        Mesh::run(Heddle::new(), folder, env)
    }

    #[track_caller]
    fn run(heddle: Heddle, folder: TempDir, env: &[(&str, &Path)]) -> Mesh {
        let mut command = heddle.command(["up", "--name", "m", "-o", "json"]).args([folder.path()]);
        for (name, value) in env {
            command = command.env(name, value);
        }
        let mut up = command.start();
        let line = up.wait_line("\"up\":true", LONG);
        let status = serde_json::from_str(&line).expect("the status is JSON");
        Mesh { heddle, up, folder, status }
    }

    /// The runtime directory.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.heddle.runtime().join("heddle/m")
    }

    /// The URL of the first gateway.
    #[track_caller]
    pub(crate) fn gateway(&self) -> String {
        self.status["gateways"][0]["url"].as_str().expect("there is an HTTP gateway").to_owned()
    }

    /// `heddle exec SERVICE -- COMMAND`.
    #[track_caller]
    pub(crate) fn exec<'a>(&self, service: &'a str, command: impl IntoIterator<Item = &'a str>) -> Finished {
        self.heddle.run(["exec", service, "--"].into_iter().chain(command))
    }

    /// What `service`, asked for `url`, answers: status and body.
    #[track_caller]
    pub(crate) fn ask(&self, service: &str, url: &str) -> (u16, String) {
        let answer = self.exec(service, ["curl", "-s", "-m", "10", "-w", "%{http_code}", url]);
        let text = answer.success();
        let (body, status) = text.split_at(text.len() - 3);
        (status.parse().expect("curl wrote the status"), body.to_owned())
    }

    /// The answer's `instance`, or its whole.
    #[track_caller]
    pub(crate) fn instance_of(&self, service: &str, url: &str) -> String {
        let (_, body) = self.ask(service, url);
        let json: Option<Value> = serde_json::from_str(&body).ok();
        json.and_then(|v| v["instance"].as_str().map(str::to_owned)).unwrap_or(body)
    }

    /// Replaces text in the manifest.
    #[track_caller]
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = fs::read_dir(self.folder.path())
            .expect("the folder")
            .map(|e| e.expect("an entry").path())
            .find(|p| p.extension().is_some_and(|e| e == "yaml"))
            .expect("a manifest");
        let text = fs::read_to_string(&path).expect("the manifest");
        assert!(text.contains(from), "{from:?} is not in the manifest");
        fs::write(path, text.replace(from, to)).expect("the manifest");
    }

    /// The control plane's list of instances.
    #[track_caller]
    pub(crate) fn instances(&self) -> Vec<Value> {
        let text = self.heddle.run(["get", "instances", "-o", "json"]).success();
        serde_json::from_str(&text).expect("a list")
    }

    /// Names of the instances of `service` (`namespace/name`) that are ready, sorted.
    #[track_caller]
    pub(crate) fn ready(&self, service: &str) -> Vec<String> {
        let serves = |i: &Value| i["services"].as_array().is_some_and(|s| s.iter().any(|s| s == service));
        let ready = |i: &&Value| i["state"] == "ready" && serves(i);
        let mut names: Vec<String> =
            self.instances().iter().filter(ready).map(|i| i["name"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    }

    /// The one process of this mesh whose command line contains all of `words`.
    #[track_caller]
    pub(crate) fn process(&self, words: &[&str]) -> Pid {
        let found = until(&format!("a process with {words:?}"), LONG, || {
            processes(self.heddle.runtime())
                .into_iter()
                .find(|(_, line)| words.iter().all(|w| line.contains(w)))
                .ok_or_else(|| "there is none".to_owned())
        });
        Pid::from_raw(i32::try_from(found.0).expect("a process id"))
    }

    /// Kills that process, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill(&self, words: &[&str]) {
        let pid = self.process(words);
        kill(pid, Signal::SIGKILL).expect("it is ours");
        until("its end", LONG, || match Path::new(&format!("/proc/{pid}/environ")).metadata() {
            Ok(_) if !fs::read(format!("/proc/{pid}/environ")).unwrap_or_default().is_empty() => {
                Err("it lives".to_owned())
            }
            Ok(_) | Err(_) => Ok(()),
        });
    }

    /// Everything that the supervisor and its children have said.
    pub(crate) fn said(&self) -> String {
        self.up.stderr()
    }

    /// Ends it with `signal`, which must take no more than a few seconds and leave nothing behind.
    #[track_caller]
    pub(crate) fn end(mut self, signal: Signal) {
        self.up.signal(signal);
        let status = self.up.wait(Duration::from_secs(10));
        assert!(status.success(), "{status}\n{}", self.said());
        nothing_left(&self.heddle);
    }
}

/// The folder of examples.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").canonicalize().expect("the examples")
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the example") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("a folder");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file");
        }
    }
}

/// Processes that were started with `runtime` as their `XDG_RUNTIME_DIR`, with their command lines: everything of a mesh is.
pub(crate) fn processes(runtime: &Path) -> Vec<(u32, String)> {
    let marker = format!("XDG_RUNTIME_DIR={}\0", runtime.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if String::from_utf8_lossy(&environment).contains(&marker) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    found
}

/// No process, no socket and no file of a mesh is left.
#[track_caller]
pub(crate) fn nothing_left(heddle: &Heddle) {
    until("the last process to be gone", LONG, || match processes(heddle.runtime()) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    let files: Vec<_> = fs::read_dir(heddle.runtime()).expect("the directory").flatten().map(|e| e.path()).collect();
    assert!(files.is_empty(), "files are left: {files:?}");
    // A killed process loses its environment, by which it is found above, a moment before its sockets.
    let own = heddle.runtime().display().to_string();
    until("the last socket to be closed", LONG, || {
        let sockets = fs::read_to_string("/proc/net/unix").expect("the list of sockets");
        let left: Vec<&str> = sockets.lines().filter(|l| l.contains(&own)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
