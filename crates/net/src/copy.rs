//! Bytes both ways between two connections until both have ended.

mod buffer;
mod pipe;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

pub use pipe::Pipe;

/// Live byte counts, readable from another thread while the copy goes on.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes written to `b`.
    pub a_to_b: AtomicU64,
    /// Bytes written to `a`.
    pub b_to_a: AtomicU64,
}

/// What was carried by a copy that came to its natural end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes written to `b`.
    pub a_to_b: u64,
    /// Bytes written to `a`.
    pub b_to_a: u64,
}

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection failed.
    #[error("connection {side:?}: {error}")]
    Failed {
        /// Which one.
        side: Side,
        /// How.
        error: io::Error,
    },
    /// Neither side sent anything for longer than allowed.
    #[error("nothing was sent either way for {0:?}")]
    Idle(Duration),
}

/// Copies both ways. An end of one direction is passed on as a half-close while the other goes on. At most one buffer
/// (4 to 64 KiB, grown while a stream fills it) is held per direction, and none while nothing is in flight, so an idle
/// connection costs no buffer; a slow reader stops the other side's sender. `idle` of zero means no limit.
///
/// # Errors
/// See [`Error`]; `counters` holds what was written until then.
pub async fn bidirectional<A, B>(a: &mut A, b: &mut B, idle: Duration, counters: &Counters) -> Result<Copied, Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    run::<A, B, buffer::Buffer>(a, b, idle, counters).await
}

/// Like [`bidirectional`], with bytes moved inside the kernel by splice(2), and copied to this process only while
/// no descriptors are left for a pipe.
///
/// # Errors
/// See [`Error`].
pub async fn tcp(a: &mut TcpStream, b: &mut TcpStream, idle: Duration, counters: &Counters) -> Result<Copied, Error> {
    run::<TcpStream, TcpStream, pipe::Splice>(a, b, idle, counters).await
}

/// Where bytes are between having been read and having been written.
trait Medium<R, W>: Default {
    fn is_empty(&self) -> bool;
    /// Reads into an empty medium. `false` is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<bool>>;
    /// Writes some of what is held; returns how many bytes.
    fn poll_drain(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<u64>>;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Copying,
    Closing,
    Done,
}

struct Direction<M> {
    medium: M,
    phase: Phase,
    /// Whether something was written that may still wait in the writer's own buffers (TLS).
    unflushed: bool,
    bytes: u64,
}

impl<M: Default> Direction<M> {
    fn new() -> Self {
        Direction { medium: M::default(), phase: Phase::Copying, unflushed: false, bytes: 0 }
    }
}

impl<M> Direction<M> {
    /// Moves what can be moved. An error says whether it was the writer's.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &AtomicU64,
    ) -> Poll<Result<(), (bool, io::Error)>>
    where
        M: Medium<R, W>,
        W: AsyncWrite + Unpin,
    {
        let of_reader = |error| (false, error);
        let of_writer = |error| (true, error);
        loop {
            match self.phase {
                Phase::Done => return Poll::Ready(Ok(())),
                Phase::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(of_writer)?;
                    self.phase = Phase::Done;
                }
                Phase::Copying if self.medium.is_empty() => match self.medium.poll_fill(cx, from) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => self.phase = Phase::Closing,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(of_reader(error))),
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(of_writer)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                Phase::Copying => {
                    let written = ready!(self.medium.poll_drain(cx, to)).map_err(of_writer)?;
                    if written == 0 {
                        return Poll::Ready(Err(of_writer(io::ErrorKind::WriteZero.into())));
                    }
                    self.unflushed = true;
                    self.bytes += written;
                    count.fetch_add(written, Ordering::Relaxed);
                }
            }
        }
    }
}

async fn run<A, B, M>(a: &mut A, b: &mut B, idle: Duration, counters: &Counters) -> Result<Copied, Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    M: Medium<A, B> + Medium<B, A>,
{
    let mut forth = Direction::<M>::new();
    let mut back = Direction::<M>::new();
    let mut timer = IdleTimer::new(idle);
    poll_fn(|cx| {
        let before = (forth.bytes, back.bytes);
        let forth_done = match forth.poll(cx, a, b, &counters.a_to_b) {
            Poll::Ready(Err((writer, error))) => return failed(if writer { Side::B } else { Side::A }, error),
            other => other.is_ready(),
        };
        let back_done = match back.poll(cx, b, a, &counters.b_to_a) {
            Poll::Ready(Err((writer, error))) => return failed(if writer { Side::A } else { Side::B }, error),
            other => other.is_ready(),
        };
        if forth_done && back_done {
            return Poll::Ready(Ok(Copied { a_to_b: forth.bytes, b_to_a: back.bytes }));
        }
        timer.poll(cx, before != (forth.bytes, back.bytes)).map(|()| Err(Error::Idle(idle)))
    })
    .await
}

fn failed(side: Side, error: io::Error) -> Poll<Result<Copied, Error>> {
    Poll::Ready(Err(Error::Failed { side, error }))
}

/// Fires when nothing has moved for the limit. Activity only notes the time; the timer itself is moved when it fires, so a
/// busy connection touches the timer wheel once per limit and not once per read.
struct IdleTimer {
    limit: Duration,
    last: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    fn new(limit: Duration) -> IdleTimer {
        let last = Instant::now();
        let sleep = (!limit.is_zero()).then(|| Box::pin(tokio::time::sleep_until(last + limit)));
        IdleTimer { limit, last, sleep }
    }

    fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        if moved {
            self.last = Instant::now();
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests;
