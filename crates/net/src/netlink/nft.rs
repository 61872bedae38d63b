//! nf_tables: chains of rules in one table, written in one transaction. `nft list ruleset` shows them.
//!
//! The messages are those of Linux' `include/uapi/linux/netfilter/nf_tables.h`; a rule is a list of expressions that load
//! something into a register, compare it, and end in a verdict.

use std::io;
use std::net::IpAddr;

use nix::libc;

use super::{Request, Socket};

/// What is asked of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Its socket's mark.
    Mark(u32),
    /// The protocol above IP.
    Protocol(u8),
    /// It goes to an address of this network.
    To(IpAddr, u8),
    /// It comes from this port.
    SourcePort(u16),
    /// It goes to this port.
    Port(u16),
}

/// What becomes of a packet that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    /// To this port of ours.
    Redirect(u16),
}

/// Packets that fit all of it get the verdict; the others go to the next rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule(pub(crate) Vec<Match>, pub(crate) Verdict);

/// Which part of a packet's way a chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Where connections of this host begin, before their way is decided; what fits no rule is let go.
    NatOutput,
    /// Every packet of this host; what fits no rule is dropped.
    FilterOutput,
}

/// A chain of rules.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) rules: Vec<Rule>,
}

const NEW_TABLE: u8 = 0;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;

/// Both IPv4 and IPv6.
const INET: u8 = 1;

/// The hook that local packets pass on their way out.
const LOCAL_OUT: u32 = 3;

/// Where destinations are translated (NF_IP_PRI_NAT_DST), and where packets are filtered.
const NAT_PRIORITY: i32 = -100;
const FILTER_PRIORITY: i32 = 0;

/// The register that verdicts go to, and the first for data.
const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;

/// Keys of the expression `meta`.
const META_MARK: u32 = 3;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

/// Bases of the expression `payload`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Values of NFPROTO_IPV4 and NFPROTO_IPV6.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Writes `table` with `chains`; it must not exist.
pub(crate) fn install(socket: &Socket, table: &str, chains: &[Chain]) -> io::Result<()> {
    let mut batch = Batch { bytes: Vec::new(), sequence: 0, asked: 0 };
    batch.mark(libc::NFNL_MSG_BATCH_BEGIN);
    batch.add(NEW_TABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |request| request.put_name(1, table));
    for chain in chains {
        batch.add(NEW_CHAIN, libc::NLM_F_CREATE, |request| write_chain(request, table, chain));
        for rule in &chain.rules {
            batch.add(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |request| {
                request.put_name(1, table);
                request.put_name(2, chain.name);
                request.nest(4, |list| write_rule(list, rule));
            });
        }
    }
    batch.mark(libc::NFNL_MSG_BATCH_END);
    socket.transact(&batch.bytes, batch.asked)
}

/// Requests that take effect together or not at all.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    asked: usize,
}

impl Batch {
    fn mark(&mut self, kind: i32) {
        let kind = u16::try_from(kind).expect("message types are 16 bits");
        // struct nfgenmsg: family, version, subsystem.
        let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).expect("a small number").to_be_bytes();
        self.bytes.extend(Request::new(kind, 0, self.sequence, &[0, 0, subsystem[0], subsystem[1]]).finish());
        self.sequence += 1;
    }

    fn add(&mut self, operation: u8, flags: i32, fill: impl FnOnce(&mut Request)) {
        let subsystem = u8::try_from(libc::NFNL_SUBSYS_NFTABLES).expect("a small number");
        let kind = u16::from_be_bytes([subsystem, operation]);
        let mut request = Request::new(kind, flags | libc::NLM_F_ACK, self.sequence, &[INET, 0, 0, 0]);
        fill(&mut request);
        self.bytes.extend(request.finish());
        self.sequence += 1;
        self.asked += 1;
    }
}

