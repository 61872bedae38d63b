//! A decision in the access log: what the choice saw.

use std::fmt::Write;

use engine::Nanos;
use engine::balance::{Ask, Endpoint, EndpointSet, Standing};

/// Instances that one line shows.
const SHOWN: usize = 8;

/// The instances with the terms of their cost as JSON, the cheapest first: `docs/access-log.md`. Looks at all of them, so it is for
/// samples alone.
pub(crate) fn describe(
    endpoints: &EndpointSet,
    now: Nanos,
    ask: &Ask<'_>,
    warm: impl Fn(&Endpoint) -> bool,
) -> Box<str> {
    let mut candidates = endpoints.weigh(now, ask, warm);
    candidates.sort_by(|a, b| a.terms.cost.total_cmp(&b.terms.cost));
    let mut text = String::from("[");
    for (i, candidate) in candidates.iter().take(SHOWN).enumerate() {
        let terms = &candidate.terms;
        let standing = match candidate.standing {
            Standing::Usable => "usable",
            Standing::Panic => "panic",
            Standing::LeftOut { .. } => "leftOut",
            Standing::Unhealthy => "unhealthy",
            Standing::Tried => "tried",
            Standing::Draining => "draining",
            Standing::NotReady => "notReady",
        };
        let comma = if i > 0 { "," } else { "" };
        let latency = terms.latency.unwrap_or(terms.assumed) / 1e3;
        // A workload's name has no character that JSON escapes.
        let written = write!(
            text,
            "{comma}{{\"instance\":\"{}\",\"standing\":\"{standing}\",\"costMicros\":{:.0},\"latencyMicros\":{latency:.0},\
             \"known\":{},\"inFlight\":{},\"elsewhere\":{:.1},\"failing\":{:.3},\"overdue\":{:.1},\"weight\":{:.3}}}",
            candidate.endpoint.workload,
            terms.cost / 1e3,
            terms.latency.is_some(),
            terms.in_flight,
            terms.elsewhere,
            terms.failing,
            terms.overdue,
            terms.weight,
        );
        written.expect("writing to memory does not fail");
    }
    text.push(']');
    text.into()
}
