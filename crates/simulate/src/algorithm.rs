//! The algorithms that are compared.

use engine::{Nanos, Rng};

use crate::server::Report;

mod classic;
mod engine_code;
mod ewma;
mod prequal;

pub(crate) use classic::{LeastLoaded, Random, RoundRobin, Weighted};
pub(crate) use engine_code::Engine;
pub(crate) use ewma::{C3, PeakEwma};
pub(crate) use prequal::Prequal;

/// Ways to choose a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Heddle's default: the engine's own code.
    Fastest,
    /// The same, and a request that takes three times as long as predicted is sent once more, elsewhere; the first answer
    /// counts. The proxy does not do that yet.
    Hedged,
    /// Heddle's `least-request`: the engine's own code, two random ones.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// The fewest requests in flight of all, as Finagle's heap.
    LeastLoaded,
    /// Weighted round robin, the weights from what a controller measures every second: answers for each second that the
    /// server was busy (as in the Prequal paper).
    Weighted,
    /// Finagle's peak EWMA, the better of two.
    PeakEwma,
    /// Cubic replica selection (Suresh et al., NSDI 2015), the best of all, without its rate control.
    C3,
    /// Google's Prequal: asynchronous probes, hot and cold rule (Wydrowski et al., NSDI 2024).
    Prequal,
}

impl Algorithm {
    /// All of them, in the order of tables.
    pub const ALL: [Algorithm; 10] = [
        Algorithm::Fastest,
        Algorithm::Hedged,
        Algorithm::Prequal,
        Algorithm::PeakEwma,
        Algorithm::C3,
        Algorithm::LeastRequest,
        Algorithm::LeastLoaded,
        Algorithm::Weighted,
        Algorithm::RoundRobin,
        Algorithm::Random,
    ];

    /// As it is written in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Fastest => "fastest",
            Algorithm::Hedged => "fastest+hedge",
            Algorithm::LeastRequest => "least-request",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::Random => "random",
            Algorithm::LeastLoaded => "least-loaded",
            Algorithm::Weighted => "weighted",
            Algorithm::PeakEwma => "peak-ewma",
            Algorithm::C3 => "c3",
            Algorithm::Prequal => "prequal",
        }
    }
}

/// The end of a request as its client sees it.
pub(crate) struct Answer {
    pub(crate) server: usize,
    pub(crate) latency: Nanos,
    pub(crate) failed: bool,
    /// It was refused, with this `Retry-After`.
    pub(crate) refused: Option<Nanos>,
    /// What the server said with it.
    pub(crate) report: Option<Report>,
}

/// What chooses servers for one client.
pub(crate) trait Balancer {
    /// What is kept of a request under way.
    type Token;

    /// Which servers there are from now on.
    fn change(&mut self, present: &[bool]);

    /// The server for a request; `None` if there is none. Of `avoid`, who hedges would rather not hear.
    fn choose(&mut self, now: Nanos, route: usize, avoid: Option<usize>, rng: &mut Rng) -> Option<usize>;

    /// A request is on its way.
    fn sent(&mut self, now: Nanos, route: usize, server: usize) -> Self::Token;

    /// A request has ended.
    fn answered(&mut self, now: Nanos, token: Self::Token, answer: &Answer);

    /// A request is given up, since another copy was answered.
    fn cancelled(&mut self, _now: Nanos, _token: Self::Token, _server: usize) {}

    /// When to send another copy of a request that was sent to `server` and is not answered; `None`: never.
    fn hedge_after(&mut self, _now: Nanos, _route: usize, _server: usize) -> Option<Nanos> {
        None
    }

    /// Puts the servers to probe now, after a request was sent, into `due`.
    fn probe(&mut self, _now: Nanos, _rng: &mut Rng, _due: &mut Vec<usize>) {}

    /// The answer to a probe.
    fn probed(&mut self, _now: Nanos, _server: usize, _report: &Report) {}

    /// What a controller measured of each server: answers, and milliseconds that its cores were busy.
    fn control(&mut self, _measured: &[(f64, f64)]) {}
}

/// The servers of `present`.
pub(crate) fn listed(present: &[bool]) -> Vec<usize> {
    present.iter().enumerate().filter(|(_, present)| **present).map(|(server, _)| server).collect()
}

/// Two distinct ones of `list`, or one and the same if there is only one.
pub(crate) fn two(list: &[usize], rng: &mut Rng) -> Option<(usize, usize)> {
    let count = list.len() as u32;
    if count < 2 {
        return list.first().map(|only| (*only, *only));
    }
    let (first, other) = (rng.below(count), rng.below(count - 1));
    Some((list[first as usize], list[(other + u32::from(other >= first)) as usize]))
}
