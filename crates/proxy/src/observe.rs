//! What is counted and logged of a request when it is over.

use std::sync::Arc;
use std::time::SystemTime;

use engine::balance::Endpoint;
use engine::route::Rule;
use engine::snapshot::AccessLog;
use engine::{Nanos, Reason, RequestHead, SeriesId};
use telemetry::access_log::{Entry, Handle};
use telemetry::metrics::{Class, Direction, EXPIRY, Recorder, Registry, SeriesKey};

use crate::h1;
use crate::peers::Peers;
use crate::target::Target;

/// A worker's pens.
pub(crate) struct Observer {
    recorder: Recorder,
    registry: Arc<Registry>,
    log: Option<Handle>,
    /// Who was refused before any request.
    pub(crate) peers: Peers,
    /// Where requests are counted that reached no service: one series for each way in.
    unrouted: [SeriesId; 3],
}

impl Observer {
    pub(crate) fn new(registry: &Arc<Registry>, log: Option<Handle>) -> Observer {
        let unrouted = |direction, service: &str| {
            registry.permanent(&SeriesKey { direction, service: service.into(), route: "".into() })
        };
        Observer {
            recorder: registry.recorder(),
            registry: Arc::clone(registry),
            log,
            peers: Peers::new(Arc::clone(registry)),
            unrouted: [
                unrouted(Direction::Inbound, "unknown"),
                unrouted(Direction::Outbound, "outside"),
                unrouted(Direction::Gateway, "unknown"),
            ],
        }
    }

    /// The series of what reaches no service.
    pub(crate) fn unrouted(&self, direction: Direction) -> SeriesId {
        match direction {
            Direction::Inbound | Direction::Other => self.unrouted[0],
            Direction::Outbound => self.unrouted[1],
            Direction::Gateway => self.unrouted[2],
        }
    }

    /// A record of something that begins now.
    pub(crate) fn begin(&self, direction: Direction, now: Nanos) -> Record {
        Record {
            direction,
            started: now,
            series: self.unrouted(direction),
            status: 0,
            reason: None,
            failure: false,
            attempts: 0,
            received: 0,
            sent: 0,
            endpoint: None,
            decision: None,
        }
    }

    /// Counts an opaque connection as open.
    pub(crate) fn opened(&self, series: SeriesId) {
        self.recorder.opened(series);
    }

    /// And as closed.
    pub(crate) fn closed(&self, series: SeriesId) {
        self.recorder.closed(series);
    }

    /// Where a record counts. What took so long that its series can have expired meanwhile, and its place be another's, counts as
    /// `other` where that is so.
    fn series(&self, record: &Record, latency: Nanos) -> SeriesId {
        if latency >= EXPIRY && !self.registry.is_still(record.series, record.started) {
            return SeriesId::default();
        }
        record.series
    }

    /// Counts what is over, and logs it if `level` says so. Nothing is copied for the log before that is known.
    pub(crate) fn finish(
        &self,
        record: &Record,
        about: About<'_>,
        identity: Option<&str>,
        level: AccessLog,
        now: Nanos,
    ) {
        let latency = now.since(record.started);
        let series = self.series(record, latency);
        self.recorder.request(series, Class::of(record.status), record.reason, latency, record.failure);
        if record.received > 0 || record.sent > 0 {
            self.recorder.bytes(series, record.received, record.sent);
        }
        if record.attempts > 1 {
            self.recorder.retries(series, record.attempts - 1);
        }
        let wanted = match level {
            AccessLog::Off => false,
            AccessLog::Errors => record.failure || record.reason.is_some() || record.decision.is_some(),
            AccessLog::All => true,
        };
        if let (true, Some(log)) = (wanted, &self.log) {
            let target;
            let (head, authority, rule) = match about {
                About::Request(head, rule) => (Some(head), Some(head.authority()), rule),
                About::Connection(to) => {
                    target = to.to_string();
                    (None, Some(&*target), None)
                }
                About::Unknown => (None, None, None),
            };
            log.log(&Entry {
                time: SystemTime::now(),
                direction: record.direction,
                identity,
                method: head.map(RequestHead::method),
                path: head.map(RequestHead::path),
                authority,
                status: record.status,
                reason: record.reason,
                route: rule.map_or("", |rule| &rule.name),
                endpoint: record.endpoint.as_ref().map(|endpoint| &*endpoint.workload),
                bytes_received: record.received,
                bytes_sent: record.sent,
                duration: latency,
                attempts: record.attempts,
                decision: record.decision.as_deref(),
            });
        }
    }
}

/// What is known of one request or opaque connection so far.
pub(crate) struct Record {
    pub(crate) direction: Direction,
    pub(crate) started: Nanos,
    pub(crate) series: SeriesId,
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    pub(crate) failure: bool,
    pub(crate) attempts: u32,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Where the newest attempt goes; of a request only where there is a log to name it.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// What the choice of the first attempt saw, as JSON, where that is sampled.
    pub(crate) decision: Option<Box<str>>,
}

/// What a line of the access log is about.
pub(crate) enum About<'a> {
    /// A request, and the rule that it took.
    Request(&'a h1::Request, Option<&'a Rule>),
    /// An opaque connection, by its destination.
    Connection(&'a Target),
    /// What never became a request, or a connection whose destination was not found.
    Unknown,
}

#[cfg(test)]
mod tests {
    use telemetry::metrics::Cursor;

    use super::*;

    #[test]
    fn what_outlives_its_series_is_not_counted_for_the_next() {
        let registry = Registry::new();
        let observer = Observer::new(&registry, None);
        let key =
            |service: &str| SeriesKey { direction: Direction::Outbound, service: service.into(), route: "".into() };
        let mut record = observer.begin(Direction::Outbound, Nanos(1));
        record.series = registry.series(&key("first"));
        registry.expire(Nanos(2), |_| false);
        let later = Nanos(2).after(EXPIRY);
        let end = |record: &Record| observer.finish(record, About::Unknown, None, AccessLog::Off, later);
        end(&record);
        registry.expire(later, |_| false);
        registry.expire(later.after(EXPIRY), |_| false);
        assert_eq!(registry.series(&key("second")), record.series, "the place is used again");
        end(&record);
        let counted = registry.deltas(&mut Cursor::default());
        let counted: Vec<_> = counted.iter().map(|delta| (&*delta.key.service, delta.requests)).collect();
        assert_eq!(counted, [("other", 1)]);
    }
}
