//! One end of an exchange: an HTTP/1 connection or one stream of an HTTP/2 connection.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::conn::Conn;
use crate::h1::{Encoder, Fields, Framing, Problem};
use crate::worker::Worker;

/// Up to this size a piece of a body is copied behind what waits to be written, so that one call writes head and body;
/// larger ones are written from where they are.
const COPY: usize = 8 * 1024;

/// Output collected before it is written even though more could be added.
const COLLECT: usize = 16 * 1024;

/// The most that is asked of HTTP/2 flow control at once: its largest frame by default (RFC 9113, 4.2).
const FRAME: usize = 16 * 1024;

/// One end of an exchange.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives in its connection's task, never in a collection")]
pub(crate) enum End {
    /// An HTTP/1 connection.
    H1(Conn),
    /// A stream of an HTTP/2 connection.
    H2(Stream),
}

/// A stream of an HTTP/2 connection.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// A body that comes in.
    pub(crate) recv: Option<RecvStream>,
    /// A body that goes out.
    pub(crate) send: Option<SendStream<Bytes>>,
    /// The answer that is still owed, where we are the server.
    pub(crate) respond: Option<SendResponse<Bytes>>,
}

/// Why bytes cannot go on.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection is gone.
    Gone,
    /// The peer broke its protocol.
    Protocol(Problem),
    /// An HTTP/2 error.
    Http2(h2::Error),
}

impl From<std::io::Error> for Fault {
    fn from(_: std::io::Error) -> Fault {
        Fault::Gone
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Fault {
        Fault::Protocol(problem)
    }
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Fault {
        Fault::Http2(error)
    }
}

/// A piece of a body.
pub(crate) enum Piece<'a> {
    /// In an HTTP/1 connection's buffer.
    Slice(&'a [u8]),
    /// From an HTTP/2 stream.
    Shared(&'a Bytes),
}

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Slice(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }

    fn head(&self, n: usize) -> Bytes {
        match self {
            Piece::Slice(bytes) => Bytes::copy_from_slice(&bytes[..n]),
            Piece::Shared(bytes) => bytes.slice(..n),
        }
    }
}

/// The trailers of a body.
pub(crate) enum Trailers<'a> {
    /// As an HTTP/1 peer sent them.
    Fields(&'a Fields),
    /// As an HTTP/2 peer sent them.
    Map(HeaderMap),
}

/// How a body goes out.
#[derive(Debug)]
pub(crate) enum Encoding {
    /// As the bytes come: their framing is the outgoing one already.
    Raw,
    /// Framed anew.
    Framed(Encoder),
    /// Over HTTP/2, where frames do it.
    Frames,
}

impl End {
    /// Takes some of `piece`, and says how much. `last`: the body ends with it, without trailers.
    pub(crate) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        piece: &Piece<'_>,
        encoding: &mut Encoding,
        last: bool,
    ) -> Poll<Result<Accepted, Fault>> {
        match self {
            End::H1(conn) => accept_http1(conn, cx, piece.bytes(), encoding),
            End::H2(stream) => stream.poll_accept(cx, piece, last),
        }
    }

    /// Ends the outgoing body.
    pub(crate) fn finish(
        &mut self,
        framing: Framing,
        encoding: &mut Encoding,
        trailers: Option<Trailers<'_>>,
    ) -> Result<(), Fault> {
        match self {
            End::H1(conn) => {
                let converted;
                let fields = match &trailers {
                    None => None,
                    Some(Trailers::Fields(fields)) => Some(*fields),
                    Some(Trailers::Map(map)) => {
                        converted = Fields::from_map(map);
                        Some(&converted)
                    }
                };
                match encoding {
                    Encoding::Framed(encoder) => encoder.finish(fields, &mut conn.output)?,
                    Encoding::Raw if framing == Framing::Chunked => {
                        Encoder::new(framing).finish(fields, &mut conn.output)?
                    }
                    Encoding::Raw | Encoding::Frames => {}
                }
                Ok(())
            }
            End::H2(stream) => {
                let send = stream.send.as_mut().ok_or(Fault::Gone)?;
                match trailers {
                    None => send.send_data(Bytes::new(), true)?,
                    Some(Trailers::Fields(fields)) => send.send_trailers(fields.to_map()?)?,
                    Some(Trailers::Map(map)) => send.send_trailers(map)?,
                }
                Ok(())
            }
        }
    }

