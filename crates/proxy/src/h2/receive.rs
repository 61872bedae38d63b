//! Frames that come in.

use engine::Nanos;

use super::credit::FRAME;
use super::frame::{self, Broken, Code, DEFAULT_MAX_FRAME, HEADER, Header, Kind, MAX_WINDOW, PREFACE, flag, setting};
use super::state::{Inner, Reset};
use crate::settings::Limits;

/// Where the input stands between two calls.
#[derive(Debug)]
pub(super) struct Incoming {
    stage: Stage,
    /// A DATA frame of which some is to come.
    data: Option<Data>,
    /// A header block of which some is to come; nothing else may come before it is whole.
    block: Option<Block>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client's preface is to come.
    Preface,
    /// SETTINGS are to come.
    Settings,
    Open,
}

#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u32,
    /// Bytes of content.
    content: usize,
    /// Bytes of padding behind it.
    padding: usize,
    end: bool,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
}

impl Incoming {
    pub(super) fn new(is_server: bool) -> Incoming {
        let stage = if is_server { Stage::Preface } else { Stage::Settings };
        Incoming { stage, data: None, block: None }
    }

    /// Whether something has begun that must go on soon: the connection itself, or a header block.
    pub(super) fn hurries(&self) -> bool {
        self.stage != Stage::Open || self.block.is_some()
    }
}

impl Inner {
    /// Takes frames from the start of `input`, and says how many bytes it took. What is left is less than a frame; offer it again
    /// with what follows.
    ///
    /// # Errors
    /// The connection must end.
    pub(super) fn receive(&mut self, input: &[u8], limits: &Limits, now: Nanos) -> Result<usize, Broken> {
        self.credit.fill(now);
        let mut at = 0;
        if self.incoming.stage == Stage::Preface {
            let begun = input.len().min(PREFACE.len());
            if input[..begun] != PREFACE[..begun] {
                return Err(Broken::protocol("the connection does not begin with HTTP/2's preface"));
            }
            if begun < PREFACE.len() {
                return Ok(0);
            }
            self.incoming.stage = Stage::Settings;
            at = begun;
        }
        loop {
            let rest = &input[at..];
            if let Some(data) = self.incoming.data.take() {
                at += self.content(data, rest)?;
                if self.incoming.data.is_some() {
                    return Ok(at);
                }
                continue;
            }
            let Some(bytes) = rest.first_chunk::<HEADER>() else { return Ok(at) };
            let header = Header::parse(bytes);
            self.expect(&header)?;
            let rest = &rest[HEADER..];
            if header.kind == Kind::Data {
                let Some(prefix) = self.data(&header, rest)? else { return Ok(at) };
                at += HEADER + prefix;
                continue;
            }
            let Some(payload) = rest.get(..header.length as usize) else { return Ok(at) };
            self.frame(&header, payload, limits)?;
            at += HEADER + payload.len();
        }
    }

    /// Checks what the frame's place says of it.
    fn expect(&mut self, header: &Header) -> Result<(), Broken> {
        header.check(DEFAULT_MAX_FRAME)?;
        if self.incoming.stage == Stage::Settings {
            if header.kind != Kind::Settings || header.has(flag::ACK) {
                return Err(Broken::protocol("the first frame is not SETTINGS"));
            }
            self.incoming.stage = Stage::Open;
        }
        match (&self.incoming.block, header.kind) {
            (Some(block), Kind::Continuation) if block.stream == header.stream => Ok(()),
            (Some(_), _) => Err(Broken::protocol("a header block is interrupted")),
            (None, Kind::Continuation) => Err(Broken::protocol("CONTINUATION without a header block")),
            (None, _) => Ok(()),
        }
    }

    fn frame(&mut self, header: &Header, payload: &[u8], limits: &Limits) -> Result<(), Broken> {
        match header.kind {
            Kind::Headers => {
                let (block, dependency) = frame::block_of(header.flags, payload)?;
                if dependency == Some(header.stream) {
                    return Err(Broken::protocol("a stream depends on itself"));
                }
                self.block(header, block, limits)
            }
            Kind::Continuation => self.continuation(header, payload, limits),
            Kind::Priority if header.length != 5 => match self.find(header.stream) {
                Some(slot) => self.fail(slot, Code::FrameSize, "PRIORITY of a wrong length"),
                None => Err(Broken::size("PRIORITY of a wrong length")),
            },
            Kind::Reset => self.reset(header.stream, frame::reset_code(payload)),
            Kind::Settings if header.has(flag::ACK) => self.credit.spend(FRAME),
            Kind::Settings => self.settings(payload),
            Kind::Ping => self.ping(header, payload),
            Kind::GoAway => self.goaway(payload),
            Kind::WindowUpdate => self.window_update(header.stream, frame::increment(payload)),
            Kind::Push => Err(Broken::protocol("PUSH_PROMISE, which our settings refuse")),
            // DATA is taken as it comes.
            Kind::Priority | Kind::Unknown(_) | Kind::Data => self.credit.spend(FRAME),
        }
    }

