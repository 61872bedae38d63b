//! What is sent to `heddle run` and `heddle exec` reaches their command once, however many it is sent to.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod support;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use support::Mesh;
use support::manifest::{STRICT, client, service};
use testkit::process::{Command, Process};
use testkit::wait::{LONG, until};

/// Says which signals it gets, and goes on.
const COUNT: &[u8] = br#"
import signal, threading
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"):
    signal.signal(getattr(signal, name), lambda number, _: print(signal.Signals(number).name, flush=True))
print("set", flush=True)
threading.Event().wait()
"#;

/// Runs its arguments in a terminal of their own, types Ctrl-C and Ctrl-\, and prints what they say.
const TERMINAL: &[u8] = br#"
import os, pty, signal, sys
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])

said = b""
def wait(word, times):
    global said
    while said.count(word) < times:
        said += os.read(terminal, 4096)

wait(b"set", 1)
os.write(terminal, b"\x03")
wait(b"SIGINT", 1)
os.write(terminal, b"\x1c")
wait(b"SIGQUIT", 1)
for times in (1, 2):
    os.kill(child, signal.SIGUSR1)
    wait(b"SIGUSR1", times)
sys.stdout.write(said.decode().replace("\r", ""))
os.kill(child, signal.SIGKILL)
"#;

fn mesh() -> Mesh {
    Mesh::with_files(&[STRICT.to_owned(), client()].concat(), &[("count.py", COUNT), ("terminal.py", TERMINAL)])
}

/// The counting program.
fn count(mesh: &Mesh) -> String {
    mesh.folder.path().join("count.py").display().to_string()
}

/// What the command was told, when it was told something after it twice: by then nothing is on its way any more.
fn told(process: &Process, heddle: Pid) -> Vec<String> {
    let told =
        || process.stdout().lines().filter(|line| line.starts_with("SIG")).map(str::to_owned).collect::<Vec<_>>();
    let last = || told().iter().filter(|name| *name == "SIGUSR1").count();
    for _ in 0..2 {
        let before = last();
        kill(heddle, Signal::SIGUSR1).unwrap();
        until("the command to be told", LONG, || {
            if last() > before { Ok(()) } else { Err(format!("{:?}{}", told(), process.stderr())) }
        });
    }
    told().into_iter().filter(|name| name != "SIGUSR1").collect()
}

fn pid(process: &Process) -> Pid {
    Pid::from_raw(process.id().try_into().unwrap())
}

#[test]
fn signals_to_heddle_alone_reach_its_command() {
    let mesh = mesh();
    let script = "trap 'exit 2' INT; trap 'exit 3' QUIT; trap 'exit 10' USR1; trap 'exit 1' HUP; echo set;
                  while :; do sleep 0.05; done";
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGHUP] {
        let mut exec = mesh.heddle.start(["exec", "-n", "t", "client", "--", "sh", "-c", script]);
        exec.wait_line("set", LONG);
        exec.signal(signal);
        assert_eq!(exec.wait(LONG).code(), Some(signal as i32), "{signal}");
    }
    mesh.end(Signal::SIGQUIT);
}

#[test]
fn signals_to_all_reach_the_command_once() {
    let mesh = mesh();
    let mut exec = mesh.heddle.start(["exec", "-n", "t", "client", "--", "python3", &count(&mesh)]);
    exec.wait_line("set", LONG);
    let heddle = pid(&exec);
    let mut expected = Vec::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        killpg(heddle, signal).unwrap();
        expected.push(signal.as_str().to_owned());
        assert_eq!(told(&exec, heddle), expected, "to the group");
    }
    // One after the other, as systemd does with a control group.
    for member in group(heddle) {
        kill(member, Signal::SIGTERM).unwrap();
    }
    expected.push("SIGTERM".to_owned());
    assert_eq!(told(&exec, heddle), expected, "to each");
    exec.signal(Signal::SIGHUP);
    expected.push("SIGHUP".to_owned());
    assert_eq!(told(&exec, heddle), expected, "to heddle alone");
    exec.kill();
    mesh.end(Signal::SIGTERM);
}

/// The processes of a group, its leader first.
fn group(leader: Pid) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    let mut members: Vec<Pid> = pids.filter(|pid| getpgid(Some(*pid)) == Ok(leader)).collect();
    members.sort_by_key(|pid| *pid != leader);
    members
}

#[test]
fn a_command_in_a_group_of_its_own_is_told_what_our_group_is_told() {
    let mesh = mesh();
    let words = ["exec", "-n", "t", "client", "--", "setsid", "python3"];
    let mut exec = mesh.heddle.start(words.into_iter().chain([count(&mesh).as_str()]));
    exec.wait_line("set", LONG);
    killpg(pid(&exec), Signal::SIGTERM).unwrap();
    assert_eq!(told(&exec, pid(&exec)), ["SIGTERM"]);
    exec.kill();
    mesh.end(Signal::SIGTERM);
}

#[test]
fn timeout_ends_the_command_once() {
    let mesh = mesh();
    let heddle = mesh.heddle.binary().to_str().unwrap().to_owned();
    let words = ["600", &heddle, "exec", "-n", "t", "client", "--", "python3", &count(&mesh)];
    let mut timeout = mesh.heddle.surround(Command::new("timeout").args(words)).start();
    timeout.wait_line("set", LONG);
    // What its time's end does as well: it signals heddle, and then its group.
    timeout.signal(Signal::SIGTERM);
    let words = format!("{heddle} exec -n t client");
    let found = support::processes(mesh.heddle.runtime()).into_iter().find(|(_, line)| line.starts_with(&words));
    let exec = Pid::from_raw(found.unwrap().0.try_into().unwrap());
    until("the command to be told", LONG, || {
        if timeout.stdout().contains("SIGTERM") { Ok(()) } else { Err(timeout.stderr()) }
    });
    assert_eq!(told(&timeout, exec), ["SIGTERM"]);
    timeout.kill();
    mesh.end(Signal::SIGTERM);
}

#[test]
fn what_is_typed_at_a_terminal_reaches_the_command_once() {
    let mesh = mesh();
    let script = mesh.folder.path().join("terminal.py").display().to_string();
    let heddle = mesh.heddle.binary().to_str().unwrap().to_owned();
    let words = [&script, &heddle, "exec", "-n", "t", "client", "--", "python3", &count(&mesh)];
    let said = mesh.heddle.surround(Command::new("python3").args(words)).run(LONG).success();
    let times = ["SIGINT", "SIGQUIT", "SIGUSR1"].map(|signal| said.matches(signal).count());
    assert_eq!(times, [1, 1, 2], "{said}");
    mesh.end(Signal::SIGTERM);
}

#[test]
fn run_is_told_with_its_group() {
    let manifest = [STRICT.to_owned(), client(), service("counting", "http")].concat();
    let mesh = Mesh::with_files(&manifest, &[("count.py", COUNT)]);
    let counting = count(&mesh);
    let words = ["run", "--service", "counting", "-n", "t", "--port", "8080", "--", "python3", &counting];
    let mut run = mesh.heddle.start(words);
    run.wait_line("set", LONG);
    killpg(pid(&run), Signal::SIGTERM).unwrap();
    assert_eq!(told(&run, pid(&run)), ["SIGTERM"]);
    run.kill();
    mesh.end(Signal::SIGTERM);
}
