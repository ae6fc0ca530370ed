//! Listings: what this member holds in some leaves of its hash trees, as sums or record by record.
//!
//! The table is walked slot by slot, a part of it each turn, and behind its end redb, page by page, if
//! it has records of these leaves that the table has not. The trees are not asked: where a record
//! shadows an older one their leaves still have both. What comes, goes or moves during the walk may be
//! missed or counted twice by sums; that shows as a difference where there is none. A list misses
//! nothing that was there all the while, for what leaves the table or comes back is in redb.
//!
//! Nothing true can be said of a record while redb has to be asked about it first. Those that the walk meets are
//! being loaded; it waits for them at the table's end, and for no others, so it ends however many more come.

use crate::engine::PageFilter;
use crate::engine::records::Records;
use crate::engine::table::{GONE, SETTLED, SlotId, UNRESOLVED};
use crate::model::placement::Layout;
use crate::model::{KeyHash, RecordRef};
use crate::protocol::compare::{Grain, LeafId, Listed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Slots that are looked at in one turn, and records of wanted leaves among them: clients wait meanwhile, and
/// each record that was not touched lately costs waiting for memory.
const SLOTS: u32 = 8_192;
const RECORDS: usize = 512;
/// Entries of a list: what comes behind a leaf that goes beyond it waits for another list.
pub(super) const MAX_ENTRIES: usize = 128 * 1_024;

/// What is found out about one leaf.
#[derive(Debug)]
pub(super) enum Content {
    /// The sums of its parts.
    Sums(Vec<u64>),
    /// What is in those parts that are wanted (all, if none is named); the flag marks what is not to
    /// be sent: it left the tree.
    List(Vec<u8>, Vec<(Listed, bool)>),
}

/// A listing under way.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) leaves: BTreeMap<LeafId, Content>,
    pub(super) grain: Grain,
    /// Every 64 leaves' bits, by slice, of whatever class.
    wanted: Vec<u64>,
    layout: Arc<Layout>,
    slot: u32,
    is_walked: bool,
    /// Slots that were met while redb had to be asked about them first, and their keys' hashes.
    unsure: Vec<(SlotId, KeyHash)>,
    entries: usize,
}

impl Listing {
    pub(super) fn new(leaves: BTreeMap<LeafId, Content>, grain: Grain, layout: Arc<Layout>) -> Self {
        let mut wanted = vec![0; layout.slices()];
        for (partition, leaf) in leaves.keys() {
            if let Some(bits) = wanted.get_mut(usize::from(layout.slice_at(*partition))) {
                *bits |= 1 << (leaf % 64);
            }
        }
        Self { leaves, grain, wanted, layout, slot: 0, is_walked: false, unsure: Vec::new(), entries: 0 }
    }

    /// Sums of leaves.
    pub(super) fn sums(leaves: impl Iterator<Item = LeafId>, grain: Grain, layout: Arc<Layout>) -> Self {
        let leaves = leaves.map(|leaf| (leaf, Content::Sums(vec![0; grain.parts()]))).collect();
        Self::new(leaves, grain, layout)
    }

    /// Lists of leaves.
    pub(super) fn list(
        parts: impl Iterator<Item = (LeafId, Vec<u8>)>,
        grain: Grain,
        layout: Arc<Layout>,
    ) -> Self {
        let leaves = parts.map(|(leaf, parts)| (leaf, Content::List(parts, Vec::new()))).collect();
        Self::new(leaves, grain, layout)
    }

    /// The leaves by slice, as pages of redb want them.
    pub(super) fn bitmaps(&self) -> BTreeMap<u16, u64> {
        bitmaps(self.leaves.keys().map(|(partition, leaf)| (self.layout.slice_at(*partition), *leaf)))
    }

    /// The collection that redb is walked through, if the leaves are all of one, and what is wanted of it.
    pub(super) fn of_store(&self) -> (Option<String>, PageFilter) {
        let collection = self.layout.collection_of(self.leaves.keys().map(|(partition, _)| *partition));
        (collection.map(str::to_owned), PageFilter::Leaves(Arc::new(self.bitmaps())))
    }

    /// Whether nothing of the table is left to be looked at but what is being loaded.
    pub(super) const fn is_walked(&self) -> bool {
        self.is_walked
    }

    /// Looks at some more of the table; says whether all of it was seen.
    pub(super) fn walk_table(&mut self, records: &Records) -> bool {
        if self.is_walked {
            self.look_again(records);
        } else {
            self.walk_on(records);
        }
        self.is_walked && self.unsure.is_empty()
    }

