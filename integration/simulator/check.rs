//! The end of a world: all faults stop, everything must come to rest, and what is there then is
//! compared with what the clients know.

use crate::clients::{Action, State};
use crate::member::EPOCH_MS;
use crate::plan::{Fault, MS, SECOND};
use crate::world::World;
use kith::engine::{Engine, NOBODY};
use kith::model::hash_tree::{Group, HashTrees};
use kith::model::merge::{Merged, merge};
use kith::model::placement::Layout;
use kith::model::roster::Removal;
use kith::model::settings::Level;
use kith::model::{Kind, Record, RecordRef, Timestamp};
use std::collections::BTreeSet;

/// How long everything may take to come to rest.
pub const REST: u64 = 120 * SECOND;
/// How long what was heard of a clock counts at most.
const READINGS: u64 = 20 * SECOND;

impl World {
    /// Ends all faults, waits for rest, repairs, and checks what is there.
    pub fn conclude(&mut self) {
        self.troubled = false;
        let without_room: u64 =
            self.live().map(|(_, engine)| engine.hint_counts(engine.identity().member).3).sum();
        self.note("rest", &[without_room], || format!("{without_room} hints found no room"));
        self.heal_all();
        self.mend_members();
        if self.plan.rarer.late {
            self.lose_late();
        }
        self.conclude_removal();
        self.remove_lost();
        if !self.wait_for(REST, "everything comes to rest", Self::unrest) {
            return;
        }
        // A process that was refused meanwhile stopped for good.
        self.remove_lost();
        if !self.wait_for(REST, "everything comes to rest", Self::unrest) {
            return;
        }
        // What shadows what only a store holds is counted twice until then.
        self.checkpoint_all();
        if self.violation.is_some()
            || !self.wait_for(3 * REST, "what differs heals by itself", Self::unhealed)
        {
            return;
        }
        self.checkpoint_all();
        self.look_into_stores();
        self.check_membership();
        self.check_lies();
        self.check_fenced();
        self.check_keys();
        self.check_trees();
        self.check_scan();
        self.check_watches();
        if self.violation.is_none() && self.has_right_clocks() {
            self.forget_named();
            self.check_writable();
            self.check_watches();
            self.wait_for(REST, "a watch is told of each change", Self::unnamed);
        }
    }

    /// Whether most clocks are right: of two nobody can tell which one is wrong, and nothing can be stamped.
    fn has_right_clocks(&self) -> bool {
        let (live, ahead_ms) = (self.live().count(), self.plan.settings.max_clock_ahead_ms);
        let right_ms = EPOCH_MS + self.now / MS;
        let is_wrong = |at: usize| self.members[at].wall_ms(self.now).abs_diff(right_ms) > ahead_ms / 4;
        2 * self.live().filter(|(at, _)| is_wrong(*at)).count() < live
    }

    /// Every watch has what the owners hold.
    fn check_watches(&mut self) {
        if self.violation.is_none() && self.plan.watched {
            self.checkpoint_all();
            self.look_into_stores();
            self.wait_for(REST, "a watch has what is there", Self::unwatched);
        }
    }

    /// Somebody removes the members that are lost for good: an owner that was damaged would wait for them.
    fn remove_lost(&mut self) {
        let mut lost = self.members.iter().filter(|member| member.lost && !member.left);
        // Who is down may be the only one that knows it.
        if lost.next().is_none() || !self.wait_for(REST, "every member starts again", Self::down) {
            return;
        }
        let is_lost = |at: &usize| self.members[*at].lost && !self.members[*at].left && !self.has_twin(*at);
        let lost: Vec<usize> = (0..self.members.len()).filter(is_lost).collect();
        if !lost.is_empty() && self.plan.knows(Fault::Clock) {
            // Its clock goes with it, and then half of all may be wrong as long as one is that was wrong before.
            self.run_until(self.now + READINGS);
        }
        for member in lost {
            self.wait_for(REST, "somebody is there to remove a lost member", |world| {
                let serving = (0..world.members.len()).any(|at| world.serves(at));
                (!serving).then(|| "nobody serves".to_owned())
            });
            let Some(front) = (0..self.members.len()).find(|at| self.serves(*at)) else { return };
            if !self.is_known(member) {
                continue;
            }
            let removal = Removal { name: format!("m{member}"), reason: "lost".to_owned() };
            let id = self.members[member].id;
            if let Some(engine) = &mut self.members[front].engine {
                engine.write_removal(NOBODY, id, &removal);
            }
            self.note("remove", &[front as u64, member as u64], || format!("m{front} removes m{member}"));
            self.wake(front);
        }
    }