    /// Begins a DATA frame: takes the byte that says how long its padding is, if it has one. `None`: that byte is to come.
    fn data(&mut self, header: &Header, rest: &[u8]) -> Result<Option<usize>, Broken> {
        let length = header.length as usize;
        let (prefix, padding) = match header.has(flag::PADDED) {
            false => (0, 0),
            true if length == 0 => return Err(Broken::size("a padded frame is empty")),
            true => match rest.first() {
                Some(padding) => (1, usize::from(*padding)),
                None => return Ok(None),
            },
        };
        let Some(content) = (length - prefix).checked_sub(padding) else {
            return Err(Broken::protocol("a frame's padding is longer than the frame"));
        };
        if self.is_idle(header.stream) {
            return Err(Broken::protocol("DATA on a stream that was not opened"));
        }
        let Some(window) = self.window.checked_sub(header.length) else {
            return Err(Broken { code: Code::FlowControl, what: "DATA beyond the connection's window" });
        };
        self.window = window;
        let end = header.has(flag::END_STREAM);
        if content == 0 && !end {
            self.credit.spend(FRAME)?;
        }
        self.discard(prefix + padding);
        self.admit(header, content)?;
        self.incoming.data = Some(Data { stream: header.stream, content, padding, end });
        Ok(Some(prefix))
    }

    /// Whether the stream may have this frame; if not, it ends, and the content is dropped as it comes.
    fn admit(&mut self, header: &Header, content: usize) -> Result<(), Broken> {
        // We may have ended the stream before the peer could know: there may be a window full of small frames on its way.
        let Some(slot) = self.find(header.stream) else {
            return if self.was_dropped(header.stream) { Ok(()) } else { self.reset_closed(header.stream) };
        };
        let state = &mut self.slots[slot];
        if state.ended {
            return self.fail(slot, Code::StreamClosed, "DATA behind the end of a stream");
        }
        if !self.is_server && !state.answered {
            return self.fail(slot, Code::ProtocolError, "DATA before the head of an answer");
        }
        let Some(window) = state.window.checked_sub(header.length) else {
            return self.fail(slot, Code::FlowControl, "DATA beyond the stream's window");
        };
        state.window = window;
        // Padding is read as soon as it comes.
        state.taken += header.length - content as u32;
        if let Some(missing) = &mut state.missing {
            match missing.checked_sub(content as u64) {
                Some(rest) => *missing = rest,
                None => return self.fail(slot, Code::ProtocolError, "more content than announced"),
            }
        }
        Ok(())
    }

    /// Takes what has come of a DATA frame.
    fn content(&mut self, mut data: Data, input: &[u8]) -> Result<usize, Broken> {
        let (content, rest) = input.split_at(input.len().min(data.content));
        let padding = rest.len().min(data.padding);
        data.content -= content.len();
        data.padding -= padding;
        let whole = data.content == 0 && data.padding == 0;
        let slot = self.find(data.stream);
        match slot {
            Some(slot) => {
                let state = &mut self.slots[slot];
                if state.start > 0 && state.start == state.input.len() {
                    state.input.clear();
                    state.start = 0;
                }
                state.input.extend_from_slice(content);
                if !content.is_empty() || data.end {
                    state.wake();
                }
            }
            None => self.discard(content.len()),
        }
        if !whole {
            self.incoming.data = Some(data);
        } else if let Some(slot) = slot.filter(|_| data.end) {
            self.ended(slot)?;
        }
        Ok(content.len() + padding)
    }

    /// The peer's half of a stream is over.
    pub(super) fn ended(&mut self, slot: u32) -> Result<(), Broken> {
        let state = &mut self.slots[slot];
        if state.missing.is_some_and(|missing| missing > 0) {
            return self.fail(slot, Code::ProtocolError, "less content than announced");
        }
        state.ended = true;
        state.wake();
        self.settle(slot);
        Ok(())
    }

