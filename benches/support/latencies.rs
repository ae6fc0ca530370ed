//! How long requests took: a histogram of fixed size, and the exact longest.
//!
//! Each power of two has [`STEPS`] buckets of equal width, so what is read from it is at most 1/64 (1.6%) too
//! long, and never too short.

use std::time::Duration;

/// Buckets of each power of two.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 6;
/// For every number of nanoseconds that a `u64` can be.
const BUCKETS: usize = (65 - STEP_BITS as usize) << STEP_BITS;

/// Of the requests that were answered in some time.
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    longest_ns: u64,
    /// The time in which they were answered.
    pub seconds: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest_ns: 0, seconds: 0.0 }
    }
}

impl Latencies {
    /// One more answer.
    pub fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket(nanoseconds)) {
            *bucket += 1;
        }
        self.count += 1;
        self.longest_ns = self.longest_ns.max(nanoseconds);
    }

    /// Adds those of the time that followed.
    pub fn merge(&mut self, next: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&next.buckets) {
            *bucket += more;
        }
        self.count += next.count;
        self.longest_ns = self.longest_ns.max(next.longest_ns);
        self.seconds += next.seconds;
    }

    /// Answers.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// What the given share of the requests did not exceed, in milliseconds.
    pub fn within_ms(&self, share: f64) -> f64 {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.buckets.iter().position(|in_bucket| {
            seen += in_bucket;
            seen >= rank
        });
        let longest = reached.map_or(0, greatest_of).min(self.longest_ns);
        longest as f64 / 1e6
    }

    pub fn longest_ms(&self) -> f64 {
        self.longest_ns as f64 / 1e6
    }
}

/// The first powers of two have a bucket for each number.
fn bucket(nanoseconds: u64) -> usize {
    let shift = nanoseconds.checked_ilog2().unwrap_or(0).saturating_sub(STEP_BITS);
    usize::try_from((u64::from(shift) << STEP_BITS) + (nanoseconds >> shift)).unwrap_or(BUCKETS)
}

/// The greatest number of nanoseconds in a bucket.
fn greatest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> STEP_BITS).saturating_sub(1);
    let least_at_shift = bucket - (shift << STEP_BITS);
    (u128::from(least_at_shift + 1) << shift).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}
