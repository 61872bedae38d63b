//! `heddle control`: a control plane alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

/// Run a control plane alone
#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// Files and folders of manifests
    paths: Vec<PathBuf>,
    /// Where its sockets, its authority and its state are
    #[arg(long, value_name = "DIR")]
    runtime: PathBuf,
    /// Serve sidecars over TCP too
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Name of the mesh
    #[arg(long, value_name = "MESH", default_value = "default")]
    name: String,
    /// How long a certificate is valid
    #[arg(long, value_name = "TIME", value_parser = super::duration, default_value = "24h")]
    certificate_life: std::time::Duration,
}

pub(super) fn run(args: ControlArgs) -> anyhow::Result<ExitCode> {
    crate::commands::proxy::logging()?;
    crate::commands::proxy::raise_open_files();
    let mut config = ::control::Config::new(args.runtime, args.paths);
    config.mesh = args.name;
    config.listen = args.listen;
    config.certificate_life = args.certificate_life;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let shutdown = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        };
        ::control::run(config, shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}
