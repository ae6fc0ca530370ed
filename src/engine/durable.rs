//! Waiting until a client's writes have so many copies that an fsync has made durable, whatever level they
//! were acknowledged at.
//!
//! A wait goes in rounds: each owner of a write that lacks copies is asked whether it has the key's record with
//! that stamp or a later one, and answers once all that it had by then is fsynced. Rounds end when every
//! write has enough owners, or the time is over; the answer is the fewest copies that any of the writes has. Only
//! what is in memory counts, as what was written lately is.
//!
//! A deletion that is forgotten meanwhile was confirmed by all owners: so one of them says that knows it as settled. Where
//! all have nothing at all, what the answer told counts: the deletion was dropped everywhere.
//!
//! Writes are named by the hashes of their keys: nobody has to keep the keys of what a connection wrote.
//! Of writes that a connection wrote too many of to name them all, the fewest copies that their answers told
//! count: they are durable once every owner has fsynced what it had when it was asked.

use super::Engine;
use super::operation::{Completion, OperationError, Outcome, Wait};
use super::requests::Purpose;
use super::table::{GONE, SETTLED};
use super::write::Origin;
use crate::model::placement::OwnerSet;
use crate::model::settings::Sync;
use crate::model::{KeyHash, MemberId, Timestamp};
use crate::protocol::message::{Has, Reply, Request};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Microseconds between two rounds of a wait.
const ROUND_US: u64 = 50_000;
/// Waits at a time; further ones are refused.
const MAX_WAITS: usize = 4_096;

/// One write and who has it durably.
#[derive(Debug)]
struct Tracked {
    hash: KeyHash,
    stamp: Timestamp,
    has: SmallVec<[MemberId; 4]>,
    /// Owners that have nothing under the key, of this round.
    nothing: SmallVec<[MemberId; 4]>,
    /// All owners had it.
    forgotten: bool,
    /// What this member had when the round began, if it owns the key: it counts once that is synced.
    own: Option<Has>,
    /// Copies that its answer told.
    told: u16,
}

impl Tracked {
    fn note(&mut self, member: MemberId, has: Has) {
        let members = match has {
            Has::No => return,
            Has::Yes => &mut self.has,
            Has::Forgotten => return self.forgotten = true,
            Has::Nothing => &mut self.nothing,
        };
        if !members.contains(&member) {
            members.push(member);
        }
    }
}

/// A client that waits.
#[derive(Debug)]
struct Waiting {
    token: u64,
    copies: u16,
    writes: Vec<Tracked>,
    /// What is known of writes that are not named.
    least: Option<u16>,
    /// Everybody answered in one round.
    was_complete: bool,
    deadline_us: u64,
    /// The journal's end when the round began, until that is synced.
    own_end: Option<u64>,
    /// Peers that have not answered in this round, and whether one can't.
    asked: usize,
    failed: bool,
    again_us: u64,
}

/// All clients that wait.
#[derive(Debug, Default)]
pub(super) struct Waits {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

impl Engine {
    /// A client waits for copies of what it wrote. The answer comes under `token`, an [`Outcome::Copies`]
    /// or [`Outcome::Failed`].
    pub fn wait(&mut self, token: u64, wait: Wait) {
        self.take_writes();
        let Wait { writes, least, copies, timeout_ms } = wait;
        if writes.is_empty() && least.is_none() {
            let copies = u16::from(self.settings.replication_factor_in_force);
            return self.show(Completion { token, outcome: Outcome::Copies(copies) });
        }
        if self.waits.waiting.len() >= MAX_WAITS {
            return self.fail(Origin::Client(token), OperationError::Overloaded);
        }
        self.waits.last += 1;
        let id = self.waits.last;
        let track = |(hash, stamp, told)| Tracked {
            hash,
            stamp,
            has: SmallVec::new(),
            nothing: SmallVec::new(),
            forgotten: false,
            own: None,
            told,
        };
        let waiting = Waiting {
            token,
            copies,
            writes: writes.into_iter().map(track).collect(),
            least,
            was_complete: false,
            deadline_us: self.now.mono_us.saturating_add(1_000 * timeout_ms),
            own_end: None,
            asked: 0,
            failed: false,
            again_us: 0,
        };
        self.waits.waiting.insert(id, waiting);
        self.begin_round(id);
    }

