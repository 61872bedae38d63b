//! Moving one body from one end to the other, piece by piece, no faster than the receiver takes it.

use std::task::{Context, Poll, ready};

use net::copy::Pipe;

use crate::buffer;
use crate::conn::Conn;
use crate::end::{Encoding, End, Fault};
use crate::h1::{Decoder, Encoder, Framing, Part};
use crate::h2::Stream;
use crate::io::Io;
use crate::worker::Worker;

/// The most that an HTTP/1 connection reads ahead of a body's receiver.
const AHEAD: usize = 64 * 1024;

/// Largest trailers, bytes.
const TRAILERS: usize = 16 * 1024;

/// As much of a body must be to come to move it by splice(2). Below it a copy costs less than the two calls more.
const SPLICE: u64 = 32 * 1024;

/// Which end failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The sender.
    Source(Fault),
    /// The receiver.
    Sink(Fault),
}

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Content.
    Body,
    /// The content has ended, its end is to be sent.
    End,
    /// Everything is handed over, some of it may have to be written.
    Flush,
    Done,
}

impl Stage {
    /// Where a body begins whose head was read by HTTP/1 (`decoder`) or HTTP/2.
    fn first(decoder: Option<&Decoder>) -> Stage {
        match decoder {
            Some(decoder) if decoder.ended() => Stage::End,
            _ => Stage::Body,
        }
    }
}

/// The body of one message on its way.
#[derive(Debug)]
pub(crate) struct Transfer {
    stage: Stage,
    /// Of an HTTP/1 sender.
    incoming: Framing,
    decoder: Option<Decoder>,
    /// Towards an HTTP/1 receiver.
    outgoing: Framing,
    encoding: Encoding,
    /// Forward chunks with their framing.
    pass: bool,
    /// Of the sender's input: bytes before this are forwarded already but kept.
    cursor: usize,
    /// Of an HTTP/1 sender: content at the cursor that the receiver has not taken yet.
    run: usize,
    /// Content that passes inside the kernel.
    pipe: Pipe,
    /// There was no pipe to be had: the rest goes by the buffer.
    no_pipe: bool,
    /// Bytes that may be kept so that the body can be sent again; `None`: some are gone, or it need not.
    keep: Option<usize>,
    grpc_status: Option<u8>,
    forwarded: u64,
    /// It stands still because its sender has sent no more.
    starved: bool,
}

impl Transfer {
    /// A body from `from`, framed as `incoming` where that is HTTP/1, to an end that is HTTP/1 with `outgoing` or HTTP/2
    /// (`None`). At most `keep` bytes are kept so that it can begin again.
    pub(crate) fn new(from: &End, incoming: Framing, outgoing: Option<Framing>, keep: Option<usize>) -> Transfer {
        let encoding = match (from, outgoing) {
            (_, None) => Encoding::Frames,
            (End::H1(_), Some(Framing::Chunked)) if incoming != Framing::Chunked => {
                Encoding::Framed(Encoder::new(Framing::Chunked))
            }
            (End::H1(_), Some(_)) => Encoding::Raw,
            (End::H2(_), Some(framing)) => Encoding::Framed(Encoder::new(framing)),
        };
        let decoder = match from {
            End::H1(_) => Some(Decoder::new(incoming, TRAILERS)),
            End::H2(_) => None,
        };
        let pass = incoming == Framing::Chunked && outgoing == Some(Framing::Chunked);
        Transfer {
            stage: Stage::first(decoder.as_ref()),
            incoming,
            decoder,
            outgoing: outgoing.unwrap_or_default(),
            encoding,
            pass,
            cursor: 0,
            run: 0,
            pipe: Pipe::default(),
            no_pipe: false,
            keep,
            grpc_status: None,
            forwarded: 0,
            starved: false,
        }
    }

    /// There is no body: the head alone ended the message.
    pub(crate) fn skip(&mut self) {
        self.stage = Stage::Done;
    }

    /// Whether the whole body is handed over and written.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Whether it waits for its sender, and not for its receiver.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Bytes of content handed over so far, chunk framing that was passed on included.
    pub(crate) fn forwarded(&self) -> u64 {
        self.forwarded
    }

