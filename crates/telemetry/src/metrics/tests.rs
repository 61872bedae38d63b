use std::collections::{BTreeMap, HashSet};

use engine::Reason;
use proptest::prelude::*;

use super::*;
use crate::histogram;

mod exposition;

fn key(service: &str) -> SeriesKey {
    SeriesKey { direction: Direction::Outbound, service: service.into(), route: "".into() }
}

fn minutes(n: u64) -> Nanos {
    Nanos::from_millis(n * 60_000)
}

fn hit(recorder: &Recorder, id: SeriesId) {
    recorder.request(id, Class::Success, None, Nanos::from_millis(1), false);
}

fn shown(registry: &Registry) -> Vec<String> {
    registry.read().into_iter().map(|reading| reading.key.service.into()).collect()
}

#[test]
fn equal_keys_give_equal_dense_ids() {
    let registry = Registry::new();
    assert_eq!(registry.series(&key("a")), SeriesId(1));
    assert_eq!(registry.series(&key("b")), SeriesId(2));
    assert_eq!(registry.series(&key("a")), SeriesId(1));
    let routed = SeriesKey { route: "r".into(), ..key("a") };
    assert_eq!(registry.series(&routed), SeriesId(3));
    let inbound = SeriesKey { direction: Direction::Inbound, ..key("a") };
    assert_eq!(registry.series(&inbound), SeriesId(4));
}

#[test]
fn what_does_not_fit_is_counted_as_other() {
    let registry = Registry::with_limit(3);
    let recorder = registry.recorder();
    let ids: Vec<_> = ["a", "b", "c", "d"].iter().map(|s| registry.series(&key(s))).collect();
    assert_eq!(ids, [SeriesId(1), SeriesId(2), SeriesId(0), SeriesId(0)]);
    ids.iter().for_each(|&id| hit(&recorder, id));
    hit(&recorder, SeriesId(u32::MAX));
    let counts: Vec<_> = registry.read().iter().map(|reading| reading.totals.count()).collect();
    assert_eq!(counts, [3, 1, 1]);
}

#[test]
fn the_default_limit_fits_a_sheet() {
    let registry = Registry::new();
    let ids: HashSet<_> = (0..SERIES_LIMIT).map(|i| registry.series(&key(&i.to_string()))).collect();
    assert_eq!(ids.len(), SERIES_LIMIT, "4095 of their own, one in `other`");
    let recorder = registry.recorder();
    ids.iter().for_each(|&id| hit(&recorder, id));
    assert!(registry.read().iter().all(|reading| reading.totals.count() == 1));
}

#[test]
fn unused_series_expire_and_their_places_start_from_zero() {
    let registry = Registry::with_limit(3);
    let recorder = registry.recorder();
    let (a, b) = (registry.series(&key("a")), registry.series(&key("b")));
    hit(&recorder, a);
    let mut cursor = Cursor::default();
    assert_eq!(registry.deltas(&mut cursor).len(), 1);
    registry.expire(minutes(100), |_| false);
    registry.expire(minutes(109), |_| false);
    hit(&recorder, b);
    assert_eq!(shown(&registry), ["other", "a", "b"]);
    registry.expire(minutes(110), |_| false);
    assert_eq!(shown(&registry), ["other", "b"], "b had traffic");
    registry.expire(minutes(121), |id| id == b);
    assert_eq!(shown(&registry), ["other", "b"], "b is in the snapshot");

    let c = registry.series(&key("c"));
    assert_eq!(c, a, "the place is used again");
    assert_eq!(registry.read()[1].totals.count(), 0);
    hit(&recorder, c);
    let deltas = registry.deltas(&mut cursor);
    let of = |service: &str| deltas.iter().find(|delta| &*delta.key.service == service).map(|delta| delta.requests);
    assert_eq!((deltas.len(), of("b"), of("c")), (2, Some(1), Some(1)));
}

#[test]
fn what_outlives_its_series_knows_it() {
    let registry = Registry::with_limit(3);
    let a = registry.series(&key("a"));
    registry.expire(minutes(1), |_| false);
    assert!(registry.is_still(a, minutes(1)));
    registry.expire(minutes(11), |_| false);
    assert!(!registry.is_still(a, minutes(1)), "it is over");
    let b = registry.series(&key("b"));
    assert_eq!(a, b, "the place is used again");
    assert!(!registry.is_still(b, minutes(1)) && !registry.is_still(b, minutes(11)));
    assert!(registry.is_still(b, minutes(12)));
    assert!(registry.is_still(SeriesId(0), minutes(1)), "`other` never ends");
}

