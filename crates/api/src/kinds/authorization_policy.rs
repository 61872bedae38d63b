//! `heddle.dev/v1alpha1` AuthorizationPolicy.

use serde::{Deserialize, Serialize};

use super::http_route::{ValueMatch, ValueRule};
use super::target::{self, TargetKind, TargetRef};
use crate::read::{At, Map};
use crate::text;

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

/// Most items in each list of a rule.
const MAX_ITEMS: usize = 256;

/// Reads `spec`. What cannot be read leaves a policy that is only good for [`AuthorizationPolicy::unusable`]: with the
/// targets that could be read, or the whole namespace where they could not.
pub(crate) fn read(spec: &mut Map<'_>, namespace: &str) -> AuthorizationPolicy {
    const TARGETS: &[TargetKind] = &[TargetKind::Service, TargetKind::Gateway, TargetKind::Namespace, TargetKind::Mesh];
    let errors = spec.at().errors();
    let targets = target::read(spec, namespace, TARGETS);
    let targets = match targets {
        Some(targets) if spec.at().errors() == errors => targets,
        _ => vec![whole_namespace(namespace)],
    };
    let action = spec
        .get("action")
        .and_then(|at| at.choice(&[("allow", Action::Allow), ("deny", Action::Deny), ("audit", Action::Audit)]));
    let rules = spec.get("rules").map(|at| at.each(MAX_ITEMS, |at| read_rule(at, namespace))).unwrap_or_default();
    if rules.is_empty() && matches!(action, Some(Action::Deny | Action::Audit)) {
        spec.at().warn("a policy without rules matches nothing", "add a rule; `rules: [{}]` matches everything");
    }
    AuthorizationPolicy { targets, action: action.unwrap_or(Action::Allow), rules, unusable: None }
}

/// The target of a policy that names none.
pub(crate) fn whole_namespace(namespace: &str) -> TargetRef {
    TargetRef {
        kind: TargetKind::Namespace,
        namespace: namespace.to_owned(),
        name: namespace.to_owned(),
        section: String::new(),
    }
}

fn read_rule(at: &At<'_>, namespace: &str) -> Option<AuthorizationRule> {
    let mut map = at.map()?;
    map.not_yet(&["when", "cel", "jwt"]);
    let from = items(&mut map, "from", |at| read_caller(at, namespace));
    let to = items(&mut map, "to", read_operation);
    map.finish();
    Some(AuthorizationRule { from, to })
}

/// A list of a rule. An empty one would match everything, which is never what an empty list looks like.
fn items<T>(map: &mut Map<'_>, name: &'static str, read: impl FnMut(&At<'_>) -> Option<T>) -> Vec<T> {
    let Some(at) = map.written(name) else {
        return Vec::new();
    };
    let errors = at.errors();
    let items = at.each(MAX_ITEMS, read);
    if items.is_empty() && at.errors() == errors {
        at.error_help("is an empty list", "leave the field out to match everything, or the rule to match nothing");
    }
    items
}

fn read_caller(at: &At<'_>, namespace: &str) -> Option<Caller> {
    let mut map = at.map()?;
    let caller = Caller {
        identities: items(&mut map, "identities", |at| at.parse(identity)),
        service_accounts: items(&mut map, "serviceAccounts", |at| at.parse(|text| service_account(text, namespace))),
        namespaces: items(&mut map, "namespaces", |at| at.parse(text::label)),
        addresses: items(&mut map, "addresses", |at| at.parse(text::network)),
    };
    if map.items().next().is_none() {
        at.error_help("says nothing about the caller", "leave `from` out to match every caller");
    }
    map.finish();
    Some(caller)
}

fn identity(text: &str) -> Result<String, String> {
    let pattern = text::star_pattern(text)?;
    if pattern.starts_with('*')
        || pattern.starts_with("spiffe://")
        || "spiffe://".starts_with(pattern.trim_end_matches('*'))
    {
        Ok(pattern)
    } else {
        Err("must begin with `spiffe://` or `*`".to_owned())
    }
}

/// `namespace/name`, or `name` in the policy's own namespace.
fn service_account(text: &str, own: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    Ok((text::label(namespace)?, text::subdomain(name)?))
}

fn read_operation(at: &At<'_>) -> Option<Operation> {
    let mut map = at.map()?;
    let operation = Operation {
        ports: items(&mut map, "ports", |at| at.port()),
        methods: items(&mut map, "methods", |at| at.parse(text::method)),
        paths: items(&mut map, "paths", |at| at.parse(path_pattern)),
        headers: items(&mut map, "headers", read_header),
    };
    if map.items().next().is_none() {
        at.error_help("says nothing about the operation", "leave `to` out to match every operation");
    }
    map.finish();
    Some(operation)
}

fn path_pattern(text: &str) -> Result<String, String> {
    let pattern = text::star_pattern(text)?;
    if pattern.starts_with('/') || pattern.starts_with('*') {
        Ok(pattern)
    } else {
        Err("must begin with `/` or `*`".to_owned())
    }
}

/// A header by name and one of `exact` or `regex`.
fn read_header(at: &At<'_>) -> Option<ValueMatch> {
    let mut map = at.map()?;
    let name = map.require("name").and_then(|at| at.parse(text::header_name));
    let exact = map.get("exact");
    let regex = map.get("regex");
    map.finish();
    let value = match (exact, regex) {
        (Some(at), None) => ValueRule::Exact(at.parse(text::header_value)?),
        (None, Some(at)) => ValueRule::Regex(at.parse(text::regex)?),
        _ => {
            at.error("needs one of exact and regex");
            return None;
        }
    };
    Some(ValueMatch { name: name?, value })
}
