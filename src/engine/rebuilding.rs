//! Rebuilding: a member whose disk lost what it had acknowledged believes the others, not itself.
//!
//! What such a member holds may be older than what was deleted and reclaimed since: if it sent that to
//! others, deleted records would return. So from the moment that it knows ([`remembered`](super::remembered)) it sends
//! nothing of what it found at its start: no hints, and no pass compares what it is not complete for. Its
//! partitions are copied as those of any owner that is not complete. What it found at its start and a complete
//! owner did not have is dropped before it is complete again; if another owner has it, comparing brings
//! it back.
//!
//! It may come to know late: a peer tells it with the first frames of a link. So a member that has just
//! started sends no hints and compares with nobody until all that it can reach were heard, for a moment at most.

use super::pages::PageFor;
use super::table::{GONE, SYSTEM, SlotId, UNRESOLVED};
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

/// Where a rebuilding stands.
#[derive(Debug, Default)]
pub(super) struct Rebuilding {
    /// What has a higher time came in this life.
    found_until: u64,
    /// What the present source of each partition has, as far as it was copied: hashes of keys.
    copying: BTreeMap<u16, Vec<u64>>,
    /// What a complete owner has, rising: all else that was found is dropped.
    copied: BTreeMap<u16, Vec<u64>>,
    /// The slot to go on with while what others don't have is dropped; the table's end while redb's pages come.
    walk: Option<u32>,
}

impl Rebuilding {
    /// Whether a partition has been copied and still has what others don't have.
    pub(super) fn is_dropping_from(&self, partition: u16) -> bool {
        self.copied.contains_key(&partition)
    }

    /// The copy of a partition begins anew, from another source or another life of it.
    pub(super) fn restart(&mut self, partition: u16) {
        self.copying.remove(&partition);
    }

    /// Whether a record that was found at the start is one that the complete owner has.
    fn keeps(&self, partition: u16, hash: KeyHash, record: RecordRef<'_>) -> bool {
        let has = |copied: &Vec<u64>| copied.binary_search(&hash.0).is_ok();
        record.timestamp().time > self.found_until || self.copied.get(&partition).is_none_or(has)
    }
}

impl Engine {
    /// What was found at the start was found: from now on records come in this life.
    pub(super) const fn note_found(&mut self) {
        self.rebuilding.found_until = self.clock.time();
    }

    /// This member lost what it had acknowledged.
    pub(super) fn begin_rebuilding(&mut self) {
        let of_clients = |(member, key): (MemberId, &super::hints::HintKey)| {
            let name = key.key().filter(|name| !name.is_system())?;
            Some((member, name.hash()))
        };
        let hints: Vec<(MemberId, KeyHash)> = self.hints.iter().filter_map(of_clients).collect();
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

    /// A source has this record.
    pub(super) fn note_copied(&mut self, partition: u16, hash: KeyHash) {
        if self.shortfall().is_some() {
            self.rebuilding.copying.entry(partition).or_default().push(hash.0);
        }
    }

    /// A source was copied to its end; if it was a complete owner all the while, it is believed.
    pub(super) fn source_ended(&mut self, partition: u16, vouches: bool) {
        let Some(mut hashes) = self.rebuilding.copying.remove(&partition) else {
            if vouches && self.shortfall().is_some() {
                self.rebuilding.copied.entry(partition).or_default();
            }
            return;
        };
        if vouches && self.shortfall().is_some() {
            hashes.sort_unstable();
            self.rebuilding.copied.entry(partition).or_insert(hashes);
        }
    }

    /// Drops what complete owners did not have, once everything is copied. Called at each tick.
    pub(super) fn rebuild(&mut self) {
        let slots = u32::try_from(self.records.table.slots()).unwrap_or(u32::MAX);
        let start = match self.rebuilding.walk {
            Some(start) if start < slots => start,
            Some(_) => return,
            None if self.rebuilding.copied.is_empty() || !self.copying.has_all() => return,
            None => 0,
        };
        let end = slots.min(start.saturating_add(SLOTS));
        self.rebuilding.walk = Some(end);
        for id in (start..end).map(SlotId) {
            let table = &self.records.table;
            if table.is_system_or_empty(id) || table.has_any(id, SYSTEM | GONE | UNRESOLVED) {
                continue;
            }
            let hash = table.hash(id);
            let partition = self.placement.partition_of(hash);
            let Some(record) = table.record(id) else { continue };
            if !self.rebuilding.keeps(partition, hash, record) {
                let record = Record::copy_of(record);
                self.forget(record.view(), hash);
            }
        }
        if end < slots {
            return;
        }
        if self.rebuilding.copied.keys().any(|partition| self.records.was_any_evicted(*partition)) {
            self.want_rebuilt_page(Name::default());
        } else {
            self.end_dropping_found();
        }
    }

    fn end_dropping_found(&mut self) {
        self.rebuilding.copied.clear();
        self.rebuilding.walk = None;
        self.want_checkpoint();
    }

    fn want_rebuilt_page(&mut self, after: Name) {
        let partitions = self.rebuilding.copied.keys().map(|partition| (*partition, u64::MAX));
        let filter = PageFilter::Leaves(Arc::new(partitions.collect()));
        self.want_page(filter, after, PAGE_BYTES, PageFor::Rebuild);
    }

    /// A page of redb's records of what was copied; none when it could not be read.
    pub(super) fn rebuilt_page(&mut self, page: Option<PageFound>) {
        let Some(PageFound { records, next, .. }) = page else {
            // All over again.
            self.rebuilding.walk = None;
            return;
        };
        let mut rest = &records[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            let partition = self.placement.partition_of(hash);
            let in_memory = self.records.table.find_any_like(record, hash).is_some();
            if !in_memory && !self.rebuilding.keeps(partition, hash, record) {
                self.forget(record, hash);
            }
        }
        match next {
            Some(after) => self.want_rebuilt_page(after),
            None => self.end_dropping_found(),
        }
    }
}
