use super::*;

#[tokio::test(start_paused = true)]
async fn waits_for_the_last_guard() {
    let (drain, watch) = channel();
    let guard = watch.guard();
    let mut carrier = watch.clone();
    drain.begin(Duration::from_secs(30));
    assert!(!watch.is_open());
    let started = Instant::now();
    let work = tokio::spawn(async move {
        carrier.draining().await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        drop(guard);
    });
    assert_eq!(drain.drained().await, 0);
    assert_eq!(started.elapsed().as_secs(), 7);
    assert_eq!(watch.state(), State::Closed);
    work.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cuts_off_what_is_left_at_the_deadline() {
    let (drain, watch) = channel();
    let stubborn = watch.guard();
    let mut obedient = watch.clone();
    let obedient_guard = watch.guard();
    let work = tokio::spawn(async move {
        obedient.closed().await;
        drop(obedient_guard);
    });
    let started = Instant::now();
    drain.begin(Duration::from_secs(30));
    assert_eq!(drain.drained().await, 2);
    assert_eq!(started.elapsed().as_secs(), 31, "the deadline, and the grace for the one that does not let go");
    work.await.unwrap();
    drop(stubborn);
}

#[tokio::test(start_paused = true)]
async fn who_takes_work_is_waited_for_and_is_no_work_itself() {
    let (drain, watch) = channel();
    let taking = watch.taking();
    drain.begin(Duration::from_secs(30));
    let started = Instant::now();
    tokio::join!(drain.shut(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(taking);
    });
    assert_eq!(started.elapsed().as_secs(), 1);
    let _for_ever = watch.taking();
    drain.shut().await;
    assert_eq!(started.elapsed().as_secs(), 30, "not beyond the deadline");
    assert_eq!(drain.drained().await, 0, "nothing was cut off");
}

#[tokio::test(start_paused = true)]
async fn a_second_call_only_shortens_the_time() {
    let (drain, watch) = channel();
    let _guard = watch.guard();
    drain.begin(Duration::from_secs(30));
    let State::Draining(first) = watch.state() else { panic!("{:?}", watch.state()) };
    drain.begin(Duration::from_secs(60));
    assert_eq!(watch.state(), State::Draining(first));
    let started = Instant::now();
    let (cut_off, ()) = tokio::join!(drain.drained(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drain.begin(Duration::ZERO);
    });
    assert_eq!((cut_off, started.elapsed().as_secs()), (1, 2));
    drain.begin(Duration::from_secs(5));
    assert_eq!(watch.state(), State::Closed, "closed is final");
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_drain_is_gone_never_resolves() {
    let (drain, mut watch) = channel();
    drop(drain);
    assert!(tokio::time::timeout(Duration::from_secs(1000), watch.draining()).await.is_err());
    assert!(watch.is_open());
}

#[test]
fn guards_of_many_threads_are_counted() {
    let (drain, watch) = channel();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let watch = watch.clone();
            std::thread::spawn(move || (0..2000).for_each(|_| drop(watch.guard())))
        })
        .collect();
    drain.begin(Duration::from_secs(60));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(runtime.block_on(drain.drained()), 0);
}
