use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use testkit::wait;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, yield_now};

use super::*;

/// Counts how often somebody was told.
#[derive(Default)]
struct Told(AtomicUsize);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Runs `test` beside a writer.
fn beside_a_writer(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(writer());
        while WRITES.with_borrow(|writes| writes.writer.is_none()) {
            yield_now().await;
        }
        tokio::time::timeout(wait::LONG, test).await.expect("in time");
    });
}

async fn done(ticket: &Ticket) {
    while !ticket.is_done() {
        yield_now().await;
    }
}

#[test]
fn many_writes_arrive_whole_and_their_memory_is_used_again() {
    beside_a_writer(async {
        let told = Arc::new(Told::default());
        let waker = Arc::clone(&told).into();
        for round in 0..3_u8 {
            let mut pairs = Vec::new();
            for number in 0..150_u8 {
                let (a, b) = pair().await;
                let mut bytes = vec![number ^ round; 1_000];
                let ticket = hand_over(a.as_fd(), &mut bytes, &waker);
                assert!(bytes.is_empty());
                pairs.push((ticket, a, b, number ^ round));
            }
            for (ticket, a, mut b, byte) in pairs {
                done(&ticket).await;
                assert!(matches!(ticket.take(), Written { bytes, result: Ok(0) } if bytes.is_empty()));
                drop(a);
                let mut got = Vec::new();
                b.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, [byte; 1_000]);
            }
        }
        assert_eq!(told.0.load(Ordering::Relaxed), 0, "what is written whole is nobody's concern");
        WRITES.with_borrow(|writes| {
            assert!(writes.queue.is_empty() && writes.spare.len() <= MOST);
            assert!(writes.places.len() <= 150 && writes.free.len() == writes.places.len());
        });
    });
}

#[test]
fn what_a_socket_does_not_take_comes_back() {
    beside_a_writer(async {
        let (a, mut b) = pair().await;
        let told = Arc::new(Told::default());
        let waker = Arc::clone(&told).into();
        let mut sent = 0;
        let (left, written) = loop {
            let mut bytes = vec![7; 1 << 20];
            let ticket = hand_over(a.as_fd(), &mut bytes, &waker);
            done(&ticket).await;
            match ticket.take() {
                Written { bytes, result: Ok(0) } if bytes.is_empty() => sent += 1 << 20,
                Written { bytes, result: Ok(n) } => break (bytes, n),
                Written { bytes, result } => {
                    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
                    break (bytes, 0);
                }
            }
        };
        assert_eq!((left.len(), told.0.load(Ordering::Relaxed)), (1 << 20, 1));
        drop(a);
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), sent + written);
    });
}

#[test]
fn a_write_that_is_given_up_is_done_at_once() {
    beside_a_writer(async {
        let (a, mut b) = pair().await;
        drop(hand_over(a.as_fd(), &mut b"the last".to_vec(), Waker::noop()));
        drop(a);
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"the last");
        assert!(WRITES.with_borrow(|writes| writes.queue.is_empty()));
    });
}

#[test]
fn a_write_that_is_taken_back_is_not_done() {
    beside_a_writer(async {
        let (a, mut b) = pair().await;
        let ticket = hand_over(a.as_fd(), &mut b"not this".to_vec(), Waker::noop());
        assert!(!ticket.is_done());
        let Written { bytes, result } = ticket.take();
        assert_eq!((&*bytes, result.unwrap()), (&b"not this"[..], 0));
        yield_now().await;
        drop(a);
        assert_eq!(b.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    });
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    beside_a_writer(async {
        let (a, b) = pair().await;
        socket2::SockRef::from(&b).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(b);
        a.readable().await.unwrap();
        let ticket = hand_over(a.as_fd(), &mut b"x".to_vec(), Waker::noop());
        done(&ticket).await;
        assert!(ticket.take().result.is_err());
    });
}

#[test]
fn a_worker_with_little_to_do_writes_by_itself() {
    beside_a_writer(async {
        parked();
        assert_eq!([(); 5].map(|()| is_busy()), [false, false, false, true, true]);
        parked();
        assert!(!is_busy());
    });
    // Where there is no writer, nobody waits for it.
    std::thread::spawn(|| assert_eq!([(); 5].map(|()| is_busy()), [false; 5])).join().unwrap();
}
