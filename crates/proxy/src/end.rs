//! One end of an exchange: an HTTP/1 connection or one stream of an HTTP/2 connection.

use std::task::{Context, Poll, ready};

use crate::conn::Conn;
use crate::h1::{Encoder, Fields, Framing, Problem};
use crate::h2::{self, Stream};
use crate::io::Io;
use crate::worker::Worker;

/// Up to this size a piece of a body is copied behind what waits to be written, so that one call writes head and body;
/// larger ones are written from where they are.
const COPY: usize = 8 * 1024;

/// From this size on a piece goes to a stream of a link straight from where it is: the stream makes one frame of it and of what waits
/// to be written. Smaller ones are collected, for each frame has a header.
const ALONG: usize = 512;

/// Output collected before it is written even though more could be added.
const COLLECT: usize = 16 * 1024;

/// One end of an exchange.
#[derive(Debug)]
pub(crate) enum End {
    /// An HTTP/1 connection; boxed, because it goes from the pool to an exchange and back with every request.
    H1(Box<Conn>),
    /// A stream of an HTTP/2 connection.
    H2(Stream),
}

/// Why bytes cannot go on.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The connection is gone.
    Gone,
    /// The peer took none of it: a stream of a link too many.
    Refused,
    /// The peer broke its protocol.
    Protocol(Problem),
    /// The stream of HTTP/2 ended before its time.
    Reset(h2::Reset),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Fault::Refused,
            _ => Fault::Gone,
        }
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Fault {
        Fault::Protocol(problem)
    }
}

impl From<h2::Reset> for Fault {
    fn from(reset: h2::Reset) -> Fault {
        Fault::Reset(reset)
    }
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
        piece: &[u8],
        encoding: &mut Encoding,
        last: bool,
    ) -> Poll<Result<Accepted, Fault>> {
        match self {
            End::H1(conn) => accept_http1(conn, cx, piece, encoding),
            End::H2(stream) => {
                let bytes = ready!(stream.poll_send(cx, piece, last))?;
                Poll::Ready(Ok(Accepted { bytes, ended: last && bytes == piece.len() }))
            }
        }
    }

    /// Ends the outgoing body.
    pub(crate) fn finish(
        &mut self,
        framing: Framing,
        encoding: &mut Encoding,
        trailers: Option<&Fields>,
    ) -> Result<(), Fault> {
        match self {
            End::H1(conn) => {
                match encoding {
                    Encoding::Framed(encoder) => encoder.finish(trailers, &mut conn.output)?,
                    Encoding::Raw if framing == Framing::Chunked => {
                        Encoder::new(framing).finish(trailers, &mut conn.output)?
                    }
                    Encoding::Raw | Encoding::Frames => {}
                }
                Ok(())
            }
            End::H2(stream) => stream.finish(trailers),
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
            End::H2(stream) => stream.poll_reset(cx),
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
    let goes_along = matches!(conn.io, Io::Stream(_)) && bytes.len() >= ALONG;
    let n = match encoding {
        Encoding::Framed(encoder) => {
            if conn.unwritten() >= COLLECT {
                ready!(conn.poll_flush(cx))?;
            }
            let n = bytes.len().min(COLLECT);
            encoder.data(&bytes[..n], &mut conn.output)?;
            n
        }
        Encoding::Raw | Encoding::Frames if bytes.len() <= COPY && conn.unwritten() < COLLECT && !goes_along => {
            conn.output.extend_from_slice(bytes);
            bytes.len()
        }
        Encoding::Raw | Encoding::Frames => ready!(conn.poll_send(cx, bytes))?,
    };
    Poll::Ready(Ok(Accepted { bytes: n, ended: false }))
}
