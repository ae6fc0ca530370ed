//! What makes an owner complete, shown on engines whose frames are carried by hand.

use super::*;
use crate::engine::loads::Loaded;
use crate::engine::operation::Change;
use crate::engine::{Bounds, Identity, Load, Mode, PageFound, TICK_US};
use crate::model::key::{ROSTER, SETTINGS};
use crate::model::roster::{MemberState, RosterEntry, entry_key};
use crate::model::{KeyRef, Now, Record, Timestamp};
use crate::protocol::compare::{Compare, Compared};
use crate::protocol::frame::Frame;
use crate::protocol::message::{self, Message, Reply, Request};
use std::collections::VecDeque;

const WALL_MS: u64 = 1_800_000_000_000;

pub(in crate::engine) fn entry(at: usize) -> RosterEntry {
    RosterEntry {
        name: format!("m{at}"),
        public_key: [u8::try_from(at).unwrap() + 1; 32],
        address: "127.0.0.1:7400".to_owned(),
        http_address: "127.0.0.1:7401".to_owned(),
        zone: String::new(),
        next_zone: None,
        state: MemberState::Active,
        admitted: at as u64,
    }
}

pub(in crate::engine) fn record(number: usize) -> Record {
    let timestamp = Timestamp { time: 1_000 + number as u64, member: entry(0).id() };
    let key = format!("k{number}");
    Record::value(KeyRef::new("c", key.as_bytes()).unwrap(), timestamp, None, b"v")
}

pub(in crate::engine) fn has(engine: &Engine, number: usize) -> bool {
    engine.peek(record(number).view().key_ref().unwrap()).is_some()
}

/// Three members; the first created the cluster and is complete, the others were let in.
pub(in crate::engine) struct World {
    pub(in crate::engine) engines: Vec<Engine>,
    links: Vec<(usize, usize, u64)>,
    last_link: u64,
    now_us: u64,
    /// What the first member's redb holds.
    pub(in crate::engine) stored: Vec<Record>,
    /// Those of them that are damaged.
    pub(in crate::engine) damaged: Vec<Record>,
    /// A member whose disk syncs nothing.
    slow_disk: Option<usize>,
    /// By how much each wall clock is ahead.
    pub(in crate::engine) ahead_ms: [i64; 3],
    /// Microseconds that a load from redb takes, and loads under way with their times.
    pub(in crate::engine) load_us: u64,
    loads: VecDeque<(u64, Load)>,
    /// Pages of redb that are answered in a tick at most.
    pub(in crate::engine) pages_a_tick: usize,
    pages_left: usize,
    /// Questions of comparisons, and who asked.
    pub(in crate::engine) questions: Vec<(usize, Compare)>,
    /// What was answered to comparisons, and by whom.
    pub(in crate::engine) compared: Vec<(usize, Compared)>,
    /// Times that a member sent its whole roster and settings.
    exchanged: usize,
}

impl World {
    pub(in crate::engine) fn new(bits: u8, records: usize) -> Self {
        Self::with_table(bits, records, usize::MAX)
    }

    /// The first member's table holds no more than `table_bytes` of its records.
    pub(in crate::engine) fn with_table(bits: u8, records: usize, table_bytes: usize) -> Self {
        let mut engines: Vec<Engine> = (0..3)
            .map(|at| {
                let who = Identity { member: entry(at).id(), incarnation: 1, life: at as u64 };
                let mut engine = Engine::new(who, Bounds { table_bytes, ..Bounds::default() }, bits);
                engine.advance(Now { wall_ms: WALL_MS, mono_us: 0 });
                for number in 0..if at == 0 { records } else { 0 } {
                    engine.restore_record(record(number).view());
                }
                engine.restored(0, true);
                engine.set_mode(Mode::Serving);
                engine
            })
            .collect();
        let entries = (0..3).map(|at| (ROSTER, entry_key(entry(at).id()), entry(at).encode()));
        engines[0].create(&entries.collect::<Vec<_>>());
        let system = engines[0].system_records();
        engines[1].welcome(&system);
        engines[2].welcome(&system);
        let stored = (0..records).map(record).collect();
        Self {
            engines,
            links: Vec::new(),
            last_link: 0,
            now_us: 0,
            stored,
            damaged: Vec::new(),
            slow_disk: None,
            ahead_ms: [0; 3],
            load_us: 0,
            loads: VecDeque::new(),
            pages_a_tick: usize::MAX,
            pages_left: usize::MAX,
            questions: Vec::new(),
            compared: Vec::new(),
            exchanged: 0,
        }
    }

