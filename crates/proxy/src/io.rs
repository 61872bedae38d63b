//! A byte stream: plain TCP, TLS from either side, or a stream of a link. An enum, so that reading and writing are direct calls.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use net::ahead::ReadAhead;
use net::dial;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::link::Stream;

/// So few bytes nearly always have room in a socket, and are written without telling the runtime who would wait for it. Of more,
/// often a part alone is taken; the runtime then knows that the rest has to wait, and spares the call that would say so.
const FITS: usize = 16 * 1024;

/// One connection's bytes.
#[derive(Debug)]
pub(crate) enum Io {
    /// Plain text.
    Tcp(TcpStream),
    /// TLS that a peer opened.
    Server(Box<server::TlsStream<ReadAhead>>),
    /// TLS that we opened.
    Client(Box<client::TlsStream<ReadAhead>>),
    /// One of the streams that share a connection between two sidecars.
    Stream(Stream),
}

impl Io {
    /// Makes closing an abort, so that the peer cannot take a body that was cut off for a whole one.
    pub(crate) fn abort_on_close(&self) {
        match self {
            Io::Stream(stream) => stream.abort(),
            _ => self.abort_unless_whole(),
        }
    }

    /// Makes closing an abort until [`Io::is_whole`], also where the task is dropped or the process is killed: for what has no other
    /// end than that of its connection. A stream of a link is cut off by itself unless both its halves are over.
    pub(crate) fn abort_unless_whole(&self) {
        self.linger(Some(Duration::ZERO));
    }

    /// Makes closing orderly again: everything is written, and the system delivers it.
    pub(crate) fn is_whole(&self) {
        self.linger(None);
    }

    fn linger(&self, time: Option<Duration>) {
        if let Some(tcp) = self.tcp() {
            // An error means that the connection is gone already.
            let _ = socket2::SockRef::from(tcp).set_linger(time);
        }
    }

    /// A peer that is gone, or does not read for [`dial::UNACKNOWLEDGED`], ends this connection, which somebody else dialled.
    pub(crate) fn expect_reader(&self) {
        if let Some(tcp) = self.tcp() {
            // An error means that the connection is gone, which whoever uses it next is told.
            let _ = dial::prepare(tcp, Some(dial::UNACKNOWLEDGED));
        }
    }

    /// From now on a peer that is there and does not read is waited for, as long as policies allow: what is about to be sent may
    /// be more than its socket takes. Until then bytes that nobody acknowledges end a connection that we dialled
    /// ([`net::dial::prepare`]), so that a machine that is gone is noticed though a request is under way. A link keeps the
    /// bound, for its streams have flow control of their own.
    pub(crate) fn wait_for_reader(&self) {
        if let Some(tcp) = self.tcp() {
            // An error means that the connection is gone, which whoever uses it next is told.
            let _ = socket2::SockRef::from(tcp).set_tcp_user_timeout(None);
        }
    }

    /// The connection itself, where it is nobody else's.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Io::Tcp(tcp) => Some(tcp),
            Io::Server(tls) => Some(tls.get_ref().0.tcp()),
            Io::Client(tls) => Some(tls.get_ref().0.tcp()),
            Io::Stream(_) => None,
        }
    }

    /// What TLS has decrypted and nobody has taken yet, to be read without a copy; empty at the end. [`Io::consume`] takes it.
    ///
    /// # Errors
    /// `Unsupported` where there is no TLS, and so no memory that the bytes could be read in.
    pub(crate) fn poll_decrypted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self {
            Io::Server(tls) => Pin::new(tls).poll_fill_buf(cx),
            Io::Client(tls) => Pin::new(tls).poll_fill_buf(cx),
            Io::Tcp(_) | Io::Stream(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Takes `n` bytes of those that [`Io::poll_decrypted`] showed.
    pub(crate) fn consume(&mut self, n: usize) {
        match self {
            Io::Server(tls) => Pin::new(tls).consume(n),
            Io::Client(tls) => Pin::new(tls).consume(n),
            Io::Tcp(_) | Io::Stream(_) => {}
        }
    }

    /// Ready when a read is worth a buffer: of plain TCP that something has come, or its end; of what decrypts or shares a
    /// connection, which only a read can tell, always.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Tcp(tcp) => tcp.poll_read_ready(cx),
            Io::Server(_) | Io::Client(_) | Io::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether an unused connection can be used: still open, with nothing to read. Costs no system call unless the runtime
    /// has seen something happen on the socket. A stream whose link leaves is none: its server resets what is quiet soon.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        match self {
            // Nobody is to be woken, so the runtime need not be told who asks.
            Io::Tcp(tcp) => {
                return matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            }
            Io::Stream(stream) => return stream.is_quiet() && !stream.is_leaving(),
            Io::Server(_) | Io::Client(_) => {}
        }
        let mut room = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut room).is_pending()
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match $self {
            Io::Tcp($io) => $call,
            Io::Server($io) => $call,
            Io::Client($io) => $call,
            Io::Stream($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_read(cx, room))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Io::Tcp(tcp) = &*self
            && bytes.len() <= FITS
        {
            match tcp.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
        each!(self.get_mut(), io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> Io {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Io::Tcp(TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens"))
    }

    fn bound(io: &Io) -> Option<std::time::Duration> {
        SockRef::from(io.tcp().expect("it is TCP")).tcp_user_timeout().expect("it is open")
    }

    #[tokio::test]
    async fn who_is_sent_much_may_read_slowly_and_is_no_longer_bound() {
        let io = connected().await;
        assert_eq!(bound(&io), None);
        io.expect_reader();
        assert_eq!(bound(&io), Some(dial::UNACKNOWLEDGED));
        io.wait_for_reader();
        assert_eq!(bound(&io), None);
    }
}
