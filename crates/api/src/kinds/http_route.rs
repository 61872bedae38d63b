//! `gateway.networking.k8s.io` HTTPRoute, and GRPCRoute as the HTTP rules that it means.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::http_filter::{self, Filters, HeaderEdits, Redirect, Rewrite};
use super::route::{self, BackendRef, ParentRef};
use crate::read::{At, Map};
use crate::text;

/// `gateway.networking.k8s.io` HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// What it attaches to.
    pub parents: Vec<ParentRef>,
    /// Lower case, exact or `*.suffix`; empty: every host of the listener. Without meaning under a service.
    pub hostnames: Vec<String>,
    /// Its rules in the order written; one that matches everything when none was written.
    pub rules: Vec<HttpRule>,
}

/// `gateway.networking.k8s.io` GRPCRoute. A gRPC method is the HTTP path `/service/method`, so its rules are HTTP rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcRoute {
    /// What it attaches to.
    pub parents: Vec<ParentRef>,
    /// As in [`HttpRoute`].
    pub hostnames: Vec<String>,
    /// Its rules in the order written.
    pub rules: Vec<HttpRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// Its name; empty when not written.
    pub name: String,
    /// Any of them; none: everything.
    pub matches: Vec<HttpMatch>,
    /// Shares of the requests; empty with a redirect.
    pub backends: Vec<BackendRef>,
    /// Filter RequestHeaderModifier.
    pub request_headers: HeaderEdits,
    /// Filter ResponseHeaderModifier.
    pub response_headers: HeaderEdits,
    /// Filter RequestRedirect.
    pub redirect: Option<Redirect>,
    /// Filter URLRewrite.
    pub rewrite: Option<Rewrite>,
    /// `timeouts.request`; zero: no limit.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`; zero: no limit.
    pub attempt_timeout: Option<Duration>,
}

/// One way to fit a rule; all parts must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpMatch {
    /// By path; `None`: any.
    pub path: Option<PathMatch>,
    /// By method; `None`: any.
    pub method: Option<String>,
    /// By headers, names in lower case.
    pub headers: Vec<ValueMatch>,
    /// By query parameters.
    pub query: Vec<ValueMatch>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole path elements from the start.
    Prefix(String),
    /// The whole path against an expression that compiles.
    Regex(String),
}

/// How a header or a query parameter is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMatch {
    /// The name; of a header in lower case.
    pub name: String,
    /// What its value must be.
    pub value: ValueRule,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ValueRule {
    /// Equal.
    Exact(String),
    /// Wholly matched by an expression that compiles.
    Regex(String),
}

/// Gateway API's bounds on lists.
const MAX_HOSTNAMES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_VALUES: usize = 16;

/// Reads `spec` of an HTTPRoute.
pub(crate) fn read(spec: &mut Map<'_>, namespace: &str) -> HttpRoute {
    let parents = route::read_parents(spec, namespace);
    let hostnames = read_hostnames(spec);
    let rules = match spec.get("rules") {
        Some(at) => read_rules(&at, |at| read_rule(at, namespace)),
        None => vec![HttpRule::default()],
    };
    HttpRoute { parents, hostnames, rules }
}

/// Reads `spec` of a GRPCRoute.
pub(crate) fn read_grpc(spec: &mut Map<'_>, namespace: &str) -> GrpcRoute {
    let parents = route::read_parents(spec, namespace);
    let hostnames = read_hostnames(spec);
    let rules = match spec.get("rules") {
        Some(at) => read_rules(&at, |at| read_grpc_rule(at, namespace)),
        None => vec![HttpRule::default()],
    };
    GrpcRoute { parents, hostnames, rules }
}

fn read_hostnames(spec: &mut Map<'_>) -> Vec<String> {
    spec.get("hostnames").map(|at| at.each(MAX_HOSTNAMES, |at| at.parse(text::host_pattern))).unwrap_or_default()
}

fn read_rules(at: &At<'_>, read: impl FnMut(&At<'_>) -> Option<HttpRule>) -> Vec<HttpRule> {
    let rules = at.each(route::MAX_RULES, read);
    for (i, rule) in rules.iter().enumerate() {
        if !rule.name.is_empty() && rules[..i].iter().any(|r| r.name == rule.name) {
            at.error(format!("two rules have the name \"{}\"", rule.name));
        }
    }
    rules
}

