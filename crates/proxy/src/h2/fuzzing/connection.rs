//! A whole connection of ours with a peer that sends any bytes.

use std::rc::Rc;
use std::task::{Context, Waker};

use engine::Nanos;

use crate::h1::{Request, Response};
use crate::h2::frame::{self, Broken, DEFAULT_MAX_FRAME, HEADER, Header, Kind, PREFACE, flag};
use crate::h2::hpack::{Decoder, Encoder};
use crate::h2::{Connection, STREAM_WINDOW, Stream};
use crate::settings::Limits;

/// Small enough that a fuzzer reaches them.
fn limits() -> Limits {
    Limits { head_bytes: 2048, headers: 16, streams: 4, ..Limits::default() }
}

/// All that can be seen after bytes came in.
#[derive(Debug, PartialEq)]
struct Outcome {
    result: Result<(), Broken>,
    /// Bytes that were not taken.
    held: Vec<u8>,
    /// What each stream holds of a body, and whether that is all.
    streams: Vec<(Vec<u8>, bool)>,
    /// What was said, but for windows, which depend on when something was read.
    said: Vec<(Header, Vec<u8>)>,
}

struct End {
    connection: Rc<Connection>,
    streams: Vec<Stream>,
    limits: Limits,
    held: Vec<u8>,
    said: Vec<u8>,
}

impl End {
    /// A server that a client has greeted, or a client with two requests that a server has.
    fn new(server: bool) -> End {
        let limits = limits();
        let connection = if server {
            Connection::server(&limits, &Rc::default())
        } else {
            Connection::client(&limits, &Rc::default())
        };
        let mut end = End { connection, streams: Vec::new(), limits, held: Vec::new(), said: Vec::new() };
        let mut hello = if server { PREFACE.to_vec() } else { Vec::new() };
        frame::write_settings(&[], &mut hello);
        end.take(&hello).expect("a greeting is allowed");
        while !server && end.streams.len() < 2 {
            let stream = end.connection.place().expect("there is room");
            assert!(stream.send_request(end.streams.is_empty(), false, request).is_ok());
            end.streams.push(stream);
        }
        end
    }

    /// Takes bytes, as the driver does.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.held.extend_from_slice(bytes);
        let taken = self.connection.inner.borrow_mut().receive(&self.held, &self.limits, Nanos(1));
        loop {
            let Some(slot) = self.connection.inner.borrow_mut().accepted.pop_front() else { break };
            self.streams.push(Stream::new(&self.connection.inner, slot));
        }
        let mut inner = self.connection.inner.borrow_mut();
        inner.wake_waiting();
        self.said.append(&mut inner.output);
        drop(inner);
        self.held.drain(..taken?);
        Ok(())
    }

    /// Does with the streams what an application may: reads, answers, ends, lets go.
    fn play(&mut self, server: bool) {
        let cx = Context::from_waker(Waker::noop());
        for stream in &self.streams {
            if server {
                let _ = stream.take_request(&mut Request::default());
                let _ = stream.send_answer(false, answer);
            } else {
                let _ = stream.poll_answer(&cx, &mut Response::default());
            }
            let n = stream.body(0).len();
            stream.consume(n);
            let _ = stream.poll_send(&cx, &[7; 100], false);
            if stream.ended() {
                let _ = stream.finish(None);
            }
        }
        self.streams.retain(|stream| !stream.ended());
        self.said.append(&mut self.connection.inner.borrow_mut().output);
    }
}

fn request(encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")] {
        encoder.field(name.as_bytes(), value.as_bytes(), false, out);
    }
}

fn answer(encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encoder.status(200, out);
}

/// The frames that were said. Each must be well-formed, and each head one that a peer can decode.
fn frames(said: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut rest = said.strip_prefix(PREFACE.as_slice()).unwrap_or(said);
    let (mut frames, mut block, mut decoder) = (Vec::new(), Vec::new(), Decoder::new(4096));
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
        let header = Header::parse(header);
        assert_eq!(header.check(DEFAULT_MAX_FRAME), Ok(()), "we say {header:?}");
        let (payload, behind) = behind.split_at(header.length as usize);
        rest = behind;
        if matches!(header.kind, Kind::Headers | Kind::Continuation) {
            block.extend_from_slice(payload);
            if header.has(flag::END_HEADERS) {
                assert_eq!(decoder.decode(&block, &mut |_, _, _| {}), Ok(()));
                block.clear();
            }
        }
        if header.kind != Kind::WindowUpdate {
            frames.push((header, payload.to_vec()));
        }
    }
    assert!(rest.is_empty() && block.is_empty(), "we say whole frames");
    frames
}

fn receive(server: bool, play: bool, data: &[u8], step: usize) -> Outcome {
    let mut end = End::new(server);
    let mut result = Ok(());
    for piece in data.chunks(step) {
        result = end.take(piece);
        let inner = end.connection.inner.borrow();
        assert!(inner.in_use() <= 2 * inner.most as usize + 2, "{} streams", inner.in_use());
        drop(inner);
        for stream in &end.streams {
            assert!(stream.body(0).len() <= STREAM_WINDOW as usize);
        }
        if result.is_err() {
            break;
        }
        if play {
            end.play(server);
        }
    }
    if result.is_err() {
        end.held.clear();
    }
    let stream = |stream: &Stream| {
        let body = stream.body(0).to_vec();
        (body, stream.ended())
    };
    let streams = end.streams.iter().map(stream).collect();
    Outcome { result, held: end.held, streams, said: frames(&end.said) }
}

/// However bytes arrive, the same comes of them, within the bounds, and what we say is well-formed. The low bits of the first byte
/// say which end this is, and whether the application does something.
pub fn connection(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let (server, play) = (first & 1 != 0, first & 2 != 0);
    let whole = receive(server, play, data, usize::MAX);
    for step in [1, 13] {
        let pieces = receive(server, play, data, step);
        if play {
            // What is read in between changes what is allowed.
            continue;
        }
        assert_eq!(whole, pieces, "{step} bytes at a time");
    }
}
