//! Loopback addresses and ports that no other test has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use net::block::{self, Block};

use crate::wait;

/// The next unused address of a block `127.N.0.0/16` that this test process alone holds, so that fixed ports may be bound.
pub fn loopback() -> Ipv4Addr {
    static BLOCK: OnceLock<Block> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let block = BLOCK.get_or_init(|| {
        let seed = format!("test-{}", std::process::id());
        block::claim(&seed).expect("one of 235 blocks is free")
    });
    block.address(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An address of our own with a port that is free at this moment.
pub fn free() -> SocketAddr {
    free_on(loopback().into())
}

/// A port of `ip` that is free at this moment. On an address that others use too it may be taken before it is bound.
pub fn free_on(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).expect("a loopback address has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// Waits until something accepts connections at `address`.
///
/// # Panics
/// When nothing does for [`wait::LONG`].
#[track_caller]
pub fn wait_listening(address: SocketAddr) {
    wait::until(&format!("a listener at {address}"), wait::LONG, || {
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(drop).map_err(|error| error.to_string())
    });
}
