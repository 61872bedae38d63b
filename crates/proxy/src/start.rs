//! Starting the data plane.

use std::io;
use std::sync::Arc;

use engine::snapshot::Live;
use net::identity::Identity;

use crate::{Clock, Discover, Settings};

/// What a data plane is made of.
pub struct Parts {
    /// What it was started with.
    pub settings: Settings,
    /// How destinations are learnt.
    pub discover: Arc<dyn Discover>,
    /// Everything that is not a destination.
    pub live: Arc<Live>,
    /// Who it is.
    pub identity: Identity,
    /// The clock whose times [`engine::snapshot::Slot`]s and loads see; one per process.
    pub clock: Clock,
    /// When to end. Begin it through [`net::drain::Drain::begin`]; every connection holds a guard.
    pub drain: net::drain::Watch,
}

/// A data plane at work.
#[derive(Debug)]
pub struct Running {
    workers: net::worker::Workers,
}

/// Locks and binds every address of the settings, then starts the workers.
///
/// # Errors
/// An address is held by another proxy or cannot be bound, or a thread cannot be started. The message names the address.
pub fn start(_parts: Parts) -> io::Result<Running> {
    Err(io::Error::other("the data path is not wired yet"))
}

impl Running {
    /// Waits until all workers have ended, which they do when the drain has closed.
    ///
    /// # Errors
    /// A worker panicked, which is a defect.
    pub async fn join(self) -> Result<(), net::worker::Error> {
        self.workers.finished().await
    }
}
