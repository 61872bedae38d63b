//! Whether an application can have the ports that it declares. Traffic of the mesh goes there, so whoever listens there instead
//! would be taken for the application.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net::listen::holder;

use crate::sidecar::settings::SidecarSettings;

/// Looks at a port that is in use: what held it may be a process that was just killed.
const LOOKS: u32 = 3;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Waits until nobody listens on any of `ports` of `ip`, for a short time. `Err` says who does, and what can be done.
pub(crate) async fn free(ip: IpAddr, ports: impl IntoIterator<Item = u16>) -> Result<(), String> {
    for port in ports {
        let address = SocketAddr::new(ip, port);
        for look in 1.. {
            let Some(holder) = holder(address) else { break };
            if look < LOOKS {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let other = match holder.listens {
                Some(at) if at.ip().is_unspecified() => " or let it listen on one address (an instance: on $POD_IP)",
                Some(_) | None => "",
            };
            return Err(format!(
                "its port {address} is in use by {holder}; end that process{other}, or give this application another port"
            ));
        }
    }
    Ok(())
}

/// `Err` when one of `ports` is the sidecar's own on the address that they share.
pub(crate) fn not_the_sidecars(settings: &SidecarSettings, ports: impl IntoIterator<Item = u16>) -> Result<(), String> {
    let proxy = &settings.proxy;
    let services = proxy.services.iter().map(|s| s.listen);
    let own: Vec<SocketAddr> =
        proxy.inbound.into_iter().chain(proxy.outbound).chain(settings.admin).chain(services).collect();
    match ports.into_iter().find(|port| own.contains(&SocketAddr::new(proxy.application, *port))) {
        None => Ok(()),
        Some(port) => Err(format!(
            "port {port} of its address is its sidecar's own (so are {}); give the application another port",
            listed(&own)
        )),
    }
}

/// The numbers alone, in order.
fn listed(addresses: &[SocketAddr]) -> String {
    let mut ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}
