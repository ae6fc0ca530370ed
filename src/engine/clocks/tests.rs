//! What a member believes of the time of day, shown on engines that are told of each other's clocks.

use super::*;
use crate::engine::journal;
use crate::engine::{Bounds, Identity};
use crate::model::Now;
use crate::model::key::ROSTER;
use crate::model::roster::{MemberState, RosterEntry, entry_key};

const WALL_MS: u64 = 1_800_000_000_000;

fn entry(at: u8) -> RosterEntry {
    RosterEntry {
        name: format!("m{at}"),
        public_key: [at + 1; 32],
        address: "127.0.0.1:7400".to_owned(),
        http_address: "127.0.0.1:7401".to_owned(),
        zone: String::new(),
        next_zone: None,
        state: MemberState::Active,
        admitted: at.into(),
    }
}

/// A frame of a peer arrives.
fn hear(engine: &mut Engine, at: u8, wall_ms: u64, time: u64) {
    engine.peer_at(entry(at).id());
    engine.note_clock(entry(at).id(), wall_ms, time);
}

/// Member `at` of so many, that has heard no other clock yet.
fn unheard(at: u8, members: u8, wall_ms: u64) -> Engine {
    let who = Identity { member: entry(at).id(), incarnation: 1, life: 1 };
    let mut engine = Engine::new(who, Bounds::default(), 2);
    engine.advance(Now { wall_ms, mono_us: 0 });
    let entry = |at| (ROSTER, entry_key(entry(at).id()), entry(at).encode());
    engine.create(&(0..members).map(entry).collect::<Vec<_>>());
    engine
}

/// Member `at` of three, its wall clock off by so much, that has heard the other clocks. The median is
/// right.
fn engine(at: u8, offset_ms: i64) -> Engine {
    let mut engine = unheard(at, 3, WALL_MS.saturating_add_signed(offset_ms));
    let others: Vec<u8> = (0..3).filter(|other| *other != at).collect();
    for (other, off_ms) in others.into_iter().zip([0, -offset_ms]) {
        hear(&mut engine, other, WALL_MS.saturating_add_signed(off_ms), 0);
    }
    engine
}

#[test]
fn what_a_healthy_clock_stamps_no_healthy_member_refuses_whatever_it_was_told() {
    let (mut ahead, late) = (engine(0, 4_900), engine(1, -4_900));
    assert!(ahead.may_stamp && late.may_stamp);
    ahead.follow(u64::MAX);
    let stamp = ahead.stamp_over(0, 0);
    assert!(stamp.time <= late.foreign_bound());
    assert!(ahead.may_stamp, "nobody stops a healthy one");
}

#[test]
fn what_a_session_saw_of_a_healthy_clock_is_exceeded_by_any_other() {
    let (mut ahead, mut late) = (engine(0, 4_900), engine(1, -4_900));
    ahead.follow(u64::MAX);
    let seen = ahead.stamp_over(0, 0);
    assert!(late.stamp_over(0, seen.time) > seen);
    let mut wrong = engine(2, -86_400_000);
    assert!(!wrong.may_stamp);
    assert!(wrong.stamp_over(0, seen.time) > seen);
}

#[test]
fn a_clock_that_stands_still_is_noticed_though_nobody_is_heard() {
    let mut engine = engine(0, 0);
    engine.advance(Now { wall_ms: WALL_MS, mono_us: 20_000_000 });
    assert_eq!(engine.clock_health(), (-20_000, false));
}

#[test]
fn a_clock_that_was_set_is_noticed_at_once() {
    let mut engine = engine(0, 0);
    engine.advance(Now { wall_ms: WALL_MS + 60_000, mono_us: 1_000 });
    assert_eq!(engine.clock_health(), (59_999, false));
}

#[test]
fn a_frame_that_was_under_way_for_long_does_not_make_its_sender_look_late() {
    let mut engine = engine(0, -86_400_000);
    engine.advance(Now { wall_ms: WALL_MS - 86_392_000, mono_us: 8_000_000 });
    hear(&mut engine, 1, WALL_MS, 0);
    assert_eq!(engine.believed_wall_ms(), WALL_MS + 8_000);
}

#[test]
fn whoever_must_stamp_with_a_clock_that_is_ahead_stamps_by_the_median() {
    let mut ahead = engine(0, 0);
    ahead.advance(Now { wall_ms: WALL_MS + 61_000, mono_us: 1_000_000 });
    assert!(!ahead.may_stamp);
    assert_eq!(ahead.stamp_over(0, 0).wall_ms(), WALL_MS + 1_000);
}

