use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::Rng;
use crate::policy::RetryPolicy;
use crate::request::tests::Head;

fn rule(name: &str) -> Arc<Rule> {
    Arc::new(Rule {
        name: name.into(),
        redirect: None,
        rewrite: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        backends: Backends::default(),
        policy: Arc::default(),
        budget: Arc::new(RetryBudget::new(&RetryPolicy::default())),
        series: SeriesId::default(),
    })
}

fn fits(path: PathMatch) -> Match {
    Match { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false }
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn regex(pattern: &str) -> PathMatch {
    PathMatch::Regex(Regex::new(&format!("^(?:{pattern})$")).expect("valid"))
}

fn value(name: &str, value: &str) -> ValueMatch {
    ValueMatch { name: name.into(), value: ValueRule::Exact(value.into()) }
}

fn value_regex(name: &str, pattern: &str) -> ValueMatch {
    let regex = Regex::new(&format!("^(?:{pattern})$")).expect("valid");
    ValueMatch { name: name.into(), value: ValueRule::Regex(regex) }
}

/// A route of one rule a match, each named after the route and its place.
fn route(name: &str, matches: Vec<Match>) -> RouteInput {
    let rules = matches.into_iter().enumerate();
    RouteInput {
        hosts: Vec::new(),
        created: 0,
        name: name.into(),
        rules: rules.map(|(i, m)| (vec![m], rule(&format!("{name}/{i}")))).collect(),
    }
}

fn found(table: &RouteTable, head: &Head) -> Option<(String, usize)> {
    table.find(head).map(|found| (found.rule.name.to_string(), found.prefix))
}

fn name(table: &RouteTable, head: &Head) -> String {
    found(table, head).map_or_else(|| "none".into(), |(name, _)| name)
}

#[test]
fn paths_in_order_of_precedence() {
    let table = RouteTable::new(vec![route(
        "r",
        vec![
            fits(prefix("")),
            fits(prefix("/a")),
            fits(prefix("/a/b")),
            fits(exact("/a/b")),
            fits(regex("/x/.*|/a/.*")),
        ],
    )]);
    for (path, rule, taken) in [
        ("/", "r/0", 0),
        ("*", "r/0", 0),
        ("/a", "r/1", 2),
        ("/a/", "r/1", 2),
        ("/ab", "r/0", 0),
        ("/a/b", "r/3", 0),
        ("/a/b/", "r/2", 4),
        ("/a/b/c", "r/2", 4),
        ("/a/bc", "r/1", 2),
        ("/x/y", "r/4", 0),
        ("/A", "r/0", 0),
        ("//a", "r/0", 0),
    ] {
        assert_eq!(found(&table, &Head::get(path)), Some((rule.into(), taken)), "{path}");
    }
}

#[test]
fn a_prefix_with_a_slash_at_its_end_is_the_same() {
    let table = RouteTable::new(vec![route("r", vec![fits(prefix("/a/"))])]);
    assert_eq!(found(&table, &Head::get("/a")), Some(("r/0".into(), 2)));
    assert_eq!(found(&table, &Head::get("/ab")), None);
    assert_eq!(found(&table, &Head::get("")), None);
}

#[test]
fn method_headers_and_query_decide_between_equal_paths() {
    let base = || fits(prefix("/a"));
    let table = RouteTable::new(vec![route(
        "r",
        vec![
            base(),
            Match { query: vec![value("q", "1")], ..base() },
            Match { headers: vec![value("x", "1")], ..base() },
            Match { headers: vec![value("x", "1"), value("y", "1")], ..base() },
            Match { method: Some("POST".into()), ..base() },
        ],
    )]);
    let post = |head: Head| Head { method: "POST".into(), ..head };
    assert_eq!(name(&table, &Head::get("/a")), "r/0");
    assert_eq!(name(&table, &Head::get("/a?q=1")), "r/1");
    assert_eq!(name(&table, &Head::get("/a?q=1").with("X", "1")), "r/2");
    assert_eq!(name(&table, &Head::get("/a?q=1").with("x", "1").with("y", "1")), "r/3");
    assert_eq!(name(&table, &post(Head::get("/a?q=1").with("x", "1").with("y", "1"))), "r/4");
    assert_eq!(name(&table, &Head::get("/a").with("x", "A")), "r/0");
}

#[test]
fn age_then_name_then_place_decide_at_last() {
    let input = |name: &str, created| RouteInput { created, ..route(name, vec![fits(prefix("/"))]) };
    let first = |routes| name(&RouteTable::new(routes), &Head::get("/"));
    assert_eq!(first(vec![input("a/b", 2), input("z/z", 1)]), "z/z/0");
    assert_eq!(first(vec![input("z/z", 1), input("a/b", 1)]), "a/b/0");
    assert_eq!(first(vec![route("r", vec![fits(prefix("/")), fits(prefix("/"))])]), "r/0");
}

#[test]
fn hosts_the_most_specific_first_and_then_the_next() {
    let input = |name: &str, hosts: Vec<HostMatch>, path| RouteInput { hosts, ..route(name, vec![fits(prefix(path))]) };
    let table = RouteTable::new(vec![
        input("any", vec![], ""),
        input("wide", vec![HostMatch::Suffix(".example.com".into())], ""),
        input("narrow", vec![HostMatch::Suffix(".shop.example.com".into())], ""),
        input("one", vec![HostMatch::Exact("a.shop.example.com".into())], "/only"),
        input("two", vec![HostMatch::Exact("b.com".into()), HostMatch::Exact("C.com".into())], ""),
    ]);
    for (authority, path, expected) in [
        ("other.org", "/", "any/0"),
        ("example.com", "/", "any/0"),
        (".example.com", "/", "any/0"),
        ("x.example.com", "/", "wide/0"),
        ("x.y.example.com", "/", "wide/0"),
        ("x.shop.example.com:8080", "/", "narrow/0"),
        ("A.Shop.Example.COM.", "/only", "one/0"),
        ("a.shop.example.com", "/", "narrow/0"),
        ("c.COM", "/", "two/0"),
        ("b.com", "/", "two/0"),
        ("[::1]:80", "/", "any/0"),
        ("", "/", "any/0"),
    ] {
        assert_eq!(name(&table, &Head::get(path).at(authority)), expected, "{authority}{path}");
    }
}

#[test]
fn grpc_goes_by_content_type() {
    let grpc = Match { grpc: true, ..fits(prefix("")) };
    let table = RouteTable::new(vec![route("r", vec![fits(prefix("")), grpc])]);
    for (content_type, expected) in [
        ("application/grpc", "r/1"),
        ("application/grpc+proto", "r/1"),
        ("Application/GRPC;x=y", "r/1"),
        ("application/grpc-web", "r/0"),
        ("application/json", "r/0"),
        ("app", "r/0"),
    ] {
        let head = Head::get("/s/m").with("content-type", content_type);
        assert_eq!(name(&table, &head), expected, "{content_type}");
    }
}

#[test]
fn query_parameters_first_value_decoded() {
    let table = RouteTable::new(vec![
        route("exact", vec![Match { query: vec![value("a b", "x&y")], ..fits(prefix("")) }]),
        route("regex", vec![Match { query: vec![value_regex("n", "[0-9]+")], ..fits(prefix("")) }]),
        route("empty", vec![Match { query: vec![value("e", "")], ..fits(prefix("")) }]),
    ]);
    for (target, expected) in [
        ("/?a%20b=x%26y", "exact/0"),
        ("/?a+b=x%26y&a+b=no", "exact/0"),
        ("/?a+b=no&a+b=x%26y", "none"),
        ("/?n=12", "regex/0"),
        ("/?n=%31%32", "regex/0"),
        ("/?n=1a", "none"),
        ("/?n=%ff", "none"),
        ("/?e", "empty/0"),
        ("/?e=", "empty/0"),
        ("/?e=%", "none"),
        ("/", "none"),
    ] {
        assert_eq!(name(&table, &Head::get(target)), expected, "{target}");
    }
}

#[test]
fn a_rule_without_matches_fits_everything() {
    let input = RouteInput { rules: vec![(vec![], rule("all"))], ..route("r", vec![]) };
    assert_eq!(name(&RouteTable::new(vec![input]), &Head::get("/x/y")), "all");
    assert_eq!(name(&RouteTable::default(), &Head::get("/x/y")), "none");
}

fn backends(weights: &[u32]) -> Backends {
    Backends::new(weights.iter().map(|&weight| WeightedBackend {
        weight,
        target: Err("none".into()),
        request_headers: HeaderEdits::default(),
    }))
}

#[test]
fn an_explanation_says_what_does_not_fit() {
    let plain = |path| Match { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false };
    let rules = vec![
        (vec![Match { method: Some("POST".into()), ..plain(exact("/v2/x")) }], rule("post")),
        (vec![Match { headers: vec![value("x-user", "a")], ..plain(prefix("/v2")) }], rule("user")),
        (vec![Match { query: vec![value("q", "1")], ..plain(prefix("/v2")) }], rule("query")),
        (vec![Match { grpc: true, ..plain(prefix("/")) }], rule("grpc")),
        (vec![plain(prefix("/v3"))], rule("other")),
        (vec![], rule("all")),
    ];
    let elsewhere = RouteInput { hosts: vec![HostMatch::Suffix(".example".into())], ..route("s", vec![]) };
    let elsewhere = RouteInput { rules: vec![(vec![], rule("elsewhere"))], ..elsewhere };
    let table = RouteTable::new(vec![RouteInput { rules, ..route("r", vec![]) }, elsewhere]);
    let said: Vec<String> = table
        .explain(&Head::get("/v2/x"))
        .iter()
        .map(|c| match c.verdict {
            Verdict::Taken => format!("{}: {}: taken", c.rule.name, c.fits),
            Verdict::Outranked => format!("{}: {}: outranked", c.rule.name, c.fits),
            Verdict::Misfit(misfit) => format!("{}: {}: {misfit}", c.rule.name, c.fits),
        })
        .collect();
    assert_eq!(
        said,
        [
            "post: path /v2/x and method POST: the method is not POST",
            "user: path /v2/* and header x-user=a: no header x-user=a",
            "query: path /v2/* and query q=1: no query parameter q=1",
            "other: path /v3/*: the path does not fit",
            "grpc: any path and gRPC: the request is not gRPC",
            "all: any path: taken",
            "elsewhere: any path: is for another host",
        ]
    );
}

#[test]
fn no_weight_picks_nothing() {
    let mut rng = Rng::seeded(1);
    assert!(backends(&[]).pick(&mut rng).is_none());
    assert!(backends(&[0, 0]).pick(&mut rng).is_none());
}

proptest! {
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(0u32..50, 1..6), seed: u64) {
        let (backends, mut rng) = (backends(&weights), Rng::seeded(seed));
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let mut counts = vec![0f64; weights.len()];
        const ROUNDS: f64 = 4000.0;
        for _ in 0..ROUNDS as usize {
            let picked = backends.pick(&mut rng).expect("some have weight");
            let index = backends.list.iter().position(|b| std::ptr::eq(b, picked)).expect("of the list");
            counts[index] += 1.0;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            let p = f64::from(*weight) / f64::from(total);
            prop_assert!((count - ROUNDS * p).abs() <= 6.0 * (ROUNDS * p * (1.0 - p)).sqrt(), "{counts:?} for {weights:?}");
        }
    }

    #[test]
    fn the_table_answers_as_the_rules_of_precedence_do(
        routes in prop::collection::vec(any_route(), 1..6),
        order in any::<prop::sample::Index>(),
        head in any_head(),
    ) {
        let table = RouteTable::new(inputs(&routes));
        let by_hand = reference(&routes, &head);
        prop_assert_eq!(found(&table, &head).map(|(name, _)| name), by_hand.clone());
        let mut turned = routes.clone();
        turned.rotate_left(order.index(routes.len()));
        turned.reverse();
        let again = RouteTable::new(inputs(&turned));
        prop_assert_eq!(found(&again, &head).map(|(name, _)| name), by_hand.clone());
        let explained = again.explain(&head);
        let taken: Vec<_> = explained.iter().filter(|c| matches!(c.verdict, Verdict::Taken)).collect();
        prop_assert!(taken.len() <= 1);
        prop_assert_eq!(taken.first().map(|c| c.rule.name.to_string()), by_hand, "{:?}", explained);
        let matches: usize = routes.iter().map(|route| route.2.len()).sum();
        prop_assert_eq!(explained.len(), matches);
    }
}

