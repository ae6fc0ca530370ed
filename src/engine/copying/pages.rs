//! Pages of a partition for a peer that copies it.
//!
//! A page is made from the table, by slot, and behind the table's end from redb, by name, if any of
//! the partition's records ever left the table. What leaves the table or comes back while it is
//! walked is in redb, so one of the two walks meets it. An unresolved slot ends its page: the next
//! one goes on there, when redb was asked.

use crate::engine::anti_entropy::lower;
use crate::engine::pages::PageFor;
use crate::engine::table::{GONE, SETTLED, SYSTEM, SlotId, UNRESOLVED};
use crate::engine::write::Origin;
use crate::engine::{Engine, PageFilter, PageFound};
use crate::model::RecordRef;
use crate::model::limits::LEAVES_PER_PARTITION;
use crate::protocol::compare::unpack;
use crate::protocol::message::{CopyCursor, Failure, Reply};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of records in one page, unless a single one has more.
const PAGE_BYTES: usize = 512 << 10;
/// Slots of the table looked at for one page.
const PAGE_SLOTS: u32 = 8_192;
/// The same, while nothing but what is in no tree is looked for: that takes less.
const SLOTS_TO_PASS_OVER: u32 = 16 * PAGE_SLOTS;
/// All leaves of a partition.
const ALL: u64 = u64::MAX;
const _: () = assert!(LEAVES_PER_PARTITION == 64);

impl Engine {
    /// A peer copies a partition.
    pub(in crate::engine) fn copy_for_peer(
        &mut self,
        origin: Origin,
        partition: u16,
        from: CopyCursor,
        held: &[u8],
        same_placement: bool,
    ) {
        if !same_placement {
            return self.reply(origin, Reply::Failed(Failure::Placement));
        }
        // What this member knows of who joins it must know after a power cut too.
        if self.positions.synced < self.placement_position || self.is_listening() {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        let leaves = self.wanted_leaves(partition, held);
        match from {
            // When redb got what only it has nobody can tell.
            CopyCursor::Store { .. } if self.distrusts(partition) => {
                self.reply(origin, Reply::Copied { records: Vec::new(), settled: Vec::new(), next: None });
            }
            CopyCursor::Table(slot) => {
                let page = self.page_of_table(partition, slot, leaves);
                self.reply(origin, page);
            }
            CopyCursor::Store { collection, key } => {
                let layout = self.placement.layout();
                let slice = layout.slice_at(partition);
                let own = layout.collection_at(partition).map(str::to_owned);
                let filter = match leaves {
                    ALL => PageFilter::Slice(slice),
                    some => PageFilter::Leaves(Arc::new(BTreeMap::from([(slice, some)]))),
                };
                let waiter = PageFor::Copy(origin, partition);
                self.want_page_of(own, filter, (collection, key), PAGE_BYTES, waiter);
            }
        }
    }

    /// A page for a peer that copies a partition, or `None` when redb could not be read.
    pub(in crate::engine) fn page_for_copy(
        &mut self,
        origin: Origin,
        partition: u16,
        page: Option<PageFound>,
    ) {
        // It may have begun to distrust itself since it was asked.
        let page = page.filter(|_| !self.distrusts(partition));
        let Some(PageFound { records, damaged, next, .. }) = page else {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        };
        // Told before the page is sent, so that this copy vouches for nothing.
        if !damaged.is_empty() {
            // What is in memory too may have left it and come back behind the copy's back.
            self.lose_partition(partition);
        }
        let next = next.map(|(collection, key)| CopyCursor::Store { collection, key });
        let records = self.of_partition(partition, records);
        self.reply(origin, Reply::Copied { records, settled: Vec::new(), next });
    }

    /// The records of a partition among those of its slice of all classes.
    fn of_partition(&self, partition: u16, records: Vec<u8>) -> Vec<u8> {
        if self.placement.layout().classes() == 1 {
            return records;
        }
        let (mut kept, mut rest) = (Vec::new(), &records[..]);
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            if self.records.partition_of(record, record.key_hash()) == partition {
                kept.extend_from_slice(record.bytes());
            }
        }
        kept
    }

    /// The leaves in which a peer that told its own may lack something, one bit each.
    pub(super) fn wanted_leaves(&self, partition: u16, held: &[u8]) -> u64 {
        let tells = held.len() == 8 * LEAVES_PER_PARTITION && !self.is_sorting();
        let tree = self.records.trees.tree(partition).filter(|_| tells);
        let Some(tree) = tree else { return ALL };
        let pairs = tree.leaves().iter().copied().map(lower).zip(unpack(held)).enumerate();
        pairs.filter(|(_, (own, theirs))| own != theirs).fold(0, |bits, (leaf, _)| bits | 1 << leaf)
    }

    /// The records of some leaves of a partition in the slots from `start` on, and where to go on.
    pub(super) fn page_of_table(&self, partition: u16, start: u32, leaves: u64) -> Reply {
        let slots = u32::try_from(self.records.table.slots()).unwrap_or(u32::MAX);
        let looked_at = if leaves == 0 { SLOTS_TO_PASS_OVER } else { PAGE_SLOTS };
        let end = slots.min(start.saturating_add(looked_at));
        let (mut records, mut settled) = (Vec::new(), Vec::new());
        let distrusts = self.distrusts(partition);
        for slot in start..end {
            let id = SlotId(slot);
            let Some(record) = self.records.table.record(id) else { continue };
            let hash = self.records.table.hash(id);
            let here = self.records.partition_at(id) == partition;
            if !here || self.records.table.has_any(id, SYSTEM | GONE) || distrusts && self.is_disbelieved(id)
            {
                continue;
            }
            // Neither an unresolved record nor a settled one is in the tree.
            let wanted = leaves >> hash.leaf(self.placement.partition_bits()) & 1 == 1;
            if !wanted && !self.records.table.has_any(id, UNRESOLVED | SETTLED) {
                continue;
            }
            let bytes = records.len() + settled.len();
            let full = bytes > 0 && bytes + record.bytes().len() > PAGE_BYTES;
            if full || self.records.table.has(id, UNRESOLVED) {
                return Reply::Copied { records, settled, next: Some(CopyCursor::Table(slot)) };
            }
            let out = if self.records.table.has(id, SETTLED) { &mut settled } else { &mut records };
            out.extend_from_slice(record.bytes());
        }
        let store = || CopyCursor::Store { collection: String::new(), key: Vec::new() };
        let next = match end < slots {
            true => Some(CopyCursor::Table(end)),
            false => self.records.was_any_evicted(partition).then(store),
        };
        Reply::Copied { records, settled, next }
    }
}
