//! Algorithms that look at no latency.

use engine::{Nanos, Rng};

use super::{Answer, Balancer, listed};
use crate::distribution::unit;

/// In turn, each client from another place.
pub(crate) struct RoundRobin {
    list: Vec<usize>,
    turn: usize,
}

impl RoundRobin {
    pub(crate) fn new(client: usize) -> RoundRobin {
        RoundRobin { list: Vec::new(), turn: client * 7 }
    }
}

impl Balancer for RoundRobin {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
    }

    fn choose(&mut self, _: Nanos, _: usize, _: Option<usize>, _: &mut Rng) -> Option<usize> {
        self.turn += 1;
        self.list.get(self.turn % self.list.len().max(1)).copied()
    }

    fn sent(&mut self, _: Nanos, _: usize, _: usize) {}

    fn answered(&mut self, _: Nanos, (): (), _: &Answer) {}
}

#[derive(Default)]
pub(crate) struct Random {
    list: Vec<usize>,
}

impl Balancer for Random {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
    }

    fn choose(&mut self, _: Nanos, _: usize, _: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let count = self.list.len() as u32;
        (count > 0).then(|| self.list[rng.below(count) as usize])
    }

    fn sent(&mut self, _: Nanos, _: usize, _: usize) {}

    fn answered(&mut self, _: Nanos, (): (), _: &Answer) {}
}

/// The fewest requests of this client in flight, of all; a random one of those that are equal.
#[derive(Default)]
pub(crate) struct LeastLoaded {
    list: Vec<usize>,
    in_flight: Vec<u32>,
}

impl Balancer for LeastLoaded {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
        self.in_flight.resize(present.len(), 0);
    }

    fn choose(&mut self, _: Nanos, _: usize, _: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let least = self.list.iter().map(|&server| self.in_flight[server]).min()?;
        let (mut seen, mut chosen) = (0, None);
        for &server in self.list.iter().filter(|&&server| self.in_flight[server] == least) {
            seen += 1;
            if rng.below(seen) == 0 {
                chosen = Some(server);
            }
        }
        chosen
    }

    fn sent(&mut self, _: Nanos, _: usize, server: usize) {
        self.in_flight[server] += 1;
    }

    fn answered(&mut self, _: Nanos, (): (), answer: &Answer) {
        self.in_flight[answer.server] -= 1;
    }
}

/// Weighted round robin with measured weights: a server that gives more answers for each second that it is busy gets more.
pub(crate) struct Weighted {
    list: Vec<usize>,
    weights: Vec<f64>,
    /// What each is owed.
    credit: Vec<f64>,
    client: usize,
}

/// What a new measurement of a weight counts against the ones before.
const NEW: f64 = 0.3;

impl Weighted {
    pub(crate) fn new(client: usize) -> Weighted {
        Weighted { list: Vec::new(), weights: Vec::new(), credit: Vec::new(), client }
    }
}

impl Balancer for Weighted {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
        let known = self.weights.iter().filter(|weight| **weight > 0.0);
        let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
        self.weights.resize(present.len(), if mean > 0.0 { mean } else { 1.0 });
        // Clients begin at different places, or all would send to the same server at the same time.
        let mut rng = Rng::seeded(self.client as u64);
        self.credit = (0..present.len()).map(|_| unit(&mut rng)).collect();
    }

    fn choose(&mut self, _: Nanos, _: usize, _: Option<usize>, _: &mut Rng) -> Option<usize> {
        let total: f64 = self.list.iter().map(|&server| self.weights[server]).sum();
        let mut best: Option<usize> = None;
        for &server in &self.list {
            self.credit[server] += self.weights[server] / total;
            if best.is_none_or(|best| self.credit[server] > self.credit[best]) {
                best = Some(server);
            }
        }
        if let Some(best) = best {
            self.credit[best] -= 1.0;
        }
        best
    }

    fn sent(&mut self, _: Nanos, _: usize, _: usize) {}

    fn answered(&mut self, _: Nanos, (): (), _: &Answer) {}

    fn control(&mut self, measured: &[(f64, f64)]) {
        for (weight, (answers, busy)) in self.weights.iter_mut().zip(measured) {
            if *busy > 0.0 {
                let measured = answers.max(0.1) / busy;
                *weight += NEW * (measured - *weight);
            }
        }
    }
}
