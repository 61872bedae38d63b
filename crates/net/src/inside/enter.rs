//! Starting processes inside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use tokio::process::Command;

/// An instance's namespaces. They last as long as a descriptor of them is open or a process is inside.
#[derive(Clone, Debug)]
pub struct Namespaces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None where the caller's privileges made one unnecessary.
    user: Option<OwnedFd>,
    network: OwnedFd,
    mounts: OwnedFd,
}

/// What a privileged caller's processes keep inside: what containers are usually given, without the raw network. Above all they
/// may not leave the namespaces, change their rules, or mark sockets.
pub(super) const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Numbers of capabilities that may exist; the kernel says which do.
const CAPABILITIES: u32 = 64;

impl Namespaces {
    /// Of this process; `user`: with its namespace of users.
    pub(super) fn own(user: bool) -> io::Result<Namespaces> {
        let open = |name: &str| File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from);
        let user = user.then(|| open("user")).transpose()?;
        Ok(Namespaces(Arc::new(Inner { user, network: open("net")?, mounts: open("mnt")? })))
    }

    /// From the order of [`Namespaces::all`].
    pub(super) fn from_all(user: bool, descriptors: Vec<OwnedFd>) -> Option<Namespaces> {
        let mut descriptors = descriptors.into_iter();
        let user = if user { Some(descriptors.next()?) } else { None };
        Some(Namespaces(Arc::new(Inner { user, network: descriptors.next()?, mounts: descriptors.next()? })))
    }

    /// To be handed over.
    pub fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.0.user.iter().chain([&self.0.network, &self.0.mounts]).map(AsFd::as_fd).collect()
    }

    /// Whether there is a namespace of users.
    pub fn has_user(&self) -> bool {
        self.0.user.is_some()
    }

    /// Whether `process` is inside. One that cannot be looked at, as those of other users, is not.
    pub fn is_inside(&self, process: Pid) -> bool {
        let own = self.0.network.try_clone().and_then(|own| File::from(own).metadata());
        let own = own.map(|found| (found.dev(), found.ino()));
        let of = std::fs::metadata(format!("/proc/{process}/ns/net")).map(|found| (found.dev(), found.ino()));
        matches!((own, of), (Ok(own), Ok(of)) if own == of)
    }

    /// Moves the calling process, which has no other thread, inside.
    pub(super) fn join(&self) -> io::Result<()> {
        if let Some(user) = &self.0.user {
            setns(user, CloneFlags::CLONE_NEWUSER)?;
        }
        setns(&self.0.network, CloneFlags::CLONE_NEWNET)?;
        setns(&self.0.mounts, CloneFlags::CLONE_NEWNS)?;
        Ok(())
    }

    /// Makes the process of `command` run inside, in `folder`, without any right over the namespaces. Set no other folder.
    ///
    /// # Errors
    /// The name of the folder holds a zero byte.
    #[allow(unsafe_code, reason = "pre_exec has no safe form; argued at its use")]
    pub fn enter(&self, command: &mut Command, folder: &Path) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let namespaces = self.clone();
        // The way to the folder starts anew inside, so it must not depend on where this process is.
        let folder = std::path::absolute(folder)?;
        let folder = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
        let enter = move || {
            namespaces.join()?;
            nix::unistd::chdir(folder.as_c_str())?;
            namespaces.give_up_privileges()
        };
        // SAFETY: `enter` runs between fork and exec, where only async-signal-safe work is allowed, in a process of one thread.
        // It makes system calls (setns, chdir, prctl, capget, capset) on memory and descriptors that it owns; a path that is a
        // C string is passed on as it is, and an `io::Error` made of an errno allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }

    /// Makes a process that has just joined an ordinary one. Allocates nothing.
    fn give_up_privileges(&self) -> io::Result<()> {
        if self.0.user.is_some() {
            // Joining gave every capability over the namespaces. An exec takes them from who is not root, and this from
            // everybody, also from programs whose files have some.
            set_no_new_privs(true)?;
            let none = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
            return Ok(());
        }
        for number in 0..CAPABILITIES {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if KEPT.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The first number that the kernel does not know.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let held = capabilities(None)?;
        let permitted = held.permitted.intersection(KEPT);
        let effective = held.effective.intersection(KEPT);
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })?;
        rustix::thread::clear_ambient_capability_set()?;
        Ok(())
    }
}
