//! `loadBalancing` and `sessionAffinity`: which instances may be chosen, and how.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::read::At;
use crate::text;

/// The longest slow start that is taken for meant: a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest life of a cookie that browsers keep (400 days, RFC 6265bis, 5.5).
const COOKIE_LIFE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Name of the affinity cookie where none is written.
const COOKIE: &str = "heddle-affinity";

/// `loadBalancing`. What is `None` was not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancing {
    /// How an instance is chosen.
    pub algorithm: Option<Algorithm>,
    /// What `ring-hash` and `maglev` hash.
    pub hash_key: Option<RequestKey>,
    /// How long a new instance takes to come to its full share; zero: none.
    pub slow_start: Option<Duration>,
    /// With fewer usable instances than this share, in percent, all are used; 0: never.
    pub panic_threshold: Option<u32>,
    /// Whether instances of the caller's zone, then of its region, come before the others.
    pub prefer_local: Option<bool>,
    /// With fewer usable instances of the preferred place or priority than this share, in percent, the next helps out.
    pub failover_threshold: Option<u32>,
    /// `ring-hash`, `maglev` and sessions: most requests in flight at one instance, in percent of the average; 0: no bound.
    pub hash_bound: Option<u32>,
    /// `fastest`: how often in a second idle instances may be asked how busy they are; 0: never.
    pub probes_per_second: Option<u32>,
    /// One in so many requests is written to the access log with the decision that was made for it; 0: none.
    pub log_decisions: Option<u32>,
}

/// How an instance is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// The lowest predicted completion time of two or more random candidates.
    Fastest,
    /// The fewest requests in flight of two random candidates.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// By a key of the request, on a ring.
    RingHash,
    /// By a key of the request, in a table.
    Maglev,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Algorithm; 6] = [
        Algorithm::Fastest,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::RingHash,
        Algorithm::Maglev,
    ];

    /// As it is written, here and in `heddle.mesh.v1`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Fastest => "fastest",
            Algorithm::LeastRequest => "least-request",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::Random => "random",
            Algorithm::RingHash => "ring-hash",
            Algorithm::Maglev => "maglev",
        }
    }

    /// Whether it goes by a key of the request.
    pub const fn hashes(self) -> bool {
        matches!(self, Algorithm::RingHash | Algorithm::Maglev)
    }
}

/// By what of a request it is told which others belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestKey {
    /// The first value of this header, lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The address of the client as the proxy sees it.
    SourceAddress,
}

/// `sessionAffinity`: what keeps the requests of one session at one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionAffinity {
    /// A cookie that the mesh sets and that names the instance.
    Cookie {
        /// Its name.
        name: String,
        /// How long a browser keeps it; zero: until it is closed.
        lifetime: Duration,
    },
    /// What the request carries anyway is hashed.
    Key(RequestKey),
}

/// Reads `loadBalancing`.
pub(super) fn read(at: &At<'_>) -> Option<LoadBalancing> {
    let mut map = at.map()?;
    let algorithms = Algorithm::ALL.map(|a| (a.name(), a));
    let algorithm = map.get("algorithm").and_then(|at| at.choice(&algorithms));
    let key_at = map.get("hashKey");
    let hash_key = key_at.as_ref().and_then(read_key);
    let slow_start = map.get("slowStart").and_then(|at| bounded(&at, DAY));
    let panic_threshold = map.get("panicThreshold").and_then(|at| at.integer(0..=100));
    let prefer_local = map.get("preferLocal").and_then(|at| at.boolean());
    let failover_threshold = map.get("failoverThreshold").and_then(|at| at.integer(0..=100));
    let hash_bound = map.get("hashBound").and_then(|at| hash_bound(&at));
    let probes_per_second = map.get("probesPerSecond").and_then(|at| at.integer(0..=1000));
    let log_decisions = map.get("logDecisions").and_then(|at| at.integer(0..=1_000_000));
    map.finish();
    if let (Some(key), Some(algorithm)) = (&key_at, algorithm)
        && !algorithm.hashes()
    {
        let help = "use algorithm ring-hash or maglev, or sessionAffinity";
        key.error_help(format!("{} does not look at a key", algorithm.name()), help);
    }
    if let (None, Some(algorithm)) = (&key_at, algorithm)
        && algorithm.hashes()
    {
        let help = "for example `hashKey: {header: x-user}`, `{cookie: session}` or `{sourceAddress: true}`";
        at.error_help(format!("{} needs a hashKey", algorithm.name()), help);
    }
    Some(LoadBalancing {
        algorithm,
        hash_key,
        slow_start,
        panic_threshold,
        prefer_local,
        failover_threshold,
        hash_bound,
        probes_per_second,
        log_decisions,
    })
}

