use std::sync::Mutex;

use engine::authorize::Action;
use engine::balance::{Dial, Health};
use engine::policy::{BalancePolicy, RetryPolicy};
use engine::route::HostMatch;
use engine::{Nanos, RequestHead};
use proto::mesh;

use super::resources::Resources;
use super::route::{hostname, intersect};
use super::*;
use crate::samples::{decode, endpoint, route, service, timeout};
use crate::server::Published;

fn hold(list: impl IntoIterator<Item = Published>) -> Resources {
    let mut resources = Resources::default();
    for p in list {
        let body = parse(p.kind, &p.name, &p.version, &p.body).unwrap();
        resources.insert(p.kind, &p.name, p.version, p.body, body);
    }
    resources
}

fn compiler() -> Compiler {
    Compiler::new(Arc::new(|_| SeriesId(0)), engine::balance::Locality::default())
}

struct Get(&'static str, &'static str);

impl RequestHead for Get {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        self.1
    }
    fn query(&self) -> Option<&str> {
        None
    }
    fn authority(&self) -> &str {
        self.0
    }
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

fn traffic(name: &str, created: i64, target: (&str, &str, &str), rules: mesh::TrafficRules) -> Published {
    let (kind, object, section) = target;
    let policy = mesh::Policy {
        targets: vec![mesh::PolicyTarget {
            kind: kind.into(),
            namespace: "shop".into(),
            name: object.into(),
            section: section.into(),
        }],
        kind: Some(mesh::policy::Kind::Traffic(rules)),
        created_unix_ms: created,
        ..mesh::Policy::default()
    };
    Published::new(Kind::Policy, name, &policy, Vec::new())
}

fn ms(request: u64) -> mesh::TrafficRules {
    mesh::TrafficRules { request_timeout_ms: Some(request), ..mesh::TrafficRules::default() }
}

fn guard(name: &str, rules: mesh::AuthorizationRules) -> Published {
    let kind = Some(mesh::policy::Kind::Authorization(rules));
    Published::new(Kind::Policy, name, &mesh::Policy { kind, ..mesh::Policy::default() }, Vec::new())
}

fn refusal(published: &Published) -> Refusal {
    *check(published.kind, &published.name, &published.version, &published.body).expect_err("it is wrong")
}

#[test]
fn policies_merge_field_by_field_from_the_mesh_to_the_rule() {
    let names = [
        "TrafficPolicy/shop/mesh",
        "TrafficPolicy/shop/service",
        "TrafficPolicy/shop/port",
        "TrafficPolicy/shop/route",
    ];
    let resources = hold([
        service("shop/cart", &["HTTPRoute/shop/r"], &names),
        route("HTTPRoute/shop/r", "shop/cart", &["shop/cart"]),
        traffic(
            names[0],
            0,
            ("Mesh", "", ""),
            mesh::TrafficRules {
                connect_timeout_ms: Some(11),
                attempt_timeout_ms: Some(12),
                retry: Some(mesh::RetryRules { attempts: 0, ..mesh::RetryRules::default() }),
                ..ms(13)
            },
        ),
        traffic(names[1], 0, ("Service", "cart", ""), mesh::TrafficRules { attempt_timeout_ms: Some(22), ..ms(23) }),
        traffic(names[2], 0, ("Service", "cart", "other"), ms(99)),
        traffic(names[3], 0, ("HTTPRoute", "r", ""), mesh::TrafficRules { idle_timeout_ms: Some(0), ..ms(33) }),
    ]);
    let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
    let port = destination.port(80).unwrap();
    let implicit = &port.implicit.policy;
    assert_eq!(implicit.request_timeout, Some(Nanos::from_millis(23)));
    assert_eq!(implicit.attempt_timeout, Some(Nanos::from_millis(22)));
    assert_eq!(implicit.connect_timeout, Nanos::from_millis(11));
    assert_eq!(implicit.retry.attempts, 0);
    assert_eq!(implicit.retry.on, RetryPolicy::default().on);
    let rule = port.http.as_ref().unwrap().find(&Get("cart", "/")).unwrap().rule;
    assert_eq!(rule.policy.request_timeout, Some(Nanos::from_millis(33)));
    assert_eq!(rule.policy.attempt_timeout, Some(Nanos::from_millis(22)));
    assert_eq!(rule.policy.idle_timeout, None);
    assert_eq!(&*rule.name, "HTTPRoute/shop/r/0");
}