    /// The status in the trailers of a gRPC response.
    pub(crate) fn grpc_status(&self) -> Option<u8> {
        self.grpc_status
    }

    /// Whether the body can begin again.
    pub(crate) fn can_restart(&self) -> bool {
        self.keep.is_some()
    }

    /// Begins again, towards another receiver of the same kind.
    pub(crate) fn restart(&mut self) {
        debug_assert!(self.can_restart());
        if self.decoder.is_some() {
            self.decoder = Some(Decoder::new(self.incoming, TRAILERS));
        }
        if let Encoding::Framed(encoder) = &mut self.encoding {
            *encoder = Encoder::new(self.outgoing);
        }
        self.stage = Stage::first(self.decoder.as_ref());
        self.cursor = 0;
        self.run = 0;
        self.forwarded = 0;
    }

    /// The body need not begin again: forgets what was kept.
    pub(crate) fn settle(&mut self, from: &mut End) {
        if self.keep.take().is_none() {
            return;
        }
        match from {
            End::H1(conn) => conn.input.take(self.cursor),
            End::H2(stream) => stream.consume(self.cursor),
        }
        self.cursor = 0;
    }

    /// Moves what can be moved. Ready when the body is handed over and written.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        from: &mut End,
        to: &mut End,
    ) -> Poll<Result<(), Broken>> {
        self.starved = false;
        if self.stage == Stage::Body {
            ready!(match from {
                End::H1(conn) => self.poll_http1(cx, worker, conn, to),
                End::H2(stream) => self.poll_http2(cx, stream, to),
            })?;
        }
        if self.stage == Stage::End {
            let of_stream;
            let trailers = match (&self.decoder, &*from) {
                (Some(decoder), _) => decoder.trailers().filter(|fields| !fields.is_empty()),
                (None, End::H2(stream)) => {
                    of_stream = stream.trailers();
                    of_stream.as_deref()
                }
                (None, End::H1(_)) => None,
            };
            to.finish(self.outgoing, &mut self.encoding, trailers).map_err(Broken::Sink)?;
            self.stage = Stage::Flush;
        }
        if self.stage == Stage::Flush {
            ready!(to.poll_flush(cx)).map_err(Broken::Sink)?;
            self.stage = Stage::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_http1(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        conn: &mut Conn,
        to: &mut End,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.run == 0 && conn.input.is_empty() {
                ready!(self.poll_splice(cx, worker, conn, to))?;
            }
            let decoder = self.decoder.as_mut().expect("an HTTP/1 sender has a decoder");
            if self.run > 0 {
                let piece = &conn.input.bytes()[self.cursor..self.cursor + self.run];
                let last = decoder.ended() && decoder.trailers().is_none_or(|fields| fields.is_empty());
                let accepted = ready!(to.poll_accept(cx, piece, &mut self.encoding, last)).map_err(Broken::Sink)?;
                self.run -= accepted.bytes;
                self.forwarded += accepted.bytes as u64;
                pass_by(conn, &mut self.cursor, &mut self.keep, accepted.bytes);
                if accepted.ended {
                    self.stage = Stage::Flush;
                    return Poll::Ready(Ok(()));
                }
                if last && self.run == 0 {
                    self.stage = Stage::End;
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let input = &conn.input.bytes()[self.cursor..];
            let part = if self.pass { decoder.pass(input) } else { decoder.decode(input) };
            match part.map_err(|problem| Broken::Source(problem.into()))? {
                Part::Data(range) => {
                    pass_by(conn, &mut self.cursor, &mut self.keep, range.start);
                    self.run = range.len();
                }
                Part::End(n) => {
                    pass_by(conn, &mut self.cursor, &mut self.keep, n);
                    break;
                }
                Part::More(n) => {
                    pass_by(conn, &mut self.cursor, &mut self.keep, n);
                    let limit = AHEAD + self.keep.map_or(0, |keep| keep + buffer::SIZE);
                    match conn.poll_fill(cx, worker, limit) {
                        Poll::Ready(Ok(0)) => {
                            decoder.eof().map_err(|_| Broken::Source(Fault::Gone))?;
                            break;
                        }
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Source(error.into()))),
                        Poll::Pending => {
                            ready!(to.poll_flush(cx)).map_err(Broken::Sink)?;
                            self.starved = true;
                            return Poll::Pending;
                        }
                    }
                }
            }
        }
        let trailers = self.decoder.as_ref().and_then(Decoder::trailers);
        if let Some(status) = trailers.and_then(|fields| fields.get("grpc-status")) {
            self.grpc_status = parse_grpc_status(status);
        }
        self.stage = Stage::End;
        Poll::Ready(Ok(()))
    }

    /// Moves what it can inside the kernel: a long body of known length between two plain connections, of which nothing is to
    /// be kept. Ready when the rest goes by the buffer.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        from: &mut Conn,
        to: &mut End,
    ) -> Poll<Result<(), Broken>> {
        let (Some(decoder), Io::Tcp(source), End::H1(to)) = (&mut self.decoder, &mut from.io, to) else {
            return Poll::Ready(Ok(()));
        };
        let raw = matches!(self.encoding, Encoding::Raw);
        loop {
            if !self.pipe.is_empty() {
                let Io::Tcp(sink) = &mut to.io else { return Poll::Ready(Ok(())) };
                let written = ready!(self.pipe.poll_drain(cx, sink)).map_err(|error| Broken::Sink(error.into()))?;
                self.forwarded += written as u64;
                continue;
            }
            let left = decoder.length_left().unwrap_or(0);
            if left < SPLICE || !raw || self.no_pipe || self.keep.is_some() || !matches!(to.io, Io::Tcp(_)) {
                return Poll::Ready(Ok(()));
            }
            ready!(to.poll_flush(cx)).map_err(|error| Broken::Sink(error.into()))?;
            worker.give_back(&mut from.input);
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let filled = self.pipe.poll_fill(cx, source, most);
            self.starved = filled.is_pending();
            match ready!(filled) {
                Ok(Some(0)) => return Poll::Ready(Err(Broken::Source(Fault::Gone))),
                Ok(Some(n)) => decoder.skip(n as u64),
                Ok(None) => self.no_pipe = true,
                Err(error) => return Poll::Ready(Err(Broken::Source(error.into()))),
            }
        }
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>, stream: &Stream, to: &mut End) -> Poll<Result<(), Broken>> {
        loop {
            match stream.poll_body(cx, self.cursor) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => break,
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(Broken::Source(fault))),
                Poll::Pending => {
                    ready!(to.poll_flush(cx)).map_err(Broken::Sink)?;
                    self.starved = true;
                    return Poll::Pending;
                }
            }
            let last = stream.ended();
            let piece = stream.body(self.cursor);
            let accepted = to.poll_accept(cx, &piece, &mut self.encoding, last);
            drop(piece);
            let accepted = ready!(accepted).map_err(Broken::Sink)?;
            self.forwarded += accepted.bytes as u64;
            // The window is opened as the receiver takes: the peer can be ahead of it by one window.
            self.cursor += accepted.bytes;
            if self.keep.is_some_and(|keep| self.cursor <= keep) {
                stream.keep(self.cursor);
            } else {
                self.keep = None;
                stream.consume(self.cursor);
                self.cursor = 0;
            }
            if accepted.ended {
                self.stage = Stage::Flush;
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(trailers) = stream.trailers() {
            self.grpc_status = trailers.get("grpc-status").and_then(parse_grpc_status);
        }
        self.stage = Stage::End;
        Poll::Ready(Ok(()))
    }
}

/// Moves past `n` bytes of the input: keeps them behind the cursor while that is allowed, else drops them.
fn pass_by(conn: &mut Conn, cursor: &mut usize, keep: &mut Option<usize>, n: usize) {
    if keep.is_some_and(|keep| *cursor + n <= keep) {
        *cursor += n;
        return;
    }
    *keep = None;
    conn.input.take(*cursor + n);
    *cursor = 0;
}

/// The number that a `grpc-status` field says.
pub(crate) fn parse_grpc_status(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
