use std::fmt::Write as _;

use super::*;
use crate::parse::parse;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80}]}
---
apiVersion: heddle.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart, more: x}}
spec: {address: 192.0.2.1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec: {gatewayClassName: heddle, listeners: [{name: web, port: 8080, protocol: HTTP}]}
";

/// Field, message and help of everything that is found in [`SHOP`] and `more`.
fn found(more: &str) -> Vec<String> {
    let parsed = parse("shop.yaml", format!("{SHOP}---\n{more}").as_bytes());
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    check(&parsed.objects).into_iter().map(|d| format!("{}: {} | {}", d.field, d.message, d.help)).collect()
}

/// A route in the namespace `namespace` with the given references.
fn route(namespace: &str, parent: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec: {{parentRefs: [{{{parent}}}], rules: [{{name: all, backendRefs: [{{{backend}}}]}}]}}\n"
    )
}

#[test]
fn a_whole_mesh_has_no_problems() {
    let route = route("shop", "name: front, sectionName: web", "name: cart, port: 80");
    assert_eq!(found(&route), Vec::<String>::new());
}

#[test]
fn references_that_dangle_are_found() {
    let good = ("name: front", "name: cart, port: 80");
    let cases = [
        ("name: frnt", good.1, "spec.parentRefs[0].name: there is no Gateway shop/frnt | did you mean \"front\"?"),
        (
            "name: front, namespace: x",
            good.1,
            "spec.parentRefs[0].name: there is no Gateway x/front | there is one in the namespace shop",
        ),
        (
            "name: front, sectionName: wub",
            good.1,
            "spec.parentRefs[0].sectionName: Gateway shop/front has nothing of that name and port | it has: web (8080)",
        ),
        (
            "name: front, port: 1",
            good.1,
            "spec.parentRefs[0].port: Gateway shop/front has nothing of that name and port | it has: web (8080)",
        ),
        (
            "name: nothing, kind: Service, group: ''",
            good.1,
            "spec.parentRefs[0].name: there is no Service shop/nothing | ",
        ),
        (
            good.0,
            "name: cart, port: 81",
            "spec.rules[0].backendRefs[0].port: Service shop/cart has no port 81 | it has: 80",
        ),
        (
            good.0,
            "name: crat, port: 80",
            "spec.rules[0].backendRefs[0].name: there is no Service shop/crat | did you mean \"cart\"?",
        ),
    ];
    for (parent, backend, message) in cases {
        assert_eq!(found(&route("shop", parent, backend)), [message]);
    }
}

#[test]
fn other_namespaces_need_a_grant() {
    let route = route("web", "name: front, namespace: shop", "name: cart, namespace: shop, port: 80");
    let refused = found(&route);
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].starts_with("spec.rules[0].backendRefs[0].namespace: no ReferenceGrant lets HTTPRoute web/r"),
        "{refused:?}"
    );
    let grant = |kind: &str, namespace: &str, name: &str| {
        format!(
            "{route}---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: shop}}\n\
             spec:\n  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {namespace}}}]\n  to: [{{group: '', kind: Service{name}}}]\n"
        )
    };
    assert_eq!(found(&grant("HTTPRoute", "web", "")).len(), 0);
    assert_eq!(found(&grant("HTTPRoute", "web", ", name: cart")).len(), 0);
    for (kind, namespace, name) in
        [("GRPCRoute", "web", ""), ("HTTPRoute", "else", ""), ("HTTPRoute", "web", ", name: x")]
    {
        assert_eq!(found(&grant(kind, namespace, name)).len(), 1, "{kind} {namespace} {name}");
    }
}

#[test]
fn targets_must_be_there() {
    let policy = |target: &str| {
        format!(
            "apiVersion: heddle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{targetRefs: [{{{target}}}]}}\n"
        )
    };
    for good in [
        "kind: Service, name: cart, sectionName: http",
        "kind: Gateway, name: front, sectionName: web",
        "kind: Namespace, name: shop",
        "kind: Mesh, name: default",
    ] {
        assert!(found(&policy(good)).is_empty(), "{good}");
    }
    let cases = [
        ("kind: Service, name: cat", "spec.targetRefs[0].name: there is no Service shop/cat | did you mean \"cart\"?"),
        (
            "kind: Service, name: cart, sectionName: htp",
            "spec.targetRefs[0].sectionName: Service shop/cart has no section \"htp\" | did you mean \"http\"?",
        ),
        ("kind: TCPRoute, name: cart", "spec.targetRefs[0].name: there is no TCPRoute shop/cart | "),
    ];
    for (target, message) in cases {
        assert_eq!(found(&policy(target)), [message]);
    }
}

#[test]
fn a_service_that_selects_nothing_is_a_warning() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: NS}\nspec: {selector: {app: cart}, ports: [{port: 1}]}\n";
    let parsed = parse("f", format!("{SHOP}---\n{}", service.replace("NS", "other")).as_bytes());
    let diagnostics = check(&parsed.objects);
    assert_eq!(diagnostics.len(), 1);
    assert_eq!((diagnostics[0].severity, diagnostics[0].line), (Severity::Warning, 20));
    assert!(found(&service.replace("NS", "shop")).is_empty());
}

#[test]
fn two_objects_of_one_name_name_both_places() {
    let parsed = parse("shop.yaml", format!("{SHOP}---{SHOP}").as_bytes());
    let messages: Vec<_> = check(&parsed.objects).into_iter().map(|d| (d.line, d.message)).collect();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[0], (19, "Service shop/cart is written twice (the one at shop.yaml:2 counts)".to_owned()));
}

#[test]
fn a_large_mesh_is_checked_in_time() {
    let mut text = SHOP.to_owned();
    for i in 0..2000 {
        let _ = write!(
            text,
            "---\n{}",
            route("shop", "name: frnt", "name: crat, port: 80").replace("name: r,", &format!("name: r{i},"))
        );
    }
    let parsed = parse("f", text.as_bytes());
    assert_eq!(check(&parsed.objects).len(), 4000);
}
