//! The proxy process: the data path's threads, and one more thread that talks to the control plane, to the supervisor and to
//! whoever reads metrics.

mod admin;
mod ending;
mod names;
mod notify;
pub(crate) mod replace;
pub(crate) mod settings;
mod statistics;
mod wiring;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use control::admin::model::{ServiceEntry, ServicePortEntry};
use net::grant::Grant;
use net::handoff::{self, Channel, Door};
use net::identity::Identity;
use net::inside::{Listeners, Sockets};
use proto::mesh::{self, State};
use proxy::{Clock, Parts};
use telemetry::access_log::AccessLog;
use telemetry::metrics::Registry;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use xds::session::{Event, Session};

use self::ending::{Drains, End, Order, Orders};
use self::names::Names;
use self::replace::Taken;
use self::settings::SidecarSettings;
use self::wiring::Wiring;
use crate::link::{FromProxy, Messages, ToProxy};

/// How long peers are given to hear that this instance drains before it stops taking requests. A change crosses the control
/// plane in a few milliseconds; those who did not hear of it are refused before anything is sent, and try another instance.
const TELL: Duration = Duration::from_millis(250);

/// When there is no descriptor left for whoever comes to take this proxy's place, how long until it is tried again.
const KNOCK_PAUSE: Duration = Duration::from_millis(100);

/// Between attempts to open the door for a successor.
const DOOR_PAUSE: Duration = Duration::from_secs(1);

/// Problems that are over by themselves when the control plane is back are told only when they last this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the supervisor hands over where the application is in a network of its own.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Over which sockets of that network are asked for.
    sockets: OwnedFd,
    listeners: Listeners,
}

impl Handed {
    /// Receives it over the inherited descriptor `number`.
    pub(crate) fn receive(number: RawFd) -> std::io::Result<Handed> {
        let message = handoff::receive(handoff::inherited(number)?)?;
        let mut descriptors = message.descriptors.into_iter();
        let sockets = descriptors.next().ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(Handed { sockets, listeners: Listeners::from_all(descriptors.collect()) })
    }
}

/// What a proxy is started with.
#[derive(Debug)]
pub(crate) struct Start {
    /// Where the settings were read.
    pub(crate) file: PathBuf,
    pub(crate) settings: SidecarSettings,
    /// Without a supervisor at standard input, ready at once.
    pub(crate) standalone: bool,
    pub(crate) token: Option<String>,
    /// Sockets that listen already.
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) inside: Option<Handed>,
    /// In place of the proxy that runs already.
    pub(crate) replace: bool,
}

