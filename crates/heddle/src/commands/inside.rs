//! `heddle inside`: the process that makes an instance's namespaces and lives there. Started by a supervisor alone.

use std::os::fd::RawFd;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

/// Make the namespaces of an instance, and sockets in them
#[derive(Debug, Args)]
pub(crate) struct InsideArgs {
    /// The descriptor over which orders come
    #[arg(long, value_name = "FD")]
    control: RawFd,
}

pub(super) fn run(args: InsideArgs) -> anyhow::Result<ExitCode> {
    // The supervisor ends it (SIGKILL), and not before the application has ended: a signal to a whole control group is not for it.
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect::<SigSet>().thread_block()?;
    let control = net::handoff::inherited(args.control).context("--control")?;
    net::inside::run(control)?;
    Ok(ExitCode::SUCCESS)
}
