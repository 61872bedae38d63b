//! Header blocks that come in: heads of requests and answers, trailers.

use super::frame::{Broken, Code};
use super::hpack;
use super::state::{Inner, Reset};
use crate::h1::{Framing, Receipt};
use crate::settings::Limits;

/// Goes through a block, whoever wants it or not: the table must stay in step with the peer's.
fn decode(decoder: &mut hpack::Decoder, block: &[u8], mut take: impl FnMut(&[u8], &[u8], bool)) -> Result<(), Broken> {
    let decoded = decoder.decode(block, &mut take);
    decoded.map_err(|_| Broken { code: Code::Compression, what: "a header block cannot be decompressed" })
}

impl Inner {
    /// Takes a whole header block.
    pub(super) fn head(&mut self, stream: u32, end: bool, block: &[u8], limits: &Limits) -> Result<(), Broken> {
        match (self.find(stream), self.is_server) {
            (Some(slot), true) => self.trailers(slot, end, block, limits),
            (Some(slot), false) if self.slots[slot].answered => self.trailers(slot, end, block, limits),
            (Some(slot), false) => self.answer(slot, end, block, limits),
            (None, true) if stream > self.last && stream % 2 == 1 => self.request(stream, end, block, limits),
            (None, _) if self.is_idle(stream) => Err(Broken::protocol("HEADERS on a stream that cannot be opened")),
            (None, true) if !self.was_dropped(stream) => {
                Err(Broken { code: Code::StreamClosed, what: "HEADERS on a stream that is over" })
            }
            (None, _) => {
                // We may have ended the stream before the peer could know.
                decode(&mut self.decoder, block, |_, _, _| {})?;
                self.credit.spend(super::credit::FRAME)
            }
        }
    }

    fn request(&mut self, stream: u32, end: bool, block: &[u8], limits: &Limits) -> Result<(), Broken> {
        self.last = stream;
        if self.final_stream.is_some() {
            return decode(&mut self.decoder, block, |_, _, _| {});
        }
        // What was reset and is still being let go of counts, or a peer could make us hold any number.
        let most = self.most as usize;
        if self.open_streams() >= most || self.in_use() >= 2 * most {
            decode(&mut self.decoder, block, |_, _, _| {})?;
            // It reaches nobody, and a client that has not read our SETTINGS yet may well open hundreds in good faith.
            self.write_reset(stream, Code::Refused);
            return self.credit.spend(super::credit::FRAME);
        }
        let slot = self.occupy();
        self.enter(stream, slot);
        let state = &mut self.slots[slot];
        let decoder = &mut self.decoder;
        let context = u8::from(end);
        let receipt = if let Some(known) = self.requests.find(decoder, block, context) {
            state.request.copy(known);
            Receipt::Whole
        } else {
            let receipt = state.request.receive(limits, end, |head| {
                decode(decoder, block, |name, value, secret| head.field(name, value, secret))
            })?;
            if receipt == Receipt::Whole {
                self.requests.keep(decoder, block, context, || state.request.clone());
            }
            receipt
        };
        match receipt {
            Receipt::Malformed(what) => {
                let failed = self.fail(slot, Code::ProtocolError, what);
                self.vacate(slot);
                return failed;
            }
            Receipt::Refused(problem) => state.refused = Some(problem),
            Receipt::Whole => {}
        }
        if let Framing::Length(length) = state.request.framing() {
            state.missing = Some(length);
        }
        state.ended = end;
        self.accepted.push_back(slot);
        Ok(())
    }

    /// Resets a stream that is not open any more.
    pub(super) fn reset_closed(&mut self, stream: u32) -> Result<(), Broken> {
        self.write_reset(stream, Code::StreamClosed);
        self.credit.spend(super::credit::STREAM)
    }

    fn answer(&mut self, slot: u32, end: bool, block: &[u8], limits: &Limits) -> Result<(), Broken> {
        let state = &mut self.slots[slot];
        let decoder = &mut self.decoder;
        let context = u8::from(end) | u8::from(state.head) << 1;
        let receipt = if let Some(known) = self.answers.find(decoder, block, context) {
            state.response.copy(known);
            Receipt::Whole
        } else {
            let receipt = state.response.receive(limits, end, state.head, |head| {
                decode(decoder, block, |name, value, secret| head.field(name, value, secret))
            })?;
            if receipt == Receipt::Whole {
                self.answers.keep(decoder, block, context, || state.response.clone());
            }
            receipt
        };
        match receipt {
            Receipt::Malformed(what) => return self.fail(slot, Code::ProtocolError, what),
            Receipt::Refused(problem) => return self.fail(slot, Code::EnhanceYourCalm, problem.what),
            Receipt::Whole => {}
        }
        state.wake();
        if state.response.is_interim() {
            if state.interims.len() >= super::INTERIMS {
                return self.fail(slot, Code::EnhanceYourCalm, "too many interim answers (1xx)");
            }
            state.interims.push_back(std::mem::take(&mut state.response));
            return Ok(());
        }
        state.answered = true;
        state.missing = match state.response.framing() {
            Framing::Length(length) => Some(length),
            Framing::None => Some(0),
            Framing::Chunked | Framing::UntilClose | Framing::Tunnel => None,
        };
        if end { self.ended(slot) } else { Ok(()) }
    }

    fn trailers(&mut self, slot: u32, end: bool, block: &[u8], limits: &Limits) -> Result<(), Broken> {
        let state = &mut self.slots[slot];
        let decoder = &mut self.decoder;
        if state.ended {
            decode(decoder, block, |_, _, _| {})?;
            return self.fail(slot, Code::StreamClosed, "HEADERS behind the end of a stream");
        }
        let receipt = if let Some(known) = self.trailers.find(decoder, block, 0) {
            state.trailers.copy(known);
            Receipt::Whole
        } else {
            let receipt = state.trailers.receive(limits, |head| {
                decode(decoder, block, |name, value, secret| head.field(name, value, secret))
            })?;
            if receipt == Receipt::Whole {
                self.trailers.keep(decoder, block, 0, || state.trailers.clone());
            }
            receipt
        };
        if !end {
            return self.fail(slot, Code::ProtocolError, "trailers that do not end the stream");
        }
        if let Receipt::Malformed(what) = receipt {
            return self.fail(slot, Code::ProtocolError, what);
        }
        state.has_trailers = true;
        self.ended(slot)
    }

    /// Why a stream that has ended before its time has; an answer that came whole is not concerned.
    pub(super) fn failure(&self, slot: u32) -> Option<Reset> {
        let state = &self.slots[slot];
        state.reset.filter(|_| !state.ended)
    }
}
