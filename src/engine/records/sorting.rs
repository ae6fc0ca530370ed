//! Which trees a record's element is in, and how the elements of a collection come into trees of its own.
//!
//! A class that has just come to be has its elements in the trees of class 0. They are *sorted* out of there in the order of
//! their keys, a part at a time; the last key that was sorted is kept. Invariant: the elements of all keys up to that one are
//! in the trees of their class, those of the keys behind it in class 0's, whatever changes meanwhile.

use super::super::table::{SHADOW, SYSTEM, SlotId, UNRESOLVED};
use super::Records;
use crate::model::hash_tree::Group;
use crate::model::placement::Layout;
use crate::model::{KeyHash, KeyRange, RecordRef};
use std::sync::Arc;

impl Records {
    /// The partition of a record, whose key's hash this is.
    pub(in crate::engine) fn partition_of(&self, record: RecordRef<'_>, hash: KeyHash) -> u16 {
        self.layout.partition_in(self.layout.class_of(record.collection()), hash)
    }

    /// The partition of the record in a slot.
    pub(in crate::engine) fn partition_at(&self, id: SlotId) -> u16 {
        let one_of_many = self.table.record(id).filter(|_| self.layout.classes() > 1);
        let class = one_of_many.map_or(0, |record| self.layout.class_of(record.collection()));
        self.layout.partition_in(class, self.table.hash(id))
    }

    /// Divides records of which there are none yet, so that none is unsorted.
    pub(in crate::engine) fn lay_out(&mut self, layout: Arc<Layout>) {
        debug_assert!(
            self.table.len() == 0 && !self.was_ever_evicted(),
            "each would be in the trees of class 0"
        );
        self.regroup(layout);
        self.unsorted.clear();
    }

    /// Divides the records by another layout of as many slices.
    pub(in crate::engine) fn regroup(&mut self, layout: Arc<Layout>) {
        if self.layout == layout {
            return;
        }
        self.trees.regroup(&self.layout, &layout);
        self.unsorted.retain(|collection, _| layout.class_of(collection) > 0);
        for collection in layout.collections() {
            if self.layout.class_of(collection) == 0 {
                self.unsorted.insert(collection.clone(), Vec::new());
            }
        }
        self.layout = layout;
    }

    /// Classes whose records are not all in their own trees yet: until they are, the trees tell nothing of any class.
    pub(in crate::engine) fn unsorted(&self) -> usize {
        self.unsorted.len()
    }

    /// The first of these, and its last key that is.
    pub(in crate::engine) fn first_unsorted(&self) -> Option<(&str, &[u8])> {
        self.unsorted.first_key_value().map(|(collection, key)| (collection.as_str(), key.as_slice()))
    }

    /// The last key of an unsorted collection that is sorted.
    pub(in crate::engine) fn sorted_up_to(&self, collection: &str) -> Option<&[u8]> {
        self.unsorted.get(collection).map(Vec::as_slice)
    }

    /// The trees that a record's element is in, if it is in any.
    pub(super) fn group_of(&self, record: RecordRef<'_>, is_system: bool) -> Group {
        if is_system {
            return Group::System;
        }
        // Most clusters have no other.
        if self.layout.classes() == 1 {
            return Group::Class(0);
        }
        let collection = record.collection();
        let class = self.layout.class_of(collection);
        let is_behind = self.unsorted.get(collection).is_some_and(|last| record.key() > last.as_slice());
        Group::Class(if is_behind { 0 } else { class })
    }

    /// The same for the record in a slot.
    pub(super) fn group_at(&self, id: SlotId) -> Group {
        let is_system = self.table.has(id, SYSTEM);
        self.table.record(id).map_or(Group::Class(0), |record| self.group_of(record, is_system))
    }

    /// Sorts what follows of a collection: the records of a page that redb has just answered with, all that it has behind what is
    /// sorted and up to the key `until`, to the collection's end if there is none; and the table's, so many of its slots at most.
    pub(in crate::engine) fn sort_on(
        &mut self,
        collection: &str,
        page: &[u8],
        until: Option<&[u8]>,
        slots: usize,
    ) {
        let class = self.layout.class_of(collection);
        let Some(last) = self.unsorted.get(collection) else { return };
        let mut keys = KeyRange::default();
        if !last.is_empty() {
            keys = keys.beyond(last, false);
        }
        if let Some(until) = until {
            keys = keys.ending_before(&[until, &[0]].concat());
        }
        let mut found: Vec<SlotId> =
            self.table.range(collection.as_bytes(), &keys).take(slots.max(1) + 1).collect();
        let is_part = found.len() > slots.max(1);
        if is_part {
            found.pop();
        }
        let key_of = |id: &SlotId| self.table.record(*id).map(|record| record.key().to_vec());
        let part = found.last().filter(|_| is_part).and_then(key_of);
        let until = part.as_deref().or(until);
        let (mut moved, mut rest) = (Vec::new(), page);
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            if until.is_some_and(|until| record.key() > until) {
                break;
            }
            rest = tail;
            let hash = record.key_hash();
            let slot = self.table.find_any_like(record, hash);
            // In memory is something newer, and what redb has is in no tree any more; but for these two.
            if slot.is_none_or(|id| self.table.has_any(id, SHADOW | UNRESOLVED)) {
                moved.push((hash, record.element()));
            }
        }
        for id in found {
            if !self.table.has(id, UNRESOLVED) {
                moved.push((self.table.hash(id), self.tree_element(id)));
            }
        }
        for (hash, element) in moved {
            self.trees.toggle(Group::Class(0), hash, element);
            self.trees.toggle(Group::Class(class), hash, element);
        }
        match until.map(<[u8]>::to_vec) {
            Some(key) => _ = self.unsorted.insert(collection.to_owned(), key),
            None => _ = self.unsorted.remove(collection),
        }
    }
}
