//! A stock of unconnected sockets from inside.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::BATCH;
use crate::handoff::Channel;

/// When fewer are left, the next batch is asked for.
const LOW: usize = BATCH / 2;

/// A question that is not answered for this long was lost with the helper that got it, and is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Unconnected sockets inside. Taking one does not wait, unless connections are opened faster than a helper makes sockets.
#[derive(Clone, Debug)]
pub struct Sockets {
    stock: Arc<Stock>,
    _filling: Arc<Filling>,
}

#[derive(Debug, Default)]
struct Stock {
    sockets: Mutex<VecDeque<OwnedFd>>,
    came: Notify,
    wanted: Notify,
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
        loop {
            let came = self.stock.came.notified();
            if let Some(socket) = self.stock.take() {
                return TcpSocket::from_std_stream(socket.into());
            }
            came.await;
        }
    }
}

async fn fill(stock: Arc<Stock>, channel: Channel) {
    loop {
        if stock.count() >= LOW {
            stock.wanted.notified().await;
            continue;
        }
        // An error means that the helper reads nothing or is gone; another one comes to the same channel.
        let _ = channel.send(b"sockets", &[]);
        match tokio::time::timeout(ASK_AGAIN, channel.receive()).await {
            Ok(Ok(message)) if message.bytes.is_empty() => return,
            Ok(Ok(message)) => stock.add(message.descriptors),
            Ok(Err(error)) => {
                tracing::warn!(%error, "sockets inside cannot be received");
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(_) => {}
        }
    }
}

impl Stock {
    fn count(&self) -> usize {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).len()
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
}
