//! Where proxies connect: gRPC over TLS 1.3, on the Unix socket and perhaps a TCP address.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use net::identity::Identity;
use net::{spiffe, tls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Connections at once; more wait to be accepted. A proxy has two.
const CONNECTIONS: usize = 40_000;
/// A TLS handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Wait after an accept that failed for want of something (file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections between handshake and gRPC.
const BACKLOG: usize = 64;

/// Who is at the other end of a connection. Every request carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// What its certificate proves; `None`: it showed none.
    pub(crate) identity: Option<spiffe::Id>,
    /// Until when.
    pub(crate) not_after: Option<SystemTime>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => identity.fmt(f),
            None => f.write_str("(no certificate)"),
        }
    }
}

/// Bytes both ways over a Unix socket or TCP.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection whose handshake is done.
pub(crate) struct Connection {
    tls: TlsStream<Box<dyn Socket>>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Accepts connections for ever and hands on those whose handshake succeeds.
pub(crate) struct Acceptor {
    identity: Identity,
    permits: Arc<Semaphore>,
    ready: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    pub(crate) fn new(identity: Identity) -> (Acceptor, mpsc::Receiver<io::Result<Connection>>) {
        let (ready, connections) = mpsc::channel(BACKLOG);
        (Acceptor { identity, permits: Arc::new(Semaphore::new(CONNECTIONS)), ready }, connections)
    }

    /// Serves one or two listeners; never returns.
    pub(crate) async fn run(self, unix: UnixListener, tcp: Option<TcpListener>) {
        loop {
            let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
            let accepted: io::Result<Box<dyn Socket>> = tokio::select! {
                accepted = unix.accept() => accepted.map(|(socket, _)| Box::new(socket) as _),
                accepted = accept_tcp(tcp.as_ref()) => accepted,
            };
            match accepted {
                Ok(socket) => self.handshake(socket, permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn handshake(&self, socket: Box<dyn Socket>, permit: OwnedSemaphorePermit) {
        let (identity, ready) = (self.identity.clone(), self.ready.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, tls::accept_optional(socket, &identity)).await {
                Ok(Ok((tls, id))) => {
                    let not_after = id.as_ref().and_then(|_| not_after(&tls));
                    let peer = Peer { identity: id, not_after };
                    let _ = ready.send(Ok(Connection { tls, peer, _permit: permit })).await;
                }
                Ok(Err(error)) => tracing::warn!(%error, "a handshake failed"),
                Err(_) => tracing::debug!("a handshake took too long"),
            }
        });
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<Box<dyn Socket>> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    Ok(Box::new(socket))
}

fn not_after(tls: &TlsStream<Box<dyn Socket>>) -> Option<SystemTime> {
    let (_, session) = tls.get_ref();
    let leaf = session.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(parsed.validity().not_after.to_datetime().into())
}
