//! Tasks that serve one stream of HTTP/2 after another. A task is some kilobytes that are moved several times while it is
//! spawned; one that has served a stream waits for the next instead.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::http2::{self, Job};
use crate::worker::Worker;

/// Most tasks of one worker that wait for a stream.
const KEPT: usize = 128;

/// A worker's tasks without a stream.
#[derive(Default)]
pub(crate) struct Crew {
    waiting: RefCell<Vec<Rc<Hand>>>,
}

/// How a task that waits is reached.
#[derive(Default)]
pub(crate) struct Hand {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
    dismissed: Cell<bool>,
}

impl Hand {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next job; `None`: there is none any more.
    pub(crate) async fn next(&self) -> Option<Job> {
        poll_fn(|cx| match self.job.take() {
            Some(job) => Poll::Ready(Some(job)),
            None if self.dismissed.get() => Poll::Ready(None),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

impl Crew {
    /// Lets a task wait for its next stream; false: it is not needed.
    pub(crate) fn keep(&self, hand: &Rc<Hand>) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let room = waiting.len() < KEPT;
        if room {
            waiting.push(Rc::clone(hand));
        }
        room
    }

    /// Sends half of those that wait away; called now and then, so that a burst's memory is returned.
    pub(crate) fn shrink(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let keep = waiting.len() / 2;
        for hand in waiting.drain(keep..) {
            hand.dismissed.set(true);
            hand.wake();
        }
    }
}

/// Serves a stream, by a task that waits or a new one.
pub(crate) fn serve(worker: &Rc<Worker>, job: Job) {
    let waiting = worker.crew.waiting.borrow_mut().pop();
    match waiting {
        Some(hand) => {
            hand.job.replace(Some(job));
            hand.wake();
        }
        None => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                let hand = Rc::new(Hand { job: RefCell::new(Some(job)), ..Hand::default() });
                http2::streams(&worker, &hand).await;
            });
        }
    }
}
