//! Everything that is done once inside new namespaces, before anybody else is there.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;
use nix::unistd::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use socket2::{Domain, Socket, Type};

use super::{DNS_PORT, Listeners, MARK, Made, Namespaces, OUTBOUND_PORT, Plan, Refused};
use crate::listen::BACKLOG;
use crate::netlink::nft::{self, Chain, Kind, Match, Rule, Verdict};
use crate::netlink::{Socket as Netlink, route};

/// Where services of the host that answer questions about names listen. A program that asked them would be told what the host
/// knows, past the sidecar: nscd, avahi, systemd-resolved, and the system's bus, over which the last is reached too.
const MASKED: [&str; 6] =
    ["/run/nscd", "/var/run/nscd", "/run/avahi-daemon", "/run/systemd/resolve", "/run/dbus", "/var/run/dbus"];

/// What says where names are asked for.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The port of DNS (RFC 1035, 4.2).
const DOMAIN: u16 = 53;

/// Settings of the network inside that are tried, for not every kernel lets them be changed: ports below 1024 are anybody's; and
/// a connection that has ended is forgotten soon, or an application that calls often would fill the table that remembers them.
const SYSCTLS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "5"),
    ("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", "10"),
];

const LOOPBACK_V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
const LOOPBACK_V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::LOCALHOST), 128);

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Makes namespaces and sets them up; the calling process, which has one thread, is inside afterwards.
pub(super) fn setup(plan: &Plan) -> Result<Made, Refused> {
    let user = !privileged();
    make(user)?;
    because("hiding the host's name services", mounts(plan))?;
    let families = because("setting up the network", network(plan.ip))?;
    let nftables = because("talking to nf_tables", Netlink::open(SockProtocol::NetlinkNetFilter))?;
    nft::install(&nftables, "heddle", &rules(plan)).map_err(|error| no_rules(&error))?;
    for (file, value) in SYSCTLS {
        // What cannot be changed stays as it is, and nothing depends on it for being right.
        let _ = fs::write(file, value);
    }
    let listeners = because("listening inside", listeners(&families))?;
    let namespaces = because("opening the namespaces", Namespaces::own(user))?;
    Ok(Made { namespaces, listeners })
}

fn because<T>(what: &str, result: io::Result<T>) -> Result<T, Refused> {
    result.map_err(|error| Refused::because(what, &error))
}

fn no_rules(error: &io::Error) -> Refused {
    let missing = matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::ENOENT));
    let refused = Refused::because("writing nf_tables rules", error);
    match missing {
        true => Refused::new(
            refused.what,
            Some("the kernel lacks nf_tables with redirection in inet tables (Linux 5.2, CONFIG_NF_TABLES_INET, CONFIG_NFT_REDIR)".to_owned()),
        ),
        false => refused,
    }
}

/// Whether this process may make network and mount namespaces without a namespace of users.
fn privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::SETPCAP;
    capabilities(None).is_ok_and(|held| held.effective.contains(needed))
}

fn make(user: bool) -> Result<(), Refused> {
    let rest = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if !user {
        return because("making network and mount namespaces", unshare(rest).map_err(io::Error::from));
    }
    let (uid, gid) = (Uid::effective(), Gid::effective());
    because("making a namespace of users", unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from))?;
    // Everybody is inside who they are outside: some programs refuse to run as root, even as a pretended one.
    let maps = || {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    };
    because("mapping this user into its namespace", maps())?;
    because("making network and mount namespaces", unshare(rest).map_err(io::Error::from))
}

/// Masks the sockets of the host's name services, and says where names are asked for instead.
fn mounts(plan: &Plan) -> io::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    // Often a link into a folder that is about to be masked. One that leads nowhere, or none, leaves programs with the default:
    // a server on this machine, which is redirected as all are.
    let resolv_conf = fs::canonicalize(RESOLV_CONF).ok();
    let mut masked: Vec<PathBuf> = MASKED.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
    masked.sort();
    masked.dedup();
    for folder in &masked {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("heddle"), folder, Some("tmpfs"), flags, Some("size=64k,mode=0755"))?;
    }
    let Some(resolv_conf) = resolv_conf else { return Ok(()) };
    if masked.iter().any(|folder| resolv_conf.starts_with(folder)) {
        if let Some(parent) = resolv_conf.parent() {
            fs::create_dir_all(parent)?;
        }
        return fs::write(resolv_conf, &plan.resolv_conf);
    }
    bind(&plan.resolv_conf, &resolv_conf)
}

