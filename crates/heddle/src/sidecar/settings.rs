//! The settings file of a proxy process: what the data path is told, where the control plane is, and what the instance
//! registers as.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use api::{AppProtocol, ContainerPort};
use net::grant::Grant;
use proto::mesh;
use proxy::settings::ServiceListener;
use serde::{Deserialize, Serialize};

/// Port of the forward proxy on an instance's address.
pub(crate) const FORWARD_PROXY_PORT: u16 = 15_001;

/// Port of the inbound side on an instance's address.
pub(crate) const INBOUND_PORT: u16 = 15_006;

/// Port of metrics and health on an instance's address.
pub(crate) const ADMIN_PORT: u16 = 15_020;

/// What a proxy process is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SidecarSettings {
    /// Name of the mesh, for logs.
    pub(crate) mesh: String,
    /// Of the data path.
    pub(crate) proxy: proxy::Settings,
    /// Where the control plane is.
    pub(crate) control: ControlAddress,
    /// PEM file of the roots that vouch for the control plane.
    pub(crate) roots: PathBuf,
    /// Where key, certificate and configuration are kept (0700).
    pub(crate) directory: PathBuf,
    /// Where metrics and health are served.
    #[serde(default)]
    pub(crate) admin: Option<SocketAddr>,
    /// Where the kernel redirects questions for names (`heddle init`); UDP and TCP each.
    #[serde(default)]
    pub(crate) names: Vec<SocketAddr>,
    /// `namespace/name` of the Gateway that it is, if it is one.
    #[serde(default)]
    pub(crate) gateway: Option<String>,
    /// Whether requests are logged on standard error, as far as the mesh asks for it.
    #[serde(default = "yes")]
    pub(crate) access_log: bool,
    /// How long it goes on with what it has when it was replaced in place, in seconds.
    #[serde(default = "finish")]
    pub(crate) finish_seconds: u64,
    /// What the control plane is told.
    pub(crate) registration: Registration,
}

fn finish() -> u64 {
    super::replace::FINISH
}

fn yes() -> bool {
    true
}

/// Where a control plane is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ControlAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// What an instance registers as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Registration {
    /// Whose identity it has.
    pub(crate) service_account: String,
    /// The application's address as others see it, where that is not the one that the proxy uses.
    pub(crate) address: Option<IpAddr>,
    /// Services select by these.
    pub(crate) labels: BTreeMap<String, String>,
    /// Services that it names itself, `namespace/name`.
    pub(crate) services: Vec<String>,
    /// The application's ports.
    pub(crate) ports: Vec<Port>,
    /// 1 and up; 0 is the default.
    pub(crate) weight: u32,
    /// Where it runs.
    pub(crate) region: String,
    /// Where it runs.
    pub(crate) zone: String,
    /// The machine.
    pub(crate) node: String,
    /// Ask which services its namespace has, and tell the supervisor.
    pub(crate) list_services: bool,
}

impl Registration {
    /// The digest of the labels and services that it registers with.
    pub(crate) fn claims(&self) -> String {
        let labels = self.labels.iter().map(|(name, value)| (&**name, &**value));
        control::claims::digest(labels, self.services.iter().map(String::as_str))
    }

    /// Whether a certificate that grants this lets `workload` register so.
    pub(crate) fn is_granted(&self, workload: &str, grant: &Grant) -> bool {
        let claims_nothing = self.labels.is_empty() && self.services.is_empty();
        let claims = grant.claims.as_ref().is_none_or(|granted| claims_nothing || *granted == self.claims());
        grant.workload == workload && claims
    }
}

/// A port of the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Port {
    /// May be empty.
    #[serde(default)]
    pub(crate) name: String,
    /// Its number.
    pub(crate) port: u16,
    /// What it speaks.
    #[serde(default)]
    pub(crate) protocol: AppProtocol,
}

impl From<&ContainerPort> for Port {
    fn from(port: &ContainerPort) -> Port {
        Port { name: port.name.clone().unwrap_or_default(), port: port.port, protocol: port.protocol }
    }
}

impl SidecarSettings {
    /// The first message to the control plane.
    pub(crate) fn registration(&self) -> mesh::Registration {
        let told = &self.registration;
        mesh::Registration {
            workload: self.proxy.workload.clone(),
            service_account: told.service_account.clone(),
            address: told.address.unwrap_or(self.proxy.application).to_string(),
            dial: self.proxy.inbound.map(|a| a.to_string()).unwrap_or_default(),
            labels: told
                .labels
                .iter()
                .map(|(name, value)| mesh::Label { name: name.clone(), value: value.clone() })
                .collect(),
            services: told.services.clone(),
            ports: told.ports.iter().map(named_port).collect(),
            weight: told.weight,
            region: told.region.clone(),
            zone: told.zone.clone(),
            state: mesh::State::Starting.into(),
            node: told.node.clone(),
            list_services: told.list_services,
        }
    }
}

fn named_port(port: &Port) -> mesh::NamedPort {
    let protocol = match port.protocol {
        AppProtocol::Auto => mesh::Protocol::Auto,
        AppProtocol::Http => mesh::Protocol::Http1,
        AppProtocol::Http2 => mesh::Protocol::Http2,
        AppProtocol::Tcp => mesh::Protocol::Tcp,
        AppProtocol::Tls => mesh::Protocol::Tls,
    };
    mesh::NamedPort { name: port.name.clone(), port: port.port.into(), protocol: protocol.into() }
}

/// The data path of one instance in explicit mode: everything on the instance's own address.
pub(crate) fn explicit(workload: String, ip: IpAddr, upstream_proxy: Option<String>) -> proxy::Settings {
    proxy::Settings {
        workload,
        application: ip,
        inbound: None,
        outbound: Some(SocketAddr::new(ip, FORWARD_PROXY_PORT)),
        redirected: Vec::new(),
        redirected_inbound: Vec::new(),
        keep_source: false,
        reserved: Vec::new(),
        services: Vec::new(),
        gateway: Vec::new(),
        upstream_proxy,
        workers: 1,
        limits: proxy::settings::Limits::default(),
    }
}

/// Listeners that stand for the ports of services.
pub(crate) fn service_listeners(
    ip: IpAddr,
    services: &[(control::admin::model::ServiceEntry, Vec<u16>)],
) -> Vec<ServiceListener> {
    let mut listeners = Vec::new();
    for (service, listens) in services {
        for (port, listen) in service.ports.iter().zip(listens) {
            listeners.push(ServiceListener {
                listen: SocketAddr::new(ip, *listen),
                service: format!("{}.{}", service.name, service.namespace),
                port: port.port,
            });
        }
    }
    listeners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_settings_are_understood() {
        let page = include_str!("../../../../docs/interception.md");
        let blocks: Vec<&str> = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            let settings: SidecarSettings = serde_json::from_str(block).expect(block);
            assert!(settings.proxy.redirected.len() == 2 && settings.proxy.redirected_inbound.len() == 2);
        }
    }
}
