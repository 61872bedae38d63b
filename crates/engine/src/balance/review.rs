//! What holds for the whole set and is looked at now and then: which groups are used, panic, who is worse than its peers, and
//! which latency classes nobody uses any more. It looks at every endpoint, so it is no part of a request: whoever runs the engine
//! calls [`EndpointSet::review_due`] ten times a second and takes the steps of the [`Review`] when it suits.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::load::CLASSES;
use super::set::{EndpointSet, Group};
use super::{Backend, Class, Endpoint, Health};
use crate::Nanos;

/// Time between reviews: long enough that a review, which looks at every endpoint, costs next to nothing, short enough that
/// a failed zone is left at once.
const PERIOD_MIN: u64 = 100_000_000;
const PERIOD_MAX: u64 = 1_000_000_000;
const PERIOD_PER_ENDPOINT: u64 = 250_000;

/// A latency class that has learnt nothing for this long is given to whoever comes next.
const CLASS_IDLE: Nanos = Nanos::from_millis(600_000);

/// By this share at least the successes of an endpoint must stay behind its peers' for an ejection, however alike those are: of
/// five endpoints the only one that ever failed is two standard deviations below the mean, also by one request in a thousand.
const FAR: f64 = 0.05;

/// A group's part of the requests is counted in these.
pub(super) const WHOLE: u32 = 1 << 16;

/// What the last review found.
#[derive(Debug, Default)]
pub(super) struct View {
    /// When that was.
    reviewed: AtomicU64,
    /// When endpoints were last compared.
    compared: AtomicU64,
    /// Ejections and health checks are not believed.
    panic: AtomicBool,
    /// Requests in flight for each unit of weight, bits of an `f32`.
    in_flight: AtomicU32,
    /// The greatest part of its weight that an endpoint has, bits of an `f32`; zero stands for one.
    ramp: AtomicU32,
    /// The rank of the group with the most usable endpoints, and how many they are.
    spare: AtomicU32,
    spare_usable: AtomicU32,
}

/// What one look at all endpoints has found so far; made by [`EndpointSet::review_due`]. It belongs to that set.
#[derive(Debug, Default)]
pub struct Review {
    phase: Phase,
    /// Where the phase is among the endpoints.
    place: usize,
    peers: Peers,
    /// Who is among the peers, by place.
    gathered: Vec<bool>,
    tallies: Vec<Tally>,
    ramp: f32,
    /// By class, nanoseconds since anything was learnt of it at any endpoint, where that was looked at.
    learnt: Option<[f32; CLASSES]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// How endpoints do on average.
    Gather,
    /// Which of them do much worse.
    Compare,
    /// Who is usable in each group.
    #[default]
    Count,
}

/// What is usual among endpoints with enough requests.
#[derive(Debug, Default)]
struct Peers {
    count: f64,
    success: f64,
    success_squared: f64,
    usual: Usual,
}

/// One group.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    ejected: u32,
    /// Endpoints that were ejected by what the group said when counting began.
    before: u32,
    usable: u64,
    in_flight: u64,
    weight: u64,
}

impl View {
    pub(super) fn panic(&self) -> bool {
        self.panic.load(Relaxed)
    }

    /// Requests in flight for each unit of weight, on average.
    pub(super) fn in_flight(&self) -> f32 {
        f32::from_bits(self.in_flight.load(Relaxed))
    }

    /// The greatest part of its weight that an endpoint has: where all are new, all are alike.
    pub(super) fn ramp(&self) -> f32 {
        let ramp = f32::from_bits(self.ramp.load(Relaxed));
        if ramp > 0.0 { ramp } else { 1.0 }
    }

    /// The same for a set that was not reviewed yet.
    pub(super) fn ramps(&self, ramp: f32) {
        self.ramp.store(ramp.to_bits(), Relaxed);
    }

