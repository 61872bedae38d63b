//! A stream as its task sees it.

use std::cell::{Ref, RefCell};
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::OUTPUT;
use super::frame::{self, Code, Header, Kind, flag};
use super::hpack::Encoder;
use super::state::{Inner, Reset, Slot};
use crate::end::Fault;
use crate::h1::{Fields, Problem, Request, Response};

/// A stream of a connection. Dropping it resets it where it is not over.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: Rc<RefCell<Inner>>,
    slot: u32,
}

impl Stream {
    /// For a slot that is held.
    pub(super) fn new(inner: &Rc<RefCell<Inner>>, slot: u32) -> Stream {
        Stream { inner: Rc::clone(inner), slot }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Slot) -> T) -> T {
        f(&mut self.inner.borrow_mut().slots[self.slot])
    }

    /// Takes the head of a request, where we are the server. Says why it is not served.
    pub(crate) fn take_request(&self, request: &mut Request) -> Option<Problem> {
        self.with(|slot| {
            mem::swap(&mut slot.request, request);
            slot.refused.take()
        })
    }

    /// Opens the stream with the head of a request, where we are the client. `last`: nothing follows. `head`: its method is HEAD.
    ///
    /// # Errors
    /// The connection takes no streams any more; nothing was sent.
    pub(crate) fn send_request(
        &self,
        last: bool,
        head: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<(), Fault> {
        let mut inner = self.inner.borrow_mut();
        inner.open_own(self.slot)?;
        inner.slots[self.slot].head = head;
        inner.send_block(self.slot, last, encode)
    }

    /// Sends the head of an answer, where we are the server. `last`: nothing follows.
    ///
    /// # Errors
    /// The stream is over.
    pub(crate) fn send_answer(&self, last: bool, encode: impl FnOnce(&mut Encoder, &mut Vec<u8>)) -> Result<(), Fault> {
        self.inner.borrow_mut().send_block(self.slot, last, encode)
    }

    /// Ends our half, with or without trailers.
    ///
    /// # Errors
    /// The stream is over.
    pub(crate) fn finish(&self, trailers: Option<&Fields>) -> Result<(), Fault> {
        let mut inner = self.inner.borrow_mut();
        match trailers {
            Some(trailers) => inner.send_block(self.slot, true, |encoder, out| trailers.encode(encoder, out)),
            None => {
                inner.check_sending(self.slot)?;
                inner.send_data(self.slot, &[], true);
                Ok(())
            }
        }
    }

    /// Sends a short body and ends our half; without it, where it does not fit into the windows.
    pub(crate) fn send_whole(&self, bytes: &[u8]) {
        let mut inner = self.inner.borrow_mut();
        if inner.check_sending(self.slot).is_err() {
            return;
        }
        let window = inner.slots[self.slot].allowed.min(inner.allowed);
        let most = inner.peer.max_frame as usize;
        let fits = bytes.len() <= most && i64::try_from(bytes.len()).is_ok_and(|length| length <= window);
        inner.send_data(self.slot, if fits { bytes } else { &[] }, true);
    }

    /// Sends some of `bytes`, at least one, and says how many. `last`: nothing follows them.
    pub(crate) fn poll_send(&self, cx: &Context<'_>, bytes: &[u8], last: bool) -> Poll<Result<usize, Fault>> {
        let mut inner = self.inner.borrow_mut();
        inner.check_sending(self.slot)?;
        let mut sent = 0;
        while sent < bytes.len() {
            if inner.output.len() >= OUTPUT || inner.allowed <= 0 {
                inner.queue(self.slot);
                inner.slots[self.slot].wait(cx);
                break;
            }
            let state = &mut inner.slots[self.slot];
            if state.allowed <= 0 {
                state.blocked = true;
                state.wait(cx);
                break;
            }
            let window = usize::try_from(state.allowed.min(inner.allowed)).unwrap_or(0);
            let n = window.min(bytes.len() - sent).min(inner.peer.max_frame as usize).min(OUTPUT);
            let end = last && sent + n == bytes.len();
            inner.send_data(self.slot, &bytes[sent..sent + n], end);
            sent += n;
        }
        if sent == 0 && !bytes.is_empty() { Poll::Pending } else { Poll::Ready(Ok(sent)) }
    }

    /// The head of the answer, where we are the client: an interim one, or the final one.
    pub(crate) fn poll_answer(&self, cx: &Context<'_>, response: &mut Response) -> Poll<Result<(), Fault>> {
        let mut inner = self.inner.borrow_mut();
        let failure = inner.failure(self.slot);
        let slot = &mut inner.slots[self.slot];
        if let Some(interim) = slot.interims.pop_front() {
            *response = interim;
            return Poll::Ready(Ok(()));
        }
        if let Some(reset) = failure {
            return Poll::Ready(Err(reset.into()));
        }
        if slot.answered {
            mem::swap(&mut slot.response, response);
            return Poll::Ready(Ok(()));
        }
        slot.wait(cx);
        Poll::Pending
    }

    /// Waits until there is something of the body behind its first `from` unread bytes. False: the body ends there.
    pub(crate) fn poll_body(&self, cx: &Context<'_>, from: usize) -> Poll<Result<bool, Fault>> {
        let mut inner = self.inner.borrow_mut();
        let failure = inner.failure(self.slot);
        let slot = &mut inner.slots[self.slot];
        if let Some(reset) = failure {
            return Poll::Ready(Err(reset.into()));
        }
        if slot.unread().len() > from {
            return Poll::Ready(Ok(true));
        }
        if slot.ended {
            return Poll::Ready(Ok(false));
        }
        slot.wait(cx);
        Poll::Pending
    }

    /// The body behind its first `from` unread bytes, as far as it is there.
    pub(crate) fn body(&self, from: usize) -> Ref<'_, [u8]> {
        Ref::map(self.inner.borrow(), |inner| &inner.slots[self.slot].unread()[from..])
    }

    /// Lets the peer send as much again as the first `n` unread bytes are, which are kept.
    pub(crate) fn keep(&self, n: usize) {
        let mut inner = self.inner.borrow_mut();
        let slot = &mut inner.slots[self.slot];
        if n > slot.seen {
            let more = n - slot.seen;
            slot.seen = n;
            inner.read(self.slot, more);
        }
    }

    /// Forgets the first `n` unread bytes.
    pub(crate) fn consume(&self, n: usize) {
        self.keep(n);
        self.with(|slot| {
            slot.seen -= n;
            slot.start += n;
            if slot.start == slot.input.len() {
                slot.input.clear();
                slot.start = 0;
            } else if slot.start > slot.input.len() / 2 {
                slot.input.drain(..slot.start);
                slot.start = 0;
            }
        });
    }

    /// The trailers, once the body has ended.
    pub(crate) fn trailers(&self) -> Option<Ref<'_, Fields>> {
        let slot = Ref::map(self.inner.borrow(), |inner| &inner.slots[self.slot]);
        slot.has_trailers.then(|| Ref::map(slot, |slot| &slot.trailers))
    }

    /// Whether nothing comes behind what is unread, trailers neither.
    pub(crate) fn ended(&self) -> bool {
        self.with(|slot| slot.ended && !slot.has_trailers)
    }

    /// Whether nothing is unread, and nothing comes.
    pub(crate) fn is_bodiless(&self) -> bool {
        self.with(|slot| slot.ended && !slot.has_trailers && slot.unread().is_empty())
    }

    /// Ready when the stream has ended before its time.
    pub(crate) fn poll_reset(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|slot| {
            if slot.reset.is_some() {
                return Poll::Ready(());
            }
            slot.wait(cx);
            Poll::Pending
        })
    }

    /// Ends the stream before its time.
    pub(crate) fn reset(&self, code: Code) {
        let mut inner = self.inner.borrow_mut();
        let state = &inner.slots[self.slot];
        if state.id == 0 || inner.find(state.id) != Some(self.slot) {
            return;
        }
        let id = state.id;
        inner.end(self.slot, Reset { code, what: "we reset the stream", unprocessed: false });
        inner.write_reset(id, code);
        inner.wake_driver();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A server that has answered does not want the rest of the request (RFC 9113, 8.1).
        let code = self.with(|slot| if slot.finished { Code::NoError } else { Code::Cancel });
        let is_server = self.inner.borrow().is_server;
        self.reset(if is_server { code } else { Code::Cancel });
        let mut inner = self.inner.borrow_mut();
        let slot = &inner.slots[self.slot];
        let unread = slot.unread().len() - slot.seen;
        inner.discard(unread);
        inner.vacate(self.slot);
        if inner.leaving {
            inner.wake_driver();
        }
    }
}

