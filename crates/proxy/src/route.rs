//! The match phase: from a way in and a request's head to where it goes.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::Guard;
use engine::balance::Backend;
use engine::policy::TrafficPolicy;
use engine::route::{RouteTable, Rule, WeightedBackend};
use engine::snapshot::{Resolution, Slot, TcpRule};
use engine::{Protocol, Reason, RequestHead, SeriesId};
use net::spiffe;
use telemetry::metrics::Direction;

use crate::foreign;
use crate::h1;
use crate::reply::Refusal;
use crate::target::Target;
use crate::term::Term;
use crate::worker::{Side, Worker};

/// How a connection came in.
pub(crate) struct Door {
    /// The way.
    pub(crate) way: Way,
    /// The other end's address.
    pub(crate) peer: SocketAddr,
    /// Where the destination of [`Way::Fixed`] is published, once a request has asked for it.
    slot: OnceCell<Arc<Slot>>,
}

/// The ways in.
pub(crate) enum Way {
    /// The forward proxy: every request names its destination.
    Forward,
    /// An address that stands for one destination, or the inside of a tunnel to it.
    Fixed(Target),
    /// For the application.
    Inbound(Caller),
    /// A gateway's listener, by the port that the Gateway declares.
    Gateway(u16),
}

/// Who calls the application, and where.
pub(crate) struct Caller {
    /// Its proved identity; `None` where it has no sidecar.
    pub(crate) id: Option<spiffe::Id>,
    /// Where the application listens.
    pub(crate) address: SocketAddr,
    /// In whose name the application is called, if not in ours.
    pub(crate) source: Option<IpAddr>,
    /// How long its proof holds, and so the connection; `None` where it has no sidecar.
    pub(crate) term: Option<Term>,
}

impl Caller {
    /// A caller at `peer`.
    pub(crate) fn new(worker: &Worker, id: Option<spiffe::Id>, address: SocketAddr, peer: SocketAddr) -> Caller {
        let keep = worker.shared.settings.keep_source && peer.is_ipv4() == address.is_ipv4();
        Caller { id, address, source: keep.then_some(peer.ip()), term: None }
    }

    /// As an authorization policy sees it.
    pub(crate) fn who(&self, peer: SocketAddr) -> engine::authorize::Caller<'_> {
        engine::authorize::Caller {
            identity: self.id.as_ref().map(spiffe::Id::as_str),
            address: peer.ip(),
            port: self.address.port(),
        }
    }

    /// Whether the mesh demands a proved identity, and there is none.
    pub(crate) fn is_refused(&self, worker: &Worker) -> bool {
        self.id.is_none() && worker.shared.live.mesh.load().strict
    }
}

impl Door {
    /// For a connection from `peer`.
    pub(crate) fn new(way: Way, peer: SocketAddr) -> Door {
        Door { way, peer, slot: OnceCell::new() }
    }

    /// Where its one destination `target` is published. As long as somebody holds a slot it is the one of its name.
    fn slot(&self, worker: &Worker, target: &Target) -> Result<&Arc<Slot>, Refusal> {
        match self.slot.get() {
            Some(slot) => Ok(slot),
            None => slot(worker, target).map(|slot| self.slot.get_or_init(|| slot)),
        }
    }

    /// Which way its requests go.
    pub(crate) fn direction(&self) -> Direction {
        match self.way {
            Way::Forward | Way::Fixed(_) => Direction::Outbound,
            Way::Inbound(_) => Direction::Inbound,
            Way::Gateway(_) => Direction::Gateway,
        }
    }

    /// Whose connection it is.
    pub(crate) fn side(&self) -> Side {
        match self.way {
            Way::Forward | Way::Fixed(_) => Side::Out,
            Way::Inbound(_) | Way::Gateway(_) => Side::In,
        }
    }

    /// How long the connection lasts, where it is another sidecar's.
    pub(crate) fn term(&self) -> Option<Term> {
        match &self.way {
            Way::Inbound(caller) => caller.term,
            _ => None,
        }
    }

    /// Whether its connection takes no further request, though its client would have it do so.
    pub(crate) fn is_leaving(&self, worker: &Worker) -> bool {
        worker.draining(self.side()) || self.term().is_some_and(|term| term.is_leaving(worker.recently()))
    }

    /// The proved identity of the caller.
    pub(crate) fn identity(&self) -> Option<&str> {
        match &self.way {
            Way::Inbound(caller) => caller.id.as_ref().map(spiffe::Id::as_str),
            _ => None,
        }
    }
}

/// Where a request goes.
pub(crate) enum Plan {
    /// To a backend of a rule.
    Rule(Choice),
    /// To the application beside us.
    Application {
        /// Where it listens.
        address: SocketAddr,
        /// In whose name it is called, if not in ours.
        source: Option<IpAddr>,
        /// What its port was declared to speak.
        protocol: Protocol,
    },
    /// To a host that the mesh does not know.
    Outside(Target),
}

/// A rule and which of its backends.
pub(crate) struct Choice {
    /// The rule.
    pub(crate) rule: Arc<Rule>,
    /// Place of the backend in the rule's list.
    pub(crate) place: usize,
    /// Bytes of the path that the rule's prefix took.
    pub(crate) prefix: usize,
}