#[test]
fn of_two_policies_on_one_object_the_older_wins_then_the_name() {
    let merged = |first: i64, second: i64| {
        let names = ["TrafficPolicy/shop/a", "TrafficPolicy/shop/b"];
        let resources = hold([
            service("shop/cart", &[], &names),
            traffic(names[0], first, ("Service", "cart", ""), ms(1)),
            traffic(names[1], second, ("Service", "cart", ""), ms(2)),
        ]);
        let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
        destination.ports[0].implicit.policy.request_timeout.unwrap().0 / 1_000_000
    };
    assert_eq!([merged(5, 5), merged(5, 4), merged(4, 5)], [1, 2, 1]);
}

#[test]
fn balancing_is_put_together_field_by_field_and_says_from_where() {
    use engine::policy::{Algorithm, CheckPolicy, HashKey, HealthCheck, Probe};
    let names = ["TrafficPolicy/shop/of-cart", "TrafficPolicy/shop/of-mesh"];
    let cookie = mesh::AffinityCookie { name: "sid".into(), lifetime_seconds: 60 };
    let affinity = mesh::AffinityRules { kind: Some(mesh::affinity_rules::Kind::Cookie(cookie)) };
    let of_cart = mesh::TrafficRules { prefer_local: Some(false), affinity: Some(affinity), ..Default::default() };
    let of_mesh = mesh::TrafficRules {
        algorithm: "random".into(),
        prefer_local: Some(true),
        panic_percent: Some(7),
        outlier: Some(mesh::OutlierRules { consecutive_failures: Some(0), ..Default::default() }),
        health_check: Some(mesh::HealthCheckRules {
            kind: Some(mesh::health_check_rules::Kind::Tcp(mesh::TcpCheck {})),
            interval_ms: 1000,
            timeout_ms: 500,
            healthy_threshold: 0,
            unhealthy_threshold: 4,
        }),
        ..Default::default()
    };
    let resources = hold([
        service("shop/cart", &[], &names),
        traffic(names[0], 0, ("Service", "cart", ""), of_cart),
        traffic(names[1], 0, ("Mesh", "", ""), of_mesh),
        endpoint("shop/cart", "cart-1", "127.7.0.2:15006"),
    ]);
    let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
    let set = destination.ports[0].backend.endpoints.load();
    let policy = set.policy();
    assert_eq!((policy.algorithm, policy.prefer_local, policy.panic_percent), (Algorithm::Random, false, 7));
    let max_age = Some(Nanos::from_millis(60_000));
    assert_eq!(policy.hash, Some(HashKey::Cookie { name: "sid".into(), max_age }));
    let outlier = &policy.outlier;
    assert_eq!((outlier.consecutive_failures, outlier.consecutive_gateway_failures), (0, 0), "0 means all of them");
    let (interval, timeout) = (Nanos::from_millis(1000), Nanos::from_millis(500));
    let check = CheckPolicy { healthy_after: 1, unhealthy_after: 4 };
    assert_eq!(policy.check, Some(HealthCheck { probe: Probe::Tcp, interval, timeout, policy: check }));
    let from = |field: &str| policy.sources.iter().find(|s| s.field == field).map(|s| s.object.to_string());
    for (field, name) in [("loadBalancing.preferLocal", 0), ("sessionAffinity", 0), ("loadBalancing.algorithm", 1)] {
        assert_eq!(from(field).as_deref(), Some(names[name]), "{field}");
    }
    assert_eq!(from("loadBalancing.slowStart"), None, "nobody says anything of it");
}