#[test]
fn a_series_with_an_open_connection_or_asked_for_again_stays() {
    let registry = Registry::new();
    let recorder = registry.recorder();
    let open = registry.series(&key("open"));
    registry.series(&key("asked"));
    registry.series(&key("idle"));
    recorder.opened(open);
    registry.expire(minutes(1), |_| false);
    registry.series(&key("asked"));
    registry.expire(minutes(11), |_| false);
    assert_eq!(shown(&registry), ["other", "open", "asked"]);
    let kept = registry.permanent(&key("kept"));
    recorder.closed(open);
    registry.expire(minutes(20), |_| false);
    registry.expire(minutes(30), |_| false);
    registry.expire(minutes(40), |_| false);
    assert_eq!(shown(&registry), ["other", "kept"]);
    assert_eq!(registry.series(&key("kept")), kept);
}

#[test]
fn recorders_add_up_and_outlive_their_worker() {
    let registry = Registry::new();
    let id = registry.series(&key("a"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let recorder = registry.recorder();
            scope.spawn(move || {
                for ms in 0..1000 {
                    recorder.request(id, Class::Success, None, Nanos::from_millis(ms), ms % 2 == 0);
                    recorder.bytes(id, 3, 5);
                    recorder.opened(id);
                    recorder.retries(id, 1);
                }
                (0..400).for_each(|_| recorder.closed(id));
            });
        }
    });
    let totals = &registry.read()[1].totals;
    assert_eq!((totals.count(), totals.failures, totals.open()), (4000, 2000, 2400));
    assert_eq!((totals.received, totals.sent, totals.retries), (12_000, 20_000, 4000));
    assert_eq!(totals.latency.iter().sum::<u64>(), 4000);
    assert_eq!(totals.nanos, 4 * 499_500 * 1_000_000);
}

#[test]
fn deltas_hold_only_what_is_new() {
    let registry = Registry::new();
    let recorder = registry.recorder();
    let (a, b) = (registry.series(&key("a")), registry.series(&key("b")));
    let mut cursor = Cursor::default();
    assert_eq!(registry.deltas(&mut cursor), []);
    hit(&recorder, a);
    hit(&recorder, a);
    recorder.request(b, Class::ServerError, Some(Reason::NoEndpoint), Nanos(0), true);
    let bucket = histogram::bucket(1_000_000) as u32;
    let delta = |service, requests, failures, latency| Delta { key: key(service), requests, failures, latency };
    assert_eq!(registry.deltas(&mut cursor), [delta("a", 2, 0, vec![(bucket, 2)]), delta("b", 1, 1, vec![(0, 1)])]);
    assert_eq!(registry.deltas(&mut cursor), []);
    hit(&recorder, a);
    assert_eq!(registry.deltas(&mut cursor), [delta("a", 1, 0, vec![(bucket, 1)])]);
    assert_eq!(registry.deltas(&mut Cursor::default()).len(), 2, "another reader sees all");
}

#[test]
fn classes_of_statuses() {
    let names = [0, 99, 101, 200, 302, 404, 499, 503, 999].map(|status| Class::of(status).name());
    assert_eq!(names, ["opaque", "opaque", "1xx", "2xx", "3xx", "4xx", "4xx", "5xx", "5xx"]);
}

proptest! {
    /// Whatever is recorded, by whichever worker, and however often it is read, the deltas add up to the totals.
    #[test]
    fn deltas_add_up(events in prop::collection::vec((0usize..2, 0u32..4, 0u64..10_000_000_000, any::<bool>()), 0..200)) {
        let registry = Registry::new();
        let recorders = [registry.recorder(), registry.recorder()];
        let ids: Vec<_> = (0..3).map(|i| registry.series(&key(&i.to_string()))).collect();
        let mut cursor = Cursor::default();
        let mut sums: BTreeMap<SeriesKey, (u64, u64, u64)> = BTreeMap::new();
        let mut read = |registry: &Registry| {
            for delta in registry.deltas(&mut cursor) {
                let sum = sums.entry(delta.key).or_default();
                sum.0 += delta.requests;
                sum.1 += delta.failures;
                sum.2 += delta.latency.iter().map(|(_, count)| count).sum::<u64>();
            }
        };
        for (worker, series, latency, failure) in events {
            match ids.get(series as usize) {
                Some(&id) => recorders[worker].request(id, Class::Success, None, Nanos(latency), failure),
                None => read(&registry),
            }
        }
        read(&registry);
        for reading in registry.read() {
            let expected = (reading.totals.count(), reading.totals.failures, reading.totals.count());
            prop_assert_eq!(sums.get(&reading.key).copied().unwrap_or_default(), expected);
        }
    }
}
