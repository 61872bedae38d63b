//! What is said of each object.

use std::collections::BTreeMap;

use api::{Condition, ConditionStatus, ObjectKey};

/// The conditions of every object, by type.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Conditions {
    revision: u64,
    by_object: BTreeMap<ObjectKey, BTreeMap<&'static str, Condition>>,
}

impl Conditions {
    pub(crate) fn new(revision: u64) -> Conditions {
        Conditions { revision, by_object: BTreeMap::new() }
    }

    /// The object is known; nothing is wrong with it so far.
    pub(crate) fn accept(&mut self, key: &ObjectKey) {
        self.hold(key, "Accepted", "Accepted");
    }

    /// `kind` holds, unless it was said before that it does not.
    pub(crate) fn hold(&mut self, key: &ObjectKey, kind: &'static str, reason: &str) {
        let revision = self.revision;
        let of_object = self.by_object.entry(key.clone()).or_default();
        of_object.entry(kind).or_insert_with(|| Condition::holds(kind, reason, "", revision));
    }

    /// `kind` does not hold. The first reason stays; the messages add up, as far as a person would read.
    pub(crate) fn fail(&mut self, key: &ObjectKey, kind: &'static str, reason: &str, message: impl Into<String>) {
        const READABLE: usize = 2000;
        let message = message.into();
        let of_object = self.by_object.entry(key.clone()).or_default();
        match of_object.get_mut(kind) {
            Some(held) if held.status == ConditionStatus::False => {
                if held.message.len() < READABLE && !held.message.contains(&message) {
                    held.message = format!("{}; {message}", held.message);
                }
            }
            _ => {
                of_object.insert(kind, Condition::fails(kind, reason, message, self.revision));
            }
        }
    }

    /// Those of one object, sorted by type.
    pub(crate) fn of(&self, key: &ObjectKey) -> Vec<Condition> {
        self.by_object.get(key).map(|c| c.values().cloned().collect()).unwrap_or_default()
    }

    /// Those of one object alone, to add to.
    pub(crate) fn clone_of(&self, key: &ObjectKey) -> Conditions {
        let of_object = self.by_object.get(key).cloned();
        Conditions { revision: self.revision, by_object: of_object.map(|c| (key.clone(), c)).into_iter().collect() }
    }
}