/// One match of a route in a form that is easy to make at random.
#[derive(Clone, Debug)]
struct Plain {
    kind: u8,
    path: String,
    method: bool,
    headers: usize,
    query: usize,
}

/// Host (nothing, exact or suffix), age and matches; the name is made from the contents' place.
type PlainRoute = (u8, i64, Vec<Plain>, u32);

const HOSTS: [&str; 3] = ["", "a.example", ".example"];
const NAMES: [&str; 2] = ["x", "y"];

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["/a", "/b", "/ab"]), 0..4).prop_map(|parts| parts.concat())
}

fn any_route() -> impl Strategy<Value = PlainRoute> {
    let plain = (0u8..3, any_path(), any::<bool>(), 0usize..3, 0usize..3)
        .prop_map(|(kind, path, method, headers, query)| Plain { kind, path, method, headers, query });
    (0u8..3, 0i64..3, prop::collection::vec(plain, 1..4), any::<u32>())
}

fn any_head() -> impl Strategy<Value = Head> {
    let host = prop::sample::select(vec!["a.example", "b.example", "other"]);
    (any_path(), any::<bool>(), 0usize..3, 0usize..3, host).prop_map(|(path, post, headers, query, host)| {
        let mut head = Head::get(&format!("{path}/")).at(host);
        head.path = if path.is_empty() { "/".into() } else { path };
        head.method = if post { "POST" } else { "GET" }.into();
        for name in &NAMES[..headers] {
            head = head.with(name, "1");
        }
        head.query = Some(NAMES[..query].iter().map(|name| format!("{name}=1&")).collect());
        head
    })
}

