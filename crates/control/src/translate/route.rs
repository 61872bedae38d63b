//! Routes: what they attach to, where they send, and the rules themselves.

use std::collections::{BTreeMap, BTreeSet};

use api::{AllowedNamespaces, BackendRef, Kind as Object, ObjectKey, ParentKind, ParentRef, Spec};
use proto::mesh;
use sources::Snapshot;

use super::{Translation, kind_path, millis, origin, path};

/// Which routes attached to what.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_service: BTreeMap<ObjectKey, BTreeSet<String>>,
    by_listener: BTreeMap<(ObjectKey, String), BTreeSet<String>>,
}

impl Routes {
    /// Names of the routes that attach to the service `key`, sorted.
    pub(super) fn of_service(&self, key: &ObjectKey) -> Vec<String> {
        self.by_service.get(key).into_iter().flatten().cloned().collect()
    }

    /// Names of the routes that attach to one listener of the gateway `key`, sorted.
    pub(super) fn of_listener(&self, key: &ObjectKey, listener: &str) -> Vec<String> {
        self.by_listener.get(&(key.clone(), listener.to_owned())).into_iter().flatten().cloned().collect()
    }
}

/// Why a route does not attach, or a backend gets no requests: a reason for programs and a sentence for people.
type Refusal = (&'static str, String);

pub(super) fn translate(snapshot: &Snapshot, out: &mut Translation) -> Routes {
    let mut routes = Routes::default();
    for (key, object) in &snapshot.objects {
        let (parents, hostnames): (&[ParentRef], &[String]) = match &object.spec {
            Spec::HttpRoute(route) => (&route.parents, &route.hostnames),
            Spec::GrpcRoute(route) => (&route.parents, &route.hostnames),
            Spec::TcpRoute(route) => (&route.parents, &[]),
            _ => continue,
        };
        let mut attached = Vec::new();
        for parent in parents {
            match attach(snapshot, key, parent, hostnames, &mut routes) {
                Ok(()) => attached.push(parent_message(parent)),
                Err((reason, message)) => out.conditions.fail(key, "Accepted", reason, message),
            }
        }
        if attached.is_empty() {
            out.conditions.fail(key, "Programmed", "NotAttached", "no parent accepts it, so no request can take it");
        }
        let mut backends = Backends { snapshot, key, out };
        let (http, tcp, grpc) = match &object.spec {
            Spec::HttpRoute(route) => (backends.http_rules(&route.rules), Vec::new(), false),
            Spec::GrpcRoute(route) => (backends.http_rules(&route.rules), Vec::new(), true),
            Spec::TcpRoute(route) => (Vec::new(), backends.tcp_rules(&route.rules), false),
            _ => continue,
        };
        attached.sort_by(|a, b| parent_order(a).cmp(&parent_order(b)));
        let message = mesh::Route {
            origin: Some(origin(key)),
            parents: attached,
            hostnames: sorted(hostnames),
            created_unix_ms: object.meta.created_unix_ms,
            http,
            tcp,
            grpc,
        };
        out.push(xds::Kind::Route, kind_path(key), &message, Vec::new(), key);
        out.conditions.hold(key, "ResolvedRefs", "ResolvedRefs");
        out.conditions.hold(key, "Programmed", "Programmed");
    }
    routes
}

fn sorted(list: &[String]) -> Vec<String> {
    list.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn parent_message(parent: &ParentRef) -> mesh::RouteParent {
    mesh::RouteParent {
        kind: parent_kind(parent.kind).name().to_owned(),
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        port: parent.port.unwrap_or(0).into(),
        section: parent.section.clone(),
    }
}

fn parent_order(p: &mesh::RouteParent) -> (&str, &str, &str, u32, &str) {
    (&p.kind, &p.namespace, &p.name, p.port, &p.section)
}

fn parent_kind(kind: ParentKind) -> Object {
    match kind {
        ParentKind::Gateway => Object::Gateway,
        ParentKind::Service => Object::Service,
    }
}

/// Attaches the route `key` to `parent`, or says why not.
fn attach(
    snapshot: &Snapshot,
    key: &ObjectKey,
    parent: &ParentRef,
    hostnames: &[String],
    routes: &mut Routes,
) -> Result<(), Refusal> {
    let target = ObjectKey::new(parent_kind(parent.kind), &parent.namespace, &parent.name);
    let name = kind_path(key);
    match snapshot.objects.get(&target).map(|o| &o.spec) {
        Some(Spec::Service(service)) => {
            // A route of another namespace would change the traffic of people who did not ask for it. Gateway API allows it
            // for the callers of the route's own namespace alone, which is not implemented.
            if target.namespace != key.namespace {
                return Err(("NotAllowed", format!("{target} is in another namespace; move the route there")));
            }
            let fits = |p: &api::ServicePort| {
                parent.port.is_none_or(|n| n == p.port) && (parent.section.is_empty() || parent.section == p.name)
            };
            if !service.ports.iter().any(fits) {
                return Err(("NoMatchingParent", format!("{target} has no port {}", asked(parent))));
            }
            routes.by_service.entry(target).or_default().insert(name);
            Ok(())
        }
        Some(Spec::Gateway(gateway)) => {
            let chosen: Vec<_> = gateway
                .listeners
                .iter()
                .filter(|l| parent.port.is_none_or(|n| n == l.port))
                .filter(|l| parent.section.is_empty() || parent.section == l.name)
                .collect();
            if chosen.is_empty() {
                return Err(("NoMatchingParent", format!("{target} has no listener {}", asked(parent))));
            }
            let allowed: Vec<_> = chosen.into_iter().filter(|l| allows(l, &target, key)).collect();
            if allowed.is_empty() {
                let message = format!(
                    "{target} does not allow a {} of namespace {} (its allowedRoutes)",
                    key.kind, key.namespace
                );
                return Err(("NotAllowedByListeners", message));
            }
            let mut matching = allowed.into_iter().filter(|l| hosts_meet(&l.hostname, hostnames)).peekable();
            if matching.peek().is_none() {
                let message = format!("no listener of {target} has a hostname in common with the route");
                return Err(("NoMatchingListenerHostname", message));
            }
            for listener in matching {
                routes.by_listener.entry((target.clone(), listener.name.clone())).or_default().insert(name.clone());
            }
            Ok(())
        }
        _ => Err(("NoMatchingParent", format!("{target} does not exist"))),
    }
}

/// The port or section that a parent reference names, for people.
fn asked(parent: &ParentRef) -> String {
    match (parent.port, parent.section.as_str()) {
        (None, section) => format!("called {section:?}"),
        (Some(port), "") => port.to_string(),
        (Some(port), section) => format!("{port} called {section:?}"),
    }
}

fn allows(listener: &api::Listener, gateway: &ObjectKey, route: &ObjectKey) -> bool {
    let namespace = match listener.allowed_namespaces {
        AllowedNamespaces::All => true,
        AllowedNamespaces::Same => gateway.namespace == route.namespace,
    };
    namespace && listener.allowed_kinds.contains(&route.kind)
}

/// Whether a listener's hostname (empty: every host) and a route's hostnames (none: every host) have a host in common.
fn hosts_meet(listener: &str, route: &[String]) -> bool {
    listener.is_empty() || route.is_empty() || route.iter().any(|host| meet(listener, host))
}

fn meet(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(suffix), None) => b.len() > suffix.len() && b.ends_with(suffix),
        (None, Some(suffix)) => a.len() > suffix.len() && a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

/// Translates the rules of one route, noting what their references come to.
struct Backends<'a> {
    snapshot: &'a Snapshot,
    key: &'a ObjectKey,
    out: &'a mut Translation,
}

impl Backends<'_> {
    fn tcp_rules(&mut self, rules: &[api::TcpRule]) -> Vec<mesh::TcpRule> {
        rules
            .iter()
            .map(|rule| mesh::TcpRule { name: rule.name.clone(), backends: self.backends(&rule.backends) })
            .collect()
    }

    fn http_rules(&mut self, rules: &[api::HttpRule]) -> Vec<mesh::HttpRule> {
        rules
            .iter()
            .map(|rule| mesh::HttpRule {
                name: rule.name.clone(),
                matches: rule.matches.iter().map(http_match).collect(),
                backends: self.backends(&rule.backends),
                request_headers: header_edits(&rule.request_headers),
                response_headers: header_edits(&rule.response_headers),
                redirect: rule.redirect.as_ref().map(redirect),
                rewrite: rule.rewrite.as_ref().map(|r| mesh::Rewrite {
                    hostname: r.hostname.clone().unwrap_or_default(),
                    path: r.path.as_ref().map(path_edit),
                }),
                request_timeout_ms: rule.request_timeout.map(millis),
                attempt_timeout_ms: rule.attempt_timeout.map(millis),
            })
            .collect()
    }

    fn backends(&mut self, backends: &[BackendRef]) -> Vec<mesh::WeightedBackend> {
        let mut list = Vec::with_capacity(backends.len());
        for backend in backends {
            let invalid = match self.resolve(backend) {
                Ok(()) => String::new(),
                Err((reason, message)) => {
                    self.out.conditions.fail(self.key, "ResolvedRefs", reason, message.clone());
                    message
                }
            };
            list.push(mesh::WeightedBackend {
                service: path(&backend.namespace, &backend.name),
                port: backend.port.into(),
                weight: backend.weight,
                invalid,
                request_headers: header_edits(&backend.request_headers),
            });
        }
        list
    }

    fn resolve(&self, backend: &BackendRef) -> Result<(), Refusal> {
        let target = ObjectKey::new(Object::Service, &backend.namespace, &backend.name);
        if target.namespace != self.key.namespace && !granted(self.snapshot, self.key, &target) {
            let message = format!(
                "{target} is in another namespace, and no ReferenceGrant there lets a {} of {} refer to it",
                self.key.kind, self.key.namespace
            );
            return Err(("RefNotPermitted", message));
        }
        match self.snapshot.objects.get(&target).map(|o| &o.spec) {
            Some(Spec::Service(service)) if service.ports.iter().any(|p| p.port == backend.port) => Ok(()),
            Some(_) => Err(("BackendNotFound", format!("{target} has no port {}", backend.port))),
            None => Err(("BackendNotFound", format!("{target} does not exist"))),
        }
    }
}

