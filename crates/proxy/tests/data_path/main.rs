//! The data path over real sockets: sidecars in this process, scripted peers on both ends.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

mod balancing;
mod bridge;
mod expiry;
mod failure;
mod faults;
mod hostile;
mod http1;
mod http2;
mod lifecycle;
mod limits;
mod link;
mod peers;
mod redirected;
mod rules;
mod security;
mod tcp;
mod ways;
mod world;
