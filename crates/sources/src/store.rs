//! The merged view of all sources.
//!
//! Every source hands over what it read by origin (a file, an etcd key range); the store keeps the parts and publishes one
//! immutable [`Snapshot`]. Readers never wait for writers, and a reader that was slow sees one change that sums up all that
//! it missed: the changed keys are found by comparing snapshots, so nothing can be lost in a queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use api::{Diagnostic, Failed, Kind, Object, ObjectKey, Parsed, Severity, Spec, check};
use tokio::sync::watch;

/// All objects at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts changes of `objects` in this process; it never goes back.
    pub revision: u64,
    /// The objects that are in force.
    pub objects: BTreeMap<ObjectKey, Arc<Object>>,
    /// What is wrong now, by origin (file); origins without problems are left out.
    pub problems: BTreeMap<Arc<str>, Vec<Diagnostic>>,
    /// Whether every source has handed over all that it held at its start.
    pub loaded: bool,
}

impl Snapshot {
    /// The objects of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Arc<Object>)> {
        self.objects.range(ObjectKey::new(kind, "", "")..).take_while(move |(key, _)| key.kind == kind)
    }
}

/// What happened between two looks at the store.
#[derive(Clone, Debug)]
pub struct Change {
    /// What holds now.
    pub snapshot: Arc<Snapshot>,
    /// Objects that are new, gone or different; empty when only problems changed.
    pub keys: BTreeSet<ObjectKey>,
}

/// The merged view of all sources; clones are handles to one store.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: Mutex<Parts>,
    published: watch::Sender<Arc<Snapshot>>,
}

/// What the sources handed over, by order of source and then of origin.
#[derive(Debug, Default)]
struct Parts {
    origins: BTreeMap<(usize, Arc<str>), Part>,
    /// For every source, in order, whether it is loaded.
    loaded: Vec<bool>,
}

#[derive(Debug, Default)]
struct Part {
    objects: Vec<Arc<Object>>,
    diagnostics: Vec<Diagnostic>,
}

impl Default for Store {
    fn default() -> Self {
        Store::new()
    }
}

impl Store {
    /// An empty store without sources.
    pub fn new() -> Store {
        let (published, _) = watch::channel(Arc::default());
        Store { shared: Arc::new(Shared { parts: Mutex::default(), published }) }
    }

    /// A way in for one more source. Where two sources hold an object of one key, that of the earlier sink counts.
    pub fn sink(&self) -> Sink {
        let source = {
            let mut parts = self.shared.parts();
            parts.loaded.push(false);
            parts.loaded.len() - 1
        };
        Sink { store: self.clone(), source }
    }

    /// What holds now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shared.published.borrow())
    }

    /// What is wrong now, by origin (file).
    pub fn problems(&self) -> BTreeMap<Arc<str>, Vec<Diagnostic>> {
        self.snapshot().problems.clone()
    }

    /// Resolves when every source has handed over all that it held at its start.
    pub async fn loaded(&self) -> Arc<Snapshot> {
        let mut receiver = self.shared.published.subscribe();
        let snapshot = receiver.wait_for(|s| s.loaded).await.expect("the store holds the sender");
        Arc::clone(&snapshot)
    }

    /// Changes from what holds now on.
    pub fn subscribe(&self) -> Subscription {
        let mut receiver = self.shared.published.subscribe();
        let seen = Arc::clone(&receiver.borrow_and_update());
        Subscription { receiver, seen }
    }

    fn update(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.shared.parts();
        change(&mut parts);
        let next = parts.merge(&self.snapshot());
        // Sent with the parts locked, so that snapshots are published in the order in which they were made.
        self.shared.published.send_if_modified(|current| {
            let modified =
                next.revision != current.revision || next.problems != current.problems || next.loaded != current.loaded;
            *current = Arc::new(next);
            modified
        });
    }
}

impl Shared {
    /// The parts; a panic elsewhere leaves them whole, as every update replaces whole parts.
    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How one source hands objects to the store.
#[derive(Clone, Debug)]
pub struct Sink {
    store: Store,
    source: usize,
}

impl Sink {
    /// Replaces all that this source holds from `origin`. An object that the origin holds but that cannot be used keeps its
    /// last good version; so does every object that may be hidden in a document that could not be recognised.
    pub fn replace(&self, origin: &str, parsed: Parsed) {
        self.store.update(|parts| {
            let part = parts.origins.entry((self.source, origin.into())).or_default();
            part.replace(parsed);
        });
    }

    /// Removes all that this source holds from `origin`.
    pub fn remove(&self, origin: &str) {
        self.store.update(|parts| {
            parts.origins.remove(&(self.source, Arc::from(origin)));
        });
    }

