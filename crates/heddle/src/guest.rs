//! An instance that no supervisor keeps: of `heddle run`, and of `heddle exec`, which is never an endpoint.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use control::admin::model::ServiceEntry;
use net::listen::AddressLock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::runtime;
use crate::sidecar::settings::{SidecarSettings, service_listeners};
use crate::signals::{SIGNAL_BASE, Signals};
use crate::supervisor::application::Program;
use crate::supervisor::environment::{Pod, environment, service_ports};
use crate::supervisor::inside::Inside;
use crate::supervisor::report::Reporter;
use crate::supervisor::sidecar::{ProxyState, Sidecar, Tokens};
use crate::supervisor::{FIRST_GUEST, Mesh};
use crate::witness::{Heard, Witness, in_our_group};

/// The longest wait for a sidecar to get ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// After SIGTERM, how long callers are given to finish what they have under way before the command is told: what Kubernetes gives
/// instances that do not say (`terminationGracePeriodSeconds`).
const DRAIN: Duration = Duration::from_secs(30);

/// When the command has ended, how long what it has written may take to be delivered. Without a sidecar the system delivers it,
/// however long that takes; nobody wants to wait that long for a prompt.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// An address of a mesh's block that no other guest has.
#[derive(Debug)]
pub(crate) struct GuestAddress {
    pub(crate) ip: IpAddr,
    _lock: AddressLock,
}

impl GuestAddress {
    /// Chooses one of block `127.N.0.0/16`.
    pub(crate) fn choose(block: u8) -> anyhow::Result<GuestAddress> {
        // Guests start at random, so that two that start at once do not meet.
        let count = u64::from(u16::MAX - FIRST_GUEST);
        let start = RandomState::new().hash_one(std::process::id()) % count;
        for step in 0..count {
            let host = FIRST_GUEST + u16::try_from((start + step) % count).context("hosts are 16 bits")?;
            let [third, fourth] = host.to_be_bytes();
            let ip = IpAddr::V4(Ipv4Addr::new(127, block, third, fourth));
            // Port 0 stands for the whole address.
            if let Ok(lock) = AddressLock::take(SocketAddr::new(ip, 0)) {
                return Ok(GuestAddress { ip, _lock: lock });
            }
        }
        bail!("every address for guests of block 127.{block}.0.0/16 is held; end some `heddle exec` or `heddle run`")
    }
}

/// A word that no other process of this machine uses, for names.
pub(crate) fn unique() -> String {
    let random = RandomState::new().hash_one(std::time::SystemTime::now());
    format!("{}-{:04x}", std::process::id(), random & 0xffff)
}

/// A running guest's sidecar.
#[derive(Debug)]
pub(crate) struct Guest {
    sidecar: Sidecar,
}

impl Guest {
    /// Starts the sidecar and waits until it is ready, unless a signal comes first.
    pub(crate) async fn start(
        settings: &SidecarSettings,
        tokens: Tokens,
        inside: Option<Arc<Inside>>,
        reporter: &Reporter,
        signals: &mut Signals,
    ) -> anyhow::Result<Guest> {
        let sidecar = Sidecar::start(&settings.proxy.workload, settings, tokens, inside, reporter)?;
        let mut state = sidecar.state();
        let guest = Guest { sidecar };
        let ready = async {
            match tokio::time::timeout(READY_TIMEOUT, state.wait_for(|s| *s == ProxyState::Ready)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => {
                    bail!("the sidecar did not get ready within {READY_TIMEOUT:?}; does the control plane answer?")
                }
            }
        };
        match signals.or(ready).await {
            Ok(()) => Ok(guest),
            Err(error) => {
                guest.end_at_once().await;
                Err(error)
            }
        }
    }

    /// Its sidecar.
    pub(crate) fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// Ends the sidecar when what the command has written and not seen arrive is delivered, after [`LAST_WORDS`] at most, or with the
    /// next signal.
    pub(crate) async fn end(mut self, signals: &mut Signals) {
        self.sidecar.end(LAST_WORDS);
        tokio::select! {
            () = self.sidecar.ended() => return,
            _ = signals.next() => {}
        }
        self.end_at_once().await;
    }

    async fn end_at_once(mut self) {
        self.sidecar.end(Duration::ZERO);
        self.sidecar.ended().await;
    }
}

