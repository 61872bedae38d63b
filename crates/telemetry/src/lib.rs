//! What people and programs get to see of a running proxy: metrics, the access log and the program's own log.
//!
//! A worker writes into its own [`metrics::Recorder`] without locks or read-modify-write instructions;
//! [`metrics::Registry`] adds the recorders up when somebody asks.

pub mod access_log;
pub mod histogram;
pub mod logging;
pub mod metrics;
