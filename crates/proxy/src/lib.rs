//! The data plane: accept, detect, TLS, match, balance, pool, forward.
//!
//! A request is a plain walk through one module a phase: `accept` → `identify` → `match` → `admit` → `choose` → `send` →
//! `observe`. `docs/architecture.md` follows one through the code.

mod clock;
pub mod discover;
#[allow(dead_code, unused_imports)] // until the data path calls all of it
pub(crate) mod h1;
pub mod settings;
mod start;

pub use clock::Clock;
pub use discover::Discover;
pub use settings::Settings;
pub use start::{Parts, Running, start};
