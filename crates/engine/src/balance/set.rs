//! The endpoints of a backend, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::hashed::{self, Sessions};
use super::load;
use super::review::{View, WHOLE};
use super::spread::Spread;
use super::{Class, Endpoint, Health, Locality};
use crate::policy::{Algorithm, BalancePolicy};
use crate::{Nanos, Rng};

/// What making a connection (TCP and TLS, both sides verified) adds to a first request at most: about what it takes within
/// one data centre.
const CONNECT_COST: f32 = 1_000_000.0;

/// How many endpoints `fastest` compares.
///
/// In the simulator two leave a third more of the 99th percentile than six where instances differ (`unequal`, `cold`); eight
/// gain another 2 %.
const CANDIDATES: usize = 6;

/// How often an endpoint is drawn before all are looked at, or fewer are compared. With half of them usable these yield six
/// candidates in nine cases of ten.
const DRAWS: usize = 16;

/// How often is drawn again where slow start refused all of them. Who is new is taken one time in ten at least, so that one in
/// eight hundred such choices finds none still; it takes a new one.
const DRAWS_NEW: usize = 64;

/// Sets up to this size are looked at as a whole where drawing does not yield enough.
const FEW: u32 = 64;

/// One choice in so many is for a trial, if one is due: one in twice the number of endpoints between these. Where there are as
/// many endpoints as requests, most of what is known is old, and choices would be left to chance; and of many endpoints that
/// are slow one request in 512 finds out, which leaves the 99th percentile as it was.
const TRIALS: u32 = 8;
const TRIALS_MANY: u32 = 512;

/// Among how many endpoints the one for a trial is looked for. Among the six that are compared one of thousands would be found
/// after minutes.
const TRIAL_LOOKS: u32 = 64;

/// How much more each request of ours in flight counts for every one of others there: who sees little of what others do
/// had better take what it does itself for a sign of it, as C3 does.
const OWN: f32 = 0.5;

/// Of the request that is to be sent, half is counted when requests in flight are divided by weights: with the whole of it the
/// heavier get more than their share, with none of it less (the rules of D'Hondt, Sainte-Laguë and Adams).
const HALF: f32 = 0.5;

/// How much of what is usually in flight at the candidates counts at each; see the module's documentation. That is what this
/// proxy has in flight at the busiest, or what is in flight at the second busiest by all accounts: what one server says of itself
/// changes nothing between others.
const SPREAD: f32 = 0.5;

/// Latencies that are longer than the least by less than this factor are taken to be the same: estimates are not better than
/// that, and instances that are as good as each other should share the work. In the simulator every table is as good or better
/// with it than without; 1.25 and 1.6 gain less, 2 loses where instances are of unequal size.
const ALIKE: f32 = 1.4;

/// How many endpoints are looked at for one that should be probed.
const PROBE_DRAWS: usize = 4;

/// An endpoint is probed when nothing was heard of it for this long.
const PROBE_AFTER: Nanos = Nanos::from_millis(250);

/// The endpoints of one backend at one time, and how one is chosen.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Sorted by workload.
    endpoints: Vec<Arc<Endpoint>>,
    policy: BalancePolicy,
    /// The ready ones by priority and nearness, the best first.
    groups: Vec<Group>,
    /// Where sessions lead, by priority.
    sessions: Box<[Sessions]>,
    view: View,
    /// The next turn of a round robin.
    turn: AtomicU64,
    /// When the next probe may be sent.
    probe: AtomicU64,
}

/// Endpoints that are used alike.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) priority: u32,
    /// 0: the caller's zone; 1: its region; 2: elsewhere.
    pub(super) distance: u32,
    pub(super) members: Spread,
    /// The end of its part of the requests; it begins where that of the group before ends.
    pub(super) until: AtomicU32,
    /// Members that are ejected.
    pub(super) ejected: AtomicU32,
}

/// What the choice depends on besides the endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Of [`super::Backend::class`].
    pub class: Class,
    /// Requests with the same one go to the same endpoint, if the policy wants sessions ([`super::hash`] makes one).
    pub hash: Option<u64>,
    /// Ids of endpoints that are not picked again while others are left.
    pub tried: &'a [u64],
}

/// What a choice went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The hash of the request led there.
    Hash,
    /// Nothing was known of it for long enough that one request should find out how it is.
    Trial,
    /// It cost the least of those that were compared (`fastest`), or was the only one.
    Cost,
    /// It had the fewer requests in flight for its weight (`least-request`).
    InFlight,
    /// It was its turn (`round-robin`).
    Turn,
    /// Chance (`random`, and the hashing algorithms where a request has no hash).
    Chance,
}

