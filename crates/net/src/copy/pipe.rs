//! Pipes through which splice(2) moves bytes between two sockets without copying them to this process.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Medium;
use super::buffer::Buffer;

/// What one call asks for. A pipe has 16 places by default, and one holds a whole fragment of a packet, which is larger than a
/// page where packets are (loopback, segmentation offload).
const CHUNK: usize = 512 * 1024;
/// Empty pipes that a thread keeps for the next connection (two descriptors each).
const KEPT: usize = 16;

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

fn take() -> Option<Ends> {
    if let Some(ends) = POOL.with_borrow_mut(Vec::pop) {
        return Some(ends);
    }
    // Whatever is the matter (EMFILE, ENFILE), the bytes can be copied.
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
    Some(Ends { read, write })
}

/// Only for an empty pipe: another connection gets it next.
fn give(ends: Ends) {
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(ends);
        }
    });
}

/// One direction's bytes in the kernel. Holds a pipe only while bytes are in it, so a quiet connection costs none.
#[derive(Debug, Default)]
pub struct Pipe {
    held: Option<Ends>,
    bytes: usize,
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

fn would_block(errno: Errno) -> io::Error {
    // EAGAIN becomes `WouldBlock`, which is what `try_io` looks for.
    errno.into()
}

impl Pipe {
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Reads at most `most` bytes from `from` into an empty pipe, and says how many; zero is the end of the stream. `None`: there is
    /// something to read, and no pipe can be made, since descriptors are used up.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        most: usize,
    ) -> Poll<io::Result<Option<usize>>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let Some(ends) = self.held.take().or_else(take) else { return Poll::Ready(Ok(None)) };
            // The pipe is empty, so "would block" can only mean that the socket has nothing.
            let moved = from.try_io(Interest::READABLE, || {
                splice(&*from, None, &ends.write, None, most.min(CHUNK), flags()).map_err(would_block)
            });
            match moved {
                Ok(0) => {
                    give(ends);
                    return Poll::Ready(Ok(Some(0)));
                }
                Ok(bytes) => {
                    self.held = Some(ends);
                    self.bytes = bytes;
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Err(error) => {
                    give(ends);
                    match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                        _ => return Poll::Ready(Err(error)),
                    }
                }
            }
        }
    }

    /// Writes some of what is held to `to`, and says how many bytes.
    ///
    /// # Errors
    /// The connection failed.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.held else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || {
                splice(&ends.read, None, &*to, None, self.bytes, flags()).map_err(would_block)
            });
            match moved {
                Ok(bytes) => {
                    self.bytes -= bytes;
                    if self.bytes == 0
                        && let Some(ends) = self.held.take()
                    {
                        give(ends);
                    }
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// A pipe, or a buffer for as long as none can be made.
#[derive(Default)]
pub(super) struct Splice {
    pipe: Pipe,
    buffer: Buffer,
}

impl Medium<TcpStream, TcpStream> for Splice {
    fn is_empty(&self) -> bool {
        self.pipe.is_empty() && Medium::<TcpStream, TcpStream>::is_empty(&self.buffer)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut TcpStream) -> Poll<io::Result<bool>> {
        match ready!(self.pipe.poll_fill(cx, from, CHUNK))? {
            Some(bytes) => Poll::Ready(Ok(bytes > 0)),
            None => Medium::<TcpStream, TcpStream>::poll_fill(&mut self.buffer, cx, from),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> Poll<io::Result<u64>> {
        if self.pipe.is_empty() {
            return Medium::<TcpStream, TcpStream>::poll_drain(&mut self.buffer, cx, to);
        }
        self.pipe.poll_drain(cx, to).map_ok(|bytes| bytes as u64)
    }
}
