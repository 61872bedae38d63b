//! `gateway.networking.k8s.io` ReferenceGrant.

use serde::{Deserialize, Serialize};

use crate::object::Kind;

/// Lets objects of other namespaces refer to objects of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceGrant {
    /// Who may refer; any of them.
    pub from: Vec<GrantFrom>,
    /// To what; any of them.
    pub to: Vec<GrantTo>,
}

/// Who may refer. Kinds that the mesh does not read may stand here, so kind and group are as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTo {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// `None`: every object of this kind.
    pub name: Option<String>,
}

impl ReferenceGrant {
    /// Whether an object of `from` in `from_namespace` may refer to the `to` called `to_name` in this grant's namespace.
    pub fn permits(&self, from: Kind, from_namespace: &str, to: Kind, to_name: &str) -> bool {
        self.from.iter().any(|f| {
            f.group == from.group() && f.kind == from.name() && f.namespace == from_namespace
        }) && self.to.iter().any(|t| {
            t.group == to.group()
                && t.kind == to.name()
                && t.name.as_deref().is_none_or(|n| n == to_name)
        })
    }
}
