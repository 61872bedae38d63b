//! The engine's own code: `fastest` and `least-request`.

use std::sync::Arc;

use engine::balance::{Ask, Class, Endpoint, EndpointSet, InFlight, Locality};
use engine::policy::{Algorithm as Way, BalancePolicy, RetryPolicy};
use engine::retry::RetryBudget;
use engine::{Nanos, Outcome, Protocol, Rng, SeriesId};

use super::{Algorithm, Answer, Balancer};
use crate::scenario::ServerSpec;
use crate::server::Report;

/// A request is hedged when it has taken so many times what was predicted.
const HEDGE_AFTER: f64 = 3.0;

pub(crate) struct Engine {
    hedges: bool,
    budget: RetryBudget,
    backend: engine::balance::Backend,
    policy: BalancePolicy,
    /// Of every server, present or not.
    all: Vec<Arc<Endpoint>>,
}

impl Engine {
    pub(crate) fn new(algorithm: Algorithm, servers: &[ServerSpec]) -> Engine {
        let way = if algorithm == Algorithm::LeastRequest { Way::LeastRequest } else { Way::Fastest };
        let policy = BalancePolicy { algorithm: way, ..BalancePolicy::default() };
        let endpoint = |number: usize| Endpoint::plain(format!("{number:06}"), ([127, 0, 0, 1], 80).into());
        let all = (0..servers.len()).map(|number| Arc::new(endpoint(number))).collect();
        let backend = engine::balance::Backend::new("simulated", 80, Protocol::Http1, EndpointSet::default());
        let budget = RetryBudget::new(&RetryPolicy::default());
        Engine { hedges: algorithm == Algorithm::Hedged, budget, backend, policy, all }
    }

    fn class(&self, route: usize) -> Class {
        self.backend.class(SeriesId(route as u32))
    }
}

impl Balancer for Engine {
    type Token = InFlight;

    fn change(&mut self, present: &[bool]) {
        let here = self.all.iter().zip(present).filter(|(_, present)| **present).map(|(e, _)| Arc::clone(e));
        let set = EndpointSet::new(here.collect(), self.policy.clone(), &Locality::default());
        let set = set.following(&self.backend.endpoints.load());
        self.backend.endpoints.store(Arc::new(set));
    }

    fn choose(&mut self, now: Nanos, route: usize, avoid: Option<usize>, rng: &mut Rng) -> Option<usize> {
        if avoid.is_some() && !self.budget.withdraw(now) {
            return None;
        }
        let tried: Option<[u64; 1]> = avoid.map(|server| [self.all[server].load.id]);
        let tried = tried.as_ref().map_or(&[][..], |tried| &tried[..]);
        let ask = Ask { class: self.class(route), tried, hash: None };
        let set = self.backend.endpoints.load();
        // A proxy does it ten times a second beside its requests.
        set.review(now);
        let chosen = set.choose(now, rng, &ask, |_| true)?;
        chosen.workload.parse().ok()
    }

    fn sent(&mut self, now: Nanos, route: usize, server: usize) -> InFlight {
        InFlight::start(Arc::clone(&self.all[server]), self.class(route), now)
    }

    fn answered(&mut self, now: Nanos, mut token: InFlight, answer: &Answer) {
        let outcome = match (answer.failed, answer.refused) {
            (_, Some(retry_after)) => {
                token.answered(now);
                token.limited((retry_after.0 > 0).then_some(retry_after), now);
                Outcome::from_status(429)
            }
            (true, None) if answer.report.is_some() => {
                token.answered(now);
                Outcome::from_status(500)
            }
            (true, None) => Outcome::Timeout,
            (false, None) => {
                token.answered(now);
                Outcome::Success
            }
        };
        if let Some(report) = &answer.report {
            token.endpoint().load.reported(report.in_flight, report.latency, now);
        }
        token.finish(now, outcome, &self.backend);
    }

    fn cancelled(&mut self, now: Nanos, token: InFlight, _: usize) {
        token.finish(now, Outcome::Cancelled, &self.backend);
    }

    fn hedge_after(&mut self, now: Nanos, route: usize, server: usize) -> Option<Nanos> {
        if !self.hedges {
            return None;
        }
        self.budget.deposit(now);
        let predicted = self.all[server].load.latency(self.class(route))?;
        Some(Nanos((HEDGE_AFTER * predicted) as u64))
    }

    fn probe(&mut self, now: Nanos, rng: &mut Rng, due: &mut Vec<usize>) {
        let endpoint = self.backend.endpoints.load().probe_due(now, rng);
        due.extend(endpoint.and_then(|endpoint| endpoint.workload.parse::<usize>().ok()));
    }

    fn probed(&mut self, now: Nanos, server: usize, report: &Report) {
        self.all[server].load.reported(report.in_flight, report.latency, now);
    }
}
