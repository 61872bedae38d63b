use std::sync::Arc;

use api::ConditionStatus;
use proptest::prelude::*;
use prost::Message;
use sources::Store;

use super::*;

const MESH_YAML: &str = include_str!("tests/mesh.yaml");

fn snapshot(text: &str) -> Arc<Snapshot> {
    let parsed = api::parse("test.yaml", text.as_bytes());
    assert!(parsed.failed.is_empty(), "{:?}", parsed.diagnostics);
    let store = Store::new();
    let sink = store.sink();
    sink.replace("test.yaml", parsed);
    sink.loaded();
    store.snapshot()
}

fn translated(text: &str) -> Translation {
    objects(&snapshot(text), "cluster.local", &[vec![2], vec![1]])
}

fn find<M: Message + Default>(translation: &Translation, kind: xds::Kind, name: &str) -> M {
    let found = translation.resources.iter().find(|r| r.published.kind == kind && r.published.name == name);
    let names: Vec<_> = translation.resources.iter().map(|r| r.published.name.as_str()).collect();
    let found = found.unwrap_or_else(|| panic!("no {name} among {names:?}"));
    M::decode(found.published.body.as_slice()).unwrap()
}

fn condition(translation: &Translation, kind: Object, name: &str, of: &str) -> (bool, String) {
    let key = ObjectKey::new(kind, "shop", name);
    let conditions = translation.conditions.of(&key);
    let one = conditions.iter().find(|c| c.kind == of).unwrap_or_else(|| panic!("{key} has no {of}: {conditions:?}"));
    (one.status == ConditionStatus::True, one.reason.clone())
}

fn member(name: &str, labels: &[(&str, &str)]) -> Member {
    Member {
        namespace: "shop".into(),
        name: name.into(),
        service_account: "cart".into(),
        endpoint: true,
        address: "127.20.0.1".parse().unwrap(),
        dial: Some("127.20.0.1:15006".parse().unwrap()),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        services: BTreeSet::new(),
        ports: vec![MemberPort { name: "web".into(), port: 8080, protocol: mesh::Protocol::Auto }],
        weight: 1,
        region: String::new(),
        zone: String::new(),
        priority: 0,
        health: mesh::Health::Ready,
    }
}

#[test]
fn everything_compiles() {
    let translation = translated(MESH_YAML);
    for resource in &translation.resources {
        let p = &resource.published;
        let checked = xds::compile::check(p.kind, &p.name, &p.version, &p.body);
        assert!(checked.is_ok(), "{}: {checked:?}", p.name);
    }
    let cart = member("cart-0", &[("app", "cart")]);
    for p in translation.index.member(&cart, |_| true) {
        let checked = xds::compile::check(p.kind, &p.name, &p.version, &p.body);
        assert!(checked.is_ok(), "{}: {checked:?}", p.name);
    }
}

#[test]
fn a_service_has_its_names_routes_and_policies() {
    let translation = translated(MESH_YAML);
    let cart: mesh::Service = find(&translation, xds::Kind::Service, "shop/cart");
    assert_eq!(cart.hosts, ["cart.shop.svc.cluster.local", "cart.shop.svc", "cart.shop", "cart"]);
    assert_eq!(cart.addresses, ["10.0.0.7"]);
    assert_eq!(cart.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [80, 9000]);
    assert_eq!(cart.routes, ["GRPCRoute/shop/calls", "HTTPRoute/shop/split"]);
    assert_eq!(cart.policies, ["TrafficPolicy/shop/of-cart", "TrafficPolicy/shop/of-route"]);
    let resource = translation.resources.iter().find(|r| r.published.name == "shop/cart").unwrap();
    let aliases: Vec<_> =
        resource.published.aliases.iter().map(|a| (a.name.as_str(), a.namespace.as_deref())).collect();
    assert_eq!(
        aliases,
        [
            ("10.0.0.7:80", None),
            ("10.0.0.7:9000", None),
            ("cart", Some("shop")),
            ("cart.shop", None),
            ("cart.shop.svc", None),
            ("cart.shop.svc.cluster.local", None),
        ]
    );
}

