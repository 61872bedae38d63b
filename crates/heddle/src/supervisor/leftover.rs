//! What an application started and left behind: processes that made a session of their own (daemons), which a signal to the
//! application's process group does not reach.
//!
//! In namespace mode the kernel says which processes are an instance's: those in its network. In both modes so does a variable
//! that whatever an instance starts inherits. A process that has thrown its environment away is found in namespace mode alone.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::inside::Inside;

/// Names the instance to which a process belongs; see [`value`].
pub(crate) const VARIABLE: &str = "HEDDLE_INSTANCE";

/// What [`VARIABLE`] says to the processes of the instance at `ip`. The address is its alone in this network while it lives, but
/// processes are seen beyond it, those of containers for example, in which there may be another mesh with the same addresses: so
/// it begins with what no other supervisor says.
pub(crate) fn value(ip: IpAddr) -> String {
    /// The standard library's own source of random numbers does: nobody gains by guessing it.
    static OURS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    format!("{}-{:016x}/{ip}", std::process::id(), *OURS)
}

/// How an instance's processes are known.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// `NAME=value`.
    pub(crate) variable: String,
    pub(crate) inside: Option<Arc<Inside>>,
}

impl Mark {
    /// Kills every process of the instance that is left. A process of another user, who may be asked for nothing, is left alone.
    pub(crate) fn end(&self) {
        let mut seen = HashSet::new();
        // One that is killed starts no more, so this comes to an end.
        loop {
            let found: Vec<Pid> = processes().filter(|pid| !seen.contains(pid) && self.fits(*pid)).collect();
            if found.is_empty() {
                return;
            }
            for pid in found {
                // It may have ended by itself.
                let _ = kill(pid, Signal::SIGKILL);
                seen.insert(pid);
            }
        }
    }

    fn fits(&self, pid: Pid) -> bool {
        if pid == Pid::this() {
            return false;
        }
        if self.inside.as_ref().is_some_and(|inside| inside.is_inside(pid)) {
            return true;
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == self.variable.as_bytes())
    }
}

/// All processes that are seen here.
fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    #[test]
    fn what_has_the_variable_is_ended_whatever_its_session_and_nothing_else() {
        let start = |value: &str| {
            Command::new("sleep")
                .arg("1000")
                .env(VARIABLE, value)
                .process_group(0)
                .spawn()
                .expect("every system sleeps")
        };
        let own = format!("127.0.0.1-{}", std::process::id());
        let (mut left, mut other) = (start(&own), start(&format!("{own}0")));
        Mark { variable: format!("{VARIABLE}={own}"), inside: None }.end();
        assert_eq!(left.wait().expect("it is ours").signal(), Some(Signal::SIGKILL as i32));
        assert!(other.try_wait().expect("it is ours").is_none());
        other.kill().expect("it is ours");
        other.wait().expect("it is ours");
    }
}
