//! `heddle simulate`: plays load balancing through, with the engine's own code and with others' algorithms.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::simulate::{Algorithm, Distribution, Outcome, Scenario};
use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::OutputArgs;
use crate::console;

/// Compare ways to choose an instance in simulated meshes
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Which scenarios; all where none is named
    scenarios: Vec<String>,
    /// List the scenarios and run none
    #[arg(long)]
    list: bool,
    /// Only these algorithms, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    algorithms: Vec<String>,
    /// Another seed gives other requests at other times; the same one gives the same result
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Take service times from a file: one in milliseconds a line
    #[arg(long, value_name = "FILE")]
    times: Option<PathBuf>,
    /// Write a plot of each scenario, NAME.svg, into this folder
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What programs read; times in milliseconds, `null` where so many failed that there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    scenario: &'static str,
    algorithm: &'static str,
    requests: usize,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    errors: f64,
    within_second: f64,
    spread: f64,
    to_marked: u64,
    probes: u64,
}

pub(super) fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let mut scenarios = named(::simulate::scenarios(), &args.scenarios, "scenario", |s| s.name)?;
    let algorithms = named(Algorithm::ALL.to_vec(), &args.algorithms, "algorithm", |a| a.name())?;
    if args.list {
        for scenario in &scenarios {
            console::line(format_args!("{:14}{}", scenario.name, scenario.about));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.times {
        let times = times(path)?;
        scenarios = scenarios.into_iter().map(|scenario| scenario.with_times(&times)).collect();
    }
    if let Some(folder) = &args.plots {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut rows = Vec::new();
    for scenario in &scenarios {
        let outcomes = run_all(scenario, &algorithms, args.seed);
        if args.output.json() {
            rows.extend(outcomes.iter().map(|outcome| row(scenario, outcome)));
        } else {
            console::line(::simulate::table(scenario, &outcomes));
        }
        if let Some(folder) = &args.plots {
            let path = folder.join(format!("{}.svg", scenario.name));
            std::fs::write(&path, ::simulate::plot::svg(scenario, &outcomes))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if args.output.json() {
        console::line(serde_json::to_string_pretty(&rows)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Every algorithm on the same requests, as many at a time as there are cores.
fn run_all(scenario: &Scenario, algorithms: &[Algorithm], seed: u64) -> Vec<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes = Vec::with_capacity(algorithms.len());
    for some in algorithms.chunks(cores) {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                some.iter().map(|algorithm| scope.spawn(|| ::simulate::run(scenario, *algorithm, seed))).collect();
            for run in running {
                outcomes.push(run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
    }
    outcomes
}

/// Those of `all` that are named, or all of them.
fn named<T>(all: Vec<T>, names: &[String], what: &str, name: impl Fn(&T) -> &'static str) -> anyhow::Result<Vec<T>> {
    let known: Vec<&str> = all.iter().map(&name).collect();
    if let Some(unknown) = names.iter().find(|wanted| !known.contains(&wanted.as_str())) {
        anyhow::bail!("there is no {what} `{}`; there are {}", unknown.escape_debug(), known.join(", "));
    }
    Ok(all.into_iter().filter(|one| names.is_empty() || names.iter().any(|wanted| wanted == name(one))).collect())
}

fn times(path: &Path) -> anyhow::Result<Distribution> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Distribution::recorded(&text).with_context(|| format!("{} cannot be used", path.display()))
}

fn row(scenario: &Scenario, outcome: &Outcome) -> Row {
    let at = |share: f64| Some(outcome.percentile(share)).filter(|ms| ms.is_finite());
    Row {
        scenario: scenario.name,
        algorithm: outcome.algorithm.name(),
        requests: outcome.latencies.len(),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        errors: outcome.errors(),
        within_second: outcome.within(1000.0),
        spread: outcome.spread(),
        to_marked: outcome.to_marked,
        probes: outcome.probes,
    }
}
