//! One timer for a whole connection, re-armed only when it must be.
//!
//! Most deadlines of a connection move later with every request. The timer is left where it is then, and looked at again when
//! it rings; only an earlier deadline touches it. So a request on a busy connection registers no timer.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use engine::Nanos;
use tokio::task::coop;
use tokio::time::Sleep;

use crate::Clock;

/// A time after which something is given up.
pub(crate) struct Deadline {
    clock: Clock,
    due: Option<Nanos>,
    armed: Option<Armed>,
}

/// A timer that will ring.
struct Armed {
    at: Nanos,
    sleep: Pin<Box<Sleep>>,
    /// Who is woken by it. As long as it is who asks, there is nothing to tell the timer.
    waker: Waker,
}

impl Deadline {
    /// None yet.
    pub(crate) fn new(clock: Clock) -> Deadline {
        Deadline { clock, due: None, armed: None }
    }

    /// Gives up at `due` from now on; `None`: never.
    pub(crate) fn set(&mut self, due: Option<Nanos>) {
        self.due = due;
    }

    /// The time that is set.
    pub(crate) fn due(&self) -> Option<Nanos> {
        self.due
    }

    /// Ready when the time has come. Must be polled after every [`Deadline::set`] by the task that waits.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        match &self.armed {
            Some(armed) if armed.at <= due && armed.waker.will_wake(cx.waker()) && !armed.sleep.is_elapsed() => {
                Poll::Pending
            }
            _ => self.poll_timer(due, cx),
        }
    }

    #[cold]
    fn poll_timer(&mut self, due: Nanos, cx: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock;
        let mut new = self.armed.is_none();
        let armed = self.armed.get_or_insert_with(|| Armed {
            at: due,
            sleep: Box::pin(tokio::time::sleep_until(clock.instant(due))),
            waker: cx.waker().clone(),
        });
        loop {
            if armed.at > due {
                armed.at = due;
                armed.sleep.as_mut().reset(clock.instant(due));
                new = true;
            }
            if !armed.waker.will_wake(cx.waker()) {
                armed.waker.clone_from(cx.waker());
                new = true;
            }
            if !new && !armed.sleep.is_elapsed() {
                return Poll::Pending;
            }
            // Whatever the task has done in this turn: a timer that is asked when tokio's budget is used up says that it is
            // pending, and is not registered.
            if pin!(coop::unconstrained(armed.sleep.as_mut())).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock.now() >= due {
                return Poll::Ready(());
            }
            armed.at = due;
            armed.sleep.as_mut().reset(clock.instant(due));
            new = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_first_asked_when_the_turn_is_over_rings() {
        let clock = Clock::start();
        let mut deadline = Deadline::new(clock);
        deadline.set(Some(clock.now().after(Nanos::from_millis(300))));
        let mut turns = 0;
        let rung = poll_fn(|cx| {
            turns += 1;
            if turns == 1 {
                while coop::has_budget_remaining() {
                    assert!(pin!(coop::consume_budget()).poll(cx).is_ready());
                }
            }
            deadline.poll(cx)
        });
        tokio::time::timeout(Duration::from_secs(3), rung).await.expect("it rings");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_rings_when_it_is_due_however_it_was_moved() {
        let clock = Clock::start();
        let begin = tokio::time::Instant::now();
        let mut deadline = Deadline::new(clock);
        deadline.set(Some(clock.now().after(Nanos::from_millis(1_000))));
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_pending())).await);
        deadline.set(Some(clock.now().after(Nanos::from_millis(3_000))));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert!(begin.elapsed() >= Duration::from_millis(3_000) && begin.elapsed() < Duration::from_millis(3_100));
        deadline.set(Some(clock.now().after(Nanos::from_millis(60_000))));
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_pending())).await);
        deadline.set(Some(clock.now().after(Nanos::from_millis(500))));
        let moved = tokio::time::Instant::now();
        poll_fn(|cx| deadline.poll(cx)).await;
        assert!(moved.elapsed() < Duration::from_millis(600));
    }
}