#[test]
fn who_stamped_far_ahead_before_its_clock_was_set_back_is_passed_over() {
    let mut engine = engine(0, 0);
    let peer = entry(1).id();
    assert!(engine.peer(peer).is_some_and(|peer| engine.has_right_clock(peer)), "it is not far ahead yet");
    hear(&mut engine, 1, WALL_MS, time_of_ms(WALL_MS + 60_000));
    assert!(engine.peer(peer).is_some_and(|peer| !engine.has_right_clock(peer)));
}

#[test]
fn until_every_peer_in_reach_was_heard_nothing_is_stamped_for_clients() {
    let who = Identity { member: entry(0).id(), incarnation: 1, life: 1 };
    let mut engine = Engine::new(who, Bounds::default(), 2);
    engine.advance(Now { wall_ms: WALL_MS, mono_us: 0 });
    assert!(engine.knows_clocks(), "alone there is nobody to wait for");
    engine.link_up(entry(1).id(), 1);
    assert!(!engine.knows_clocks());
    hear(&mut engine, 1, WALL_MS, 0);
    assert!(engine.knows_clocks());
}

#[test]
fn a_start_waits_until_the_reservation_of_its_earlier_life_is_past_but_not_for_a_clock_that_was_set_back() {
    for (reserved_ms, waits_us) in
        [(WALL_MS + 700, 700_000), (WALL_MS + 3_600_000, 1_000_000), (WALL_MS - 1, 0)]
    {
        let who = Identity { member: entry(0).id(), incarnation: 2, life: 1 };
        let mut engine = Engine::new(who, Bounds::default(), 2);
        engine.advance(Now { wall_ms: WALL_MS, mono_us: 5 });
        let mut lane = Vec::new();
        journal::append(&mut lane, &journal::Entry::Reservation(time_of_ms(reserved_ms)));
        engine.restore_journal(&lane).unwrap();
        engine.restored(0, true);
        assert_eq!(engine.takes_writes(), waits_us == 0, "{reserved_ms}");
        assert!(engine.time_to_tell() <= time_of_ms(WALL_MS.max(reserved_ms.min(WALL_MS))));
        engine.advance(Now { wall_ms: WALL_MS + waits_us / 1_000, mono_us: 5 + waits_us });
        assert!(engine.takes_writes());
        assert_eq!(engine.time_to_tell(), time_of_ms(reserved_ms));
    }
}

#[test]
fn a_peer_whose_disk_is_stuck_and_that_shows_no_clock_keeps_nobody_from_stamping_for_long() {
    let who = Identity { member: entry(0).id(), incarnation: 1, life: 1 };
    let mut engine = Engine::new(who, Bounds::default(), 2);
    engine.advance(Now { wall_ms: WALL_MS, mono_us: 10_000_000 });
    engine.link_up(entry(1).id(), 1);
    engine.advance(Now { wall_ms: WALL_MS + 1_499, mono_us: 11_499_999 });
    assert!(!engine.takes_writes());
    engine.advance(Now { wall_ms: WALL_MS + 1_500, mono_us: 11_500_000 });
    assert!(engine.takes_writes());
}

#[test]
fn a_right_clock_is_not_outvoted_by_the_wrong_ones_that_happen_to_be_heard_first() {
    let mut engine = unheard(0, 5, WALL_MS);
    for wrong in [1, 2] {
        hear(&mut engine, wrong, WALL_MS - 60_000, 0);
    }
    assert_eq!(engine.clock_health(), (0, true));
    hear(&mut engine, 3, WALL_MS - 60_000, 0);
    assert!(!engine.clock_health().1, "a majority is believed");
}

#[test]
fn half_of_all_clocks_that_agree_outvote_one_that_never_heard_the_rest() {
    let mut engine = unheard(0, 4, WALL_MS);
    hear(&mut engine, 1, WALL_MS - 60_000, 0);
    assert_eq!(engine.clock_health(), (0, true));
    hear(&mut engine, 2, WALL_MS - 60_000, 0);
    assert_eq!(engine.clock_health(), (60_000, false));
}

#[test]
fn who_is_outvoted_believes_the_majority_of_the_others_and_not_another_wrong_one() {
    let mut engine = unheard(0, 5, WALL_MS - 900_000);
    hear(&mut engine, 1, WALL_MS - 400_000, 0);
    hear(&mut engine, 2, WALL_MS, 0);
    hear(&mut engine, 3, WALL_MS, 0);
    assert_eq!(engine.clock_health(), (-900_000, false));
}
