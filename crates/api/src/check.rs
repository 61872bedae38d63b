//! What can only be seen when all objects are looked at together.

use std::collections::{BTreeMap, HashMap};

use crate::diagnostic::{Diagnostic, Severity};
use crate::kinds::route::{BackendRef, ParentKind, ParentRef};
use crate::kinds::target::{TargetKind, TargetRef};
use crate::object::{Kind, Object, ObjectKey, Spec};
use crate::text::closest;

/// Two objects of one name, references to what does not exist or may not be referred to (errors), services that select
/// nothing (warnings). The objects stay usable: a reference that dangles makes its share of requests fail.
pub fn check<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<Diagnostic> {
    let mut checker = Checker::default();
    for object in objects {
        match checker.known.entry(object.key()) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(object);
            }
            std::collections::btree_map::Entry::Occupied(first) => checker.found.push(double(first.get(), object)),
        }
    }
    let instances = Instances::new(checker.known.values().copied());
    for object in checker.known.values().copied().collect::<Vec<_>>() {
        match &object.spec {
            Spec::Service(service) => checker.found.extend(unselective(object, &service.selector, &instances)),
            Spec::HttpRoute(route) => checker.rules(object, &route.parents, route.rules.iter().map(|r| &r.backends)),
            Spec::GrpcRoute(route) => checker.rules(object, &route.parents, route.rules.iter().map(|r| &r.backends)),
            Spec::TcpRoute(route) => checker.rules(object, &route.parents, route.rules.iter().map(|r| &r.backends)),
            Spec::TrafficPolicy(policy) => checker.targets(object, &policy.targets),
            Spec::AuthorizationPolicy(policy) => checker.targets(object, &policy.targets),
            _ => {}
        }
    }
    checker.found
}

fn double(first: &Object, second: &Object) -> Diagnostic {
    let place = match &first.location {
        Some(at) => format!(" (the one at {}:{} counts)", at.file, at.line),
        None => String::new(),
    };
    let message = format!("{} is written twice{place}", second.key());
    second.diagnostic(Severity::Error, "metadata.name", message).with_help("rename or remove one of the two")
}

/// Whatever can be an instance.
struct Instances<'a> {
    by_label: HashMap<Labelled<'a>, Vec<&'a Labels>>,
}

/// A namespace, a label and its value.
type Labelled<'a> = (&'a str, &'a str, &'a str);

type Labels = BTreeMap<String, String>;

impl<'a> Instances<'a> {
    fn new(objects: impl Iterator<Item = &'a Object>) -> Self {
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for object in objects {
            let own = match &object.spec {
                Spec::Deployment(d) => &d.template.labels,
                Spec::StatefulSet(s) => &s.template.labels,
                Spec::Job(j) => &j.template.labels,
                Spec::Workload(_) => &object.meta.labels,
                _ => continue,
            };
            for (label, value) in own {
                by_label.entry((&*object.meta.namespace, label.as_str(), value.as_str())).or_default().push(own);
            }
        }
        Instances { by_label }
    }

    fn having<'s>(&'s self, namespace: &'s str, label: &'s str, value: &'s str) -> &'s [&'s Labels] {
        self.by_label.get(&(namespace, label, value)).map_or(&[], Vec::as_slice)
    }

    /// Whether anything in `namespace` has all labels of `selector`, which asks for one at least.
    fn any(&self, namespace: &str, selector: &Labels) -> bool {
        // Those with the rarest of the labels: of ten thousand services each is held against its own instances.
        let rarest =
            selector.iter().map(|(label, value)| self.having(namespace, label, value)).min_by_key(|list| list.len());
        rarest
            .unwrap_or_default()
            .iter()
            .any(|labels| selector.iter().all(|(label, value)| labels.get(label) == Some(value)))
    }
}

/// A service whose selector fits no object. Instances can also register themselves, so this is no error.
fn unselective(object: &Object, selector: &Labels, instances: &Instances<'_>) -> Option<Diagnostic> {
    if selector.is_empty() || instances.any(&object.meta.namespace, selector) {
        return None;
    }
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let message =
        format!("selects nothing: no Deployment, StatefulSet, Job or Workload here has {}", labels.join(", "));
    Some(
        object
            .diagnostic(Severity::Warning, "spec.selector", message)
            .with_help(format!("compare it with the template's labels, in the namespace {}", object.meta.namespace)),
    )
}

#[derive(Default)]
struct Checker<'a> {
    known: BTreeMap<ObjectKey, &'a Object>,
    found: Vec<Diagnostic>,
}

impl<'a> Checker<'a> {
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Object> {
        self.known.get(&ObjectKey::new(kind, namespace, name)).copied()
    }

    /// The objects of a kind, from a namespace on.
    fn keys(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &ObjectKey> {
        let from = ObjectKey::new(kind, namespace, "");
        self.known.range(from..).map(|(key, _)| key).take_while(move |key| key.kind == kind)
    }

    fn dangling(&mut self, object: &Object, field: &str, message: String, help: String) {
        self.found.push(object.diagnostic(Severity::Error, field, message).with_help(help));
    }

    /// That no `kind` is called `name`, and which one may be meant.
    fn missing(&mut self, object: &Object, field: &str, kind: Kind, namespace: &str, name: &str) {
        let siblings = self.keys(kind, namespace).take_while(|key| *key.namespace == *namespace);
        let close = closest(name, siblings.map(|key| &*key.name));
        let elsewhere = self.keys(kind, "").find(|key| *key.name == *name);
        let help = match (close, elsewhere) {
            (Some(close), _) => format!("did you mean \"{close}\"?"),
            (None, Some(key)) => format!("there is one in the namespace {}", key.namespace),
            (None, None) => String::new(),
        };
        self.dangling(object, &format!("{field}.name"), format!("there is no {kind} {namespace}/{name}"), help);
    }

    fn rules<'r>(&mut self, object: &Object, parents: &[ParentRef], rules: impl Iterator<Item = &'r Vec<BackendRef>>) {
        for (i, parent) in parents.iter().enumerate() {
            self.parent(object, &format!("spec.parentRefs[{i}]"), parent);
        }
        for (i, backends) in rules.enumerate() {
            for (j, backend) in backends.iter().enumerate() {
                self.backend(object, &format!("spec.rules[{i}].backendRefs[{j}]"), backend);
            }
        }
    }

