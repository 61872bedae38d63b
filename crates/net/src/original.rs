//! Where a connection was meant to go before the kernel redirected it.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;

/// Says where the accepted connection `stream` was meant to go: what connection tracking remembers of a redirected one
/// (`SO_ORIGINAL_DST`, and `IP6T_SO_ORIGINAL_DST` for IPv6), else the socket's own address, which is the original one for a
/// connection that nobody redirected or that TPROXY handed over.
///
/// # Errors
/// The connection is gone, or the system refuses to say.
pub fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let own = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let remembered = if own.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match remembered {
        Ok(address) => Ok(address.as_socket().unwrap_or(own)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // Not tracked; or a kernel without connection tracking, in which nothing can be redirected.
            Some(Errno::ENOENT | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => Ok(own),
            _ => Err(error),
        },
    }
}
