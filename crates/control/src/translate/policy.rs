//! Traffic and authorization policies: what they apply to and what they say.

use std::collections::{BTreeMap, BTreeSet};

use api::{Action, Kind as Object, ObjectKey, Spec, TargetKind, TargetRef};
use net::spiffe;
use proto::mesh;
use sources::Snapshot;

use super::route::value_match;
use super::traffic::traffic;
use super::{Guarded, Translation, kind_path, origin};

/// Callers times operations of one policy: beyond this a request would wait for its authorization.
const AUTHORIZATION_RULES: usize = 4096;

/// Which policies apply to what.
#[derive(Debug, Default)]
pub(super) struct Policies {
    traffic: BTreeMap<TargetRef, BTreeSet<String>>,
    authorization: BTreeMap<TargetRef, BTreeSet<String>>,
}

impl Policies {
    /// Names of the policies that the callers of the service `key` need, sorted. Who may call is the server's side to
    /// decide, so these are traffic policies.
    pub(super) fn of_service(&self, key: &ObjectKey, routes: &[String]) -> Vec<String> {
        let mut names = BTreeSet::new();
        self.collect(&self.traffic, &mut names, |target| match target.kind {
            TargetKind::Mesh => true,
            TargetKind::Namespace => target.name == *key.namespace,
            TargetKind::Service => target.namespace == *key.namespace && target.name == *key.name,
            _ => is_route(target, routes),
        });
        names.into_iter().collect()
    }

    /// Names of the policies of the gateway `key` and of its routes, sorted.
    pub(super) fn of_gateway(&self, key: &ObjectKey, routes: &[String]) -> Vec<String> {
        let mut names = BTreeSet::new();
        let own = |target: &TargetRef| match target.kind {
            TargetKind::Mesh => true,
            TargetKind::Gateway => target.namespace == *key.namespace && target.name == *key.name,
            _ => is_route(target, routes),
        };
        self.collect(&self.authorization, &mut names, own);
        self.collect(&self.traffic, &mut names, |target| {
            own(target) || target.kind == TargetKind::Namespace && target.name == *key.namespace
        });
        names.into_iter().collect()
    }

    fn collect(
        &self,
        from: &BTreeMap<TargetRef, BTreeSet<String>>,
        into: &mut BTreeSet<String>,
        wanted: impl Fn(&TargetRef) -> bool,
    ) {
        into.extend(from.iter().filter(|(target, _)| wanted(target)).flat_map(|(_, names)| names.iter().cloned()));
    }
}

fn is_route(target: &TargetRef, routes: &[String]) -> bool {
    matches!(target.kind, TargetKind::HttpRoute | TargetKind::GrpcRoute | TargetKind::TcpRoute)
        && routes.binary_search(&format!("{}/{}/{}", target.kind.name(), target.namespace, target.name)).is_ok()
}

/// The authorization policies that servers' sidecars need, by what they guard.
pub(super) fn guards(snapshot: &Snapshot) -> BTreeMap<Guarded, BTreeSet<String>> {
    let mut guards: BTreeMap<Guarded, BTreeSet<String>> = BTreeMap::new();
    for (key, object) in snapshot.of_kind(Object::AuthorizationPolicy) {
        let Spec::AuthorizationPolicy(policy) = &object.spec else { continue };
        for target in &policy.targets {
            let guarded = match target.kind {
                TargetKind::Mesh => Guarded::Mesh,
                TargetKind::Namespace => Guarded::Namespace(target.name.clone()),
                TargetKind::Service => Guarded::Service(target.namespace.clone(), target.name.clone()),
                _ => continue,
            };
            guards.entry(guarded).or_default().insert(kind_path(key));
        }
    }
    guards
}

pub(super) fn translate(snapshot: &Snapshot, out: &mut Translation) -> Policies {
    let mut policies = Policies::default();
    for (key, object) in &snapshot.objects {
        let (targets, kind) = match &object.spec {
            Spec::TrafficPolicy(policy) => (&policy.targets, mesh::policy::Kind::Traffic(traffic(policy))),
            Spec::AuthorizationPolicy(policy) => {
                let rules = authorization(policy, &out.index.trust_domain);
                if !rules.unusable.is_empty() {
                    let message = format!("it denies its targets, for {}", rules.unusable);
                    out.conditions.fail(key, "Accepted", "Unusable", message);
                }
                (&policy.targets, mesh::policy::Kind::Authorization(rules))
            }
            _ => continue,
        };
        let by_target = match object.spec {
            Spec::TrafficPolicy(_) => &mut policies.traffic,
            _ => &mut policies.authorization,
        };
        for target in targets {
            by_target.entry(target.clone()).or_default().insert(kind_path(key));
            if let Some(message) = missing(snapshot, target) {
                out.conditions.fail(key, "Accepted", "TargetNotFound", message);
            }
        }
        let targets: BTreeSet<&TargetRef> = targets.iter().collect();
        let message = mesh::Policy {
            origin: Some(origin(key)),
            targets: targets
                .into_iter()
                .map(|t| mesh::PolicyTarget {
                    kind: t.kind.name().to_owned(),
                    namespace: t.namespace.clone(),
                    name: t.name.clone(),
                    section: t.section.clone(),
                })
                .collect(),
            kind: Some(kind),
            created_unix_ms: object.meta.created_unix_ms,
        };
        out.push(xds::Kind::Policy, kind_path(key), &message, Vec::new(), key);
        out.conditions.hold(key, "Programmed", "Programmed");
    }
    policies
}

