//! The client's and the server's side of the protocol face to face, without a network: messages are carried by hand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use engine::snapshot::{Destination, Resolution, Slot};
use engine::{Nanos, SeriesId};
use proptest::prelude::*;
use prost::Message as _;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use proto::mesh;

use super::state::State;
use super::task::refused;
use crate::Kind;
use crate::compile::Compiler;
use crate::samples::{bad_route, decode, endpoint, remove, route, service, timeout, trust, workload};
use crate::server::Change::Upsert;
use crate::server::stream::Stream;
use crate::server::{Change, Published, Publisher, Report};

/// A client and a server with what is under way between them.
struct Pair {
    publisher: Publisher,
    stream: Option<Stream>,
    state: State,
    slots: BTreeMap<String, Arc<Slot>>,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
    reports: Vec<Report>,
    /// Resources and removals that reached the client.
    received: Vec<String>,
}

fn new_state() -> State {
    State::new(
        "shop/front-1".into(),
        None,
        Compiler::new(Arc::new(|_| SeriesId(0)), engine::balance::Locality::default()),
    )
}

impl Pair {
    fn new() -> Pair {
        Pair::with(Publisher::new(Duration::ZERO))
    }

    fn with(publisher: Publisher) -> Pair {
        let mut pair = Pair {
            publisher,
            stream: None,
            state: new_state(),
            slots: BTreeMap::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            reports: Vec::new(),
            received: Vec::new(),
        };
        pair.connect();
        pair
    }

    /// A new stream; what was under way on the old one is lost.
    fn connect(&mut self) {
        if let Some(mut old) = self.stream.take() {
            self.reports.extend(old.close());
        }
        let (id, _) = self.publisher.lock().open();
        self.stream = Some(Stream::new(self.publisher.clone(), id, "shop/front-1".into(), "shop".into(), 1000));
        self.down.clear();
        self.state.sync();
        self.up = self.state.begin().into();
    }

    fn publish(&mut self, list: impl IntoIterator<Item = Published>) {
        self.publisher.apply(list.into_iter().map(Upsert).collect());
    }

    fn ask(&mut self, name: &str) -> Arc<Slot> {
        let slot = self.slots.entry(name.to_owned()).or_default().clone();
        if !self.state.asks(name) {
            self.state.ask(name.to_owned(), slot.clone(), Arc::default());
            self.up.extend(self.state.sync().requests);
        }
        slot
    }

    fn forget(&mut self, name: &str) {
        self.state.forget(name);
        if let Some(slot) = self.slots.remove(name) {
            slot.set(Resolution::Pending);
        }
        self.up.extend(self.state.sync().requests);
    }

