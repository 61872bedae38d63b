//! What one data-path thread owns: pools, buffers, its cache of names, its random numbers. Nothing here is shared.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use engine::policy::TrafficPolicy;
use engine::snapshot::{AccessLog, Live, Mesh, Slot};
use engine::{Nanos, Rng};
use net::drain::{Guard, State};
use net::identity::Identity;
use net::inside::Sockets;
use slab::Slab;
use tokio::time::Instant;

use crate::buffer::{Buffer, Buffers};
use crate::crew::Crew;
use crate::h1;
use crate::h2;
use crate::load::{ServerLoad, Serving};
use crate::observe::Observer;
use crate::pool::Pool;
use crate::settings::{Limits, Settings};
use crate::target::Target;
use crate::{Clock, Discover};

/// How often a worker tidies up: idle connections, unused buffers, names.
const TIDY: Duration = Duration::from_secs(1);

/// While draining, an idle client connection is closed after this time: by then its peer knows that this instance is draining
/// and has begun no further request on it.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// Most names that one worker remembers; beyond it the cache is emptied and filled again from [`Discover`].
const NAMES: usize = 4_096;

/// Most destinations that are remembered as speaking first; the oldest is forgotten.
const SPEAK_FIRST: usize = 64;

/// Most unused pairs of heads that one worker keeps.
const HEADS: usize = 256;

/// A head whose memory is larger is not kept: most are below 2 KiB, and with [`HEADS`] this bounds a worker's unused ones to 4 MiB.
const KEEP_HEAD: usize = 8 * 1024;

/// The heads of one exchange. Kept by a connection only while it has a request.
#[derive(Default)]
pub(crate) struct Heads {
    pub(crate) request: h1::Request,
    pub(crate) response: h1::Response,
}

impl Heads {
    /// Whether they have too much memory to be kept.
    fn are_large(&self) -> bool {
        self.request.memory().max(self.response.memory()) > KEEP_HEAD
    }
}

/// What all workers share; read-only but for what is inside the engine's own cells.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) discover: Arc<dyn Discover>,
    pub(crate) live: Arc<Live>,
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) drain: net::drain::Watch,
    pub(crate) drain_out: net::drain::Watch,
    /// Sockets of the application's own network, if it has one.
    pub(crate) inside: Option<Sockets>,
    /// Of the application beside us.
    pub(crate) load: ServerLoad,
    /// Whether connections are taken.
    pub(crate) open: tokio::sync::watch::Receiver<bool>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Draining {
    #[default]
    No,
    /// Peers are being told.
    Told,
    /// They had time to hear it.
    Quiet,
}

/// Whose connections: the two end one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Those of others, to the application or to a gateway.
    In,
    /// The application's own.
    Out,
}

/// The place where the mesh's settings are published.
struct OfMesh(Arc<Live>);

impl Deref for OfMesh {
    type Target = ArcSwap<Mesh>;

    fn deref(&self) -> &ArcSwap<Mesh> {
        &self.0.mesh
    }
}