/// Runs a proxy until it is told to end.
pub(crate) async fn run(start: Start) -> anyhow::Result<()> {
    let Start { file, settings, standalone, token, mut listeners, inside, replace } = start;
    crate::runtime::private_dir(&settings.directory)?;
    let mut taken = match replace {
        true => Some(Taken::ask(&settings.directory).await?),
        false => None,
    };
    if let Some(taken) = &mut taken {
        listeners.append(&mut taken.listeners);
    }
    let pages = settings.admin.and_then(|admin| take(&mut listeners, admin));
    let identity = identity(&settings)?;
    let clock = Clock::start();
    let registry = Registry::new();
    let (certified_sender, certified) = watch::channel(valid(&identity));
    let wiring = Wiring::start(&settings, &identity, &registry, certified);
    let (drains, drain, drain_out) = Drains::new();
    let mut names = Names::new(&settings, wiring.discover(), clock, drain_out.clone());
    let inside = inside.map(|handed| take_inside(handed, &mut names, &mut listeners)).transpose()?;
    let mut held = taken.as_mut().map(|taken| std::mem::take(&mut taken.locks)).unwrap_or_default();
    let mut datagrams = taken.as_mut().map(|taken| std::mem::take(&mut taken.datagrams)).unwrap_or_default();
    held.append(&mut names.open(&settings.names, &mut datagrams, &mut listeners)?);
    let log = settings.access_log.then(|| AccessLog::start(std::io::stderr()).map(Arc::new));
    let log = log.transpose().context("cannot start the access log")?;
    let open = watch::Sender::new(taken.is_none());
    let running = proxy::start(Parts {
        settings: proxy::Settings { reserved: settings.admin.into_iter().collect(), ..settings.proxy.clone() },
        discover: wiring.discover(),
        live: wiring.client.live().clone(),
        identity: identity.clone(),
        clock,
        registry: registry.clone(),
        access_log: log,
        drain,
        drain_out,
        listeners,
        inside,
        open: open.subscribe(),
    })?;
    let explainer = crate::explain::answer::explainer(wiring.client.clone(), clock, settings.proxy.application);
    let options = xds::session::Options {
        identity: identity.clone(),
        registration: settings.registration(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        token,
        explainer: Some(explainer),
    };
    let statistics = statistics::source(registry.clone(), wiring.client.clone(), clock);
    let (session, events) = xds::session::start(options, wiring.connector.clone(), statistics);
    let application = taken.as_ref().and_then(|taken| taken.application).or(standalone.then_some(true));
    if application == Some(true) {
        // Before it registers, so that nobody takes it for an instance that has just started.
        session.state(State::Ready, "");
    }
    tokio::spawn(statistics::housekeeping(registry.clone(), wiring.client.clone(), clock));
    let ready = watch::channel(false).0;
    let mut pages_at = None;
    let (asked, asked_to_end) = mpsc::channel(1);
    if let Some(address) = settings.admin {
        let page = admin::Page {
            registry: registry.clone(),
            client: wiring.client.clone(),
            identity: identity.clone(),
            clock,
            ready: ready.subscribe(),
            drain: standalone.then_some(asked),
        };
        pages_at = Some(admin::serve(address, pages, page).await?);
    }
    let (link, inbox) = if standalone { (Link::nobody(), None) } else { Link::standard()? };
    link.tell(FromProxy::Listening(true));
    let mut proxy = Proxy {
        role: Role::of(&settings),
        settings,
        identity,
        wiring,
        session,
        link,
        ready,
        certified: certified_sender,
        application,
        problem: None,
        file,
        standalone,
        held,
        names: Some(names),
        open,
        taking: taken.map(|taken| Taking { taken, registered: false, since: None }),
        door: None,
        running,
        pages: pages_at,
    };
    let mut orders = Orders::new(inbox, asked_to_end)?;
    let end = proxy.serve(events, &mut orders).await?;
    proxy.end(drains, end, orders).await
}

/// Takes over what an application's own network has: its redirected connections, its questions for names, sockets in it.
fn take_inside(handed: Handed, names: &mut Names, listeners: &mut Vec<TcpListener>) -> anyhow::Result<Sockets> {
    // A predecessor hands its copies over, too; each would be one more that wakes up for every connection.
    let own = handed.listeners.outbound_addresses().context("what listens inside has no address")?;
    listeners.retain(|listener| !listener.local_addr().is_ok_and(|address| own.contains(&address)));
    listeners.extend(handed.listeners.outbound.into_iter().map(TcpListener::from));
    names.udp.extend(handed.listeners.dns_udp.into_iter().map(UdpSocket::from));
    names.tcp.extend(handed.listeners.dns_tcp.into_iter().map(TcpListener::from));
    Sockets::start(handed.sockets).context("cannot ask for sockets inside")
}

/// The listener at `address`, if there is one.
fn take(listeners: &mut Vec<TcpListener>, address: SocketAddr) -> Option<TcpListener> {
    let place = listeners.iter().position(|listener| listener.local_addr().is_ok_and(|other| other == address))?;
    Some(listeners.swap_remove(place))
}

/// Taking another proxy's place.
struct Taking {
    taken: Taken,
    /// The control plane knows this process, and no longer listens to the other one.
    registered: bool,
    /// Since when it could serve.
    since: Option<tokio::time::Instant>,
}

/// What kind of proxy this is, for what it must hold before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Beside an instance.
    Sidecar,
    /// A gateway.
    Gateway,
    /// Only a way out (`heddle exec`).
    WayOut,
}

impl Role {
    fn of(settings: &SidecarSettings) -> Role {
        match (&settings.gateway, settings.proxy.inbound) {
            (Some(_), _) => Role::Gateway,
            (None, Some(_)) => Role::Sidecar,
            (None, None) => Role::WayOut,
        }
    }
}

