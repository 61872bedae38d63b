//! Reading ahead of TLS: a system call takes what the socket has, not what one record needs.
//!
//! rustls asks its transport for 4 KiB at a time, so one record of a body (16 KiB) would cost four system calls, and many
//! small records that arrived together one call for each few of them.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one read may bring: two full records (RFC 8446, 5.2) and some more.
const SIZE: usize = 36 * 1024;

/// Unused buffers that a thread keeps. A buffer is in use only while records are taken out of it, so few are enough.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Box<[u8]> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
}

fn give(buffer: Box<[u8]>) {
    // During a thread's end the pool may be gone; then the buffer is simply freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}

/// A TCP connection that is read in large pieces and handed out in small ones. While nothing waits to be handed out it holds
/// no buffer.
#[derive(Debug)]
pub struct ReadAhead {
    tcp: TcpStream,
    held: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl ReadAhead {
    /// Wraps a connection.
    pub fn new(tcp: TcpStream) -> ReadAhead {
        ReadAhead { tcp, held: None, start: 0, end: 0 }
    }

    /// The connection itself. Bytes may have been read from it that are not handed out yet.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        if let Some(buffer) = self.held.take() {
            give(buffer);
        }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_none() {
            let mut buffer = take();
            let mut space = ReadBuf::new(&mut buffer);
            let result = Pin::new(&mut this.tcp).poll_read(cx, &mut space);
            let read = space.filled().len();
            if read == 0 {
                give(buffer);
                return result;
            }
            (this.held, this.start, this.end) = (Some(buffer), 0, read);
        }
        if let Some(buffer) = &this.held {
            let n = (this.end - this.start).min(room.remaining());
            room.put_slice(&buffer[this.start..this.start + n]);
            this.start += n;
        }
        if this.start == this.end
            && let Some(buffer) = this.held.take()
        {
            give(buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_comes_out_in_order_and_the_buffer_goes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut reader = ReadAhead::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..3 * SIZE).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            sender.write_all(&sent).await.unwrap();
            sender
        });
        let mut got = vec![0; expected.len()];
        for piece in got.chunks_mut(1000) {
            reader.read_exact(piece).await.unwrap();
        }
        assert_eq!(got, expected);
        assert!(reader.held.is_none());
        drop(sending.await.unwrap());
        assert_eq!(reader.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
