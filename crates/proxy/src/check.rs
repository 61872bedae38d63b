//! Active health checks: this process asks every instance of the services that it calls, where a policy says so.
//!
//! One task of the first worker makes them for all workers, for what is learnt of an instance is shared. An instance is asked
//! for the first time somewhere within the first interval and then every interval, a tenth more or less, so that neither the
//! instances of one service nor the proxies of one mesh do it in step. At most [`AT_ONCE`] are under way.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::balance::{Backend, Endpoint, Health};
use engine::policy::{HealthCheck, Probe};
use engine::{Nanos, Protocol};
use net::tls::Alpn;
use tokio::io::AsyncReadExt;

use crate::ask::{self, Question};
use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::pool::Peer;
use crate::upstream::{self, Route, Wire};
use crate::worker::Worker;

/// Checks are made no closer to their times than this: a tenth of the shortest interval would be 10 ms, but nobody needs that.
const LOOK: Nanos = Nanos::from_millis(50);

/// How often the list of instances is made anew.
const LIST: Nanos = Nanos::from_millis(500);

/// Checks under way at once; more wait for the next look.
const AT_ONCE: usize = 64;

/// Instances that are gone through before requests have their turn again: some microseconds.
const STEP: usize = 64;

/// A sidecar that cannot reach its application closes an opaque connection. So long it is waited for that.
const CLOSED: Duration = Duration::from_millis(100);

/// One instance that is checked.
struct Checked {
    endpoint: Arc<Endpoint>,
    service: Arc<Backend>,
    check: Rc<HealthCheck>,
    due: Nanos,
    state: Rc<State>,
}

/// What a check under way and the list of instances tell each other.
#[derive(Debug, Default)]
struct State {
    under_way: Cell<bool>,
    /// Nobody checks the instance any more: what a check that is still under way finds is not held against it.
    over: Cell<bool>,
}

impl Checked {
    /// Whether a check of it begins now, of which `running` are under way. When one was due, the next is after an interval made
    /// unequal by `jitter`; where too many are under way it stays due.
    fn starts(&mut self, now: Nanos, running: usize, jitter: impl FnOnce(Nanos) -> Nanos) -> bool {
        if self.due > now || running >= AT_ONCE {
            return false;
        }
        self.due = now.after(jitter(self.check.interval));
        !self.state.under_way.replace(true)
    }

    /// Nobody checks it any more, so nothing is held against it.
    fn forget(&self) {
        self.state.over.set(true);
        self.endpoint.load.unchecked();
    }
}

/// Checks for ever.
pub(crate) async fn run(worker: Rc<Worker>) {
    let mut checked: HashMap<u64, Checked> = HashMap::new();
    let running = Rc::new(Cell::new(0));
    let mut listed: Option<Nanos> = None;
    let mut next: Option<Nanos> = None;
    loop {
        // A proxy without checks wakes up for the list alone: twenty times a second would be a thousandth of a core.
        let wait = next.map_or(LIST, |due| due.since(worker.now()).clamp(LOOK, LIST));
        tokio::time::sleep(wait.duration()).await;
        let now = worker.now();
        if listed.is_none_or(|at| now.since(at) >= LIST) {
            listed = Some(now);
            list(&worker, &mut checked, now).await;
        }
        next = None;
        let mut steps = Steps::default();
        for one in checked.values_mut() {
            steps.step().await;
            if one.starts(now, running.get(), |length| jittered(&worker, length)) {
                running.set(running.get() + 1);
                start(&worker, one, &running);
            }
            next = Some(next.map_or(one.due, |next| next.min(one.due)));
        }
    }
}

/// Makes one check, beside everything else.
fn start(worker: &Rc<Worker>, one: &Checked, running: &Rc<Cell<usize>>) {
    let (worker, endpoint, service) = (Rc::clone(worker), Arc::clone(&one.endpoint), Arc::clone(&one.service));
    let (check, state, running) = (Rc::clone(&one.check), Rc::clone(&one.state), Rc::clone(running));
    tokio::task::spawn_local(async move {
        let passed = tokio::time::timeout(check.timeout.duration(), passes(&worker, &endpoint, &service, &check));
        note(&endpoint, &service, &check, &state, passed.await.unwrap_or(false));
        running.set(running.get() - 1);
    });
}

/// Lets requests have their turn now and then while many instances are gone through.
#[derive(Debug, Default)]
struct Steps(usize);

impl Steps {
    async fn step(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(STEP) {
            tokio::task::yield_now().await;
        }
    }
}

/// Notes the result of a check.
fn note(endpoint: &Endpoint, service: &Backend, check: &HealthCheck, state: &State, passed: bool) {
    state.under_way.set(false);
    if state.over.get() {
        return;
    }
    let was = endpoint.load.unhealthy();
    endpoint.load.checked(passed, &check.policy);
    if was != endpoint.load.unhealthy() {
        let (instance, service) = (&*endpoint.workload, &*service.service);
        tracing::info!(instance, service, healthy = was, "health checks changed an instance's state");
    }
}

/// Brings the list up to date with what the proxy calls now.
async fn list(worker: &Worker, checked: &mut HashMap<u64, Checked>, now: Nanos) {
    let mut wanted: HashMap<u64, Checked> = HashMap::new();
    let mut steps = Steps::default();
    for backend in worker.shared.discover.backends() {
        let set = backend.endpoints.load_full();
        let Some(check) = &set.policy().check else { continue };
        let check = Rc::new(check.clone());
        for endpoint in set.endpoints().iter().filter(|endpoint| endpoint.health == Health::Ready) {
            steps.step().await;
            let id = endpoint.load.id;
            let old = checked.remove(&id);
            let due = old.as_ref().filter(|old| old.check == check).map(|old| old.due);
            let first = || now.after(Nanos(worker.rng().next_u64() % check.interval.0.max(1)));
            let one = Checked {
                endpoint: Arc::clone(endpoint),
                service: Arc::clone(&backend),
                check: Rc::clone(&check),
                due: due.unwrap_or_else(first),
                state: old.map(|old| old.state).unwrap_or_default(),
            };
            wanted.insert(id, one);
        }
    }
    checked.values().for_each(Checked::forget);
    *checked = wanted;
}

