//! Why an endpoint is chosen, as data.

use std::sync::Arc;

use super::review::WHOLE;
use super::set::{self, Ask, Common, Compared, EndpointSet, Tier};
use super::{Endpoint, Health};
use crate::{Nanos, Rng};

/// How often the choice is made to find out how likely each endpoint is. One in ten thousand shows as such, give or take a
/// third; a half, give or take a hundredth of it.
const SAMPLES: u32 = 10_000;

/// One endpoint in the eyes of [`EndpointSet::choose`].
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// Whether it may be chosen.
    pub standing: Standing,
    /// Its group among those of ready endpoints, 0 being the best; `None` if it is not ready.
    pub group: Option<usize>,
    /// 0: the caller's zone; 1: its region; 2: elsewhere, or nearness does not matter.
    pub distance: u32,
    /// The part of the requests that its group gets, 0 to 1.
    pub group_share: f64,
    /// Of this request being sent to it, 0 to 1: how often the very code of the choice took it.
    pub probability: f64,
    /// The terms of its cost. Only `fastest` decides by them.
    pub terms: Terms,
}

/// Why an endpoint may be chosen or not, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Usable,
    /// It may, though it is left out or unhealthy: too few others are usable (panic threshold).
    Panic,
    /// Not before then, unless nothing better is left: ejected for its failures, or it asked for it (`Retry-After`).
    LeftOut {
        /// When it comes back.
        until: Nanos,
    },
    /// Active health checks fail; only if nothing better is left.
    Unhealthy,
    /// This request has been there; only if nothing better is left.
    Tried,
    /// It ends; only if nothing better is left.
    Draining,
    /// Discovery says that it is not ready: never.
    NotReady,
}

/// The terms of a cost; times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Of this class of requests; `None`: not known yet.
    pub latency: Option<f64>,
    /// The least of all; it is taken where the latency is not known, or is at most 1.4 times as long.
    pub assumed: f64,
    /// How many times longer than expected an answer has been owed; at least 1.
    pub overdue: f64,
    /// Added because no connection is ready.
    pub connecting: f64,
    /// Recent share of failures, 0 to 1.
    pub failing: f64,
    /// Requests of this proxy in flight there.
    pub in_flight: u32,
    /// Requests of others, as its sidecar has said. They count only where the latency is known.
    pub elsewhere: f64,
    /// The latency that its sidecar has said; it decides nothing by itself.
    pub reported_latency: Option<f64>,
    /// The weight, less while it is new.
    pub weight: f64,
    /// What is usually in flight for a unit of weight, of which so much counts at each. The same for all.
    pub spread: f64,
    /// Half a request at the lightest: the least that counts as a queue. The same for all.
    pub idle: f64,
    /// Whether a request should find out how it is now.
    pub trial: bool,
    /// How long nothing must be heard of it before that.
    pub patience: Nanos,
    /// How long nothing has been heard; of this class of requests, where it answers others.
    pub silence: Nanos,
    /// The prediction that these make, compared with all other endpoints at once; lower is better. `docs/balancing.md` has the
    /// formula.
    pub cost: f64,
}

impl EndpointSet {
    /// Every endpoint, the likeliest first, with all that decides. Changes nothing, except that the turn of a round robin
    /// goes on. Looks at all endpoints many times: for people, not for requests.
    pub fn explain(
        &self,
        now: Nanos,
        rng: &mut Rng,
        ask: &Ask<'_>,
        warm: impl Fn(&Endpoint) -> bool,
    ) -> Vec<Candidate> {
        let mut taken = vec![0u32; self.endpoints().len()];
        for _ in 0..SAMPLES {
            let chosen = self.choose(now, rng, ask, &warm);
            let place =
                chosen.and_then(|e| self.endpoints().binary_search_by(|other| other.workload.cmp(&e.workload)).ok());
            if let Some(place) = place {
                taken[place] += 1;
            }
        }
        let mut candidates = self.weigh(now, ask, warm);
        for (candidate, taken) in candidates.iter_mut().zip(&taken) {
            candidate.probability = f64::from(*taken) / f64::from(SAMPLES);
        }
        candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.terms.cost.total_cmp(&b.terms.cost)));
        candidates
    }

    /// Every endpoint by name with all that decides, but without probabilities. Looks at all endpoints: for samples.
    pub fn weigh(&self, now: Nanos, ask: &Ask<'_>, warm: impl Fn(&Endpoint) -> bool) -> Vec<Candidate> {
        let compared = || self.endpoints().iter().map(|e| Compared::new(e, ask.class));
        let common = set::common(compared());
        let mut candidates: Vec<Candidate> = compared()
            .map(|one| Candidate {
                endpoint: Arc::clone(one.endpoint),
                standing: self.standing(one.endpoint, now, ask),
                group: None,
                distance: 2,
                group_share: 0.0,
                probability: 0.0,
                terms: terms(&one, now, ask, &common, &warm),
            })
            .collect();
        let mut from = 0;
        for (rank, group) in self.groups().iter().enumerate() {
            let until = group.until.load(std::sync::atomic::Ordering::Relaxed).min(WHOLE);
            for member in group.members.iter() {
                let candidate = &mut candidates[member];
                candidate.group = Some(rank);
                candidate.distance = group.distance;
                candidate.group_share = f64::from(until.saturating_sub(from)) / f64::from(WHOLE);
            }
            from = until;
        }
        candidates
    }

    fn standing(&self, endpoint: &Endpoint, now: Nanos, ask: &Ask<'_>) -> Standing {
        let left_out = endpoint.load.ejected(now);
        match set::tier(endpoint, now, ask, self.view().panic()) {
            None => Standing::NotReady,
            Some(Tier::Fresh) if left_out || endpoint.load.unhealthy() => Standing::Panic,
            Some(Tier::Fresh) => Standing::Usable,
            Some(Tier::LeftOut) if left_out => Standing::LeftOut { until: endpoint.load.left_out_until() },
            Some(Tier::LeftOut) => Standing::Unhealthy,
            Some(Tier::Tried | Tier::TriedLeftOut) => Standing::Tried,
            Some(Tier::Draining | Tier::TriedDraining) => {
                debug_assert!(endpoint.health == Health::Draining);
                Standing::Draining
            }
        }
    }
}

fn terms(one: &Compared<'_>, now: Nanos, ask: &Ask<'_>, common: &Common, warm: &impl Fn(&Endpoint) -> bool) -> Terms {
    let load = &one.endpoint.load;
    let cost = one.cost(now, common, warm);
    Terms {
        latency: load.latency(ask.class),
        assumed: f64::from(common.assumed),
        overdue: f64::from(load.overdue(now)),
        connecting: f64::from(one.connecting(warm)),
        failing: load.failing(),
        in_flight: load.in_flight(),
        elsewhere: f64::from(load.elsewhere()),
        reported_latency: load.reported_latency(),
        weight: f64::from(set::weight(one.endpoint)),
        spread: f64::from(common.spread),
        idle: f64::from(common.idle),
        trial: load.trial(now, ask.class),
        patience: load.patience(ask.class),
        silence: load.silence(now, ask.class),
        cost: f64::from(cost),
    }
}