fn write_chain(request: &mut Request, table: &str, chain: &Chain) {
    let (kind, priority, policy) = match chain.kind {
        Kind::NatOutput => ("nat", NAT_PRIORITY, libc::NF_ACCEPT),
        Kind::FilterOutput => ("filter", FILTER_PRIORITY, libc::NF_DROP),
    };
    request.put_name(1, table);
    request.put_name(3, chain.name);
    request.nest(4, |hook| {
        hook.put_be(1, LOCAL_OUT);
        hook.put(2, &priority.to_be_bytes());
    });
    request.put(5, &policy.to_be_bytes());
    request.put_name(7, kind);
}

fn write_rule(list: &mut Request, Rule(matches, verdict): &Rule) {
    for wanted in matches {
        write_match(list, *wanted);
    }
    match verdict {
        Verdict::Accept => write_verdict(list, libc::NF_ACCEPT),
        Verdict::Drop => write_verdict(list, libc::NF_DROP),
        Verdict::Redirect(port) => {
            expression(list, "immediate", |data| {
                data.put_be(1, REGISTER);
                data.nest(2, |value| value.put(1, &port.to_be_bytes()));
            });
            expression(list, "redir", |data| data.put_be(1, REGISTER));
        }
    }
}

fn write_verdict(list: &mut Request, code: i32) {
    expression(list, "immediate", |data| {
        data.put_be(1, VERDICT_REGISTER);
        data.nest(2, |value| value.nest(2, |verdict| verdict.put(1, &code.to_be_bytes())));
    });
}

fn write_match(list: &mut Request, wanted: Match) {
    match wanted {
        Match::Mark(mark) => meta(list, META_MARK, &mark.to_ne_bytes()),
        Match::Protocol(protocol) => meta(list, META_PROTOCOL, &[protocol]),
        Match::SourcePort(port) => {
            load(list, TRANSPORT_HEADER, 0, 2);
            compare(list, &port.to_be_bytes());
        }
        Match::Port(port) => {
            load(list, TRANSPORT_HEADER, 2, 2);
            compare(list, &port.to_be_bytes());
        }
        // Where the destination stands in the headers: RFC 791, 3.1 and RFC 8200, 3.
        Match::To(IpAddr::V4(address), bits) => {
            meta(list, META_FAMILY, &[IPV4]);
            load(list, NETWORK_HEADER, 16, 4);
            network(list, &address.octets(), bits);
        }
        Match::To(IpAddr::V6(address), bits) => {
            meta(list, META_FAMILY, &[IPV6]);
            load(list, NETWORK_HEADER, 24, 16);
            network(list, &address.octets(), bits);
        }
    }
}

/// Compares what is loaded with the network of `address` that has `bits` bits.
fn network(list: &mut Request, address: &[u8], bits: u8) {
    let mask: Vec<u8> = (0..address.len())
        .map(|i| {
            let ones = usize::from(bits).saturating_sub(i * 8).min(8);
            (0xff00_u16 >> ones).to_be_bytes()[1]
        })
        .collect();
    let length = u32::try_from(address.len()).expect("4 or 16");
    expression(list, "bitwise", |data| {
        data.put_be(1, REGISTER);
        data.put_be(2, REGISTER);
        data.put_be(3, length);
        data.nest(4, |value| value.put(1, &mask));
        data.nest(5, |value| value.put(1, &vec![0; address.len()]));
    });
    let network: Vec<u8> = address.iter().zip(&mask).map(|(octet, mask)| octet & mask).collect();
    compare(list, &network);
}

fn meta(list: &mut Request, key: u32, value: &[u8]) {
    expression(list, "meta", |data| {
        data.put_be(1, REGISTER);
        data.put_be(2, key);
    });
    compare(list, value);
}

fn load(list: &mut Request, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        data.put_be(1, REGISTER);
        data.put_be(2, base);
        data.put_be(3, offset);
        data.put_be(4, length);
    });
}

/// Equal, or on to the next rule.
fn compare(list: &mut Request, value: &[u8]) {
    expression(list, "cmp", |data| {
        data.put_be(1, REGISTER);
        data.put_be(2, 0);
        data.nest(3, |nested| nested.put(1, value));
    });
}

fn expression(list: &mut Request, name: &str, fill: impl FnOnce(&mut Request)) {
    list.nest(1, |element| {
        element.put_name(1, name);
        element.nest(2, fill);
    });
}
