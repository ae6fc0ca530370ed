//! Steps, shown on engines whose frames are carried by hand.

use super::*;
use crate::engine::copying::tests::{World, entry};
use crate::engine::operation::{Completion, OperationError, Outcome, Write};
use crate::model::roster::MemberState;
use crate::model::settings::Level;
use crate::model::{Kind, Record};

const RECORDS: usize = 60;

/// Three complete members, all linked, that keep so many copies of each record.
fn world(copies: u8) -> World {
    world_of(4, copies)
}

fn world_of(bits: u8, copies: u8) -> World {
    let mut world = World::new(bits, RECORDS);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(1_000);
    assert!(world.engines.iter().all(Engine::is_complete));
    for name in [REPLICATION_FACTOR_IN_FORCE, "replication_factor"] {
        set(&mut world, 0, name, copies);
    }
    world.pass(1_000);
    assert!(world.engines.iter().all(|engine| engine.placement().step().is_none()));
    world
}

fn set(world: &mut World, at: usize, name: &str, copies: u8) {
    let value = copies.to_string();
    let key = KeyRef::new(SETTINGS, name.as_bytes()).unwrap();
    let change = Change::Set { value: value.as_bytes(), expiry_ms: None };
    world.engines[at].write_system(NOBODY, key, change);
}

fn in_force(world: &World, at: usize) -> u8 {
    world.engines[at].settings().replication_factor_in_force
}

fn isolate(world: &mut World, member: usize) {
    for other in (0..3).filter(|other| *other != member) {
        world.cut(member, other);
    }
}

#[test]
fn a_higher_replication_factor_is_in_force_when_the_new_owners_are_complete_and_not_before() {
    let mut world = world(1);
    isolate(&mut world, 2);
    set(&mut world, 0, "replication_factor", 3);
    world.pass(10_000);
    assert_eq!((in_force(&world, 0), in_force(&world, 1)), (1, 1), "nobody knows what the third one has");
    let (ready, all) = world.engines[0].step_progress();
    assert!(ready < all, "{ready} of {all}");
    world.link(0, 2);
    world.link(1, 2);
    world.pass(5_000);
    for at in 0..3 {
        assert_eq!(in_force(&world, at), 3);
        world.assert_owners_have_all(at, &[0, 1, 2], RECORDS);
    }
}

/// The owners of the only partition, in order of preference.
fn ranked(world: &World) -> Vec<usize> {
    let owners = &world.engines[0].placement().set(0).owners;
    owners.iter().map(|owner| (0..3).find(|at| entry(*at).id() == owner.member).unwrap()).collect()
}

#[test]
fn a_lower_replication_factor_needs_as_many_owners_that_know_of_it_as_no_quorum_can_avoid() {
    let mut world = world_of(0, 3);
    let owners = ranked(&world);
    isolate(&mut world, owners[0]);
    set(&mut world, owners[0], "replication_factor", 2);
    world.pass(10_000);
    assert_eq!(in_force(&world, owners[0]), 3, "the others may write without it at a quorum");
    world.link(owners[0], owners[2]);
    world.pass(10_000);
    assert_eq!(in_force(&world, owners[2]), 2);
}

#[test]
fn an_owner_is_not_let_go_while_one_that_stays_is_damaged_and_may_need_it() {
    let mut world = world_of(0, 3);
    let owners = ranked(&world);
    isolate(&mut world, owners[2]);
    world.engines[owners[0]].lose_partition(0);
    set(&mut world, owners[1], "replication_factor", 2);
    world.pass(10_000);
    assert!(!world.engines[owners[0]].is_complete(), "what it lost may be with the third one only");
    assert_eq!(in_force(&world, owners[1]), 3);
    world.link(owners[0], owners[2]);
    world.link(owners[1], owners[2]);
    world.pass(10_000);
    assert!(world.engines[owners[0]].is_complete());
    assert_eq!(in_force(&world, owners[1]), 2);
}

#[test]
fn a_member_leaves_when_those_that_own_its_partitions_then_are_complete() {
    let mut world = world(1);
    let leaving = RosterEntry { state: MemberState::Leaving, ..entry(2) };
    world.engines[2].write_roster_entry(leaving.id(), &leaving);
    world.carry();
    world.cut(1, 2);
    world.cut(0, 1);
    world.pass(10_000);
    assert!(!world.engines[2].roster().is_removed(leaving.id()), "one of its heirs lacks what it has");
    assert!(!world.engines[2].has_taken_leave());
    world.link(1, 2);
    world.link(0, 1);
    // It compares what it holds with its heirs first.
    world.pass(60_000);
    for at in 0..3 {
        let removal = world.engines[at].roster().removal(leaving.id());
        assert_eq!(removal.map(|removal| removal.reason.as_str()), Some(LEFT));
        world.assert_owners_have_all(at, &[0, 1], RECORDS);
    }
    assert!(world.engines[2].has_taken_leave());
    assert_eq!(world.engines[2].placement().system().position(leaving.id()), None);
}

#[test]
fn of_two_that_leave_one_goes_after_the_other_and_the_last_one_stays() {
    let mut world = world(2);
    for at in 0..3 {
        let leaving = RosterEntry { state: MemberState::Leaving, ..entry(at) };
        world.engines[at].write_roster_entry(leaving.id(), &leaving);
        world.carry();
    }
    world.pass(20_000);
    let staying = (0..3).filter(|at| !world.engines[*at].roster().is_removed(entry(*at).id()));
    let staying: Vec<usize> = staying.collect();
    assert_eq!(staying.len(), 1);
    world.assert_owners_have_all(staying[0], &staying, RECORDS);
}

