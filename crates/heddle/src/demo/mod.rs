//! The demo: a small shop under a load, and a live table of what the mesh sees.

pub(crate) mod caller;
pub(crate) mod load;
pub(crate) mod service;
pub(crate) mod table;

use std::time::{Duration, Instant};

use control::admin::model::Stats;
use serde::Serialize;
use tokio::sync::watch;

use crate::supervisor::status::Status;
use caller::Caller;

/// The shop's manifests.
pub(crate) const SHOP: &str = include_str!("../../../../examples/shop/shop.yaml");

/// The service whose success decides the demo's.
const FRONT: &str = "shop/web";

/// The Deployment behind it.
const FRONT_SET: &str = "web";

/// The least share of pages that must be good.
const GOOD: f64 = 0.99;

/// Between attempts to get the first page.
const FIRST_RETRY: Duration = Duration::from_millis(10);

/// What a demo that ended by itself has to say.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Whether pages were served well and everything lives.
    pub(crate) ok: bool,
    /// How long it ran.
    pub(crate) seconds: f64,
    /// From the start of the program to the first page through the gateway.
    pub(crate) first_routed_request_ms: Option<u64>,
    /// Pages that customers asked for.
    pub(crate) requests: u64,
    /// Of those, the failures.
    pub(crate) failures: u64,
    /// The share of good pages, 0 to 1.
    pub(crate) success: f64,
    /// Whether every instance was ready at the end.
    pub(crate) all_ready: bool,
    /// What the mesh counted.
    pub(crate) stats: Stats,
}

impl Summary {
    /// Of the last numbers and the last state.
    pub(crate) fn new(stats: Stats, status: &Status, ran: Duration, first: Option<Duration>) -> Summary {
        let front = stats.routes.iter().filter(|r| r.service == FRONT && r.direction == "outbound");
        let (requests, failures) = front.fold((0, 0), |(n, bad), r| (n + r.requests, bad + r.failures));
        let success = if requests == 0 { 0.0 } else { 1.0 - failures as f64 / requests as f64 };
        Summary {
            ok: success >= GOOD && status.up && first.is_some(),
            seconds: ran.as_secs_f64(),
            first_routed_request_ms: first.and_then(|f| u64::try_from(f.as_millis()).ok()),
            requests,
            failures,
            success,
            all_ready: status.up,
            stats,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let first = self.first_routed_request_ms.map_or_else(|| "never".to_owned(), |ms| format!("after {ms} ms"));
        format!(
            "{}: {} pages in {:.0} s, {:.2} % good; first request routed {first}; {}",
            if self.ok { "fine" } else { "not fine" },
            self.requests,
            self.seconds,
            self.success * 100.0,
            if self.all_ready { "every instance is ready" } else { "some instance is not ready" },
        )
    }
}

/// Asks for pages through the gateway, once gateway and front end say that they are ready, until one is good, and says how
/// long after `began` that was.
pub(crate) async fn first_page(mut status: watch::Receiver<Status>, began: Instant) -> Option<Duration> {
    let url = loop {
        let url = {
            let status = status.borrow_and_update();
            let open = status.instances.iter().any(|i| i.set == FRONT_SET && i.phase == "ready");
            let gateway = status.gateways.iter().filter(|g| g.ready && open);
            gateway.filter_map(|g| g.url.clone()).next()
        };
        match url {
            Some(url) => break url,
            None => status.changed().await.ok()?,
        }
    };
    let caller = Caller::direct();
    loop {
        if let Ok((code, _)) = caller.get(&format!("{url}/")).await
            && code.is_success()
        {
            return Some(began.elapsed());
        }
        tokio::time::sleep(FIRST_RETRY).await;
    }
}
