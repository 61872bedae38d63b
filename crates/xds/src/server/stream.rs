//! One stream's side of the protocol: what the peer asked for, what it holds, and what to tell it next. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use prost::Message as _;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use proto::mesh::Refusal;
use proto::rpc;
use tonic::Status;

use super::publisher::{EVERYTHING, Index, Publisher, collection, glob_over};
use super::{Published, Report};
use crate::Kind;

/// No name of ours comes near this; Kubernetes allows 253 characters each for namespace and name.
const NAME_LIMIT: usize = 1024;

/// Why a name was refused is shown to people; what a peer says is cut here.
const REASON_LIMIT: usize = 2048;

pub(crate) struct Stream {
    publisher: Publisher,
    id: u64,
    node: String,
    namespace: String,
    names_limit: usize,
    names: usize,
    kinds: [Subscribed; Kind::COUNT],
    nonces: u64,
    /// Something waits until the peer has acknowledged what it was sent.
    blocked: bool,
}

#[derive(Default)]
struct Subscribed {
    /// The first request of a kind may say what the peer holds already.
    begun: bool,
    asked: BTreeMap<String, Answer>,
    /// What the peer holds, by canonical name.
    sent: BTreeMap<String, Sent>,
    outstanding: Option<Outstanding>,
    /// What the peer refuses at present.
    refused: BTreeSet<String>,
}

#[derive(Clone, Default)]
enum Answer {
    #[default]
    None,
    Absent,
    /// This canonical name; of a glob, its members.
    Found(String),
}

struct Sent {
    version: String,
    aliases: Vec<String>,
}

struct Outstanding {
    nonce: String,
    names: BTreeSet<String>,
}

/// What one kind's pending names come to.
#[derive(Default)]
struct Diff {
    upserts: Vec<(Arc<Published>, Vec<String>)>,
    removed: BTreeSet<String>,
    /// To be removed once the grace is over, for nothing is known of them yet.
    withheld: BTreeSet<String>,
    answers: Vec<(String, Answer)>,
}

impl Stream {
    /// A stream of workload `node` whose peer's identity lies in `namespace`.
    pub(crate) fn new(publisher: Publisher, id: u64, node: String, namespace: String, names_limit: usize) -> Stream {
        Stream {
            publisher,
            id,
            node,
            namespace,
            names_limit,
            names: 0,
            kinds: Default::default(),
            nonces: 0,
            blocked: false,
        }
    }

