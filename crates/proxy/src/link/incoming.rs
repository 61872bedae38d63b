//! What comes in on a link: frames, taken apart as their bytes arrive.

use std::cell::RefCell;
use std::rc::Rc;

use super::frame::{HEADER, Header, Kind, Malformed};
use super::{Half, LAST, Link, Role, STREAMS, WINDOW};

/// The longest that has to be whole to be understood: a header, and the number behind that of a window.
const WHOLE: usize = HEADER + 4;

/// Where the taking apart stands.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The stream whose bytes come next.
    stream: u32,
    /// How many of them.
    rest: usize,
    /// The beginning of a frame that is not whole.
    part: [u8; WHOLE],
    /// How many bytes that is.
    held: usize,
}

impl Incoming {
    /// Takes `bytes`, which go on where those before ended. Bytes of a stream are handed on before their frame is whole.
    pub(super) fn take(&mut self, link: &Rc<Link>, mut bytes: &[u8], role: &mut Role<'_>) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            let taken = if self.rest > 0 {
                let n = self.rest.min(bytes.len());
                link.receive(self.stream, &bytes[..n])?;
                self.rest -= n;
                n
            } else if self.held > 0 {
                self.complete(link, bytes, role)?
            } else {
                match self.frame(link, bytes, role)? {
                    0 => self.hold(bytes),
                    n => n,
                }
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Goes on with the frame of which a part is held. Says how many of `bytes` that took.
    fn complete(&mut self, link: &Rc<Link>, bytes: &[u8], role: &mut Role<'_>) -> Result<usize, Malformed> {
        let before = self.held;
        let added = self.hold(&bytes[..bytes.len().min(WHOLE - before)]);
        let part = self.part;
        match self.frame(link, &part[..self.held], role)? {
            0 => Ok(added),
            taken => {
                self.held = 0;
                Ok(taken - before)
            }
        }
    }

    /// Keeps all of `bytes` until more come.
    fn hold(&mut self, bytes: &[u8]) -> usize {
        self.part[self.held..self.held + bytes.len()].copy_from_slice(bytes);
        self.held += bytes.len();
        bytes.len()
    }

    /// Takes the frame at the beginning of `bytes`, but not the bytes of a stream in it, and says how much that was: nothing
    /// while it is not whole.
    fn frame(&mut self, link: &Rc<Link>, bytes: &[u8], role: &mut Role<'_>) -> Result<usize, Malformed> {
        let Some(Header { kind, length, stream }) = Header::decode(bytes)? else { return Ok(0) };
        if !matches!(kind, Kind::Open | Kind::Leave) && stream >= link.inner.borrow().next {
            return Err(Malformed("a stream that nobody has opened"));
        }
        match kind {
            Kind::Open => admit(link, stream, role)?,
            Kind::Data => (self.stream, self.rest) = (stream, length),
            Kind::Leave => link.inner.borrow_mut().leaving = true,
            Kind::End | Kind::Reset => link.hear_the_end(stream, kind == Kind::Reset),
            Kind::Refuse => link.hear_refusal(stream, role)?,
            Kind::Window => {
                let Some(taken) = bytes.get(HEADER..).and_then(<[u8]>::first_chunk) else { return Ok(0) };
                link.allow(stream, u32::from_be_bytes(*taken))?;
                return Ok(WHOLE);
            }
        }
        Ok(HEADER)
    }

    /// The beginning of a frame that is not whole.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> &[u8] {
        &self.part[..self.held]
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
        if half.input.len() + bytes.len() > WINDOW as usize {
            return Err(Malformed("more bytes than a stream's window allows"));
        }
        if half.reset {
            return Ok(());
        }
        if !half.input.is_allocated() {
            half.input = self.buffers.borrow_mut().lend();
        }
        half.input.append(bytes, WINDOW as usize);
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
