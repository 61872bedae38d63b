//! What sidecars report, added up: totals since this control plane began to count, and a window of the last seconds.
//!
//! The window is made of slices of one second. A row that nobody has reported for a while is dropped, and the number of rows
//! is bounded, so that instances that come and go leave nothing behind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

use proto::mesh;
use telemetry::histogram;
use tokio::time::Instant;

use crate::admin::model;

/// How far the window looks back. Reports come once a second, so that a shorter one would show gaps.
const WINDOW: u64 = 10;
/// A row that nobody has reported for this long is dropped.
const FORGET: Duration = Duration::from_secs(600);
/// What a caller said of an endpoint holds this long; reports of what is not zero come every second.
const FRESH: Duration = Duration::from_secs(5);
/// Rows of services and routes.
const ROUTES: usize = 10_000;
/// Rows of services and instances.
const ENDPOINTS: usize = 50_000;
/// Callers that are remembered for one endpoint.
const CALLERS: usize = 1000;
/// A bucket of one second holds at most this, so that sums over buckets and seconds cannot overflow.
const MOST: u64 = 1 << 50;
/// Rows in one message.
const ROWS: usize = 2000;
/// Longest name.
const TEXT: usize = 600;

/// Every row.
pub(crate) struct Statistics {
    started: Instant,
    routes: BTreeMap<RouteKey, Row>,
    endpoints: BTreeMap<(String, String), Endpoint>,
    swept: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RouteKey {
    service: String,
    route: String,
    direction: String,
}

/// Counts of one thing.
struct Row {
    requests: u64,
    failures: u64,
    /// Oldest first; at most [`WINDOW`] + 1.
    slices: VecDeque<Slice>,
    reported: Instant,
}

#[derive(Default)]
struct Slice {
    second: u64,
    requests: u64,
    failures: u64,
    latency: BTreeMap<u32, u64>,
}

struct Endpoint {
    row: Row,
    callers: BTreeMap<String, Caller>,
}

/// What one caller said last.
struct Caller {
    at: Instant,
    in_flight: u32,
    score: f64,
    ejected: bool,
}

impl Row {
    fn new(now: Instant) -> Row {
        Row { requests: 0, failures: 0, slices: VecDeque::new(), reported: now }
    }

    fn add(&mut self, second: u64, now: Instant, requests: u64, failures: u64, latency: &[mesh::LatencyBucket]) {
        self.requests = self.requests.saturating_add(requests);
        self.failures = self.failures.saturating_add(failures);
        self.reported = now;
        if self.slices.back().is_none_or(|s| s.second != second) {
            self.slices.push_back(Slice { second, ..Slice::default() });
        }
        while self.slices.front().is_some_and(|s| s.second + WINDOW < second) {
            self.slices.pop_front();
        }
        let Some(slice) = self.slices.back_mut() else { return };
        slice.requests = slice.requests.saturating_add(requests);
        slice.failures = slice.failures.saturating_add(failures);
        for bucket in latency.iter().filter(|b| (b.bucket as usize) < histogram::BUCKETS) {
            let count = slice.latency.entry(bucket.bucket).or_default();
            *count = count.saturating_add(bucket.count).min(MOST);
        }
    }

    /// The slices of the last [`WINDOW`] whole seconds before `second`: the current one is not over.
    fn window(&self, second: u64) -> impl Iterator<Item = &Slice> {
        self.slices.iter().filter(move |s| s.second < second && s.second + WINDOW >= second)
    }

    fn window_counts(&self, second: u64) -> (u64, u64) {
        self.window(second).fold((0, 0), |(r, f), s| (r.saturating_add(s.requests), f.saturating_add(s.failures)))
    }
}

impl Statistics {
    pub(crate) fn new(now: Instant) -> Statistics {
        Statistics { started: now, routes: BTreeMap::new(), endpoints: BTreeMap::new(), swept: now }
    }

