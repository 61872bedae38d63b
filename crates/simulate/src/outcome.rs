//! What came of a run.

use std::fmt::Write;

use crate::{Algorithm, Scenario};

/// What one algorithm made of one scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which algorithm.
    pub algorithm: Algorithm,
    /// Milliseconds from sending to the answer, sorted; those that failed last, as infinite.
    pub latencies: Vec<f32>,
    /// Of those, how many failed.
    pub failed: usize,
    /// Requests that each server got.
    pub sent: Vec<u64>,
    /// Requests that were sent to the marked servers while they were marked.
    pub to_marked: u64,
    /// By second, the share of requests that went to marked servers.
    pub marked_share: Vec<f32>,
    /// Probes sent besides.
    pub probes: u64,
}

impl Outcome {
    /// Milliseconds within which this share (0 to 1) of the requests was answered; infinite if too many failed.
    pub fn percentile(&self, share: f64) -> f64 {
        let place = (share * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(place.saturating_sub(1)).or(self.latencies.last()).map_or(0.0, |ms| f64::from(*ms))
    }

    /// The share (0 to 1) of requests that were answered within `ms` milliseconds.
    pub fn within(&self, ms: f32) -> f64 {
        self.latencies.partition_point(|latency| *latency <= ms) as f64 / self.latencies.len().max(1) as f64
    }

    /// The share (0 to 1) of requests that failed.
    pub fn errors(&self) -> f64 {
        self.failed as f64 / self.latencies.len().max(1) as f64
    }

    /// The requests of the server that got most, divided by the mean.
    pub fn spread(&self) -> f64 {
        let mean = self.sent.iter().sum::<u64>() as f64 / self.sent.len().max(1) as f64;
        self.sent.iter().max().map_or(1.0, |most| *most as f64 / mean.max(1.0))
    }
}

/// The outcomes of one scenario as lines for people.
pub fn table(scenario: &Scenario, outcomes: &[Outcome]) -> String {
    // Who sends more requests than it was asked to is not compared.
    let others = outcomes.iter().filter(|o| o.algorithm != Algorithm::Hedged);
    let best = others.map(|o| o.percentile(0.99)).fold(f64::INFINITY, f64::min);
    let mut text = format!("{}: {}\n", scenario.name, scenario.title);
    let _ = writeln!(
        text,
        "{:16}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}{:>10}{:>9}",
        "algorithm", "p50", "p90", "p99", "p99.9", "errors", "<1 s", "spread", scenario.mark, "p99/best"
    );
    for outcome in outcomes {
        let at = |share: f64| duration(outcome.percentile(share));
        let ratio = outcome.percentile(0.99) / best;
        let _ = writeln!(
            text,
            "{:16}{:>9}{:>9}{:>9}{:>9}{:>8.3}%{:>8.3}%{:>8.2}{:>10}{:>9}",
            outcome.algorithm.name(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            outcome.errors() * 100.0,
            outcome.within(1000.0) * 100.0,
            outcome.spread(),
            outcome.to_marked,
            if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() },
        );
    }
    text
}

/// Milliseconds with three digits.
fn duration(ms: f64) -> String {
    match ms {
        ms if ms.is_infinite() => "failed".to_owned(),
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}
