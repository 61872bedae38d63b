//! What comes in on a link: frames, taken apart as their bytes arrive.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

use super::frame::{HEADER, Header, Kind, Malformed};
use super::{Half, LAST, Link, Role, STREAMS, WINDOW};

/// Where the taking apart stands.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The stream whose bytes come next.
    stream: u32,
    /// How many of them.
    rest: usize,
}

impl Incoming {
    /// Takes what `bytes` hold, and says how much that was: all but the beginning of a frame that is not whole. Bytes of a
    /// stream are handed on before their frame is whole.
    pub(super) fn take(&mut self, link: &Rc<Link>, bytes: &[u8], role: &mut Role<'_>) -> Result<usize, Malformed> {
        let mut at = 0;
        loop {
            let left = &bytes[at..];
            if self.rest > 0 {
                let n = self.rest.min(left.len());
                if n == 0 {
                    return Ok(at);
                }
                link.receive(self.stream, &left[..n])?;
                self.rest -= n;
                at += n;
                continue;
            }
            let Some(header) = Header::decode(left)? else { return Ok(at) };
            let Header { kind, length, stream } = header;
            if !matches!(kind, Kind::Open | Kind::Leave) && stream >= link.inner.borrow().next {
                return Err(Malformed("a stream that nobody has opened"));
            }
            at += HEADER;
            match kind {
                Kind::Open => admit(link, stream, role)?,
                Kind::Data => (self.stream, self.rest) = (stream, length),
                Kind::Leave => link.inner.borrow_mut().leaving = true,
                Kind::End | Kind::Reset => link.hear_the_end(stream, kind == Kind::Reset),
                Kind::Refuse => link.hear_refusal(stream, role)?,
                Kind::Window => {
                    let Some(taken) = left.get(HEADER..).and_then(<[u8]>::first_chunk) else { return Ok(at - HEADER) };
                    link.allow(stream, u32::from_be_bytes(*taken))?;
                    at += length;
                }
            }
        }
    }
}

/// A client opens a stream.
fn admit(link: &Rc<Link>, stream: u32, role: &mut Role<'_>) -> Result<(), Malformed> {
    let Role::Server(accept) = role else { return Err(Malformed("a server opens a stream")) };
    let mut inner = link.inner.borrow_mut();
    if stream < inner.next || stream >= LAST {
        return Err(Malformed("a stream's number is not a new one"));
    }
    inner.next = stream + 1;
    if inner.streams.len() >= STREAMS {
        inner.put(Kind::Refuse, stream);
        return Ok(());
    }
    let opened = link.stream(&mut inner, stream);
    drop(inner);
    accept(opened);
    Ok(())
}

impl Link {
    fn half(&self, stream: u32) -> Option<Rc<RefCell<Half>>> {
        self.inner.borrow().streams.get(&stream).cloned()
    }

    /// Bytes of a stream. Those of one that is gone were on their way when it ended.
    fn receive(&self, stream: u32, bytes: &[u8]) -> Result<(), Malformed> {
        let Some(half) = self.half(stream) else { return Ok(()) };
        let mut half = half.borrow_mut();
        if half.ended {
            return Err(Malformed("bytes after the end of a stream"));
        }
        if half.unread() + bytes.len() > WINDOW as usize {
            return Err(Malformed("more bytes than a stream's window allows"));
        }
        if half.reset {
            return Ok(());
        }
        if half.input.len() + bytes.len() > half.input.capacity() {
            let start = mem::take(&mut half.start);
            half.input.drain(..start);
            let (length, room) = (half.input.len(), half.input.capacity());
            if length + bytes.len() > room {
                // By doubling, but a window is all that it ever holds.
                let size = (2 * room).min(WINDOW as usize).max(length + bytes.len());
                half.input.reserve_exact(size - length);
            }
        }
        half.input.extend_from_slice(bytes);
        if let Some(reader) = half.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    /// The peer's half is over, or the whole stream was cut off.
    fn hear_the_end(&self, stream: u32, reset: bool) {
        let Some(half) = self.half(stream) else { return };
        let mut half = half.borrow_mut();
        half.ended |= !reset;
        half.reset |= reset;
        half.wake();
    }

    /// The server does not take a stream.
    fn hear_refusal(&self, stream: u32, role: &Role<'_>) -> Result<(), Malformed> {
        if matches!(role, Role::Server(_)) {
            return Err(Malformed("a client refuses a stream"));
        }
        if let Some(half) = self.half(stream) {
            half.borrow_mut().refused = true;
        }
        self.hear_the_end(stream, true);
        Ok(())
    }

    /// The peer has taken `n` bytes.
    fn allow(&self, stream: u32, n: u32) -> Result<(), Malformed> {
        let Some(half) = self.half(stream) else { return Ok(()) };
        let mut half = half.borrow_mut();
        match half.credit.checked_add(n) {
            Some(credit) if credit <= WINDOW => half.credit = credit,
            _ => return Err(Malformed("a stream's window is opened too far")),
        }
        if let Some(writer) = half.writer.take() {
            writer.wake();
        }
        Ok(())
    }
}