/// How willingly an endpoint is used; less is better. The order is that of [`EndpointSet::choose`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Tier {
    Fresh,
    LeftOut,
    Tried,
    TriedLeftOut,
    Draining,
    TriedDraining,
}

/// Endpoints that were drawn, in the order in which they came.
pub(super) struct Drawn<'a, const N: usize> {
    /// The places behind `count` hold any endpoint at all.
    list: [&'a Arc<Endpoint>; N],
    count: usize,
}

impl<'a, const N: usize> Drawn<'a, N> {
    /// None yet.
    #[inline]
    fn none(filler: &'a Arc<Endpoint>) -> Drawn<'a, N> {
        Drawn { list: [filler; N], count: 0 }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[&'a Arc<Endpoint>] {
        &self.list[..self.count]
    }

    #[inline]
    fn first(&self) -> Option<&'a Arc<Endpoint>> {
        self.as_slice().first().copied()
    }
}

/// One of the endpoints that are compared.
#[derive(Clone, Copy)]
pub(super) struct Compared<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// Half of what one request is for each unit of weight.
    half: f32,
    /// Requests of this proxy in flight for each unit of weight.
    own: f32,
    /// The same, those of others included.
    pub(super) busy: f32,
    /// Zero: unknown.
    pub(super) latency: f32,
}

impl EndpointSet {
    /// The set of these endpoints, for a caller that runs `here`.
    pub fn new(mut endpoints: Vec<Arc<Endpoint>>, policy: BalancePolicy, here: &Locality) -> EndpointSet {
        endpoints.sort_by(|a, b| a.workload.cmp(&b.workload));
        EndpointSet::sorted(endpoints, policy, here)
    }

    /// The same of endpoints that are sorted by workload already: of ten thousand, comparing names is most of the work.
    pub fn sorted(endpoints: Vec<Arc<Endpoint>>, policy: BalancePolicy, here: &Locality) -> EndpointSet {
        debug_assert!(endpoints.is_sorted_by(|a, b| a.workload <= b.workload), "sorted by workload");
        let mut ready: Vec<(u32, u32, u32)> = Vec::new();
        for (i, endpoint) in (0..).zip(&endpoints).filter(|(_, e)| e.health == Health::Ready) {
            let distance = if policy.prefer_local { here.distance(&endpoint.locality) } else { 0 };
            ready.push((endpoint.priority, distance, i));
        }
        ready.sort_unstable();
        let groups: Vec<Group> = ready
            .chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
            .map(|group| Group {
                priority: group[0].0,
                distance: group[0].1,
                members: Spread::new(group.iter().map(|(_, _, i)| *i).collect(), &endpoints),
                until: AtomicU32::new(WHOLE),
                // At most: who was ejected before has not succeeded since.
                ejected: AtomicU32::new(
                    group.iter().filter(|r| endpoints[r.2 as usize].load.ejections() > 0).count() as u32
                ),
            })
            .collect();
        let sessions = hashed::sessions(&policy, &groups, &endpoints);
        let view = View::default();
        if let Some(slow_start) = &policy.slow_start {
            // At once, and not with the first review: until then it might get a hundred requests.
            let ready = || endpoints.iter().filter(|e| e.health == Health::Ready);
            ready().for_each(|e| e.load.begin(slow_start));
            view.ramps(ready().map(|e| e.load.ramp()).fold(0.0, f32::max));
        }
        EndpointSet { endpoints, policy, groups, sessions, view, ..EndpointSet::default() }
    }

    /// Goes on from where `old` was: its turn in a round, its measurements of the moment.
    pub fn following(self, old: &EndpointSet) -> EndpointSet {
        self.turn.store(old.turn.load(Relaxed), Relaxed);
        self.probe.store(old.probe.load(Relaxed), Relaxed);
        let places = |set: &EndpointSet| -> Vec<_> { set.groups.iter().map(|g| (g.priority, g.distance)).collect() };
        let alike = places(&self) == places(old);
        self.view.follow(&old.view, alike);
        if alike {
            let pairs = self.groups.iter().zip(&old.groups);
            for (new, old) in pairs {
                new.until.store(old.until.load(Relaxed), Relaxed);
                new.ejected.store(old.ejected.load(Relaxed), Relaxed);
            }
        }
        self
    }