    /// Writes what was collected. HTTP/2 connections write by themselves.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self {
            End::H1(conn) => conn.poll_flush(cx).map_err(Fault::from),
            End::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ready when a client whose request was read wholly has gone away, so that nobody waits for the answer. Reads ahead of
    /// the next request, up to `limit` bytes. `last`: the client said that it sends no further request, so that the end of
    /// its stream means nothing.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, worker: &Worker, limit: usize, last: bool) -> Poll<()> {
        match self {
            End::H1(conn) => loop {
                match ready!(conn.poll_fill(cx, worker, limit)) {
                    Ok(0) if last => return Poll::Pending,
                    Ok(0) | Err(_) => return Poll::Ready(()),
                    Ok(_) => {}
                }
            },
            End::H2(stream) => match (&mut stream.respond, &mut stream.send) {
                (Some(respond), _) => respond.poll_reset(cx).map(drop),
                (None, Some(send)) => send.poll_reset(cx).map(drop),
                (None, None) => Poll::Pending,
            },
        }
    }
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// So many bytes are taken.
    pub(crate) bytes: usize,
    /// The body was ended with them.
    pub(crate) ended: bool,
}

fn accept_http1(
    conn: &mut Conn,
    cx: &mut Context<'_>,
    bytes: &[u8],
    encoding: &mut Encoding,
) -> Poll<Result<Accepted, Fault>> {
    let n = match encoding {
        Encoding::Framed(encoder) => {
            if conn.unwritten() >= COLLECT {
                ready!(conn.poll_flush(cx))?;
            }
            let n = bytes.len().min(COLLECT);
            encoder.data(&bytes[..n], &mut conn.output)?;
            n
        }
        Encoding::Raw | Encoding::Frames if bytes.len() <= COPY && conn.unwritten() < COLLECT => {
            conn.output.extend_from_slice(bytes);
            bytes.len()
        }
        Encoding::Raw | Encoding::Frames => ready!(conn.poll_send(cx, bytes))?,
    };
    Poll::Ready(Ok(Accepted { bytes: n, ended: false }))
}

impl Stream {
    fn poll_accept(&mut self, cx: &mut Context<'_>, piece: &Piece<'_>, last: bool) -> Poll<Result<Accepted, Fault>> {
        let send = self.send.as_mut().ok_or(Fault::Gone)?;
        let wanted = piece.bytes().len();
        if wanted > 0 {
            send.reserve_capacity(wanted.min(FRAME));
        }
        let mut capacity = send.capacity();
        while capacity == 0 && wanted > 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(more) => capacity = more?,
                None => return Poll::Ready(Err(Fault::Gone)),
            }
        }
        let n = capacity.min(wanted);
        let ended = last && n == wanted;
        send.send_data(piece.head(n), ended)?;
        Poll::Ready(Ok(Accepted { bytes: n, ended }))
    }

    /// The next bytes of the body that comes in; `None` at its end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(None)) };
        match ready!(recv.poll_data(cx)) {
            Some(Ok(bytes)) => Poll::Ready(Ok(Some(bytes))),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// The trailers, once the body has ended.
    pub(crate) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Fault>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(None)) };
        recv.poll_trailers(cx).map_err(Fault::from)
    }

    /// Lets the peer send as much again as was forwarded.
    pub(crate) fn release(&mut self, n: usize) {
        if let Some(recv) = &mut self.recv {
            // An error means that the stream is closed, and then nothing more comes.
            let _ = recv.flow_control().release_capacity(n);
        }
    }

    /// Whether nothing more comes in.
    pub(crate) fn ended(&self) -> bool {
        self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }
}