    /// The first member has the records and is the only owner of each; the others were let in together.
    pub(in crate::engine) fn joining(bits: u8, records: usize) -> Self {
        let mut world = Self::new(bits, records);
        let state = |at| if at == 0 { MemberState::Active } else { MemberState::Joining };
        for engine in &mut world.engines[1..] {
            let who = engine.identity();
            *engine = Engine::new(who, Bounds::default(), bits);
            engine.advance(Now { wall_ms: WALL_MS, mono_us: 0 });
            engine.set_mode(Mode::Serving);
        }
        let first = &mut world.engines[0];
        for at in 0..3 {
            first.write_roster_entry(entry(at).id(), &RosterEntry { state: state(at), ..entry(at) });
        }
        let copies = KeyRef::new(SETTINGS, b"replication_factor").unwrap();
        first.write_system(crate::engine::NOBODY, copies, Change::Set { value: b"1", expiry_ms: None });
        first.end_turn();
        let system = first.system_records();
        world.engines[1].welcome(&system);
        world.engines[2].welcome(&system);
        world
    }

    fn is_active(&self, member: usize, at: usize) -> bool {
        let known = self.engines[at].roster().get(entry(member).id());
        known.is_some_and(|known| known.entry.state == MemberState::Active)
    }

    /// Every old owner that a member knows of, among those given, has the partition's records.
    pub(in crate::engine) fn assert_owners_have_all(&self, at: usize, members: &[usize], records: usize) {
        for number in 0..records {
            let record = record(number);
            let key = record.view().key_ref().unwrap();
            let set = self.engines[at].placement().set_of(key, key.hash());
            for owner in set.old() {
                let owner = members.iter().find(|member| entry(**member).id() == owner);
                assert!(owner.is_none_or(|owner| has(&self.engines[*owner], number)), "record {number}");
            }
        }
    }

    pub(in crate::engine) fn link(&mut self, one: usize, other: usize) {
        self.last_link += 1;
        for (at, peer) in [(one, other), (other, one)] {
            self.engines[at].link_up(entry(peer).id(), self.last_link);
            self.links.push((at, peer, self.last_link));
        }
    }

    pub(in crate::engine) fn cut(&mut self, one: usize, other: usize) {
        for (at, peer) in [(one, other), (other, one)] {
            let place = self.links.iter().position(|link| (link.0, link.1) == (at, peer)).unwrap();
            let (.., link) = self.links.remove(place);
            self.engines[at].link_down(entry(peer).id(), link);
        }
    }

    /// Carries all frames until there are none.
    pub(in crate::engine) fn carry(&mut self) {
        let mut quiet = false;
        while !std::mem::replace(&mut quiet, true) {
            for (at, engine) in self.engines.iter_mut().enumerate() {
                engine.end_turn();
                engine.written();
                if self.slow_disk != Some(at) {
                    engine.synced(engine.positions().written);
                }
            }
            quiet &= !self.load();
            for (from, to, link) in self.links.clone() {
                let mut bytes = Vec::new();
                if self.engines[from].take_frame(entry(to).id(), &mut bytes) {
                    quiet = false;
                    self.note_comparing(from, &bytes);
                    self.engines[to].frame(entry(from).id(), link, &bytes).unwrap();
                }
            }
        }
    }

    fn note_comparing(&mut self, from: usize, bytes: &[u8]) {
        for message in Frame::parse(bytes).unwrap().messages() {
            match message::decode(message.unwrap()).unwrap() {
                Message::Request(_, Request::Compare(question)) => self.questions.push((from, question)),
                Message::Reply(_, Reply::Compared(compared)) => self.compared.push((from, compared)),
                Message::Request(_, Request::System { .. }) | Message::Reply(_, Reply::System { .. }) => {
                    self.exchanged += 1;
                }
                _ => {}
            }
        }
    }