    /// Whether anybody's roster has a member.
    fn is_known(&self, member: usize) -> bool {
        let mut rosters = self.live().map(|(_, engine)| engine.roster());
        rosters.any(|roster| roster.get(self.members[member].id).is_some())
    }

    /// Waits until nothing is said to be in the way; false when an invariant broke instead.
    pub fn wait_for(
        &mut self,
        time: u64,
        invariant: &'static str,
        obstacle: fn(&Self) -> Option<String>,
    ) -> bool {
        let end = self.now + time;
        while self.violation.is_none() {
            self.run_until(self.now + 200 * MS);
            match obstacle(self) {
                None => return self.violation.is_none(),
                Some(text) if self.now >= end => self.violate(invariant, None, text),
                Some(_) => {}
            }
        }
        false
    }

    pub fn live(&self) -> impl Iterator<Item = (usize, &Engine)> {
        self.members.iter().enumerate().filter_map(|(at, member)| Some((at, member.engine()?)))
    }

    /// What keeps the world from rest.
    fn unrest(&self) -> Option<String> {
        let expected = self.members.iter().filter(|member| member.is_member && !member.lost);
        for member in expected.clone() {
            let at = member.index;
            if self.has_twin(at) {
                return Some(format!("m{at} runs twice"));
            }
            let Some(engine) = member.engine() else { return Some(format!("m{at} is down")) };
            if !self.serves(at) {
                let state = engine.roster().get(member.id).map(|known| known.entry.state);
                let complete = engine.is_complete();
                let storage = engine.storage_problem();
                return Some(format!(
                    "m{at} does not serve: {:?}, {state:?}, complete: {complete}, storage: {storage:?}",
                    engine.mode()
                ));
            }
            if !engine.is_complete() {
                return Some(format!("m{at} is not complete"));
            }
            // Who is the only one left can't leave.
            if let Some(step) = engine.placement().step().filter(|_| engine.roster().len() > 1) {
                return Some(format!("m{at}: {step:?} was not taken, {:?}", engine.step_progress()));
            }
            if !engine.is_idle() {
                return Some(format!("m{at} is not idle"));
            }
            if engine.records_under_way() > 0 {
                return Some(format!("m{at} has records on their way"));
            }
            for peer in expected.clone().filter(|peer| peer.index != at) {
                if engine.peer_facts(peer.id).is_none_or(|(_, dead, linked)| dead || !linked) {
                    return Some(format!("m{at} has no link to m{}", peer.index));
                }
                let hints = engine.hint_counts(peer.id).0;
                if hints > 0 {
                    return Some(format!("m{at} keeps {hints} hints for m{}", peer.index));
                }
            }
        }
        let (id, operation) = self.clients.open().next()?;
        Some(format!("not answered: {}", operation.line(id)))
    }

