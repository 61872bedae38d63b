//! Driving a link's connection: frames in and out.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use engine::Nanos;
use tokio::io::AsyncWrite;

use super::frame::{Kind, Malformed};
use super::incoming::Incoming;
use super::{Link, OUTPUT, Role};
use crate::deadline::Deadline;
use crate::io::Io;
use crate::send::earlier;
use crate::term::Term;
use crate::worker::{Side, Worker};

/// Memory for output that is kept while there is none.
const KEEP: usize = 32 * 1024;

/// The connection itself, with what is half read and half written.
struct Driver<'a> {
    link: Rc<Link>,
    worker: &'a Worker,
    role: Role<'a>,
    io: Io,
    incoming: Incoming,
    /// Being written, from `sent` on.
    sending: Vec<u8>,
    sent: usize,
    unflushed: bool,
    /// The peer was told that we leave.
    told: bool,
}

/// Why a connection ended that was not to end.
#[derive(Debug)]
enum Broken {
    Io,
    Malformed(Malformed),
}

/// Carries the frames of `link` over `io` until the connection ends, or until the last stream has ended after one side left; in
/// any case no longer than for `term`.
pub(crate) async fn drive<'a>(worker: &'a Worker, link: Rc<Link>, io: Io, role: Role<'a>, term: Option<Term>) {
    let mut driver = Driver {
        link,
        worker,
        role,
        io,
        incoming: Incoming::default(),
        sending: Vec::new(),
        sent: 0,
        unflushed: false,
        told: false,
    };
    let keep_alive = Nanos::from(worker.limits().keep_alive);
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(earlier(Some(worker.now().after(keep_alive)), term.map(|term| term.leaves)));
    let mut idle = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = driver.poll(cx) {
                return Poll::Ready(ended);
            }
            if deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = worker.now();
            let mut next = now.after(keep_alive);
            match term {
                Some(term) if term.is_over(now) => return Poll::Ready(Ok(())),
                Some(term) if term.is_leaving(now) => {
                    driver.leave();
                    next = term.ends;
                }
                _ => {
                    // Without a stream twice in a row: nobody needs the connection. A client's pool gives it up sooner.
                    let was_idle = mem::replace(&mut idle, driver.link.is_idle());
                    if was_idle && idle {
                        driver.link.leave();
                    }
                    next = earlier(Some(next), term.map(|term| term.leaves)).unwrap_or(next);
                }
            }
            deadline.set(Some(next));
        }
    })
    .await;
    if let Err(Broken::Malformed(Malformed(what))) = ended {
        tracing::info!(what, "a link's peer breaks the protocol");
    }
    driver.link.end();
}

impl Driver<'_> {
    /// Writes and reads what can be. Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.notice_the_end();
        loop {
            self.write(cx)?;
            if self.read(cx)? {
                return Poll::Ready(Ok(()));
            }
            let mut inner = self.link.inner.borrow_mut();
            let written = self.sent == self.sending.len() && !self.unflushed;
            if written && !inner.output.is_empty() {
                continue;
            }
            if written && inner.leaving && inner.streams.is_empty() {
                drop(inner);
                // Nothing is lost if it does not go out at once: every stream has ended.
                let _ = Pin::new(&mut self.io).poll_shutdown(cx);
                return Poll::Ready(Ok(()));
            }
            if !inner.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                inner.driver = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
    }

    /// A server that drains says so; when its peers had time to hear it, the link ends with its last stream.
    fn notice_the_end(&mut self) {
        if !matches!(self.role, Role::Server(_)) || !self.worker.draining(Side::In) {
            return;
        }
        self.tell();
        self.link.inner.borrow_mut().leaving |= self.worker.closes_idle(Side::In);
    }

    /// Its time is almost over: it ends with its last stream.
    fn leave(&mut self) {
        if matches!(self.role, Role::Server(_)) {
            self.tell();
        }
        self.link.leave();
    }

    /// Tells the client that it shall open no more streams.
    fn tell(&mut self) {
        if !mem::replace(&mut self.told, true) {
            self.link.inner.borrow_mut().put(Kind::Leave, 0);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        loop {
            while self.sent < self.sending.len() {
                match Pin::new(&mut self.io).poll_write(cx, &self.sending[self.sent..]) {
                    Poll::Ready(Ok(n)) if n > 0 => self.sent += n,
                    Poll::Ready(_) => return Err(Broken::Io),
                    Poll::Pending => return Ok(()),
                }
                self.unflushed = true;
            }
            self.sending.clear();
            self.sending.shrink_to(KEEP);
            self.sent = 0;
            let mut inner = self.link.inner.borrow_mut();
            if inner.output.is_empty() {
                break;
            }
            inner.take_output(&mut self.sending);
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Broken::Io),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Says whether the peer has ended the connection.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        loop {
            // Answers to what a peer says wait in the output; a peer that does not read them is not listened to.
            if self.link.inner.borrow().output.len() > 2 * OUTPUT {
                return Ok(false);
            }
            match self.io.poll_decrypted(cx) {
                Poll::Ready(Ok([])) => return Ok(true),
                Poll::Ready(Ok(bytes)) => {
                    self.incoming.take(&self.link, bytes, &mut self.role).map_err(Broken::Malformed)?;
                    let taken = bytes.len();
                    self.io.consume(taken);
                }
                Poll::Ready(Err(_)) => return Err(Broken::Io),
                Poll::Pending => return Ok(false),
            }
        }
    }
}