    /// Adds what the proxy of `caller` (`namespace/name`) reports. What is beyond a limit is left out.
    pub(crate) fn add(&mut self, caller: &str, report: &mesh::Statistics, now: Instant) {
        self.sweep(now);
        let second = now.duration_since(self.started).as_secs();
        let short = |texts: [&String; 2]| texts.iter().all(|t| t.len() <= TEXT);
        for r in report.routes.iter().take(ROWS) {
            let known = matches!(r.direction.as_str(), "inbound" | "outbound" | "gateway");
            if !known || !short([&r.service, &r.route]) {
                continue;
            }
            let key = RouteKey { service: r.service.clone(), route: r.route.clone(), direction: r.direction.clone() };
            if self.routes.len() < ROUTES || self.routes.contains_key(&key) {
                let row = self.routes.entry(key).or_insert_with(|| Row::new(now));
                row.add(second, now, r.requests, r.failures, &r.latency);
            }
        }
        for e in report.endpoints.iter().take(ROWS).filter(|e| short([&e.service, &e.workload])) {
            let key = (e.service.clone(), e.workload.clone());
            if self.endpoints.len() < ENDPOINTS || self.endpoints.contains_key(&key) {
                let new = || Endpoint { row: Row::new(now), callers: BTreeMap::new() };
                let endpoint = self.endpoints.entry(key).or_insert_with(new);
                endpoint.row.add(second, now, e.requests, e.failures, &[]);
                if endpoint.callers.len() < CALLERS || endpoint.callers.contains_key(caller) {
                    let said = Caller { at: now, in_flight: e.in_flight, score: e.score, ejected: e.ejected };
                    endpoint.callers.insert(caller.to_owned(), said);
                }
            }
        }
    }

    /// Drops what nobody reports any more, at most once a second.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        self.routes.retain(|_, row| now.duration_since(row.reported) < FORGET);
        self.endpoints.retain(|_, endpoint| now.duration_since(endpoint.row.reported) < FORGET);
        for endpoint in self.endpoints.values_mut() {
            endpoint.callers.retain(|_, caller| now.duration_since(caller.at) < Duration::from_secs(WINDOW));
        }
    }

    /// Who has reported lately that it calls `service`.
    pub(crate) fn callers(&self, service: &str, now: Instant) -> BTreeSet<&str> {
        let endpoints = self.endpoints.range((service.to_owned(), String::new())..);
        let of_service = endpoints.take_while(|((of, _), _)| of == service);
        let callers = of_service.flat_map(|(_, endpoint)| &endpoint.callers);
        callers.filter(|(_, caller)| now.duration_since(caller.at) < FRESH).map(|(name, _)| name.as_str()).collect()
    }

    /// Forgets what an instance that is gone said of others.
    pub(crate) fn forget_caller(&mut self, caller: &str) {
        for endpoint in self.endpoints.values_mut() {
            endpoint.callers.remove(caller);
        }
    }

    /// The totals and the window, without the instances.
    pub(crate) fn view(&self, now: Instant, wall: SystemTime) -> model::Stats {
        let elapsed = now.duration_since(self.started);
        let second = elapsed.as_secs();
        // Before the window has been filled once, it is as long as the time that was counted.
        let length = second.clamp(1, WINDOW);
        let routes = self.routes.iter().map(|(key, row)| route_view(key, row, second, length)).collect();
        let mut by_service: BTreeMap<&str, u64> = BTreeMap::new();
        for ((service, _), endpoint) in &self.endpoints {
            let all = by_service.entry(service).or_default();
            *all = all.saturating_add(endpoint.row.window_counts(second).0);
        }
        let endpoints = self
            .endpoints
            .iter()
            .map(|((service, workload), endpoint)| {
                let all = by_service.get(service.as_str()).copied().unwrap_or(0);
                endpoint_view(service, workload, endpoint, second, all, now)
            })
            .collect();
        model::Stats {
            now_unix_ms: unix_ms(wall),
            window_seconds: u32::try_from(length).unwrap_or(u32::MAX),
            routes,
            endpoints,
            instances: Vec::new(),
        }
    }
}

