//! All records of a member: the table, the hash trees over it, and what is known of records that
//! only redb holds.
//!
//! Invariant: a tree's leaf is the XOR of the elements of all records of that leaf that this
//! member holds, in the table or in redb, except for unresolved ones (not in it yet) and for
//! shadowed ones (the older element still in it). Both end when redb's record is seen. A record that
//! is damaged in redb is *lost*: as good as absent here, until another member's takes its place. Its
//! element can't be told, so its leaf is wrong until all its records are in memory again, which
//! `engine::mending` sees to. A settled tombstone and one that is gone are in no tree either; what comes in
//! on top of them meets nothing. System records are never in redb only. Of a collection whose records
//! are being sorted into trees of its own some are still in those of class 0 (see `sorting`).

mod leaves;
mod sorting;
mod void;

use super::collections::NotedCollections;
use super::table::{DIRTY, FOUND, GONE, SETTLED, SHADOW, SYSTEM, SlotId, Table, UNRESOLVED};
use super::watch::Noted;
use crate::model::hash_tree::HashTrees;
use crate::model::limits::LEAVES_PER_PARTITION;
use crate::model::merge::{Merged, joins, merge};
use crate::model::placement::Layout;
use crate::model::{KeyHash, KeyRef, Kind, Record, RecordRef, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What merging a record into the table did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// The incoming record is now the key's record, as it came.
    Stored,
    /// The key's record is now a join of both.
    Joined,
    /// The key's record was the same.
    Same,
    /// The key's record is newer, with this stamp.
    Superseded(Timestamp),
}

/// What is known of the records of a leaf, of whatever class, that only redb holds.
#[derive(Debug, Clone, Copy, Default)]
struct Evicted {
    /// At most this many.
    count: u32,
    /// None of them has a higher time.
    time: u64,
    /// The tree's leaf still has elements of lost records.
    is_wrong: bool,
    /// Its records are being brought into the table, and stay there meanwhile.
    is_mending: bool,
    /// There was one in this life, though it may be in the table again.
    ever: bool,
}

/// All records of a member.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) table: Table,
    pub(super) trees: HashTrees,
    layout: Arc<Layout>,
    /// Classes whose records are not all in their own trees yet, each with the last key that is.
    unsorted: BTreeMap<String, Vec<u8>>,
    evicted: Vec<Evicted>,
    /// Keys whose records are damaged in redb.
    lost: BTreeSet<KeyHash>,
    /// Leaves that are wrong.
    pub(super) wrong: usize,
    /// How many wrong leaves were made right.
    pub(super) mended: u64,
    /// What changes while anybody watches.
    pub(super) noted: Noted,
    pub(super) noted_collections: NotedCollections,
    partition_bits: u8,
    hand: u32,
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// In the table, complete.
    Here(SlotId),
    /// Surely nowhere.
    Absent,
    /// Possibly in redb, which must be asked first.
    Unknown,
}

impl Records {
    pub(super) fn new(partition_bits: u8) -> Self {
        let leaves = LEAVES_PER_PARTITION << partition_bits;
        Self {
            table: Table::default(),
            trees: HashTrees::new(partition_bits),
            layout: Arc::new(Layout::new(partition_bits, std::iter::empty())),
            unsorted: BTreeMap::new(),
            evicted: vec![Evicted::default(); leaves],
            lost: BTreeSet::new(),
            wrong: 0,
            mended: 0,
            noted: Noted::default(),
            noted_collections: NotedCollections::default(),
            partition_bits,
            hand: 0,
        }
    }

    fn evicted(&mut self, hash: KeyHash) -> &mut Evicted {
        let at = self.leaf_index(hash);
        // The vector has one entry per value that `leaf_index` can take.
        #[expect(clippy::indexing_slicing, reason = "sized for every index at construction")]
        &mut self.evicted[at]
    }

    const fn leaf_index(&self, hash: KeyHash) -> usize {
        let bits = self.partition_bits as u32 + LEAVES_PER_PARTITION.trailing_zeros();
        (hash.0 >> (64 - bits)) as usize
    }

    fn evicted_of(&self, hash: KeyHash) -> Evicted {
        self.evicted.get(self.leaf_index(hash)).copied().unwrap_or_default()
    }

    /// Whether any record is in redb only.
    pub(super) fn any_evicted(&self) -> bool {
        self.evicted.iter().any(|leaf| leaf.count > 0)
    }

    /// Whether any record was in redb only at some time of this life.
    pub(super) fn was_ever_evicted(&self) -> bool {
        self.evicted.iter().any(|leaf| leaf.ever)
    }

