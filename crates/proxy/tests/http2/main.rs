//! What RFC 9113 demands of a server and of a client, shown to the data path by peers that break it over real sockets.
//!
//! Each case says which error must follow, of the stream or of the connection, and with which code. Where the RFC leaves a choice
//! (a stream error may be treated as one of the connection, 5.4.2), every allowed answer passes. Attacks, which break no rule,
//! are in `attacks`.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod attacks;
mod client;
mod expect;
mod server;
#[path = "../data_path/world.rs"]
#[allow(dead_code, reason = "other tests use the rest of this module")]
mod world;
