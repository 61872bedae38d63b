//! The runtime directory of a mesh on this machine: where it is, who holds it, and which meshes run.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

/// Held by the supervisor for as long as it lives.
const LOCK: &str = "supervisor.lock";

/// Says what runs; see [`MeshFile`].
const MESH_FILE: &str = "mesh.json";

/// The longest name of a mesh: a Unix socket's path has at most 107 bytes.
const MAX_NAME: usize = 32;

/// The longest path of a Unix socket on Linux, without the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Which mesh a command is about.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MeshArgs {
    /// Name of the mesh; needed when more than one runs.
    #[arg(long, short = 'm', value_name = "NAME", env = "HEDDLE_MESH")]
    pub(crate) mesh: Option<String>,
    /// Runtime directory of the mesh, where that is not the usual one.
    #[arg(long, value_name = "DIR")]
    pub(crate) runtime: Option<PathBuf>,
}

/// What a mesh says of itself in its runtime directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshFile {
    /// Its name.
    pub(crate) name: String,
    /// Process id of the supervisor.
    pub(crate) pid: u32,
    /// `N` of the block `127.N.0.0/16`.
    pub(crate) block: u8,
    /// When it started.
    pub(crate) started_unix_ms: u64,
}

/// Where the runtime directories of this user's meshes are.
pub(crate) fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_absolute()) {
        Some(dir) => Path::new(&dir).join("heddle"),
        None => std::env::temp_dir().join(format!("heddle-{}", Uid::effective())),
    }
}

/// The folder of a sidecar, which goes with this. End the sidecar first: it writes there.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // The folder of all meshes goes with the last thing in it; it is not empty otherwise.
        if self.0.parent() == Some(base().as_path()) {
            let _ = std::fs::remove_dir(base());
        }
    }
}

/// Checks a mesh's name: it becomes a folder.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) || name.starts_with('-') {
        bail!("a mesh's name has 1 to {MAX_NAME} small letters, digits and dashes, unlike {name:?}");
    }
    Ok(())
}

/// Makes `dir` for this user alone, or checks that it is so.
pub(crate) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!("{} is not a folder", dir.display()),
        Err(error) => return Err(error).with_context(|| format!("cannot make the folder {}", dir.display())),
    }
    let found = std::fs::symlink_metadata(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if !found.is_dir() || found.uid() != Uid::effective().as_raw() {
        bail!("{} is not a folder of this user; name another with --runtime", dir.display());
    }
    if found.mode() & 0o077 != 0 {
        bail!("{} is open to other users; run: chmod 700 {}", dir.display(), dir.display());
    }
    Ok(())
}

/// A runtime directory that this process holds. Dropping it takes the directory away, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: PathBuf,
    keep: bool,
    _lock: Flock<File>,
}

/// Why a directory could not be claimed.
pub(crate) enum Refused {
    /// A living mesh holds it.
    Held,
    /// Something else.
    Failed(anyhow::Error),
}

impl Claim {
    /// Claims `dir`, clearing away what a mesh that died left there (its certificate authority stays: whoever trusts it may
    /// go on).
    pub(crate) fn take(dir: &Path, keep: bool) -> Result<Claim, Refused> {
        private_dir(dir).map_err(Refused::Failed)?;
        ours(dir).map_err(Refused::Failed)?;
        let longest = dir.join("control.sock");
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(Refused::Failed(anyhow::anyhow!(
                "the path {} is too long for a socket ({MAX_SOCKET_PATH} bytes at most); name a shorter one with --runtime",
                longest.display()
            )));
        }
        let lock = lock(dir)?;
        let claim = Claim { dir: dir.to_owned(), keep, _lock: lock };
        claim.clear().map_err(|error| {
            Refused::Failed(anyhow::Error::new(error).context(format!("cannot clear {}", dir.display())))
        })?;
        Ok(claim)
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes what the mesh says of itself.
    pub(crate) fn describe(&self, mesh: &MeshFile) -> anyhow::Result<()> {
        let text = serde_json::to_string(mesh).context("a mesh has a JSON form")?;
        std::fs::write(self.dir.join(MESH_FILE), text).context("cannot write mesh.json")
    }

