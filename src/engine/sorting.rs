//! Sorting: bringing the elements of a collection that is placed by itself into hash trees of its own.
//!
//! Who owns a record, who is complete for it and which level it was written at follows from its collection at once. Only the
//! trees are sums over records, so only what is compared waits: while anything is unsorted this member compares with nobody,
//! tells no leaves to whom it copies from, and does not say that it holds nothing of what others own.
//!
//! The walk goes through redb's records of the collection, page by page, and with each page through what the table has up to
//! the page's end; the invariant is in `records::sorting`. A page is true when it comes, and not a moment later: redb answers in
//! the order in which it was asked, so what left the table before was there when the page was read, and what leaves it later may
//! not have been. So all of a page is sorted at once, or the rest of it is asked for again. While all that redb has is in memory
//! too it is not asked. A walk that ends in the midst, because the member does, is begun anew only
//! for a class that the journal alone knows of: a start learns the others from redb before it sums anything up
//! ([`Engine::restore_layout`]).

use super::Engine;
use super::pages::{Name, PageFilter, PageFor, PageFound};

/// Bytes of a page of redb.
const PAGE_BYTES: usize = 256 << 10;
/// Slots of the table that are sorted at a time.
const SLOTS: usize = 8_192;
/// Microseconds until a page that could not be read is asked for again.
const RETRY_US: u64 = 1_000_000;

/// Where sorting stands.
#[derive(Debug, Default)]
pub(super) struct Sorting {
    /// The page that is awaited: its number, the collection, and the key behind which it begins.
    asked: Option<(u64, Name)>,
    /// Pages that were asked for.
    pages: u64,
    /// Not before this time in microseconds.
    next_us: u64,
}

impl Engine {
    /// Collections whose records are not all in hash trees of their own yet.
    #[must_use]
    pub fn unsorted_collections(&self) -> usize {
        self.records.unsorted()
    }

    /// Whether the hash trees tell nothing now.
    pub(super) fn is_sorting(&self) -> bool {
        self.records.unsorted() > 0
    }

    /// Whether something can be sorted at once.
    pub(super) fn wants_sorting(&self) -> bool {
        self.is_sorting() && !self.records.was_ever_evicted()
    }

    /// Sorts a bounded part of what is unsorted, or asks for more. Called at the end of each turn.
    pub(super) fn step_sorting(&mut self) {
        let Some((collection, last)) = self.records.first_unsorted() else { return };
        let (collection, last) = (collection.to_owned(), last.to_vec());
        if !self.records.was_ever_evicted() {
            self.records.sort_on(&collection, &[], None, SLOTS);
        } else if self.sorting.asked.is_none() && self.now.mono_us >= self.sorting.next_us {
            self.sorting.pages += 1;
            let (number, filter) = (self.sorting.pages, PageFilter::Collection(collection.clone()));
            let after: Name = (collection, last);
            self.sorting.asked = Some((number, after.clone()));
            self.want_page(filter, after, PAGE_BYTES, PageFor::Sort(number));
        }
    }

    /// A page of the walk, or `None` when it could not be read.
    pub(super) fn page_for_sorting(&mut self, number: u64, page: Option<PageFound>) {
        let asked = self.sorting.asked.take_if(|(asked, _)| *asked == number);
        let Some((_, (collection, after))) = asked else { return };
        let Some(PageFound { records, next, .. }) = page else {
            self.sorting.next_us = self.now.mono_us + RETRY_US;
            return;
        };
        // The collection may have been none of its own meanwhile: then it begins anew.
        if self.records.sorted_up_to(&collection) != Some(after.as_slice()) {
            return;
        }
        // Behind the collection's end nothing of it is to come.
        let next = next.filter(|(other, _)| *other == collection);
        let until = next.as_ref().map(|(_, key)| key.as_slice());
        self.records.sort_on(&collection, &records, until, SLOTS);
    }
}

#[cfg(test)]
mod tests;