    /// Goes on from where `old` was. `alike`: whether the groups are still the same ones; if not, a review is due at once.
    pub(super) fn follow(&self, old: &View, alike: bool) {
        self.compared.store(old.compared.load(Relaxed), Relaxed);
        self.panic.store(old.panic(), Relaxed);
        self.in_flight.store(old.in_flight.load(Relaxed), Relaxed);
        if alike {
            self.spare.store(old.spare.load(Relaxed), Relaxed);
            self.spare_usable.store(old.spare_usable.load(Relaxed), Relaxed);
            self.reviewed.store(old.reviewed.load(Relaxed), Relaxed);
        }
    }
}

impl EndpointSet {
    /// A review, if one is due; a clock that jumped back makes it due too. Of those who ask at the same time one gets it.
    pub fn review_due(&self, now: Nanos) -> Option<Review> {
        let period = (self.endpoints().len() as u64 * PERIOD_PER_ENDPOINT).clamp(PERIOD_MIN, PERIOD_MAX);
        let view = self.view();
        let before = view.reviewed.load(Relaxed);
        let due = before == 0 || now.0.wrapping_sub(before) >= period;
        if !due || view.reviewed.compare_exchange(before, now.0.max(1), Relaxed, Relaxed).is_err() {
            return None;
        }
        let mut review = Review { tallies: vec![Tally::default(); self.groups().len()], ..Review::default() };
        let compared = view.compared.load(Relaxed);
        if compared == 0 || now.0.wrapping_sub(compared) >= self.policy().outlier.interval.0 {
            view.compared.store(now.0.max(1), Relaxed);
            review.learnt = Some([f32::INFINITY; CLASSES]);
            // The first time what was counted is of no known length.
            review.phase = if compared == 0 { Phase::Compare } else { Phase::Gather };
        }
        Some(review)
    }

    /// The whole review at once, if one is due: where nobody waits, as in simulations.
    pub fn review(&self, now: Nanos) {
        if let Some(mut review) = self.review_due(now) {
            while !review.step(self, now, usize::MAX) {}
        }
    }

    /// Ejects an endpoint if it may be, by what was counted last. Workers that eject different endpoints in the same instant may
    /// exceed the share by one each.
    pub(super) fn eject(&self, endpoint: &Endpoint, now: Nanos) {
        let policy = &self.policy().outlier;
        let place = self.endpoints().binary_search_by(|other| other.workload.cmp(&endpoint.workload));
        let own = |(_, group): &(u32, &Group)| place.is_ok_and(|place| group.members.contains(place));
        // Who is in no group is draining, or was removed while the request was under way.
        let Some((rank, group)) = (0..).zip(self.groups()).find(own) else { return };
        let all = u64::from(group.members.len());
        let share = all * u64::from(policy.max_ejected_percent.min(100)) / 100;
        let few = u64::from(group.ejected.load(Relaxed)) < share.max(u64::from(all >= 2));
        if (few || self.is_spared(rank, all - share)) && endpoint.load.eject(now, policy) {
            group.ejected.fetch_add(1, Relaxed);
        }
    }

    /// Whether all of the group of this rank may go because another one stands in for it: one with no fewer usable endpoints than
    /// the cap would leave of the group by itself.
    fn is_spared(&self, rank: u32, left: u64) -> bool {
        let view = self.view();
        view.spare.load(Relaxed) != rank && u64::from(view.spare_usable.load(Relaxed)) >= left.max(1)
    }

    fn counts(&self, endpoint: &Endpoint, now: Nanos) -> bool {
        let enough = endpoint.load.window().0 >= self.policy().outlier.min_requests.max(1);
        enough && endpoint.health == Health::Ready && !endpoint.load.ejected(now)
    }
}

