//! What a disk lost though it had said that it has it, shown on engines whose journals are kept by hand.

use crate::engine::copying::tests::entry;
use crate::engine::operation::{Change, Read, Write};
use crate::engine::{Bounds, Engine, Identity, Mode, NOBODY, Shortfall, TICK_US};
use crate::model::key::ROSTER;
use crate::model::roster::entry_key;
use crate::model::settings::Level;
use crate::model::{KeyRef, Now};

const WALL_MS: u64 = 1_800_000_000_000;

/// A member and what its disk has.
pub(in crate::engine) struct Member {
    pub(in crate::engine) engine: Engine,
    journal: Vec<Vec<u8>>,
}

fn start(at: usize, incarnation: u64, now: Now, journal: Vec<Vec<u8>>) -> Member {
    let who = Identity { member: entry(at).id(), incarnation, life: incarnation };
    let mut engine = Engine::new(who, Bounds::default(), 1);
    engine.advance(now);
    for payload in &journal {
        engine.restore_journal(payload).unwrap();
    }
    engine.restored(journal.iter().map(|payload| payload.len() as u64).sum(), true);
    engine.set_mode(Mode::Serving);
    Member { engine, journal }
}

pub(in crate::engine) struct World {
    pub(in crate::engine) members: Vec<Member>,
    links: Vec<(usize, usize, u64)>,
    last_link: u64,
    now_us: u64,
    /// Whether the second member's disk syncs.
    pub(in crate::engine) syncs: bool,
}

impl World {
    pub(in crate::engine) fn new() -> Self {
        let now = Now { wall_ms: WALL_MS, mono_us: 0 };
        let mut members: Vec<Member> = (0..3).map(|at| start(at, 1, now, Vec::new())).collect();
        let entries = (0..3).map(|at| (ROSTER, entry_key(entry(at).id()), entry(at).encode()));
        members[0].engine.create(&entries.collect::<Vec<_>>());
        let system = members[0].engine.system_records();
        members[1].engine.welcome(&system);
        members[2].engine.welcome(&system);
        let mut world = Self { members, links: Vec::new(), last_link: 0, now_us: 0, syncs: true };
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            world.link(one, other);
        }
        world.pass(40_000);
        assert!(world.members.iter().all(|member| member.engine.is_complete()));
        world
    }

    pub(in crate::engine) fn link(&mut self, one: usize, other: usize) {
        self.last_link += 1;
        for (at, peer) in [(one, other), (other, one)] {
            let who = self.members[peer].engine.identity();
            let engine = &mut self.members[at].engine;
            engine.check_life(who.member, who.incarnation, who.life).unwrap();
            engine.link_up(who.member, self.last_link);
            self.links.push((at, peer, self.last_link));
        }
    }

    pub(in crate::engine) fn carry(&mut self) {
        let mut quiet = false;
        while !std::mem::replace(&mut quiet, true) {
            for (at, Member { engine, journal }) in self.members.iter_mut().enumerate() {
                engine.end_turn();
                if !engine.lanes.journal.is_empty() {
                    journal.push(engine.lanes.journal.clone());
                }
                engine.written();
                if self.syncs || at != 1 {
                    engine.synced(engine.positions().written);
                }
            }
            for (from, to, link) in self.links.clone() {
                let mut bytes = Vec::new();
                if self.members[from].engine.take_frame(entry(to).id(), &mut bytes) {
                    quiet = false;
                    self.members[to].engine.frame(entry(from).id(), link, &bytes).unwrap();
                }
            }
        }
    }

    pub(in crate::engine) fn pass(&mut self, time_ms: u64) {
        let end_us = self.now_us + 1_000 * time_ms;
        while self.now_us < end_us {
            self.now_us += TICK_US;
            let now = self.now();
            for member in &mut self.members {
                member.engine.advance(now);
                member.engine.tick();
            }
            self.carry();
        }
    }

    const fn now(&self) -> Now {
        Now { wall_ms: WALL_MS + self.now_us / 1_000, mono_us: self.now_us }
    }

    /// Stores a key at the first member.
    pub(in crate::engine) fn put(&mut self, key: &[u8]) {
        self.put_value(key, b"v");
    }

    pub(in crate::engine) fn put_value(&mut self, key: &[u8], value: &[u8]) {
        let key = KeyRef::new("c", key).unwrap();
        let change = Change::Set { value, expiry_ms: None };
        self.members[0].engine.write(NOBODY, Write { key, change, level: Some(Level::One), after: 0 });
        self.carry();
    }

    pub(in crate::engine) fn has(&self, at: usize, key: &[u8]) -> bool {
        self.members[at].engine.peek(KeyRef::new("c", key).unwrap()).is_some()
    }

    /// A member's power fails: its disk keeps the first `kept` payloads. It is not linked yet.
    fn restart(&mut self, at: usize, kept: usize) {
        for (from, to, link) in self.links.extract_if(.., |(from, to, _)| *from == at || *to == at) {
            self.members[from].engine.link_down(entry(to).id(), link);
        }
        let mut journal = std::mem::take(&mut self.members[at].journal);
        journal.truncate(kept);
        let incarnation = self.members[at].engine.identity().incarnation + 1;
        self.members[at] = start(at, incarnation, self.now(), journal);
    }

    /// A member's process stops in order.
    pub(in crate::engine) fn stop(&mut self, at: usize) {
        let Member { engine, journal } = &mut self.members[at];
        engine.stop();
        journal.push(std::mem::take(&mut engine.lanes.journal));
    }

    /// A process that ended starts with all that its journal has. It is not linked yet.
    pub(in crate::engine) fn start_again(&mut self, at: usize) {
        let kept = self.members[at].journal.len();
        self.restart(at, kept);
    }

    fn shortfall(&self, at: usize) -> Option<Shortfall> {
        self.members[at].engine.shortfall()
    }

    /// Writes a key that all confirm, and lets the second member lose it.
    fn lose_at_second(&mut self) {
        let kept = self.members[1].journal.len();
        self.put(b"k");
        // Long enough for everybody to be told how far it has come.
        self.pass(5_000);
        assert!(self.has(1, b"k"));
        self.restart(1, kept);
        assert!(!self.has(1, b"k") && self.members[1].engine.is_complete());
    }
}

