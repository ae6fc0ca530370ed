//! Rebuilding: a member whose disk lost what it had acknowledged believes the others, not itself.
//!
//! What such a member holds may be older than what was deleted and reclaimed since: if it sent that to
//! others, deleted records would return. So from the moment that it knows ([`remembered`](super::remembered)) it sends
//! nothing of what it found at its start ([`FOUND`]): no hints, no pages for who copies what it is not complete for
//! itself, and it compares nothing that it does not own or is not complete for, nor answers who compares. Its
//! partitions are copied as those of any owner that is not complete. What a complete owner has is merged with what
//! was found, or takes its place if it began over nothing; what was found and a complete owner does not have is dropped
//! before this member is complete again, and so is what was found of partitions that others own. If another owner
//! has it, comparing brings it back. Where too few complete owners are left to vouch for it, what was found stays.
//!
//! What comes in since is believed, and told from what was found by its time: a start's clock is not behind what it
//! finds. Counters have no time of their own for what is counted on them; what this member itself counted since is
//! counted again on what takes their place. That all this is under way is durable, with the time up to which
//! things were found: a restart goes on with it, and so does what left memory.
//!
//! It may come to know late: a peer tells it with the first frames of a link. So a member that has just
//! started sends no hints and compares with nobody until all that it can reach were heard, for a moment at most.

use super::hints::HintKey;
use super::journal::{self, Entry};
use super::pages::PageFor;
use super::table::{FOUND, GONE, SETTLED, SYSTEM, SlotId, UNRESOLVED};
use super::{Engine, Name, PageFilter, PageFound};
use crate::model::merge::{Found as Finds, increment};
use crate::model::record::{Kind, Pair};
use crate::model::{KeyHash, MemberId, Record, RecordRef, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Microseconds for which a member that has just started waits for peers to be heard.
const HEAR_US: u64 = 2_000_000;
/// Microseconds between two walks.
const REST_US: u64 = 1_000_000;
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
    /// It met what could not be looked at.
    again: bool,
}

/// What is not believed: records that were found at a start, or came from redb, and have no later stamp than
/// those; but for what this member counted itself since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The highest time of what was found.
    pub(super) until: u64,
    /// This member's incarnation at that start.
    pub(super) incarnation: u64,
}

/// Where a rebuilding stands.
#[derive(Debug, Default)]
pub(super) struct Rebuilding {
    /// The highest time of what was found at the start of this life.
    latest: u64,
    /// What is not believed, from the moment that this member knows until it is rebuilt.
    found: Option<Found>,
    /// What the present source of each partition has, as far as it was copied: hashes of keys.
    copying: BTreeMap<u16, Vec<u64>>,
    /// What a complete owner has, rising: all else that was found is dropped.
    copied: BTreeMap<u16, Vec<u64>>,
    walk: Option<Walk>,
    walks: u64,
    /// No walk begins before this time, in microseconds.
    rest_until_us: u64,
}

impl Rebuilding {
    /// A record was found at this start.
    pub(super) fn note_found(&mut self, record: RecordRef<'_>) {
        self.latest = self.latest.max(record.timestamp().time);
    }

    /// The highest time of what was found at this start.
    pub(super) const fn latest_found(&self) -> u64 {
        self.latest
    }

    /// Whether what was found at a start is not believed.
    pub(super) const fn is_active(&self) -> bool {
        self.found.is_some()
    }

    /// What is not believed.
    pub(super) const fn found(&self) -> Option<Found> {
        self.found
    }

    /// The replay met its begin, or its end.
    pub(super) const fn restore(&mut self, found: Option<Found>) {
        self.found = found;
    }

    /// Partitions are numbered anew: they are copied anew.
    pub(super) fn copy_anew(&mut self) {
        self.copying.clear();
        self.copied.clear();
        self.walk = None;
    }

    /// What is there now is believed.
    fn end(&mut self) {
        *self = Self { walks: self.walks, latest: self.latest, ..Self::default() };
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
        let found = Found { until: self.rebuilding.latest, incarnation: self.identity.incarnation };
        self.rebuilding.found = Some(found);
        // What was copied before may have been merged with what was found.
        self.copying.begin_anew();
        journal::append(&mut self.lanes.journal, &Entry::Rebuild(found.until, found.incarnation));
        let is_of_found = |key: &HintKey| {
            let name = key.key().filter(|name| !name.is_system())?;
            let slot = self.records.table.find(name, name.hash());
            slot.is_none_or(|id| self.is_found(id)).then(|| name.hash())
        };
        let hints: Vec<(MemberId, KeyHash)> =
            self.hints.iter().filter_map(|(member, key)| Some((member, is_of_found(key)?))).collect();
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
        self.rebuilding.is_active() && self.complete.get(usize::from(partition)) != Some(&true)
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
        if !self.rebuilding.is_active() {
            return;
        }
        self.rebuilding.copying.entry(partition).or_default().push(hash.0);
        let slot = self.records.table.find_like(record, hash).filter(|id| self.is_disbelieved(*id));
        let Some(found) = slot.and_then(|id| self.records.table.record(id)) else { return };
        // All else merges as ever: what is older than what a complete owner has was not deleted behind its back.
        let began_over_nothing = record.timestamp() == Timestamp::ZERO;
        if began_over_nothing && found != record && self.is_complete_at(source, partition) {
            let found = Record::copy_of(found);
            self.forget(found.view(), hash);
            self.merge(record, hash);
            self.count_again(found.view(), hash);
        }
    }

