//! Driving a connection: bytes in and out.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use engine::Nanos;
use tokio::io::AsyncWrite;

use super::OUTPUT;
use super::connection::Connection;
use super::frame::{self, Broken, Code};
use super::stream::Stream;
use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::io::Io;
use crate::send::earlier;
use crate::term::Term;
use crate::worker::{Side, Worker};

/// Input that is held: a whole frame, and as much again, so that large bodies need few reads.
const INPUT: usize = 32 * 1024;

/// After our last word, how long the peer may take to read it and to stop sending. Closing at once would make the kernel throw
/// that word away if more came in.
const LINGER: Nanos = Nanos::from_millis(2_000);

/// And how much it may send meanwhile, bytes.
const LINGER_BYTES: usize = 256 * 1024;

const TOO_SLOW: Broken = Broken { code: Code::SettingsTimeout, what: "the preface or a header block takes too long" };

/// Which end of a connection this is.
pub(crate) enum Role<'a> {
    /// It opens streams.
    Client,
    /// It is given those that the client opens, and ends with its side.
    Server(Side, &'a mut dyn FnMut(Stream)),
}

/// Why a connection ends.
#[derive(Debug)]
enum Ended {
    /// All is said.
    Done,
    /// The peer has gone, or the socket is broken.
    Gone,
    Broken(Broken),
}

/// The socket, with what is half read and half written.
struct Driver<'a> {
    connection: Rc<Connection>,
    worker: &'a Worker,
    role: Role<'a>,
    io: Io,
    input: Buffer,
    /// Being written, from `sent` on.
    sending: Vec<u8>,
    sent: usize,
    unflushed: bool,
    /// The peer sends nothing more.
    eof: bool,
}

/// Carries the frames of `connection` over `io`, of which `input` was read already, until it ends; in any case no longer than for
/// `term`.
pub(crate) async fn drive<'a>(
    worker: &'a Worker,
    connection: Rc<Connection>,
    io: Io,
    input: Buffer,
    role: Role<'a>,
    term: Option<Term>,
) {
    let mut driver =
        Driver { connection, worker, role, io, input, sending: Vec::new(), sent: 0, unflushed: false, eof: false };
    let mut deadline = Deadline::new(worker.shared.clock);
    let ended = driver.run(&mut deadline, term).await;
    if let Ended::Broken(Broken { code, what }) = ended {
        tracing::info!(what, code = code.name(), "an HTTP/2 peer breaks the protocol");
    }
    driver.last_words(&ended);
    if !matches!(ended, Ended::Gone) {
        driver.linger(&mut deadline).await;
    }
    worker.give_back(&mut driver.input);
}

