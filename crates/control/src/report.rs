//! Tells the operator's log what is wrong with what was written, and when it has been mended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Diagnostic, Severity};
use tokio::time::sleep;

use crate::world::World;

/// A file that is being written is often wrong for a moment.
const SETTLE: Duration = Duration::from_millis(50);

/// Logs every problem once when it appears, and a word when it is gone. Runs until the control plane ends.
pub(crate) async fn run(world: Arc<World>) {
    let mut changes = world.subscribe();
    let mut known: BTreeMap<String, Diagnostic> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let now: BTreeMap<String, Diagnostic> =
            world.state().problems().into_iter().map(|d| (identity(&d), d)).collect();
        for (_, problem) in now.iter().filter(|(id, _)| !known.contains_key(*id)) {
            let text = problem.render(false);
            match problem.severity {
                Severity::Error => tracing::error!("{text}"),
                Severity::Warning => tracing::warn!("{text}"),
                Severity::Notice => tracing::info!("{text}"),
            }
        }
        for (_, problem) in known.iter().filter(|(id, _)| !now.contains_key(*id)) {
            if problem.severity > Severity::Notice {
                tracing::info!("mended: {}", place(problem));
            }
        }
        known = now;
        if changes.changed().await.is_err() {
            return;
        }
        sleep(SETTLE).await;
    }
}

/// What makes a problem the same problem when other lines of its file have moved.
fn identity(d: &Diagnostic) -> String {
    let object = d.object.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{}\n{object}\n{}\n{}", d.file.as_deref().unwrap_or_default(), d.field, d.message)
}

fn place(d: &Diagnostic) -> String {
    let file = d.file.as_deref().unwrap_or_default();
    match &d.object {
        Some(object) => format!("{file} ({object}): {}", d.message),
        None => format!("{file}: {}", d.message),
    }
}
