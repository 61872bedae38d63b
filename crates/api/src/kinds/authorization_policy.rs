//! `heddle.dev/v1alpha1` AuthorizationPolicy.

use serde::{Deserialize, Serialize};

use super::http_route::ValueMatch;
use super::target::TargetRef;

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// What it guards; never empty (the policy's own namespace when not written).
    pub targets: Vec<TargetRef>,
    /// What a match means.
    pub action: Action,
    /// Any of them; none matches nothing.
    pub rules: Vec<AuthorizationRule>,
    /// Why it cannot be used; it then denies its targets. Only of an object that stands for one that could not be read.
    #[serde(default)]
    pub unusable: Option<String>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it in; where there is any of these, what matches none is denied.
    Allow,
    /// Keep it out, whatever allows it.
    Deny,
    /// Say so, and go on.
    Audit,
}

/// Matches a call by a caller of `from` that does something of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthorizationRule {
    /// Any of them; none: every caller.
    pub from: Vec<Caller>,
    /// Any of them; none: everything.
    pub to: Vec<Operation>,
}

/// Who calls. `identities` and `service_accounts` are one list in two notations: one of either must match if there is any.
/// Besides, each other list that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Caller {
    /// SPIFFE IDs; `*` at the start or the end.
    pub identities: Vec<String>,
    /// `(namespace, name)`.
    pub service_accounts: Vec<(String, String)>,
    /// Namespaces of the caller's identity.
    pub namespaces: Vec<String>,
    /// CIDR, host bits zero; a single address as /32 or /128.
    pub addresses: Vec<String>,
}

/// What is called. Every list that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// The workload's own ports.
    pub ports: Vec<u16>,
    /// HTTP methods.
    pub methods: Vec<String>,
    /// HTTP paths; `*` at the start or the end.
    pub paths: Vec<String>,
    /// All of these headers, names in lower case.
    pub headers: Vec<ValueMatch>,
}