#[test]
fn whoever_chooses_an_algorithm_chooses_whether_there_are_sessions() {
    use engine::policy::{Algorithm, HashKey};
    let key = |name: &str| mesh::RequestKey { kind: Some(mesh::request_key::Kind::Header(name.into())) };
    let of_mesh =
        || mesh::TrafficRules { algorithm: "maglev".into(), hash_key: Some(key("wide")), ..Default::default() };
    let merged = |of_cart: &[mesh::TrafficRules]| {
        let names: Vec<String> = (0..of_cart.len()).map(|i| format!("TrafficPolicy/shop/{i}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).chain(["TrafficPolicy/shop/mesh"]).collect();
        let narrow =
            names.iter().zip(of_cart).map(|(name, rules)| traffic(name, 0, ("Service", "cart", ""), rules.clone()));
        let wide =
            [service("shop/cart", &[], &all), traffic("TrafficPolicy/shop/mesh", 0, ("Mesh", "", ""), of_mesh())];
        let resources = hold(narrow.chain(wide).chain([endpoint("shop/cart", "cart-1", "127.7.0.2:15006")]));
        let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
        let set = destination.ports[0].backend.endpoints.load();
        (set.policy().algorithm, set.policy().hash.clone())
    };
    let header = |name: &str| Some(HashKey::Header(name.into()));
    let fastest = mesh::TrafficRules { algorithm: "fastest".into(), ..Default::default() };
    let narrow = mesh::TrafficRules { hash_key: Some(key("narrow")), ..Default::default() };
    assert_eq!(merged(&[]), (Algorithm::Maglev, header("wide")));
    assert_eq!(
        merged(std::slice::from_ref(&fastest)),
        (Algorithm::Fastest, None),
        "the mesh's key is not the service's"
    );
    assert_eq!(merged(std::slice::from_ref(&narrow)), (Algorithm::Maglev, header("narrow")));
    assert_eq!(merged(&[fastest, narrow]), (Algorithm::Fastest, header("narrow")), "two policies of one place add up");
}

#[test]
fn a_routes_own_timeouts_override_policies() {
    let mut one: mesh::Route = decode(&route("HTTPRoute/shop/r", "shop/cart", &["shop/cart"]));
    one.http[0].request_timeout_ms = Some(0);
    one.http[0].attempt_timeout_ms = Some(5);
    let resources = hold([
        service("shop/cart", &["HTTPRoute/shop/r"], &["TrafficPolicy/shop/p"]),
        Published::new(Kind::Route, "HTTPRoute/shop/r", &one, Vec::new()),
        timeout("TrafficPolicy/shop/p", "shop/cart", 700),
    ]);
    let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
    let rule = destination.ports[0].http.as_ref().unwrap().find(&Get("cart", "/")).unwrap().rule;
    assert_eq!(rule.policy.request_timeout, None);
    assert_eq!(rule.policy.attempt_timeout, Some(Nanos::from_millis(5)));
}

#[test]
fn routes_attach_by_parent_port_and_section() {
    let with = |change: &dyn Fn(&mut mesh::RouteParent)| {
        let mut one: mesh::Route = decode(&route("HTTPRoute/shop/r", "shop/cart", &["shop/cart"]));
        change(&mut one.parents[0]);
        let published = Published::new(Kind::Route, "HTTPRoute/shop/r", &one, Vec::new());
        let resources = hold([service("shop/cart", &["HTTPRoute/shop/r"], &[]), published]);
        let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
        destination.ports[0].http.is_some()
    };
    assert!(with(&|_| {}));
    assert!(with(&|parent| parent.port = 80));
    assert!(!with(&|parent| parent.port = 81));
    assert!(with(&|parent| parent.section = "http".into()));
    assert!(!with(&|parent| parent.section = "grpc".into()));
    assert!(!with(&|parent| parent.name = "other".into()));
    assert!(!with(&|parent| parent.kind = "Gateway".into()));
}

#[test]
fn a_tcp_route_takes_opaque_connections_and_leaves_http_alone() {
    let share = mesh::WeightedBackend { service: "shop/db".into(), port: 80, weight: 1, ..Default::default() };
    let mut one: mesh::Route = decode(&route("TCPRoute/shop/t", "shop/cart", &[]));
    one.http.clear();
    one.tcp = vec![mesh::TcpRule { name: String::new(), backends: vec![share] }];
    let resources = hold([
        service("shop/cart", &["TCPRoute/shop/t"], &[]),
        service("shop/db", &[], &[]),
        Published::new(Kind::Route, "TCPRoute/shop/t", &one, Vec::new()),
    ]);
    let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
    let port = &destination.ports[0];
    assert!(port.http.is_none());
    assert_eq!(&*port.tcp.name, "TCPRoute/shop/t/0");
    assert_eq!(&*port.tcp.backends.list[0].target.as_ref().unwrap().service, "shop/db");
    assert_eq!(&*port.implicit.backends.list[0].target.as_ref().unwrap().service, "shop/cart");
}

#[test]
fn an_endpoint_is_dialled_through_its_sidecar_or_in_plain_text() {
    let mut plain: mesh::Endpoint = decode(&endpoint("shop/cart", "cart-2", "127.7.0.2:15006"));
    plain.dial.clear();
    plain.identity.clear();
    plain.weight = 0;
    plain.health = mesh::Health::Draining.into();
    let mut elsewhere: mesh::Endpoint = decode(&endpoint("shop/cart", "cart-3", "127.7.0.2:15006"));
    elsewhere.ports[0].service_port = 81;
    let resources = hold([
        service("shop/cart", &[], &[]),
        endpoint("shop/cart", "cart-1", "127.7.0.2:15006"),
        Published::new(Kind::Endpoint, "shop/cart/cart-2", &plain, Vec::new()),
        Published::new(Kind::Endpoint, "shop/cart/cart-3", &elsewhere, Vec::new()),
    ]);
    let destination = compiler().destination(&resources, resources.service("shop/cart").unwrap());
    let set = destination.ports[0].backend.endpoints.load();
    assert_eq!(*set.policy(), BalancePolicy::default());
    let [mesh, plain] = set.endpoints() else { panic!("the third has no such port") };
    let identity = "spiffe://test/ns/shop/sa/default".into();
    let sni = "p8080.cart-1.shop.heddle".into();
    assert_eq!(mesh.dial, Dial::Mesh { address: "127.7.0.2:15006".parse().unwrap(), sni, identity });
    assert_eq!(plain.dial, Dial::Plain("127.7.0.1:8080".parse().unwrap()));
    assert_eq!((plain.weight, plain.health), (1, Health::Draining));
}

/// What leaves and comes back within a minute at the same place is known, also where all of a service's instances are looked at.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_comes_back_within_a_minute_is_known() {
    let one = |name: &str, dial: &str| endpoint("shop/cart", name, dial);
    let here = "127.7.0.2:15006";
    let mut resources = hold([service("shop/cart", &[], &[]), one("cart-1", here), one("cart-2", here)]);
    let mut compiler = compiler();
    let destination = compiler.destination(&resources, resources.service("shop/cart").unwrap());
    let backend = &destination.ports[0].backend;
    let load = |name: &str| {
        let set = backend.endpoints.load();
        set.endpoints().iter().find(|e| &*e.workload == name).map(|e| e.load.id)
    };
    let change = |compiler: &mut Compiler, resources: &mut Resources, dial: Option<&str>, whole: bool| {
        match dial.map(|dial| one("cart-2", dial)) {
            None => assert!(resources.remove(Kind::Endpoint, "shop/cart/cart-2")),
            Some(p) => {
                let body = parse(p.kind, &p.name, &p.version, &p.body).unwrap();
                resources.insert(p.kind, &p.name, p.version, p.body, body);
            }
        }
        let names = [String::from("cart-2")].into();
        compiler.refresh(resources, "shop/cart", if whole { None } else { Some(&names) });
    };
    let known = load("shop/cart-2").unwrap();
    for (leaves, comes) in [(false, false), (true, false), (false, true), (true, true)] {
        change(&mut compiler, &mut resources, None, leaves);
        assert_eq!(load("shop/cart-2"), None);
        tokio::time::advance(gone::AWAY - std::time::Duration::from_millis(1)).await;
        compiler.sweep();
        change(&mut compiler, &mut resources, Some(here), comes);
        assert_eq!(load("shop/cart-2"), Some(known), "{leaves} {comes}");
    }
    // It moves, and comes back.
    change(&mut compiler, &mut resources, Some("127.7.0.3:15006"), false);
    assert_ne!(load("shop/cart-2"), Some(known), "another sidecar");
    change(&mut compiler, &mut resources, Some(here), false);
    assert_eq!(load("shop/cart-2"), Some(known), "the place that it left");
    change(&mut compiler, &mut resources, None, false);
    tokio::time::advance(gone::AWAY).await;
    change(&mut compiler, &mut resources, Some(here), false);
    assert_ne!(load("shop/cart-2"), Some(known), "a minute is over");
}

#[test]
fn of_those_that_have_left_so_many_are_remembered() {
    let mut gone = gone::Gone::default();
    let start = tokio::time::Instant::now();
    let address = "127.7.0.2:80".parse().unwrap();
    let left = |i: usize| engine::balance::Endpoint {
        workload: format!("shop/cart-{i}").into(),
        address: [127, 7, 0, 2].into(),
        dial: Dial::Plain(address),
        weight: 1,
        priority: 0,
        locality: engine::balance::Locality::default(),
        health: Health::Ready,
        load: engine::balance::Load::new(),
    };
    let ms = std::time::Duration::from_millis(1);
    for i in 0..gone::LIMIT + 2 {
        gone.of("shop/cart", 80, start + ms * i as u32).keep(&left(i));
    }
    assert_eq!(gone.len(), gone::LIMIT);
    let now = start + ms * 2_000;
    let mut take = |service: &str, i: usize| gone.of(service, 80, now).take(&left(i).workload, &Dial::Plain(address));
    assert!(take("shop/cart", 0).is_none() && take("shop/cart", 1).is_none(), "the first to have left");
    assert!(take("shop/other", 2).is_none(), "another service knows nothing of it");
    assert!(take("shop/cart", 2).is_some() && take("shop/cart", gone::LIMIT + 1).is_some());
}

#[test]
fn every_rule_of_a_service_port_shares_its_backend() {
    let resources = hold([
        service("shop/cart", &["HTTPRoute/shop/r"], &[]),
        route("HTTPRoute/shop/r", "shop/cart", &["shop/cart", "shop/cart"]),
    ]);
    let mut compiler = compiler();
    let destination = compiler.destination(&resources, resources.service("shop/cart").unwrap());
    let again = compiler.destination(&resources, resources.service("shop/cart").unwrap());
    let port = &destination.ports[0];
    let rule = port.http.as_ref().unwrap().find(&Get("cart", "/")).unwrap().rule;
    for share in &rule.backends.list {
        assert!(Arc::ptr_eq(share.target.as_ref().unwrap(), &port.backend));
    }
    assert!(Arc::ptr_eq(&again.ports[0].backend, &port.backend));
    let unused = Arc::downgrade(&port.backend);
    drop((destination, again));
    compiler.sweep();
    assert!(unused.upgrade().is_none(), "the compiler keeps nothing alive");
}

#[test]
fn series_are_named_after_the_service_and_the_rule() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = keys.clone();
    let series: Series = Arc::new(move |key: &SeriesKey| {
        let mut keys = seen.lock().unwrap();
        keys.push((key.direction, key.service.clone(), key.route.clone()));
        SeriesId(keys.len() as u32)
    });
    let mut compiler = Compiler::new(series, engine::balance::Locality::default());
    let resources = hold([
        service("shop/cart", &["HTTPRoute/shop/r"], &[]),
        route("HTTPRoute/shop/r", "shop/cart", &["shop/cart"]),
    ]);
    compiler.destination(&resources, resources.service("shop/cart").unwrap());
    let keys = keys.lock().unwrap();
    assert!(keys.contains(&(Direction::Outbound, "shop/cart".into(), "HTTPRoute/shop/r/0".into())));
    assert!(keys.contains(&(Direction::Outbound, "shop/cart".into(), String::new())));
}

