use super::*;

#[test]
fn durations_are_read_as_gateway_api_defines_them() {
    let good = [
        ("0s", 0),
        ("250ms", 250),
        ("1h2m3s4ms", 3_723_004),
        ("1m30s", 90_000),
        ("99999h", 99_999 * 3_600_000),
        ("10s500ms", 10_500),
    ];
    for (text, millis) in good {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "10", "1.5s", "-1s", "1d", "s", "1 s", "100000s", "1h1m1s1ms1h", "1us", "1s ", "٣s"] {
        assert!(duration(text).is_err(), "{text}");
    }
    assert!(duration("10").unwrap_err().contains("`10s`"));
}

#[test]
fn names_are_those_of_dns() {
    let long = "a".repeat(64);
    for good in ["a", "a-b", "1", &long[1..]] {
        assert!(label(good).is_ok(), "{good}");
    }
    for bad in ["", "A", "-a", "a-", "a.b", "a_b", "ä", &long] {
        assert!(label(bad).is_err(), "{bad}");
    }
    assert!(subdomain("a.b-c.d").is_ok());
    for bad in ["a..b", ".a", "a.", &format!("{long}.a")] {
        assert!(subdomain(bad).is_err(), "{bad}");
    }
    for good in ["example.com", "*.example.com", "a"] {
        assert!(host_pattern(good).is_ok(), "{good}");
    }
    for bad in ["*", "*.*.com", "a.*.com", "*a.com", "10.0.0.1", "::1", "*.1.2.3.4", "Example.com"] {
        assert!(host_pattern(bad).is_err(), "{bad}");
    }
    for good in ["http", "h", "http-2", "a1"] {
        assert!(port_name(good).is_ok(), "{good}");
    }
    for bad in ["", "80", "a--b", "sixteen-letters-x", "HTTP"] {
        assert!(port_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn labels_are_those_of_kubernetes() {
    for good in ["app", "app.kubernetes.io/name", "a/b_c.D"] {
        assert!(label_key(good).is_ok(), "{good}");
    }
    for bad in ["", "/a", "a/", "a/b/c", "-a", "A.b/c d"] {
        assert!(label_key(bad).is_err(), "{bad}");
    }
    assert!(label_value("").is_ok() && label_value("v1.2_x").is_ok());
    assert!(label_value("-").is_err() && label_value(&"a".repeat(64)).is_err());
}

#[test]
fn headers_methods_and_paths_cannot_smuggle() {
    assert_eq!(header_name("X-User"), Ok("x-user".to_owned()));
    for bad in ["", "a b", "a:", "ä", "a\r", &"a".repeat(257)] {
        assert!(header_name(bad).is_err(), "{bad}");
    }
    assert!(header_value("a b\tc").is_ok() && header_value("").is_ok());
    for bad in [" a", "a ", "a\nb", "a\0", "a\r"] {
        assert!(header_value(bad).is_err(), "{bad:?}");
    }
    assert!(method("PURGE").is_ok());
    assert_eq!(method("get"), Err("must be in upper case: GET".to_owned()));
    assert!(method("A B").is_err() && method("").is_err());
    for good in ["/", "/a/b", "/a%20b", "/a/", "/.well-known"] {
        assert!(path(good).is_ok(), "{good}");
    }
    for bad in ["", "a", "//", "/a//b", "/a/../b", "/a/./b", "/a/..", "/.", "/%2F", "/a?b", "/a#b", "/a b", "/ä"] {
        assert!(path(bad).is_err(), "{bad}");
    }
}

#[test]
fn networks_have_no_host_bits() {
    assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".to_owned()));
    assert_eq!(network("10.0.0.1"), Ok("10.0.0.1/32".to_owned()));
    assert_eq!(network("fd00::/8"), Ok("fd00::/8".to_owned()));
    assert_eq!(network("0.0.0.0/0"), Ok("0.0.0.0/0".to_owned()));
    assert_eq!(network("::1"), Ok("::1/128".to_owned()));
    for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "a", "::1/0", "10.0.0.0/", "10.0.0.0/-1"] {
        assert!(network(bad).is_err(), "{bad}");
    }
}

#[test]
fn expressions_must_compile_within_bounds() {
    assert!(regex("a|b+").is_ok());
    assert!(regex("a(").unwrap_err().contains("unclosed group"));
    assert!(regex("((a{1000}){1000}){1000}").unwrap_err().contains("10 MiB"));
    assert!(regex(&"a".repeat(1025)).is_err());
    // What would break out of the anchors is refused when it does not compile alone.
    assert!(regex("a)|(b").is_err());
}

#[test]
fn stars_stand_at_the_ends() {
    for good in ["a", "a*", "*a", "*"] {
        assert!(star_pattern(good).is_ok(), "{good}");
    }
    for bad in ["", "*a*", "a*b", "a b", "**a"] {
        assert!(star_pattern(bad).is_err(), "{bad}");
    }
}

#[test]
fn suggestions_are_near() {
    assert_eq!(closest("targetport", ["targetPort", "port"]), Some("targetPort"));
    assert_eq!(closest("tragetPort", ["targetPort", "port"]), Some("targetPort"));
    assert_eq!(closest("weigth", ["weight"]), Some("weight"));
    assert_eq!(closest("image", ["name"]), None);
    assert_eq!(closest("x", ["y"]), None);
}
