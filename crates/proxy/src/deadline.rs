//! One timer for a whole connection, re-armed only when it must be.
//!
//! Most deadlines of a connection move later with every request. The timer is left where it is then, and looked at again when
//! it rings; only an earlier deadline touches it. So a request on a busy connection registers no timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use engine::Nanos;
use tokio::time::Sleep;

use crate::Clock;

/// A time after which something is given up.
pub(crate) struct Deadline {
    clock: Clock,
    due: Option<Nanos>,
    armed: Option<(Nanos, Pin<Box<Sleep>>)>,
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
        loop {
            match &mut self.armed {
                Some((at, sleep)) => {
                    if *at > due {
                        *at = due;
                        sleep.as_mut().reset(self.clock.instant(due));
                    }
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if self.clock.now() >= due {
                        return Poll::Ready(());
                    }
                    *at = due;
                    sleep.as_mut().reset(self.clock.instant(due));
                }
                None => self.armed = Some((due, Box::pin(tokio::time::sleep_until(self.clock.instant(due))))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

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
