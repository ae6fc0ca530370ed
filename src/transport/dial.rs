//! How long to wait before dialling a peer again.
//!
//! Exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", 2015): members
//! that lost the same peer don't return to it in step.

use std::time::Duration;

/// The bound of the first wait.
const BASE_MS: u64 = 100;
/// The bound of every wait: a peer that returns is found within this time.
const CAP_MS: u64 = 5_000;
/// No wait is shorter, however the dice fall.
const LEAST_MS: u64 = 10;

/// The wait before attempt `attempt + 1`, where `attempt` counts failures from 0 and `random` is
/// evenly distributed: between 10 ms and 100 ms · 2^`attempt`, at most 5 s.
#[must_use]
pub const fn retry_delay(attempt: u32, random: u64) -> Duration {
    // 2^6 · 100 ms is already over the cap.
    let doublings = if attempt < 6 { attempt } else { 6 };
    let grown = BASE_MS << doublings;
    let bound = if grown < CAP_MS { grown } else { CAP_MS };
    Duration::from_millis(LEAST_MS + random % (bound - LEAST_MS + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_doubles_from_100_ms_up_to_5_s() {
        let longest = |attempt| (0..6_000).map(|random| retry_delay(attempt, random)).max().unwrap();
        assert_eq!(longest(0), Duration::from_millis(100));
        assert_eq!(longest(1), Duration::from_millis(200));
        assert_eq!(longest(6), Duration::from_secs(5));
        assert_eq!(longest(u32::MAX), Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn every_wait_is_between_its_bounds(attempt: u32, random: u64) {
            let delay = retry_delay(attempt, random);
            prop_assert!(delay >= Duration::from_millis(10) && delay <= Duration::from_secs(5));
        }
    }
}