    fn begin_round(&mut self, id: u64) {
        let Some(mut waiting) = self.waits.waiting.remove(&id) else { return };
        let me = self.identity.member;
        let mut questions: BTreeMap<MemberId, Vec<(u64, Timestamp)>> = BTreeMap::new();
        if waiting.least.is_some() && !waiting.was_complete {
            questions.extend(self.linked().map(|member| (member, Vec::new())));
        }
        for write in &mut waiting.writes {
            write.nothing.clear();
            let owns = self.owners_by_hash(write.hash).contains(me);
            write.own = owns.then(|| self.has_write(write.hash, write.stamp));
            for owner in &self.owners_by_hash(write.hash).owners {
                if !write.has.contains(&owner.member) {
                    questions.entry(owner.member).or_default().push((write.hash.0, write.stamp));
                }
            }
        }
        questions.remove(&me);
        waiting.own_end = Some(self.end());
        waiting.again_us = self.now.mono_us + ROUND_US;
        // Who can't be asked may have only written what it told to have.
        let is_linked =
            |member: MemberId| member == me || self.peer(member).is_some_and(|peer| peer.link.is_some());
        waiting.failed = !self.roster.members().all(|(member, _)| is_linked(member));
        waiting.asked = questions.len();
        self.lanes.sync |= self.positions.synced < self.end();
        self.waits.waiting.insert(id, waiting);
        for (member, writes) in questions {
            let request = Request::Durable { writes: writes.clone() };
            if !self.ask(member, request, Purpose::Durable(id, member, writes)) {
                self.durable_failed(id);
            }
        }
        self.step_wait(id);
    }

    /// The owners of a key whose hash alone is known. Of what left memory nobody can tell whether its collection is placed by
    /// itself: then too few may be asked, or others, who know of no copy.
    fn owners_by_hash(&self, hash: KeyHash) -> &OwnerSet {
        let slot = self.records.table.find_any_hash(hash);
        let partition = slot.map_or_else(
            || self.placement.layout().partition_in(0, hash),
            |slot| self.records.partition_at(slot),
        );
        self.placement.set(partition)
    }

    /// A peer asks what this member has.
    pub(super) fn durable_for_peer(&mut self, origin: Origin, writes: &[(u64, Timestamp)]) {
        let has = writes.iter().map(|(hash, stamp)| self.has_write(KeyHash(*hash), *stamp)).collect();
        self.reply_synced(origin, Reply::Durable { has });
    }

    /// Whether this member surely has a key's record of that stamp or a later one.
    fn has_write(&self, hash: KeyHash, stamp: Timestamp) -> Has {
        let table = &self.records.table;
        let Some(slot) = table.find_any_hash(hash) else {
            let is_known = self.records.evicted_count(hash) == 0 && !self.records.is_lost(hash);
            return if is_known { Has::Nothing } else { Has::No };
        };
        match table.record(slot) {
            Some(record) if record.timestamp() < stamp => Has::No,
            Some(_) if table.has_any(slot, SETTLED | GONE) => Has::Forgotten,
            Some(_) => Has::Yes,
            None => Has::No,
        }
    }

    /// The fewest copies that any write of a wait is known to have.
    fn copies_of(&self, waiting: &Waiting) -> u16 {
        let of = |write: &Tracked| {
            let owners = &self.owners_by_hash(write.hash).owners;
            if write.forgotten {
                super::pending::short(owners.len())
            } else if owners.iter().all(|owner| write.nothing.contains(&owner.member)) {
                write.told
            } else {
                super::pending::short(write.has.len())
            }
        };
        let named = waiting.writes.iter().map(of).min();
        // What was told when everything is synced at once was durable then.
        let is_sure = waiting.was_complete || self.settings.sync == Sync::Always;
        let least = waiting.least.map(|least| if is_sure { least } else { 0 });
        named.into_iter().chain(least).min().unwrap_or(0)
    }

    /// A peer answered.
    pub(super) fn durable_answered(
        &mut self,
        id: u64,
        member: MemberId,
        writes: &[(u64, Timestamp)],
        has: &[Has],
    ) {
        let Some(waiting) = self.waits.waiting.get_mut(&id) else { return };
        waiting.asked = waiting.asked.saturating_sub(1);
        // Both are in the same order; those that were not asked for lie between.
        let mut answers = writes.iter().zip(has).peekable();
        for write in &mut waiting.writes {
            let is_it = |((hash, stamp), _): &(&(u64, Timestamp), &Has)| {
                *hash == write.hash.0 && *stamp == write.stamp
            };
            if let Some((_, has)) = answers.next_if(is_it) {
                write.note(member, *has);
            }
        }
        self.step_wait(id);
    }

    /// A peer will not answer.
    pub(super) fn durable_failed(&mut self, id: u64) {
        if let Some(waiting) = self.waits.waiting.get_mut(&id) {
            waiting.asked = waiting.asked.saturating_sub(1);
            waiting.failed = true;
            self.step_wait(id);
        }
    }

    /// Goes on with all waits: the journal was synced, or time passed.
    pub(super) fn step_waits(&mut self) {
        if self.waits.waiting.is_empty() {
            return;
        }
        let ids: Vec<u64> = self.waits.waiting.keys().copied().collect();
        for id in ids {
            self.step_wait(id);
        }
    }

