//! How long requests keep a server busy.

use std::f64::consts::TAU;

use engine::Rng;

/// A distribution of service times, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Constant(f64),
    /// Exponential with this mean.
    Exponential(f64),
    /// Logarithm normally distributed: its median, and the standard deviation of the logarithm.
    LogNormal {
        /// Half of the requests take less.
        median: f64,
        /// 0.4 puts the 99th percentile at 2.5 times the median, 1.0 at ten times.
        sigma: f64,
    },
    /// Drawn from a list of measured times.
    Recorded(Vec<f64>),
}

/// Why a list of measured times cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedError {
    /// Counted from one; zero: the list as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for RecordedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 { f.write_str(&self.what) } else { write!(f, "line {}: {}", self.line, self.what) }
    }
}

impl std::error::Error for RecordedError {}

impl Distribution {
    /// From text with one time in milliseconds a line; empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// A line that is no number between 0 and a million, or no number at all.
    pub fn recorded(text: &str) -> Result<Distribution, RecordedError> {
        let mut times = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            match text.parse::<f64>() {
                Ok(ms) if (0.0..=1e6).contains(&ms) => times.push(ms),
                _ => {
                    let what = format!("`{}` is not a time in milliseconds, 0 to 1000000", text.escape_debug());
                    return Err(RecordedError { line, what });
                }
            }
        }
        if times.is_empty() {
            return Err(RecordedError { line: 0, what: "holds no time".to_owned() });
        }
        Ok(Distribution::Recorded(times))
    }

    /// One service time in milliseconds.
    pub fn draw(&self, rng: &mut Rng) -> f64 {
        match self {
            Distribution::Constant(ms) => *ms,
            Distribution::Exponential(mean) => exponential(*mean, rng),
            Distribution::LogNormal { median, sigma } => median * (sigma * normal(rng)).exp(),
            Distribution::Recorded(times) => times[rng.below(times.len() as u32) as usize],
        }
    }

    /// The expected service time in milliseconds.
    pub fn mean(&self) -> f64 {
        match self {
            Distribution::Constant(mean) | Distribution::Exponential(mean) => *mean,
            Distribution::LogNormal { median, sigma } => median * (sigma * sigma / 2.0).exp(),
            Distribution::Recorded(times) => times.iter().sum::<f64>() / times.len() as f64,
        }
    }
}

/// Between 0 (never) and 1 (maybe).
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

pub(crate) fn exponential(mean: f64, rng: &mut Rng) -> f64 {
    -mean * unit(rng).ln()
}

/// Standard normal (Box and Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * unit(rng).ln()).sqrt() * (TAU * unit(rng)).cos()
}
