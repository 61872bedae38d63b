//! Objects from files and directories, watched.
//!
//! Any sign of a change leads to one look at all files, and what differs in content is parsed again. That is simple, sees
//! every way in which editors save (in place, rename over, delete and create) and costs milliseconds; nothing is concluded
//! from a single event but that it is time to look.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Diagnostic, MAX_FILE, Parsed, Severity, parse};
use notify::event::{AccessKind, AccessMode, DataChange, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::{Sink, Source};

/// Files are looked at when no event came for this long: editors make several events of one save.
const QUIET: Duration = Duration::from_millis(20);
/// And after this long, whether it is quiet or not.
const LONGEST_DELAY: Duration = Duration::from_millis(50);
/// A file that is being written is not read half way, but no writer can hold up the others for longer than this.
const LONGEST_WRITE: Duration = Duration::from_millis(500);
/// How often files are looked at where they cannot be watched.
const POLL: Duration = Duration::from_millis(500);
/// Most files that are read; a larger directory is probably a mistake.
const MAX_FILES: usize = 10_000;

/// Files, and the `*.yaml`, `*.yml` and `*.json` files that directories hold (not those of directories inside, nor hidden
/// ones).
#[derive(Clone, Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
}

impl Files {
    /// The files and directories at `paths`, which need not exist yet.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Files {
        Files { paths: paths.into_iter().map(Into::into).collect() }
    }
}

impl Source for Files {
    async fn run(self, sink: Sink) {
        let (events, mut inbox) = mpsc::unbounded_channel();
        let mut watch = Watch::new(&self.paths, events);
        let mut scan = Scan { paths: self.paths, sink: sink.clone(), held: BTreeMap::new() };
        let mut loaded = false;
        loop {
            // Watches first: what changes after them is an event, what changed before them is seen by the scan.
            let watching = watch.renew();
            let Ok(scanned) = tokio::task::spawn_blocking(move || scan.run()).await else { return };
            scan = scanned;
            if !loaded {
                sink.loaded();
                loaded = true;
            }
            wait(&mut inbox, watching).await;
        }
    }
}

/// What an event says of a file.
#[derive(Debug)]
enum Sign {
    /// Something changed.
    Changed,
    /// It is being written.
    Writing(PathBuf),
    /// Who wrote it has closed it.
    Written(PathBuf),
}

/// Waits until it is time to look again.
async fn wait(inbox: &mut mpsc::UnboundedReceiver<Sign>, watching: bool) {
    let first = if watching {
        inbox.recv().await
    } else {
        tokio::time::timeout(POLL, inbox.recv()).await.unwrap_or(Some(Sign::Changed))
    };
    let Some(mut sign) = first else { return std::future::pending().await };
    let start = Instant::now();
    let mut writing: BTreeSet<PathBuf> = BTreeSet::new();
    loop {
        match sign {
            Sign::Changed => {}
            Sign::Writing(path) => drop(writing.insert(path)),
            Sign::Written(path) => drop(writing.remove(&path)),
        }
        let deadline = if writing.is_empty() {
            (Instant::now() + QUIET).min(start + LONGEST_DELAY)
        } else {
            start + LONGEST_WRITE
        };
        match timeout_at(deadline, inbox.recv()).await {
            Ok(Some(next)) if Instant::now() < deadline => sign = next,
            _ => return,
        }
    }
}

/// The watches on the directories that matter.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Directories to watch, with the identity of the one that is watched now.
    directories: BTreeMap<PathBuf, Option<(u64, u64)>>,
}

impl Watch {
    /// Watches for `paths`: each one's parent (a file that is renamed over is a new file; a directory can come back), and
    /// the path itself should it be a directory.
    fn new(paths: &[PathBuf], events: mpsc::UnboundedSender<Sign>) -> Watch {
        // What a link leads to changes somewhere else.
        let behind = paths.iter().filter_map(|p| p.canonicalize().ok());
        let paths: Vec<PathBuf> = paths.iter().map(|p| plain(p)).chain(behind).collect();
        let directories = paths.iter().flat_map(|p| [p.clone(), parent(p)]).map(|p| (p, None)).collect();
        let interesting = Interest { paths };
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Some(sign) = interesting.sign(event) {
                // The receiver is gone when the source was dropped.
                let _ = events.send(sign);
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "files cannot be watched; looking twice a second instead"))
            .ok();
        Watch { watcher, directories }
    }

    /// Watches directories that are new or came back. False when something cannot be watched.
    fn renew(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let mut all = true;
        for (path, watched) in &mut self.directories {
            let now = fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|m| (m.dev(), m.ino()));
            if now == *watched {
                continue;
            }
            if watched.take().is_some() {
                // The old directory is gone and its watch with it.
                let _ = watcher.unwatch(path);
            }
            if now.is_some() {
                match watcher.watch(path, RecursiveMode::NonRecursive) {
                    Ok(()) => *watched = now,
                    Err(error) => {
                        tracing::warn!(%error, path = %path.display(), "cannot be watched; looking twice a second instead");
                        all = false;
                    }
                }
            }
        }
        all
    }
}

