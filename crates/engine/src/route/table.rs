//! The rules in order of precedence, and how one is found.
//!
//! Everything is a sorted vector. Exact paths, prefixes and hosts are found by binary search, so the cost grows with the
//! logarithm of their number; only rules that share one path, and regular expressions, are tried one after the other.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use memchr::memrchr;

use super::{Found, HostMatch, Match, PathMatch, RouteInput, Rule};
use crate::RequestHead;
use crate::request::host;

/// The rules of one destination port or gateway listener in order of precedence: more specific host, exact path, longer
/// prefix, method, more headers, more query parameters, then older, then first by name, then first in the route.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Sorted by host, lower case.
    pub(super) exact: Vec<(Box<str>, Rules)>,
    /// Sorted by suffix, lower case.
    pub(super) suffix: Vec<(Box<str>, Rules)>,
    pub(super) any: Rules,
}

/// The rules of one host.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Sorted by path, then by precedence.
    pub(super) exact: Vec<(Box<str>, Entry)>,
    /// Sorted by prefix, then by precedence.
    pub(super) prefix: Vec<(Box<str>, Entry)>,
    /// Length of the longest prefix.
    longest: usize,
    /// By precedence.
    pub(super) regex: Vec<Entry>,
    /// Those that fit every path, by precedence.
    pub(super) rest: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) fits: Match,
    pub(super) rule: Arc<Rule>,
    rank: Rank,
}

/// What decides between rules whose path fits equally well; less comes first. Names make it a total order: the last of
/// them tells routes of different kinds with one name apart.
type Rank = (Reverse<bool>, Reverse<usize>, Reverse<usize>, i64, Box<str>, Box<str>, usize, usize);

impl RouteTable {
    /// Sorts and indexes.
    pub fn new(routes: Vec<RouteInput>) -> RouteTable {
        let mut table = RouteTable::default();
        for route in routes {
            let mut hosts = route.hosts.clone();
            if hosts.is_empty() {
                hosts.push(HostMatch::Any);
            }
            let mut entries = route.into_entries();
            let last = hosts.pop();
            for host in &hosts {
                table.rules(host).add(entries.iter().map(Entry::again));
            }
            if let Some(host) = &last {
                table.rules(host).add(entries.drain(..));
            }
        }
        table.exact.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        table.suffix.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let groups = table.exact.iter_mut().chain(&mut table.suffix).map(|(_, rules)| rules);
        groups.chain([&mut table.any]).for_each(Rules::sort);
        table
    }

    fn rules(&mut self, host: &HostMatch) -> &mut Rules {
        let (groups, host) = match host {
            HostMatch::Any => return &mut self.any,
            HostMatch::Exact(host) => (&mut self.exact, host),
            HostMatch::Suffix(host) => (&mut self.suffix, host),
        };
        let host = host.to_ascii_lowercase().into_boxed_str();
        let index = groups.iter().position(|(known, _)| *known == host).unwrap_or_else(|| {
            groups.push((host, Rules::default()));
            groups.len() - 1
        });
        &mut groups[index].1
    }

    /// Every rule, once for each host and match that leads to it.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let groups = self.exact.iter().chain(&self.suffix).map(|(_, rules)| rules);
        groups.chain([&self.any]).flat_map(|rules| {
            let by_path = rules.exact.iter().chain(&rules.prefix).map(|(_, entry)| entry);
            by_path.chain(&rules.regex).chain(&rules.rest).map(|entry| &entry.rule)
        })
    }

    /// The rule that `head` takes. Does not allocate, but for a regular expression on a percent-encoded query parameter of
    /// more than 128 bytes.
    pub fn find(&self, head: &impl RequestHead) -> Option<Found<'_>> {
        if self.exact.is_empty() && self.suffix.is_empty() {
            return self.any.find(head);
        }
        let host = host(head.authority());
        let exact = by_host(&self.exact, host).and_then(|(_, rules)| rules.find(head));
        exact
            .or_else(|| {
                if self.suffix.is_empty() {
                    return None;
                }
                suffixes(host).find_map(|suffix| by_host(&self.suffix, suffix)?.1.find(head))
            })
            .or_else(|| self.any.find(head))
    }
}

