//! Copying without a descriptor for a pipe, in a process of its own because the limit holds for all of it.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

use std::fs::File;
use std::time::Duration;

use net::copy::{self, Counters};
use nix::sys::resource::{Resource, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn open_connections_go_on_without_free_descriptors() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let (client, mut a) = pair().await;
    let (mut b, server) = pair().await;
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!taken.is_empty());
    let counters = Counters::default();
    let copied = async { copy::tcp(&mut a, &mut b, Duration::from_secs(30), &counters).await.unwrap() };
    let (mut read, mut write) = client.into_split();
    let talk = async move {
        write.write_all(&vec![b'x'; LENGTH]).await.unwrap();
        write.shutdown().await.unwrap();
        let mut echo = Vec::new();
        read.read_to_end(&mut echo).await.unwrap();
        echo
    };
    let answer = async move {
        let (mut read, mut write) = server.into_split();
        let mut heard = Vec::new();
        read.read_to_end(&mut heard).await.unwrap();
        write.write_all(&heard).await.unwrap();
    };
    let (copied, echo, ()) = tokio::join!(copied, talk, answer);
    assert_eq!(copied.b_to_a, LENGTH as u64);
    assert!(echo.len() == LENGTH && echo.iter().all(|byte| *byte == b'x'));
}