    /// Takes one request. What the peer refuses, or refuses no longer, is added to `reports`.
    pub(crate) fn request(&mut self, request: DeltaDiscoveryRequest, reports: &mut Vec<Report>) -> Result<(), Status> {
        let Some(kind) = Kind::from_url(&request.type_url) else {
            // A newer proxy may know kinds that this control plane does not; the rest of its stream must go on.
            tracing::warn!(node = %self.node, kind = %request.type_url, "a proxy asks for resources of an unknown kind");
            return Ok(());
        };
        if !request.response_nonce.is_empty() {
            self.acknowledge(kind, &request.response_nonce, request.error_detail, reports);
        }
        let publisher = self.publisher.clone();
        let mut index = publisher.lock();
        let subscribed = &mut self.kinds[kind as usize];
        let first = !mem::replace(&mut subscribed.begun, true);
        if first {
            for (name, version) in request.initial_resource_versions {
                if let Some(stream) = index.streams.get_mut(&self.id) {
                    stream.pending[kind as usize].insert(name.clone());
                }
                subscribed.sent.insert(name, Sent { version, aliases: Vec::new() });
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.unsubscribe(&mut index, kind, name);
        }
        for name in request.resource_names_subscribe {
            self.subscribe(&mut index, kind, name)?;
        }
        if first {
            // A peer that holds something from an earlier stream knows by which of these names it asked for it.
            let subscribed = &mut self.kinds[kind as usize];
            let mut sent = mem::take(&mut subscribed.sent);
            for (name, held) in &mut sent {
                held.aliases = subscribed.aliases(&index, kind, name, &self.namespace);
            }
            subscribed.sent = sent;
        }
        Ok(())
    }

    fn acknowledge(&mut self, kind: Kind, nonce: &str, error: Option<rpc::Status>, reports: &mut Vec<Report>) {
        let subscribed = &mut self.kinds[kind as usize];
        let Some(outstanding) = subscribed.outstanding.take_if(|outstanding| outstanding.nonce == nonce) else {
            return; // Of an earlier response; the specification says to ignore it.
        };
        let mut refusals: BTreeMap<String, Refusal> = BTreeMap::new();
        if let Some(error) = error {
            let details = error.details.iter().filter(|any| any.type_url == proto::type_url::REFUSAL);
            let named = details.filter_map(|any| Refusal::decode(any.value.as_slice()).ok());
            // A peer can only refuse what it was sent.
            refusals.extend(named.filter(|r| outstanding.names.contains(&r.name)).map(|r| (r.name.clone(), r)));
            if refusals.is_empty() {
                // A peer that does not say which one: all of them.
                let refusal =
                    |name: &String| Refusal { name: name.clone(), reason: error.message.clone(), ..Refusal::default() };
                refusals.extend(outstanding.names.iter().map(|name| (name.clone(), refusal(name))));
            }
        }
        for name in outstanding.names {
            if let Some(mut refusal) = refusals.remove(&name) {
                truncate(&mut refusal.reason, REASON_LIMIT);
                truncate(&mut refusal.field, NAME_LIMIT);
                subscribed.refused.insert(name);
                reports.push(Report::Refused { node: self.node.clone(), kind, refusal });
            } else if subscribed.refused.remove(&name) {
                reports.push(Report::Cleared { node: self.node.clone(), kind, name });
            }
        }
    }

    fn subscribe(&mut self, index: &mut Index, kind: Kind, name: String) -> Result<(), Status> {
        if name.is_empty() || name.len() > NAME_LIMIT {
            return Err(Status::invalid_argument(format!(
                "a resource name has {} bytes; 1 to {NAME_LIMIT} are allowed",
                name.len()
            )));
        }
        let subscribed = &mut self.kinds[kind as usize];
        match subscribed.asked.get(&name).cloned() {
            None => {
                self.names += 1;
                if self.names > self.names_limit {
                    return Err(Status::resource_exhausted(format!(
                        "this stream asks for more than {} names; unsubscribe from some first",
                        self.names_limit
                    )));
                }
                index.watch(self.id, kind, &name);
            }
            // Asking twice means that the peer has lost what it was sent.
            Some(Answer::Found(canonical)) => subscribed.forget(kind, &canonical),
            Some(_) => subscribed.forget(kind, &name),
        }
        if let Some(stream) = index.streams.get_mut(&self.id) {
            stream.pending[kind as usize].insert(name.clone());
            stream.wake.notify_one();
        }
        subscribed.asked.insert(name, Answer::None);
        Ok(())
    }

    /// The peer has dropped what it held by `name`, unless it holds it by another name too.
    fn unsubscribe(&mut self, index: &mut Index, kind: Kind, name: &str) {
        let subscribed = &mut self.kinds[kind as usize];
        let Some(answer) = subscribed.asked.remove(name) else {
            return;
        };
        self.names -= 1;
        index.unwatch(self.id, kind, name);
        if let Some(prefix) = collection(kind, name) {
            for canonical in subscribed.held_beneath(prefix) {
                if subscribed.wants(index, kind, &canonical, &self.namespace) {
                    continue;
                }
                // What is still under way may be applied after the peer has asked for the collection again, so it must be
                // told of its end like any other. Or it comes too early to be applied: who asks again is sent it again.
                let under_way = subscribed.outstanding.as_ref().is_some_and(|o| o.names.contains(&canonical));
                let held = subscribed.sent.get_mut(&canonical).filter(|_| under_way);
                match (index.streams.get_mut(&self.id), held) {
                    (Some(mailbox), Some(held)) => {
                        held.version.clear();
                        mailbox.pending[kind as usize].insert(canonical);
                    }
                    _ => _ = subscribed.sent.remove(&canonical),
                }
            }
        } else {
            let canonical = match answer {
                Answer::Found(canonical) => canonical,
                // Not told yet what it means, and yet the peer may hold that from an earlier stream.
                Answer::None | Answer::Absent => match index.resolve(kind, name, &self.namespace) {
                    Some(published) => published.name.clone(),
                    None => return,
                },
            };
            if !subscribed.wants(index, kind, &canonical, &self.namespace) {
                subscribed.sent.remove(&canonical);
            } else if let Some(Sent { aliases, .. }) = subscribed.sent.get_mut(&canonical) {
                aliases.retain(|alias| alias != name);
            }
        }
    }

    /// Whether `request` is a reason to tell the peer something at once: it asks, or what waited for its acknowledgement can go on.
    pub(crate) fn is_urgent(&self, request: &DeltaDiscoveryRequest) -> bool {
        self.blocked || request.response_nonce.is_empty() || !request.resource_names_subscribe.is_empty()
    }

    /// What to tell the peer now, in order. Additions: what is depended upon first; then removals the other way round. One
    /// response of a kind is under way at a time, and what is blocked by that holds back what must come after it.
    pub(crate) fn flush(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let publisher = self.publisher.clone();
        let in_grace = publisher.in_grace();
        let mut index = publisher.lock();
        let Some(mailbox) = index.streams.get_mut(&self.id) else {
            return Vec::new();
        };
        let pending = mem::take(&mut mailbox.pending);
        let mut diffs: [Diff; Kind::COUNT] = Default::default();
        for kind in Kind::ALL {
            let names = &pending[kind as usize];
            if !names.is_empty() {
                diffs[kind as usize] = self.kinds[kind as usize].diff(&index, kind, names, &self.namespace, in_grace);
            }
        }
        let mut responses = Vec::new();
        for kind in Kind::ALL {
            let (until, after) = diffs.split_at_mut(kind as usize + 1);
            let diff = &mut until[kind as usize];
            if diff.upserts.is_empty() {
                continue;
            }
            if self.kinds[kind as usize].outstanding.is_some() {
                break;
            }
            let last = after.iter().all(Diff::is_empty);
            let removed = if last { mem::take(&mut diff.removed) } else { BTreeSet::new() };
            responses.push(self.respond(kind, mem::take(&mut diff.upserts), removed, &mut diff.answers));
        }
        for kind in Kind::ALL.into_iter().rev() {
            let diff = &mut diffs[kind as usize];
            let blocked = self.kinds[kind as usize].outstanding.is_some();
            if !diff.upserts.is_empty() || (blocked && !diff.removed.is_empty()) {
                break;
            }
            if !diff.removed.is_empty() {
                responses.push(self.respond(kind, Vec::new(), mem::take(&mut diff.removed), &mut diff.answers));
            }
        }
        self.blocked = diffs.iter().any(|diff| !diff.upserts.is_empty() || !diff.removed.is_empty());
        // What could not be said stays pending, and so do the names that it was asked by.
        if let Some(mailbox) = index.streams.get_mut(&self.id) {
            for kind in Kind::ALL {
                let diff = mem::take(&mut diffs[kind as usize]);
                let pending = &mut mailbox.pending[kind as usize];
                if diff.is_empty() {
                    self.kinds[kind as usize].settle(diff.answers);
                } else {
                    pending.extend(diff.answers.into_iter().map(|(asked, _)| asked));
                }
                pending.extend(diff.upserts.into_iter().map(|(published, _)| published.name.clone()));
                pending.extend(diff.removed);
                pending.extend(diff.withheld);
            }
        }
        responses
    }

    fn respond(
        &mut self,
        kind: Kind,
        upserts: Vec<(Arc<Published>, Vec<String>)>,
        removed: BTreeSet<String>,
        answers: &mut Vec<(String, Answer)>,
    ) -> DeltaDiscoveryResponse {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let subscribed = &mut self.kinds[kind as usize];
        let mut names = removed.clone();
        for name in &removed {
            subscribed.sent.remove(name);
        }
        let mut resources = Vec::with_capacity(upserts.len());
        for (published, aliases) in upserts {
            names.insert(published.name.clone());
            let sent = Sent { version: published.version.clone(), aliases: aliases.clone() };
            subscribed.sent.insert(published.name.clone(), sent);
            resources.push(Resource {
                version: published.version.clone(),
                resource: Some(prost_types::Any { type_url: kind.url().to_owned(), value: published.body.clone() }),
                name: published.name.clone(),
                aliases,
            });
        }
        let said = |answer: &Answer, asked: &String| match answer {
            Answer::Found(_) => true,
            _ => names.contains(asked),
        };
        let (settled, open) = mem::take(answers).into_iter().partition(|(asked, answer)| said(answer, asked));
        *answers = open;
        subscribed.settle(settled);
        subscribed.outstanding = Some(Outstanding { nonce: nonce.clone(), names });
        DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: kind.url().to_owned(),
            nonce,
            removed_resources: removed.into_iter().collect(),
        }
    }

