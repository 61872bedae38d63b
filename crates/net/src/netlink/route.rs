//! Devices and routes (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

use nix::libc;

use super::{Request, Socket};

/// The loopback device is the first of every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

const ACKNOWLEDGED: i32 = libc::NLM_F_ACK;

/// Sets the device numbered `device` up.
pub(crate) fn up(socket: &Socket, device: u32) -> io::Result<()> {
    let up = u32::try_from(libc::IFF_UP).expect("a flag");
    // struct ifinfomsg: family, padding, type, index, flags, mask of flags.
    let mut fixed = vec![0; 4];
    fixed.extend_from_slice(&device.to_ne_bytes());
    fixed.extend_from_slice(&up.to_ne_bytes());
    fixed.extend_from_slice(&up.to_ne_bytes());
    socket.transact(&Request::new(libc::RTM_NEWLINK, ACKNOWLEDGED, 1, &fixed).finish(), 1)
}

/// Gives the device numbered `device` an address of its own.
pub(crate) fn address(socket: &Socket, ip: IpAddr, device: u32) -> io::Result<()> {
    let (family, bits, octets) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, 32, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, 128, ip.octets().to_vec()),
    };
    let family = u8::try_from(family).expect("address families here are small");
    // struct ifaddrmsg: family, length of the network, flags, scope, device.
    let mut fixed = vec![family, bits, 0, libc::RT_SCOPE_HOST];
    fixed.extend_from_slice(&device.to_ne_bytes());
    let mut request = Request::new(libc::RTM_NEWADDR, ACKNOWLEDGED | libc::NLM_F_CREATE, 3, &fixed);
    request.put(libc::IFA_LOCAL, &octets);
    request.put(libc::IFA_ADDRESS, &octets);
    socket.transact(&request.finish(), 1)
}

/// Makes every address of `family` one of the device's own: `ip route add local default dev …`.
pub(crate) fn everything_local(socket: &Socket, family: i32, device: u32) -> io::Result<()> {
    let family = u8::try_from(family).expect("address families here are small");
    // struct rtmsg: family, lengths of destination and source, service, table, origin, scope, type, flags.
    let scope = libc::RT_SCOPE_HOST;
    let fixed = [family, 0, 0, 0, libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, scope, libc::RTN_LOCAL, 0, 0, 0, 0];
    let mut request = Request::new(libc::RTM_NEWROUTE, ACKNOWLEDGED | libc::NLM_F_CREATE, 2, &fixed);
    request.put(libc::RTA_OIF, &device.to_ne_bytes());
    socket.transact(&request.finish(), 1)
}