struct Proxy {
    role: Role,
    settings: SidecarSettings,
    identity: Identity,
    wiring: Wiring,
    session: Session,
    link: Link,
    ready: watch::Sender<bool>,
    certified: watch::Sender<bool>,
    /// Whether the application may be sent requests; unknown until the supervisor says.
    application: Option<bool>,
    /// What is wrong and not told yet, because it may be over soon.
    problem: Option<(tokio::time::Instant, String)>,
    /// Where the settings are, for a successor.
    file: PathBuf,
    standalone: bool,
    /// What a successor is handed and the data path does not have: locks of addresses that a predecessor took, and sockets for
    /// names.
    held: Vec<OwnedFd>,
    /// Questions for names that are not answered yet: the one whose place is being taken answers them, for it may know more.
    names: Option<Names>,
    /// Whether connections are taken, which those of a predecessor are not before its place is.
    open: watch::Sender<bool>,
    taking: Option<Taking>,
    /// Where a successor asks for what this one listens on; `None` while this one takes another's place, and where none may.
    door: Option<Door>,
    running: proxy::Running,
    pages: Option<admin::Pages>,
}

impl Proxy {
    /// Works until it is told to end; returns how.
    async fn serve(&mut self, mut events: mpsc::Receiver<Event>, orders: &mut Orders) -> anyhow::Result<End> {
        let (sender, mut replaced) = mpsc::channel(1);
        let mut replace = signal(SignalKind::user_defined2())?;
        let mut successor: Option<tokio::process::Child> = None;
        let mut changes = self.wiring.client.changes();
        let mut door_at = None;
        self.tell_application();
        loop {
            self.take_place()?;
            self.update_ready();
            self.open_door(&mut door_at);
            let take_at = self.taking.as_ref().and_then(|taking| taking.since).map(|since| since + PATIENCE);
            let told_at = self.problem.as_ref().map(|(at, _)| *at);
            tokio::select! {
                Some(event) = events.recv() => self.event(event)?,
                Ok(()) = changes.changed() => {}
                message = orders.next() => match message {
                    Order::Token(token) => self.session.token(token),
                    Order::Ready(ready) => {
                        self.application = Some(ready);
                        self.tell_application();
                    }
                    Order::Drain(_) | Order::Finish(_) | Order::End(_) => return Ok(End::Told(message)),
                },
                channel = knock(&self.door) => match channel.and_then(|channel| Ok((channel, self.sockets()?))) {
                    Ok((channel, sockets)) => {
                        tokio::spawn(replace::offer(channel, sockets, self.application, sender.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the sockets cannot be handed over, and this proxy stays");
                        tokio::time::sleep(KNOCK_PAUSE).await;
                    }
                },
                Some(()) = replaced.recv() => return Ok(End::Replaced),
                _ = replace.recv(), if self.standalone && successor.is_none() => match replace::start_successor(&self.file) {
                    Ok(child) => successor = Some(child),
                    Err(error) => tracing::error!("this proxy cannot be replaced: {error:#}"),
                },
                status = exited(&mut successor) => {
                    successor = None;
                    tracing::error!(?status, "the process that was to replace this one has ended");
                }
                () = tokio::time::sleep_until(door_at.unwrap_or_else(tokio::time::Instant::now)), if door_at.is_some() => {}
                () = tokio::time::sleep_until(take_at.unwrap_or_else(tokio::time::Instant::now)), if take_at.is_some() => {
                    if let Some(taking) = &mut self.taking {
                        taking.registered = true;
                    }
                }
                () = tokio::time::sleep_until(told_at.unwrap_or_else(tokio::time::Instant::now)), if told_at.is_some() => {
                    if let Some((_, text)) = self.problem.take() {
                        self.link.tell(FromProxy::Problem(text));
                    }
                }
            }
        }
    }

    /// Opens the door for a successor, once nobody's place is to be taken any more. `again`: when it is tried again, since it cannot be
    /// opened now; whoever serves goes on.
    fn open_door(&mut self, again: &mut Option<tokio::time::Instant>) {
        let now = tokio::time::Instant::now();
        let wanted = self.taking.is_none() && self.door.is_none() && !replace::ends_its_container();
        if !wanted || again.is_some_and(|at| now < at) {
            return;
        }
        match Door::open(&self.settings.directory) {
            Ok(door) => (self.door, *again) = (Some(door), None),
            Err(error) => {
                if again.is_none() {
                    let directory = self.settings.directory.display();
                    tracing::warn!(%directory, %error, "this proxy cannot be replaced in place; tried again every {DOOR_PAUSE:?}");
                }
                *again = Some(now + DOOR_PAUSE);
            }
        }
    }

    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Certified => {
                self.identity.save(&self.settings.directory).context("cannot keep the certificate")?;
                self.certified.send_replace(true);
                self.problem = None;
            }
            Event::Registered => {
                self.problem = None;
                if let Some(taking) = &mut self.taking {
                    taking.registered = true;
                }
            }
            Event::Services(services) => self.link.tell(FromProxy::Services(self.listed(services))),
            Event::Problem { code, message, .. } => match code.as_str() {
                "no_token" => self.link.tell(FromProxy::NeedToken(true)),
                "attestation_failed" => {
                    tracing::warn!(%message, "the control plane refused the token");
                    self.link.tell(FromProxy::Problem(message));
                    self.link.tell(FromProxy::NeedToken(true));
                }
                "unavailable" => {
                    tracing::info!(%message, "the control plane is not there");
                    if self.problem.is_none() {
                        self.problem = Some((tokio::time::Instant::now() + PATIENCE, message));
                    }
                }
                _ => {
                    tracing::warn!(%code, %message, "the control plane has a problem with this proxy");
                    self.link.tell(FromProxy::Problem(message));
                }
            },
        }
        Ok(())
    }