    /// Records in the table and in redb only. One that only redb held and that was overwritten since counts
    /// twice until a checkpoint has met it.
    pub(super) fn count(&self) -> u64 {
        self.table.len() as u64 + self.evicted.iter().map(|leaf| u64::from(leaf.count)).sum::<u64>()
    }

    /// Records of the key's leaf that only redb holds, at most.
    pub(super) fn evicted_count(&self, hash: KeyHash) -> u32 {
        self.evicted_of(hash).count
    }

    /// Whether any record of these leaves (a bit each, by slice) is in redb only, or was in this life.
    pub(super) fn has_evicted(&self, leaves: &BTreeMap<u16, u64>) -> bool {
        leaves.iter().any(|(slice, bits)| {
            let of_slice = self.evicted.chunks(LEAVES_PER_PARTITION).nth(usize::from(*slice));
            let wanted = of_slice.into_iter().flatten().enumerate();
            wanted.filter(|(leaf, _)| bits >> leaf & 1 == 1).any(|(_, leaf)| leaf.ever)
        })
    }

    /// Whether any record of a partition is here, in memory or in redb.
    pub(super) fn holds_any(&self, partition: u16) -> bool {
        let in_tree = self.trees.tree(partition).is_some_and(|tree| !tree.is_empty());
        // Which classes the records of a leaf are of that only redb has nobody counts: then the tree alone tells.
        let counts = self.layout.classes() == 1;
        in_tree || counts && self.evicted_in(partition).any(|leaf| leaf.count > 0)
    }

    /// Whether any record of a partition, or of its slice of another class, was in redb only at some time of this life.
    pub(super) fn was_any_evicted(&self, partition: u16) -> bool {
        self.evicted_in(partition).any(|leaf| leaf.ever)
    }

    fn evicted_in(&self, partition: u16) -> impl Iterator<Item = &Evicted> {
        let slice = usize::from(self.layout.slice_at(partition));
        self.evicted.chunks(LEAVES_PER_PARTITION).nth(slice).into_iter().flatten()
    }

    /// Where a key stands.
    pub(super) fn standing(&self, key: KeyRef<'_>, hash: KeyHash) -> Standing {
        match self.table.find_any(key, hash) {
            Some(id) if self.table.has_any(id, SETTLED | GONE) => Standing::Absent,
            Some(id) if self.table.has(id, UNRESOLVED) => Standing::Unknown,
            Some(id) => Standing::Here(id),
            None if key.is_system() || self.is_lost(hash) => Standing::Absent,
            None if self.evicted_of(hash).count == 0 => Standing::Absent,
            None => Standing::Unknown,
        }
    }

    /// Whether redb's record of a key is damaged, and nothing took its place yet.
    pub(super) fn is_lost(&self, hash: KeyHash) -> bool {
        self.lost.contains(&hash)
    }

    /// The highest time that a record of this key may have, as far as memory tells.
    pub(super) fn time_of(&self, key: KeyRef<'_>, hash: KeyHash) -> u64 {
        let here = self.table.find_any(key, hash).filter(|id| !self.table.has(*id, GONE));
        let here = here.and_then(|id| self.table.record(id));
        here.map_or(0, |record| record.timestamp().time).max(self.evicted_time(hash))
    }

    /// The highest time that an evicted record of the key's leaf may have.
    pub(super) fn evicted_time(&self, hash: KeyHash) -> u64 {
        let evicted = self.evicted_of(hash);
        if evicted.count > 0 { evicted.time } else { 0 }
    }

    /// Merges a record in. The second value tells that redb must be asked before the key may be
    /// read: the slot is unresolved.
    pub(super) fn apply(&mut self, incoming: RecordRef<'_>, hash: KeyHash) -> (SlotId, Applied, bool) {
        match self.table.find_any_like(incoming, hash) {
            Some(id) if self.table.has_any(id, SETTLED | GONE) => {
                let applied = self.merge_into_nothing(id, incoming);
                (id, applied, false)
            }
            Some(id) => {
                let applied = self.merge_into(id, incoming);
                (id, applied, false)
            }
            None => {
                let is_system = incoming.key_ref().is_ok_and(KeyRef::is_system);
                let below =
                    if is_system || self.lost.remove(&hash) { 0 } else { self.evicted_of(hash).count };
                let evicted = self.evicted_of(hash);
                let newer = incoming.kind() != Kind::Counter && incoming.timestamp().time > evicted.time;
                let (flags, unresolved) = match (below, newer) {
                    (0, _) => (0, false),
                    (_, true) => (SHADOW, false),
                    (_, false) => (UNRESOLVED, true),
                };
                let system = if is_system { SYSTEM } else { 0 };
                let id = self.table.insert(hash, incoming, DIRTY | flags | system);
                if !unresolved {
                    self.trees.toggle(self.group_of(incoming, is_system), hash, incoming.element());
                    // Nobody sees that nothing is deleted.
                    if self.noted.is_active() && (incoming.kind().is_live() || flags == SHADOW) {
                        self.noted.note(id, incoming.kind());
                    }
                }
                (id, Applied::Stored, unresolved)
            }
        }
    }

