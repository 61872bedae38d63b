use super::*;

const GRACE: Duration = Duration::from_secs(15);

fn id(namespace: &str, account: &str) -> spiffe::Id {
    spiffe::Id::new("cluster.local", namespace, account).unwrap()
}

/// What an instance of `cart` in `shop` registers as.
pub(crate) fn registration(name: &str, address: &str) -> mesh::Registration {
    mesh::Registration {
        workload: format!("shop/{name}"),
        service_account: "cart".into(),
        address: address.into(),
        dial: format!("{address}:15006"),
        labels: vec![mesh::Label { name: "app".into(), value: "cart".into() }],
        state: mesh::State::Ready.into(),
        ..Default::default()
    }
}

fn cart() -> mesh::Registration {
    registration("cart-0", "127.20.0.1")
}

fn register(all: &mut Instances) -> StreamId {
    all.register(&cart(), &id("shop", "cart"), "1", SystemTime::now()).unwrap()
}

fn change(state: mesh::State) -> mesh::StateChange {
    mesh::StateChange { state: state.into(), reason: "why".into() }
}

#[test]
fn a_record_lives_for_its_grace_after_its_stream() {
    let (mut all, start) = (Instances::new(GRACE), Instant::now());
    let stream = register(&mut all);
    assert!(all.next_end().is_none());
    assert!(!all.ended("shop/cart-0", stream, true, start, SystemTime::now()), "it was not draining");
    assert!(!all.get("shop/cart-0").unwrap().connected());
    assert_eq!(all.next_end(), Some(start + GRACE));
    assert!(all.expire(start + GRACE - Duration::from_millis(1)).is_empty());
    assert_eq!(all.expire(start + GRACE), ["shop/cart-0"]);
    assert!(all.get("shop/cart-0").is_none());
}

#[test]
fn a_reconnect_within_the_grace_takes_the_record_over() {
    let (mut all, start) = (Instances::new(GRACE), Instant::now());
    let old = register(&mut all);
    all.certificate("shop/cart-0", old, 1, 2);
    let new = register(&mut all);
    assert!(!all.ended("shop/cart-0", old, true, start, SystemTime::now()), "the old stream says nothing any more");
    assert!(!all.state("shop/cart-0", old, &change(mesh::State::Draining)));
    assert!(all.get("shop/cart-0").unwrap().connected());
    assert_eq!(all.get("shop/cart-0").unwrap().not_after_unix_ms, 2);
    assert!(all.state("shop/cart-0", new, &change(mesh::State::Draining)));
    assert!(!all.state("shop/cart-0", new, &change(mesh::State::Draining)), "nothing changed");
    assert!(all.ended("shop/cart-0", new, true, start, SystemTime::now()), "drained and closed: gone at once");
    assert!(all.get("shop/cart-0").is_none());
}

#[test]
fn a_broken_stream_of_a_draining_instance_keeps_the_grace() {
    let (mut all, start) = (Instances::new(GRACE), Instant::now());
    let stream = register(&mut all);
    all.state("shop/cart-0", stream, &change(mesh::State::Draining));
    assert!(!all.ended("shop/cart-0", stream, false, start, SystemTime::now()));
    assert_eq!(all.get("shop/cart-0").unwrap().member.health, mesh::Health::Draining);
}

#[test]
fn another_identity_does_not_take_a_name_over() {
    let mut all = Instances::new(GRACE);
    register(&mut all);
    let other = mesh::Registration { service_account: "other".into(), ..cart() };
    let refused = all.register(&other, &id("shop", "other"), "1", SystemTime::now());
    assert!(matches!(refused, Err(Refused::NotAllowed(_))), "{refused:?}");
}

#[test]
fn the_number_of_instances_is_bounded() {
    let mut all = Instances::new(GRACE);
    let mut register = |n: usize| {
        let one = mesh::Registration { workload: format!("shop/cart-{n}"), ..cart() };
        all.register(&one, &id("shop", "cart"), "1", SystemTime::now())
    };
    for n in 0..INSTANCES {
        register(n).unwrap();
    }
    assert_eq!(register(INSTANCES), Err(Refused::Full));
    register(0).unwrap();
}

#[test]
fn registrations_are_checked() {
    let long = || "x".repeat(TEXT + 1);
    let label = || mesh::Label { name: "a".into(), value: "b".into() };
    let port = |port| mesh::NamedPort { port, ..Default::default() };
    let most = mesh::Registration {
        labels: vec![label(); LIST],
        services: vec!["shop/a".into(); LIST],
        ports: vec![port(80); LIST],
        node: "x".repeat(TEXT),
        ..cart()
    };
    Instances::new(GRACE).register(&most, &id("shop", "cart"), "1", SystemTime::now()).unwrap();
    let cases: Vec<(&str, mesh::Registration)> = vec![
        ("no namespace", mesh::Registration { workload: "cart-0".into(), ..cart() }),
        ("a name with a slash", mesh::Registration { workload: "shop/a/b".into(), ..cart() }),
        ("upper case", mesh::Registration { workload: "shop/Cart".into(), ..cart() }),
        ("no address", mesh::Registration { address: String::new(), ..cart() }),
        ("a host name", mesh::Registration { address: "localhost".into(), ..cart() }),
        ("every address", mesh::Registration { address: "0.0.0.0".into(), ..cart() }),
        ("no sidecar", mesh::Registration { dial: String::new(), ..cart() }),
        ("a dial without port", mesh::Registration { dial: "127.0.0.1".into(), ..cart() }),
        ("a dial to port 0", mesh::Registration { dial: "127.0.0.1:0".into(), ..cart() }),
        ("a dial to every address", mesh::Registration { dial: "0.0.0.0:1".into(), ..cart() }),
        ("a huge weight", mesh::Registration { weight: WEIGHT + 1, ..cart() }),
        ("a long node", mesh::Registration { node: long(), ..cart() }),
        ("a long label", mesh::Registration { labels: vec![mesh::Label { name: long(), ..label() }], ..cart() }),
        ("many labels", mesh::Registration { labels: vec![label(); LIST + 1], ..cart() }),
        ("many services", mesh::Registration { services: vec!["shop/a".into(); LIST + 1], ..cart() }),
        ("many ports", mesh::Registration { ports: vec![port(80); LIST + 1], ..cart() }),
        ("no service", mesh::Registration { services: vec!["cart".into()], ..cart() }),
        ("port 0", mesh::Registration { ports: vec![mesh::NamedPort::default()], ..cart() }),
        ("a huge port", mesh::Registration { ports: vec![port(65_536)], ..cart() }),
    ];
    for (what, registration) in cases {
        let result = Instances::new(GRACE).register(&registration, &id("shop", "cart"), "1", SystemTime::now());
        assert!(matches!(result, Err(Refused::BadRequest(_))), "{what}: {result:?}");
    }
    for (what, registration, identity) in [
        ("another namespace", cart(), id("bank", "cart")),
        ("another account", cart(), id("shop", "web")),
        ("a foreign service", mesh::Registration { services: vec!["bank/a".into()], ..cart() }, id("shop", "cart")),
    ] {
        let result = Instances::new(GRACE).register(&registration, &identity, "1", SystemTime::now());
        assert!(matches!(result, Err(Refused::NotAllowed(_))), "{what}: {result:?}");
    }
    let gateway = mesh::Registration {
        workload: "shop/gate".into(),
        service_account: "gate".into(),
        ..mesh::Registration::default()
    };
    let mut all = Instances::new(GRACE);
    all.register(&gateway, &id("shop", "gate"), "1", SystemTime::now()).unwrap();
    assert!(!all.get("shop/gate").unwrap().member.endpoint);
}
