//! Foreign records: those of partitions that this member does not own.
//!
//! It owned them before the placement changed, or it took a write while no owner could be reached. It keeps
//! them until every owner of the day has them: a pass with each owner, under the present placement, has shown
//! that for the very root that the partition has here. Then they are dropped, a part at a time, from memory and from
//! redb. What came in meanwhile has hints; it stays, and the next passes look at it.

use super::hints::HintKey;
use super::journal::{self, Entry};
use super::pages::PageFor;
use super::table::{GONE, SYSTEM, SlotId, UNRESOLVED};
use super::{Engine, PageFilter, PageFound};
use crate::model::{KeyHash, Record, RecordRef};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Microseconds between two looks at what is foreign.
const LOOK_US: u64 = 1_000_000;
/// Slots that are looked at for one step.
const SLOTS: u32 = 16_384;
/// Bytes of a page of redb.
const PAGE_BYTES: usize = 256 << 10;

/// Partitions that are being dropped, all in one walk.
#[derive(Debug)]
struct Dropping {
    partitions: BTreeSet<u16>,
    digest: u64,
    slot: u32,
    /// A page of redb is awaited.
    in_store: bool,
}

/// What is known of foreign records.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    look_us: u64,
    dropping: Option<Dropping>,
    /// Where in the journal the last drop ends.
    dropped_at: u64,
    /// The checkpoint that removes from redb what was dropped; until then its records still count.
    checkpoint: u32,
    /// When a record came last that somebody thought this member lacked, in microseconds.
    pub(super) repaired_us: u64,
}

impl Engine {
    /// Partitions of which this member holds records without being an owner, or may: what redb has to be asked about first is
    /// in no tree.
    pub fn foreign_partitions(&self) -> impl Iterator<Item = u16> + '_ {
        let me = self.identity.member;
        let unresolved = self.loads.unresolved().filter(|key| !key.is_system());
        let unresolved: BTreeSet<u16> =
            unresolved.map(|key| self.placement.partition_of(key, key.hash())).collect();
        let holds = move |at: u16| self.records.holds_any(at) || unresolved.contains(&at);
        let partitions = (0u16..).take(self.placement.partitions());
        partitions.filter(move |at| !self.placement.set(*at).contains(me) && holds(*at))
    }

    /// Whether nothing foreign is held, and that is durable.
    pub(super) fn holds_nothing_foreign(&self) -> bool {
        self.foreign.dropping.is_none()
            && self.positions.synced >= self.foreign.dropped_at
            && !self.is_sorting()
            && self.foreign_partitions().next().is_none()
    }

    /// Drops what every owner has. Called at each tick.
    pub(super) fn drop_foreign(&mut self) {
        if self.storage_problem.is_some() || self.is_congested() {
            return;
        }
        if self.foreign.dropping.is_some() {
            return self.drop_from_table();
        }
        // What redb is being asked for is in no root yet.
        let rests = self.now.mono_us < self.foreign.look_us || !self.loads.is_idle() || self.is_sorting();
        if rests || self.checkpoint.committed() < self.foreign.checkpoint {
            return;
        }
        self.foreign.look_us = self.now.mono_us + LOOK_US;
        let partitions: BTreeSet<u16> =
            self.foreign_partitions().filter(|partition| self.is_held_by_all(*partition)).collect();
        if !partitions.is_empty() {
            let digest = self.placement.digest();
            self.foreign.dropping = Some(Dropping { partitions, digest, slot: 0, in_store: false });
        }
    }

    fn is_held_by_all(&self, partition: u16) -> bool {
        let digest = self.placement.digest();
        let owners = &self.placement.set(partition).owners;
        let root = self.records.trees.tree(partition).map(crate::model::hash_tree::HashTree::root);
        let has_all = |member| {
            let peer = self.peer(member).filter(|peer| peer.was_complete(partition));
            let last = peer.and_then(|peer| peer.compared.last.as_ref());
            last.is_some_and(|last| last.digest == digest && last.roots.get(&partition).copied() == root)
        };
        !owners.is_empty() && owners.iter().all(|owner| has_all(owner.member))
    }

    fn drop_from_table(&mut self) {
        let digest = self.placement.digest();
        let Some(dropping) = self.foreign.dropping.as_mut().filter(|dropping| dropping.digest == digest)
        else {
            self.foreign.dropping = None;
            return;
        };
        if dropping.in_store {
            return;
        }
        let slots = u32::try_from(self.records.table.slots()).unwrap_or(u32::MAX);
        let end = slots.min(dropping.slot.saturating_add(SLOTS));
        let walked = dropping.slot..end;
        dropping.slot = end;
        let partitions = dropping.partitions.clone();
        for id in walked.map(SlotId) {
            let table = &self.records.table;
            let hash = table.hash(id);
            let drops = partitions.contains(&self.records.partition_at(id));
            if !drops || table.has_any(id, SYSTEM | GONE | UNRESOLVED) {
                continue;
            }
            if let Some(record) = table.record(id).map(Record::copy_of) {
                self.forget(record.view(), hash);
            }
        }
        if end < slots {
            return;
        }
        if partitions.iter().any(|partition| self.records.was_any_evicted(*partition)) {
            self.want_foreign_page((String::new(), Vec::new()));
        } else {
            self.end_dropping();
        }
    }

    fn want_foreign_page(&mut self, after: super::Name) {
        let Some(dropping) = self.foreign.dropping.as_mut() else { return };
        dropping.in_store = true;
        let layout = self.placement.layout();
        let slices = dropping.partitions.iter().map(|partition| layout.slice_at(*partition));
        let filter = PageFilter::Leaves(Arc::new(slices.map(|slice| (slice, u64::MAX)).collect()));
        let own = layout.collection_of(dropping.partitions.iter().copied()).map(str::to_owned);
        self.want_page_of(own, filter, after, PAGE_BYTES, PageFor::Foreign);
    }

    /// A page of redb with records that are to be dropped; none when it could not be read.
    pub(super) fn foreign_page(&mut self, page: Option<PageFound>) {
        let digest = self.placement.digest();
        let dropping = self.foreign.dropping.as_ref().filter(|dropping| dropping.digest == digest);
        let Some(partitions) = dropping.map(|dropping| dropping.partitions.clone()) else {
            self.foreign.dropping = None;
            return;
        };
        let Some(PageFound { records, next, .. }) = page else { return self.end_dropping() };
        let mut rest = &records[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            let drops = partitions.contains(&self.records.partition_of(record, hash));
            if drops && self.records.table.find_any_like(record, hash).is_none() {
                self.forget(record, hash);
            }
        }
        match next {
            Some(after) => self.want_foreign_page(after),
            None => self.end_dropping(),
        }
    }

    fn end_dropping(&mut self) {
        self.foreign.dropping = None;
        self.lanes.sync = true;
        // What is gone takes its room until then.
        self.want_checkpoint();
        self.foreign.checkpoint = self.checkpoint.latest() + 1;
    }

    /// Drops a record that nobody is hinted to lack.
    pub(super) fn forget(&mut self, record: RecordRef<'_>, hash: KeyHash) -> bool {
        let Ok(key) = record.key_ref() else { return false };
        let stamp = record.timestamp();
        if self.hints.names(hash) || !self.records.forget(key, hash, stamp) {
            return false;
        }
        journal::append(&mut self.lanes.journal, &Entry::Forgotten(HintKey::of(key), stamp));
        self.counters.forgotten += 1;
        self.foreign.dropped_at = self.end();
        true
    }
}

#[cfg(test)]
mod tests;
