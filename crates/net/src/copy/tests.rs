use std::io::ErrorKind;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const LONG: Duration = Duration::from_secs(60);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Buffers,
    Splice,
}

/// client ↔ (a, b) ↔ server, with the copy in between running as a task.
async fn relay(way: Way) -> (TcpStream, TcpStream, tokio::task::JoinHandle<Result<Copied, Error>>) {
    let (client, mut a) = pair().await;
    let (mut b, server) = pair().await;
    let task = tokio::spawn(async move {
        let counters = Counters::default();
        let copied = match way {
            Way::Buffers => bidirectional(&mut a, &mut b, LONG, &counters).await?,
            Way::Splice => tcp(&mut a, &mut b, LONG, &counters).await?,
        };
        assert_eq!(counters.a_to_b.load(Ordering::Relaxed), copied.a_to_b);
        assert_eq!(counters.b_to_a.load(Ordering::Relaxed), copied.b_to_a);
        Ok(copied)
    });
    (client, server, task)
}

/// Writes `chunks` and the end, and reads everything that comes.
async fn talk(stream: TcpStream, chunks: Vec<Vec<u8>>) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let send = async move {
        for chunk in chunks {
            write.write_all(&chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(send, read.read_to_end(&mut received));
    read.unwrap();
    received
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let size = prop_oneof![0usize..10, 4090usize..4100, 16_000usize..17_000, 60_000usize..200_000];
    prop::collection::vec((size, any::<u8>()), 0..8).prop_map(|sizes| {
        sizes
            .into_iter()
            .map(|(size, first)| (0..size).map(|i| first.wrapping_add((i % 251) as u8)).collect())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_goes_in_comes_out(way in prop_oneof![Just(Way::Buffers), Just(Way::Splice)], forth in chunks(), back in chunks()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, server, task) = relay(way).await;
            let (at_client, at_server) = tokio::join!(talk(client, forth.clone()), talk(server, back.clone()));
            prop_assert_eq!(&at_server, &forth.concat());
            prop_assert_eq!(&at_client, &back.concat());
            let copied = task.await.unwrap().unwrap();
            prop_assert_eq!(copied, Copied { a_to_b: at_server.len() as u64, b_to_a: at_client.len() as u64 });
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    for way in [Way::Buffers, Way::Splice] {
        let (mut client, mut server, task) = relay(way).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        // The answer begins only after the end of the question has been seen.
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        assert_eq!(task.await.unwrap().unwrap(), Copied { a_to_b: 8, b_to_a: 6 });
    }
}

#[tokio::test]
async fn a_reset_names_its_side() {
    for way in [Way::Buffers, Way::Splice] {
        let (client, server, task) = relay(way).await;
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        match task.await.unwrap().unwrap_err() {
            Error::Failed { side: Side::B, error } => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{way:?}"),
            other => panic!("{way:?}: {other}"),
        }
        drop(client);
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_sender() {
    for way in [Way::Buffers, Way::Splice] {
        let (mut client, mut server, task) = relay(way).await;
        let block = vec![7; 1024 * 1024];
        let mut sent = 0;
        // The sockets of four ends hold some megabytes; an unbounded copy would take this for ever.
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), client.write(&block)).await {
            sent += written.unwrap();
            assert!(sent < 256 * 1024 * 1024, "{way:?}: nothing holds the sender back");
        }
        drop(client);
        let mut received = 0;
        let mut space = vec![0; 1024 * 1024];
        loop {
            match server.read(&mut space).await.unwrap() {
                0 => break,
                read => received += read,
            }
        }
        assert_eq!(received, sent);
        drop(server);
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_pair_ends_and_activity_prolongs_it() {
    let (mut client, mut a) = duplex(64);
    let (mut b, mut server) = duplex(64);
    let started = Instant::now();
    let task =
        tokio::spawn(async move { bidirectional(&mut a, &mut b, Duration::from_secs(10), &Counters::default()).await });
    tokio::time::sleep(Duration::from_secs(6)).await;
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Idle(limit) if limit == Duration::from_secs(10)), "{error}");
    assert_eq!(started.elapsed().as_secs(), 16);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_an_idle_pair_stays() {
    let (_client, mut a) = duplex(64);
    let (mut b, _server) = duplex(64);
    let counters = Counters::default();
    let copy = bidirectional(&mut a, &mut b, Duration::ZERO, &counters);
    assert!(tokio::time::timeout(Duration::from_secs(1_000_000), copy).await.is_err());
}
