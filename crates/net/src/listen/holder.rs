//! Who has an address that somebody else wants to listen on.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// The state of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` of the kernel's `net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Somebody who stands in the way of listening on an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Where it listens: the address itself, or every address of the machine. `None` where the kernel does not show it.
    pub listens: Option<SocketAddr>,
    /// Its process id and the program's name; `None` where another user's process may not be looked at.
    pub process: Option<(u32, String)>,
}

/// Who keeps others from listening on `address` in this network namespace. `None`: nobody, or the address cannot be had for
/// another reason, which whoever tries will be told.
///
/// Nothing is accepted meanwhile: the address is bound for a moment, as a server binds it, and not listened on.
pub fn holder(address: SocketAddr) -> Option<Holder> {
    let bound = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).and_then(|socket| {
        // Connections that have just ended do not stand in a server's way.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    });
    match bound {
        Err(error) if error.raw_os_error() == Some(Errno::EADDRINUSE as i32) => {}
        Ok(()) | Err(_) => return None,
    }
    let found = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().skip(1).filter_map(listener).find(|(listens, _)| in_the_way(*listens, address))
    });
    let process = found.as_ref().and_then(|(_, inode)| process(inode));
    Some(Holder { listens: found.map(|(listens, _)| listens), process })
}

/// Address and inode of a line of `/proc/net/tcp`, if that is of a listening socket.
fn listener(line: &str) -> Option<(SocketAddr, String)> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    if words.nth(1)? != LISTEN {
        return None;
    }
    let inode = words.nth(5)?.to_owned();
    let (ip, port) = local.split_once(':')?;
    Some((SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?), inode))
}

/// The kernel prints an address as numbers of 32 bits as they lie in memory.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

fn in_the_way(listens: SocketAddr, wanted: SocketAddr) -> bool {
    let every = match listens.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && wanted.is_ipv4(),
        // It may take IPv4 too.
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    listens.port() == wanted.port() && (every || listens.ip() == wanted.ip().to_canonical())
}

/// The process that has the socket `inode` open, among those that we may look at.
fn process(inode: &str) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        open.find(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((id, name.trim_end().to_owned()))
    })
}

impl fmt::Display for Holder {
    /// `process 42 (nginx), which listens on 0.0.0.0:8080`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((id, name)) => write!(f, "process {id} ({name})")?,
            None => f.write_str("a process of another user")?,
        }
        match self.listens {
            Some(listens) => write!(f, ", which listens on {listens}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn name() -> String {
        fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned()
    }

    #[test]
    fn a_listener_is_named_with_its_process() {
        for listens in ["127.77.1.1:0", "0.0.0.0:0", "[::1]:0"] {
            let taken = TcpListener::bind(listens).unwrap();
            let listens = taken.local_addr().unwrap();
            let wanted = match listens.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new([127, 77, 1, 2].into(), listens.port()),
                _ => listens,
            };
            let found = holder(wanted).unwrap();
            assert_eq!(found, Holder { listens: Some(listens), process: Some((std::process::id(), name())) });
            assert_eq!(
                found.to_string(),
                format!("process {} ({}), which listens on {listens}", std::process::id(), name())
            );
            drop(taken);
            assert_eq!(holder(wanted), None);
        }
    }

    #[test]
    fn both_families_at_once_stand_in_the_way_of_each() {
        let six = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        six.set_only_v6(false).unwrap();
        six.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0).into()).unwrap();
        six.listen(1).unwrap();
        let listens = six.local_addr().unwrap().as_socket().unwrap();
        let wanted = SocketAddr::new([127, 77, 1, 3].into(), listens.port());
        assert_eq!(
            holder(wanted).unwrap().listens,
            Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), listens.port()))
        );
    }

    #[test]
    fn an_ended_connection_is_nobody() {
        let listener = TcpListener::bind("127.77.1.4:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        // The side that closes first keeps the address for a while.
        drop(listener.accept().unwrap());
        drop(listener);
        drop(connected);
        assert_eq!(holder(address), None);
    }

    #[test]
    fn lines_that_make_no_sense_are_nobodys() {
        assert_eq!(listener(""), None);
        assert_eq!(listener("0: 0100007F:1F90 00000000:0000 01 0:0 0:0 0 0 0 7"), None, "connected, not listening");
        assert_eq!(listener("0: 0100007F:1F9Z 00000000:0000 0A 0:0 0:0 0 0 0 7"), None);
        assert_eq!(listener("0: 0100007F00:1F90 00000000:0000 0A 0:0 0:0 0 0 0 7"), None);
    }
}