/// Whether a ReferenceGrant in the target's namespace lets `from` refer to `to`.
fn granted(snapshot: &Snapshot, from: &ObjectKey, to: &ObjectKey) -> bool {
    snapshot.of_kind(Object::ReferenceGrant).filter(|(key, _)| key.namespace == to.namespace).any(|(_, object)| {
        let Spec::ReferenceGrant(grant) = &object.spec else { return false };
        let from_fits = grant
            .from
            .iter()
            .any(|f| f.group == from.kind.group() && f.kind == from.kind.name() && f.namespace == *from.namespace);
        let to_fits = grant.to.iter().any(|t| {
            t.group == to.kind.group() && t.kind == to.kind.name() && t.name.as_deref().is_none_or(|n| n == &*to.name)
        });
        from_fits && to_fits
    })
}

fn http_match(m: &api::HttpMatch) -> mesh::HttpMatch {
    use mesh::path_match::Kind;
    let path = m.path.as_ref().map(|path| {
        let kind = match path {
            api::PathMatch::Exact(p) => Kind::Exact(p.clone()),
            api::PathMatch::Prefix(p) => Kind::Prefix(p.clone()),
            api::PathMatch::Regex(p) => Kind::Regex(p.clone()),
        };
        mesh::PathMatch { kind: Some(kind) }
    });
    mesh::HttpMatch {
        path,
        method: m.method.clone().unwrap_or_default(),
        headers: m.headers.iter().map(value_match).collect(),
        query: m.query.iter().map(value_match).collect(),
    }
}

