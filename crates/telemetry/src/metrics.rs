//! Counting requests, bytes and connections by series: where they came in, for which service, by which route.
//!
//! Each worker writes to a [`Recorder`] of its own with plain loads and stores; the [`Registry`] hands out dense series
//! ids and adds the recorders up when it is read. A series costs about 2 KiB per worker that touches it, and there are at
//! most [`SERIES_LIMIT`]; what does not fit is counted in one series named `other`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{Nanos, SeriesId};

mod delta;
mod peers;
mod recorder;
mod render;

pub use delta::{Cursor, Delta};
pub use peers::PeerRefusal;
pub use recorder::{Class, Recorder};
pub use render::{Sample, SampleKind};

use recorder::{Sheet, Totals};

/// The most series at a time, the one named `other` included. A proxy learns only what it talks to, so this is far above
/// what honest use needs and bounds memory and output when somebody makes up names.
pub const SERIES_LIMIT: usize = 4096;

/// A series that is in no snapshot and had no traffic for this long is no longer shown, and its id is free for another.
pub const EXPIRY: Nanos = Nanos::from_millis(600_000);

/// Which way a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the proxy's own instance.
    Inbound,
    /// From the proxy's own instance.
    Outbound,
    /// Into the mesh through a gateway.
    Gateway,
    /// Only of the series for what did not fit.
    Other,
}

impl Direction {
    /// The word in labels and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Gateway => "gateway",
            Direction::Other => "other",
        }
    }
}

/// What a series counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// Which way.
    pub direction: Direction,
    /// `namespace/name` of the service.
    pub service: Box<str>,
    /// Route and rule, or empty.
    pub route: Box<str>,
}

/// One entry of the table of series. Its place in the table is the series' id.
#[derive(Debug)]
struct Entry {
    key: SeriesKey,
    /// Counts up each time the place is given to another key, so that a [`Cursor`] notices.
    generation: u32,
    /// What the recorders held for earlier keys of this place; subtracted from what they hold now.
    base: Totals,
    /// Requests and bytes when [`Registry::expire`] last looked, and since when they have not changed.
    seen: u64,
    quiet_since: Nanos,
    /// When this place was last taken from a key.
    freed: Option<Nanos>,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Expires when it is out of use.
    Passing,
    /// Never expires.
    Permanent,
    /// Expired; its place is free.
    Over,
}

#[derive(Debug)]
struct Table {
    ids: HashMap<SeriesKey, u32>,
    entries: Vec<Entry>,
    /// Places that are free again, the longest free first. A request that outlives its series asks [`Registry::is_still`].
    free: VecDeque<u32>,
    limit: usize,
}

/// All series of a process. Shared; its lock is taken when configuration is compiled and when metrics are read, never for a
/// request.
#[derive(Debug)]
pub struct Registry {
    table: Mutex<Table>,
    sheets: Mutex<Vec<Arc<Sheet>>>,
    refusals: peers::Refusals,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Arc<Registry> {
        Registry::with_limit(SERIES_LIMIT)
    }

    fn with_limit(limit: usize) -> Arc<Registry> {
        let key = SeriesKey { direction: Direction::Other, service: "other".into(), route: "other".into() };
        let table = Table {
            ids: HashMap::from([(key.clone(), 0)]),
            entries: vec![Entry::new(key)],
            free: VecDeque::new(),
            limit,
        };
        Arc::new(Registry {
            table: Mutex::new(table),
            sheets: Mutex::new(Vec::new()),
            refusals: peers::Refusals::default(),
        })
    }

    /// The id of `key`'s series, which is made if there is none; equal keys give equal ids. Id 0, the default, is the
    /// series `other`, and the answer when [`SERIES_LIMIT`] is reached.
    pub fn series(&self, key: &SeriesKey) -> SeriesId {
        let mut table = self.table();
        if let Some(&id) = table.ids.get(key) {
            // Asked for means in use again: the quiet time starts anew when `expire` next looks.
            table.entries[id as usize].seen = u64::MAX;
            return SeriesId(id);
        }
        let id = if let Some(id) = table.free.pop_front() {
            let base = self.totals(id);
            let entry = &mut table.entries[id as usize];
            let generation = entry.generation + 1;
            *entry = Entry { generation, base, freed: entry.freed, ..Entry::new(key.clone()) };
            id
        } else if table.entries.len() < table.limit {
            table.entries.push(Entry::new(key.clone()));
            table.entries.len() as u32 - 1
        } else {
            return SeriesId(0);
        };
        table.ids.insert(key.clone(), id);
        SeriesId(id)
    }

    /// The same for a series that no snapshot holds and whose id is kept for the life of the process: it never expires.
    pub fn permanent(&self, key: &SeriesKey) -> SeriesId {
        let id = self.series(key);
        self.table().entries[id.0 as usize].life = Life::Permanent;
        id
    }

    /// A recorder for one worker. What it has counted stays when it is dropped.
    pub fn recorder(&self) -> Recorder {
        let sheet = Arc::new(Sheet::new());
        lock(&self.sheets).push(Arc::clone(&sheet));
        Recorder::new(sheet)
    }

    /// Forgets series that `in_use` denies (no snapshot holds them), that have had no traffic for [`EXPIRY`] and no open
    /// connection. To be called about once a minute by whoever knows the snapshot; `now` is monotonic.
    pub fn expire(&self, now: Nanos, in_use: impl Fn(SeriesId) -> bool) {
        let mut table = self.table();
        for id in 1..table.entries.len() as u32 {
            if table.entries[id as usize].life != Life::Passing {
                continue;
            }
            let totals = self.totals(id);
            let entry = &mut table.entries[id as usize];
            let traffic = totals.traffic();
            if traffic != entry.seen || totals.open() > 0 || in_use(SeriesId(id)) {
                (entry.seen, entry.quiet_since) = (traffic, now);
            } else if now.since(entry.quiet_since) >= EXPIRY {
                entry.life = Life::Over;
                entry.freed = Some(now);
                let key = entry.key.clone();
                table.ids.remove(&key);
                table.free.push_back(id);
            }
        }
    }

    /// Whether `id` means the same series as at the time `then` (of the clock that [`Registry::expire`] is told), and was not given
    /// to another since. Need be asked only of what is older than [`EXPIRY`].
    pub fn is_still(&self, id: SeriesId, then: Nanos) -> bool {
        let table = self.table();
        let entry = table.entries.get(id.0 as usize);
        entry.is_some_and(|entry| entry.life != Life::Over && entry.freed.is_none_or(|freed| freed < then))
    }

    /// What each live series has counted, in order of its id.
    fn read(&self) -> Vec<Reading> {
        let table = self.table();
        let live = table.entries.iter().enumerate().filter(|(_, entry)| entry.life != Life::Over);
        live.map(|(id, entry)| Reading {
            id: id as u32,
            generation: entry.generation,
            key: entry.key.clone(),
            totals: self.totals(id as u32).since(&entry.base),
        })
        .collect()
    }

    fn totals(&self, id: u32) -> Totals {
        let mut totals = Totals::default();
        for sheet in lock(&self.sheets).iter() {
            sheet.add_to(SeriesId(id), &mut totals);
        }
        totals
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Entry {
    fn new(key: SeriesKey) -> Entry {
        Entry {
            key,
            generation: 0,
            base: Totals::default(),
            seen: u64::MAX,
            quiet_since: Nanos(0),
            freed: None,
            life: Life::Passing,
        }
    }
}

struct Reading {
    id: u32,
    generation: u32,
    key: SeriesKey,
    totals: Totals,
}

/// Nothing here is left half done by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
