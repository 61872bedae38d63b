//! `gateway.networking.k8s.io` HTTPRoute, and GRPCRoute as the HTTP rules that it means.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::route::{BackendRef, ParentRef};

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

/// Header edits. Names are valid and in lower case, values valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderEdits {
    /// Replace every value of the name, or add it.
    pub set: Vec<(String, String)>,
    /// Add one more value.
    pub add: Vec<(String, String)>,
    /// Remove every value of the name.
    pub remove: Vec<String>,
}

/// A redirect instead of forwarding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`; `None`: as the request came.
    pub scheme: Option<String>,
    /// `None`: the request's own host.
    pub hostname: Option<String>,
    /// `None`: the well-known port of `scheme` if that is given, else the port the request came to.
    pub port: Option<u16>,
    /// `None`: the request's own path.
    pub path: Option<PathEdit>,
    /// 301, 302 (when not written), 303, 307 or 308.
    pub status: u16,
}

/// A URL rewrite before forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The new host.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathEdit>,
}

/// A change of path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathEdit {
    /// Replace the whole path.
    Full(String),
    /// Replace the matched prefix.
    Prefix(String),
}
