//! What is there and counts as nothing: tombstones that settled, and marks of what is gone.

use super::super::table::{DIRTY, GONE, SETTLED, SHADOW, SlotId, UNRESOLVED};
use super::{Applied, Records};
use crate::model::merge::merge_over_settled;
use crate::model::{KeyHash, KeyRef, Record, RecordRef, Timestamp};

impl Records {
    /// Takes those records out of a page of redb whose keys have settled, or are gone: redb will not have
    /// them much longer, and nobody may see them.
    pub(in crate::engine) fn leave_out_void(&self, page: &mut Vec<u8>) {
        let is_void = |record: RecordRef<'_>| {
            let slot = self.table.find_any_like(record, record.key_hash());
            slot.is_some_and(|id| self.table.has_any(id, SETTLED | GONE))
        };
        let mut kept = Vec::new();
        let mut rest = &page[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            if !is_void(record) {
                kept.extend_from_slice(record.bytes());
            }
        }
        *page = kept;
    }

    /// Takes a record in where a tombstone settled, or is gone: as if nothing were there, but for that
    /// tombstone itself, and for a counter that somebody began who has forgotten it already.
    pub(super) fn merge_into_nothing(&mut self, id: SlotId, incoming: RecordRef<'_>) -> Applied {
        let Some(present) = self.table.record(id) else { return Applied::Same };
        let settled = self.table.has(id, SETTLED);
        if settled && present.element() == incoming.element() {
            return Applied::Same;
        }
        if !settled {
            self.table.clear_flags(id, GONE);
            self.overwrite(id, 0, incoming);
            return Applied::Stored;
        }
        let Some(merged) = merge_over_settled(present, incoming) else { return Applied::Same };
        self.table.clear_flags(id, SETTLED);
        self.overwrite(id, 0, merged.view());
        if merged.view() == incoming { Applied::Stored } else { Applied::Joined }
    }

    /// Settles a tombstone: it leaves its tree. Says whether it was there, just so.
    pub(in crate::engine) fn settle(&mut self, key: KeyRef<'_>, hash: KeyHash, timestamp: Timestamp) -> bool {
        let Some(id) = self.table.find(key, hash) else { return false };
        let is_it = |record: RecordRef<'_>| !record.kind().is_live() && record.timestamp() == timestamp;
        if !self.table.record(id).is_some_and(is_it) {
            return false;
        }
        self.leave_tree(id);
        self.table.add_flags(id, SETTLED | DIRTY);
        true
    }

    /// Forgets the record of a key, if it has this stamp: what is left is a mark for the next checkpoint.
    /// A record that only redb holds is taken to be that one.
    pub(in crate::engine) fn forget(&mut self, key: KeyRef<'_>, hash: KeyHash, timestamp: Timestamp) -> bool {
        let tombstone = Record::tombstone(key, timestamp);
        match self.table.find_any(key, hash) {
            Some(id) => {
                let is_it = |record: RecordRef<'_>| record.timestamp() == timestamp;
                if self.table.has(id, GONE) || !self.table.record(id).is_some_and(is_it) {
                    return false;
                }
                self.leave_tree(id);
                self.table.replace(id, tombstone.view());
                self.table.clear_flags(id, SETTLED);
                self.table.add_flags(id, GONE);
                true
            }
            None if self.evicted_of(hash).count > 0 => {
                self.table.insert(hash, tombstone.view(), DIRTY | SHADOW | GONE);
                true
            }
            None => false,
        }
    }

    /// Takes a slot's element out of its tree. What is unresolved has none in it; whoever says that it
    /// leaves the tree knows that redb has nothing newer, so that one's element goes as if shadowed.
    fn leave_tree(&mut self, id: SlotId) {
        if self.table.has(id, UNRESOLVED) {
            self.table.clear_flags(id, UNRESOLVED);
            self.table.add_flags(id, SHADOW);
            return;
        }
        let element = self.tree_element(id);
        self.trees.toggle(self.group_at(id), self.table.hash(id), element);
    }
}
