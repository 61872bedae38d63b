//! `heddle.dev/v1alpha1` Workload.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::service::{AppProtocol, read_protocol};
use crate::read::{At, Map};
use crate::text;

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
    /// Its share of requests against others, 1 to 1,000,000; `None`: the label `heddle.dev/weight` decides, else 1.
    pub weight: Option<u32>,
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

/// What the labels of an instance say of its place among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `topology.kubernetes.io/region`; empty: unknown.
    pub region: String,
    /// `topology.kubernetes.io/zone`; empty: unknown.
    pub zone: String,
    /// `heddle.dev/weight`, 1 to 1,000,000; 1 when absent.
    pub weight: u32,
    /// `heddle.dev/priority`, 0 to 127; 0, the first to be used, when absent.
    pub priority: u32,
}

impl Standing {
    /// Where a label's number cannot be used, the default counts; files are told so when they are read.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Standing {
        let said = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let number = |name: &str| said(name).parse().ok().filter(|n| text::number_label(name, *n).is_ok());
        Standing {
            region: said(text::REGION_LABEL),
            zone: said(text::ZONE_LABEL),
            weight: number(text::WEIGHT_LABEL).unwrap_or(1),
            priority: number(text::PRIORITY_LABEL).unwrap_or(0),
        }
    }
}

/// Reads `spec`.
pub(crate) fn read(spec: &mut Map<'_>, _namespace: &str) -> Option<Workload> {
    let address = spec.require("address").and_then(|at| at.address());
    let mut ports: Vec<WorkloadPort> = Vec::new();
    if let Some(list) = spec.get("ports") {
        for at in list.list(256) {
            let Some(port) = read_port(&at) else { continue };
            if ports.iter().any(|p| p.port == port.port || (p.name == port.name && !p.name.is_empty())) {
                at.error("an earlier port has the same number or name");
            }
            ports.push(port);
        }
    }
    let service_account = spec.get("serviceAccountName").and_then(|at| at.parse(text::subdomain));
    let weight = spec.get("weight").and_then(|at| at.integer(1..=1_000_000));
    let locality = spec.get("locality").and_then(|at| read_locality(&at)).unwrap_or_default();
    let dial = spec.get("dial").and_then(|at| {
        at.parse(|t| {
            t.parse::<SocketAddr>().map_err(|_| "must be `address:port`, or `[address]:port` for IPv6".to_owned())
        })
    });
    Some(Workload {
        address: address?,
        ports,
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        weight,
        locality,
        dial,
    })
}

fn read_port(at: &At<'_>) -> Option<WorkloadPort> {
    let mut map = at.map()?;
    let name = map.get("name").and_then(|at| at.parse(text::port_name)).unwrap_or_default();
    let port = map.require("port").and_then(|at| at.port());
    let protocol = read_protocol(&mut map, &name);
    map.finish();
    Some(WorkloadPort { name, port: port?, protocol })
}

fn read_locality(at: &At<'_>) -> Option<Locality> {
    let mut map = at.map()?;
    let mut word = |name| map.get(name).and_then(|at| at.parse(text::printable)).unwrap_or_default();
    let locality = Locality { region: word("region"), zone: word("zone") };
    map.finish();
    Some(locality)
}
