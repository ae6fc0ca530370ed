//! Latencies in fixed buckets: counted without atomics on the thread that measures, published in bulk.
//!
//! The recorder's own histograms keep every sample until upkeep; at a hundred thousand operations a second
//! that is memory and time for nothing. Here a sample is one addition; publishing copies the sums.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets in microseconds, each included; one more bucket has the rest.
pub const BOUNDS_MICROS: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];
const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// Latencies as one thread counts them; totals since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latencies {
    /// Samples per bucket, not cumulative.
    buckets: [u64; BUCKETS],
    /// Sum of all samples in microseconds.
    sum_micros: u64,
}

impl Latencies {
    /// Counts one sample.
    pub fn record(&mut self, micros: u64) {
        self.record_many(micros, 1);
    }

    /// Counts `count` samples of the same length, such as the operations of one batch.
    pub fn record_many(&mut self, micros: u64, count: u64) {
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(slot) = self.buckets.get_mut(bucket) {
            *slot = slot.wrapping_add(count);
        }
        self.sum_micros = self.sum_micros.wrapping_add(micros.wrapping_mul(count));
    }

    /// Samples in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound of the given share of samples in microseconds, such as 0.99; `None` without samples.
    #[must_use]
    pub fn quantile_micros(&self, share: f64) -> Option<u64> {
        #[expect(clippy::cast_precision_loss, reason = "a share of a count needs no more")]
        let wanted = share.clamp(0.0, 1.0) * self.count() as f64;
        let mut seen = 0;
        for (index, samples) in self.buckets.iter().enumerate() {
            seen += samples;
            #[expect(clippy::cast_precision_loss, reason = "a share of a count needs no more")]
            if seen > 0 && seen as f64 >= wanted {
                return Some(BOUNDS_MICROS.get(index).copied().unwrap_or(u64::MAX));
            }
        }
        None
    }
}

/// The published copy, read when metrics are rendered.
#[derive(Debug, Default)]
pub(super) struct Published {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Published {
    pub fn publish(&self, totals: &Latencies) {
        for (to, from) in self.buckets.iter().zip(totals.buckets) {
            to.store(from, Ordering::Relaxed);
        }
        self.sum_micros.store(totals.sum_micros, Ordering::Relaxed);
    }

    /// Writes the lines of one label set in Prometheus' text format.
    pub fn render(&self, name: &str, label: (&str, &str), out: &mut String) {
        let (key, value) = label;
        let mut total = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS_MICROS.get(index).map_or("+Inf".to_owned(), |micros| seconds(*micros));
            // Writing into a String can't fail.
            let _ = writeln!(out, "{name}_bucket{{{key}=\"{value}\",le=\"{bound}\"}} {total}");
        }
        let sum = seconds(self.sum_micros.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{{{key}=\"{value}\"}} {sum}");
        let _ = writeln!(out, "{name}_count{{{key}=\"{value}\"}} {total}");
    }
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_falls_into_the_first_bucket_that_holds_it() {
        let mut latencies = Latencies::default();
        for micros in [0, 10, 11, 10_000_001, u64::MAX / 2] {
            latencies.record(micros);
        }
        assert_eq!((latencies.buckets[0], latencies.buckets[1], latencies.buckets[BUCKETS - 1]), (2, 1, 2));
        assert_eq!(latencies.count(), 5);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_micros(0.5), None);
        latencies.record_many(40, 99);
        latencies.record(900);
        assert_eq!((latencies.quantile_micros(0.5), latencies.quantile_micros(1.0)), (Some(50), Some(1_000)));
    }

    #[test]
    fn buckets_are_rendered_cumulatively_in_seconds() {
        let mut latencies = Latencies::default();
        latencies.record(10);
        latencies.record(1_500_000);
        let published = Published::default();
        published.publish(&latencies);
        let mut out = String::new();
        published.render("x_seconds", ("op", "get"), &mut out);
        assert!(out.contains("x_seconds_bucket{op=\"get\",le=\"0.00001\"} 1\n"), "{out}");
        assert!(out.contains("x_seconds_bucket{op=\"get\",le=\"1\"} 1\n"), "{out}");
        assert!(out.contains("x_seconds_bucket{op=\"get\",le=\"2.5\"} 2\n"), "{out}");
        assert!(out.contains("le=\"+Inf\"} 2\nx_seconds_sum{op=\"get\"} 1.50001\n"), "{out}");
    }
}
