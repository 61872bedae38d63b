//! Reviews of what was learnt of instances, beside the requests: which groups of them are used, who is far worse than its
//! peers. One task of the first worker makes them for all workers, for what is learnt is shared.

use std::rc::Rc;
use std::time::Duration;

use crate::worker::Worker;

/// How often it is looked whether a review is due.
const LOOK: Duration = Duration::from_millis(100);

/// Instances that are looked at before requests have their turn again: some microseconds.
const STEP: usize = 64;

/// Reviews for ever.
pub(crate) async fn run(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(LOOK).await;
        for backend in worker.shared.discover.backends() {
            let set = backend.endpoints.load_full();
            let Some(mut review) = set.review_due(worker.now()) else { continue };
            while !review.step(&set, worker.now(), STEP) {
                tokio::task::yield_now().await;
            }
            backend.free_classes(&review, worker.now());
        }
    }
}
