//! What is rendered is read back by a strict parser of the Prometheus text format.

use super::*;

type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: Vec<(String, Labels, f64)>,
}

/// Panics at anything that the format does not allow: a sample without a type or away from its family, a family that
/// comes twice, a bad name, a label or a series that comes twice, an escape that does not exist.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help text");
            let family = Family { help: unescape(help, false), ..Family::default() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            families.get_mut(name).expect("help first").kind = kind.to_owned();
        } else {
            let (name, labels, value) = sample(line);
            assert!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
            let family = families.get_mut(&current).expect("a family");
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|s| name == format!("{current}{s}")), "{line} in {current}");
            assert!(!family.kind.is_empty());
            family.samples.push((name, labels, value));
        }
    }
    families
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(end);
    check_name(name);
    let mut labels = Labels::new();
    if rest.starts_with('{') {
        while !rest.starts_with('}') {
            let (label, after) = rest[1..].split_once("=\"").expect("a label's value");
            check_name(label);
            let mut escaped = false;
            let end = after.find(|c| {
                let end = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                end
            });
            let end = end.expect("the value ends");
            let value = unescape(&after[..end], true);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice");
            rest = &after[end + 1..];
            assert!(rest.starts_with([',', '}']), "{rest}");
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect("one space");
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        _ => value.parse().unwrap_or_else(|_| panic!("not a number: {line}")),
    };
    (name.to_owned(), labels, value)
}

fn check_name(name: &str) {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(!name.is_empty() && name.chars().all(valid), "bad name {name:?}");
    assert!(!name.starts_with(|c: char| c.is_ascii_digit()), "bad name {name:?}");
}

fn unescape(text: &str, quotes: bool) -> String {
    let mut chars = text.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        out.push(match (c, quotes) {
            ('\\', _) => match (chars.next(), quotes) {
                (Some('\\'), _) => '\\',
                (Some('n'), _) => '\n',
                (Some('"'), true) => '"',
                (other, _) => panic!("no such escape: {other:?}"),
            },
            ('"', true) => panic!("a bare quotation mark"),
            (c, _) => c,
        });
    }
    out
}

fn value(family: &Family, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |held: &Labels| labels.iter().all(|(n, v)| held.get(*n).is_some_and(|held| held == v));
    let mut found = family.samples.iter().filter(|(n, held, _)| n == name && fits(held));
    let (_, _, value) = found.next().expect("such a sample");
    assert!(found.next().is_none(), "more than one {name} {labels:?}");
    *value
}

#[test]
fn counts_by_class_and_reason() {
    let registry = Registry::new();
    let recorder = registry.recorder();
    let id = registry.series(&key("shop/cart"));
    hit(&recorder, id);
    hit(&recorder, id);
    recorder.request(id, Class::ServerError, Some(Reason::NoEndpoint), Nanos(5_000), true);
    recorder.request(id, Class::Opaque, Some(Reason::ConnectFailed), Nanos(5_000), true);
    recorder.bytes(id, 10, 20);
    recorder.opened(id);
    recorder.retries(id, 3);
    let families = parse(&registry.render_prometheus(&[]));
    let requests = &families["heddle_requests_total"];
    assert_eq!(requests.kind, "counter");
    let count = |class, reason| {
        let labels =
            [("direction", "outbound"), ("service", "shop/cart"), ("route", ""), ("class", class), ("reason", reason)];
        value(requests, "heddle_requests_total", &labels)
    };
    assert_eq!(count("2xx", ""), 2.0);
    assert_eq!(count("5xx", "no_endpoint"), 1.0);
    assert_eq!(count("opaque", "connect_failed"), 1.0);
    let service = ("service", "shop/cart");
    let of = |name: &str, labels: &[(&str, &str)]| value(&families[name], name, labels);
    assert_eq!(of("heddle_connections_open", &[service]), 1.0);
    assert_eq!(of("heddle_bytes_total", &[service, ("way", "received")]), 10.0);
    assert_eq!(of("heddle_bytes_total", &[service, ("way", "sent")]), 20.0);
    assert_eq!(of("heddle_retries_total", &[service]), 3.0);
}

#[test]
fn samples_of_the_caller_are_put_together_and_escaped() {
    let sample = |name, value, label: &str| Sample {
        name,
        help: "A \\ and\na line.",
        kind: SampleKind::Gauge,
        labels: vec![("endpoint", label.to_owned())],
        value,
    };
    let samples = [
        sample("heddle_endpoint_score", 1.5, "a\"b\\c\nd"),
        sample("heddle_certificate_expiry_seconds", f64::INFINITY, ""),
        Sample { labels: vec![], ..sample("heddle_endpoint_score", f64::NAN, "") },
    ];
    let families = parse(&Registry::new().render_prometheus(&samples));
    let scores = &families["heddle_endpoint_score"];
    assert_eq!((&*scores.help, scores.samples.len()), ("A \\ and\na line.", 2));
    assert_eq!(value(scores, "heddle_endpoint_score", &[("endpoint", "a\"b\\c\nd")]), 1.5);
    assert_eq!(families["heddle_certificate_expiry_seconds"].samples[0].2, f64::INFINITY);
}

proptest! {
    #[test]
    fn whatever_is_recorded_can_be_read_back(
        services in prop::collection::hash_set(any::<String>(), 1..4),
        latencies in prop::collection::vec(0u64..200_000_000_000, 1..60),
    ) {
        let registry = Registry::new();
        let recorder = registry.recorder();
        for service in &services {
            let id = registry.series(&key(service));
            for &nanos in &latencies {
                recorder.request(id, Class::Success, None, Nanos(nanos), false);
            }
        }
        let families = parse(&registry.render_prometheus(&[]));
        let durations = &families["heddle_request_duration_seconds"];
        let name = "heddle_request_duration_seconds";
        for service in &services {
            let service = ("service", service.as_str());
            let mut before = 0.0;
            let mut bounds = 0;
            for (sample, labels, count) in &durations.samples {
                if sample != &format!("{name}_bucket") || labels["service"] != service.1 {
                    continue;
                }
                let bound = if labels["le"] == "+Inf" { f64::INFINITY } else { labels["le"].parse().expect("a number") };
                let exact = latencies.iter().filter(|&&nanos| (nanos as f64 / 1e9) < bound).count();
                prop_assert_eq!(*count, exact as f64, "le {}", bound);
                prop_assert!(*count >= before);
                (before, bounds) = (*count, bounds + 1);
            }
            prop_assert_eq!(bounds, 20);
            prop_assert_eq!(value(durations, &format!("{name}_count"), &[service]), latencies.len() as f64);
            let sum = latencies.iter().sum::<u64>() as f64 / 1e9;
            let shown = value(durations, &format!("{name}_sum"), &[service]);
            prop_assert!((shown - sum).abs() < 1e-6);
        }
    }
}
