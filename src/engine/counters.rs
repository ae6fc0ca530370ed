//! What a member's engine has counted since it started.

use super::Engine;

/// Numbers that only grow, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names of the metrics say it")]
pub struct Counters {
    pub superseded: u64,
    pub superseded_records: u64,
    pub expired: u64,
    pub evicted: u64,
    pub loads: u64,
    pub damaged_records: u64,
    pub lost_syncs: u64,
    pub scrubbed_records: u64,
    pub scrub_rounds: u64,
    pub mended_leaves: u64,
    pub stores_rebuilt: u64,
    pub load_misses: u64,
    pub journal_records: u64,
    pub replayed_records: u64,
    pub hints_stored: u64,
    pub hints_delivered: u64,
    pub read_repairs: u64,
    pub repairs_sent: u64,
    pub repairs_taken: u64,
    pub passes: u64,
    pub forgotten: u64,
    pub quiet_rounds: u64,
    pub tombstones_settled: u64,
    pub tombstones_reclaimed: u64,
    pub checkpoints: u64,
    pub checkpoint_records: u64,
    pub refused_clock: u64,
    pub refused_placement: u64,
}

impl Engine {
    /// Numbers for metrics.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        Counters { mended_leaves: self.records.mended, quiet_rounds: self.quiet_rounds(), ..self.counters }
    }
}
