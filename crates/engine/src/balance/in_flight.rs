//! One request under way.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::{Class, Endpoint, EndpointSet};
use crate::{Nanos, Outcome};

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
}

impl InFlight {
    /// Counts a request as sent to `endpoint`.
    pub fn start(endpoint: Arc<Endpoint>, class: Class, started: Nanos) -> InFlight {
        endpoint.load.start(class, started);
        InFlight { endpoint, started, sent: started, answered: None, class, refused: false }
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

    /// The answer asks for less, which is no failure of the server: 429, or a `Retry-After` (how long, if it says so). That it
    /// came quickly must attract nothing, and for the time it asks for the endpoint is used only if nothing else is left.
    pub fn refused(&mut self, retry_after: Option<Nanos>, now: Nanos) {
        self.refused = true;
        if let Some(length) = retry_after {
            self.endpoint.load.retry_after(length, now);
        }
    }

    /// Records how it ended: latency (from [`InFlight::connected`], if that was called, to [`InFlight::answered`], or else to
    /// `now`), outcome, ejection by the policy of `peers`. Of a cancelled request without an answer the time until now is a
    /// lower bound of its latency; drop one that was cancelled for a reason that says nothing of the endpoint.
    pub fn finish(mut self, now: Nanos, outcome: Outcome, peers: &EndpointSet) {
        let load = &self.endpoint.load;
        let latency = self.answered.map_or(now, |at| Nanos(at.get())).since(self.sent);
        if outcome == Outcome::Cancelled {
            if self.answered.is_none() {
                load.cancelled(self.class, latency, self.started, now, || peers.least_latency(self.class));
            }
            return;
        }
        if !outcome.is_failure() {
            load.succeeded(self.class, latency, self.started, now, self.refused);
        } else if load.failed(self.class, latency, self.started, now, (outcome, &peers.policy().outlier, self.refused))
            && peers.may_eject()
            && load.eject(now, &peers.policy().outlier)
        {
            peers.view().ejects();
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