#[test]
fn who_lost_what_it_had_confirmed_is_told_by_a_peer_and_copies_it_again() {
    let mut world = World::new();
    world.lose_at_second();
    world.link(0, 1);
    world.carry();
    let shortfall = world.shortfall(1).unwrap();
    assert_eq!((shortfall.peer, shortfall.incarnation), (entry(0).id(), 1));
    assert!(shortfall.told > shortfall.found);
    assert_eq!(world.members[1].engine.counters().lost_syncs, 1);
    world.pass(40_000);
    assert!(!world.members[1].engine.is_complete(), "what it lost may be with the third one only");
    world.link(1, 2);
    world.pass(1_000);
    assert!(world.has(1, b"k") && world.members[1].engine.is_complete());
}

#[test]
fn nobody_reads_from_it_before_it_is_complete_again() {
    let mut world = World::new();
    world.lose_at_second();
    let owned = |world: &World, at: usize| {
        let partitions =
            (0..2).filter(|partition| world.members[at].engine.is_complete_at(entry(1).id(), *partition));
        partitions.count()
    };
    world.link(0, 1);
    world.link(1, 2);
    // Turn by turn: at no time does it pass for complete without the record.
    for _ in 0..2_000 {
        world.pass(50);
        assert!(owned(&world, 1) == 0 || world.has(1, b"k"));
        assert!(owned(&world, 0) == 0 || world.has(1, b"k"));
    }
    assert!(owned(&world, 0) == 2);
}

