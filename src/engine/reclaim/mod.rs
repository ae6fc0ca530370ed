//! Reclaiming tombstones, without a timer.
//!
//! The first old owner of a partition drives it, for a batch of tombstones at a time and under one
//! placement:
//!
//! ```text
//! confirm → grace → settle → grace → drop
//! ```
//!
//! 1. *Confirm*: every owner holds the tombstone, fsynced.
//! 2. *Grace*: every member of the roster ends a quiet round ([`quiet`](super::quiet)) that began after that. So nothing
//!    older than the tombstone exists anywhere, and it never will.
//! 3. *Settle*: every owner takes it out of its hash tree; what comes in on top of it meets nothing.
//! 4. *Grace* again: no tombstone that is not settled is under way any more, which would beat what is
//!    counted over nothing.
//! 5. *Drop*: every owner drops what is still that settled tombstone; redb follows with the next checkpoint.
//!
//! An owner that finds tombstones settled and not dropped begins at the third step, for anybody may.
//! Whatever goes wrong ends the batch, and what it was for is found again. A dead member ends no quiet round and
//! confirms nothing: it holds reclaiming back until it returns or is removed. The states, their interleavings and
//! what each rule is for are in `integration/reclaim_model.rs`, which checks them all in small clusters.

mod owner;

use super::Engine;
use super::peer::Peer;
use super::requests::Purpose;
use super::table::{GONE, SETTLED, SYSTEM, SlotId, UNRESOLVED};
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef};
use crate::protocol::message::Request;
use crate::protocol::reclaim::{Quietness, Reclaim, Reclaimed};
use std::collections::{BTreeMap, BTreeSet};

/// Tombstones in one batch.
const BATCH: usize = 16_384;
/// Bytes of tombstones in one batch.
const BATCH_BYTES: usize = 2 << 20;
/// Microseconds between two times that members are asked whether their quiet rounds have ended: at the least, and for
/// each member that there is. All of them may drive some reclaiming, and ask all the others.
const POLL_US: u64 = 300_000;
const POLL_US_PER_MEMBER: u64 = 10_000;
/// Microseconds after a batch that could not be carried through.
const REST_US: u64 = 3_000_000;
/// Quiet rounds that must end, so that one of them began after the question.
const ROUNDS: u64 = 2;

/// One tombstone on its way out.
#[derive(Debug)]
struct Entombed {
    record: Record,
    partition: u16,
}

/// What is known of a member's quiet rounds in a grace.
#[derive(Debug, Clone, Copy)]
struct Waited {
    since: Quietness,
    is_done: bool,
}

#[derive(Debug)]
enum Stage {
    /// Which owners were asked and did not answer yet, and the places in the batch that each was asked about.
    Confirm(BTreeMap<MemberId, Vec<usize>>),
    Grace {
        then: Then,
        members: BTreeMap<MemberId, Option<Waited>>,
        poll_us: u64,
        /// All were seen done; they are asked once more whether nothing changed meanwhile.
        last_look: Option<BTreeSet<MemberId>>,
    },
    Settle(BTreeMap<MemberId, Vec<usize>>),
}

/// What follows a grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Settle,
    Drop,
}

#[derive(Debug)]
struct Batch {
    digest: u64,
    number: u64,
    tombs: Vec<Entombed>,
    stage: Stage,
    /// Where in the own journal all that this step rests on ends.
    position: u64,
}

/// What an answer is about: the batch and its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// Where reclaiming stands.
#[derive(Debug, Default)]
pub(super) struct State {
    batch: Option<Batch>,
    last: u64,
    rest_until_us: u64,
    /// Tombstones that were met and may be driven from here, or settled ones.
    plain: BTreeSet<SlotId>,
    settled: BTreeSet<SlotId>,
    /// The last batch was of settled ones: the next is not, so that neither waits for the other.
    was_settled: bool,
    walk_us: u64,
    /// Where the walk through redb goes on; none when it rests, or a page is awaited.
    walk: Option<super::Name>,
    /// Keys under which redb has nothing, though the leaf has records that only redb has.
    absent: BTreeSet<KeyHash>,
    /// Members that held the last batches back, and how many tombstones each.
    waits_for: BTreeMap<MemberId, usize>,
}