    fn merge_into(&mut self, id: SlotId, incoming: RecordRef<'_>) -> Applied {
        let Some(present) = self.table.record(id) else { return Applied::Same };
        let (before, stamp) = (present.element(), present.timestamp());
        let merged = merge(present, incoming);
        let same = present == incoming;
        match merged {
            Merged::Present if same => Applied::Same,
            Merged::Present if stamp > incoming.timestamp() && !joins(present, incoming) => {
                Applied::Superseded(stamp)
            }
            Merged::Present => Applied::Same,
            Merged::Incoming => {
                self.overwrite(id, before, incoming);
                Applied::Stored
            }
            Merged::Joined(record) => {
                self.overwrite(id, before, record.view());
                Applied::Joined
            }
        }
    }

    /// Puts `record` in a slot whose element was `before`.
    fn overwrite(&mut self, id: SlotId, before: u128, record: RecordRef<'_>) {
        let is_seen = self.noted.is_active()
            && !self.table.has(id, UNRESOLVED)
            && (record.kind().is_live()
                || self.table.record(id).is_some_and(|before| before.kind().is_live()));
        if is_seen {
            self.noted.note(id, record.kind());
        }
        self.table.replace(id, record);
        if !self.table.has(id, UNRESOLVED) {
            let hash = self.table.hash(id);
            self.trees.toggle(self.group_at(id), hash, before ^ record.element());
        }
    }

    /// Takes a record that redb holds, at start. Beyond `table_bytes` it is only accounted for.
    pub(super) fn restore(&mut self, record: RecordRef<'_>, table_bytes: usize) {
        let hash = record.key_hash();
        let is_system = record.key_ref().is_ok_and(KeyRef::is_system);
        self.trees.toggle(self.group_of(record, is_system), hash, record.element());
        if is_system || self.table.bytes() < table_bytes {
            let flags = if is_system { SYSTEM } else { FOUND };
            self.table.insert(hash, record, flags);
        } else {
            self.noted_collections.note(record.collection());
            self.note_evicted(hash, record.timestamp().time);
        }
    }

    fn note_evicted(&mut self, hash: KeyHash, time: u64) {
        let leaf = self.evicted(hash);
        leaf.count += 1;
        leaf.ever = true;
        leaf.time = leaf.time.max(time);
    }

    /// Takes what redb answered for a key; `None` means that it surely has nothing.
    pub(super) fn resolve(&mut self, key: KeyRef<'_>, hash: KeyHash, loaded: Option<RecordRef<'_>>) {
        match (self.table.find_any(key, hash), loaded) {
            (Some(id), loaded) if self.table.has(id, UNRESOLVED) => {
                if let Some(old) = loaded {
                    self.forget_evicted(hash);
                    if matches!(self.merge_into(id, old), Applied::Stored | Applied::Joined) {
                        self.table.add_flags(id, FOUND);
                    }
                }
                self.table.clear_flags(id, UNRESOLVED);
                self.note_resolved(id);
                let element = self.tree_element(id);
                let sum = element ^ loaded.map_or(0, RecordRef::element);
                self.trees.toggle(self.group_at(id), hash, sum);
                self.mend(hash);
            }
            (Some(id), Some(old)) => self.unshadow(id, Some(old.element())),
            (Some(id), None) => self.table.clear_flags(id, SHADOW),
            (None, Some(old)) => {
                self.forget_evicted(hash);
                // When redb got it nobody can tell any more.
                self.table.insert(hash, old, FOUND);
            }
            (None, None) => {}
        }
    }

    /// Readers see what is in a slot from now on.
    fn note_resolved(&mut self, id: SlotId) {
        if self.noted.is_active()
            && let Some(record) = self.table.record(id)
        {
            self.noted.note(id, record.kind());
        }
    }

