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
    loop {
        // A proxy without checks wakes up for the list alone: twenty times a second would be a thousandth of a core.
        let next = checked.values().map(|one| one.due).min();
        let wait = next.map_or(LIST, |due| due.since(worker.now()).clamp(LOOK, LIST));
        tokio::time::sleep(wait.duration()).await;
        let now = worker.now();
        if listed.is_none_or(|at| now.since(at) >= LIST) {
            listed = Some(now);
            list(&worker, &mut checked, now);
        }
        for one in checked.values_mut().filter(|one| one.due <= now) {
            if running.get() >= AT_ONCE {
                break;
            }
            one.due = now.after(jittered(&worker, one.check.interval));
            if one.state.under_way.replace(true) {
                continue;
            }
            running.set(running.get() + 1);
            let (worker, endpoint, service) = (Rc::clone(&worker), Arc::clone(&one.endpoint), Arc::clone(&one.service));
            let (check, state, running) = (Rc::clone(&one.check), Rc::clone(&one.state), Rc::clone(&running));
            tokio::task::spawn_local(async move {
                let passed =
                    tokio::time::timeout(check.timeout.duration(), passes(&worker, &endpoint, &service, &check));
                note(&endpoint, &service, &check, &state, passed.await.unwrap_or(false));
                running.set(running.get() - 1);
            });
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
fn list(worker: &Worker, checked: &mut HashMap<u64, Checked>, now: Nanos) {
    let mut wanted: HashMap<u64, Checked> = HashMap::new();
    for backend in worker.shared.discover.backends() {
        let set = backend.endpoints.load();
        let Some(check) = &set.policy().check else { continue };
        let check = Rc::new(check.clone());
        for endpoint in set.endpoints().iter().filter(|endpoint| endpoint.health == Health::Ready) {
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

    /// The check was under way when the policy that wanted it was taken away.
    #[test]
    fn a_check_that_nobody_wants_any_more_leaves_nobody_out() {
        let policy = engine::policy::CheckPolicy { healthy_after: 1, unhealthy_after: 1 };
        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Nanos::from_millis(1_000),
            timeout: Nanos::from_millis(100),
            policy,
        };
        let endpoint = Arc::new(Endpoint {
            workload: "shop/cart-0".into(),
            address: [127, 0, 0, 1].into(),
            dial: engine::balance::Dial::Plain(([127, 0, 0, 1], 80).into()),
            weight: 1,
            priority: 0,
            locality: engine::balance::Locality::default(),
            health: Health::Ready,
            load: engine::balance::Load::new(),
        });
        let set = engine::balance::EndpointSet::default();
        let service = Arc::new(Backend::new("shop/cart", 80, Protocol::Http1, set));
        let one = Checked { endpoint, service, check: Rc::new(check), due: Nanos(0), state: Rc::default() };
        let fails = || note(&one.endpoint, &one.service, &one.check, &one.state, false);
        fails();
        assert!(one.endpoint.load.unhealthy());
        one.forget();
        fails();
        assert!(!one.endpoint.load.unhealthy());
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