/// One worker.
pub(crate) struct Worker {
    /// Its number among its like.
    index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) observer: Observer,
    pub(crate) crew: Crew,
    /// The policy where no rule has one: no retries, since whoever called has its own.
    pub(crate) defaults: Arc<TrafficPolicy>,
    #[allow(clippy::vec_box, reason = "they are lent and come back without being moved")]
    heads: RefCell<Vec<Box<Heads>>>,
    recent: Cell<Nanos>,
    /// The mesh's settings, without counting a reference for each look.
    mesh: RefCell<Cache<OfMesh, Arc<Mesh>>>,
    rng: RefCell<Rng>,
    buffers: Rc<RefCell<Buffers>>,
    /// Of streams of HTTP/2.
    pub(crate) streams: Rc<h2::Memory>,
    names: RefCell<HashMap<Box<str>, Arc<Slot>>>,
    speak_first: RefCell<Vec<Target>>,
    connections: RefCell<Slab<Waker>>,
    /// By [`Side`].
    draining: [Cell<Draining>; 2],
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>, observer: Observer, seed: u64) -> Rc<Worker> {
        let buffers = Rc::<RefCell<Buffers>>::default();
        Rc::new(Worker {
            index,
            pool: RefCell::new(Pool::new(&shared.settings.limits)),
            observer,
            crew: Crew::default(),
            defaults: Arc::new(TrafficPolicy::default()),
            heads: RefCell::default(),
            recent: Cell::new(shared.clock.now()),
            mesh: RefCell::new(Cache::new(OfMesh(Arc::clone(&shared.live)))),
            rng: RefCell::new(Rng::seeded(seed)),
            streams: Rc::new(h2::Memory::new(Rc::clone(&buffers))),
            buffers,
            names: RefCell::default(),
            speak_first: RefCell::default(),
            connections: RefCell::default(),
            draining: Default::default(),
            shared,
        })
    }

    /// Whether it does what one worker of a process does for all.
    pub(crate) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// The limits to keep.
    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.settings.limits
    }

    /// The time.
    pub(crate) fn now(&self) -> Nanos {
        let now = self.shared.clock.now();
        self.recent.set(now);
        now
    }

    /// The time when anybody of this worker last looked at the clock: good for what is counted in seconds.
    pub(crate) fn recently(&self) -> Nanos {
        self.recent.get()
    }

    /// What the mesh wants to have logged now.
    pub(crate) fn access_log(&self) -> AccessLog {
        self.mesh.borrow_mut().load().access_log
    }

    /// The worker's random numbers.
    pub(crate) fn rng(&self) -> RefMut<'_, Rng> {
        self.rng.borrow_mut()
    }

    /// Counts a request that goes to the application, until the result is dropped.
    pub(crate) fn serve(&self) -> Serving<'_> {
        self.shared.load.serve(self.index)
    }

    /// Learns how long the application took for an answer that was no failure, and came `now`.
    pub(crate) fn served(&self, latency: Nanos, now: Nanos) {
        self.shared.load.answered(self.index, latency, now);
    }

    /// Notes what the application says of its own load.
    pub(crate) fn application_said(&self, orca: &[u8]) {
        self.shared.load.said(self.index, orca, self.now());
    }

    /// Its unused buffers, for what lends and gives back without it at hand.
    pub(crate) fn buffers(&self) -> Rc<RefCell<Buffers>> {
        Rc::clone(&self.buffers)
    }

    /// An empty buffer.
    pub(crate) fn lend(&self) -> Buffer {
        self.buffers.borrow_mut().lend()
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&self, buffer: &mut Buffer) {
        self.buffers.borrow_mut().give_back(buffer);
    }

    /// Takes an output buffer back.
    pub(crate) fn give_back_output(&self, output: Vec<u8>) {
        self.buffers.borrow_mut().give_back_output(output);
    }

    /// An empty output buffer.
    pub(crate) fn lend_output(&self) -> Vec<u8> {
        self.buffers.borrow_mut().lend_output()
    }

    /// Memory for the heads of one exchange.
    pub(crate) fn lend_heads(&self) -> Box<Heads> {
        self.heads.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes it back.
    pub(crate) fn give_back_heads(&self, mut heads: Box<Heads>) {
        let mut unused = self.heads.borrow_mut();
        if unused.len() < HEADS && !heads.are_large() {
            heads.request.reset();
            heads.response.reset();
            unused.push(heads);
        }
    }

    /// The slot of `name`, from this worker's cache. `None`: too many names are held.
    pub(crate) fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        let mut names = self.names.borrow_mut();
        if let Some(slot) = names.get(name) {
            return Some(Arc::clone(slot));
        }
        let slot = self.shared.discover.slot(name)?;
        if names.len() >= NAMES {
            names.clear();
        }
        names.insert(name.into(), Arc::clone(&slot));
        Some(slot)
    }

    /// Whether a server at `target` was heard before its client.
    pub(crate) fn server_speaks_first(&self, target: &Target) -> bool {
        self.speak_first.borrow().contains(target)
    }

    /// Remembers that it was.
    pub(crate) fn remember_server_speaks_first(&self, target: &Target) {
        let mut speak_first = self.speak_first.borrow_mut();
        if speak_first.len() >= SPEAK_FIRST {
            speak_first.remove(0);
        }
        if !speak_first.contains(target) {
            speak_first.push(target.clone());
        }
    }

    /// Counts the calling task as a client connection, which is finished when its side ends (`guard`), until the result is dropped;
    /// `None` at the limit.
    pub(crate) fn enter(self: &Rc<Self>, guard: Guard, waker: &Waker) -> Option<Presence> {
        let mut connections = self.connections.borrow_mut();
        if connections.len() >= self.limits().connections {
            return None;
        }
        let key = connections.insert(waker.clone());
        Some(Presence { worker: Rc::clone(self), key, _guard: guard })
    }

    /// The end of this side.
    pub(crate) fn ending(&self, side: Side) -> &net::drain::Watch {
        match side {
            Side::In => &self.shared.drain,
            Side::Out => &self.shared.drain_out,
        }
    }

    /// Whether peers must be told that this side ends.
    pub(crate) fn draining(&self, side: Side) -> bool {
        self.draining[side as usize].get() != Draining::No
    }

    /// Whether a connection without a request may be closed because this side ends.
    pub(crate) fn closes_idle(&self, side: Side) -> bool {
        self.draining[side as usize].get() == Draining::Quiet
    }

    /// Resolves when peers had time to hear that this side drains.
    pub(crate) async fn drained_quietly(&self, side: Side) {
        let mut drain = self.ending(side).clone();
        drain.draining().await;
        // Who has taken the listeners over accepts already.
        if !matches!(drain.state(), State::Leaving(_)) {
            tokio::time::sleep(self.quiet_time(side)).await;
        }
    }

    /// How long peers have to hear that this side drains: never more than half of what is left.
    fn quiet_time(&self, side: Side) -> Duration {
        match self.ending(side).state() {
            State::Draining(deadline) => DRAIN_QUIET.min((deadline - Instant::now()) / 2),
            // The next request on a quiet connection is answered, and then the connection is closed.
            State::Leaving(deadline) => (deadline - Instant::now()).saturating_sub(DRAIN_QUIET),
            State::Open | State::Closed => Duration::ZERO,
        }
    }

    /// Waits for this side to drain; then every connection's task looks at it, and again when the idle ones may be closed.
    pub(crate) async fn drain(&self, side: Side) {
        let mut drain = self.ending(side).clone();
        drain.draining().await;
        self.draining[side as usize].set(Draining::Told);
        if matches!(drain.state(), State::Leaving(_)) {
            // What other processes hold open for these connections can end.
            self.pool.borrow_mut().clear();
        }
        self.wake_all();
        // Whose place was taken may be told to drain after all, and then the time is another.
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.quiet_time(side)) => break,
                () = drain.changed() => {}
            }
        }
        self.draining[side as usize].set(Draining::Quiet);
        if side == Side::Out {
            self.pool.borrow_mut().clear();
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        for (_, waker) in self.connections.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Tidies up for ever.
    pub(crate) async fn tidy(&self) {
        let mut rounds = 0_u32;
        loop {
            tokio::time::sleep(TIDY).await;
            let now = self.now();
            self.pool.borrow_mut().expire(now);
            rounds += 1;
            if rounds.is_multiple_of(10) {
                self.buffers.borrow_mut().shrink();
                self.shrink_heads();
                self.streams.shrink();
                self.crew.shrink();
                self.forget_names(now);
            }
        }
    }

    /// Frees half of the unused heads.
    fn shrink_heads(&self) {
        let mut heads = self.heads.borrow_mut();
        let keep = heads.len() / 2;
        heads.truncate(keep);
    }

    /// Lets go of slots that were not used for a while, so that their subscription can end.
    fn forget_names(&self, now: Nanos) {
        const UNUSED: Nanos = Nanos::from_millis(60_000);
        self.names.borrow_mut().retain(|_, slot| now.since(slot.last_used()) < UNUSED);
    }
}

/// A client connection as its worker counts it.
pub(crate) struct Presence {
    worker: Rc<Worker>,
    key: usize,
    _guard: Guard,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_large_heads_is_not_kept() {
        let mut heads = Heads::default();
        let mut parse = |cookie: usize| {
            let head = format!("GET / HTTP/1.1\r\nHost: cart\r\nCookie: {}\r\n\r\n", "c".repeat(cookie));
            assert!(matches!(heads.request.parse(head.as_bytes(), &Limits::default()), Ok(Some(n)) if n == head.len()));
            heads.request.reset();
            heads.are_large()
        };
        assert!(!parse(2_000));
        assert!(parse(60_000));
        assert!(parse(2_000), "a reset keeps the memory");
    }
}
