//! When passes begin, shown on engines whose frames are carried by hand.

use crate::engine::NOBODY;
use crate::engine::operation::Change;
use crate::engine::remembered::tests::World;
use crate::model::KeyRef;
use crate::model::key::SETTINGS;

/// The first of three members stored so many records while the third was away; the second has them, too. The
/// third has just started again and is linked. Repairs are as slow as they can be: 64 KiB a second.
fn returned(records: usize, value_bytes: usize) -> World {
    let mut world = World::new();
    let slow = KeyRef::new(SETTINGS, b"repair_bytes_per_second").unwrap();
    let change = Change::Set { value: b"64KiB", expiry_ms: None };
    world.members[0].engine.write_system(NOBODY, slow, change);
    world.pass(1_000);
    world.stop(2);
    for number in 0..records {
        world.put_value(format!("k{number}").as_bytes(), &vec![7; value_bytes]);
    }
    world.start_again(2);
    world.link(0, 2);
    world.link(1, 2);
    world
}

fn count(world: &World, records: usize) -> usize {
    (0..records).filter(|number| world.has(2, format!("k{number}").as_bytes())).count()
}

#[test]
fn what_one_peer_hints_is_not_fetched_from_another() {
    let mut world = returned(1_000, 1_000);
    world.pass(12_000);
    assert!((1..1_000).contains(&count(&world, 1_000)), "the hints take longer than that");
    world.pass(12_000);
    assert_eq!(count(&world, 1_000), 1_000);
    let third = &world.members[2].engine;
    assert!(third.counters().passes > 0 && !third.is_catching_up());
    assert_eq!(third.counters().repairs_taken, 0);
}

#[test]
fn hints_that_do_not_come_are_not_waited_for() {
    let mut world = returned(20, 300_000);
    world.pass(35_000);
    assert_eq!(count(&world, 20), 20, "the second one has what the first is slow to send");
    assert!(world.members[2].engine.counters().repairs_taken > 0);
    assert!(world.members[0].engine.hints.pending() > 0);
}