#[test]
fn backends_that_cannot_be_used_are_invalid_and_said() {
    let translation = translated(MESH_YAML);
    let route: mesh::Route = find(&translation, xds::Kind::Route, "HTTPRoute/shop/split");
    let backends = &route.http[0].backends;
    let usable: Vec<_> = backends.iter().map(|b| (b.service.as_str(), b.weight, b.invalid.is_empty())).collect();
    assert_eq!(
        usable,
        [
            ("shop/cart", 90, true),
            ("shop/nothing", 5, false),
            ("bank/vault", 3, false),
            ("bank/open", 1, true),
            ("shop/cart", 1, false),
        ]
    );
    assert!(backends[2].invalid.contains("ReferenceGrant"), "{}", backends[2].invalid);
    assert!(backends[4].invalid.contains("no port 81"), "{}", backends[4].invalid);
    let resolved = condition(&translation, Object::HttpRoute, "split", "ResolvedRefs");
    assert_eq!(resolved, (false, "BackendNotFound".into()));
    assert!(condition(&translation, Object::HttpRoute, "split", "Accepted").0);
    assert!(condition(&translation, Object::HttpRoute, "split", "Programmed").0);
}

#[test]
fn grpc_methods_are_paths() {
    let translation = translated(MESH_YAML);
    let route: mesh::Route = find(&translation, xds::Kind::Route, "GRPCRoute/shop/calls");
    assert!(route.grpc);
    let path = route.http[0].matches[0].path.clone().unwrap().kind.unwrap();
    assert_eq!(path, mesh::path_match::Kind::Exact("/shop.Cart/Get".into()));
}

#[test]
fn routes_attach_to_the_listeners_that_take_them() {
    let translation = translated(MESH_YAML);
    let gateway: mesh::Gateway = find(&translation, xds::Kind::Gateway, "shop/front");
    let attached: Vec<_> = gateway.listeners.iter().map(|l| (l.name.as_str(), l.routes.clone())).collect();
    assert_eq!(
        attached,
        [
            ("web", vec!["HTTPRoute/shop/front".to_owned()]),
            ("admin", vec![]),
            ("raw", vec!["TCPRoute/shop/raw".to_owned()]),
        ]
    );
    assert_eq!(gateway.routes, ["HTTPRoute/shop/front", "TCPRoute/shop/raw"]);
    for (route, reason) in [
        ("nowhere", "NoMatchingParent"),
        ("no-listener", "NoMatchingParent"),
        ("other-host", "NoMatchingListenerHostname"),
    ] {
        let accepted = condition(&translation, Object::HttpRoute, route, "Accepted");
        assert_eq!(accepted, (false, reason.into()), "{route}");
        assert!(!condition(&translation, Object::HttpRoute, route, "Programmed").0, "{route}");
    }
    let key = ObjectKey::new(Object::HttpRoute, "bank", "intruder");
    let accepted = &translation.conditions.of(&key)[0];
    assert_eq!((accepted.kind.as_str(), accepted.reason.as_str()), ("Accepted", "NotAllowedByListeners"));
}

