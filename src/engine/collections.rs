//! The names of collections that this member holds records of.
//!
//! What is in memory is found in its order, a step for each name. Of what is on disk only, the names are noted when a
//! record leaves memory, or does not come into it at a start; they stay noted, so a name may be told whose last record is
//! gone. Their number is bounded: a listing beyond it says that it can't be whole.

use super::Engine;
use super::records::Records;
use crate::model::key::SYSTEM_PREFIX;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Names that are kept of collections with records on disk only.
const MAX_NOTED: usize = 65_536;

/// Names of collections that have, or had, records on disk only.
#[derive(Debug, Default)]
pub(super) struct NotedCollections {
    names: BTreeSet<Box<str>>,
    is_cut_off: bool,
}

/// Some names, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionPage {
    /// The names; none of kith's own.
    pub names: Vec<String>,
    /// The name to go on after; `None` at the end.
    pub next: Option<String>,
    /// Whether there may be more that could not be noted.
    pub is_cut_off: bool,
}

impl NotedCollections {
    /// Notes the collection of a record that memory does not have.
    pub(super) fn note(&mut self, name: &str) {
        if self.names.contains(name) {
            return;
        }
        if self.names.len() < MAX_NOTED {
            self.names.insert(name.into());
        } else {
            self.is_cut_off = true;
        }
    }

    fn next_after(&self, after: &str) -> Option<&str> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.names.range::<str, _>(behind).next().map(AsRef::as_ref)
    }
}

impl Records {
    fn next_collection(&self, after: &str) -> Option<&str> {
        // No name has a character below this one.
        let behind = format!("{after}\u{1}");
        let id = self.table.iter_from((behind.as_bytes(), &[]), false).next();
        let in_memory = id.and_then(|id| self.table.record(id)).map(|record| record.collection());
        let on_disk = self.noted_collections.next_after(after);
        in_memory.into_iter().chain(on_disk).min()
    }
}

impl Engine {
    /// The next `limit` names behind `after` of collections that this member holds records of; some may have nothing
    /// that can be read.
    #[must_use]
    pub fn collections_after(&self, after: &str, limit: usize) -> CollectionPage {
        let mut page = CollectionPage {
            is_cut_off: self.records.noted_collections.is_cut_off,
            ..CollectionPage::default()
        };
        let mut last = after.to_owned();
        while let Some(name) = self.records.next_collection(&last) {
            if name.starts_with(SYSTEM_PREFIX) {
                // Of these there are a few, whatever clients do.
                last = name.to_owned();
                continue;
            }
            if page.names.len() == limit {
                page.next = page.names.last().cloned();
                break;
            }
            last = name.to_owned();
            page.names.push(last.clone());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, MemberId, Record, Timestamp};

    fn record(collection: &str, key: &[u8]) -> Record {
        let stamp = Timestamp { time: 1, member: MemberId(1) };
        Record::value(KeyRef::new(collection, key).unwrap(), stamp, None, b"v")
    }

    fn names(records: &Records) -> Vec<String> {
        let mut found = Vec::new();
        let mut last = String::new();
        while let Some(name) = records.next_collection(&last) {
            last = name.to_owned();
            found.push(last.clone());
        }
        found
    }

    #[test]
    fn names_are_told_once_and_in_order_wherever_their_records_are() {
        let mut records = Records::new(2);
        for (collection, table_bytes) in
            [("b", usize::MAX), ("a.b", 0), ("a", usize::MAX), ("b", 0), ("a-b", 0)]
        {
            for key in [&b"k"[..], b"l", b"m"] {
                records.restore(record(collection, key).view(), table_bytes);
            }
        }
        assert_eq!(names(&records), ["a", "a-b", "a.b", "b"]);
    }

    #[test]
    fn a_name_stays_known_when_its_records_leave_memory() {
        let mut records = Records::new(2);
        for collection in ["a", "b"] {
            records.restore(record(collection, b"k").view(), usize::MAX);
        }
        assert_eq!(records.evict(0, 100, u32::MAX, false), 2);
        assert_eq!(names(&records), ["a", "b"]);
    }

    #[test]
    fn what_can_not_be_noted_is_told() {
        let mut noted = NotedCollections::default();
        for at in 0..=MAX_NOTED {
            noted.note(&format!("c{at}"));
        }
        assert!(noted.is_cut_off && noted.names.len() == MAX_NOTED);
        let mut all = NotedCollections::default();
        (0..MAX_NOTED).chain(0..MAX_NOTED).for_each(|at| all.note(&format!("c{at}")));
        assert!(!all.is_cut_off);
    }
}