    fn parent(&mut self, object: &Object, field: &str, parent: &ParentRef) {
        let kind = match parent.kind {
            ParentKind::Gateway => Kind::Gateway,
            ParentKind::Service => Kind::Service,
        };
        let Some(found) = self.get(kind, &parent.namespace, &parent.name) else {
            return self.missing(object, field, kind, &parent.namespace, &parent.name);
        };
        // (section, port) of everything that the parent offers.
        let offers: Vec<(&str, u16)> = match &found.spec {
            Spec::Gateway(gateway) => gateway.listeners.iter().map(|l| (l.name.as_str(), l.port)).collect(),
            Spec::Service(service) => service.ports.iter().map(|p| (p.name.as_str(), p.port)).collect(),
            _ => return,
        };
        let port = |n: u16| parent.port.is_none_or(|p| p == n);
        if offers.iter().any(|(name, n)| (parent.section.is_empty() || parent.section == *name) && port(*n)) {
            return;
        }
        let part = if parent.section.is_empty() { "port" } else { "sectionName" };
        let offers: Vec<String> = offers.iter().map(|(name, n)| format!("{name} ({n})")).collect();
        let message = format!("{} has nothing of that name and port", found.key());
        self.dangling(object, &format!("{field}.{part}"), message, format!("it has: {}", offers.join(", ")));
    }

    fn backend(&mut self, object: &Object, field: &str, backend: &BackendRef) {
        let Some(found) = self.get(Kind::Service, &backend.namespace, &backend.name) else {
            return self.missing(object, field, Kind::Service, &backend.namespace, &backend.name);
        };
        if let Spec::Service(service) = &found.spec
            && !service.ports.iter().any(|p| p.port == backend.port)
        {
            let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
            let message = format!("{} has no port {}", found.key(), backend.port);
            self.dangling(object, &format!("{field}.port"), message, format!("it has: {}", ports.join(", ")));
        }
        if *backend.namespace != *object.meta.namespace && !self.granted(object, backend) {
            let message = format!("no ReferenceGrant lets {} refer to {}", object.key(), found.key());
            let help = format!(
                "add a ReferenceGrant to the namespace {}, from {} in {} to Service",
                backend.namespace,
                object.kind(),
                object.meta.namespace
            );
            self.dangling(object, &format!("{field}.namespace"), message, help);
        }
    }

    fn granted(&self, object: &Object, backend: &BackendRef) -> bool {
        self.keys(Kind::ReferenceGrant, &backend.namespace).take_while(|key| *key.namespace == *backend.namespace).any(
            |key| match &self.known[key].spec {
                Spec::ReferenceGrant(grant) => {
                    grant.permits(object.kind(), &object.meta.namespace, Kind::Service, &backend.name)
                }
                _ => false,
            },
        )
    }

    fn targets(&mut self, object: &Object, targets: &[TargetRef]) {
        for (i, target) in targets.iter().enumerate() {
            let field = format!("spec.targetRefs[{i}]");
            let kind = match target.kind {
                TargetKind::Service => Kind::Service,
                TargetKind::Gateway => Kind::Gateway,
                TargetKind::HttpRoute => Kind::HttpRoute,
                TargetKind::GrpcRoute => Kind::GrpcRoute,
                TargetKind::TcpRoute => Kind::TcpRoute,
                TargetKind::Namespace | TargetKind::Mesh => continue,
            };
            let Some(found) = self.get(kind, &target.namespace, &target.name) else {
                self.missing(object, &field, kind, &target.namespace, &target.name);
                continue;
            };
            let sections = sections(found);
            if !target.section.is_empty() && !sections.contains(&target.section.as_str()) {
                let message = format!("{} has no section \"{}\"", found.key(), target.section);
                let help = match closest(&target.section, sections.iter().copied()) {
                    Some(close) => format!("did you mean \"{close}\"?"),
                    None => format!("it has: {}", sections.join(", ")),
                };
                self.dangling(object, &format!("{field}.sectionName"), message, help);
            }
        }
    }
}

/// What a `sectionName` can name in an object.
fn sections(object: &Object) -> Vec<&str> {
    let names: Vec<&str> = match &object.spec {
        Spec::Service(service) => service.ports.iter().map(|p| p.name.as_str()).collect(),
        Spec::Gateway(gateway) => gateway.listeners.iter().map(|l| l.name.as_str()).collect(),
        Spec::HttpRoute(route) => route.rules.iter().map(|r| r.name.as_str()).collect(),
        Spec::GrpcRoute(route) => route.rules.iter().map(|r| r.name.as_str()).collect(),
        Spec::TcpRoute(route) => route.rules.iter().map(|r| r.name.as_str()).collect(),
        _ => Vec::new(),
    };
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests;