    /// Redb's record of a key is damaged: what the table has is all there is.
    pub(super) fn lose(&mut self, key: KeyRef<'_>, hash: KeyHash) {
        match self.table.find_any(key, hash) {
            Some(id) if self.table.has(id, UNRESOLVED) => {
                self.table.clear_flags(id, UNRESOLVED);
                self.note_resolved(id);
                let element = self.tree_element(id);
                self.trees.toggle(self.group_at(id), hash, element);
                self.forget_damaged(hash);
            }
            Some(id) => self.unshadow(id, None),
            None if !key.is_system() && self.lost.insert(hash) => self.forget_damaged(hash),
            None => {}
        }
    }

    /// What a slot's record adds to its tree.
    fn tree_element(&self, id: SlotId) -> u128 {
        let counts = !self.table.has_any(id, SETTLED | GONE);
        self.table.record(id).filter(|_| counts).map_or(0, RecordRef::element)
    }

    fn forget_damaged(&mut self, hash: KeyHash) {
        self.forget_evicted(hash);
        let leaf = self.evicted(hash);
        let is_new = !std::mem::replace(&mut leaf.is_wrong, true);
        self.wrong += usize::from(is_new);
        self.mend(hash);
    }

    /// Takes the element of the older record that a shadowing slot hid out of its tree; `None` when
    /// that is damaged.
    pub(super) fn unshadow(&mut self, id: SlotId, element: Option<u128>) {
        if !self.table.has(id, SHADOW) {
            return;
        }
        let hash = self.table.hash(id);
        self.table.clear_flags(id, SHADOW);
        match element {
            Some(element) => {
                self.forget_evicted(hash);
                self.trees.toggle(self.group_at(id), hash, element);
                self.mend(hash);
            }
            None => self.forget_damaged(hash),
        }
    }

    fn forget_evicted(&mut self, hash: KeyHash) {
        let leaf = self.evicted(hash);
        leaf.count = leaf.count.saturating_sub(1);
    }

    /// Evicts clean records, tombstones among them unless they are kept, until the table is below `table_bytes`, looking at no more than
    /// `slots` slots. Returns how many went.
    pub(super) fn evict(
        &mut self,
        table_bytes: usize,
        slots: usize,
        committed: u32,
        keeps_dead: bool,
    ) -> usize {
        if self.table.bytes() <= table_bytes {
            return 0;
        }
        let candidates: Vec<SlotId> = self.table.sweep(self.hand, slots).collect();
        self.hand = self.advance(slots);
        let mut evicted = 0;
        for id in candidates {
            if self.table.bytes() <= table_bytes {
                break;
            }
            if self.table.has_any(id, SYSTEM | SETTLED | GONE) || !self.table.is_clean(id, committed) {
                continue;
            }
            let Some(record) = self.table.record(id) else { continue };
            if keeps_dead && !record.kind().is_live() {
                continue;
            }
            let time = record.timestamp().time;
            let hash = self.table.hash(id);
            if self.evicted_of(hash).is_mending {
                continue;
            }
            if self.noted.is_active() {
                self.noted.note_evicted(record, hash);
            }
            self.noted_collections.note(record.collection());
            self.note_evicted(hash, time);
            self.table.remove(id);
            evicted += 1;
        }
        evicted
    }

    fn advance(&self, slots: usize) -> u32 {
        let length = self.table.slots().max(1);
        u32::try_from((self.hand as usize + slots) % length).unwrap_or(0)
    }

    /// Turns the record in a slot into a tombstone, if its time is over; says whether it was.
    pub(super) fn expire_slot(&mut self, id: SlotId, wall_ms: u64) -> bool {
        let due = |record: &RecordRef<'_>| record.expiry_ms().is_some_and(|expiry| expiry <= wall_ms);
        let live = self.table.record(id).filter(|record| record.kind().is_live()).filter(due);
        let gone = live.and_then(|live| Some((live.element(), Record::expired(live)?)));
        if let Some((before, gone)) = &gone {
            self.overwrite(id, *before, gone.view());
        }
        gone.is_some()
    }