/// Makes `file` say `text`. The text is in memory alone, so nothing is left behind.
fn bind(text: &str, file: &Path) -> io::Result<()> {
    const NONE: Option<&str> = None;
    // A file of a small file system of our own: what is anonymous cannot be mounted. It is mounted over a folder that everybody
    // has, from which the file is bound, and taken away again.
    let folder = Path::new("/tmp");
    mount(Some("heddle"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=0755"))?;
    let source = folder.join("resolv.conf");
    let bound = fs::write(&source, text).and_then(|()| Ok(mount(Some(&source), file, NONE, MsFlags::MS_BIND, NONE)?));
    nix::mount::umount2(folder, nix::mount::MntFlags::MNT_DETACH)?;
    bound
}

/// Sets up a network in which every address is local. Returns the loopback addresses of the families that there are.
fn network(own: IpAddr) -> io::Result<Vec<IpAddr>> {
    let socket = Netlink::open(SockProtocol::NetlinkRoute)?;
    route::up(&socket, route::LOOPBACK)?;
    // Programs that ask for addresses of kinds that this machine has (AI_ADDRCONFIG) do not count 127.0.0.1.
    route::address(&socket, own, route::LOOPBACK)?;
    route::everything_local(&socket, libc::AF_INET, route::LOOPBACK)?;
    let mut families = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    match route::everything_local(&socket, libc::AF_INET6, route::LOOPBACK) {
        Ok(()) => families.push(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        // IPv6 is switched off on this machine; then there is nothing to redirect.
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::EACCES)) => {}
        Err(error) => return Err(error),
    }
    Ok(families)
}

/// What becomes of packets. Nothing leaves in any case: there is no device but the loopback.
fn rules(plan: &Plan) -> Vec<Chain> {
    let to = |(network, bits)| Match::To(network, bits);
    let host = |ip: IpAddr| (ip, if ip.is_ipv4() { 32 } else { 128 });
    let redirect = |matches: Vec<Match>, port| Rule(matches, Verdict::Redirect(port));
    let accept = |matches: Vec<Match>| Rule(matches, Verdict::Accept);
    let tcp = Match::Protocol(TCP);
    let nat = vec![
        accept(vec![Match::Mark(MARK)]),
        redirect(vec![Match::Protocol(UDP), Match::Port(DOMAIN)], DNS_PORT),
        redirect(vec![tcp, Match::Port(DOMAIN)], DNS_PORT),
        // An instance talks to itself without its sidecar; to other instances it does not, though their addresses are loopback
        // addresses as well.
        accept(vec![to(host(plan.ip))]),
        redirect(vec![tcp, to(plan.instances)], OUTBOUND_PORT),
        accept(vec![to(LOOPBACK_V4)]),
        accept(vec![to(LOOPBACK_V6)]),
        redirect(vec![tcp], OUTBOUND_PORT),
    ];
    // What is not TCP stays with the instance itself: no address is anybody else's here, so what is meant for others would come
    // to the wrong one. Their senders are told at once (EPERM). Answers of the DNS server go to whatever address was asked from.
    let filter = vec![
        accept(vec![tcp]),
        accept(vec![Match::Protocol(UDP), Match::SourcePort(DNS_PORT)]),
        accept(vec![to(host(plan.ip))]),
        Rule(vec![to(plan.instances)], Verdict::Drop),
        accept(vec![to(LOOPBACK_V4)]),
        accept(vec![to(LOOPBACK_V6)]),
    ];
    vec![
        Chain { name: "redirect", kind: Kind::NatOutput, rules: nat },
        Chain { name: "confine", kind: Kind::FilterOutput, rules: filter },
    ]
}

fn listeners(families: &[IpAddr]) -> io::Result<Listeners> {
    let mut listeners = Listeners::default();
    for ip in families {
        let outbound = open(SocketAddr::new(*ip, OUTBOUND_PORT), Type::STREAM)?;
        // What it accepts inherits this, so it costs no call of its own.
        outbound.set_tcp_nodelay(true)?;
        crate::dial::stays_here(&outbound);
        outbound.listen(BACKLOG)?;
        let dns = open(SocketAddr::new(*ip, DNS_PORT), Type::STREAM)?;
        dns.listen(BACKLOG)?;
        listeners.outbound.push(OwnedFd::from(outbound));
        listeners.dns_tcp.push(OwnedFd::from(dns));
        listeners.dns_udp.push(OwnedFd::from(open(SocketAddr::new(*ip, DNS_PORT), Type::DGRAM)?));
    }
    Ok(listeners)
}

fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Gives up every capability but the one to mark sockets.
pub(super) fn keep_only_marking() -> io::Result<()> {
    let marking = CapabilitySet::NET_ADMIN;
    let sets = CapabilitySets { effective: marking, permitted: marking, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(())
}