/// The ends of a host that can be a suffix, the longest first. One label or more stands before a suffix, so the first dot may
/// not be the first byte.
pub(super) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    let dots = host.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.');
    dots.map(|(dot, _)| &host[dot..])
}

/// The rules of a host, and the host as it is written there.
pub(super) fn by_host<'a>(groups: &'a [(Box<str>, Rules)], host: &str) -> Option<(&'a str, &'a Rules)> {
    let lower = || host.bytes().map(|byte| byte.to_ascii_lowercase());
    let index = groups.binary_search_by(|(known, _)| known.bytes().cmp(lower())).ok()?;
    Some((&*groups[index].0, &groups[index].1))
}

impl RouteInput {
    fn into_entries(self) -> Vec<Entry> {
        let (created, name) = (self.created, self.name);
        let mut entries = Vec::new();
        for (position, (matches, rule)) in self.rules.into_iter().enumerate() {
            let matches = if matches.is_empty() { vec![Match::everything()] } else { matches };
            for (nth, fits) in matches.into_iter().enumerate() {
                let rank = (
                    Reverse(fits.method.is_some()),
                    Reverse(fits.headers.len() + usize::from(fits.grpc)),
                    Reverse(fits.query.len()),
                    created,
                    name.clone(),
                    rule.name.clone(),
                    position,
                    nth,
                );
                entries.push(Entry { fits, rule: Arc::clone(&rule), rank });
            }
        }
        entries
    }
}

impl Entry {
    fn again(&self) -> Entry {
        Entry { fits: self.fits.clone(), rule: Arc::clone(&self.rule), rank: self.rank.clone() }
    }
}

impl Rules {
    fn add(&mut self, entries: impl Iterator<Item = Entry>) {
        for entry in entries {
            match &entry.fits.path {
                PathMatch::Exact(path) => self.exact.push((path.clone(), entry)),
                PathMatch::Regex(_) => self.regex.push(entry),
                PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
                    "" => self.rest.push(entry),
                    prefix => self.prefix.push((prefix.into(), entry)),
                },
            }
        }
    }

    fn sort(&mut self) {
        let by_path =
            |a: &(Box<str>, Entry), b: &(Box<str>, Entry)| -> Ordering { (&a.0, &a.1.rank).cmp(&(&b.0, &b.1.rank)) };
        self.exact.sort_by(by_path);
        self.prefix.sort_by(by_path);
        self.regex.sort_by(|a, b| a.rank.cmp(&b.rank));
        self.rest.sort_by(|a, b| a.rank.cmp(&b.rank));
        self.longest = self.prefix.iter().map(|(prefix, _)| prefix.len()).max().unwrap_or(0);
    }

    fn find(&self, head: &impl RequestHead) -> Option<Found<'_>> {
        let path = head.path();
        if let Some(entry) = first(&self.exact, path, head) {
            return Some(Found { rule: &entry.rule, prefix: 0 });
        }
        if let Some(found) = self.find_prefix(path, head) {
            return Some(found);
        }
        let regex = self.regex.iter().find(|entry| entry.fits.path_and_rest(path, head));
        let entry = regex.or_else(|| self.rest.iter().find(|entry| entry.fits.rest(head)))?;
        Some(Found { rule: &entry.rule, prefix: 0 })
    }

    /// The longest prefix that ends where an element of the path does. What is longer than every prefix is not looked at,
    /// so a hostile path of slashes costs no more than the rules do.
    fn find_prefix(&self, path: &str, head: &impl RequestHead) -> Option<Found<'_>> {
        let bytes = path.as_bytes();
        let mut end = bytes.len();
        if end > self.longest {
            end = memrchr(b'/', &bytes[..=self.longest])?;
        }
        while end > 0 {
            if let Some(entry) = first(&self.prefix, &path[..end], head) {
                return Some(Found { rule: &entry.rule, prefix: end });
            }
            end = memrchr(b'/', &bytes[..end])?;
        }
        None
    }
}

/// The first of the entries for `path` that fits the rest of the request.
fn first<'a>(entries: &'a [(Box<str>, Entry)], path: &str, head: &impl RequestHead) -> Option<&'a Entry> {
    let begin = entries.partition_point(|(known, _)| &**known < path);
    let same = entries[begin..].iter().take_while(|(known, _)| &**known == path);
    same.map(|(_, entry)| entry).find(|entry| entry.fits.rest(head))
}
