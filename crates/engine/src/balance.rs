//! Choosing an instance. The default, [`Algorithm::Fastest`](crate::policy::Algorithm), takes the least predicted time to an
//! answer among a few endpoints drawn at random.
//!
//! Drawing a few and taking the best spreads requests nearly as well as looking at all, and herds less (Mitzenmacher, "The
//! Power of Two Choices in Randomized Load Balancing", 2001). The cost of one more request at an endpoint is
//!
//! ```text
//! (latency · overdue + connecting) · (1 + 100 · failing) · queue^1.5
//! queue = spread + (in flight · (1 + elsewhere / 2) + elsewhere) / weight + 1
//! ```
//!
//! - *latency* is an average of recent answers, kept per class of requests ([`Class`]), that follows slower answers faster
//!   than quicker ones ([`Load`]). Finagle's peak EWMA jumps to every peak and decays while nothing is heard, which asks an
//!   endpoint that stands still again too soon and one that had a single peak too late.
//! - Instead, an endpoint of which nothing was heard for a while gets one request as a trial, whatever it costs. If that is
//!   answered, the answer replaces what was known. The wait is a second, eight times the latency if that is more, twice as
//!   long for each failure in a row, 30 s at most; and twice as long for each request sent since the last answer.
//! - Latencies that differ little from the least are taken to be the same, so that instances that are as good as each other
//!   share the work though their estimates never agree.
//! - *overdue* lets silence speak before late answers do: where an answer is owed and none has come for longer than a
//!   whole one should take, the latency is at least so many times what was thought.
//! - *failing* is the recent share of failures. A failure's own latency never lowers the estimate, so failing fast
//!   attracts nothing; an endpoint that always fails is as dear as one that takes a hundred times as long.
//! - A request that was cancelled before its answer is no failure, but its latency was at least the time until then. So an
//!   endpoint that stands still does not look faster than its peers because its clients give up first.
//! - *connecting* is added where this worker has no ready connection: a millisecond, or the latency if that is less.
//! - *elsewhere* is what the server's own sidecar last said of the requests of others there, after Google's Prequal (Wydrowski
//!   et al., arXiv 2312.10172), where the number in flight at the server is the best single predictor.
//! - *spread* is a part of what is usually in flight at the candidates. Without it (Finagle) an idle endpoint looks as many
//!   times faster as its busy peers have requests in flight, though most of those wait for something else than each other.
//! - *weight*: endpoints are drawn as often as their weights say, those drawn first win a tie, and one drawn again and again
//!   leaves others no place. So weights are shares, also where there is little to do. Of the request to be sent, where weights
//!   differ, a half is counted like those in flight, and nobody counts for less than an idle one of the lightest ([`Load`] knows
//!   nothing of it; see `Common` in `set.rs`).
//! - An endpoint never heard of is taken to be as fast as the best other candidate, without the cost of connecting. So it
//!   gets its turn at once, and no more than that: its requests in flight hold it back until its first answer. Neither zero
//!   (everything would rush to it) nor a fixed seed (which starves it behind fast peers) has both properties.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;

use crate::{Nanos, Protocol, SeriesId};

mod explain;
mod hashed;
mod in_flight;
mod load;
mod review;
mod set;
mod spread;
mod table;

pub use explain::{Candidate, Standing, Terms};
pub use in_flight::{InFlight, Peers};
pub use load::{CLASSES, Load};
pub use review::Review;
pub use set::{Ask, By, EndpointSet};
pub use table::hash;

/// One service port as something to send to. It outlives changes of its endpoints; every rule that names the same service
/// port shares it.
#[derive(Debug)]
pub struct Backend {
    /// `namespace/name`.
    pub service: Box<str>,
    /// The service port.
    pub port: u16,
    /// What the port was declared to speak.
    pub protocol: Protocol,
    /// Where its instances are now. Swapped whole; what was learnt of an endpoint stays in its [`Load`].
    pub endpoints: ArcSwap<EndpointSet>,
    /// Who has which latency class: series plus one, or zero.
    classes: [AtomicU32; CLASSES - 1],
    /// Since when each class is known to be unused; zero: it is used.
    idle: [AtomicU64; CLASSES - 1],
}

/// Requests of one backend whose latencies are like each other's: those of one route. A slow route then does not hide that
/// an endpoint answers a fast one quickly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class(u8);

