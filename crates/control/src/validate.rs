//! Looks at manifests as a control plane would, and runs nothing.

use std::path::PathBuf;
use std::time::Duration;

use api::Diagnostic;
use sources::{Files, Source, Store};
use xds::server::Publisher;

use crate::Config;
use crate::world::World;

/// What there is to say of manifests.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// How many objects can be used.
    pub objects: usize,
    /// Everything that is wrong or worth knowing.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads `paths` once, as [`crate::run`] does, then translates and compiles what they hold.
pub async fn validate(paths: Vec<PathBuf>) -> Verdict {
    let store = Store::new();
    let reading = tokio::spawn(Files::new(paths.clone()).run(store.sink()));
    let snapshot = store.loaded().await;
    reading.abort();
    let config = Config::new(PathBuf::new(), paths);
    let world = World::new(&config, Vec::new());
    world.objects(snapshot.clone());
    world.begin(Publisher::new(Duration::ZERO), &crate::plane::trust_domain(&snapshot));
    let diagnostics = world.state().problems();
    Verdict { objects: snapshot.objects.len(), diagnostics }
}
