//! What was learnt of instances that have left, for those that come back.
//!
//! Discovery that flaps, or a process that is started again at the same address, takes an instance away and gives it back. Without
//! this it would be as one never heard of each time, which gets a full share until it has answered slowly again, on connections
//! that must be made anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::balance::{Dial, Endpoint, Load};
use tokio::time::Instant;

/// Who has been away for longer is as one never heard of: about as long as an instance that is slow waits for its trials, and
/// some ejections.
pub(super) const AWAY: Duration = Duration::from_secs(60);

/// How many are remembered, of all services together: 400 bytes or so each. The first to have left are forgotten first.
pub(super) const LIMIT: usize = 1_024;

/// Instances that have left, by service, port and workload.
#[derive(Debug, Default)]
pub(crate) struct Gone(BTreeMap<(String, u16, Box<str>), Left>);

/// One of them.
#[derive(Debug)]
struct Left {
    dial: Dial,
    load: Arc<Load>,
    at: Instant,
}

/// Those of one backend, at one time.
pub(crate) struct Leavers<'a> {
    gone: &'a mut Gone,
    service: &'a str,
    port: u16,
    now: Instant,
}

impl Gone {
    /// Those of `port` of `service`.
    pub(super) fn of<'a>(&'a mut self, service: &'a str, port: u16, now: Instant) -> Leavers<'a> {
        Leavers { gone: self, service, port, now }
    }

    /// Forgets who has been away for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, left| now.duration_since(left.at) < AWAY);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Leavers<'_> {
    /// What is known of an instance that left a short time ago, if it is still reached in the same way.
    pub(super) fn take(&mut self, workload: &str, dial: &Dial) -> Option<Arc<Load>> {
        if self.gone.0.is_empty() {
            return None;
        }
        let left = self.gone.0.remove(&(self.service.to_owned(), self.port, workload.into()))?;
        (left.dial == *dial && self.now.duration_since(left.at) < AWAY).then_some(left.load)
    }

    /// Remembers one that leaves.
    pub(super) fn keep(&mut self, endpoint: &Endpoint) {
        if self.gone.0.len() >= LIMIT {
            self.gone.sweep(self.now);
        }
        if self.gone.0.len() >= LIMIT
            && let Some(first) = self.gone.0.iter().min_by_key(|(_, left)| left.at).map(|(key, _)| key.clone())
        {
            self.gone.0.remove(&first);
        }
        let left = Left { dial: endpoint.dial.clone(), load: endpoint.load.clone(), at: self.now };
        self.gone.0.insert((self.service.to_owned(), self.port, endpoint.workload.clone()), left);
    }
}
