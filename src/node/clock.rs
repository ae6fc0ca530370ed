//! The one place where a member reads its clocks.

use crate::model::Now;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Both clocks of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    pub(super) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Where `mono_us` counts from.
    pub(super) const fn origin(&self) -> Instant {
        self.origin
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        #[cfg(test)]
        let wall = wall + AHEAD.get();
        Now {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            mono_us: u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How far the wall clock of this thread's member is ahead.
    static AHEAD: std::cell::Cell<std::time::Duration> = const { std::cell::Cell::new(std::time::Duration::ZERO) };
}

/// Puts the wall clock of the member that this thread will run ahead.
#[cfg(test)]
pub(super) fn put_ahead(ms: u64) {
    AHEAD.set(std::time::Duration::from_millis(ms));
}
