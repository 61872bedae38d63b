//! The control plane: reads the sources, translates objects to the mesh's messages, serves them over delta xDS, signs
//! certificates, keeps the registrations of instances, and answers the admin socket. `heddle control` runs [`run`].

pub mod admin;
mod ca;
mod config;
mod random;
mod tokens;

pub use config::Config;

use std::future::Future;

/// Runs a control plane until `shutdown` resolves, then takes its sockets away. Fails at once, with cause and way out, when
/// the runtime directory is held by another control plane, has permissions that are too wide, or an address is taken.
pub async fn run(_config: Config, _shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    todo!()
}

/// Why a control plane could not start or go on; for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);
