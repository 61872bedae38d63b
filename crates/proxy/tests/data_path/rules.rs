//! What rules do to requests and answers.

use std::sync::Arc;

use engine::edit::{HeaderEdits, PathEdit, Redirect, Rewrite};
use engine::policy::TrafficPolicy;
use engine::route::{Match, PathMatch, RouteInput, Rule};
use engine::snapshot::{Gateway, GatewayListener};
use engine::{Protocol, SeriesId};
use proxy::settings::GatewayBinding;
use testkit::address;
use testkit::raw::{Raw, RawServer};

use crate::ways::reason;
use crate::world::{World, plain, rule, to};

fn at(prefix: &str, rule: Rule) -> (Vec<Match>, Arc<Rule>) {
    let path = PathMatch::Prefix(prefix.into());
    let fits = Match { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false };
    (vec![fits], Arc::new(rule))
}

#[test]
fn a_gateway_routes_rewrites_edits_and_redirects() {
    let app = RawServer::start(|_, mut raw| {
        let head = raw.read_head();
        assert!(head.starts_with("GET /new/item?q HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("cart.internal\r\n") && head.contains("x-added: 1\r\n") && !head.contains("X-Gone"),
            "{head}"
        );
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret\r\n\r\nok");
    });
    let world = World::new();
    let backend = world.publish(Protocol::Http1, vec![plain(app.address())]);
    let plain_rule = |name| rule(name, to(&backend), TrafficPolicy::default(), SeriesId(0));
    let mut rewriting = plain_rule("rewriting");
    let path = Some(PathEdit::Prefix("/new".into()));
    rewriting.rewrite = Some(Rewrite { hostname: Some("cart.internal".into()), path });
    rewriting.request_headers =
        HeaderEdits { add: vec![("x-added".into(), "1".into())], remove: vec!["x-gone".into()], ..Default::default() };
    rewriting.response_headers = HeaderEdits { remove: vec!["server".into()], ..Default::default() };
    let mut redirecting = plain_rule("redirecting");
    redirecting.redirect =
        Some(Redirect { scheme: Some("https".into()), hostname: None, port: None, path: None, status: 301 });
    let rules = vec![at("/old", rewriting), at("/away", redirecting)];
    let route = RouteInput { hosts: Vec::new(), created: 0, name: "shop/route".into(), rules };
    let table = engine::route::RouteTable::new(vec![route]);
    let listener = GatewayListener { name: "http".into(), port: 80, http: Some(table), tcp: None, series: SeriesId(0) };
    let listen = address::free();
    let gateway = world.client(|settings| settings.gateway = vec![GatewayBinding { listen, port: 80 }]);
    gateway.live.gateway.store(Some(Arc::new(Gateway { name: "shop/gateway".into(), listeners: vec![listener] })));

    let mut raw = Raw::connect(listen);
    raw.send("GET /old/item?q HTTP/1.1\r\nHost: shop.test\r\nX-Gone: 1\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("Server:"), "{head}");
    raw.expect("ok");
    let mut raw = Raw::connect(listen);
    raw.send("GET /away/x HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 301 ") && head.contains("location: https://shop.test/away/x\r\n"), "{head}");
    let mut raw = Raw::connect(listen);
    raw.send("GET /none HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let head = raw.read_head();
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(reason(&head), "no_route");
    drop(raw);
    app.finish();
}
