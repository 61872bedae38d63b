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
    if matches!(errno, Errno::EMFILE | Errno::ENFILE) {
        return Some("as many files are open as `ulimit -n` or fs.file-max allows".to_owned());
    }
    // A namespace of users is refused with EPERM there (user_namespaces(7)), and changing a root that is no mount with EINVAL.
    let root_matters = matches!(errno, Errno::EPERM | Errno::EINVAL);
    if root_matters && read("/proc/self/mountinfo").is_some_and(|mounts| is_chroot(&mounts)) {
        return Some("heddle runs in a chroot, where the kernel makes no such namespaces; start it outside, or in a container whose root is a mount of its own (pivot_root)".to_owned());
    }
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
    // Modules of security say EACCES, and filters of system calls usually EPERM.
    match errno {
        Errno::EACCES => by_module(read).or_else(|| by_filter(read)),
        _ => by_filter(read).or_else(|| by_module(read)),
    }
}

/// Whether the root folder of the process with these mounts (proc_pid_mountinfo(5)) is none of them. The fifth field is where a
/// mount is, seen from that root.
fn is_chroot(mounts: &str) -> bool {
    !mounts.is_empty() && !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

fn by_filter(read: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let filtered = read("/proc/self/status")?.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
    filtered.then(|| {
        "a seccomp filter, such as a container's default one, forbids it; start the container with `--security-opt seccomp=unconfined` or a profile that allows unshare and mount".to_owned()
    })
}

/// AppArmor or SELinux, where one of them confines this process. Both say how in the same file, and AppArmor in one of its own too,
/// for kernels with several modules.
fn by_module(read: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let current = read("/proc/self/attr/apparmor/current").or_else(|| read("/proc/self/attr/current"))?;
    let current = current.trim_end_matches(['\0', '\n']);
    if let Some(profile) = current.strip_suffix(" (enforce)") {
        return Some(format!(
            "the AppArmor profile {profile} confines heddle; allow `userns,` and `mount,` there, or start the container with `--security-opt apparmor=unconfined`"
        ));
    }
    let enforced = read("/sys/fs/selinux/enforce").is_some_and(|text| text.trim() == "1");
    (enforced && current.contains(':')).then(|| {
        format!(
            "SELinux confines heddle as {current}; `ausearch -m avc -ts recent` shows the rule that is missing, and a container may be started with `--security-opt label=disable`"
        )
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
    fn a_module_of_security_is_named_by_its_profile() {
        const STATUS: (&str, &str) = ("/proc/self/status", "Seccomp:\t2\n");
        let apparmor = ("/proc/self/attr/apparmor/current", "docker-default (enforce)\n");
        let said = of(Errno::EACCES, &[STATUS, apparmor]).unwrap();
        assert!(said.contains("AppArmor profile docker-default confines"), "{said}");
        assert!(of(Errno::EPERM, &[STATUS, apparmor]).unwrap().contains("seccomp"), "filters say EPERM");
        let older = ("/proc/self/attr/current", "docker-default (enforce)\n");
        assert!(of(Errno::EPERM, &[older]).unwrap().contains("docker-default"));
        for lax in ["unconfined\n", "docker-default (complain)\n"] {
            assert_eq!(of(Errno::EACCES, &[("/proc/self/attr/apparmor/current", lax)]), None, "{lax}");
        }
        let context = ("/proc/self/attr/current", "system_u:system_r:container_t:s0:c1,c2\0");
        let said = of(Errno::EACCES, &[context, ("/sys/fs/selinux/enforce", "1")]).unwrap();
        assert!(said.contains("as system_u:system_r:container_t:s0:c1,c2;"), "{said}");
        assert_eq!(of(Errno::EACCES, &[context, ("/sys/fs/selinux/enforce", "0")]), None);
    }

    #[test]
    fn a_chroot_and_a_lack_of_descriptors_are_named() {
        let mounts =
            |at: &str| format!("23 29 0:21 / /proc rw - proc proc rw\n29 1 254:0 / {at} rw - ext4 /dev/vda rw\n");
        for errno in [Errno::EPERM, Errno::EINVAL] {
            assert!(of(errno, &[("/proc/self/mountinfo", &mounts("/tmp"))]).unwrap().contains("chroot"));
            assert_eq!(of(errno, &[("/proc/self/mountinfo", &mounts("/"))]), None);
        }
        assert!(of(Errno::EMFILE, &[]).unwrap().contains("ulimit -n"));
    }

    #[test]
    fn what_was_tried_comes_first() {
        let refused = Refused::new("making a namespace of users: no", Some("x is 0".into()));
        assert_eq!(refused.to_string(), "making a namespace of users: no: x is 0");
        assert_eq!(Refused::new("a", None).to_string(), "a");
    }
}
