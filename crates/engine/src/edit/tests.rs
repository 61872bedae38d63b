use proptest::prelude::*;

use super::*;
use crate::request::tests::Head;

/// The table of Gateway API's `ReplacePrefixMatch`; a prefix of `/foo/` matches as `/foo`.
#[test]
fn prefixes_are_replaced_as_gateway_api_says() {
    for (path, prefix, new, expected) in [
        ("/foo/bar", 4, "/xyz", "/xyz/bar"),
        ("/foo/bar", 4, "/xyz/", "/xyz/bar"),
        ("/foo", 4, "/xyz", "/xyz"),
        ("/foo/", 4, "/xyz", "/xyz/"),
        ("/foo/bar", 4, "", "/bar"),
        ("/foo/", 4, "", "/"),
        ("/foo", 4, "", "/"),
        ("/foo/", 4, "/", "/"),
        ("/foo", 4, "/", "/"),
        ("/bar", 0, "/xyz", "/xyz/bar"),
        ("*", 0, "/xyz", "*"),
    ] {
        assert_eq!(PathEdit::Prefix(new.into()).apply(path, prefix), expected, "{path} {new}");
    }
    assert_eq!(PathEdit::Full("/a".into()).apply("/foo/bar", 4), "/a");
}

fn redirect() -> Redirect {
    Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 }
}

#[test]
fn locations() {
    let head = Head::get("/foo/bar?q=1").at("Cart.example:8080");
    let location = |redirect: Redirect| redirect.location(&head, "http", 8080, 4);
    assert_eq!(location(redirect()), "http://Cart.example:8080/foo/bar?q=1");
    let https = Redirect { scheme: Some("https".into()), ..redirect() };
    assert_eq!(location(https.clone()), "https://Cart.example/foo/bar?q=1");
    assert_eq!(location(Redirect { port: Some(8443), ..https }), "https://Cart.example:8443/foo/bar?q=1");
    let host = Redirect { hostname: Some("other".into()), port: Some(80), ..redirect() };
    assert_eq!(location(host), "http://other/foo/bar?q=1");
    let prefix = Redirect { path: Some(PathEdit::Prefix("/new".into())), ..redirect() };
    assert_eq!(location(prefix), "http://Cart.example:8080/new/bar?q=1");
    let full = Redirect { path: Some(PathEdit::Full("/new?own=1".into())), ..redirect() };
    assert_eq!(location(full), "http://Cart.example:8080/new?own=1");
    let v6 = Head::get("/").at("[::1]:80");
    assert_eq!(redirect().location(&v6, "http", 80, 0), "http://[::1]/");
}

proptest! {
    #[test]
    fn an_edited_path_is_a_path(path in "/[a-z/]{0,20}", cut: prop::sample::Index, new in "/?[a-z/]{0,9}") {
        let prefix = cut.index(path.len() + 1);
        let edited = PathEdit::Prefix(new.into()).apply(&path, prefix);
        prop_assert!(edited.starts_with('/'));
    }
}
