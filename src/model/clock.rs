//! The hybrid Lamport clock of one member.
//!
//! Every stamp exceeds all that the clock gave or saw, and never falls behind the wall clock. A
//! foreign time moves the clock at most to a bound that the engine sets, so one member with a wrong
//! clock can't drag the cluster into the future.
//!
//! Invariant: no stamp is *shown* (to a peer or a client) above the durable reservation, and a
//! start continues above the reservation that it finds. So no stamp of an earlier life is ever
//! reached again, whatever the wall clock does meanwhile. Whoever drives the clock holds back what
//! [`Clock::is_covered`] does not allow yet.

use super::timestamp::{MemberId, Timestamp, time_of_ms};

/// How far ahead of the wall clock stamps are reserved in storage, in milliseconds.
pub const RESERVATION_MS: u64 = 1_000;

/// A member's clock.
#[derive(Debug, Clone)]
pub struct Clock {
    member: MemberId,
    last: u64,
    stamped: u64,
    asked: u64,
    reserved: u64,
}

impl Clock {
    /// A clock that continues above `reserved`, the highest reservation found in storage.
    #[must_use]
    pub const fn after_reservation(member: MemberId, reserved: u64) -> Self {
        Self { member, last: reserved, stamped: 0, asked: reserved, reserved }
    }

    /// Stamps an event that follows everything seen, and `after`.
    pub fn stamp(&mut self, wall_ms: u64, after: u64) -> Timestamp {
        let floor = self.last.max(after).saturating_add(1);
        self.last = floor.max(time_of_ms(wall_ms));
        self.stamped = self.last;
        Timestamp { time: self.last, member: self.member }
    }

    /// Merges a time that was received. Times beyond `bound` move the clock only that far.
    pub fn observe(&mut self, time: u64, bound: u64) {
        self.last = self.last.max(time.min(bound));
    }

    /// The highest time that was given or merged.
    #[must_use]
    pub const fn time(&self) -> u64 {
        self.last
    }

    /// The time of the last stamp that was given; 0 before the first.
    #[must_use]
    pub const fn stamped(&self) -> u64 {
        self.stamped
    }

    /// Whether a stamp of this time may be shown: the durable reservation covers it.
    #[must_use]
    pub const fn is_covered(&self, time: u64) -> bool {
        time <= self.reserved
    }

    /// The highest reservation that was asked for.
    #[must_use]
    pub const fn reservation(&self) -> u64 {
        self.asked
    }

    /// A new reservation to be made durable, when the present one is half used up.
    pub fn wants_reservation(&mut self) -> Option<u64> {
        let half = time_of_ms(RESERVATION_MS / 2);
        (self.last.saturating_add(half) > self.asked).then(|| {
            self.asked = self.last.saturating_add(time_of_ms(RESERVATION_MS));
            self.asked
        })
    }

    /// Records that a reservation is durable.
    pub fn reservation_synced(&mut self, reserved: u64) {
        self.reserved = self.reserved.max(reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_from_the_far_future_moves_the_clock_only_to_its_bound() {
        let mut clock = Clock::after_reservation(MemberId(1), 0);
        clock.observe(u64::MAX, time_of_ms(11_000));
        assert_eq!(clock.time(), time_of_ms(11_000));
    }

    #[test]
    fn a_stamp_beyond_the_reservation_is_not_covered_until_it_is_synced() {
        let mut clock = Clock::after_reservation(MemberId(1), 0);
        let stamp = clock.stamp(5_000, 0);
        assert!(!clock.is_covered(stamp.time));
        let wanted = clock.wants_reservation().unwrap();
        assert!(clock.wants_reservation().is_none(), "asked once");
        clock.reservation_synced(wanted);
        assert!(clock.is_covered(stamp.time));
    }

    proptest! {
        #[test]
        fn stamps_rise_whatever_the_wall_clock_and_the_peers_say(
            steps in prop::collection::vec((0u64..1 << 45, prop::option::of(any::<u64>())), 1..50)
        ) {
            let mut clock = Clock::after_reservation(MemberId(1), 7);
            let mut before = 7;
            for (wall, seen) in steps {
                if let Some(seen) = seen {
                    clock.observe(seen, time_of_ms(wall + 10_000));
                }
                let stamp = clock.stamp(wall, 0);
                prop_assert!(stamp.time > before);
                prop_assert!(stamp.wall_ms() >= wall);
                before = stamp.time;
            }
        }
    }
}
