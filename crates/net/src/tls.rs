//! Handshakes: sidecar to sidecar, and with the control plane. TLS 1.3 only, no resumption.
//!
//! Neither function bounds its own time; callers wrap them in `tokio::time::timeout` with their handshake limit.

use std::io;
use std::time::SystemTime;

use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::identity::{self, Identity, peer_id};
use crate::spiffe;

/// What gRPC to the control plane announces.
pub(crate) const CONTROL_ALPN: &[u8] = b"h2";
/// The name that a proxy asks for when it calls the control plane; a placeholder, for the identity is what is verified.
const CONTROL_NAME: &str = "control.heddle-system.heddle";
/// Namespace and service account of a control plane.
pub const CONTROL: (&str, &str) = ("heddle-system", "control");

/// What is spoken inside TLS between two sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `heddle-h1`: HTTP/1.1.
    Http1,
    /// `heddle-h2`: HTTP/2.
    Http2,
    /// `heddle-tcp`: bytes.
    Tcp,
    /// `heddle-link`: many byte streams, HTTP/1.1 in each.
    Link,
}

impl Alpn {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Alpn; 4] = [Alpn::Http1, Alpn::Http2, Alpn::Tcp, Alpn::Link];

    /// The protocol name on the wire.
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Alpn::Http1 => b"heddle-h1",
            Alpn::Http2 => b"heddle-h2",
            Alpn::Tcp => b"heddle-tcp",
            Alpn::Link => b"heddle-link",
        }
    }

    fn from_bytes(name: &[u8]) -> Option<Alpn> {
        Alpn::ALL.into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer's certificate is expired or not valid yet. Clocks may differ.
    #[error("the peer's certificate has expired or is not valid yet (do the clocks agree?)")]
    Expired,
    /// The peer's certificate does not chain to a root that we trust.
    #[error("no root of the mesh vouches for the peer's certificate")]
    UnknownRoot,
    /// The peer is somebody else.
    #[error("the peer is {got}, not {want}")]
    WrongIdentity {
        /// The SPIFFE ID that it must have.
        want: String,
        /// The one that it proved.
        got: String,
    },
    /// The peer's certificate is unusable for another reason.
    #[error("the peer's certificate is unusable: {0}")]
    Certificate(String),
    /// The peer showed no certificate where one is required.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The peer refused us.
    #[error("the peer refused us: {0:?}")]
    Refused(AlertDescription),
    /// What the peer sent is not the TLS that the mesh speaks.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// We have no certificate or no roots yet.
    #[error(transparent)]
    NotReady(#[from] identity::Error),
    /// The connection failed.
    #[error(transparent)]
    Io(io::Error),
}

/// Who connected, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its verified identity.
    pub id: spiffe::Id,
    /// What it speaks.
    pub alpn: Alpn,
    /// Whom it asked for: `p<port>.<workload>.<namespace>.heddle`, unchecked; lower case.
    pub sni: String,
    /// Until when its certificate holds. The connection must not outlive it.
    pub expires: SystemTime,
}

/// Connects to another sidecar over `stream`. The peer must prove to be `expected` (a SPIFFE ID) before anything is sent.
///
/// # Errors
/// See [`Error`]. With TLS 1.3 a peer that refuses *our* certificate is seen at the first read, not here; [`refusal`] tells.
pub async fn connect<S>(
    stream: S,
    identity: &Identity,
    expected: &str,
    sni: &str,
    alpn: Alpn,
) -> Result<client::TlsStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = identity.client_config(alpn)?;
    let name = ServerName::try_from(sni.to_owned())
        .map_err(|error| Error::Protocol(format!("server name {sni:?}: {error}")))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(triage)?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(alpn.as_bytes()) {
        return Err(Error::Protocol("it did not agree to the protocol inside TLS".into()));
    }
    let got = verified_id(session.peer_certificates())?;
    if got.as_str() != expected {
        return Err(Error::WrongIdentity { want: expected.to_owned(), got: got.to_string() });
    }
    Ok(stream)
}

