//! Small writes of one turn, in one system call.
//!
//! A `send` over loopback wakes whoever reads, and where that one shares our core it may run at once, in the middle of our turn: a
//! proxy of short requests was preempted 0.3 times a request that way, which took a quarter of its processor time. What is
//! handed over in one call ([io_submit(2)], which does each write as a nonblocking one, in order, before it returns) comes back to user space,
//! and so to the scheduler, once.
//!
//! A write is handed over with its memory ([`hand_over`]) and done by a task of the worker's, one like others: it comes up
//! when all tasks that were ready before have had their turn. A worker that has little to do writes at once ([`is_busy`]).
//! Everything is of one thread.
//!
//! [io_submit(2)]: https://man7.org/linux/man-pages/man2/io_submit.2.html

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::task::{Poll, Waker};

use nix::errno::Errno;

mod aio;

use aio::Context;

/// Writes of one call.
const MOST: usize = 64;

/// So many writes a worker does at once before it looks for company: with one or two a turn there is nothing to gain.
const ALONE: u32 = 3;

/// A write that was handed over. Dropped before it was done, it is done at once as far as the socket takes it; so drop it before the
/// connection.
#[derive(Debug)]
pub struct Ticket {
    place: usize,
}

/// What became of a write.
#[derive(Debug)]
pub struct Written {
    /// What was to be written, whole.
    pub bytes: Vec<u8>,
    /// So much of it is; `WouldBlock` and 0: nothing yet.
    pub result: io::Result<usize>,
}

#[derive(Debug)]
struct Place {
    fd: RawFd,
    bytes: Vec<u8>,
    /// `None`: to be done.
    result: Option<io::Result<usize>>,
    /// Who is told when it was not done whole.
    waker: Waker,
}

#[derive(Default)]
struct Writes {
    context: Option<Context>,
    places: Vec<Option<Place>>,
    free: Vec<usize>,
    /// To be done, in order.
    queue: Vec<usize>,
    writer: Option<Waker>,
    /// Memory of writes that are done.
    spare: Vec<Vec<u8>>,
    /// Since the worker last waited.
    alone: u32,
}

thread_local! {
    static WRITES: RefCell<Writes> = RefCell::default();
}

/// The worker has nothing to do and is about to wait.
pub(crate) fn parked() {
    // At a thread's end it may be gone.
    let _ = WRITES.try_with(|writes| writes.borrow_mut().alone = 0);
}

/// Whether the worker has so much to write in this turn that more should go together. Counts.
pub fn is_busy() -> bool {
    WRITES.with_borrow_mut(|writes| {
        writes.alone = writes.alone.saturating_add(1);
        writes.alone > ALONE && writes.writer.is_some()
    })
}

/// Has `bytes` written to `socket`, which must be nonblocking and stay open until the ticket is gone, and leaves empty memory in their
/// place. `waker` is told when they were not written whole.
pub fn hand_over(socket: BorrowedFd<'_>, bytes: &mut Vec<u8>, waker: &Waker) -> Ticket {
    WRITES.with_borrow_mut(|writes| {
        let bytes = std::mem::replace(bytes, writes.spare.pop().unwrap_or_default());
        let entry = Place { fd: socket.as_raw_fd(), bytes, result: None, waker: waker.clone() };
        let place = writes.free.pop().unwrap_or(writes.places.len());
        match writes.places.get_mut(place) {
            Some(free) => *free = Some(entry),
            None => writes.places.push(Some(entry)),
        }
        if writes.queue.is_empty()
            && let Some(writer) = &writes.writer
        {
            writer.wake_by_ref();
        }
        writes.queue.push(place);
        if writes.queue.len() == MOST {
            // Nobody waits for longer than for this many others.
            writes.write();
        }
        Ticket { place }
    })
}

impl Ticket {
    /// Whether it was tried.
    pub fn is_done(&self) -> bool {
        WRITES.with_borrow(|writes| writes.places[self.place].as_ref().is_some_and(|place| place.result.is_some()))
    }

    /// Takes the write back, done or not.
    pub fn take(self) -> Written {
        self.take_place().unwrap_or(Written { bytes: Vec::new(), result: Ok(0) })
    }

    fn take_place(&self) -> Option<Written> {
        WRITES.try_with(|writes| writes.borrow_mut().take(self.place)).ok().flatten()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = WRITES.try_with(|writes| {
            let mut writes = writes.borrow_mut();
            let fd = writes.places[self.place].as_ref().map(|place| place.fd);
            (fd, writes.take(self.place))
        });
        if let Ok((Some(fd), Some(Written { bytes, result: Ok(0) }))) = left {
            aio::send_at_once(fd, &bytes);
        }
    }
}

impl Writes {
    fn take(&mut self, place: usize) -> Option<Written> {
        let Place { bytes, result, .. } = self.places[place].take()?;
        if result.is_none() {
            self.queue.retain(|queued| *queued != place);
        }
        self.free.push(place);
        Some(Written { bytes, result: result.unwrap_or(Ok(0)) })
    }

    /// Does what is to be done.
    fn write(&mut self) {
        let Writes { context: Some(context), places, queue, spare, .. } = self else { return };
        for some in queue.chunks(MOST) {
            let sends = some.iter().filter_map(|place| places[*place].as_ref()).map(|place| (place.fd, &*place.bytes));
            let mut results = [0; MOST];
            context.send(sends, &mut results);
            for (place, result) in some.iter().zip(results) {
                let Some(place) = &mut places[*place] else { continue };
                let result = usize::try_from(result).map_err(|_| Errno::from_raw(-result as i32).into());
                if matches!(result, Ok(n) if n == place.bytes.len()) {
                    place.bytes.clear();
                    spare.push(std::mem::take(&mut place.bytes));
                    place.result = Some(Ok(0));
                } else {
                    place.result = Some(result);
                    place.waker.wake_by_ref();
                }
            }
        }
        queue.clear();
        spare.truncate(MOST);
    }
}

/// Does what is handed over on this thread, for ever. Where the system refuses, returns at once, and everybody writes alone.
pub(crate) async fn writer() {
    match Context::new(MOST) {
        Ok(context) => WRITES.with_borrow_mut(|writes| writes.context = Some(context)),
        Err(error) => return tracing::debug!(%error, "writes go one by one"),
    }
    poll_fn(|cx| {
        WRITES.with_borrow_mut(|writes| {
            if !writes.writer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                writes.writer = Some(cx.waker().clone());
            }
            writes.write();
        });
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
