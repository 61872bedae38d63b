//! Ending without cutting work off.
//!
//! One [`Drain`] is held by whoever decides that the process ends; a [`Watch`] goes to everything that accepts or carries
//! work. Who accepts holds a [`Taking`] until it takes no more, and a carrier holds a [`Guard`] for as long as its work lasts. All of
//! it works across threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// After the deadline, how long guards may take to let go before [`Drain::drained`] stops waiting for them.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// No end takes longer than this, whoever asks for it: a year. More than a clock can count is as good as for ever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Business as usual.
    Open,
    /// Take no new work, tell peers, finish what is there before the deadline.
    Draining(Instant),
    /// Somebody else takes the new work: finish what is there before the deadline, and leave alone what is quiet.
    Leaving(Instant),
    /// Time is up: drop everything.
    Closed,
}

/// Begins the end and waits for it.
#[derive(Debug)]
pub struct Drain {
    state: watch::Sender<State>,
    guards: Arc<Guards>,
}

/// Learns of the end.
#[derive(Clone, Debug)]
pub struct Watch {
    state: watch::Receiver<State>,
    guards: Arc<Guards>,
}

/// Work that is to be finished. Dropped when it is.
#[derive(Debug)]
pub struct Guard(Arc<Guards>);

/// Somebody takes new work. Dropped when that is over.
#[derive(Debug)]
pub struct Taking(Arc<Guards>);

#[derive(Debug, Default)]
struct Guards {
    /// Of work.
    held: AtomicUsize,
    /// Of those who take work.
    taking: AtomicUsize,
    /// The last of either was dropped.
    none_left: Notify,
}

/// Makes a pair.
pub fn channel() -> (Drain, Watch) {
    let (sender, receiver) = watch::channel(State::Open);
    let guards = Arc::new(Guards::default());
    (Drain { state: sender, guards: Arc::clone(&guards) }, Watch { state: receiver, guards })
}

impl State {
    /// When what is left is cut off.
    fn deadline(self) -> Option<Instant> {
        match self {
            State::Draining(deadline) | State::Leaving(deadline) => Some(deadline),
            State::Open | State::Closed => None,
        }
    }
}

impl Drain {
    /// Begins to drain; what is left after `grace` is cut off. A second call may only shorten the time.
    pub fn begin(&self, grace: Duration) {
        self.begin_with(State::Draining(Instant::now() + grace.min(LONGEST)));
    }

    /// The same where somebody else has taken the listeners over, so that nobody need be told where to go: connections on which
    /// nothing happens are left alone until the deadline.
    pub fn leave(&self, grace: Duration) {
        self.begin_with(State::Leaving(Instant::now() + grace.min(LONGEST)));
    }

    fn begin_with(&self, new: State) {
        self.state.send_if_modified(|state| {
            let sooner = match (state.deadline(), new.deadline()) {
                (Some(earlier), Some(deadline)) => deadline < earlier,
                (None, _) => *state == State::Open,
                (Some(_), None) => false,
            };
            if sooner {
                *state = new;
            }
            sooner
        });
    }

    /// Waits, after [`Drain::begin`], until nobody takes new work or the deadline has passed: who takes it decides how long those
    /// who send it need to hear that they should not.
    pub async fn shut(&self) {
        self.until_deadline(|guards| &guards.taking).await;
    }

    /// Waits, after [`Drain::begin`], until no guard is held or the deadline has passed. Returns how many are held then. Nothing is
    /// cut off by that. Work that comes while it is still taken ([`Drain::shut`]) may begin after this has resolved.
    pub async fn emptied(&self) -> usize {
        self.until_deadline(|guards| &guards.held).await;
        self.guards.held.load(Ordering::Acquire)
    }

    /// Waits until `count` is zero, the deadline has passed, or the state is closed.
    async fn until_deadline(&self, count: fn(&Guards) -> &AtomicUsize) {
        let mut state = self.state.subscribe();
        loop {
            let deadline = match *state.borrow_and_update() {
                State::Open => None,
                State::Draining(deadline) | State::Leaving(deadline) => Some(deadline),
                State::Closed => return,
            };
            let Some(deadline) = deadline else {
                // The sender is `self`, so the channel stays open.
                let _ = state.changed().await;
                continue;
            };
            tokio::select! {
                () = self.guards.gone(count) => return,
                () = tokio::time::sleep_until(deadline) => return,
                _ = state.changed() => {}
            }
        }
    }

    /// [`Drain::emptied`], and then the state is closed: what is left is cut off, and its number returned.
    pub async fn drained(&self) -> usize {
        let cut_off = self.emptied().await;
        self.state.send_replace(State::Closed);
        if cut_off > 0 {
            // Who ignores the closed state is not waited for.
            let _ = tokio::time::timeout(LAST_GRACE, self.guards.gone(|guards| &guards.held)).await;
        }
        cut_off
    }
}

impl Watch {
    /// How far the end has come.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Whether new work is still taken.
    pub fn is_open(&self) -> bool {
        self.state() == State::Open
    }

    /// Resolves when draining begins (or is already past). Cancel safe.
    pub async fn draining(&mut self) {
        self.reach(|state| *state != State::Open).await;
    }

    /// Resolves when the state has changed since it was last waited for; never when it cannot. Cancel safe.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when time is up. Cancel safe.
    pub async fn closed(&mut self) {
        self.reach(|state| *state == State::Closed).await;
    }

    async fn reach(&mut self, wanted: impl FnMut(&State) -> bool) {
        if self.state.wait_for(wanted).await.is_err() {
            // The `Drain` was dropped without an end: there is none to learn of.
            std::future::pending::<()>().await;
        }
    }

    /// Announces work that is to be finished.
    pub fn guard(&self) -> Guard {
        self.guards.held.fetch_add(1, Ordering::Relaxed);
        Guard(Arc::clone(&self.guards))
    }

    /// Announces that work is taken.
    pub fn taking(&self) -> Taking {
        self.guards.taking.fetch_add(1, Ordering::Relaxed);
        Taking(Arc::clone(&self.guards))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.let_go(&self.0.held);
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.0.let_go(&self.0.taking);
    }
}

impl Guards {
    fn let_go(&self, count: &AtomicUsize) {
        if count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none_left.notify_waiters();
        }
    }

    async fn gone(&self, count: fn(&Guards) -> &AtomicUsize) {
        loop {
            // Registered before the count is read, so that a drop in between is not missed.
            let mut none_left = std::pin::pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if count(self).load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

#[cfg(test)]
mod tests;
