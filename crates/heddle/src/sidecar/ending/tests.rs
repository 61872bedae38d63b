use std::cell::Cell;

use super::*;

/// Orders of a page alone.
fn orders() -> (mpsc::Sender<Order>, Orders) {
    let (page, asked) = mpsc::channel(1);
    (page, Orders::new(None, asked).expect("signals can be caught"))
}

#[tokio::test(start_paused = true)]
async fn the_way_out_ends_after_the_way_in_with_what_is_left_of_the_time() {
    let (_page, mut orders) = orders();
    let (drains, way_in, way_out) = Drains::new();
    let (taking, asked, calls) = (way_in.taking(), way_in.guard(), way_out.guard());
    let started = Instant::now();
    let work = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(taking);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(way_out.is_open(), "who is asked may ask others");
        drop(asked);
        let mut ending = way_out.clone();
        ending.draining().await;
        assert_eq!(started.elapsed().as_secs(), 10);
        ending.closed().await;
        drop(calls);
    };
    let emptied = Cell::new(None);
    let ended = drains.ended(Some(Order::Finish(Duration::from_secs(30))), &mut orders, || {
        emptied.set(Some(started.elapsed().as_secs()));
    });
    tokio::join!(ended, work);
    assert_eq!((emptied.get(), started.elapsed().as_secs()), (Some(10), 30));
}

#[tokio::test(start_paused = true)]
async fn whoever_has_not_heard_is_served_though_there_is_nothing_under_way() {
    let (_page, mut orders) = orders();
    let (drains, way_in, _way_out) = Drains::new();
    let taking = way_in.taking();
    let started = Instant::now();
    tokio::join!(drains.ended(Some(Order::Finish(Duration::from_secs(30))), &mut orders, || ()), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(taking);
    });
    assert_eq!(started.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_application_is_that_of_a_quiet_proxy() {
    let (_page, mut orders) = orders();
    let (drains, way_in, _way_out) = Drains::new();
    let _taking = way_in.taking();
    let started = Instant::now();
    drains.ended(Some(Order::End(Duration::from_secs(30))), &mut orders, || ()).await;
    assert!(started.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn the_way_in_alone_ends_until_the_next_order() {
    let (page, mut orders) = orders();
    let (drains, _way_in, way_out) = Drains::new();
    let started = Instant::now();
    tokio::join!(drains.ended(Some(Order::Drain(Duration::from_secs(30))), &mut orders, || ()), async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(way_out.is_open());
        page.send(Order::Finish(Duration::from_secs(5))).await.expect("it listens");
    });
    assert_eq!(started.elapsed().as_secs(), 60);
}
