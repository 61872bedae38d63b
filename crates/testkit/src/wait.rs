//! Waiting for a condition, with its last failure in the message when it does not come.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; tests that pass do not wait for it.
pub const LONG: Duration = Duration::from_secs(30);

/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Tries `probe` until it succeeds and returns what it found. `what` completes the sentence "waited for …".
///
/// # Panics
/// After `limit`, with the last failure.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(why) if Instant::now() >= deadline => panic!("waited {limit:?} for {what}: {why}"),
            Err(_) => thread::sleep(STEP),
        }
    }
}

/// [`until`] for asynchronous tests; follows tokio's clock, a paused one too.
///
/// # Panics
/// After `limit`, with the last failure.
pub async fn until_async<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(why) if tokio::time::Instant::now() >= deadline => panic!("waited {limit:?} for {what}: {why}"),
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_found() {
        let mut left = 3;
        let found = until("three looks", LONG, || {
            left -= 1;
            if left == 0 { Ok("found") } else { Err(format!("{left} left")) }
        });
        assert_eq!(found, "found");
    }

    #[test]
    #[should_panic(expected = "waited 1ms for a miracle: none yet")]
    fn says_why_it_gave_up() {
        until("a miracle", Duration::from_millis(1), || Err::<(), _>("none yet".into()));
    }
}
