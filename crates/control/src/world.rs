//! What the control plane knows and publishes: objects, instances, and what was made of them.
//!
//! One lock guards it all. Whoever changes something translates and publishes before letting go, so proxies see changes in
//! the order in which they happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use api::{Condition, Diagnostic, ObjectKey, Severity};
use net::spiffe;
use proto::mesh;
use sources::Snapshot;
use tokio::sync::watch;
use tokio::time::Instant;
use xds::server::{Change, Published, Publisher, Report};

use crate::admin::model;
use crate::config::Config;
use crate::explain::Explains;
use crate::instances::{Instances, Record, Refused, StreamId};
use crate::stats::Statistics;
use crate::translate::{self, Conditions, Index, Member, Resource};

/// Refusals of proxies that are remembered; a mesh with more has one cause for most of them.
const REFUSALS: usize = 1000;

/// Ports of services that an instance is told of when it asks which there are; each costs it a listener and a variable.
const LISTED: usize = 1000;

/// What a resource is called.
pub(crate) type Name = (xds::Kind, String);

/// See the module.
pub(crate) struct World {
    state: Mutex<State>,
    /// Questions to sidecars.
    pub(crate) explains: Explains,
    /// Counts changes that a supervisor or a person may want to see.
    changes: watch::Sender<u64>,
}

/// What is behind the lock.
pub(crate) struct State {
    /// Absent until [`World::begin`].
    publisher: Option<Publisher>,
    trust_domain: String,
    roots: Vec<Vec<u8>>,
    pub(crate) snapshot: Arc<Snapshot>,
    conditions: Conditions,
    index: Index,
    pub(crate) instances: Instances,
    pub(crate) statistics: Statistics,
    /// Workload objects by `namespace/name`.
    written: BTreeMap<String, Member>,
    published: BTreeMap<Name, Resource>,
    /// What is published of each instance.
    of_member: BTreeMap<String, BTreeSet<Name>>,
    /// Which instance an `address:port` stands for.
    addresses: BTreeMap<SocketAddr, String>,
    /// Where each instance has claimed some of those: at one address.
    homes: BTreeMap<String, IpAddr>,
    /// Resources that do not compile, and why.
    broken: BTreeMap<Name, mesh::Refusal>,
    /// Resources that proxies refuse, by proxy.
    refused: BTreeMap<(Name, String), mesh::Refusal>,
}

