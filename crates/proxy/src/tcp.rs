//! Opaque connections: choose, connect, carry.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use engine::balance::{Ask, Backend, Dial, InFlight};
use engine::route::Backends;
use engine::snapshot::TcpRule;
use engine::{Nanos, Outcome, Reason};
use net::tls::Alpn;
use smallvec::SmallVec;

use crate::buffer::Buffer;
use crate::conn::Conn;
use crate::observe::{About, Record};
use crate::pool::{Peer, Used};
use crate::reply::Refusal;
use crate::route::{Door, Way};
use crate::session;
use crate::term::{self, Term};
use crate::tunnel::{self, Carried};
use crate::upstream::{self, Route};
use crate::worker::Worker;

/// The other side of an opaque connection.
pub(crate) struct Opened {
    pub(crate) conn: Conn,
    in_flight: InFlight,
    backend: Arc<Backend>,
    attempts: u32,
    term: Option<Term>,
}

impl Opened {
    /// The connection.
    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// The client spoke HTTP after all: a plain connection serves its first request, one through a sidecar was agreed to be
    /// opaque and is closed.
    pub(crate) fn keep(self, worker: &Worker) {
        let endpoint = self.in_flight.endpoint();
        if matches!(endpoint.dial, Dial::Plain(_)) && self.conn.input.is_empty() {
            worker.pool.borrow_mut().put(
                Peer::Endpoint(endpoint.load.id),
                Box::new(self.conn),
                None,
                worker.now(),
                Used::default(),
            );
        }
        // What is sent is counted by the request.
        self.in_flight.unsent();
    }
}

/// Connects a client at `source` by `rule`; other instances are tried when one cannot be reached.
pub(crate) async fn open(worker: &Worker, rule: &TcpRule, source: IpAddr) -> Result<Opened, Refusal> {
    let backend = pick(&rule.backends, worker)?;
    let class = backend.class(rule.series);
    let mut tried: SmallVec<[u64; 4]> = SmallVec::new();
    loop {
        let now = worker.now();
        let endpoints = backend.endpoints.load();
        // Of an opaque connection nothing but its client's address is known.
        let hash = session::of_source(endpoints.policy(), source);
        let ask = Ask { class, tried: &tried, hash };
        let chosen = endpoints.choose(now, &mut worker.rng(), &ask, |_| false);
        let Some(endpoint) = chosen else {
            return Err(Refusal::new(
                Reason::NoEndpoint,
                format!("{}:{} has no instance that may be used", backend.service, backend.port),
            ));
        };
        let in_flight = InFlight::start(Arc::clone(&endpoint), class, now);
        let limit = rule.policy.connect_timeout.duration();
        let connected =
            tokio::time::timeout(limit, upstream::connect(worker, &Route::Endpoint(&endpoint.dial), Alpn::Tcp)).await;
        let refusal = match connected {
            Ok(Ok((io, term))) => {
                let attempts = tried.len() as u32 + 1;
                return Ok(Opened { conn: Conn::new(io, Buffer::default()), in_flight, backend, attempts, term });
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => {
                Refusal::new(Reason::ConnectFailed, format!("no connection to {} within {limit:?}", endpoint.workload))
            }
        };
        in_flight.finish(worker.now(), Outcome::ConnectFailure, &*backend);
        tried.push(endpoint.load.id);
        let again = rule.policy.retry.on.connect_failure && tried.len() as u32 <= rule.policy.retry.attempts;
        if !again {
            return Err(refusal);
        }
    }
}

fn pick(backends: &Backends, worker: &Worker) -> Result<Arc<Backend>, Refusal> {
    match backends.pick(&mut worker.rng()).map(|share| &share.target) {
        Some(Ok(backend)) => Ok(Arc::clone(backend)),
        Some(Err(why)) => Err(Refusal::new(Reason::InvalidBackend, why.to_string())),
        None => Err(Refusal::new(Reason::InvalidBackend, "no backend has a weight")),
    }
}

/// Carries a connection by `rule` until both sides have ended.
pub(crate) async fn carry(
    worker: &Rc<Worker>,
    door: &Door,
    mut conn: Conn,
    rule: &Arc<TcpRule>,
    opened: Option<Opened>,
) {
    let mut record = begin(worker, door);
    record.series = rule.series;
    let opened = match opened {
        Some(opened) => Ok(opened),
        None => Box::pin(open(worker, rule, door.peer.ip())).await,
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(refusal) => return end_refused(worker, door, record, &conn, &refusal),
    };
    record.attempts = opened.attempts;
    record.endpoint = Some(Arc::clone(opened.in_flight.endpoint()));
    opened.in_flight.answered(worker.now());
    let idle = rule.policy.idle_timeout;
    let carried = carry_between(worker, door, record, &mut conn, &mut opened.conn, idle, opened.term).await;
    opened.in_flight.finish(worker.now(), carried.outcome(), &*opened.backend);
}

/// Carries a connection to a host that the mesh does not know.
pub(crate) async fn carry_outside(worker: &Rc<Worker>, door: &Door, mut conn: Conn, opened: Option<Conn>) {
    let Way::Fixed(target) = &door.way else { return };
    let record = begin(worker, door);
    let opened = match opened {
        Some(opened) => Ok(opened),
        None => Box::pin(crate::outside::open(worker, target)).await,
    };
    match opened {
        Ok(mut up) => {
            carry_between(worker, door, record, &mut conn, &mut up, worker.defaults.idle_timeout, None).await;
        }
        Err(refusal) => end_refused(worker, door, record, &conn, &refusal),
    }
}

/// Carries bytes between two connections, of which the other side's lasts for `term`, and counts; returns what became of it.
pub(crate) async fn carry_between(
    worker: &Worker,
    door: &Door,
    mut record: Record,
    down: &mut Conn,
    up: &mut Conn,
    idle: Option<Nanos>,
    term: Option<Term>,
) -> Carried {
    worker.observer.opened(record.series);
    let open = Open { worker, record: &record };
    let over = term::over(&worker.shared.clock, Term::first(door.term(), term));
    let carried = tunnel::join(down, up, idle, over).await;
    drop(open);
    record.received = carried.received;
    record.sent = carried.sent;
    if let Some((reason, client)) = carried.fault {
        record.reason = Some(reason);
        record.failure = !client;
    }
    finish(worker, door, &record);
    carried
}

/// Counts the end of an open connection, also when its task is dropped.
struct Open<'a> {
    worker: &'a Worker,
    record: &'a Record,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.worker.observer.closed(self.record.series);
    }
}

/// Refuses an opaque connection: there is no way to say why but to cut it off.
pub(crate) fn refuse(worker: &Worker, door: &Door, conn: Conn, refusal: &Refusal) {
    let record = begin(worker, door);
    end_refused(worker, door, record, &conn, refusal);
}

fn end_refused(worker: &Worker, door: &Door, mut record: Record, conn: &Conn, refusal: &Refusal) {
    tracing::debug!(reason = refusal.reason.code(), why = %refusal.text, "connection refused");
    record.reason = Some(refusal.reason);
    record.failure = true;
    conn.io.abort_on_close();
    finish(worker, door, &record);
}

fn begin(worker: &Worker, door: &Door) -> Record {
    worker.observer.begin(door.direction(), worker.now())
}

fn finish(worker: &Worker, door: &Door, record: &Record) {
    let about = match &door.way {
        Way::Fixed(target) => About::Connection(target),
        _ => About::Unknown,
    };
    worker.observer.finish(record, about, door.identity(), worker.access_log(), worker.now());
}
