//! What a connection and its streams share.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::credit::Credit;
use super::frame::{self, Broken, Code, setting};
use super::memo::Memo;
use super::memory::{Memory, Slots};
use super::receive::Incoming;
use super::{CONNECTION_WINDOW, KEEP, STREAM_WINDOW, STREAMS_UNTOLD, WINDOW_PART, hpack};
use crate::h1::{self, Fields, Problem};

/// The window of a stream and of a connection before anybody says otherwise (RFC 9113, 6.9.2).
pub(super) const INITIAL_WINDOW: u32 = 65_535;

/// The table of compressed fields that we keep for the peer, bytes (RFC 9113, 6.5.2: the default).
const TABLE: usize = 4_096;

/// So many of the streams that we have ended are remembered: as many as are usually open at a time, and some more.
const DROPPED: usize = 128;

/// The last stream that a GOAWAY can name, which says no more than that the sender leaves (RFC 9113, 6.8).
const LAST_STREAM: u32 = (1 << 31) - 1;

/// The PING that follows such a GOAWAY: when its answer comes, the peer has read both.
const LEAVING: [u8; 8] = *b"leaving!";

/// Why a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reset {
    pub(crate) code: Code,
    /// What broke which rule; of the peer's own reset nothing is known but the code.
    pub(crate) what: &'static str,
    /// The peer says that it has done nothing with the stream (RFC 9113, 8.7).
    pub(crate) unprocessed: bool,
}

impl Reset {
    /// The connection is gone, and the stream with it.
    pub(super) const GONE: Reset = Reset { code: Code::Cancel, what: "the connection ended", unprocessed: false };

    pub(super) const fn of_peer(code: Code) -> Reset {
        Reset { code, what: "the peer reset the stream", unprocessed: matches!(code, Code::Refused) }
    }

    pub(super) const fn leaving() -> Reset {
        Reset { code: Code::Refused, what: "the peer takes no more streams on the connection", unprocessed: true }
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.code.name())
    }
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Zero until it is opened.
    pub(super) id: u32,
    /// There is a handle.
    pub(super) held: bool,
    pub(super) waker: Option<Waker>,

    /// Where we are the server.
    pub(super) request: h1::Request,
    /// Why it is not served.
    pub(super) refused: Option<Problem>,
    /// Where we are the client.
    pub(super) response: h1::Response,
    /// Interim answers that come before it.
    pub(super) interims: VecDeque<h1::Response>,
    /// `response` is there.
    pub(super) answered: bool,
    /// The request's method was HEAD.
    pub(super) head: bool,

    /// The body that comes, from `start` on unread.
    pub(super) input: Vec<u8>,
    pub(super) start: usize,
    /// So much of what is unread was read by somebody who may want it again: the peer was told to send as much anew.
    pub(super) seen: usize,
    /// How much the peer may still send.
    pub(super) window: u32,
    /// Read, and the peer has not been told.
    pub(super) taken: u32,
    /// Content that was announced and has not come.
    pub(super) missing: Option<u64>,
    pub(super) trailers: Fields,
    /// `trailers` are there.
    pub(super) has_trailers: bool,
    /// The peer's half is over.
    pub(super) ended: bool,

    /// How much we may send; below zero when the peer has made its window smaller.
    pub(super) allowed: i64,
    /// Somebody waits until `allowed` is more.
    pub(super) blocked: bool,
    /// The stream is in [`Inner::waiting`].
    pub(super) queued: bool,
    /// Our half is over.
    pub(super) finished: bool,
    pub(super) reset: Option<Reset>,
}

impl Slot {
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Wakes the calling task when anything happens to the stream.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.input[self.start..]
    }

    /// Begins anew, with the memory of old.
    pub(super) fn renew(&mut self) {
        let old = mem::take(self);
        if old.request.memory() <= KEEP {
            self.request = old.request;
            self.request.reset();
        }
        if old.response.memory() <= KEEP {
            self.response = old.response;
            self.response.reset();
        }
        if old.input.capacity() <= KEEP {
            self.input = old.input;
            self.input.clear();
        }
        if old.trailers.memory() <= KEEP {
            self.trailers = old.trailers;
            self.trailers.clear();
        }
    }
}