    /// A source was copied to its end. It is believed if it was a complete owner all the while and so many were
    /// that no quorum is without one: else what was found may be all that there is.
    pub(super) fn source_ended(&mut self, partition: u16, is_believed: bool) {
        let mut hashes = self.rebuilding.copying.remove(&partition).unwrap_or_default();
        if is_believed && self.rebuilding.is_active() {
            hashes.sort_unstable();
            self.rebuilding.copied.entry(partition).or_insert(hashes);
        }
    }

    /// Whether the record in a slot is one that was found, and its partition was not rebuilt yet.
    pub(super) fn is_disbelieved(&self, id: SlotId) -> bool {
        self.is_found(id) && self.distrusts(self.records.partition_at(id))
    }

    fn is_found(&self, id: SlotId) -> bool {
        let table = &self.records.table;
        let Some(Found { until, .. }) = self.rebuilding.found() else { return false };
        let is_found = table.has(id, FOUND) && !table.has(id, SYSTEM);
        is_found && table.record(id).is_some_and(|record| record.timestamp().time <= until)
    }

    /// What this member itself counted on a record since it found it was acknowledged: it goes on top of what is there
    /// instead.
    fn count_again(&mut self, found: RecordRef<'_>, hash: KeyHash) {
        let Some(Found { incarnation, .. }) = self.rebuilding.found() else { return };
        let (me, wall_ms) = (self.identity.member, self.wall_ms);
        let Ok(key) = found.key_ref() else { return };
        let own = |pair: &Pair| pair.member == me && pair.incarnation >= incarnation;
        for pair in found.pairs().filter(own).filter(|_| found.kind() == Kind::Counter) {
            let table = &self.records.table;
            let slot = table.find_any(key, hash).filter(|id| !table.has(*id, GONE));
            let present = slot.and_then(|id| Some((id, Record::copy_of(table.record(id)?))));
            let is_settled = present.as_ref().is_some_and(|(id, _)| table.has(*id, SETTLED));
            let present = present.map(|(_, record)| record);
            let finds = present.as_ref().map_or(Finds::Nothing, |record| match is_settled {
                true => Finds::Settled(record.view().timestamp()),
                false => Finds::Record(record.view()),
            });
            let share = (me, pair.incarnation);
            // The source may have heard of it.
            let is_it = |known: &Pair| (known.member, known.incarnation) == share;
            let known = present.as_ref().and_then(|record| record.view().pairs().find(is_it));
            let (plus, minus) = known.map_or((0, 0), |known| (known.plus, known.minus));
            let more =
                |counted: u64, known: u64| i64::try_from(counted.saturating_sub(known)).unwrap_or(i64::MAX);
            let delta = more(pair.plus, plus).saturating_sub(more(pair.minus, minus));
            let counted = (delta != 0).then(|| increment(key, finds, wall_ms, share, delta));
            // What is there instead may be no number: then it is as if it had been set after that.
            if let Some(Ok(record)) = counted {
                self.merge(record.view(), hash);
                self.hint_to_all(record.view(), hash);
            }
        }
    }

    fn hint_to_all(&mut self, record: RecordRef<'_>, hash: KeyHash) {
        let Some(slot) = self.records.table.find_like(record, hash) else { return };
        let me = self.identity.member;
        let Ok(key) = record.key_ref() else { return };
        let owners = Arc::clone(self.placement.set_of(key, hash));
        for owner in owners.owners.iter().filter(|owner| owner.member != me) {
            self.note_hint(owner.member, slot, hash);
        }
    }

    /// Gives up a record that was found, but for what this member counted on it since.
    fn give_up_found(&mut self, found: RecordRef<'_>, hash: KeyHash) {
        if self.forget(found, hash) {
            self.count_again(found, hash);
        }
    }

    /// Whether a record that was found is one that its owners do not have.
    fn is_dropped(&self, partition: u16, hash: KeyHash) -> bool {
        let lacks = |copied: &Vec<u64>| copied.binary_search(&hash.0).is_err();
        let is_foreign = !self.placement.set(partition).contains(self.identity.member);
        is_foreign && self.has_complete_owner(partition)
            || self.rebuilding.copied.get(&partition).is_some_and(lacks)
    }

