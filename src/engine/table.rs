//! The table: every record in memory, found by key in one probe.
//!
//! Records live in slots; a hash index over the slots finds them by the key's fixed hash, and
//! [`Order`] keeps key order apart. Nothing iterates over the index for a decision.
//!
//! Nothing here stalls while it grows: slots come in blocks that never move, and the index is cut into
//! shards, each of which grows by itself.
#![expect(
    clippy::indexing_slicing,
    reason = "slot ids come from the index or the order, which hold occupied slots only"
)]

use super::order::{Names, Order};
use crate::model::{KeyHash, KeyRange, KeyRef, Record, RecordRef};
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
/// A tombstone that left the hash tree: nothing older exists anywhere, so it merges as if nothing were
/// there, and nobody sees it. It is kept until no owner has it in its tree.
pub(super) const SETTLED: u8 = 16;
/// Nothing is here any more: a mark that redb must remove the key with the next checkpoint. Never found.
pub(super) const GONE: u8 = 32;
/// Something of it was found at the start, and no other member was seen to have all of it since.
pub(super) const FOUND: u8 = 64;

/// Parts of the index; a power of two.
const SHARDS: usize = 256;
/// Slots in a block; a power of two.
const BLOCK_SLOTS: usize = 4_096;
/// Bytes between two reads that bring a record into the processor's cache: one line of it.
const LINE_BYTES: usize = 64;
/// Bytes of a record that are brought there: its header, its names, and a small value.
const WARM_BYTES: usize = 256;

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

/// Slots by their number, in blocks.
#[derive(Debug, Default)]
struct Slots {
    blocks: Vec<Vec<Slot>>,
}

impl Slots {
    fn push(&mut self, slot: Slot) -> u32 {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK_SLOTS) {
            // The first block grows as it is used: an idle member needs few slots.
            let room = if self.blocks.is_empty() { 0 } else { BLOCK_SLOTS };
            self.blocks.push(Vec::with_capacity(room));
        }
        let last = self.blocks.len() - 1;
        self.blocks[last].push(slot);
        u32::try_from(self.len() - 1).unwrap_or(u32::MAX)
    }

    fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK_SLOTS + last.len())
    }

    fn get(&self, id: u32) -> Option<&Slot> {
        self.blocks.get(id as usize / BLOCK_SLOTS)?.get(id as usize % BLOCK_SLOTS)
    }
}

impl std::ops::Index<u32> for Slots {
    type Output = Slot;

    fn index(&self, id: u32) -> &Slot {
        &self.blocks[id as usize / BLOCK_SLOTS][id as usize % BLOCK_SLOTS]
    }
}

impl std::ops::IndexMut<u32> for Slots {
    fn index_mut(&mut self, id: u32) -> &mut Slot {
        &mut self.blocks[id as usize / BLOCK_SLOTS][id as usize % BLOCK_SLOTS]
    }
}

/// All records in memory.
#[derive(Debug)]
pub(super) struct Table {
    index: Vec<HashTable<u32>>,
    slots: Slots,
    free: Vec<u32>,
    order: Order,
    records: usize,
    bytes: usize,
    dirty: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            index: vec![HashTable::new(); SHARDS],
            slots: Slots::default(),
            free: Vec::new(),
            order: Order::default(),
            records: 0,
            bytes: 0,
            dirty: 0,
        }
    }
}

/// The shard of a key, and its hash there. The topmost bits place the key in the cluster: those of one
/// member's keys differ little, so they stand where the index uses them last.
const fn place(hash: KeyHash) -> (usize, u64) {
    (hash.0 as usize % SHARDS, hash.0.rotate_left(32))
}

impl Table {
    /// Finds a key.
    pub(super) fn find(&self, key: KeyRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_where(hash, |record| record.is_of(key))
    }

    /// Finds the key of a record.
    pub(super) fn find_like(&self, like: RecordRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_where(hash, |record| is_like(record, like))
    }

    /// Finds a record by the hash of its key alone; of two that share one, either.
    pub(super) fn find_hash(&self, hash: KeyHash) -> Option<SlotId> {
        self.find_where(hash, |_| true)
    }

    /// The same, also when all that is there is a settled tombstone, or the mark that it is gone.
    pub(super) fn find_any_hash(&self, hash: KeyHash) -> Option<SlotId> {
        self.find_slot(hash, |_| true)
    }

