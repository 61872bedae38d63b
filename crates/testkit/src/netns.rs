//! Network namespaces of a test's own, with real kernel rules. They need root.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use nix::sched::{CloneFlags, setns, unshare};

use crate::process::Command;

/// A network namespace, of which only the loopback interface is up. It ends with its last user.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes one. `None`: this user may not, which is said on standard error.
    ///
    /// # Panics
    /// This user may not, and `HEDDLE_TEST_ROOT` is set: where everything must be tested, this is not passed over.
    pub fn new() -> Option<Namespace> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("HEDDLE_TEST_ROOT").is_none(),
                "a network namespace needs root, as HEDDLE_TEST_ROOT says"
            );
            eprintln!("not tested: making a network namespace needs root");
            return None;
        }
        let thread = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            run(&["ip", "link", "set", "lo", "up"]);
            File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
        };
        std::thread::spawn(thread).join().ok().map(Namespace)
    }

    /// What programs know it by, as long as this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// A command that runs inside, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
        let file = format!("--net={}", self.path());
        Command::new("nsenter").args([OsStr::new(&file), program.as_ref()]).args(args)
    }

    /// Does `work` on a thread inside. What it opens and starts is inside for good.
    ///
    /// # Panics
    /// What `work` panics with.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace is there as long as its file is open");
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Runs a command to its end in the calling thread's namespace and returns what it printed.
///
/// # Panics
/// It cannot be started or fails; the message has what it said.
#[track_caller]
pub fn run(command: &[&str]) -> String {
    run_with(command, "")
}

/// Loads nftables rules.
///
/// # Panics
/// They are refused.
#[track_caller]
pub fn nft(rules: &str) {
    run_with(&["nft", "-f", "-"], rules);
}

#[track_caller]
fn run_with(command: &[&str], input: &str) -> String {
    // An ordinary user's PATH may lack what root's tools are in.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = std::process::Command::new(command[0])
        .args(&command[1..])
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("it was started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