/// Accepts another sidecar over `stream`. It must prove an identity of our trust domain and name what it wants.
///
/// # Errors
/// See [`Error`].
pub async fn accept<S>(stream: S, identity: &Identity) -> Result<(server::TlsStream<S>, Peer), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = identity.server_config()?;
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(triage)?;
    let (_, session) = stream.get_ref();
    let (id, expires) = verified_leaf(session.peer_certificates())?;
    same_domain(identity, &id)?;
    let alpn = session.alpn_protocol().and_then(Alpn::from_bytes);
    let alpn = alpn.ok_or_else(|| Error::Protocol("it names no protocol inside TLS".into()))?;
    let sni = session.server_name().ok_or_else(|| Error::Protocol("it names no server".into()))?.to_owned();
    Ok((stream, Peer { id, alpn, sni, expires }))
}

/// Connects a proxy to the control plane, which must be `ns/heddle-system/sa/control` of our trust domain (of any that the
/// roots vouch for while we have no certificate ourselves).
///
/// # Errors
/// See [`Error`].
pub async fn connect_control<S>(stream: S, identity: &Identity) -> Result<client::TlsStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = identity.control_client_config()?;
    let name = ServerName::try_from(CONTROL_NAME).expect("the constant is a host name");
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(triage)?;
    let (_, session) = stream.get_ref();
    let got = verified_id(session.peer_certificates())?;
    let own = identity.id();
    let domain = own.as_ref().map_or(got.trust_domain(), spiffe::Id::trust_domain);
    if (got.trust_domain(), got.namespace(), got.service_account()) != (domain, CONTROL.0, CONTROL.1) {
        return Err(Error::WrongIdentity {
            want: format!("spiffe://{domain}/ns/{}/sa/{}", CONTROL.0, CONTROL.1),
            got: got.to_string(),
        });
    }
    Ok(stream)
}

/// Accepts a proxy at the control plane. Without a certificate the identity is `None`; with one it is verified.
///
/// # Errors
/// See [`Error`].
pub async fn accept_optional<S>(
    stream: S,
    identity: &Identity,
) -> Result<(server::TlsStream<S>, Option<spiffe::Id>), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = identity.control_server_config()?;
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(triage)?;
    let (_, session) = stream.get_ref();
    let id = match session.peer_certificates() {
        None | Some([]) => None,
        certificates => {
            let id = verified_id(certificates)?;
            same_domain(identity, &id)?;
            Some(id)
        }
    };
    Ok((stream, id))
}

/// Until when the certificate holds that the peer of `stream` has proved itself with. A connection that is kept for later
/// requests must not outlive it.
pub fn peer_expiry<S>(stream: &client::TlsStream<S>) -> Option<SystemTime> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    identity::not_after(leaf)
}

/// Why the peer refused our certificate, if that is what `error`, met while reading, says.
pub fn refusal(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Who a caller is, and until when that is vouched for. One that does not say until when is vouched for no longer.
fn verified_leaf(certificates: Option<&[CertificateDer<'_>]>) -> Result<(spiffe::Id, SystemTime), Error> {
    let id = verified_id(certificates)?;
    let leaf = certificates.and_then(<[_]>::first).ok_or(Error::NoCertificate)?;
    Ok((id, identity::not_after(leaf).unwrap_or(SystemTime::UNIX_EPOCH)))
}

fn verified_id(certificates: Option<&[CertificateDer<'_>]>) -> Result<spiffe::Id, Error> {
    let leaf = certificates.and_then(<[_]>::first).ok_or(Error::NoCertificate)?;
    peer_id(leaf).map_err(Error::Certificate)
}

fn same_domain(identity: &Identity, peer: &spiffe::Id) -> Result<(), Error> {
    let own = identity.id().ok_or(identity::Error::NotReady)?;
    if peer.trust_domain() == own.trust_domain() {
        return Ok(());
    }
    Err(Error::WrongIdentity { want: format!("of trust domain {}", own.trust_domain()), got: peer.to_string() })
}

/// tokio-rustls hides rustls' error in an `io::Error`.
fn triage(error: io::Error) -> Error {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return Error::Io(error);
    };
    match cause {
        rustls::Error::NoCertificatesPresented => Error::NoCertificate,
        rustls::Error::AlertReceived(alert) => Error::Refused(*alert),
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Error::Expired,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Error::UnknownRoot,
            other => Error::Certificate(other.to_string()),
        },
        other => Error::Protocol(other.to_string()),
    }
}
