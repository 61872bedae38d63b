//! Where proxies connect: gRPC over TLS 1.3, on the Unix socket and perhaps a TCP address.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use net::grant::Grant;
use net::identity::Identity;
use net::{spiffe, tls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
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
    /// And lets it register as.
    pub(crate) grant: Option<Grant>,
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

/// How long a connection without a certificate lives: it is for one request of a certificate.
const ANONYMOUS: Duration = Duration::from_secs(30);
/// A connection ends this long after its peer's certificate, so that the session's own word on that comes first.
const EXPIRED: Duration = Duration::from_secs(10);

impl Peer {
    /// How long its connection may live.
    fn life(&self, now: SystemTime) -> Duration {
        match self.not_after {
            Some(until) => until.duration_since(now).unwrap_or_default() + EXPIRED,
            None => ANONYMOUS,
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
    end: Pin<Box<Sleep>>,
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
        // Whoever serves the connection reads it all the time, so this wakes it.
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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
                    let grant = id.as_ref().and_then(|_| Grant::of(leaf(&tls)?));
                    let peer = Peer { identity: id, grant, not_after };
                    let end = Box::pin(sleep(peer.life(SystemTime::now())));
                    let _ = ready.send(Ok(Connection { tls, peer, end, _permit: permit })).await;
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

fn leaf(tls: &TlsStream<Box<dyn Socket>>) -> Option<&[u8]> {
    let (_, session) = tls.get_ref();
    session.peer_certificates()?.first().map(|leaf| &**leaf)
}

fn not_after(tls: &TlsStream<Box<dyn Socket>>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf(tls)?).ok()?;
    Some(parsed.validity().not_after.to_datetime().into())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_connection_lives_as_long_as_its_certificate_and_without_one_not_long() {
        let now = SystemTime::now();
        let peer = |not_after| Peer { identity: None, grant: None, not_after };
        assert_eq!(peer(None).life(now), ANONYMOUS);
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(peer(Some(now + day)).life(now), day + EXPIRED);
        assert_eq!(peer(Some(now - day)).life(now), EXPIRED);
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait() {
        let ca = testkit::ca::Ca::new();
        let (mut acceptor, mut connections) = Acceptor::new(ca.workload(tls::CONTROL.0, tls::CONTROL.1));
        assert_eq!(acceptor.permits.available_permits(), CONNECTIONS);
        acceptor.permits = Arc::new(Semaphore::new(1));
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(acceptor.run(listener, None));
        let stranger = Identity::generate().unwrap();
        stranger.set_roots(vec![ca.root()]).unwrap();
        let connect = || async {
            let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
            tls::connect_control(stream, &stranger).await.unwrap()
        };
        let _first = connect().await;
        let held = connections.recv().await.unwrap().unwrap();
        let second = connect();
        tokio::pin!(second);
        assert!(timeout(Duration::from_millis(100), &mut second).await.is_err(), "nobody serves the second");
        drop(held);
        timeout(Duration::from_secs(20), second).await.unwrap();
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_without_certificate_is_cut_off_though_it_keeps_talking() {
        let ca = testkit::ca::Ca::new();
        let identity = ca.workload(tls::CONTROL.0, tls::CONTROL.1);
        let (acceptor, mut connections) = Acceptor::new(identity);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let permit = Arc::clone(&acceptor.permits).acquire_owned().await.unwrap();
        acceptor.handshake(Box::new(theirs), permit);
        let stranger = Identity::generate().unwrap();
        stranger.set_roots(vec![ca.root()]).unwrap();
        let mut client = tls::connect_control(ours, &stranger).await.unwrap();
        let mut connection = connections.recv().await.unwrap().unwrap();
        let talk = async {
            loop {
                client.write_all(b"x").await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
        };
        let hear = async {
            let mut byte = [0];
            loop {
                if let Err(error) = connection.read_exact(&mut byte).await {
                    return error.kind();
                }
            }
        };
        let ended = tokio::select! { kind = hear => kind, () = talk => unreachable!("it talks for ever") };
        assert_eq!(ended, io::ErrorKind::TimedOut);
    }
}
