//! How long a connection between sidecars lasts: no longer than the certificates with which its ends have proved themselves.
//!
//! Some time before that it takes no more requests, so that usually none is under way when it ends. The client's side knows both
//! certificates and stops first: a server that closes a quiet connection could meet a request on its way.

use std::time::{Duration, SystemTime};

use engine::Nanos;

use crate::Clock;

/// The client's side takes no new requests for the last tenth of a connection's time, the server's for half of that.
const SHARE: u32 = 10;

/// But for no longer than this: few requests take so long.
const LONGEST: Duration = Duration::from_secs(60);

/// When a connection stops, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// From now on it takes no new requests.
    pub(crate) leaves: Nanos,
    /// It is cut off.
    pub(crate) ends: Nanos,
}

impl Term {
    /// Of a connection whose first certificate to expire does so at `end`, on its client's side.
    pub(crate) fn of_client(end: SystemTime, now: Nanos) -> Term {
        let left = left(end);
        Term::new(left, margin(left), now)
    }

    /// Of one whose client's certificate expires at `end`, on its server's side.
    pub(crate) fn of_server(end: SystemTime, now: Nanos) -> Term {
        let left = left(end);
        Term::new(left, margin(left) / 2, now)
    }

    fn new(left: Duration, margin: Duration, now: Nanos) -> Term {
        Term { leaves: now.after((left - margin).into()), ends: now.after(left.into()) }
    }

    /// The one that ends first.
    pub(crate) fn first(a: Option<Term>, b: Option<Term>) -> Option<Term> {
        a.into_iter().chain(b).min_by_key(|term| term.ends)
    }

    /// Whether it takes no new requests.
    pub(crate) fn is_leaving(&self, now: Nanos) -> bool {
        now >= self.leaves
    }

    /// Whether it must not be used any more.
    pub(crate) fn is_over(&self, now: Nanos) -> bool {
        now >= self.ends
    }
}

/// Resolves when a connection of this term must end.
pub(crate) fn over(clock: &Clock, term: Option<Term>) -> impl Future<Output = ()> + use<> {
    let end = term.map(|term| clock.instant(term.ends));
    async move {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    }
}

fn left(end: SystemTime) -> Duration {
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

fn margin(left: Duration) -> Duration {
    (left / SHARE).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_stops_before_its_server_and_both_before_the_end() {
        let now = Nanos::from_millis(5_000);
        for seconds in [1, 60, 3_600, 86_400] {
            let end = SystemTime::now() + Duration::from_secs(seconds);
            let (client, server) = (Term::of_client(end, now), Term::of_server(end, now));
            assert!(now < client.leaves && client.leaves < server.leaves, "{seconds} s");
            assert!(server.leaves < server.ends.min(client.ends), "{seconds} s");
            assert!(client.ends.since(client.leaves) <= LONGEST.into());
        }
        let over = Term::of_client(SystemTime::now() - Duration::from_secs(1), now);
        assert!(over.is_leaving(now) && over.is_over(now));
    }
}