#[test]
fn policies_reach_their_targets() {
    let translation = translated(MESH_YAML);
    let missing = condition(&translation, Object::TrafficPolicy, "of-nothing", "Accepted");
    assert_eq!(missing, (false, "TargetNotFound".into()));
    let policy: mesh::Policy = find(&translation, xds::Kind::Policy, "AuthorizationPolicy/shop/everybody");
    assert_eq!((policy.targets[0].kind.as_str(), policy.targets[0].name.as_str()), ("Namespace", "shop"));
    let policy: mesh::Policy = find(&translation, xds::Kind::Policy, "AuthorizationPolicy/shop/of-cart");
    let Some(mesh::policy::Kind::Authorization(rules)) = policy.kind else { panic!("{policy:?}") };
    assert_eq!(rules.rules.len(), 2, "every caller with every operation");
    assert_eq!(rules.rules[0].identities, ["spiffe://cluster.local/ns/shop/sa/web"]);
    assert_eq!(rules.rules[1].methods, ["POST"]);

    let guarded = |m: &Member| {
        let published = translation.index.member(m, |_| false);
        let own = published.iter().find(|p| p.kind == xds::Kind::Workload).unwrap();
        mesh::Workload::decode(own.body.as_slice()).unwrap()
    };
    let cart = guarded(&member("cart-0", &[("app", "cart")]));
    assert_eq!(cart.policies, ["AuthorizationPolicy/shop/everybody", "AuthorizationPolicy/shop/of-cart"]);
    let ports: Vec<_> = cart.ports.iter().map(|p| (p.port, p.service.as_str(), p.service_port)).collect();
    assert_eq!(ports, [(8080, "shop/cart", 80), (9000, "shop/cart", 9000)]);
    assert_eq!(guarded(&member("web-0", &[("app", "web")])).policies, ["AuthorizationPolicy/shop/everybody"]);
}

#[test]
fn an_instance_is_an_endpoint_of_what_selects_or_is_named() {
    let translation = translated(MESH_YAML);
    let names = |m: &Member, own: bool| -> Vec<String> {
        let published = translation.index.member(m, |_| own);
        published.into_iter().filter(|p| p.kind != xds::Kind::Workload).map(|p| p.name).collect()
    };
    let cart = member("cart-0", &[("app", "cart"), ("extra", "x")]);
    assert_eq!(names(&cart, false), ["shop/cart/cart-0"]);
    assert_eq!(names(&cart, true), ["shop/cart/cart-0", "shop/@cart-0", "shop/@cart-0/cart-0"]);
    assert_eq!(translation.index.services_of(&cart), ["shop/cart"]);
    let named = Member { services: ["cart".to_owned()].into(), ..member("named", &[]) };
    assert_eq!(names(&named, false), ["shop/cart/named"]);
    assert_eq!(names(&member("none", &[("app", "carts")]), false), Vec::<String>::new());
    let without = Member { ports: Vec::new(), ..cart.clone() };
    let published = translation.index.member(&without, |_| false);
    let endpoint = mesh::Endpoint::decode(published[0].body.as_slice()).unwrap();
    let ports: Vec<_> = endpoint.ports.iter().map(|p| (p.service_port, p.target_port)).collect();
    assert_eq!(ports, [(9000, 9000)], "a port name that the instance does not know is left out");
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/shop/sa/cart");
    let gateway = Member { endpoint: false, ..member("gate", &[]) };
    assert_eq!(names(&gateway, true), Vec::<String>::new());
}

#[test]
fn workload_objects_are_instances_with_or_without_a_sidecar() {
    let snapshot = snapshot(MESH_YAML);
    let translation = objects(&snapshot, "cluster.local", &[]);
    let endpoints: Vec<mesh::Endpoint> = written(&snapshot)
        .flat_map(|(_, m)| translation.index.member(&m, |_| false))
        .filter(|p| p.kind == xds::Kind::Endpoint)
        .map(|p| mesh::Endpoint::decode(p.body.as_slice()).unwrap())
        .collect();
    let reached: Vec<_> =
        endpoints.iter().map(|e| (e.workload.as_str(), e.dial.as_str(), e.identity.is_empty())).collect();
    assert_eq!(reached, [("shop/legacy", "", true), ("shop/remote", "10.1.0.2:15006", false)]);
}

