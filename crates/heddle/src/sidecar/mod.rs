//! The proxy process: the data path's threads, and one more thread that talks to the control plane, to the supervisor and to
//! whoever reads metrics.

mod admin;
pub(crate) mod settings;
mod statistics;
mod wiring;

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use control::admin::model::{ServiceEntry, ServicePortEntry};
use net::drain::Drain;
use net::handoff;
use net::identity::Identity;
use net::inside::{Listeners, Sockets};
use proto::mesh::{self, State};
use proxy::{Clock, Parts, dns};
use telemetry::access_log::AccessLog;
use telemetry::metrics::Registry;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use xds::session::{Event, Session};

use self::settings::SidecarSettings;
use self::wiring::Wiring;
use crate::link::{FromProxy, Messages, ToProxy};

/// How long peers are given to hear that this instance drains before it stops taking requests. A change crosses the control
/// plane in a few milliseconds; those who did not hear of it are refused before anything is sent, and try another instance.
const TELL: Duration = Duration::from_millis(250);

/// What is under way when the supervisor is gone or the process is told to end is given this long.
const LAST_DRAIN: Duration = Duration::from_secs(5);

/// Problems that are over by themselves when the control plane is back are told only when they last this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names the servers that this machine asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

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

/// Runs a proxy until it is told to end. `standalone`: without a supervisor at standard input, ready at once.
/// `listeners`: sockets that listen already.
pub(crate) async fn run(
    settings: SidecarSettings,
    standalone: bool,
    token: Option<String>,
    mut listeners: Vec<TcpListener>,
    inside: Option<Handed>,
) -> anyhow::Result<()> {
    crate::runtime::private_dir(&settings.directory)?;
    let identity = identity(&settings)?;
    let clock = Clock::start();
    let registry = Registry::new();
    let (certified_sender, certified) = watch::channel(valid(&identity));
    let wiring = Wiring::start(&settings, &identity, &registry, certified);
    let inside = match inside {
        Some(handed) => {
            listeners.extend(handed.listeners.outbound.into_iter().map(TcpListener::from));
            let names = dns::Options {
                udp: handed.listeners.dns_udp.into_iter().map(UdpSocket::from).collect(),
                tcp: handed.listeners.dns_tcp.into_iter().map(TcpListener::from).collect(),
                discover: wiring.discover(),
                clock,
                resolv_conf: RESOLV_CONF.into(),
            };
            dns::start(names).context("cannot answer questions for names")?;
            Some(Sockets::start(handed.sockets).context("cannot ask for sockets inside")?)
        }
        None => None,
    };
    let (drain, drain_watch) = net::drain::channel();
    let log = match settings.access_log {
        true => Some(Arc::new(AccessLog::start(std::io::stderr()).context("cannot start the access log")?)),
        false => None,
    };
    let running = proxy::start(Parts {
        settings: settings.proxy.clone(),
        discover: wiring.discover(),
        live: wiring.client.live().clone(),
        identity: identity.clone(),
        clock,
        registry: registry.clone(),
        access_log: log,
        drain: drain_watch,
        listeners,
        inside,
    })?;
    let (session, events) = xds::session::start(
        xds::session::Options {
            identity: identity.clone(),
            registration: settings.registration(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token,
            explainer: Some(crate::explain::answer::explainer(
                wiring.client.clone(),
                clock,
                settings.proxy.application,
            )),
        },
        wiring.connector.clone(),
        statistics::source(registry.clone(), wiring.client.clone(), clock),
    );
    tokio::spawn(statistics::housekeeping(registry.clone(), wiring.client.clone(), clock));
    let ready = watch::channel(false).0;
    if let Some(address) = settings.admin {
        let page = admin::Page {
            registry: registry.clone(),
            client: wiring.client.clone(),
            identity: identity.clone(),
            clock,
            ready: ready.subscribe(),
        };
        admin::serve(address, page).await?;
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
        application: standalone.then_some(true),
        problem: None,
    };
    let limit = proxy.serve(events, inbox).await?;
    proxy.end(drain, running, limit).await
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
}

impl Proxy {
    /// Works until it is told to end; returns how long what is under way may take.
    async fn serve(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        mut inbox: Option<mpsc::Receiver<ToProxy>>,
    ) -> anyhow::Result<Duration> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut changes = self.wiring.client.changes();
        self.tell_application();
        loop {
            self.update_ready();
            let told_at = self.problem.as_ref().map(|(at, _)| *at);
            tokio::select! {
                Some(event) = events.recv() => self.event(event)?,
                Ok(()) = changes.changed() => {}
                message = receive(&mut inbox) => match message {
                    Some(ToProxy::Token(token)) => self.session.token(token),
                    Some(ToProxy::Ready(ready)) => {
                        self.application = Some(ready);
                        self.tell_application();
                    }
                    Some(ToProxy::Drain { seconds }) => return Ok(Duration::from_secs(seconds)),
                    // The supervisor is gone.
                    None => return Ok(Duration::ZERO),
                },
                () = tokio::time::sleep_until(told_at.unwrap_or_else(tokio::time::Instant::now)), if told_at.is_some() => {
                    if let Some((_, text)) = self.problem.take() {
                        self.link.tell(FromProxy::Problem(text));
                    }
                }
                _ = terminate.recv() => return Ok(LAST_DRAIN),
                _ = interrupt.recv() => return Ok(LAST_DRAIN),
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
            Event::Registered => self.problem = None,
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

    /// Ready: it can prove who it is and knows what to let in.
    fn update_ready(&self) {
        let live = self.wiring.client.live();
        let holds = match self.role {
            Role::Sidecar => live.inbound.load().is_some(),
            Role::Gateway => live.gateway.load().is_some(),
            Role::WayOut => true,
        };
        let now = holds && valid(&self.identity);
        let changed = self.ready.send_if_modified(|ready| {
            let differs = *ready != now;
            *ready = now;
            differs
        });
        if changed {
            self.link.tell(FromProxy::Ready(now));
        }
    }

    /// Tells everyone, finishes what is under way for at most `limit`, and lets go of everything.
    async fn end(self, drain: Drain, running: proxy::Running, limit: Duration) -> anyhow::Result<()> {
        self.session.state(State::Draining, "the instance is ending");
        if limit.is_zero() {
            drain.begin(Duration::ZERO);
        } else {
            tokio::time::sleep(TELL.min(limit)).await;
            drain.begin(limit.saturating_sub(TELL));
        }
        let cut_off = drain.drained().await;
        if cut_off > 0 && !limit.is_zero() {
            tracing::warn!(cut_off, "connections were cut off at the end of the drain");
        }
        self.session.close().await;
        running.join().await?;
        Ok(())
    }
}

/// The next message of the supervisor; never without one.
async fn receive(inbox: &mut Option<mpsc::Receiver<ToProxy>>) -> Option<ToProxy> {
    match inbox {
        Some(inbox) => inbox.recv().await,
        None => std::future::pending().await,
    }
}

/// What was kept from the last run, or a new key that trusts the mesh's roots.
fn identity(settings: &SidecarSettings) -> anyhow::Result<Identity> {
    match Identity::load(&settings.directory) {
        Ok(identity) => return Ok(identity),
        Err(error) if is_missing(&error) => {}
        Err(error) => tracing::warn!(%error, "what was kept of the identity is not used; a new key is made"),
    }
    let identity = Identity::generate()?;
    identity.set_roots(roots(&settings.roots)?)?;
    Ok(identity)
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
