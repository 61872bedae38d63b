//! The choose phase: which instance one attempt goes to, and what its answer says of it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::SystemTime;

use engine::balance::{Ask, Class, Dial, Endpoint, EndpointSet, InFlight, hash};
use engine::{Nanos, Reason};

use crate::decision::Taken;
use crate::load::Report;
use crate::pool::Peer;
use crate::reply::{REASON, Refusal};
use crate::route::Choice;
use crate::send::Call;
use crate::upstream::Route;
use crate::worker::Worker;
use crate::{decision, probe, session};

/// Where one attempt goes.
pub(crate) struct Try {
    pub(crate) peer: Peer,
    /// Counted as in flight at the endpoint, if it goes to one.
    pub(crate) in_flight: Option<InFlight>,
    address: Option<SocketAddr>,
}

impl Try {
    /// To a host outside.
    pub(crate) fn outside(address: SocketAddr) -> Try {
        Try { peer: Peer::Address(address), in_flight: None, address: Some(address) }
    }

    /// To the application, in the name of `source` if that is not us.
    pub(crate) fn application(address: SocketAddr, source: Option<IpAddr>) -> Try {
        let peer = source.map_or(Peer::Address(address), |source| Peer::Application(address, source));
        Try { peer, in_flight: None, address: Some(address) }
    }

    pub(crate) fn route(&self) -> Route<'_> {
        match (&self.in_flight, self.address, self.peer) {
            (Some(in_flight), ..) => Route::Endpoint(&in_flight.endpoint().dial),
            (None, _, Peer::Application(address, source)) => Route::As(address, source),
            (None, Some(address), _) => Route::Address(address),
            (None, None, _) => unreachable!("an attempt has an endpoint or an address"),
        }
    }

    pub(crate) fn is_mesh(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|in_flight| matches!(in_flight.endpoint().dial, Dial::Mesh { .. }))
    }
}

/// Chooses an instance for one attempt; `tried` are those of earlier ones.
pub(crate) fn choose(
    call: &mut Call<'_>,
    choice: &Choice,
    class: Class,
    tried: &[u64],
    now: Nanos,
) -> Result<Try, Refusal> {
    let worker = call.worker;
    let backend = choice.backend();
    let endpoints = backend.endpoints.load();
    let mut ask = Ask { class, hash: None, tried };
    let kept = match &endpoints.policy().hash {
        None => None,
        Some(key) => match session::instance(key, call.head) {
            Some(instance) => endpoints.named(&instance, now, &ask).cloned(),
            None => {
                ask.hash = session::key(key, call.head, call.door.peer.ip()).map(|value| hash(&value));
                None
            }
        },
    };
    let warm = |endpoint: &Endpoint| worker.pool.borrow().is_warm(Peer::Endpoint(endpoint.load.id));
    let bound = kept.is_some();
    let chosen = match kept {
        Some(kept) => Some((kept, None)),
        None => endpoints.choose_by(now, &mut worker.rng(), &ask, warm).map(|(chosen, by)| (chosen, Some(by))),
    };
    let Some((chosen, by)) = chosen else {
        return Err(Refusal::new(
            Reason::NoEndpoint,
            format!("{}:{} has no instance that may be used", backend.service, backend.port),
        ));
    };
    if let Some(key) = &endpoints.policy().hash {
        call.binding = if bound { None } else { session::binding(key, &chosen.workload) };
    }
    if call.record.attempts == 0 {
        if is_sampled(worker, choice) {
            let taken = Taken { endpoint: &chosen, by };
            call.record.decision = Some(decision::describe(&endpoints, now, &ask, warm, taken));
        }
        probe_idle(worker, &endpoints, now);
    }
    let peer = Peer::Endpoint(chosen.load.id);
    Ok(Try { peer, in_flight: Some(InFlight::start(chosen, class, now)), address: None })
}

