//! How much a member's engine holds and does at a time, where that is the member's own.

/// Bounds of one member; they may differ between members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory for records in bytes; beyond it, records that redb holds are evicted.
    pub table_bytes: usize,
    /// Bytes in the journal at which a checkpoint starts, at least.
    pub journal_bytes: u64,
    /// Bytes in the journal at which a checkpoint starts, at most. Between the two it is as long as
    /// the records in memory.
    pub journal_most_bytes: u64,
    /// Bytes that may wait for the disk before writers have to wait.
    pub unsynced_bytes: u64,
    /// Records that redb is asked for at a time so that hash trees become right.
    pub lifts: usize,
}

/// Bytes of journal that are kept when nobody says how many.
const JOURNAL_BYTES: u64 = 512 << 20;

impl Bounds {
    /// Bounds of a member with so much memory for records and a journal of so many bytes.
    ///
    /// If nobody says how long the journal may be, it is as long as the records: a checkpoint writes most of the store anew
    /// however few of its records changed, so it must not come more often than the records are written as a
    /// whole, and a start reads about as much from the journal as from the store. What a checkpoint has not
    /// covered can't be evicted, so half of the memory is the most.
    #[must_use]
    pub fn of_memory(table_bytes: usize, journal_bytes: Option<u64>) -> Self {
        let half = table_bytes as u64 / 2;
        Self {
            table_bytes,
            journal_bytes: journal_bytes.unwrap_or(JOURNAL_BYTES),
            journal_most_bytes: journal_bytes.unwrap_or(JOURNAL_BYTES.max(half)),
            ..Self::default()
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            table_bytes: 1 << 30,
            journal_bytes: JOURNAL_BYTES,
            journal_most_bytes: JOURNAL_BYTES,
            unsynced_bytes: 64 << 20,
            lifts: 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_no_given_size_follows_the_records_up_to_half_of_their_memory() {
        let range = |table: usize, journal| {
            let bounds = Bounds::of_memory(table, journal);
            (bounds.journal_bytes, bounds.journal_most_bytes)
        };
        assert_eq!(range(512 << 20, None), (512 << 20, 512 << 20));
        assert_eq!(range(4 << 30, None), (512 << 20, 2 << 30));
        assert_eq!(range(4 << 30, Some(16 << 20)), (16 << 20, 16 << 20), "what is given is kept to");
    }
}
