//! The signals that end a command.

use std::fmt;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// What exit status a shell gives a command that a signal ended: this plus the signal's number.
pub(crate) const SIGNAL_BASE: i32 = 128;

/// What is passed on to the command of `run` and `exec`.
pub(crate) const PASSED: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1];

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

    /// Waits until `signal` comes, and is true; false if it is none of [`PASSED`]. Cancel safe.
    pub(crate) async fn again(&mut self, signal: Signal) -> bool {
        let stream = match signal {
            Signal::SIGINT => &mut self.interrupt,
            Signal::SIGTERM => &mut self.terminate,
            Signal::SIGHUP => &mut self.hangup,
            Signal::SIGQUIT => &mut self.quit,
            Signal::SIGUSR1 => &mut self.user,
            _ => return false,
        };
        stream.recv().await.is_some()
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
