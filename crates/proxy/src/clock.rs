//! The one clock of a process.

use std::time::Duration;

use engine::Nanos;
use tokio::time::Instant;

/// Where times begin: not at zero, so that "never" and "just now" differ.
const BEGIN: Nanos = Nanos::from_millis(1_000);

/// A monotonic clock. Its copies share the origin, so times of different workers can be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Nanos {
        BEGIN.after(Nanos::from(self.origin.elapsed()))
    }

    /// `at` as tokio knows it.
    pub(crate) fn instant(&self, at: Nanos) -> Instant {
        // Beyond a century nobody waits for the difference, and the addition cannot overflow.
        self.origin + at.since(BEGIN).duration().min(Duration::from_secs(3_000_000_000))
    }
}
