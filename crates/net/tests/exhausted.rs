//! Running out of descriptors, in a process of its own because the limit holds for all of it.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

use std::fs::File;
use std::time::Duration;

use net::listen::{Acceptor, BACKLOG, tcp_reuseport};
use nix::sys::resource::{Resource, setrlimit};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_connection_waits_for_a_free_descriptor_and_is_then_accepted() {
    let listener = tcp_reuseport("127.0.0.1:0".parse().unwrap(), BACKLOG).unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::new(listener);
    let client = TcpStream::connect(address).await.unwrap();

    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!taken.is_empty());
    let waiting = tokio::time::timeout(Duration::from_millis(200), acceptor.accept()).await;
    assert!(waiting.is_err(), "a lack of descriptors must neither end the listener nor succeed: {waiting:?}");
    drop(taken);
    let (accepted, from) = tokio::time::timeout(Duration::from_secs(30), acceptor.accept()).await.unwrap().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    drop(accepted);
}