impl Review {
    /// Looks at up to `count` endpoints of `set`, which must be the one that this is a review of; true when it is done.
    pub fn step(&mut self, set: &EndpointSet, now: Nanos, count: usize) -> bool {
        let all = set.endpoints();
        let until = self.place.saturating_add(count.max(1));
        match self.phase {
            Phase::Gather => {
                let part = &all[self.place.min(all.len())..until.min(all.len())];
                for endpoint in part {
                    let counts = set.counts(endpoint, now);
                    self.gathered.push(counts);
                    if counts {
                        self.peers.add(endpoint);
                    }
                }
                self.go_on(until, all.len(), Phase::Compare);
            }
            Phase::Compare => {
                let from = self.place.min(all.len());
                for (place, endpoint) in (from..).zip(&all[from..until.min(all.len())]) {
                    let gathered = self.gathered.get(place).copied().unwrap_or_default();
                    self.compare(set, endpoint, gathered, now);
                }
                self.go_on(until, all.len(), Phase::Count);
            }
            Phase::Count => {
                if self.place == 0 {
                    let pairs = set.groups().iter().zip(&mut self.tallies);
                    pairs.for_each(|(group, tally)| tally.before = group.ejected.load(Relaxed));
                }
                let mut from = 0;
                for (group, tally) in set.groups().iter().zip(&mut self.tallies) {
                    let members = group.members.len() as usize;
                    let of = |place: usize| place.clamp(from, from + members) - from;
                    for member in of(self.place)..of(until) {
                        let endpoint = &all[group.members.member(member as u32)];
                        let load = &endpoint.load;
                        load.grow(now, set.policy().slow_start.as_ref());
                        self.ramp = self.ramp.max(load.ramp());
                        tally.ejected += u32::from(load.is_out_for_failures(now));
                        tally.usable += u64::from(!load.ejected(now) && !load.unhealthy());
                        tally.in_flight += u64::from(load.in_flight());
                        tally.weight += u64::from(endpoint.weight.max(1));
                    }
                    from += members;
                }
                self.place = until;
                if until >= from {
                    self.publish(set);
                    return true;
                }
            }
        }
        false
    }

    fn go_on(&mut self, until: usize, all: usize, next: Phase) {
        (self.place, self.phase) = if until >= all { (0, next) } else { (until, self.phase) };
    }

    /// Ejects an endpoint that is much worse than its peers, of which it must be one itself (`gathered`). Every interval counts its
    /// own outcomes.
    fn compare(&mut self, set: &EndpointSet, endpoint: &Endpoint, gathered: bool, now: Nanos) {
        let policy = &set.policy().outlier;
        let enough = self.peers.count >= f64::from(policy.min_hosts.max(2));
        if enough && gathered && set.counts(endpoint, now) {
            let floor = self.peers.success_floor(policy.success_rate_stdev);
            let far = self.peers.success / self.peers.count * (1.0 - FAR);
            let failed = policy.success_rate_stdev > 0 && success(endpoint) < floor.min(far);
            let ceiling = f64::from(policy.latency_percent) / 100.0;
            let slow = policy.latency_percent > 0 && slowness(endpoint, &self.peers.usual) > ceiling;
            if failed || slow {
                set.eject(endpoint, now);
            }
        }
        endpoint.load.take_window();
        if let Some(learnt) = &mut self.learnt {
            for (class, least) in (0..).zip(learnt) {
                *least = least.min(endpoint.load.learnt_ago(Class(class), now).unwrap_or(f32::INFINITY));
            }
        }
    }

    fn publish(&self, set: &EndpointSet) {
        let (view, policy) = (set.view(), set.policy());
        let sum = |of: fn(&Tally) -> u64| self.tallies.iter().map(of).sum::<u64>();
        // No group is well by its own measure: while one is, it is better than the sick ones of another, however few it has.
        let few = |(group, tally): (&Group, &Tally)| {
            tally.usable * 100 < u64::from(group.members.len()) * u64::from(policy.panic_percent.min(100))
        };
        let panic = !set.groups().is_empty() && set.groups().iter().zip(&self.tallies).all(few);
        view.panic.store(panic, Relaxed);
        if let Some((rank, tally)) = (0..).zip(&self.tallies).max_by_key(|(_, tally)| tally.usable) {
            view.spare.store(rank, Relaxed);
            view.spare_usable.store(u32::try_from(tally.usable).unwrap_or(u32::MAX), Relaxed);
        }
        let in_flight = sum(|t| t.in_flight) as f32 / sum(|t| t.weight).max(1) as f32;
        view.in_flight.store(in_flight.to_bits(), Relaxed);
        view.ramps(self.ramp);
        for (group, tally) in set.groups().iter().zip(&self.tallies) {
            // Who was ejected since counting began stays counted, some twice until the next review: that is on the safe side.
            group.ejected.fetch_add(tally.ejected.wrapping_sub(tally.before), Relaxed);
        }
        let failover = u64::from(policy.failover_percent.clamp(1, 100));
        let part = |(group, tally): (&Group, &Tally)| {
            let wanted = u64::from(group.members.len()) * failover;
            (tally.usable * 100) as f64 / wanted.max(1) as f64
        };
        let parts: Vec<f64> = set.groups().iter().zip(&self.tallies).map(part).collect();
        share_out(set.groups(), &parts);
    }
}

