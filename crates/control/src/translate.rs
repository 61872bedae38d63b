//! Objects and instances → the mesh's messages.
//!
//! Pure. [`objects`] turns a whole snapshot of the store into routes, policies, services, gateways and trust, together with
//! what is to be said of each object; [`Index::member`] turns one instance into its endpoints. So a change of objects costs a
//! translation of all, which is compared with what is published, and an instance that comes or goes costs its own few
//! messages. Every list is sorted and maps are ordered, so equal objects give equal bytes.

mod address;
mod gateway;
mod member;
mod policy;
mod route;
mod service;
mod status;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{Kind as Object, ObjectKey, Spec};
use proto::mesh;
use sources::Snapshot;
use xds::server::{Alias, Published};

pub(crate) use member::{Member, MemberPort, written};
pub(crate) use status::Conditions;

/// The domain of names in the mesh, as in a cluster.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The name of the Mesh object that counts.
const MESH: &str = "default";

/// A message to publish, and the object whose status tells what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) published: Published,
    pub(crate) origin: Option<ObjectKey>,
}

/// What a snapshot of the store means.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    /// Everything but endpoints, workloads and the services that stand for one instance.
    pub(crate) resources: Vec<Resource>,
    /// What is to be said of each object.
    pub(crate) conditions: Conditions,
    /// What instances are held against.
    pub(crate) index: Index,
}

/// What of the objects matters to an instance.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By namespace and name.
    services: BTreeMap<(Arc<str>, Arc<str>), Arc<api::Object>>,
    /// Which of them may select an instance: by namespace and the first label that each asks for, so that an instance is held
    /// against the few that know one of its labels and not against all.
    selectors: BTreeMap<(Arc<str>, String, String), Vec<Arc<str>>>,
    /// The address of each service that has one.
    addresses: BTreeMap<(Arc<str>, Arc<str>), IpAddr>,
    /// All of them.
    taken: BTreeSet<IpAddr>,
    /// Authorization policies by what they guard.
    guards: BTreeMap<Guarded, BTreeSet<String>>,
    /// Of every identity.
    trust_domain: String,
}

/// What an authorization policy guards on the server's side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Guarded {
    Mesh,
    Namespace(String),
    /// Namespace and name.
    Service(String, String),
}

/// Translates all objects. `trust_domain` is the one that the control plane runs with, `roots` are DER certificates.
pub(crate) fn objects(snapshot: &Snapshot, trust_domain: &str, roots: &[Vec<u8>]) -> Translation {
    let mut out = Translation {
        index: Index::new(snapshot, trust_domain),
        conditions: Conditions::new(snapshot.revision),
        ..Translation::default()
    };
    for key in snapshot.objects.keys() {
        out.conditions.accept(key);
    }
    let routes = route::translate(snapshot, &mut out);
    let policies = policy::translate(snapshot, &mut out);
    service::translate(snapshot, &routes, &policies, &mut out);
    gateway::translate(snapshot, &routes, &policies, &mut out);
    trust(snapshot, trust_domain, roots, &mut out);
    out
}

impl Index {
    fn new(snapshot: &Snapshot, trust_domain: &str) -> Index {
        let services: BTreeMap<_, _> = snapshot
            .of_kind(Object::Service)
            .map(|(key, object)| ((Arc::clone(&key.namespace), Arc::clone(&key.name)), Arc::clone(object)))
            .collect();
        let mut selectors: BTreeMap<_, Vec<Arc<str>>> = BTreeMap::new();
        for ((namespace, name), object) in &services {
            let Spec::Service(service) = &object.spec else { continue };
            if let Some((label, value)) = service.selector.first_key_value() {
                let key = (Arc::clone(namespace), label.clone(), value.clone());
                selectors.entry(key).or_default().push(Arc::clone(name));
            }
        }
        let addresses = address::of_services(&services);
        let taken = addresses.values().copied().collect();
        let guards = policy::guards(snapshot);
        Index { services, selectors, addresses, taken, guards, trust_domain: trust_domain.to_owned() }
    }
}

fn trust(snapshot: &Snapshot, trust_domain: &str, roots: &[Vec<u8>], out: &mut Translation) {
    let mut settings = api::Mesh::default();
    let mut origin = None;
    for (key, object) in snapshot.of_kind(Object::Mesh) {
        let Spec::Mesh(mesh) = &object.spec else { continue };
        if &*key.name != MESH {
            let message = format!("only the Mesh called {MESH:?} counts; rename this one or merge it into that");
            out.conditions.fail(key, "Accepted", "NotTheDefault", message);
            continue;
        }
        if mesh.trust_domain != trust_domain {
            let message = format!(
                "the mesh runs with trust domain {trust_domain}; a change takes effect when the mesh is started anew"
            );
            out.conditions.fail(key, "Programmed", "RestartNeeded", message);
        }
        settings = mesh.clone();
        origin = Some(key.clone());
    }
    let mut roots = roots.to_vec();
    roots.sort();
    let message = mesh::Trust {
        trust_domain: trust_domain.to_owned(),
        roots,
        strict: settings.mtls == api::MtlsMode::Strict,
        registered_only: settings.outbound == api::OutboundMode::Registered,
        access_log: settings.access_log.name().to_owned(),
    };
    let published = Published::new(xds::Kind::Trust, proto::TRUST_NAME, &message, Vec::new());
    out.resources.push(Resource { published, origin });
}

impl Translation {
    fn push(
        &mut self,
        kind: xds::Kind,
        name: String,
        message: &impl prost::Message,
        aliases: Vec<Alias>,
        key: &ObjectKey,
    ) {
        let published = Published::new(kind, name, message, aliases);
        self.resources.push(Resource { published, origin: Some(key.clone()) });
    }
}

/// `namespace/name`.
fn path(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// `Kind/namespace/name`.
fn kind_path(key: &ObjectKey) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

fn origin(key: &ObjectKey) -> mesh::Origin {
    mesh::Origin { kind: key.kind.name().to_owned(), namespace: key.namespace.to_string(), name: key.name.to_string() }
}

fn protocol(protocol: api::AppProtocol) -> mesh::Protocol {
    match protocol {
        api::AppProtocol::Auto => mesh::Protocol::Auto,
        api::AppProtocol::Http => mesh::Protocol::Http1,
        api::AppProtocol::Http2 => mesh::Protocol::Http2,
        api::AppProtocol::Tcp => mesh::Protocol::Tcp,
        api::AppProtocol::Tls => mesh::Protocol::Tls,
    }
}

/// Milliseconds, at most what fits.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
