//! The counters that one worker writes.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use engine::{Nanos, Reason, SeriesId};

use super::SERIES_LIMIT;
use crate::histogram::{self, BUCKETS};

/// Series to a chunk of a sheet.
const CHUNK: usize = 64;

/// Reasons that the mesh gives, and one place for "none".
pub(super) const REASONS: usize = Reason::ALL.len() + 1;

/// The class of an answer's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// 1xx.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// 4xx.
    ClientError,
    /// 5xx and above.
    ServerError,
    /// There is no status: an opaque connection, or a client that went away before the answer.
    Opaque,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 6] =
        [Class::Informational, Class::Success, Class::Redirect, Class::ClientError, Class::ServerError, Class::Opaque];

    /// The class of an HTTP status; a number below 100 has none and is opaque.
    pub const fn of(status: u16) -> Class {
        match status {
            0..100 => Class::Opaque,
            100..200 => Class::Informational,
            200..300 => Class::Success,
            300..400 => Class::Redirect,
            400..500 => Class::ClientError,
            _ => Class::ServerError,
        }
    }

    /// The word in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Informational => "1xx",
            Class::Success => "2xx",
            Class::Redirect => "3xx",
            Class::ClientError => "4xx",
            Class::ServerError => "5xx",
            Class::Opaque => "opaque",
        }
    }
}

/// A counter with one writer: adding is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type ByReason = [[Counter; REASONS - 1]; Class::ALL.len()];

/// What one worker has counted for one series.
#[derive(Debug)]
struct Slot {
    classes: [Counter; Class::ALL.len()],
    failures: Counter,
    nanos: Counter,
    received: Counter,
    sent: Counter,
    opened: Counter,
    closed: Counter,
    retries: Counter,
    latency: [Counter; BUCKETS],
    /// Requests that the mesh answered itself; most series never need it.
    reasons: OnceLock<Box<ByReason>>,
}

impl Slot {
    fn new() -> Box<Slot> {
        Box::new(Slot {
            classes: Default::default(),
            failures: Counter::default(),
            nanos: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            opened: Counter::default(),
            closed: Counter::default(),
            retries: Counter::default(),
            latency: std::array::from_fn(|_| Counter::default()),
            reasons: OnceLock::new(),
        })
    }
}

fn no_reasons() -> Box<ByReason> {
    Box::new(std::array::from_fn(|_| std::array::from_fn(|_| Counter::default())))
}

type Chunk = [OnceLock<Box<Slot>>; CHUNK];

/// One worker's counters: written by its [`Recorder`], read by the registry. Grows by the chunk and by the series as they
/// are first written.
#[derive(Debug)]
pub(super) struct Sheet {
    chunks: [OnceLock<Box<Chunk>>; SERIES_LIMIT / CHUNK],
}

impl Sheet {
    pub(super) fn new() -> Sheet {
        Sheet { chunks: std::array::from_fn(|_| OnceLock::new()) }
    }

    #[inline]
    fn slot(&self, id: SeriesId) -> &Slot {
        // An id that no registry gave counts as `other`.
        let id = if (id.0 as usize) < SERIES_LIMIT { id.0 as usize } else { 0 };
        let chunk = self.chunks[id / CHUNK].get_or_init(|| Box::new(std::array::from_fn(|_| OnceLock::new())));
        chunk[id % CHUNK].get_or_init(Slot::new)
    }

    pub(super) fn add_to(&self, id: SeriesId, totals: &mut Totals) {
        let id = id.0 as usize;
        let Some(slot) = self.chunks.get(id / CHUNK).and_then(OnceLock::get).and_then(|chunk| chunk[id % CHUNK].get())
        else {
            return;
        };
        for (class, counter) in slot.classes.iter().enumerate() {
            totals.requests[class][0] += counter.get();
        }
        if let Some(reasons) = slot.reasons.get() {
            for (class, row) in reasons.iter().enumerate() {
                for (reason, counter) in row.iter().enumerate() {
                    totals.requests[class][reason + 1] += counter.get();
                }
            }
        }
        for (total, counter) in totals.latency.iter_mut().zip(&slot.latency) {
            *total += counter.get();
        }
        totals.failures += slot.failures.get();
        totals.nanos = totals.nanos.wrapping_add(slot.nanos.get());
        totals.received += slot.received.get();
        totals.sent += slot.sent.get();
        totals.closed += slot.closed.get();
        totals.opened += slot.opened.get();
        totals.retries += slot.retries.get();
    }
}

