//! A proxy's side of the `Session` stream: certificates, registration, readiness and statistics.
//!
//! [`start`] makes a task that lives as long as its [`Session`]. Without a certificate it asks for one with a one-use token;
//! with one it opens the stream that registers the instance, and keeps it open for ever, reconnecting with back-off. It
//! renews the certificate at two thirds of its life with a fresh key and then opens its stream anew, so that the control
//! plane always knows a proxy by a certificate that is valid.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use proto::mesh;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

/// A key and the certificate chain for it. The key is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// PKCS #8, DER.
    pub key: Vec<u8>,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// DER certificates of the mesh's authorities.
    pub roots: Vec<Vec<u8>>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// Opens a channel to the control plane, presenting the credentials as client certificate when there are some, and verifying
/// that the other side is the control plane. The text of an error is for people.
pub type Connector = Arc<
    dyn Fn(
            Option<Arc<Credentials>>,
        ) -> Pin<Box<dyn Future<Output = Result<Channel, String>> + Send>>
        + Send
        + Sync,
>;

/// What happened since it was called last; called about once a second while the stream is open.
pub type StatisticsSource = Box<dyn FnMut() -> mesh::Statistics + Send>;

/// What a session is started with.
#[derive(Clone)]
pub struct Options {
    /// What the instance registers as. `workload`, `service_account` and the first `state` are taken from here.
    pub registration: mesh::Registration,
    /// Version of the proxy.
    pub version: String,
    /// Credentials kept from an earlier run; used while they are valid.
    pub credentials: Option<Arc<Credentials>>,
    /// One-use attestation for the first certificate. It may come later through [`Session::token`].
    pub token: Option<String>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// A new certificate: the first or a renewal. Use it for every new connection, and keep it for a restart.
    Certified(Arc<Credentials>),
    /// The control plane knows the instance. Said once for each stream.
    Registered,
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
        self.wish.send_modify(|w| {
            w.state = mesh::StateChange {
                state: state.into(),
                reason: reason.to_owned(),
            }
        });
    }

    /// Gives a (new) attestation token.
    pub fn token(&self, token: String) {
        self.wish.send_modify(|w| w.token = Some(token));
    }

    /// Says what was not said yet and ends the stream. After [`mesh::State::Draining`] this ends the registration at once.
    /// Returns when the control plane has seen it, or when it cannot be reached; takes at most two seconds.
    pub async fn close(self) {
        self.wish.send_modify(|w| w.closing = true);
        let _ = self.task.await;
    }
}

/// Starts the session's task on the current runtime.
pub fn start(
    _options: Options,
    _connector: Connector,
    _statistics: StatisticsSource,
) -> (Session, mpsc::Receiver<Event>) {
    todo!()
}
