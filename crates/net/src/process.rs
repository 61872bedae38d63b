//! Children that do not outlive their parent, what they are started from, and how many files a process may open.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// How many files this process might open before [`raise_open_files`] raised that.
static OPEN_FILES: OnceLock<rlim_t> = OnceLock::new();

/// Lets this process open as many files as its hard limit allows: a connection is a file, and the usual limit of 1,024 is kept low
/// for programs that use select(2) (systemd's `DefaultLimitNOFILE`). Children inherit it; programs of others are given the old
/// limit back by [`usual_open_files`].
///
/// # Errors
/// The system does not say what the limits are.
pub fn raise_open_files() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        // Raised a second time, it was already high.
        let _ = OPEN_FILES.set(soft);
    }
    Ok(())
}

/// Lets the child open as many files as this process might before [`raise_open_files`]; it may raise that itself.
#[allow(unsafe_code, reason = "pre_exec has no safe form; argued at its use")]
pub fn usual_open_files(command: &mut Command) {
    let Some(&soft) = OPEN_FILES.get() else { return };
    let lower = move || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?;
        Ok(())
    };
    // SAFETY: `lower` runs between fork and exec, where only async-signal-safe work is allowed. It makes two system calls
    // (prlimit, twice), captures a plain number, and an `io::Error` made of an errno allocates nothing.
    unsafe { command.pre_exec(lower) };
}

/// What to start another process of this program from: its file, or the newer one that has taken its place. Where there is none
/// any more, the file that this process was started from, which the kernel keeps.
pub fn executable() -> PathBuf {
    std::env::current_exe().ok().and_then(in_place).unwrap_or_else(|| "/proc/self/exe".into())
}

/// The file at the place of `running`, as the kernel says where that is: with a mark at its end when the file has gone from there
/// (proc_pid_exe(5)).
fn in_place(running: PathBuf) -> Option<PathBuf> {
    if running.exists() {
        return Some(running);
    }
    let place = running.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    Some(PathBuf::from(OsStr::from_bytes(place))).filter(|place| place.exists())
}

/// Makes the child start a process group of its own, so that [`terminate`] reaches what it starts itself, and a Ctrl-C in the
/// terminal reaches only us.
pub fn own_group(command: &mut Command) {
    command.process_group(0);
}

/// Makes the kernel kill the child (SIGKILL) when the *thread* that starts it ends, however that comes (PR_SET_PDEATHSIG).
/// Start such children from the main thread or from a runtime that lives as long as the process. A child that changes its
/// user, and grandchildren, are not covered.
#[allow(unsafe_code, reason = "pre_exec has no safe form; argued at its use")]
pub fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let ask = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have gone before the request was made; then nobody would ever send the signal.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from(Errno::ESRCH));
        }
        Ok(())
    };
    // SAFETY: `ask` runs between fork and exec, where only async-signal-safe work is allowed. It makes two system calls
    // (prctl, getppid), captures a plain number, and an `io::Error` made of an errno allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Ends a child that [`own_group`] gave a group: SIGTERM to the group, and SIGKILL to what is left of it when the child has
/// ended or `grace` has passed. Returns how the child ended.
///
/// # Errors
/// The child cannot be waited for.
pub async fn terminate(child: &mut Child, grace: Duration) -> io::Result<ExitStatus> {
    let Some(group) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) else {
        return child.wait().await; // It has been waited for already.
    };
    signal(group, Signal::SIGTERM)?;
    let ended = tokio::time::timeout(grace, child.wait()).await;
    // Its own children keep the group alive, and with it the number, so this cannot hit a stranger.
    signal(group, Signal::SIGKILL)?;
    match ended {
        Ok(status) => status,
        Err(_) => child.wait().await,
    }
}

/// Signals a whole group; a group that is gone is no error.
///
/// # Errors
/// The group belongs to somebody else.
pub fn signal(group: Pid, signal: Signal) -> io::Result<()> {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
