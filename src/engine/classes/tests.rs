//! How collections come to be placed by themselves, shown on engines whose frames are carried by hand.

use super::*;
use crate::engine::copying::tests::{World, entry, has};
use crate::engine::operation::{Change, OperationError, Outcome, Scan, Write};
use crate::engine::remembered::tests::World as Disks;
use crate::engine::{Bounds, NOBODY};
use crate::model::key::SETTINGS;
use crate::model::placement::Step;
use crate::model::settings::Level;
use crate::model::settings::log;
use crate::model::{KeyRange, KeyRef, RecordRef};

const RECORDS: usize = 60;

/// What makes a replication factor of a collection's own, or takes it back.
fn change(collection: &str, copies: Option<u8>) -> Vec<u8> {
    let values = [("replication_factor".to_owned(), copies.map(|copies| copies.to_string()))];
    let collections = [(collection.to_owned(), BTreeMap::from(values))].into();
    log::Change { collections, ..log::Change::default() }.to_bytes()
}

fn set(engine: &mut Engine, version: &str, collection: &str, copies: Option<u8>) {
    let key = format!("{}{version}", log::CHANGE_PREFIX);
    let (key, value) = (KeyRef::new(SETTINGS, key.as_bytes()).unwrap(), change(collection, copies));
    engine.write_system(NOBODY, key, Change::Set { value: &value, expiry_ms: None });
}

/// Three complete members, all linked, that hold all records of the collection `c`.
fn world() -> World {
    let mut world = World::new(3, RECORDS);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(1_000);
    assert!(world.engines.iter().all(Engine::is_complete));
    world
}

fn in_force(engine: &Engine) -> Option<u8> {
    engine.settings().factors_in_force.get("c").copied()
}

fn holders(world: &World, number: usize) -> usize {
    world.engines.iter().filter(|engine| has(engine, number)).count()
}

/// Tick by tick until something is so.
fn wait(world: &mut World, what: &str, is_so: impl Fn(&World) -> bool) {
    for _ in 0..2_000 {
        if is_so(world) {
            return;
        }
        world.pass(50);
    }
    panic!("{what}");
}

#[test]
fn a_collection_is_placed_by_itself_where_it_was_and_nobody_copies_anything() {
    let mut world = world();
    set(&mut world.engines[0], "1", "c", Some(3));
    for _ in 0..100 {
        world.pass(50);
        assert!(world.engines.iter().all(Engine::is_complete));
        assert!((0..RECORDS).all(|number| holders(&world, number) == 3));
    }
    for engine in &world.engines {
        assert_eq!((in_force(engine), engine.placement().partitions()), (Some(3), 16));
        assert!(engine.complete_partitions().iter().all(|complete| *complete));
        assert_eq!(engine.unsorted_collections(), 0);
        let roots: Vec<u128> = engine.roots().collect();
        assert!(roots[..8].iter().all(|root| *root == 0) && roots[8..].iter().all(|root| *root != 0));
    }
}

#[test]
fn copies_of_one_collection_are_given_up_and_made_again_and_others_stay() {
    let mut world = world();
    let other = KeyRef::new("d", b"k").unwrap();
    let stored = Change::Set { value: b"v", expiry_ms: None };
    let write = Write { key: other, change: stored, level: Some(Level::One), after: 0 };
    world.engines[0].write(NOBODY, write);
    // What is given up twice waits for a checkpoint between, and there are none here.
    set(&mut world.engines[1], "1", "c", Some(2));
    wait(&mut world, "copies are given up", |world| {
        let settled = world.engines.iter().all(|engine| engine.placement().step().is_none());
        settled && (0..RECORDS).all(|number| holders(world, number) == 2)
    });
    assert!(world.engines.iter().all(|engine| engine.peek(other).is_some() && in_force(engine) == Some(2)));
    set(&mut world.engines[2], "2", "c", None);
    wait(&mut world, "copies are made", |world| {
        let settled = world.engines.iter().all(|engine| engine.placement().step().is_none());
        settled && (0..RECORDS).all(|number| holders(world, number) == 3)
    });
    assert!(world.engines.iter().all(|engine| in_force(engine) == Some(3) && engine.is_complete()));
}