    fn walk_on(&mut self, records: &Records) {
        let slots = u32::try_from(records.table.slots()).unwrap_or(u32::MAX);
        let end = slots.min(self.slot.saturating_add(SLOTS));
        let mut looked_at = 0;
        while self.slot < end && looked_at < RECORDS {
            let id = SlotId(self.slot);
            self.slot += 1;
            let hash = records.table.hash(id);
            if !self.may_want(hash) || records.table.is_system_or_empty(id) {
                continue;
            }
            looked_at += 1;
            let leaf = (records.partition_at(id), hash.leaf(self.layout.partition_bits()));
            if self.layout.classes() > 1 && !self.leaves.contains_key(&leaf) {
                continue;
            }
            self.look_at(id, hash, records);
        }
        self.is_walked = self.slot >= slots;
    }

    fn look_again(&mut self, records: &Records) {
        for (id, hash) in std::mem::take(&mut self.unsure) {
            // What left its slot meanwhile is in redb, which is walked through behind the table.
            if records.table.hash(id) == hash {
                self.look_at(id, hash, records);
            }
        }
    }

    fn look_at(&mut self, id: SlotId, hash: KeyHash, records: &Records) {
        let table = &records.table;
        let Some(record) = table.record(id).filter(|_| !table.has(id, GONE)) else { return };
        if table.has(id, UNRESOLVED) {
            self.unsure.push((id, hash));
        } else {
            self.note(self.leaf_of(record, hash), hash, record, table.has(id, SETTLED));
        }
    }

    /// Takes a page of redb's records.
    pub(super) fn take_page(&mut self, page: &[u8], records: &Records) {
        let mut rest = page;
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            let leaf = self.leaf_of(record, hash);
            let sums = matches!(self.leaves.get(&leaf), Some(Content::Sums(_)));
            if !sums || records.table.find_any_like(record, hash).is_none() {
                self.note(leaf, hash, record, false);
            }
        }
    }

    /// Ends it: of a record that came more than once, in the table and behind it, the newest counts.
    pub(super) fn finish(&mut self) {
        for content in self.leaves.values_mut() {
            if let Content::List(_, entries) = content {
                entries.sort_by_key(|(entry, _)| (entry.hash, std::cmp::Reverse(entry.time)));
                entries.dedup_by_key(|(entry, _)| entry.hash);
            }
        }
    }

    /// Whether a key may be of one of the leaves, if it is of the right class.
    fn may_want(&self, hash: KeyHash) -> bool {
        let (slice, leaf) = slice_leaf_of(hash, self.layout.partition_bits());
        self.wanted.get(usize::from(slice)).is_some_and(|bits| bits >> leaf & 1 == 1)
    }

    fn leaf_of(&self, record: RecordRef<'_>, hash: KeyHash) -> LeafId {
        let class = self.layout.class_of(record.collection());
        (self.layout.partition_in(class, hash), hash.leaf(self.layout.partition_bits()))
    }

    fn note(&mut self, leaf: LeafId, hash: KeyHash, record: RecordRef<'_>, settled: bool) {
        let Some(content) = self.leaves.get_mut(&leaf) else { return };
        let part = self.grain.part(hash.0, self.layout.partition_bits());
        let mark = self.grain.mark(record.element());
        match content {
            Content::Sums(_) if settled => {}
            Content::Sums(sums) => {
                if let Some(sum) = sums.get_mut(part) {
                    *sum ^= mark;
                }
            }
            Content::List(parts, entries) => {
                if parts.is_empty() || parts.get(part / 8).is_some_and(|byte| byte >> (part % 8) & 1 == 1) {
                    let entry = Listed { hash: hash.0, time: record.timestamp().time, mark };
                    entries.push((entry, settled));
                    self.entries += 1;
                    self.shorten();
                }
            }
        }
    }

    /// Leaves the last leaf out while there are too many entries, but never the first.
    fn shorten(&mut self) {
        while self.entries > MAX_ENTRIES && self.leaves.len() > 1 {
            let Some(((partition, leaf), content)) = self.leaves.pop_last() else { return };
            if let Content::List(_, entries) = content {
                self.entries -= entries.len();
            }
            let slice = self.layout.slice_at(partition);
            // The leaf of another class may stay.
            let is_shared =
                self.leaves.keys().any(|other| (self.layout.slice_at(other.0), other.1) == (slice, leaf));
            if let Some(bits) = self.wanted.get_mut(usize::from(slice)).filter(|_| !is_shared) {
                *bits &= !(1 << (leaf % 64));
            }
        }
    }
}

/// The slice of a key, and its leaf there.
pub(super) const fn slice_leaf_of(hash: KeyHash, partition_bits: u8) -> (u16, u8) {
    (hash.partition(partition_bits), hash.leaf(partition_bits))
}

/// Leaves by slice, one bit each.
pub(super) fn bitmaps(leaves: impl Iterator<Item = (u16, u8)>) -> BTreeMap<u16, u64> {
    let mut bitmaps = BTreeMap::new();
    for (slice, leaf) in leaves {
        *bitmaps.entry(slice).or_insert(0) |= 1u64 << (leaf % 64);
    }
    bitmaps
}
