//! `v1/Service`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::read::{At, Map, PortRef};
use crate::text;
use serde::{Deserialize, Serialize};

/// `v1/Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// The labels that an instance must have; empty: none is selected.
    pub selector: BTreeMap<String, String>,
    /// Its TCP ports, in the order written; names and numbers are unique.
    pub ports: Vec<ServicePort>,
    /// `clusterIP`, when written and not `None`.
    pub cluster_ip: Option<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty only where it is the only port.
    pub name: String,
    /// What clients call.
    pub port: u16,
    /// What instances listen on; the same number when not written.
    pub target_port: PortRef,
    /// What it speaks: `appProtocol`, else the name's first word, else to be detected.
    pub protocol: AppProtocol,
}

/// What a port speaks, as far as it is declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// Nothing is declared: look at the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS; gRPC.
    Http2,
    /// Opaque bytes.
    Tcp,
    /// The application's own TLS.
    Tls,
}

/// Most ports of a service or container. Kubernetes sets no bound; a sidecar listens on each.
const MAX_PORTS: usize = 256;

/// Fields of a Service's `spec` that the mesh takes no notice of.
const IGNORED: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIPs",
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
];

/// Reads `spec`.
pub(crate) fn read(spec: &mut Map<'_>, _namespace: &str) -> Service {
    spec.ignore(IGNORED);
    if let Some(at) = spec.get("type")
        && at.choice(&[("ClusterIP", true), ("NodePort", true), ("LoadBalancer", true), ("ExternalName", false)])
            == Some(false)
    {
        at.error_help("ExternalName is not implemented yet", "give the service a selector, or a Workload for the host");
    }
    spec.not_yet(&["externalName"]);
    let mut service =
        Service { selector: spec.get("selector").map(|at| at.labels()).unwrap_or_default(), ..Service::default() };
    if let Some(at) = spec.get("clusterIP") {
        match at.string() {
            Some("None") => service.headless = true,
            _ => service.cluster_ip = at.address(),
        }
    }
    if let Some(ports) = spec.get("ports") {
        let list = ports.list(MAX_PORTS);
        service.ports = list.iter().filter_map(|at| read_port(at, list.len())).collect();
        unique(&ports, &service.ports);
    } else if !service.headless {
        spec.at()
            .error_help("the field ports is missing", "only a headless service (clusterIP: None) may have no ports");
    }
    service
}

fn read_port(at: &At<'_>, count: usize) -> Option<ServicePort> {
    let mut map = at.map()?;
    map.ignore(&["nodePort"]);
    let tcp = transport(&mut map);
    let name = map.get("name").and_then(|at| at.parse(text::port_name)).unwrap_or_default();
    if name.is_empty() && count > 1 && !map.items().any(|(key, _)| key == "name") {
        at.error_help("the field name is missing", "a service with several ports must name each");
    }
    let port = map.require("port").and_then(|at| at.port());
    let target_port = map.get("targetPort").and_then(|at| at.port_ref());
    let protocol = read_protocol(&mut map, &name);
    map.finish();
    let port = port?;
    tcp.then_some(ServicePort { name, port, target_port: target_port.unwrap_or(PortRef::Number(port)), protocol })
}

/// Whether `protocol` is TCP; other ports are skipped.
pub(crate) fn transport(map: &mut Map<'_>) -> bool {
    let Some(at) = map.get("protocol") else {
        return true;
    };
    let tcp = at.choice(&[("TCP", true), ("UDP", false), ("SCTP", false)]).unwrap_or(true);
    if !tcp {
        at.notice("this port is skipped: the mesh carries TCP alone", "");
    }
    tcp
}

/// `appProtocol`, else what the first word of the port's name says.
pub(crate) fn read_protocol(map: &mut Map<'_>, name: &str) -> AppProtocol {
    match map.get("appProtocol").and_then(|at| at.string()) {
        Some(declared) => AppProtocol::declared(declared),
        None => AppProtocol::named(name),
    }
}

fn unique(at: &At<'_>, ports: &[ServicePort]) {
    for (i, port) in ports.iter().enumerate() {
        for earlier in &ports[..i] {
            if earlier.port == port.port {
                at.error(format!("two ports have the number {}", port.port));
            }
            if earlier.name == port.name && !port.name.is_empty() {
                at.error(format!("two ports have the name \"{}\"", port.name));
            }
        }
    }
}

impl AppProtocol {
    /// What `appProtocol` says. Names that are not known are opaque only if they are protocols that are known to be; others
    /// are detected, as nothing more than a hint is lost.
    fn declared(text: &str) -> AppProtocol {
        match text.to_ascii_lowercase().as_str() {
            "http" | "http1" | "http/1.1" | "kubernetes.io/ws" => AppProtocol::Http,
            "http2" | "h2c" | "grpc" | "grpc-web" | "kubernetes.io/h2c" => AppProtocol::Http2,
            "https" | "tls" | "kubernetes.io/wss" => AppProtocol::Tls,
            "tcp" | "amqp" | "kafka" | "mongo" | "mongodb" | "mysql" | "nats" | "postgres" | "postgresql" | "redis"
            | "smtp" => AppProtocol::Tcp,
            _ => AppProtocol::Auto,
        }
    }

    /// What a port's name says: its first word, before `-` (Istio's convention).
    pub(crate) fn named(name: &str) -> AppProtocol {
        AppProtocol::declared(name.split('-').next().unwrap_or_default())
    }
}