fn route_view(key: &RouteKey, row: &Row, second: u64, length: u64) -> model::RouteStats {
    let (requests, failures) = row.window_counts(second);
    let mut counts = vec![0_u64; histogram::BUCKETS];
    for (bucket, count) in row.window(second).flat_map(|s| &s.latency) {
        counts[*bucket as usize] += *count;
    }
    model::RouteStats {
        direction: key.direction.clone(),
        service: key.service.clone(),
        route: key.route.clone(),
        requests: row.requests,
        failures: row.failures,
        rps: requests as f64 / length as f64,
        window_requests: requests,
        window_failures: failures,
        p50_us: histogram::quantile(&counts, 0.5).map(|n| n / 1000),
        p99_us: histogram::quantile(&counts, 0.99).map(|n| n / 1000),
    }
}

fn endpoint_view(
    service: &str,
    workload: &str,
    endpoint: &Endpoint,
    second: u64,
    all: u64,
    now: Instant,
) -> model::EndpointStats {
    let (requests, failures) = endpoint.row.window_counts(second);
    let fresh: Vec<&Caller> = endpoint.callers.values().filter(|c| now.duration_since(c.at) < FRESH).collect();
    let scores: Vec<f64> = endpoint.callers.values().map(|c| c.score).filter(|s| s.is_finite() && *s > 0.0).collect();
    let ejected_by = fresh.iter().filter(|c| c.ejected).count();
    model::EndpointStats {
        service: service.to_owned(),
        workload: workload.to_owned(),
        requests: endpoint.row.requests,
        failures: endpoint.row.failures,
        window_requests: requests,
        window_failures: failures,
        share: if all == 0 { 0.0 } else { requests as f64 / all as f64 },
        score_us: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
        in_flight: fresh.iter().map(|c| c.in_flight).fold(0, u32::saturating_add),
        ejected_by: u32::try_from(ejected_by).unwrap_or(u32::MAX),
        ejected: ejected_by > 0,
    }
}