/// Why a target does not exist.
fn missing(snapshot: &Snapshot, target: &TargetRef) -> Option<String> {
    let kind = match target.kind {
        TargetKind::HttpRoute => Object::HttpRoute,
        TargetKind::GrpcRoute => Object::GrpcRoute,
        TargetKind::TcpRoute => Object::TcpRoute,
        TargetKind::Service => Object::Service,
        TargetKind::Gateway => Object::Gateway,
        // A namespace exists by being named, and a mesh without a Mesh object has the defaults.
        TargetKind::Namespace | TargetKind::Mesh => return None,
    };
    let key = ObjectKey::new(kind, &target.namespace, &target.name);
    let Some(object) = snapshot.objects.get(&key) else {
        return Some(format!("its target, {key}, does not exist"));
    };
    let section = &target.section;
    let found = section.is_empty()
        || match &object.spec {
            Spec::Service(service) => service.ports.iter().any(|p| p.name == *section),
            Spec::Gateway(gateway) => gateway.listeners.iter().any(|l| l.name == *section),
            Spec::HttpRoute(route) => route.rules.iter().any(|r| r.name == *section),
            Spec::GrpcRoute(route) => route.rules.iter().any(|r| r.name == *section),
            Spec::TcpRoute(route) => route.rules.iter().any(|r| r.name == *section),
            _ => false,
        };
    (!found).then(|| format!("its target, {key}, has no section called {section:?}"))
}

fn authorization(policy: &api::AuthorizationPolicy, trust_domain: &str) -> mesh::AuthorizationRules {
    let action = match policy.action {
        Action::Allow => mesh::AuthorizationAction::AuthorizationAllow,
        Action::Deny => mesh::AuthorizationAction::AuthorizationDeny,
        Action::Audit => mesh::AuthorizationAction::AuthorizationAudit,
    };
    let unusable =
        |reason: String| mesh::AuthorizationRules { action: action.into(), rules: Vec::new(), unusable: reason };
    if let Some(reason) = &policy.unusable {
        return unusable(reason.clone());
    }
    let size: usize = policy.rules.iter().map(|r| r.from.len().max(1) * r.to.len().max(1)).sum();
    if size > AUTHORIZATION_RULES {
        return unusable(format!(
            "it has {size} pairs of from and to, and {AUTHORIZATION_RULES} are allowed; split it"
        ));
    }
    let mut rules = Vec::with_capacity(size);
    for rule in &policy.rules {
        let any_caller = [api::Caller::default()];
        let anything = [api::Operation::default()];
        let from = if rule.from.is_empty() { &any_caller[..] } else { &rule.from };
        let to = if rule.to.is_empty() { &anything[..] } else { &rule.to };
        for caller in from {
            let identities = match identities(caller, trust_domain) {
                Ok(identities) => identities,
                Err(reason) => return unusable(reason),
            };
            for operation in to {
                rules.push(authorization_rule(caller, &identities, operation));
            }
        }
    }
    mesh::AuthorizationRules { action: action.into(), rules, unusable: String::new() }
}

/// Both notations as SPIFFE IDs, sorted.
fn identities(caller: &api::Caller, trust_domain: &str) -> Result<Vec<String>, String> {
    let mut list: BTreeSet<String> = caller.identities.iter().cloned().collect();
    for (namespace, name) in &caller.service_accounts {
        let id = spiffe::Id::new(trust_domain, namespace, name).map_err(|e| e.to_string())?;
        list.insert(id.to_string());
    }
    Ok(list.into_iter().collect())
}

fn authorization_rule(
    caller: &api::Caller,
    identities: &[String],
    operation: &api::Operation,
) -> mesh::AuthorizationRule {
    let sorted = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let ports: BTreeSet<u32> = operation.ports.iter().map(|p| u32::from(*p)).collect();
    mesh::AuthorizationRule {
        identities: identities.to_vec(),
        namespaces: sorted(&caller.namespaces),
        addresses: sorted(&caller.addresses),
        ports: ports.into_iter().collect(),
        methods: sorted(&operation.methods),
        paths: sorted(&operation.paths),
        headers: operation.headers.iter().map(value_match).collect(),
    }
}