    /// Answers what the first member asks of its redb: one record with each page. Says whether it asked.
    pub(in crate::engine) fn load(&mut self) -> bool {
        let engine = &mut self.engines[0];
        let due_us = self.now_us + self.load_us;
        self.loads.extend(std::mem::take(&mut engine.lanes.loads).into_iter().map(|load| (due_us, load)));
        let mut answered = false;
        while let Some((_, load)) = self.loads.pop_front_if(|(due_us, _)| *due_us <= self.now_us) {
            answered = true;
            let is_it = |record: &&Record| record.view().key() == load.key;
            let found = self.stored.iter().find(is_it).map(|record| record.view().bytes());
            let is_damaged = self.damaged.iter().any(|record| is_it(&record));
            let found = found.map_or(Loaded::Absent, Loaded::Found);
            engine.loaded(&load, if is_damaged { Loaded::Damaged } else { found });
        }
        let pages = self.pages_left.min(engine.lanes.pages.len());
        self.pages_left -= pages;
        for wanted in engine.lanes.pages.drain(..pages).collect::<Vec<_>>() {
            let stored = self.stored.iter().map(Record::view);
            let later = stored.filter(|record| record.key() > wanted.after.1.as_slice());
            let page = later.min_by_key(|record| record.key()).map_or_else(PageFound::default, |record| {
                let name = (record.collection().to_owned(), record.key().to_vec());
                let wants = wanted.wants(record.key_ref().unwrap(), record.bytes());
                let is_whole = self.damaged.iter().all(|damaged| damaged.view().key() != record.key());
                PageFound {
                    records: if wants && is_whole { record.bytes().to_vec() } else { Vec::new() },
                    count: u64::from(wants && is_whole),
                    damaged: if wants && !is_whole { vec![name.clone()] } else { Vec::new() },
                    next: Some(name),
                }
            });
            engine.page_loaded(wanted.id, Some(page));
        }
        answered || pages > 0
    }

    /// Lets time pass, in milliseconds.
    pub(in crate::engine) fn pass(&mut self, time_ms: u64) {
        let end_us = self.now_us + 1_000 * time_ms;
        while self.now_us < end_us {
            self.now_us += TICK_US;
            let wall_ms = WALL_MS + self.now_us / 1_000;
            for (engine, ahead_ms) in self.engines.iter_mut().zip(self.ahead_ms) {
                let wall_ms = wall_ms.saturating_add_signed(ahead_ms);
                engine.advance(Now { wall_ms, mono_us: self.now_us });
                engine.tick();
            }
            self.pages_left = self.pages_a_tick;
            self.carry();
        }
    }
}

/// Three members, all linked.
fn linked() -> World {
    let mut world = World::new(2, 20);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.carry();
    world
}

#[test]
fn members_that_know_the_same_roster_do_not_send_it_when_they_link() {
    let mut world = linked();
    world.cut(0, 1);
    world.link(0, 1);
    world.pass(10_000);
    assert_eq!(world.exchanged, 0);
}

#[test]
fn a_change_that_reaches_all_by_itself_sends_no_whole_roster() {
    let mut world = linked();
    world.pass(10_000);
    let entry = RosterEntry { state: MemberState::Leaving, ..entry(2) };
    world.engines[0].write_roster_entry(entry.id(), &entry);
    world.carry();
    world.pass(100);
    assert_eq!(world.exchanged, 0);
    let digest = world.engines[0].placement().digest();
    assert!(world.engines.iter().all(|engine| engine.placement().digest() == digest));
}

#[test]
fn a_change_that_a_member_never_heard_of_reaches_it_from_whoever_disagrees_with_it() {
    let mut world = linked();
    world.pass(10_000);
    isolate(&mut world, 0);
    // As if its author had been lost before it had told the third one.
    world.engines[1].take_system(&system_where_the_last_one_leaves());
    world.pass(500);
    let knows =
        |engine: &Engine| engine.roster().get(entry(2).id()).unwrap().entry.state == MemberState::Leaving;
    assert!(world.engines[1..].iter().all(knows));
}

/// The system records of a cluster whose third member leaves.
fn system_where_the_last_one_leaves() -> Vec<u8> {
    let other = RosterEntry { state: MemberState::Leaving, ..entry(2) };
    let mut author = World::new(2, 0);
    author.engines[0].write_roster_entry(other.id(), &other);
    author.engines[0].end_turn();
    author.engines[0].system_records()
}

#[test]
fn a_roster_is_not_sent_again_to_who_has_not_answered() {
    let mut world = linked();
    world.pass(10_000);
    for seconds in 1..4 {
        let mono_us = world.now_us + seconds * 1_000_000;
        world.engines[0].advance(Now { wall_ms: WALL_MS + mono_us / 1_000, mono_us });
        world.engines[0].exchange_system(entry(1).id());
    }
    world.carry();
    assert_eq!(world.exchanged, 2, "a request and its answer");
}

