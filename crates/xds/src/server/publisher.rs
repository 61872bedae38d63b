//! What is published, who subscribes to it, and what each stream has yet to look at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Change, Published};
use crate::Kind;

/// Subscribes to every resource of a kind.
pub(crate) const EVERYTHING: &str = "*";

/// What is published, and to whom. Clones share it.
#[derive(Clone, Debug)]
pub struct Publisher {
    index: Arc<Mutex<Index>>,
    settled: Arc<watch::Sender<bool>>,
    grace_ends: Instant,
}

impl Publisher {
    /// Publishes nothing yet. For `grace` from now, or until [`Publisher::settled`], an endpoint that was never published
    /// here is removed from no proxy that holds it: its instance may still be about to register again. One that was
    /// published and removed is known to be gone.
    pub fn new(grace: Duration) -> Publisher {
        Publisher {
            index: Arc::default(),
            settled: Arc::new(watch::Sender::new(false)),
            grace_ends: Instant::now() + grace,
        }
    }

    /// Applies `changes` as one step: no stream sees some without the others (streams send on from there as fast as their
    /// peers acknowledge). An upsert of what is already so does nothing.
    pub fn apply(&self, changes: Vec<Change>) {
        let in_grace = self.in_grace();
        let mut index = self.lock();
        let mut woken = HashSet::new();
        if !in_grace {
            index.gone.clear();
        }
        for change in changes {
            match change {
                Change::Upsert(published) => index.upsert(published, &mut woken),
                Change::Remove { kind, name } => {
                    index.remove(kind, &name, &mut woken);
                    if in_grace && kind == Kind::Endpoint {
                        index.gone.insert(name);
                    }
                }
            }
        }
        for id in woken {
            if let Some(stream) = index.streams.get(&id) {
                stream.wake.notify_one();
            }
        }
    }

    /// Ends the grace early.
    pub fn settled(&self) {
        self.settled.send_replace(true);
    }

    /// Streams that are open now.
    pub fn streams(&self) -> usize {
        self.lock().streams.len()
    }

    /// Whether endpoints that were never published must not be removed yet.
    pub(crate) fn in_grace(&self) -> bool {
        !*self.settled.borrow() && Instant::now() < self.grace_ends
    }

    /// Resolves when the grace is over.
    pub(crate) async fn grace_over(&self) {
        let mut settled = self.settled.subscribe();
        // Either end will do; that the sender is gone cannot be, for `self` holds it.
        let _ = tokio::time::timeout_at(self.grace_ends, settled.wait_for(|settled| *settled)).await;
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Index> {
        // Nothing that can panic leaves the index half changed in a way that a later change would not repair.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may use an alias, and what it then means.
type Claim = (Option<String>, String);

/// Names, of each kind, that a stream has yet to look at.
pub(crate) type Pending = [BTreeSet<String>; Kind::COUNT];

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) pending: Pending,
    pub(crate) wake: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    resources: [BTreeMap<String, Arc<Published>>; Kind::COUNT],
    /// Alias → the resources that claim it.
    aliases: [HashMap<String, BTreeSet<Claim>>; Kind::COUNT],
    /// Name as asked (alias, glob and `*` included) → streams.
    watchers: [HashMap<String, HashSet<u64>>; Kind::COUNT],
    pub(crate) streams: HashMap<u64, Mailbox>,
    /// Endpoints that were removed on purpose while the grace lasts.
    gone: HashSet<String>,
    next_stream: u64,
}

impl Index {
    /// A new stream's number and what wakes it.
    pub(crate) fn open(&mut self) -> (u64, Arc<Notify>) {
        self.next_stream += 1;
        let mailbox = Mailbox::default();
        let wake = mailbox.wake.clone();
        self.streams.insert(self.next_stream, mailbox);
        (self.next_stream, wake)
    }

