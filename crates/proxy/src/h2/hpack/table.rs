//! The dynamic table (RFC 7541, 2.3.2 and 4).

use std::collections::VecDeque;

/// What an entry counts beyond its bytes (4.1).
const OVERHEAD: usize = 32;

/// Fields, the newest first. Their bytes stand in one buffer, each field's in one piece; memory grows with what is held, to at
/// most twice the largest size and twelve bytes for each field.
#[derive(Debug)]
pub(super) struct Table {
    /// The fields from the oldest to the newest, behind some bytes of fields that are gone.
    bytes: Vec<u8>,
    /// From the oldest to the newest.
    entries: VecDeque<Entry>,
    /// As 4.1 counts it; at most `max`.
    size: usize,
    max: usize,
}

/// Where a field stands. The largest table is far smaller than 32 bits can say.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    name: u32,
    value: u32,
}

impl Entry {
    fn bytes(self) -> usize {
        (self.name + self.value) as usize
    }
}

impl Table {
    pub(super) fn new(max: usize) -> Table {
        Table { bytes: Vec::new(), entries: VecDeque::new(), size: 0, max }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The name and the value of a field; the newest is number zero.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = self.entries.len().checked_sub(index + 1)?;
        let entry = self.entries.get(index)?;
        let field = self.bytes.get(entry.start as usize..)?.get(..entry.bytes())?;
        field.split_at_checked(entry.name as usize)
    }

    /// Enters a field, for which the oldest ones go. What is larger than the whole table empties it and does not enter; that is
    /// no error (4.4). Says whether it has entered.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) -> bool {
        let length = name.len() + value.len();
        let size = length + OVERHEAD;
        self.shrink(self.max.saturating_sub(size));
        if size > self.max {
            return false;
        }
        self.make_room(length);
        let entry = Entry { start: self.bytes.len() as u32, name: name.len() as u32, value: value.len() as u32 };
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_back(entry);
        self.size += size;
        true
    }

    /// Changes the largest size; the oldest fields go as far as needed (4.3).
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Bytes of memory for names and values.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    fn shrink(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_front()
        {
            self.size -= entry.bytes() + OVERHEAD;
        }
    }

    /// Room for `length` bytes. What is gone is moved over rarely: half of the buffer is free or gone when it is.
    fn make_room(&mut self, length: usize) {
        if self.bytes.len() + length <= self.bytes.capacity() {
            return;
        }
        let gone = self.entries.front().map_or(self.bytes.len(), |oldest| oldest.start as usize);
        self.bytes.drain(..gone);
        self.entries.iter_mut().for_each(|entry| entry.start -= gone as u32);
        let needed = self.bytes.len() + length;
        if 2 * needed > self.bytes.capacity() {
            self.bytes.reserve_exact(2 * needed - self.bytes.len());
        }
    }
}
