//! A link: one connection between two sidecars that carries many byte streams, each with HTTP/1.1 inside.
//!
//! Sidecars talk a lot with few peers. On one connection, what many requests want to say leaves in one write and in full TLS
//! records, and arrives in one read; on a connection each, every request pays for two writes, two reads and four records of
//! its own. A stream behaves as a TCP connection does: it is opened once, kept in the pool between requests, ended by halves
//! or cut off, and a reader that is slow stops its writer (a window for each stream, [`WINDOW`]), nobody else.
//!
//! The client opens streams; their numbers rise. One task drives the connection ([`drive`]); everything is of one worker, so
//! nothing is locked.

mod drive;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod incoming;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{Buffer, Buffers};
use crate::pool::PeerHasher;
use frame::{Header, Kind, LARGEST};

pub(crate) use drive::drive;

/// How many bytes of one stream may be on their way or unread.
const WINDOW: u32 = 256 * 1024;

/// Streams do not write while more than this waits for the connection to take it.
const OUTPUT: usize = 64 * 1024;

/// Streams that a client opens on one link before it makes another. By measurement 8 are as cheap as 100; so a lost packet holds
/// up few others, and a server's workers share the links.
pub(crate) const FULL: usize = 16;

/// Most streams that a server lets a client have open on one link; with [`WINDOW`] it bounds what a link holds, 16 MiB.
const STREAMS: usize = 64;

/// Numbers of streams end here; the link is given up long before.
const LAST: u32 = u32::MAX - 1;

/// Which end of a link this is.
pub(crate) enum Role<'a> {
    /// It opens streams.
    Client,
    /// It is given those that the client opens.
    Server(&'a mut dyn FnMut(Stream)),
}

/// One connection's shared state.
#[derive(Debug)]
pub(crate) struct Link {
    inner: RefCell<Inner>,
    /// Their worker's, which streams with unread bytes have their memory of.
    buffers: Rc<RefCell<Buffers>>,
}

#[derive(Debug, Default)]
struct Inner {
    streams: HashMap<u32, Rc<RefCell<Half>>, BuildHasherDefault<PeerHasher>>,
    /// The number of the next stream.
    next: u32,
    /// Frames to be written.
    output: Vec<u8>,
    driver: Option<Waker>,
    /// Counts up each time that `output` is taken to be written: a turn.
    turn: u32,
    /// How many writers waited when this turn began. Each may add its share of [`OUTPUT`] in it, or the first of them would
    /// fill it alone, turn after turn, until its window is closed.
    writers: usize,
    /// Writers that wait for the next turn and had nothing of this one: they come first.
    waiting: Vec<Waker>,
    /// Writers that wait for the next turn and had their share of this one.
    served: Vec<Waker>,
    /// No new streams: the peer leaves, or nobody wants any.
    leaving: bool,
    /// The connection has ended.
    over: bool,
}

/// One stream as its link sees it.
#[derive(Debug)]
struct Half {
    /// Received and not read.
    input: Buffer,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// So many bytes may be sent.
    credit: u32,
    /// Bytes that were read and that the peer has not been told of.
    taken: u32,
    /// The peer's half is over.
    ended: bool,
    /// Our half is over.
    finished: bool,
    /// It was cut off, by either side or with the link.
    reset: bool,
    /// The server did not take it, and has looked at nothing of it.
    refused: bool,
    /// The turn of the link's output in which this stream wrote last, and how much.
    turn: u32,
    written: usize,
}

impl Half {
    fn new() -> Half {
        Half {
            input: Buffer::default(),
            reader: None,
            writer: None,
            credit: WINDOW,
            taken: 0,
            ended: false,
            finished: false,
            reset: false,
            refused: false,
            turn: 0,
            written: 0,
        }
    }

