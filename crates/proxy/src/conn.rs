//! An HTTP/1 connection, either way: a byte stream with what was read and what is to be written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::Buffer;
use crate::io::Io;
use crate::worker::Worker;

/// One HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// The bytes.
    pub(crate) io: Io,
    /// Read and not used up.
    pub(crate) input: Buffer,
    /// To be written; [`Conn::poll_flush`] does it.
    pub(crate) output: Vec<u8>,
    /// So much of `output` is written.
    written: usize,
}

impl Conn {
    /// A connection of which `input` was read already.
    pub(crate) fn new(io: Io, input: Buffer) -> Conn {
        Conn { io, input, output: Vec::new(), written: 0 }
    }

    /// Reads once. `Ok(0)`: the peer sends no more. Pending for ever while `limit` bytes or more are held. The buffer grows to
    /// `limit` bytes; one that is larger already, for it comes from another use (64 KiB) or from a stream (its window,
    /// 256 KiB), is filled. A connection that holds nothing and gets nothing keeps no buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, worker: &Worker, limit: usize) -> Poll<io::Result<usize>> {
        let result = match &self.io {
            Io::Stream(stream) if self.input.is_empty() && stream.unread() <= limit => {
                stream.poll_take(cx, &mut self.input)
            }
            _ => {
                if !self.input.is_allocated() {
                    ready!(self.io.poll_readable(cx))?;
                    self.input = worker.lend();
                }
                if !self.input.make_room(limit) {
                    return Poll::Pending;
                }
                self.input.poll_read(&mut self.io, cx)
            }
        };
        if result.is_pending() && self.input.is_empty() && self.input.is_allocated() {
            worker.give_back(&mut self.input);
        }
        result
    }

    /// Writes everything that is to be written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output[self.written..]))?;
            self.wrote(n)?;
        }
        self.output.clear();
        self.written = 0;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Writes what is to be written and then from `tail`, in one call where possible. Says how much of `tail` is written:
    /// at least one byte.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, tail: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let left = self.output.len() - self.written;
            let n = if left == 0 {
                ready!(Pin::new(&mut self.io).poll_write(cx, tail))?
            } else {
                let slices = [IoSlice::new(&self.output[self.written..]), IoSlice::new(tail)];
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices))?
            };
            if n > left {
                self.output.clear();
                self.written = 0;
                return Poll::Ready(Ok(n - left));
            }
            self.wrote(n)?;
        }
    }

    fn wrote(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += n;
        Ok(())
    }

    /// How much is still to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.output.len() - self.written
    }

    /// Gives unused memory back, before the connection waits for long.
    pub(crate) fn rest(&mut self, worker: &Worker) {
        if self.input.is_empty() && self.input.is_allocated() {
            worker.give_back(&mut self.input);
        }
        if self.output.is_empty() && self.output.capacity() > 0 {
            worker.give_back_output(std::mem::take(&mut self.output));
        }
    }
}

/// What was read before comes first. Nothing may be waiting in `output`.
impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.input.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, room);
        }
        let n = this.input.len().min(room.remaining());
        room.put_slice(&this.input.bytes()[..n]);
        this.input.take(n);
        if this.input.is_empty() {
            this.input = Buffer::default();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
