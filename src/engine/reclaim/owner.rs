//! What an owner does for whoever drives reclaiming, and how what died in redb is met.

use super::super::hints::HintKey;
use super::super::journal::{self, Entry};
use super::super::loads::Waiter;
use super::super::pages::PageFor;
use super::super::records::Standing;
use super::super::table::{GONE, SETTLED};
use super::super::write::Origin;
use super::super::{Engine, Name, PageFilter, PageFound};
use crate::model::{KeyHash, KeyRef, Record, RecordRef};
use crate::protocol::message::{Failure, Reply};
use crate::protocol::reclaim::{Reclaim, Reclaimed};

/// Microseconds between two walks through redb for what died there.
const WALK_US: u64 = 60_000_000;
/// Keys of which it is remembered that redb has nothing.
const MAX_ABSENT: usize = 8_192;
/// Bytes of a page of redb.
const PAGE_BYTES: usize = 128 << 10;

impl Engine {
    /// What died in redb, or has expired there, comes into memory, where the sweep meets it.
    pub(super) fn walk_for_the_dead(&mut self) {
        // What waits in memory comes first, unless it could not be carried through: that may take for ever.
        let is_resting = self.now.mono_us < self.reclaim.rest_until_us;
        let is_busy = self.reclaim.batch.is_some() || !self.reclaim.plain.is_empty() && !is_resting;
        if self.is_reclaiming_held_back() || is_busy {
            return;
        }
        if self.now.mono_us >= self.reclaim.walk_us {
            self.reclaim.walk_us = self.now.mono_us + WALK_US;
            self.reclaim.walk = self.records.any_evicted().then(Name::default);
        }
        if let Some(after) = self.reclaim.walk.take() {
            self.want_dead(after);
        }
    }

    /// Whether some member keeps tombstones from being reclaimed: until it returns, memory needn't hold them.
    pub(in crate::engine) fn is_reclaiming_held_back(&self) -> bool {
        self.reclaiming_waits_for().next().is_some()
    }

    fn want_dead(&mut self, after: Name) {
        let filter = PageFilter::Dead { wall_ms: self.wall_ms };
        self.want_page(filter, after, PAGE_BYTES, PageFor::Dead);
    }

    /// A page of redb with tombstones and what has expired; none when it could not be read.
    pub(in crate::engine) fn dead_page(&mut self, page: Option<PageFound>) {
        self.reclaim.walk = page.and_then(|PageFound { records, next, .. }| {
            let mut rest = &records[..];
            while let Ok((record, tail)) = RecordRef::parse(rest) {
                rest = tail;
                let hash = record.key_hash();
                if let Ok(key) = record.key_ref()
                    && self.records.table.find_any(key, hash).is_none()
                {
                    self.records.resolve(key, hash, Some(record));
                }
            }
            next
        });
    }

    /// Settles a tombstone here; says whether this member is clear of it then.
    pub(super) fn settle_one(&mut self, tombstone: RecordRef<'_>) -> bool {
        let (Ok(key), hash) = (tombstone.key_ref(), tombstone.key_hash()) else { return false };
        if self.complete.get(usize::from(self.placement.partition_of(key, hash))) != Some(&true) {
            return false;
        }
        let stamp = tombstone.timestamp();
        match self.records.standing(key, hash) {
            Standing::Absent => !self.records.is_lost(hash),
            Standing::Unknown => self.is_surely_absent(key, hash),
            Standing::Here(id) => {
                let present = self.records.table.record(id).map(Record::copy_of);
                let present = present
                    .filter(|record| !record.view().kind().is_live() && record.view().timestamp() == stamp);
                let is_it = present.is_some();
                if let Some(present) = present
                    && self.records.settle(key, hash, stamp)
                {
                    // A replay may meet this where only redb has the record, or has it as it was before it expired.
                    let journal = &mut self.lanes.journal;
                    journal::append(journal, &Entry::Record(present.view()));
                    journal::append(journal, &Entry::TombstoneSettled(HintKey::of(key), stamp));
                    self.counters.tombstones_settled += 1;
                }
                is_it
            }
        }
    }

