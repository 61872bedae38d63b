//! Buffers that are taken when bytes arrive and given back when they have left.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Medium;

/// What a quiet connection starts with: more than most requests and replies of small protocols.
const SMALLEST: usize = 4 * 1024;
/// Where growth ends: beyond it fewer system calls no longer pay (a TLS record is 16 KiB, a socket buffer a few hundred).
const LARGEST: usize = 64 * 1024;
/// Buffers of one size that a thread keeps for the next connection; they bound what an idle thread holds to about 1.4 MiB.
const KEPT: usize = 16;
/// 4, 8, 16, 32 and 64 KiB.
const SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;

thread_local! {
    static POOL: RefCell<[Vec<Box<[u8]>>; SIZES]> = RefCell::default();
}

fn take(class: usize) -> Box<[u8]> {
    let pooled = POOL.with_borrow_mut(|pool| pool[class].pop());
    pooled.unwrap_or_else(|| vec![0; SMALLEST << class].into_boxed_slice())
}

fn give(class: usize, buffer: Box<[u8]>) {
    // During a thread's end the pool may be gone; then the buffer is simply freed.
    let _ = POOL.try_with(|pool| {
        let kept = &mut pool.borrow_mut()[class];
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    });
}

/// One direction's bytes in this process.
#[derive(Default)]
pub(super) struct Buffer {
    held: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// Index of the size to use: grows when a read fills the buffer, shrinks when one would have fitted half of the next smaller.
    class: usize,
}

impl Buffer {
    fn release(&mut self) {
        if let Some(buffer) = self.held.take() {
            let class = (buffer.len() / SMALLEST).ilog2() as usize;
            give(class, buffer);
        }
        self.start = 0;
        self.end = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

impl<R, W> Medium<R, W> for Buffer
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<bool>> {
        let buffer = self.held.get_or_insert_with(|| take(self.class));
        let size = buffer.len();
        let mut space = ReadBuf::new(buffer);
        let result = Pin::new(from).poll_read(cx, &mut space);
        let read = space.filled().len();
        match result {
            Poll::Ready(Ok(())) if read > 0 => {
                (self.start, self.end) = (0, read);
                if read == size && self.class + 1 < SIZES {
                    self.class += 1;
                } else if read < size / 4 && self.class > 0 {
                    self.class -= 1;
                }
                Poll::Ready(Ok(true))
            }
            other => {
                self.release();
                other.map_ok(|()| false)
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<u64>> {
        let held = self.held.as_deref().unwrap_or_default();
        let written = ready!(Pin::new(to).poll_write(cx, &held[self.start..self.end]))?;
        self.start += written;
        if self.start == self.end {
            // Given back before the next read, which may want another size, or none for a long time.
            self.release();
        }
        Poll::Ready(Ok(written as u64))
    }
}