    /// Finds the slot of a key, also when all that is there is a settled tombstone, or the mark that it is gone.
    pub(super) fn find_any(&self, key: KeyRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_slot(hash, |slot| slot.record.as_ref().is_some_and(|record| record.view().is_of(key)))
    }

    /// Finds the slot of a record's key, also when all that is there is a settled tombstone, or the mark that
    /// it is gone.
    pub(super) fn find_any_like(&self, like: RecordRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_slot(hash, |slot| slot.record.as_ref().is_some_and(|record| is_like(record.view(), like)))
    }

    fn find_where(&self, hash: KeyHash, fits: impl Fn(RecordRef<'_>) -> bool) -> Option<SlotId> {
        self.find_slot(hash, |slot| {
            slot.flags & (GONE | SETTLED) == 0
                && slot.record.as_ref().is_some_and(|record| fits(record.view()))
        })
    }

    fn find_slot(&self, hash: KeyHash, fits: impl Fn(&Slot) -> bool) -> Option<SlotId> {
        let is_it = |id: &u32| {
            let slot = &self.slots[*id];
            slot.hash == hash && fits(slot)
        };
        let (shard, place) = place(hash);
        self.index[shard].find(place, is_it).copied().map(SlotId)
    }

    /// Finds the slot of a key that shadows what redb holds, by the hash of the key alone.
    pub(super) fn find_shadow(&self, hash: KeyHash) -> Option<SlotId> {
        self.find_slot(hash, |slot| slot.flags & SHADOW != 0)
    }

    /// Reads what looking for these keys will read, so that it is in the processor's cache then. The
    /// memory that one key's lookup needs is known only step by step, and each step waits for the one
    /// before; steps of different keys don't wait for each other when nothing else stands between them.
    pub(super) fn warm(&self, hashes: impl Iterator<Item = KeyHash>) {
        let mut seen = 0;
        for hash in hashes {
            let Some(record) = self.find_hash(hash).and_then(|id| self.record(id)) else { continue };
            let lines = record.bytes().iter().take(WARM_BYTES).step_by(LINE_BYTES);
            seen ^= lines.fold(0, |all, byte| all ^ byte);
        }
        std::hint::black_box(seen);
    }

    /// Adds the first record of a key that is not in the table.
    pub(super) fn insert(&mut self, hash: KeyHash, record: Record, flags: u8) -> SlotId {
        self.bytes += record.view().bytes().len() + OVERHEAD_BYTES;
        self.dirty += usize::from(flags & DIRTY != 0);
        self.records += 1;
        let slot = Slot { hash, record: Some(record), checkpoint: 0, flags };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id] = slot;
                id
            }
            None => self.slots.push(slot),
        };
        let slots = &self.slots;
        let (shard, at) = place(hash);
        self.index[shard].insert_unique(at, id, |id| place(slots[*id].hash).1);
        self.order.insert(id, |id| names_of(slots, id));
        SlotId(id)
    }

    /// Overwrites a record with another of the same key, which then is dirty.
    pub(super) fn replace(&mut self, id: SlotId, record: RecordRef<'_>) {
        let slot = &mut self.slots[id.0];
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
        let slot = &mut self.slots[id.0];
        let (shard, at) = place(slot.hash);
        if let Ok(entry) = self.index[shard].find_entry(at, |other| *other == id.0) {
            entry.remove();
        }
        if let Some(record) = slot.record.take() {
            self.records -= 1;
            self.bytes -= record.view().bytes().len() + OVERHEAD_BYTES;
            self.dirty -= usize::from(slot.flags & DIRTY != 0);
            self.free.push(id.0);
        }
    }

    /// The record of an occupied slot.
    pub(super) fn record(&self, id: SlotId) -> Option<RecordRef<'_>> {
        self.slots.get(id.0)?.record.as_ref().map(Record::view)
    }

    /// The hash of the key in a slot.
    pub(super) fn hash(&self, id: SlotId) -> KeyHash {
        self.slots[id.0].hash
    }

    /// Whether a slot holds nothing that belongs to a partition.
    pub(super) fn is_system_or_empty(&self, id: SlotId) -> bool {
        let slot = &self.slots[id.0];
        slot.flags & SYSTEM != 0 || slot.record.is_none()
    }

    /// Whether any of these flags is set.
    pub(super) fn has_any(&self, id: SlotId, flags: u8) -> bool {
        self.slots[id.0].flags & flags != 0
    }

    /// Whether all of these flags are set.
    pub(super) fn has(&self, id: SlotId, flags: u8) -> bool {
        self.slots[id.0].flags & flags == flags
    }

    /// Sets flags.
    pub(super) fn add_flags(&mut self, id: SlotId, flags: u8) {
        let slot = &mut self.slots[id.0];
        self.dirty += usize::from(flags & !slot.flags & DIRTY != 0);
        slot.flags |= flags;
    }

    /// Clears flags.
    pub(super) fn clear_flags(&mut self, id: SlotId, flags: u8) {
        let slot = &mut self.slots[id.0];
        self.dirty -= usize::from(flags & slot.flags & DIRTY != 0);
        slot.flags &= !flags;
    }

    /// Notes that a record was handed to a checkpoint.
    pub(super) fn hand_out(&mut self, id: SlotId, checkpoint: u32) {
        self.clear_flags(id, DIRTY);
        self.slots[id.0].checkpoint = checkpoint;
    }

    /// Makes all records dirty again that a failed checkpoint had been handed.
    pub(super) fn take_back(&mut self, checkpoint: u32) {
        for id in (0..self.slots.len()).map_while(|at| u32::try_from(at).ok()) {
            if self.slots[id].checkpoint == checkpoint && self.slots[id].record.is_some() {
                self.add_flags(SlotId(id), DIRTY);
            }
        }
    }

    /// Makes every record dirty: nobody knows which of them redb holds.
    pub(super) fn make_all_dirty(&mut self) {
        for id in (0..self.slots.len()).map_while(|at| u32::try_from(at).ok()) {
            if self.slots[id].record.is_some() {
                self.add_flags(SlotId(id), DIRTY);
            }
        }
    }

    /// Whether redb holds this very record: it may be evicted.
    pub(super) fn is_clean(&self, id: SlotId, committed: u32) -> bool {
        let slot = &self.slots[id.0];
        slot.flags & (DIRTY | SHADOW | UNRESOLVED) == 0 && slot.checkpoint <= committed
    }

    /// Occupied slots from `start` on in the order of the slots, without end: for sweeps.
    pub(super) fn sweep(&self, start: u32, count: usize) -> impl Iterator<Item = SlotId> + '_ {
        let length = self.slots.len();
        let places = (0..count.min(length)).map(move |step| (start as usize + step) % length);
        let ids = places.map_while(|at| u32::try_from(at).ok());
        ids.filter(|id| self.slots[*id].record.is_some()).map(SlotId)
    }

    /// Slots, occupied or free.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Slots in key order from `start` on (after it, if `exclusive`).
    pub(super) fn iter_from(&self, start: Names<'_>, exclusive: bool) -> impl Iterator<Item = SlotId> {
        let slots = &self.slots;
        self.order.iter_from(start, exclusive, |id| names_of(slots, id)).map(SlotId)
    }

    /// Slots of a collection's keys of a range, in order, from either end.
    pub(super) fn range(
        &self,
        collection: &[u8],
        keys: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = SlotId> {
        let slots = &self.slots;
        self.order.range(collection, keys, |id| names_of(slots, id)).map(SlotId)
    }

    /// The collections, `most` of them, and how many records each has in memory.
    pub(super) fn collections(&self, most: usize) -> Vec<(String, u64)> {
        let slots = &self.slots;
        let names = |id| names_of(slots, id);
        let (mut found, mut next, mut before) = (Vec::new(), Vec::new(), 0);
        while found.len() < most {
            let first = self.order.iter_from((&next, &[]), false, names).next();
            let Some(collection) = first.map(|id| names(id).0) else { break };
            // The least name that is above this one's keys and not above other collections' names.
            next = [collection, &[1]].concat();
            let rank = self.order.rank((&next, &[]), names);
            found.push((String::from_utf8_lossy(collection).into_owned(), (rank - before) as u64));
            before = rank;
        }
        found
    }

    /// Records in memory.
    pub(super) const fn len(&self) -> usize {
        self.records
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

fn is_like(record: RecordRef<'_>, other: RecordRef<'_>) -> bool {
    record.key() == other.key() && record.collection_bytes() == other.collection_bytes()
}

fn names_of(slots: &Slots, id: u32) -> Names<'_> {
    let record = slots.get(id).and_then(|slot| slot.record.as_ref());
    record.map(|record| (record.view().collection_bytes(), record.view().key())).unwrap_or_default()
}
