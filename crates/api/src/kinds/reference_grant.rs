//! `gateway.networking.k8s.io` ReferenceGrant.

use crate::object::Kind;
use crate::read::{At, Map};
use crate::text;
use serde::{Deserialize, Serialize};

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
        self.from.iter().any(|f| f.group == from.group() && f.kind == from.name() && f.namespace == from_namespace)
            && self
                .to
                .iter()
                .any(|t| t.group == to.group() && t.kind == to.name() && t.name.as_deref().is_none_or(|n| n == to_name))
    }
}

/// Reads `spec`.
pub(crate) fn read(spec: &mut Map<'_>, _namespace: &str) -> ReferenceGrant {
    ReferenceGrant {
        from: spec.require("from").map(|at| at.each(16, read_from)).unwrap_or_default(),
        to: spec.require("to").map(|at| at.each(16, read_to)).unwrap_or_default(),
    }
}

/// `group` and `kind`; the group may be empty but must be written.
fn group_and_kind(map: &mut Map<'_>) -> Option<(String, String)> {
    let group = map.require("group").and_then(|at| at.string().map(str::to_owned));
    let kind = map.require("kind").and_then(|at| at.parse(text::printable));
    Some((group?, kind?))
}

fn read_from(at: &At<'_>) -> Option<GrantFrom> {
    let mut map = at.map()?;
    let what = group_and_kind(&mut map);
    let namespace = map.require("namespace").and_then(|at| at.parse(text::label));
    map.finish();
    let (group, kind) = what?;
    Some(GrantFrom { group, kind, namespace: namespace? })
}

fn read_to(at: &At<'_>) -> Option<GrantTo> {
    let mut map = at.map()?;
    let what = group_and_kind(&mut map);
    let name = map.get("name").and_then(|at| at.parse(text::subdomain));
    map.finish();
    let (group, kind) = what?;
    Some(GrantTo { group, kind, name })
}
