//! The runtime directory: one control plane at a time, and sockets that only their owner may open.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::Error;
use crate::ca::private_dir;

/// The longest path of a Unix socket, without the zero at its end (`sockaddr_un`, unix(7)).
const SOCKET_PATH: usize = 107;

/// A runtime directory that is ours until this is dropped, which takes the sockets away.
pub(crate) struct Runtime {
    dir: PathBuf,
    sockets: Vec<PathBuf>,
    _lock: File,
}

impl Runtime {
    /// Makes `dir` if need be, and takes it.
    pub(crate) fn take(dir: &Path) -> Result<Runtime, Error> {
        private_dir(dir).map_err(|e| Error(e.to_string()))?;
        let path = dir.join("control.lock");
        let fail = |error: std::io::Error| Error(format!("cannot lock {}: {error}", path.display()));
        let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                let dir = dir.display();
                let pid = pid.trim();
                return Err(Error(format!(
                    "another control plane (process {pid}) holds {dir}; end it, or give this mesh another name"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        // For the message above alone; the lock is what counts.
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(fail)?;
        Ok(Runtime { dir: dir.to_owned(), sockets: Vec::new(), _lock: lock })
    }

    /// Listens at `name` in the directory. What is there is stale: its owner would hold the lock.
    pub(crate) fn listen(&mut self, name: &str) -> Result<UnixListener, Error> {
        let path = self.dir.join(name);
        let length = path.as_os_str().len();
        if length > SOCKET_PATH {
            return Err(Error(format!(
                "the path {} has {length} bytes, and a Unix socket may have {SOCKET_PATH}; use a runtime directory with a shorter path",
                path.display()
            )));
        }
        let _ = fs::remove_file(&path);
        let fail = |error: std::io::Error| Error(format!("cannot listen at {}: {error}", path.display()));
        let listener = UnixListener::bind(&path).map_err(fail)?;
        self.sockets.push(path.clone());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(listener)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // It may be gone already, with the whole directory.
            let _ = fs::remove_file(socket);
        }
    }
}