    pub(super) fn drop_tombstones(&mut self, tombstones: &[u8]) {
        let mut rest = tombstones;
        while let Ok((tombstone, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = tombstone.key_hash();
            let slot = self.records.table.find_any_like(tombstone, hash);
            let is_it = |record: RecordRef<'_>| record.timestamp() == tombstone.timestamp();
            let settled = slot.is_some_and(|id| {
                self.records.table.has(id, SETTLED) && self.records.table.record(id).is_some_and(is_it)
            });
            if settled && self.forget(tombstone, hash) {
                self.counters.tombstones_reclaimed += 1;
            }
        }
    }

    /// A member that drives reclaiming asks.
    pub(in crate::engine) fn reclaim_for_peer(
        &mut self,
        origin: Origin,
        question: &Reclaim,
        same_placement: bool,
    ) {
        if !same_placement || self.storage_problem.is_some() {
            return self.reply(origin, Reply::Failed(Failure::Placement));
        }
        match question {
            Reclaim::Quiet => {
                let quietness = self.quietness();
                self.reply(origin, Reply::Reclaimed(Reclaimed::Quiet(quietness)));
            }
            Reclaim::Confirm { tombstones } => {
                let bits = self.each_tombstone(tombstones, Self::confirm_one);
                self.reply_synced(origin, Reply::Reclaimed(Reclaimed::Each(bits)));
            }
            Reclaim::Settle { tombstones, journals } => {
                self.remember_durably(journals);
                let bits = self.each_tombstone(tombstones, Self::settle_one);
                self.reply_synced(origin, Reply::Reclaimed(Reclaimed::Each(bits)));
            }
            Reclaim::Drop { tombstones } => {
                self.drop_tombstones(tombstones);
                self.reply(origin, Reply::Reclaimed(Reclaimed::Each(Vec::new())));
            }
        }
    }

    fn confirm_one(&mut self, tombstone: RecordRef<'_>) -> bool {
        let (Ok(key), hash) = (tombstone.key_ref(), tombstone.key_hash()) else { return false };
        // Whoever is still to be told of it would be told once more, when it is forgotten.
        if self.hints.names(hash) {
            return false;
        }
        let partition = self.placement.partition_of(key, hash);
        if self.complete.get(usize::from(partition)) != Some(&true) {
            return false;
        }
        if self.records.standing(key, hash) == Standing::Unknown {
            self.resolve_later(key, hash);
            return false;
        }
        let table = &self.records.table;
        let slot = table.find_any(key, hash).filter(|id| !table.has(*id, GONE));
        slot.and_then(|id| table.record(id))
            .is_some_and(|record| !record.kind().is_live() && record.element() == tombstone.element())
    }

    /// Whether nothing is under a key, in memory or in redb, which is asked if it must be: then this is true when it
    /// is asked again.
    pub(in crate::engine) fn is_surely_absent(&mut self, key: KeyRef<'_>, hash: KeyHash) -> bool {
        let is_absent = match self.records.standing(key, hash) {
            Standing::Here(_) => false,
            Standing::Absent => !self.records.is_lost(hash),
            Standing::Unknown => self.reclaim.absent.contains(&hash),
        };
        if !is_absent && self.records.standing(key, hash) == Standing::Unknown {
            self.load_then(key, hash, Waiter::Absence);
        }
        is_absent
    }

    /// Redb has nothing under a key that somebody wants settled.
    pub(in crate::engine) fn note_absent(&mut self, hash: KeyHash) {
        if self.reclaim.absent.len() < MAX_ABSENT {
            self.reclaim.absent.insert(hash);
        }
    }

    /// Records left memory: what redb did not have then it may have now.
    pub(in crate::engine) fn forget_absent(&mut self) {
        self.reclaim.absent.clear();
    }

    fn each_tombstone(&mut self, tombstones: &[u8], ask: fn(&mut Self, RecordRef<'_>) -> bool) -> Vec<u8> {
        let (mut bits, mut rest, mut nth) = (Vec::new(), tombstones, 0);
        while let Ok((tombstone, tail)) = RecordRef::parse(rest) {
            rest = tail;
            if nth % 8 == 0 {
                bits.push(0);
            }
            if ask(self, tombstone)
                && let Some(last) = bits.last_mut()
            {
                *last |= 1 << (nth % 8);
            }
            nth += 1;
        }
        bits
    }
}
