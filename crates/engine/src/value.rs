//! Small values that every decision uses.

/// A point in time or a length of time in nanoseconds, on a monotonic clock whose origin means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A length of `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Nanos(ms.saturating_mul(1_000_000))
    }

    /// The time from `earlier` to `self`; zero when the clock jumped back.
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// `self` moved forward by `length`.
    pub const fn after(self, length: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(length.0))
    }

    /// As a [`std::time::Duration`].
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0)
    }
}

impl From<std::time::Duration> for Nanos {
    fn from(d: std::time::Duration) -> Self {
        Nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// What a port speaks, as far as it was declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nothing was declared: look at the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, gRPC included.
    Http2,
    /// Opaque bytes.
    Tcp,
    /// The application's own TLS, passed through.
    Tls,
}

/// A dense id of a metric series, handed out by `telemetry`; the engine only carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeriesId(pub u32);

/// A small fast random number generator (xorshift64*, Vigna 2016, arXiv 1402.6246), one per worker; not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose whole sequence follows from `seed`. Seeds that differ little (1, 2, 3 for workers) give unrelated
    /// sequences: the state is the seed mixed as splitmix64 does (Steele, Lea and Flood 2014).
    pub const fn seeded(seed: u64) -> Self {
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
        // Zero is the one state that xorshift never leaves.
        Rng(if state == 0 { 1 } else { state })
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`, which must not be zero (Lemire's multiplication; the bias is below 2^-32 for the sizes used here).
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(n)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_below_a_bound_are_spread_evenly_from_the_first_on() {
        let mut counts = [0u32; 10];
        for seed in 0..10_000 {
            counts[Rng::seeded(seed).below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        let mut rng = Rng::seeded(0);
        let mut counts = [0u32; 10];
        (0..10_000).for_each(|_| counts[rng.below(10) as usize] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let take = |seed| {
            let mut rng = Rng::seeded(seed);
            [rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn time_saturates() {
        let second = Nanos::from_millis(1000);
        assert_eq!(Nanos(5).since(second), Nanos(0), "a clock that jumped back");
        assert_eq!(Nanos(u64::MAX).after(second), Nanos(u64::MAX));
        assert_eq!(second.duration(), std::time::Duration::from_secs(1));
        assert_eq!(Nanos::from(std::time::Duration::MAX), Nanos(u64::MAX));
    }
}