/// What the peer has told us.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) window: u32,
    pub(super) max_frame: u32,
    pub(super) streams: u32,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) is_server: bool,
    /// Streams that may be open at a time.
    pub(super) most: u32,
    /// Frames to be written.
    pub(super) output: Vec<u8>,
    pub(super) driver: Option<Waker>,
    /// Streams that wait until `output` is shorter or the connection's window opens.
    waiting: Vec<u32>,
    pub(super) encoder: hpack::Encoder,
    pub(super) decoder: hpack::Decoder,
    /// Blocks that came before.
    pub(super) requests: Memo<h1::Request>,
    pub(super) answers: Memo<h1::Response>,
    pub(super) trailers: Memo<Fields>,
    pub(super) incoming: Incoming,
    pub(super) credit: Credit,
    pub(super) peer: Peer,

    pub(super) slots: Slots,
    /// Streams that are open, by rising id, with their slots.
    open: Vec<(u32, u32)>,
    /// Streams that we have ended before their peer could know, the last ones.
    dropped: VecDeque<u32>,
    /// New streams of the peer.
    pub(super) accepted: VecDeque<u32>,
    /// The last stream that the peer has opened.
    pub(super) last: u32,
    /// The next stream that we open.
    next: u32,

    /// How much we may send on all streams.
    pub(super) allowed: i64,
    /// How much the peer may still send on all streams.
    pub(super) window: u32,
    pub(super) taken: u32,

    /// The peer was told that we leave.
    told: bool,
    /// The last stream that we take.
    pub(super) final_stream: Option<u32>,
    /// No new streams of ours: nobody wants any, or the peer leaves.
    pub(super) leaving: bool,
    /// The connection has ended.
    pub(super) over: bool,
}

impl Inner {
    pub(super) fn new(is_server: bool, most: u32, head_bytes: usize, memory: Rc<Memory>) -> Inner {
        let head_bytes = u32::try_from(head_bytes).unwrap_or(u32::MAX);
        let mut output = Vec::new();
        if !is_server {
            output.extend_from_slice(frame::PREFACE);
        }
        // A client may not open the streams that a server's pushes would be; a server is not pushed to.
        let role = if is_server { (setting::MAX_CONCURRENT_STREAMS, most) } else { (setting::ENABLE_PUSH, 0) };
        let settings =
            [role, (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW), (setting::MAX_HEADER_LIST_SIZE, head_bytes)];
        frame::write_settings(&settings, &mut output);
        frame::write_window_update(0, CONNECTION_WINDOW - INITIAL_WINDOW, &mut output);
        Inner {
            is_server,
            most,
            output,
            driver: None,
            waiting: Vec::new(),
            encoder: hpack::Encoder::new(),
            decoder: hpack::Decoder::new(TABLE),
            requests: Memo::default(),
            answers: Memo::default(),
            trailers: Memo::default(),
            incoming: Incoming::new(is_server),
            credit: Credit::new(),
            peer: Peer { window: INITIAL_WINDOW, max_frame: frame::DEFAULT_MAX_FRAME, streams: STREAMS_UNTOLD },
            slots: Slots::new(memory),
            open: Vec::new(),
            dropped: VecDeque::new(),
            accepted: VecDeque::new(),
            last: 0,
            next: 1,
            allowed: i64::from(INITIAL_WINDOW),
            window: CONNECTION_WINDOW,
            taken: 0,
            told: false,
            final_stream: None,
            leaving: false,
            over: false,
        }
    }

    /// Tells the driver that there is something to write.
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// A slot for a stream that is not open yet.
    pub(super) fn occupy(&mut self) -> u32 {
        let slot = self.slots.take();
        self.slots[slot].held = true;
        slot
    }

    /// Slots that somebody holds.
    pub(super) fn in_use(&self) -> usize {
        self.slots.in_use()
    }

    pub(super) fn open_streams(&self) -> usize {
        self.open.len()
    }

    /// Lets go of a slot; its stream is closed.
    pub(super) fn vacate(&mut self, slot: u32) {
        self.slots.release(slot);
    }

    /// Opens the stream `id`, which is higher than all before it, in `slot`.
    pub(super) fn enter(&mut self, id: u32, slot: u32) {
        let state = &mut self.slots[slot];
        state.id = id;
        state.window = STREAM_WINDOW;
        state.allowed = i64::from(self.peer.window);
        self.open.push((id, slot));
    }

    /// Opens a stream of ours.
    pub(super) fn open_own(&mut self, slot: u32) -> Result<u32, Reset> {
        if self.over {
            return Err(Reset { unprocessed: true, ..Reset::GONE });
        }
        if self.final_stream.is_some() || self.next > LAST_STREAM {
            return Err(Reset::leaving());
        }
        let id = self.next;
        self.next += 2;
        self.enter(id, slot);
        Ok(id)
    }

    /// Whether new streams of ours can be opened.
    pub(super) fn takes_streams(&self) -> bool {
        !self.over && !self.leaving && self.next <= LAST_STREAM
    }

