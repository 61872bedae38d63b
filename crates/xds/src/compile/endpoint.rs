//! Instances of services, and the sets of them that backends choose from.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use engine::balance::{Dial, Endpoint, EndpointSet, Health, Load, Locality};
use engine::policy::BalancePolicy;
use proto::mesh;

use super::gone::Leavers;
use super::problem::{self, Problem, Result, Within};

/// The largest weight: as for backends.
const WEIGHT_LIMIT: u32 = 1_000_000;

/// The highest priority: Envoy's.
const PRIORITY_LIMIT: u32 = 127;

/// One instance as one service sees it.
#[derive(Debug)]
pub(crate) struct Instance {
    /// `namespace/name`.
    workload: Box<str>,
    address: IpAddr,
    /// The sidecar's address and identity.
    sidecar: Option<(SocketAddr, Box<str>)>,
    /// Service port → target port, sorted.
    ports: Vec<(u16, u16)>,
    weight: u32,
    priority: u32,
    locality: Locality,
    health: Health,
}

pub(crate) fn parse(name: &str, endpoint: mesh::Endpoint) -> Result<Instance> {
    problem::pair("service", &endpoint.service)?;
    if name.strip_prefix(&*endpoint.service).and_then(|rest| rest.strip_prefix('/')).is_none_or(str::is_empty) {
        return Problem::new("service", format!("`{}` does not begin the resource's name, `{name}`", endpoint.service));
    }
    let (namespace, workload) = problem::pair("workload", &endpoint.workload)?;
    // Both become part of a server name.
    problem::host("workload", namespace)?;
    problem::host("workload", workload)?;
    let Ok(address) = endpoint.address.parse() else {
        return Problem::new("address", format!("`{}` is not an IP address", endpoint.address.escape_debug()));
    };
    let sidecar = match (endpoint.dial.is_empty(), endpoint.identity.is_empty()) {
        (true, true) => None,
        (false, false) => match endpoint.dial.parse() {
            Ok(dial) => Some((dial, endpoint.identity.into())),
            Err(_) => {
                return Problem::new("dial", format!("`{}` is not `ip:port`", endpoint.dial.escape_debug()));
            }
        },
        // Without an identity to demand, anybody could answer there.
        (false, true) => {
            return Problem::new("identity", "is empty, and the endpoint has a sidecar");
        }
        (true, false) => return Problem::new("dial", "is empty, and the endpoint has an identity"),
    };
    let mut ports = Vec::with_capacity(endpoint.ports.len());
    for (i, port) in endpoint.ports.iter().enumerate() {
        let service = problem::port("service_port", port.service_port).within(|| format!("ports[{i}]"))?;
        let target = problem::port("target_port", port.target_port).within(|| format!("ports[{i}]"))?;
        if ports.last().is_some_and(|(last, _)| *last >= service) {
            return Problem::new(format!("ports[{i}].service_port"), "the ports are not sorted, or one is there twice");
        }
        ports.push((service, target));
    }
    if endpoint.weight > WEIGHT_LIMIT {
        return Problem::new("weight", format!("{} is more than {WEIGHT_LIMIT}", endpoint.weight));
    }
    let health = match mesh::Health::try_from(endpoint.health) {
        Ok(mesh::Health::Unknown | mesh::Health::Ready) => Health::Ready,
        Ok(mesh::Health::NotReady) => Health::NotReady,
        Ok(mesh::Health::Draining) => Health::Draining,
        // A state that this version does not know is surely not better than this.
        Err(_) => Health::NotReady,
    };
    let weight = endpoint.weight.max(1);
    if endpoint.priority > PRIORITY_LIMIT {
        return Problem::new("priority", format!("{} is more than {PRIORITY_LIMIT}", endpoint.priority));
    }
    let locality = Locality { region: endpoint.region.into(), zone: endpoint.zone.into() };
    let priority = endpoint.priority;
    Ok(Instance { workload: endpoint.workload.into(), address, sidecar, ports, weight, priority, locality, health })
}

impl Instance {
    /// `namespace/name`.
    pub(crate) fn workload(&self) -> &str {
        &self.workload
    }

