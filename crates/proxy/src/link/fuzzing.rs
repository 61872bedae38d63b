//! What must hold for any bytes that come in on a link. The fuzz target, a property test and the replay of the corpus call this; it
//! panics when a law is broken.

use std::rc::Rc;

use super::frame::Malformed;
use super::incoming::Incoming;
use super::{Link, Role, STREAMS, Stream, WINDOW};

/// What one stream has been told: its number, unread bytes, whether the peer's half is over, whether it was cut off, and how much it
/// may send.
type Told = (u32, Vec<u8>, bool, bool, u32);

/// All that can be seen after `data` came in, `step` bytes at a time.
#[derive(Debug, PartialEq)]
struct Outcome {
    result: Result<(), Malformed>,
    /// Bytes that wait for more.
    held: Vec<u8>,
    streams: Vec<Told>,
    output: Vec<u8>,
    leaving: bool,
}

fn receive(client: bool, data: &[u8], step: usize) -> Outcome {
    let link = Link::new(Rc::default());
    let mut streams: Vec<Stream> = Vec::new();
    if client {
        streams.extend((0..3).filter_map(|_| link.open()));
    }
    let mut incoming = Incoming::default();
    let mut result = Ok(());
    for piece in data.chunks(step) {
        let mut accept = |stream| streams.push(stream);
        let mut role = if client { Role::Client } else { Role::Server(&mut accept) };
        result = incoming.take(&link, piece, &mut role);
        if result.is_err() {
            break;
        }
        assert!(incoming.held().len() < 12, "only a header and a number wait to be whole");
    }
    let held = if result.is_ok() { incoming.held().to_vec() } else { Vec::new() };
    let told = streams.iter().map(|stream| {
        let half = stream.half.borrow();
        assert!(half.input.len() <= WINDOW as usize && half.credit <= WINDOW);
        (stream.number, half.input.bytes().to_vec(), half.ended, half.reset, half.credit)
    });
    let streams = told.collect();
    let inner = link.inner.borrow();
    assert!(inner.streams.len() <= STREAMS);
    Outcome { result, held, streams, output: inner.output.clone(), leaving: inner.leaving }
}

/// However bytes arrive, the same comes of them, within the bounds. The low bit of the first byte says which end this is.
pub fn link(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let client = first & 1 != 0;
    let whole = receive(client, data, usize::MAX);
    for step in [1, 5, 64] {
        assert_eq!(whole, receive(client, data, step), "{step} bytes at a time");
    }
}
