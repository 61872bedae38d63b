//! What the simulator predicts for `bench/balance/run`, one line of JSON an algorithm: three sound servers, one that takes ten times as
//! long, one that fails at once, one that begins cold; one client.
//!
//! ```text
//! cargo run --release -p simulate --example live -- RATE SECONDS TIMES
//! ```

#![allow(clippy::print_stdout, reason = "it is a program")]

use engine::Nanos;
use simulate::{Algorithm, Distribution, Fault, Route, Scenario, ServerSpec, run};

/// As in `bench/balance/app.py`.
const FACTOR: f64 = 10.0;
/// As there.
const COLD_REQUESTS: u32 = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut next = || words.next().ok_or("RATE SECONDS TIMES are to be given");
    let (rate, seconds): (f64, f64) = (next()?.parse()?, next()?.parse()?);
    let times = Distribution::recorded(&std::fs::read_to_string(next()?)?)?;
    let sound = || ServerSpec::sound(0);
    let slow = ServerSpec { route_factors: vec![FACTOR], ..sound() };
    let failing = sound().with(0.0, seconds + 60.0, Fault::Fails(1.0));
    let cold = ServerSpec { cold: Some((COLD_REQUESTS, FACTOR)), ..sound() };
    let scenario = Scenario {
        name: "live",
        title: "what bench/balance does",
        about: "",
        length: Nanos::from_millis((seconds * 1e3) as u64),
        rates: vec![(Nanos(0), rate)],
        routes: vec![Route { share: 1.0, times }],
        clients: 1,
        servers: vec![sound(), sound(), sound(), slow, failing, cold],
        timeout: None,
        mark: "failing",
        marked: Vec::new(),
    };
    for algorithm in [Algorithm::Fastest, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let outcome = run(&scenario, algorithm, 1);
        let at = |share: f64| match outcome.percentile(share) {
            failed if failed.is_infinite() => "null".to_owned(),
            ms => format!("{ms:.3}"),
        };
        println!(
            "{{\"algorithm\":\"{}\",\"p50\":{},\"p90\":{},\"p99\":{},\"errors\":{:.6},\"sent\":{:?}}}",
            algorithm.name(),
            at(0.5),
            at(0.9),
            at(0.99),
            outcome.errors(),
            outcome.sent,
        );
    }
    Ok(())
}
