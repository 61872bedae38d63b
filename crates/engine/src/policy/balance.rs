//! How an instance is chosen and when one is left out: the settings of one backend.

use super::{HealthCheck, Source};
use crate::Nanos;

/// How one of a backend's endpoints is chosen. All of it holds for the backend as a whole, not for a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalancePolicy {
    /// Which of the usable endpoints.
    pub algorithm: Algorithm,
    /// What requests of one session have in common. With `RingHash` and `Maglev` it is what is hashed; with the other
    /// algorithms, requests that have it stay with one endpoint (by Maglev) and the others are spread by the algorithm.
    pub hash: Option<HashKey>,
    /// `RingHash`, `Maglev` and sessions: an endpoint takes at most this share, in percent, of the average number of requests
    /// in flight; what is beyond goes to the next. 0: no bound; otherwise 101 and up (less counts as 101).
    pub bound_percent: u32,
    /// Whether endpoints in the caller's zone, then in its region, come before the others of the same priority.
    pub prefer_local: bool,
    /// A group (of one priority and nearness) takes all requests while this share of its endpoints, in percent, is usable;
    /// below, its part shrinks in proportion and the next group gets the rest. 0 counts as 1.
    pub failover_percent: u32,
    /// Where fewer than this share of all ready endpoints, in percent, is usable, ejections and health checks are not believed.
    /// 0: they always are.
    pub panic_percent: u32,
    /// How a new endpoint begins.
    pub slow_start: Option<SlowStart>,
    /// `Fastest`: probes that one proxy may send to idle endpoints in a second; 0: none.
    pub probes_per_second: u32,
    /// When to leave an endpoint out.
    pub outlier: OutlierPolicy,
    /// What a proxy asks endpoints to see whether they are well; `None`: nothing.
    pub check: Option<HealthCheck>,
    /// Where these settings come from.
    pub sources: Vec<Source>,
}

/// How an endpoint is chosen among those that may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The least predicted time to an answer among a few random ones; see [`crate::balance`].
    #[default]
    Fastest,
    /// The fewest requests in flight of two random ones.
    LeastRequest,
    /// One after the other, as often as their weights say.
    RoundRobin,
    /// At random, as often as their weights say.
    Random,
    /// By a hash on a ring of points (Karger et al. 1997). Needs [`BalancePolicy::hash`]; a request without it goes to a random one.
    RingHash,
    /// By a hash in a lookup table (Eisenbud et al., NSDI 2016): more even than a ring, and moves a little more when
    /// endpoints come and go.
    Maglev,
}

/// What requests of one session have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value; its name in lower case.
    Header(Box<str>),
    /// A cookie's value. A request without it is spread by the algorithm and its answer sets one where `max_age` says for how long.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// How long the cookie is to live; `None`: the mesh sets none. Zero: as long as the browser's session.
        max_age: Option<Nanos>,
    },
    /// The caller's IP address.
    Source,
}

/// A new endpoint's weight grows over a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// From the first request to the full weight.
    pub window: Nanos,
    /// What it begins with, in percent of its weight; 1 to 100.
    pub min_percent: u32,
}

/// When an endpoint is left out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Failures of any kind in a row; 0: never eject for that.
    pub consecutive_failures: u32,
    /// The same for failures to reach the application: connect failures, resets, timeouts, 502, 503 and 504; 0: never.
    pub consecutive_gateway_failures: u32,
    /// The first ejection; the n-th in a row takes n times as long.
    pub base_ejection: Nanos,
    /// The longest ejection.
    pub max_ejection: Nanos,
    /// At most this share of a service's endpoints, in percent, but always one where there are two or more.
    pub max_ejected_percent: u32,
    /// How long outcomes are counted before endpoints are compared with their peers.
    pub interval: Nanos,
    /// Eject an endpoint whose share of successes is this many thousandths of a standard deviation below the mean; 0: never.
    pub success_rate_stdev: u32,
    /// Eject an endpoint that takes more than this share, in percent, of what its peers take (geometric mean); 0: never.
    pub latency_percent: u32,
    /// Endpoints with fewer requests in an interval are not compared.
    pub min_requests: u32,
    /// With fewer endpoints to compare nobody is ejected by comparison.
    pub min_hosts: u32,
}

/// When active health checks change an endpoint's state; [`crate::balance::Load::checked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckPolicy {
    /// Checks passed in a row after which an unhealthy endpoint is healthy again; 0 counts as 1.
    pub healthy_after: u32,
    /// Checks failed in a row after which a healthy endpoint is unhealthy; 0 counts as 1.
    pub unhealthy_after: u32,
}

impl Default for BalancePolicy {
    /// `Fastest`, near endpoints first while 70 % of them are usable (Envoy spills over at 1/1.4 = 71 %), panic below 50 %
    /// (Envoy's), ten probes a second.
    fn default() -> Self {
        BalancePolicy {
            algorithm: Algorithm::default(),
            hash: None,
            bound_percent: 125,
            prefer_local: true,
            failover_percent: 70,
            panic_percent: 50,
            slow_start: None,
            probes_per_second: 10,
            outlier: OutlierPolicy::default(),
            check: None,
            sources: Vec::new(),
        }
    }
}

impl Default for OutlierPolicy {
    /// Five in a row, 5 s growing to 300 s, at most half (Envoy's shape; it ejects for 30 s and at most 10 %). Comparison with
    /// peers every 10 s, by success 1.9 standard deviations, of endpoints with 100 requests and where there are five (Envoy's
    /// figures); by latency ten times the peers', which only an algorithm that does not avoid slow endpoints will ever see.
    fn default() -> Self {
        OutlierPolicy {
            consecutive_failures: 5,
            consecutive_gateway_failures: 5,
            base_ejection: Nanos::from_millis(5_000),
            max_ejection: Nanos::from_millis(300_000),
            max_ejected_percent: 50,
            interval: Nanos::from_millis(10_000),
            success_rate_stdev: 1_900,
            latency_percent: 1_000,
            min_requests: 100,
            min_hosts: 5,
        }
    }
}

impl Default for CheckPolicy {
    /// Two passed, three failed.
    fn default() -> Self {
        CheckPolicy { healthy_after: 2, unhealthy_after: 3 }
    }
}
