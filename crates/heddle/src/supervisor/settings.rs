//! What the sidecar of an instance is told.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use proxy::settings::ServiceListener;

use super::Mesh;
use super::inside::Inside;
use super::instance::Plan;
use crate::sidecar::settings::{INBOUND_PORT, Port, Registration, SidecarSettings, explicit, service_listeners};

/// The settings of an instance's sidecar.
pub(crate) fn instance(
    mesh: &Mesh,
    name: &str,
    plan: &Plan,
    inside: Option<&Inside>,
) -> anyhow::Result<SidecarSettings> {
    let services = service_listeners(plan.ip, &plan.services);
    let mut data = data(format!("{}/{name}", plan.namespace), plan.ip, mesh, services, inside)?;
    data.inbound = Some(SocketAddr::new(plan.ip, INBOUND_PORT));
    let template = &plan.template;
    let standing = api::Standing::of_labels(&template.labels);
    Ok(mesh.settings(
        data,
        None,
        Registration {
            service_account: template.service_account.clone(),
            labels: template.labels.clone(),
            ports: template.container.ports.iter().map(Port::from).collect(),
            node: mesh.node.clone(),
            region: standing.region,
            zone: standing.zone,
            ..Registration::default()
        },
    ))
}

/// The data path of one instance: in explicit mode with `services`, or of an application `inside` its namespaces.
pub(crate) fn data(
    workload: String,
    ip: IpAddr,
    mesh: &Mesh,
    services: Vec<ServiceListener>,
    inside: Option<&Inside>,
) -> anyhow::Result<proxy::Settings> {
    Ok(match inside {
        Some(inside) => inside.data(workload, mesh.upstream_proxy.clone()).context("its sockets are unusable")?,
        None => proxy::Settings { services, ..explicit(workload, ip, mesh.upstream_proxy.clone()) },
    })
}