/// Which events matter.
struct Interest {
    paths: Vec<PathBuf>,
}

impl Interest {
    fn sign(&self, event: notify::Result<Event>) -> Option<Sign> {
        // An error, a full queue among them, says that events may have been lost.
        let Ok(event) = event else { return Some(Sign::Changed) };
        if event.need_rescan() {
            return Some(Sign::Changed);
        }
        let path = event.paths.iter().find(|path| self.concerns(path))?;
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sign::Written(path.clone())),
            // Our own reading makes these.
            EventKind::Access(_) => None,
            EventKind::Modify(ModifyKind::Data(DataChange::Any | DataChange::Content | DataChange::Size)) => {
                Some(Sign::Writing(path.clone()))
            }
            _ => Some(Sign::Changed),
        }
    }

    /// Whether `path` is one of ours, lies in one of ours, or is the hidden link (`..data`) that Kubernetes swaps to change
    /// all files of a mounted directory at once.
    fn concerns(&self, path: &Path) -> bool {
        let swapped = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        swapped || self.paths.iter().any(|ours| path == ours || path.parent() == Some(ours))
    }
}

/// A path as event paths show it. It stays as it is where there is no current directory, as nothing then changes there.
fn plain(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The directory that a path is in; of the root the root itself.
fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// What was last seen of the files.
struct Scan {
    paths: Vec<PathBuf>,
    sink: Sink,
    /// By path, what was seen there.
    held: BTreeMap<PathBuf, Seen>,
}

/// What was seen at a path.
#[derive(Clone, PartialEq, Eq)]
enum Seen {
    /// A file with content of this hash.
    Content([u8; 32]),
    /// Something that cannot be read, and why.
    Unreadable(String),
}

impl Scan {
    /// Looks at all files and hands on what is different. Blocks.
    fn run(mut self) -> Scan {
        let mut now: HashMap<PathBuf, Seen> = HashMap::new();
        for path in self.list(&mut now) {
            let (seen, bytes) = match read(&path) {
                Ok(bytes) => (Seen::Content(Sha256::digest(&bytes).into()), bytes),
                Err(error) => (Seen::Unreadable(format!("cannot be read: {error}")), Vec::new()),
            };
            if self.held.get(&path) != Some(&seen) {
                let origin = path.to_string_lossy();
                match &seen {
                    Seen::Content(_) => self.sink.replace(&origin, parse(&origin, &bytes)),
                    Seen::Unreadable(why) => self.sink.report(&origin, vec![problem(&origin, why)]),
                }
            }
            now.insert(path, seen);
        }
        let gone: Vec<PathBuf> = self.held.keys().filter(|path| !now.contains_key(*path)).cloned().collect();
        for path in gone {
            self.sink.remove(&path.to_string_lossy());
        }
        self.held = now.into_iter().collect();
        self
    }

    /// The files to read, each once. What is wrong with a path as a whole is reported and noted in `now`.
    fn list(&mut self, now: &mut HashMap<PathBuf, Seen>) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for path in &self.paths {
            let found = match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => directory(path),
                Ok(_) => Ok(vec![path.clone()]),
                Err(error) => Err(error.to_string()),
            };
            match found {
                Ok(found) => files.extend(found),
                Err(why) => {
                    let seen = Seen::Unreadable(why.clone());
                    if self.held.get(path) != Some(&seen) {
                        let origin = path.to_string_lossy();
                        // What was a file and is gone takes its objects with it.
                        self.sink.replace(
                            &origin,
                            Parsed { diagnostics: vec![unreadable(&origin, &why)], ..Parsed::default() },
                        );
                    }
                    now.insert(path.clone(), seen);
                }
            }
        }
        files
    }
}

fn problem(origin: &str, why: &str) -> Diagnostic {
    let mut problem = Diagnostic::new(Severity::Error, why);
    problem.file = Some(origin.into());
    problem
}

fn unreadable(origin: &str, why: &str) -> Diagnostic {
    problem(origin, &format!("cannot be read: {why}")).with_help("check the path and its permissions")
}

/// The files of a directory that hold objects.
fn directory(path: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let file = path.join(name);
        let known = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // Links count as what they lead to; a link that leads nowhere is a file that cannot be read.
        if known && !hidden && !file.is_dir() {
            files.push(file);
        }
        if files.len() > MAX_FILES {
            return Err(format!("the directory has more than {MAX_FILES} files of objects"));
        }
    }
    Ok(files)
}

/// Reads a regular file, one byte more than the parser takes at most, so that it can say that there is more.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("this is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
