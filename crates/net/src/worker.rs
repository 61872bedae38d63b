//! Data-path threads: one current-thread runtime each, nothing shared that a request needs.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

use crate::schedule;

/// Task polls between two looks at the sockets. tokio's default is 61; a proxy's tasks are short and mostly wait for sockets,
/// so half of that bounds how long a burst on some connections may keep the events of others unseen.
const EVENT_INTERVAL: u32 = 31;

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    /// Resolves, with or without a value, when the worker has ended.
    ended: oneshot::Receiver<()>,
}

/// Why the workers did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thread could not be started.
    #[error("starting worker {0}: {1}")]
    Start(usize, io::Error),
    /// A worker panicked, which is a defect.
    #[error("worker {0} panicked: {1}")]
    Panicked(usize, String),
}

/// Starts `n` threads called `name-0`, `name-1`, …; each runs `f(index)` on a current-thread runtime of its own, where
/// `tokio::task::spawn_local` and futures that are not `Send` work. A worker's tasks end when its future does.
///
/// # Errors
/// A thread or its runtime cannot be made; workers already started go on until their future ends.
pub fn spawn<F, Fut>(n: usize, name: &str, f: F) -> Result<Workers, Error>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut threads = Vec::with_capacity(n);
    for index in 0..n {
        let f = f.clone();
        let (end, ended) = oneshot::channel();
        let runtime = move || {
            Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .on_thread_start(schedule::not_inherited) // Those that look names up for it.
                .build_local(LocalOptions::default())
        };
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("{name}-{index}"))
            .spawn(move || {
                // Dropped on every way out of this thread, a panic included.
                let _end: oneshot::Sender<()> = end;
                match runtime() {
                    Ok(runtime) => {
                        let _ = report.send(Ok(()));
                        // Inside, so that `f` itself may already make sockets and tasks.
                        runtime.block_on(async move { f(index).await });
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })
            .map_err(|error| Error::Start(index, error))?;
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))
            .map_err(|error| Error::Start(index, error))?;
        threads.push(Worker { thread, ended });
    }
    Ok(Workers { threads })
}

impl Workers {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Waits until every worker has ended.
    ///
    /// # Errors
    /// The first panic, as soon as it happens: a data path that lost a worker is not healthy, and its connections are gone.
    pub async fn finished(self) -> Result<(), Error> {
        let mut running: Vec<_> = self.threads.into_iter().enumerate().collect();
        while !running.is_empty() {
            let position = std::future::poll_fn(|cx| {
                let ended = running
                    .iter_mut()
                    .position(|(_, worker)| std::pin::Pin::new(&mut worker.ended).poll(cx).is_ready());
                ended.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
            })
            .await;
            let (index, worker) = running.swap_remove(position);
            // The thread has nothing left to do, so this does not block for any time worth naming.
            worker.thread.join().map_err(|panic| Error::Panicked(index, panic_text(&*panic)))?;
        }
        Ok(())
    }
}

/// The message of a panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests;