    /// Forgets a stream that subscribed to `asked`.
    pub(crate) fn close<'a>(&mut self, id: u64, asked: impl Iterator<Item = (Kind, &'a str)>) {
        self.streams.remove(&id);
        for (kind, name) in asked {
            self.unwatch(id, kind, name);
        }
    }

    pub(crate) fn watch(&mut self, id: u64, kind: Kind, name: &str) {
        self.watchers[kind as usize].entry(name.to_owned()).or_default().insert(id);
    }

    pub(crate) fn unwatch(&mut self, id: u64, kind: Kind, name: &str) {
        let watchers = &mut self.watchers[kind as usize];
        if let Some(streams) = watchers.get_mut(name) {
            streams.remove(&id);
            if streams.is_empty() {
                watchers.remove(name);
            }
        }
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Published>> {
        self.resources[kind as usize].get(name)
    }

    /// Whether the endpoint `name` was removed on purpose since the start.
    pub(crate) fn is_gone(&self, name: &str) -> bool {
        self.gone.contains(name)
    }

    /// What `asked` means to an asker of `namespace`. An alias of the asker's own namespace goes before one for everybody;
    /// among equals the name that sorts first wins.
    pub(crate) fn resolve(&self, kind: Kind, asked: &str, namespace: &str) -> Option<&Arc<Published>> {
        if let Some(published) = self.get(kind, asked) {
            return Some(published);
        }
        let claims = self.aliases[kind as usize].get(asked)?;
        let own = claims.iter().find(|(scope, _)| scope.as_deref() == Some(namespace));
        let (_, name) = own.or_else(|| claims.iter().find(|(scope, _)| scope.is_none()))?;
        self.get(kind, name)
    }

    /// The resources whose names begin with `prefix`, sorted by name.
    pub(crate) fn beneath<'a>(&'a self, kind: Kind, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Published>> + 'a {
        self.resources[kind as usize]
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(name, _)| name.starts_with(prefix))
            .map(|(_, published)| published)
    }

    fn upsert(&mut self, published: Published, woken: &mut HashSet<u64>) {
        let kind = published.kind;
        if kind == Kind::Endpoint {
            self.gone.remove(&published.name);
        }
        let old = self.resources[kind as usize].get(&published.name).cloned();
        if old.as_deref() == Some(&published) {
            return;
        }
        let old_aliases = old.iter().flat_map(|old| &old.aliases);
        for alias in old_aliases.clone().filter(|alias| !published.aliases.contains(alias)) {
            self.drop_alias(kind, alias, &published.name);
        }
        for alias in &published.aliases {
            let claim = (alias.namespace.clone(), published.name.clone());
            self.aliases[kind as usize].entry(alias.name.clone()).or_default().insert(claim);
        }
        let touched: BTreeSet<&str> = published.aliases.iter().chain(old_aliases).map(|a| a.name.as_str()).collect();
        self.announce(kind, &published.name, touched, woken);
        self.resources[kind as usize].insert(published.name.clone(), Arc::new(published));
    }

    fn remove(&mut self, kind: Kind, name: &str, woken: &mut HashSet<u64>) {
        let Some(old) = self.resources[kind as usize].remove(name) else {
            return;
        };
        for alias in &old.aliases {
            self.drop_alias(kind, alias, name);
        }
        self.announce(kind, name, old.aliases.iter().map(|alias| alias.name.as_str()).collect(), woken);
    }

    fn drop_alias(&mut self, kind: Kind, alias: &super::Alias, name: &str) {
        let aliases = &mut self.aliases[kind as usize];
        if let Some(claims) = aliases.get_mut(&alias.name) {
            claims.remove(&(alias.namespace.clone(), name.to_owned()));
            if claims.is_empty() {
                aliases.remove(&alias.name);
            }
        }
    }

    /// Leaves word with every stream that subscribes to `name`, by whatever name.
    fn announce(&mut self, kind: Kind, name: &str, aliases: BTreeSet<&str>, woken: &mut HashSet<u64>) {
        let glob = glob_over(kind, name);
        let keys = [name, EVERYTHING].into_iter().chain(glob.as_deref()).chain(aliases.iter().copied());
        for key in keys {
            let Some(watchers) = self.watchers[kind as usize].get(key) else {
                continue;
            };
            for id in watchers {
                let Some(stream) = self.streams.get_mut(id) else {
                    continue;
                };
                let pending = &mut stream.pending[kind as usize];
                pending.insert(name.to_owned());
                if aliases.contains(key) {
                    pending.insert(key.to_owned());
                }
                woken.insert(*id);
            }
        }
    }
}

/// The glob collection that `name` lies in: `namespace/service/*` for an endpoint.
pub(crate) fn glob_over(kind: Kind, name: &str) -> Option<String> {
    if kind != Kind::Endpoint {
        return None;
    }
    let (end, _) = name.match_indices('/').nth(1)?;
    Some(format!("{}*", &name[..=end]))
}

/// What the names of a collection's members begin with, if `asked` is a collection: a glob, or everything.
pub(crate) fn collection(kind: Kind, asked: &str) -> Option<&str> {
    let prefix = asked.strip_suffix('*')?;
    let glob = kind == Kind::Endpoint && prefix.ends_with('/') && prefix.matches('/').count() == 2;
    (prefix.is_empty() || glob).then_some(prefix)
}
