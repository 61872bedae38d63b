use std::time::Duration;

use api::{ConditionStatus, Kind, Object, Parsed, Spec};
use sources::{Sink, Store};

use super::*;

const SHOP: &str = r"
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: cart}]
  rules:
  - matches: [{path: {type: RegularExpression, value: /a.*}}]
    backendRefs: [{name: cart, port: 80}]
---
apiVersion: heddle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  action: allow
  rules:
  - from: [{addresses: [10.0.0.0/8]}]
";

struct Fixture {
    world: World,
    store: Store,
    sink: Sink,
}

impl Fixture {
    fn new() -> Fixture {
        let store = Store::new();
        let sink = store.sink();
        sink.loaded();
        let config = Config::new("unused", Vec::new());
        let world = World::new(&config, vec![vec![1]]);
        world.begin(Publisher::new(Duration::ZERO), "cluster.local");
        Fixture { world, store, sink }
    }

    /// Takes these manifests, each object changed by `change` after it was validated.
    fn take(&self, text: &str, change: impl Fn(&mut Object)) {
        let mut objects = api::parse("shop.yaml", text.as_bytes()).objects;
        objects.iter_mut().for_each(change);
        self.sink.replace("shop.yaml", Parsed { objects, ..Parsed::default() });
        self.world.objects(self.store.snapshot());
    }

    fn register(&self, name: &str, address: &str) -> StreamId {
        let registration = crate::instances::tests::registration(name, address);
        let identity = spiffe::Id::new("cluster.local", "shop", "cart").unwrap();
        self.world.register(&registration, &identity, "1").unwrap()
    }

    fn names(&self, kind: xds::Kind) -> Vec<String> {
        self.world.state().published.keys().filter(|(k, _)| *k == kind).map(|(_, name)| name.clone()).collect()
    }

    fn version(&self, kind: xds::Kind, name: &str) -> String {
        self.world.state().published[&(kind, name.to_owned())].published.version.clone()
    }

    fn programmed(&self, kind: Kind) -> (bool, String) {
        let conditions = self.world.state().conditions_of(&ObjectKey::new(kind, "shop", "cart"));
        let one = conditions.into_iter().find(|c| c.kind == "Programmed").unwrap();
        (one.status == ConditionStatus::True, one.message)
    }
}

fn break_route(object: &mut Object) {
    if let Spec::HttpRoute(route) = &mut object.spec {
        route.rules[0].matches[0].path = Some(api::PathMatch::Regex("(".into()));
    }
}

const ROUTE: (xds::Kind, &str) = (xds::Kind::Route, "HTTPRoute/shop/cart");

#[test]
fn what_does_not_compile_is_not_published_and_the_last_good_version_stays() {
    let fixture = Fixture::new();
    fixture.take(SHOP, |_| {});
    assert_eq!(fixture.programmed(Kind::HttpRoute), (true, String::new()));
    let good = fixture.version(ROUTE.0, ROUTE.1);

    fixture.take(SHOP, break_route);
    assert_eq!(fixture.version(ROUTE.0, ROUTE.1), good);
    let (programmed, message) = fixture.programmed(Kind::HttpRoute);
    assert!(!programmed && message.contains("http[0].matches[0]"), "{message}");
    let problems = fixture.world.state().problems();
    assert!(problems.iter().any(|p| p.is_error() && p.file.as_deref() == Some("shop.yaml")), "{problems:?}");

    fixture.take(SHOP, |_| {});
    assert!(fixture.programmed(Kind::HttpRoute).0);
    fixture.take("", |_| {});
    assert!(fixture.names(xds::Kind::Route).is_empty());

    fixture.take(SHOP, break_route);
    assert!(fixture.names(xds::Kind::Route).is_empty(), "there never was a good version");
    assert!(fixture.world.state().problems().iter().any(Diagnostic::is_error));
    fixture.take("", |_| {});
    assert!(fixture.world.state().problems().is_empty());
}

#[test]
fn an_authorization_policy_that_does_not_compile_denies() {
    use prost::Message as _;
    let fixture = Fixture::new();
    fixture.take(SHOP, |object| {
        if let Spec::AuthorizationPolicy(policy) = &mut object.spec {
            policy.rules[0].from[0].addresses = vec!["nowhere".into()];
        }
    });
    let state = fixture.world.state();
    let published = &state.published[&(xds::Kind::Policy, "AuthorizationPolicy/shop/cart".to_owned())].published;
    let policy = mesh::Policy::decode(published.body.as_slice()).unwrap();
    let Some(mesh::policy::Kind::Authorization(rules)) = policy.kind else { panic!() };
    assert!(rules.rules.is_empty() && !rules.unusable.is_empty());
    drop(state);
    assert!(!fixture.programmed(Kind::AuthorizationPolicy).0);
}

