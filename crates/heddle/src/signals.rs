//! The signals that end a command.

use std::fmt;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// What exit status a shell gives a command that a signal ended: this plus the signal's number.
pub(crate) const SIGNAL_BASE: i32 = 128;

/// Ctrl-C, SIGTERM, SIGHUP, SIGQUIT and SIGUSR1, which no longer end the process by themselves. SIGUSR2 does not either: it asks
/// for new proxies (`supervisor::sidecar`), and means nothing while there is none.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
    user: unix::Signal,
    _replace: unix::Signal,
}

impl Signals {
    /// Catches them from now on: before anything is made that has to be taken away again.
    pub(crate) fn catch() -> anyhow::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user: signal(SignalKind::user_defined1())?,
            _replace: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next of them. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
            _ = self.user.recv() => Signal::SIGUSR1,
        }
    }

    /// `work`, unless a signal comes first.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            signal = self.next() => Err(Interrupted(signal).into()),
            done = work => done,
        }
    }
}

/// Whether this process is in the group that its terminal sends Ctrl-C (SIGINT) and Ctrl-\ (SIGQUIT) to, and with it the children
/// that have no group of their own.
pub(crate) fn in_foreground() -> bool {
    std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| foreground(&stat))
}

/// The same of a process's `/proc/PID/stat` (proc_pid_stat(5)): its group is the foreground one of its terminal, if it has one.
fn foreground(stat: &str) -> bool {
    // The name in brackets may contain anything.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().collect::<Vec<_>>());
    fields.is_some_and(|fields| fields.get(2).is_some_and(|group| fields.get(5) == Some(group)))
}

/// A signal came before there was anything to pass it on to.
#[derive(Debug)]
pub(crate) struct Interrupted(Signal);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

impl Interrupted {
    /// Whoever sent the signal knows why the command has ended: no message, and the exit status that a shell gives.
    pub(crate) fn exit(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
        result.or_else(|error| match error.downcast_ref() {
            Some(Interrupted(signal)) => {
                Ok(ExitCode::from(u8::try_from(SIGNAL_BASE + *signal as i32).unwrap_or(u8::MAX)))
            }
            None => Err(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_foreground_is_told_from_the_background() {
        assert!(foreground("7 (a) b) S 1 70 60 34816 70 4194304 0"));
        assert!(!foreground("7 (a) S 1 70 60 34816 71 4194304 0"), "another group has the terminal");
        assert!(!foreground("7 (a) S 1 70 60 0 -1 4194304 0"), "there is no terminal");
        assert!(!foreground(""));
    }
}
