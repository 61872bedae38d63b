//! What a server's sidecar tells its callers of its application's load: `heddle-load: IN_FLIGHT LATENCY`, the requests in
//! flight there and its recent latency in microseconds (0: nothing is known), with every answer and to every probe.
//!
//! It goes from sidecar to sidecar alone. A caller believes it only of a peer that proved who it is, and takes it off before
//! the answer goes on; whoever else sends such a field has it removed with all of `heddle-*`. Over HTTP/2 it is never put
//! into a compression table, since its value changes all the time and would push out what is worth keeping.
//!
//! Where the application itself says how busy it is, in an `endpoint-load-metrics` field (ORCA, xDS's open request cost
//! aggregation; its text and JSON forms), that counts too: a utilization of `u` stands for the `u / (1 - u)` requests that a
//! queue of that utilization holds on average (M/M/1).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use engine::Nanos;

/// The field.
pub(crate) const LOAD: &str = "heddle-load";

/// How much one answer moves the latency: about the last sixteen count.
const SHARE: u32 = 16;

/// What is older says nothing of now. Told all the same, one slow answer before a pause would keep callers away for as
/// long as they only ask and do not send.
const RECENT: Nanos = Nanos::from_millis(1_000);

/// Beyond this a utilization means nothing more.
const FULL: f64 = 0.99;

/// Longest ORCA field that is looked at, bytes.
const ORCA_BYTES: usize = 1024;

/// What one worker counts. Written by that worker alone, so plain loads and stores suffice.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    in_flight: AtomicU32,
    /// Microseconds; zero: nothing is known.
    latency: AtomicU32,
    /// When it was learnt.
    learnt: AtomicU64,
    /// What the application last said, in requests.
    said: AtomicU32,
    /// When.
    said_at: AtomicU64,
}

/// The application's load as its sidecar sees it: one slot a worker.
#[derive(Debug)]
pub(crate) struct ServerLoad(Box<[Slot]>);

/// A report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Requests in flight.
    pub(crate) in_flight: u32,
    /// Recent latency; `None`: nothing is known.
    pub(crate) latency: Option<Nanos>,
}

/// One request at the application, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Serving<'a>(&'a Slot);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let slot = self.0;
        slot.in_flight.store(slot.in_flight.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

impl ServerLoad {
    pub(crate) fn new(workers: usize) -> ServerLoad {
        ServerLoad((0..workers.max(1)).map(|_| Slot::default()).collect())
    }

    /// The slot of a worker. Called by that worker alone.
    fn slot(&self, worker: usize) -> &Slot {
        &self.0[worker % self.0.len()]
    }

    /// Counts a request that goes to the application.
    pub(crate) fn serve(&self, worker: usize) -> Serving<'_> {
        let slot = self.slot(worker);
        slot.in_flight.store(slot.in_flight.load(Relaxed).saturating_add(1), Relaxed);
        Serving(slot)
    }

    /// Learns from an answer that came `now` and was no failure.
    pub(crate) fn answered(&self, worker: usize, latency: Nanos, now: Nanos) {
        let slot = self.slot(worker);
        let sample = u32::try_from(latency.0 / 1000).unwrap_or(u32::MAX).max(1);
        let before = slot.latency.load(Relaxed);
        let moved = match before {
            0 => sample,
            // Rounded away from what was, so that it comes to rest at what is.
            _ if sample > before => before + (sample - before).div_ceil(SHARE),
            _ => before - (before - sample).div_ceil(SHARE),
        };
        slot.latency.store(moved, Relaxed);
        slot.learnt.store(now.0, Relaxed);
    }

    /// Notes what the application says of itself.
    pub(crate) fn said(&self, worker: usize, orca: &[u8], now: Nanos) {
        if let Some(utilization) = utilization(orca) {
            let utilization = utilization.clamp(0.0, FULL);
            // At most 99.
            let slot = self.slot(worker);
            slot.said.store((utilization / (1.0 - utilization)).round() as u32, Relaxed);
            slot.said_at.store(now.0, Relaxed);
        }
    }

    /// The application's load now.
    pub(crate) fn report(&self, now: Nanos) -> Report {
        let counted = self.0.iter().map(|slot| slot.in_flight.load(Relaxed)).fold(0, u32::saturating_add);
        let recent = |at: &AtomicU64| now.since(Nanos(at.load(Relaxed))) <= RECENT;
        let said = self.0.iter().filter(|slot| recent(&slot.said_at)).map(|slot| slot.said.load(Relaxed)).max();
        let said = said.unwrap_or(0);
        let learnt = self.0.iter().filter(|slot| recent(&slot.learnt));
        let latency = learnt.map(|slot| slot.latency.load(Relaxed)).max().filter(|latency| *latency > 0);
        let latency = latency.map(|micros| Nanos(u64::from(micros) * 1000));
        Report { in_flight: counted.max(said), latency }
    }
}

/// A report's value, as it is written: at most 21 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    bytes: [u8; 21],
    length: usize,
}

impl Value {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Report {
    /// As it is written.
    pub(crate) fn value(&self) -> Value {
        let mut bytes = [0; 21];
        let micros = self.latency.map_or(0, |latency| u32::try_from(latency.0 / 1000).unwrap_or(u32::MAX));
        let blank = write_number(self.in_flight, &mut bytes);
        bytes[blank] = b' ';
        let length = blank + 1 + write_number(micros, &mut bytes[blank + 1..]);
        Value { bytes, length }
    }

