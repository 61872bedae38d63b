//! The names that the data path has asked for, and their slots. Locked only when a name is asked for or dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use engine::snapshot::{Resolution, Slot};
use tokio::sync::Notify;

/// One slot a name, as long as anybody holds it.
#[derive(Debug)]
pub(super) struct Names {
    entries: Mutex<Entries>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Entries {
    by_name: HashMap<String, Entry>,
    /// Entries that are kept up to date.
    active: usize,
}

#[derive(Debug)]
struct Entry {
    slot: Weak<Slot>,
    /// Present while the name is kept up to date.
    kept: Option<Arc<Slot>>,
    notify: Arc<Notify>,
}

/// A name that must be asked for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) name: String,
    pub(super) slot: Arc<Slot>,
    pub(super) notify: Arc<Notify>,
}

impl Names {
    pub(super) fn new(limit: usize) -> Names {
        Names { entries: Mutex::default(), limit }
    }

    /// The slot of `name`, what wakes those who wait for it, and what to ask for if nobody has. `slot` is the caller's own,
    /// used when there is none yet. `None`: too many names.
    pub(super) fn claim(&self, name: &str, slot: Option<Arc<Slot>>) -> Option<(Arc<Slot>, Arc<Notify>, Option<Ask>)> {
        let mut entries = self.lock();
        let full = entries.active >= self.limit;
        if let Some(entry) = entries.by_name.get_mut(name) {
            if let Some(kept) = &entry.kept {
                return Some((kept.clone(), entry.notify.clone(), None));
            }
            if full {
                return None;
            }
            let slot = entry.slot.upgrade().or(slot).unwrap_or_default();
            entry.slot = Arc::downgrade(&slot);
            entry.kept = Some(slot.clone());
            let ask = Ask { name: name.to_owned(), slot: slot.clone(), notify: entry.notify.clone() };
            let notify = entry.notify.clone();
            entries.active += 1;
            return Some((slot, notify, Some(ask)));
        }
        if full {
            return None;
        }
        let slot = slot.unwrap_or_default();
        let notify = Arc::<Notify>::default();
        let entry = Entry { slot: Arc::downgrade(&slot), kept: Some(slot.clone()), notify: notify.clone() };
        entries.by_name.insert(name.to_owned(), entry);
        entries.active += 1;
        let ask = Ask { name: name.to_owned(), slot: slot.clone(), notify: notify.clone() };
        Some((slot, notify, Some(ask)))
    }

    /// Stops keeping `name` up to date. Whoever still holds its slot finds it pending and asks again.
    pub(super) fn release(&self, name: &str) {
        let mut entries = self.lock();
        let Some(entry) = entries.by_name.get_mut(name) else {
            return;
        };
        if let Some(slot) = entry.kept.take() {
            slot.set(Resolution::Pending);
            drop(slot);
            if entry.slot.strong_count() == 0 {
                entries.by_name.remove(name);
            }
            entries.active -= 1;
        }
    }

    /// How many names must give way so that some, a sixteenth of all, can be asked for at any time.
    pub(super) fn excess(&self) -> usize {
        let free = self.limit.saturating_sub(self.lock().active);
        let room = (self.limit / 16).max(1);
        // As many again, so that this does not come up with every name.
        if free < room { 2 * room - free } else { 0 }
    }

    /// The slots that are kept up to date.
    pub(super) fn kept(&self) -> Vec<Arc<Slot>> {
        self.lock().by_name.values().filter_map(|entry| entry.kept.clone()).collect()
    }

    /// Forgets names that are not kept and whose slots nobody holds.
    pub(super) fn sweep(&self) {
        self.lock().by_name.retain(|_, entry| entry.kept.is_some() || entry.slot.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing under this lock can panic between two changes that belong together.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