    /// Ends the stream: what the peer refused is no longer known.
    pub(crate) fn close(&mut self) -> Vec<Report> {
        let kinds = mem::take(&mut self.kinds);
        let asked =
            Kind::ALL.into_iter().flat_map(|kind| kinds[kind as usize].asked.keys().map(move |n| (kind, n.as_str())));
        self.publisher.lock().close(self.id, asked);
        let node = &self.node;
        let cleared = |kind, name: &String| Report::Cleared { node: node.clone(), kind, name: name.clone() };
        Kind::ALL
            .into_iter()
            .flat_map(|kind| kinds[kind as usize].refused.iter().map(move |n| cleared(kind, n)))
            .collect()
    }
}

impl Diff {
    fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removed.is_empty()
    }
}

impl Subscribed {
    /// The asked aliases that mean `canonical`, sorted.
    fn aliases(&self, index: &Index, kind: Kind, canonical: &str, namespace: &str) -> Vec<String> {
        let claimed = index.get(kind, canonical).into_iter().flat_map(|published| &published.aliases);
        let asked = claimed.map(|alias| &alias.name).filter(|alias| self.asked.contains_key(*alias));
        let ours = asked.filter(|alias| index.resolve(kind, alias, namespace).is_some_and(|p| p.name == canonical));
        ours.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether anything asked for, other than an alias, covers `canonical`.
    fn covers(&self, kind: Kind, canonical: &str) -> bool {
        self.asked.contains_key(canonical)
            || self.asked.contains_key(EVERYTHING)
            || glob_over(kind, canonical).is_some_and(|glob| self.asked.contains_key(&glob))
    }

    fn wants(&self, index: &Index, kind: Kind, canonical: &str, namespace: &str) -> bool {
        self.covers(kind, canonical) || !self.aliases(index, kind, canonical, namespace).is_empty()
    }

    fn held_beneath(&self, prefix: &str) -> Vec<String> {
        let held = self
            .sent
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix));
        held.map(|(name, _)| name.clone()).collect()
    }

    /// Makes `canonical` (of a collection: its members) be sent again.
    fn forget(&mut self, kind: Kind, canonical: &str) {
        match collection(kind, canonical) {
            Some(prefix) => {
                for name in self.held_beneath(prefix) {
                    self.sent.remove(&name);
                }
            }
            None => _ = self.sent.remove(canonical),
        }
    }

    fn settle(&mut self, answers: Vec<(String, Answer)>) {
        for (asked, answer) in answers {
            if let Some(known) = self.asked.get_mut(&asked) {
                *known = answer;
            }
        }
    }

    fn diff(&self, index: &Index, kind: Kind, names: &BTreeSet<String>, namespace: &str, in_grace: bool) -> Diff {
        let mut diff = Diff::default();
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        for name in names {
            touched.insert(name);
            let Some(known) = self.asked.get(name) else {
                continue;
            };
            if let Some(prefix) = collection(kind, name) {
                if matches!(known, Answer::None) {
                    let mut members = index.beneath(kind, prefix).map(|published| published.name.as_str()).peekable();
                    // An empty collection is answered by its own removal, unless the peer is about to be told which of its
                    // members are gone.
                    if members.peek().is_none() && self.held_beneath(prefix).is_empty() {
                        diff.removed.insert(name.clone());
                        diff.answers.push((name.clone(), Answer::Absent));
                    } else {
                        touched.extend(members);
                        diff.answers.push((name.clone(), Answer::Found(name.clone())));
                    }
                }
                continue;
            }
            if let Answer::Found(canonical) = known {
                touched.insert(canonical);
            }
            match index.resolve(kind, name, namespace) {
                Some(published) => {
                    touched.insert(&published.name);
                    diff.answers.push((name.clone(), Answer::Found(published.name.clone())));
                }
                None if matches!(known, Answer::Absent) => {}
                None => {
                    diff.removed.insert(name.clone());
                    diff.answers.push((name.clone(), Answer::Absent));
                }
            }
        }
        for canonical in touched {
            self.compare(index, kind, canonical, namespace, in_grace, &mut diff);
        }
        diff
    }

    /// Compares what is published as `canonical` with what the peer holds.
    fn compare(&self, index: &Index, kind: Kind, canonical: &str, namespace: &str, in_grace: bool, diff: &mut Diff) {
        let held = self.sent.get(canonical);
        let published = index.get(kind, canonical);
        let aliases = self.aliases(index, kind, canonical, namespace);
        let wanted = !aliases.is_empty() || self.covers(kind, canonical);
        match (published.filter(|_| wanted), held) {
            (Some(published), held) => {
                let same = held.is_some_and(|held| held.version == published.version && held.aliases == aliases);
                if !same {
                    diff.upserts.push((published.clone(), aliases));
                }
            }
            (None, Some(_)) if kind == Kind::Endpoint && in_grace && wanted && !index.is_gone(canonical) => {
                _ = diff.withheld.insert(canonical.to_owned())
            }
            (None, Some(_)) => _ = diff.removed.insert(canonical.to_owned()),
            (None, None) => {}
        }
    }
}

fn truncate(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
}
