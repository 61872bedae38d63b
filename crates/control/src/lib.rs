//! The control plane: reads the sources, translates objects to the mesh's messages, serves them over delta xDS, signs
//! certificates, keeps the registrations of instances, and answers the admin socket. `heddle control` runs [`run`].

pub mod admin;
mod ca;
pub mod claims;
mod config;
mod explain;
mod instances;
mod plane;
mod random;
mod report;
mod runtime;
mod serve;
mod session;
mod stats;
mod tokens;
mod translate;
mod validate;
mod world;

pub use config::Config;
pub use plane::run;
pub use validate::{Verdict, validate};

/// Why a control plane could not start or go on; for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);
