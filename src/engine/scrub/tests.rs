//! What becomes of damaged records, shown on engines whose redb is a list.

use super::*;
use crate::engine::NOBODY;
use crate::engine::copying::tests::{World, has, record};
use crate::engine::operation::Change;
use crate::model::key::SETTINGS;

const RECORDS: usize = 300;

/// Three members that hold the same; what the first one holds in its redb, no more than `table_bytes` of it
/// in memory too. All have started long enough ago to be complete, and no scrub has begun.
fn complete(table_bytes: usize) -> World {
    let mut world = World::with_table(0, RECORDS, table_bytes);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        world.link(one, other);
    }
    world.pass(9_000);
    assert!(world.engines.iter().all(Engine::is_complete));
    assert_eq!(world.engines[0].last_scrub(), None);
    world
}

fn roots(engine: &Engine) -> Vec<u128> {
    engine.records.trees.roots().collect()
}

fn assert_whole_again(world: &World) {
    assert!(world.engines[0].is_complete() && (0..RECORDS).all(|number| !is_missing(world, number)));
    assert_eq!(roots(&world.engines[0]), roots(&world.engines[1]));
}

/// Whether the first member surely does not have a record.
fn is_missing(world: &World, number: usize) -> bool {
    let stored = world.stored.iter().any(|stored| *stored == record(number));
    let damaged = world.damaged.contains(&record(number));
    (!stored || damaged) && !has(&world.engines[0], number)
}

#[test]
fn what_is_damaged_in_redb_comes_again_from_another_member() {
    let mut world = complete(0);
    world.damaged = [3, 17, 18].map(record).to_vec();
    assert!(is_missing(&world, 17));
    world.pass(40_000);
    let engine = &world.engines[0];
    let round = engine.last_scrub().unwrap();
    assert_eq!(round.damaged, 3);
    assert!(round.records >= RECORDS as u64 - 3);
    assert_eq!(engine.counters().damaged_records, 3);
    assert!(engine.counters().mended_leaves > 0);
    assert_whole_again(&world);
}

#[test]
fn what_is_in_memory_too_is_only_written_again() {
    let mut world = complete(usize::MAX);
    let dirty = world.engines[0].records.table.dirty();
    world.damaged = vec![record(5)];
    for _ in 0..800 {
        world.pass(50);
        assert!(world.engines[0].is_complete());
    }
    assert_eq!(world.engines[0].last_scrub().unwrap().damaged, 1);
    assert_eq!(world.engines[0].records.table.dirty(), dirty + 1);
    assert_whole_again(&world);
}

#[test]
fn what_a_store_that_was_built_anew_lacks_comes_again_from_another_member() {
    let mut world = complete(0);
    world.stored.drain(10..20);
    world.engines[0].store_rebuilt();
    assert!(!world.engines[0].is_complete() && is_missing(&world, 12));
    world.pass(40_000);
    assert_eq!(world.engines[0].counters().stores_rebuilt, 1);
    assert_whole_again(&world);
}

#[test]
fn a_round_ends_and_the_next_one_waits() {
    let mut world = complete(0);
    world.pass(40_000);
    let engine = &world.engines[0];
    assert_eq!((engine.counters().scrub_rounds, engine.last_scrub().unwrap().damaged), (1, 0));
    world.pass(300_000);
    assert_eq!(world.engines[0].counters().scrub_rounds, 1);
    world.pass(400_000);
    assert_eq!(world.engines[0].counters().scrub_rounds, 2);
}

#[test]
fn the_setting_paces_the_scrub_and_turns_it_off() {
    let set = |world: &mut World, value: &'static [u8]| {
        let key = KeyRef::new(SETTINGS, b"scrub_bytes_per_second").unwrap();
        world.engines[0].write_system(NOBODY, key, Change::Set { value, expiry_ms: None });
        world.pass(50);
    };
    let mut world = complete(0);
    set(&mut world, b"0");
    world.pass(30_000);
    assert_eq!(world.engines[0].counters().scrubbed_records, 0);
    // Two pages a second, and a record on each.
    set(&mut world, b"8KiB");
    world.pass(10_000);
    let scrubbed = world.engines[0].counters().scrubbed_records;
    assert!((15..=21).contains(&scrubbed), "{scrubbed}");
}