#[test]
fn who_lost_only_what_it_had_not_confirmed_is_told_nothing() {
    let mut world = World::new();
    world.put(b"k");
    world.pass(5_000);
    let kept = world.members[1].journal.len();
    world.syncs = false;
    world.put(b"lost");
    assert!(world.members[1].journal.len() > kept);
    world.syncs = true;
    world.restart(1, kept);
    world.link(0, 1);
    world.link(1, 2);
    world.pass(5_000);
    assert_eq!(world.shortfall(1), None);
    assert!(world.has(1, b"k"));
}

#[test]
fn a_peer_that_was_away_for_a_life_still_tells_what_it_knows() {
    let mut world = World::new();
    world.lose_at_second();
    // The first life after it meets nobody, and writes on beyond where the other one ended.
    for _ in 0..100 {
        world.members[1].engine.write_system(
            NOBODY,
            KeyRef::new(crate::model::key::SETTINGS, b"write_timeout").unwrap(),
            Change::Set { value: b"2s", expiry_ms: None },
        );
        world.carry();
    }
    let kept = world.members[1].journal.len();
    world.restart(1, kept);
    assert_eq!(world.shortfall(1), None);
    world.link(1, 2);
    world.carry();
    assert_eq!(world.shortfall(1).unwrap().incarnation, 1);
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let mut world = World::new();
    world.lose_at_second();
    world.link(0, 1);
    world.pass(40_000);
    world.link(1, 2);
    world.pass(1_000);
    assert_eq!(world.members[1].engine.counters().lost_syncs, 1);
    let kept = world.members[1].journal.len();
    world.restart(1, kept);
    world.link(0, 1);
    world.link(1, 2);
    world.pass(40_000);
    assert_eq!(world.shortfall(1), None);
    assert!(world.members[1].engine.is_complete());
}

impl World {
    fn write(&mut self, at: usize, key: &[u8], change: Change<'_>) {
        let key = KeyRef::new("c", key).unwrap();
        self.members[at].engine.write(NOBODY, Write { key, change, level: Some(Level::One), after: 0 });
        self.carry();
    }

    /// A key that all have is deleted, and nobody knows any more that it was there but the second member, whose
    /// disk loses the rest. It is not linked yet. Gives what its disk had.
    fn delete_and_forget(&mut self) -> Vec<Vec<u8>> {
        self.put(b"k");
        self.pass(5_000);
        let kept = self.members[1].journal.len();
        self.write(0, b"k", Change::Delete);
        self.pass(30_000);
        assert!(self.members.iter().all(|member| member.engine.counters().tombstones_reclaimed == 1));
        self.restart(1, kept);
        assert!(self.has(1, b"k") && self.members[1].engine.is_complete());
        self.members[1].journal.clone()
    }

    fn unlink(&mut self, one: usize, other: usize) {
        let is_it = |from: usize, to: usize| (from, to) == (one, other) || (from, to) == (other, one);
        for (from, to, link) in self.links.extract_if(.., |(from, to, _)| is_it(*from, *to)) {
            self.members[from].engine.link_down(entry(to).id(), link);
        }
    }

    fn link_all(&mut self) {
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            if !self.links.iter().any(|(from, to, _)| (*from, *to) == (one, other)) {
                self.link(one, other);
            }
        }
    }

    /// Turn by turn nobody takes the key from the second member, and at last it is nowhere.
    fn assert_forgotten(&mut self) {
        for _ in 0..800 {
            self.pass(50);
            assert!(!self.has(0, b"k") && !self.has(2, b"k"), "it has returned");
        }
        assert!(!self.has(1, b"k") && self.members[1].engine.is_complete());
    }
}

#[test]
fn what_was_deleted_and_forgotten_does_not_return_from_a_disk_that_lied() {
    let mut world = World::new();
    world.delete_and_forget();
    world.link_all();
    world.assert_forgotten();
}

#[test]
fn who_forgets_a_deletion_knows_after_a_restart_what_the_others_had_confirmed() {
    let mut world = World::new();
    world.delete_and_forget();
    world.restart(0, usize::MAX);
    world.restart(2, usize::MAX);
    world.link_all();
    world.assert_forgotten();
}

