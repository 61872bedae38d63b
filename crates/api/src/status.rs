//! Conditions: what became of an object, in Kubernetes' shape.

use serde::{Deserialize, Serialize};

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

/// One condition of an object's status (`metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, as Gateway API names it: `Accepted`, `ResolvedRefs`, `Programmed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word for programs: `Accepted`, `BackendNotFound`, `RefNotPermitted`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// The store's revision that this was said of.
    pub observed_generation: u64,
}

impl Condition {
    /// A condition that holds.
    pub fn holds(kind: &str, reason: &str, message: impl Into<String>, observed_generation: u64) -> Condition {
        Condition::new(kind, ConditionStatus::True, reason, message, observed_generation)
    }

    /// A condition that does not hold.
    pub fn fails(kind: &str, reason: &str, message: impl Into<String>, observed_generation: u64) -> Condition {
        Condition::new(kind, ConditionStatus::False, reason, message, observed_generation)
    }

    fn new(
        kind: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
        observed_generation: u64,
    ) -> Condition {
        Condition {
            kind: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.into(),
            observed_generation,
        }
    }
}
