use super::*;

fn plain() -> Redirect {
    Redirect {
        outbound: 15_001,
        inbound: 15_006,
        names: 15_053,
        users: [1337].into(),
        outbound_ports: BTreeSet::new(),
        inbound_ports: [15_020].into(),
        destinations: BTreeSet::new(),
        sources: BTreeSet::new(),
        keep_source: false,
    }
}

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

#[test]
fn rules_are_as_documented() {
    assert_eq!(
        plain().rules(),
        "table inet heddle
delete table inet heddle
table inet heddle {
    chain output {
        type nat hook output priority -100; policy accept;
        meta skuid { 1337 } return
        meta l4proto { tcp, udp } th dport 53 redirect to :15053
        fib daddr type local return
        meta l4proto tcp redirect to :15001
    }
    chain prerouting {
        type nat hook prerouting priority -100; policy accept;
        iifname \"lo\" return
        fib daddr type != local return
        tcp dport { 15001, 15006, 15020 } return
        meta l4proto tcp redirect to :15006
    }
}
"
    );
}

#[test]
fn names_are_left_alone_where_their_port_is() {
    let mut redirect = plain();
    redirect.outbound_ports = [53, 5432].into();
    let rules = redirect.rules();
    assert!(rules.contains("tcp dport { 53, 5432 } return") && !rules.contains("udp"), "{rules}");
}

#[test]
fn networks_are_read_and_masked() {
    assert_eq!(network("10.1.2.3/8").to_string(), "10.0.0.0/8");
    assert_eq!(network("10.1.2.3").to_string(), "10.1.2.3/32");
    assert_eq!(network("fd00::1/8").to_string(), "fd00::/8");
    assert_eq!(network("0.0.0.0/0").to_string(), "0.0.0.0/0");
    assert_eq!(network("::1/0").to_string(), "::/0");
    for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8x", "all"] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
}

#[test]
fn a_network_inside_another_is_left_out() {
    let mut redirect = plain();
    redirect.destinations =
        ["10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/16", "fd00::/8", "2001:db8::1"].map(network).into();
    let rules = redirect.rules();
    assert!(rules.contains("        ip daddr { 10.0.0.0/8, 192.168.0.0/16 } return\n"), "{rules}");
    assert!(rules.contains("        ip6 daddr { 2001:db8::1/128, fd00::/8 } return\n"), "{rules}");
}
