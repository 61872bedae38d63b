//! `heddle inside`: the process that makes an instance's namespaces and lives there. Started by a supervisor alone.

use std::os::fd::RawFd;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

/// Make the namespaces of an instance, and sockets in them
#[derive(Debug, Args)]
pub(crate) struct InsideArgs {
    /// The descriptor over which orders come
    #[arg(long, value_name = "FD")]
    control: RawFd,
}

pub(super) fn run(args: InsideArgs) -> anyhow::Result<ExitCode> {
    let control = net::handoff::inherited(args.control).context("--control")?;
    net::inside::run(control)?;
    Ok(ExitCode::SUCCESS)
}
