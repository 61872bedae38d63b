//! The session service: certificates, registration, readiness and statistics of proxies.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use net::grant::Grant;
use net::spiffe;
use proto::mesh;
use proto::mesh::control_message::Kind as Answer;
use proto::mesh::proxy_message::Kind as Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::ca::{Authority, Issued};
use crate::claims;
use crate::instances::{Refused, StreamId, split};
use crate::serve::Peer;
use crate::stats::unix_ms;
use crate::tokens::Tokens;
use crate::world::World;

/// How long a new stream may take to say who it is, and one without a certificate to ask for one.
const HELLO: Duration = Duration::from_secs(10);
/// Answers on their way before the stream is read no further.
const OUTGOING: usize = 16;
/// Longest version of a proxy.
const VERSION: usize = 100;

/// What every stream shares.
pub(crate) struct Sessions {
    pub(crate) world: Arc<World>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) trust_domain: String,
    pub(crate) certificate_life: Duration,
}

/// Serves the streams.
pub(crate) struct Service(pub(crate) Arc<Sessions>);

#[tonic::async_trait]
impl mesh::session_server::Session for Service {
    type OpenStream = ReceiverStream<Result<mesh::ControlMessage, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<mesh::ProxyMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection says nothing of its peer"))?;
        let (send, receive) = mpsc::channel(OUTGOING);
        let stream = Stream {
            sessions: Arc::clone(&self.0),
            peer,
            workload: String::new(),
            version: String::new(),
            registered: None,
            outgoing: send.clone(),
        };
        tokio::spawn(stream.run(request.into_inner(), send));
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// One open stream.
struct Stream {
    sessions: Arc<Sessions>,
    peer: Peer,
    workload: String,
    version: String,
    registered: Option<StreamId>,
    outgoing: Outgoing,
}

/// Why a stream ends: what the proxy is told.
fn problem(code: &str, message: impl Into<String>) -> mesh::Problem {
    let permanent = code != "unavailable";
    mesh::Problem { code: code.to_owned(), message: message.into(), permanent }
}

impl From<Refused> for mesh::Problem {
    fn from(refused: Refused) -> mesh::Problem {
        let code = match refused {
            Refused::BadRequest(_) => "bad_request",
            Refused::NotAllowed(_) => "not_allowed",
            Refused::Full => "unavailable",
        };
        problem(code, refused.to_string())
    }
}

type Outgoing = mpsc::Sender<Result<mesh::ControlMessage, Status>>;

impl Stream {
    async fn run(mut self, mut incoming: Streaming<mesh::ProxyMessage>, outgoing: Outgoing) {
        let clean = match self.converse(&mut incoming, &outgoing).await {
            Ok(clean) => clean,
            Err(refusal) => {
                tracing::warn!(workload = %self.workload, peer = %self.peer, code = %refusal.code, "{}", refusal.message);
                let _ = send(&outgoing, Answer::Problem(refusal)).await;
                false
            }
        };
        if let Some(stream) = self.registered {
            self.sessions.world.ended(&self.workload, stream, clean);
        }
    }

    /// Reads the stream to its end; true when the proxy ended it.
    async fn converse(
        &mut self,
        incoming: &mut Streaming<mesh::ProxyMessage>,
        outgoing: &Outgoing,
    ) -> Result<bool, mesh::Problem> {
        match timeout(HELLO, incoming.message()).await {
            Ok(Ok(Some(mesh::ProxyMessage { kind: Some(Message::Hello(hello)) }))) => self.hello(hello)?,
            Ok(Ok(Some(_))) => return Err(problem("bad_request", "the first message must be Hello")),
            Ok(Ok(None)) => return Ok(true),
            Ok(Err(status)) => return Ok(broken(outgoing, status).await),
            Err(_) => return Err(problem("bad_request", "no Hello came in time")),
        }
        loop {
            // Once its certificate has expired a proxy is nobody; a proxy that renewed has opened another stream by then.
            let left = match self.peer.not_after {
                Some(until) => until.duration_since(SystemTime::now()).unwrap_or_default(),
                None => HELLO,
            };
            match timeout(left, incoming.message()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(answer) = self.handle(message)? {
                        let last = self.peer.identity.is_none();
                        if !send(outgoing, answer).await || last {
                            return Ok(false);
                        }
                    }
                }
                Ok(Ok(None)) => return Ok(true),
                Ok(Err(status)) => return Ok(broken(outgoing, status).await),
                Err(_) if self.peer.identity.is_some() => {
                    return Err(problem("unavailable", "the stream's certificate has expired; open another stream"));
                }
                Err(_) => return Err(problem("bad_request", "no certificate was asked for in time")),
            }
        }
    }

    fn hello(&mut self, hello: mesh::Hello) -> Result<(), mesh::Problem> {
        let Some((namespace, _)) = split(&hello.workload) else {
            return Err(problem("bad_request", "the workload must be namespace/name, both lower-case DNS names"));
        };
        if let Some(identity) = &self.peer.identity {
            let granted = self.peer.grant.as_ref().map(|grant| &*grant.workload);
            if identity.namespace() != namespace || granted != Some(&*hello.workload) {
                let of = granted.unwrap_or("no workload");
                let message = format!(
                    "{identity} may not speak for {}: its certificate is of {of}; start it anew with a token of its own (`heddle token`)",
                    hello.workload
                );
                return Err(problem("not_allowed", message));
            }
        }
        self.version = hello.version.chars().take(VERSION).collect();
        self.workload = hello.workload;
        Ok(())
    }

