//! Connections without sockets: two of ours that talk to each other, and one of ours with a peer that sends any frame it likes.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engine::{Nanos, RequestHead as _};
use proptest::prelude::*;

use super::frame::{self, Broken, Code, HEADER, Header, Kind, PREFACE, flag, setting};
use super::hpack::{Decoder, Encoder};
use super::state::Inner;
use super::*;
use crate::end::Fault;
use crate::h1::{Request, Response};
use crate::settings::Limits;

mod hostile;
mod pair;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn now<T>(poll: Poll<Result<T, Fault>>) -> T {
    match poll {
        Poll::Ready(Ok(value)) => value,
        Poll::Ready(Err(fault)) => panic!("{fault:?}"),
        Poll::Pending => panic!("nothing has come"),
    }
}

fn reset<T>(poll: Poll<Result<T, Fault>>) -> Reset {
    match poll {
        Poll::Ready(Err(Fault::Reset(reset))) => reset,
        Poll::Ready(_) => panic!("it goes on"),
        Poll::Pending => panic!("nothing has come"),
    }
}

/// A header block.
fn block(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    fields.iter().for_each(|(name, value)| encoder.field(name.as_bytes(), value.as_bytes(), false, &mut out));
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")];

/// Writes a request with these fields and more.
fn request(more: &[(&str, &str)]) -> impl FnOnce(&mut Encoder, &mut Vec<u8>) {
    let fields: Vec<(String, String)> =
        GET.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |encoder, out| {
        encoder.begin(out);
        fields.iter().for_each(|(name, value)| encoder.field(name.as_bytes(), value.as_bytes(), false, out));
    }
}

/// Writes an answer.
fn answer(status: u16) -> impl FnOnce(&mut Encoder, &mut Vec<u8>) {
    move |encoder, out| {
        encoder.begin(out);
        encoder.status(status, out);
    }
}

/// A connection of ours, with the streams that its peer has opened.
struct End {
    connection: Rc<Connection>,
    accepted: Vec<Stream>,
    /// Bytes that were not taken yet.
    input: Vec<u8>,
    limits: Limits,
}

impl End {
    fn server() -> End {
        let limits = Limits::default();
        End { connection: Connection::server(&limits, &Rc::default()), accepted: Vec::new(), input: Vec::new(), limits }
    }

    fn client() -> End {
        let limits = Limits::default();
        End { connection: Connection::client(&limits, &Rc::default()), accepted: Vec::new(), input: Vec::new(), limits }
    }

    fn inner(&self) -> &RefCell<Inner> {
        &self.connection.inner
    }

    fn output(&self) -> Vec<u8> {
        let mut inner = self.inner().borrow_mut();
        inner.wake_waiting();
        std::mem::take(&mut inner.output)
    }

    /// Takes bytes, as the driver does.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.input.extend_from_slice(bytes);
        let taken = self.inner().borrow_mut().receive(&self.input, &self.limits, Nanos(1));
        loop {
            let Some(slot) = self.inner().borrow_mut().accepted.pop_front() else { break };
            self.accepted.push(Stream::new(&self.connection.inner, slot));
        }
        self.input.drain(..taken?);
        Ok(())
    }

    fn finish(&self) {
        self.inner().borrow_mut().finish();
    }
}

/// The frames in `bytes`.
fn frames(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    bytes = bytes.strip_prefix(PREFACE.as_slice()).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let header = Header::parse(header);
        let (payload, rest) = rest.split_at(header.length as usize);
        frames.push((header, payload.to_vec()));
        bytes = rest;
    }
    frames
}

fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Header { length: payload.len() as u32, kind, flags, stream }.write(&mut out);
    out.extend_from_slice(payload);
    out
}