impl Backend {
    /// Frees latency classes that nobody has used for ten minutes, by what `review` of its endpoints has found. Forgets what
    /// was learnt of them, so that whoever gets one next starts anew. A request that is still under way teaches its successor
    /// once, which an average can bear.
    pub fn free_classes(&self, review: &Review, now: Nanos) {
        let Some(learnt) = &review.learnt else { return };
        for ((class, owner), (idle, learnt)) in (1..).zip(&self.classes).zip(self.idle.iter().zip(&learnt[1..])) {
            let since = idle.load(Relaxed);
            if owner.load(Relaxed) == 0 || *learnt < (CLASS_IDLE.0 / 10) as f32 {
                idle.store(0, Relaxed);
            } else if since == 0 || since > now.0 {
                // Just claimed perhaps, and not answered yet.
                idle.store(now.0.max(1), Relaxed);
            } else if now.0 - since >= CLASS_IDLE.0 {
                self.endpoints.load().endpoints().iter().for_each(|e| e.load.forget(Class(class)));
                idle.store(0, Relaxed);
                owner.store(0, Relaxed);
            }
        }
    }
}

impl Peers {
    fn add(&mut self, endpoint: &Endpoint) {
        let success = success(endpoint);
        self.count += 1.0;
        self.success += success;
        self.success_squared += success * success;
        for (class, (sum, count)) in (0..).zip(&mut self.usual) {
            if let Some(latency) = endpoint.load.latency(Class(class)) {
                *sum += latency.ln();
                *count += 1.0;
            }
        }
    }

    /// The share of successes below which an endpoint is an outlier, as Envoy computes it.
    fn success_floor(&self, thousandths: u32) -> f64 {
        let mean = self.success / self.count;
        let variance = (self.success_squared / self.count - mean * mean).max(0.0);
        mean - variance.sqrt() * f64::from(thousandths) / 1000.0
    }
}

/// Gives each group its part: the first as much as it can bear, the rest what is left. `parts`: what each can bear.
fn share_out(groups: &[Group], parts: &[f64]) {
    let mut left = 1.0;
    let mut shares: Vec<f64> = parts
        .iter()
        .map(|part| {
            let share = left * part.min(1.0);
            left -= share;
            share
        })
        .collect();
    let sum: f64 = shares.iter().sum();
    if sum > 0.0 {
        shares.iter_mut().for_each(|share| *share /= sum);
    } else if let Some(first) = shares.first_mut() {
        *first = 1.0;
    }
    let mut until = 0.0;
    for (group, share) in groups.iter().zip(shares) {
        until += share;
        group.until.store((until * f64::from(WHOLE)).round() as u32, Relaxed);
    }
}

fn success(endpoint: &Endpoint) -> f64 {
    let (all, failed) = endpoint.load.window();
    1.0 - f64::from(failed) / f64::from(all.max(1))
}

/// By class, the sum of the logarithms of latencies, and how many.
type Usual = [(f64, f64); CLASSES];

/// How many times longer than its peers an endpoint takes: the geometric mean over the classes that it shares with them.
fn slowness(endpoint: &Endpoint, usual: &Usual) -> f64 {
    let (mut sum, mut classes) = (0.0, 0.0);
    for (class, (all, count)) in (0..).zip(usual) {
        if let Some(latency) = endpoint.load.latency(Class(class))
            && *count >= 2.0
        {
            let peers = (all - latency.ln()) / (count - 1.0);
            sum += latency.ln() - peers;
            classes += 1.0;
        }
    }
    if classes > 0.0 { (sum / classes).exp() } else { 1.0 }
}