#[test]
fn hosts_of_listener_and_route_intersect() {
    let meet = |listener: &str, routes: &[&str]| {
        let routes: Vec<HostMatch> = routes.iter().map(|host| hostname(host).unwrap()).collect();
        intersect(&hostname(listener).unwrap(), &routes)
    };
    let exact = |name: &str| HostMatch::Exact(name.into());
    let suffix = |name: &str| HostMatch::Suffix(name.into());
    assert_eq!(meet("", &[]), Some(vec![]));
    assert_eq!(meet("", &["a.b"]), Some(vec![exact("a.b")]));
    assert_eq!(meet("*.b", &[]), Some(vec![suffix(".b")]));
    assert_eq!(meet("*.b", &["a.b", "a.c", "b"]), Some(vec![exact("a.b")]));
    assert_eq!(meet("a.b", &["*.b"]), Some(vec![exact("a.b")]));
    assert_eq!(meet("*.b", &["*.a.b"]), Some(vec![suffix(".a.b")]));
    assert_eq!(meet("*.a.b", &["*.b"]), Some(vec![suffix(".a.b")]));
    assert_eq!(meet("A.b", &["a.B"]), Some(vec![exact("a.b")]));
    assert_eq!(meet("*.b", &["c.d", "*.d"]), None);
}

