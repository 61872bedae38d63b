//! Why a request takes the rule that it takes, and not another.
//!
//! The fitting of one match is [`Match::misfit`], which the hot path runs too; what is written here alone is the order in
//! which the table looks, as a list. A property test holds the two against each other.

use std::fmt;
use std::sync::Arc;

use super::table::{Entry, RouteTable, Rules, by_host, suffixes};
use super::{Match, PathMatch, Rule, ValueMatch, ValueRule};
use crate::RequestHead;
use crate::request::host;

/// One match of one rule, and what a request makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Considered<'a> {
    /// Host that the route is for; empty: every one. `.example.org` stands for every host that ends so.
    pub host: &'a str,
    /// What must fit besides the host.
    pub fits: &'a Match,
    /// Where it would lead.
    pub rule: &'a Arc<Rule>,
    /// What became of it.
    pub verdict: Verdict<'a>,
}

/// What becomes of one match.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// The request takes this rule.
    Taken,
    /// It fits, but comes after the one that is taken.
    Outranked,
    /// It does not fit.
    Misfit(Misfit<'a>),
}

/// The first part of a match that a request does not fit.
#[derive(Clone, Copy, Debug)]
pub enum Misfit<'a> {
    /// The host.
    Host,
    /// The path.
    Path,
    /// The method must be this one.
    Method(&'a str),
    /// It is for gRPC alone.
    Grpc,
    /// This header must be there, with this value.
    Header(&'a ValueMatch),
    /// This query parameter must be there, with this value.
    Query(&'a ValueMatch),
}

impl RouteTable {
    /// Every match of the table with its verdict: those whose host fits in the order in which they are tried, the more
    /// specific host first; then the others. The first that fits is the one that [`RouteTable::find`] takes.
    pub fn explain(&self, head: &impl RequestHead) -> Vec<Considered<'_>> {
        let asked = host(head.authority());
        let mut list = Vec::new();
        let mut fitting: Vec<&str> = Vec::new();
        let exact = by_host(&self.exact, asked).into_iter();
        for (host, rules) in exact.chain(suffixes(asked).filter_map(|suffix| by_host(&self.suffix, suffix))) {
            fitting.push(host);
            rules.consider(host, &mut list);
        }
        self.any.consider("", &mut list);
        let tried = list.len();
        for (host, rules) in self.exact.iter().chain(&self.suffix).filter(|(host, _)| !fitting.contains(&&**host)) {
            rules.consider(host, &mut list);
        }
        let mut taken = false;
        for (place, considered) in list.iter_mut().enumerate() {
            considered.verdict = match considered.fits.misfit_with_path(head) {
                _ if place >= tried => Verdict::Misfit(Misfit::Host),
                Some(misfit) => Verdict::Misfit(misfit),
                None if taken => Verdict::Outranked,
                None => Verdict::Taken,
            };
            taken |= matches!(considered.verdict, Verdict::Taken);
        }
        list
    }
}

impl Rules {
    /// Adds the entries in the order in which [`Rules::find`] would come upon them if all fitted.
    fn consider<'a>(&'a self, host: &'a str, list: &mut Vec<Considered<'a>>) {
        let mut prefix: Vec<&(Box<str>, Entry)> = self.prefix.iter().collect();
        prefix.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let by_path = self.exact.iter().chain(prefix).map(|(_, entry)| entry);
        list.extend(by_path.chain(&self.regex).chain(&self.rest).map(|entry| Considered {
            host,
            fits: &entry.fits,
            rule: &entry.rule,
            verdict: Verdict::Outranked,
        }));
    }
}

impl Match {
    /// The first part that `head` does not fit, its path included.
    fn misfit_with_path(&self, head: &impl RequestHead) -> Option<Misfit<'_>> {
        let path = head.path();
        let fits = match &self.path {
            PathMatch::Exact(exact) => **exact == *path,
            PathMatch::Regex(regex) => regex.is_match(path),
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix)
                    .is_some_and(|rest| prefix.is_empty() || matches!(rest.as_bytes().first(), None | Some(b'/')))
            }
        };
        if fits { self.misfit(head) } else { Some(Misfit::Path) }
    }
}

impl fmt::Display for Match {
    /// What must fit, in a few words: `path /v2/* and method GET`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            PathMatch::Exact(path) => write!(f, "path {path}")?,
            PathMatch::Prefix(prefix) if prefix.trim_end_matches('/').is_empty() => f.write_str("any path")?,
            PathMatch::Prefix(prefix) => write!(f, "path {}/*", prefix.trim_end_matches('/'))?,
            PathMatch::Regex(regex) => write!(f, "path ~ {}", regex.as_str())?,
        }
        if let Some(method) = &self.method {
            write!(f, " and method {method}")?;
        }
        if self.grpc {
            f.write_str(" and gRPC")?;
        }
        self.headers.iter().try_for_each(|header| write!(f, " and header {header}"))?;
        self.query.iter().try_for_each(|parameter| write!(f, " and query {parameter}"))
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueRule::Exact(exact) => write!(f, "{}={exact}", self.name),
            ValueRule::Regex(regex) => write!(f, "{} ~ {}", self.name, regex.as_str()),
        }
    }
}

impl fmt::Display for Misfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Host => f.write_str("is for another host"),
            Misfit::Path => f.write_str("the path does not fit"),
            Misfit::Method(method) => write!(f, "the method is not {method}"),
            Misfit::Grpc => f.write_str("the request is not gRPC"),
            Misfit::Header(header) => write!(f, "no header {header}"),
            Misfit::Query(parameter) => write!(f, "no query parameter {parameter}"),
        }
    }
}
