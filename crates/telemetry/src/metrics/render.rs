//! The Prometheus text exposition format, version 0.0.4.

use std::fmt::Write;

use engine::Reason;

use super::{Class, Reading, Registry};
use crate::histogram::{self, BUCKETS};

/// Powers of two, in nanoseconds, that bound the buckets shown to Prometheus: 131 µs to 34 s. Each is a bound of the finer
/// histogram too, so the counts are exact.
const BOUNDS: std::ops::RangeInclusive<u32> = 17..=35;

/// Whether a [`Sample`] only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A value of the caller's own that is shown with the rest: an endpoint's score, the end of a certificate's life.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The metric's name, valid for Prometheus; of a counter with `_total` at its end.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// How it moves.
    pub kind: SampleKind,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value now.
    pub value: f64,
}

impl Registry {
    /// All series, and `samples`, in Prometheus' text format. Samples of one name are put together; the first one's help
    /// and kind count.
    pub fn render_prometheus(&self, samples: &[Sample]) -> String {
        let readings = self.read();
        let mut text = Text(String::with_capacity(4096));
        text.requests(&readings);
        text.durations(&readings);
        text.simple(&readings, "heddle_connections_open", "Connections open now.", "gauge", |totals| totals.open());
        text.head("heddle_bytes_total", "Body bytes from and to the side that called.", "counter");
        for reading in &readings {
            let values = [("received", reading.totals.received), ("sent", reading.totals.sent)];
            for (way, bytes) in values {
                text.line("heddle_bytes_total", reading, &[("way", way)], bytes as f64);
            }
        }
        text.simple(&readings, "heddle_retries_total", "Attempts after the first.", "counter", |totals| totals.retries);
        let name = "heddle_peers_refused_total";
        text.head(name, "Peers that were refused before any request.", "counter");
        for (direction, why, count) in self.refusals.read() {
            text.sample(name, [("direction", direction.name()), ("reason", why.name())].into_iter(), count as f64);
        }
        text.samples(samples);
        text.0
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.0.push_str("# HELP ");
        self.0.push_str(name);
        self.0.push(' ');
        escape(&mut self.0, help, false);
        self.push(format_args!("\n# TYPE {name} {kind}\n"));
    }

    fn simple(
        &mut self,
        readings: &[Reading],
        name: &str,
        help: &str,
        kind: &str,
        value: impl Fn(&super::Totals) -> u64,
    ) {
        self.head(name, help, kind);
        for reading in readings {
            self.line(name, reading, &[], value(&reading.totals) as f64);
        }
    }

    fn requests(&mut self, readings: &[Reading]) {
        let name = "heddle_requests_total";
        self.head(name, "Requests that ended; reason tells why the mesh answered itself.", "counter");
        for reading in readings {
            for class in Class::ALL {
                for (index, &count) in reading.totals.requests[class as usize].iter().enumerate() {
                    if count == 0 {
                        continue;
                    }
                    let reason = index.checked_sub(1).map_or("", |i| Reason::ALL[i].code());
                    let labels = [("class", class.name()), ("reason", reason)];
                    self.line(name, reading, &labels, count as f64);
                }
            }
        }
    }

    fn durations(&mut self, readings: &[Reading]) {
        let name = "heddle_request_duration_seconds";
        self.head(name, "How long requests took.", "histogram");
        for reading in readings {
            let latency = &reading.totals.latency;
            let total: u64 = latency.iter().sum();
            if total == 0 {
                continue;
            }
            let (mut below, mut next) = (0, 0);
            for exponent in BOUNDS {
                let end = histogram::bucket(1 << exponent).min(BUCKETS);
                below += latency[next..end].iter().sum::<u64>();
                next = end;
                let bound = ((1u64 << exponent) as f64 / 1e9).to_string();
                let labels = [("le", bound.as_str())];
                self.line("heddle_request_duration_seconds_bucket", reading, &labels, below as f64);
            }
            let all = [("le", "+Inf")];
            self.line("heddle_request_duration_seconds_bucket", reading, &all, total as f64);
            let seconds = reading.totals.nanos as f64 / 1e9;
            self.line("heddle_request_duration_seconds_sum", reading, &[], seconds);
            self.line("heddle_request_duration_seconds_count", reading, &[], total as f64);
        }
    }

    fn samples(&mut self, samples: &[Sample]) {
        for (index, first) in samples.iter().enumerate() {
            if samples[..index].iter().any(|earlier| earlier.name == first.name) {
                continue;
            }
            let kind = match first.kind {
                SampleKind::Counter => "counter",
                SampleKind::Gauge => "gauge",
            };
            self.head(first.name, first.help, kind);
            for sample in samples[index..].iter().filter(|sample| sample.name == first.name) {
                let labels = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
                self.sample(sample.name, labels, sample.value);
            }
        }
    }

    fn line(&mut self, name: &str, reading: &Reading, more: &[(&str, &str)], value: f64) {
        let labels = [
            ("direction", reading.key.direction.name()),
            ("service", &*reading.key.service),
            ("route", &*reading.key.route),
        ];
        self.sample(name, labels.into_iter().chain(more.iter().copied()), value);
    }

    fn sample<'a>(&mut self, name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>, value: f64) {
        self.0.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            self.0.push(separator);
            self.0.push_str(label);
            self.0.push_str("=\"");
            escape(&mut self.0, value, true);
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
        match value {
            f64::INFINITY => self.0.push_str(" +Inf\n"),
            f64::NEG_INFINITY => self.0.push_str(" -Inf\n"),
            _ => self.push(format_args!(" {value}\n")),
        }
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0.write_fmt(arguments).expect("writing to a string cannot fail");
    }
}

/// Help text escapes backslash and line feed, a label's value the quotation mark too.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}