    /// The slot of an open stream.
    pub(super) fn find(&self, id: u32) -> Option<u32> {
        // Most often it is the newest.
        match self.open.last() {
            Some((last, slot)) if *last == id => Some(*slot),
            _ => self.open.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| self.open[at].1),
        }
    }

    /// Whether a stream was never opened by whoever opens such.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match (id % 2 == 1, self.is_server) {
            (true, true) => id > self.last,
            (true, false) => id >= self.next,
            // There are no pushes.
            (false, _) => true,
        }
    }

    /// The stream is no longer open.
    pub(super) fn close(&mut self, id: u32) {
        if let Ok(at) = self.open.binary_search_by_key(&id, |(id, _)| *id) {
            self.open.remove(at);
        }
    }

    /// Closes a stream of which both halves are over.
    pub(super) fn settle(&mut self, slot: u32) {
        let state = &self.slots[slot];
        if state.ended && state.finished {
            let id = state.id;
            self.close(id);
        }
    }

    /// Ends a stream whose peer broke a rule.
    pub(super) fn fail(&mut self, slot: u32, code: Code, what: &'static str) -> Result<(), Broken> {
        let id = self.slots[slot].id;
        tracing::debug!(stream = id, what, code = code.name(), "a peer breaks a rule of HTTP/2");
        self.end(slot, Reset { code, what, unprocessed: false });
        self.write_reset(id, code);
        self.credit.spend(super::credit::STREAM)
    }

    /// Tells the peer that a stream is over, and remembers that more of it may be on its way.
    pub(super) fn write_reset(&mut self, id: u32, code: Code) {
        frame::write_reset(id, code, &mut self.output);
        if self.dropped.len() >= DROPPED {
            self.dropped.pop_front();
        }
        self.dropped.push_back(id);
    }

    /// Whether a frame for this stream, which is not open, was sent in good faith.
    pub(super) fn was_dropped(&self, id: u32) -> bool {
        self.dropped.contains(&id) || self.final_stream.is_some_and(|last| id > last)
    }

    /// A stream ends before its time.
    pub(super) fn end(&mut self, slot: u32, reset: Reset) {
        let state = &mut self.slots[slot];
        state.reset.get_or_insert(reset);
        state.wake();
        let id = state.id;
        self.close(id);
    }

    /// Ends the streams from the one after `last` on.
    pub(super) fn end_after(&mut self, last: u32, reset: Reset) {
        while let Some((id, slot)) = self.open.last().copied().filter(|(id, _)| *id > last) {
            debug_assert_eq!(self.slots[slot].id, id);
            self.end(slot, reset);
        }
    }

    /// Lets a stream wait until `output` is shorter or the connection's window opens.
    pub(super) fn queue(&mut self, slot: u32) {
        if !mem::replace(&mut self.slots[slot].queued, true) {
            self.waiting.push(slot);
        }
    }

    /// Wakes those that wait for it.
    pub(super) fn wake_waiting(&mut self) {
        for slot in self.waiting.drain(..) {
            // A slot may have been let go of since, or serve another stream.
            if let Some(state) = self.slots.get_mut(slot).filter(|state| state.queued) {
                state.queued = false;
                state.wake();
            }
        }
    }

    /// The connection has ended, and all streams with it.
    pub(super) fn finish(&mut self) {
        self.over = true;
        for (_, slot) in mem::take(&mut self.open) {
            let state = &mut self.slots[slot];
            // Whoever has heard everything is told when more is to be sent.
            state.reset.get_or_insert(Reset::GONE);
            state.wake();
        }
    }

    /// `n` bytes of no stream, or of one that nobody reads, were received.
    pub(super) fn discard(&mut self, n: usize) {
        self.took(n);
    }

    /// `n` bytes were read on some stream.
    fn took(&mut self, n: usize) {
        // Never more than was received, which a window bounds.
        self.taken += n as u32;
        if self.taken >= CONNECTION_WINDOW / WINDOW_PART {
            self.window += self.taken;
            frame::write_window_update(0, self.taken, &mut self.output);
            self.taken = 0;
            self.wake_driver();
        }
    }

    /// `n` bytes of a stream's body were read.
    pub(super) fn read(&mut self, slot: u32, n: usize) {
        self.took(n);
        let state = &mut self.slots[slot];
        state.taken += n as u32;
        if state.taken >= STREAM_WINDOW / WINDOW_PART && !state.ended && state.reset.is_none() {
            state.window += state.taken;
            frame::write_window_update(state.id, state.taken, &mut self.output);
            state.taken = 0;
            self.wake_driver();
        }
    }

    /// Begins to leave: the peer is told, and asked for a sign that it has heard.
    pub(super) fn leave(&mut self) {
        if !mem::replace(&mut self.told, true) && self.final_stream.is_none() {
            frame::write_goaway(LAST_STREAM, Code::NoError, &mut self.output);
            frame::write_ping(false, LEAVING, &mut self.output);
        }
    }

    /// Whether the peer was told.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// The answer to a PING of ours.
    pub(super) fn pong(&mut self, opaque: [u8; 8]) {
        if self.told && opaque == LEAVING {
            self.leave_now();
        }
    }

    /// Takes no more streams from now on.
    pub(super) fn leave_now(&mut self) {
        if self.final_stream.is_none() {
            self.final_stream = Some(self.last);
            frame::write_goaway(self.last, Code::NoError, &mut self.output);
        }
    }

    /// Whether nothing is to be done any more but to write what is written.
    pub(super) fn is_done(&self) -> bool {
        match self.is_server {
            true => self.final_stream.is_some() && self.open.is_empty(),
            false => self.leaving && self.in_use() == 0 || self.final_stream.is_some() && self.open.is_empty(),
        }
    }
}
