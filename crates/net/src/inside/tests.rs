use super::*;

#[test]
fn listeners_are_handed_over_by_family() {
    let socket = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let sockets: Vec<OwnedFd> = (0..7).map(|_| socket()).collect();
    let addresses: Vec<_> =
        sockets.iter().map(|s| socket2::SockRef::from(s).local_addr().unwrap().as_socket().unwrap()).collect();
    let listeners = Listeners::from_all(sockets);
    assert_eq!(listeners.all().len(), 6, "what is left over is closed");
    assert_eq!(listeners.outbound_addresses().unwrap(), [addresses[0], addresses[3]]);
    let order: Vec<_> =
        listeners.all().iter().map(|s| socket2::SockRef::from(s).local_addr().unwrap().as_socket().unwrap()).collect();
    assert_eq!(order, addresses[..6]);
}

#[test]
fn a_helper_that_says_nothing_or_nonsense_is_a_refusal() {
    let said = |bytes: &[u8]| handoff::Message { bytes: bytes.to_vec(), descriptors: Vec::new() };
    assert!(made(said(b"")).unwrap_err().what.contains("without a word"));
    assert!(made(said(b"{}")).unwrap_err().what.contains("not understood"));
    assert!(made(said(br#"{"made":{"user":true,"families":2}}"#)).unwrap_err().what.contains("not understood"));
    let refused = made(said(br#"{"refused":{"what":"a","setting":"b"}}"#)).unwrap_err();
    assert_eq!(refused.to_string(), "a: b");
}

#[tokio::test]
async fn sockets_are_asked_for_before_they_run_out() {
    let (ours, theirs) = handoff::pair().unwrap();
    let sockets = Sockets::start(ours).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let helper = std::thread::spawn(move || {
        let mut batches = 0;
        while !handoff::receive(&theirs).unwrap().bytes.is_empty() {
            batches += 1;
            let made: Vec<OwnedFd> = (0..BATCH)
                .map(|_| {
                    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                    socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()
                })
                .collect();
            let borrowed: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
            handoff::send(&theirs, b"sockets", &borrowed).unwrap();
        }
        batches
    });
    for _ in 0..3 * BATCH {
        sockets.take().await.connect(address).await.unwrap();
        listener.accept().await.unwrap();
    }
    drop(sockets);
    let batches = tokio::task::spawn_blocking(move || helper.join().unwrap()).await.unwrap();
    assert!(batches >= 3, "the stock was filled again, and let go when nobody held it");
}