#[test]
fn who_is_rebuilt_waits_for_owners_that_have_just_started_too() {
    let mut world = World::new();
    world.delete_and_forget();
    // These two have something to compare, so they catch up for a while.
    world.unlink(0, 2);
    world.put(b"x");
    world.pass(5_000);
    let hash = KeyRef::new("c", b"x").unwrap().hash();
    for other in [1, 2] {
        assert!(world.members[0].engine.hint_done(entry(other).id(), hash, None));
    }
    world.restart(0, usize::MAX);
    world.restart(2, usize::MAX);
    world.link_all();
    world.assert_forgotten();
    assert!((0..3).all(|at| world.has(at, b"x")));
}

#[test]
fn a_restart_goes_on_with_the_rebuilding() {
    let mut world = World::new();
    world.delete_and_forget();
    world.link(0, 1);
    world.carry();
    assert!(world.shortfall(1).is_some() && world.has(1, b"k"));
    world.restart(1, usize::MAX);
    world.link_all();
    world.assert_forgotten();
    assert_eq!(world.shortfall(1), None, "nobody tells it again");
}

#[test]
fn what_comes_while_a_member_is_rebuilt_stays() {
    let mut world = World::new();
    world.delete_and_forget();
    world.link(0, 1);
    world.carry();
    world.put(b"new");
    assert!(world.has(1, b"new"));
    world.link_all();
    world.assert_forgotten();
    assert!((0..3).all(|at| world.has(at, b"new")));
}

#[test]
fn what_a_read_finds_at_who_has_just_started_is_not_spread() {
    let mut world = World::new();
    world.delete_and_forget();
    // The second one answers before the third; it is rebuilt only when it has met that, too.
    world.unlink(0, 2);
    world.link(0, 1);
    world.link(0, 2);
    for _ in 0..20 {
        world.pass(50);
        let key = KeyRef::new("c", b"k").unwrap();
        world.members[0].engine.read(NOBODY, Read { key, level: Some(Level::Quorum) });
        world.carry();
        assert!(world.has(1, b"k") && !world.has(0, b"k") && !world.has(2, b"k"));
    }
}

#[test]
fn a_counter_that_was_deleted_and_begun_anew_counts_nothing_of_before() {
    let mut world = World::new();
    world.write(0, b"n", Change::Increment { delta: 5 });
    world.pass(5_000);
    let kept = world.members[1].journal.len();
    world.write(0, b"n", Change::Delete);
    world.pass(30_000);
    assert!(world.members.iter().all(|member| member.engine.counters().tombstones_reclaimed == 1));
    world.restart(1, kept);
    world.write(0, b"n", Change::Increment { delta: 2 });
    world.link_all();
    world.pass(40_000);
    for member in &world.members {
        let found = member.engine.peek(KeyRef::new("c", b"n").unwrap()).unwrap();
        assert_eq!(found.total(), 2);
    }
}

impl World {
    /// A write at one member alone: journalled, synced and acknowledged before any frame leaves.
    fn acknowledge_alone(&mut self, at: usize, key: &[u8], change: Change<'_>) {
        let key = KeyRef::new("c", key).unwrap();
        let member = &mut self.members[at];
        member.engine.lanes.completions.clear();
        member.engine.write(7, Write { key, change, level: Some(Level::One), after: 0 });
        for _ in 0..2 {
            let Member { engine, journal } = &mut self.members[at];
            engine.end_turn();
            if !engine.lanes.journal.is_empty() {
                journal.push(engine.lanes.journal.clone());
            }
            engine.written();
            engine.synced(engine.positions().written);
            engine.end_turn();
            self.now_us += TICK_US;
            let now = self.now();
            self.members[at].engine.advance(now);
        }
        let done = std::mem::take(&mut self.members[at].engine.lanes.completions);
        assert!(format!("{done:?}").contains("Stored"), "{done:?}");
    }

    fn total(&self, at: usize, key: &[u8]) -> Option<i64> {
        let found = self.members[at].engine.peek(KeyRef::new("c", key).unwrap());
        found.map(|found| found.total())
    }