/// `length`, a tenth more or less.
fn jittered(worker: &Worker, length: Nanos) -> Nanos {
    let tenth = u32::try_from(length.0 / 5_000_000).unwrap_or(u32::MAX).max(1);
    let more = Nanos::from_millis(u64::from(worker.rng().below(tenth)));
    Nanos((length.0 - length.0 / 10).saturating_add(more.0))
}

async fn passes(worker: &Rc<Worker>, endpoint: &Endpoint, service: &Backend, check: &HealthCheck) -> bool {
    let route = Route::Endpoint(&endpoint.dial);
    let peer = Peer::Endpoint(endpoint.load.id);
    let name = service.service.split_once('/').map_or(&*service.service, |(_, name)| name);
    match &check.probe {
        Probe::Tcp => match upstream::connect(worker, &route, Alpn::Tcp).await {
            Ok((io, _)) => {
                let mut byte = [0];
                let read = tokio::time::timeout(
                    CLOSED.min(check.timeout.duration() / 2),
                    Conn::new(io, Buffer::default()).read(&mut byte),
                )
                .await;
                // A server that speaks first is well, and one that waits.
                !matches!(read, Ok(Ok(0) | Err(_)))
            }
            Err(_) => false,
        },
        Probe::Http { path, host, .. } => {
            let host = if host.is_empty() { name } else { host };
            let wire = if service.protocol == Protocol::Http2 { Wire::Http2 } else { Wire::Http1 };
            let question = Question { method: "GET", path, host, mark: None, grpc: None };
            let reply = ask::ask(worker, peer, route, wire, &question, check.timeout).await;
            reply.is_some_and(|reply| check.probe.passes(reply.status))
        }
        Probe::Grpc { service } => {
            let question = Question {
                method: "POST",
                path: "/grpc.health.v1.Health/Check",
                host: name,
                mark: None,
                grpc: Some(health_request(service)),
            };
            let reply = ask::ask(worker, peer, route, Wire::Http2, &question, check.timeout).await;
            reply.is_some_and(|reply| reply.status == 200 && reply.grpc_status == Some(0) && is_serving(&reply.body))
        }
    }
}

/// `grpc.health.v1.HealthCheckRequest { service = 1 }`.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 3);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message.into()
}

/// Whether the body is one uncompressed `grpc.health.v1.HealthCheckResponse { status = 1 }` that says SERVING (1).
fn is_serving(body: &[u8]) -> bool {
    matches!(body, [0, 0, 0, 0, 2, 0x08, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(check: &Rc<HealthCheck>, number: usize) -> Checked {
        let endpoint = Arc::new(Endpoint::plain(format!("shop/cart-{number}"), ([127, 0, 0, 1], 80).into()));
        let set = engine::balance::EndpointSet::default();
        let service = Arc::new(Backend::new("shop/cart", 80, Protocol::Http1, set));
        Checked { endpoint, service, check: Rc::clone(check), due: Nanos(0), state: Rc::default() }
    }

    fn tcp() -> Rc<HealthCheck> {
        Rc::new(HealthCheck {
            probe: Probe::Tcp,
            interval: Nanos::from_millis(1_000),
            timeout: Nanos::from_millis(100),
            policy: engine::policy::CheckPolicy { healthy_after: 1, unhealthy_after: 1 },
        })
    }

    /// The check was under way when the policy that wanted it was taken away.
    #[test]
    fn a_check_that_nobody_wants_any_more_leaves_nobody_out() {
        let one = checked(&tcp(), 0);
        let fails = || note(&one.endpoint, &one.service, &one.check, &one.state, false);
        fails();
        assert!(one.endpoint.load.unhealthy());
        one.forget();
        fails();
        assert!(!one.endpoint.load.unhealthy());
    }

    #[test]
    fn no_more_than_sixty_four_are_under_way_and_the_others_stay_due() {
        let check = tcp();
        let mut all: Vec<Checked> = (0..100).map(|i| checked(&check, i)).collect();
        let mut started = |now: u64, mut running: usize| {
            let before = running;
            for one in &mut all {
                running += usize::from(one.starts(Nanos::from_millis(now), running, |length| length));
            }
            running - before
        };
        assert_eq!(started(10, 0), 64);
        assert_eq!(started(20, 64), 0, "they wait");
        assert_eq!(started(30, 54), 10, "ten have ended");
        assert_eq!(started(40, 0), 26, "the rest, and of the others none before its interval is over");
        assert_eq!(started(2_000, 0), 0, "none begins again before it has ended");
    }

    #[test]
    fn a_grpc_health_check_is_written_and_read() {
        assert!(health_request("").is_empty());
        assert_eq!(&health_request("a.B")[..], b"\x0a\x03a.B");
        let long = health_request(&"x".repeat(300));
        assert_eq!(&long[..3], b"\x0a\xac\x02");
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for not in [&[0, 0, 0, 0, 2, 8, 2][..], &[0, 0, 0, 0, 0], &[], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8]] {
            assert!(!is_serving(not), "{not:?}");
        }
    }
}