impl World {
    /// A world that only takes notice of objects until it begins.
    pub(crate) fn new(config: &Config, roots: Vec<Vec<u8>>) -> World {
        let state = State {
            publisher: None,
            trust_domain: api::Mesh::default().trust_domain,
            roots,
            snapshot: Arc::default(),
            conditions: Conditions::default(),
            index: Index::default(),
            instances: Instances::new(config.grace),
            statistics: Statistics::new(Instant::now()),
            written: BTreeMap::new(),
            published: BTreeMap::new(),
            of_member: BTreeMap::new(),
            addresses: BTreeMap::new(),
            homes: BTreeMap::new(),
            broken: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        World { state: Mutex::new(state), explains: Explains::default(), changes: watch::channel(0).0 }
    }

    /// Translates and publishes from now on, as the mesh of `trust_domain`.
    pub(crate) fn begin(&self, publisher: Publisher, trust_domain: &str) {
        let mut state = self.state();
        state.publisher = Some(publisher);
        trust_domain.clone_into(&mut state.trust_domain);
        state.translate();
        drop(state);
        self.changed();
    }

    /// The state. A panic elsewhere may have left a translation unpublished, which the next change mends.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows changes of objects, problems and conditions.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Takes a new snapshot of the store.
    pub(crate) fn objects(&self, snapshot: Arc<Snapshot>) {
        let mut state = self.state();
        // What only moved within its file is the same to proxies, but not to people.
        let same = state.snapshot.revision == snapshot.revision && !state.published.is_empty();
        state.snapshot = snapshot;
        if !same && state.begun() {
            state.translate();
        }
        drop(state);
        self.changed();
    }

    /// Registers an instance.
    pub(crate) fn register(
        &self,
        registration: &mesh::Registration,
        identity: &spiffe::Id,
        version: &str,
    ) -> Result<StreamId, Refused> {
        let mut state = self.state();
        let stream = state.instances.register(registration, identity, version, SystemTime::now())?;
        state.update_member(&registration.workload);
        Ok(stream)
    }

    /// Notes an instance's state.
    pub(crate) fn instance_state(&self, workload: &str, stream: StreamId, change: &mesh::StateChange) {
        let mut state = self.state();
        if state.instances.state(workload, stream, change) {
            state.update_member(workload);
        }
    }

    /// Notes what an instance's proxy reports.
    pub(crate) fn report(&self, workload: &str, stream: StreamId, report: &mesh::Statistics) {
        let mut state = self.state();
        let (from, until) = (report.certificate_not_before_unix_ms, report.certificate_not_after_unix_ms);
        if from != 0 && until != 0 {
            state.instances.certificate(workload, stream, from, until);
        }
        state.statistics.add(workload, report, Instant::now());
    }

    /// Notes that an instance's stream has ended.
    pub(crate) fn ended(&self, workload: &str, stream: StreamId, clean: bool) {
        self.explains.closed(workload, stream);
        let mut state = self.state();
        if state.instances.ended(workload, stream, clean, Instant::now(), SystemTime::now()) {
            state.update_member(workload);
        }
    }

    /// Ends registrations whose grace is over, and says when the next one may be.
    pub(crate) fn expire(&self) -> Option<Instant> {
        let mut state = self.state();
        for workload in state.instances.expire(Instant::now()) {
            tracing::warn!(%workload, "its sidecar has not come back; it is no longer an endpoint");
            state.update_member(&workload);
        }
        state.instances.next_end()
    }

    /// Notes what a proxy says of a resource that it was sent.
    pub(crate) fn proxy_said(&self, report: Report) {
        let mut state = self.state();
        match report {
            Report::Refused { node, kind, refusal } => {
                tracing::error!(%node, resource = %refusal.name, field = %refusal.field, reason = %refusal.reason,
                    "a proxy refuses what it was sent");
                let key = ((kind, refusal.name.clone()), node);
                if state.refused.len() < REFUSALS || state.refused.contains_key(&key) {
                    state.refused.insert(key, refusal);
                }
            }
            Report::Cleared { node, kind, name } => {
                state.refused.remove(&((kind, name), node));
            }
        }
        drop(state);
        self.changed();
    }
}

impl State {
    /// Translates everything and publishes what differs.
    fn translate(&mut self) {
        let translation = translate::objects(&self.snapshot, &self.trust_domain, &self.roots);
        self.conditions = translation.conditions;
        self.index = translation.index;
        self.written = translate::written(&self.snapshot).map(|(_, m)| (m.path(), m)).collect();
        let mut desired: BTreeMap<Name, Resource> = BTreeMap::new();
        for resource in translation.resources {
            desired.insert((resource.published.kind, resource.published.name.clone()), resource);
        }
        let workloads: BTreeSet<String> =
            self.written.keys().chain(self.instances.iter().map(|(name, _)| name)).cloned().collect();
        self.addresses.retain(|_, owner| workloads.contains(owner));
        self.homes.retain(|owner, _| workloads.contains(owner));
        // Before anybody claims what they have left.
        workloads.iter().for_each(|workload| self.follow_home(workload));
        self.of_member.clear();
        for workload in workloads {
            for resource in self.resources_of(&workload) {
                desired.insert((resource.published.kind, resource.published.name.clone()), resource);
            }
        }
        let gone: Vec<Name> = self.published.keys().filter(|name| !desired.contains_key(*name)).cloned().collect();
        self.broken.retain(|name, _| desired.contains_key(name));
        self.publish(desired.into_values(), gone);
    }

    /// The instance called `workload`: the registered one, or else the written one.
    fn member(&self, workload: &str) -> Option<&Member> {
        self.instances.get(workload).map(|r| &r.member).or_else(|| self.written.get(workload))
    }

    /// What is to be published of one instance; claims its addresses.
    fn resources_of(&mut self, workload: &str) -> Vec<Resource> {
        let Some(member) = self.member(workload).cloned() else { return Vec::new() };
        let ip = member.address;
        self.follow_home(workload);
        let usable = is_own(ip) && !self.index.is_service_address(ip);
        if usable {
            self.homes.insert(workload.to_owned(), ip);
        }
        let addresses = &mut self.addresses;
        let published = self.index.member(&member, |address| {
            usable && *addresses.entry(address).or_insert_with(|| workload.to_owned()) == workload
        });
        let resources: Vec<Resource> =
            published.into_iter().map(|published| Resource { published, origin: None }).collect();
        let names = resources.iter().map(|r| (r.published.kind, r.published.name.clone())).collect();
        self.of_member.insert(workload.to_owned(), names);
        resources
    }