#[test]
fn who_has_other_settings_than_a_peer_exchanges_them_with_the_first_frames_of_their_link() {
    for changes in 0..2 {
        let mut world = linked();
        isolate(&mut world, changes);
        let key = KeyRef::new(SETTINGS, b"write_timeout").unwrap();
        let change = Change::Set { value: b"777ms", expiry_ms: None };
        world.engines[changes].write_system(crate::engine::NOBODY, key, change);
        world.carry();
        world.link(0, 1);
        world.carry();
        assert!(world.engines[..2].iter().all(|engine| engine.settings().write_timeout_ms == 777));
    }
}

fn isolate(world: &mut World, member: usize) {
    for other in (0..3).filter(|other| *other != member) {
        world.cut(member, other);
    }
}

#[test]
fn a_complete_owner_that_died_before_it_was_copied_vouches_for_nobody() {
    let mut world = World::new(2, 20);
    world.link(1, 0);
    world.carry();
    world.cut(1, 0);
    world.engines[1].liveness(entry(0).id(), false);
    world.link(1, 2);
    world.pass(30_000);
    assert!(!world.engines[1].is_complete(), "nobody that had the records was copied");

    world.link(1, 0);
    world.pass(1_000);
    assert!(world.engines[1].is_complete());
    assert!((0..20).all(|number| has(&world.engines[1], number)));
}

#[test]
fn one_complete_owner_of_three_is_not_enough_while_the_other_is_away() {
    let mut world = World::new(6, 20);
    world.link(1, 0);
    world.pass(60_000);
    assert!(!world.engines[1].is_complete(), "the third one may hold what it acknowledged with this one");
    world.link(1, 2);
    world.pass(1_000);
    assert!(world.engines[1].is_complete());
    assert!((0..20).all(|number| has(&world.engines[1], number)));
}

#[test]
fn an_owner_that_is_away_is_not_waited_for_any_more_when_it_was_removed() {
    let mut world = World::new(4, 20);
    world.link(1, 0);
    world.pass(1_000);
    assert!(!world.engines[1].is_complete());
    let removal = crate::model::roster::Removal { name: "m2".to_owned(), reason: "burnt".to_owned() };
    world.engines[0].write_removal(crate::engine::NOBODY, entry(2).id(), &removal);
    world.pass(1_000);
    assert!(world.engines[1].roster().is_removed(entry(2).id()));
    assert!(world.engines[1].is_complete());
}

#[test]
fn an_owner_is_not_complete_before_what_it_copied_is_fsynced() {
    let mut world = World::new(2, 20);
    world.link(1, 0);
    world.link(1, 2);
    world.slow_disk = Some(1);
    world.pass(2_000);
    assert!((0..20).all(|number| has(&world.engines[1], number)));
    assert!(!world.engines[1].is_complete());
    world.slow_disk = None;
    world.pass(1_000);
    assert!(world.engines[1].is_complete());
}

#[test]
fn who_was_copied_too_early_vouches_when_it_is_complete_itself() {
    let mut world = World::new(2, 20);
    world.link(1, 2);
    world.link(1, 0);
    world.pass(1_000);
    world.link(0, 2);
    world.pass(1_000);
    assert!(world.engines[1].is_complete() && world.engines[2].is_complete());
    assert!((0..20).all(|number| has(&world.engines[1], number) && has(&world.engines[2], number)));
}

#[test]
fn where_nobody_is_complete_copying_all_in_reach_is_enough() {
    let mut world = World::new(2, 0);
    world.link(1, 2);
    world.pass(11_000);
    assert!(world.engines[1].is_complete() && world.engines[2].is_complete());
}

#[test]
fn who_reaches_nobody_does_not_become_complete() {
    let mut world = World::new(2, 0);
    world.pass(60_000);
    assert!(!world.engines[1].is_complete());
}

