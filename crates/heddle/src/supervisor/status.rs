//! What runs, for people and programs.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::gateway::{Bound, GatewayProxy};
use super::instance::Instance;
use super::reconcile::Phase;
use crate::sidecar::settings::ADMIN_PORT;

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// Name of the mesh.
    pub(crate) mesh: String,
    /// Whether everything that is wanted runs and is ready.
    pub(crate) up: bool,
    /// In order of namespace and name.
    pub(crate) gateways: Vec<GatewayStatus>,
    /// Gateways that cannot run; each is tried again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed_gateways: Vec<GatewayProblem>,
    /// In order of what they are instances of.
    pub(crate) instances: Vec<InstanceStatus>,
    /// How many things are wrong with the manifests.
    pub(crate) problems: usize,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) listeners: Vec<Bound>,
    /// The first HTTP listener's.
    pub(crate) url: Option<String>,
    pub(crate) metrics: String,
}

/// A gateway that cannot run now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayProblem {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) problem: String,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The Deployment, StatefulSet or Job.
    pub(crate) set: String,
    pub(crate) address: IpAddr,
    pub(crate) phase: &'static str,
    pub(crate) metrics: String,
}

impl Status {
    /// Of these parts.
    pub(crate) fn of<'a>(
        mesh: &str,
        instances: impl Iterator<Item = (&'a str, &'a Instance)>,
        gateways: impl Iterator<Item = &'a GatewayProxy>,
        failed_gateways: impl Iterator<Item = GatewayProblem>,
        settled: bool,
        problems: usize,
    ) -> Status {
        let metrics = |ip: IpAddr| format!("http://{}/metrics", SocketAddr::new(ip, ADMIN_PORT));
        let gateways: Vec<GatewayStatus> = gateways
            .map(|g| GatewayStatus {
                namespace: g.namespace.clone(),
                name: g.name.clone(),
                ready: g.ready(),
                url: g.listeners.iter().find(|b| b.http).map(Bound::url),
                listeners: g.listeners.clone(),
                metrics: metrics(g.ip),
            })
            .collect();
        let instances = instances
            .map(|(set, i)| InstanceStatus {
                namespace: i.namespace.clone(),
                name: i.name.clone(),
                set: set.to_owned(),
                address: i.ip,
                phase: word(i.phase()),
                metrics: metrics(i.ip),
            })
            .collect();
        let failed_gateways: Vec<GatewayProblem> = failed_gateways.collect();
        let up = settled && failed_gateways.is_empty() && gateways.iter().all(|g| g.ready);
        Status { mesh: mesh.to_owned(), up, gateways, failed_gateways, instances, problems }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::NotReady => "not ready",
        Phase::Draining => "draining",
        Phase::Succeeded => "succeeded",
        Phase::Failed => "failed",
        Phase::Gone => "gone",
    }
}
