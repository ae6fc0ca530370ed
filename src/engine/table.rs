//! The table: every record in memory, found by key in one probe.
//!
//! What is known of a record is in its slot, its bytes in a cell ([`Cells`]); a hash index over the slots finds
//! them by the key's fixed hash, and [`Order`] keeps key order apart. Nothing iterates over the index for a decision.
//!
//! Nothing here stalls while it grows: slots and cells come in blocks that never move (but for the list of records of
//! more than four kilobytes, 16 bytes each), and the index is cut into shards, each of which grows by itself.
#![expect(
    clippy::indexing_slicing,
    reason = "slot ids come from the index or the order, which hold occupied slots only"
)]

use super::cells::{CellId, Cells};
use super::order::{Names, Order};
use crate::model::{KeyHash, KeyRange, KeyRef, RecordRef};
use hashbrown::HashTable;
use smallvec::SmallVec;

/// What a record costs beside its bytes, about: slot, index, order, and what its cell has more than it.
pub(super) const OVERHEAD_BYTES: usize = 40;

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

/// Shadows that are remembered one by one.
const MAX_NOTED_SHADOWS: usize = 2_048;

/// Keys that are looked for together without an allocation.
const WARM_AT_ONCE: usize = 64;

/// Place of a record in the table; valid until that record is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u32);

/// 16 bytes, so that a line of the processor's cache has four of them.
#[derive(Debug)]
struct Slot {
    hash: KeyHash,
    /// Of the record's cell the number and the class; the class of an empty slot is that of nowhere.
    cell: u32,
    /// Number of the last checkpoint that it was handed to, or what the last 16 bits of it are.
    checkpoint: u16,
    class: u8,
    flags: u8,
}

impl Slot {
    const fn cell(&self) -> CellId {
        CellId { class: self.class, number: self.cell }
    }

    const fn move_to(&mut self, cell: CellId) {
        (self.class, self.cell) = (cell.class, cell.number);
    }

    const fn is_empty(&self) -> bool {
        self.class == CellId::NOWHERE.class
    }
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

/// Slots and what is in them.
#[derive(Debug, Default)]
struct Kept {
    slots: Slots,
    cells: Cells,
}

impl Kept {
    /// The record of a slot.
    fn record(&self, slot: &Slot) -> Option<RecordRef<'_>> {
        (!slot.is_empty()).then(|| RecordRef::at_start_of(self.cells.get(slot.cell())))
    }

    fn names(&self, id: u32) -> Names<'_> {
        let record = self.slots.get(id).and_then(|slot| self.record(slot));
        record.map(|record| (record.collection_bytes(), record.key())).unwrap_or_default()
    }
}

