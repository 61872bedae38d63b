use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[tokio::test]
async fn each_worker_runs_local_tasks_on_its_own_thread() {
    let sum = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&sum);
    let workers = spawn(3, "data", move |index| {
        let sum = Arc::clone(&shared);
        async move {
            assert_eq!(thread::current().name(), Some(format!("data-{index}").as_str()));
            let local = Rc::new(Cell::new(index));
            let inner = Rc::clone(&local);
            tokio::task::spawn_local(async move { inner.set(inner.get() + 10) }).await.unwrap();
            sum.fetch_add(local.get(), Ordering::Relaxed);
        }
    })
    .unwrap();
    assert_eq!(workers.count(), 3);
    workers.finished().await.unwrap();
    assert_eq!(sum.load(Ordering::Relaxed), 10 + 11 + 12);
}

#[tokio::test]
async fn a_panic_is_reported_at_once_with_its_message() {
    let workers = spawn(2, "data", |index| async move {
        if index == 1 {
            panic!("invariant {index} broken");
        }
        std::future::pending::<()>().await;
    })
    .unwrap();
    let error = workers.finished().await.unwrap_err();
    assert_eq!(error.to_string(), "worker 1 panicked: invariant 1 broken");
}

#[tokio::test]
async fn the_function_itself_runs_inside_the_runtime() {
    let workers = spawn(1, "data", |_| {
        let task = tokio::task::spawn_local(async {});
        async move { task.await.unwrap() }
    });
    workers.unwrap().finished().await.unwrap();
}
