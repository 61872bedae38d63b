//! Who else got a signal: a command of `heddle run` or `heddle exec` shares our process group, so what is typed at the terminal, or
//! sent to the whole group or control group, reaches it without us. The signal itself does not say how far it went.
//!
//! So a process stands beside us that nobody has a reason to signal alone: the witness. What it gets too, everybody got, and is
//! not passed on. A group of its own for the command would need the terminal's foreground, and take it from the rest of a pipeline
//! (`heddle exec web -- report | less`), and Ctrl-C from a script that we are part of.

use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use net::process::{die_with_parent, executable};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

use crate::signals::{PASSED, Signals};

/// What the witness is called in lists of processes: not like us, or `pkill heddle` would look like a signal to the group.
const NAME: &str = "group-witness";

/// How long whoever signals several processes one after the other may take: systemd, all of a control group; `timeout`, its command
/// and then the group. The same signal again within this time is the same one, as it is for the kernel while it waits.
const TOGETHER: Duration = Duration::from_millis(50);

/// The longest wait for what the witness has to say, which is there at once.
const ANSWER: Duration = Duration::from_secs(1);

/// Asks the witness whether it has said everything. Of signals that wait, the lowest number is taken first (signal(7)); this one's is
/// higher than those that are passed on, and nobody sends it here.
const QUESTION: Signal = Signal::SIGURG;

/// What the witness says when it is there: no signal's number.
const THERE: u8 = 0;

/// Lives beside a command that shares our process group.
#[derive(Debug)]
pub(crate) struct Witness {
    child: Child,
    /// What it says; `None` when it is gone or silent: from then on every signal seems to be for us alone.
    out: Option<ChildStdout>,
    /// What it has got that we have not.
    seen: Vec<u8>,
    open: Option<Open>,
}

/// A signal of which it is not clear yet how far it went.
#[derive(Clone, Copy, Debug)]
struct Open {
    signal: Signal,
    /// When it came.
    came: Instant,
    /// The witness was asked.
    asked: bool,
}

/// A signal of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) signal: Signal,
    /// The whole group got it.
    pub(crate) by_all: bool,
}

impl Witness {
    /// Starts it, and waits until it watches.
    pub(crate) async fn start() -> anyhow::Result<Witness> {
        let mut command = Command::new(executable());
        command.arg0(NAME).arg("witness").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        die_with_parent(&mut command);
        let mut child = command.spawn().context("cannot start another process of this program")?;
        let out = child.stdout.take();
        let mut witness = Witness { child, out, seen: Vec::new(), open: None };
        witness.listen(|said| said == THERE).await;
        Ok(witness)
    }

    /// The next signal. Cancel safe.
    pub(crate) async fn next(&mut self, signals: &mut Signals) -> Heard {
        let Open { signal, came, asked } = match self.open {
            Some(open) => open,
            None => {
                let signal = signals.next().await;
                *self.open.insert(Open { signal, came: Instant::now(), asked: false })
            }
        };
        let again = async { while signals.again(signal).await {} };
        let _ = timeout_at(came + TOGETHER, again).await;
        if !asked {
            self.open = Some(Open { signal, came, asked: true });
            self.ask();
        }
        let answer = self.listen(|said| said == QUESTION as u8);
        if timeout_at(came + TOGETHER + ANSWER, answer).await.is_err() {
            self.out = None;
        }
        self.open = None;
        let before = self.seen.len();
        self.seen.retain(|seen| *seen != signal as u8);
        Heard { signal, by_all: self.seen.len() < before }
    }

    fn ask(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may be gone, which is seen at its end of the pipe.
            let _ = kill(Pid::from_raw(pid), QUESTION);
        }
    }

    /// Hears it out until it says what is `awaited`. Cancel safe.
    async fn listen(&mut self, awaited: impl Fn(u8) -> bool) {
        while let Some(out) = &mut self.out {
            match out.read_u8().await {
                Ok(said) if awaited(said) => return,
                Ok(said) => self.seen.push(said),
                // It is gone.
                Err(_) => self.out = None,
            }
        }
    }
}

/// Whether `process` gets what is sent to our group. A shell, for one, makes a group of its own.
pub(crate) fn in_our_group(process: Pid) -> bool {
    getpgid(Some(process)).is_ok_and(|group| group == getpgrp())
}

/// The witness itself: says which signals come, each by its number, until it is killed.
pub(crate) fn watch() -> anyhow::Result<ExitCode> {
    let name = std::ffi::CString::new(NAME).context("the name holds no zero byte")?;
    nix::sys::prctl::set_name(&name)?;
    let mut watched: SigSet = PASSED.into_iter().collect();
    watched.add(QUESTION);
    let mut blocked = watched;
    // Ctrl-Z stops the command; what comes while it is stopped is still to be seen.
    blocked.extend([Signal::SIGTSTP, Signal::SIGUSR2]);
    blocked.thread_block()?;
    let mut out = std::io::stdout();
    let mut say = |said: u8| out.write_all(&[said]).and_then(|()| out.flush());
    say(THERE)?;
    loop {
        say(watched.wait()? as u8)?;
    }
}
