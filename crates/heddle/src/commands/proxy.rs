//! `heddle proxy`: a sidecar or a gateway alone.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::sidecar::settings::SidecarSettings;
use crate::sidecar::{self, Handed, Start};

/// Run a sidecar alone
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// JSON file with what it is to do
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// Run without a supervisor at standard input: ready at once, ended by SIGTERM
    #[arg(long)]
    standalone: bool,
    /// File with a token for the first certificate
    #[arg(long, value_name = "FILE", requires = "standalone")]
    token_file: Option<PathBuf>,
    /// Take the place of the proxy that runs with these settings' directory: it hands over what it listens on and ends when its
    /// work is done
    #[arg(long)]
    replace: bool,
    /// So many listening sockets are open at descriptors 3 and up; those at addresses of the settings are used
    #[arg(long, value_name = "N", default_value_t = 0)]
    listeners: u16,
    /// The descriptor over which the sockets of the application's own network come
    #[arg(long, value_name = "FD", hide = true)]
    inside: Option<RawFd>,
}

/// The largest settings file: thousands of service listeners.
const MAX_SETTINGS: usize = 16 << 20;

pub(super) fn run(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    // First, while nothing else is open.
    let listeners = net::listen::inherited(args.listeners).context("--listeners")?;
    let inside = args.inside.map(Handed::receive).transpose().context("--inside")?;
    logging()?;
    // The allocator is built not to ask for huge pages; where the kernel gives them unasked, an idle sidecar would touch six
    // and fill none. A kernel that cannot turn them off only costs memory.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    raise_open_files();
    let text = net::files::read(&args.settings, MAX_SETTINGS).context("cannot read the settings (--settings)")?;
    let settings: SidecarSettings =
        serde_json::from_slice(&text).with_context(|| format!("{} is not understood", args.settings.display()))?;
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let start = Start {
        file: args.settings,
        settings,
        standalone: args.standalone,
        token,
        listeners,
        inside,
        replace: args.replace,
    };
    crate::block_on(Box::pin(sidecar::run(start)))?;
    Ok(ExitCode::SUCCESS)
}

/// The token in a file that only its owner may read.
pub(crate) fn read_token(path: &std::path::Path) -> anyhow::Result<String> {
    let bytes = net::files::read_private(path, 4096)?;
    let text = String::from_utf8(bytes).with_context(|| format!("{} holds no text", path.display()))?;
    let token = text.trim();
    anyhow::ensure!(!token.is_empty(), "{} is empty", path.display());
    Ok(token.to_owned())
}

/// A connection is an open file. What cannot be raised stays as it is, and connections beyond it wait.
pub(crate) fn raise_open_files() {
    if let Err(error) = net::process::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is; `ulimit -n` before the start raises it");
    }
}

/// The program's own log on standard error: warnings, or what `HEDDLE_LOG` says.
pub(crate) fn logging() -> anyhow::Result<()> {
    let filter = std::env::var("HEDDLE_LOG").unwrap_or_else(|_| "warn".to_owned());
    telemetry::logging::init(&filter, false, false).context("HEDDLE_LOG")?;
    Ok(())
}
