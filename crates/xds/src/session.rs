//! A proxy's side of the `Session` stream: certificates, registration, readiness and statistics.
//!
//! [`start`] makes a task that lives as long as its [`Session`]. Without a certificate it asks for one with a one-use token;
//! with one it opens the stream that registers the instance, and keeps it open for ever, reconnecting with back-off. It
//! renews the certificate at two thirds of its life and then opens its stream anew, so that the control plane always knows a
//! proxy by a certificate that is valid.

mod answers;

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine::Rng;
use net::identity::Identity;
use proto::mesh;
use proto::mesh::session_client::SessionClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use self::answers::Answers;
use crate::client::Connect;

/// Waits between attempts, doubling from the first to the second, with full jitter. The longest is well below the grace for
/// which a registration outlives its stream (15 s).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// The control plane answers what it is asked within this, or is taken for dead.
const ANSWER: Duration = Duration::from_secs(10);
/// How often statistics are sent.
const STATISTICS: Duration = Duration::from_secs(1);
/// How long after a renewal that was not answered the next one is asked for.
const RENEWAL_RETRY: Duration = Duration::from_secs(10);
/// Rows in one statistics message; more go into the next.
const STATISTICS_ROWS: usize = 1000;
/// How long [`Session::close`] waits.
const CLOSE: Duration = Duration::from_secs(2);
/// Messages on their way to the control plane before the session waits.
const OUTGOING: usize = 16;
/// Events that wait for their reader before the session waits.
const EVENTS: usize = 64;

/// What happened since it was called last; called about once a second while the stream is open.
pub type StatisticsSource = Box<dyn FnMut() -> mesh::Statistics + Send + Sync>;

/// An answer being made.
pub type Explaining = Pin<Box<dyn Future<Output = mesh::ExplainAnswer> + Send>>;

/// Answers a person's question how a request would be sent.
pub type Explainer = Arc<dyn Fn(mesh::ExplainRequest) -> Explaining + Send + Sync>;

/// What a session is started with.
#[derive(Clone)]
pub struct Options {
    /// Key, roots and perhaps a certificate kept from an earlier run. New certificates are installed into it.
    pub identity: Identity,
    /// What the instance registers as. `workload`, `service_account` and the first `state` are taken from here.
    pub registration: mesh::Registration,
    /// Version of the proxy.
    pub version: String,
    /// One-use attestation for the first certificate. It may come later through [`Session::token`].
    pub token: Option<String>,
    /// Answers the control plane's questions; `None`: they are refused.
    pub explainer: Option<Explainer>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The identity has a new certificate: the first or a renewal. Keep it for a restart.
    Certified,
    /// The control plane knows the instance. Said once for each stream.
    Registered,
    /// The services of the instance's namespace. Said after each [`Event::Registered`] where the registration asks for them.
    Services(Vec<mesh::ListedService>),
    /// Something that the operator should read. The session goes on trying.
    Problem {
        /// As in `mesh::Problem`; `unavailable` when the control plane could not be reached.
        code: String,
        /// Cause, in a sentence.
        message: String,
        /// Nothing will change until a new token is given or the control plane's configuration changes.
        permanent: bool,
    },
}

/// What the session's owner wants.
#[derive(Clone, Default)]
struct Wish {
    state: mesh::StateChange,
    token: Option<String>,
    closing: bool,
}

/// A running session. Dropping it ends the stream as a lost connection would: the registration lives on for its grace.
pub struct Session {
    wish: watch::Sender<Wish>,
    task: tokio::task::JoinHandle<()>,
}

impl Session {
    /// Tells the control plane the instance's state, now and after every reconnect.
    pub fn state(&self, state: mesh::State, reason: &str) {
        self.wish.send_modify(|w| w.state = mesh::StateChange { state: state.into(), reason: reason.to_owned() });
    }

    /// Gives a (new) attestation token.
    pub fn token(&self, token: String) {
        self.wish.send_modify(|w| w.token = Some(token));
    }