    fn step_wait(&mut self, id: u64) {
        let me = self.identity.member;
        let Some(mut waiting) = self.waits.waiting.remove(&id) else { return };
        if waiting.own_end.is_some_and(|end| self.positions.synced >= end) {
            waiting.own_end = None;
            for write in &mut waiting.writes {
                if let Some(has) = write.own.take() {
                    write.note(me, has);
                }
            }
        }
        let has_ended = waiting.asked == 0 && waiting.own_end.is_none();
        waiting.was_complete |= has_ended && !waiting.failed;
        let copies = self.copies_of(&waiting);
        let now = self.now.mono_us;
        if copies >= waiting.copies && (copies > 0 || has_ended) || now >= waiting.deadline_us {
            return self.show(Completion { token: waiting.token, outcome: Outcome::Copies(copies) });
        }
        let again = has_ended && now >= waiting.again_us;
        self.waits.waiting.insert(id, waiting);
        if again {
            self.begin_round(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::operation::{Change, Stored, Write};
    use crate::engine::remembered::tests::World;
    use crate::model::KeyRef;
    use crate::model::settings::Level;

    /// The answer of the first member under a token.
    fn answer(world: &mut World, token: u64) -> Option<Outcome> {
        world.carry();
        let completions = &mut world.members[0].engine.lanes.completions;
        let at = completions.iter().position(|completion| completion.token == token)?;
        Some(completions.swap_remove(at).outcome)
    }

    fn write(world: &mut World, name: &[u8]) -> Stored {
        let key = KeyRef::new("c", name).unwrap();
        let change = Change::Set { value: b"v", expiry_ms: None };
        world.members[0].engine.write(7, Write { key, change, level: Some(Level::One), after: 0 });
        match answer(world, 7) {
            Some(Outcome::Stored(stored)) => stored,
            other => panic!("{other:?}"),
        }
    }

    fn wait(world: &mut World, writes: &[Stored], least: Option<u16>, copies: u16) {
        let writes = writes.iter().map(|stored| (stored.hash, stored.timestamp, stored.copies)).collect();
        world.members[0].engine.wait(8, Wait { writes, least, copies, timeout_ms: 1_000 });
    }

    fn copies(world: &mut World) -> Option<u16> {
        match answer(world, 8) {
            Some(Outcome::Copies(copies)) => Some(copies),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_copy_that_is_not_synced_does_not_count() {
        let mut world = World::new();
        world.syncs = false;
        let first = write(&mut world, b"a");
        wait(&mut world, &[first], None, 2);
        assert_eq!(copies(&mut world), Some(2), "two owners sync");
        wait(&mut world, &[first], None, 3);
        assert_eq!(copies(&mut world), None, "the third one does not");
        world.pass(1_100);
        assert_eq!(copies(&mut world), Some(2), "the time is over");
        wait(&mut world, &[first], None, 3);
        world.syncs = true;
        world.pass(200);
        assert_eq!(copies(&mut world), Some(3));
    }

    #[test]
    fn the_write_with_the_fewest_copies_counts() {
        let mut world = World::new();
        let first = write(&mut world, b"a");
        world.syncs = false;
        let second = write(&mut world, b"b");
        wait(&mut world, &[first, second], None, 3);
        world.pass(1_100);
        assert_eq!(copies(&mut world), Some(2));
        // What an answer told of copies was durable then: this cluster syncs always.
        wait(&mut world, &[first], Some(1), 1);
        assert_eq!(copies(&mut world), Some(1));
        wait(&mut world, &[first], Some(1), 2);
        world.pass(1_100);
        assert_eq!(copies(&mut world), Some(1), "no more is known of writes that are not named");
    }

    #[test]
    fn a_deletion_that_all_have_forgotten_counts_as_theirs() {
        let mut world = World::new();
        write(&mut world, b"a");
        let key = KeyRef::new("c", b"a").unwrap();
        let delete = Write { key, change: Change::Delete, level: Some(Level::All), after: 0 };
        world.members[0].engine.write(7, delete);
        let Some(Outcome::Stored(deleted)) = answer(&mut world, 7) else { panic!("not deleted") };
        for _ in 0..120 {
            wait(&mut world, &[deleted], None, 3);
            world.pass(100);
            assert_eq!(copies(&mut world), Some(3));
        }
        assert!(world.members.iter().all(|member| member.engine.peek(key).is_none()), "it is forgotten");
    }

    #[test]
    fn a_write_that_no_owner_has_has_no_copies_and_nothing_written_waits_for_nothing() {
        let mut world = World::new();
        let stored = write(&mut world, b"a");
        let later = Timestamp { time: stored.timestamp.time + 1, ..stored.timestamp };
        wait(&mut world, &[Stored { timestamp: later, ..stored }], None, 1);
        world.pass(1_100);
        assert_eq!(copies(&mut world), Some(0));
        wait(&mut world, &[], None, 3);
        assert_eq!(copies(&mut world), Some(3));
    }
}
