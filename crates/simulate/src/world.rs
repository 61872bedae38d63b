//! The discrete-event simulation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use engine::{Nanos, Rng};

use crate::algorithm::{self, Algorithm, Answer, Balancer};
use crate::distribution::{exponential, unit};
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::server::{Report, Server, Taken};

/// From a client to a server or back.
const WAY: Nanos = Nanos(250_000);

/// How often every client's balancer is told what a controller measured of all servers (for weighted round robin).
const CONTROL: Nanos = Nanos::from_millis(1_000);

/// Plays `scenario` through with `algorithm`. The same arguments give the same outcome, and all algorithms see the same
/// requests at the same times.
pub fn run(scenario: &Scenario, algorithm: Algorithm, seed: u64) -> Outcome {
    let clients = scenario.clients;
    match algorithm {
        Algorithm::Fastest | Algorithm::Hedged | Algorithm::LeastRequest => {
            World::new(scenario, seed, |_| algorithm::Engine::new(algorithm, &scenario.servers)).run(algorithm)
        }
        Algorithm::RoundRobin => World::new(scenario, seed, algorithm::RoundRobin::new).run(algorithm),
        Algorithm::Random => World::new(scenario, seed, |_| algorithm::Random::default()).run(algorithm),
        Algorithm::LeastLoaded => World::new(scenario, seed, |_| algorithm::LeastLoaded::default()).run(algorithm),
        Algorithm::Weighted => World::new(scenario, seed, algorithm::Weighted::new).run(algorithm),
        Algorithm::PeakEwma => World::new(scenario, seed, |_| algorithm::PeakEwma::default()).run(algorithm),
        Algorithm::C3 => World::new(scenario, seed, |_| algorithm::C3::new(clients)).run(algorithm),
        Algorithm::Prequal => World::new(scenario, seed, |_| algorithm::Prequal::default()).run(algorithm),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next request of the whole is made.
    Arrive,
    /// A request reaches its server.
    Deliver(usize),
    /// A server has done with a request; true if it held a core.
    Done(usize, bool),
    /// A client has the answer.
    Answer(usize),
    /// A client has waited long enough for this request, if it is still the same.
    TimeOut(usize, u64),
    /// A client sends a second copy of this request, if it is still the same and unanswered.
    Hedge(usize, u64),
    /// A client's probe has reached this server.
    Probe(usize, usize),
    /// The answer to a probe has reached its client.
    Probed(usize, usize),
    /// A controller tells every client what it measured.
    Control,
    /// A server joins or leaves.
    Change,
}

#[derive(Debug)]
struct Request<T> {
    /// Unique, where places are used again.
    id: u64,
    client: usize,
    server: usize,
    route: usize,
    work: f64,
    sent: Nanos,
    arrived: Nanos,
    in_flight: u32,
    failed: bool,
    refused: Option<Nanos>,
    report: Report,
    /// `None`: the client has given up, or has the answer to another copy.
    token: Option<T>,
    /// Where the other copy is, and which request that is.
    twin: Option<(usize, u64)>,
}

struct World<'a, B: Balancer> {
    scenario: &'a Scenario,
    now: Nanos,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    order: u64,
    servers: Vec<Server>,
    present: Vec<bool>,
    clients: Vec<B>,
    requests: Vec<Option<Request<B::Token>>>,
    free: Vec<usize>,
    /// Of answers to probes under way.
    probes: Vec<Report>,
    free_probes: Vec<usize>,
    /// When, which route, how much work: the same for every algorithm.
    arrivals: Rng,
    /// What befalls a request at a server.
    fate: Rng,
    /// The balancers'.
    rng: Rng,
    made: u64,
    latencies: Vec<f32>,
    failed: usize,
    seconds: Vec<(u32, u32)>,
    to_marked: u64,
    probed: u64,
    due: Vec<usize>,
}

impl<'a, B: Balancer> World<'a, B> {
    fn new(scenario: &'a Scenario, seed: u64, make: impl FnMut(usize) -> B) -> Self {
        let mut world = World {
            scenario,
            now: Nanos(1),
            events: BinaryHeap::new(),
            order: 0,
            servers: scenario.servers.iter().cloned().map(Server::new).collect(),
            present: vec![false; scenario.servers.len()],
            clients: (0..scenario.clients).map(make).collect(),
            requests: Vec::new(),
            free: Vec::new(),
            probes: Vec::new(),
            free_probes: Vec::new(),
            arrivals: Rng::seeded(seed),
            fate: Rng::seeded(seed ^ 0xfa7e),
            rng: Rng::seeded(seed ^ 0xba1a),
            made: 0,
            latencies: Vec::new(),
            failed: 0,
            seconds: vec![(0, 0); (scenario.length.0 / 1_000_000_000) as usize + 1],
            to_marked: 0,
            probed: 0,
            due: Vec::new(),
        };
        world.change();
        world.at(world.now, Event::Arrive);
        world.at(CONTROL, Event::Control);
        let changes: Vec<Nanos> = scenario.servers.iter().flat_map(|s| [s.joins, s.leaves]).collect();
        for time in changes.into_iter().filter(|time| time.0 > 0 && *time < scenario.length) {
            world.at(time, Event::Change);
        }
        world
    }