/// Unix milliseconds; 0 before 1970.
pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(service: &str, requests: u64, failures: u64, micros: u64) -> mesh::RouteStatistics {
        let bucket = histogram::bucket(micros * 1000) as u32;
        mesh::RouteStatistics {
            direction: "outbound".into(),
            service: service.into(),
            route: String::new(),
            requests,
            failures,
            latency: vec![mesh::LatencyBucket { bucket, count: requests }],
        }
    }

    fn endpoint(workload: &str, requests: u64, score: f64, ejected: bool) -> mesh::EndpointStatistics {
        mesh::EndpointStatistics {
            service: "shop/cart".into(),
            workload: workload.into(),
            requests,
            failures: 0,
            in_flight: 2,
            score,
            ejected,
        }
    }

    #[test]
    fn adds_up_and_forgets_what_left_the_window() {
        let start = Instant::now();
        let mut all = Statistics::new(start);
        for second in 0..20 {
            let report = mesh::Statistics { routes: vec![route("shop/cart", 100, 1, 2000)], ..Default::default() };
            all.add("shop/web-0", &report, start + Duration::from_millis(second * 1000 + 500));
        }
        let view = all.view(start + Duration::from_secs(20), SystemTime::now());
        let row = &view.routes[0];
        assert_eq!((row.requests, row.failures, row.window_requests, row.window_failures), (2000, 20, 1000, 10));
        assert!((row.rps - 100.0).abs() < 0.001, "{}", row.rps);
        let p50 = row.p50_us.unwrap();
        assert!((1890..=2110).contains(&p50), "{p50}");
        let later = all.view(start + Duration::from_secs(40), SystemTime::now());
        assert_eq!((later.routes[0].requests, later.routes[0].window_requests), (2000, 0));
        assert_eq!(later.routes[0].p99_us, None);
    }

    #[test]
    fn shares_and_scores_of_endpoints() {
        let start = Instant::now();
        let mut all = Statistics::new(start);
        let report = |a, b| mesh::Statistics {
            endpoints: vec![endpoint("shop/cart-0", 30, a, false), endpoint("shop/cart-1", 10, b, true)],
            ..Default::default()
        };
        all.add("shop/web-0", &report(100.0, 900.0), start);
        all.add("shop/web-1", &report(300.0, 0.0), start);
        let view = all.view(start + Duration::from_secs(1), SystemTime::now());
        let [first, second] = &view.endpoints[..] else { panic!("{:?}", view.endpoints) };
        assert_eq!((first.requests, first.in_flight, first.ejected), (60, 4, false));
        assert!((first.share - 0.75).abs() < 1e-9);
        assert_eq!((first.score_us, second.score_us), (Some(200.0), Some(900.0)), "a score of zero is none");
        assert_eq!((second.ejected_by, second.ejected), (2, true));
        all.forget_caller("shop/web-1");
        assert_eq!(all.view(start + Duration::from_secs(1), SystemTime::now()).endpoints[1].ejected_by, 1);
        let stale = all.view(start + Duration::from_secs(7), SystemTime::now());
        assert_eq!((stale.endpoints[1].in_flight, stale.endpoints[1].ejected), (0, false));
    }

    #[test]
    fn rows_are_bounded_and_expire() {
        let start = Instant::now();
        let mut all = Statistics::new(start);
        for chunk in 0..=ROUTES / 1000 {
            let routes = (0..1000).map(|n| route(&format!("s/{chunk}-{n}"), 1, 0, 1)).collect();
            all.add("c", &mesh::Statistics { routes, ..Default::default() }, start);
        }
        assert_eq!(all.routes.len(), ROUTES);
        let odd = mesh::Statistics {
            routes: vec![route(&"x".repeat(TEXT + 1), 1, 0, 1), mesh::RouteStatistics::default()],
            endpoints: (0..CALLERS).map(|_| endpoint("w", 1, f64::NAN, false)).collect(),
            ..Default::default()
        };
        all.add("c", &odd, start + FORGET);
        assert!(all.routes.is_empty(), "all were old, and the new ones were not rows");
        assert_eq!(all.view(start + FORGET, SystemTime::now()).endpoints[0].score_us, None);
        for n in 0..=CALLERS {
            let one = mesh::Statistics { endpoints: vec![endpoint("w", 1, 1.0, false)], ..Default::default() };
            all.add(&format!("c{n}"), &one, start + FORGET);
        }
        assert_eq!(all.endpoints.values().map(|e| e.callers.len()).max(), Some(CALLERS));
        let bucket = mesh::LatencyBucket { bucket: u32::MAX, count: u64::MAX };
        let huge = mesh::RouteStatistics { requests: u64::MAX, latency: vec![bucket], ..route("s/x", 1, 0, 1) };
        let report = mesh::Statistics { routes: vec![huge.clone(), huge], ..Default::default() };
        all.add("c", &report, start + FORGET);
        assert_eq!(all.routes.values().next().map(|r| r.requests), Some(u64::MAX), "it does not overflow");
    }

    #[test]
    fn a_report_and_the_instances_of_all_reports_are_bounded() {
        let now = Instant::now();
        let mut all = Statistics::new(now);
        let instances = |from: usize, count: usize| {
            let endpoints = (from..from + count).map(|n| endpoint(&format!("w{n}"), 1, 1.0, false)).collect();
            mesh::Statistics { endpoints, ..Default::default() }
        };
        let routes = (0..=ROWS).map(|n| route(&format!("s/{n}"), 1, 0, 1)).collect();
        all.add("c", &mesh::Statistics { routes, ..instances(0, ROWS + 1) }, now);
        assert_eq!((all.routes.len(), all.endpoints.len()), (ROWS, ROWS), "the rest of a report is left out");
        for from in (ROWS..=ENDPOINTS).step_by(ROWS) {
            all.add("c", &instances(from, ROWS), now);
        }
        assert_eq!(all.endpoints.len(), ENDPOINTS);
        all.add("c", &instances(0, 1), now);
        let known = &all.endpoints[&("shop/cart".to_owned(), "w0".to_owned())];
        assert_eq!(known.row.requests, 2, "those that are known are counted on");
    }
}
