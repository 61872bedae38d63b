//! Which rule a request takes: Gateway API's matching and precedence.
//!
//! Paths are compared as sent, percent-encoding and case kept. Where Gateway API leaves a choice to the implementation:
//!
//! - A regular expression comes after every prefix but `/`, the one that fits all and that a rule without matches has; after
//!   that too it could never be reached. Among expressions method, headers, query parameters and age decide.
//! - A request that no rule of the most specific host fits goes on to the next less specific one.
//! - Of a header or query parameter that is repeated the first value counts. Names and values of query parameters are
//!   percent-decoded, and `+` stands for a space, before they are compared.
//! - That a rule is for gRPC alone counts as one more header.

use std::sync::Arc;

use regex::Regex;
use smallvec::SmallVec;

mod explain;
pub(crate) mod fit;
mod table;

pub use explain::{Considered, Misfit, Verdict};
pub use table::RouteTable;

use crate::balance::Backend;
use crate::edit::{HeaderEdits, Redirect, Rewrite};
use crate::policy::TrafficPolicy;
use crate::retry::RetryBudget;
use crate::{Rng, SeriesId};

/// What a request holds once it is routed; everything that its rest needs.
#[derive(Debug)]
pub struct Rule {
    /// `Kind/namespace/name/rule` for people; empty for the implicit rule of a service without routes.
    pub name: Box<str>,
    /// Answer with this instead of forwarding.
    pub redirect: Option<Redirect>,
    /// Change before forwarding.
    pub rewrite: Option<Rewrite>,
    /// Change before forwarding.
    pub request_headers: HeaderEdits,
    /// Change on the way back.
    pub response_headers: HeaderEdits,
    /// Where to.
    pub backends: Backends,
    /// How.
    pub policy: Arc<TrafficPolicy>,
    /// Shared by all requests of this rule.
    pub budget: Arc<RetryBudget>,
    /// Where its requests are counted.
    pub series: SeriesId,
}

/// Weighted backends. Weights of zero get nothing; no weight at all answers 500 (Gateway API).
#[derive(Debug, Default)]
pub struct Backends {
    /// In the order written.
    pub list: SmallVec<[WeightedBackend; 1]>,
    /// Sum of the weights.
    pub total: u32,
}

/// One share.
#[derive(Debug)]
pub struct WeightedBackend {
    /// Its part of the total.
    pub weight: u32,
    /// Where to, or why this share cannot be served (500 `invalid_backend`).
    pub target: Result<Arc<Backend>, Box<str>>,
    /// Edits for this backend alone.
    pub request_headers: HeaderEdits,
}

impl Backends {
    /// Shares in the order written.
    pub fn new(list: impl IntoIterator<Item = WeightedBackend>) -> Backends {
        let list: SmallVec<[WeightedBackend; 1]> = list.into_iter().collect();
        let total = list.iter().fold(0, |sum: u32, backend: &WeightedBackend| sum.saturating_add(backend.weight));
        Backends { list, total }
    }

    /// Picks one by weight; `None` when no share has any.
    #[inline]
    pub fn pick(&self, rng: &mut Rng) -> Option<&WeightedBackend> {
        if self.total == 0 {
            return None;
        }
        if let [only] = &*self.list {
            return Some(only);
        }
        let mut left = rng.below(self.total);
        self.list.iter().find(|backend| match left.checked_sub(backend.weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

/// How a path is matched.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// Whole path elements from the start, without a trailing slash; empty: every path.
    Prefix(Box<str>),
    /// The whole path against an anchored expression.
    Regex(Regex),
}

/// How a header or a query parameter is matched.
#[derive(Clone, Debug)]
pub struct ValueMatch {
    /// The name; of a header in lower case.
    pub name: Box<str>,
    /// What its value must be.
    pub value: ValueRule,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValueRule {
    /// Equal.
    Exact(Box<str>),
    /// Wholly matched by an anchored expression.
    Regex(Regex),
}

/// One way for a request to fit a rule; all parts must.
#[derive(Clone, Debug)]
pub struct Match {
    /// By path.
    pub path: PathMatch,
    /// By method.
    pub method: Option<Box<str>>,
    /// By headers.
    pub headers: Vec<ValueMatch>,
    /// By query parameters.
    pub query: Vec<ValueMatch>,
    /// Only requests whose `content-type` is `application/grpc`, alone or followed by `+` or `;`.
    pub grpc: bool,
}

/// A host name that a gateway route answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// Every host.
    Any,
    /// This one (lower case).
    Exact(Box<str>),
    /// One or more labels before this suffix, which begins with a dot.
    Suffix(Box<str>),
}

/// One route as it is compiled: its rules in the order written.
#[derive(Debug)]
pub struct RouteInput {
    /// Hosts; empty: every host. Ignored (leave empty) for routes of a service.
    pub hosts: Vec<HostMatch>,
    /// Creation time for precedence, Unix milliseconds; 0 sorts first among equals, as unknown.
    pub created: i64,
    /// `namespace/name` for precedence.
    pub name: Box<str>,
    /// Each rule with the ways to fit it; no way at all means that everything fits.
    pub rules: Vec<(Vec<Match>, Arc<Rule>)>,
}

/// A match, and how much of the path it took (for prefix rewrites).
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// Bytes of the path that the prefix matched; 0 for other kinds.
    pub prefix: usize,
}

#[cfg(test)]
mod tests;
