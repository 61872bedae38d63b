//! `heddle validate`: checks manifests as the mesh would read them, and runs nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use api::{Diagnostic, Severity};
use clap::Args;
use serde::Serialize;

use super::OutputArgs;
use crate::console;

/// Check manifests and say precisely what is wrong
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files and folders of manifests
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What programs read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    valid: bool,
    objects: usize,
    diagnostics: Vec<Diagnostic>,
}

pub(super) fn run(args: ValidateArgs) -> anyhow::Result<ExitCode> {
    let mut report = examine(&args.paths)?;
    if args.strict && report.diagnostics.iter().any(|d| d.severity == Severity::Warning) {
        report.valid = false;
    }
    let code = if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.output.json() {
        console::line(serde_json::to_string_pretty(&report)?);
        return Ok(code);
    }
    show(&report);
    let errors = report.diagnostics.iter().filter(|d| d.is_error()).count();
    let others = report.diagnostics.len() - errors;
    if report.valid {
        console::line(format_args!("{} objects are good ({others} notices and warnings)", report.objects));
    } else {
        console::note(format_args!("{errors} errors, {others} notices and warnings"));
    }
    Ok(code)
}

/// Checks before `up` starts anything; says what is wrong, and whether it may go on.
pub(crate) fn check_for_up(paths: &[PathBuf]) -> anyhow::Result<bool> {
    let report = examine(paths)?;
    if !report.valid {
        show(&report);
        console::note("nothing was started; correct the manifests and try again");
    }
    Ok(report.valid)
}

fn examine(paths: &[PathBuf]) -> anyhow::Result<Report> {
    let paths = paths.to_vec();
    let verdict = crate::block_on(async move { Ok(::control::validate(paths).await) })?;
    let (objects, mut diagnostics) = (verdict.objects, verdict.diagnostics);
    diagnostics.sort_by(|a, b| (&a.file, a.line, a.column, b.severity).cmp(&(&b.file, b.line, b.column, a.severity)));
    let valid = diagnostics.iter().all(|d| d.severity != Severity::Error);
    Ok(Report { valid, objects, diagnostics })
}

fn show(report: &Report) {
    for diagnostic in &report.diagnostics {
        console::note(diagnostic.render(console::error_colours()));
    }
}
