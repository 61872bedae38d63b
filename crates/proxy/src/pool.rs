//! Upstream connections that wait for their next request. One pool a worker, so nothing here is locked.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use engine::Nanos;
use tokio::sync::Notify;

use crate::conn::Conn;
use crate::h2::{self, Connection};
use crate::io::Io;
use crate::link::{self, Link, Stream};
use crate::settings::Limits;
use crate::term::Term;

/// Where exchanges move more than this on average, bytes, a connection for each is cheaper than a stream of a link: bodies
/// are copied twice more on a link (0.7 ns a byte by measurement), and a small exchange saves some 9 µs.
const BULK: u64 = 16 * 1024;

/// How slowly the average follows: the newest exchange weighs one eighth.
const WEIGHT: u64 = 8;

/// Whom a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// An endpoint, by the id of its [`engine::balance::Load`].
    Endpoint(u64),
    /// An address that no endpoint stands for: the application, or a host outside.
    Address(SocketAddr),
    /// The application at this address, in the name of a caller at that one.
    Application(SocketAddr, IpAddr),
}

impl Peer {
    /// The id of the endpoint, if it is one.
    pub(crate) fn endpoint(self) -> Option<u64> {
        match self {
            Peer::Endpoint(id) => Some(id),
            Peer::Address(_) | Peer::Application(..) => None,
        }
    }
}

/// Hashes [`Peer`]s by multiplication (Knuth, TAOCP 6.4: the golden ratio): they are our own numbers and addresses that rules
/// name, so nobody can choose them to collide, and the standard hasher's protection costs more than the rest of a look-up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerHasher(u64);

impl Hasher for PeerHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.write_u64(discriminant as u64);
    }
}

type ByPeer<T> = HashMap<Peer, T, BuildHasherDefault<PeerHasher>>;

/// An HTTP/1 connection without a request.
struct Idle {
    conn: Box<Conn>,
    /// Not used after this time.
    until: Nanos,
    /// How long it lasts, however often it is used.
    expires: Option<Term>,
}

/// An HTTP/2 connection that new streams can be opened on.
struct Shared {
    connection: Rc<Connection>,
    used: Nanos,
    expires: Option<Term>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.leave();
    }
}

/// The HTTP/2 connections to one peer.
#[derive(Default)]
struct Bundle {
    connections: Vec<Shared>,
    /// Somebody is opening one.
    opening: Option<Rc<Attempt>>,
}

/// Somebody's opening of a connection, which others wait for.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    over: Cell<bool>,
    told: Notify,
    /// How many want a place on the connection, whoever opens it included.
    wanted: Cell<usize>,
}

impl Attempt {
    /// Resolves when it is over, well or not.
    pub(crate) async fn ended(&self) {
        // One thread owns the pool, so nothing ends between the look and the wait.
        if !self.over.get() {
            self.told.notified().await;
        }
    }
}

/// What leads to one peer over HTTP/1.
#[derive(Default)]
struct Known {
    /// Connections of their own.
    idle: Vec<Idle>,
    /// Streams of the links.
    streams: Vec<Idle>,
    links: Vec<Linked>,
    /// Somebody is opening a link.
    opening: Option<Rc<Attempt>>,
    /// Average bytes of bodies that an exchange moves, both ways, of late.
    average: u64,
}

/// A link that new streams can be opened on.
struct Linked {
    link: Rc<Link>,
    used: Nanos,
    expires: Option<Term>,
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.link.leave();
    }
}

/// What a pool has for a new stream.
pub(crate) enum Place<T> {
    /// A connection with room.
    Ready(T),
    /// Wait until whoever opens one is done, then ask again.
    Wait(Rc<Attempt>),
    /// Open one. Dropping the permit lets the others try.
    Open(Opening),
}

/// The right to open a connection, so that a burst of streams does not open one each.
pub(crate) struct Opening(Rc<Attempt>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.over.set(true);
        self.0.told.notify_waiters();
    }
}