    /// Publishes one instance anew after it came, went or changed.
    fn update_member(&mut self, workload: &str) {
        let before = self.of_member.remove(workload).unwrap_or_default();
        let resources = self.resources_of(workload);
        let now: BTreeSet<Name> = self.of_member.get(workload).cloned().unwrap_or_default();
        let mut gone: Vec<Name> = before.difference(&now).cloned().collect();
        gone.retain(|name| self.published.contains_key(name));
        self.publish(resources.into_iter(), gone);
        if self.member(workload).is_none() {
            self.statistics.forget_caller(workload);
            self.release_addresses(workload);
        }
    }

    /// Frees what an instance has claimed at another address than its present one.
    fn follow_home(&mut self, workload: &str) {
        let (home, now) = (self.homes.get(workload), self.member(workload).map(|member| member.address));
        if home.is_some() && home != now.as_ref() {
            self.leave_home(workload);
        }
    }

    /// Frees what an instance has claimed; the address, if it had claimed anything there.
    fn leave_home(&mut self, workload: &str) -> Option<IpAddr> {
        let ip = self.homes.remove(workload)?;
        let there = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
        let owned = self.addresses.range(there).filter(|(_, owner)| *owner == workload);
        let owned: Vec<SocketAddr> = owned.map(|(address, _)| *address).collect();
        owned.iter().for_each(|address| _ = self.addresses.remove(address));
        (!owned.is_empty()).then_some(ip)
    }

    /// Gives the addresses of an instance that is gone to whoever else claims them.
    fn release_addresses(&mut self, workload: &str) {
        let Some(freed) = self.leave_home(workload) else { return };
        let heirs: Vec<String> = self
            .instances
            .iter()
            .map(|(name, record)| (name, record.member.address))
            .chain(self.written.iter().map(|(name, member)| (name, member.address)))
            .filter(|(_, address)| *address == freed)
            .map(|(name, _)| name.clone())
            .collect();
        for heir in heirs {
            self.update_member(&heir);
        }
    }

    /// Publishes the resources that are new or different and compile, and removes others.
    fn publish(&mut self, resources: impl Iterator<Item = Resource>, gone: Vec<Name>) {
        let mut changes = Vec::new();
        for resource in resources {
            let p = &resource.published;
            let name = (p.kind, p.name.clone());
            let held = self.published.get(&name);
            if held.is_some_and(|h| h.published.version == p.version && h.published.aliases == p.aliases) {
                self.broken.remove(&name);
                continue;
            }
            match xds::compile::check(p.kind, &p.name, &p.version, &p.body) {
                Ok(()) => {
                    self.broken.remove(&name);
                    changes.push(Change::Upsert(p.clone()));
                    self.published.insert(name, resource);
                }
                Err(refusal) => {
                    tracing::error!(resource = %p.name, field = %refusal.field, reason = %refusal.reason,
                        "not published, for it does not compile; the last good version stays");
                    if held.is_none()
                        && let Some(denial) = denial(p, &refusal)
                    {
                        changes.push(Change::Upsert(denial.clone()));
                        let resource = Resource { published: denial, origin: resource.origin };
                        self.published.insert(name.clone(), resource);
                    }
                    self.broken.insert(name, *refusal);
                }
            }
        }
        for name in gone {
            self.published.remove(&name);
            self.refused.retain(|(refused, _), _| *refused != name);
            changes.push(Change::Remove { kind: name.0, name: name.1 });
        }
        if let Some(publisher) = &self.publisher
            && !changes.is_empty()
        {
            publisher.apply(changes);
        }
    }

    /// The conditions of an object, with what compiling and proxies say of it.
    pub(crate) fn conditions_of(&self, key: &ObjectKey) -> Vec<Condition> {
        let mut conditions = self.conditions.clone_of(key);
        for (reason, refusal, node) in self.refusals() {
            if is_origin(refusal, key) {
                let by = node.map(|n| format!("{n}: ")).unwrap_or_default();
                let field = if refusal.field.is_empty() { String::new() } else { format!("{}: ", refusal.field) };
                conditions.fail(key, "Programmed", reason, format!("{by}{field}{}", refusal.reason));
            }
        }
        conditions.of(key)
    }

    /// What does not compile, and what proxies refuse.
    fn refusals(&self) -> impl Iterator<Item = (&'static str, &mesh::Refusal, Option<&str>)> {
        let broken = self.broken.values().map(|r| ("Invalid", r, None));
        broken.chain(self.refused.iter().map(|((_, node), r)| ("RefusedByProxy", r, Some(node.as_str()))))
    }

