use control::admin::model::ServicePortEntry;

use super::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn pod() -> Pod {
    Pod {
        namespace: "shop".into(),
        name: "cart-0".into(),
        ip: "127.7.0.3".parse().unwrap(),
        service_account: "cart".into(),
        node: "laptop".into(),
        labels: map(&[("app", "cart")]),
        annotations: map(&[("heddle.dev/command", "x")]),
    }
}

fn service(namespace: &str, name: &str, ports: &[(&str, u16)]) -> ServiceEntry {
    let ports = ports.iter().map(|(name, port)| ServicePortEntry { name: (*name).into(), port: *port }).collect();
    ServiceEntry { namespace: namespace.into(), name: name.into(), address: None, ports }
}

#[test]
fn variables_expand_as_kubernetes_defines() {
    let known = map(&[("A", "1"), ("B", "two"), ("EMPTY", "")]);
    for (text, expected) in [
        ("$(A)-$(B)", "1-two"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$(EMPTY)", ""),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("", ""),
        ("é$(A)é", "é1é"),
    ] {
        assert_eq!(expand(text, &known), expected, "{text}");
    }
}

#[test]
fn fields_of_the_downward_api_resolve() {
    let pod = pod();
    assert_eq!(pod.field(&FieldRef::PodIp), "127.7.0.3");
    assert_eq!(pod.field(&FieldRef::Name), "cart-0");
    assert_eq!(pod.field(&FieldRef::Label("app".into())), "cart");
    assert_eq!(pod.field(&FieldRef::Label("none".into())), "");
    assert_eq!(pod.field(&FieldRef::Annotation("heddle.dev/command".into())), "x");
    assert_eq!(pod.field(&FieldRef::ServiceAccount), "cart");
}

#[test]
fn services_of_the_namespace_are_announced() {
    let services = [
        service("other", "db", &[("", 1)]),
        service("shop", "cart", &[("http", 80), ("grpc-web", 81)]),
        service("shop", "my-db", &[("", 5432)]),
    ];
    let ports = service_ports(&services, "shop");
    assert_eq!(
        ports.iter().map(|(s, p)| (s.name.as_str(), p.clone())).collect::<Vec<_>>(),
        [("cart", vec![16_000, 16_001]), ("my-db", vec![16_002])]
    );
    assert_eq!(
        service_variables(Mode::Explicit, pod().ip, &ports),
        map(&[
            ("CART_SERVICE_HOST", "127.7.0.3"),
            ("CART_SERVICE_PORT", "16000"),
            ("CART_SERVICE_PORT_HTTP", "16000"),
            ("CART_SERVICE_PORT_GRPC_WEB", "16001"),
            ("MY_DB_SERVICE_HOST", "127.7.0.3"),
            ("MY_DB_SERVICE_PORT", "16002"),
        ])
    );
}

#[test]
fn where_everything_is_redirected_services_have_their_own_addresses() {
    let cart = service("shop", "cart", &[("http", 80)]);
    let headless = service("shop", "db", &[("", 5432)]);
    let services =
        service_ports(&[ServiceEntry { address: Some("240.1.2.3".parse().unwrap()), ..cart }, headless], "shop");
    let all = environment(&pod(), Mode::Namespace, &services, &[]);
    assert_eq!(all["CART_SERVICE_HOST"], "240.1.2.3");
    assert_eq!(all["CART_SERVICE_PORT"], "80");
    assert!(!all.contains_key("DB_SERVICE_HOST") && !all.contains_key("http_proxy"), "{all:?}");
}

#[test]
fn declared_variables_may_use_those_before_them() {
    let text = |name: &str, value: &str| EnvVar { name: name.into(), value: EnvValue::Text(value.into()) };
    let ports = service_ports(&[service("shop", "db", &[("", 5432)])], "shop");
    let all = environment(
        &pod(),
        Mode::Explicit,
        &ports,
        &[
            text("URL", "tcp://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)/$(LATER)"),
            text("LATER", "$(URL)"),
            EnvVar { name: "WHO".into(), value: EnvValue::Field(FieldRef::Name) },
            text("POD_NAME", "mine"),
        ],
    );
    assert_eq!(all["URL"], "tcp://127.7.0.3:16000/$(LATER)");
    assert_eq!(all["LATER"], all["URL"]);
    assert_eq!(all["WHO"], "cart-0");
    assert_eq!(all["POD_NAME"], "mine");
    assert_eq!(all["http_proxy"], "http://127.7.0.3:15001");
    assert!(all["NO_PROXY"].contains("127.0.0.0/8"));
}

#[test]
fn ports_of_very_many_services_end_before_the_last_port() {
    let services: Vec<ServiceEntry> = (0..60_000).map(|i| service("shop", &format!("s{i}"), &[("", 80)])).collect();
    let ports = service_ports(&services, "shop");
    assert_eq!(ports.len(), usize::from(u16::MAX - FIRST_SERVICE_PORT));
}

#[test]
fn a_callers_proxy_is_chained_or_refused_with_a_reason() {
    let with = |name: &'static str, value: &'static str| upstream_proxy(move |n| (n == name).then(|| value.to_owned()));
    assert_eq!(upstream_proxy(|_| None), Ok(None));
    assert_eq!(with("http_proxy", ""), Ok(None));
    assert_eq!(with("http_proxy", "http://proxy.example:3128/"), Ok(Some("proxy.example:3128".into())));
    assert_eq!(with("HTTPS_PROXY", "proxy.example"), Ok(Some("proxy.example:80".into())));
    assert_eq!(with("all_proxy", "http://[::1]:3128"), Ok(Some("[::1]:3128".into())));
    assert!(with("all_proxy", "socks5://proxy.example:1080").unwrap_err().contains("socks5"));
    assert!(!with("http_proxy", "http://me:secret@proxy.example").unwrap_err().contains("secret"));
    assert!(with("http_proxy", "http:///").is_err());
}
