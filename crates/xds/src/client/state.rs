//! What a proxy holds, and what follows from it: subscriptions, and what the data path sees. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use engine::snapshot::{Destination, Live, Resolution, Slot};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use proto::mesh::Refusal;
use tokio::sync::Notify;

use super::deps::{self, Names, Needs};
use crate::Kind;
use crate::compile::endpoint::Instance;
use crate::compile::resources::{Body, Resources};
use crate::compile::{self, Compiler};

/// What the control plane said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It means this canonical name; of a glob: its members are all here.
    Found(String),
    /// There is nothing of that name.
    Absent,
    /// There is, but this proxy cannot use it and holds no earlier version.
    Refused,
}

/// Answers by the name that was asked.
pub(super) type Answers = [BTreeMap<String, Answer>; Kind::COUNT];

pub(super) struct State {
    workload: String,
    gateway: Option<String>,
    pub(super) resources: Resources,
    pub(super) answers: Answers,
    /// What the control plane has been asked for.
    subscribed: Names,
    asked: BTreeMap<String, Asked>,
    compiler: Compiler,
    destinations: HashMap<String, Compiled>,
    pub(super) live: Arc<Live>,
    inbound: Option<(u64, Names)>,
    shown_gateway: Option<(u64, Names)>,
    trust: u64,
    /// Resources, answers or names have changed since [`State::sync`].
    changed: Changed,
    /// Nothing that is published waits for the rest of its successor.
    settled: bool,
}

/// A name whose slot is kept up to date.
struct Asked {
    slot: Arc<Slot>,
    notify: Arc<Notify>,
    shown: Shown,
}

#[derive(PartialEq, Eq)]
enum Shown {
    Pending,
    NotFound,
    /// The destination with this print.
    Found(String, u64),
}

struct Compiled {
    print: u64,
    needs: Names,
    destination: Arc<Destination>,
}

#[derive(Default)]
struct Changed {
    /// More than endpoints.
    structure: bool,
    policies: bool,
    /// Services whose backends may have other endpoints now: which workloads, without their namespace, which is the service's.
    /// `None`: any of them, or the service itself.
    services: BTreeMap<String, Option<BTreeSet<String>>>,
}

impl Changed {
    /// Of this workload alone, if it is nothing more already.
    fn workload(&mut self, service: String, workload: &str) {
        if let Some(workloads) = self.services.entry(service).or_insert_with(|| Some(BTreeSet::new())) {
            workloads.insert(workload.to_owned());
        }
    }

    fn service(&mut self, service: String) {
        self.services.insert(service, None);
    }
}

/// What [`State::sync`] found to do.
#[derive(Default)]
pub(super) struct Synced {
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
    /// Something in [`Live`] was replaced.
    pub(super) live: bool,
    /// Something that is worth saving.
    pub(super) changed: bool,
}

impl State {
    pub(super) fn new(workload: String, gateway: Option<String>, compiler: Compiler) -> State {
        State {
            workload,
            gateway,
            resources: Resources::default(),
            answers: Answers::default(),
            subscribed: Names::default(),
            asked: BTreeMap::new(),
            compiler,
            destinations: HashMap::new(),
            live: Arc::default(),
            inbound: None,
            shown_gateway: None,
            trust: 0,
            changed: Changed { structure: true, ..Changed::default() },
            settled: true,
        }
    }

    /// Whether what is held is all that is published needs, so that a start from it serves the same.
    pub(super) fn settled(&self) -> bool {
        self.settled
    }

    /// Keeps `slot` up to date with what `name` means.
    pub(super) fn ask(&mut self, name: String, slot: Arc<Slot>, notify: Arc<Notify>) {
        self.asked.insert(name, Asked { slot, notify, shown: Shown::Pending });
        self.changed.structure = true;
    }

    /// No longer does.
    pub(super) fn forget(&mut self, name: &str) {
        self.changed.structure |= self.asked.remove(name).is_some();
    }

    /// Whether `name` is kept up to date.
    pub(super) fn asks(&self, name: &str) -> bool {
        self.asked.contains_key(name)
    }