    /// How many bytes can be read; `Ok(0)`: the peer's half is over.
    fn poll_unread(&mut self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        if !self.input.is_empty() || self.ended {
            return Poll::Ready(Ok(self.input.len()));
        }
        if self.reset {
            // The one that no open connection has otherwise: see `Fault::Refused`.
            let kind = if self.refused { io::ErrorKind::ConnectionRefused } else { io::ErrorKind::ConnectionReset };
            return Poll::Ready(Err(kind.into()));
        }
        if !self.reader.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

impl Inner {
    /// Appends a frame without payload.
    fn put(&mut self, kind: Kind, stream: u32) {
        self.output.extend_from_slice(&Header { kind, length: 0, stream }.encode());
        self.wake_driver();
    }

    fn put_window(&mut self, stream: u32, taken: u32) {
        self.output.extend_from_slice(&Header { kind: Kind::Window, length: 4, stream }.encode());
        self.output.extend_from_slice(&taken.to_be_bytes());
        self.wake_driver();
    }

    /// Hands the frames out to be written, in exchange for empty memory, and begins the next turn.
    fn take_output(&mut self, empty: &mut Vec<u8>) {
        mem::swap(empty, &mut self.output);
        self.turn = self.turn.wrapping_add(1);
        self.writers = self.waiting.len() + self.served.len();
        self.waiting.drain(..).chain(self.served.drain(..)).for_each(Waker::wake);
    }

    /// Whether a stream that has `written` so much in this turn has to leave room for others.
    fn has_share(&self, written: usize) -> bool {
        self.writers > 1 && written > 0 && written + LARGEST > OUTPUT / self.writers
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

impl Link {
    /// A link without streams, which borrow from `buffers`.
    pub(crate) fn new(buffers: Rc<RefCell<Buffers>>) -> Rc<Link> {
        Rc::new(Link { inner: RefCell::default(), buffers })
    }

    /// Opens a stream, unless the link is full or takes no more.
    pub(crate) fn open(self: &Rc<Self>) -> Option<Stream> {
        let mut inner = self.inner.borrow_mut();
        if inner.over || inner.leaving || inner.streams.len() >= FULL || inner.next >= LAST {
            return None;
        }
        let number = inner.next;
        inner.next += 1;
        inner.put(Kind::Open, number);
        Some(self.stream(&mut inner, number))
    }

    fn stream(self: &Rc<Self>, inner: &mut Inner, number: u32) -> Stream {
        let half = Rc::new(RefCell::new(Half::new()));
        inner.streams.insert(number, Rc::clone(&half));
        Stream { link: Rc::clone(self), half, number }
    }

    /// Whether new streams can be opened, now or when others have ended.
    pub(crate) fn is_usable(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.over && !inner.leaving && inner.next < LAST
    }

    /// Whether no stream is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.borrow().streams.is_empty()
    }

    /// Nobody opens streams any more: the connection ends with the last of them.
    pub(crate) fn leave(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.leaving = true;
        inner.wake_driver();
    }

    /// The connection has ended, and all streams with it.
    fn end(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.over = true;
        for half in inner.streams.values() {
            let mut half = half.borrow_mut();
            // Whoever has heard everything is not concerned.
            half.reset |= !half.ended;
            half.wake();
        }
        let Inner { waiting, served, .. } = &mut *inner;
        waiting.drain(..).chain(served.drain(..)).for_each(Waker::wake);
    }
}

/// One stream, for whoever uses it as a connection. Dropping it cuts it off unless both halves are over.
#[derive(Debug)]
pub(crate) struct Stream {
    link: Rc<Link>,
    half: Rc<RefCell<Half>>,
    number: u32,
}

impl Stream {
    /// Whether its link takes no new streams, because the peer or we ourselves leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.link.inner.borrow().leaving
    }

    /// Cuts the stream off: the peer sees an error after what was written.
    pub(crate) fn abort(&self) {
        let mut half = self.half.borrow_mut();
        if half.reset {
            return;
        }
        half.reset = true;
        half.wake();
        let mut inner = self.link.inner.borrow_mut();
        if !inner.over {
            inner.put(Kind::Reset, self.number);
        }
    }

    /// How many bytes can be read at once.
    pub(crate) fn unread(&self) -> usize {
        self.half.borrow().input.len()
    }

    /// Whether it is open and there is nothing to read.
    pub(crate) fn is_quiet(&self) -> bool {
        let half = self.half.borrow();
        half.input.is_empty() && !half.ended && !half.reset
    }

    /// Reads by handing over the memory of all that is unread in exchange for `input`, which holds nothing.
    pub(crate) fn poll_take(&self, cx: &Context<'_>, input: &mut Buffer) -> Poll<io::Result<usize>> {
        debug_assert!(input.is_empty());
        let mut half = self.half.borrow_mut();
        let n = ready!(half.poll_unread(cx))?;
        if n > 0 {
            mem::swap(input, &mut half.input);
            self.took(&mut half, n);
        }
        Poll::Ready(Ok(n))
    }

    /// Counts `n` bytes as read, and gives memory back that is not needed any more.
    fn took(&self, half: &mut Half, n: usize) {
        if half.input.is_empty() && half.input.is_allocated() {
            self.link.buffers.borrow_mut().give_back(&mut half.input);
        }
        half.taken += n as u32;
        if half.taken >= WINDOW / 2 && !half.ended && !half.reset {
            self.link.inner.borrow_mut().put_window(self.number, half.taken);
            half.taken = 0;
        }
    }

    /// Sends what fits of `head` and `tail`, as one frame.
    fn poll_put(&self, cx: &mut Context<'_>, head: &[u8], tail: &[u8]) -> Poll<io::Result<usize>> {
        let mut half = self.half.borrow_mut();
        let mut inner = self.link.inner.borrow_mut();
        if half.reset || half.finished || inner.over {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if half.turn != inner.turn {
            (half.turn, half.written) = (inner.turn, 0);
        }
        if inner.output.len() > OUTPUT || inner.has_share(half.written) {
            let queue = if half.written == 0 { &mut inner.waiting } else { &mut inner.served };
            if !queue.iter().any(|waker| waker.will_wake(cx.waker())) {
                queue.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let n = (head.len() + tail.len()).min(LARGEST).min(half.credit as usize);
        if n == 0 && head.len() + tail.len() > 0 {
            half.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if n > 0 {
            half.credit -= n as u32;
            half.written += n;
            inner.output.extend_from_slice(&Header { kind: Kind::Data, length: n, stream: self.number }.encode());
            let first = head.len().min(n);
            inner.output.extend_from_slice(&head[..first]);
            inner.output.extend_from_slice(&tail[..n - first]);
            inner.wake_driver();
        }
        Poll::Ready(Ok(n))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut half = self.half.borrow_mut();
        self.link.buffers.borrow_mut().give_back(&mut half.input);
        let mut inner = self.link.inner.borrow_mut();
        inner.streams.remove(&self.number);
        let whole = half.ended && half.finished;
        if !inner.over && !half.reset && !whole {
            inner.put(Kind::Reset, self.number);
        } else if inner.leaving {
            inner.wake_driver();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut half = self.half.borrow_mut();
        let n = ready!(half.poll_unread(cx))?.min(room.remaining());
        if n > 0 {
            room.put_slice(&half.input.bytes()[..n]);
            half.input.take(n);
            self.took(&mut half, n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, bytes, &[])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bytes {
            [] => Poll::Ready(Ok(0)),
            [head] => self.poll_put(cx, head, &[]),
            [head, tail, ..] => self.poll_put(cx, head, tail),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The link writes by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut half = self.half.borrow_mut();
        let mut inner = self.link.inner.borrow_mut();
        if !half.finished && !half.reset && !inner.over {
            inner.put(Kind::End, self.number);
        }
        half.finished = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
