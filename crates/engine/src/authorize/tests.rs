use proptest::prelude::*;

use super::judge::normalized;
use super::*;
use crate::request::tests::Head;
use crate::route::ValueRule;

const FRONT: &str = "spiffe://local/ns/shop/sa/front";

fn caller(identity: Option<&str>) -> Caller<'_> {
    Caller { identity, address: "10.1.2.3".parse().expect("valid"), port: 8080 }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    Policy { name: name.into(), action, rules, unusable: false }
}

fn authorizer(policies: impl Into<Vec<Policy>>) -> Authorizer {
    Authorizer { policies: policies.into() }
}

fn from(identity: &str) -> Rule {
    Rule { identities: vec![Pattern::parse(identity)], ..Rule::default() }
}

fn path(path: &str) -> Rule {
    Rule { paths: vec![Pattern::parse(path)], ..Rule::default() }
}

fn request<'a>(authorizer: &'a Authorizer, caller: &Caller<'_>, target: &str) -> Decision<'a> {
    authorizer.request(caller, &Head::get(target), |_| {})
}

#[test]
fn no_policy_lets_all_in_and_an_allow_policy_only_what_it_matches() {
    let none = authorizer([]);
    assert_eq!(request(&none, &caller(None), "/"), Decision::Allow);
    assert_eq!(none.connection(&caller(None)), Decision::Allow);
    let allow = authorizer([policy("a", Action::Allow, vec![from(FRONT)])]);
    assert_eq!(request(&allow, &caller(Some(FRONT)), "/"), Decision::Allow);
    assert_eq!(allow.connection(&caller(Some(FRONT))), Decision::Allow);
    for other in [None, Some("spiffe://local/ns/shop/sa/other")] {
        assert_eq!(request(&allow, &caller(other), "/"), Decision::Deny(None));
        assert_eq!(allow.connection(&caller(other)), Decision::Deny(None));
    }
    let nothing = authorizer([policy("a", Action::Allow, vec![])]);
    assert_eq!(request(&nothing, &caller(Some(FRONT)), "/"), Decision::Deny(None));
}

#[test]
fn deny_wins_and_audit_decides_nothing() {
    let all = || vec![Rule::default()];
    let both = authorizer([
        policy("deny", Action::Deny, vec![path("/admin*")]),
        policy("allow", Action::Allow, all()),
        policy("audit", Action::Audit, vec![path("/a*")]),
    ]);
    let mut audited = Vec::new();
    let denied = both.request(&caller(None), &Head::get("/admin"), |name| audited.push(name.to_owned()));
    assert_eq!(denied, Decision::Deny(Some("deny")));
    let allowed = both.request(&caller(None), &Head::get("/x"), |name| audited.push(name.to_owned()));
    assert_eq!(allowed, Decision::Allow);
    assert_eq!(audited, ["audit"]);
    let audit = authorizer([policy("audit", Action::Audit, vec![])]);
    assert_eq!(request(&audit, &caller(None), "/"), Decision::Allow, "audit is no allow policy");
}

#[test]
fn an_unusable_policy_denies_whatever_its_action() {
    for action in [Action::Allow, Action::Deny, Action::Audit] {
        let broken = Policy { unusable: true, ..policy("broken", action, vec![]) };
        let authorizer = authorizer([policy("ok", Action::Allow, vec![Rule::default()]), broken]);
        assert_eq!(request(&authorizer, &caller(None), "/"), Decision::Deny(Some("broken")));
        assert_eq!(authorizer.connection(&caller(None)), Decision::Deny(Some("broken")));
    }
}

