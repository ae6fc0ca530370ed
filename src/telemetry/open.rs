//! How many of something are open: whoever is counted holds on to it.

use metrics::Gauge;

/// A gauge of what is open.
#[derive(Debug, Clone)]
pub struct Open(Gauge);

/// One more, until it is dropped.
#[derive(Debug)]
pub struct Held(Gauge);

impl Open {
    pub(super) const fn new(gauge: Gauge) -> Self {
        Self(gauge)
    }

    /// Counts one more.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.0.increment(1.0);
        Held(self.0.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
