//! The table: every record in memory, found by key in one probe.
//!
//! Records live in slots; a hash index over the slots finds them by the key's fixed hash, and
//! [`Order`] keeps key order apart. Nothing iterates over the index for a decision.
#![expect(
    clippy::indexing_slicing,
    reason = "slot ids come from the index or the order, which hold occupied slots only"
)]

use super::order::{Names, Order};
use crate::model::{KeyHash, KeyRef, Record, RecordRef};
use hashbrown::HashTable;

/// What a record costs beside its bytes: slot, index, order and the allocator's part.
pub(super) const OVERHEAD_BYTES: usize = 64;

/// Changed since it was last handed to a checkpoint.
pub(super) const DIRTY: u8 = 1;
/// Merged without looking at redb, which may hold an older record whose element is still in the
/// hash tree.
pub(super) const SHADOW: u8 = 2;
/// Not yet merged with what redb holds: no element in the tree, and nothing may be read.
pub(super) const UNRESOLVED: u8 = 4;
/// Of a system collection: never evicted.
pub(super) const SYSTEM: u8 = 8;

/// Place of a record in the table; valid until that record is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u32);

#[derive(Debug)]
struct Slot {
    hash: KeyHash,
    record: Option<Record>,
    /// Number of the last checkpoint that it was handed to.
    checkpoint: u32,
    flags: u8,
}

/// All records in memory.
#[derive(Debug, Default)]
pub(super) struct Table {
    index: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    order: Order,
    bytes: usize,
    dirty: usize,
}

impl Table {
    /// Finds a key.
    pub(super) fn find(&self, key: KeyRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_where(hash, |record| record.is_of(key))
    }

    /// Finds the key of a record.
    pub(super) fn find_like(&self, like: RecordRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_where(hash, |record| {
            record.key() == like.key() && record.collection_bytes() == like.collection_bytes()
        })
    }

    /// Finds a record by the hash of its key alone; of two that share one, either.
    pub(super) fn find_hash(&self, hash: KeyHash) -> Option<SlotId> {
        self.find_where(hash, |_| true)
    }

    fn find_where(&self, hash: KeyHash, fits: impl Fn(RecordRef<'_>) -> bool) -> Option<SlotId> {
        let is_it = |id: &u32| {
            let slot = &self.slots[*id as usize];
            slot.hash == hash && slot.record.as_ref().is_some_and(|record| fits(record.view()))
        };
        self.index.find(hash.0, is_it).copied().map(SlotId)
    }

    /// Adds the first record of a key that is not in the table.
    pub(super) fn insert(&mut self, hash: KeyHash, record: Record, flags: u8) -> SlotId {
        self.bytes += record.view().bytes().len() + OVERHEAD_BYTES;
        self.dirty += usize::from(flags & DIRTY != 0);
        let slot = Slot { hash, record: Some(record), checkpoint: 0, flags };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(hash.0, id, |id| slots[*id as usize].hash.0);
        self.order.insert(id, |id| names_of(slots, id));
        SlotId(id)
    }

    /// Overwrites a record with another of the same key, which then is dirty.
    pub(super) fn replace(&mut self, id: SlotId, record: RecordRef<'_>) {
        let slot = &mut self.slots[id.0 as usize];
        if let Some(present) = &mut slot.record {
            self.bytes = self.bytes + record.bytes().len() - present.view().bytes().len();
            present.assign(record);
        }
        self.add_flags(id, DIRTY);
    }

    /// Takes a record out.
    pub(super) fn remove(&mut self, id: SlotId) {
        let slots = &self.slots;
        self.order.remove(id.0, |id| names_of(slots, id));
        let slot = &mut self.slots[id.0 as usize];
        if let Ok(entry) = self.index.find_entry(slot.hash.0, |other| *other == id.0) {
            entry.remove();
        }
        if let Some(record) = slot.record.take() {
            self.bytes -= record.view().bytes().len() + OVERHEAD_BYTES;
            self.dirty -= usize::from(slot.flags & DIRTY != 0);
            self.free.push(id.0);
        }
    }

    /// The record of an occupied slot.
    pub(super) fn record(&self, id: SlotId) -> Option<RecordRef<'_>> {
        self.slots.get(id.0 as usize)?.record.as_ref().map(Record::view)
    }

    /// The hash of the key in a slot.
    pub(super) fn hash(&self, id: SlotId) -> KeyHash {
        self.slots[id.0 as usize].hash
    }

    /// Whether all of these flags are set.
    pub(super) fn has(&self, id: SlotId, flags: u8) -> bool {
        self.slots[id.0 as usize].flags & flags == flags
    }

    /// Sets flags.
    pub(super) fn add_flags(&mut self, id: SlotId, flags: u8) {
        let slot = &mut self.slots[id.0 as usize];
        self.dirty += usize::from(flags & !slot.flags & DIRTY != 0);
        slot.flags |= flags;
    }

    /// Clears flags.
    pub(super) fn clear_flags(&mut self, id: SlotId, flags: u8) {
        let slot = &mut self.slots[id.0 as usize];
        self.dirty -= usize::from(flags & slot.flags & DIRTY != 0);
        slot.flags &= !flags;
    }

    /// Notes that a record was handed to a checkpoint.
    pub(super) fn hand_out(&mut self, id: SlotId, checkpoint: u32) {
        self.clear_flags(id, DIRTY);
        self.slots[id.0 as usize].checkpoint = checkpoint;
    }

    /// Makes all records dirty again that a failed checkpoint had been handed.
    pub(super) fn take_back(&mut self, checkpoint: u32) {
        for at in 0..self.slots.len() {
            if self.slots[at].checkpoint == checkpoint && self.slots[at].record.is_some() {
                self.add_flags(SlotId(u32::try_from(at).unwrap_or(u32::MAX)), DIRTY);
            }
        }
    }

    /// Whether redb holds this very record: it may be evicted.
    pub(super) fn is_clean(&self, id: SlotId, committed: u32) -> bool {
        let slot = &self.slots[id.0 as usize];
        slot.flags & (DIRTY | SHADOW | UNRESOLVED) == 0 && slot.checkpoint <= committed
    }

    /// Occupied slots from `start` on in the order of the slots, without end: for sweeps.
    pub(super) fn sweep(&self, start: u32, count: usize) -> impl Iterator<Item = SlotId> + '_ {
        let length = self.slots.len();
        let ids = (0..count.min(length)).map(move |step| (start as usize + step) % length);
        ids.filter(|at| self.slots[*at].record.is_some()).map(|at| SlotId(u32::try_from(at).unwrap_or(0)))
    }

    /// Slots, occupied or free.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Slots in key order from `start` on (after it, if `exclusive`).
    pub(super) fn iter_from(&mut self, start: Names<'_>, exclusive: bool) -> impl Iterator<Item = SlotId> {
        let slots = &self.slots;
        self.order.iter_from(start, exclusive, |id| names_of(slots, id)).map(SlotId)
    }

    /// Records in memory.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Memory that the records take, about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that no checkpoint has.
    pub(super) fn dirty(&self) -> usize {
        self.dirty
    }
}

fn names_of(slots: &[Slot], id: u32) -> Names<'_> {
    let record = slots.get(id as usize).and_then(|slot| slot.record.as_ref());
    record.map(|record| (record.view().collection_bytes(), record.view().key())).unwrap_or_default()
}
