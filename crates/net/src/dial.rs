//! Connections that we dial.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::redirect::KEPT_SOURCE;

/// A connection on which nothing has come for this long is asked whether its peer is still there. A machine that lost power
/// or its network says nothing, and the system would ask for the first time after two hours.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// The pause between two such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// So many questions without an answer end the connection: one lost packet must not. A silent peer is given up 30 seconds
/// after its last sign.
pub const KEEPALIVE_PROBES: u32 = 3;

/// How long bytes may stay unacknowledged on a connection that many requests share (TCP_USER_TIMEOUT): no keepalive is sent
/// while some are, and the system would send them again for a quarter of an hour. As long as the keepalive takes, whose
/// count of questions it replaces.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Sends small writes at once (TCP_NODELAY), and ends the connection when its peer is gone without a word (keepalive).
/// `unacknowledged` bounds how long bytes may wait to be acknowledged. Linux counts a peer that is there and does not read
/// as well, so leave it out where such a peer is to be waited for: a body or a tunnel with a slow reader.
///
/// # Errors
/// The connection is gone.
pub fn prepare(stream: &TcpStream, unacknowledged: Option<Duration>) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    if unacknowledged.is_some() {
        socket.set_tcp_user_timeout(unacknowledged)?;
    }
    Ok(())
}

/// For a connection between a sidecar and a program beside it, or a listener that accepts no others: the plainest control of
/// congestion. No network between them could be congested, and what was chosen for the network costs there what it costs
/// everywhere: BBR paces and measures, 1 % of the processor time of a request. Linux always has this one, and lets everybody
/// choose it (tcp(7)). What a listener accepts inherits it.
pub fn stays_here<'s>(socket: impl Into<SockRef<'s>>) {
    // Where a system that is not quite Linux refuses, what it has by itself does as well.
    let _ = socket.into().set_tcp_congestion(b"reno");
}

/// Connects to `to` in the name of `source`, an address of somebody else, by the routes that [`crate::redirect`] makes.
///
/// # Errors
/// What the system says: without CAP_NET_ADMIN it refuses; or nobody answers.
pub async fn connect_as(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    {
        let options = SockRef::from(&socket);
        // One option for both kinds of addresses in Linux.
        options.set_ip_transparent_v4(true)?;
        options.set_mark(KEPT_SOURCE)?;
    }
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}

#[cfg(test)]
mod tests {
    use testkit::wait;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_dialled_connection_asks_whether_its_peer_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, None).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        prepare(&stream, Some(UNACKNOWLEDGED)).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
    }

    #[tokio::test]
    async fn within_a_machine_congestion_is_controlled_plainly() {
        let ours = |stream: &TcpStream| SockRef::from(stream).tcp_congestion().unwrap().starts_with(b"reno");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        stays_here(&listener);
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(ours(&listener.accept().await.unwrap().0));
        stays_here(&dialled);
        assert!(ours(&dialled));
    }

    /// The reason why the bound is not for every connection.
    #[tokio::test]
    async fn the_bound_ends_a_connection_whose_peer_does_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _peer = listener.accept().await.unwrap();
        prepare(&stream, Some(Duration::from_millis(300))).unwrap();
        let endless = async { while stream.write_all(&[0; 65_536]).await.is_ok() {} };
        tokio::time::timeout(wait::LONG, endless).await.expect("it ends");
    }
}
