//! How long to wait before what died is started again.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// What lived this long is thought well again.
const WELL: Duration = Duration::from_secs(60);

/// 100 ms, doubling to 30 s, and from the beginning after a minute of life.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    started: Instant,
}

impl Backoff {
    /// Nothing died yet.
    pub(crate) fn new() -> Backoff {
        Backoff { next: FIRST, started: Instant::now() }
    }

    /// It is started now.
    pub(crate) fn started(&mut self) {
        self.started = Instant::now();
    }

    /// It died now: how long to wait.
    pub(crate) fn died(&mut self) -> Duration {
        if self.started.elapsed() >= WELL {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (self.next * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn doubles_to_the_longest_and_begins_again_after_a_minute_of_life() {
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..11)
            .map(|_| {
                backoff.started();
                backoff.died().as_millis().try_into().unwrap()
            })
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        backoff.started();
        tokio::time::advance(WELL).await;
        assert_eq!(backoff.died(), FIRST);
    }
}
