//! What memory hides of redb is no difference between members.

use super::*;
use crate::engine::hints::HintKey;
use crate::engine::table::{SHADOW, SlotId};

/// Gives every member the same newer value of some keys that the first one has in redb only.
fn overwrite(world: &mut World, count: usize) {
    let numbers: Vec<usize> =
        (0..world.stored.len()).filter(|at| !has(&world.engines[0], *at)).take(count).collect();
    assert_eq!(numbers.len(), count, "so many are in redb only");
    let stamp = Timestamp { time: 5_000_000, member: entry(0).id() };
    for number in numbers {
        let newer = Record::value(record(number).view().key_ref().unwrap(), stamp, None, b"newer");
        for at in 0..3 {
            keep_to_itself(world, at, &newer);
        }
    }
}

fn passes(world: &World, at: usize) -> u64 {
    world.engines[at].counters().passes
}

/// How many records shadow something at a member: as counted, and as met.
fn shadows(world: &World, at: usize) -> usize {
    let table = &world.engines[at].records.table;
    let met = table.sweep(0, table.slots()).filter(|id: &SlotId| table.has(*id, SHADOW)).count();
    assert_eq!(table.shadows(), met);
    met
}

/// Whether anybody asked what a leaf holds.
fn anything_was_listed(world: &World) -> bool {
    world.questions.iter().any(|(_, question)| !matches!(question, Compare::Roots { .. }))
}

#[test]
fn records_over_such_as_left_memory_are_no_difference_whoever_begins() {
    // As many as are asked for at once, and more.
    for count in [60, 1_000] {
        for begins in 0..2 {
            let mut world = world(0, count + 100);
            overwrite(&mut world, count);
            assert_eq!(shadows(&world, 0), count);
            assert_ne!(roots(&world, 0), roots(&world, 1), "what they replaced is still in the tree");
            world.questions.clear();
            let before = passes(&world, begins);
            compare_from(&mut world, begins, 25_000);
            assert_eq!(shadows(&world, 0), 0);
            assert_eq!(roots(&world, 0), roots(&world, 1));
            assert!(passes(&world, begins) > before);
            assert!(!anything_was_listed(&world), "{:?}", world.questions);
            assert!(!world.engines[0].is_checkpointing(), "nobody had to write for that");
        }
    }
}

#[test]
fn also_those_are_set_right_that_nobody_noted_and_that_write_goes_on_beside() {
    let mut world = world(0, 3_000);
    overwrite(&mut world, 2_700);
    let stamp = Timestamp { time: 6_000_000, member: entry(0).id() };
    for number in 3_000..3_200 {
        let key = format!("trickle{number}");
        let value = Record::value(KeyRef::new("c", key.as_bytes()).unwrap(), stamp, None, b"x");
        keep_to_itself(&mut world, 0, &value);
        compare_from(&mut world, 1, 50);
    }
    assert_eq!(shadows(&world, 0), 0);
}

#[test]
fn a_settled_deletion_of_a_record_that_left_memory_hides_it_no_longer_than_others() {
    let mut world = world(0, 60);
    let evicted = (0..60).find(|number| !has(&world.engines[0], *number)).unwrap();
    let key = record(evicted);
    let key = key.view().key_ref().unwrap();
    let stamp = Timestamp { time: 5_000_000, member: entry(0).id() };
    for at in 0..3 {
        keep_to_itself(&mut world, at, &Record::tombstone(key, stamp));
        assert!(world.engines[at].records.settle(key, key.hash(), stamp));
    }
    assert_eq!(shadows(&world, 0), 1);
    compare_from(&mut world, 0, 12_000);
    assert_eq!(shadows(&world, 0), 0);
    assert_eq!(roots(&world, 0), roots(&world, 1));
}

#[test]
fn while_many_records_are_over_such_as_left_memory_passes_that_only_repeat_are_put_off() {
    for (begins, peer) in [(0, 1), (1, 0)] {
        let mut world = world(0, 200);
        world.load_us = u64::MAX / 2;
        overwrite(&mut world, 100);
        let compared = |world: &World| {
            let last = &world.engines[begins].peer(entry(peer).id()).unwrap().compared.last;
            last.as_ref().map(|last| last.began_us).unwrap()
        };
        let before = compared(&world);
        compare_from(&mut world, begins, 250_000);
        assert_eq!(compared(&world), before);
        // Not for ever.
        compare_from(&mut world, begins, 70_000);
        assert!(compared(&world) > before);
    }
}

#[test]
fn a_pass_that_is_needed_is_not_put_off() {
    let needs: [fn(&mut World); 5] = [
        |world| {
            world.cut(0, 1);
            world.link(0, 1);
        },
        |world| world.engines[0].is_leaving = true,
        |world| {
            world.engines[0].liveness(entry(1).id(), false);
            world.engines[0].liveness(entry(1).id(), true);
        },
        |world| world.engines[0].compare_at_once(entry(1).id()),
        |world| {
            let key = KeyRef::new("c", b"without room").unwrap();
            world.engines[0].settings.hint_bytes = 0;
            world.engines[0].note_hint_of(entry(1).id(), key.hash(), HintKey::of(key));
        },
    ];
    for (number, need) in needs.into_iter().enumerate() {
        let mut world = world(0, 200);
        world.load_us = u64::MAX / 2;
        overwrite(&mut world, 100);
        compare_from(&mut world, 0, 15_000);
        let before = passes(&world, 0);
        need(&mut world);
        compare_from(&mut world, 0, 25_000);
        let more = passes(&world, 0) - before;
        assert!(more >= 1, "{number}");
        if number > 1 {
            assert_eq!(more, 1, "{number}: the other peer's was put off, and the next one is");
        }
    }
}
