//! Byte buffers of connections, lent by their worker and given back while a connection is idle.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use tokio::io::{AsyncRead, ReadBuf};

/// What a fresh buffer holds: two TLS records' worth of small messages, one full record (RFC 8446, 5.1) of a body.
pub(crate) const SIZE: usize = 16 * 1024;

/// Buffers larger than this are not kept for others.
const KEEP_SIZE: usize = 64 * 1024;

/// Most unused buffers that one worker keeps.
const KEEP_COUNT: usize = 256;

/// Bytes that were read and not yet taken, in one piece, with room behind them. The memory behind `end` is initialised, so
/// reading into it needs no unsafe code.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The bytes held.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// How many bytes are held.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there is memory behind it.
    pub(crate) fn is_allocated(&self) -> bool {
        !self.memory.is_empty()
    }

    /// How much memory is behind it, bytes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.memory.capacity()
    }

    /// Forgets the first `n` bytes.
    pub(crate) fn take(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Moves what is held to the beginning of the memory.
    fn compact(&mut self) {
        self.memory.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }

    /// Makes room for at least one more byte without holding more than `limit`; false when that cannot be.
    pub(crate) fn make_room(&mut self, limit: usize) -> bool {
        if self.end < self.memory.len() {
            return self.len() < limit;
        }
        if self.start > 0 {
            self.compact();
        } else if self.memory.len() >= limit {
            return false;
        } else {
            let size = (self.memory.len() * 2).clamp(SIZE, limit.max(SIZE));
            self.memory.resize(size, 0);
        }
        true
    }

    /// Appends `bytes`, which together with what is held are at most `limit`: memory grows by doubling, and to no more than that.
    pub(crate) fn append(&mut self, bytes: &[u8], limit: usize) {
        debug_assert!(self.len() + bytes.len() <= limit);
        if self.memory.len() - self.end < bytes.len() {
            self.compact();
        }
        let end = self.end + bytes.len();
        if self.memory.len() < end {
            let size = (self.memory.len() * 2).clamp(SIZE, limit.max(SIZE)).max(end);
            self.memory.resize(size, 0);
        }
        self.memory[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Reads once from `io` into the room that is there. `Ok(0)` is the end of the stream; call [`Buffer::make_room`] first.
    pub(crate) fn poll_read(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(&mut self.memory[self.end..]);
        ready!(Pin::new(io).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }
}

/// A worker's unused buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    unused: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl Buffers {
    /// An empty buffer with room.
    pub(crate) fn lend(&mut self) -> Buffer {
        let memory = self.unused.pop().unwrap_or_else(|| vec![0; SIZE]);
        Buffer { memory, start: 0, end: 0 }
    }

    /// Takes the memory of `buffer` back; what it held is lost.
    pub(crate) fn give_back(&mut self, buffer: &mut Buffer) {
        let memory = mem::take(buffer).memory;
        if !memory.is_empty() && memory.len() <= KEEP_SIZE && self.unused.len() < KEEP_COUNT {
            self.unused.push(memory);
        }
    }

    /// An empty vector with room, to collect output in.
    pub(crate) fn lend_output(&mut self) -> Vec<u8> {
        self.outputs.pop().unwrap_or_else(|| Vec::with_capacity(SIZE))
    }

    /// Takes a vector back; what it held is lost.
    pub(crate) fn give_back_output(&mut self, mut output: Vec<u8>) {
        if output.capacity() > 0 && output.capacity() <= KEEP_SIZE && self.outputs.len() < KEEP_COUNT {
            output.clear();
            self.outputs.push(output);
        }
    }

    /// Frees half of what is unused; called now and then, so that a burst's memory is returned.
    pub(crate) fn shrink(&mut self) {
        let keep = self.unused.len() / 2;
        self.unused.truncate(keep);
        let keep = self.outputs.len() / 2;
        self.outputs.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut Buffer, mut bytes: &[u8]) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(buffer.poll_read(&mut bytes, &mut cx), Poll::Ready(Ok(n)) if n > 0));
    }

    #[test]
    fn a_buffer_keeps_its_bytes_while_it_grows_and_moves() {
        let mut buffers = Buffers::default();
        let mut buffer = buffers.lend();
        read(&mut buffer, &[7; SIZE]);
        buffer.take(10);
        assert!(buffer.make_room(SIZE));
        assert_eq!(buffer.len(), SIZE - 10);
        read(&mut buffer, &[8; 10]);
        assert!(!buffer.make_room(SIZE));
        assert!(buffer.make_room(SIZE * 2));
        assert_eq!(&buffer.bytes()[SIZE - 10..], &[8; 10]);
        buffer.take(SIZE);
        assert!(buffer.is_empty());
        buffers.give_back(&mut buffer);
        assert_eq!(buffers.unused.len(), 1);
        assert!(buffer.bytes().is_empty());
    }
}
