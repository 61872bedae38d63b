//! A simulated server: a queue before some cores, and what goes wrong with it.

use std::collections::VecDeque;

use engine::{Nanos, Rng};

use crate::distribution::unit;
use crate::scenario::{Fault, ServerSpec};

/// How many of its last requests a server remembers for its estimate of latency.
const REMEMBERED: usize = 32;

/// Of those, how many with the most similar number in flight make the estimate.
const SIMILAR: usize = 9;

/// How long a server takes to fail or to refuse.
const QUICK: u64 = 1_000_000;

/// What a server (or its sidecar) says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) in_flight: u32,
    /// Recent, moving average.
    pub(crate) latency: Option<Nanos>,
    /// Median of recent requests that came when about as many were in flight, as Prequal's servers say.
    pub(crate) median: f64,
    /// Requests that wait or are served, as C3's servers say, and the mean time at the core.
    pub(crate) service: f64,
}

/// What becomes of a request that reached a server.
pub(crate) enum Taken {
    /// It will be done then; it holds a core.
    Until(Nanos),
    /// It will be done then, and holds no core.
    Stalls(Nanos),
    /// It waits for a core.
    Waits,
    /// It fails then.
    Fails(Nanos),
    /// It is refused then, with this `Retry-After`.
    Refused(Nanos, Nanos),
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) spec: ServerSpec,
    busy: u32,
    queue: VecDeque<(usize, f64)>,
    /// Requests here, refused ones included until they are gone.
    pub(crate) in_flight: u32,
    /// Requests that came so far.
    pub(crate) requests: u64,
    /// Of the token bucket.
    tokens: f64,
    refilled: Nanos,
    latency: f64,
    service: f64,
    recent: VecDeque<(u32, f64)>,
    /// For weighted round robin: answers, and time that cores were busy, since it was last asked.
    pub(crate) answers: f64,
    pub(crate) busy_ms: f64,
}

impl Server {
    pub(crate) fn new(spec: ServerSpec) -> Server {
        Server {
            spec,
            busy: 0,
            queue: VecDeque::new(),
            in_flight: 0,
            requests: 0,
            tokens: 1.0,
            refilled: Nanos(0),
            latency: 0.0,
            service: 0.0,
            recent: VecDeque::with_capacity(REMEMBERED),
            answers: 0.0,
            busy_ms: 0.0,
        }
    }

    /// Takes a request that needs `work` milliseconds of an undisturbed core.
    pub(crate) fn take(&mut self, request: usize, work: f64, route: usize, now: Nanos, rng: &mut Rng) -> Taken {
        self.requests += 1;
        self.in_flight += 1;
        if let Some((rate, retry_after)) = self.spec.limit
            && !self.token(rate, now)
        {
            return Taken::Refused(now.after(Nanos(QUICK)), retry_after);
        }
        let mut factor = self.spec.route_factors.get(route).copied().unwrap_or(1.0);
        if let Some((requests, cold)) = self.spec.cold {
            // Warms up evenly: compilers, caches, pools.
            let left = 1.0 - (self.requests as f64 / f64::from(requests)).min(1.0);
            factor *= 1.0 + (cold - 1.0) * left;
        }
        for (from, until, fault) in &self.spec.faults {
            if !(*from..*until).contains(&now) {
                continue;
            }
            match fault {
                Fault::Fails(share) if unit(rng) < *share => return Taken::Fails(now.after(Nanos(QUICK))),
                // A stall holds the request, not the core: so the experiment of Finagle has it.
                Fault::Stalls(share, ms) if unit(rng) < *share => return Taken::Stalls(now.after(millis(*ms))),
                Fault::Fails(_) | Fault::Stalls(..) | Fault::Speed(_) => {}
            }
        }
        let work = work * factor;
        if self.spec.cores > 0 && self.busy >= self.spec.cores {
            self.queue.push_back((request, work));
            return Taken::Waits;
        }
        self.busy += 1;
        Taken::Until(self.end_of(work, now))
    }

    /// A request that was served has ended: perhaps another begins.
    pub(crate) fn next(&mut self, now: Nanos) -> Option<(usize, Nanos)> {
        self.busy = self.busy.saturating_sub(1);
        let (request, work) = self.queue.pop_front()?;
        self.busy += 1;
        Some((request, self.end_of(work, now)))
    }

    /// Notes an answer that was begun `latency` ago, when `in_flight` were here.
    pub(crate) fn answered(&mut self, latency: Nanos, in_flight: u32) {
        let latency = latency.0 as f64 / 1e6;
        self.latency = if self.latency == 0.0 { latency } else { self.latency + 0.1 * (latency - self.latency) };
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((in_flight, latency));
        self.answers += 1.0;
    }

    /// What it says of itself now. `wanted`: whether the median, which takes work, is.
    pub(crate) fn report(&self, wanted: bool) -> Report {
        let latency = (self.latency > 0.0).then(|| millis(self.latency));
        let median = if wanted { self.median() } else { 0.0 };
        Report { in_flight: self.in_flight, latency, median, service: self.service }
    }

    fn median(&self) -> f64 {
        // Where nothing was measured with so few in flight, latency is taken to be less in proportion; or an idle server would
        // be judged by what it took under load, and never be found idle.
        let scaled = |n: u32, latency: f64| {
            let cores = f64::from(self.spec.cores.max(1));
            latency * ((f64::from(self.in_flight) + cores) / (f64::from(n) + cores)).min(1.0)
        };
        let similar = self.recent.iter().map(|&(n, latency)| (n.abs_diff(self.in_flight), scaled(n, latency)));
        let mut recent: Vec<(u32, f64)> = similar.collect();
        recent.sort_by_key(|(difference, _)| *difference);
        recent.truncate(SIMILAR);
        recent.sort_by(|a, b| a.1.total_cmp(&b.1));
        recent.get(recent.len() / 2).map_or(0.0, |(_, latency)| *latency)
    }

    fn token(&mut self, rate: f64, now: Nanos) -> bool {
        let gained = now.since(self.refilled).0 as f64 / 1e9 * rate;
        self.refilled = now;
        self.tokens = (self.tokens + gained).min((rate / 10.0).max(1.0));
        let some = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(some));
        some
    }

    /// When `work` milliseconds are done that begin now, at the speeds of this time and later.
    fn end_of(&mut self, work: f64, now: Nanos) -> Nanos {
        let (mut at, mut left) = (now.0 as f64 / 1e6, work);
        self.service = if self.service == 0.0 { work } else { self.service + 0.1 * (work - self.service) };
        loop {
            let (speed, until) = self.speed(millis(at));
            let until = until.0 as f64 / 1e6;
            let end = if speed > 0.0 { at + left / speed } else { f64::INFINITY };
            if end <= until {
                self.busy_ms += end - now.0 as f64 / 1e6;
                return millis(end);
            }
            left -= (until - at) * speed;
            at = until;
        }
    }

    /// How fast it is at a time, and until when that holds at least.
    fn speed(&self, at: Nanos) -> (f64, Nanos) {
        let (mut speed, mut until) = (1.0, Nanos(u64::MAX));
        for (from, to, fault) in &self.spec.faults {
            if let Fault::Speed(part) = fault {
                if (*from..*to).contains(&at) {
                    speed *= part;
                    until = until.min(*to);
                } else if at < *from {
                    until = until.min(*from);
                }
            }
        }
        (speed, until)
    }
}

/// Milliseconds as a length of time. Rounded up, so that a time at the end of a span lies beyond it.
pub(crate) fn millis(ms: f64) -> Nanos {
    Nanos((ms * 1e6).ceil() as u64)
}