fn inputs(routes: &[PlainRoute]) -> Vec<RouteInput> {
    let input = |(host, created, matches, id): &PlainRoute| {
        let values = |n: usize| NAMES[..n].iter().map(|name| value(name, "1")).collect();
        let matches = matches.iter().map(|plain| Match {
            path: match plain.kind {
                0 => exact(&plain.path),
                1 => prefix(&plain.path),
                _ => regex(&format!("{}.*", plain.path)),
            },
            method: plain.method.then(|| "POST".into()),
            headers: values(plain.headers),
            query: values(plain.query),
            grpc: false,
        });
        let hosts = match host {
            0 => Vec::new(),
            1 => vec![HostMatch::Exact(HOSTS[1].into())],
            _ => vec![HostMatch::Suffix(HOSTS[2].into())],
        };
        RouteInput { hosts, created: *created, ..route(&format!("r{id:010}"), matches.collect()) }
    };
    routes.iter().map(input).collect()
}

/// Every rule that fits, sorted by Gateway API's list, without any index.
fn reference(routes: &[PlainRoute], head: &Head) -> Option<String> {
    let mut fitting = Vec::new();
    for (host, created, matches, id) in routes {
        let host_fits = match host {
            0 => true,
            1 => head.authority == HOSTS[1],
            _ => head.authority.ends_with(HOSTS[2]),
        };
        for (place, plain) in matches.iter().enumerate() {
            let path_fits = match plain.kind {
                0 => head.path == plain.path,
                1 => head
                    .path
                    .strip_prefix(&*plain.path)
                    .is_some_and(|rest| plain.path.is_empty() || rest.is_empty() || rest.starts_with('/')),
                _ => head.path.starts_with(&*plain.path),
            };
            let queries = head.query.as_deref().unwrap_or("").matches('=').count();
            let rest_fits = (!plain.method || head.method == "POST")
                && plain.headers <= head.headers.len()
                && plain.query <= queries;
            if !(host_fits && path_fits && rest_fits) {
                continue;
            }
            // Negative numbers, since the least is taken: kind of host, kind and length of path, and so on.
            let path = match plain.kind {
                0 => (-3, 0),
                1 if plain.path.is_empty() => (0, 0),
                1 => (-2, -(plain.path.len() as i64)),
                _ => (-1, 0),
            };
            let host = match host {
                1 => -2,
                2 => -1,
                _ => 0,
            };
            let rest = (!plain.method, -(plain.headers as i64), -(plain.query as i64));
            let name = format!("r{id:010}");
            fitting.push((host, path, rest, *created, name.clone(), place, format!("{name}/{place}")));
        }
    }
    fitting.into_iter().min().map(|best| best.6)
}
