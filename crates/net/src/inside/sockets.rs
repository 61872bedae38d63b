//! A stock of unconnected sockets from inside.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::BATCH;
use crate::handoff::Channel;

/// When fewer are left, the next batch is asked for.
const LOW: usize = BATCH / 2;

/// A question that is not answered for this long was lost with the helper that got it, and is asked again. Who got nothing, for
/// want of descriptors on either side, waits as long.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Unconnected sockets inside. Taking one does not wait, unless connections are opened faster than a helper makes sockets.
#[derive(Clone, Debug)]
pub struct Sockets {
    stock: Arc<Stock>,
    _filling: Arc<Filling>,
}

#[derive(Debug, Default)]
struct Stock {
    sockets: Mutex<VecDeque<OwnedFd>>,
    /// How many wait for one.
    waiting: AtomicUsize,
    came: Notify,
    wanted: Notify,
}

/// One that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Waiting<'a> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The task that fills a stock, ended with the last of its owners.
#[derive(Debug)]
struct Filling(AbortHandle);

impl Drop for Filling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Sockets {
    /// Keeps a stock that is filled over `channel`, an end of the pair whose other end the helper has. Call it inside the
    /// runtime that fills it; others may take from it.
    ///
    /// # Errors
    /// The channel cannot be waited for.
    pub fn start(channel: OwnedFd) -> io::Result<Sockets> {
        let channel = Channel::new(channel)?;
        let stock = Arc::new(Stock::default());
        let task = tokio::spawn(fill(Arc::clone(&stock), channel));
        Ok(Sockets { stock, _filling: Arc::new(Filling(task.abort_handle())) })
    }

    /// An unconnected TCP socket. Bound the wait: without a helper there may be none for a while. Cancel safe.
    pub async fn take(&self) -> TcpSocket {
        let socket = match self.stock.take() {
            Some(socket) => socket,
            None => self.stock.wait().await,
        };
        TcpSocket::from_std_stream(socket.into())
    }
}

/// This process had no descriptors for an answer. Until some time has passed, sockets are asked for by those alone who wait for
/// one: a stock of them would take the descriptors from the connections that they are for.
struct Short {
    /// Most sockets of an answer.
    most: usize,
    until: Instant,
}

async fn fill(stock: Arc<Stock>, channel: Channel) {
    let mut short: Option<Short> = None;
    loop {
        short = short.filter(|short| Instant::now() < short.until);
        let asked = match &short {
            Some(short) => stock.missing().min(short.most),
            None if stock.count() < LOW => BATCH,
            None => 0,
        };
        if asked == 0 {
            stock.wanted.notified().await;
            continue;
        }
        // An error means that the helper reads nothing or is gone; another one comes to the same channel.
        let _ = channel.send(asked.to_string().as_bytes(), &[]);
        match tokio::time::timeout(ASK_AGAIN, channel.receive()).await {
            Ok(Ok(message)) if message.bytes.is_empty() => return,
            // The helper has no descriptor, or the system no memory.
            Ok(Ok(message)) if message.descriptors.is_empty() => tokio::time::sleep(ASK_AGAIN).await,
            Ok(Ok(message)) => stock.add(message.descriptors),
            Ok(Err(error)) => {
                if asked == 1 || error.kind() != io::ErrorKind::InvalidData {
                    tracing::warn!(%error, "sockets inside cannot be received");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                short = Some(Short { most: (asked / 2).max(1), until: Instant::now() + ASK_AGAIN });
            }
            Err(_) => {}
        }
    }
}

impl Stock {
    fn count(&self) -> usize {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many wait for more than there is.
    fn missing(&self) -> usize {
        self.waiting.load(Ordering::Relaxed).saturating_sub(self.count())
    }

    fn add(&self, sockets: Vec<OwnedFd>) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).extend(sockets);
        self.came.notify_waiters();
    }

    fn take(&self) -> Option<OwnedFd> {
        let (taken, left) = {
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            (sockets.pop_front(), sockets.len())
        };
        if left < LOW {
            self.wanted.notify_one();
        }
        taken
    }
    /// Waits for one. Cancel safe.
    async fn wait(&self) -> OwnedFd {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let came = self.came.notified();
            if let Some(socket) = self.take() {
                return socket;
            }
            came.await;
        }
    }
}