/// One instance behind one service port.
#[derive(Debug)]
pub struct Endpoint {
    /// `namespace/name` of the workload.
    pub workload: Box<str>,
    /// Where applications see it.
    pub address: IpAddr,
    /// How to reach it.
    pub dial: Dial,
    /// 1 and up; 0 counts as 1.
    pub weight: u32,
    /// Groups of a lower number come first.
    pub priority: u32,
    /// Where it is.
    pub locality: Locality,
    /// As discovery says.
    pub health: Health,
    /// What was learnt of it; shared by successive versions of the same endpoint. Its `id` is the key for pools.
    pub load: Arc<Load>,
}

/// Where something runs; empty where nobody said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Such as `eu-west`.
    pub region: Box<str>,
    /// Such as `eu-west-1a`.
    pub zone: Box<str>,
}

/// How to reach an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dial {
    /// Through its sidecar, with mutual TLS.
    Mesh {
        /// The sidecar's inbound address.
        address: SocketAddr,
        /// Names workload and target port: `p<port>.<workload>.<namespace>.heddle`.
        sni: Box<str>,
        /// The SPIFFE ID that it must prove.
        identity: Box<str>,
    },
    /// In plain text.
    Plain(SocketAddr),
}

/// Readiness as discovery reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// May be used.
    #[default]
    Ready,
    /// May not be used.
    NotReady,
    /// Used only when nothing else is left.
    Draining,
}

impl Backend {
    /// A backend that nothing was sent to yet.
    pub fn new(service: impl Into<Box<str>>, port: u16, protocol: Protocol, endpoints: EndpointSet) -> Backend {
        let endpoints = ArcSwap::from_pointee(endpoints);
        Backend {
            service: service.into(),
            port,
            protocol,
            endpoints,
            classes: Default::default(),
            idle: Default::default(),
        }
    }

    /// The latency class of requests that are counted as `series`. Seven have one each, further ones share one until a class
    /// is free ([`Backend::free_classes`]).
    #[inline]
    pub fn class(&self, series: SeriesId) -> Class {
        let key = series.0.wrapping_add(1);
        match self.classes.iter().position(|owner| owner.load(Relaxed) == key) {
            Some(place) => Class(place as u8 + 1),
            None => self.claim(key),
        }
    }

    /// The same for who only looks: where the series has no class, that of all which have none.
    pub fn known_class(&self, series: SeriesId) -> Class {
        let key = series.0.wrapping_add(1);
        let place = self.classes.iter().position(|owner| owner.load(Relaxed) == key);
        place.map_or(Class::default(), |place| Class(place as u8 + 1))
    }

    /// A class for who has none. Workers that claim for the same series at the same time may take two, of which one is soon
    /// free again.
    fn claim(&self, key: u32) -> Class {
        let free =
            |owner: &AtomicU32| owner.load(Relaxed) == 0 && owner.compare_exchange(0, key, Relaxed, Relaxed).is_ok();
        self.classes.iter().position(free).map_or(Class::default(), |place| Class(place as u8 + 1))
    }
}

impl Class {
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0) % CLASSES
    }
}

impl Endpoint {
    /// An instance that is reached at `address` in plain text: ready, of weight 1 and the first priority, nobody has said where,
    /// and nothing is known of it.
    pub fn plain(workload: impl Into<Box<str>>, address: SocketAddr) -> Endpoint {
        Endpoint {
            workload: workload.into(),
            address: address.ip(),
            dial: Dial::Plain(address),
            weight: 1,
            priority: 0,
            locality: Locality::default(),
            health: Health::Ready,
            load: Load::new(),
        }
    }

    /// Predicted cost of one more request, in nanoseconds divided by the weight; lower is better. For people and
    /// statistics; [`EndpointSet::choose`] knows more: the other candidates, the class, and whether a connection is ready.
    pub fn score(&self, now: Nanos) -> f64 {
        self.load.score(now) / f64::from(self.weight.max(1))
    }
}

impl Locality {
    /// 0: the same zone; 1: the same region; 2: elsewhere. What is not known is near to nothing but the equally unknown.
    fn distance(&self, other: &Locality) -> u32 {
        match (same(&self.region, &other.region), same(&self.zone, &other.zone)) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        }
    }
}

/// Whether two names are the same. Where nobody said where anything runs they are empty, and those must not reach `memcmp`: glibc's
/// for AVX-512 loads with an empty mask from an address that is not mapped, which takes a hundred nanoseconds each, 2 ms for ten
/// thousand endpoints.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

#[cfg(test)]
mod tests;
