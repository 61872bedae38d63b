//! The admin socket: what people and the supervisor ask a control plane. HTTP/1.1 with JSON bodies over a Unix socket that
//! only its owner may open, which is all the authentication there is.

mod explain;
pub mod model;
mod watch;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::{Kind, Object, ObjectKey, Spec};
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use net::spiffe;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout};
use xds::server::Published;

use crate::claims::is_digest;
use crate::instances::{Record, split};
use crate::stats::unix_ms;
use crate::tokens::Tokens;
use crate::world::{self, World};

/// Largest request body: a token request or a request to explain.
const BODY: usize = 16 * 1024;

/// Largest head of a request, bytes (431 beyond it).
const HEAD: usize = 16 * 1024;

/// A head, and a body, take no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Wait after an accept that failed for want of something (file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) world: Arc<World>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) mesh: String,
    pub(crate) started: SystemTime,
}

/// Serves `router` at `listener`; never returns.
pub(crate) async fn serve(listener: UnixListener, router: Router) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(async move {
                    // The timer bounds how long a head may take. An error concerns a client that broke off.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(PATIENCE)
                        .max_buf_size(HEAD)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the admin socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/objects", get(objects))
        .route("/v1/objects/{kind}/{namespace}/{name}", get(object))
        .route("/v1/instances", get(instances))
        .route("/v1/stats", get(stats))
        .route("/v1/problems", get(problems))
        .route("/v1/tokens", post(token))
        .route("/v1/explain", post(explain::explain))
        .route("/v1/watch", get(watch::stream))
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "there is no such path; see /v1/health".to_owned()) })
        .with_state(admin)
}

/// An answer that is not 2xx.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(model::Failure { error: self.1 })).into_response()
    }
}

async fn health(State(admin): State<Admin>) -> Json<model::Health> {
    let state = admin.world.state();
    Json(model::Health {
        ready: state.begun(),
        mesh: admin.mesh.clone(),
        trust_domain: state.trust_domain().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_unix_ms: unix_ms(admin.started),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectsQuery {
    kind: Option<String>,
    namespace: Option<String>,
}

async fn objects(
    State(admin): State<Admin>,
    Query(query): Query<ObjectsQuery>,
) -> Result<Json<Vec<model::ObjectSummary>>, Refusal> {
    let kind = query.kind.as_deref().map(kind).transpose()?;
    let state = admin.world.state();
    let wanted = |key: &ObjectKey| {
        kind.is_none_or(|k| k == key.kind) && query.namespace.as_deref().is_none_or(|n| n == &*key.namespace)
    };
    let list = state.snapshot.objects.iter().filter(|(key, _)| wanted(key));
    Ok(Json(list.map(|(key, object)| summary(&state, key, object)).collect()))
}

async fn object(
    State(admin): State<Admin>,
    Path((kind_name, namespace, name)): Path<(String, String, String)>,
) -> Result<Json<model::ObjectDetail>, Refusal> {
    let kind = kind(&kind_name)?;
    // A path has no empty part, so kinds without a namespace are asked for with `-`.
    let namespace = if kind.namespaced() { namespace.as_str() } else { "" };
    let key = ObjectKey::new(kind, namespace, &name);
    let state = admin.world.state();
    let Some(object) = state.snapshot.objects.get(&key) else {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("there is no {key}")));
    };
    Ok(Json(model::ObjectDetail {
        head: summary(&state, &key, object),
        object: (**object).clone(),
        resources: state.published_of(&key).into_iter().map(resource).collect(),
    }))
}

/// A kind by its name, in any case.
fn kind(name: &str) -> Result<Kind, Refusal> {
    Kind::ALL.iter().copied().find(|k| k.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let all: Vec<_> = Kind::ALL.iter().map(|k| k.name()).collect();
        Refusal(StatusCode::BAD_REQUEST, format!("{name:?} is not a kind; there are {}", all.join(", ")))
    })
}

fn summary(state: &world::State, key: &ObjectKey, object: &Object) -> model::ObjectSummary {
    model::ObjectSummary {
        kind: key.kind,
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        location: object.location.clone(),
        conditions: state.conditions_of(key),
        summary: words(state, key, object),
    }
}

/// What an object does, in a few words.
fn words(state: &world::State, key: &ObjectKey, object: &Object) -> String {
    let parents = |list: &[api::ParentRef]| {
        let names: Vec<_> = list.iter().map(|p| format!("{:?} {}", p.kind, p.name)).collect();
        names.join(", ")
    };
    match &object.spec {
        Spec::Service(service) => {
            let ports: Vec<_> = service.ports.iter().map(|p| format!("{}→{}", p.port, p.target_port)).collect();
            let count = state.endpoints_of(&key.namespace, &key.name);
            format!("{}; {count} endpoint{}", ports.join(", "), if count == 1 { "" } else { "s" })
        }
        Spec::Deployment(d) => format!("{} replicas", d.replicas),
        Spec::StatefulSet(s) => format!("{} replicas", s.replicas),
        Spec::HttpRoute(r) => format!("{} rules for {}", r.rules.len(), parents(&r.parents)),
        Spec::GrpcRoute(r) => format!("{} rules for {}", r.rules.len(), parents(&r.parents)),
        Spec::TcpRoute(r) => format!("{} rules for {}", r.rules.len(), parents(&r.parents)),
        Spec::Gateway(g) => {
            let listeners: Vec<_> = g.listeners.iter().map(|l| format!("{} {}", l.name, l.port)).collect();
            listeners.join(", ")
        }
        Spec::Workload(w) => w.address.to_string(),
        Spec::Mesh(m) => format!("trust domain {}", m.trust_domain),
        Spec::TrafficPolicy(p) => targets(&p.targets),
        Spec::AuthorizationPolicy(p) => format!("{:?} for {}", p.action, targets(&p.targets)).to_lowercase(),
        Spec::Job(_) | Spec::ReferenceGrant(_) => String::new(),
    }
}

