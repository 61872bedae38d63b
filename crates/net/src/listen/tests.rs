use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

fn any_port(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 0)
}

#[tokio::test]
async fn workers_share_an_address_and_connections_are_not_delayed() {
    let first = tcp_reuseport(any_port(Ipv4Addr::LOCALHOST), BACKLOG).unwrap();
    let address = first.local_addr().unwrap();
    drop(tcp_reuseport(address, BACKLOG).unwrap());
    let mut acceptor = Acceptor::new(first);
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), acceptor.accept());
    let (accepted, from) = accepted.unwrap();
    assert_eq!(from, connected.unwrap().local_addr().unwrap());
    assert!(accepted.nodelay().unwrap(), "TCP_NODELAY must come with the listener");
}

#[tokio::test]
async fn version_6_is_apart_from_version_4() {
    // Somebody else may have the port that we are given on some address of version 4; not every time.
    let both = |_| {
        let six = tcp_reuseport(any_port(Ipv6Addr::UNSPECIFIED), BACKLOG).unwrap();
        let port = six.local_addr().unwrap().port();
        tcp_reuseport((Ipv4Addr::UNSPECIFIED, port).into(), BACKLOG).is_ok()
    };
    assert!((0..50).any(both));
}

#[tokio::test]
async fn an_address_belongs_to_one_proxy() {
    let listener = tcp_reuseport(any_port(Ipv4Addr::LOCALHOST), BACKLOG).unwrap();
    let address = listener.local_addr().unwrap();
    let lock = AddressLock::take(address).unwrap();
    let error = AddressLock::take(address).unwrap_err();
    assert!(matches!(error, LockError::Held(held) if held == address));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("another heddle proxy"), "{text}");
    drop(lock);
    AddressLock::take(address).unwrap();
}

#[test]
fn accept_errors_are_sorted() {
    for (errno, wanted) in [
        (Errno::EBADF, Triage::Permanent),
        (Errno::EINVAL, Triage::Permanent),
        (Errno::EMFILE, Triage::Exhausted),
        (Errno::ENFILE, Triage::Exhausted),
        (Errno::ENOMEM, Triage::Exhausted),
        (Errno::ECONNABORTED, Triage::OneConnection),
        (Errno::EPROTO, Triage::OneConnection),
        (Errno::EHOSTUNREACH, Triage::OneConnection),
        (Errno::EPERM, Triage::OneConnection),
    ] {
        assert_eq!(triage(&errno.into()), wanted, "{errno}");
    }
    assert_eq!(triage(&io::Error::other("no number")), Triage::Permanent);
}

#[test]
fn pauses_are_jittered_within_their_bounds() {
    let pause = Duration::from_millis(100);
    let drawn: Vec<_> = (0..50).map(|_| jitter(pause)).collect();
    assert!(drawn.iter().all(|drawn| (pause / 2..=pause).contains(drawn)), "{drawn:?}");
    assert!(drawn.iter().any(|other| *other != drawn[0]), "no jitter: {drawn:?}");
}
