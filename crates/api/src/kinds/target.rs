//! `targetRefs` of policies.

use serde::{Deserialize, Serialize};

use crate::read::{At, Map};
use crate::text;

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetRef {
    /// What it is.
    pub kind: TargetKind,
    /// Always the policy's own namespace; empty for a Mesh.
    pub namespace: String,
    /// Its name; of a Namespace the policy's own namespace.
    pub name: String,
    /// Port name, rule name or listener name; empty: the whole object.
    pub section: String,
}

/// What policies can apply to, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// Requests that take this route.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// Requests that take this route.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// Connections that take this route.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// Calls to this service.
    Service,
    /// What comes in by this gateway.
    Gateway,
    /// Every service of the policy's namespace.
    Namespace,
    /// Everything.
    Mesh,
}

impl TargetKind {
    /// Every kind of target.
    const ALL: [TargetKind; 7] = [
        TargetKind::HttpRoute,
        TargetKind::GrpcRoute,
        TargetKind::TcpRoute,
        TargetKind::Service,
        TargetKind::Gateway,
        TargetKind::Namespace,
        TargetKind::Mesh,
    ];

    /// Its API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            TargetKind::Service | TargetKind::Namespace => "",
            TargetKind::Mesh => "heddle.dev",
            _ => "gateway.networking.k8s.io",
        }
    }

    /// As it is written in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            TargetKind::HttpRoute => "HTTPRoute",
            TargetKind::GrpcRoute => "GRPCRoute",
            TargetKind::TcpRoute => "TCPRoute",
            TargetKind::Service => "Service",
            TargetKind::Gateway => "Gateway",
            TargetKind::Namespace => "Namespace",
            TargetKind::Mesh => "Mesh",
        }
    }
}

/// Reads `targetRefs` of a policy that can apply to `allowed`; `None` where the field is not written.
pub(crate) fn read(spec: &mut Map<'_>, namespace: &str, allowed: &[TargetKind]) -> Option<Vec<TargetRef>> {
    let field = spec.written("targetRefs")?;
    let errors = field.errors();
    let targets = field.each(64, |at| read_one(at, namespace, allowed));
    if targets.is_empty() && field.errors() == errors {
        field.error_help("names nothing", "name at least one target, or leave the field out where that is allowed");
    }
    for (i, target) in targets.iter().enumerate() {
        if targets[..i].contains(target) {
            field.error(format!("names {} {} twice", target.kind.name(), target.name));
        }
    }
    Some(targets)
}

fn read_one(at: &At<'_>, namespace: &str, allowed: &[TargetKind]) -> Option<TargetRef> {
    let mut map = at.map()?;
    let group = map.get("group");
    let kind_at = map.require("kind");
    let kind = kind_at.as_ref().and_then(|at| at.choice(&TargetKind::ALL.map(|k| (k.name(), k))));
    let name = map.require("name");
    let section = map.get("sectionName");
    map.finish();
    let (kind, name_at) = (kind?, name?);
    if !allowed.contains(&kind) {
        let names: Vec<&str> = allowed.iter().map(|k| k.name()).collect();
        kind_at?.error_help(
            format!("a policy of this kind on a {} is not implemented yet", kind.name()),
            format!("it can be on: {}", names.join(", ")),
        );
        return None;
    }
    if let Some(group) = group
        && group.string().is_some_and(|g| g != kind.group())
    {
        group.error(format!("the group of {} is \"{}\"", kind.name(), kind.group()));
    }
    let name = name_at.parse(text::subdomain)?;
    match kind {
        TargetKind::Namespace if name != namespace => {
            name_at.error(format!("a policy can apply to its own namespace alone, which is {namespace}"));
        }
        TargetKind::Mesh if name != "default" => name_at.error("the mesh is called \"default\""),
        _ => {}
    }
    let section = match section {
        Some(at) if matches!(kind, TargetKind::Namespace | TargetKind::Mesh) => {
            at.error(format!("a {} has no sections", kind.name()));
            None
        }
        Some(at) => at.parse(text::subdomain),
        None => None,
    };
    let namespace = if kind == TargetKind::Mesh { String::new() } else { namespace.to_owned() };
    Some(TargetRef { kind, namespace, name, section: section.unwrap_or_default() })
}