/// Which services there are: a sidecar with `settings`, which ask for that, lives for this one question, gets its certificate
/// with `tokens`, and keeps it in its directory for the next life.
pub(crate) async fn learn(
    settings: &SidecarSettings,
    tokens: Tokens,
    reporter: &Reporter,
    signals: &mut Signals,
) -> anyhow::Result<Vec<ServiceEntry>> {
    let mut sidecar = Sidecar::start(&settings.proxy.workload, settings, tokens, None, reporter)?;
    let mut services = sidecar.services();
    let answer = signals.or(async {
        let answer = tokio::time::timeout(READY_TIMEOUT, services.wait_for(Option::is_some)).await;
        answer.ok().and_then(|services| services.ok()?.clone()).with_context(|| {
            format!("the control plane did not take this instance in within {READY_TIMEOUT:?}; does it answer?")
        })
    });
    let answer = answer.await;
    sidecar.end(Duration::ZERO);
    sidecar.ended().await;
    answer
}

/// What a guest's command is started with: its own words, in the caller's folder.
pub(crate) fn program(
    mesh: &Mesh,
    pod: &Pod,
    services: &[ServiceEntry],
    argv: Vec<String>,
    inside: Option<Arc<Inside>>,
) -> anyhow::Result<Program> {
    let ports = service_ports(services, &pod.namespace);
    let environment: BTreeMap<String, String> = environment(pod, mesh.mode, &ports, &[]);
    let folder = std::env::current_dir().context("the current folder is gone")?;
    if mesh.upstream_proxy.is_some() {
        mesh.reporter.note("calls to the outside go through the proxy of this environment");
    }
    Ok(Program { argv, environment, folder, label: None, inside })
}

/// Listeners for the services that the guest is told of by variables.
pub(crate) fn listeners(
    ip: IpAddr,
    namespace: &str,
    services: &[ServiceEntry],
) -> Vec<proxy::settings::ServiceListener> {
    service_listeners(ip, &service_ports(services, namespace))
}

/// Waits for a command that shares our terminal and process group. What the whole group gets (Ctrl-C, systemd) reaches it without us;
/// what only we get is passed on: SIGTERM when `serving`, its sidecar if others call it, has finished what they have under way, or
/// with the next signal.
pub(crate) async fn wait(
    child: &mut Child,
    signals: &mut Signals,
    witness: &mut Witness,
    serving: Option<&Sidecar>,
) -> anyhow::Result<ExitCode> {
    let mut draining = false;
    loop {
        let heard = tokio::select! {
            status = child.wait() => return Ok(exit_code(status.context("cannot wait for the command")?)),
            heard = witness.next(signals) => heard,
            () = drained(serving), if draining => Heard { signal: Signal::SIGTERM, by_all: false },
        };
        let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()).map(Pid::from_raw) else { continue };
        let knows = heard.by_all && in_our_group(pid);
        let passed = match (serving, heard.signal) {
            (Some(sidecar), Signal::SIGTERM) if !draining && *sidecar.state().borrow() != ProxyState::Drained => {
                sidecar.drain(DRAIN);
                draining = !knows;
                continue;
            }
            (_, signal) if knows => {
                draining &= signal != Signal::SIGTERM;
                continue;
            }
            _ if draining => Signal::SIGTERM,
            (_, other) => other,
        };
        draining = false;
        // It may have ended in between, which the next turn sees.
        let _ = kill(pid, passed);
    }
}

/// Resolves when the sidecar has nothing more to do for others.
async fn drained(sidecar: Option<&Sidecar>) {
    match sidecar {
        Some(sidecar) => sidecar.drained().await,
        None => std::future::pending().await,
    }
}

/// The exit status to pass on, as shells have it.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| SIGNAL_BASE + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

/// The exit status for a command that could not be started, as shells have it: 127 when there is none, 126 otherwise.
pub(crate) fn not_started(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) => ExitCode::from(127),
        _ => ExitCode::from(126),
    }
}

/// The block of the mesh in `dir`.
pub(crate) fn block(dir: &Path) -> anyhow::Result<u8> {
    let mesh = runtime::read(dir).with_context(|| {
        format!(
            "{} does not say which addresses the mesh has; was its control plane started by `heddle up`?",
            dir.display()
        )
    })?;
    Ok(mesh.block)
}