/// Whether the decision for this request is to be logged.
fn is_sampled(worker: &Worker, choice: &Choice) -> bool {
    let one_in = choice.rule.policy.log_decisions;
    one_in > 0 && worker.rng().below(one_in) == 0
}

/// Asks one idle instance how busy it is, if that is due.
fn probe_idle(worker: &Rc<Worker>, endpoints: &EndpointSet, now: Nanos) {
    let Some(idle) = endpoints.probe_due(now, &mut worker.rng()) else { return };
    if matches!(idle.dial, Dial::Mesh { .. }) {
        tokio::task::spawn_local(probe::ask(Rc::clone(worker), idle));
    }
}

/// Learns from the head of an answer: what a verified sidecar says of its load, and whether less is asked for.
pub(crate) fn hear(call: &Call<'_>, in_flight: &mut InFlight, mesh: bool, now: Nanos) {
    if mesh && let Some(report) = call.response.load().and_then(Report::parse) {
        in_flight.endpoint().load.reported(report.in_flight, report.latency, now);
    }
    let status = call.response.status();
    let field = |name| call.response.fields().get(name);
    let refuses = || (400..500).contains(&status) || status == 200 && call.head.is_grpc();
    if mesh && refuses() && matches!(field(REASON), Some(b"denied")) {
        // By the sidecar, at once: that says nothing of the application, and must not look like a fast answer.
        in_flight.limited(None, now);
    }
    if matches!(status, 429 | 503) {
        match field("retry-after").and_then(|value| retry_after(value, field("date"))) {
            after if status == 429 => in_flight.limited(after, now),
            Some(after) => in_flight.refused(after, now),
            None => {}
        }
    }
}

/// The wait that a `Retry-After` asks for: seconds, or a date. The date is compared with the answer's own `Date`, for clocks
/// differ by more than such a wait; with this machine's clock only where there is none.
fn retry_after(value: &[u8], date: Option<&[u8]>) -> Option<Nanos> {
    let text = |bytes| std::str::from_utf8(bytes).ok().map(str::trim);
    let value = text(value)?;
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Nanos::from_millis(u64::from(seconds) * 1000));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let said = date.and_then(text).and_then(|date| httpdate::parse_http_date(date).ok());
    // A date that has passed asks for no wait.
    let wait = until.duration_since(said.unwrap_or_else(SystemTime::now)).unwrap_or_default();
    Some(Nanos(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_are_waited_for() {
        assert_eq!(retry_after(b" 3 ", None), Some(Nanos::from_millis(3000)));
        for other in ["", "-1", "1.5", "99999999999", "Wed, 21 Oct 2026", "Wed, 99 Oct 2026 07:28:00 GMT"] {
            assert_eq!(retry_after(other.as_bytes(), None), None, "{other}");
        }
    }

    #[test]
    fn a_date_is_waited_for_by_the_servers_own_clock() {
        let after = |value: &str, date: Option<&str>| retry_after(value.as_bytes(), date.map(str::as_bytes));
        let at = "Wed, 21 Oct 2026 07:28:00 GMT";
        assert_eq!(after(at, Some("Wed, 21 Oct 2026 07:27:50 GMT")), Some(Nanos::from_millis(10_000)));
        assert_eq!(after(at, Some("Wed, 21 Oct 2026 07:28:01 GMT")), Some(Nanos(0)), "it has passed");
        assert_eq!(after("Wednesday, 21-Oct-26 07:28:00 GMT", Some(at)), Some(Nanos(0)), "the old form");
        // Without a `Date` that can be read, this machine's clock.
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        for date in [None, Some("yesterday")] {
            let wait = after(&soon, date).expect("a date");
            assert!((Nanos::from_millis(90_000)..=Nanos::from_millis(100_000)).contains(&wait), "{wait:?}");
        }
        assert_eq!(after("Thu, 01 Jan 1970 00:00:00 GMT", None), Some(Nanos(0)));
    }
}