impl Inner {
    fn check_sending(&self, slot: u32) -> Result<(), Reset> {
        let state = &self.slots[slot];
        match state.reset {
            Some(reset) => Err(reset),
            None if state.finished || state.id == 0 => Err(Reset::GONE),
            None => Ok(()),
        }
    }

    /// Sends a header block, which `encode` appends.
    fn send_block(
        &mut self,
        slot: u32,
        last: bool,
        encode: impl FnOnce(&mut Encoder, &mut Vec<u8>),
    ) -> Result<(), Fault> {
        self.check_sending(slot)?;
        let id = self.slots[slot].id;
        self.make_room();
        let start = frame::open_block(&mut self.output);
        encode(&mut self.encoder, &mut self.output);
        frame::close_block(start, id, last, self.peer.max_frame, &mut self.output);
        self.sent(slot, last);
        Ok(())
    }

    /// Sends a DATA frame, for which there is room.
    fn send_data(&mut self, slot: u32, bytes: &[u8], last: bool) {
        let state = &mut self.slots[slot];
        // The caller has seen to it that the windows hold it, and a frame does.
        state.allowed -= bytes.len() as i64;
        self.allowed -= bytes.len() as i64;
        let flags = if last { flag::END_STREAM } else { 0 };
        let header = Header { length: bytes.len() as u32, kind: Kind::Data, flags, stream: state.id };
        self.make_room();
        header.write(&mut self.output);
        self.output.extend_from_slice(bytes);
        self.sent(slot, last);
    }

    /// The driver has taken the output with its memory.
    #[inline]
    fn make_room(&mut self) {
        if self.output.capacity() == 0 {
            self.output = self.slots.memory().lend_output();
        }
    }

    fn sent(&mut self, slot: u32, last: bool) {
        self.credit.earn();
        if last {
            self.slots[slot].finished = true;
            self.settle(slot);
        }
        self.wake_driver();
    }
}