fn targets(list: &[api::TargetRef]) -> String {
    let names: Vec<_> = list.iter().map(|t| format!("{} {}", t.kind.name(), t.name)).collect();
    names.join(", ")
}

fn resource(published: &Published) -> model::Resource {
    model::Resource {
        kind: format!("{:?}", published.kind),
        name: published.name.clone(),
        version: published.version.clone(),
        text: text(published),
    }
}

/// The message as people can read it.
fn text(published: &Published) -> String {
    use prost::Message as _;
    use proto::mesh;
    fn show<M: prost::Message + Default + std::fmt::Debug>(body: &[u8]) -> Result<String, prost::DecodeError> {
        M::decode(body).map(|message| format!("{message:#?}"))
    }
    let body = published.body.as_slice();
    let shown = match published.kind {
        xds::Kind::Trust => mesh::Trust::decode(body).map(|t| {
            let roots = t.roots.len();
            format!("{:#?}\n({roots} root certificates)", mesh::Trust { roots: Vec::new(), ..t })
        }),
        xds::Kind::Policy => show::<mesh::Policy>(body),
        xds::Kind::Route => show::<mesh::Route>(body),
        xds::Kind::Endpoint => show::<mesh::Endpoint>(body),
        xds::Kind::Workload => show::<mesh::Workload>(body),
        xds::Kind::Service => show::<mesh::Service>(body),
        xds::Kind::Gateway => show::<mesh::Gateway>(body),
    };
    shown.unwrap_or_else(|error| error.to_string())
}

async fn instances(State(admin): State<Admin>) -> Json<Vec<model::Instance>> {
    let state = admin.world.state();
    Json(state.instances.iter().map(|(_, record)| instance(&state, record)).collect())
}

fn instance(state: &world::State, record: &Record) -> model::Instance {
    let member = &record.member;
    model::Instance {
        namespace: member.namespace.clone(),
        name: member.name.clone(),
        state: match record.state {
            proto::mesh::State::Starting => model::InstanceState::Starting,
            proto::mesh::State::Ready => model::InstanceState::Ready,
            proto::mesh::State::NotReady => model::InstanceState::NotReady,
            proto::mesh::State::Draining => model::InstanceState::Draining,
        },
        reason: record.reason.clone(),
        connected: record.connected(),
        address: member.address.to_string(),
        dial: member.dial.map(|d| d.to_string()).unwrap_or_default(),
        identity: record.identity.to_string(),
        services: state.services_of(record),
        version: record.version.clone(),
        node: record.node.clone(),
        certificate_not_before_unix_ms: record.not_before_unix_ms,
        certificate_not_after_unix_ms: record.not_after_unix_ms,
        since_unix_ms: unix_ms(record.since),
    }
}

async fn stats(State(admin): State<Admin>) -> Json<model::Stats> {
    let state = admin.world.state();
    let wall = SystemTime::now();
    let now = unix_ms(wall);
    let mut stats = state.statistics.view(Instant::now(), wall);
    let seconds = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).ok().map(|ms| ms / 1000);
    let known = |at: i64| (at != 0).then_some(at);
    // Certificates begin in the past; their age is counted from when they were made.
    let skew = i64::try_from(crate::ca::CLOCK_SKEW.as_millis()).unwrap_or(0);
    stats.instances = state
        .instances
        .iter()
        .map(|(workload, record)| model::InstanceStats {
            workload: workload.clone(),
            certificate_age_seconds: known(record.not_before_unix_ms)
                .and_then(|at| seconds(at + skew, now.max(at + skew))),
            certificate_left_seconds: known(record.not_after_unix_ms).and_then(|at| seconds(now, at)),
        })
        .collect();
    Json(stats)
}

async fn problems(State(admin): State<Admin>) -> Json<Vec<api::Diagnostic>> {
    Json(admin.world.state().problems())
}

async fn token(State(admin): State<Admin>, body: Body) -> Result<Json<model::TokenResponse>, Refusal> {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let body = timeout(PATIENCE, to_bytes(body, BODY))
        .await
        .map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {PATIENCE:?}")))?
        .map_err(|_| Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY} bytes")))?;
    let request: model::TokenRequest =
        serde_json::from_slice(&body).map_err(|e| bad(format!("the body is not {{workload, serviceAccount}}: {e}")))?;
    let Some((namespace, _)) = split(&request.workload) else {
        return Err(bad(format!(
            "the workload {:?} is not namespace/name, both lower-case DNS names",
            request.workload
        )));
    };
    let trust_domain = admin.world.state().trust_domain().to_owned();
    let identity = spiffe::Id::new(&trust_domain, namespace, &request.service_account);
    let identity = identity.map_err(|e| bad(e.to_string()))?;
    if (identity.namespace(), identity.service_account()) == net::tls::CONTROL {
        return Err(bad(format!("{identity} is the control plane's own identity")));
    }
    if request.claims.as_deref().is_some_and(|claims| !is_digest(claims)) {
        return Err(bad(
            "claims are the digest of labels and services: 64 letters of lower-case hexadecimal".to_owned()
        ));
    }
    let made = admin.tokens.make(&request.workload, &request.service_account, request.claims, SystemTime::now());
    let (token, expires) = made.map_err(|e| Refusal(StatusCode::TOO_MANY_REQUESTS, e.to_string()))?;
    Ok(Json(model::TokenResponse { token, expires_unix_ms: unix_ms(expires) }))
}
