//! The decisions of the mesh: which route, which instance, retry or not, allowed or not.
//!
//! Everything here is pure. Time ([`Nanos`]) and randomness ([`Rng`]) are arguments; nothing opens a socket, reads a file or
//! knows about YAML or protobuf. The proxy runs this code on live traffic; `heddle explain`, the simulator and the tests run
//! the same code.
//!
//! [`snapshot`] holds what a proxy runs with; the other modules each hold one decision.

pub mod authorize;
pub mod balance;
pub mod detect;
pub mod edit;
pub mod outcome;
pub mod policy;
pub mod reason;
pub mod request;
pub mod retry;
pub mod route;
pub mod snapshot;
mod value;

pub use outcome::Outcome;
pub use reason::Reason;
pub use request::RequestHead;
pub use value::{Nanos, Protocol, Rng, SeriesId};