#[test]
fn a_gateway_routes_by_listener_and_host() {
    let mut one: mesh::Route = decode(&route("HTTPRoute/shop/r", "shop/web", &["shop/cart"]));
    one.hostnames = vec!["shop.example".into()];
    let listener = |name: &str, port: u32, host: &str, routes: &[&str]| mesh::GatewayListener {
        name: name.into(),
        port,
        hostname: host.into(),
        protocol: mesh::Protocol::Http1.into(),
        routes: routes.iter().map(ToString::to_string).collect(),
    };
    let gateway = mesh::Gateway {
        namespace: "shop".into(),
        name: "web".into(),
        listeners: vec![
            listener("all", 8080, "", &["HTTPRoute/shop/r"]),
            listener("other", 8081, "*.other", &["HTTPRoute/shop/r"]),
        ],
        routes: vec!["HTTPRoute/shop/r".into()],
        ..mesh::Gateway::default()
    };
    let resources = hold([
        service("shop/cart", &[], &["TrafficPolicy/shop/p"]),
        timeout("TrafficPolicy/shop/p", "shop/cart", 700),
        Published::new(Kind::Route, "HTTPRoute/shop/r", &one, Vec::new()),
        Published::new(Kind::Gateway, "shop/web", &gateway, Vec::new()),
    ]);
    let compiled = compiler().gateway(&resources, resources.gateway("shop/web").unwrap());
    let [all, other] = &compiled.listeners[..] else { panic!("two listeners") };
    let table = all.http.as_ref().unwrap();
    let rule = table.find(&Get("shop.example", "/")).unwrap().rule;
    assert!(rule.backends.list[0].target.is_ok());
    assert_eq!(rule.policy.request_timeout, Some(Nanos::from_millis(700)), "the one service's policy holds here too");
    assert!(table.find(&Get("else.example", "/")).is_none());
    assert!(other.http.as_ref().unwrap().find(&Get("shop.example", "/")).is_none());
}