    /// Names that are kept up to date, with their slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.asked.iter().map(|(name, asked)| (name.as_str(), &*asked.slot))
    }

    /// Names whose slots are kept up to date.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.asked.keys().map(String::as_str)
    }

    /// Whether a name has been answered.
    pub(super) fn answered(&self, name: &str) -> bool {
        self.asked.get(name).is_none_or(|asked| asked.shown != Shown::Pending)
    }

    /// Takes a resource from an earlier run.
    pub(super) fn restore(
        &mut self,
        kind: Kind,
        name: &str,
        version: String,
        bytes: Vec<u8>,
    ) -> Result<(), Box<Refusal>> {
        let body = compile::parse(kind, name, &version, &bytes)?;
        self.resources.insert(kind, name, version, bytes, body);
        self.changed.structure = true;
        Ok(())
    }

    /// Takes a response. What cannot be used is returned; the rest applies.
    pub(super) fn apply(&mut self, response: DeltaDiscoveryResponse) -> Vec<Refusal> {
        let Some(kind) = Kind::from_url(&response.type_url) else {
            return Vec::new();
        };
        let mut refusals = Vec::new();
        for resource in response.resources {
            let bytes = resource.resource.map(|any| any.value).unwrap_or_default();
            let held = self.resources.get(kind, &resource.name);
            // Sent again because it was asked for by one more name.
            let known = held.is_some_and(|held| held.version == resource.version && held.bytes == bytes);
            self.touch(kind, &resource.name);
            let answer = if known {
                Answer::Found(resource.name.clone())
            } else {
                match compile::parse(kind, &resource.name, &resource.version, &bytes) {
                    Ok(body) => {
                        self.resources.insert(kind, &resource.name, resource.version, bytes, body);
                        self.touch(kind, &resource.name);
                        Answer::Found(resource.name.clone())
                    }
                    Err(refusal) => {
                        refusals.push(*refusal);
                        self.refuse(kind, &resource.name)
                    }
                }
            };
            if let Some(service) = service_of(kind, &resource.name) {
                self.answer_glob(&service);
            }
            for asked in resource.aliases.into_iter().chain([resource.name]) {
                self.answer(kind, asked, answer.clone());
            }
        }
        for name in response.removed_resources {
            self.remove(kind, name);
        }
        refusals
    }

    /// What becomes of a resource whose new version cannot be used: the last good one stays. Only an authorization policy
    /// does not, for it may have been there to let in what must now be kept out.
    fn refuse(&mut self, kind: Kind, name: &str) -> Answer {
        if kind == Kind::Policy && name.starts_with("AuthorizationPolicy/") {
            self.resources.remove(kind, name);
        }
        match self.resources.get(kind, name) {
            Some(_) => Answer::Found(name.to_owned()),
            None => Answer::Refused,
        }
    }

    fn answer(&mut self, kind: Kind, asked: String, answer: Answer) {
        if self.subscribed[kind as usize].contains(&asked) {
            self.answers[kind as usize].insert(asked, answer);
        }
    }

    fn answer_glob(&mut self, service: &str) {
        let glob = format!("{service}/*");
        let answers = &mut self.answers[Kind::Endpoint as usize];
        if self.subscribed[Kind::Endpoint as usize].contains(&glob) && !answers.contains_key(&glob) {
            answers.insert(glob.clone(), Answer::Found(glob));
            self.changed.structure = true;
        }
    }

    fn remove(&mut self, kind: Kind, name: String) {
        // Its own instance stays as it was, for a start from what is kept too: a control plane that has just started does
        // not know it until it has registered again.
        if kind == Kind::Workload && name == self.workload && self.resources.workload(&name).is_some() {
            return;
        }
        self.touch(kind, &name);
        if let Some(service) = name.strip_suffix("/*").filter(|_| kind == Kind::Endpoint) {
            let prefix = format!("{service}/");
            self.resources.retain(kind, |held| !held.starts_with(&prefix));
            self.answer_glob(service);
            return;
        }
        self.resources.remove(kind, &name);
        for answer in self.answers[kind as usize].values_mut() {
            if matches!(answer, Answer::Found(canonical) if *canonical == name) {
                *answer = Answer::Absent;
            }
        }
        if kind != Kind::Endpoint {
            self.answer(kind, name, Answer::Absent);
        }
    }

    /// Notes that a resource changes. Called before it does and, where there is a new one, after it too.
    fn touch(&mut self, kind: Kind, name: &str) {
        match service_of(kind, name) {
            Some(service) => {
                // One that came although its collection is no longer wanted must be dropped again.
                let wanted = self.subscribed[kind as usize].contains(&format!("{service}/*"));
                self.changed.structure |= !wanted;
                // An endpoint is called as its workload is, of its service's namespace. Of any other it is not known whose place
                // it takes.
                let object = name.get(service.len() + 1..).unwrap_or_default();
                let own = |held: &Instance| {
                    held.workload().strip_suffix(object).and_then(|rest| rest.strip_suffix('/')) == namespace(&service)
                };
                if wanted && object != "*" && self.resources.endpoint(name).is_none_or(own) {
                    self.changed.workload(service, object);
                } else {
                    self.changed.service(service);
                }
            }
            None => {
                self.changed.structure = true;
                self.changed.policies |= kind == Kind::Policy;
                if kind == Kind::Service {
                    self.changed.service(name.to_owned());
                }
            }
        }
    }

    /// Publishes what is complete, and finds what to ask for.
    pub(super) fn sync(&mut self) -> Synced {
        let changed = mem::take(&mut self.changed);
        let changes = changed.structure || !changed.services.is_empty();
        let mut synced = Synced { changed: changes, ..Synced::default() };
        if changed.structure {
            self.settled = true;
            let mut wanted = self.publish_destinations();
            synced.live = self.publish_live(&mut wanted);
            self.show();
            self.collect(&wanted);
            synced.requests = self.subscribe(wanted);
        }
        if changed.policies {
            let services: Vec<String> = self.resources.all(Kind::Service).map(|(name, _)| name.to_owned()).collect();
            services.iter().for_each(|service| self.compiler.refresh(&self.resources, service, None));
        } else {
            for (service, workloads) in &changed.services {
                self.compiler.refresh(&self.resources, service, workloads.as_ref());
            }
        }
        synced
    }

    /// Compiles what is complete and new. Returns what destinations need: what is published keeps what it needs until its
    /// successor is complete.
    fn publish_destinations(&mut self) -> Names {
        let mut wanted = Names::default();
        let mut services: BTreeSet<String> = BTreeSet::new();
        for asked in self.asked.keys() {
            wanted[Kind::Service as usize].insert(asked.clone());
            if let Some(Answer::Found(service)) = self.answers[Kind::Service as usize].get(asked) {
                services.insert(service.clone());
            }
        }
        self.destinations.retain(|name, _| services.contains(name));
        for name in services {
            let needs = deps::destination(&self.resources, &self.answers, &name);
            let known = self.destinations.get(&name).map(|known| known.print);
            if needs.complete
                && known != Some(needs.print)
                && let Some(service) = self.resources.service(&name)
            {
                let destination = Arc::new(self.compiler.destination(&self.resources, service));
                self.destinations
                    .insert(name.clone(), Compiled { print: needs.print, needs: needs.names.clone(), destination });
            }
            let held = self.destinations.get(&name).map(|known| (known.print, &known.needs));
            self.settled &= needs.complete || held.is_none();
            want(&mut wanted, needs, held);
        }
        self.compiler.sweep();
        wanted
    }

    fn publish_live(&mut self, wanted: &mut Names) -> bool {
        let mut changed = false;
        wanted[Kind::Trust as usize].insert(proto::TRUST_NAME.to_owned());
        if let Some(trust) = self.resources.get(Kind::Trust, proto::TRUST_NAME)
            && let Body::Trust(mesh) = &trust.body
            && self.trust != trust.revision
        {
            self.trust = trust.revision;
            self.live.mesh.store(Arc::new(mesh.clone()));
            changed = true;
        }
        let needs = deps::inbound(&self.resources, &self.answers, &self.workload);
        // Without the mesh's settings nobody knows whether it is strict.
        if needs.complete
            && self.trust != 0
            && self.inbound.as_ref().is_none_or(|(print, _)| *print != needs.print)
            && let Some(workload) = self.resources.workload(&self.workload)
        {
            self.live.inbound.store(Some(Arc::new(self.compiler.inbound(&self.resources, workload))));
            self.inbound = Some((needs.print, needs.names.clone()));
            changed = true;
        }
        self.settled &= needs.complete || self.inbound.is_none();
        want(wanted, needs, self.inbound.as_ref().map(|(print, names)| (*print, names)));
        let Some(name) = self.gateway.clone() else {
            return changed;
        };
        let needs = deps::gateway(&self.resources, &self.answers, &name);
        let absent = self.answers[Kind::Gateway as usize].get(&name) == Some(&Answer::Absent);
        if absent && self.shown_gateway.take().is_some() {
            self.live.gateway.store(None);
            changed = true;
        } else if needs.complete
            && self.trust != 0
            && self.shown_gateway.as_ref().is_none_or(|(print, _)| *print != needs.print)
            && let Some(gateway) = self.resources.gateway(&name)
        {
            self.live.gateway.store(Some(Arc::new(self.compiler.gateway(&self.resources, gateway))));
            self.shown_gateway = Some((needs.print, needs.names.clone()));
            changed = true;
        }
        self.settled &= needs.complete || self.shown_gateway.is_none();
        want(wanted, needs, self.shown_gateway.as_ref().map(|(print, names)| (*print, names)));
        changed
    }

    /// Puts answers into slots.
    fn show(&mut self) {
        for (name, asked) in &mut self.asked {
            let (shown, resolution) = match self.answers[Kind::Service as usize].get(name) {
                Some(Answer::Found(service)) => match self.destinations.get(service) {
                    Some(compiled) => {
                        (Shown::Found(service.clone(), compiled.print), Resolution::Found(compiled.destination.clone()))
                    }
                    // It is there after all, with rules that are still to come: nothing may go there without them.
                    None if asked.shown == Shown::NotFound => (Shown::Pending, Resolution::Pending),
                    None => continue,
                },
                // Without the mesh's settings nobody knows whether what is unknown may be called.
                Some(Answer::Absent) if self.trust == 0 => (Shown::Pending, Resolution::Pending),
                Some(Answer::Absent) => (Shown::NotFound, Resolution::NotFound),
                Some(Answer::Refused) if asked.shown == Shown::NotFound => (Shown::Pending, Resolution::Pending),
                Some(Answer::Refused) | None => continue,
            };
            if shown != asked.shown {
                asked.slot.set(resolution);
                asked.shown = shown;
                asked.notify.notify_waiters();
            }
        }
    }

    /// Drops what nothing wants any more.
    fn collect(&mut self, wanted: &Names) {
        for kind in Kind::ALL {
            let wanted = &wanted[kind as usize];
            let answers = &mut self.answers[kind as usize];
            answers.retain(|asked, _| wanted.contains(asked));
            let meant: BTreeSet<&str> = answers
                .values()
                .filter_map(|answer| if let Answer::Found(name) = answer { Some(name.as_str()) } else { None })
                .collect();
            self.resources.retain(kind, |name| match service_of(kind, name) {
                Some(service) => wanted.contains(&format!("{service}/*")),
                None => wanted.contains(name) || meant.contains(name),
            });
        }
    }

    fn subscribe(&mut self, wanted: Names) -> Vec<DeltaDiscoveryRequest> {
        let before = mem::replace(&mut self.subscribed, wanted);
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let (before, now) = (&before[kind as usize], &self.subscribed[kind as usize]);
            let subscribe: Vec<String> = now.difference(before).cloned().collect();
            let unsubscribe: Vec<String> = before.difference(now).cloned().collect();
            if !subscribe.is_empty() || !unsubscribe.is_empty() {
                requests.push(DeltaDiscoveryRequest {
                    type_url: kind.url().to_owned(),
                    resource_names_subscribe: subscribe,
                    resource_names_unsubscribe: unsubscribe,
                    ..DeltaDiscoveryRequest::default()
                });
            }
        }
        requests
    }

    /// The first requests of a new stream: what is held, so that only what has changed comes; then, in a request of their
    /// own, the names that have no positive answer yet, for those must be answered whatever is held.
    pub(super) fn begin(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let names = self.subscribed[kind as usize].iter().cloned();
            let (known, open): (Vec<String>, Vec<String>) = names.partition(|name| {
                self.resources.get(kind, name).is_some()
                    || matches!(self.answers[kind as usize].get(name), Some(Answer::Found(_)))
            });
            let held = self.resources.all(kind).map(|(name, held)| (name.to_owned(), held.version.clone()));
            let request = |names, versions| DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: versions,
                ..DeltaDiscoveryRequest::default()
            };
            if !known.is_empty() {
                requests.push(request(known, held.collect()));
            }
            if !open.is_empty() {
                requests.push(request(open, BTreeMap::new()));
            }
        }
        requests
    }
}

/// Adds what `needs` names, and what the published version (its print and needs) does, as long as that is another one.
fn want(wanted: &mut Names, needs: Needs, published: Option<(u64, &Names)>) {
    let old = published.filter(|(print, _)| *print != needs.print).map(|(_, names)| names);
    for kind in Kind::ALL {
        if let Some(old) = old {
            wanted[kind as usize].extend(old[kind as usize].iter().cloned());
        }
    }
    for (wanted, names) in wanted.iter_mut().zip(needs.names) {
        wanted.extend(names);
    }
}

fn namespace(service: &str) -> Option<&str> {
    service.split_once('/').map(|(namespace, _)| namespace)
}

/// The service that an endpoint's name belongs to.
fn service_of(kind: Kind, name: &str) -> Option<String> {
    if kind != Kind::Endpoint {
        return None;
    }
    let (end, _) = name.match_indices('/').nth(1)?;
    Some(name[..end].to_owned())
}
