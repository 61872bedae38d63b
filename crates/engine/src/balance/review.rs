//! What holds for the whole set and is looked at now and then: which groups are used, panic, and who is worse than its peers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::load::CLASSES;
use super::set::{EndpointSet, Group};
use super::{Class, Endpoint, Health};
use crate::Nanos;

/// Time between reviews: long enough that a review, which looks at every endpoint, costs next to nothing, short enough that
/// a failed zone is left at once.
const PERIOD_MIN: u64 = 100_000_000;
const PERIOD_MAX: u64 = 1_000_000_000;
const PERIOD_PER_ENDPOINT: u64 = 250_000;

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

    /// Goes on from where `old` was, so that changes of the set do not put comparisons off.
    pub(super) fn follow(&self, old: &View) {
        self.compared.store(old.compared.load(Relaxed), Relaxed);
    }
}

impl EndpointSet {
    /// Whether a review is due. A clock that jumped back makes it due too.
    #[inline]
    pub(super) fn review_due(&self, now: Nanos) -> bool {
        let period = (self.endpoints().len() as u64 * PERIOD_PER_ENDPOINT).clamp(PERIOD_MIN, PERIOD_MAX);
        let reviewed = self.view().reviewed.load(Relaxed);
        reviewed == 0 || now.0.wrapping_sub(reviewed) >= period
    }

    #[cold]
    pub(super) fn review(&self, now: Nanos) {
        let view = self.view();
        let before = view.reviewed.load(Relaxed);
        // Of workers that find it due at the same time, one does it.
        if view.reviewed.compare_exchange(before, now.0.max(1), Relaxed, Relaxed).is_err() {
            return;
        }
        self.compare(now);
        let (mut all, mut usable, mut in_flight, mut weight) = (0, 0, 0, 0);
        let (mut parts, mut ramp) = (Vec::with_capacity(self.groups().len()), 0f32);
        for group in self.groups() {
            let mut well = 0;
            for endpoint in group.members.iter().map(|i| &self.endpoints()[i]) {
                let load = &endpoint.load;
                load.grow(now, self.policy().slow_start.as_ref());
                ramp = load.ramp().max(ramp);
                well += u64::from(!load.ejected(now) && !load.unhealthy());
                in_flight += u64::from(load.in_flight());
                weight += u64::from(endpoint.weight.max(1));
            }
            all += u64::from(group.members.len());
            usable += well;
            let wanted = u64::from(group.members.len()) * u64::from(self.policy().failover_percent.clamp(1, 100));
            parts.push((well * 100) as f64 / wanted.max(1) as f64);
        }
        let panic = usable * 100 < all * u64::from(self.policy().panic_percent.min(100));
        view.panic.store(panic, Relaxed);
        view.in_flight.store((in_flight as f32 / weight.max(1) as f32).to_bits(), Relaxed);
        view.ramp.store(ramp.to_bits(), Relaxed);
        share_out(self.groups(), &parts, panic);
    }

    /// Ejects endpoints that are much worse than their peers. Every interval counts its own outcomes.
    fn compare(&self, now: Nanos) {
        let (view, policy) = (self.view(), &self.policy().outlier);
        let compared = view.compared.load(Relaxed);
        if compared != 0 && now.0.wrapping_sub(compared) < policy.interval.0 {
            return;
        }
        view.compared.store(now.0.max(1), Relaxed);
        let counted = || {
            self.endpoints().iter().filter(|e| {
                e.health == Health::Ready && !e.load.ejected(now) && e.load.window().0 >= policy.min_requests.max(1)
            })
        };
        if compared != 0 && counted().count() as u64 >= u64::from(policy.min_hosts.max(2)) {
            let floor = success_floor(counted(), policy.success_rate_stdev);
            let usual = usual_latencies(counted());
            for endpoint in counted() {
                let failed = policy.success_rate_stdev > 0 && success(endpoint) < floor;
                let ceiling = f64::from(policy.latency_percent) / 100.0;
                let slow = policy.latency_percent > 0 && slowness(endpoint, &usual) > ceiling;
                if (failed || slow) && self.may_eject(now) {
                    endpoint.load.eject(now, policy);
                }
            }
        }
        for endpoint in self.endpoints() {
            endpoint.load.take_window();
        }
    }
}

/// Gives each group its part: the first as much as it can bear, the rest what is left. `parts`: what each can bear.
fn share_out(groups: &[Group], parts: &[f64], panic: bool) {
    let mut left = 1.0;
    let mut shares: Vec<f64> = parts
        .iter()
        .map(|part| {
            let share = left * if panic { 1.0 } else { part.min(1.0) };
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

/// The share of successes below which an endpoint is an outlier, as Envoy computes it.
fn success_floor<'a>(counted: impl Iterator<Item = &'a std::sync::Arc<Endpoint>> + Clone, thousandths: u32) -> f64 {
    let count = counted.clone().count().max(1) as f64;
    let mean = counted.clone().map(|e| success(e)).sum::<f64>() / count;
    let variance = counted.map(|e| (success(e) - mean).powi(2)).sum::<f64>() / count;
    mean - variance.sqrt() * f64::from(thousandths) / 1000.0
}

/// By class, the sum of the logarithms of latencies, and how many.
type Usual = [(f64, f64); CLASSES];

fn usual_latencies<'a>(counted: impl Iterator<Item = &'a std::sync::Arc<Endpoint>>) -> Usual {
    let mut usual = Usual::default();
    for endpoint in counted {
        for (class, (sum, count)) in (0..).zip(&mut usual) {
            if let Some(latency) = endpoint.load.latency(Class(class)) {
                *sum += latency.ln();
                *count += 1.0;
            }
        }
    }
    usual
}

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
