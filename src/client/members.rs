//! The members that a client knows, and what it has seen of them.
//!
//! Members are asked in the order in which the caller named them, but one that failed is asked last for a while
//! ([`REST`]): so an operation that comes after a failure does not meet it again, and the preferred member
//! is preferred again soon after it is back. All of it is atomics; clones of a client share it.

use crate::model::{MemberId, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a member that failed is asked last.
const REST: Duration = Duration::from_secs(5);

/// Addresses of members.
#[derive(Debug)]
pub(super) struct Members {
    began: Instant,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    address: String,
    /// Milliseconds after `began`, plus one, when it failed last; 0 if it did not since it answered.
    failed_at: AtomicU64,
}

impl Members {
    pub(super) fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let row = |address| Row { address, failed_at: AtomicU64::new(0) };
        Self { began: Instant::now(), rows: addresses.into_iter().map(row).collect() }
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.address.as_str())
    }

    pub(super) fn address(&self, member: usize) -> &str {
        self.rows.get(member).map_or("", |row| &row.address)
    }

    /// All members in the order in which they are to be asked now.
    pub(super) fn order(&self) -> Vec<usize> {
        let now = self.now();
        let rests = |row: &Row| match row.failed_at.load(Ordering::Relaxed) {
            at if at > 0 && now.saturating_sub(at) < millis(REST) => at,
            _ => 0,
        };
        let mut order: Vec<(u64, usize)> = self.rows.iter().map(rests).zip(0..).collect();
        // By when they failed, the earliest first; those that did not are before them, as they were named.
        order.sort_unstable();
        order.into_iter().map(|(_, member)| member).collect()
    }

    pub(super) fn failed(&self, member: usize) {
        if let Some(row) = self.rows.get(member) {
            row.failed_at.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn answered(&self, member: usize) {
        if let Some(row) = self.rows.get(member).filter(|row| row.failed_at.load(Ordering::Relaxed) > 0) {
            row.failed_at.store(0, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed()) + 1
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

/// The highest timestamp that a client has seen, which its next changes must exceed.
#[derive(Debug, Default)]
pub(super) struct Session(AtomicU64);

impl Session {
    pub(super) fn note(&self, seen: Timestamp) {
        self.0.fetch_max(seen.time, Ordering::Relaxed);
    }

    /// What to exceed; of a timestamp only the time matters for that.
    pub(super) fn seen(&self) -> Option<Timestamp> {
        let time = self.0.load(Ordering::Relaxed);
        (time > 0).then_some(Timestamp { time, member: MemberId(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_failed_is_asked_last_until_it_answers() {
        let members = Members::new(["a", "b", "c"].map(str::to_owned));
        assert_eq!(members.order(), [0, 1, 2]);
        members.failed(0);
        assert_eq!(members.order(), [1, 2, 0]);
        std::thread::sleep(Duration::from_millis(2));
        members.failed(1);
        assert_eq!(members.order(), [2, 0, 1], "who failed later is asked later");
        members.answered(0);
        assert_eq!(members.order(), [0, 2, 1]);
    }

    #[test]
    fn a_session_remembers_the_highest_time_only() {
        let session = Session::default();
        assert_eq!(session.seen(), None);
        for time in [5, 9, 7] {
            session.note(Timestamp { time, member: MemberId(3) });
        }
        assert_eq!(session.seen().map(|seen| seen.time), Some(9));
    }
}