    /// As it was written by a verified peer; `None` where it is not of this form.
    pub(crate) fn parse(value: &[u8]) -> Option<Report> {
        let blank = value.iter().position(|&byte| byte == b' ')?;
        let (in_flight, micros) = (read_number(&value[..blank])?, read_number(&value[blank + 1..])?);
        Some(Report { in_flight, latency: (micros > 0).then(|| Nanos(u64::from(micros) * 1000)) })
    }
}

/// The number that `digits`, and nothing else, are.
fn read_number(digits: &[u8]) -> Option<u32> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    let number = digits.iter().try_fold(0_u32, |number, &byte| number.checked_mul(10)?.checked_add(digit(byte)?));
    number.filter(|_| !digits.is_empty())
}

/// Writes `number`, at most ten digits, at the start of `to`, and says how many: with every answer, which `write!` is too slow for.
fn write_number(mut number: u32, to: &mut [u8]) -> usize {
    let mut digits = [0; 10];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let length = digits.len() - first;
    to[..length].copy_from_slice(&digits[first..]);
    length
}

/// The utilization of an ORCA field: `TEXT application_utilization=0.5,cpu_utilization=0.3` or `JSON {"cpu_utilization": 0.3}`;
/// the application's own figure before that of its processor.
fn utilization(field: &[u8]) -> Option<f64> {
    if field.len() > ORCA_BYTES {
        return None;
    }
    let text = std::str::from_utf8(field).ok()?;
    let (form, text) = text.trim().split_once(' ')?;
    let (mut own, mut processor) = (None, None);
    let mut see = |name: &str, value: f64| match name {
        "application_utilization" => own = Some(value),
        "cpu_utilization" => processor = Some(value),
        _ => {}
    };
    match form {
        "TEXT" => text.split(',').filter_map(|pair| pair.split_once('=')).for_each(|(name, value)| {
            if let Ok(value) = value.trim().parse() {
                see(name.trim(), value);
            }
        }),
        "JSON" => {
            let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
            map.iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).for_each(|(name, v)| see(name, v));
        }
        _ => return None,
    }
    // Zero is what a protobuf message says that does not say it.
    let known = |value: &f64| value.is_finite() && *value > 0.0;
    own.filter(known).or(processor.filter(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for (in_flight, micros) in [(0, 0), (3, 1500), (10, 99), (100, 2_000_000_000), (u32::MAX, u32::MAX)] {
            let latency = (micros > 0).then(|| Nanos(u64::from(micros) * 1000));
            let report = Report { in_flight, latency };
            assert_eq!(Report::parse(report.value().bytes()), Some(report));
        }
        for bad in ["", "1", "1 ", " 1", "+1 2", "1 2 3", "1,2", "4294967296 1", "-1 1", "1.5 1"] {
            assert_eq!(Report::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn requests_are_counted_while_they_last_and_latency_follows() {
        let load = ServerLoad::new(2);
        let nothing = Report { in_flight: 0, latency: None };
        let now = Nanos::from_millis(5_000);
        assert_eq!(load.report(now), nothing);
        let (a, b) = (load.serve(0), load.serve(1));
        assert_eq!(load.report(now).in_flight, 2);
        drop(a);
        assert_eq!(load.report(now).in_flight, 1);
        drop(b);
        load.answered(0, Nanos(1_000_000), now);
        assert_eq!(load.report(now).latency, Some(Nanos(1_000_000)));
        (0..200).for_each(|_| load.answered(0, Nanos(9_000_000), now));
        assert_eq!(load.report(now).latency, Some(Nanos(9_000_000)));
        (0..200).for_each(|_| load.answered(0, Nanos(0), now));
        assert_eq!(load.report(now).latency, Some(Nanos(1_000)), "known, so not zero");
        assert_eq!(load.report(now.after(RECENT)).latency, Some(Nanos(1_000)));
        assert_eq!(load.report(now.after(RECENT).after(Nanos(1))).latency, None, "too long ago");
    }

    #[test]
    fn what_the_application_says_counts() {
        let said = |text: &str| {
            let load = ServerLoad::new(1);
            load.said(0, text.as_bytes(), Nanos(1));
            assert_eq!(load.report(RECENT.after(Nanos(2))).in_flight, 0, "what was said long ago says nothing of now");
            load.report(Nanos(1)).in_flight
        };
        assert_eq!(said("TEXT cpu_utilization=0.9, mem_utilization=0.1"), 9);
        assert_eq!(said("TEXT cpu_utilization=0.9,application_utilization=0.5"), 1);
        assert_eq!(said(r#"JSON {"cpu_utilization": 0.75, "rps_fractional": 100, "named_metrics": {"a": 1}}"#), 3);
        assert_eq!(said("TEXT cpu_utilization=77"), 99);
        for nothing in
            ["", "TEXT", "TEXT x", "JSON {", "BIN abc", "TEXT cpu_utilization=NaN", "TEXT cpu_utilization=-1"]
        {
            assert_eq!(said(nothing), 0, "{nothing}");
        }
        for (length, in_flight) in [(ORCA_BYTES, 9), (ORCA_BYTES + 1, 0)] {
            assert_eq!(said(&format!("{:length$}", "TEXT cpu_utilization=0.9")), in_flight, "{length} bytes");
        }
    }
}
