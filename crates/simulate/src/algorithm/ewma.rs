//! Algorithms of others that look at latency without probes, as their authors describe them.

use engine::{Nanos, Rng};

use super::{Answer, Balancer, listed, two};

/// Finagle's peak EWMA with its constants: decay over 10 s, a penalty for what was never heard of.
#[derive(Default)]
pub(crate) struct PeakEwma {
    list: Vec<usize>,
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    cost: f64,
    stamp: Nanos,
    pending: u32,
}

const TAU: f64 = 10e9;
const PENALTY: f64 = f64::MAX / 2.0;

impl Node {
    fn observe(&mut self, rtt: f64, now: Nanos) {
        let kept = (-(now.since(self.stamp).0 as f64) / TAU).exp();
        self.cost = if rtt > self.cost { rtt } else { self.cost * kept + rtt * (1.0 - kept) };
        self.stamp = now;
    }

    fn load(&mut self, now: Nanos) -> f64 {
        // Decays toward zero while nothing is heard.
        self.observe(0.0, now);
        if self.cost == 0.0 && self.pending > 0 {
            PENALTY + f64::from(self.pending)
        } else {
            self.cost * (f64::from(self.pending) + 1.0)
        }
    }
}

impl Balancer for PeakEwma {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
        self.nodes.resize(present.len(), Node::default());
    }

    fn choose(&mut self, now: Nanos, _: usize, _: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let (a, b) = two(&self.list, rng)?;
        Some(if self.nodes[b].load(now) < self.nodes[a].load(now) { b } else { a })
    }

    fn sent(&mut self, _: Nanos, _: usize, server: usize) {
        self.nodes[server].pending += 1;
    }

    fn answered(&mut self, now: Nanos, (): (), answer: &Answer) {
        let node = &mut self.nodes[answer.server];
        node.pending -= 1;
        node.observe(answer.latency.0 as f64, now);
    }
}

/// C3: `latency - service time + (requests there)³ · service time`, where the requests there are guessed from the server's
/// last word and those of this client, which every client is taken to have as many of.
pub(crate) struct C3 {
    clients: f64,
    list: Vec<usize>,
    replicas: Vec<Replica>,
}

#[derive(Clone, Copy, Default)]
struct Replica {
    outstanding: u32,
    latency: f64,
    queue: f64,
    service: f64,
}

/// What is kept of an average when a new value comes.
const KEPT: f64 = 0.9;

impl C3 {
    pub(crate) fn new(clients: usize) -> C3 {
        C3 { clients: clients as f64, list: Vec::new(), replicas: Vec::new() }
    }
}

impl Balancer for C3 {
    type Token = ();

    fn change(&mut self, present: &[bool]) {
        self.list = listed(present);
        self.replicas.resize(present.len(), Replica::default());
    }

    fn choose(&mut self, _: Nanos, _: usize, _: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let score = |server: usize| {
            let replica = &self.replicas[server];
            let queue = 1.0 + f64::from(replica.outstanding) * self.clients + replica.queue;
            replica.latency - replica.service + queue.powi(3) * replica.service
        };
        let start = rng.below(self.list.len().max(1) as u32) as usize;
        let round = self.list[start..].iter().chain(&self.list[..start]);
        round.copied().min_by(|a, b| score(*a).total_cmp(&score(*b)))
    }

    fn sent(&mut self, _: Nanos, _: usize, server: usize) {
        self.replicas[server].outstanding += 1;
    }

    fn answered(&mut self, _: Nanos, (): (), answer: &Answer) {
        let replica = &mut self.replicas[answer.server];
        replica.outstanding -= 1;
        let blend = |old: &mut f64, new: f64| *old = if *old == 0.0 { new } else { KEPT * *old + (1.0 - KEPT) * new };
        blend(&mut replica.latency, answer.latency.0 as f64 / 1e6);
        if let Some(report) = &answer.report {
            blend(&mut replica.queue, f64::from(report.in_flight));
            blend(&mut replica.service, report.service);
        }
    }
}
