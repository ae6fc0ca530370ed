//! What a member holds for others, shown on engines whose frames are carried by hand.

use crate::engine::copying::tests::World;
use crate::engine::operation::{Change, Write};
use crate::engine::{Loaded, NOBODY};
use crate::model::KeyRef;
use crate::model::key::SETTINGS;
use crate::model::settings::{Level, REPLICATION_FACTOR_IN_FORCE};

const KEY: &[u8] = b"held";

fn key() -> KeyRef<'static> {
    KeyRef::new("c", KEY).unwrap()
}

/// Three members that keep one copy of each record, and the one that owns the key.
fn world() -> (World, usize) {
    let mut world = World::new(4, 0);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(1_000);
    for name in [REPLICATION_FACTOR_IN_FORCE, "replication_factor"] {
        let name = KeyRef::new(SETTINGS, name.as_bytes()).unwrap();
        world.engines[0].write_system(NOBODY, name, Change::Set { value: b"1", expiry_ms: None });
    }
    world.pass(1_000);
    let set = world.engines[0].placement().set_of(key(), key().hash());
    assert_eq!(set.owners.len(), 1);
    let owner = set.owners[0].member;
    let at = (0..3).find(|at| world.engines[*at].identity().member == owner).unwrap();
    (world, at)
}

#[test]
fn what_redb_has_to_be_asked_about_first_counts_as_held() {
    let (mut world, owner) = world();
    let front = &mut world.engines[(owner + 1) % 3];
    assert!(front.holds_nothing_foreign());
    front.resolve_later(key(), key().hash());
    let partition = front.placement().partition_of(key(), key().hash());
    assert_eq!(front.foreign_partitions().collect::<Vec<_>>(), [partition]);
    assert!(!front.holds_nothing_foreign());
    let load = front.lanes.loads.pop().unwrap();
    front.loaded(&load, Loaded::Absent);
    assert!(front.holds_nothing_foreign());
}

/// A hint may find no room: it may be for somebody who became an owner while there was none, or for a link that
/// ended then.
#[test]
fn the_only_copy_reaches_its_owners_also_when_no_hint_is_left_of_it() {
    let (mut world, owner) = world();
    let (front, other) = ((owner + 1) % 3, (owner + 2) % 3);
    world.cut(front, owner);
    world.cut(other, owner);
    let change = Change::Set { value: b"v", expiry_ms: None };
    world.engines[front].write(NOBODY, Write { key: key(), change, level: Some(Level::One), after: 0 });
    world.carry();
    let member = world.engines[owner].identity().member;
    assert!(world.engines[front].hint_done(member, key().hash(), None), "it is hinted at first");
    world.pass(30_000);
    assert!(world.engines[front].peek(key()).is_some(), "nobody else has it");
    world.link(front, owner);
    world.pass(30_000);
    assert!(world.engines[owner].peek(key()).is_some());
    assert!(world.engines[front].foreign_partitions().next().is_none(), "then it is given up");
}
