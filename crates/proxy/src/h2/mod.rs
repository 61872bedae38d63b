//! HTTP/2 (RFC 9113).
//!
//! One task drives a connection ([`drive`]): it owns the socket and the input; what streams and the peer have to say to each other
//! is in one [`state::Inner`], of one worker, so nothing is locked. A stream is a handle ([`Stream`]) whose task writes frames
//! straight into the connection's output, which leaves in one write when the driver's turn comes, and reads what the driver left
//! for it. Nothing below [`drive`] knows a socket: bytes in, bytes out.
//!
//! `frame` and `hpack` are the formats; `receive` and `heads` take frames apart, `stream` makes them, `credit` bounds what a peer
//! can make us do for nothing, and `memory` is what the connections of a worker lend each other.

mod connection;
mod credit;
mod drive;
pub(crate) mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod heads;
pub(crate) mod hpack;
mod memo;
mod memory;
mod receive;
mod state;
mod stream;

pub(crate) use connection::Connection;
pub(crate) use drive::{Role, drive};
pub(crate) use frame::Code;
pub(crate) use memory::Memory;
pub(crate) use state::Reset;
pub(crate) use stream::Stream;

/// How far a peer may be ahead of us on one stream: what a slow reader can make us hold.
const STREAM_WINDOW: u32 = 256 * 1024;

/// And on all streams of a connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// A window is opened again when this part of it is used up: often enough that the peer need not wait, seldom enough that few
/// frames do it.
const WINDOW_PART: u32 = 4;

/// Streams do not write while more than this waits for the connection to take it.
const OUTPUT: usize = 64 * 1024;

/// Streams that we open on one connection before its peer says how many it takes (RFC 9113, 6.5.2 advises no less than this).
const STREAMS_UNTOLD: u32 = 100;

/// The encoded form of a head may be so many times as large as a head may be: an encoder that chooses Huffman codes badly
/// makes it larger than its text. Beyond it the connection ends.
const BLOCK_FACTOR: usize = 4;

/// Interim answers that are kept until they are passed on; beyond it the stream ends. As many as are passed on at all.
const INTERIMS: usize = 33;

/// Memory of a stream's body, and of its head, that is kept for the next stream.
const KEEP: usize = 8 * 1024;

/// A connection without streams holds no list of slots that is longer.
const KEEP_STREAMS: usize = 8;

#[cfg(test)]
mod tests;