#[test]
fn a_reply_to_an_earlier_request_does_not_move_a_copy() {
    let mut world = World::new(2, 20);
    world.link(1, 0);
    world.carry();
    let engine = &mut world.engines[1];
    engine.continue_copying();
    let earlier = engine.copying.partitions[&0].current.as_ref().unwrap().asked.unwrap();
    engine.copy_failed(earlier);
    engine.continue_copying();
    engine.take_copied(earlier, &[], &[], None);
    let copying = &engine.copying.partitions[&0];
    assert!(copying.is_asked() && copying.copied == 0);
    assert_eq!(copying.sources.len(), 2);
}

#[test]
fn a_copy_goes_on_where_it_stood_after_a_failure_and_after_a_change_that_does_not_concern_it() {
    let mut world = World::new(2, 20);
    world.link(1, 0);
    world.carry();
    let engine = &mut world.engines[1];
    engine.continue_copying();
    let asked = |engine: &Engine| engine.copying.partitions[&0].current.as_ref().unwrap().asked.unwrap();
    let next = |engine: &Engine| engine.copying.partitions[&0].current.as_ref().unwrap().next.clone();
    engine.take_copied(asked(engine), &[], &[], Some(CopyCursor::Table(7)));
    engine.copy_failed(asked(engine));
    engine.plan_copying();
    engine.continue_copying();
    assert_eq!(next(engine), CopyCursor::Table(7));

    engine.copy_failed(asked(engine));
    engine.check_life(entry(0).id(), 2, 77).unwrap();
    engine.continue_copying();
    assert_eq!(next(engine), BEGIN, "the slots of another life mean nothing");
}

#[test]
fn requests_for_pages_are_bounded_however_often_it_ticks() {
    let mut world = World::new(8, 0);
    world.link(1, 0);
    world.carry();
    for _ in 0..20 {
        world.engines[1].continue_copying();
    }
    assert_eq!(world.engines[1].copying.outstanding(), COPIES_AT_ONCE);
}

#[test]
fn copying_takes_no_more_bytes_a_second_than_the_setting_says() {
    let records = 8_000;
    let mut world = World::new(6, records);
    let pace = KeyRef::new(SETTINGS, b"repair_bytes_per_second").unwrap();
    let change = Change::Set { value: b"64KiB", expiry_ms: None };
    world.engines[1].write_system(crate::engine::NOBODY, pace, change);
    world.link(1, 0);
    world.link(1, 2);
    world.carry();
    assert_eq!(world.engines[1].settings().repair_bytes_per_second, 64 << 10);
    let all = records * record(0).view().bytes().len();
    let taken = |world: &World| (0..records).filter(|number| has(&world.engines[1], *number)).count();
    let seconds = all / (64 << 10);
    assert!(seconds >= 4);
    world.pass(1_000 * (seconds as u64 - 2));
    assert!((1..records).contains(&taken(&world)));
    world.pass(4_000);
    assert_eq!(taken(&world), records);
}

#[test]
fn records_that_only_redb_holds_are_copied_too() {
    let mut world = World::with_table(2, 40, 1_000);
    assert!(!has(&world.engines[0], 39), "they are not all in the table");
    world.link(1, 0);
    world.link(1, 2);
    world.pass(11_000);
    assert!(world.engines[1].is_complete());
    assert!((0..40).all(|number| has(&world.engines[1], number)));
}

#[test]
fn an_unresolved_record_holds_the_page_until_redb_was_asked() {
    let mut world = World::with_table(0, 40, 1_000);
    // Older than what was evicted, so redb must be asked before it may be shown.
    let timestamp = Timestamp { time: 1, member: entry(0).id() };
    let older = Record::value(KeyRef::new("c", b"k39").unwrap(), timestamp, None, b"older");
    let engine = &mut world.engines[0];
    engine.merge(older.view(), older.view().key_hash());
    let held = |engine: &Engine| {
        matches!(engine.page_of_table(0, 0, u64::MAX), Reply::Copied { next: Some(CopyCursor::Table(_)), .. })
    };
    assert!(held(engine));
    world.load();
    assert!(!held(&world.engines[0]));
}

#[test]
fn a_joiner_whose_clock_may_not_stamp_turns_active_through_another_member() {
    let mut world = World::new(2, 0);
    let joining = RosterEntry { state: MemberState::Joining, ..entry(1) };
    world.engines[0].write_roster_entry(entry(1).id(), &joining);
    world.link(1, 0);
    world.carry();
    world.engines[1].may_stamp = false;
    let stamped = |world: &World| world.engines[0].roster().get(entry(1).id()).unwrap().clone();
    assert_eq!(stamped(&world).entry.state, MemberState::Joining);
    world.engines[1].copying.partitions.clear();
    for _ in 0..3 {
        world.engines[1].activate_when_complete();
    }
    world.carry();
    assert_eq!(stamped(&world).entry.state, MemberState::Active);
}

