//! `POST /v1/explain`: one sidecar says how it would send a request.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use proto::mesh;
use tokio::time::{Instant, timeout};

use super::{Admin, BODY, PATIENCE, Refusal, model};
use crate::explain::Error;
use crate::instances::split;

/// Headers of the request that is asked about.
const HEADERS: usize = 64;

pub(super) async fn explain(State(admin): State<Admin>, body: Body) -> Result<Json<model::ExplainResponse>, Refusal> {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let body = timeout(PATIENCE, to_bytes(body, BODY))
        .await
        .map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {PATIENCE:?}")))?
        .map_err(|_| Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY} bytes")))?;
    let asked: model::ExplainRequest =
        serde_json::from_slice(&body).map_err(|e| bad(format!("the body is not a request to explain: {e}")))?;
    if split(&asked.service).is_none() {
        return Err(bad(format!("{:?} is not NAMESPACE/SERVICE", asked.service)));
    }
    if asked.headers.len() > HEADERS {
        return Err(bad(format!("{} headers; {HEADERS} are allowed", asked.headers.len())));
    }
    let from = match &asked.from {
        Some(from) => from.clone(),
        None => caller(&admin, &asked.service)?,
    };
    let headers = asked.headers.iter();
    let request = mesh::ExplainRequest {
        id: 0,
        service: asked.service.clone(),
        port: u32::from(asked.port),
        method: asked.method.clone(),
        path: asked.path.clone(),
        authority: asked.authority.clone(),
        headers: headers.map(|h| mesh::Header { name: h.0.to_ascii_lowercase(), value: h.1.clone() }).collect(),
        source: asked.source.clone(),
    };
    let answer = admin.world.explains.ask(&from, request).await.map_err(|error| {
        let status = match error {
            Error::NotConnected(_) => StatusCode::NOT_FOUND,
            Error::Busy => StatusCode::TOO_MANY_REQUESTS,
            Error::Silent(_) => StatusCode::GATEWAY_TIMEOUT,
            Error::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Refusal(status, error.to_string())
    })?;
    let explanation = serde_json::from_str(&answer)
        .map_err(|e| Refusal(StatusCode::BAD_GATEWAY, format!("the answer of {from} is not JSON: {e}")))?;
    Ok(Json(model::ExplainResponse { from, explanation }))
}

/// Whose sidecar is asked where nobody said: one that calls the service now, else one of its namespace that is not its own
/// instance, else any.
fn caller(admin: &Admin, service: &str) -> Result<String, Refusal> {
    let state = admin.world.state();
    let connected: Vec<_> = state.instances.iter().filter(|(_, record)| record.connected()).collect();
    let calls = state.statistics.callers(service, Instant::now());
    let namespace = service.split_once('/').map_or("", |(namespace, _)| namespace);
    let rank = |name: &str, record: &crate::instances::Record| {
        let own = state.services_of(record).iter().any(|s| s == service);
        (!calls.contains(name), own, record.member.namespace != namespace)
    };
    let best = connected.iter().min_by_key(|(name, record)| (rank(name, record), name.as_str()));
    best.map(|(name, _)| (*name).clone()).ok_or_else(|| {
        let waiting = SystemTime::now().duration_since(admin.started).unwrap_or_default() < Duration::from_secs(15);
        let hint = if waiting { "; it has just started, so try again" } else { "" };
        Refusal(StatusCode::NOT_FOUND, format!("no sidecar is connected that could be asked{hint}"))
    })
}
