//! Where a length of time falls: a histogram with logarithmic buckets of fixed bounds, so that histograms of any worker,
//! proxy and time add up bucket by bucket.
//!
//! Bucket 0 holds everything below 1024 ns. Above it every octave (a doubling) is cut into seven buckets of equal ratio:
//! bucket `i`, counted from 1, begins at `1024 ns · 2^((i - 1) / 7)`, rounded up to whole nanoseconds. 27 octaves reach
//! 2^37 ns (137 s); the last bucket holds what is longer. A bucket is 10.4 % wide, so its geometric middle is never more
//! than 5.1 % away from any value in it.

/// Buckets to an octave.
const PER_OCTAVE: usize = 7;
/// The first octave begins at two to this power, in nanoseconds.
const FIRST: u32 = 10;
/// Two to this power, in nanoseconds, is the end of the last octave.
const LAST: u32 = 37;
/// Number of buckets.
pub const BUCKETS: usize = (LAST - FIRST) as usize * PER_OCTAVE + 2;

/// `2^(k / 7)` for k from 0 to 6, as fixed-point numbers with 31 bits after the point, rounded up.
const STEPS: [u64; PER_OCTAVE] =
    [0x8000_0000, 0x8d52_ce21, 0x9c08_a3b2, 0xac46_7520, 0xbe35_0f95, 0xd201_7f76, 0xe7dd_818e];

/// The bucket of a length of time in nanoseconds; always below [`BUCKETS`].
#[inline]
pub fn bucket(nanos: u64) -> usize {
    let zeros = nanos.leading_zeros();
    if zeros > 63 - FIRST {
        return 0;
    }
    let exponent = 63 - zeros;
    if exponent >= LAST {
        return BUCKETS - 1;
    }
    let mantissa = (nanos << zeros) >> 32;
    let step = STEPS[1..].iter().filter(|&&begin| mantissa >= begin).count();
    1 + (exponent - FIRST) as usize * PER_OCTAVE + step
}

/// The bounds of bucket `index` in nanoseconds: the least value in it, and the least value above it (`u64::MAX` for the
/// last bucket and for an `index` beyond it).
pub fn bucket_bounds(index: usize) -> (u64, u64) {
    (begin(index), if index + 1 >= BUCKETS { u64::MAX } else { begin(index + 1) })
}

fn begin(index: usize) -> u64 {
    let Some(index) = index.min(BUCKETS - 1).checked_sub(1) else {
        return 0;
    };
    let exponent = FIRST + (index / PER_OCTAVE) as u32;
    // The step has 31 bits after the point; rounding up keeps `bucket(begin(i)) == i`.
    let step = STEPS[index % PER_OCTAVE];
    if exponent >= 31 { step << (exponent - 31) } else { step.div_ceil(1 << (31 - exponent)) }
}

/// The value in nanoseconds below which the share `q` (0 to 1) of what `counts` holds lies: the geometric middle of the
/// bucket where that share is reached. `counts` has up to [`BUCKETS`] entries, one a bucket. `None` when all are zero.
pub fn quantile(counts: &[u64], q: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    for (index, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= rank {
            return Some(middle(index));
        }
    }
    None
}

fn middle(index: usize) -> u64 {
    let (low, high) = bucket_bounds(index);
    match index {
        0 => high / 2,
        _ if high == u64::MAX => low,
        _ => (low as f64 * high as f64).sqrt() as u64,
    }
}

#[cfg(test)]
mod tests;