    /// Everything that is wrong now: what the sources found, and what became of it.
    pub(crate) fn problems(&self) -> Vec<Diagnostic> {
        let mut problems: Vec<Diagnostic> = self.snapshot.problems.values().flatten().cloned().collect();
        for (reason, refusal, node) in self.refusals() {
            let object = self.snapshot.objects.iter().find(|(key, _)| is_origin(refusal, key));
            let message = match node {
                None => format!("{} (the last good version stays in force)", refusal.reason),
                Some(node) => format!("the proxy of {node} refuses it ({reason}): {}", refusal.reason),
            };
            problems.push(match object {
                Some((_, object)) => object.diagnostic(Severity::Error, &refusal.field, message),
                None => Diagnostic::new(Severity::Error, format!("{}: {message}", refusal.name)),
            });
        }
        problems
    }

    /// Every service, as those see it who are to call it.
    pub(crate) fn services(&self) -> impl Iterator<Item = model::ServiceEntry> {
        self.snapshot.of_kind(api::Kind::Service).filter_map(|(key, object)| {
            let api::Spec::Service(service) = &object.spec else { return None };
            let mut ports: Vec<_> =
                service.ports.iter().map(|p| model::ServicePortEntry { name: p.name.clone(), port: p.port }).collect();
            ports.sort_by_key(|p| p.port);
            let address = self.address_of(&key.namespace, &key.name);
            let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
            Some(model::ServiceEntry { namespace, name, address, ports })
        })
    }

    /// The services of `namespace`, at most [`LISTED`] ports of them.
    pub(crate) fn services_in(&self, namespace: &str) -> Vec<mesh::ListedService> {
        let mut left = LISTED;
        let own = self.services().filter(|service| service.namespace == namespace);
        let listed = own.map_while(|service| {
            left = left.checked_sub(service.ports.len())?;
            let port = |p: model::ServicePortEntry| mesh::NamedPort {
                name: p.name,
                port: p.port.into(),
                ..mesh::NamedPort::default()
            };
            Some(mesh::ListedService {
                name: service.name,
                ports: service.ports.into_iter().map(port).collect(),
                address: service.address.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        });
        listed.collect()
    }

    /// The published resources of an object, or of the instance called `workload`.
    pub(crate) fn published_of(&self, key: &ObjectKey) -> Vec<&Published> {
        let own = self.of_member.get(&format!("{}/{}", key.namespace, key.name));
        let own = own.filter(|_| key.kind == api::Kind::Workload);
        self.published
            .iter()
            .filter(|(name, r)| r.origin.as_ref() == Some(key) || own.is_some_and(|own| own.contains(*name)))
            .map(|(_, r)| &r.published)
            .collect()
    }

    /// How many instances a service has.
    pub(crate) fn endpoints_of(&self, namespace: &str, service: &str) -> usize {
        let prefix = format!("{namespace}/{service}/");
        self.published
            .range((xds::Kind::Endpoint, prefix.clone())..)
            .take_while(|((kind, name), _)| *kind == xds::Kind::Endpoint && name.starts_with(&prefix))
            .count()
    }

    /// `namespace/name` of the services that an instance is an endpoint of.
    pub(crate) fn services_of(&self, record: &Record) -> Vec<String> {
        self.index.services_of(&record.member)
    }

    /// The address that stands for a service; a headless one has none.
    pub(crate) fn address_of(&self, namespace: &str, name: &str) -> Option<IpAddr> {
        self.index.address_of(namespace, name)
    }

    /// Whether proxies are served.
    pub(crate) fn begun(&self) -> bool {
        self.publisher.is_some()
    }

    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
}

/// Whether an address can be one instance's own: what is local to every machine is nobody's in the mesh.
fn is_own(ip: IpAddr) -> bool {
    let local = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    !(ip.is_unspecified() || ip.is_multicast() || local.contains(&ip))
}

/// An authorization policy that cannot be used and never could denies its targets.
fn denial(published: &Published, refusal: &mesh::Refusal) -> Option<Published> {
    use prost::Message as _;
    let mut policy =
        mesh::Policy::decode(published.body.as_slice()).ok().filter(|_| published.kind == xds::Kind::Policy)?;
    let Some(mesh::policy::Kind::Authorization(rules)) = &mut policy.kind else { return None };
    rules.rules.clear();
    rules.unusable = format!("{}: {}", refusal.field, refusal.reason);
    Some(Published::new(published.kind, published.name.clone(), &policy, published.aliases.clone()))
}

fn is_origin(refusal: &mesh::Refusal, key: &ObjectKey) -> bool {
    refusal
        .origin
        .as_ref()
        .is_some_and(|o| o.kind == key.kind.name() && o.namespace == *key.namespace && o.name == *key.name)
}

#[cfg(test)]
mod tests;