/// A connection with `places` is needed: waits for one that is being opened and has a place left, or is the one to open it. So
/// a burst opens as many at once as it needs.
fn opening<T>(slot: &mut Option<Rc<Attempt>>, places: usize) -> Place<T> {
    if let Some(opening) = slot.as_ref().filter(|opening| !opening.over.get() && opening.wanted.get() < places) {
        opening.wanted.set(opening.wanted.get() + 1);
        return Place::Wait(Rc::clone(opening));
    }
    let opening = Rc::new(Attempt::default());
    opening.wanted.set(1);
    *slot = Some(Rc::clone(&opening));
    Place::Open(Opening(opening))
}

/// What the last exchange on a connection says of its future.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Bytes of bodies that it moved, both ways.
    pub(crate) bytes: u64,
    /// How long the server says that it keeps the connection without a request.
    pub(crate) keeps: Option<Nanos>,
}

/// A request that meets the server's closing is lost unless it may be repeated, so a connection is not used in the last second
/// before, or in the second half of a shorter time.
fn before(end: Nanos) -> Nanos {
    Nanos(end.0 - (end.0 / 2).min(Nanos::from_millis(1_000).0))
}

/// A worker's pool.
pub(crate) struct Pool {
    http1: ByPeer<Known>,
    http2: ByPeer<Bundle>,
    idle: Nanos,
    per_peer: usize,
    streams: u32,
}

impl Pool {
    pub(crate) fn new(limits: &Limits) -> Pool {
        Pool {
            http1: ByPeer::default(),
            http2: ByPeer::default(),
            idle: Nanos::from(limits.pool_idle),
            per_peer: limits.pool_per_endpoint,
            streams: limits.streams,
        }
    }

    /// Whether a request to `peer` would find a connection.
    pub(crate) fn is_warm(&self, peer: Peer) -> bool {
        let (http1, http2) = self.is_warm_for(peer);
        http1 || http2
    }

    /// The same for HTTP/1 and for HTTP/2.
    pub(crate) fn is_warm_for(&self, peer: Peer) -> (bool, bool) {
        let http2 = self.http2.get(&peer).is_some_and(|bundle| !bundle.connections.is_empty());
        (self.http1.get(&peer).is_some_and(Known::is_warm), http2)
    }

    /// The HTTP/1 connection to `peer` that was used last and is still good, and how long it lasts.
    pub(crate) fn take(&mut self, peer: Peer, now: Nanos) -> Option<(Box<Conn>, Option<Term>)> {
        let known = self.http1.get_mut(&peer)?;
        if !known.is_bulky()
            && let Some(stream) = last_usable(&mut known.streams, now)
        {
            return Some(stream);
        }
        last_usable(&mut known.idle, now)
    }

    /// Keeps an HTTP/1 connection for the next request, after an exchange that moved `used.bytes`.
    pub(crate) fn put(&mut self, peer: Peer, conn: Box<Conn>, expires: Option<Term>, now: Nanos, used: Used) {
        let until = now.after(used.keeps.map_or(self.idle, |keeps| self.idle.min(before(keeps))));
        let known = self.http1.entry(peer).or_default();
        known.count(used.bytes);
        // As long as such a connection is at hand, no stream would be opened.
        if matches!(conn.io, Io::Client(_)) && !known.wants_own() {
            return;
        }
        let list = if matches!(conn.io, Io::Stream(_)) { &mut known.streams } else { &mut known.idle };
        if list.len() < self.per_peer {
            list.push(Idle { conn, until, expires });
        }
    }

    /// Whether requests to `peer` move so much that each is better off with a connection of its own.
    pub(crate) fn is_bulky(&self, peer: Peer) -> bool {
        self.http1.get(&peer).is_some_and(Known::is_bulky)
    }

    /// A place for a stream on an HTTP/2 connection to `peer`, and how long that lasts.
    pub(crate) fn place(&mut self, peer: Peer, now: Nanos) -> Place<(h2::Stream, Option<Term>)> {
        if let Some(free) = self.free_place(peer, now) {
            return Place::Ready(free);
        }
        opening(&mut self.http2.entry(peer).or_default().opening, self.streams as usize)
    }