/// All records in memory.
#[derive(Debug)]
pub(super) struct Table {
    index: Vec<HashTable<u32>>,
    kept: Kept,
    free: Vec<u32>,
    order: Order,
    /// The number of the last checkpoint that anything was handed to.
    checkpoint: u32,
    records: usize,
    bytes: usize,
    dirty: usize,
    shadows: usize,
    /// Slots that began to shadow something, some of them; they may not do so any more.
    noted_shadows: Vec<SlotId>,
    /// Where the next others are looked for.
    shadow_hand: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            index: vec![HashTable::new(); SHARDS],
            kept: Kept::default(),
            free: Vec::new(),
            order: Order::default(),
            checkpoint: 0,
            records: 0,
            bytes: 0,
            dirty: 0,
            shadows: 0,
            noted_shadows: Vec::new(),
            shadow_hand: 0,
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
        self.find_slot(hash, |slot| self.kept.record(slot).is_some_and(|record| record.is_of(key)))
    }

    /// Finds the slot of a record's key, also when all that is there is a settled tombstone, or the mark that
    /// it is gone.
    pub(super) fn find_any_like(&self, like: RecordRef<'_>, hash: KeyHash) -> Option<SlotId> {
        self.find_slot(hash, |slot| self.kept.record(slot).is_some_and(|record| is_like(record, like)))
    }

    fn find_where(&self, hash: KeyHash, fits: impl Fn(RecordRef<'_>) -> bool) -> Option<SlotId> {
        self.find_slot(hash, |slot| {
            slot.flags & (GONE | SETTLED) == 0 && self.kept.record(slot).is_some_and(&fits)
        })
    }

    fn find_slot(&self, hash: KeyHash, fits: impl Fn(&Slot) -> bool) -> Option<SlotId> {
        let is_it = |id: &u32| {
            let slot = &self.kept.slots[*id];
            slot.hash == hash && fits(slot)
        };
        let (shard, place) = place(hash);
        self.index[shard].find(place, is_it).copied().map(SlotId)
    }

    /// Finds the slot of a key that shadows what redb holds, by the hash of the key alone.
    pub(super) fn find_shadow(&self, hash: KeyHash) -> Option<SlotId> {
        self.find_slot(hash, |slot| slot.flags & SHADOW != 0)
    }

    /// Reads what looking for these keys will read, so that it is in the processor's cache then. One key's
    /// lookup waits for memory step by step: the index, the slot, the record. Here each step is taken for all
    /// keys before the next one, so that they wait together. Nothing else is compared than the index's own tags,
    /// which may now and then bring another record than the key's.
    pub(super) fn warm(&self, hashes: impl Iterator<Item = KeyHash>) {
        let found = hashes.filter_map(|hash| {
            let (shard, place) = place(hash);
            self.index[shard].find(place, |_| true).copied()
        });
        let ids: SmallVec<[u32; WARM_AT_ONCE]> = found.collect();
        let mut seen = 0;
        for slot in ids.iter().filter_map(|id| self.kept.slots.get(*id)) {
            seen ^= slot.flags;
        }
        for record in ids.iter().filter_map(|id| self.record(SlotId(*id))) {
            let lines = record.bytes().iter().take(WARM_BYTES).step_by(LINE_BYTES);
            seen ^= lines.fold(0, |all, byte| all ^ byte);
        }
        std::hint::black_box(seen);
    }

    /// Adds the first record of a key that is not in the table.
    pub(super) fn insert(&mut self, hash: KeyHash, record: RecordRef<'_>, flags: u8) -> SlotId {
        self.bytes += record.bytes().len() + OVERHEAD_BYTES;
        self.dirty += usize::from(flags & DIRTY != 0);
        self.records += 1;
        let Kept { slots, cells } = &mut self.kept;
        let CellId { class, number } = cells.put(record.bytes());
        let slot = Slot { hash, cell: number, checkpoint: 0, class, flags };
        let id = match self.free.pop() {
            Some(id) => {
                slots[id] = slot;
                id
            }
            None => slots.push(slot),
        };
        let (shard, at) = place(hash);
        let slots = &self.kept.slots;
        self.index[shard].insert_unique(at, id, |id| place(slots[*id].hash).1);
        self.order.insert(id, |id| self.kept.names(id));
        if flags & SHADOW != 0 {
            self.note_shadow(SlotId(id));
        }
        SlotId(id)
    }

    /// Overwrites a record with another of the same key, which then is dirty.
    pub(super) fn replace(&mut self, id: SlotId, record: RecordRef<'_>) {
        let Kept { slots, cells } = &mut self.kept;
        let slot = &mut slots[id.0];
        if !slot.is_empty() {
            let present = RecordRef::at_start_of(cells.get(slot.cell()));
            self.bytes = self.bytes + record.bytes().len() - present.bytes().len();
            slot.move_to(cells.replace(slot.cell(), record.bytes()));
        }
        self.add_flags(id, DIRTY);
    }

    /// Takes a record out.
    pub(super) fn remove(&mut self, id: SlotId) {
        self.order.remove(id.0, |id| self.kept.names(id));
        let Kept { slots, cells } = &mut self.kept;
        let slot = &mut slots[id.0];
        let (shard, at) = place(slot.hash);
        if let Ok(entry) = self.index[shard].find_entry(at, |other| *other == id.0) {
            entry.remove();
        }
        if !slot.is_empty() {
            self.records -= 1;
            self.bytes -= RecordRef::at_start_of(cells.get(slot.cell())).bytes().len() + OVERHEAD_BYTES;
            self.dirty -= usize::from(slot.flags & DIRTY != 0);
            self.shadows -= usize::from(slot.flags & SHADOW != 0);
            cells.free(slot.cell());
            slot.move_to(CellId::NOWHERE);
            slot.flags = 0;
            self.free.push(id.0);
        }
    }

    /// The record of an occupied slot.
    pub(super) fn record(&self, id: SlotId) -> Option<RecordRef<'_>> {
        self.kept.record(self.kept.slots.get(id.0)?)
    }

    /// The hash of the key in a slot.
    pub(super) fn hash(&self, id: SlotId) -> KeyHash {
        self.kept.slots[id.0].hash
    }

    /// Whether a slot holds nothing that belongs to a partition.
    pub(super) fn is_system_or_empty(&self, id: SlotId) -> bool {
        let slot = &self.kept.slots[id.0];
        slot.flags & SYSTEM != 0 || slot.is_empty()
    }

    /// Whether any of these flags is set.
    pub(super) fn has_any(&self, id: SlotId, flags: u8) -> bool {
        self.kept.slots[id.0].flags & flags != 0
    }

    /// Whether all of these flags are set.
    pub(super) fn has(&self, id: SlotId, flags: u8) -> bool {
        self.kept.slots[id.0].flags & flags == flags
    }

    /// Sets flags.
    pub(super) fn add_flags(&mut self, id: SlotId, flags: u8) {
        let slot = &mut self.kept.slots[id.0];
        self.dirty += usize::from(flags & !slot.flags & DIRTY != 0);
        let shadows = flags & !slot.flags & SHADOW != 0;
        slot.flags |= flags;
        if shadows {
            self.note_shadow(id);
        }
    }

    /// Clears flags.
    pub(super) fn clear_flags(&mut self, id: SlotId, flags: u8) {
        let slot = &mut self.kept.slots[id.0];
        self.dirty -= usize::from(flags & slot.flags & DIRTY != 0);
        self.shadows -= usize::from(flags & slot.flags & SHADOW != 0);
        slot.flags &= !flags;
    }

    fn note_shadow(&mut self, id: SlotId) {
        self.shadows += 1;
        if self.noted_shadows.len() < MAX_NOTED_SHADOWS {
            self.noted_shadows.push(id);
        }
    }

    /// How many records hide one of redb's whose element is still in its tree.
    pub(super) const fn shadows(&self) -> usize {
        self.shadows
    }

    /// Slots that shadow something, `most` of them: those that were noted, else what is met among the next `slots` slots.
    pub(super) fn find_shadows(&mut self, most: usize, slots: usize) -> Vec<SlotId> {
        let mut found = Vec::new();
        while found.len() < most
            && let Some(id) = self.noted_shadows.pop()
        {
            if self.has(id, SHADOW) {
                found.push(id);
            }
        }
        if found.len() < most.min(self.shadows) {
            let shadows = self.sweep(self.shadow_hand, slots).filter(|id| self.has(*id, SHADOW));
            found.extend(shadows.take(most - found.len()));
            let length = self.slots().max(1);
            self.shadow_hand = ((self.shadow_hand as usize + slots) % length) as u32;
        }
        found
    }

    /// Notes that a record was handed to a checkpoint.
    pub(super) fn hand_out(&mut self, id: SlotId, checkpoint: u32) {
        self.clear_flags(id, DIRTY);
        self.kept.slots[id.0].checkpoint = checkpoint as u16;
        self.checkpoint = checkpoint;
    }

    /// Makes all records dirty again that a failed checkpoint had been handed.
    pub(super) fn take_back(&mut self, checkpoint: u32) {
        for id in (0..self.kept.slots.len()).map_while(|at| u32::try_from(at).ok()) {
            let slot = &self.kept.slots[id];
            if slot.checkpoint == checkpoint as u16 && !slot.is_empty() {
                self.add_flags(SlotId(id), DIRTY);
            }
        }
    }

    /// Makes every record dirty: nobody knows which of them redb holds.
    pub(super) fn make_all_dirty(&mut self) {
        for id in (0..self.kept.slots.len()).map_while(|at| u32::try_from(at).ok()) {
            if !self.kept.slots[id].is_empty() {
                self.add_flags(SlotId(id), DIRTY);
            }
        }
    }

    /// Whether redb holds this very record: it may be evicted.
    pub(super) fn is_clean(&self, id: SlotId, committed: u32) -> bool {
        let slot = &self.kept.slots[id.0];
        slot.flags & (DIRTY | SHADOW | UNRESOLVED) == 0 && self.handed_out(slot) <= committed
    }

    /// The latest checkpoint that a slot may have been handed to: slots keep only a part of its number. What is taken for
    /// later than it was is handed out once more than it must be, or stays a little longer.
    const fn handed_out(&self, slot: &Slot) -> u32 {
        let before = (self.checkpoint as u16).wrapping_sub(slot.checkpoint);
        self.checkpoint.saturating_sub(before as u32)
    }

    /// Occupied slots from `start` on in the order of the slots, without end: for sweeps.
    pub(super) fn sweep(&self, start: u32, count: usize) -> impl Iterator<Item = SlotId> + '_ {
        let length = self.kept.slots.len();
        let places = (0..count.min(length)).map(move |step| (start as usize + step) % length);
        let ids = places.map_while(|at| u32::try_from(at).ok());
        ids.filter(|id| !self.kept.slots[*id].is_empty()).map(SlotId)
    }

    /// Slots, occupied or free.
    pub(super) fn slots(&self) -> usize {
        self.kept.slots.len()
    }

    /// Slots in key order from `start` on (after it, if `exclusive`).
    pub(super) fn iter_from(&self, start: Names<'_>, exclusive: bool) -> impl Iterator<Item = SlotId> {
        self.order.iter_from(start, exclusive, |id| self.kept.names(id)).map(SlotId)
    }

    /// Slots of a collection's keys of a range, in order, from either end.
    pub(super) fn range(
        &self,
        collection: &[u8],
        keys: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = SlotId> {
        self.order.range(collection, keys, |id| self.kept.names(id)).map(SlotId)
    }

    /// The collections, `most` of them, and how many records each has in memory.
    pub(super) fn collections(&self, most: usize) -> Vec<(String, u64)> {
        let names = |id| self.kept.names(id);
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