impl Driver<'_> {
    async fn run(&mut self, deadline: &mut Deadline, term: Option<Term>) -> Ended {
        let limits = self.worker.limits();
        let (calm, hurry) = (Nanos::from(limits.keep_alive), Nanos::from(limits.head_timeout));
        let leaves = term.map(|term| term.leaves);
        let mut hurries = true;
        let mut seen = 0;
        deadline.set(earlier(Some(self.worker.now().after(hurry)), leaves));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = self.poll(cx) {
                    return Poll::Ready(ended);
                }
                let now_hurries = self.connection.inner.borrow().incoming.hurries();
                if now_hurries != mem::replace(&mut hurries, now_hurries) {
                    let length = if now_hurries { hurry } else { calm };
                    deadline.set(earlier(Some(self.worker.now().after(length)), leaves));
                }
                if deadline.poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let now = self.worker.now();
                let next = match term {
                    Some(term) if term.is_over(now) => return Poll::Ready(Ended::Gone),
                    Some(term) if term.is_leaving(now) => {
                        self.leave();
                        term.ends
                    }
                    _ if hurries => return Poll::Ready(Ended::Broken(TOO_SLOW)),
                    _ => {
                        self.look_for_use(&mut seen);
                        earlier(Some(now.after(calm)), leaves).unwrap_or(now)
                    }
                };
                deadline.set(Some(next));
            }
        })
        .await
    }

    /// Called now and then: a connection without a stream since the last time is not needed any more. A client's pool gives it up
    /// sooner.
    fn look_for_use(&mut self, seen: &mut u32) {
        let mut inner = self.connection.inner.borrow_mut();
        let unused = mem::replace(seen, inner.last) == inner.last && inner.in_use() == 0;
        if !unused || !inner.is_server {
            return;
        }
        // Who was told before has had all the time there is.
        if inner.is_told() { inner.leave_now() } else { inner.leave() }
    }

    /// Its time is almost over: it ends with its last stream.
    fn leave(&mut self) {
        match self.role {
            Role::Server(..) => self.connection.inner.borrow_mut().leave(),
            Role::Client => self.connection.leave(),
        }
    }

    /// Reads and writes what can be.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.notice_the_end();
        loop {
            let read = self.read(cx);
            let written = self.write(cx);
            match (read, written) {
                (Err(ended), _) | (_, Err(ended)) => return Poll::Ready(ended),
                // There is room for answers again.
                (Ok(false), Ok(())) if self.connection.inner.borrow().output.len() <= 2 * OUTPUT => continue,
                (Ok(_), Ok(())) => {}
            }
            let mut inner = self.connection.inner.borrow_mut();
            let idle = self.sent == self.sending.len() && !self.unflushed;
            if idle && !inner.output.is_empty() {
                continue;
            }
            if idle && inner.is_done() {
                return Poll::Ready(Ended::Done);
            }
            if self.eof {
                return Poll::Ready(Ended::Gone);
            }
            if !inner.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                inner.driver = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
    }

    /// A server that drains says so; when its peers had time to hear it, the connection ends with its last stream.
    fn notice_the_end(&mut self) {
        let Role::Server(side, _) = self.role else { return };
        if !self.worker.draining(side) {
            return;
        }
        let mut inner = self.connection.inner.borrow_mut();
        inner.leave();
        if self.worker.closes_idle(side) {
            inner.leave_now();
        }
    }

    /// Reads until nothing more is there. False: more may be there, which waits until the peer takes our answers.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        loop {
            if !self.input.is_empty() {
                self.receive()?;
            }
            // Answers to what a peer says wait in the output; a peer that does not read them is not listened to.
            if self.eof || self.connection.inner.borrow().output.len() > 2 * OUTPUT {
                return Ok(self.eof);
            }
            if !self.input.is_allocated() {
                self.input = self.worker.lend();
            }
            // Never full: what is not taken at once is less than a frame.
            self.input.make_room(INPUT);
            match self.input.poll_read(&mut self.io, cx) {
                Poll::Ready(Ok(n)) => self.eof = n == 0,
                Poll::Ready(Err(_)) => return Err(Ended::Gone),
                Poll::Pending => {
                    if self.input.is_empty() {
                        self.worker.give_back(&mut self.input);
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// Takes the frames in the input.
    fn receive(&mut self) -> Result<(), Ended> {
        let now = self.worker.now();
        let mut inner = self.connection.inner.borrow_mut();
        let taken = inner.receive(self.input.bytes(), self.worker.limits(), now);
        while let Some(slot) = inner.accepted.pop_front() {
            drop(inner);
            let stream = Stream::new(&self.connection.inner, slot);
            if let Role::Server(_, accept) = &mut self.role {
                accept(stream);
            }
            inner = self.connection.inner.borrow_mut();
        }
        drop(inner);
        self.input.take(taken.map_err(Ended::Broken)?);
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            while self.sent < self.sending.len() {
                match Pin::new(&mut self.io).poll_write(cx, &self.sending[self.sent..]) {
                    Poll::Ready(Ok(n)) if n > 0 => self.sent += n,
                    Poll::Ready(_) => return Err(Ended::Gone),
                    Poll::Pending => return Ok(()),
                }
                self.unflushed = true;
            }
            // An idle connection keeps no memory for it.
            self.worker.give_back_output(mem::take(&mut self.sending));
            self.sent = 0;
            let mut inner = self.connection.inner.borrow_mut();
            if inner.output.is_empty() {
                break;
            }
            self.sending = mem::take(&mut inner.output);
            inner.wake_waiting();
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Ended::Gone),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Ends all streams, and says why the connection ends.
    fn last_words(&mut self, ended: &Ended) {
        let mut inner = self.connection.inner.borrow_mut();
        let code = match ended {
            Ended::Broken(broken) => Some(broken.code),
            Ended::Done if !inner.is_server => Some(Code::NoError),
            Ended::Done | Ended::Gone => None,
        };
        if let Some(code) = code {
            let last = inner.last;
            frame::write_goaway(last, code, &mut inner.output);
        }
        inner.finish();
    }

    /// Writes the last words, and waits a little until the peer has read them.
    async fn linger(&mut self, deadline: &mut Deadline) {
        deadline.set(Some(self.worker.now().after(LINGER)));
        let mut seen = 0;
        let mut shut = false;
        poll_fn(|cx| {
            if !shut {
                if self.write(cx).is_err() {
                    return Poll::Ready(());
                }
                if self.sent < self.sending.len() || self.unflushed {
                    return deadline.poll(cx);
                }
                match Pin::new(&mut self.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return deadline.poll(cx),
                }
            }
            loop {
                let held = self.input.len();
                self.input.take(held);
                if !self.input.is_allocated() {
                    self.input = self.worker.lend();
                }
                self.input.make_room(INPUT);
                match self.input.poll_read(&mut self.io, cx) {
                    Poll::Ready(Ok(n)) if n > 0 && seen < LINGER_BYTES => seen += n,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return deadline.poll(cx),
                }
            }
        })
        .await;
    }
}
