//! The namespaces of an instance, as its supervisor sees them: made by a helper process, which is kept alive, and held here so
//! that they outlive it. `net::inside` is what the helper does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use net::handoff::{self, Channel, inherit};
use net::inside::{self, Listeners, Made, Namespaces, Order, Plan, Sockets};
use net::process::{die_with_parent, executable, own_group};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::application::describe;
use super::backoff::Backoff;
use super::report::Reporter;
use crate::sidecar::settings::explicit;

/// The longest wait for namespaces: they take some milliseconds, on a machine that is busy perhaps seconds.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);

/// The namespaces of one instance. They end with the last process inside and the last descriptor, which are held here and by
/// the sidecar.
#[derive(Debug)]
pub(crate) struct Inside {
    ip: IpAddr,
    namespaces: Namespaces,
    listeners: Listeners,
    /// The sidecar's end of its channel to the helper: a sidecar that is started again gets the same.
    sidecar: OwnedFd,
    sockets: Sockets,
    /// The helper's process, 0 while there is none.
    helper: Arc<AtomicU32>,
    keeper: JoinHandle<()>,
}

/// What every helper of these namespaces is given.
#[derive(Debug)]
struct Helper {
    name: String,
    ip: IpAddr,
    /// The helper's ends of its channels. They are held here too, so that whoever asks does not notice another helper.
    channels: [OwnedFd; 2],
    namespaces: Namespaces,
    /// Its process.
    process: Arc<AtomicU32>,
    reporter: Reporter,
}

impl Inside {
    /// Makes namespaces for the instance called `name`. Where this machine does not allow them, the error is a
    /// [`net::inside::Refused`].
    pub(crate) async fn make(name: &str, plan: Plan, reporter: &Reporter) -> anyhow::Result<Inside> {
        let (sidecar, for_sidecar) = handoff::pair()?;
        let (own, for_us) = handoff::pair()?;
        let channels = [for_sidecar, for_us];
        let ip = plan.ip;
        let (child, control) = start(&Order::Make(plan), &channels.each_ref().map(AsFd::as_fd))?;
        let answer = tokio::time::timeout(SETUP_TIMEOUT, control.receive()).await;
        let answer = answer.map_err(|_| anyhow::anyhow!("no namespaces were made within {SETUP_TIMEOUT:?}"))??;
        let Made { namespaces, listeners } = inside::made(answer)?;
        let sockets = Sockets::start(own)?;
        let process = Arc::new(AtomicU32::new(child.id().unwrap_or_default()));
        let helper = Helper {
            name: name.to_owned(),
            ip,
            channels,
            namespaces: namespaces.clone(),
            process: Arc::clone(&process),
            reporter: reporter.clone(),
        };
        let keeper = tokio::spawn(helper.keep(child));
        Ok(Inside { ip, namespaces, listeners, sidecar, sockets, helper: process, keeper })
    }

    /// What a sidecar process inherits: a socket in which the sockets that it needs are waiting.
    pub(crate) fn handoff(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = handoff::pair()?;
        let mut descriptors = vec![self.sidecar.as_fd()];
        descriptors.extend(self.listeners.all());
        handoff::send(&ours, b"inside", &descriptors)?;
        Ok(theirs)
    }

    /// The data path of a sidecar whose application is inside.
    pub(crate) fn data(&self, workload: String, upstream_proxy: Option<String>) -> io::Result<proxy::Settings> {
        Ok(proxy::Settings {
            outbound: None,
            redirected: self.listeners.outbound_addresses()?,
            ..explicit(workload, self.ip, upstream_proxy)
        })
    }

    /// Makes `command`'s process run inside, in `folder`.
    pub(crate) fn enter(&self, command: &mut Command, folder: &Path) -> io::Result<()> {
        self.namespaces.enter(command, folder)
    }

    /// Whether `process` is one of the application's, or was started by it.
    pub(crate) fn is_inside(&self, process: Pid) -> bool {
        self.namespaces.is_inside(process)
            && i64::from(process.as_raw()) != i64::from(self.helper.load(Ordering::Relaxed))
    }

    /// Connects to the application. Bound the wait.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.sockets.take().await.connect(address).await
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The helper is killed with the task that holds it.
        self.keeper.abort();
    }
}

impl Helper {
    /// Keeps a helper alive, beginning with `child`.
    async fn keep(self, mut child: Child) {
        let mut backoff = Backoff::new();
        backoff.started();
        loop {
            let ended = match child.wait().await {
                Ok(status) => format!("ended ({})", describe(status)),
                Err(error) => error.to_string(),
            };
            child = loop {
                let wait = backoff.died();
                self.reporter.problem(format_args!(
                    "the process that makes connections to {} possible {ended}; started again in {wait:?}",
                    self.name
                ));
                tokio::time::sleep(wait).await;
                backoff.started();
                let mut descriptors = self.namespaces.all();
                descriptors.extend(self.channels.each_ref().map(AsFd::as_fd));
                let order = Order::Join { user: self.namespaces.has_user(), ip: self.ip };
                match start(&order, &descriptors) {
                    Ok((child, _)) => {
                        self.process.store(child.id().unwrap_or_default(), Ordering::Relaxed);
                        break child;
                    }
                    Err(error) => self.reporter.problem(format_args!("{}: {error}", self.name)),
                }
            };
        }
    }
}

/// Starts a helper and tells it what to do.
fn start(order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<(Child, Channel)> {
    let (ours, theirs) = handoff::pair()?;
    handoff::send(&ours, &serde_json::to_vec(order)?, descriptors)?;
    let mut command = Command::new(executable());
    let number = inherit(&mut command, theirs);
    command.args(["inside", "--control", &number.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    own_group(&mut command);
    die_with_parent(&mut command);
    let child = command.spawn()?;
    Ok((child, Channel::new(ours)?))
}
