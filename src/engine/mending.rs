//! Mending: making leaves of hash trees right after records were lost.
//!
//! The element of a record that was lost can't be told, so its leaf stays wrong by it (`engine::records`)
//! until all the leaf's records are in memory and can be summed up anew. So all records of wrong leaves
//! are read from redb into the table, by pages, for as many leaves at a time as hold about
//! [`RECORDS_AT_ONCE`] records. Nothing of those leaves is evicted meanwhile; so when the walk has come
//! to its end, the table has all of them.

use super::Engine;
use super::pages::{Name, PageFilter, PageFor, PageFound};
use crate::model::RecordRef;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Evicted records of the leaves that are mended at a time, unless a single leaf has more.
const RECORDS_AT_ONCE: u64 = 65_536;
/// Bytes of records on a page.
const PAGE_BYTES: usize = 512 << 10;
/// Microseconds until a page that could not be read is asked for again.
const RETRY_US: u64 = 1_000_000;

/// Leaves of slices, of whatever class: a bit for each leaf.
pub(super) type LeafSet = BTreeMap<u16, u64>;

/// The walk that is under way.
#[derive(Debug)]
struct Walk {
    leaves: Arc<LeafSet>,
    at: Name,
    is_asked: bool,
    /// Not before this time in microseconds.
    next_us: u64,
}

/// Where the mending stands.
#[derive(Debug, Default)]
pub(super) struct Mending {
    walk: Option<Walk>,
}

impl Engine {
    /// Begins a walk if there are wrong leaves, or goes on with the one under way.
    pub(super) fn continue_mending(&mut self) {
        if self.mending.walk.is_none() {
            let leaves = self.records.begin_mending(RECORDS_AT_ONCE);
            if leaves.is_empty() {
                return;
            }
            let leaves = Arc::new(leaves);
            self.mending.walk = Some(Walk { leaves, at: Name::default(), is_asked: false, next_us: 0 });
        }
        let now_us = self.now.mono_us;
        let Some(walk) = &mut self.mending.walk else { return };
        if walk.is_asked || now_us < walk.next_us {
            return;
        }
        walk.is_asked = true;
        let (filter, at) = (PageFilter::Leaves(Arc::clone(&walk.leaves)), walk.at.clone());
        self.want_page(filter, at, PAGE_BYTES, PageFor::Mend);
    }

    /// A page of the walk, or `None` when it could not be read.
    pub(super) fn page_for_mending(&mut self, page: Option<PageFound>) {
        let retry_us = self.now.mono_us + RETRY_US;
        let Some(walk) = &mut self.mending.walk else { return };
        walk.is_asked = false;
        let Some(page) = page else {
            walk.next_us = retry_us;
            return;
        };
        let mut rest = &page.records[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            if let Ok(key) = record.key_ref() {
                self.records.resolve(key, record.key_hash(), Some(record));
            }
        }
        let Some(walk) = &mut self.mending.walk else { return };
        match page.next {
            Some(next) => {
                walk.at = next;
                self.continue_mending();
            }
            None => {
                let leaves = Arc::clone(&walk.leaves);
                self.mending.walk = None;
                self.records.end_mending(&leaves);
            }
        }
    }
}
