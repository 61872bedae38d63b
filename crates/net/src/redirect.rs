//! Kernel rules that lead what an application sends, and what is sent to it, through its sidecar: one nftables table in the
//! current network namespace, and two routing rules where the callers' addresses are to be kept.
//!
//! The rules are text for `nft -f`, so that they can be read before they are applied, and one transaction replaces them. The
//! interception of single protocols and owners follows what Istio's and Linkerd's init containers made customary.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;
use std::str::FromStr;

/// The port of DNS (RFC 1035, 4.2).
const DOMAIN: u16 = 53;

/// The table that holds all of it.
pub const TABLE: &str = "heddle";

/// Mark of packets that are to be delivered here whatever their destination is. Its bits are unlikely to be others'.
const DELIVER: u32 = 0x4845_0001;

/// Mark of connections that the sidecar makes to its application in the name of a caller.
pub(crate) const KEPT_SOURCE: u32 = 0x4845_0002;

/// The routing table and the priority of the rule that leads to it.
const ROUTES: u32 = 18_501;

/// What is redirected where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Where what the application sends goes.
    pub outbound: u16,
    /// Where what is sent to the application goes, and other sidecars go by themselves.
    pub inbound: u16,
    /// Where questions for names go, over UDP and TCP.
    pub names: u16,
    /// Users whose connections are left alone: the sidecar's own above all.
    pub users: BTreeSet<u32>,
    /// Destination ports that are left alone on the way out.
    pub outbound_ports: BTreeSet<u16>,
    /// The application's ports that callers reach without the sidecar.
    pub inbound_ports: BTreeSet<u16>,
    /// Destinations that are left alone.
    pub destinations: BTreeSet<Network>,
    /// Callers that reach the application without the sidecar.
    pub sources: BTreeSet<Network>,
    /// TPROXY on the way in, so that the application sees its callers' addresses.
    pub keep_source: bool,
}

/// A network: an address and how many bits of it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = String;

    /// Reads `10.0.0.0/8`, `fd00::/8`, or one address.
    fn from_str(text: &str) -> Result<Network, String> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is no network such as 10.0.0.0/8"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|bits| *bits <= most)
                .ok_or_else(|| format!("{text:?}: after the / stands a number from 0 to {most}"))?,
        };
        Ok(Network { address: masked(address, bits), bits })
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// nft refuses a network with bits beyond its length.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()),
    }
}

/// What removes the table, whether it is there or not.
pub fn removal() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

impl Redirect {
    /// The rules, in place of those that were there.
    pub fn rules(&self) -> String {
        let mut text = removal();
        let _ = write!(text, "table inet {TABLE} {{\n{}{}}}\n", self.outbound(), self.inbound());
        text
    }

    fn outbound(&self) -> String {
        let mut text = "    chain output {\n        type nat hook output priority -100; policy accept;\n".to_owned();
        rule(&mut text, &format!("meta skuid {} return", set(&self.users)), !self.users.is_empty());
        networks(&mut text, "daddr", &self.destinations);
        rule(&mut text, &format!("tcp dport {} return", set(&self.outbound_ports)), !self.outbound_ports.is_empty());
        // Names first: a machine's server of names is often one of its own, on a loopback address.
        let names = format!("meta l4proto {{ tcp, udp }} th dport {DOMAIN} redirect to :{}", self.names);
        rule(&mut text, &names, !self.outbound_ports.contains(&DOMAIN));
        // What a program says to another one beside it, or to itself, is no message of the mesh.
        rule(&mut text, "fib daddr type local return", true);
        rule(&mut text, &format!("meta l4proto tcp redirect to :{}", self.outbound), true);
        text.push_str("    }\n");
        text
    }

    fn inbound(&self) -> String {
        let (kind, priority) = if self.keep_source { ("filter", -150) } else { ("nat", -100) };
        let mut text = format!(
            "    chain prerouting {{\n        type {kind} hook prerouting priority {priority}; policy accept;\n"
        );
        // What comes over loopback was sent from here.
        rule(&mut text, "iifname \"lo\" return", true);
        rule(&mut text, "fib daddr type != local return", true);
        let mut ports = self.inbound_ports.clone();
        ports.extend([self.inbound, self.outbound]);
        rule(&mut text, &format!("tcp dport {} return", set(&ports)), true);
        networks(&mut text, "saddr", &self.sources);
        if self.keep_source {
            // Of a connection that the sidecar has, and a new one; answers to the application's own calls are neither.
            rule(&mut text, &format!("meta l4proto tcp socket transparent 1 meta mark set {DELIVER:#x} accept"), true);
            let new =
                format!("meta l4proto tcp ct state new tproxy to :{} meta mark set {DELIVER:#x} accept", self.inbound);
            rule(&mut text, &new, true);
        } else {
            rule(&mut text, &format!("meta l4proto tcp redirect to :{}", self.inbound), true);
        }
        text.push_str("    }\n");
        if self.keep_source {
            // The application answers the caller's address; such answers are led back to the sidecar.
            text.push_str("    chain answers {\n        type route hook output priority -150; policy accept;\n");
            rule(&mut text, &format!("meta mark {KEPT_SOURCE:#x} ct mark set {KEPT_SOURCE:#x} return"), true);
            rule(&mut text, &format!("ct mark {KEPT_SOURCE:#x} meta mark set {DELIVER:#x}"), true);
            text.push_str("    }\n");
        }
        text
    }
}

/// A step of routing: the arguments of `ip` that take it, which fails where it is taken already, and those that take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingStep {
    /// Takes it.
    pub add: Vec<String>,
    /// Takes it back; fails where there is nothing to take back.
    pub remove: Vec<String>,
}

/// What `keep_source` needs besides the rules, for IPv4 and, if `v6`, for IPv6.
pub fn routing(v6: bool) -> Vec<RoutingStep> {
    let steps = routing_commands("add").into_iter().zip(routing_commands("del"));
    let steps = steps.map(|(add, remove)| RoutingStep { add, remove });
    steps.filter(|step| v6 || step.add.first().is_none_or(|family| family != "-6")).collect()
}

fn routing_commands(verb: &str) -> Vec<Vec<String>> {
    let command = |text: String| text.split(' ').map(str::to_owned).collect();
    ["-4", "-6"]
        .into_iter()
        .flat_map(|family| {
            [
                format!("{family} rule {verb} fwmark {DELIVER:#x} priority {ROUTES} lookup {ROUTES}"),
                format!("{family} route {verb} local default dev lo table {ROUTES}"),
            ]
        })
        .map(command)
        .collect()
}

fn rule(text: &mut String, rule: &str, wanted: bool) {
    if wanted {
        let _ = writeln!(text, "        {rule}");
    }
}

fn networks(text: &mut String, side: &str, networks: &BTreeSet<Network>) {
    for (family, v4) in [("ip", true), ("ip6", false)] {
        // nft refuses a set with networks inside one another.
        let of_family: BTreeSet<&Network> = networks.iter().filter(|network| network.address.is_ipv4() == v4).collect();
        let inside = |network: &&Network| {
            of_family
                .iter()
                .any(|other| other.bits < network.bits && masked(network.address, other.bits) == other.address)
        };
        let outermost: BTreeSet<&Network> = of_family.iter().copied().filter(|network| !inside(network)).collect();
        rule(text, &format!("{family} {side} {} return", set(&outermost)), !outermost.is_empty());
    }
}

fn set<T: Display>(members: &BTreeSet<T>) -> String {
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", members.join(", "))
}

#[cfg(test)]
mod tests;
