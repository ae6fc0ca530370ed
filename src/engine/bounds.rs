//! How much a member's engine holds and does at a time, where that is the member's own.

/// Bounds of one member; they may differ between members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory for records in bytes; beyond it, records that redb holds are evicted.
    pub table_bytes: usize,
    /// Bytes in the journal at which a checkpoint starts.
    pub journal_bytes: u64,
    /// Records not in redb at which a checkpoint starts.
    pub dirty_records: usize,
    /// Bytes that may wait for the disk before writers have to wait.
    pub unsynced_bytes: u64,
    /// Records that redb is asked for at a time so that hash trees become right.
    pub lifts: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            table_bytes: 1 << 30,
            journal_bytes: 512 << 20,
            dirty_records: 4_000_000,
            unsynced_bytes: 64 << 20,
            lifts: 64,
        }
    }
}
