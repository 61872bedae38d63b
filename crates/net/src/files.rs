//! Files that only their owner may read, replaced in one step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What went wrong, where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system said no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others could read a secret.
    #[error("{} may be read or written by others (mode {mode:04o}): if nobody can have copied it, run `chmod 600 {}`; otherwise delete it and a new one is made", path.display(), path.display())]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    fn io(path: &Path, error: io::Error) -> Error {
        Error::Io { path: path.to_path_buf(), error }
    }

    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Replaces `path` with `bytes`, readable by its owner alone (0600). Readers see the old content or the new, never a part,
/// and the new content survives a crash of the machine.
///
/// # Errors
/// What the file system says, with the path.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The file may not exist; what matters is the error at hand.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|error| Error::io(path, error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(path, error))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A left-over of a killed process with our id would make `create_new` fail for ever.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a secret of at most `longest` bytes, and refuses one that others may read or write.
///
/// # Errors
/// See [`Error`].
pub fn read_private(path: &Path, longest: usize) -> Result<Vec<u8>, Error> {
    let file = open(path)?;
    // Of the open file, not of the path: nobody can swap it in between.
    let mode = file.metadata().map_err(|error| Error::io(path, error))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::TooOpen { path: path.to_path_buf(), mode });
    }
    read_bounded(path, file, longest)
}

/// Reads a file of at most `longest` bytes.
///
/// # Errors
/// See [`Error`].
pub fn read(path: &Path, longest: usize) -> Result<Vec<u8>, Error> {
    read_bounded(path, open(path)?, longest)
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| Error::io(path, error))
}

fn read_bounded(path: &Path, file: File, longest: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    if bytes.len() > longest {
        return Err(Error::Content { path: path.to_path_buf(), reason: format!("it is larger than {longest} bytes") });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn writes_for_the_owner_alone_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_private(&path, 3).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn refuses_a_secret_that_others_may_read_and_says_how_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_private(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path, 100).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert!(error.to_string().contains("0640"), "{error}");
        assert_eq!(read(&path, 100).unwrap(), b"one", "a file that is no secret may be open");
    }

    #[test]
    fn refuses_a_file_that_is_too_large_and_names_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_private(&path, b"four").unwrap();
        assert!(matches!(read_private(&path, 3), Err(Error::Content { .. })));
        let missing = read(&dir.path().join("b"), 3).unwrap_err();
        assert!(missing.is_missing() && missing.to_string().contains("/b:"), "{missing}");
        let nowhere = write_private(&dir.path().join("no/such/folder"), b"").unwrap_err();
        assert!(nowhere.is_missing(), "{nowhere}");
    }
}