    /// Services of the instance's own namespace as a supervisor knows them.
    fn listed(&self, services: Vec<mesh::ListedService>) -> Vec<ServiceEntry> {
        let namespace = self.settings.proxy.workload.split('/').next().unwrap_or_default();
        let port = |p: mesh::NamedPort| Some(ServicePortEntry { name: p.name, port: u16::try_from(p.port).ok()? });
        let entry = |s: mesh::ListedService| ServiceEntry {
            namespace: namespace.to_owned(),
            name: s.name,
            address: s.address.parse().ok(),
            ports: s.ports.into_iter().filter_map(port).collect(),
        };
        services.into_iter().map(entry).collect()
    }

    /// Tells the mesh what the application's state is.
    fn tell_application(&self) {
        match self.application {
            Some(true) => self.session.state(State::Ready, ""),
            Some(false) => self.session.state(State::NotReady, "the application is not ready"),
            None => {}
        }
    }

    /// Everything that a successor listens on.
    fn sockets(&self) -> std::io::Result<Vec<OwnedFd>> {
        let mut sockets = self.running.sockets()?;
        for lock in &self.held {
            sockets.push(lock.try_clone()?);
        }
        if let Some(pages) = &self.pages {
            sockets.push(pages.socket()?);
        }
        Ok(sockets)
    }

    /// Takes its predecessor's place, if it has one, when it can serve and the control plane knows it, or is not there.
    fn take_place(&mut self) -> anyhow::Result<()> {
        if self.taking.is_some() && self.holds() {
            self.taking.as_mut().map(|taking| taking.since.get_or_insert_with(tokio::time::Instant::now));
        }
        let waits = |taking: &Taking| taking.since.is_none() || !taking.registered;
        if self.taking.as_ref().is_some_and(waits) {
            return Ok(());
        }
        if let Some(names) = self.names.take() {
            names.answer()?;
        }
        self.open.send_replace(true);
        if let Some(Taking { taken, .. }) = self.taking.take() {
            taken.serving();
        }
        Ok(())
    }

    /// It can prove who it is and knows what to let in.
    fn holds(&self) -> bool {
        let live = self.wiring.client.live();
        let holds = match self.role {
            Role::Sidecar => live.inbound.load().is_some(),
            Role::Gateway => live.gateway.load().is_some(),
            Role::WayOut => true,
        };
        holds && valid(&self.identity)
    }

    /// Says when it has become ready, and when it no longer is.
    fn update_ready(&self) {
        let now = self.holds() && self.taking.is_none();
        let changed = self.ready.send_if_modified(|ready| {
            let differs = *ready != now;
            *ready = now;
            differs
        });
        if changed {
            self.link.tell(FromProxy::Ready(now));
            if now && self.standalone {
                notify::ready();
            }
        }
    }

