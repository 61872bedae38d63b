//! What is surely, or nearly so, not the mesh's: called without the control plane's word where that is not there to be asked.

use std::net::IpAddr;
use std::time::Duration;

/// How long a control plane that is not there is waited for, where a name or an address is not the mesh's by its looks: it may just be
/// starting again, and has the last word as long as it is there.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// The domain of the mesh's own names.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Whether only the mesh can have `name`, which is in lower case without a final dot.
pub(crate) fn in_cluster(name: &str) -> bool {
    let below = |domain: &str| name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    below(CLUSTER_DOMAIN) || below("svc")
}

/// Whether `name` does not look like one of the mesh's to `workload` (`namespace/name`): services of its namespace are `cart`,
/// `cart.shop` and so on. A service of another namespace, `cart.other`, looks foreign.
pub(crate) fn host(name: &str, workload: &str) -> bool {
    let Some((_, last)) = name.rsplit_once('.') else { return false };
    !in_cluster(name) && workload.split('/').next() != Some(last)
}

/// Whether `ip` is an address of the wide world, which a mesh hardly has: those that it chooses are not, nor are a cluster's.
pub(crate) fn address(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let shared = first == 100 && second & 0xc0 == 64; // 100.64.0.0/10 (RFC 6598)
            // From 224.0.0.0 on: several receivers, and blocks that nobody was given; the mesh's own addresses of services.
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared || first == 0 || first >= 224)
        }
        // What is routed everywhere (RFC 4291, 2.4, as far as it was given away).
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_mesh_are_told_by_their_form() {
        for name in
            ["cart", "cart.shop", "db-0.db.shop", "cart.other.svc", "x.svc.cluster.local", "svc", "cluster.local"]
        {
            assert!(!host(name, "shop/cart-0"), "{name}");
        }
        for name in ["example.org", "api.example.org", "shop.example", "cart.other", "mysvc.com"] {
            assert!(host(name, "shop/cart-0"), "{name}");
        }
    }

    #[test]
    fn addresses_of_the_mesh_and_of_clusters_are_not_foreign() {
        for ip in
            ["127.3.0.1", "10.96.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "240.0.0.1", "0.0.0.0"]
        {
            assert!(!address(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["::1", "fd00:77::1", "fe80::1", "::", "ff02::1", "::ffff:10.0.0.1"] {
            assert!(!address(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["203.0.113.7", "8.8.8.8", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(address(ip.parse().unwrap()), "{ip}");
        }
    }
}