    /// Reports what is wrong with an origin as a whole (it cannot be read), keeping its objects. No problem clears it.
    pub fn report(&self, origin: &str, problems: Vec<Diagnostic>) {
        self.store.update(|parts| {
            parts.origins.entry((self.source, origin.into())).or_default().diagnostics = problems;
        });
    }

    /// Says that all that the source held at its start has been handed over.
    pub fn loaded(&self) {
        self.store.update(|parts| parts.loaded[self.source] = true);
    }
}

impl Part {
    fn replace(&mut self, parsed: Parsed) {
        let held: BTreeMap<ObjectKey, Arc<Object>> =
            std::mem::take(&mut self.objects).into_iter().map(|o| (o.key(), o)).collect();
        let present: BTreeSet<ObjectKey> = parsed.objects.iter().map(Object::key).collect();
        self.objects = parsed.objects.into_iter().map(Arc::new).collect();
        let mut kept: BTreeSet<ObjectKey> = BTreeSet::new();
        for Failed { key, fallback } in parsed.failed {
            if present.contains(&key) || !kept.insert(key.clone()) {
                continue;
            }
            let good = held.get(&key).filter(|object| !is_fallback(object)).cloned();
            self.objects.extend(good.or(fallback.map(Arc::new)));
        }
        if parsed.incomplete {
            let hidden = held.into_iter().filter(|(key, _)| !present.contains(key) && !kept.contains(key));
            self.objects.extend(hidden.map(|(_, object)| object));
        }
        self.diagnostics = parsed.diagnostics;
    }
}

/// Whether an object only stands for one that could not be used.
fn is_fallback(object: &Object) -> bool {
    matches!(&object.spec, Spec::AuthorizationPolicy(policy) if policy.unusable.is_some())
}

impl Parts {
    /// The snapshot that these parts make, after `before`. Objects that say the same keep their identity, so that comparing
    /// pointers finds what changed; an object that only moved within its file is published without a new revision.
    fn merge(&self, before: &Snapshot) -> Snapshot {
        let mut objects: BTreeMap<ObjectKey, Arc<Object>> = BTreeMap::new();
        for part in self.origins.values() {
            for object in &part.objects {
                objects.entry(object.key()).or_insert_with(|| Arc::clone(object));
            }
        }
        let changed = objects.len() != before.objects.len()
            || objects.iter().any(|(key, now)| before.objects.get(key).is_none_or(|then| !now.same(then)));
        Snapshot {
            revision: before.revision + u64::from(changed),
            problems: self.problems(),
            loaded: self.loaded.iter().all(|l| *l),
            objects,
        }
    }

    /// What the sources reported, and what [`check`] finds among all objects. What dangles is used all the same, so at run
    /// time it is a warning.
    fn problems(&self) -> BTreeMap<Arc<str>, Vec<Diagnostic>> {
        let mut problems: BTreeMap<Arc<str>, Vec<Diagnostic>> = BTreeMap::new();
        for ((_, origin), part) in &self.origins {
            if !part.diagnostics.is_empty() {
                problems.entry(Arc::clone(origin)).or_default().extend(part.diagnostics.iter().cloned());
            }
        }
        let objects = self.origins.values().flat_map(|p| &p.objects);
        for mut diagnostic in check(objects.map(|o| &**o)) {
            diagnostic.severity = diagnostic.severity.min(Severity::Warning);
            let origin = diagnostic.file.clone().unwrap_or_else(|| Arc::from(""));
            problems.entry(origin).or_default().push(diagnostic);
        }
        problems
    }
}

/// Follows a store.
#[derive(Debug)]
pub struct Subscription {
    receiver: watch::Receiver<Arc<Snapshot>>,
    seen: Arc<Snapshot>,
}

impl Subscription {
    /// What was seen last.
    pub fn seen(&self) -> &Arc<Snapshot> {
        &self.seen
    }

    /// Waits for the next change of objects, problems or `loaded`. `None` when the store is gone.
    pub async fn changed(&mut self) -> Option<Change> {
        self.receiver.changed().await.ok()?;
        let snapshot = Arc::clone(&self.receiver.borrow_and_update());
        let keys = difference(&self.seen, &snapshot);
        self.seen = Arc::clone(&snapshot);
        Some(Change { snapshot, keys })
    }
}

/// The keys whose objects differ.
fn difference(before: &Snapshot, after: &Snapshot) -> BTreeSet<ObjectKey> {
    if before.revision == after.revision {
        return BTreeSet::new();
    }
    let different = |(key, now): &(&ObjectKey, &Arc<Object>)| {
        before.objects.get(*key).is_none_or(|then| !Arc::ptr_eq(then, now) && !then.same(now))
    };
    let removed = before.objects.keys().filter(|key| !after.objects.contains_key(*key));
    after.objects.iter().filter(different).map(|(key, _)| key).chain(removed).cloned().collect()
}

#[cfg(test)]
mod tests;