    fn clear(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name() == LOCK || entry.file_name() == "ca" {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.keep {
            let _ = std::fs::remove_file(self.dir.join(MESH_FILE));
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
            // The folder of all meshes goes with the last of them; it is not empty otherwise.
            if self.dir.parent() == Some(base().as_path()) {
                let _ = std::fs::remove_dir(base());
            }
        }
    }
}

/// Refuses a folder with files that no mesh left: a claim clears its folder.
fn ours(dir: &Path) -> anyhow::Result<()> {
    let mut entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if entries.next().is_some() && !dir.join(LOCK).exists() {
        bail!("{} holds files that are not of a mesh, and a mesh clears its folder; name a new one", dir.display());
    }
    Ok(())
}

/// Takes the lock of `dir`. A client that asks whether a mesh lives holds it for a moment, hence the patience.
fn lock(dir: &Path) -> Result<Flock<File>, Refused> {
    let path = dir.join(LOCK);
    for _ in 0..20 {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                return Err(Refused::Failed(
                    anyhow::Error::new(error).context(format!("cannot open {}", path.display())),
                ));
            }
        };
        let inode = file.metadata().map(|m| m.ino()).ok();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // A mesh that just ended may have taken the file away between opening and locking it.
            Ok(lock) if inode.is_some() && std::fs::metadata(&path).map(|m| m.ino()).ok() == inode => return Ok(lock),
            Ok(_) => private_dir(dir).map_err(Refused::Failed)?,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Err(Refused::Held)
}

/// Whether a supervisor holds `dir`.
fn held(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(LOCK)) else { return false };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Whether a mesh runs in `dir`: a supervisor holds it, or a control plane answers there.
fn lives(dir: &Path) -> bool {
    held(dir) || std::os::unix::net::UnixStream::connect(dir.join("admin.sock")).is_ok()
}

/// The meshes of this user that run, by name.
pub(crate) fn running() -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(base()) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter(|e| lives(&e.path()))
        .filter_map(|e| Some((e.file_name().to_str()?.to_owned(), e.path())))
        .collect();
    found.sort();
    found
}

/// What the mesh in `dir` says of itself.
pub(crate) fn read(dir: &Path) -> Option<MeshFile> {
    serde_json::from_slice(&std::fs::read(dir.join(MESH_FILE)).ok()?).ok()
}

/// The runtime directory that `args` mean: the one named, or the only mesh that runs.
pub(crate) fn find(args: &MeshArgs) -> anyhow::Result<PathBuf> {
    if let Some(dir) = &args.runtime {
        if !lives(dir) {
            bail!(
                "no mesh runs in {}; start one there with: heddle up PATH --runtime {}",
                dir.display(),
                dir.display()
            );
        }
        return Ok(dir.clone());
    }
    let running = running();
    let names = || running.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    // An empty variable in the environment is as good as none.
    match (args.mesh.as_ref().filter(|name| !name.is_empty()), running.as_slice()) {
        (_, []) => bail!("no mesh runs here; start one with: heddle demo, or: heddle up PATH"),
        (Some(name), _) => match running.iter().find(|(n, _)| n == name) {
            Some((_, dir)) => Ok(dir.clone()),
            None => bail!("no mesh named {name:?} runs here; these do: {}", names()),
        },
        (None, [(_, dir)]) => Ok(dir.clone()),
        (None, _) => bail!("more than one mesh runs here; choose with --mesh: {}", names()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_and_taken_away_by_it() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        let claim = Claim::take(&dir, false).ok().unwrap();
        assert!(lives(&dir));
        assert!(matches!(Claim::take(&dir, false), Err(Refused::Held)));
        drop(claim);
        assert!(!dir.exists());
        assert!(!lives(&dir));
    }

    #[test]
    fn what_a_dead_mesh_left_is_cleared_but_its_authority() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        private_dir(&dir).unwrap();
        std::fs::create_dir_all(dir.join("instances/shop.cart-0")).unwrap();
        std::fs::create_dir_all(dir.join("ca")).unwrap();
        std::fs::write(dir.join(LOCK), "").unwrap();
        std::fs::write(dir.join("admin.sock"), "").unwrap();
        let claim = Claim::take(&dir, true).ok().unwrap();
        assert!(!dir.join("instances").exists() && !dir.join("admin.sock").exists());
        assert!(dir.join("ca").exists());
        let mesh = MeshFile { name: "m".into(), pid: 1, block: 7, started_unix_ms: 5 };
        claim.describe(&mesh).unwrap();
        assert_eq!(read(&dir), Some(mesh));
        drop(claim);
        assert!(dir.join("ca").exists(), "it is kept");
        assert_eq!(read(&dir), None);
    }

    #[test]
    fn a_folder_that_others_may_read_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("m");
        DirBuilder::new().mode(0o755).create(&dir).unwrap();
        let Err(Refused::Failed(error)) = Claim::take(&dir, false) else { panic!("it is refused") };
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_folder_with_files_of_others_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("home");
        private_dir(&dir).unwrap();
        std::fs::write(dir.join("shop.yaml"), "mine").unwrap();
        let Err(Refused::Failed(error)) = Claim::take(&dir, false) else { panic!("it is refused") };
        assert!(error.to_string().contains("name a new one"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.join("shop.yaml")).unwrap(), "mine");
    }

    #[test]
    fn names_become_folders() {
        for good in ["shop", "a-1", "0"] {
            check_name(good).unwrap();
        }
        for bad in ["", "Shop", "../x", "-a", "a/b", &"x".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