    /// What the members must still do by themselves: make all owners equal, give up what they don't own,
    /// and reclaim what was deleted.
    fn unhealed(&self) -> Option<String> {
        if let Some(text) = self.unrest() {
            return Some(text);
        }
        for (at, engine) in self.live() {
            if engine.unsorted_collections() > 0 {
                return Some(format!("m{at} still sorts"));
            }
            if let Some(partition) = engine.foreign_partitions().next() {
                return Some(format!("m{at} holds partition {partition} and does not own it"));
            }
            let is_due = |record: &RecordRef<'_>| {
                // A clock that is ahead ends it before its time; and of two nobody can tell which one is wrong.
                let mut clocks = self.live().map(|(at, other)| self.acts_by(at, other));
                let has_ended = record.expiry_ms().is_none_or(|expiry| clocks.all(|ms| expiry < ms));
                // One clock far ahead stamped what no other has come to yet.
                let has_come = self.live().all(|(_, other)| record.timestamp().time < other.clock_time());
                !record.kind().is_live() && has_ended && has_come
            };
            let mut held = self.clients.keys.iter().filter_map(|key| engine.peek(key.as_ref()));
            if let Some(tombstone) = held.find(is_due) {
                let waits: Vec<_> = engine.reclaiming_waits_for().collect();
                return Some(format!("m{at} has {tombstone:?}, waiting for {waits:?}"));
            }
        }
        let roots: Vec<(usize, &Engine, Vec<u128>)> =
            self.live().map(|(at, engine)| (at, engine, engine.roots().collect())).collect();
        for (partition, number) in (0..roots.first()?.2.len()).zip(0u16..) {
            let of_owner = |(_, engine, _): &&(usize, &Engine, Vec<u128>)| {
                engine.placement().set(number).contains(engine.identity().member)
            };
            let mut owners = roots.iter().filter(of_owner);
            let Some(first) = owners.next() else { continue };
            if let Some(other) = owners.find(|other| other.2.get(partition) != first.2.get(partition)) {
                return Some(format!("m{} and m{} differ in partition {partition}", first.0, other.0));
            }
        }
        None
    }

    /// The time of day that a member acts by, in milliseconds.
    fn acts_by(&self, at: usize, engine: &Engine) -> u64 {
        let (ahead_ms, wall_ms) = (engine.clock_health().0, self.members[at].wall_ms(self.now));
        let is_off = ahead_ms.unsigned_abs() > engine.settings().max_clock_ahead_ms / 2;
        wall_ms.saturating_add_signed(if is_off { -ahead_ms } else { 0 })
    }

    /// Members that are to be up and are not.
    pub fn down(&self) -> Option<String> {
        let mut all = self.members.iter().filter(|member| member.is_member && !member.lost);
        all.find(|member| member.engine.is_none()).map(|member| format!("m{} is down", member.index))
    }

    fn has_lost_owner(&self, key: usize) -> bool {
        let key = self.clients.keys[key].as_ref();
        let set = self.live().next().map(|(_, engine)| engine.placement().set_of(key, key.hash()));
        let owners = set.into_iter().flat_map(|set| &set.owners);
        owners.into_iter().any(|owner| {
            let is_lost = |at: usize| self.members[at].lost && !self.has_twin(at);
            (0..self.members.len()).any(|at| self.members[at].id == owner.member && is_lost(at))
        })
    }

    /// Brings everything into the stores, so that no tree holds what only a store knows to be old.
    fn checkpoint_all(&mut self) {
        for index in 0..self.members.len() {
            if let Some(engine) = &mut self.members[index].engine {
                engine.want_checkpoint();
                self.wake(index);
            }
        }
        self.run_until(self.now + SECOND);
        self.wait_for(REST, "a checkpoint ends", |world| {
            let mut busy = world.live().filter(|(_, engine)| engine.is_checkpointing() || !engine.is_idle());
            busy.next().map(|(at, _)| format!("m{at}"))
        });
    }

    fn look_into_stores(&mut self) {
        for index in 0..self.members.len() {
            match self.members[index].disk.stored() {
                Ok(stored) => self.members[index].stored = stored,
                Err(error) => self.violate("the storage works", None, format!("m{index}: {error}")),
            }
        }
    }

    fn check_membership(&mut self) {
        let other = {
            let digests = |engine: &Engine| {
                (engine.roster().digest(), engine.placement().digest(), engine.settings().digest())
            };
            let mut all = self.live().map(|(at, engine)| (at, digests(engine)));
            let Some((_, first)) = all.next() else { return };
            all.find(|(_, other)| *other != first)
        };
        if let Some((at, _)) = other {
            self.violate("rosters and settings converge", None, format!("m{at} differs"));
        }
    }

    /// The record of a key that a member has, in memory or in its store.
    pub fn held(&self, index: usize, key: usize) -> Option<Record> {
        let member = &self.members[index];
        let key = self.clients.keys[key].as_ref();
        if member.engine()?.is_void(key) {
            return None;
        }
        let here = member.engine()?.peek(key).map(Record::copy_of);
        let name = (key.collection().as_bytes().to_vec(), key.key().to_vec());
        let stored = member.stored.get(&name).and_then(|bytes| RecordRef::parse(bytes).ok());
        let stored = stored.map(|(record, _)| record);
        match (here, stored) {
            (Some(here), Some(stored)) => Some(match merge(here.view(), stored) {
                Merged::Present => here,
                Merged::Incoming => Record::copy_of(stored),
                Merged::Joined(joined) => joined,
            }),
            (Some(here), None) => Some(here),
            (None, stored) => stored.map(Record::copy_of),
        }
    }

    fn check_keys(&mut self) {
        for key in 0..self.clients.keys.len() {
            let Some((_, engine)) = self.live().next() else { return };
            let name = self.clients.keys[key].as_ref();
            let owners: Vec<usize> = engine
                .placement()
                .set_of(name, name.hash())
                .owners
                .iter()
                .filter_map(|owner| {
                    self.members.iter().position(|member| member.id == owner.member && !member.lost)
                })
                .collect();
            let held: Vec<_> = owners.iter().map(|at| (*at, self.held(*at, key))).collect();
            let element = |record: &Option<Record>| record.as_ref().map(|record| record.view().element());
            let differs = |other: &&(usize, Option<Record>)| element(&other.1) != element(&held[0].1);
            if let Some(other) = held.iter().find(differs) {
                let text = format!("m{} has {:?}, m{} has {:?}", held[0].0, held[0].1, other.0, other.1);
                return self.violate("all owners hold the same", Some(key), text);
            }
            let live: Vec<usize> = self.live().map(|(at, _)| at).collect();
            let holds = |at: &&usize| !owners.contains(at) && self.held(**at, key).is_some();
            if let Some(other) = live.iter().find(holds).copied() {
                let text = format!("m{other} has {:?}, owners are {owners:?}", self.held(other, key));
                return self.violate("the copies are where the placement says", Some(key), text);
            }
            let record = held.first().and_then(|(_, record)| record.clone());
            if let Some(record) = &record {
                self.check_shown(key, record.view());
            }
            if self.clients.keys[key].is_counter {
                self.check_counter(key, record.as_ref());
            } else {
                self.check_register(key, record.as_ref());
            }
            if self.violation.is_some() {
                return;
            }
        }
    }

    /// The greatest of what was acknowledged must be there, or something greater that may have
    /// been done.
    fn check_register(&mut self, key: usize, record: Option<&Record>) {
        let at_risk = self.plan.copies_at_risk();
        let operations = self.clients.keys[key].operations.iter();
        let greatest = operations
            .filter_map(|id| Some((*id, self.clients.operations.get(id)?)))
            .filter_map(|(id, operation)| match operation.state {
                State::Stored(stored) if !stored.superseded && stored.copies > at_risk => {
                    Some((stored.timestamp, id))
                }
                _ => None,
            })
            .max();
        // What was deleted is reclaimed; so is what expired.
        let mut all =
            self.clients.keys[key].operations.iter().filter_map(|id| self.clients.operations.get(id));
        let may_be_gone = greatest.is_some_and(|(_, id)| self.clients.operations[&id].action.ends())
            || all.any(|operation| match operation.state {
                State::Stored(stored) => operation.action.ends() && stored.copies <= at_risk,
                State::Doubt | State::Open => operation.action.ends(),
                State::Refused | State::Answered => false,
            });
        if record.is_none() && may_be_gone {
            return;
        }
        let found = record.map(|record| record.view().timestamp()).unwrap_or(Timestamp::ZERO);
        if let Some((stamp, id)) = greatest
            && found < stamp
        {
            let is_delete = matches!(self.clients.operations[&id].action, Action::Delete | Action::Take);
            let fact = if is_delete && record.is_some() {
                "what was deleted does not return"
            } else {
                "no acknowledged write is lost"
            };
            let text = format!("operation {id} with {stamp} was acknowledged; there is {record:?}");
            self.violate(fact, Some(key), text);
        }
    }

    /// What a disk lost that had said it was synced, its member has noticed, if whoever it told lives on.
    fn check_lies(&mut self) {
        if !self.plan.knows(Fault::Lie) {
            return;
        }
        let liar = self.plan.members - 1;
        let lives_on =
            |(to, epoch): &&(usize, u64)| self.members[*to].epoch == *epoch && !self.members[*to].lost;
        if let Some((to, _)) = self.members[liar].owed.iter().find(lives_on) {
            let text = format!("m{liar} had told m{to} more than it has");
            self.violate("a disk that lies is found out", None, text);
        }
    }

    /// Nothing that a removed member took after all had fenced it is at any other.
    fn check_fenced(&mut self) {
        let Some((target, _)) = self.removal else { return };
        for key in 0..self.clients.keys.len() {
            let members: Vec<usize> = self.live().map(|(at, _)| at).collect();
            for at in members {
                let Some(record) = self.held(at, key) else { continue };
                let Some(operation) = self.clients.written(record.view()) else { continue };
                let is_late = self.fenced_by_all.is_some_and(|all| operation.issued > all);
                if operation.front == target && is_late {
                    let text = format!("m{at} has {record:?} of m{target}");
                    return self.violate("nothing of a removed member crosses", Some(key), text);
                }
            }
        }
    }

    /// A counter is the sum of what was acknowledged and of some of what is in doubt.
    fn check_counter(&mut self, key: usize, record: Option<&Record>) {
        let total = record.map_or(0, |record| match record.view().kind() {
            Kind::Counter => record.view().total(),
            _ => i64::MIN,
        });
        let at_risk = self.plan.copies_at_risk();
        let mut sums = BTreeSet::from([0]);
        for operation in
            self.clients.keys[key].operations.iter().filter_map(|id| self.clients.operations.get(id))
        {
            let Action::Increment(delta) = operation.action else { continue };
            sums = match operation.state {
                State::Stored(stored) if stored.copies > at_risk => {
                    sums.iter().map(|sum| sum + delta).collect()
                }
                State::Stored(_) | State::Doubt | State::Open => {
                    sums.iter().flat_map(|sum| [*sum, sum + delta]).collect()
                }
                State::Refused | State::Answered => continue,
            };
        }
        if !sums.contains(&total) {
            let (low, high) = (sums.first().copied(), sums.last().copied());
            let text = format!("it shows {total}; it should be from {low:?} to {high:?}: {record:?}");
            self.violate("every increment counts once", Some(key), text);
        }
    }

    /// Each tree is that of the records that its member holds.
    fn check_trees(&mut self) {
        let members: Vec<usize> = self.live().map(|(at, _)| at).collect();
        for index in members {
            let Some(engine) = self.members[index].engine() else { continue };
            let mut trees = HashTrees::new(self.plan.partition_bits);
            let layout = engine.placement().layout();
            trees.regroup(&Layout::new(self.plan.partition_bits, std::iter::empty()), layout);
            for key in 0..self.clients.keys.len() {
                if let Some(record) = self.held(index, key) {
                    let group = Group::Class(layout.class_of(self.clients.keys[key].collection));
                    trees.toggle(group, record.view().key_hash(), record.view().element());
                }
            }
            let may_lie = self.plan.knows(Fault::Lie) && index + 1 == self.plan.members;
            if let Some(shortfall) = engine.shortfall().filter(|_| !may_lie && !self.is_copied) {
                let text = format!("m{index}: {shortfall:?}");
                return self.violate("an honest disk is not taken for one that lies", None, text);
            }
            // What a damaged record had added to its tree nobody knows until the leaf was summed up anew.
            if engine.wrong_leaves() > 0 {
                continue;
            }
            let wrong = trees.roots().zip(engine.roots()).position(|(mine, theirs)| mine != theirs);
            if let Some(partition) = wrong {
                let counts = engine.table_counts();
                let text = format!("m{index}, partition {partition}, table {counts:?}");
                return self.violate("a tree is that of its records", None, text);
            }
        }
    }

    /// With everyone back, every key can be written at every owner, and nothing wins over it.
    fn check_writable(&mut self) {
        let mut left: Vec<usize> = (0..self.clients.keys.len()).collect();
        for _ in 0..40 {
            let live: Vec<usize> = self.live().map(|(at, _)| at).collect();
            let mut asked = Vec::new();
            // Few at a time: bounds on what waits for the disk may be tiny.
            let rest = left.split_off(left.len().min(8));
            for key in std::mem::replace(&mut left, rest) {
                let front = self.random.pick(&live).unwrap_or(0);
                let level = if self.has_lost_owner(key) { Level::Quorum } else { Level::All };
                let is_counter = self.clients.keys[key].is_counter;
                let action = if is_counter { Action::Increment(1) } else { Action::Set { expiry_ms: None } };
                asked.push((key, self.issue(None, front, key, action, Some(level))));
            }
            if !self.wait_for(REST, "a write is answered", |world| {
                world.clients.open().next().map(|(id, operation)| operation.line(id))
            }) {
                return;
            }
            for (key, id) in asked {
                let operation = &self.clients.operations[&id];
                match operation.state {
                    State::Stored(stored) if !stored.superseded => {}
                    State::Refused => left.push(key),
                    _ => {
                        let text = operation.line(id);
                        return self.violate("every key can be written at last", Some(key), text);
                    }
                }
            }
            if left.is_empty() {
                return;
            }
        }
        self.violate(
            "every key can be written at last",
            left.first().copied(),
            format!("{} keys", left.len()),
        );
    }

    /// A listing shows exactly what can be read.
    fn check_scan(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let live: Vec<usize> = self.live().map(|(at, _)| at).collect();
        let front = self.random.pick(&live).unwrap_or(0);
        self.clients.pages.clear();
        let reverse = self.now.is_multiple_of(2);
        self.scan_on(front, 0, None, reverse);
        if !self.wait_for(REST, "a scan is answered", |world| {
            world.clients.open().next().map(|(id, operation)| operation.line(id))
        }) {
            return;
        }
        let collection = self.clients.keys[0].collection;
        for key in 0..self.clients.keys.len() {
            if self.clients.keys[key].collection != collection {
                continue;
            }
            let name = self.clients.keys[key].as_ref();
            let Some((_, engine)) = self.live().next() else { return };
            let owner = engine.placement().set_of(name, name.hash()).owners.iter().find_map(|owner| {
                self.members.iter().position(|member| member.id == owner.member && !member.lost)
            });
            let record = owner.and_then(|owner| self.held(owner, key));
            let name = &self.clients.keys[key].bytes;
            let listed = self.clients.pages.iter().filter(|(key, _)| key == name).map(|(_, stamp)| *stamp);
            let listed: Vec<Timestamp> = listed.collect();
            // What expires may be gone for one member and not for another.
            let expires = record.as_ref().is_some_and(|record| record.view().expiry_ms().is_some());
            let live = record.as_ref().filter(|record| record.view().kind().is_live());
            let expected: Vec<Timestamp> = live.map(|record| record.view().timestamp()).into_iter().collect();
            if listed != expected && !expires {
                let text = format!("m{front} lists {listed:?}; there is {record:?}");
                return self.violate("a scan lists what is there", Some(key), text);
            }
        }
    }
}