impl Choice {
    /// The share that was picked.
    pub(crate) fn share(&self) -> &WeightedBackend {
        &self.rule.backends.list[self.place]
    }

    /// Where it goes.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        self.share().target.as_ref().expect("a choice is made only of backends that are valid")
    }
}

impl Plan {
    /// What the other side was declared to speak.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Plan::Rule(choice) => choice.backend().protocol,
            Plan::Application { protocol, .. } => *protocol,
            Plan::Outside(_) => Protocol::Auto,
        }
    }

    /// The rule, if it is by one.
    pub(crate) fn rule(&self) -> Option<&Arc<Rule>> {
        match self {
            Plan::Rule(choice) => Some(&choice.rule),
            Plan::Application { .. } | Plan::Outside(_) => None,
        }
    }

    /// The rule's policy.
    pub(crate) fn policy(&self) -> Option<&Arc<TrafficPolicy>> {
        self.rule().map(|rule| &rule.policy)
    }
}

/// What a request's match ended in.
pub(crate) struct Matched {
    /// Where it goes, or why not.
    pub(crate) plan: Result<Plan, Refusal>,
    /// Where it is counted; `None`: as unrouted.
    pub(crate) series: Option<SeriesId>,
    /// The rule of what goes nowhere, for the log; a plan has its own.
    pub(crate) rule: Option<Arc<Rule>>,
}

impl From<Refusal> for Matched {
    fn from(refusal: Refusal) -> Matched {
        Matched { plan: Err(refusal), series: None, rule: None }
    }
}

impl From<Reason> for Matched {
    fn from(reason: Reason) -> Matched {
        Refusal::from(reason).into()
    }
}

/// Matches one HTTP request. `target` is what a request to the forward proxy names.
pub(crate) async fn request(worker: &Worker, door: &Door, target: Option<&Target>, head: &h1::Request) -> Matched {
    let resolved = match (&door.way, target) {
        (Way::Fixed(target), _) => match door.slot(worker, target) {
            Ok(slot) => resolved(worker, target, slot).await.map(|resolution| (target, resolution)),
            Err(refusal) => Err(refusal),
        },
        (Way::Forward, Some(target)) => resolve(worker, target).await.map(|resolution| (target, resolution)),
        (Way::Forward, None) => return Reason::NoDestination.into(),
        (Way::Inbound(caller), _) => return to_application(worker, door, caller, head),
        (Way::Gateway(port), _) => return through_gateway(worker, *port, head),
    };
    match resolved {
        Ok((target, resolution)) => to_destination(worker, target, &resolution, head),
        Err(refusal) => refusal.into(),
    }
}

/// What is known of a target, waiting for the answer if it was never asked for.
pub(crate) async fn resolve(worker: &Worker, target: &Target) -> Result<Guard<Arc<Resolution>>, Refusal> {
    resolved(worker, target, &slot(worker, target)?).await
}

/// Where a target is published.
fn slot(worker: &Worker, target: &Target) -> Result<Arc<Slot>, Refusal> {
    // Only an address needs its port in the name; a host name is the cache's key as it is.
    let found = if target.is_address() { worker.slot(&target.name()) } else { worker.slot(&target.host) };
    found.ok_or_else(|| Reason::Overloaded.into())
}

async fn resolved(worker: &Worker, target: &Target, slot: &Arc<Slot>) -> Result<Guard<Arc<Resolution>>, Refusal> {
    let resolution = slot.get(worker.recently());
    if !matches!(**resolution, Resolution::Pending) {
        return Ok(resolution);
    }
    wait(worker, target, Arc::clone(slot)).await
}

async fn wait(worker: &Worker, target: &Target, slot: Arc<Slot>) -> Result<Guard<Arc<Resolution>>, Refusal> {
    let name = &*target.name();
    let foreign = match target.address() {
        Some(address) => foreign::address(address.ip()),
        None => foreign::host(&target.host, &worker.shared.settings.workload),
    };
    let discover = &worker.shared.discover;
    let alone = || foreign && discover.alone();
    let limit = worker.limits().discovery_timeout;
    let limit = if alone() { limit.min(foreign::PATIENCE) } else { limit };
    // Whether it came or not is seen in the slot.
    let _ = tokio::time::timeout(limit, discover.resolved(name, Arc::clone(&slot))).await;
    let resolution = slot.get(worker.now());
    match **resolution {
        Resolution::Pending if alone() => Ok(Guard::from_inner(Arc::new(Resolution::NotFound))),
        Resolution::Pending => {
            Err(Refusal::new(Reason::DiscoveryUnavailable, format!("nobody said what {name} is within {limit:?}")))
        }
        _ => Ok(resolution),
    }
}

