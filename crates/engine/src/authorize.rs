//! Whether a caller may: authorization policies, evaluated at the server's side as Istio does. A deny wins over any allow;
//! where there is an allow policy, what none of them matches is denied. Of a repeated header a deny needs one value to match, an
//! allow all of them, so that nobody gets by with a second one.

use std::net::IpAddr;

use crate::route::ValueMatch;

mod judge;

pub use judge::namespace;

/// What a matching policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let it in; where a port has any of these, what matches none is denied.
    Allow,
    /// Keep it out, whatever allows it.
    Deny,
    /// Say so, and go on.
    Audit,
}

/// One policy, compiled.
#[derive(Debug)]
pub struct Policy {
    /// `namespace/name`.
    pub name: Box<str>,
    /// What it does.
    pub action: Action,
    /// Any of them must match.
    pub rules: Vec<Rule>,
    /// It cannot be used: everything is denied.
    pub unusable: bool,
}

/// Every list that is not empty must match.
#[derive(Debug, Default)]
pub struct Rule {
    /// SPIFFE IDs; `*` at the start or the end.
    pub identities: Vec<Pattern>,
    /// Namespaces of the caller's identity.
    pub namespaces: Vec<Box<str>>,
    /// Networks of the caller's address.
    pub networks: Vec<Network>,
    /// The workload's own ports.
    pub ports: Vec<u16>,
    /// HTTP methods.
    pub methods: Vec<Box<str>>,
    /// HTTP paths; `*` at the start or the end.
    pub paths: Vec<Pattern>,
    /// All of these headers.
    pub headers: Vec<ValueMatch>,
}

/// An exact text, or one with `*` at its start or end, or `*` alone for anything that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Equal.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Ends with.
    Suffix(Box<str>),
    /// Anything.
    Any,
}

impl Pattern {
    /// Reads a pattern: `abc`, `abc*`, `*abc`, `*`.
    pub fn parse(text: &str) -> Pattern {
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(""), _) => Pattern::Any,
            (Some(prefix), _) => Pattern::Prefix(prefix.into()),
            (_, Some(suffix)) => Pattern::Suffix(suffix.into()),
            _ => Pattern::Exact(text.into()),
        }
    }

    /// Whether `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(s) => text == &**s,
            Pattern::Prefix(s) => text.starts_with(&**s),
            Pattern::Suffix(s) => text.ends_with(&**s),
            Pattern::Any => true,
        }
    }
}

/// An IP network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its address.
    pub address: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

/// Who is calling.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Proved SPIFFE ID; `None` for plain text.
    pub identity: Option<&'a str>,
    /// Where the connection comes from.
    pub address: IpAddr,
    /// The workload's port that is called.
    pub port: u16,
}

/// The policies that guard one workload, deny first. No policy of action allow means that all may.
#[derive(Debug, Default)]
pub struct Authorizer {
    /// In order of evaluation: deny, allow, audit; by name within.
    pub policies: Vec<Policy>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Let it in.
    Allow,
    /// Keep it out; the policy that said so, or `None` where no allow policy matched.
    Deny(Option<&'a str>),
}

#[cfg(test)]
mod tests;