    /// A place on an HTTP/2 connection to `peer` that there is.
    pub(crate) fn free_place(&mut self, peer: Peer, now: Nanos) -> Option<(h2::Stream, Option<Term>)> {
        let bundle = self.http2.get_mut(&peer)?;
        bundle.connections.retain(|shared| shared.usable(now));
        bundle.connections.iter_mut().find_map(|shared| {
            let stream = shared.connection.place()?;
            shared.used = now;
            Some((stream, shared.expires))
        })
    }

    /// A stream on a link to `peer`, and how long the link lasts.
    pub(crate) fn stream(&mut self, peer: Peer, now: Nanos) -> Place<(Stream, Option<Term>)> {
        let known = self.http1.entry(peer).or_default();
        known.links.retain(|linked| linked.usable(now));
        for linked in &mut known.links {
            if let Some(stream) = linked.link.open() {
                linked.used = now;
                return Place::Ready((stream, linked.expires));
            }
        }
        opening(&mut known.opening, link::FULL)
    }

    /// Shares a new link.
    pub(crate) fn share_link(&mut self, peer: Peer, link: Rc<Link>, expires: Option<Term>, now: Nanos) {
        let known = self.http1.entry(peer).or_default();
        known.links.push(Linked { link, used: now, expires });
    }

    /// Shares a new HTTP/2 connection.
    pub(crate) fn share(&mut self, peer: Peer, connection: Rc<Connection>, expires: Option<Term>, now: Nanos) {
        let bundle = self.http2.entry(peer).or_default();
        bundle.connections.push(Shared { connection, used: now, expires });
    }

    /// Closes what has been unused for too long or is dead.
    pub(crate) fn expire(&mut self, now: Nanos) {
        let longest = self.idle;
        self.http1.retain(|_, known| {
            known.idle.retain_mut(|idle| idle.usable(now));
            known.streams.retain_mut(|idle| idle.usable(now));
            known.links.retain(|linked| {
                let idle = linked.link.is_idle() && now.since(linked.used) > longest;
                !idle && linked.usable(now)
            });
            let opening = known.opening.as_ref().is_some_and(|opening| !opening.over.get());
            opening || known.is_warm()
        });
        self.http2.retain(|_, bundle| {
            bundle.connections.retain(|shared| {
                let idle = shared.connection.is_idle() && now.since(shared.used) > longest;
                !idle && shared.usable(now)
            });
            let opening = bundle.opening.as_ref().is_some_and(|opening| !opening.over.get());
            opening || !bundle.connections.is_empty()
        });
    }

    /// Closes everything that is not in use.
    pub(crate) fn clear(&mut self) {
        self.http1.clear();
        self.http2.clear();
    }
}

/// The last of `list` that can be used; those behind it that cannot are dropped.
fn last_usable(list: &mut Vec<Idle>, now: Nanos) -> Option<(Box<Conn>, Option<Term>)> {
    while let Some(mut last) = list.pop() {
        if last.usable(now) {
            return Some((last.conn, last.expires));
        }
    }
    None
}

impl Known {
    fn is_warm(&self) -> bool {
        !self.idle.is_empty() || !self.streams.is_empty() || self.links.iter().any(|linked| linked.link.is_usable())
    }

    fn count(&mut self, bytes: u64) {
        self.average = self.average - self.average / WEIGHT + bytes / WEIGHT;
    }

    /// Whether connections that were made for long bodies are still worth keeping. Half of what made them, so that a mixture does
    /// not make and drop them in turns.
    fn wants_own(&self) -> bool {
        self.average >= BULK / 2
    }

    fn is_bulky(&self) -> bool {
        self.average > BULK
    }
}

impl Linked {
    fn usable(&self, now: Nanos) -> bool {
        self.link.is_usable() && !self.expires.is_some_and(|term| term.is_leaving(now))
    }
}

impl Idle {
    fn usable(&mut self, now: Nanos) -> bool {
        now < self.until && !self.expires.is_some_and(|term| term.is_leaving(now)) && self.conn.io.is_quiet()
    }
}