    /// How to reach the instance's part of a service port, if it has one.
    fn dial(&self, service_port: u16) -> Option<Dial> {
        let at = self.ports.binary_search_by_key(&service_port, |(port, _)| *port).ok()?;
        let target = self.ports[at].1;
        Some(match &self.sidecar {
            None => Dial::Plain(SocketAddr::new(self.address, target)),
            Some((address, identity)) => {
                let (namespace, name) = self.workload.split_once('/')?;
                let sni = format!("p{target}.{name}.{namespace}.heddle").into();
                Dial::Mesh { address: *address, sni, identity: identity.clone() }
            }
        })
    }
}

/// The set for `port`, given the one there is. Whatever has not changed is the same object, and an endpoint that is still
/// reached in the same way keeps what was learnt of it, also if it was away for a short time. `None`: nothing changed.
pub(crate) fn set<'a>(
    old: &EndpointSet,
    instances: impl Iterator<Item = &'a Instance>,
    port: u16,
    policy: BalancePolicy,
    here: &Locality,
    gone: &mut Leavers<'_>,
) -> Option<EndpointSet> {
    let mut endpoints: Vec<Arc<Endpoint>> = instances.filter_map(|instance| one(old, instance, port, gone)).collect();
    endpoints.sort_by(|a, b| a.workload.cmp(&b.workload));
    let same = endpoints.len() == old.endpoints().len()
        && endpoints.iter().zip(old.endpoints()).all(|(new, old)| Arc::ptr_eq(new, old))
        && policy == *old.policy();
    if same {
        return None;
    }
    let stay: HashSet<u64> = endpoints.iter().map(|endpoint| endpoint.load.id).collect();
    old.endpoints().iter().filter(|endpoint| !stay.contains(&endpoint.load.id)).for_each(|left| gone.keep(left));
    Some(EndpointSet::new(endpoints, policy, here).following(old))
}

/// The set for `port` after changes of some of its instances, by workload; what is `None` is there no more. The others are not
/// looked at. `None`: nothing changed.
pub(crate) fn patched<'a>(
    old: &EndpointSet,
    changed: impl Iterator<Item = (&'a str, Option<&'a Instance>)>,
    port: u16,
    here: &Locality,
    gone: &mut Leavers<'_>,
) -> Option<EndpointSet> {
    let mut endpoints: Option<Vec<Arc<Endpoint>>> = None;
    for (workload, instance) in changed {
        let held = endpoints.as_deref().unwrap_or(old.endpoints());
        let place = held.binary_search_by(|endpoint| (*endpoint.workload).cmp(workload));
        match (place, instance.and_then(|instance| one(old, instance, port, gone))) {
            (Ok(at), Some(new)) if Arc::ptr_eq(&held[at], &new) => {}
            (Ok(at), Some(new)) => {
                if !Arc::ptr_eq(&held[at].load, &new.load) {
                    gone.keep(&held[at]);
                }
                endpoints.get_or_insert_with(|| old.endpoints().to_vec())[at] = new;
            }
            (Ok(at), None) => {
                gone.keep(&endpoints.get_or_insert_with(|| old.endpoints().to_vec()).remove(at));
            }
            (Err(at), Some(new)) => endpoints.get_or_insert_with(|| old.endpoints().to_vec()).insert(at, new),
            (Err(_), None) => {}
        }
    }
    Some(EndpointSet::sorted(endpoints?, old.policy().clone(), here).following(old))
}

fn one(old: &EndpointSet, instance: &Instance, port: u16, gone: &mut Leavers<'_>) -> Option<Arc<Endpoint>> {
    let dial = instance.dial(port)?;
    let (set, old) = (old, old.endpoints());
    let known = old.binary_search_by(|e| e.workload.cmp(&instance.workload)).ok().map(|i| &old[i]);
    let known = known.filter(|known| known.dial == dial);
    if let Some(known) = known
        && known.address == instance.address
        && known.weight == instance.weight
        && known.priority == instance.priority
        && known.locality == instance.locality
        && known.health == instance.health
    {
        return Some(known.clone());
    }
    let load = match known {
        Some(known) => Some(known.load.clone()),
        None => gone.take(&instance.workload, &dial),
    };
    // Who was away may have been started again, as who was not ready.
    if let Some(load) = &load
        && known.is_none_or(|known| known.health == Health::NotReady)
        && instance.health == Health::Ready
    {
        load.forgive(set.policy().slow_start.is_some());
    }
    Some(Arc::new(Endpoint {
        workload: instance.workload.clone(),
        address: instance.address,
        dial,
        weight: instance.weight,
        priority: instance.priority,
        locality: instance.locality.clone(),
        health: instance.health,
        load: load.unwrap_or_else(Load::new),
    }))
}