#[test]
fn opaque_connections_never_pass_by_rules_that_look_at_http() {
    let allow = authorizer([policy("a", Action::Allow, vec![path("/ok")])]);
    assert_eq!(allow.connection(&caller(Some(FRONT))), Decision::Deny(None));
    let deny = authorizer([policy("d", Action::Deny, vec![path("/bad")])]);
    assert_eq!(deny.connection(&caller(None)), Decision::Deny(Some("d")));
    let elsewhere = Rule { ports: vec![9], ..path("/bad") };
    let deny = authorizer([policy("d", Action::Deny, vec![elsewhere])]);
    assert_eq!(deny.connection(&caller(None)), Decision::Allow, "the rest of the rule counts");
    assert!(deny.needs_http(9) && !deny.needs_http(8080));
    assert!(allow.needs_http(1));
    assert!(!authorizer([policy("a", Action::Allow, vec![from(FRONT)])]).needs_http(1));
}

#[test]
fn every_list_that_is_not_empty_must_match() {
    let rule = || Rule {
        identities: vec![Pattern::parse("spiffe://local/*")],
        namespaces: vec!["shop".into()],
        networks: vec![Network { address: "10.0.0.0".parse().expect("valid"), bits: 8 }],
        ports: vec![8080],
        methods: vec!["GET".into()],
        paths: vec![Pattern::parse("*.html")],
        headers: vec![ValueMatch { name: "x".into(), value: ValueRule::Exact("1".into()) }],
    };
    let judge = |caller: Caller<'_>, head: Head| {
        authorizer([policy("a", Action::Allow, vec![rule()])]).request(&caller, &head, |_| {}) == Decision::Allow
    };
    let head = || Head::get("/a.html").with("x", "1");
    let front = caller(Some(FRONT));
    assert!(judge(front, head()));
    assert!(!judge(caller(Some("spiffe://local/ns/other/sa/front")), head()));
    assert!(!judge(caller(Some("spiffe://else/ns/shop/sa/front")), head()));
    assert!(!judge(caller(None), head()));
    assert!(!judge(Caller { port: 80, ..front }, head()));
    assert!(!judge(Caller { address: "11.0.0.1".parse().expect("valid"), ..front }, head()));
    assert!(!judge(front, Head { method: "POST".into(), ..head() }));
    assert!(!judge(front, Head { path: "/a.txt".into(), ..head() }));
    assert!(!judge(front, Head { headers: vec![], ..head() }));
}

#[test]
fn a_second_value_of_a_header_helps_nobody() {
    let header = |value| Rule { headers: vec![ValueMatch { name: "x".into(), value }], ..Rule::default() };
    let bad = || ValueRule::Regex(regex::Regex::new("bad").expect("valid"));
    let judge = |action, value, values: &[&str]| {
        let head = values.iter().fold(Head::get("/"), |head, value| head.with("X", value));
        authorizer([policy("a", action, vec![header(value)])]).request(&caller(None), &head, |_| {}) == Decision::Allow
    };
    let one = || ValueRule::Exact("1".into());
    for values in [&["bad", "1"][..], &["1", "bad"]] {
        assert!(!judge(Action::Deny, bad(), values), "{values:?}");
        assert!(!judge(Action::Allow, one(), values), "{values:?}");
    }
    assert!(judge(Action::Allow, one(), &["1", "1"]));
    assert!(!judge(Action::Allow, one(), &[]));
    assert!(judge(Action::Deny, bad(), &[]));
}

#[test]
fn a_path_written_in_another_way_is_the_same_path() {
    let deny = authorizer([policy("d", Action::Deny, vec![path("/admin*")])]);
    let allow = authorizer([policy("a", Action::Allow, vec![path("/public/*")])]);
    for target in [
        "/admin",
        "/%61dmin",
        "//admin",
        "/x/../admin",
        "/./admin",
        "/x/%2e%2e/admin",
        "\\admin",
        "/x\\..\\admin/y",
        "/%61dmin%ff",
    ] {
        assert_eq!(request(&deny, &caller(None), target), Decision::Deny(Some("d")), "{target}");
    }
    assert_eq!(request(&allow, &caller(None), "/public/%61"), Decision::Allow);
    for target in ["/public/../admin", "/public/%2e%2e/admin", "/public/..\\admin"] {
        assert_eq!(request(&allow, &caller(None), target), Decision::Deny(None), "{target}");
    }
}