    /// All of them, sorted by workload.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How one is chosen.
    pub fn policy(&self) -> &BalancePolicy {
        &self.policy
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) fn sessions(&self) -> &[Sessions] {
        &self.sessions
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Picks an endpoint by the policy's algorithm. `warm` tells whether this worker has a ready connection; a cold one costs
    /// more. Of the groups one is drawn by their parts, in it ready endpoints that are not left out; if there are none, those
    /// of other groups; then those left out; then those tried before; then draining ones; never one that is not ready. `None`
    /// only when there is none. A request with a hash goes where that leads, in the best priority that has a usable one.
    #[inline]
    pub fn choose(
        &self,
        now: Nanos,
        rng: &mut Rng,
        ask: &Ask<'_>,
        warm: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        self.choose_by(now, rng, ask, warm).map(|(chosen, _)| chosen)
    }

    /// As [`EndpointSet::choose`], and what the choice went by.
    #[inline]
    pub fn choose_by(
        &self,
        now: Nanos,
        rng: &mut Rng,
        ask: &Ask<'_>,
        warm: impl Fn(&Endpoint) -> bool,
    ) -> Option<(Arc<Endpoint>, By)> {
        if let Some(hash) = ask.hash
            && let Some(found) = self.by_hash(hash, now, ask)
        {
            return Some((Arc::clone(found), By::Hash));
        }
        let (chosen, by) = match self.policy.algorithm {
            Algorithm::Fastest => {
                let drawn = self.candidates::<CANDIDATES>(now, rng, ask)?;
                let trials = (2 * self.endpoints.len() as u32).clamp(TRIALS, TRIALS_MANY);
                let trial = if rng.below(trials) == 0 { self.trial_due(now, rng, ask, drawn.as_slice()) } else { None };
                match trial {
                    Some(trial) => (trial, By::Trial),
                    None => (cheapest(drawn.as_slice(), now, ask.class, &warm)?, By::Cost),
                }
            }
            Algorithm::LeastRequest => {
                let drawn = self.candidates::<2>(now, rng, ask)?;
                // As for `fastest`.
                let idle = drawn.as_slice().iter().fold(0f32, |most, e| most.max(HALF / weight(e)));
                let requests = |e: &Endpoint| ((e.load.in_flight() as f32 + HALF) / weight(e)).max(idle);
                let least = drawn.as_slice().iter().copied().min_by(|a, b| requests(a).total_cmp(&requests(b)));
                (least?, By::InFlight)
            }
            Algorithm::RoundRobin => (self.next(now, rng, ask)?, By::Turn),
            Algorithm::Random | Algorithm::RingHash | Algorithm::Maglev => {
                (self.candidates::<1>(now, rng, ask)?.first()?, By::Chance)
            }
        };
        Some((Arc::clone(chosen), by))
    }

    /// The endpoint of `workload`, if a request may go there as willingly as anywhere: where a session is.
    pub fn named(&self, workload: &str, now: Nanos, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        let place = self.endpoints.binary_search_by(|endpoint| (*endpoint.workload).cmp(workload)).ok()?;
        let endpoint = &self.endpoints[place];
        (tier(endpoint, now, ask, self.view.panic()) == Some(Tier::Fresh)).then_some(endpoint)
    }

    /// The endpoint that should be probed now, if any: nothing is waited for there, nothing was heard for a while, and this
    /// proxy has not used up its probes. Its answer goes to [`load::Load::reported`]; ask after a request was sent, so that
    /// nothing is probed where nothing is sent.
    pub fn probe_due(&self, now: Nanos, rng: &mut Rng) -> Option<Arc<Endpoint>> {
        let (next, rate) = (self.probe.load(Relaxed), self.policy.probes_per_second);
        if rate == 0 || self.policy.algorithm != Algorithm::Fastest {
            return None;
        }
        let gap = 1_000_000_000 / u64::from(rate);
        // A clock that jumped back must not stop probes.
        if now.0 < next && next - now.0 <= gap {
            return None;
        }
        let group = self.group(rng)?;
        let stale = (0..PROBE_DRAWS.min(group.members.len() as usize))
            .map(|_| &self.endpoints[group.members.draw(rng)])
            .filter(|e| e.load.requests() > 0 && e.load.waiting() == 0 && !e.load.ejected(now))
            .filter(|e| now.since(e.load.quiet_since()) >= PROBE_AFTER)
            .min_by_key(|e| e.load.quiet_since())?;
        // Of workers that find one at the same time, one probes.
        self.probe.compare_exchange(next, now.after(Nanos(gap)).0, Relaxed, Relaxed).ok()?;
        Some(Arc::clone(stale))
    }

    /// Of some usable endpoints, the one that has been silent for the longest of those for which a trial is due. If there is none,
    /// one of `drawn`: they are not usable where nothing is.
    #[cold]
    fn trial_due<'a>(
        &'a self,
        now: Nanos,
        rng: &mut Rng,
        ask: &Ask<'_>,
        drawn: &[&'a Arc<Endpoint>],
    ) -> Option<&'a Arc<Endpoint>> {
        let (members, panic) = (&self.group(rng)?.members, self.view.panic());
        let all = members.len();
        let places = (0..all.min(TRIAL_LOOKS)).map(|place| if all > TRIAL_LOOKS { rng.below(all) } else { place });
        places
            .map(|place| &self.endpoints[members.member(place)])
            .filter(|e| self.is_usable(e, now, ask, panic) && e.load.trial(now, ask.class))
            .max_by_key(|e| e.load.silence(now, ask.class))
            .or_else(|| drawn.iter().copied().find(|e| e.load.trial(now, ask.class)))
    }

