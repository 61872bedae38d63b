//! Why namespaces may not be made, and what a person can do about it.

use std::fs;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Why there are no namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}{}", .setting.as_ref().map(|setting| format!(": {setting}")).unwrap_or_default())]
pub struct Refused {
    /// What was tried, and what the system said.
    pub what: String,
    /// The setting that forbids it, and how it is changed; absent when that is not known.
    pub setting: Option<String>,
}

/// A switch of the kernel's, what it says when it forbids, and what to tell people.
struct Switch {
    file: &'static str,
    forbids: fn(u64) -> bool,
    advice: &'static str,
}

const SWITCHES: [Switch; 5] = [
    Switch {
        file: "/proc/sys/kernel/unprivileged_userns_clone",
        forbids: |value| value == 0,
        advice: "kernel.unprivileged_userns_clone is 0, so only root may make namespaces; `sudo sysctl -w kernel.unprivileged_userns_clone=1` allows it",
    },
    Switch {
        file: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbids: |value| value != 0,
        advice: "kernel.apparmor_restrict_unprivileged_userns is 1, so AppArmor lets only programs with a profile of their own use namespaces; give heddle one with `userns,`, or allow everybody with `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    },
    Switch {
        file: "/proc/sys/user/max_user_namespaces",
        forbids: |value| value == 0,
        advice: "user.max_user_namespaces is 0; `sudo sysctl -w user.max_user_namespaces=10000` allows some",
    },
    Switch {
        file: "/proc/sys/user/max_net_namespaces",
        forbids: |value| value == 0,
        advice: "user.max_net_namespaces is 0; `sudo sysctl -w user.max_net_namespaces=10000` allows some",
    },
    Switch {
        file: "/proc/sys/user/max_mnt_namespaces",
        forbids: |value| value == 0,
        advice: "user.max_mnt_namespaces is 0; `sudo sysctl -w user.max_mnt_namespaces=10000` allows some",
    },
];

impl Refused {
    pub(super) fn new(what: impl Into<String>, setting: Option<String>) -> Refused {
        Refused { what: what.into(), setting }
    }

    /// `error` came when `what` was tried.
    pub(super) fn because(what: &str, error: &io::Error) -> Refused {
        Refused::new(format!("{what}: {error}"), setting(error, &|file| fs::read_to_string(file).ok()))
    }
}

/// The setting that explains `error`.
fn setting(error: &io::Error, read: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    if !matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EUSERS | Errno::ENOSYS) {
        return None;
    }
    let number = |file: &str| read(file).and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(switch) = SWITCHES.iter().find(|switch| number(switch.file).is_some_and(switch.forbids)) {
        return Some(switch.advice.to_owned());
    }
    if matches!(errno, Errno::ENOSPC | Errno::EUSERS) {
        return Some("as many namespaces as user.max_user_namespaces, user.max_net_namespaces or user.max_mnt_namespaces allow exist already, or they are nested too deeply".to_owned());
    }
    let filtered = read("/proc/self/status")?.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    filtered.then(|| {
        "a seccomp filter, such as a container's default one, forbids it; start the container with `--security-opt seccomp=unconfined` or a profile that allows unshare and mount".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno, files: &[(&str, &str)]) -> Option<String> {
        let files: Vec<(String, String)> = files.iter().map(|(f, t)| ((*f).to_owned(), (*t).to_owned())).collect();
        setting(&errno.into(), &move |file| files.iter().find(|(f, _)| f == file).map(|(_, text)| text.clone()))
    }

    #[test]
    fn each_switch_is_named_when_it_forbids_and_only_then() {
        for switch in &SWITCHES {
            let (on, off) = if (switch.forbids)(0) { ("0\n", "5\n") } else { ("1\n", "0\n") };
            assert_eq!(of(Errno::EPERM, &[(switch.file, on)]).as_deref(), Some(switch.advice));
            assert_eq!(of(Errno::EPERM, &[(switch.file, off)]), None, "{}", switch.file);
            let name = switch.file.strip_prefix("/proc/sys/").unwrap().replace('/', ".");
            assert!(switch.advice.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_limit_or_a_filter_is_named() {
        assert!(of(Errno::ENOSPC, &[]).unwrap().contains("max_user_namespaces"));
        assert!(of(Errno::EPERM, &[("/proc/self/status", "Name:\tx\nSeccomp:\t2\n")]).unwrap().contains("seccomp"));
        assert_eq!(of(Errno::EPERM, &[("/proc/self/status", "Seccomp:\t0\n")]), None);
        assert_eq!(of(Errno::EIO, &[("/proc/sys/user/max_user_namespaces", "0")]), None, "that is not the cause");
    }

    #[test]
    fn what_was_tried_comes_first() {
        let refused = Refused::new("making a namespace of users: no", Some("x is 0".into()));
        assert_eq!(refused.to_string(), "making a namespace of users: no: x is 0");
        assert_eq!(Refused::new("a", None).to_string(), "a");
    }
}
