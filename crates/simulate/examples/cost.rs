//! What one choice costs, beside tower's p2c with peak EWMA in the same run: an endpoint is chosen, a request is counted as
//! sent there and as answered.
//!
//! ```text
//! cargo run --release -p simulate --example cost
//! valgrind --tool=callgrind target/release/examples/cost fastest 1000 20000
//! ```
//!
//! Without arguments it prints nanoseconds for sets of several sizes. With an algorithm (`fastest`, `tower`), a size and a
//! number of choices it makes just those, for counting instructions: the difference of two counts, divided by the difference
//! of their repetitions, is the cost of one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use engine::balance::{Ask, Class, Endpoint, EndpointSet, InFlight, Locality};
use engine::policy::BalancePolicy;
use engine::{Nanos, Outcome, Rng};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};

/// A service that answers at once.
#[derive(Debug)]
struct Instantly;

impl Service<()> for Instantly {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

/// Nanoseconds for each of `times` choices among `size` endpoints.
fn fastest(size: u32, times: u32) -> f64 {
    let endpoint = |i: u32| Endpoint::plain(format!("shop/cart-{i:05}"), ([127, 0, 0, 1], 80).into());
    let endpoints = (0..size).map(|i| Arc::new(endpoint(i))).collect();
    let set = EndpointSet::new(endpoints, BalancePolicy::default(), &Locality::default());
    let mut rng = Rng::seeded(1);
    let begun = Instant::now();
    for i in 0..times {
        // As in a proxy, where the clock is read anyway: once when a request is sent, once when it is answered.
        let now = Nanos::from(begun.elapsed()).after(Nanos(1));
        let Some(chosen) = set.choose(now, &mut rng, &Ask::default(), |_| true) else { return 0.0 };
        let mut request = InFlight::start(chosen, Class::default(), now);
        let now = Nanos::from(begun.elapsed()).after(Nanos(u64::from(i % 7)));
        request.answered(now);
        request.finish(now, black_box(Outcome::Success), &set);
    }
    begun.elapsed().as_nanos() as f64 / f64::from(times)
}

/// The same for tower.
fn peak_ewma(size: u32, times: u32) -> f64 {
    // Finagle's and Linkerd's figures.
    let service = |_| PeakEwma::new(Instantly, Duration::from_millis(30), 10e9, CompleteOnResponse::default());
    let list: Vec<_> = (0..size).map(service).collect();
    let mut balance = Balance::new(ServiceList::new::<()>(list));
    let mut context = Context::from_waker(Waker::noop());
    // The first time it takes all services in.
    let _ = balance.poll_ready(&mut context);
    let begun = Instant::now();
    for _ in 0..times {
        if balance.poll_ready(&mut context).is_pending() {
            return 0.0;
        }
        let mut answer = std::pin::pin!(balance.call(()));
        black_box(answer.as_mut().poll(&mut context).is_ready());
    }
    begun.elapsed().as_nanos() as f64 / f64::from(times)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        println!("{:>10}{:>14}{:>14}", "endpoints", "fastest", "tower p2c");
        for size in [2, 10, 100, 10_000] {
            // The best of five: what else the machine did is not ours.
            let best = |run: fn(u32, u32) -> f64| (0..5).map(|_| run(size, 200_000)).fold(f64::INFINITY, f64::min);
            println!("{size:>10}{:>11.0} ns{:>11.0} ns", best(fastest), best(peak_ewma));
        }
        return ExitCode::SUCCESS;
    }
    let numbers: Vec<u32> = arguments[1..].iter().filter_map(|text| text.parse().ok()).collect();
    match (arguments[0].as_str(), &numbers[..]) {
        ("fastest", [size, times]) => black_box(fastest(*size, *times)),
        ("tower", [size, times]) => black_box(peak_ewma(*size, *times)),
        _ => {
            eprintln!("cost: say `fastest` or `tower`, how many endpoints, and how often: `cost fastest 1000 20000`");
            return ExitCode::FAILURE;
        }
    };
    ExitCode::SUCCESS
}
