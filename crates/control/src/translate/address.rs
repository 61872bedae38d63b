//! The addresses that stand for services.
//!
//! In a cluster every service that is not headless has one, chosen by the cluster and written into the object. Where none is
//! written the mesh chooses: an address of [`BLOCK`], found by a hash of the service's name, so that every control plane chooses
//! the same, also after a restart, without remembering anything. Should two names meet, the later one in the order of names
//! takes the next free address; among 10,000 services a new one meets another once in 13,000 times, and only then may the
//! address of one that is in use change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::{Object, Spec};
use sha2::{Digest, Sha256};

/// 240.0.0.0/5: reserved since 1989 (RFC 1112, 4) and used by nobody, so no address outside of the mesh is hidden by it.
const BLOCK: u32 = u32::from_be_bytes([240, 0, 0, 0]);

/// Which addresses of the block there are.
const HOSTS: u32 = (1 << 27) - 1;

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

/// The address of every service that has one: the one written, else one of the block. A headless service has none.
pub(super) fn of_services(services: &BTreeMap<Name, Arc<Object>>) -> BTreeMap<Name, IpAddr> {
    let mut addresses = BTreeMap::new();
    let mut unwritten = Vec::new();
    for (name, object) in services {
        let Spec::Service(service) = &object.spec else { continue };
        match service.cluster_ip {
            Some(ip) => {
                addresses.insert(name.clone(), ip);
            }
            None if !service.headless => unwritten.push(name),
            None => {}
        }
    }
    let mut taken: BTreeSet<IpAddr> = addresses.values().copied().collect();
    for name in unwritten {
        let mut host = hash(name) & HOSTS;
        // There are far more addresses than services that fit in memory.
        while !taken.insert(at(host)) {
            host = (host + 1) & HOSTS;
        }
        addresses.insert(name.clone(), at(host));
    }
    addresses
}

fn at(host: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(BLOCK | host))
}

fn hash((namespace, name): &Name) -> u32 {
    let digest = Sha256::digest(format!("{namespace}/{name}"));
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(texts: &[(&str, &str)]) -> BTreeMap<Name, Arc<Object>> {
        let mut services = BTreeMap::new();
        for (name, spec) in texts {
            let text = format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]{spec}}}"
            );
            let parsed = api::parse("test.yaml", text.as_bytes());
            let object = parsed.objects.into_iter().next().expect("it is a service");
            services.insert(("shop".into(), (*name).into()), Arc::new(object));
        }
        services
    }

    fn of(all: &BTreeMap<Name, IpAddr>, name: &str) -> Option<IpAddr> {
        all.get(&("shop".into(), name.into())).copied()
    }

    #[test]
    fn what_is_written_counts_and_a_headless_service_has_none() {
        let all = of_services(&services(&[("a", ""), ("b", ", clusterIP: 10.0.0.7"), ("c", ", clusterIP: None")]));
        assert_eq!(of(&all, "b"), Some("10.0.0.7".parse().unwrap()));
        assert_eq!(of(&all, "c"), None);
        let Some(IpAddr::V4(chosen)) = of(&all, "a") else { panic!("one is chosen") };
        assert!((240..=247).contains(&chosen.octets()[0]), "{chosen}");
        assert_eq!(
            of(&of_services(&services(&[("a", ""), ("z", "")])), "a"),
            Some(chosen.into()),
            "whoever else is there"
        );
    }

    #[test]
    fn no_two_services_share_one() {
        let first = of_services(&services(&[("a", "")]));
        let chosen = of(&first, "a").unwrap();
        let all = of_services(&services(&[("a", ""), ("b", &format!(", clusterIP: {chosen}"))]));
        assert_eq!(of(&all, "b"), Some(chosen), "what is written counts");
        assert_ne!(of(&all, "a"), Some(chosen));
    }
}
