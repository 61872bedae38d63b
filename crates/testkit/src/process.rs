//! Child processes that end with the test, and what they say.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::wait;

/// What a process is given to end by itself after a failed test.
const GRACE: Duration = Duration::from_secs(5);

/// A command that [`Command::start`] makes into a [`Process`]: it dies with the test's thread, however that ends.
#[derive(Debug)]
pub struct Command(tokio::process::Command);

impl Command {
    /// A command without arguments and without input.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        let mut command = tokio::process::Command::new(program);
        command.stdin(Stdio::null());
        net::process::own_group(&mut command);
        net::process::die_with_parent(&mut command);
        Command(command)
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Command {
        self.0.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Command {
        self.0.env(name, value);
        self
    }

    /// Removes a variable.
    pub fn env_remove(mut self, name: &str) -> Command {
        self.0.env_remove(name);
        self
    }

    /// Gives it an input, which [`Process::stdin`] writes.
    pub fn with_input(mut self) -> Command {
        self.0.stdin(Stdio::piped());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// The program cannot be started.
    #[track_caller]
    pub fn start(self) -> Process {
        Process::start(self)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// The program cannot be started, or takes longer than `limit`.
    #[track_caller]
    pub fn run(self, limit: Duration) -> Finished {
        let mut process = self.start();
        let status = process.wait(limit);
        Finished { status, stdout: process.stdout(), stderr: process.stderr() }
    }
}

/// How a command that ran to its end went.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// A running child. Dropping it kills its process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Reader,
    stderr: Reader,
}

/// A thread that collects lines.
#[derive(Debug)]
struct Reader {
    text: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn new(source: impl Read + Send + 'static) -> Reader {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let thread = thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Reader { text, thread: Some(thread) }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of the output, for a while: a grandchild may hold it open.
    fn finish(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let deadline = std::time::Instant::now() + Duration::from_secs(2);
        while !thread.is_finished() && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Process {
    #[track_caller]
    fn start(command: Command) -> Process {
        let mut command = command.0.into_std();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
        let stdout = Reader::new(child.stdout.take().expect("it was piped"));
        let stderr = Reader::new(child.stderr.take().expect("it was piped"));
        Process { name, child, stdout, stderr }
    }

    /// Its process id, which is its group's too.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its input, if [`Command::with_input`] asked for one and it was not taken yet.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has complained about so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line, on either output, that contains `text`, and returns it.
    ///
    /// # Panics
    /// When none comes within `limit`, or the process ends without it; with all that it said.
    #[track_caller]
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> String {
        wait::until(&format!("{text:?} from {}", self.name), limit, || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            if ended.is_some() {
                self.stdout.finish();
                self.stderr.finish();
            }
            let said = format!("{}{}", self.stdout.text(), self.stderr.text());
            match (said.lines().find(|line| line.contains(text)), ended) {
                (Some(line), _) => Ok(line.to_owned()),
                (None, None) => Err(format!("it said\n{said}")),
                (None, Some(status)) => panic!("{} ended ({status}) without saying {text:?}:\n{said}", self.name),
            }
        })
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        // It may have ended; its id stays ours until it has been waited for.
        let _ = nix::sys::signal::kill(self.pid(), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come within `limit`; with all that it said.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let status = wait::until(&format!("the end of {}", self.name), limit, || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            ended.ok_or_else(|| format!("it said\n{}{}", self.stdout.text(), self.stderr.text()))
        });
        self.stdout.finish();
        self.stderr.finish();
        status
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[track_caller]
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(limit)
    }

    /// Kills it with everything in its group, at once.
    pub fn kill(&mut self) {
        let _ = net::process::signal(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive and small"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
        // What a failed test leaves behind must not disturb others: asked to end, it ends what it started too, which a kill
        // does not reach (workers of an nginx).
        if thread::panicking() && !ended(&mut self.child) {
            self.signal(Signal::SIGTERM);
            let give_up = Instant::now() + GRACE;
            while !ended(&mut self.child) && Instant::now() < give_up {
                thread::sleep(Duration::from_millis(10));
            }
        }
        if !ended(&mut self.child) {
            self.kill();
        }
        if thread::panicking() {
            eprintln!("--- {} said ---\n{}{}---", self.name, self.stdout.text(), self.stderr.text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_output_and_status() {
        let finished = Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]).run(wait::LONG);
        assert_eq!((finished.status.code(), &*finished.stdout, &*finished.stderr), (Some(3), "out\n", "err\n"));
    }

    #[test]
    fn finds_a_line_and_ends_what_it_started() {
        let mut process = Command::new("sh").args(["-c", "echo ready now; exec sleep 1000"]).start();
        assert_eq!(process.wait_line("ready", wait::LONG), "ready now");
        let id = process.pid();
        drop(process);
        assert_eq!(nix::sys::signal::kill(id, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    #[should_panic(expected = "without saying \"ready\":\nno\n")]
    fn tells_what_was_said_instead() {
        Command::new("sh").args(["-c", "echo no"]).start().wait_line("ready", wait::LONG);
    }
}
