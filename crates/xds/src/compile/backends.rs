//! The backends that are in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use engine::balance::Backend;

/// The backends that rules and connections hold, by service and port. Shared with whoever reports on them and with the tasks
/// that review and check instances on a worker that has requests to send. So the lock never leaves this module, and whoever
/// holds it does no more than look up or copy pointers: sets of endpoints are built without it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backends(Arc<Mutex<ByPort>>);

type ByPort = BTreeMap<(String, u16), Weak<Backend>>;

impl Backends {
    /// Nothing here is left half done by a panic, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, ByPort> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that live, in order of service and port.
    pub(crate) fn list(&self) -> Vec<Arc<Backend>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// That of one port of `service`.
    pub(super) fn get(&self, service: &str, port: u16) -> Option<Arc<Backend>> {
        self.lock().get(&(service.to_owned(), port)).and_then(Weak::upgrade)
    }

    /// Those of `service`.
    pub(super) fn of(&self, service: &str) -> Vec<Arc<Backend>> {
        let range = (service.to_owned(), 0)..=(service.to_owned(), u16::MAX);
        self.lock().range(range).filter_map(|(_, backend)| backend.upgrade()).collect()
    }

    /// Remembers one, in the place of another of the same port.
    pub(super) fn insert(&self, backend: &Arc<Backend>) {
        self.lock().insert((backend.service.to_string(), backend.port), Arc::downgrade(backend));
    }

    /// Forgets those that nobody uses any more.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, backend| backend.strong_count() > 0);
    }
}
