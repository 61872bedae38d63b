//! What the admin socket says, as JSON: written by this crate, read by the `heddle` binary and by people's scripts.
//!
//! Field names are in camelCase. Times are Unix milliseconds; lengths of time are in the unit that the field's name ends with.

use std::net::IpAddr;

use api::{Condition, Diagnostic, Kind, Location, Object};
use serde::{Deserialize, Serialize};

/// One line of `GET /v1/objects`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectSummary {
    /// `HTTPRoute`, `Service`, …
    pub kind: Kind,
    /// Its namespace; empty for kinds without one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it was written.
    pub location: Option<Location>,
    /// Sorted by type.
    pub conditions: Vec<Condition>,
    /// What it does, in a few words: `80→8080 http, 3 endpoints`.
    pub summary: String,
}

/// `GET /v1/objects/{kind}/{namespace}/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectDetail {
    /// The same as in the list.
    pub head: ObjectSummary,
    /// The object as it is held: defaults filled in.
    pub object: Object,
    /// The messages made of it that proxies are sent.
    pub resources: Vec<Resource>,
}

/// One message that proxies are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// `Service`, `Endpoint`, `Route`, …
    pub kind: String,
    /// Its xDS name.
    pub name: String,
    /// The hash of its bytes.
    pub version: String,
    /// For people: the message's fields, one a line.
    pub text: String,
}

/// One registered instance: `GET /v1/instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Of the workload.
    pub namespace: String,
    /// Of the workload.
    pub name: String,
    /// As its sidecar says.
    pub state: InstanceState,
    /// Why, where it said so.
    pub reason: String,
    /// Whether its stream is open; false while its grace runs.
    pub connected: bool,
    /// Address of the application.
    pub address: String,
    /// `ip:port` of its sidecar's inbound listener; empty: none.
    pub dial: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// `namespace/name` of the services that it is an endpoint of, sorted.
    pub services: Vec<String>,
    /// Version of its proxy.
    pub version: String,
    /// The host that it runs on, as it says.
    pub node: String,
    /// Its certificate is valid from here; 0: not known yet.
    pub certificate_not_before_unix_ms: i64,
    /// Its certificate is valid until here; 0: not known yet.
    pub certificate_not_after_unix_ms: i64,
    /// Its stream was opened (or, while it is not connected, lost) then.
    pub since_unix_ms: i64,
}

/// Readiness of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InstanceState {
    /// Not ready for the first time yet.
    Starting,
    /// Takes requests.
    Ready,
    /// Takes none for now.
    NotReady,
    /// Is going away.
    Draining,
}

/// `GET /v1/stats`: what sidecars report, added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// When this was made.
    pub now_unix_ms: i64,
    /// The length of time that `rps`, `p50Us`, `p99Us`, `windowRequests` and `windowFailures` look back, seconds.
    pub window_seconds: u32,
    /// Sorted by service, route and direction.
    pub routes: Vec<RouteStats>,
    /// Sorted by service and workload.
    pub endpoints: Vec<EndpointStats>,
    /// Sorted by workload.
    pub instances: Vec<InstanceStats>,
}

/// Requests of one service by one route, seen from one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStats {
    /// `inbound` (counted by the server's sidecar), `outbound` (by the caller's) or `gateway`.
    pub direction: String,
    /// `namespace/name`.
    pub service: String,
    /// Route and rule; empty for requests that took no route.
    pub route: String,
    /// Since this control plane began to count.
    pub requests: u64,
    /// Of those, the failures.
    pub failures: u64,
    /// Requests a second in the window.
    pub rps: f64,
    /// Requests in the window.
    pub window_requests: u64,
    /// Failures in the window.
    pub window_failures: u64,
    /// Median latency in the window, microseconds; absent: no request in the window.
    pub p50_us: Option<u64>,
    /// 99th percentile of latency in the window, microseconds.
    pub p99_us: Option<u64>,
}

/// One instance as its callers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStats {
    /// `namespace/name`.
    pub service: String,
    /// `namespace/name` of the instance.
    pub workload: String,
    /// Since this control plane began to count.
    pub requests: u64,
    /// Of those, the failures.
    pub failures: u64,
    /// Requests in the window.
    pub window_requests: u64,
    /// Failures in the window.
    pub window_failures: u64,
    /// Its part of the service's requests in the window, 0 to 1; 0 when there were none.
    pub share: f64,
    /// Predicted cost of one more request, microseconds: the mean over the callers that reported one in the window.
    pub score_us: Option<f64>,
    /// Requests in flight, over all callers.
    pub in_flight: u32,
    /// How many callers leave it out at the moment.
    pub ejected_by: u32,
    /// Whether any caller leaves it out.
    pub ejected: bool,
}

/// One instance's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStats {
    /// `namespace/name`.
    pub workload: String,
    /// How long ago its certificate was issued, seconds; absent: not reported yet.
    pub certificate_age_seconds: Option<u64>,
    /// How long its certificate is still valid, seconds.
    pub certificate_left_seconds: Option<u64>,
}

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// `namespace/name`.
    pub workload: String,
    /// The service account whose identity the workload gets.
    pub service_account: String,
    /// The digest ([`crate::claims::digest`]) of the labels and services that it may register with; absent: any of its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<String>,
}

/// Answer to `POST /v1/tokens`. The token is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// To be used once.
    pub token: String,
    /// And before this.
    pub expires_unix_ms: i64,
}

/// One line of `GET /v1/watch`: everything that a supervisor runs, and what is wrong. Every list is sorted by namespace and
/// name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// Grows with each line of one control plane.
    pub revision: u64,
    /// Whether every source has been read once; a supervisor starts nothing and stops nothing before.
    pub complete: bool,
    /// Deployments, whole. Commands run in the folder of the file that `location` names.
    pub deployments: Vec<Object>,
    /// StatefulSets, whole.
    pub stateful_sets: Vec<Object>,
    /// Jobs, whole.
    pub jobs: Vec<Object>,
    /// Gateways, whole.
    pub gateways: Vec<Object>,
    /// Names and ports alone.
    pub services: Vec<ServiceEntry>,
    /// What is wrong now.
    pub problems: Vec<Diagnostic>,
}

/// A service, as far as a supervisor needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The address that stands for it; a headless one has none.
    pub address: Option<IpAddr>,
    /// Sorted by port.
    pub ports: Vec<ServicePortEntry>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortEntry {
    /// Its name; empty: none.
    pub name: String,
    /// The service port.
    pub port: u16,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Every source has been read and proxies are served.
    pub ready: bool,
    /// Name of the mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Version of the control plane.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub started_unix_ms: i64,
}

/// The body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Cause and way out.
    pub error: String,
}

/// `POST /v1/explain`: a request that is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExplainRequest {
    /// `namespace/name` of the service.
    pub service: String,
    /// Its port; 0: the first.
    pub port: u16,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Host`; empty: the service's name.
    pub authority: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The client's address, for what hashes it; empty: the proxy's own.
    pub source: String,
    /// `namespace/name` of the instance whose sidecar is asked; absent: one that calls the service.
    pub from: Option<String>,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainResponse {
    /// Who was asked.
    pub from: String,
    /// What it said; `heddle explain -o json` shows it, and `docs/commands.md` describes it.
    pub explanation: serde_json::Value,
}
