//! Reclaiming tombstones, every interleaving of it in small clusters.
//!
//! One key, two or three members, a deleted record that somebody still has. Records come in ranks: OLDER
//! than the tombstone T(s), T itself as a PLAIN record (and what extends it, a counter of stamp s and
//! epoch 2), SETTLED, ABSENT. What makes reclaiming right: ranks that are no neighbours never exist at
//! the same time, in no table, disk, queue, unread frame or answer under way.
//!
//! The protocol, per tombstone, under one placement:
//!
//! 1. *Confirm*: every complete owner holds T (plain or settled), fsynced.
//! 2. *Grace*: every member of the roster ends a quiet round that began after the question; all in
//!    the life and since the adoption of a placement in which they were asked, checked once all are done.
//!    Now nothing OLDER exists.
//! 3. *Settle*: each owner settles T. "Clear" is the answer of a complete owner that holds SETTLED T or
//!    nothing, fsynced. Who holds T settled begins here.
//! 4. *Grace* again, once all are clear. Now no PLAIN T is under way, which would beat what is counted over nothing.
//! 5. *Drop*: each owner drops what is still exactly SETTLED T.
//!
//! A quiet round has two stages. First the gathers, pulls and copies of its begin end, and nothing foreign
//! is held (fsynced) and no partition incomplete. Then the links are marked: each with records in its queue,
//! and each member that the present link has brought no frame of (frames of earlier links, also of earlier
//! lives, may be unread there). A mark is done when its records are confirmed on that very link, or a
//! frame came on a newer one. No member takes records of a partition that it does not own, or from a removed
//! member. Copying sends a settled tombstone as settled. An increment over SETTLED T(s) has the base (s, 3); on
//! SETTLED T(s) an incoming counter (s, 2) becomes (s, 3); (s, 3) takes up the pairs of (s, 2) and of (0, 1).
//!
//! (A counter (0, 1) needs no lifting: it exists only beside SETTLED and ABSENT.)
//!
//! Left out: clocks (stamps rise here; a grace must also see every member's clock pass s), and disks
//! that lose what they synced.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may just fail")]
#[path = "reclaim_model/checker.rs"]
mod checker;
#[path = "reclaim_model/records.rs"]
mod records;
#[path = "reclaim_model/steps.rs"]
mod steps;

use checker::{Outcome, explore};
use records::{Pairs, Rec};
use steps::{Budget, OLD, Placement, RULES, Rules, Setting, T, World};

/// More states than any setting has.
const BOUND: usize = 200_000;
const NONE: Rec = Rec::Nothing;
const TOMB: Rec = Rec::Tomb(T);
const OLD_VALUE: Rec = Rec::Value(2);
const OLD_COUNTER: Rec = Rec::Counter { stamp: 0, epoch: 1, pairs: Pairs(1 << (2 * OLD)) };
const FREE: Budget =
    Budget { increments: 0, sets: 0, deletes: 0, crashes: 0, breaks: 0, flights: 0, pushes: u8::MAX };

const fn place(owners: u8, roster: u8) -> Placement {
    Placement { owners, roster }
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "an owner that missed the deletion, a read, a broken link",
        members: 2,
        placements: &[place(0b11, 0b11)],
        tables: [TOMB, OLD_VALUE, NONE, NONE],
        may_crash: 0b1,
        budget: Budget { flights: 1, breaks: 1, ..FREE },
    },
    Setting {
        name: "foreign old value",
        members: 3,
        placements: &[place(0b011, 0b111)],
        tables: [TOMB, TOMB, OLD_VALUE, NONE],
        may_crash: 0b1,
        budget: Budget { flights: 1, breaks: 1, pushes: 2, ..FREE },
    },
    Setting {
        name: "foreign old counter, increments",
        members: 3,
        placements: &[place(0b011, 0b111)],
        tables: [TOMB, TOMB, OLD_COUNTER, NONE],
        may_crash: 0b1,
        budget: Budget { increments: 1, pushes: 3, ..FREE },
    },
    Setting {
        name: "increments at two owners",
        members: 2,
        placements: &[place(0b11, 0b11)],
        tables: [TOMB, TOMB, NONE, NONE],
        may_crash: 0b1,
        budget: Budget { increments: 2, flights: 1, pushes: 2, ..FREE },
    },
    Setting {
        name: "increments at three owners",
        members: 3,
        placements: &[place(0b111, 0b111)],
        tables: [TOMB, TOMB, TOMB, NONE],
        may_crash: 0b1,
        budget: Budget { increments: 2, pushes: 1, ..FREE },
    },
    Setting {
        name: "a crash with an old value",
        members: 2,
        placements: &[place(0b11, 0b11)],
        tables: [TOMB, OLD_VALUE, NONE, NONE],
        may_crash: 0b11,
        budget: Budget { crashes: 1, ..FREE },
    },
    Setting {
        name: "a crash with increments",
        members: 2,
        placements: &[place(0b11, 0b11)],
        tables: [TOMB, TOMB, NONE, NONE],
        may_crash: 0b1,
        budget: Budget { crashes: 1, increments: 2, ..FREE },
    },
    Setting {
        name: "a crash with a foreign value",
        members: 3,
        placements: &[place(0b011, 0b111)],
        tables: [TOMB, TOMB, OLD_VALUE, NONE],
        may_crash: 0b100,
        budget: Budget { crashes: 1, pushes: 2, ..FREE },
    },
    Setting {
        name: "a joiner",
        members: 3,
        placements: &[place(0b011, 0b011), place(0b111, 0b111)],
        tables: [TOMB, TOMB, NONE, NONE],
        may_crash: 0b1,
        budget: Budget { increments: 2, pushes: 1, ..FREE },
    },
    Setting {
        name: "an owner goes and comes back",
        members: 3,
        placements: &[place(0b101, 0b111), place(0b001, 0b111), place(0b101, 0b111)],
        tables: [TOMB, OLD_VALUE, NONE, NONE],
        may_crash: 0b1,
        budget: Budget { pushes: 2, ..FREE },
    },
    Setting {
        name: "a member is removed",
        members: 3,
        placements: &[place(0b011, 0b111), place(0b011, 0b011)],
        tables: [TOMB, TOMB, OLD_VALUE, NONE],
        may_crash: 0b1,
        budget: Budget { pushes: 2, breaks: 1, ..FREE },
    },
    Setting {
        name: "a later SET or DELETE",
        members: 2,
        placements: &[place(0b11, 0b11)],
        tables: [TOMB, TOMB, NONE, NONE],
        may_crash: 0b1,
        budget: Budget { sets: 1, deletes: 1, increments: 2, ..FREE },
    },
];

