//! The data plane: accept, detect, TLS, match, balance, pool, forward.
//!
//! A request is a plain walk through one module a phase: `accept` → `identify` → `match` → `admit` → `choose` → `send` →
//! `observe`. `docs/architecture.md` follows one through the code.

mod accept;
mod ask;
mod buffer;
mod check;
mod choose;
mod clock;
mod conn;
mod connect;
mod crew;
mod deadline;
mod decision;
pub mod discover;
pub mod dns;
mod end;
mod foreign;
mod forward;
pub(crate) mod h1;
mod h2;
mod http1;
mod http2;
mod identify;
mod inbound;
mod io;
mod link;
mod listen;
mod load;
mod observe;
mod outside;
mod peers;
mod pool;
mod probe;
mod relay;
mod reply;
mod request;
mod review;
mod route;
mod send;
pub mod session;
pub mod settings;
mod sni;
mod start;
mod target;
mod tcp;
mod term;
mod transfer;
mod tunnel;
mod upstream;
mod worker;

pub use clock::Clock;
pub use discover::Discover;
pub use settings::Settings;
pub use start::{Parts, Running, start};

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