    /// The group for one request.
    #[inline]
    fn group(&self, rng: &mut Rng) -> Option<&Group> {
        if self.groups.len() <= 1 {
            return self.groups.first();
        }
        let at = rng.below(WHOLE);
        self.groups.iter().find(|group| at < group.until.load(Relaxed)).or_else(|| self.groups.first())
    }

    #[inline]
    pub(super) fn is_usable(&self, endpoint: &Endpoint, now: Nanos, ask: &Ask<'_>, panic: bool) -> bool {
        (panic || !endpoint.load.ejected(now) && !endpoint.load.unhealthy()) && !ask.tried.contains(&endpoint.load.id)
    }

    /// Up to `N` distinct endpoints of the best tier there is, in random order. `None`: the set is empty.
    #[inline]
    pub(super) fn candidates<const N: usize>(&self, now: Nanos, rng: &mut Rng, ask: &Ask<'_>) -> Option<Drawn<'_, N>> {
        let mut kept = Drawn::none(self.endpoints.first()?);
        let Some(group) = self.group(rng) else { return Some(self.scan(now, rng, ask, kept)) };
        let (members, panic) = (&group.members, self.view.panic());
        let (mut wanted, weighted) = (N, members.is_weighted());
        // Their places, sorted as they come: a handful.
        let mut places = [0; N];
        for _ in 0..DRAWS {
            let drawn = &places[..kept.count];
            let place = members.draw_other(drawn, rng);
            let endpoint = &self.endpoints[members.member(place)];
            if !self.is_usable(endpoint, now, ask, panic) || !self.is_grown(endpoint, rng) {
                continue;
            }
            if weighted && drawn.contains(&place) {
                // Who weighs more is drawn again and again, and leaves others no place: shares stay near to the weights even
                // where the lighter ones are quicker.
                wanted -= 1;
            } else {
                let mut at = kept.count;
                while at > 0 && places[at - 1] > place {
                    places[at] = places[at - 1];
                    at -= 1;
                }
                places[at] = place;
                kept.list[kept.count] = endpoint;
                kept.count += 1;
            }
            if kept.count == wanted || kept.count == members.len() as usize {
                return Some(kept);
            }
        }
        if kept.count == 0
            && let Some(endpoint) = self.grown(members, now, rng, ask)
        {
            (kept.list[0], kept.count) = (endpoint, 1);
            return Some(kept);
        }
        // A few are quickly looked at. Of many, one that was found is better than looking at all; and looking at all would not
        // keep to the weights, nor to the group that was drawn.
        let weighted = weighted || self.policy.slow_start.is_some();
        let enough = members.len() > FEW || weighted || self.groups.len() > 1;
        Some(if kept.count > 0 && enough { kept } else { self.scan(now, rng, ask, kept) })
    }

    /// With slow start, a usable endpoint where drawing found none that is grown: most are new, or left out. By weight as far as
    /// [`DRAWS_NEW`] go.
    #[cold]
    fn grown<'a>(&'a self, members: &Spread, now: Nanos, rng: &mut Rng, ask: &Ask<'_>) -> Option<&'a Arc<Endpoint>> {
        self.policy.slow_start?;
        let (panic, mut new) = (self.view.panic(), None);
        for _ in 0..DRAWS_NEW {
            let endpoint = &self.endpoints[members.draw(rng)];
            if self.is_usable(endpoint, now, ask, panic) {
                if self.is_grown(endpoint, rng) {
                    return Some(endpoint);
                }
                new = new.or(Some(endpoint));
            }
        }
        new
    }

    /// Chance, as the weight that an endpoint has while it is new.
    #[inline]
    fn is_grown(&self, endpoint: &Endpoint, rng: &mut Rng) -> bool {
        if self.policy.slow_start.is_none() {
            return true;
        }
        let part = endpoint.load.ramp() / self.view.ramp();
        part >= 1.0 || (rng.below(WHOLE) as f32) < part * WHOLE as f32
    }

    /// The same by looking at all of them, into the memory of `kept`: a reservoir that starts again when a better tier turns up.
    #[cold]
    fn scan<'a, const N: usize>(
        &'a self,
        now: Nanos,
        rng: &mut Rng,
        ask: &Ask<'_>,
        mut kept: Drawn<'a, N>,
    ) -> Drawn<'a, N> {
        let panic = self.view.panic();
        let ready = self.groups.iter().zip(0..).flat_map(|(group, rank)| group.members.iter().map(move |i| (i, rank)));
        let draining = self.endpoints.iter().enumerate().filter(|(_, e)| e.health == Health::Draining);
        let all = ready.chain(draining.map(|(i, _)| (i, 0)));
        let (mut best, mut seen) = (None, 0);
        kept.count = 0;
        for (endpoint, rank) in all.map(|(i, rank)| (&self.endpoints[i], rank)) {
            let tier = tier(endpoint, now, ask, panic).map(|tier| (tier, rank));
            if tier.is_none() || best.is_some_and(|best| tier > Some(best)) {
                continue;
            }
            if tier != best {
                (best, seen, kept.count) = (tier, 0, 0);
            }
            seen += 1;
            let place = if seen as usize <= N { seen - 1 } else { rng.below(seen) };
            if let Some(kept) = kept.list.get_mut(place as usize) {
                *kept = endpoint;
            }
            kept.count = N.min(seen as usize);
        }
        // The order of a reservoir is not random, and the first wins a tie.
        if kept.count > 1 {
            let first = rng.below(kept.count as u32) as usize;
            kept.list[..kept.count].rotate_left(first);
        }
        kept
    }

    /// The next in turn that is usable.
    fn next(&self, now: Nanos, rng: &mut Rng, ask: &Ask<'_>) -> Option<&Arc<Endpoint>> {
        if let Some(group) = self.group(rng) {
            let panic = self.view.panic();
            let mut endpoint = &self.endpoints[group.members.turn(self.turn.fetch_add(1, Relaxed))];
            for _ in 0..DRAWS {
                if self.is_usable(endpoint, now, ask, panic) && self.is_grown(endpoint, rng) {
                    return Some(endpoint);
                }
                // Its turn goes to any other: the next one would get two.
                endpoint = &self.endpoints[group.members.draw(rng)];
            }
            if let Some(endpoint) = self.grown(&group.members, now, rng, ask) {
                return Some(endpoint);
            }
        }
        self.scan::<1>(now, rng, ask, Drawn::none(self.endpoints.first()?)).first()
    }

    /// The least latency that is known of an endpoint, in nanoseconds. Of many, looks at [`FEW`] or so.
    pub(super) fn least_latency(&self, class: Class) -> Option<f32> {
        let some = self.endpoints.iter().step_by(1 + self.endpoints.len() / FEW as usize);
        some.map(|e| e.load.estimate(class)).filter(|known| *known > 0.0).min_by(f32::total_cmp)
    }
}