#[test]
fn members_that_do_not_know_of_it_are_waited_for_before_a_collection_is_placed_by_itself() {
    let mut world = world();
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        world.cut(one, other);
    }
    set(&mut world.engines[0], "1", "c", Some(2));
    world.pass(10_000);
    assert_eq!((world.engines[0].placement().step(), in_force(&world.engines[0])), (Some(Step::Own), None));
    world.link(0, 1);
    wait(&mut world, "the second one knows", |world| in_force(&world.engines[1]) == Some(2));
    assert_eq!(in_force(&world.engines[2]), None, "nobody has told it");
    world.link(0, 2);
    world.link(1, 2);
    wait(&mut world, "all know", |world| {
        world.engines.iter().all(|engine| in_force(engine) == Some(2) && engine.placement().step().is_none())
    });
}

#[test]
fn a_member_that_was_away_while_copies_moved_takes_what_it_owns_now() {
    let mut world = world();
    for other in 0..2 {
        world.cut(2, other);
    }
    world.engines[0].liveness(entry(2).id(), false);
    world.engines[1].liveness(entry(2).id(), false);
    set(&mut world.engines[0], "1", "c", Some(2));
    wait(&mut world, "it goes on without the third", |world| {
        world.engines[..2].iter().all(|engine| in_force(engine) == Some(2))
    });
    world.engines[0].liveness(entry(2).id(), true);
    world.engines[1].liveness(entry(2).id(), true);
    world.link(2, 0);
    world.link(2, 1);
    wait(&mut world, "each has two copies", |world| {
        let settled = world.engines.iter().all(|engine| engine.is_complete() && in_force(engine) == Some(2));
        settled && (0..RECORDS).all(|number| holders(world, number) == 2)
    });
    world.assert_owners_have_all(0, &[0, 1, 2], RECORDS);
}

#[test]
fn who_speaks_a_protocol_without_classes_is_told_nothing_of_them() {
    let mut world = world();
    world.engines[0].link_speaks(entry(2).id(), CLASSES - 1);
    set(&mut world.engines[0], "1", "c", Some(3));
    wait(&mut world, "all know", |world| world.engines.iter().all(|engine| in_force(engine) == Some(3)));
    world.pass(1_000);
    let told = |world: &World, at: usize| {
        let first = world.engines[at].peer(entry(0).id()).unwrap();
        first.told.as_ref().map_or(0, |told| told.classes.len())
    };
    assert_eq!((told(&world, 1), told(&world, 2)), (1, 0));
    // Once it is upgraded it is told with the next link.
    world.cut(0, 2);
    world.engines[0].link_speaks(entry(2).id(), CLASSES);
    world.link(0, 2);
    world.pass(1_000);
    assert_eq!(told(&world, 2), 1);
}

#[test]
fn a_scan_that_waits_while_partitions_are_numbered_anew_is_refused_and_not_answered_without_its_records() {
    let mut world = world();
    world.pass(5_000);
    for other in 0..2 {
        world.cut(2, other);
        world.engines[other].liveness(entry(2).id(), false);
    }
    set(&mut world.engines[0], "1", "c", Some(3));
    wait(&mut world, "it goes on without the third", |world| {
        world.engines[..2].iter().all(|engine| in_force(engine) == Some(3))
    });
    world.link(2, 0);
    let front = &mut world.engines[2];
    // It can't vouch for its own, asks the first, and hears of the class before its question leaves.
    front.complete.fill(false);
    let (collection, keys) = ("c".to_owned(), KeyRange::default());
    let scan = Scan { collection, keys, reverse: false, keys_only: false, limit: 2 * RECORDS, held: false };
    front.scan(7, &scan);
    assert!(front.lanes.completions.iter().all(|completion| completion.token != 7), "it waits for the first");
    let system = world.engines[0].system_records();
    world.engines[2].take_system(&system);
    world.carry();
    assert_eq!(in_force(&world.engines[2]), Some(3));
    let mut told = world.engines[2].lanes.completions.iter().filter(|completion| completion.token == 7);
    let outcome = told.next().map(|completion| &completion.outcome);
    assert!(matches!(outcome, Some(Outcome::Failed(OperationError::Unreachable))), "{outcome:?}");
}

