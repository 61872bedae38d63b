//! The access log: one JSON object a line for each request, written by a thread of its own.
//!
//! A worker builds the line in a buffer that comes back to it and hands it over without waiting. When the writer is too
//! slow the line is dropped and counted.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use engine::{Nanos, Reason};

use crate::metrics::Direction;

mod json;

/// Lines that may wait for the writer: at 300 bytes each about 1.2 MiB.
pub const QUEUE_LIMIT: usize = 4096;

/// Empty buffers that may wait to be used again by one worker.
const SPARE_BUFFERS: usize = 64;

/// A buffer that grew above this is not kept.
const SPARE_BYTES: usize = 4096;

/// Lines that wait are written together, up to about this many bytes a system call.
const BATCH_BYTES: usize = 64 * 1024;

/// One request that is over. Absent texts are left out of the line.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When it ended.
    pub time: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// Proved SPIFFE ID of the caller.
    pub identity: Option<&'a str>,
    /// The method; absent for opaque connections.
    pub method: Option<&'a str>,
    /// The path without its query, which often carries secrets.
    pub path: Option<&'a str>,
    /// Host and port that were asked for.
    pub authority: Option<&'a str>,
    /// The status; 0 where there is none.
    pub status: u16,
    /// Why the mesh answered itself.
    pub reason: Option<Reason>,
    /// Route and rule.
    pub route: &'a str,
    /// `namespace/name` of the workload that answered last.
    pub endpoint: Option<&'a str>,
    /// Body bytes from the caller.
    pub bytes_received: u64,
    /// Body bytes to the caller.
    pub bytes_sent: u64,
    /// From the request's first byte to the answer's last.
    pub duration: Nanos,
    /// How often it was sent.
    pub attempts: u32,
    /// What the choice of an instance saw, as JSON, where it was sampled.
    pub decision: Option<&'a str>,
}

/// Where each worker gets its [`Handle`].
#[derive(Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    homes: Arc<Mutex<Vec<SyncSender<Vec<u8>>>>>,
    dropped: Arc<AtomicU64>,
}

/// One worker's end of the log. It can move to the worker's thread but not be shared.
#[derive(Debug)]
pub struct Handle {
    queue: SyncSender<Message>,
    home: usize,
    spare: Receiver<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    /// A line, and which worker its buffer goes back to.
    Line(Vec<u8>, usize),
    /// Tell when everything before this has been written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the thread that writes to `out`. It ends, after writing what waits, when the log and its handles are dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(out: impl Write + Send + 'static) -> std::io::Result<AccessLog> {
        AccessLog::with_limit(out, QUEUE_LIMIT)
    }

    fn with_limit(out: impl Write + Send + 'static, limit: usize) -> std::io::Result<AccessLog> {
        let (sender, queue) = sync_channel(limit);
        let log = AccessLog { queue: sender, homes: Arc::default(), dropped: Arc::default() };
        let homes = Homes { all: Arc::clone(&log.homes), known: Vec::new() };
        let dropped = Arc::clone(&log.dropped);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(out, &queue, homes, &dropped))?;
        Ok(log)
    }

    /// An end of the log for one worker.
    pub fn handle(&self) -> Handle {
        let (home, spare) = sync_channel(SPARE_BUFFERS);
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        homes.push(home);
        Handle { queue: self.queue.clone(), home: homes.len() - 1, spare, dropped: Arc::clone(&self.dropped) }
    }

    /// Waits until everything logged before has been written, at most for `limit`; whether it was. For the end of a process.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, written) = sync_channel(1);
        // The queue may be full; the time limit holds for that as well, so the wait for a place is another thread's.
        let queue = self.queue.clone();
        let sender = std::thread::Builder::new().spawn(move || queue.send(Message::Flush(done)));
        sender.is_ok() && written.recv_timeout(limit).is_ok()
    }

    /// Lines that were lost because the writer was too slow or could not write, for a metric.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Handle {
    /// Logs one request. Never waits.
    pub fn log(&self, entry: &Entry<'_>) {
        let mut bytes = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(512));
        json::write(entry, &mut bytes);
        if self.queue.try_send(Message::Line(bytes, self.home)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where the workers' buffers go back to.
struct Homes {
    all: Arc<Mutex<Vec<SyncSender<Vec<u8>>>>>,
    known: Vec<SyncSender<Vec<u8>>>,
}

impl Homes {
    fn give_back(&mut self, mut bytes: Vec<u8>, home: usize) {
        if bytes.capacity() > SPARE_BYTES {
            return;
        }
        if home >= self.known.len() {
            self.known.clone_from(&self.all.lock().unwrap_or_else(PoisonError::into_inner));
        }
        bytes.clear();
        // A worker that is gone or has spares enough does without.
        let _ = self.known[home].try_send(bytes);
    }
}

fn write_lines(mut out: impl Write, queue: &Receiver<Message>, mut homes: Homes, dropped: &AtomicU64) {
    let mut batch = Vec::with_capacity(BATCH_BYTES);
    let mut flushed = Vec::new();
    // Whatever waits is taken before anything is written.
    while let Ok(first) = queue.recv() {
        let mut lines = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Flush(done) => flushed.push(done),
                Message::Line(bytes, home) => {
                    batch.extend_from_slice(&bytes);
                    lines += 1;
                    homes.give_back(bytes, home);
                }
            }
            next = if batch.len() < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        if out.write_all(&batch).and_then(|()| out.flush()).is_err() {
            dropped.fetch_add(lines, Ordering::Relaxed);
        }
        batch.clear();
        for done in flushed.drain(..) {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests;
