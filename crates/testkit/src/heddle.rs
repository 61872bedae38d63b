//! The built `heddle` binary in a runtime directory of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::{Command, Finished, Process};
use crate::wait;

/// Runs `heddle` commands that see each other and nobody else's meshes.
#[derive(Debug)]
pub struct Heddle {
    binary: PathBuf,
    runtime: TempDir,
    /// Who runs it, where that is not who runs the tests.
    user: Option<u32>,
    /// What `HEDDLE_MODE` says; `None`: it is not set, as people have it.
    mode: Option<String>,
    /// The folder of the binary, where that is its own.
    own: Option<TempDir>,
}

impl Heddle {
    /// With an empty runtime directory.
    ///
    /// # Panics
    /// The binary has not been built; `HEDDLE_BINARY` may name another one.
    pub fn new() -> Heddle {
        // Unix socket paths end at 108 bytes, so the directory's name is short whatever TMPDIR says.
        let runtime = tempfile::Builder::new().prefix("hd-").tempdir_in("/tmp").expect("/tmp takes a directory");
        Heddle { binary: binary(), runtime, user: None, mode: Some(mode()), own: None }
    }

    /// In the mode that people get who say nothing.
    ///
    /// # Panics
    /// See [`Heddle::new`].
    pub fn as_shipped() -> Heddle {
        Heddle { mode: None, ..Heddle::new() }
    }

    /// [`Heddle::as_shipped`] for an ordinary user: for `user` if the tests are run by root.
    ///
    /// # Panics
    /// See [`Heddle::of_user`].
    pub fn as_shipped_to(user: u32) -> Heddle {
        Heddle { mode: None, ..Heddle::of_user(user) }
    }

    /// In this mode of interception, run by whoever runs the tests.
    ///
    /// # Panics
    /// See [`Heddle::new`].
    pub fn in_mode(mode: &str) -> Heddle {
        Heddle { mode: Some(mode.to_owned()), ..Heddle::new() }
    }

    /// Run by an ordinary user, in namespace mode: by `user` if the tests are run by root.
    ///
    /// # Panics
    /// See [`Heddle::new`]; or the binary is where `user` cannot reach it.
    pub fn of_user(user: u32) -> Heddle {
        let mut heddle = Heddle { mode: Some("namespace".to_owned()), ..Heddle::new() };
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(heddle.runtime.path(), Some(user), Some(user)).expect("root may give it away");
            heddle.user = Some(user);
            let reached = heddle.command(["--version"]).run(wait::LONG);
            assert!(reached.status.success(), "user {user} cannot run {}: {reached:?}", heddle.binary.display());
        }
        heddle
    }

    /// With a name of its own for the binary, which [`Heddle::renew`] puts a new file under.
    ///
    /// # Panics
    /// See [`Heddle::new`]; or the binary's file system has no hard links.
    pub fn linked() -> Heddle {
        let heddle = Heddle::new();
        let folder = heddle.binary.parent().expect("a file is in a folder");
        let own = tempfile::Builder::new().prefix("linked-").tempdir_in(folder).expect("a folder beside the binary");
        let binary = own.path().join("heddle");
        std::fs::hard_link(&heddle.binary, &binary).expect("a link beside the binary");
        Heddle { binary, own: Some(own), ..heddle }
    }

    /// Puts a new file where the binary is, as an upgrade does.
    ///
    /// # Panics
    /// It was not made by [`Heddle::linked`].
    pub fn renew(&self) {
        assert!(self.own.is_some(), "the binary is everybody's");
        std::fs::remove_file(&self.binary).expect("it is ours");
        std::fs::hard_link(binary(), &self.binary).expect("a link beside the binary");
    }

    /// The directory that stands for `$XDG_RUNTIME_DIR`.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// `heddle ARGS`, not started yet. Proxy variables of the surroundings are taken away.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.program(&self.binary, args)
    }

    /// `PROGRAM ARGS` in the same surroundings, by the same user.
    pub fn program<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
        let command = match self.user {
            Some(user) => {
                let user = user.to_string();
                Command::new("setpriv").args(["--reuid", &user, "--regid", &user, "--clear-groups"]).args([program])
            }
            None => Command::new(program),
        };
        self.surround(command.args(args))
    }

    /// An empty folder of whoever runs it, that is no runtime directory.
    ///
    /// # Panics
    /// The system takes no folder.
    pub fn folder(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::chown(folder.path(), self.user, self.user).expect("root may give it away");
        folder
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Gives `command` the surroundings of [`Heddle::command`].
    pub fn surround(&self, command: Command) -> Command {
        let mut command = command.env("XDG_RUNTIME_DIR", self.runtime.path());
        command = match &self.mode {
            Some(mode) => command.env("HEDDLE_MODE", mode),
            None => command.env_remove("HEDDLE_MODE"),
        };
        if self.user.is_some() {
            command = command.env("HOME", self.runtime.path());
        }
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command = command.env_remove(name).env_remove(&name.to_uppercase());
        }
        command
    }

    /// Starts `heddle ARGS`.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Process {
        self.command(args).start()
    }

    /// Runs `heddle ARGS` to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.command(args).run(wait::LONG)
    }
}

impl Default for Heddle {
    fn default() -> Self {
        Heddle::new()
    }
}

/// The mode of interception: tests look at what is heard on this machine's own addresses, which explicit mode alone has.
/// `HEDDLE_TEST_MODE` says another one.
fn mode() -> String {
    std::env::var("HEDDLE_TEST_MODE").unwrap_or_else(|_| "explicit".to_owned())
}

/// `HEDDLE_BINARY`, or the binary that cargo built beside this test (`target/<profile>/deps/<test>` → `target/<profile>`).
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HEDDLE_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().and_then(Path::parent).expect("cargo puts tests into target/<profile>/deps");
    let path = folder.join("heddle");
    assert!(path.is_file(), "{} is missing: run `cargo build -p heddle`, or name one in HEDDLE_BINARY", path.display());
    path
}
