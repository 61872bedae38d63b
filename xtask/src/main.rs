//! The project's own chores.
//!
//! - `cargo xtask codegen` writes the generated protobuf code.
//! - `cargo xtask check` checks the rules that no compiler knows.
//! - `cargo xtask instructions` counts what the hot path costs, and fails when it got dearer.
//! - `cargo xtask tools` installs what the tests need.
//! - `cargo xtask test [ARGS]` does that and runs every test; ARGS go to the test runner.

mod check;
mod codegen;
mod instructions;
mod tools;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("codegen") => codegen::generate(&root, &root.join("crates/proto/src/generated")),
        Some("check") => check::run(&root),
        Some("instructions") => instructions::run(&root, args.next().as_deref() == Some("--write")),
        Some("tools") => tools::install(&root),
        Some("test") => {
            tools::install(&root)?;
            test(&args.collect::<Vec<_>>())
        }
        other => bail!("unknown command {other:?}: use codegen, check, instructions, tools or test"),
    }
}

/// Test programs of whole meshes that look at nothing which explicit mode alone has. They run in namespace mode too.
const NAMESPACE_TOO: [&str; 3] = ["changes", "grpc", "mesh"];

/// What tests pass over that are not run by root (`testkit::netns`).
const NEEDS_ROOT: &str = "redirect mode with real kernel rules (heddle::redirect, proxy::data_path redirected) and local ports that run \
                          out (proxy::data_path faults)";

/// Runs every test with nextest where it is installed (a process per test, so a hanging one can be ended), else with cargo.
fn test(args: &[String]) -> Result<()> {
    let nextest = tools::works("cargo", &["nextest", "--version"]);
    let runner: &[&str] = if nextest { &["nextest", "run", "--workspace"] } else { &["test", "--workspace"] };
    succeed(Command::new("cargo").args(runner).args(args))?;
    if !args.is_empty() {
        return Ok(());
    }
    // The same programs, in the mode that people get.
    let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
    let programs = NAMESPACE_TOO.iter().flat_map(|program| ["--test", program]);
    let mut again = Command::new("cargo");
    again.args(runner).args(["-p", "heddle"]).args(programs).env("HEDDLE_TEST_MODE", "namespace");
    succeed(&mut again)?;
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        eprintln!("xtask: not tested, for it needs root: {NEEDS_ROOT}");
    }
    Ok(())
}

/// Runs a command that must succeed, with its output going to the terminal.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} failed: {status}") }
}

/// Runs a command that must succeed, and returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("what {command:?} printed"))
}