#[test]
fn a_damaged_member_whose_roster_names_nobody_is_complete_for_nothing_before_it_has_the_others_roster() {
    const RECORDS: usize = 40;
    let mut world = World::new(2, RECORDS);
    let key = entry_key(entry(2).id());
    let own = world.engines[0].peek(KeyRef::new(ROSTER, &key).unwrap()).unwrap().bytes().to_vec();
    let who = Identity { member: entry(2).id(), incarnation: 2, life: 9 };
    let mut engine = Engine::new(who, Bounds::default(), 2);
    engine.advance(Now { wall_ms: WALL_MS, mono_us: 0 });
    engine.restore_record(RecordRef::parse(&own).unwrap().0);
    engine.restored(0, false);
    engine.distrust_roster();
    engine.set_mode(Mode::Serving);
    world.engines[2] = engine;
    world.pass(60_000);
    assert!(!world.engines[2].is_complete());

    world.link(0, 2);
    world.link(1, 2);
    world.pass(60_000);
    assert!(world.engines[2].is_complete());
    assert!((0..RECORDS).all(|number| has(&world.engines[2], number)));
}

#[test]
fn of_two_that_join_together_the_first_to_turn_active_has_all_that_it_owns_then() {
    let mut world = World::joining(4, 60);
    world.link(1, 0);
    world.pass(5_000);
    assert!(world.is_active(1, 1) && !world.is_active(2, 1));
    world.assert_owners_have_all(1, &[1], 60);

    world.link(2, 0);
    world.link(2, 1);
    world.pass(5_000);
    assert!((0..3).all(|at| world.is_active(2, at)));
    world.assert_owners_have_all(0, &[0, 1, 2], 60);
}

#[test]
fn a_joiner_copies_anew_when_another_one_turned_active_before_it() {
    let mut world = World::joining(4, 60);
    world.link(2, 0);
    world.carry();
    // It may not turn active yet, whatever it has.
    world.engines[2].activation_after_us = u64::MAX;
    world.pass(1_000);
    assert!(world.engines[2].is_complete());
    world.link(1, 0);
    world.pass(1_000);
    assert!(world.is_active(1, 2));
    assert!(!world.engines[2].is_complete(), "the new owner was not asked yet");
    world.link(2, 1);
    world.pass(1_000);
    assert!(world.engines[2].is_complete());
}

#[test]
fn a_joiner_copies_from_the_second_source_only_what_it_does_not_have_from_the_first() {
    let mut world = World::new(2, 40);
    world.link(1, 0);
    world.link(1, 2);
    world.link(2, 0);
    world.pass(1_000);
    let engine = &mut world.engines[1];
    assert!(engine.is_complete());
    let records_of = |page: Reply| match page {
        Reply::Copied { records, .. } => records,
        other => panic!("{other:?}"),
    };
    let seventh = record(7);
    let key = seventh.view().key_ref().unwrap();
    let partition = engine.placement().partition_of(key, key.hash());
    let held = |engine: &Engine| {
        pack(engine.records.trees.tree(partition).unwrap().leaves().iter().copied().map(lower))
    };
    let (all, same) = (engine.wanted_leaves(partition, &[]), held(engine));
    assert!(!records_of(engine.page_of_table(partition, 0, all)).is_empty());
    let none = engine.wanted_leaves(partition, &same);
    assert_eq!((none, records_of(engine.page_of_table(partition, 0, none))), (0, Vec::new()));

    // One that the asking member lacks: no more than its leaf is sent.
    let timestamp = Timestamp { time: 9_000, member: entry(0).id() };
    let newer = Record::value(record(7).view().key_ref().unwrap(), timestamp, None, b"newer");
    engine.merge(newer.view(), newer.view().key_hash());
    let one = engine.wanted_leaves(partition, &same);
    assert_eq!(one.count_ones(), 1);
    let sent = records_of(engine.page_of_table(partition, 0, one));
    assert!(
        RecordRef::parse(&sent)
            .is_ok_and(|(first, _)| first.key_hash().leaf(2) == newer.view().key_hash().leaf(2))
    );
}
