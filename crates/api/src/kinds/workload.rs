//! `heddle.dev/v1alpha1` Workload.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::service::AppProtocol;

/// One instance that runs elsewhere. Services select it by `metadata.labels`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Where it is.
    pub address: IpAddr,
    /// Its ports by name.
    pub ports: Vec<WorkloadPort>,
    /// `serviceAccountName`; `default` when not written.
    pub service_account: String,
    /// Its share of requests against others, 1 to 1,000,000; 1 when not written.
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Its sidecar's inbound listener; `None`: no sidecar, plain text.
    pub dial: Option<SocketAddr>,
}

/// One port of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadPort {
    /// Its name; empty when not written.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// What it speaks: `appProtocol`, else the name's first word, else to be detected.
    pub protocol: AppProtocol,
}

/// Where an instance runs; empty: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
}
