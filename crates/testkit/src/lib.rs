//! What tests of the mesh are made of: scripted peers, real programs as peers, and ways to wait.
//!
//! Everything here is blocking and panics when an expectation fails, because a panic is how a test says what happened.
//! An asynchronous test runs it in `tokio::task::spawn_blocking`, or uses [`wait::until_async`].
//!
//! | module | what |
//! |---|---|
//! | [`wait`] | conditions instead of sleeps |
//! | [`address`] | loopback addresses and ports that no other test has |
//! | [`process`] | child processes that end with the test, with their output |
//! | [`heddle`] | the built `heddle` binary in a runtime directory of its own |
//! | [`raw`] | a TCP connection told byte by byte what to say and what to expect |
//! | [`http2`] | the same for HTTP/2, frame by frame |
//! | [`netns`] | network namespaces with real kernel rules |
//! | [`nginx`] | nginx in a directory of its own |
//! | [`grpc`] | a Python gRPC echo server and client (`grpcio`) |
//! | [`load`] | `curl`, `h2load` and `wrk`, with what they report |
//! | [`steady`] | a load that goes on while a test breaks things |
//! | [`ca`] | a certificate authority, which also issues what no sane one would |
//!
//! `cargo xtask test` installs the programs.

pub mod address;
pub mod ca;
pub mod grpc;
pub mod heddle;
pub mod http2;
pub mod load;
pub mod netns;
pub mod nginx;
pub mod process;
pub mod raw;
pub mod steady;
pub mod wait;
