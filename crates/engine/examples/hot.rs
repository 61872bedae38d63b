//! What every request costs in this crate, for counting instructions:
//!
//! ```text
//! cargo build --profile dist -p engine --example hot
//! valgrind --tool=callgrind target/dist/examples/hot match 100000
//! ```
//!
//! The first argument is `match` (find a rule among 200), `choose` (pick one of 1000 endpoints and record a success) or
//! `both`; the second is how often. The difference of two counts, divided by the difference of their repetitions, is the
//! cost of one.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use engine::balance::{Ask, Class, Endpoint, EndpointSet, InFlight, Locality};
use engine::policy::{BalancePolicy, RetryPolicy};
use engine::retry::RetryBudget;
use engine::route::{Backends, Match, PathMatch, RouteInput, RouteTable, Rule};
use engine::{Nanos, Outcome, RequestHead, Rng, SeriesId};

struct Head;

impl RequestHead for Head {
    fn method(&self) -> &str {
        "GET"
    }
    fn path(&self) -> &str {
        "/api/v1/service-57/items/12345"
    }
    fn query(&self) -> Option<&str> {
        Some("page=2&sort=name")
    }
    fn authority(&self) -> &str {
        "cart.shop.svc.cluster.local:80"
    }
    fn header(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

fn table() -> RouteTable {
    let rule = |name: &str| {
        Arc::new(Rule {
            name: name.into(),
            redirect: None,
            rewrite: None,
            request_headers: Default::default(),
            response_headers: Default::default(),
            backends: Backends::default(),
            policy: Arc::default(),
            budget: Arc::new(RetryBudget::new(&RetryPolicy::default())),
            series: SeriesId(1),
        })
    };
    let routes = (0..200).map(|i| {
        let path = PathMatch::Prefix(format!("/api/v1/service-{i}").into());
        let by_path = Match { path, method: None, headers: vec![], query: vec![], grpc: false };
        let name = format!("shop/route-{i}");
        RouteInput { hosts: vec![], created: 0, rules: vec![(vec![by_path], rule(&name))], name: name.into() }
    });
    RouteTable::new(routes.collect())
}

fn endpoints() -> EndpointSet {
    let endpoint = |i: u32| Endpoint::plain(format!("shop/cart-{i}"), ([127, 0, 0, 1], 80).into());
    let endpoints = (0..1000).map(|i| Arc::new(endpoint(i))).collect();
    EndpointSet::new(endpoints, BalancePolicy::default(), &Locality::default())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let times: Option<u64> = arguments.next().and_then(|text| text.parse().ok());
    let (Some(times), "match" | "choose" | "both") = (times, what.as_str()) else {
        eprintln!("hot: say what to run and how often, for example `hot match 100000`");
        return ExitCode::FAILURE;
    };
    let (table, endpoints) = (table(), endpoints());
    let mut rng = Rng::seeded(1);
    for i in 0..times {
        if what != "choose" {
            black_box(table.find(black_box(&Head)).is_some());
        }
        if what != "match" {
            let now = Nanos::from_millis(i);
            let Some(chosen) = endpoints.choose(now, &mut rng, &Ask::default(), |_| true) else {
                return ExitCode::FAILURE;
            };
            let mut request = InFlight::start(chosen, Class::default(), now);
            request.answered(Nanos::from_millis(i + 1));
            request.finish(Nanos::from_millis(i + 2), black_box(Outcome::Success), &endpoints);
        }
    }
    ExitCode::SUCCESS
}