    /// Tells everyone, finishes what is under way as long as it may, and lets go of everything.
    async fn end(self, drains: Drains, end: End, mut orders: Orders) -> anyhow::Result<()> {
        let Proxy { settings, session, link, mut running, pages, door, held, wiring, ready, standalone, .. } = self;
        drop(door);
        ready.send_replace(false);
        let (session, order) = match end {
            End::Told(order) => {
                if standalone {
                    notify::stopping();
                }
                session.state(State::Draining, "the instance is ending");
                let limit = order.limit();
                if !limit.is_zero() {
                    tokio::time::sleep(TELL.min(limit)).await;
                }
                (Some((session, pages)), Some(order.sooner(TELL)))
            }
            End::Replaced => {
                // The instance goes on. What this process says of it no longer counts.
                drop((pages, held));
                running.let_go();
                wiring.client.leave_store();
                session.close().await;
                drains.leave(Duration::from_secs(settings.finish_seconds));
                (None, None)
            }
        };
        drains.ended(order, &mut orders, || link.tell(FromProxy::Drained(true))).await;
        if let Some((session, _pages)) = session {
            session.close().await;
        }
        running.join().await?;
        drop(wiring);
        Ok(())
    }
}

/// Whoever comes to take this proxy's place.
async fn knock(door: &Option<Door>) -> std::io::Result<Channel> {
    match door {
        Some(door) => door.accept().await,
        None => std::future::pending().await,
    }
}

/// The end of a process, if there is one.
async fn exited(child: &mut Option<tokio::process::Child>) -> std::io::Result<std::process::ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

/// What was kept from the last run, or a new key that trusts the mesh's roots. What was kept of another service account, or for
/// other labels, is of no use: the control plane refuses who comes with it.
fn identity(settings: &SidecarSettings) -> anyhow::Result<Identity> {
    match Identity::load(&settings.directory) {
        Ok(identity) if identity.id().is_none_or(|id| is_own(&id, identity.grant(), settings)) => return Ok(identity),
        Ok(_) => tracing::info!("the service account, the labels or the services have changed; a new key is made"),
        Err(error) if is_missing(&error) => {}
        Err(error) => tracing::warn!(%error, "what was kept of the identity is not used; a new key is made"),
    }
    let identity = Identity::generate()?;
    identity.set_roots(roots(&settings.roots)?)?;
    Ok(identity)
}

/// Whether a certificate of `id` that grants `grant` is for what the settings register as.
fn is_own(id: &net::spiffe::Id, grant: Option<Grant>, settings: &SidecarSettings) -> bool {
    let SidecarSettings { proxy, registration, .. } = settings;
    let namespace = proxy.workload.split('/').next().unwrap_or_default();
    id.namespace() == namespace
        && id.service_account() == registration.service_account
        && grant.is_some_and(|grant| registration.is_granted(&proxy.workload, &grant))
}

fn is_missing(error: &net::identity::Error) -> bool {
    matches!(error, net::identity::Error::Files(error) if error.is_missing())
}

fn roots(path: &Path) -> anyhow::Result<Vec<rustls_pki_types::CertificateDer<'static>>> {
    net::identity::read_certificates(path)
        .with_context(|| format!("cannot read the roots of the mesh; is {} its roots.pem?", path.display()))
}

fn valid(identity: &Identity) -> bool {
    identity.validity().is_some_and(|v| v.not_after > std::time::SystemTime::now())
}

/// Our end of the link with the supervisor.
struct Link {
    out: Option<mpsc::UnboundedSender<FromProxy>>,
}

impl Link {
    /// Nobody is there to be told.
    fn nobody() -> Link {
        Link { out: None }
    }

    /// Over standard input and output.
    fn standard() -> anyhow::Result<(Link, Option<mpsc::Receiver<ToProxy>>)> {
        let pipes = "standard input and output must be pipes from a supervisor; without one, use --standalone";
        let stdin = pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?).context(pipes)?;
        let mut stdout = pipe::Sender::from_owned_fd(std::io::stdout().as_fd().try_clone_to_owned()?).context(pipes)?;
        let (out, mut outgoing) = mpsc::unbounded_channel::<FromProxy>();
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                let mut line = serde_json::to_vec(&message).expect("messages are JSON");
                line.push(b'\n');
                // A supervisor that is gone is noticed at standard input.
                if stdout.write_all(&line).await.is_err() {
                    return;
                }
            }
        });
        let (sender, inbox) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut messages = Messages::new(stdin);
            while let Some(message) = messages.next().await {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok((Link { out: Some(out) }, Some(inbox)))
    }

    fn tell(&self, message: FromProxy) {
        if let Some(out) = &self.out {
            let _ = out.send(message);
        }
    }
}
