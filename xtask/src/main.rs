//! The project's own chores: `cargo xtask codegen` and `cargo xtask check`.

mod codegen;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

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
    match std::env::args().nth(1).as_deref() {
        Some("codegen") => codegen::generate(&root, &root.join("crates/proto/src/generated")),
        other => bail!("unknown command {other:?}: use codegen or check"),
    }
}
