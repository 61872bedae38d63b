//! What a proxy counts, as the session reports it and as metrics show it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use engine::Nanos;
use engine::balance::{Backend, Endpoint};
use proto::mesh::{EndpointStatistics, LatencyBucket, RouteStatistics, Statistics};
use proxy::Clock;
use telemetry::metrics::{Cursor, Delta, Registry, Sample, SampleKind};
use xds::client::Client;
use xds::session::StatisticsSource;

/// Nanoseconds in a microsecond.
const NANOS: f64 = 1e3;

/// What happened since the last call; the session asks once a second.
pub(super) fn source(registry: Arc<Registry>, client: Client, clock: Clock) -> StatisticsSource {
    let mut cursor = Cursor::default();
    let mut seen: HashMap<u64, (u64, u64)> = HashMap::new();
    Box::new(move || {
        let routes = registry.deltas(&mut cursor).into_iter().map(route).collect();
        let (endpoints, now) = endpoints(&client.backends(), &seen, clock);
        seen = now;
        Statistics { routes, endpoints, ..Statistics::default() }
    })
}

/// Between two looks for series that nothing uses any more.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Forgets series that the configuration no longer has, for as long as the proxy runs.
pub(super) async fn housekeeping(registry: Arc<Registry>, client: Client, clock: Clock) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        forget_unused(&registry, &client, clock.now());
    }
}

fn forget_unused(registry: &Registry, client: &Client, now: Nanos) {
    let used = client.series_in_use();
    registry.expire(now, |series| used.contains(&series));
}

fn route(delta: Delta) -> RouteStatistics {
    RouteStatistics {
        direction: delta.key.direction.name().to_owned(),
        service: delta.key.service.into(),
        route: delta.key.route.into(),
        requests: delta.requests,
        failures: delta.failures,
        latency: delta.latency.into_iter().map(|(bucket, count)| LatencyBucket { bucket, count }).collect(),
    }
}

type Counts = HashMap<u64, (u64, u64)>;

/// The endpoints that were sent something since they were `seen`, or have something under way, and the counts to see next.
fn endpoints(backends: &[Arc<Backend>], seen: &Counts, clock: Clock) -> (Vec<EndpointStatistics>, Counts) {
    let now = clock.now();
    let mut next = Counts::with_capacity(seen.len());
    let mut rows = Vec::new();
    for (backend, endpoint) in each(backends) {
        let load = &endpoint.load;
        let (requests, failures) = (load.requests(), load.failures());
        // Most of ten thousand are never called.
        if requests == 0 && load.in_flight() == 0 || next.insert(load.id, (requests, failures)).is_some() {
            continue;
        }
        let (old_requests, old_failures) = seen.get(&load.id).copied().unwrap_or_default();
        let row = EndpointStatistics {
            service: backend.service.to_string(),
            workload: endpoint.workload.to_string(),
            requests: requests.saturating_sub(old_requests),
            failures: failures.saturating_sub(old_failures),
            in_flight: load.in_flight(),
            score: load.score(now) / NANOS,
            ejected: load.ejected(now),
        };
        rows.push(row);
    }
    (rows, next)
}

fn each(backends: &[Arc<Backend>]) -> impl Iterator<Item = (&Arc<Backend>, Arc<Endpoint>)> {
    backends.iter().flat_map(|b| b.endpoints.load().endpoints().to_vec().into_iter().map(move |e| (b, e)))
}

/// Metrics of the endpoints that this proxy calls.
pub(super) fn samples(client: &Client, clock: Clock) -> Vec<Sample> {
    let now = clock.now();
    let mut samples = Vec::new();
    for (backend, endpoint) in each(&client.backends()) {
        let labels = vec![
            ("service", backend.service.to_string()),
            ("port", backend.port.to_string()),
            ("workload", endpoint.workload.to_string()),
        ];
        let mut put =
            |name, help, kind, value| samples.push(Sample { name, help, kind, labels: labels.clone(), value });
        let load = &endpoint.load;
        put(
            "heddle_endpoint_requests_total",
            "Requests sent to an instance.",
            SampleKind::Counter,
            load.requests() as f64,
        );
        put("heddle_endpoint_failures_total", "Of those, the failures.", SampleKind::Counter, load.failures() as f64);
        put(
            "heddle_endpoint_in_flight",
            "Requests under way at an instance.",
            SampleKind::Gauge,
            f64::from(load.in_flight()),
        );
        put(
            "heddle_endpoint_score_seconds",
            "Predicted cost of one more request.",
            SampleKind::Gauge,
            load.score(now) / 1e9,
        );
        put(
            "heddle_endpoint_unhealthy",
            "Whether active health checks of an instance fail.",
            SampleKind::Gauge,
            f64::from(u8::from(load.unhealthy())),
        );
        put(
            "heddle_endpoint_ejected",
            "Whether an instance is left out.",
            SampleKind::Gauge,
            f64::from(u8::from(load.ejected(now))),
        );
    }
    samples
}

#[cfg(test)]
mod tests {
    use telemetry::metrics::{Direction, SeriesKey};

    use super::*;

    #[tokio::test]
    async fn a_series_that_the_configuration_does_not_have_is_forgotten() {
        let registry = Registry::new();
        let nobody = || -> xds::client::Connecting { Box::pin(std::future::pending()) };
        let settings = xds::client::Settings::new("shop/front-0");
        let client = Client::start(settings, nobody, Arc::new(|_| engine::SeriesId(0)));
        let key = SeriesKey { direction: Direction::Outbound, service: "shop/old".into(), route: "".into() };
        registry.series(&key);
        for minute in [0, 5, 9] {
            forget_unused(&registry, &client, Nanos::from_millis(minute * 60_000));
            assert!(registry.render_prometheus(&[]).contains("shop/old"), "{minute}");
        }
        forget_unused(&registry, &client, Nanos::from_millis(11 * 60_000));
        assert!(!registry.render_prometheus(&[]).contains("shop/old"));
    }
}
