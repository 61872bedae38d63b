//! Prequal with the constants of its paper (section 5 of arXiv 2312.10172).

use engine::{Nanos, Rng};

use super::{Answer, Balancer, listed};
use crate::server::Report;

/// Probes for each request.
const PROBES: usize = 3;

/// Answers to probes that are kept.
const POOL: usize = 16;

/// An answer is used no longer than this.
const AGE: Nanos = Nanos::from_millis(1_000);

/// Answers thrown away for each request.
const REMOVED: f64 = 1.0;

/// How much more is put into the pool than taken out.
const DELTA: f64 = 1.0;

/// A server is hot if more is in flight there than at this share of those heard of (2 to the -0.25).
const HOT: f64 = 0.84;

/// How many reports the share is computed of.
const HEARD: usize = 128;

#[derive(Clone, Copy)]
struct Probe {
    server: usize,
    at: Nanos,
    in_flight: u32,
    latency: f64,
    used: u32,
}

/// Probes two or three servers with each request and sends the next ones by what they said: the coldest in latency of those
/// with few requests in flight, or else the one with the fewest.
#[derive(Default)]
pub(crate) struct Prequal {
    list: Vec<usize>,
    pool: Vec<Probe>,
    heard: Vec<u32>,
    next: usize,
    worst: bool,
}

impl Prequal {
    /// How often one answer may be used.
    fn reuse(&self) -> f64 {
        let share = self.pool_size() as f64 / self.list.len().max(1) as f64;
        let gained = (1.0 - share) * PROBES as f64 - REMOVED;
        if gained > 0.0 { ((1.0 + DELTA) / gained).max(1.0) } else { f64::from(u16::MAX) }
    }

    /// Less where there are few servers: the paper's formula for reuse wants many more of them than answers.
    fn pool_size(&self) -> usize {
        POOL.min(self.list.len() / 2).max(2)
    }

    fn hot(&self) -> u32 {
        let mut heard = self.heard.clone();
        heard.sort_unstable();
        heard.get((HOT * heard.len() as f64) as usize).copied().unwrap_or(u32::MAX)
    }

    /// The place in the pool of the best, or of the worst.
    fn pick(&self, best: bool) -> Option<usize> {
        let hot = self.hot();
        let rank = |probe: &Probe| match probe.in_flight > hot {
            true => (true, f64::from(probe.in_flight)),
            false => (false, probe.latency),
        };
        let order = |a: &&Probe, b: &&Probe| rank(a).0.cmp(&rank(b).0).then(rank(a).1.total_cmp(&rank(b).1));
        let found = if best { self.pool.iter().min_by(order) } else { self.pool.iter().max_by(order) }?;
        self.pool.iter().position(|probe| std::ptr::eq(probe, found))
    }
}

impl Balancer for Prequal {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
        self.pool.retain(|probe| present[probe.server]);
    }

    fn choose(&mut self, now: Nanos, _: usize, _: Option<usize>, rng: &mut Rng) -> Option<usize> {
        self.pool.retain(|probe| now.since(probe.at) <= AGE);
        let count = self.list.len() as u32;
        if self.pool.len() < 2 {
            return (count > 0).then(|| self.list[rng.below(count) as usize]);
        }
        let reuse = self.reuse();
        let place = self.pick(true)?;
        let probe = &mut self.pool[place];
        let server = probe.server;
        probe.used += 1;
        // What this client sends there makes the answer older than it is.
        probe.in_flight += 1;
        if f64::from(probe.used) >= reuse {
            self.pool.remove(place);
        }
        self.worst = !self.worst;
        let removed =
            if self.worst { self.pick(false) } else { (0..self.pool.len()).min_by_key(|place| self.pool[*place].at) };
        if let Some(removed) = removed {
            self.pool.remove(removed);
        }
        Some(server)
    }

    fn sent(&mut self, _: Nanos, _: usize, _: usize) {}

    fn answered(&mut self, _: Nanos, (): (), _: &Answer) {}

    fn probe(&mut self, _: Nanos, rng: &mut Rng, due: &mut Vec<usize>) {
        let count = self.list.len() as u32;
        while count > 0 && due.len() < PROBES.min(count as usize) {
            let server = self.list[rng.below(count) as usize];
            if !due.contains(&server) {
                due.push(server);
            }
        }
    }

    fn probed(&mut self, now: Nanos, server: usize, report: &Report) {
        if self.heard.len() < HEARD {
            self.heard.push(report.in_flight);
        } else {
            self.heard[self.next % HEARD] = report.in_flight;
        }
        self.next += 1;
        if self.pool.len() >= self.pool_size()
            && let Some(oldest) = (0..self.pool.len()).min_by_key(|place| self.pool[*place].at)
        {
            self.pool.remove(oldest);
        }
        self.pool.push(Probe { server, at: now, in_flight: report.in_flight, latency: report.median, used: 0 });
    }
}
