//! What is told of convergence, shown on engines whose frames are carried by hand.

use super::*;
use crate::engine::copying::tests::{World, entry};
use crate::engine::operation::{Change, Write};
use crate::engine::{Bounds, Identity, NOBODY};
use crate::model::Record;
use crate::model::key::SETTINGS;

/// Three complete members, all linked, that all own everything.
fn world() -> World {
    let mut world = World::new(2, 20);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(1_000);
    for name in ["replication_factor_in_force", "replication_factor"] {
        let key = KeyRef::new(SETTINGS, name.as_bytes()).unwrap();
        world.engines[0].write_system(NOBODY, key, Change::Set { value: b"3", expiry_ms: None });
    }
    world.pass(15_000);
    world
}

fn with(world: &World, at: usize, other: usize) -> PeerConvergence {
    let member = entry(other).id();
    world.engines[at].peer_convergence().find(|peer| peer.member == member).unwrap()
}

fn roots(world: &World, at: usize) -> Vec<(u16, u64)> {
    world.engines[at].owned_roots().collect()
}

fn write(world: &mut World, at: usize, key: &[u8]) {
    let key = KeyRef::new("c", key).unwrap();
    let change = Change::Set { value: b"v", expiry_ms: None };
    world.engines[at].write(NOBODY, Write { key, change, level: None, after: 0 });
}

#[test]
fn a_member_that_is_away_lags_and_has_hints_until_it_was_compared_again() {
    let mut world = world();
    assert_eq!(roots(&world, 0).len(), 4);
    let before = with(&world, 0, 2);
    assert!(before.is_reachable && before.lag_us.unwrap() < 15_000_000, "{before:?}");
    world.cut(0, 2);
    world.cut(1, 2);
    write(&mut world, 0, b"new");
    world.pass(30_000);
    let away = with(&world, 0, 2);
    assert_eq!((away.is_reachable, away.hints), (false, 1));
    assert!(away.lag_us.unwrap() >= 30_000_000, "{away:?}");
    assert!(with(&world, 0, 1).lag_us.unwrap() < 15_000_000);
    assert_eq!(roots(&world, 0), roots(&world, 1));
    assert_ne!(roots(&world, 0), roots(&world, 2));

    world.link(0, 2);
    world.link(1, 2);
    world.pass(10_000);
    let back = with(&world, 0, 2);
    assert_eq!((back.is_reachable, back.hints, back.records_under_way), (true, 0, 0));
    assert!(back.lag_us.unwrap() < 15_000_000, "{back:?}");
    assert_eq!(roots(&world, 0), roots(&world, 2));
}

#[test]
fn a_write_that_lost_to_a_concurrent_one_is_noted_where_it_met_it() {
    let mut world = world();
    // Both fronts own the key, so each stamps without knowing of the other.
    write(&mut world, 0, b"both");
    write(&mut world, 1, b"both");
    world.pass(1_000);
    let at: Vec<Vec<&Superseded>> =
        world.engines.iter().map(|engine| engine.latest_superseded().collect()).collect();
    let lost: Vec<&&Superseded> = at.iter().flatten().collect();
    assert!(!lost.is_empty());
    for write in &lost {
        assert_eq!((write.collection.as_str(), write.key.as_slice()), ("c", &b"both"[..]));
        assert!(write.timestamp < write.winner, "{write:?}");
    }
    let loser = lost[0].timestamp.member;
    assert!(lost.iter().all(|write| write.timestamp.member == loser));
    let winner = usize::from(loser == entry(0).id());
    assert_eq!(at[winner].len(), 1, "who stamped the winner met the other one");
    assert_eq!(world.engines[winner].counters().superseded_records, 1);
}

fn engine() -> Engine {
    Engine::new(Identity { member: MemberId(1), incarnation: 1, life: 1 }, Bounds::default(), 4)
}

#[test]
fn only_the_latest_of_the_writes_that_lost_are_kept_and_all_are_counted() {
    let mut engine = engine();
    let stamp = |time: usize| Timestamp { time: time as u64, member: MemberId(1) };
    for number in 0..KEPT + 10 {
        let key = number.to_string();
        let key = KeyRef::new("c", key.as_bytes()).unwrap();
        engine.note_superseded(key, stamp(number), stamp(number + 1));
    }
    let system = KeyRef::new(SETTINGS, b"k").unwrap();
    engine.note_superseded(system, stamp(1), stamp(2));
    let kept: Vec<Vec<u8>> = engine.latest_superseded().map(|lost| lost.key.clone()).collect();
    assert_eq!((kept.len(), kept[0].as_slice()), (KEPT, (KEPT + 9).to_string().as_bytes()));
    assert_eq!(engine.counters().superseded_records, KEPT as u64 + 10);
}

#[test]
fn tombstones_are_counted_once_each_however_many_laps_the_sweep_takes() {
    let mut engine = engine();
    assert_eq!(engine.tombstone_counts(), Tombstones::default());
    for number in 0..10_000_usize {
        let key = number.to_string();
        let (key, stamp) =
            (KeyRef::new("c", key.as_bytes()).unwrap(), Timestamp { time: 9, member: MemberId(1) });
        let record = match number % 2 {
            0 => Record::tombstone(key, stamp),
            _ => Record::value(key, stamp, None, b"v"),
        };
        engine.restore_record(record.view());
    }
    for _ in 0..20 {
        engine.tick();
    }
    assert_eq!(engine.tombstone_counts(), Tombstones { waiting: 5_000, settled: 0 });
}