impl Engine {
    /// A tombstone was met by the sweep through the table.
    pub(super) fn note_tombstone(&mut self, id: SlotId) {
        let table = &self.records.table;
        if table.has_any(id, SYSTEM | GONE | UNRESOLVED) {
            return;
        }
        let partition = self.records.partition_at(id);
        let set = self.placement.set(partition);
        let me = self.identity.member;
        let complete = self.complete.get(usize::from(partition)) == Some(&true);
        if table.has(id, SETTLED) {
            if !set.contains(me) {
                if let Some(record) = table.record(id).map(Record::copy_of) {
                    self.forget(record.view(), record.view().key_hash());
                }
            } else if complete && self.reclaim.settled.len() < BATCH {
                self.reclaim.settled.insert(id);
            }
        } else if complete && set.old().next() == Some(me) && self.reclaim.plain.len() < BATCH {
            // Its time will come, and until then nothing else waits for it.
            if table.record(id).is_some_and(|record| self.is_past(record)) {
                self.reclaim.plain.insert(id);
            }
        }
    }

    /// Whether the clock has passed a stamp: one that lies ahead could still be undercut by a fresh one.
    fn is_past(&self, record: RecordRef<'_>) -> bool {
        record.timestamp().time < self.passed_time()
    }

    /// Whether the record of a key left its hash tree here: it settled, or nothing of it is held any more though
    /// redb may have it still. For checks of what a member holds.
    #[must_use]
    pub fn is_void(&self, key: KeyRef<'_>) -> bool {
        let slot = self.records.table.find_any(key, key.hash());
        slot.is_some_and(|id| self.records.table.has_any(id, SETTLED | GONE))
    }

