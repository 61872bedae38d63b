//! An application's process: started in its folder with its environment, in a process group of its own, and ended with it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use net::process::{die_with_parent, own_group, signal, terminate, usual_open_files};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::environment::{REMOVED, REMOVED_INSIDE};
use super::inside::Inside;
use super::instance::Stop;
use super::leftover::{self, Mark};
use super::output::{Label, copy_lines};
use super::probe::{Probes, Verdict};
use super::reach;

/// What is started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The program and its arguments; never empty.
    pub(crate) argv: Vec<String>,
    /// Over what this process itself has.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where it runs.
    pub(crate) folder: PathBuf,
    /// Where its lines go; `None`: they are ours (`run`, `exec`).
    pub(crate) label: Option<Label>,
    /// Its namespaces, if it has some.
    pub(crate) inside: Option<Arc<Inside>>,
}

/// How one life of an application ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// A probe demanded it.
    Dead(String),
    /// It was told to.
    Stopped,
}

impl Program {
    /// The command, ready to be started.
    fn command(&self, argv: &[String]) -> io::Result<Command> {
        let (program, arguments) = argv.split_first().expect("a program has a name");
        let mut command = Command::new(program);
        command.args(arguments).kill_on_drop(true);
        for name in REMOVED {
            command.env_remove(name);
        }
        match &self.inside {
            Some(inside) => {
                for name in REMOVED_INSIDE {
                    command.env_remove(name);
                }
                inside.enter(&mut command, &self.folder)?;
            }
            None => {
                command.current_dir(&self.folder);
            }
        }
        command.envs(&self.environment);
        die_with_parent(&mut command);
        usual_open_files(&mut command);
        Ok(command)
    }

    /// How it and what it starts are known.
    fn mark(&self) -> Mark {
        let value = self.environment.get(leftover::VARIABLE).map_or("", String::as_str);
        Mark { variable: format!("{}={value}", leftover::VARIABLE), inside: self.inside.clone() }
    }

    /// Connects to `address` of the application, wherever its network is. Bound the wait.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        match &self.inside {
            Some(inside) => inside.connect(address).await,
            None => TcpStream::connect(address).await,
        }
    }

    /// Starts it. With a label its lines are printed with it, and it reads nothing; without, it shares our terminal and
    /// process group.
    pub(crate) fn start(&self) -> anyhow::Result<Child> {
        let mut command = self.command(&self.argv).map_err(|error| self.not_started(error))?;
        if self.label.is_some() {
            own_group(&mut command);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|error| self.not_started(error))?;
        if let Some(label) = &self.label {
            if let Some(out) = child.stdout.take() {
                let label = label.clone();
                tokio::spawn(async move { copy_lines(out, |line| label.print(line)).await });
            }
            if let Some(err) = child.stderr.take() {
                let label = label.clone();
                tokio::spawn(async move { copy_lines(err, |line| label.print(line)).await });
            }
        }
        Ok(child)
    }

    /// Why it could not be started, and what can be done.
    fn not_started(&self, error: std::io::Error) -> anyhow::Error {
        let (program, folder) = (&self.argv[0], self.folder.display());
        let hint = match error.kind() {
            ErrorKind::NotFound if !self.folder.is_dir() => " (that folder does not exist)",
            ErrorKind::NotFound if program.contains('/') => " (is the path right, seen from that folder?)",
            ErrorKind::NotFound => " (is it installed, and in a folder of PATH?)",
            ErrorKind::PermissionDenied => " (is it an executable file?)",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("cannot start {program:?} in {folder}{hint}"))
    }

    /// Runs `command` beside it, as an `exec` probe does; fails with its exit status.
    pub(crate) async fn check(&self, command: &[String]) -> Result<(), String> {
        let Some(name) = command.first() else { return Err("the command is empty".to_owned()) };
        let started = async {
            let mut command = self.command(command)?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            own_group(&mut command);
            let mut child = command.spawn()?;
            // Nor does what it started outlive it, when it takes too long above all.
            let _group = Group::of(&child, None);
            child.wait().await
        };
        match started.await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{name}: {}", describe(status))),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    /// One life: started, watched by `probes`, ended by itself, by a probe, or by `stop`, which gives it `grace` after SIGTERM,
    /// or `hurry` when it must be quick. What the probes say goes to `verdict`.
    pub(crate) async fn live(
        &self,
        probes: &Probes,
        verdict: &watch::Sender<Verdict>,
        stop: &mut watch::Receiver<Stop>,
        grace: Duration,
        hurry: Duration,
    ) -> anyhow::Result<Ended> {
        let mut child = self.start()?;
        // What it started itself does not outlive it, however this future ends.
        let _group = self.label.as_ref().and_then(|_| Group::of(&child, Some(self.mark())));
        let mut seen = verdict.subscribe();
        enum Why {
            Exited(std::io::Result<ExitStatus>),
            Dead(String),
            Stop,
        }
        let why = tokio::select! {
            status = child.wait() => Why::Exited(status),
            () = probes.watch(self, verdict) => Why::Dead("its probes ended".to_owned()),
            why = dead(&mut seen) => Why::Dead(why),
            () = reach(stop, |stop| *stop != Stop::Not) => Why::Stop,
        };
        match why {
            Why::Exited(status) => Ok(Ended::Exited(status.context("cannot wait for the process")?)),
            Why::Dead(why) => {
                terminate(&mut child, grace).await?;
                Ok(Ended::Dead(why))
            }
            Why::Stop => {
                // A second request may be more urgent than the first.
                let ended = tokio::select! {
                    status = terminate(&mut child, grace) => status.map(|_| true)?,
                    () = async {
                        reach(stop, |stop| *stop == Stop::Now).await;
                        tokio::time::sleep(hurry).await;
                    } => false,
                };
                if !ended {
                    terminate(&mut child, Duration::ZERO).await?;
                }
                Ok(Ended::Stopped)
            }
        }
    }
}

/// A process group of a child that leads it, and what left the group where that has a mark; killed when this is dropped.
struct Group {
    leader: Pid,
    mark: Option<Mark>,
}

impl Group {
    fn of(child: &Child, mark: Option<Mark>) -> Option<Group> {
        child.id().and_then(|pid| i32::try_from(pid).ok()).map(|pid| Group { leader: Pid::from_raw(pid), mark })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group that is gone is no error, and none other can be expected of our own children.
        let _ = signal(self.leader, Signal::SIGKILL);
        if let Some(mark) = &self.mark {
            mark.end();
        }
    }
}

/// Resolves when a probe says that the application must be started again.
async fn dead(verdict: &mut watch::Receiver<Verdict>) -> String {
    loop {
        if let Verdict::Dead(why) = &*verdict.borrow_and_update() {
            return why.clone();
        }
        if verdict.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// An exit status in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}