    /// Carries one message each way. False when there is none.
    fn step(&mut self) -> bool {
        let stream = self.stream.as_mut().expect("always connected");
        let request = self.up.pop_front();
        let carried = request.is_some();
        if let Some(request) = request {
            stream.request(request, &mut self.reports).expect("a good request");
        }
        self.down.extend(stream.flush());
        let Some(response) = self.down.pop_front() else { return carried };
        self.received.extend(response.resources.iter().map(|resource| resource.name.clone()));
        self.received.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
        let mut ack = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let refusals = self.state.apply(response);
        ack.error_detail = (!refusals.is_empty()).then(|| refused(&refusals));
        self.up.push_back(ack);
        self.up.extend(self.state.sync().requests);
        true
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    fn received(&mut self) -> Vec<String> {
        std::mem::take(&mut self.received)
    }
}

fn resolution(slot: &Slot) -> Resolution {
    Resolution::clone(&slot.get(Nanos(0)))
}

fn found(slot: &Slot) -> Arc<Destination> {
    match resolution(slot) {
        Resolution::Found(destination) => destination,
        other => panic!("not found: {other:?}"),
    }
}

fn workloads(destination: &Destination) -> Vec<String> {
    destination.ports[0].backend.endpoints.load().endpoints().iter().map(|e| e.workload.to_string()).collect()
}

/// cart, with a route to itself and v2, and one instance each.
fn shop() -> Vec<Published> {
    vec![
        service("shop/cart", &["HTTPRoute/shop/r"], &["TrafficPolicy/shop/p"]),
        service("shop/v2", &[], &[]),
        route("HTTPRoute/shop/r", "shop/cart", &["shop/cart", "shop/v2"]),
        timeout("TrafficPolicy/shop/p", "shop/cart", 700),
        endpoint("shop/cart", "cart-1", "127.7.0.2:15006"),
        endpoint("shop/cart", "cart-2", "127.7.0.3:15006"),
        endpoint("shop/v2", "v2-1", "127.7.0.4:15006"),
    ]
}

#[test]
fn a_destination_is_subscribed_to_on_first_use_and_found_by_every_alias() {
    let mut pair = Pair::new();
    pair.publish(shop());
    pair.settle();
    assert!(pair.received().iter().all(|name| name.starts_with('-')), "nothing was asked for");
    let slot = pair.ask("cart");
    pair.settle();
    let cart = found(&slot);
    assert_eq!(&*cart.name, "shop/cart");
    assert_eq!(workloads(&cart), ["shop/cart-1", "shop/cart-2"]);
    assert!(cart.ports[0].http.is_some());
    assert_eq!(cart.ports[0].implicit.policy.request_timeout, Some(Nanos::from_millis(700)));
    pair.received();
    let other = pair.ask("cart.shop");
    pair.settle();
    assert!(Arc::ptr_eq(&found(&other), &cart), "one destination, whatever it is called");
    assert_eq!(pair.received(), ["shop/cart"]);
}

#[test]
fn a_short_name_is_valid_in_its_namespace_alone() {
    let mut pair = Pair::new();
    pair.publish([trust(false), service("other/cart", &[], &[])]);
    let short = pair.ask("cart");
    let long = pair.ask("cart.other");
    pair.settle();
    assert!(matches!(resolution(&short), Resolution::NotFound));
    assert_eq!(&*found(&long).name, "other/cart");
}

#[test]
fn an_unknown_name_is_answered_and_found_when_it_appears() {
    let mut pair = Pair::new();
    pair.publish([trust(false)]);
    let slot = pair.ask("cart");
    pair.settle();
    assert!(matches!(resolution(&slot), Resolution::NotFound));
    pair.publish(shop());
    pair.settle();
    assert_eq!(workloads(&found(&slot)).len(), 2);
    pair.publisher.apply(vec![remove(Kind::Service, "shop/cart")]);
    pair.settle();
    assert!(matches!(resolution(&slot), Resolution::NotFound));
}

#[test]
fn the_first_answer_of_a_collection_is_complete() {
    let mut pair = Pair::new();
    pair.publish([service("shop/cart", &[], &[])]);
    pair.publish((0..500).map(|i| endpoint("shop/cart", &format!("cart-{i}"), "127.7.0.2:15006")));
    let slot = pair.ask("cart");
    while !matches!(resolution(&slot), Resolution::Found(_)) {
        assert!(pair.step());
    }
    assert_eq!(workloads(&found(&slot)).len(), 500);
}

#[test]
fn a_service_without_instances_is_complete() {
    let mut pair = Pair::new();
    pair.publish([service("shop/cart", &[], &[])]);
    let slot = pair.ask("cart");
    pair.settle();
    assert!(workloads(&found(&slot)).is_empty());
}

#[test]
fn no_destination_is_published_before_its_policy() {
    let mut pair = Pair::new();
    let list = shop();
    let policy = list.iter().find(|p| p.kind == Kind::Policy).expect("it has one").clone();
    pair.publish(list.into_iter().filter(|p| p.kind != Kind::Policy));
    let slot = pair.ask("cart");
    pair.settle();
    assert!(matches!(resolution(&slot), Resolution::Pending));
    pair.publish([policy]);
    pair.settle();
    let before = found(&slot);
    // A successor that is not complete does not replace what is published, and costs it none of its endpoints.
    pair.publish([service("shop/cart", &["HTTPRoute/shop/r"], &["TrafficPolicy/shop/later"])]);
    pair.settle();
    assert!(Arc::ptr_eq(&found(&slot), &before));
    pair.publish([endpoint("shop/v2", "v2-2", "127.7.0.9:15006")]);
    pair.settle();
    let rule = before.ports[0].http.as_ref().expect("it has a route").find(&Get).expect("it matches").rule.clone();
    let v2 = rule.backends.list[1].target.as_ref().expect("it exists").endpoints.load_full();
    assert_eq!(v2.endpoints().len(), 2, "what is published is kept up to date");
    pair.publish([timeout("TrafficPolicy/shop/later", "shop/cart", 900)]);
    pair.settle();
    assert_eq!(found(&slot).ports[0].implicit.policy.request_timeout, Some(Nanos::from_millis(900)));
}

/// Without them nobody knows whether the mesh is strict.
#[test]
fn nothing_comes_in_before_the_settings_of_the_mesh_are_held() {
    let mut pair = Pair::new();
    pair.publish([workload("shop/front-1")]);
    pair.settle();
    assert!(pair.state.live.inbound.load().is_none());
    pair.publish([trust(true)]);
    pair.settle();
    assert!(pair.state.live.inbound.load().is_some());
    assert!(pair.state.live.mesh.load().strict);
    // A change of them takes nothing away.
    pair.publish([trust(false)]);
    pair.settle();
    assert!(pair.state.live.inbound.load().is_some() && !pair.state.live.mesh.load().strict);
}

/// Without them nobody knows whether what the mesh does not know may be called.
#[test]
fn no_name_is_unknown_before_the_settings_of_the_mesh_are_held() {
    let mut pair = Pair::new();
    pair.publish(shop());
    let (unknown, known) = (pair.ask("elsewhere"), pair.ask("cart"));
    pair.settle();
    assert!(matches!(resolution(&unknown), Resolution::Pending));
    assert_eq!(workloads(&found(&known)).len(), 2, "what the mesh knows needs them not");
    pair.publisher.apply(vec![remove(Kind::Service, "shop/cart")]);
    pair.settle();
    assert!(matches!(resolution(&known), Resolution::Pending));
    pair.publish([trust(false)]);
    pair.settle();
    assert!(matches!((resolution(&unknown), resolution(&known)), (Resolution::NotFound, Resolution::NotFound)));
}

#[test]
fn a_backend_that_does_not_exist_takes_its_share_and_no_more() {
    let mut pair = Pair::new();
    pair.publish(shop().into_iter().filter(|p| !p.name.starts_with("shop/v2")));
    let slot = pair.ask("cart");
    pair.settle();
    let rule = |slot: &Slot| found(slot).ports[0].http.as_ref().unwrap().find(&Get).unwrap().rule.clone();
    assert!(rule(&slot).backends.list[0].target.is_ok());
    assert!(rule(&slot).backends.list[1].target.is_err());
    pair.publish(shop());
    pair.settle();
    assert!(rule(&slot).backends.list[1].target.is_ok());
}

#[test]
fn endpoints_come_and_go_without_touching_rules_or_what_was_learnt() {
    let mut pair = Pair::new();
    pair.publish(shop());
    let slot = pair.ask("cart");
    pair.settle();
    let before = found(&slot);
    let load = |slot: &Slot, i: usize| found(slot).ports[0].backend.endpoints.load().endpoints()[i].load.clone();
    let (first, second) = (load(&slot, 0), load(&slot, 1));
    pair.received();
    let mut draining: mesh::Endpoint = decode(&endpoint("shop/cart", "cart-1", "127.7.0.2:15006"));
    draining.health = mesh::Health::Draining.into();
    pair.publish([
        Published::new(Kind::Endpoint, "shop/cart/cart-1", &draining, Vec::new()),
        endpoint("shop/cart", "cart-2", "127.7.0.8:15006"),
        endpoint("shop/cart", "cart-3", "127.7.0.5:15006"),
    ]);
    pair.settle();
    assert_eq!(pair.received(), ["shop/cart/cart-1", "shop/cart/cart-2", "shop/cart/cart-3"]);
    assert!(Arc::ptr_eq(&found(&slot), &before), "the destination is the same object");
    assert_eq!(workloads(&before), ["shop/cart-1", "shop/cart-2", "shop/cart-3"]);
    assert!(Arc::ptr_eq(&load(&slot, 0), &first), "the same instance");
    assert!(!Arc::ptr_eq(&load(&slot, 1), &second), "reached elsewhere, so nothing is known of it");
    pair.publisher.apply(vec![remove(Kind::Endpoint, "shop/cart/cart-2")]);
    pair.settle();
    assert_eq!(workloads(&before), ["shop/cart-1", "shop/cart-3"]);
}

#[test]
fn a_reconnect_sends_only_what_has_changed() {
    let mut pair = Pair::new();
    pair.publish(shop());
    let slot = pair.ask("cart");
    pair.ask("nothing");
    pair.settle();
    let before = found(&slot);
    pair.received();
    pair.connect();
    pair.settle();
    let mut received = pair.received();
    received.sort();
    // What is not there is said again: it has no version by which to know that nothing changed.
    assert_eq!(received, ["-mesh", "-nothing", "-shop/front-1"]);
    assert!(Arc::ptr_eq(&found(&slot), &before));
    pair.publisher.apply(vec![
        Upsert(timeout("TrafficPolicy/shop/p", "shop/cart", 800)),
        remove(Kind::Endpoint, "shop/cart/cart-2"),
    ]);
    pair.connect();
    pair.ask("v2");
    pair.settle();
    let mut received = pair.received();
    received.sort();
    assert_eq!(
        received,
        ["-mesh", "-nothing", "-shop/cart/cart-2", "-shop/front-1", "TrafficPolicy/shop/p", "shop/v2"],
        "the alias of a service that is held is answered all the same"
    );
}

#[test]
fn a_refused_resource_keeps_its_last_version_and_is_named() {
    let mut pair = Pair::new();
    pair.publish(shop());
    let slot = pair.ask("cart");
    pair.settle();
    let before = found(&slot);
    let new = timeout("TrafficPolicy/shop/p", "shop/cart", 800);
    pair.publish([bad_route("HTTPRoute/shop/r", "shop/cart"), new]);
    pair.settle();
    assert!(!Arc::ptr_eq(&found(&slot), &before), "the policy of the same change applies");
    assert_eq!(found(&slot).ports[0].implicit.policy.request_timeout, Some(Nanos::from_millis(800)));
    assert!(found(&slot).ports[0].http.as_ref().unwrap().find(&Get).is_some());
    let [Report::Refused { node, kind: Kind::Route, refusal }] = &pair.reports[..] else {
        panic!("{:?}", pair.reports)
    };
    assert_eq!((node.as_str(), refusal.name.as_str()), ("shop/front-1", "HTTPRoute/shop/r"));
    assert_eq!(refusal.field, "http[0].matches[0].path.regex");
    assert_eq!(refusal.origin.as_ref().unwrap().name, "bad");
    assert_eq!(refusal.version, bad_route("HTTPRoute/shop/r", "shop/cart").version);
    pair.reports.clear();
    pair.publish(shop());
    pair.settle();
    let [Report::Cleared { name, .. }] = &pair.reports[..] else { panic!("{:?}", pair.reports) };
    assert_eq!(name, "HTTPRoute/shop/r");
}

#[test]
fn what_was_never_good_does_not_hold_up_the_rest() {
    let mut pair = Pair::new();
    pair.publish(shop());
    pair.publish([bad_route("HTTPRoute/shop/r", "shop/cart")]);
    let slot = pair.ask("cart");
    pair.settle();
    assert!(found(&slot).ports[0].http.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_has_just_started_removes_no_endpoint() {
    let mut pair = Pair::new();
    pair.publish(shop());
    let slot = pair.ask("cart");
    pair.settle();
    pair.publisher = Publisher::new(Duration::from_secs(15));
    pair.publish(shop().into_iter().filter(|p| p.kind != Kind::Endpoint));
    pair.connect();
    pair.settle();
    assert_eq!(workloads(&found(&slot)).len(), 2);
    // One registers again, elsewhere.
    pair.publish([endpoint("shop/cart", "cart-1", "127.7.0.7:15006")]);
    pair.settle();
    assert_eq!(workloads(&found(&slot)).len(), 2);
    tokio::time::advance(Duration::from_secs(16)).await;
    pair.settle();
    assert_eq!(workloads(&found(&slot)), ["shop/cart-1"]);
}

#[test]
fn a_slow_peer_gets_the_latest_version_alone() {
    let mut pair = Pair::new();
    pair.publish(shop());
    let slot = pair.ask("cart");
    pair.settle();
    pair.received();
    // The first is under way, unacknowledged, while a thousand more happen.
    pair.publish([endpoint("shop/cart", "cart-1", "127.7.0.2:20000")]);
    let under_way = pair.stream.as_mut().unwrap().flush();
    for port in 20_001..21_000 {
        pair.publish([endpoint("shop/cart", "cart-1", &format!("127.7.0.2:{port}"))]);
        assert!(pair.stream.as_mut().unwrap().flush().is_empty());
    }
    pair.down.extend(under_way);
    pair.settle();
    assert_eq!(pair.received(), ["shop/cart/cart-1", "shop/cart/cart-1"]);
    let set = found(&slot).ports[0].backend.endpoints.load_full();
    assert!(
        matches!(&set.endpoints()[0].dial, engine::balance::Dial::Mesh { address, .. } if address.port() == 20_999)
    );
}

#[test]
fn what_is_no_longer_used_is_no_longer_sent() {
    let mut pair = Pair::new();
    pair.publish(shop());
    pair.ask("cart");
    pair.settle();
    pair.forget("cart");
    pair.settle();
    pair.received();
    pair.publish([endpoint("shop/cart", "cart-9", "127.7.0.2:20000"), service("shop/cart", &[], &[])]);
    pair.settle();
    assert!(pair.received().is_empty());
    assert_eq!(pair.state.resources.all(Kind::Service).count(), 0);
    assert_eq!(pair.state.resources.all(Kind::Endpoint).count(), 0);
    let slot = pair.ask("cart");
    pair.settle();
    assert_eq!(workloads(&found(&slot)).len(), 3);
}

struct Get;

impl engine::RequestHead for Get {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        "/a"
    }
    fn query(&self) -> Option<&str> {
        None
    }
    fn authority(&self) -> &str {
        "cart"
    }
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Happening {
    Change(Vec<(Piece, bool)>),
    Ask(usize),
    Forget(usize),
    Carry(usize),
    Reconnect,
}

/// Something that can be published.
#[derive(Clone, Debug)]
enum Piece {
    /// Service number, whether it lists a route and a policy.
    Service(usize, bool, bool),
    /// Of service, number, port.
    Endpoint(usize, usize, u16),
    /// Of service, to service; may be one that no proxy accepts.
    Route(usize, usize, bool),
    Policy(usize, u64),
}

const SERVICES: [&str; 4] = ["shop/a", "shop/b", "other/a", "other/c"];
const NAMES: [&str; 6] = ["a", "b", "a.shop", "a.other", "c.other", "nothing"];

impl Piece {
    fn published(&self) -> Published {
        let r = |i: usize| format!("HTTPRoute/shop/r{i}");
        let p = |i: usize| format!("TrafficPolicy/shop/p{i}");
        match *self {
            Piece::Service(i, routed, policed) => {
                let (r, p) = (r(i), p(i));
                let routes: &[&str] = if routed { &[&r] } else { &[] };
                let policies: &[&str] = if policed { &[&p] } else { &[] };
                service(SERVICES[i], routes, policies)
            }
            Piece::Endpoint(i, n, port) => endpoint(SERVICES[i], &format!("w{n}"), &format!("127.7.0.2:{port}")),
            Piece::Route(i, _, true) => bad_route(&r(i), SERVICES[i]),
            Piece::Route(i, to, false) => route(&r(i), SERVICES[i], &[SERVICES[i], SERVICES[to]]),
            Piece::Policy(i, ms) => timeout(&p(i), SERVICES[i], ms),
        }
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        2 => (0..4_usize, any::<bool>(), any::<bool>()).prop_map(|(i, r, p)| Piece::Service(i, r, p)),
        3 => (0..4_usize, 0..3_usize, 1..4_u16).prop_map(|(i, n, port)| Piece::Endpoint(i, n, port)),
        1 => (0..4_usize, 0..4_usize, prop::bool::weighted(0.2)).prop_map(|(i, to, bad)| Piece::Route(i, to, bad)),
        1 => (0..4_usize, 1..4_u64).prop_map(|(i, ms)| Piece::Policy(i, ms)),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => prop::collection::vec((piece(), prop::bool::weighted(0.75)), 1..4).prop_map(Happening::Change),
        3 => (0..NAMES.len()).prop_map(Happening::Ask),
        1 => (0..NAMES.len()).prop_map(Happening::Forget),
        6 => (1..12_usize).prop_map(Happening::Carry),
        1 => Just(Happening::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, in the end the client holds what the server has, shows what a client that has
    /// just started shows, and a reconnect changes nothing.
    #[test]
    fn any_history_converges(history in prop::collection::vec(happening(), 1..60)) {
        let mut pair = Pair::new();
        pair.publish([trust(false)]);
        for happening in history {
            match happening {
                Happening::Change(pieces) => pair.publisher.apply(
                    pieces
                        .into_iter()
                        .map(|(piece, there)| (piece.published(), there))
                        .map(|(p, there)| if there { Upsert(p) } else { Change::Remove { kind: p.kind, name: p.name } })
                        .collect(),
                ),
                Happening::Ask(i) => _ = pair.ask(NAMES[i]),
                Happening::Forget(i) => pair.forget(NAMES[i]),
                Happening::Carry(n) => _ = (0..n).take_while(|_| pair.step()).count(),
                Happening::Reconnect => pair.connect(),
            }
        }
        pair.settle();
        agree(&pair);
        pair.connect();
        pair.settle();
        agree(&pair);
    }
}

/// Compares with the server, and with a client that starts now.
fn agree(pair: &Pair) {
    let mut fresh = Pair::with(pair.publisher.clone());
    for name in pair.slots.keys() {
        fresh.ask(name);
    }
    fresh.settle();
    let refused = |kind, name: &str| {
        let index = pair.publisher.lock();
        index.get(kind, name).is_some_and(|p| crate::compile::check(kind, name, &p.version, &p.body).is_err())
    };
    for kind in Kind::ALL {
        for (name, held) in pair.state.resources.all(kind) {
            let version = pair.publisher.lock().get(kind, name).map(|published| published.version.clone());
            assert!(refused(kind, name) || version.as_deref() == Some(held.version.as_str()), "{kind:?} {name}");
        }
        for (name, _) in fresh.state.resources.all(kind) {
            assert!(pair.state.resources.get(kind, name).is_some(), "{kind:?} {name} is missing");
        }
    }
    let keeps_refused = pair.state.resources.all(Kind::Route).any(|(name, _)| refused(Kind::Route, name));
    for (name, slot) in &pair.slots {
        match (resolution(slot), resolution(&fresh.slots[name])) {
            // What is incomplete now may have been complete before, and stays; so does what is refused.
            (_, Resolution::Pending) | (Resolution::NotFound, Resolution::NotFound) => {}
            // Of a route that is refused now, the last good version stays, and may wait for a backend, or for what that needs,
            // that the new client never hears of.
            (Resolution::Pending, Resolution::Found(_)) if keeps_refused => {}
            (Resolution::Found(_), Resolution::Found(_)) if keeps_refused && !pair.state.settled() => {}
            (Resolution::Found(old), Resolution::Found(new)) => same(&old, &new),
            (old, new) => panic!("{name}: {}, but a new client sees {}", word(&old), word(&new)),
        }
    }
}

fn word(resolution: &Resolution) -> &str {
    match resolution {
        Resolution::Pending => "pending",
        Resolution::NotFound => "not found",
        Resolution::Found(destination) => &destination.name,
    }
}

fn same(old: &Destination, new: &Destination) {
    assert_eq!(old.name, new.name);
    let dials = |d: &Destination| {
        let set = d.ports[0].backend.endpoints.load_full();
        set.endpoints().iter().map(|e| (e.workload.clone(), e.dial.clone())).collect::<Vec<_>>()
    };
    assert_eq!(dials(old), dials(new), "{}", old.name);
    assert_eq!(old.ports[0].implicit.policy, new.ports[0].implicit.policy, "{}", old.name);
}

/// Endpoints one by one, and endpoints anew: the same set, however they came and went.
#[test]
fn changes_of_single_endpoints_add_up() {
    let mut pair = Pair::new();
    pair.publish([service("shop/cart", &[], &[])]);
    let slot = pair.ask("cart.shop");
    pair.settle();
    let mut random = engine::Rng::seeded(7);
    for round in 0..200 {
        for _ in 0..=random.below(3) {
            let name = format!("cart-{}", random.below(12));
            let change = match random.below(3) {
                0 => remove(Kind::Endpoint, &format!("shop/cart/{name}")),
                dial => Upsert(endpoint("shop/cart", &name, &format!("127.0.0.{dial}:15006"))),
            };
            pair.publisher.apply(vec![change]);
        }
        let before = found(&slot).ports[0].backend.endpoints.load_full();
        pair.settle();
        let after = found(&slot).ports[0].backend.endpoints.load_full();
        let known = after.endpoints().iter().filter(|new| before.endpoints().iter().any(|old| Arc::ptr_eq(new, old)));
        assert!(known.count() + 3 >= after.endpoints().len(), "round {round}: what did not change is the same object");
        let mut fresh = new_state();
        let mut wanted = Vec::new();
        for (name, held) in pair.state.resources.all(Kind::Endpoint) {
            fresh.restore(Kind::Endpoint, name, held.version.clone(), held.bytes.clone()).unwrap();
            wanted.push(fresh.resources.endpoint(name).unwrap().workload().to_owned());
        }
        let seen: Vec<_> = after.endpoints().iter().map(|endpoint| endpoint.workload.to_string()).collect();
        assert!(seen.is_sorted(), "{seen:?}");
        wanted.sort();
        assert_eq!(seen, wanted, "round {round}");
        for endpoint in after.endpoints() {
            let name = endpoint.workload.replacen("shop/", "shop/cart/", 1);
            let held = mesh::Endpoint::decode(&pair.state.resources.get(Kind::Endpoint, &name).unwrap().bytes[..]);
            let engine::balance::Dial::Mesh { address, .. } = &endpoint.dial else { panic!("no sidecar") };
            assert_eq!(address.to_string(), held.unwrap().dial, "round {round}");
        }
    }
}