/// Where an endpoint stands; `None`: it may not be used.
pub(super) fn tier(endpoint: &Endpoint, now: Nanos, ask: &Ask<'_>, panic: bool) -> Option<Tier> {
    let tried = ask.tried.contains(&endpoint.load.id);
    let left_out = !panic && (endpoint.load.ejected(now) || endpoint.load.unhealthy());
    let tier = match (endpoint.health, left_out, tried) {
        (Health::NotReady, _, _) => return None,
        (Health::Ready, false, false) => Tier::Fresh,
        (Health::Ready, true, false) => Tier::LeftOut,
        (Health::Ready, false, true) => Tier::Tried,
        (Health::Ready, true, true) => Tier::TriedLeftOut,
        (Health::Draining, _, false) => Tier::Draining,
        (Health::Draining, _, true) => Tier::TriedDraining,
    };
    Some(tier)
}

#[inline]
pub(super) fn weight(endpoint: &Endpoint) -> f32 {
    endpoint.weight.max(1) as f32 * endpoint.load.ramp()
}

impl<'a> Compared<'a> {
    #[inline]
    pub(super) fn new(endpoint: &'a Arc<Endpoint>, class: Class) -> Compared<'a> {
        let load = &endpoint.load;
        let latency = load.estimate(class);
        // Of what is not known at all, what was once said is too old to count: it might keep the first request away for ever.
        let elsewhere = if latency > 0.0 { load.elsewhere() } else { 0.0 };
        let own = load.in_flight() as f32;
        let part = 1.0 / weight(endpoint);
        let half = HALF * part;
        let busy = (own * (1.0 + OWN * elsewhere) + elsewhere) * part;
        Compared { endpoint, half, own: own * part, busy, latency }
    }

    /// What one more request costs here.
    #[inline]
    pub(super) fn cost(&self, now: Nanos, common: &Common, warm: &impl Fn(&Endpoint) -> bool) -> f32 {
        self.weighed(self.time(now, common) + self.connecting(warm), common)
    }

    /// The time that an answer is predicted to take on a ready connection.
    #[inline]
    fn time(&self, now: Nanos, common: &Common) -> f32 {
        let known = if self.latency > ALIKE * common.assumed { self.latency } else { common.assumed };
        known * self.endpoint.load.overdue(now)
    }

    /// What a request that takes so long costs, with failures and what is in flight.
    #[inline]
    fn weighed(&self, time: f32, common: &Common) -> f32 {
        let least = if self.busy + self.half > common.idle { self.busy + self.half } else { common.idle };
        let queue = common.spread + common.idle + least;
        time * self.endpoint.load.penalty() * queue * queue.sqrt()
    }

    /// What a connection costs where none is ready. Nothing for an endpoint never heard of, or it would stay so.
    #[inline]
    pub(super) fn connecting(&self, warm: &impl Fn(&Endpoint) -> bool) -> f32 {
        if self.latency == 0.0 || warm(self.endpoint) { 0.0 } else { self.latency.min(CONNECT_COST) }
    }
}

/// What all candidates are measured by.
pub(super) struct Common {
    /// The least latency of a candidate, in nanoseconds; assumed where none is known.
    pub(super) assumed: f32,
    /// How much of what is in flight at others counts at each.
    pub(super) spread: f32,
    /// Half a request at the lightest. None counts for less: whose weight leaves room gets its share by being drawn as often
    /// as its weight says (the first drawn wins a tie), and not everything until it is as busy as it is heavy.
    pub(super) idle: f32,
}

#[inline]
pub(super) fn common<'a>(all: impl Iterator<Item = Compared<'a>>) -> Common {
    let (mut least, mut idle, mut own) = (f32::MAX, 0f32, 0f32);
    let (mut most, mut second) = (0f32, 0f32);
    for one in all {
        // Comparisons and not `max`, which has rules for what is no number.
        if one.busy > most {
            (most, second) = (one.busy, most);
        } else if one.busy > second {
            second = one.busy;
        }
        if one.own > own {
            own = one.own;
        }
        if one.half > idle {
            idle = one.half;
        }
        if one.latency > 0.0 && one.latency < least {
            least = one.latency;
        }
    }
    let usual = if own > second { own } else { second };
    Common { assumed: if least < f32::MAX { least } else { load::SEED }, spread: SPREAD * usual, idle }
}

/// The candidate to take, of [`CANDIDATES`] at most; the first wins a tie.
#[inline]
fn cheapest<'a>(
    drawn: &[&'a Arc<Endpoint>],
    now: Nanos,
    class: Class,
    warm: &impl Fn(&Endpoint) -> bool,
) -> Option<&'a Arc<Endpoint>> {
    let (first, others) = drawn.split_first()?;
    if others.is_empty() {
        return Some(first);
    }
    let mut compared = [Compared::new(first, class); CANDIDATES];
    for (one, endpoint) in compared[1..].iter_mut().zip(others) {
        *one = Compared::new(endpoint, class);
    }
    let compared = &compared[..drawn.len()];
    let common = common(compared.iter().copied());
    let (mut best, mut least) = (None, f32::INFINITY);
    for one in compared {
        // Whether a connection is ready is asked last, for it is a look into the pool: connecting only adds to the cost.
        let time = one.time(now, &common);
        if best.is_some() && one.weighed(time, &common) >= least {
            continue;
        }
        let cost = one.weighed(time + one.connecting(warm), &common);
        if best.is_none() || cost < least {
            (best, least) = (Some(one.endpoint), cost);
        }
    }
    best
}