    fn block(&mut self, header: &Header, block: &[u8], limits: &Limits) -> Result<(), Broken> {
        let end = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.head(header.stream, end, block, limits);
        }
        self.incoming.block = Some(Block { stream: header.stream, end, bytes: block.to_vec() });
        Ok(())
    }

    fn continuation(&mut self, header: &Header, payload: &[u8], limits: &Limits) -> Result<(), Broken> {
        self.credit.spend(FRAME)?;
        let Some(mut block) = self.incoming.block.take() else { return Ok(()) };
        if block.bytes.len() + payload.len() > limits.head_bytes * super::BLOCK_FACTOR {
            return Err(Broken { code: Code::EnhanceYourCalm, what: "a head is far too large" });
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.head(block.stream, block.end, &block.bytes, limits);
        }
        self.incoming.block = Some(block);
        Ok(())
    }

    fn reset(&mut self, stream: u32, code: Code) -> Result<(), Broken> {
        if self.is_idle(stream) {
            return Err(Broken::protocol("RST_STREAM on a stream that was not opened"));
        }
        let Some(slot) = self.find(stream) else { return self.credit.spend(FRAME) };
        self.end(slot, Reset::of_peer(code));
        // A server resets streams that we have opened; how many is up to us.
        if self.is_server { self.credit.spend(super::credit::STREAM) } else { Ok(()) }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        self.credit.spend(FRAME)?;
        for (name, value) in frame::settings(payload) {
            frame::check_setting(name, value)?;
            match name {
                setting::ENABLE_PUSH if value != 0 && !self.is_server => {
                    return Err(Broken::protocol("a server enables pushes"));
                }
                setting::HEADER_TABLE_SIZE => self.encoder.set_max_table_size(value),
                setting::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
                setting::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
                setting::MAX_FRAME_SIZE => self.peer.max_frame = value,
                _ => {}
            }
        }
        frame::write_settings_ack(&mut self.output);
        Ok(())
    }

    /// The windows of all streams move with the initial one (RFC 9113, 6.9.2).
    fn resize_windows(&mut self, size: u32) -> Result<(), Broken> {
        let change = i64::from(size) - i64::from(self.peer.window);
        self.peer.window = size;
        for state in self.slots.iter_mut().filter(|state| state.id > 0) {
            state.allowed += change;
            if state.allowed > i64::from(MAX_WINDOW) {
                return Err(Broken { code: Code::FlowControl, what: "SETTINGS makes a stream's window too large" });
            }
            if state.blocked && state.allowed > 0 {
                state.blocked = false;
                state.wake();
            }
        }
        Ok(())
    }

    fn ping(&mut self, header: &Header, payload: &[u8]) -> Result<(), Broken> {
        self.credit.spend(FRAME)?;
        // The header's check has seen to the length.
        let Ok(opaque) = payload.try_into() else { return Ok(()) };
        if header.has(flag::ACK) {
            self.pong(opaque);
        } else {
            frame::write_ping(true, opaque, &mut self.output);
        }
        Ok(())
    }

    fn goaway(&mut self, payload: &[u8]) -> Result<(), Broken> {
        self.credit.spend(FRAME)?;
        let (last, code) = frame::goaway(payload);
        if code != Code::NoError {
            tracing::debug!(code = code.name(), "an HTTP/2 peer ends the connection");
        }
        if !self.is_server {
            self.leaving = true;
            self.final_stream = Some(last);
            self.end_after(last, Reset::leaving());
        }
        Ok(())
    }

    fn window_update(&mut self, stream: u32, increment: u32) -> Result<(), Broken> {
        self.credit.spend(FRAME)?;
        if stream == 0 {
            if increment == 0 {
                return Err(Broken::protocol("WINDOW_UPDATE of nothing"));
            }
            self.allowed += i64::from(increment);
            if self.allowed > i64::from(MAX_WINDOW) {
                return Err(Broken { code: Code::FlowControl, what: "WINDOW_UPDATE beyond the largest window" });
            }
            self.wake_waiting();
            return Ok(());
        }
        if self.is_idle(stream) {
            return Err(Broken::protocol("WINDOW_UPDATE on a stream that was not opened"));
        }
        let Some(slot) = self.find(stream) else { return Ok(()) };
        let state = &mut self.slots[slot];
        state.allowed += i64::from(increment);
        if increment == 0 {
            return self.fail(slot, Code::ProtocolError, "WINDOW_UPDATE of nothing");
        }
        if state.allowed > i64::from(MAX_WINDOW) {
            return self.fail(slot, Code::FlowControl, "WINDOW_UPDATE beyond the largest window");
        }
        if state.blocked && state.allowed > 0 {
            state.blocked = false;
            state.wake();
        }
        Ok(())
    }
}