impl Shared {
    fn usable(&self, now: Nanos) -> bool {
        self.connection.is_usable() && !self.expires.is_some_and(|term| term.is_leaving(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those who still hold the attempt that failed, and have not run since, must not look like an attempt under way: they
    /// would wait for each other until their time is up.
    #[test]
    fn after_a_failed_attempt_one_of_those_who_waited_opens_a_connection() {
        let mut pool = Pool::new(&Limits::default());
        let peer = Peer::Endpoint(1);
        let mut place = || pool.place(peer, Nanos(0));
        let (Place::Open(permit), Place::Wait(first), Place::Wait(second)) = (place(), place(), place()) else {
            panic!("one opens, two wait");
        };
        drop(permit);
        drop(first);
        let Place::Open(permit) = place() else { panic!("nobody is opening a connection") };
        assert!(matches!(place(), Place::Wait(_)));
        drop((permit, second));
    }

    #[test]
    fn connections_for_long_bodies_are_kept_no_longer_than_there_are_some() {
        let mut known = Known::default();
        assert!(!known.is_bulky() && !known.wants_own());
        known.count(1 << 20);
        assert!(known.is_bulky() && known.wants_own());
        // One long body in twenty is enough to keep them.
        for body in 0..100 {
            known.count(if body % 20 == 0 { 1 << 20 } else { 1024 });
            assert!(known.wants_own(), "{body}");
        }
        known.count(1 << 20);
        let short = (0..100).take_while(|_| {
            known.count(1024);
            known.wants_own()
        });
        let short = short.count();
        assert!((10..40).contains(&short), "{short}");
    }

    /// Its server resets what is quiet a second after it has said that it leaves, and a request could meet that.
    #[test]
    fn a_stream_of_a_link_that_leaves_is_not_used_again() {
        let mut pool = Pool::new(&Limits::default());
        let (peer, link) = (Peer::Endpoint(1), Link::new(Rc::default()));
        let keep = |pool: &mut Pool| {
            let conn = Conn::new(Io::Stream(link.open().expect("it has room")), crate::buffer::Buffer::default());
            pool.put(peer, Box::new(conn), None, Nanos(0), Used::default());
        };
        keep(&mut pool);
        let taken = pool.take(peer, Nanos(1));
        assert!(taken.is_some());
        keep(&mut pool);
        link.leave();
        assert!(pool.take(peer, Nanos(1)).is_none());
    }

    #[test]
    fn a_connection_is_not_used_when_its_server_is_about_to_close_it() {
        let (limits, peer) = (Limits::default(), Peer::Endpoint(1));
        let link = Link::new(Rc::default());
        let kept = |says: Option<u64>, after: u64| {
            let mut pool = Pool::new(&limits);
            let conn = Conn::new(Io::Stream(link.open().expect("it has room")), crate::buffer::Buffer::default());
            let keeps = says.map(Nanos::from_millis);
            pool.put(peer, Box::new(conn), None, Nanos(0), Used { keeps, ..Used::default() });
            pool.take(peer, Nanos::from_millis(after)).is_some()
        };
        assert!(kept(Some(5_000), 3_900) && !kept(Some(5_000), 4_000));
        assert!(kept(Some(1_000), 400) && !kept(Some(1_000), 500));
        assert!(!kept(Some(0), 0));
        let own = limits.pool_idle.as_millis() as u64;
        assert!(kept(None, own - 1) && !kept(None, own));
        assert!(kept(Some(10 * own), own - 1) && !kept(Some(10 * own), own));
    }

    #[test]
    fn a_burst_opens_as_many_links_at_once_as_it_needs() {
        let mut pool = Pool::new(&Limits::default());
        let places: Vec<_> = (0..2 * link::FULL + 1).map(|_| pool.stream(Peer::Endpoint(1), Nanos(0))).collect();
        let opened: Vec<usize> =
            places.iter().enumerate().filter(|(_, place)| matches!(place, Place::Open(_))).map(|(at, _)| at).collect();
        assert_eq!(opened, [0, link::FULL, 2 * link::FULL]);
    }
}
