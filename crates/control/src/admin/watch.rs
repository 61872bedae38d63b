//! `GET /v1/watch`: what a supervisor is to run, one JSON document a line, a new line whenever it changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{Kind, Object};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Admin, model};
use crate::world::{self, World};

/// Changes that come together make one line: an editor writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(5);

pub(super) async fn stream(State(admin): State<Admin>) -> Response {
    let watch = Watch { changes: admin.world.subscribe(), world: admin.world, revision: 0, last: String::new() };
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(line), watch))
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

struct Watch {
    world: Arc<World>,
    changes: watch::Receiver<u64>,
    revision: u64,
    /// The last line without its revision.
    last: String,
}

impl Watch {
    /// The next line that differs from the last; at once for the first. `None` when the control plane ends.
    async fn next(&mut self) -> Option<String> {
        loop {
            self.changes.borrow_and_update();
            let mut desired = desired(&self.world.state());
            let line = serde_json::to_string(&desired).ok()?;
            if line != self.last {
                self.revision += 1;
                desired.revision = self.revision;
                self.last = line;
                return serde_json::to_string(&desired).ok().map(|line| line + "\n");
            }
            self.changes.changed().await.ok()?;
            sleep(SETTLE).await;
        }
    }
}

/// Everything that a supervisor needs; the revision is still to be set.
fn desired(state: &world::State) -> model::Desired {
    let snapshot = &state.snapshot;
    let whole = |kind| -> Vec<Object> { snapshot.of_kind(kind).map(|(_, object)| (**object).clone()).collect() };
    model::Desired {
        revision: 0,
        complete: state.begun(),
        deployments: whole(Kind::Deployment),
        stateful_sets: whole(Kind::StatefulSet),
        jobs: whole(Kind::Job),
        gateways: whole(Kind::Gateway),
        services: state.services().collect(),
        problems: state.problems(),
    }
}
