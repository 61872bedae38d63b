//! An explanation as JSON: what `-o json` shows. `docs/commands.md` describes it.
//!
//! Times are in microseconds, shares and probabilities from 0 to 1.

use serde::{Deserialize, Serialize};

/// How a request would be sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// `namespace/name` of the service.
    pub(crate) service: String,
    /// Its port.
    pub(crate) port: u16,
    /// What the port was declared to speak.
    pub(crate) protocol: String,
    /// Every match of every route of the port, in the order in which they are tried.
    pub(crate) routes: Vec<Route>,
    /// The rule that is taken, `Kind/namespace/name/rule`; empty: the service has no routes; absent: none fits.
    pub(crate) rule: Option<String>,
    /// What the proxy would answer itself instead of sending the request on.
    pub(crate) answer: Option<String>,
    /// What holds for a request of that rule.
    pub(crate) policies: Vec<Setting>,
    /// Where the rule sends to.
    pub(crate) backends: Vec<Backend>,
}

/// One match of one rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    /// `Kind/namespace/name/rule`.
    pub(crate) rule: String,
    /// What must fit.
    pub(crate) fits: String,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// Why it does not fit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
}

/// What became of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// The request takes it.
    Taken,
    /// It fits, and comes after the one that is taken.
    Outranked,
    /// It does not fit.
    Misfit,
}

/// One setting that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Setting {
    /// As it is called in a TrafficPolicy.
    pub(crate) field: String,
    /// Its value, for people.
    pub(crate) value: String,
    /// `Kind/namespace/name` of the object that says so; `default`: none does.
    pub(crate) from: String,
}

/// One share of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backend {
    /// `namespace/name:port`; empty where the share cannot be served.
    pub(crate) service: String,
    /// Its part of the requests.
    pub(crate) share: f64,
    /// Why this share is answered 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) invalid: Option<String>,
    /// How an instance is chosen.
    pub(crate) algorithm: String,
    /// What of the request decides, where something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Settings of the service behind.
    pub(crate) policies: Vec<Setting>,
    /// The instances, the likeliest first; at most a hundred.
    pub(crate) candidates: Vec<Candidate>,
    /// How many there are.
    pub(crate) instances: usize,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Candidate {
    /// `namespace/name`.
    pub(crate) instance: String,
    /// Where it is reached.
    pub(crate) address: String,
    /// Of this request going there.
    pub(crate) probability: f64,
    /// `usable`, `panic`, `leftOut`, `unhealthy`, `tried`, `draining` or `notReady`.
    pub(crate) standing: String,
    /// Of one that is left out: in how many microseconds it comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) back_in: Option<f64>,
    /// Of its group among those of ready instances, 0 being the best.
    pub(crate) group: Option<usize>,
    /// The part of the requests that its group gets.
    pub(crate) group_share: f64,
    /// The group's number as the object says.
    pub(crate) priority: u32,
    /// `zone`, `region` or `elsewhere`: what it shares with the caller.
    pub(crate) nearness: String,
    /// Where it says that it is: `region/zone`.
    pub(crate) locality: String,
    /// Of this class of requests; absent: not known yet.
    pub(crate) latency: Option<f64>,
    /// The least of all, taken where it is not known or at most 1.4 times as long.
    pub(crate) assumed: f64,
    /// How many times longer than expected an answer has been owed.
    pub(crate) overdue: f64,
    /// Added because no connection is ready.
    pub(crate) connecting: f64,
    /// Recent share of failures.
    pub(crate) failing: f64,
    /// Requests of the asked sidecar in flight there.
    pub(crate) in_flight: u32,
    /// Requests of others, as its own sidecar has said.
    pub(crate) elsewhere: f64,
    /// The latency that its own sidecar has said.
    pub(crate) reported_latency: Option<f64>,
    /// Its weight, less while it is new.
    pub(crate) weight: f64,
    /// What counts at each of what is usually in flight; the same for all.
    pub(crate) spread: f64,
    /// The least that counts as a queue; the same for all.
    pub(crate) idle: f64,
    /// Whether a request should find out how it is now.
    pub(crate) trial: bool,
    /// How long nothing has been heard of it.
    pub(crate) silence: f64,
    /// How long that must be before a trial.
    pub(crate) patience: f64,
    /// The prediction that these make; lower is better.
    pub(crate) cost: f64,
    /// Requests that the asked sidecar has sent there.
    pub(crate) requests: u64,
    /// Of those, the failures.
    pub(crate) failures: u64,
}