fn to_destination(worker: &Worker, target: &Target, resolved: &Resolution, head: &h1::Request) -> Matched {
    let destination = match resolved {
        Resolution::Found(destination) => destination,
        Resolution::NotFound | Resolution::Pending => {
            return match outside(worker, target) {
                Ok(()) => Matched { plan: Ok(Plan::Outside(target.clone())), series: None, rule: None },
                Err(refusal) => refusal.into(),
            };
        }
    };
    let Some(port) = destination.port(target.port) else {
        return Refusal::new(Reason::NoSuchPort, format!("{} has no port {}", destination.name, target.port)).into();
    };
    match &port.http {
        None => pick(worker, &port.implicit, 0, head, target.port),
        Some(table) => by_table(worker, table, head, target.port, port.implicit.series),
    }
}

/// Whether a destination that the mesh does not know may be called.
pub(crate) fn outside(worker: &Worker, target: &Target) -> Result<(), Refusal> {
    if worker.shared.live.mesh.load().registered_only {
        return Err(Refusal::new(
            Reason::NotRegistered,
            format!("{target} is not registered, and the mesh allows only what is"),
        ));
    }
    let address = target.address();
    if worker.shared.inside.is_some() && address.is_some_and(|address| is_this_machine(address.ip())) {
        return Err(Refusal::new(
            Reason::NoDestination,
            format!(
                "{target} is no instance's, and an application in a network of its own has no way to this machine's"
            ),
        ));
    }
    if address.is_some_and(|address| worker.shared.settings.listens_on(address)) {
        return Err(Refusal::new(Reason::NoDestination, format!("{target} is this proxy itself")));
    }
    Ok(())
}

/// Whether dialling `ip` would end on the machine on which it is done.
fn is_this_machine(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

fn by_table(worker: &Worker, table: &RouteTable, head: &h1::Request, port: u16, unmatched: SeriesId) -> Matched {
    match table.find(head) {
        Some(found) => pick(worker, found.rule, found.prefix, head, port),
        None => Matched { plan: Err(Reason::NoRoute.into()), series: Some(unmatched), rule: None },
    }
}

/// `port`: where the request came to.
fn pick(worker: &Worker, rule: &Arc<Rule>, prefix: usize, head: &h1::Request, port: u16) -> Matched {
    let refused = |refusal| Matched { plan: Err(refusal), series: Some(rule.series), rule: Some(Arc::clone(rule)) };
    if let Some(redirect) = &rule.redirect {
        return refused(Refusal::redirect(redirect.status, redirect.location(head, "http", port, prefix)));
    }
    let Some(share) = rule.backends.pick(&mut worker.rng()) else {
        return refused(Refusal::new(Reason::InvalidBackend, format!("{} has no backend with a weight", rule.name)));
    };
    match &share.target {
        Err(why) => refused(Refusal::new(Reason::InvalidBackend, why.to_string())),
        Ok(_) => {
            let place = rule.backends.list.iter().position(|other| std::ptr::eq(other, share)).unwrap_or_default();
            let plan = Plan::Rule(Choice { rule: Arc::clone(rule), place, prefix });
            Matched { plan: Ok(plan), series: Some(rule.series), rule: None }
        }
    }
}

fn to_application(worker: &Worker, door: &Door, caller: &Caller, head: &h1::Request) -> Matched {
    let inbound = worker.shared.live.inbound.load();
    let Some(inbound) = &*inbound else { return Reason::NotReady.into() };
    let port = caller.address.port();
    let declared = inbound.port(port);
    let series = Some(declared.map_or(inbound.series, |port| port.series));
    if caller.is_refused(worker) {
        return Matched { plan: Err(Reason::PlainTextRefused.into()), series, rule: None };
    }
    let name = door.identity().unwrap_or_default();
    let audit = |policy: &str| tracing::info!(policy, caller = name, port, path = head.path(), "audit");
    if let engine::authorize::Decision::Deny(policy) = inbound.authorizer.request(&caller.who(door.peer), head, audit) {
        tracing::debug!(policy, caller = name, port, "denied");
        return Matched { plan: Err(Reason::Denied.into()), series, rule: None };
    }
    let protocol = declared.map_or(Protocol::Auto, |port| port.protocol);
    Matched {
        plan: Ok(Plan::Application { address: caller.address, source: caller.source, protocol }),
        series,
        rule: None,
    }
}

fn through_gateway(worker: &Worker, port: u16, head: &h1::Request) -> Matched {
    let gateway = worker.shared.live.gateway.load();
    let Some(gateway) = &*gateway else { return Reason::NotReady.into() };
    // Listeners of one port differ by host name; their routes carry it, so the first with a match is the right one.
    let mut unmatched = None;
    for listener in gateway.listeners.iter().filter(|listener| listener.port == port) {
        let Some(table) = &listener.http else { continue };
        if table.find(head).is_some() {
            return by_table(worker, table, head, port, listener.series);
        }
        unmatched = Some(listener.series);
    }
    Matched { plan: Err(Reason::NoRoute.into()), series: unmatched, rule: None }
}

/// The rule of an opaque connection through a gateway's listener.
pub(crate) fn gateway_tcp(worker: &Worker, port: u16) -> Option<Arc<TcpRule>> {
    let gateway = worker.shared.live.gateway.load();
    gateway
        .as_ref()?
        .listeners
        .iter()
        .filter(|listener| listener.port == port)
        .find_map(|listener| listener.tcp.clone())
}