    /// Members that are away and hold reclaiming back, and how many tombstones of the last batches each.
    pub fn reclaiming_waits_for(&self) -> impl Iterator<Item = (MemberId, usize)> + '_ {
        let is_away = |member: MemberId| {
            let reachable = self.peer(member).is_some_and(Peer::is_reachable);
            self.roster.get(member).is_some() && !reachable
        };
        let waits_for = self.reclaim.waits_for.iter().map(|(member, count)| (*member, *count));
        waits_for.filter(move |(member, _)| is_away(*member))
    }

    /// Goes on with reclaiming. Called at each tick.
    pub(super) fn reclaim(&mut self) {
        self.walk_for_the_dead();
        match &self.reclaim.batch {
            None => self.begin_batch(),
            Some(batch) if batch.digest != self.placement.digest() => self.end_batch(None),
            Some(_) => {
                self.batch_answered();
                self.poll_quiet();
            }
        }
    }

    fn begin_batch(&mut self) {
        if self.now.mono_us < self.reclaim.rest_until_us || self.storage_problem.is_some() {
            return;
        }
        let is_settled = !self.reclaim.settled.is_empty() && !self.reclaim.was_settled;
        self.reclaim.was_settled = is_settled;
        let found = if is_settled { &mut self.reclaim.settled } else { &mut self.reclaim.plain };
        let found = std::mem::take(found);
        let mut bytes = 0;
        let mut tombs = Vec::new();
        for id in found {
            let table = &self.records.table;
            let fits = table.has(id, SETTLED) == is_settled && !table.has_any(id, SYSTEM | GONE | UNRESOLVED);
            // The slot may have another record since it was met.
            let dead = table.record(id).filter(|record| fits && !record.kind().is_live());
            let Some(record) = dead.filter(|record| self.is_past(*record)) else { continue };
            bytes += record.bytes().len();
            if bytes > BATCH_BYTES {
                break;
            }
            let partition = self.records.partition_at(id);
            tombs.push(Entombed { record: Record::copy_of(record), partition });
        }
        if tombs.is_empty() {
            return;
        }
        self.reclaim.last += 1;
        self.lanes.sync = true;
        let stage = Stage::Confirm(BTreeMap::new());
        let (digest, number) = (self.placement.digest(), self.reclaim.last);
        let position = self.end();
        self.reclaim.batch = Some(Batch { digest, number, tombs, stage, position });
        if is_settled {
            self.settle_batch();
        } else {
            self.ask_owners(|tombstones| Reclaim::Confirm { tombstones }, Stage::Confirm);
        }
    }

    /// Asks each other owner about those of the batch that it owns.
    fn ask_owners(
        &mut self,
        question: impl Fn(Vec<u8>) -> Reclaim,
        stage: impl Fn(BTreeMap<MemberId, Vec<usize>>) -> Stage,
    ) {
        let Some(batch) = self.reclaim.batch.as_mut() else { return };
        let me = self.identity.member;
        let mut asked: BTreeMap<MemberId, Vec<usize>> = BTreeMap::new();
        for (at, tomb) in batch.tombs.iter().enumerate() {
            for owner in self.placement.set(tomb.partition).owners.iter().filter(|owner| owner.member != me) {
                asked.entry(owner.member).or_default().push(at);
            }
        }
        let packed = |places: &[usize]| -> Vec<u8> {
            let records = places.iter().filter_map(|at| batch.tombs.get(*at));
            records.flat_map(|tomb| tomb.record.view().bytes()).copied().collect()
        };
        let questions: Vec<(MemberId, Vec<u8>)> =
            asked.iter().map(|(member, places)| (*member, packed(places))).collect();
        let ticket = Ticket(batch.number);
        batch.stage = stage(asked);
        for (member, tombstones) in questions {
            if !self.peer(member).is_some_and(Peer::is_reachable)
                || !self.ask(member, Request::Reclaim(question(tombstones)), Purpose::Reclaim(ticket, member))
            {
                return self.end_batch(Some(member));
            }
        }
        self.batch_answered();
    }

    /// Ends the batch; what it was for is found again. `by` held it back.
    pub(super) fn end_batch(&mut self, by: Option<MemberId>) {
        let Some(batch) = self.reclaim.batch.take() else { return };
        self.reclaim.rest_until_us = self.now.mono_us + REST_US;
        if let Some(member) = by {
            self.reclaim.waits_for.insert(member, batch.tombs.len());
        }
    }

    /// A member answered.
    pub(super) fn take_reclaimed(&mut self, ticket: Ticket, member: MemberId, answer: &Reclaimed) {
        let Some(batch) = self.reclaim.batch.as_mut().filter(|batch| Ticket(batch.number) == ticket) else {
            return;
        };
        self.reclaim.waits_for.remove(&member);
        match (&mut batch.stage, answer) {
            (Stage::Confirm(asked) | Stage::Settle(asked), Reclaimed::Each(bits)) => {
                let Some(places) = asked.remove(&member) else { return };
                let says = |nth: usize| bits.get(nth / 8).is_some_and(|byte| byte >> (nth % 8) & 1 == 1);
                let refused: BTreeSet<usize> =
                    places.iter().enumerate().filter(|(nth, _)| !says(*nth)).map(|(_, at)| *at).collect();
                if !refused.is_empty() {
                    // Places of what was asked must stay: what is refused becomes nothing's.
                    self.reclaim.refuse(&refused);
                }
                self.batch_answered();
            }
            (Stage::Grace { .. }, Reclaimed::Quiet(quietness)) => self.take_quietness(member, *quietness),
            _ => {}
        }
    }

    /// A member does not answer, or can't now.
    pub(super) fn reclaim_failed(&mut self, ticket: Ticket, member: MemberId) {
        if self.reclaim.batch.as_ref().is_some_and(|batch| Ticket(batch.number) == ticket) {
            self.end_batch(Some(member));
        }
    }

    /// Goes on once all owners have answered.
    fn batch_answered(&mut self) {
        let Some(batch) = self.reclaim.batch.as_mut() else { return };
        let then = match &batch.stage {
            Stage::Confirm(asked) if asked.is_empty() => Then::Settle,
            Stage::Settle(asked) if asked.is_empty() => Then::Drop,
            _ => return,
        };
        if self.positions.synced < batch.position {
            return;
        }
        batch.tombs.retain(|tomb| tomb.partition != REFUSED);
        if batch.tombs.is_empty() {
            return self.end_batch(None);
        }
        // Answers to what was asked before mean nothing any more.
        self.reclaim.last += 1;
        batch.number = self.reclaim.last;
        let me = self.identity.member;
        let members = self.roster.members().map(|(member, _)| member).filter(|member| *member != me);
        let mut members: BTreeMap<MemberId, Option<Waited>> = members.map(|member| (member, None)).collect();
        members.insert(me, None);
        batch.stage = Stage::Grace { then, members, poll_us: 0, last_look: None };
        self.poll_quiet();
    }

    /// Asks the members that a grace waits for.
    fn poll_quiet(&mut self) {
        let now_us = self.now.mono_us;
        let Some(batch) = self.reclaim.batch.as_mut() else { return };
        let ticket = Ticket(batch.number);
        let Stage::Grace { members, poll_us, last_look, .. } = &mut batch.stage else { return };
        if now_us < *poll_us {
            return;
        }
        *poll_us = now_us + pause_us(members.len());
        let waits: Vec<MemberId> = match last_look {
            Some(left) => left.iter().copied().collect(),
            None => {
                let undone =
                    members.iter().filter(|(_, waited)| !waited.is_some_and(|waited| waited.is_done));
                undone.map(|(member, _)| *member).collect()
            }
        };
        for member in waits {
            if member == self.identity.member {
                self.take_quietness(member, self.quietness());
            } else if !self.peer(member).is_some_and(Peer::is_reachable)
                || !self.ask(member, Request::Reclaim(Reclaim::Quiet), Purpose::Reclaim(ticket, member))
            {
                return self.end_batch(Some(member));
            }
        }
    }

    fn take_quietness(&mut self, member: MemberId, told: Quietness) {
        let Some(batch) = self.reclaim.batch.as_mut() else { return };
        let Stage::Grace { then, members, poll_us, last_look } = &mut batch.stage else { return };
        let Some(waited) = members.get_mut(&member) else { return };
        let Some(waited) = waited else {
            *waited = Some(Waited { since: told, is_done: false });
            return;
        };
        if (waited.since.life, waited.since.adoptions) != (told.life, told.adoptions) {
            return self.end_batch(None);
        }
        if !waited.is_done && told.rounds >= waited.since.rounds + ROUNDS {
            waited.is_done = true;
            // What is ahead of this member's clock waits for that, and nothing else with it.
            batch.tombs.retain(|tomb| tomb.record.view().timestamp().time < told.time);
            if batch.tombs.is_empty() {
                return self.end_batch(None);
            }
        }
        if let Some(left) = last_look {
            left.remove(&member);
            if left.is_empty() {
                match then {
                    Then::Settle => self.settle_batch(),
                    Then::Drop => self.drop_batch(),
                }
            }
        } else if members.values().all(|waited| waited.is_some_and(|waited| waited.is_done)) {
            *last_look = Some(members.keys().copied().collect());
            *poll_us = 0;
            // An answer to an earlier question tells nothing of now.
            self.reclaim.last += 1;
            batch.number = self.reclaim.last;
        }
    }

    fn settle_batch(&mut self) {
        let Some(batch) = self.reclaim.batch.as_mut() else { return };
        self.reclaim.last += 1;
        batch.number = self.reclaim.last;
        let tombs: Vec<Record> = batch.tombs.iter().map(|tomb| tomb.record.clone()).collect();
        let journals = self.journals_of_owners();
        // Before anything settles: who remembers that must remember this.
        self.remember_durably(&journals);
        let clear: Vec<bool> = tombs.iter().map(|tomb| self.settle_one(tomb.view())).collect();
        let refused = clear.iter().enumerate().filter(|(_, clear)| !**clear).map(|(at, _)| at).collect();
        self.reclaim.refuse(&refused);
        self.lanes.sync = true;
        let end = self.end();
        if let Some(batch) = self.reclaim.batch.as_mut() {
            batch.position = end;
        }
        let settle = |tombstones| Reclaim::Settle { tombstones, journals: journals.clone() };
        self.ask_owners(settle, Stage::Settle);
    }

    /// How far the journals of all owners of the batch are: whatever they confirmed of it is in there.
    fn journals_of_owners(&self) -> Vec<(MemberId, u64, u64)> {
        let tombs = self.reclaim.batch.iter().flat_map(|batch| &batch.tombs);
        let partitions: BTreeSet<u16> =
            tombs.map(|tomb| tomb.partition).filter(|partition| *partition != REFUSED).collect();
        let sets = partitions.iter().map(|partition| self.placement.set(*partition));
        let owners: BTreeSet<MemberId> = sets.flat_map(|set| &set.owners).map(|owner| owner.member).collect();
        self.journals_of(owners.into_iter())
    }

    /// Every owner is clear of them, and nothing that is not settled is under way.
    fn drop_batch(&mut self) {
        let Some(batch) = self.reclaim.batch.take() else { return };
        let mut by_owner: BTreeMap<MemberId, Vec<u8>> = BTreeMap::new();
        for tomb in &batch.tombs {
            for owner in &self.placement.set(tomb.partition).owners {
                by_owner.entry(owner.member).or_default().extend_from_slice(tomb.record.view().bytes());
            }
        }
        for (member, tombstones) in by_owner {
            if member == self.identity.member {
                self.drop_tombstones(&tombstones);
            } else {
                let ticket = Ticket(0);
                let request = Request::Reclaim(Reclaim::Drop { tombstones });
                self.ask(member, request, Purpose::Reclaim(ticket, member));
            }
        }
    }
}

/// Microseconds between two times that all members of a cluster of so many are asked.
fn pause_us(members: usize) -> u64 {
    POLL_US.max(members as u64 * POLL_US_PER_MEMBER)
}

/// The partition of what was refused; no cluster has so many.
const REFUSED: u16 = u16::MAX;

impl State {
    /// Tombstones at these places of the batch go no further.
    fn refuse(&mut self, places: &BTreeSet<usize>) {
        for at in places {
            if let Some(tomb) = self.batch.as_mut().and_then(|batch| batch.tombs.get_mut(*at)) {
                tomb.partition = REFUSED;
            }
        }
    }
}

#[cfg(test)]
mod tests;
