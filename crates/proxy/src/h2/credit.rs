//! What a peer may make us do for nothing.
//!
//! Each of the known attacks on HTTP/2 repeats frames that cost the sender little and bring nobody anything: streams that are
//! reset as soon as they are opened (CVE-2023-44487) or that we are tricked into resetting (CVE-2025-8671), PING, SETTINGS, empty
//! DATA and PRIORITY without end (CVE-2019-9512, 9513, 9515, 9518), CONTINUATION without end (CVE-2024-27316). All of them draw
//! on one account. Time fills it slowly; each frame that we send for a stream fills it too, for where data flows, peers rightly
//! open windows and measure round trips. An account that is overdrawn ends the connection.

use engine::Nanos;

use super::frame::{Broken, Code};

/// What an account holds at most, and at the beginning.
const MOST: u32 = 2_000;

/// What a second brings.
const PER_SECOND: u64 = 400;

/// What a HEADERS or DATA frame of ours brings: the peer may answer it with two frames.
const EARNED: u32 = 2;

/// A frame that brings nobody anything.
pub(super) const FRAME: u32 = 1;

/// A stream that ends early: 500 at once, 100 a second.
pub(super) const STREAM: u32 = 4;

/// One connection's account.
#[derive(Debug)]
pub(super) struct Credit {
    left: u32,
    /// Up to this time the account was filled.
    filled: Nanos,
}

impl Credit {
    pub(super) fn new() -> Credit {
        Credit { left: MOST, filled: Nanos(0) }
    }

    /// Adds what the time since the last call brings.
    pub(super) fn fill(&mut self, now: Nanos) {
        let earned = now.since(self.filled).0 / (1_000_000_000 / PER_SECOND);
        if earned > 0 {
            self.filled = now;
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(MOST);
        }
    }

    /// A frame of ours was written.
    pub(super) fn earn(&mut self) {
        self.left = (self.left + EARNED).min(MOST);
    }

    /// # Errors
    /// There is not so much left, and the connection must end.
    pub(super) fn spend(&mut self, cost: u32) -> Result<(), Broken> {
        const SPENT: Broken = Broken {
            code: Code::EnhanceYourCalm,
            what: "too many frames that bring nothing, or streams that end early",
        };
        self.left = self.left.checked_sub(cost).ok_or(SPENT)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_filled_by_time_and_by_work() {
        let mut credit = Credit::new();
        let second = 1_000_000_000;
        credit.fill(Nanos(second));
        (0..MOST).for_each(|_| credit.spend(FRAME).unwrap());
        assert_eq!(credit.spend(FRAME).unwrap_err().code, Code::EnhanceYourCalm);
        // However often it is looked at.
        (0..1000).for_each(|n| credit.fill(Nanos(second + n * second / 1000)));
        credit.fill(Nanos(2 * second));
        let filled = (0..).take_while(|_| credit.spend(FRAME).is_ok()).count();
        assert!((300..=400).contains(&filled), "{filled}");
        credit.earn();
        credit.spend(2 * FRAME).unwrap();
        credit.spend(FRAME).unwrap_err();
        credit.fill(Nanos(u64::MAX));
        (0..MOST / STREAM).for_each(|_| credit.spend(STREAM).unwrap());
        credit.spend(STREAM).unwrap_err();
    }
}
