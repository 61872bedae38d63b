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
            hand_out(&theirs, BATCH);
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

/// Answers a question on `helper` with `count` sockets.
fn hand_out(helper: &OwnedFd, count: usize) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made: Vec<OwnedFd> =
        (0..count).map(|_| socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()).collect();
    let borrowed: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    handoff::send(helper, b"sockets", &borrowed).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_has_nothing_is_left_alone_for_a_while() {
    let (ours, theirs) = handoff::pair().unwrap();
    let _sockets = Sockets::start(ours).unwrap();
    let helper = handoff::Channel::new(theirs).unwrap();
    helper.receive().await.unwrap();
    let before = tokio::time::Instant::now();
    for _ in 0..3 {
        helper.send(b"sockets", &[]).unwrap();
        helper.receive().await.unwrap();
    }
    assert!(before.elapsed() >= 3 * sockets::ASK_AGAIN, "{:?}", before.elapsed());
}

#[tokio::test]
async fn who_has_few_descriptors_asks_for_few_and_keeps_none() {
    let (ours, theirs) = handoff::pair().unwrap();
    let sockets = Sockets::start(ours).unwrap();
    let helper = std::thread::spawn(move || {
        let mut asked = Vec::new();
        loop {
            let question = handoff::receive(&theirs).unwrap().bytes;
            if question.is_empty() {
                return asked;
            }
            asked.push(wanted(&question));
            // What does not fit arrives cut off, as a message does that is too long.
            match asked.last() {
                Some(count @ 1..=4) => hand_out(&theirs, *count),
                _ => assert!(
                    rustix::net::send(&theirs, &[0; handoff::MESSAGE + 1], rustix::net::SendFlags::empty()).is_ok()
                ),
            }
        }
    });
    let waiting = (0..3).map(|_| {
        tokio::spawn({
            let sockets = sockets.clone();
            async move { sockets.take().await }
        })
    });
    for one in waiting.collect::<Vec<_>>() {
        tokio::time::timeout(std::time::Duration::from_secs(5), one)
            .await
            .expect("there are descriptors for it")
            .unwrap();
    }
    drop(sockets);
    let asked = tokio::task::spawn_blocking(move || helper.join().unwrap()).await.unwrap();
    assert_eq!(asked[0], BATCH);
    let given: usize = asked.iter().filter(|count| **count <= 4).sum();
    assert_eq!(given, 3, "{asked:?}");
}

#[test]
fn a_question_of_another_version_asks_for_a_batch() {
    for (question, expected) in [("sockets", BATCH), ("7", 7), ("0", 0), ("99999", BATCH), ("-1", BATCH)] {
        assert_eq!(wanted(question.as_bytes()), expected, "{question}");
    }
}