fn setting(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).unwrap()
}

#[test]
fn a_deleted_record_never_returns_no_increment_is_lost_and_every_tombstone_can_go() {
    for setting in SETTINGS {
        match explore(&World { setting, rules: &RULES }, BOUND) {
            Outcome::Holds { states } => println!("{states:>7} states: {}", setting.name),
            other => panic!("{}: {other:?}", setting.name),
        }
    }
}

const RETURNED: &str = "a deleted record returned";
const LOST: &str = "an acknowledged increment was lost";
const MISSED: &str = "an owner that missed the deletion, a read, a broken link";
const COUNTED: &str = "a crash with increments";
const SWITCH: &str = "an owner goes and comes back";

type Broken = (&'static str, fn(&mut Rules), &'static str, &'static str);

const BROKEN: &[Broken] = &[
    ("no whole quiet round", |r| r.whole_round = false, MISSED, RETURNED),
    ("queues marked with the gathers", |r| r.queues_marked_last = false, MISSED, RETURNED),
    ("no fsync at confirm", |r| r.confirm_fsynced = false, "a crash with an old value", RETURNED),
    ("foreign copies not counted", |r| r.foreign_counts = false, "foreign old value", RETURNED),
    (
        "foreign copies dropped before fsync",
        |r| r.foreign_drop_fsynced = false,
        "a crash with a foreign value",
        RETURNED,
    ),
    ("gathers and pulls not counted", |r| r.flights_count = false, MISSED, RETURNED),
    ("a broken link is done", |r| r.gone_needs_newer = false, MISSED, RETURNED),
    ("a newer link is done without a frame", |r| r.newer_must_be_heard = false, MISSED, RETURNED),
    (
        "links of an earlier life forgotten",
        |r| r.unheard_is_marked = false,
        "a crash with an old value",
        RETURNED,
    ),
    ("foreign records taken", |r| r.foreign_refused = false, SWITCH, RETURNED),
    ("removed members heard", |r| r.removed_refused = false, "a member is removed", RETURNED),
    ("another placement after the round", |r| r.adoption_undoes = false, SWITCH, RETURNED),
    ("answers under any placement", |r| r.same_placement = false, SWITCH, RETURNED),
    ("drop before all are settled", |r| r.all_clear = false, "increments at two owners", LOST),
    ("clear before fsync", |r| r.clear_fsynced = false, COUNTED, LOST),
    ("clear while copying", |r| r.clear_needs_complete = false, "a joiner", LOST),
    ("no second grace", |r| r.second_grace = false, "increments at two owners", LOST),
    ("settled ones copied as plain", copy_plain, "a joiner", LOST),
    ("settled ones not copied", |r| r.copies_settled = false, "a joiner", LOST),
    ("(0, 1) over a settled one", |r| r.over_settled = Some((0, 1)), "increments at two owners", LOST),
    ("(s, 2) over a settled one", |r| r.over_settled = Some((T, 2)), "increments at two owners", LOST),
    ("(s, 2) stays so on a settled one", |r| r.settled_lifts_extended = false, COUNTED, LOST),
];

fn copy_plain(rules: &mut Rules) {
    (rules.copies_settled, rules.copies_plain) = (false, true);
}

#[test]
fn every_broken_protocol_is_found() {
    for (name, breaks, place, expected) in BROKEN {
        let mut rules = RULES;
        breaks(&mut rules);
        match explore(&World { setting: setting(place), rules: &rules }, BOUND) {
            Outcome::Defect { what, steps, states } => {
                assert_eq!(what, *expected, "{name}: {steps:?}");
                println!("{states:>7} states, {:>2} steps: {name}", steps.len());
            }
            other => panic!("{name} was not found: {other:?}"),
        }
    }
}