    /// How far the journals of all are, as a deletion that is reclaimed makes all owners remember durably.
    fn journals(&self) -> Vec<(crate::model::MemberId, u64, u64)> {
        let of = |engine: &Engine| {
            let who = engine.identity();
            (who.member, who.incarnation, engine.durable_position())
        };
        self.members.iter().map(|member| of(&member.engine)).collect()
    }
}

#[test]
fn what_is_acknowledged_while_a_member_is_rebuilt_survives_its_kill() {
    let mut world = World::new();
    world.lose_at_second();
    world.link(0, 1);
    world.pass(5_000);
    world.link(1, 2);
    world.carry();
    assert!(world.members[1].engine.rebuilding.is_active());
    // It stamps itself while it knows of no complete owner.
    for other in [0, 2] {
        let other = world.members[other].engine.identity().member;
        world.members[1].engine.peer_mut(other).unwrap().catching_up = true;
    }
    world.acknowledge_alone(1, b"acknowledged", Change::Set { value: b"v", expiry_ms: None });
    world.restart(1, usize::MAX);
    assert!(world.members[1].engine.rebuilding.is_active() && world.has(1, b"acknowledged"));
    world.link_all();
    world.pass(40_000);
    assert!((0..3).all(|at| world.has(at, b"acknowledged")));
}

#[test]
fn what_is_counted_before_a_member_knows_that_it_lost_something_counts() {
    let mut world = World::new();
    world.write(0, b"n", Change::Increment { delta: 5 });
    world.pass(5_000);
    world.lose_at_second();
    world.pass(5_000);
    world.acknowledge_alone(1, b"n", Change::Increment { delta: 2 });
    world.link_all();
    world.pass(40_000);
    assert_eq!(world.members[1].engine.counters().lost_syncs, 1);
    assert!((0..3).all(|at| world.total(at, b"n") == Some(7)));
}

impl World {
    /// One more record comes; then the first members restart with so much of their journals, all know that these were
    /// longer, and yet what two of them kept is everywhere at last.
    fn assert_kept_after(&mut self, kept: &[usize]) {
        self.put(b"kept by none");
        self.pass(5_000);
        let journals = self.journals();
        for (at, kept) in kept.iter().enumerate() {
            self.restart(at, *kept);
        }
        for member in &mut self.members {
            member.engine.remember_durably(&journals);
        }
        self.link_all();
        self.pass(60_000);
        assert!((0..3).all(|at| self.has(at, b"before") && self.has(at, b"kept by two")));
    }
}

#[test]
fn what_several_members_kept_stays_though_each_of_them_lost_something() {
    let mut world = World::new();
    world.put(b"before");
    world.pass(5_000);
    let first = world.members[0].journal.len();
    world.put(b"kept by two");
    world.pass(5_000);
    let kept: Vec<usize> = world.members.iter().map(|member| member.journal.len()).collect();
    world.assert_kept_after(&[first, kept[1], kept[2]]);
}

#[test]
fn what_two_members_kept_stays_though_the_third_never_had_it() {
    let mut world = World::new();
    world.put(b"before");
    world.pass(5_000);
    for other in [0, 1] {
        world.unlink(other, 2);
    }
    world.put(b"kept by two");
    world.pass(1_000);
    let kept: Vec<usize> = world.members.iter().map(|member| member.journal.len()).collect();
    world.assert_kept_after(&kept[..2]);
}

#[test]
fn who_was_alone_after_its_start_hints_nothing_of_what_it_found_before_it_is_told() {
    let mut world = World::new();
    world.put(b"k");
    let kept = world.members[1].journal.len();
    world.pass(5_000);
    world.write(0, b"k", Change::Delete);
    world.pass(30_000);
    assert!(world.members.iter().all(|member| member.engine.counters().tombstones_reclaimed == 1));
    world.restart(1, kept);
    assert!(world.has(1, b"k") && world.members[1].engine.is_complete());
    world.pass(3_000);
    world.link_all();
    world.assert_forgotten();
}
