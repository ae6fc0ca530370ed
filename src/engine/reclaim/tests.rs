//! Whose clock a tombstone waits for, shown on two members of which one's clock is wrong: neither can tell whose.

use super::*;
use crate::engine::NOBODY;
use crate::engine::copying::tests::{World, entry};
use crate::engine::operation::{Change, Write};
use crate::model::key::SETTINGS;
use crate::model::roster::Removal;

const HOURS_MS: i64 = 4 * 3_600_000;
const KEYS: usize = 20;

/// Two complete members that both own everything, and no link between them.
fn apart() -> World {
    let mut world = World::new(2, 0);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    for name in ["replication_factor_in_force", "replication_factor"] {
        let key = KeyRef::new(SETTINGS, name.as_bytes()).unwrap();
        world.engines[0].write_system(NOBODY, key, Change::Set { value: b"3", expiry_ms: None });
    }
    world.pass(15_000);
    let removal = Removal { name: "m2".to_owned(), reason: "burnt".to_owned() };
    world.engines[0].write_removal(NOBODY, entry(2).id(), &removal);
    world.pass(1_000);
    assert!(world.engines[..2].iter().all(Engine::is_complete));
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.cut(one, other);
    }
    for (at, other) in [(0, 1), (1, 0)] {
        world.engines[at].liveness(entry(other).id(), false);
    }
    world
}

fn change(world: &mut World, name: &str, change: Change<'_>) {
    for number in 0..KEYS {
        let key = format!("{name}{number}");
        let key = KeyRef::new("c", key.as_bytes()).unwrap();
        world.engines[0].write(NOBODY, Write { key, change, level: None, after: 0 });
    }
    world.pass(100);
}

/// Tombstones of these keys that the two members hold.
fn held(world: &World, name: &str) -> usize {
    let keys: Vec<String> = (0..KEYS).map(|number| format!("{name}{number}")).collect();
    let key = |name: &String| KeyRef::new("c", name.as_bytes()).unwrap().hash();
    let table = |at: usize| &world.engines[at].records.table;
    let is_held = |at: usize, name: &String| {
        let slot = table(at).find_any(KeyRef::new("c", name.as_bytes()).unwrap(), key(name));
        slot.is_some_and(|slot| !table(at).has(slot, GONE))
    };
    (0..2).map(|at| keys.iter().filter(|name| is_held(at, name)).count()).sum()
}

fn meet(world: &mut World) {
    world.link(0, 1);
    for (at, other) in [(0, 1), (1, 0)] {
        world.engines[at].liveness(entry(other).id(), true);
    }
    world.pass(120_000);
}

#[test]
fn a_tombstone_ahead_of_another_members_clock_holds_up_no_other() {
    let mut world = apart();
    change(&mut world, "before", Change::Delete);
    world.ahead_ms[0] = HOURS_MS;
    world.pass(100);
    change(&mut world, "ahead", Change::Delete);
    meet(&mut world);
    assert_eq!((held(&world, "before"), held(&world, "ahead")), (0, 2 * KEYS));
    world.ahead_ms[1] = HOURS_MS + 60_000;
    world.pass(120_000);
    assert_eq!(held(&world, "ahead"), 0);
}

#[test]
fn a_tombstone_waits_for_the_clock_that_stamps_and_not_for_the_time_of_day() {
    let mut world = apart();
    change(&mut world, "before", Change::Delete);
    world.ahead_ms[0] = -HOURS_MS;
    world.pass(100);
    change(&mut world, "after", Change::Set { value: b"v", expiry_ms: None });
    meet(&mut world);
    assert_eq!(held(&world, "before"), 0);
}

#[test]
fn however_many_members_drive_reclaiming_each_is_asked_a_few_hundred_times_a_second_at_most() {
    // What was there before, what is there now, and the last look: three questions in a grace at the least.
    let asked_a_second = |members: usize| 3 * members as u64 * 1_000_000 / pause_us(members);
    assert!([2, 3, 5, 30, 100, 300, 1_000].into_iter().all(|members| asked_a_second(members) <= 300));
    assert_eq!(pause_us(5), POLL_US, "a few members don't wait for longer");
}