    /// Says what was not said yet and ends the stream. After [`mesh::State::Draining`] this ends the registration at once.
    /// Returns when the control plane has seen it, or when it cannot be reached; takes at most two seconds.
    pub async fn close(mut self) {
        self.wish.send_modify(|w| w.closing = true);
        let _ = timeout(CLOSE, &mut self.task).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the session's task on the current runtime.
pub fn start(
    options: Options,
    connector: Arc<dyn Connect>,
    statistics: StatisticsSource,
) -> (Session, mpsc::Receiver<Event>) {
    let state = mesh::StateChange { state: options.registration.state, reason: String::new() };
    let (wish, wishes) = watch::channel(Wish { state, token: options.token.clone(), closing: false });
    let (events, receiver) = mpsc::channel(EVENTS);
    let task = Task {
        identity: options.identity,
        registration: options.registration,
        version: options.version,
        connector,
        statistics,
        answers: Answers::new(options.explainer),
        wishes,
        events,
        rng: Rng::seeded(RandomState::new().hash_one(0u8)),
        backoff: BACKOFF.0,
        spent: None,
        renew_at: SystemTime::UNIX_EPOCH,
    };
    (Session { wish, task: tokio::spawn(task.run()) }, receiver)
}

struct Task {
    identity: Identity,
    registration: mesh::Registration,
    version: String,
    connector: Arc<dyn Connect>,
    statistics: StatisticsSource,
    answers: Answers,
    wishes: watch::Receiver<Wish>,
    events: mpsc::Sender<Event>,
    rng: Rng,
    backoff: Duration,
    /// The last token that was refused.
    spent: Option<String>,
    renew_at: SystemTime,
}

/// Why a stream ended.
enum End {
    /// Its owner closed it.
    Closed,
    /// There is a new certificate to open the next one with.
    Certified,
    /// It broke, or the control plane refused something; try again after a while.
    Failed(Event),
    /// The token was refused; only another one helps.
    TokenSpent(Event),
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> End {
        unavailable(status.message())
    }
}

fn unavailable(message: &str) -> End {
    End::Failed(Event::Problem { code: "unavailable".to_owned(), message: message.to_owned(), permanent: false })
}

fn problem(problem: mesh::Problem) -> Event {
    Event::Problem { code: problem.code, message: problem.message, permanent: problem.permanent }
}

/// An open stream.
struct Stream {
    send: mpsc::Sender<mesh::ProxyMessage>,
    receive: Streaming<mesh::ControlMessage>,
}

impl Stream {
    async fn put(&self, kind: mesh::proxy_message::Kind) -> Result<(), End> {
        let message = mesh::ProxyMessage { kind: Some(kind) };
        self.send.send(message).await.map_err(|_| unavailable("the control plane ended the stream"))
    }

    /// The next message. Kinds that a newer control plane may know are passed over.
    async fn next(&mut self) -> Result<mesh::control_message::Kind, End> {
        loop {
            match self.receive.message().await? {
                Some(mesh::ControlMessage { kind: Some(kind) }) => return Ok(kind),
                Some(_) => {}
                None => return Err(unavailable("the control plane ended the stream")),
            }
        }
    }

    async fn answer(&mut self) -> Result<mesh::control_message::Kind, End> {
        timeout(ANSWER, self.next()).await.unwrap_or_else(|_| Err(unavailable("the control plane does not answer")))
    }
}

impl Task {
    async fn run(mut self) {
        self.plan_renewal(None);
        let mut last = None;
        loop {
            let certified = self.identity.validity().is_some_and(|v| v.not_after > SystemTime::now());
            let end = if certified { self.serve().await } else { self.attest().await };
            match end.unwrap_or_else(|end| end) {
                End::Closed => return,
                End::Certified => {
                    self.backoff = BACKOFF.0;
                    last = None;
                    continue;
                }
                End::TokenSpent(event) => self.tell(event).await,
                End::Failed(event) => {
                    // A control plane that is away is one problem, not one a second.
                    if last.as_ref() != Some(&event) {
                        self.tell(event.clone()).await;
                    }
                    last = Some(event);
                }
            }
            if self.pause().await {
                return;
            }
        }
    }

    /// Waits with back-off; true when the session was closed meanwhile.
    async fn pause(&mut self) -> bool {
        let most = u32::try_from(self.backoff.as_millis()).unwrap_or(u32::MAX);
        let wait = Duration::from_millis(u64::from(self.rng.below(most.max(1))));
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        tokio::select! {
            () = sleep(wait) => false,
            _ = self.wishes.wait_for(|w| w.closing) => true,
        }
    }

    async fn tell(&self, event: Event) {
        // Nobody listening is the owner's choice.
        let _ = self.events.send(event).await;
    }

    /// Opens a stream and says who is there.
    async fn open(&self) -> Result<Stream, End> {
        let silent = |_| unavailable("the control plane does not answer");
        let channel = timeout(ANSWER, self.connector.connect())
            .await
            .map_err(silent)?
            .map_err(|e| unavailable(&e.to_string()))?;
        let (send, outgoing) = mpsc::channel(OUTGOING);
        let hello = mesh::Hello { workload: self.registration.workload.clone(), version: self.version.clone() };
        let message = mesh::ProxyMessage { kind: Some(mesh::proxy_message::Kind::Hello(hello)) };
        send.try_send(message).map_err(|e| unavailable(&e.to_string()))?;
        let mut client = SessionClient::new(channel);
        let opened = timeout(ANSWER, client.open(ReceiverStream::new(outgoing))).await.map_err(silent)?;
        Ok(Stream { send, receive: opened?.into_inner() })
    }

    /// Gets the first certificate with a token.
    async fn attest(&mut self) -> Result<End, End> {
        let usable = |w: &Wish, spent: &Option<String>| w.token.is_some() && w.token != *spent;
        if !usable(&self.wishes.borrow(), &self.spent) {
            self.tell(Event::Problem {
                code: "no_token".to_owned(),
                message: "there is no valid certificate and no unused token to get one with".to_owned(),
                permanent: true,
            })
            .await;
        }
        let spent = self.spent.clone();
        let token = match self.wishes.wait_for(|w| w.closing || usable(w, &spent)).await {
            Ok(wish) if !wish.closing => wish.token.clone().unwrap_or_default(),
            _ => return Ok(End::Closed),
        };
        let mut wishes = self.wishes.clone();
        let ask = async {
            let mut stream = self.open().await?;
            stream.put(self.certificate_request(token.clone())?).await?;
            stream.answer().await
        };
        let answer = tokio::select! {
            answer = ask => answer?,
            _ = wishes.wait_for(|w| w.closing) => return Ok(End::Closed),
        };
        match answer {
            mesh::control_message::Kind::Certificate(certificate) => {
                self.install(certificate).await?;
                Ok(End::Certified)
            }
            mesh::control_message::Kind::Problem(refused) if refused.permanent => {
                self.spent = Some(token);
                Ok(End::TokenSpent(problem(refused)))
            }
            mesh::control_message::Kind::Problem(refused) => Ok(End::Failed(problem(refused))),
            mesh::control_message::Kind::Registered(_) | mesh::control_message::Kind::Explain(_) => {
                Ok(unavailable("the control plane answered something else"))
            }
        }
    }

    fn certificate_request(&self, token: String) -> Result<mesh::proxy_message::Kind, End> {
        let csr = self.identity.csr().map_err(|e| unavailable(&e.to_string()))?;
        let service_account = self.registration.service_account.clone();
        Ok(mesh::proxy_message::Kind::CertificateRequest(mesh::CertificateRequest { csr, service_account, token }))
    }

    async fn install(&mut self, certificate: mesh::Certificate) -> Result<(), End> {
        let der = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect();
        let installed = self.identity.install(der(certificate.chain), der(certificate.roots));
        installed.map_err(|e| unavailable(&format!("the control plane sent an unusable certificate: {e}")))?;
        self.plan_renewal(Some(SystemTime::now()));
        self.tell(Event::Certified).await;
        Ok(())
    }

    /// Renews at two thirds of the certificate's life, a tenth earlier or later, so that a mesh that was started at once
    /// does not renew at once.
    fn plan_renewal(&mut self, received: Option<SystemTime>) {
        let Some(validity) = self.identity.validity() else { return };
        // Certificates begin a little in the past; of one just received only what is left counts.
        let start = received.unwrap_or(validity.not_before).max(validity.not_before);
        let life = validity.not_after.duration_since(start).unwrap_or_default();
        self.renew_at = start + life * (566 + self.rng.below(201)) / 1000;
    }

    /// Opens a stream as the instance's own and registers it.
    async fn register(&self, state: &mesh::StateChange) -> Result<(Stream, Vec<mesh::ListedService>), End> {
        let mut stream = self.open().await?;
        let registration = mesh::Registration { state: state.state, ..self.registration.clone() };
        stream.put(mesh::proxy_message::Kind::Registration(registration)).await?;
        match stream.answer().await? {
            mesh::control_message::Kind::Registered(registered) => Ok((stream, registered.services)),
            mesh::control_message::Kind::Problem(refused) => Err(End::Failed(problem(refused))),
            mesh::control_message::Kind::Certificate(_) | mesh::control_message::Kind::Explain(_) => {
                Err(unavailable("the control plane answered something else"))
            }
        }
    }

    /// Keeps a registered stream until it ends.
    async fn serve(&mut self) -> Result<End, End> {
        let mut told = self.wishes.borrow().state.clone();
        let mut wishes = self.wishes.clone();
        let (mut stream, services) = tokio::select! {
            registered = self.register(&told) => registered?,
            _ = wishes.wait_for(|w| w.closing) => return Ok(End::Closed),
        };
        self.tell(Event::Registered).await;
        if self.registration.list_services {
            self.tell(Event::Services(services)).await;
        }
        self.backoff = BACKOFF.0;
        let mut tick = interval(STATISTICS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewal_asked: Option<Instant> = None;
        loop {
            let wish = self.wishes.borrow_and_update().clone();
            if wish.state != told {
                stream.put(mesh::proxy_message::Kind::State(wish.state.clone())).await?;
                told = wish.state;
            }
            if wish.closing {
                return Ok(self.finish(stream).await);
            }
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return Ok(End::Closed) },
                message = stream.next() => match message? {
                    mesh::control_message::Kind::Certificate(certificate) => {
                        self.install(certificate).await?;
                        return Ok(End::Certified);
                    }
                    mesh::control_message::Kind::Problem(refused) => self.tell(problem(refused)).await,
                    mesh::control_message::Kind::Registered(_) => {}
                    mesh::control_message::Kind::Explain(request) => self.answers.answer(request, stream.send.clone()),
                },
                _ = tick.tick() => {
                    self.report(&stream).await?;
                    let patient = renewal_asked.is_none_or(|at| at.elapsed() >= RENEWAL_RETRY);
                    if patient && SystemTime::now() >= self.renew_at {
                        renewal_asked = Some(Instant::now());
                        stream.put(self.certificate_request(String::new())?).await?;
                    }
                }
            }
        }
    }

    /// Sends what was counted since the last time, in messages of bounded size.
    async fn report(&mut self, stream: &Stream) -> Result<(), End> {
        let mut all = (self.statistics)();
        if let Some(validity) = self.identity.validity() {
            all.certificate_not_before_unix_ms = unix_ms(validity.not_before);
            all.certificate_not_after_unix_ms = unix_ms(validity.not_after);
        }
        loop {
            let part = mesh::Statistics {
                routes: all.routes.split_off(all.routes.len().saturating_sub(STATISTICS_ROWS)),
                endpoints: all.endpoints.split_off(all.endpoints.len().saturating_sub(STATISTICS_ROWS)),
                certificate_not_before_unix_ms: all.certificate_not_before_unix_ms,
                certificate_not_after_unix_ms: all.certificate_not_after_unix_ms,
            };
            stream.put(mesh::proxy_message::Kind::Statistics(part)).await?;
            if all.routes.is_empty() && all.endpoints.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends last statistics, ends the sending half, and waits until the control plane has read it all.
    async fn finish(&mut self, mut stream: Stream) -> End {
        if let Err(end) = self.report(&stream).await {
            return end;
        }
        let (closed, _) = mpsc::channel(1);
        stream.send = closed;
        while stream.next().await.is_ok() {}
        End::Closed
    }
}

fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}