#[test]
fn a_member_moves_to_its_next_zone_by_a_step() {
    let mut world = world(2);
    for (at, zone) in [(0, "a"), (1, "a"), (2, "b")] {
        let moving = RosterEntry { next_zone: Some(zone.to_owned()), ..entry(at) };
        world.engines[at].write_roster_entry(moving.id(), &moving);
    }
    world.pass(10_000);
    for at in 0..3 {
        for (member, zone) in [(0, "a"), (1, "a"), (2, "b")] {
            let known = &world.engines[at].roster().get(entry(member).id()).unwrap().entry;
            assert_eq!((known.zone.as_str(), &known.next_zone), (zone, &None));
        }
        world.assert_owners_have_all(at, &[0, 1, 2], RECORDS);
    }
    let placement = world.engines[0].placement();
    assert!((0..16).all(|at| placement.set(at).contains(entry(2).id())), "one copy is in each zone");
}

#[test]
fn no_copy_is_given_up_while_an_owner_that_stays_is_not_complete() {
    let mut world = world(2);
    isolate(&mut world, 2);
    // One owner is damaged, and what it lost may be with another one only.
    for partition in 0..16 {
        world.engines[1].lose_partition(partition);
    }
    world.cut(0, 1);
    world.link(0, 1);
    set(&mut world, 0, "replication_factor", 1);
    world.pass(10_000);
    let is_lacking = |partition: &u16| {
        let set = world.engines[0].placement().set(*partition);
        set.contains(entry(1).id()) && !world.engines[1].complete_partitions()[usize::from(*partition)]
    };
    let lacking = (0..16).filter(is_lacking).count();
    assert_eq!((in_force(&world, 0), lacking > 0), (2, true), "it waits for the third one");
    world.link(1, 2);
    world.link(0, 2);
    world.pass(10_000);
    assert_eq!(in_force(&world, 0), 1);
    for at in 0..3 {
        world.assert_owners_have_all(at, &[0, 1, 2], RECORDS);
    }
}

#[test]
fn who_left_takes_no_write_though_it_hears_of_no_owner() {
    let mut world = world(1);
    let leaving = entry(2);
    let removal = Removal { name: leaving.name.clone(), reason: LEFT.to_owned() };
    world.engines[2].write_removal(NOBODY, leaving.id(), &removal);
    world.pass(100);
    isolate(&mut world, 2);
    for other in 0..2 {
        world.engines[2].liveness(entry(other).id(), false);
    }
    let write = Write {
        key: KeyRef::new("c", b"late").unwrap(),
        change: Change::Set { value: b"v", expiry_ms: None },
        level: Some(Level::One),
        after: 0,
    };
    world.engines[2].write(7, write);
    world.pass(100);
    let answers: Vec<Completion> = std::mem::take(&mut world.engines[2].lanes.completions);
    let answer = answers.into_iter().find(|answer| answer.token == 7).map(|answer| answer.outcome);
    assert!(matches!(answer, Some(Outcome::Failed(OperationError::Stopping))), "{answer:?}");
}

#[test]
fn nothing_is_done_for_who_is_fenced_though_it_knows_it_too() {
    let mut world = world(1);
    let fenced = entry(2);
    let removal = Removal { name: fenced.name.clone(), reason: "lost".to_owned() };
    world.engines[0].write_removal(NOBODY, fenced.id(), &removal);
    world.pass(1_000);
    assert!((0..3).all(|at| world.engines[at].roster().is_removed(fenced.id())));
    let names: Vec<String> = (0..20).map(|number| format!("late{number}")).collect();
    for name in &names {
        let key = KeyRef::new("c", name.as_bytes()).unwrap();
        let change = Change::Set { value: b"v", expiry_ms: None };
        world.engines[2].write(7, Write { key, change, level: Some(Level::One), after: 0 });
    }
    world.pass(5_000);
    for name in &names {
        let key = KeyRef::new("c", name.as_bytes()).unwrap();
        assert!((0..2).all(|at| world.engines[at].peek(key).is_none()), "{name}");
    }
}

#[test]
fn a_value_and_an_increment_behind_it_go_to_one_owner_whoever_catches_up() {
    for catching_up in [false, true] {
        let mut world = world_of(0, 2);
        let owners = ranked(&world);
        let front = (0..3).find(|at| !owners.contains(at)).unwrap();
        let first = entry(owners[0]).id();
        world.engines[front].peer_mut(first).unwrap().catching_up = catching_up;
        let key = KeyRef::new("default", b"k").unwrap();
        let set = Change::Set { value: b"5", expiry_ms: None };
        for (token, change) in [(7, set), (8, Change::Increment { delta: 1 })] {
            world.engines[front].write(token, Write { key, change, level: None, after: 0 });
        }
        world.carry();
        world.pass(1_000);
        for owner in owners {
            let table = &world.engines[owner].records.table;
            let record = Record::copy_of(table.record(table.find(key, key.hash()).unwrap()).unwrap());
            assert_eq!((record.view().kind(), record.view().total()), (Kind::Counter, 6), "{catching_up}");
        }
    }
}