    /// Turns records past their expiry into tombstones, looking at no more than `slots` slots
    /// from `start` on. Returns where to go on, how many expired, and which tombstones were met.
    pub(super) fn expire(&mut self, start: u32, slots: usize, wall_ms: u64) -> (u32, usize, Vec<SlotId>) {
        let due = |record: RecordRef<'_>| record.expiry_ms().is_some_and(|expiry| expiry <= wall_ms);
        let (mut ids, mut dead) = (Vec::new(), Vec::new());
        for id in self.table.sweep(start, slots) {
            match self.table.record(id) {
                Some(record) if !record.kind().is_live() => dead.push(id),
                Some(record) if due(record) => ids.push(id),
                _ => {}
            }
        }
        for id in &ids {
            self.expire_slot(*id, wall_ms);
        }
        let length = self.table.slots().max(1);
        (u32::try_from((start as usize + slots) % length).unwrap_or(0), ids.len(), dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::tests::any_record;
    use proptest::prelude::*;

    proptest! {
        /// The trees must not depend on what was in memory and what was evicted meanwhile.
        #[test]
        fn the_tree_is_that_of_the_merged_record_however_it_was_reached(
            before in prop::option::of(any_record()), steps in prop::collection::vec((any_record(), any::<bool>()), 1..6)
        ) {
            let mut plain = Records::new(2);
            let mut evicting = Records::new(2);
            if let Some(before) = &before {
                plain.restore(before.view(), usize::MAX);
                evicting.restore(before.view(), 0);
            }
            for (record, load) in &steps {
                let hash = record.view().key_hash();
                plain.apply(record.view(), hash);
                let (_, _, unresolved) = evicting.apply(record.view(), hash);
                if unresolved || *load {
                    let key = record.view().key_ref().unwrap();
                    evicting.resolve(key, hash, before.as_ref().map(Record::view));
                }
            }
            let key = steps[0].0.view().key_ref().unwrap();
            let hash = key.hash();
            if let Some(id) = evicting.table.find(key, hash) && evicting.table.has(id, SHADOW) {
                evicting.unshadow(id, before.as_ref().map(|r| r.view().element()));
            }
            let of = |records: &Records| {
                let id = records.table.find(key, hash).unwrap();
                records.table.record(id).unwrap().bytes().to_vec()
            };
            prop_assert_eq!(of(&plain), of(&evicting));
            prop_assert!(plain.trees.roots().eq(evicting.trees.roots()));
            prop_assert!(!evicting.any_evicted());
        }
    }

    fn record(key: &[u8], time: u64) -> Record {
        let key = KeyRef::new("c", key).unwrap();
        Record::value(key, Timestamp { time, member: crate::model::MemberId(1) }, None, b"v")
    }

    #[test]
    fn a_damaged_record_that_comes_again_leaves_the_tree_of_an_undamaged_one() {
        let old = record(b"k", 5);
        let (key, hash) = (old.view().key_ref().unwrap(), old.view().key_hash());
        let whole = {
            let mut records = Records::new(2);
            records.restore(old.view(), usize::MAX);
            records.trees.roots().collect::<Vec<_>>()
        };
        for when in ["before", "behind", "unresolved"] {
            let mut records = Records::new(2);
            records.restore(old.view(), 0);
            if when == "unresolved" {
                assert!(records.apply(old.view(), hash).2);
            }
            records.lose(key, hash);
            assert!(when == "unresolved" || records.standing(key, hash) == Standing::Absent);
            if when == "behind" {
                records.lose(key, hash);
            }
            records.apply(old.view(), hash);
            assert!(matches!(records.standing(key, hash), Standing::Here(_)), "{when}");
            assert!(!records.is_lost(hash) && !records.any_evicted());
            assert_eq!(records.trees.roots().collect::<Vec<_>>(), whole, "{when}");
        }
    }

    #[test]
    fn a_record_that_replaces_a_damaged_one_stands_alone_in_the_tree() {
        let (old, new) = (record(b"k", 5), record(b"k", 6));
        let mut records = Records::new(2);
        records.restore(old.view(), 0);
        let (slot, _, unresolved) = records.apply(new.view(), new.view().key_hash());
        assert!(!unresolved);
        records.unshadow(slot, None);
        let mut plain = Records::new(2);
        plain.restore(new.view(), usize::MAX);
        assert!(records.trees.roots().eq(plain.trees.roots()));
    }

    #[test]
    fn a_system_record_never_waits_for_redb() {
        let key = KeyRef::new(crate::model::key::SETTINGS, b"k").unwrap();
        let system = Record::value(key, Timestamp::ZERO, None, b"v");
        let mut records = Records::new(0);
        for n in 0..1_000u32 {
            records.restore(record(&n.to_le_bytes(), 9).view(), 0);
        }
        assert_eq!(records.standing(key, key.hash()), Standing::Absent);
        let (slot, _, unresolved) = records.apply(system.view(), key.hash());
        assert!(!unresolved && !records.table.has(slot, SHADOW));
    }
}
