//! Gathering what HTTP/2 writes: the `h2` crate writes and flushes after every frame of data that it does not copy (from 256
//! bytes on), so each stream's answer would be a system call, and a TLS record, of its own.
//!
//! A [`Gather`] keeps small writes and takes flushes for granted; its [`Outlet`] writes them together when the connection's task
//! has nothing more to say for now.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is gathered. One write larger than that, or that it has no room for, goes out with what is gathered already.
const MOST: usize = 32 * 1024;

/// Most pieces of one write.
const PIECES: usize = 64;

/// A connection whose small writes are gathered.
#[derive(Debug)]
pub(crate) struct Gather<T>(Rc<RefCell<Inner<T>>>);

/// Writes what was gathered.
#[derive(Debug)]
pub(crate) struct Outlet<T>(Rc<RefCell<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    io: T,
    gathered: Vec<u8>,
    /// So much of it is written.
    written: usize,
}

/// Gathers what is written to `io`.
pub(crate) fn around<T>(io: T) -> (Gather<T>, Outlet<T>) {
    let inner = Rc::new(RefCell::new(Inner { io, gathered: Vec::new(), written: 0 }));
    (Gather(Rc::clone(&inner)), Outlet(inner))
}

impl<T: AsyncWrite + Unpin> Outlet<T> {
    /// Drives `future`, which writes to the connection, and writes what it has said whenever it waits and when it ends.
    pub(crate) async fn driving<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let result = future.as_mut().poll(cx);
            // A connection that has failed tells whoever reads from it.
            let _ = self.0.borrow_mut().poll_out(cx);
            result
        })
        .await
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn waiting(&self) -> usize {
        self.gathered.len() - self.written
    }

    /// Writes what is gathered.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            ready!(self.poll_with(cx, &[]))?;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Writes once: what is gathered, then `more`. Says how much of `more` is written, which may be nothing.
    fn poll_with(&mut self, cx: &mut Context<'_>, more: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let waiting = self.waiting();
        let mut slices = [IoSlice::new(&[]); PIECES];
        slices[0] = IoSlice::new(&self.gathered[self.written..]);
        let count = more.len().min(PIECES - 1);
        slices[1..=count].copy_from_slice(&more[..count]);
        let from = usize::from(waiting == 0);
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[from..=count]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if n < waiting {
            self.written += n;
            return Poll::Ready(Ok(0));
        }
        // An idle connection keeps no memory for it.
        self.gathered = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(n - waiting))
    }

    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bytes.iter().map(|slice| slice.len()).sum::<usize>();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.waiting() + length <= MOST {
                if self.written > 0 {
                    self.gathered.drain(..mem::take(&mut self.written));
                }
                bytes.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
                return Poll::Ready(Ok(length));
            }
            let n = ready!(self.poll_with(cx, bytes))?;
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, room)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_put(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_put(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The outlet does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Says how much arrives in one read.
    async fn arrives(reader: &mut tokio::io::DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let n = reader.read(&mut bytes).await.unwrap();
        bytes.truncate(n);
        bytes
    }

    #[tokio::test]
    async fn small_writes_leave_together_when_their_writer_waits() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut gather, outlet) = around(near);
        let writer = outlet.driving(async {
            for piece in [b"one ".as_slice(), b"two ", b"three"] {
                gather.write_all(piece).await.unwrap();
                gather.flush().await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let mut writer = pin!(writer);
        assert!(poll_fn(|cx| Poll::Ready(writer.as_mut().poll(cx).is_pending())).await);
        assert_eq!(arrives(&mut far).await, b"one two three");
    }

    #[tokio::test]
    async fn large_writes_and_a_peer_that_reads_slowly_keep_the_order() {
        let sent: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        let (near, mut far) = tokio::io::duplex(1_000);
        let (mut gather, outlet) = around(near);
        let expected = sent.clone();
        let writer = async {
            let mut left = sent.as_slice();
            for length in [10, 40_000, 5, 32 * 1024, 7, 100_000].into_iter().cycle() {
                let (piece, rest) = left.split_at(length.min(left.len()));
                gather.write_all(piece).await.unwrap();
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            gather.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        tokio::join!(outlet.driving(writer), async { far.read_to_end(&mut got).await.unwrap() });
        assert!(got == expected);
    }
}
