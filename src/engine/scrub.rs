//! Scrubbing: reading all of redb slowly, again and again, so that damage is found before the record is
//! needed and while other members still have it.
//!
//! A round goes through redb in pages of [`PAGE_BYTES`], at `scrub_bytes_per_second`; the next one begins
//! [`PAUSE_US`] after it ended. The storage verifies every record that it puts on a page and names those
//! that don't verify. At most one page is asked for at a time.
//!
//! What is damaged in redb is not always lost. A record that is in memory too is only written again. One
//! that is nowhere else is as good as absent here, and its partition is copied from the other owners,
//! which brings it back. Where redb's pages or names are damaged, nobody knows what is missing: the storage
//! builds a new store from what is whole, and all partitions are copied.

use super::Engine;
use super::pages::{Name, PageFilter, PageFor, PageFound};
use super::table::{DIRTY, UNRESOLVED};
use crate::model::KeyRef;

/// Bytes of records on a page.
const PAGE_BYTES: usize = 256 << 10;
/// A page counts as so many bytes at the least: reading one costs something, whatever it holds.
const LEAST_BYTES: u64 = 4 << 10;
/// Microseconds between a start and the first round: reading everything was part of the start.
const FIRST_US: u64 = 10_000_000;
/// Microseconds between rounds.
const PAUSE_US: u64 = 600_000_000;
/// Microseconds until a page that could not be read is asked for again.
const RETRY_US: u64 = 1_000_000;

/// A round of scrubbing through all that redb holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubRound {
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// Records that are what was written.
    pub records: u64,
    /// Records that are not.
    pub damaged: u64,
}

/// Where the scrub stands.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    at: Name,
    is_asked: bool,
    /// Not before this time in microseconds; `None` before the first tick.
    next_us: Option<u64>,
    round: ScrubRound,
    last: Option<ScrubRound>,
}

impl Engine {
    /// Asks for the next page, if it is time.
    pub(super) fn continue_scrub(&mut self) {
        let now_us = self.now.mono_us;
        let next_us = *self.scrub.next_us.get_or_insert(now_us + FIRST_US);
        let rate = self.settings.scrub_bytes_per_second;
        if rate == 0 || self.scrub.is_asked || now_us < next_us {
            return;
        }
        self.scrub.is_asked = true;
        self.want_page(PageFilter::Every, self.scrub.at.clone(), PAGE_BYTES, PageFor::Scrub);
    }

    /// A page of the scrub, or `None` when it could not be read.
    pub(super) fn page_for_scrub(&mut self, page: Option<PageFound>) {
        self.scrub.is_asked = false;
        let now_us = self.now.mono_us;
        let Some(page) = page else {
            self.scrub.next_us = Some(now_us + RETRY_US);
            return;
        };
        let bytes = LEAST_BYTES.max(page.records.len() as u64);
        let rate = self.settings.scrub_bytes_per_second.max(1);
        let pause_us = bytes.saturating_mul(1_000_000) / rate;
        self.counters.scrubbed_records += page.count;
        self.scrub.round.records += page.count;
        self.scrub.round.damaged += page.damaged.len() as u64;
        self.scrub.next_us = Some(now_us + pause_us);
        self.scrub.at = page.next.unwrap_or_else(|| {
            let round = std::mem::take(&mut self.scrub.round);
            self.scrub.last = Some(ScrubRound { ended_ms: self.now.wall_ms, ..round });
            self.scrub.next_us = Some(now_us + PAUSE_US);
            self.counters.scrub_rounds += 1;
            Name::default()
        });
    }

    /// Leaves of hash trees that are wrong because records were lost, and are being mended.
    #[must_use]
    pub const fn wrong_leaves(&self) -> usize {
        self.records.wrong
    }

    /// The last round that came to its end in this life.
    #[must_use]
    pub const fn last_scrub(&self) -> Option<ScrubRound> {
        self.scrub.last
    }

    /// The records of these names turned out to be damaged in redb, and the next checkpoint removes them.
    pub fn found_damaged(&mut self, names: &[Name]) {
        for (collection, key) in names {
            if let Ok(key) = KeyRef::new(collection, key) {
                self.found_one_damaged(key);
            }
        }
    }

    fn found_one_damaged(&mut self, key: KeyRef<'_>) {
        let hash = key.hash();
        let is_lost = match self.records.table.find(key, hash) {
            // What it should be merged with is gone.
            Some(id) => self.records.table.has(id, UNRESOLVED),
            None => !key.is_system() && !self.records.is_lost(hash),
        };
        self.records.lose(key, hash);
        if let Some(id) = self.records.table.find(key, hash)
            && !self.records.table.has(id, DIRTY)
        {
            // Redb will not have it any more, so memory must not let go of it before a checkpoint.
            self.records.table.add_flags(id, DIRTY);
            self.counters.damaged_records += 1;
        }
        if is_lost {
            self.counters.damaged_records += 1;
            self.lose_partition(self.placement.partition_of(key, hash));
        }
    }

    /// The storage found its store damaged and built it anew from what was whole. Which records are
    /// missing there nobody knows: what is in memory is written again, and the rest is copied.
    pub fn store_rebuilt(&mut self) {
        self.counters.stores_rebuilt += 1;
        self.records.table.make_all_dirty();
        self.records.distrust_leaves();
        self.want_checkpoint();
        self.lose_everything();
    }
}

#[cfg(test)]
mod tests;