#[test]
fn what_a_proxy_refuses_is_said_of_the_object_until_it_is_over() {
    let fixture = Fixture::new();
    fixture.take(SHOP, |_| {});
    let origin = mesh::Origin { kind: "HTTPRoute".into(), namespace: "shop".into(), name: "cart".into() };
    let refusal = mesh::Refusal {
        name: ROUTE.1.into(),
        version: "1".into(),
        origin: Some(origin),
        field: "http[0]".into(),
        reason: "this proxy is too old".into(),
    };
    let refused = |node: &str| Report::Refused { node: node.into(), kind: ROUTE.0, refusal: refusal.clone() };
    fixture.world.proxy_said(refused("shop/web-0"));
    fixture.world.proxy_said(refused("shop/web-1"));
    let (programmed, message) = fixture.programmed(Kind::HttpRoute);
    assert!(!programmed && message.contains("shop/web-0: http[0]: this proxy is too old"), "{message}");
    assert_eq!(fixture.world.state().problems().len(), 2 + fixture.store.snapshot().problems.len());
    for node in ["shop/web-0", "shop/web-1"] {
        fixture.world.proxy_said(Report::Cleared { node: node.into(), kind: ROUTE.0, name: ROUTE.1.into() });
    }
    assert!(fixture.programmed(Kind::HttpRoute).0);
    for n in 0..2 * REFUSALS {
        fixture.world.proxy_said(refused(&format!("shop/w-{n}")));
    }
    assert_eq!(fixture.world.state().refused.len(), REFUSALS);
}

#[test]
fn an_instance_touches_its_own_resources_alone() {
    let fixture = Fixture::new();
    fixture.take(SHOP, |_| {});
    let service = fixture.version(xds::Kind::Service, "shop/cart");
    let stream = fixture.register("cart-0", "10.1.0.1");
    fixture.register("cart-1", "10.1.0.2");
    let endpoints = ["shop/@cart-0/cart-0", "shop/@cart-1/cart-1", "shop/cart/cart-0", "shop/cart/cart-1"];
    assert_eq!(fixture.names(xds::Kind::Endpoint), endpoints);
    assert_eq!(fixture.version(xds::Kind::Service, "shop/cart"), service);
    assert_eq!(fixture.world.state().endpoints_of("shop", "cart"), 2);

    let draining = mesh::StateChange { state: mesh::State::Draining.into(), reason: String::new() };
    fixture.world.instance_state("shop/cart-0", stream, &draining);
    fixture.world.ended("shop/cart-0", stream, true);
    assert_eq!(fixture.names(xds::Kind::Endpoint), ["shop/@cart-1/cart-1", "shop/cart/cart-1"]);
    assert_eq!(fixture.names(xds::Kind::Workload), ["shop/cart-1"]);
    assert_eq!(fixture.names(xds::Kind::Service), ["shop/@cart-1", "shop/cart"]);

    fixture.take(&SHOP.replace("app: cart", "app: other"), |_| {});
    assert!(fixture.names(xds::Kind::Endpoint).is_empty(), "nothing selects it, and it declares no port");
    fixture.take(SHOP, |_| {});
    assert_eq!(fixture.names(xds::Kind::Endpoint).len(), 2);
}

#[test]
fn an_address_stands_for_one_instance_and_never_for_a_service() {
    let fixture = Fixture::new();
    fixture.take(&SHOP.replace("selector:", "clusterIP: 10.9.9.9, selector:"), |_| {});
    let first = fixture.register("cart-0", "10.1.0.1");
    fixture.register("cart-1", "10.1.0.1");
    fixture.register("cart-2", "127.0.0.1");
    fixture.register("cart-3", "10.9.9.9");
    assert_eq!(fixture.names(xds::Kind::Service), ["shop/@cart-0", "shop/cart"]);
    let draining = mesh::StateChange { state: mesh::State::Draining.into(), reason: String::new() };
    fixture.world.instance_state("shop/cart-0", first, &draining);
    fixture.world.ended("shop/cart-0", first, true);
    assert_eq!(fixture.names(xds::Kind::Service), ["shop/@cart-1", "shop/cart"], "the next one inherits it");
}

#[test]
fn an_instance_that_moves_leaves_its_address_to_others() {
    let fixture = Fixture::new();
    let at = |address: &str| {
        format!(
            "{SHOP}---\napiVersion: heddle.dev/v1alpha1\nkind: Workload\nmetadata: {{name: old, namespace: shop, labels: {{app: cart}}}}\n\
             spec: {{address: {address}, ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    fixture.take(&at("10.1.0.1"), |_| {});
    fixture.register("cart-0", "10.1.0.1");
    assert_eq!(fixture.names(xds::Kind::Service), ["shop/@old", "shop/cart"]);
    fixture.take(&at("10.1.0.2"), |_| {});
    assert_eq!(fixture.names(xds::Kind::Service), ["shop/@cart-0", "shop/@old", "shop/cart"]);
    let owners: Vec<String> = fixture.world.state().addresses.iter().map(|(at, of)| format!("{at} {of}")).collect();
    assert_eq!(owners, ["10.1.0.1:80 shop/cart-0", "10.1.0.2:80 shop/old"]);
}

#[test]
fn services_of_a_namespace_are_listed_within_bounds() {
    let fixture = Fixture::new();
    let service = |namespace: &str, n: usize| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s-{n:04}, namespace: {namespace}}}\n\
             spec: {{ports: [{{name: b, port: 90}}, {{name: a, port: 80}}]}}\n"
        )
    };
    let text: String = (0..=LISTED / 2).map(|n| service("shop", n)).chain([service("bank", 0)]).collect();
    fixture.take(&text, |_| {});
    let state = fixture.world.state();
    let bank = state.services_in("bank");
    assert_eq!((bank.len(), bank[0].name.as_str()), (1, "s-0000"));
    let ports: Vec<_> = bank[0].ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
    assert_eq!(ports, [("a", 80), ("b", 90)]);
    assert_eq!(state.services_in("shop").len(), LISTED / 2, "the first ones by name");
    assert!(state.services_in("nobody").is_empty());
}