    fn at(&mut self, time: Nanos, event: Event) {
        self.order += 1;
        self.events.push(Reverse((time, self.order, event)));
    }

    fn run(mut self, algorithm: Algorithm) -> Outcome {
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.now = now;
            match event {
                Event::Arrive => self.arrive(),
                Event::Deliver(request) => self.deliver(request),
                Event::Done(request, held) => self.done(request, held),
                Event::Answer(request) => self.answer(request),
                Event::TimeOut(request, id) => self.time_out(request, id),
                Event::Hedge(request, id) => self.hedge(request, id),
                Event::Probe(client, server) => self.probe(client, server),
                Event::Probed(client, probe) => self.probed(client, probe),
                Event::Control => self.control(),
                Event::Change => self.change(),
            }
        }
        self.latencies.sort_by(f32::total_cmp);
        Outcome {
            algorithm,
            latencies: self.latencies,
            failed: self.failed,
            sent: self.servers.iter().map(|server| server.requests).collect(),
            to_marked: self.to_marked,
            marked_share: self.seconds.iter().map(|(all, marked)| *marked as f32 / (*all).max(1) as f32).collect(),
            probes: self.probed,
        }
    }

    /// A request is made, and the next one is planned.
    fn arrive(&mut self) {
        let now = self.now;
        let rate = self.scenario.rate(now);
        let gap = exponential(1e9 / rate, &mut self.arrivals);
        if now.0 + (gap as u64) < self.scenario.length.0 {
            self.at(now.after(Nanos(gap as u64)), Event::Arrive);
        }
        let client = self.arrivals.below(self.clients.len() as u32) as usize;
        let mut at = unit(&mut self.arrivals) * self.scenario.routes.iter().map(|r| r.share).sum::<f64>();
        let mut route = 0;
        while route + 1 < self.scenario.routes.len() && at >= self.scenario.routes[route].share {
            at -= self.scenario.routes[route].share;
            route += 1;
        }
        let work = self.scenario.routes[route].times.draw(&mut self.arrivals);
        let Some(server) = self.clients[client].choose(now, route, None, &mut self.rng) else {
            self.latencies.push(f32::INFINITY);
            self.failed += 1;
            return;
        };
        let place = self.send(client, server, route, work);
        if let Some(after) = self.clients[client].hedge_after(now, route, server) {
            self.at(now.after(after), Event::Hedge(place, self.made));
        }
        if let Some(timeout) = self.scenario.timeout {
            self.at(now.after(timeout), Event::TimeOut(place, self.made));
        }
        let mut due = std::mem::take(&mut self.due);
        self.clients[client].probe(now, &mut self.rng, &mut due);
        for server in due.drain(..) {
            self.probed += 1;
            self.at(now.after(WAY), Event::Probe(client, server));
        }
        self.due = due;
    }

    /// Sends a request, or a copy of one; returns its place.
    fn send(&mut self, client: usize, server: usize, route: usize, work: f64) -> usize {
        let now = self.now;
        let token = self.clients[client].sent(now, route, server);
        self.made += 1;
        let request = Request {
            id: self.made,
            client,
            server,
            route,
            work,
            sent: now,
            arrived: now,
            in_flight: 0,
            failed: false,
            refused: None,
            report: Report::default(),
            token: Some(token),
            twin: None,
        };
        self.count(server);
        let place = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        self.requests[place] = Some(request);
        self.at(now.after(WAY), Event::Deliver(place));
        place
    }

    /// Sends a second copy of a request elsewhere.
    fn hedge(&mut self, place: usize, id: u64) {
        let Some(first) = self.requests[place].as_ref().filter(|first| first.id == id && first.token.is_some()) else {
            return;
        };
        let (client, server, route, work, sent) = (first.client, first.server, first.route, first.work, first.sent);
        let other = self.clients[client].choose(self.now, route, Some(server), &mut self.rng);
        let Some(other) = other.filter(|other| *other != server) else { return };
        let copy = self.send(client, other, route, work);
        let copy_id = self.made;
        for (place, twin) in [(place, (copy, copy_id)), (copy, (place, id))] {
            if let Some(request) = &mut self.requests[place] {
                request.twin = Some(twin);
                request.sent = sent;
            }
        }
    }

    /// The other copy of a request, if it is still waited for.
    fn twin(&mut self, twin: Option<(usize, u64)>) -> Option<&mut Request<B::Token>> {
        let (place, id) = twin?;
        self.requests[place].as_mut().filter(|request| request.id == id && request.token.is_some())
    }

    /// Counts a request that is sent to `server`.
    fn count(&mut self, server: usize) {
        let marked = self.scenario.is_marked(server, self.now);
        let second = &mut self.seconds[(self.now.0 / 1_000_000_000) as usize];
        second.0 += 1;
        second.1 += u32::from(marked);
        self.to_marked += u64::from(marked);
    }

    fn deliver(&mut self, place: usize) {
        let Some(request) = &mut self.requests[place] else { return };
        let server = &mut self.servers[request.server];
        request.arrived = self.now;
        request.in_flight = server.in_flight;
        match server.take(place, request.work, request.route, self.now, &mut self.fate) {
            Taken::Waits => {}
            Taken::Until(end) => self.at(end, Event::Done(place, true)),
            Taken::Stalls(end) => self.at(end, Event::Done(place, false)),
            Taken::Fails(end) => {
                request.failed = true;
                self.at(end, Event::Done(place, false));
            }
            Taken::Refused(end, retry_after) => {
                request.failed = true;
                request.refused = Some(retry_after);
                self.at(end, Event::Done(place, false));
            }
        }
    }

    fn done(&mut self, place: usize, held: bool) {
        let Some(request) = &mut self.requests[place] else { return };
        let server = &mut self.servers[request.server];
        if !request.failed {
            server.answered(self.now.since(request.arrived), request.in_flight);
        }
        request.report = server.report(false);
        server.in_flight -= 1;
        if held && let Some((next, end)) = server.next(self.now) {
            self.at(end, Event::Done(next, true));
        }
        self.at(self.now.after(WAY), Event::Answer(place));
    }

    fn answer(&mut self, place: usize) {
        let Some(mut request) = self.requests[place].take() else { return };
        self.free.push(place);
        let Some(token) = request.token.take() else { return };
        let latency = self.now.since(request.sent);
        // A copy that fails leaves it to the other; one that is answered makes the other superfluous.
        let failed = request.failed;
        match self.twin(request.twin).map(|twin| (twin.server, if failed { None } else { twin.token.take() })) {
            Some((_, None)) => {}
            Some((server, Some(token))) => {
                self.clients[request.client].cancelled(self.now, token, server);
                self.record(latency, false);
            }
            None => self.record(latency, failed),
        }
        let answer = Answer {
            server: request.server,
            latency,
            failed: request.failed,
            refused: request.refused,
            report: Some(request.report),
        };
        self.clients[request.client].answered(self.now, token, &answer);
    }

    fn time_out(&mut self, place: usize, id: u64) {
        let Some(request) = self.requests[place].as_mut().filter(|request| request.id == id) else { return };
        let Some(token) = request.token.take() else { return };
        let (client, server) = (request.client, request.server);
        let latency = self.now.since(request.sent);
        let twin = request.twin;
        if self.twin(twin).is_none() {
            self.record(latency, true);
        }
        let answer = Answer { server, latency, failed: true, refused: None, report: None };
        self.clients[client].answered(self.now, token, &answer);
    }

    fn record(&mut self, latency: Nanos, failed: bool) {
        self.failed += usize::from(failed);
        self.latencies.push(if failed { f32::INFINITY } else { latency.0 as f32 / 1e6 });
    }

    fn probe(&mut self, client: usize, server: usize) {
        let report = self.servers[server].report(true);
        let place = self.free_probes.pop().unwrap_or_else(|| {
            self.probes.push(Report::default());
            self.probes.len() - 1
        });
        self.probes[place] = report;
        // Two numbers in one: the place of the report, and whose it is.
        self.at(self.now.after(WAY), Event::Probed(client, place * self.servers.len() + server));
    }

    fn probed(&mut self, client: usize, probe: usize) {
        let (place, server) = (probe / self.servers.len(), probe % self.servers.len());
        self.free_probes.push(place);
        self.clients[client].probed(self.now, server, &self.probes[place]);
    }

    fn control(&mut self) {
        let measured: Vec<(f64, f64)> = self
            .servers
            .iter_mut()
            .map(|server| (std::mem::take(&mut server.answers), std::mem::take(&mut server.busy_ms)))
            .collect();
        for client in &mut self.clients {
            client.control(&measured);
        }
        if self.now.after(CONTROL) < self.scenario.length {
            self.at(self.now.after(CONTROL), Event::Control);
        }
    }

    fn change(&mut self) {
        let now = self.now;
        for (present, server) in self.present.iter_mut().zip(&self.scenario.servers) {
            *present = (server.joins..server.leaves).contains(&now) || server.joins.0 == 0 && now.0 <= 1;
        }
        for client in &mut self.clients {
            client.change(&self.present);
        }
    }
}
