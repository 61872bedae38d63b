//! Simulations of load balancing: the very code that proxies choose instances with, beside the algorithms of others, on the
//! same requests.
//!
//! A [`Scenario`] says how requests arrive and how each server behaves; [`run`] plays it through with one
//! [`Algorithm`] as a discrete-event simulation, which a seed determines wholly, and returns an [`Outcome`]. Nothing here
//! waits or measures: time is a number.
//!
//! What is left out of the model: connections (all are ready), retries, and what a proxy itself takes. A message takes a
//! quarter of a millisecond each way. Failed requests count as slower than any that was answered.

mod algorithm;
mod distribution;
mod outcome;
pub mod plot;
mod scenario;
mod server;
mod world;

pub use algorithm::Algorithm;
pub use distribution::{Distribution, RecordedError};
pub use outcome::{Outcome, table};
pub use scenario::{Fault, Route, Scenario, ServerSpec, scenarios};
pub use world::run;

#[cfg(test)]
mod tests;