#[test]
fn a_start_is_complete_for_what_it_was_complete_for_of_each_collection() {
    let mut disks = Disks::new();
    for number in 0..20u8 {
        disks.put(&[number + 1]);
    }
    set(&mut disks.members[0].engine, "1", "c", Some(2));
    disks.pass(60_000);
    let complete = |disks: &Disks, at: usize| disks.members[at].engine.complete_partitions().to_vec();
    let before: Vec<Vec<bool>> = (0..3).map(|at| complete(&disks, at)).collect();
    assert!(before.iter().all(|bits| bits.len() == 4 && bits[..2] == [true, true]));
    assert_eq!(before.iter().flatten().filter(|complete| **complete).count(), 6 + 4);
    for (at, before) in before.iter().enumerate() {
        disks.start_again(at);
        assert_eq!(complete(&disks, at), *before, "{at}");
        assert_eq!(disks.members[at].engine.placement().layout().collections(), ["c"]);
    }
}

#[test]
fn what_is_complete_of_each_collection_holds_whole_however_much_of_it_was_written() {
    let mut world = world();
    set(&mut world.engines[0], "1", "c", Some(3));
    wait(&mut world, "it is placed by itself", |world| in_force(&world.engines[0]) == Some(3));
    let system = world.engines[0].system_records();
    let (mut records, mut rest) = (Vec::new(), &system[..]);
    while let Ok((record, tail)) = RecordRef::parse(rest) {
        rest = tail;
        journal::append(&mut records, &Entry::Record(record));
    }
    let mut engine = Engine::new(world.engines[0].identity(), Bounds::default(), 3);
    engine.take_system(&system);
    engine.end_turn();
    // All of it held, and one partition of the collection is lost.
    engine.complete.fill(true);
    engine.lanes.journal.clear();
    engine.note_complete();
    let before = std::mem::take(&mut engine.lanes.journal);
    engine.complete[8] = false;
    engine.note_complete();
    let after = std::mem::take(&mut engine.lanes.journal);
    let ends: Vec<usize> = journal::entries(&after).map(|entry| after.len() - entry.unwrap().1).collect();
    assert_eq!(ends.len(), 2);
    for (written, is_whole) in [(0, false), (ends[0], false), (ends[1], true)] {
        let mut started = Engine::new(engine.identity(), Bounds::default(), 3);
        for payload in [&records[..], &before[..], &after[..written]] {
            started.restore_journal(payload).unwrap();
        }
        started.restored(0, true);
        let complete = started.complete_partitions();
        assert_eq!(complete.len(), 16);
        assert_eq!(
            complete.iter().filter(|complete| !**complete).count(),
            usize::from(is_whole),
            "{written}"
        );
        assert_eq!(complete[8], !is_whole);
    }
}

#[test]
fn what_a_peer_told_counts_for_a_collection_that_it_did_not_know_to_be_placed_by_itself() {
    let layout = |names: &[&str]| Layout::new(1, names.iter().copied());
    let told = |classes: &[(&str, u8)]| Told {
        placement: 1,
        of_others: vec![0b01],
        classes: classes.iter().map(|(name, bits)| ((*name).to_owned(), vec![*bits])).collect(),
    };
    assert_eq!(told(&[]).bits(&layout(&[])), [0b01]);
    assert_eq!(told(&[]).bits(&layout(&["b"])), [0b0101], "it holds them among all others");
    assert_eq!(told(&[("b", 0b10)]).bits(&layout(&["a", "b"])), [0b10_0101]);
    assert_eq!(told(&[("b", 0b10)]).bits(&layout(&[])), [0b01]);
}