/// One worker's pen. It can move to the worker's thread but not be shared: every counter has one writer.
#[derive(Debug)]
pub struct Recorder {
    sheet: Arc<Sheet>,
    single_writer: PhantomData<Cell<()>>,
}

impl Recorder {
    pub(super) fn new(sheet: Arc<Sheet>) -> Recorder {
        Recorder { sheet, single_writer: PhantomData }
    }

    /// Counts one request that is over, or one opaque connection: the class of its status, the reason if the mesh answered
    /// itself, how long it took, and whether it counts as a failure (by the outcome that balancing uses).
    #[inline]
    pub fn request(&self, series: SeriesId, class: Class, reason: Option<Reason>, latency: Nanos, failure: bool) {
        let slot = self.sheet.slot(series);
        match reason {
            None => slot.classes[class as usize].add(1),
            Some(reason) => slot.reasons.get_or_init(no_reasons)[class as usize][reason as usize].add(1),
        }
        if failure {
            slot.failures.add(1);
        }
        slot.nanos.add(latency.0);
        slot.latency[histogram::bucket(latency.0)].add(1);
    }

    /// Counts body bytes received from and sent to the side that called.
    #[inline]
    pub fn bytes(&self, series: SeriesId, received: u64, sent: u64) {
        let slot = self.sheet.slot(series);
        slot.received.add(received);
        slot.sent.add(sent);
    }

    /// Counts a connection that was opened. The same recorder or another counts its end.
    #[inline]
    pub fn opened(&self, series: SeriesId) {
        self.sheet.slot(series).opened.add(1);
    }

    /// Counts the end of a connection.
    #[inline]
    pub fn closed(&self, series: SeriesId) {
        self.sheet.slot(series).closed.add(1);
    }

    /// Counts attempts after the first.
    #[inline]
    pub fn retries(&self, series: SeriesId, n: u32) {
        self.sheet.slot(series).retries.add(u64::from(n));
    }
}

/// What all workers have counted for one series.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    /// By class and by reason; reason 0 is none, and n stands for `Reason::ALL[n - 1]`.
    pub(super) requests: [[u64; REASONS]; Class::ALL.len()],
    pub(super) failures: u64,
    pub(super) nanos: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) retries: u64,
    pub(super) latency: Box<[u64]>,
}

impl Default for Totals {
    fn default() -> Self {
        Totals {
            requests: [[0; REASONS]; Class::ALL.len()],
            failures: 0,
            nanos: 0,
            received: 0,
            sent: 0,
            opened: 0,
            closed: 0,
            retries: 0,
            latency: vec![0; BUCKETS].into(),
        }
    }
}

impl Totals {
    /// All requests.
    pub(super) fn count(&self) -> u64 {
        self.requests.iter().flatten().sum()
    }

    /// Grows with anything that happens.
    pub(super) fn traffic(&self) -> u64 {
        self.count()
            .wrapping_add(self.opened)
            .wrapping_add(self.received)
            .wrapping_add(self.sent)
            .wrapping_add(self.retries)
    }

    /// Connections open now. A reader may see a close before its open; that is none, not 2^64.
    pub(super) fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }

    /// What came on top of `base`.
    pub(super) fn since(mut self, base: &Totals) -> Totals {
        for (row, old) in self.requests.iter_mut().zip(&base.requests) {
            subtract(row, old);
        }
        subtract(&mut self.latency, &base.latency);
        self.nanos = self.nanos.wrapping_sub(base.nanos);
        let pairs = [
            (&mut self.failures, base.failures),
            (&mut self.received, base.received),
            (&mut self.sent, base.sent),
            (&mut self.opened, base.opened),
            (&mut self.closed, base.closed),
            (&mut self.retries, base.retries),
        ];
        for (value, old) in pairs {
            *value = value.saturating_sub(old);
        }
        self
    }
}

fn subtract(values: &mut [u64], old: &[u64]) {
    for (value, old) in values.iter_mut().zip(old) {
        *value = value.saturating_sub(*old);
    }
}