    fn has_complete_owner(&self, partition: u16) -> bool {
        let owners = &self.placement.set(partition).owners;
        owners.iter().any(|owner| self.is_complete_at(owner.member, partition))
    }

    /// Whether everything is copied, and a walk would come on.
    fn has_something_to_drop(&self) -> bool {
        let mut foreign = self.foreign_partitions().peekable();
        let waits = foreign.peek().is_some() && !foreign.any(|partition| self.has_complete_owner(partition));
        self.copying.has_all() && (!waits || !self.rebuilding.copied.is_empty())
    }

    /// Drops what complete owners did not have, once everything is copied. Called at each tick.
    pub(super) fn rebuild(&mut self) {
        // Of which partitions something is held nobody knows before all is in the trees of its own class.
        if !self.rebuilding.is_active() || self.is_sorting() {
            return;
        }
        let digest = self.placement.digest();
        if self.rebuilding.walk.as_ref().is_none_or(|walk| walk.digest != digest) {
            let begins = self.now.mono_us >= self.rebuilding.rest_until_us && self.has_something_to_drop();
            self.rebuilding.walks += 1;
            let number = self.rebuilding.walks;
            self.rebuilding.walk =
                begins.then_some(Walk { number, digest, slot: 0, in_store: false, again: false });
        }
        let slots = u32::try_from(self.records.table.slots()).unwrap_or(u32::MAX);
        let Some(walk) = self.rebuilding.walk.as_mut().filter(|walk| !walk.in_store) else { return };
        let start = walk.slot;
        let end = slots.min(start.saturating_add(SLOTS));
        (walk.slot, walk.in_store) = (end, end == slots);
        for id in (start..end).map(SlotId) {
            self.drop_if_found(id);
        }
        if end < slots {
            return;
        }
        self.want_rebuilt_page(Name::default());
    }

    /// Drops the record in a slot, if it was found and its owners do not have it.
    fn drop_if_found(&mut self, id: SlotId) {
        if self.records.table.has_any(id, GONE) || !self.is_disbelieved(id) {
            return;
        }
        let hash = self.records.table.hash(id);
        if !self.is_dropped(self.records.partition_at(id), hash) {
            return;
        }
        if self.records.table.has(id, UNRESOLVED) {
            // What it is nobody knows before redb has answered.
            if let Some(walk) = &mut self.rebuilding.walk {
                walk.again = true;
            }
        } else if let Some(found) = self.records.table.record(id).map(Record::copy_of) {
            self.give_up_found(found.view(), hash);
        }
    }

    fn end_walk(&mut self) {
        let again = self.rebuilding.walk.take().is_none_or(|walk| walk.again);
        self.rebuilding.rest_until_us = self.now.mono_us + REST_US;
        // All over again if a partition was lost meanwhile, or something could not be looked at.
        if again || !self.copying.has_all() {
            return;
        }
        // What this member owns is rebuilt. What it does not own waits for somebody who does.
        self.rebuilding.copied.clear();
        if self.foreign_partitions().all(|partition| self.has_complete_owner(partition)) {
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
        let layout = self.placement.layout();
        let slices = layout.every().filter(is_looked_at).map(|partition| layout.slice_at(partition));
        let slices: BTreeMap<u16, u64> = slices.map(|slice| (slice, u64::MAX)).collect();
        if slices.is_empty() {
            return self.end_walk();
        }
        let filter = PageFilter::Leaves(Arc::new(slices));
        self.want_page(filter, after, PAGE_BYTES, PageFor::Rebuild(number));
    }

    /// A page of redb's records; none when it could not be read. What only redb has may be what was found.
    pub(super) fn rebuilt_page(&mut self, number: u64, page: Option<PageFound>) {
        let digest = self.placement.digest();
        let is_it = |walk: &Walk| walk.number == number && walk.digest == digest;
        if !self.rebuilding.walk.as_ref().is_some_and(is_it) {
            return;
        }
        let (Some(PageFound { records, next, .. }), Some(Found { until, .. })) =
            (page, self.rebuilding.found())
        else {
            // All over again.
            self.rebuilding.walk = None;
            return;
        };
        let mut rest = &records[..];
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            match self.records.table.find_any_like(record, hash) {
                // It may have come into memory behind the walk.
                Some(id) => self.drop_if_found(id),
                None => {
                    let partition = self.records.partition_of(record, hash);
                    if record.timestamp().time <= until && self.is_dropped(partition, hash) {
                        self.give_up_found(record, hash);
                    }
                }
            }
        }
        match next {
            Some(after) => self.want_rebuilt_page(after),
            None => self.end_walk(),
        }
    }
}
