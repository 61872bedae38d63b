use super::*;
use crate::h2::{KEEP, KEEP_STREAMS};

#[test]
fn a_slot_goes_from_connection_to_connection_and_says_nothing_of_the_last() {
    let memory = Rc::new(Memory::default());
    let (mut one, mut other) = (Slots::new(Rc::clone(&memory)), Slots::new(Rc::clone(&memory)));
    let (first, second) = (one.take(), one.take());
    one[first].input.extend_from_slice(&[7; 1_000]);
    (one[first].id, one[first].ended, one[first].has_trailers) = (9, true, true);
    one.release(first);
    assert_eq!((one.in_use(), memory.unused()), (1, 1));
    assert!(one.get_mut(first).is_none() && one.get_mut(second).is_some());
    assert_eq!(one.iter_mut().count(), 1);
    let again = other.take();
    assert_eq!((other.in_use(), memory.unused()), (1, 0));
    assert!(other[again].input.is_empty() && other[again].input.capacity() >= 1_000);
    assert_eq!((other[again].id, other[again].ended, other[again].has_trailers), (0, false, false));
    assert_eq!(one.take(), first, "numbers are used again");
}

#[test]
fn large_bodies_and_bursts_leave_no_memory_behind() {
    let memory = Rc::new(Memory::default());
    let mut slots = Slots::new(Rc::clone(&memory));
    let large = slots.take();
    slots[large].input.reserve(KEEP + 1);
    slots.release(large);
    let large = slots.take();
    assert_eq!(slots[large].input.capacity(), 0);
    let all: Vec<u32> = (0..SLOTS).map(|_| slots.take()).chain([large]).collect();
    assert!(all.len() > KEEP_STREAMS);
    all.into_iter().for_each(|slot| slots.release(slot));
    assert_eq!((slots.in_use(), slots.places.capacity(), slots.free.capacity()), (0, 0, 0));
    assert_eq!(memory.unused(), SLOTS);
    memory.shrink();
    assert_eq!(memory.unused(), SLOTS / 2);
}
