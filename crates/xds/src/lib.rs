//! Delta xDS, both ends, the session stream's client, and compile: resources → `engine::snapshot`.
//!
//! [`server`] hands resources to proxies, [`client`] keeps a proxy's copy of them, [`compile`] turns them into what the data
//! plane runs. `docs/architecture.md` lists what must hold between them.

pub mod client;
pub mod compile;
pub mod kind;
pub mod server;
pub mod session;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use kind::Kind;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A seed that differs from process to process and from call to call.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// `length`, give or take a fifth, so that what started together does not stay together.
pub(crate) fn jitter(rng: &mut engine::Rng, length: Duration) -> Duration {
    length.mul_f64(0.8 + 0.4 * f64::from(rng.below(1 << 20)) / f64::from(1 << 20))
}