pub(super) fn value_match(m: &api::ValueMatch) -> mesh::ValueMatch {
    use mesh::value_match::Kind;
    let kind = match &m.value {
        api::ValueRule::Exact(v) => Kind::Exact(v.clone()),
        api::ValueRule::Regex(v) => Kind::Regex(v.clone()),
    };
    mesh::ValueMatch { name: m.name.clone(), kind: Some(kind) }
}

/// Absent when there is nothing to edit.
fn header_edits(edits: &api::HeaderEdits) -> Option<mesh::HeaderEdits> {
    let headers = |list: &[(String, String)]| {
        list.iter().map(|(name, value)| mesh::Header { name: name.clone(), value: value.clone() }).collect()
    };
    (*edits != api::HeaderEdits::default()).then(|| mesh::HeaderEdits {
        set: headers(&edits.set),
        add: headers(&edits.add),
        remove: edits.remove.clone(),
    })
}

fn redirect(r: &api::Redirect) -> mesh::Redirect {
    mesh::Redirect {
        scheme: r.scheme.clone().unwrap_or_default(),
        hostname: r.hostname.clone().unwrap_or_default(),
        port: r.port.unwrap_or(0).into(),
        path: r.path.as_ref().map(path_edit),
        status: r.status.into(),
    }
}

fn path_edit(edit: &api::PathEdit) -> mesh::PathEdit {
    use mesh::path_edit::Kind;
    let kind = match edit {
        api::PathEdit::Full(p) => Kind::Full(p.clone()),
        api::PathEdit::Prefix(p) => Kind::Prefix(p.clone()),
    };
    mesh::PathEdit { kind: Some(kind) }
}