fn read_rule(at: &At<'_>, namespace: &str) -> Option<HttpRule> {
    let mut map = at.map()?;
    map.not_yet(&["retry", "sessionPersistence"]);
    let name = map.get("name").and_then(|at| at.parse(text::subdomain)).unwrap_or_default();
    let matches = map.get("matches").map(|at| at.each(MAX_MATCHES, read_match)).unwrap_or_default();
    let (filters, backends) = read_ways(at, &mut map, namespace);
    let (request_timeout, attempt_timeout) = map.get("timeouts").map(|at| read_timeouts(&at)).unwrap_or_default();
    map.finish();
    if filters.edits_prefix() && !matches!(matches.as_slice(), [HttpMatch { path: Some(PathMatch::Prefix(_)), .. }]) {
        at.error_help(
            "ReplacePrefixMatch needs a rule with one match, whose path is of type PathPrefix",
            "split the rule, one for each prefix",
        );
    }
    Some(HttpRule { request_timeout, attempt_timeout, ..filtered(filters, name, matches, backends) })
}

/// The rule that these parts make, without timeouts.
fn filtered(filters: Filters, name: String, matches: Vec<HttpMatch>, backends: Vec<BackendRef>) -> HttpRule {
    let Filters { request_headers, response_headers, redirect, rewrite } = filters;
    let (request_timeout, attempt_timeout) = (None, None);
    HttpRule {
        name,
        matches,
        backends,
        request_headers,
        response_headers,
        redirect,
        rewrite,
        request_timeout,
        attempt_timeout,
    }
}

/// Filters and backends, and whether they go together.
fn read_ways(at: &At<'_>, map: &mut Map<'_>, namespace: &str) -> (Filters, Vec<BackendRef>) {
    let filters = map.get("filters").map(|at| http_filter::read(&at)).unwrap_or_default();
    let field = map.get("backendRefs");
    let backends: Vec<BackendRef> = field
        .as_ref()
        .map(|at| at.each(route::MAX_BACKENDS, |at| route::read_backend(at, namespace, true)))
        .unwrap_or_default();
    match (&field, filters.redirect.is_some()) {
        (Some(field), true) => {
            field.error_help("a rule that redirects sends nothing to backends", "remove backendRefs or the redirect");
        }
        (None, false) => at.warn(
            "the rule has no backendRefs and no redirect, so its requests are answered with 500",
            "add backendRefs",
        ),
        _ => {}
    }
    (filters, backends)
}

/// `request` and `backendRequest`.
fn read_timeouts(at: &At<'_>) -> (Option<Duration>, Option<Duration>) {
    let Some(mut map) = at.map() else {
        return (None, None);
    };
    let request = map.get("request").and_then(|at| at.duration());
    let attempt = map.get("backendRequest").and_then(|at| at.duration());
    map.finish();
    if let (Some(request), Some(attempt)) = (request, attempt)
        && attempt > request
        && !request.is_zero()
    {
        at.error("backendRequest is longer than request");
    }
    (request, attempt)
}

fn read_match(at: &At<'_>) -> Option<HttpMatch> {
    const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let mut map = at.map()?;
    let path = map.get("path").and_then(|at| read_path(&at));
    let headers = read_values(&mut map, "headers", text::header_name);
    let query = read_values(&mut map, "queryParams", text::printable);
    let method = map.get("method").and_then(|at| at.choice(&METHODS.map(|m| (m, m))));
    map.finish();
    Some(HttpMatch { path, method: method.map(str::to_owned), headers, query })
}

fn read_path(at: &At<'_>) -> Option<PathMatch> {
    #[derive(Clone, Copy)]
    enum Type {
        Exact,
        Prefix,
        Regex,
    }
    let mut map = at.map()?;
    let types = [("Exact", Type::Exact), ("PathPrefix", Type::Prefix), ("RegularExpression", Type::Regex)];
    let kind = map.get("type").map_or(Some(Type::Prefix), |at| at.choice(&types));
    let value = map.get("value");
    map.finish();
    let Some(value) = value else {
        return match kind? {
            Type::Exact => Some(PathMatch::Exact("/".to_owned())),
            Type::Prefix => Some(PathMatch::Prefix("/".to_owned())),
            Type::Regex => {
                at.error("the field value is missing");
                None
            }
        };
    };
    match kind? {
        Type::Exact => value.parse(text::path).map(PathMatch::Exact),
        Type::Prefix => value.parse(text::path).map(PathMatch::Prefix),
        Type::Regex => value.parse(text::regex).map(PathMatch::Regex),
    }
}