#[test]
fn policies_of_a_workload_are_ordered_and_one_that_is_missing_denies() {
    use mesh::AuthorizationAction as A;
    let rules = |action: A| mesh::AuthorizationRules {
        action: action.into(),
        rules: vec![mesh::AuthorizationRule { namespaces: vec!["shop".into()], ..Default::default() }],
        unusable: String::new(),
    };
    let name = |n: &str| format!("AuthorizationPolicy/shop/{n}");
    let broken = mesh::AuthorizationRules { unusable: "CEL is not implemented".into(), ..rules(A::AuthorizationAudit) };
    let workload = mesh::Workload {
        namespace: "shop".into(),
        name: "cart-1".into(),
        ports: vec![mesh::WorkloadPort { port: 8080, ..Default::default() }],
        policies: ["audit", "allow", "deny", "broken", "missing"].map(name).to_vec(),
        ..mesh::Workload::default()
    };
    let resources = hold([
        guard(&name("audit"), rules(A::AuthorizationAudit)),
        guard(&name("allow"), rules(A::AuthorizationAllow)),
        guard(&name("deny"), rules(A::AuthorizationDeny)),
        guard(&name("broken"), broken),
        Published::new(Kind::Workload, "shop/cart-1", &workload, Vec::new()),
    ]);
    let inbound = compiler().inbound(&resources, resources.workload("shop/cart-1").unwrap());
    assert_eq!((&*inbound.workload, inbound.ports[0].port), ("shop/cart-1", 8080));
    let shown: Vec<_> = inbound.authorizer.policies.iter().map(|p| (&*p.name, p.unusable)).collect();
    let expected = [
        ("shop/broken", true),
        ("shop/deny", false),
        ("shop/missing", true),
        ("shop/allow", false),
        ("shop/audit", false),
    ];
    assert_eq!(shown, expected);
    assert_eq!(inbound.authorizer.policies[3].action, Action::Allow);
}

