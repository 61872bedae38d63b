//! Memory that the HTTP/2 connections of a worker lend each other, so that one that has no stream holds none for it.

use std::cell::RefCell;
use std::ops::{Index, IndexMut};
use std::rc::Rc;

use super::state::Slot;
use crate::buffer::Buffers;

/// Most unused slots that one worker keeps. With [`super::KEEP`] for each part of them they take 8 MiB at most; usual heads and
/// small bodies take some 3 KiB a slot.
const SLOTS: usize = 256;

/// What is not in use at the moment.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    buffers: Rc<RefCell<Buffers>>,
    // Boxed, for a slot is hundreds of bytes that go from here to a connection and back with every stream: only the pointer is moved.
    #[allow(clippy::vec_box, reason = "they are lent and come back without being moved")]
    slots: RefCell<Vec<Box<Slot>>>,
}

impl Memory {
    /// Shares `buffers` with those who speak HTTP/1.
    pub(crate) fn new(buffers: Rc<RefCell<Buffers>>) -> Memory {
        Memory { buffers, slots: RefCell::default() }
    }

    /// An empty vector with room, to collect output in; the driver gives it back.
    pub(super) fn lend_output(&self) -> Vec<u8> {
        self.buffers.borrow_mut().lend_output()
    }

    fn lend(&self) -> Box<Slot> {
        self.slots.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, mut slot: Box<Slot>) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() < SLOTS {
            slot.renew();
            slots.push(slot);
        }
    }

    /// Frees half of what is unused; called now and then, so that a burst's memory is returned.
    pub(crate) fn shrink(&self) {
        let mut slots = self.slots.borrow_mut();
        let keep = slots.len() / 2;
        slots.truncate(keep);
        slots.shrink_to(SLOTS / 4);
    }

    #[cfg(test)]
    pub(super) fn unused(&self) -> usize {
        self.slots.borrow().len()
    }
}

/// A connection's slots. Their numbers are handed out anew when their streams are gone.
#[derive(Debug)]
pub(super) struct Slots {
    memory: Rc<Memory>,
    places: Vec<Option<Box<Slot>>>,
    /// Numbers without a slot.
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn new(memory: Rc<Memory>) -> Slots {
        Slots { memory, places: Vec::new(), free: Vec::new() }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The number of a slot that is as new.
    pub(super) fn take(&mut self) -> u32 {
        let slot = Some(self.memory.lend());
        match self.free.pop() {
            Some(number) => {
                self.places[number as usize] = slot;
                number
            }
            None => {
                self.places.push(slot);
                // There are a few hundred at most.
                self.places.len() as u32 - 1
            }
        }
    }

    /// Lets go of a slot.
    pub(super) fn release(&mut self, number: u32) {
        if let Some(slot) = self.places[number as usize].take() {
            self.memory.give_back(slot);
            self.free.push(number);
        }
        // A burst's memory is not held by a connection without streams.
        if self.free.len() == self.places.len() && self.places.len() > super::KEEP_STREAMS {
            self.places = Vec::new();
            self.free = Vec::new();
        }
    }

    /// How many are taken.
    pub(super) fn in_use(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.places.get_mut(number as usize)?.as_deref_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.places.iter_mut().filter_map(|place| place.as_deref_mut())
    }
}

impl Index<u32> for Slots {
    type Output = Slot;

    #[inline]
    fn index(&self, number: u32) -> &Slot {
        self.places[number as usize].as_deref().expect("a stream's slot is taken until its handle is gone")
    }
}

impl IndexMut<u32> for Slots {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut Slot {
        self.places[number as usize].as_deref_mut().expect("a stream's slot is taken until its handle is gone")
    }
}

#[cfg(test)]
mod tests;
