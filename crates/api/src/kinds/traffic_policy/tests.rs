use std::time::Duration;

use crate::object::Spec;
use crate::parse::tests::{document, expect, good};
use crate::{Algorithm, HealthProbe, RequestKey, SessionAffinity, Standing};

#[test]
fn load_balancing_and_affinity() {
    let traffic = |more: &str| format!("{{targetRefs: [{{kind: Service, name: a}}], {more}}}");
    let read = |more: &str| match good(&document("TrafficPolicy", &traffic(more))) {
        Spec::TrafficPolicy(policy) => policy,
        other => panic!("{other:?}"),
    };
    let all = read(
        "loadBalancing: {algorithm: ring-hash, hashKey: {header: X-User}, slowStart: 30s, panicThreshold: 20, preferLocal: false, \
         failoverThreshold: 70, hashBound: 0, logDecisions: 100}",
    );
    let balancing = all.load_balancing;
    assert_eq!(balancing.algorithm, Some(Algorithm::RingHash));
    assert_eq!(balancing.hash_key, Some(RequestKey::Header("x-user".to_owned())));
    assert_eq!(
        (balancing.panic_threshold, balancing.failover_threshold, balancing.log_decisions),
        (Some(20), Some(70), Some(100))
    );
    let (name, lifetime) = ("heddle-affinity".to_owned(), Duration::from_secs(3600));
    let cookie = read("sessionAffinity: {cookie: {lifetime: 1h}}").session_affinity;
    assert_eq!(cookie, Some(SessionAffinity::Cookie { name, lifetime }));
    let source = read("sessionAffinity: {sourceAddress: true}").session_affinity;
    assert_eq!(source, Some(SessionAffinity::Key(RequestKey::SourceAddress)));
    let bad = |more: &'static str, said: &'static str| ("TrafficPolicy", traffic(more), format!("spec.{said}"));
    let cases = [
        bad(
            "loadBalancing: {algorithm: random, hashKey: {cookie: a}}",
            "loadBalancing.hashKey: random does not look at a key…",
        ),
        bad(
            "loadBalancing: {hashKey: {}}",
            "loadBalancing.hashKey: exactly one of these must be written: header, cookie, sourceAddress",
        ),
        bad(
            "sessionAffinity: {header: a, sourceAddress: true}",
            "sessionAffinity: exactly one of these must be written: cookie, header, sourceAddress",
        ),
        bad("sessionAffinity: {sourceAddress: no}", "sessionAffinity.sourceAddress: expected true, found…"),
        bad("sessionAffinity: {cookie: {name: 'a b'}}", "sessionAffinity.cookie.name: \"a b\" is not a cookie's name"),
        bad(
            "sessionAffinity: {cookie: {lifetime: 10000h}}",
            "sessionAffinity.cookie.lifetime: is longer than 9600 hours",
        ),
        bad("loadBalancing: {slowStart: 25h}", "loadBalancing.slowStart: is longer than 24 hours"),
        bad(
            "loadBalancing: {panicThreshold: 101}",
            "loadBalancing.panicThreshold: 101 is out of range: 0 to 100 is allowed",
        ),
        bad("loadBalancing: {hashBound: 100}", "loadBalancing.hashBound: 100 is no more than the average…"),
        bad("loadBalancing: {preferLocal: 1}", "loadBalancing.preferLocal: expected true or false, found the number 1"),
        bad(
            "loadBalancing: {algorithm: maglev, hashKey: {cookie: a}}, sessionAffinity: {header: b}",
            "sessionAffinity: loadBalancing.hashKey says already which requests belong together",
        ),
    ];
    for (kind, spec, said) in &cases {
        expect(&[(kind, spec, said)]);
    }
}

#[test]
fn health_checks_and_outliers() {
    let traffic = |more: &str| format!("{{targetRefs: [{{kind: Service, name: a}}], {more}}}");
    let read = |more: &str| match good(&document("TrafficPolicy", &traffic(more))) {
        Spec::TrafficPolicy(policy) => policy,
        other => panic!("{other:?}"),
    };
    let check =
        read("healthChecks: {http: {path: /up, statuses: [204, 200, 204]}, interval: 200ms}").health_check.unwrap();
    assert_eq!(check.timeout, Duration::from_millis(200), "no longer than the interval");
    assert_eq!((check.healthy_threshold, check.unhealthy_threshold), (2, 3));
    let (path, host) = ("/up".to_owned(), String::new());
    assert_eq!(check.probe, HealthProbe::Http { path, host, statuses: vec![200, 204] });
    let grpc = read("healthChecks: {grpc: {service: a.B}}").health_check.unwrap();
    assert_eq!(grpc.probe, HealthProbe::Grpc { service: "a.B".to_owned() });
    let outlier = read("outlierDetection: {consecutiveGatewayErrors: 7, latencyPercent: 400}").outlier.unwrap();
    assert_eq!((outlier.consecutive_gateway_errors, outlier.latency_percent), (Some(7), Some(400)));
    let bad = |more: &'static str, said: &'static str| ("TrafficPolicy", traffic(more), format!("spec.{said}"));
    let cases = [
        bad("healthChecks: {}", "healthChecks: exactly one of these must be written: http, grpc, tcp"),
        bad("healthChecks: {http: {}, tcp: {}}", "healthChecks: exactly one of these must be written: http, grpc, tcp"),
        bad("healthChecks: {tcp: {}, interval: 10ms}", "healthChecks.interval: is not from 100ms to 1h"),
        bad("healthChecks: {tcp: {}, interval: 1s, timeout: 2s}", "healthChecks: timeout is longer than interval"),
        bad(
            "healthChecks: {tcp: {}, healthyThreshold: 0}",
            "healthChecks.healthyThreshold: 0 is out of range: 1 to 100 is allowed",
        ),
        bad("healthChecks: {http: {path: 'a b'}}", "healthChecks.http.path: \"a b\" is not a path…"),
        bad(
            "healthChecks: {http: {statuses: [99]}}",
            "healthChecks.http.statuses[0]: 99 is out of range: 200 to 599 is allowed",
        ),
        bad(
            "outlierDetection: {latencyPercent: 100}",
            "outlierDetection.latencyPercent: 100 would take out instances that are well…",
        ),
        bad(
            "outlierDetection: {minimumInstances: 1}",
            "outlierDetection.minimumInstances: 1 is out of range: 2 to 10000 is allowed",
        ),
    ];
    for (kind, spec, said) in &cases {
        expect(&[(kind, spec, said)]);
    }
}

#[test]
fn labels_that_the_mesh_reads_are_numbers() {
    let pod = |labels: &str| {
        format!(
            "{{selector: {{}}, template: {{metadata: {{labels: {{{labels}}}}}, spec: {{containers: [{{name: c}}]}}}}}}"
        )
    };
    expect(&[
        (
            "Deployment",
            &pod("heddle.dev/weight: '0'"),
            "spec.template.metadata.labels.heddle.dev/weight: \"0\" is out of range: 1 to 1000000 is allowed",
        ),
        (
            "Deployment",
            &pod("heddle.dev/priority: first"),
            "spec.template.metadata.labels.heddle.dev/priority: \"first\" is not a whole number",
        ),
    ]);
    let labels = [("topology.kubernetes.io/zone", "a"), ("heddle.dev/priority", "3"), ("heddle.dev/weight", "0")];
    let standing = Standing::of_labels(&labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
    assert_eq!((standing.zone.as_str(), standing.region.as_str(), standing.priority, standing.weight), ("a", "", 3, 1));
}
