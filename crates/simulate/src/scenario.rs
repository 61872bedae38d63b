//! What is simulated.

use engine::Nanos;

use crate::distribution::Distribution;
use crate::server::millis;

mod library;

pub use library::scenarios;

/// One experiment.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// As it is written on the command line.
    pub name: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What is simulated and why, in sentences.
    pub about: &'static str,
    /// How long requests are sent for.
    pub length: Nanos,
    /// Requests a second of all clients together, from each of these times on (a Poisson process). The first is at zero.
    pub rates: Vec<(Nanos, f64)>,
    /// What is asked for.
    pub routes: Vec<Route>,
    /// Clients, each of which chooses by what it knows itself.
    pub clients: usize,
    /// The servers.
    pub servers: Vec<ServerSpec>,
    /// Clients give up after this.
    pub timeout: Option<Nanos>,
    /// What the marked servers are called in tables, such as `stalled`.
    pub mark: &'static str,
    /// Requests to these servers at these times are counted apart: from this server on, until before that, from, until.
    pub marked: Vec<(usize, usize, Nanos, Nanos)>,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its part of the requests, relative to the others'.
    pub share: f64,
    /// How long it keeps an undisturbed core busy.
    pub times: Distribution,
}

/// A server and what becomes of it.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Requests that are served at the same time; others wait in line. 0: any number.
    pub cores: u32,
    /// What goes wrong: from when, until when, what.
    pub faults: Vec<(Nanos, Nanos, Fault)>,
    /// Requests a second above which it refuses, and the `Retry-After` that it then gives (zero: none).
    pub limit: Option<(f64, Nanos)>,
    /// It begins cold: for so many requests a request takes so many times longer at first, evenly less until it is warm.
    pub cold: Option<(u32, f64)>,
    /// By route, how many times longer requests take than they should; 1 where nothing is said.
    pub route_factors: Vec<f64>,
    /// When it joins; zero: it is there from the start.
    pub joins: Nanos,
    /// When clients learn that it leaves.
    pub leaves: Nanos,
}

/// What goes wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// This share (0 to 1) of its requests fails within a millisecond.
    Fails(f64),
    /// This share of its requests takes so many milliseconds, whatever they would have taken.
    Stalls(f64, f64),
    /// It works this fast: 0.1 takes ten times as long, 0 is a pause.
    Speed(f64),
}

impl Scenario {
    /// Requests a second at a time.
    pub(crate) fn rate(&self, now: Nanos) -> f64 {
        self.rates.iter().rev().find(|(from, _)| *from <= now).map_or(1.0, |(_, rate)| *rate)
    }

    pub(crate) fn is_marked(&self, server: usize, now: Nanos) -> bool {
        self.marked.iter().any(|(a, b, from, until)| (*a..*b).contains(&server) && (*from..*until).contains(&now))
    }

    /// Takes these service times for every route.
    #[must_use]
    pub fn with_times(mut self, times: &Distribution) -> Scenario {
        self.routes.iter_mut().for_each(|route| route.times = times.clone());
        self
    }

    /// Shortens it to this part of its length; rates and faults that begin later are not reached.
    #[must_use]
    pub fn shortened(mut self, part: f64) -> Scenario {
        self.length = millis(self.length.0 as f64 / 1e6 * part.clamp(0.01, 1.0));
        self
    }
}

impl ServerSpec {
    /// A sound server with so many cores; 0: it serves any number of requests at the same time.
    pub fn sound(cores: u32) -> ServerSpec {
        ServerSpec {
            cores,
            faults: Vec::new(),
            limit: None,
            cold: None,
            route_factors: Vec::new(),
            joins: Nanos(0),
            leaves: Nanos(u64::MAX),
        }
    }

    /// The same with a fault between two times in seconds.
    #[must_use]
    pub fn with(mut self, from: f64, until: f64, fault: Fault) -> ServerSpec {
        self.faults.push((millis(from * 1e3), millis(until * 1e3), fault));
        self
    }
}