#[test]
fn the_mesh_object_called_default_counts() {
    let trust: mesh::Trust = find(&translated(MESH_YAML), xds::Kind::Trust, proto::TRUST_NAME);
    assert!(trust.strict && !trust.registered_only);
    assert_eq!(trust.roots, [vec![1], vec![2]], "sorted");
    let none: mesh::Trust = find(&translated(""), xds::Kind::Trust, proto::TRUST_NAME);
    assert!(!none.strict);
    let changed = MESH_YAML.replace("trustDomain: cluster.local", "trustDomain: other.example");
    let key = ObjectKey::new(Object::Mesh, "", "default");
    let translation = translated(&changed);
    assert!(translation.conditions.of(&key).iter().any(|c| c.reason == "RestartNeeded"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_instance_belongs_to_the_services_whose_whole_selector_it_has(
        services in prop::collection::vec(prop::collection::btree_map("[ab]", "[xy]", 0..=2), 0..6),
        labels in prop::collection::btree_map("[abc]", "[xy]", 0..=3),
        named in prop::collection::btree_set(0..6_usize, 0..=2),
    ) {
        let name = |number: usize| format!("s{number}");
        let text: Vec<String> = services.iter().enumerate().map(|(number, selector)| {
            let selector: Vec<String> = selector.iter().map(|(label, value)| format!("{label}: {value:?}")).collect();
            let name = name(number);
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{selector: {{{}}}, ports: [{{port: 80}}]}}}}",
                selector.join(", "))
        }).collect();
        let one = Member { labels, services: named.iter().copied().map(name).collect(), ..member("one", &[]) };
        let has = |selector: &BTreeMap<String, String>| {
            !selector.is_empty() && selector.iter().all(|(label, value)| one.labels.get(label) == Some(value))
        };
        let expected: Vec<String> = services.iter().enumerate()
            .filter(|(number, selector)| has(selector) || named.contains(number))
            .map(|(number, _)| format!("shop/s{number}")).collect();
        prop_assert_eq!(translated(&text.join("\n---\n")).index.services_of(&one), expected);
    }

    #[test]
    fn the_order_of_objects_means_nothing(seed in any::<u64>()) {
        let documents: Vec<&str> = MESH_YAML.split("\n---\n").collect();
        let mut shuffled = documents.clone();
        let mut rng = engine::Rng::seeded(seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, rng.below(u32::try_from(i + 1).unwrap()) as usize);
        }
        let (one, two) = (translated(&documents.join("\n---\n")), translated(&shuffled.join("\n---\n")));
        let sorted = |t: Translation| {
            let mut list = t.resources;
            list.sort_by(|a, b| (a.published.kind, &a.published.name).cmp(&(b.published.kind, &b.published.name)));
            list
        };
        prop_assert_eq!(&one.conditions, &two.conditions);
        prop_assert_eq!(sorted(one), sorted(two));
    }
}

#[test]
fn a_policy_with_too_many_pairs_denies_and_says_so() {
    let policy = |from: usize| {
        let callers = "{serviceAccounts: [shop/web]}, ".repeat(from);
        let to = "{methods: [GET]}, ".repeat(64);
        let text = format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: large, namespace: shop}}\n\
             spec: {{action: allow, rules: [{{from: [{callers}], to: [{to}]}}]}}"
        );
        let name = "AuthorizationPolicy/shop/large";
        let translation = translated(&text);
        let policy: mesh::Policy = find(&translation, xds::Kind::Policy, name);
        let Some(mesh::policy::Kind::Authorization(rules)) = policy.kind else { panic!("{policy:?}") };
        (rules, condition(&translation, Object::AuthorizationPolicy, "large", "Accepted"))
    };
    let (most, _) = policy(64);
    assert_eq!((most.rules.len(), most.unusable.as_str()), (4096, ""));
    let (more, said) = policy(65);
    assert_eq!(said, (false, "Unusable".to_owned()));
    assert!(more.rules.is_empty() && more.unusable.contains("4160 pairs") && more.unusable.contains("split it"));
}