    fn handle(&mut self, message: mesh::ProxyMessage) -> Result<Option<Answer>, mesh::Problem> {
        let message = message.kind.ok_or_else(|| problem("bad_request", "a message of a kind that is not known"))?;
        match (self.peer.identity.clone(), message) {
            (_, Message::Hello(_)) => return Err(problem("bad_request", "Hello came twice")),
            (_, Message::CertificateRequest(request)) => return self.certificate(request).map(Some),
            (None, _) => {
                return Err(problem("not_allowed", "without a client certificate only a certificate may be asked for"));
            }
            (Some(_), Message::Registration(registration)) if registration.workload != self.workload => {
                return Err(problem("bad_request", "Hello and Registration name different workloads"));
            }
            (Some(identity), Message::Registration(registration)) => {
                self.claims(&registration)?;
                let stream = self.sessions.world.register(&registration, &identity, &self.version)?;
                self.registered = Some(stream);
                self.sessions.world.explains.opened(&self.workload, stream, self.outgoing.clone());
                let services = match registration.list_services {
                    true => self.sessions.world.state().services_in(identity.namespace()),
                    false => Vec::new(),
                };
                return Ok(Some(Answer::Registered(mesh::Registered { services })));
            }
            (Some(_), Message::State(change)) => {
                self.sessions.world.instance_state(&self.workload, self.stream()?, &change);
            }
            (Some(_), Message::Statistics(report)) => {
                self.sessions.world.report(&self.workload, self.stream()?, &report);
            }
            (Some(_), Message::ExplainAnswer(answer)) => self.sessions.world.explains.answered(self.stream()?, answer),
        }
        Ok(None)
    }

    /// An instance may only register with the labels and services that its token was made for.
    fn claims(&self, registration: &mesh::Registration) -> Result<(), mesh::Problem> {
        match self.peer.grant.as_ref().and_then(|grant| grant.claims.as_deref()) {
            Some(granted) if !claims::allowed(registration, granted) => Err(problem(
                "not_allowed",
                format!(
                    "the token of {} was made for other labels and services than it registers with; make one for these \
                     (`heddle token --label … --service …`)",
                    self.workload
                ),
            )),
            _ => Ok(()),
        }
    }

    fn stream(&self) -> Result<StreamId, mesh::Problem> {
        self.registered.ok_or_else(|| problem("bad_request", "Registration must come first"))
    }

    /// Signs a certificate: the first one for a token, later ones for the identity that the connection proved.
    fn certificate(&self, request: mesh::CertificateRequest) -> Result<Answer, mesh::Problem> {
        let now = SystemTime::now();
        let (namespace, _) = split(&self.workload).unwrap_or_default();
        let (identity, claims) = match &self.peer.identity {
            Some(identity) if request.token.is_empty() => {
                if request.service_account != identity.service_account() {
                    let message =
                        format!("{identity} cannot be renewed as service account {:?}", request.service_account);
                    return Err(problem("not_allowed", message));
                }
                (identity.clone(), self.peer.grant.as_ref().and_then(|grant| grant.claims.clone()))
            }
            Some(_) => return Err(problem("bad_request", "a renewal takes no token")),
            None => {
                let redeemed =
                    self.sessions.tokens.redeem(&request.token, &self.workload, &request.service_account, now);
                let claims = redeemed.map_err(|e| problem("attestation_failed", e.to_string()))?;
                let identity = spiffe::Id::new(&self.sessions.trust_domain, namespace, &request.service_account)
                    .map_err(|e| problem("bad_request", e.to_string()))?;
                (identity, claims)
            }
        };
        let grant = Grant { workload: self.workload.clone(), claims };
        let life = self.sessions.certificate_life;
        let issued = self.sessions.authority.sign(&request.csr, &identity, Some(&grant), now, life);
        let Issued { chain, not_before, not_after } = issued.map_err(|e| problem("bad_request", e.to_string()))?;
        tracing::info!(workload = %self.workload, %identity, renewal = self.peer.identity.is_some(), "certificate signed");
        Ok(Answer::Certificate(mesh::Certificate {
            chain,
            roots: self.sessions.authority.roots(),
            not_before_unix_ms: unix_ms(not_before),
            not_after_unix_ms: unix_ms(not_after),
        }))
    }
}

/// The stream broke, which is no clean end; a proxy whose message was too large is told.
async fn broken(outgoing: &Outgoing, status: Status) -> bool {
    if status.code() == Code::OutOfRange {
        tracing::warn!(%status, "a proxy says more than it may");
        let _ = outgoing.send(Err(status)).await;
    }
    false
}

/// Sends an answer; false when the proxy is gone.
async fn send(outgoing: &Outgoing, kind: Answer) -> bool {
    outgoing.send(Ok(mesh::ControlMessage { kind: Some(kind) })).await.is_ok()
}
