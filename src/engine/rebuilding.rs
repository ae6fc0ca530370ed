//! Rebuilding: a member whose disk lost what it had acknowledged believes the others, not itself.
//!
//! What such a member holds may be older than what was deleted and reclaimed since: if it sent that to
//! others, deleted records would return. So from the moment that it knows ([`remembered`](super::remembered)) it sends
//! nothing of what it found at its start ([`FOUND`]): no hints, no pages for who copies what it is not complete for
//! itself, and it compares nothing that it does not own or is not complete for, nor answers who compares. Its
//! partitions are copied as those of any owner that is not complete. What a complete owner has takes the place of
//! what was found; what was found and a complete owner does not have is dropped before this member is
//! complete again, and so is what was found of partitions that others own. If another owner has it, comparing
//! brings it back. That this is under way is durable: a restart goes on with it.
//!
//! It may come to know late: a peer tells it with the first frames of a link. So a member that has just
//! started sends no hints and compares with nobody until all that it can reach were heard, for a moment at most.

use super::hints::HintKey;
use super::journal::{self, Entry};
use super::pages::PageFor;
use super::table::{FOUND, GONE, SYSTEM, SlotId, UNRESOLVED};
use super::{Engine, Name, PageFilter, PageFound};
use crate::model::{KeyHash, MemberId, Record, RecordRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Microseconds for which a member that has just started waits for peers to be heard.
const HEAR_US: u64 = 2_000_000;
/// Slots that are looked at in one step.
const SLOTS: u32 = 65_536;
/// Bytes of a page of redb.
const PAGE_BYTES: usize = 256 << 10;

/// What others don't have is being dropped.
#[derive(Debug)]
struct Walk {
    /// Its number; pages of former walks are nobody's.
    number: u64,
    /// The placement that it goes by.
    digest: u64,
    /// The slot to go on with.
    slot: u32,
    /// The table was walked; redb's pages come.
    in_store: bool,
}

/// Where a rebuilding stands.
#[derive(Debug, Default)]
pub(super) struct Rebuilding {
    /// What was found is not believed.
    is_active: bool,
    /// What the present source of each partition has, as far as it was copied: hashes of keys.
    copying: BTreeMap<u16, Vec<u64>>,
    /// What a complete owner has, rising: all else that was found is dropped.
    copied: BTreeMap<u16, Vec<u64>>,
    walk: Option<Walk>,
    walks: u64,
}

impl Rebuilding {
    /// Whether what was found at the start is not believed.
    pub(super) const fn is_active(&self) -> bool {
        self.is_active
    }

    /// The replay met its begin, or its end.
    pub(super) const fn restore(&mut self, is_active: bool) {
        self.is_active = is_active;
    }

    /// What is there now is believed.
    fn end(&mut self) {
        *self = Self { walks: self.walks, ..Self::default() };
    }

    /// Whether a partition has been copied and still has what others don't have.
    pub(super) fn is_dropping_from(&self, partition: u16) -> bool {
        self.copied.contains_key(&partition)
    }

    /// The copy of a partition begins anew, from another source or another life of it.
    pub(super) fn restart(&mut self, partition: u16) {
        self.copying.remove(&partition);
    }
}

impl Engine {
    /// This member lost what it had acknowledged.
    pub(super) fn begin_rebuilding(&mut self) {
        if self.roster.len() <= 1 {
            return;
        }
        self.rebuilding.end();
        self.rebuilding.is_active = true;
        // What was copied before may have been merged with what was found.
        self.copying.begin_anew();
        journal::append(&mut self.lanes.journal, &Entry::Rebuild);
        let is_found = |key: &HintKey| {
            let name = key.key().filter(|name| !name.is_system())?;
            let slot = self.records.table.find(name, name.hash());
            slot.is_none_or(|id| self.records.table.has(id, FOUND)).then(|| name.hash())
        };
        let hints: Vec<(MemberId, KeyHash)> =
            self.hints.iter().filter_map(|(member, key)| Some((member, is_found(key)?))).collect();
        for (member, hash) in hints {
            self.hint_done(member, hash, None);
        }
        self.end_pass();
    }

    /// Whether nothing that was found at the start may be sent yet.
    pub(super) fn is_listening(&self) -> bool {
        let Some(since_us) = self.catching_up_since_us else { return false };
        let me = self.identity.member;
        let was_heard = |member: MemberId| {
            self.peer(member)
                .is_some_and(|peer| peer.dead || peer.link.as_ref().is_some_and(super::peer::Link::was_heard))
        };
        self.now.mono_us < since_us + HEAR_US
            && !self.roster.members().all(|(member, _)| member == me || was_heard(member))
    }

    /// Whether what was found of a partition is told to nobody.
    pub(super) fn distrusts(&self, partition: u16) -> bool {
        self.rebuilding.is_active && self.complete.get(usize::from(partition)) != Some(&true)
    }

    /// A source has this record. If it is a complete owner, it is believed: counters would keep what was counted
    /// before a deletion.
    pub(super) fn note_copied(
        &mut self,
        partition: u16,
        source: MemberId,
        record: RecordRef<'_>,
        hash: KeyHash,
    ) {
        if !self.rebuilding.is_active {
            return;
        }
        self.rebuilding.copying.entry(partition).or_default().push(hash.0);
        let slot = self.records.table.find_like(record, hash);
        let Some(slot) = slot.filter(|id| self.records.table.has(*id, FOUND)) else { return };
        let found = self.records.table.record(slot).filter(|found| *found != record);
        let found = found.filter(|_| self.is_complete_at(source, partition)).map(Record::copy_of);
        if let Some(found) = found {
            self.forget(found.view(), hash);
        }
    }

    /// A source was copied to its end; if it was a complete owner all the while, it is believed.
    pub(super) fn source_ended(&mut self, partition: u16, vouches: bool) {
        let mut hashes = self.rebuilding.copying.remove(&partition).unwrap_or_default();
        if vouches && self.rebuilding.is_active {
            hashes.sort_unstable();
            self.rebuilding.copied.entry(partition).or_insert(hashes);
        }
    }

    /// Whether a record that was found is one that its owners do not have.
    fn is_dropped(&self, hash: KeyHash) -> bool {
        let partition = self.placement.partition_of(hash);
        let lacks = |copied: &Vec<u64>| copied.binary_search(&hash.0).is_err();
        let is_foreign = !self.placement.set(partition).contains(self.identity.member);
        is_foreign || self.rebuilding.copied.get(&partition).is_some_and(lacks)
    }

    /// Whether everything is copied, and others are complete for what is not this member's.
    fn has_what_others_have(&self) -> bool {
        let is_held = |partition: u16| {
            let owners = &self.placement.set(partition).owners;
            owners.iter().any(|owner| self.is_complete_at(owner.member, partition))
        };
        self.copying.has_all() && self.foreign_partitions().all(is_held)
    }

    /// Drops what complete owners did not have, once everything is copied. Called at each tick.
    pub(super) fn rebuild(&mut self) {
        if !self.rebuilding.is_active {
            return;
        }
        let digest = self.placement.digest();
        if self.rebuilding.walk.as_ref().is_none_or(|walk| walk.digest != digest) {
            let begins = self.has_what_others_have();
            self.rebuilding.walks += 1;
            let number = self.rebuilding.walks;
            self.rebuilding.walk = begins.then_some(Walk { number, digest, slot: 0, in_store: false });
        }
        let slots = u32::try_from(self.records.table.slots()).unwrap_or(u32::MAX);
        let Some(walk) = self.rebuilding.walk.as_mut().filter(|walk| !walk.in_store) else { return };
        let start = walk.slot;
        let end = slots.min(start.saturating_add(SLOTS));
        (walk.slot, walk.in_store) = (end, end == slots);
        for id in (start..end).map(SlotId) {
            let table = &self.records.table;
            if table.is_system_or_empty(id)
                || table.has_any(id, SYSTEM | GONE | UNRESOLVED)
                || !table.has(id, FOUND)
            {
                continue;
            }
            let hash = table.hash(id);
            if let Some(record) = table.record(id).map(Record::copy_of)
                && self.is_dropped(hash)
            {
                self.forget(record.view(), hash);
            }
        }
        if end < slots {
            return;
        }
        self.want_rebuilt_page(Name::default());
    }

    fn end_rebuilding(&mut self) {
        self.rebuilding.walk = None;
        // Else all over again: a partition was lost meanwhile.
        if self.copying.has_all() {
            self.rebuilding.end();
            journal::append(&mut self.lanes.journal, &Entry::Rebuilt);
            self.want_checkpoint();
        }
    }

    /// Goes on with what left memory, if something did.
    fn want_rebuilt_page(&mut self, after: Name) {
        let Some(number) = self.rebuilding.walk.as_ref().map(|walk| walk.number) else { return };
        let me = self.identity.member;
        let is_looked_at = |partition: &u16| {
            let drops =
                !self.placement.set(*partition).contains(me) || self.rebuilding.is_dropping_from(*partition);
            drops && self.records.was_any_evicted(*partition)
        };
        let partitions = (0u16..).take(self.placement.partitions()).filter(is_looked_at);
        let partitions: BTreeMap<u16, u64> = partitions.map(|partition| (partition, u64::MAX)).collect();
        if partitions.is_empty() {
            return self.end_rebuilding();
        }
        let filter = PageFilter::Leaves(Arc::new(partitions));
        self.want_page(filter, after, PAGE_BYTES, PageFor::Rebuild(number));
    }

    /// A page of redb's records; none when it could not be read. What only redb has may be what was found.
    pub(super) fn rebuilt_page(&mut self, number: u64, page: Option<PageFound>) {
        let digest = self.placement.digest();
        let is_it = |walk: &Walk| walk.number == number && walk.digest == digest;
        if !self.rebuilding.walk.as_ref().is_some_and(is_it) {
            return;
        }
        let Some(PageFound { records, next, .. }) = page else {
            // All over again.
            self.rebuilding.walk = None;
            return;
        };
        let mut rest = &records[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            let in_memory = self.records.table.find_any_like(record, hash).is_some();
            if !in_memory && self.is_dropped(hash) {
                self.forget(record, hash);
            }
        }
        match next {
            Some(after) => self.want_rebuilt_page(after),
            None => self.end_rebuilding(),
        }
    }
}