/// `headers` or `queryParams` of a match.
fn read_values(
    map: &mut Map<'_>,
    field: &'static str,
    name: impl Fn(&str) -> Result<String, String>,
) -> Vec<ValueMatch> {
    let Some(at) = map.get(field) else {
        return Vec::new();
    };
    let values = at.each(MAX_VALUES, |at| {
        let mut map = at.map()?;
        let regex =
            map.get("type").map_or(Some(false), |at| at.choice(&[("Exact", false), ("RegularExpression", true)]));
        let name = map.require("name").and_then(|at| at.parse(&name));
        let value = map.require("value");
        map.finish();
        let value = match (regex?, value?) {
            (true, at) => ValueRule::Regex(at.parse(text::regex)?),
            (false, at) => ValueRule::Exact(at.parse(text::header_value)?),
        };
        Some(ValueMatch { name: name?, value })
    });
    for (i, value) in values.iter().enumerate() {
        if values[..i].iter().any(|v| v.name == value.name) {
            at.error(format!("names {} twice; all entries must match, so this never would", value.name));
        }
    }
    values
}

fn read_grpc_rule(at: &At<'_>, namespace: &str) -> Option<HttpRule> {
    let mut map = at.map()?;
    map.not_yet(&["sessionPersistence"]);
    let name = map.get("name").and_then(|at| at.parse(text::subdomain)).unwrap_or_default();
    let matches = map.get("matches").map(|at| at.each(MAX_MATCHES, read_grpc_match)).unwrap_or_default();
    let errors = at.errors();
    let (filters, backends) = read_ways(at, &mut map, namespace);
    map.finish();
    if at.errors() == errors && (filters.redirect.is_some() || filters.rewrite.is_some()) {
        at.error("a GRPCRoute can neither redirect nor rewrite");
    }
    Some(filtered(filters, name, matches, backends))
}

fn read_grpc_match(at: &At<'_>) -> Option<HttpMatch> {
    let mut map = at.map()?;
    let path = map.get("method").and_then(|at| read_grpc_method(&at));
    let headers = read_values(&mut map, "headers", text::header_name);
    map.finish();
    Some(HttpMatch { path, method: None, headers, query: Vec::new() })
}

/// The path that a gRPC method is called by: `/service/method`.
fn read_grpc_method(at: &At<'_>) -> Option<PathMatch> {
    let mut map = at.map()?;
    let regex = map.get("type").map_or(Some(false), |at| at.choice(&[("Exact", false), ("RegularExpression", true)]));
    let service_at = map.get("service");
    let method_at = map.get("method");
    map.finish();
    let regex = regex?;
    let check = |at: At<'_>| at.parse(if regex { text::regex } else { grpc_name });
    let service = service_at.map(|at| check(at).ok_or(())).transpose().ok()?;
    let method = method_at.map(|at| check(at).ok_or(())).transpose().ok()?;
    match (service, method) {
        (None, None) => {
            at.error("needs service, method or both");
            None
        }
        (Some(service), Some(method)) if !regex => Some(PathMatch::Exact(format!("/{service}/{method}"))),
        (Some(service), None) if !regex => Some(PathMatch::Prefix(format!("/{service}"))),
        (service, method) => {
            let any = || "[^/]+".to_owned();
            let part = |text: String| {
                if regex { format!("(?:{text})") } else { regex::escape(&text) }
            };
            let (service, method) = (service.map_or_else(any, part), method.map_or_else(any, part));
            Some(PathMatch::Regex(format!("/{service}/{method}")))
        }
    }
}

fn grpc_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.is_empty() || text.len() > 1024 || !text.chars().all(good) {
        Err("must be a gRPC service's or method's name, without `/`".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
