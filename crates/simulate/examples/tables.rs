//! Prints the tables of all scenarios, or of those named, without building the rest of Heddle: for trying changes of the
//! engine out. `heddle simulate` does the same and more.
//!
//! ```text
//! cargo run --release -p simulate --example tables -- finagle herd
//! ```

#![allow(clippy::print_stdout, reason = "it is a program")]

use simulate::{Algorithm, run, scenarios, table};

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    for scenario in scenarios().iter().filter(|s| names.is_empty() || names.iter().any(|name| name == s.name)) {
        let outcomes: Vec<_> = Algorithm::ALL.iter().map(|algorithm| run(scenario, *algorithm, 1)).collect();
        println!("{}", table(scenario, &outcomes));
    }
}