#[test]
fn patterns() {
    for (pattern, fits, not) in [
        ("abc", vec!["abc"], vec!["", "abcd", "xabc"]),
        ("abc*", vec!["abc", "abcd"], vec!["ab", "xabc"]),
        ("*abc", vec!["abc", "xabc"], vec!["abcx"]),
        ("*", vec!["", "x"], vec![]),
    ] {
        let parsed = Pattern::parse(pattern);
        assert!(fits.iter().all(|text| parsed.matches(text)), "{pattern}");
        assert!(!not.iter().any(|text| parsed.matches(text)), "{pattern}");
    }
    let any = authorizer([policy("a", Action::Allow, vec![from("*")])]);
    assert_eq!(any.connection(&caller(None)), Decision::Deny(None), "`*` wants an identity");
}

#[test]
fn networks() {
    let contains = |network: &str, bits, address: &str| {
        let network = Network { address: network.parse().expect("valid"), bits };
        network.contains(address.parse().expect("valid"))
    };
    assert!(contains("10.1.0.0", 16, "10.1.255.255") && !contains("10.1.0.0", 16, "10.2.0.0"));
    assert!(contains("10.1.2.3", 32, "10.1.2.3") && !contains("10.1.2.3", 32, "10.1.2.2"));
    assert!(contains("0.0.0.0", 0, "255.1.1.1") && !contains("0.0.0.0", 0, "::1"));
    assert!(contains("10.0.0.0", 8, "::ffff:10.9.9.9"));
    assert!(contains("fd00::", 8, "fd12::1") && !contains("fd00::", 8, "fe80::1"));
    assert!(contains("::", 0, "fe80::1"));
    assert!(contains("::1", 200, "::1") && !contains("::1", 128, "::2"));
}

#[test]
fn namespaces_of_identities() {
    assert_eq!(namespace(FRONT), Some("shop"));
    for other in [
        "",
        "spiffe://local",
        "spiffe://local/ns/shop",
        "spiffe://local/ns//sa/x",
        "spiffe://local/sa/x/ns/shop",
        "spiffe://local/ns/shop/sa/x/y",
        "https://local/ns/shop/sa/x",
        "spiffe:///ns/shop/sa/x",
        "spiffe://local/ns/shop/sa/",
    ] {
        assert_eq!(namespace(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn a_plain_path_is_normal(path in "(/[a-z0-9-]{1,5}){1,5}/?") {
        prop_assert_eq!(&*normalized(&path), &*path);
    }

    #[test]
    fn a_normal_path_has_nothing_left_to_resolve(path in "/[a/.%25cCeE\\\\]{0,20}") {
        let normal = normalized(&path);
        prop_assert!(normal.starts_with('/'));
        prop_assert!(!normal.contains("//") && !normal.contains('\\'), "{normal}");
        prop_assert!(normal.split('/').all(|element| element != "." && element != ".."), "{normal}");
    }

    #[test]
    fn one_more_deny_never_lets_more_in(allow in "/[ab]{0,2}\\*?", deny in "/[ab]{0,2}\\*?", target in "/[ab]{0,3}") {
        let rules = |with_deny: bool| {
            let mut policies = vec![policy("a", Action::Allow, vec![path(&allow)])];
            if with_deny {
                policies.push(policy("d", Action::Deny, vec![path(&deny)]));
            }
            authorizer(policies)
        };
        let denied = |authorizer: Authorizer| request(&authorizer, &caller(None), &target) != Decision::Allow;
        prop_assert!(denied(rules(true)) || !denied(rules(false)));
        prop_assert_eq!(denied(rules(true)), denied(rules(false)) || Pattern::parse(&deny).matches(&target));
    }
}