#[test]
fn what_is_wrong_is_named_by_field() {
    let refused = |change: &dyn Fn(&mut mesh::Route)| {
        let mut one: mesh::Route = decode(&route("HTTPRoute/shop/r", "shop/cart", &["shop/cart"]));
        change(&mut one);
        refusal(&Published::new(Kind::Route, "HTTPRoute/shop/r", &one, Vec::new())).field
    };
    let header = |name: &str, value: &str| {
        let set = vec![mesh::Header { name: name.into(), value: value.into() }];
        Some(mesh::HeaderEdits { set, ..mesh::HeaderEdits::default() })
    };
    let path = |kind| {
        let path = Some(mesh::PathMatch { kind: Some(kind) });
        vec![mesh::HttpMatch { path, ..mesh::HttpMatch::default() }]
    };
    use mesh::path_match::Kind as Path;
    assert_eq!(refused(&|r| r.http[0].backends[0].port = 70_000), "http[0].backends[0].port");
    assert_eq!(refused(&|r| r.http[0].backends[0].weight = 1_000_001), "http[0].backends[0].weight");
    assert_eq!(refused(&|r| r.http[0].backends[0].service = "cart".into()), "http[0].backends[0].service");
    assert_eq!(refused(&|r| r.http[0].request_headers = header("a b", "")), "http[0].request_headers.set[0].name");
    assert_eq!(
        refused(&|r| r.http[0].response_headers = header("a", "b\r\nc")),
        "http[0].response_headers.set[0].value"
    );
    assert_eq!(refused(&|r| r.http[0].matches = path(Path::Exact("a".into()))), "http[0].matches[0].path.exact");
    assert_eq!(
        refused(&|r| r.http[0].matches = path(Path::Regex("x{900}{900}".into()))),
        "http[0].matches[0].path.regex"
    );
    assert_eq!(refused(&|r| r.http[0].matches = path(Path::Regex("a".repeat(5000)))), "http[0].matches[0].path.regex");
    assert_eq!(refused(&|r| r.hostnames = vec!["a..b".into()]), "hostnames[0]");
    let redirect = |status| Some(mesh::Redirect { status, ..mesh::Redirect::default() });
    assert_eq!(refused(&|r| r.http[0].redirect = redirect(200)), "http[0].redirect.status");

    let endpoint = |change: &dyn Fn(&mut mesh::Endpoint)| {
        let mut one: mesh::Endpoint = decode(&endpoint("shop/cart", "cart-1", "127.7.0.2:15006"));
        change(&mut one);
        refusal(&Published::new(Kind::Endpoint, "shop/cart/cart-1", &one, Vec::new())).field
    };
    assert_eq!(endpoint(&|e| e.identity.clear()), "identity");
    assert_eq!(endpoint(&|e| e.dial = "nowhere".into()), "dial");
    assert_eq!(endpoint(&|e| e.address = "localhost".into()), "address");
    assert_eq!(endpoint(&|e| e.workload = "shop/a b".into()), "workload");
    assert_eq!(endpoint(&|e| e.service = "shop/other".into()), "service");
    assert_eq!(endpoint(&|e| e.ports[0].target_port = 0), "ports[0].target_port");

    let policy = |rules| refusal(&traffic("TrafficPolicy/shop/p", 0, ("Mesh", "", ""), rules)).field;
    assert_eq!(policy(mesh::TrafficRules { algorithm: "quickest".into(), ..ms(1) }), "traffic.algorithm");
    assert_eq!(policy(mesh::TrafficRules { algorithm: "maglev".into(), ..ms(1) }), "traffic.hash_key");
    assert_eq!(policy(mesh::TrafficRules { panic_percent: Some(101), ..ms(1) }), "traffic.panic_percent");
    assert_eq!(policy(mesh::TrafficRules { hash_bound_percent: Some(100), ..ms(1) }), "traffic.hash_bound_percent");
    let nothing = Some(mesh::RequestKey { kind: None });
    assert_eq!(policy(mesh::TrafficRules { hash_key: nothing, ..ms(1) }), "traffic.hash_key");
    let check = mesh::HealthCheckRules { interval_ms: 1000, timeout_ms: 500, ..Default::default() };
    assert_eq!(policy(mesh::TrafficRules { health_check: Some(check), ..ms(1) }), "traffic.health_check");
    assert_eq!(endpoint(&|e| e.priority = 128), "priority");
    let retry = mesh::RetryRules { conditions: vec!["5xx".into(), "sometimes".into()], ..Default::default() };
    assert_eq!(policy(mesh::TrafficRules { retry: Some(retry), ..ms(1) }), "traffic.retry.conditions[1]");
    let outlier = mesh::OutlierRules { max_ejected_percent: Some(101), ..Default::default() };
    assert_eq!(policy(mesh::TrafficRules { outlier: Some(outlier), ..ms(1) }), "traffic.outlier.max_ejected_percent");

    let guarded = |change: &dyn Fn(&mut mesh::AuthorizationRule)| {
        let mut rule = mesh::AuthorizationRule::default();
        change(&mut rule);
        let rules = mesh::AuthorizationRules { rules: vec![rule], ..Default::default() };
        refusal(&guard("AuthorizationPolicy/shop/p", rules)).field
    };
    assert_eq!(guarded(&|r| r.addresses = vec!["10.0.0.0/33".into()]), "authorization.rules[0].addresses[0]");
    assert_eq!(guarded(&|r| r.identities = vec!["a*b*".into()]), "authorization.rules[0].identities[0]");
    assert_eq!(guarded(&|r| r.ports = vec![0]), "authorization.rules[0].ports[0]");
    let header = mesh::ValueMatch { name: "a".into(), kind: Some(mesh::value_match::Kind::Regex("(".into())) };
    assert_eq!(guarded(&|r| r.headers = vec![header.clone()]), "authorization.rules[0].headers[0].regex");
}

#[test]
fn a_policy_or_route_with_unknown_fields_is_refused_and_other_kinds_are_not() {
    // Field 100, a varint.
    let unknown = [0xa0, 0x06, 0x01];
    for (published, good) in [
        (route("HTTPRoute/shop/r", "shop/cart", &[]), false),
        (timeout("TrafficPolicy/shop/p", "shop/cart", 1), false),
        (service("shop/cart", &[], &[]), true),
        (endpoint("shop/cart", "cart-1", "127.7.0.2:15006"), true),
    ] {
        let mut body = published.body.clone();
        body.extend(unknown);
        assert_eq!(check(published.kind, &published.name, "", &body).is_ok(), good, "{}", published.name);
        body.extend([0xff; 3]);
        assert!(check(published.kind, &published.name, "", &body).is_err(), "not a message at all");
    }
}
