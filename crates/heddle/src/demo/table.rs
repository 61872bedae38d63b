//! Tables of numbers for people.

use control::admin::model::{EndpointStats, RouteStats, Stats};

use crate::console;

/// Requests, success and latency by service and route; then share and score by instance.
pub(crate) fn stats(stats: &Stats) -> String {
    let mut text = routes(stats);
    text.push('\n');
    text.push_str(&instances(stats));
    text
}

fn routes(stats: &Stats) -> String {
    // Who calls sees what users see; the server's side repeats it without the network and the retries.
    let rows: Vec<Vec<String>> = stats
        .routes
        .iter()
        .filter(|r| r.direction != "inbound")
        .map(|r| {
            vec![
                r.service.clone(),
                route(r),
                format!("{:.1}", r.rps),
                success(r.window_requests, r.window_failures),
                latency(r.p50_us),
                latency(r.p99_us),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no requests yet\n".to_owned();
    }
    console::table(&["SERVICE", "ROUTE", "REQ/S", "SUCCESS", "P50", "P99"], &rows)
}

/// `HTTPRoute/shop/cart/split` is shown as `cart/split`.
fn route(stats: &RouteStats) -> String {
    let name = stats.route.splitn(3, '/').nth(2).unwrap_or(&stats.route);
    match (stats.direction.as_str(), name) {
        ("gateway", "") => "(gateway)".to_owned(),
        ("gateway", name) => format!("{name} (gateway)"),
        (_, "") => "-".to_owned(),
        (_, name) => name.to_owned(),
    }
}

fn instances(stats: &Stats) -> String {
    let rows: Vec<Vec<String>> = stats
        .endpoints
        .iter()
        .map(|e| {
            vec![
                e.service.clone(),
                e.workload.split_once('/').map_or(e.workload.as_str(), |(_, name)| name).to_owned(),
                format!("{:.0} %", e.share * 100.0),
                bar(e.share),
                e.score_us.map_or_else(|| "-".to_owned(), |s| latency(Some(s as u64))),
                success(e.window_requests, e.window_failures),
                state(e),
                age(stats, &e.workload),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    console::table(&["SERVICE", "INSTANCE", "SHARE", "", "SCORE", "SUCCESS", "STATE", "CERTIFICATE"], &rows)
}

fn success(requests: u64, failures: u64) -> String {
    if requests == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", (requests - failures.min(requests)) as f64 * 100.0 / requests as f64)
}

/// Microseconds in the unit that shows three figures.
fn latency(micros: Option<u64>) -> String {
    match micros {
        None => "-".to_owned(),
        Some(us) if us < 1_000 => format!("{us} us"),
        Some(us) if us < 10_000 => format!("{:.1} ms", us as f64 / 1e3),
        Some(us) if us < 1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A share as ten blocks.
fn bar(share: f64) -> String {
    let filled = (share.clamp(0.0, 1.0) * 10.0).round() as usize;
    format!("{}{}", "█".repeat(filled), "·".repeat(10 - filled))
}

fn state(endpoint: &EndpointStats) -> String {
    if endpoint.ejected { "left out".to_owned() } else { "in use".to_owned() }
}

/// How old a workload's certificate is.
fn age(stats: &Stats, workload: &str) -> String {
    let found = stats.instances.iter().find(|i| i.workload == workload);
    match found.and_then(|i| i.certificate_age_seconds) {
        None => "-".to_owned(),
        Some(seconds) if seconds < 120 => format!("{seconds} s old"),
        Some(seconds) if seconds < 7_200 => format!("{} min old", seconds / 60),
        Some(seconds) => format!("{} h old", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(latency(Some(999)), "999 us");
        assert_eq!(latency(Some(1_500)), "1.5 ms");
        assert_eq!(latency(Some(25_400)), "25 ms");
        assert_eq!(latency(Some(2_000_000)), "2.0 s");
        assert_eq!(latency(None), "-");
        assert_eq!(success(0, 0), "-");
        assert_eq!(success(200, 1), "99.5 %");
        assert_eq!(success(1, 2), "0.0 %");
        assert_eq!(bar(0.5), "█████·····");
        assert_eq!(bar(7.0), "██████████");
    }

    #[test]
    fn routes_are_shown_by_their_rule() {
        let row = |direction: &str, route: &str| RouteStats {
            direction: direction.into(),
            service: "shop/cart".into(),
            route: route.into(),
            requests: 1,
            failures: 0,
            rps: 1.0,
            window_requests: 1,
            window_failures: 0,
            p50_us: None,
            p99_us: None,
        };
        assert_eq!(route(&row("outbound", "HTTPRoute/shop/cart/split")), "cart/split");
        assert_eq!(route(&row("gateway", "HTTPRoute/shop/front/pages")), "front/pages (gateway)");
        assert_eq!(route(&row("outbound", "")), "-");
    }
}