/// Below the average no instance could take its own share.
fn hash_bound(at: &At<'_>) -> Option<u32> {
    let percent = at.integer(0..=10_000)?;
    if (1..=100).contains(&percent) {
        at.error_help(format!("{percent} is no more than the average"), "0 (no bound), or 101 and more");
        return None;
    }
    Some(percent)
}

fn bounded(at: &At<'_>, most: Duration) -> Option<Duration> {
    let length = at.duration()?;
    if length > most {
        at.error(format!("is longer than {} hours", most.as_secs() / 3600));
        return None;
    }
    Some(length)
}

/// Exactly one of `header`, `cookie` and `sourceAddress: true`.
fn read_key(at: &At<'_>) -> Option<RequestKey> {
    let mut map = at.map()?;
    let before = at.errors();
    let header = map.get("header").and_then(|at| at.parse(text::header_name)).map(RequestKey::Header);
    let cookie = map.get("cookie").and_then(|at| at.parse(cookie_name)).map(RequestKey::Cookie);
    let source = map.get("sourceAddress").and_then(|at| at.choice_of_true()).map(|()| RequestKey::SourceAddress);
    map.finish();
    one(at, before, [header, cookie, source], "header, cookie, sourceAddress")
}

/// The one of `found` that was written.
fn one<T, const N: usize>(at: &At<'_>, errors: usize, found: [Option<T>; N], names: &str) -> Option<T> {
    let mut found = found.into_iter().flatten();
    let first = found.next();
    if found.next().is_some() || (first.is_none() && at.errors() == errors) {
        at.error(format!("exactly one of these must be written: {names}"));
    }
    first
}

/// Reads `sessionAffinity`.
pub(super) fn read_affinity(at: &At<'_>) -> Option<SessionAffinity> {
    let mut map = at.map()?;
    let before = at.errors();
    let cookie = map.get("cookie").and_then(|at| read_cookie(&at));
    let header = map.get("header").and_then(|at| at.parse(text::header_name)).map(RequestKey::Header);
    let source = map.get("sourceAddress").and_then(|at| at.choice_of_true()).map(|()| RequestKey::SourceAddress);
    map.finish();
    let key = |key: Option<RequestKey>| key.map(SessionAffinity::Key);
    one(at, before, [cookie, key(header), key(source)], "cookie, header, sourceAddress")
}

fn read_cookie(at: &At<'_>) -> Option<SessionAffinity> {
    let mut map = at.map()?;
    let name = map.get("name").and_then(|at| at.parse(cookie_name));
    let lifetime = map.get("lifetime").and_then(|at| bounded(&at, COOKIE_LIFE));
    map.finish();
    Some(SessionAffinity::Cookie {
        name: name.unwrap_or_else(|| COOKIE.to_owned()),
        lifetime: lifetime.unwrap_or_default(),
    })
}

/// A cookie's name is a token, as a header's is (RFC 6265, 4.1.1), but its case counts.
fn cookie_name(name: &str) -> Result<String, String> {
    text::header_name(name).map(|_| name.to_owned()).map_err(|_| "is not a cookie's name".to_owned())
}
