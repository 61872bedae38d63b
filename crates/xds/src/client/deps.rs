//! What each thing that is published depends on: what must be asked for, and whether all of it is there.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::state::{Answer, Answers};
use crate::Kind;
use crate::compile::resources::Resources;

/// Names to subscribe to, by kind.
pub(super) type Names = [BTreeSet<String>; Kind::COUNT];

/// The dependencies of one destination, inbound side or gateway.
pub(super) struct Needs {
    pub(super) names: Names,
    /// All of it is held, or is known not to be had.
    pub(super) complete: bool,
    /// Two walks with equal prints would compile to the same. Endpoints do not count.
    pub(super) print: u64,
}

struct Walk<'a> {
    resources: &'a Resources,
    answers: &'a Answers,
    names: Names,
    complete: bool,
    print: DefaultHasher,
}

/// What the destination `service` (canonical) needs. `names` holds nothing for the service itself: it is subscribed to by
/// the names under which it was asked for.
pub(super) fn destination(resources: &Resources, answers: &Answers, service: &str) -> Needs {
    let mut walk = Walk::new(resources, answers);
    walk.mark(Kind::Service, service);
    match resources.service(service) {
        Some(held) => {
            walk.instances(service);
            walk.each(Kind::Policy, &held.policies);
            walk.routes(&held.routes, Some(service));
        }
        None => walk.complete = false,
    }
    walk.end()
}

/// What the inbound side of `workload` needs.
pub(super) fn inbound(resources: &Resources, answers: &Answers, workload: &str) -> Needs {
    let mut walk = Walk::new(resources, answers);
    walk.each(Kind::Workload, &[workload.to_owned()]);
    match resources.workload(workload) {
        Some(held) => walk.each(Kind::Policy, &held.policies),
        None => walk.complete = false,
    }
    walk.end()
}

/// What the gateway `name` needs.
pub(super) fn gateway(resources: &Resources, answers: &Answers, name: &str) -> Needs {
    let mut walk = Walk::new(resources, answers);
    walk.each(Kind::Gateway, &[name.to_owned()]);
    match resources.gateway(name) {
        Some(held) => {
            walk.each(Kind::Policy, &held.policies);
            walk.routes(&held.routes, None);
        }
        None => walk.complete = false,
    }
    walk.end()
}

impl<'a> Walk<'a> {
    fn new(resources: &'a Resources, answers: &'a Answers) -> Walk<'a> {
        Walk { resources, answers, names: Names::default(), complete: true, print: DefaultHasher::new() }
    }

    fn end(self) -> Needs {
        Needs { names: self.names, complete: self.complete, print: self.print.finish() }
    }

    fn mark(&mut self, kind: Kind, name: &str) {
        (kind, name, self.resources.revision(kind, name)).hash(&mut self.print);
    }

    /// All of `list` must be held, save what this proxy itself refused.
    fn each(&mut self, kind: Kind, list: &[String]) {
        for name in list {
            self.mark(kind, name);
            self.names[kind as usize].insert(name.clone());
            let held = self.resources.get(kind, name).is_some();
            if !held && !matches!(self.answers[kind as usize].get(name), Some(Answer::Refused)) {
                self.complete = false;
            }
        }
    }

    fn instances(&mut self, service: &str) {
        let glob = format!("{service}/*");
        if !self.answers[Kind::Endpoint as usize].contains_key(&glob) {
            self.complete = false;
        }
        self.names[Kind::Endpoint as usize].insert(glob);
    }

    /// Routes and the services that they send to, other than `own`.
    fn routes(&mut self, list: &[String], own: Option<&str>) {
        self.each(Kind::Route, list);
        let held = list.iter().filter_map(|name| self.resources.route(name));
        let services: BTreeSet<&str> = held.flat_map(|route| route.services()).collect();
        for service in services.into_iter().filter(|service| Some(*service) != own) {
            self.mark(Kind::Service, service);
            self.names[Kind::Service as usize].insert(service.to_owned());
            match self.resources.service(service) {
                // Its policies say when its endpoints are left out.
                Some(held) => {
                    self.instances(service);
                    self.each(Kind::Policy, &held.policies);
                }
                None if self.answers[Kind::Service as usize].contains_key(service) => {}
                None => self.complete = false,
            }
        }
    }
}
