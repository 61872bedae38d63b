//! One request under way.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::load::Burden;
use super::{Backend, Class, Endpoint, EndpointSet};
use crate::{Nanos, Outcome};

/// From this share of refusals and failures among the last ten or so, what an endpoint asks for holds for everybody.
const REFUSES: f64 = 0.5;

/// Where an endpoint's peers are to be found, which most outcomes need not know.
pub trait Peers {
    /// What `see` finds in them as they are now.
    fn with<T>(&self, see: impl FnOnce(&EndpointSet) -> T) -> T;
}

impl Peers for EndpointSet {
    fn with<T>(&self, see: impl FnOnce(&EndpointSet) -> T) -> T {
        see(self)
    }
}

impl Peers for Backend {
    fn with<T>(&self, see: impl FnOnce(&EndpointSet) -> T) -> T {
        see(&self.endpoints.load())
    }
}

/// One request under way at an endpoint. Dropped without [`InFlight::finish`] it teaches nothing.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Nanos,
    /// When its connection was ready; the same as `started` until that is told.
    sent: Nanos,
    answered: Option<NonZeroU64>,
    class: Class,
    refused: bool,
    /// The endpoint was left out when it was sent: in a panic, or because nobody else was left.
    left_out: bool,
    /// Its answer asked for less when an ejection had been paid for it already.
    paid: bool,
    /// The ejections in a row when its answer asked for less; this is the most that are told apart.
    ejections: u16,
}

impl InFlight {
    /// Counts a request as sent to `endpoint`.
    pub fn start(endpoint: Arc<Endpoint>, class: Class, started: Nanos) -> InFlight {
        endpoint.load.start(class, started);
        let left_out = endpoint.load.ejected(started);
        InFlight {
            endpoint,
            started,
            sent: started,
            answered: None,
            class,
            refused: false,
            left_out,
            paid: false,
            ejections: 0,
        }
    }

    /// Where it went.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When it was sent.
    pub fn started(&self) -> Nanos {
        self.started
    }

    /// The connection is ready. What making it took does not count as latency: it is paid once, the choice adds it where a
    /// connection has to be made, and an instance that was just started would be shunned for its first handshake.
    pub fn connected(&mut self, now: Nanos) {
        self.sent = now;
    }

    /// The response's head has arrived. What follows it, a day of streaming perhaps, does not count as latency.
    pub fn answered(&mut self, now: Nanos) {
        if self.answered.is_none() {
            self.endpoint.load.answered(now);
            self.answered = NonZeroU64::new(now.0.max(1));
        }
    }

    /// The server can do no more for now (503 with `Retry-After`). That it said so quickly must attract nothing, and for the
    /// time it asks for the endpoint is used only if nothing else is left.
    pub fn refused(&mut self, retry_after: Nanos, now: Nanos) {
        self.asks();
        self.endpoint.load.retry_after(retry_after, now);
    }

    /// The caller is to ask for less (429), which is no failure of the server, and says nothing of other callers: the wait is
    /// kept only where such answers have become the rule, or one caller could take the endpoint away from all others.
    pub fn limited(&mut self, retry_after: Option<Nanos>, now: Nanos) {
        self.asks();
        if let Some(length) = retry_after
            && self.endpoint.load.failing() >= REFUSES
        {
            self.endpoint.load.retry_after(length, now);
        }
    }

    /// Looked at before the wait is kept: the wait that this answer itself asks for excuses no failure.
    fn asks(&mut self) {
        self.refused = true;
        self.paid = self.endpoint.load.is_paid(self.started);
        self.ejections = u16::try_from(self.endpoint.load.ejections()).unwrap_or(u16::MAX);
    }

    /// What its failure is worth.
    fn burden(&self) -> Burden {
        let load = &self.endpoint.load;
        let paid = match self.refused {
            true => self.paid || load.ejections() > u32::from(self.ejections),
            false => self.started < load.left_out_until(),
        };
        match (paid, self.left_out) {
            (false, _) => Burden::Full,
            (true, true) => Burden::Cost,
            (true, false) => Burden::None,
        }
    }

    /// It was never sent: as if it had not been started.
    pub fn unsent(self) {
        self.endpoint.load.unsent();
    }

    /// Records how it ended: latency (from [`InFlight::connected`], if that was called, to [`InFlight::answered`], or else to
    /// `now`), outcome, ejection by the policy of `peers`. Of a cancelled request without an answer the time until now is a
    /// lower bound of its latency; drop one that was cancelled for a reason that says nothing of the endpoint.
    pub fn finish(mut self, now: Nanos, outcome: Outcome, peers: &impl Peers) {
        if outcome.is_refusal() {
            self.asks();
        }
        let load = &self.endpoint.load;
        let latency = self.answered.map_or(now, |at| Nanos(at.get())).since(self.sent);
        if outcome == Outcome::Cancelled {
            if self.answered.is_none() {
                load.cancelled(self.class, latency, self.started, now, || {
                    peers.with(|peers| peers.least_latency(self.class))
                });
            }
            return;
        }
        if !outcome.is_failure() || outcome.is_refusal() {
            // It may have been answered long ago, where the answer was a stream.
            let at = self.answered.map_or(now, |at| Nanos(at.get()));
            load.succeeded(self.class, latency, self.started, at, now, self.refused);
        } else {
            peers.with(|peers| {
                if load.failed(self.class, latency, self.burden(), now, (outcome, &peers.policy().outlier)) {
                    peers.eject(&self.endpoint, now);
                }
            });
        }
        self.answered(now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.answered.is_none() {
            self.endpoint.load.unanswered();
        }
        self.endpoint.load.end();
    }
}
