//! Comparisons, shown on engines whose frames are carried by hand.

use super::listing::MAX_ENTRIES;
use super::pass::{Pass, Stage};
use super::*;
use crate::engine::copying::tests::{World, entry, has, record};
use crate::engine::{PageFound, TICK_US};
use crate::model::record::Pair;
use crate::model::{KeyHash, KeyRef, Record, Timestamp};
use crate::protocol::compare::{Compare, Compared, Grain, pack};

mod hints;
mod shadows;

/// Three complete members, all linked, that hold the same; of the first one's records most are in redb only.
fn world(bits: u8, records: usize) -> World {
    let mut world = World::with_table(bits, records, 2_000);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(1_000);
    assert!(world.engines.iter().all(Engine::is_complete));
    world.pass(14_000);
    assert!((0..3).all(|at| roots(&world, at) == roots(&world, 0)));
    world
}

fn roots(world: &World, at: usize) -> Vec<u128> {
    world.engines[at].records.trees.roots().collect()
}

/// Lets time pass in which only one member begins passes.
fn compare_from(world: &mut World, at: usize, time_ms: u64) {
    for _ in 0..time_ms / 50 {
        for other in (0..3).filter(|other| *other != at) {
            for peer in &mut world.engines[other].peers {
                peer.compared.due_us = u64::MAX;
            }
        }
        world.pass(50);
    }
}

/// A record that a member holds and did not tell anybody about.
fn keep_to_itself(world: &mut World, at: usize, record: &Record) -> KeyHash {
    let hash = record.view().key_hash();
    world.engines[at].merge(record.view(), hash);
    hash
}

/// An older record than the present one of a key: redb has to be asked about it.
fn older(number: usize) -> Record {
    let stamp = Timestamp { time: 1, member: entry(0).id() };
    Record::value(record(number).view().key_ref().unwrap(), stamp, None, b"older")
}

#[test]
fn a_comparison_succeeds_though_redb_has_to_be_asked_about_some_record_at_every_moment() {
    const RECORDS: usize = 400;
    let mut world = world(0, RECORDS);
    // Something differs in every leaf.
    let news: Vec<Record> = (RECORDS..2 * RECORDS).map(record).collect();
    for new in &news {
        keep_to_itself(&mut world, 1, new);
    }
    world.load_us = 150_000;
    let mut evicted = (0..RECORDS).filter(|number| !has(&world.engines[0], *number)).collect::<Vec<_>>();
    assert!(evicted.len() > 300);
    for _ in 0..evicted.len() {
        keep_to_itself(&mut world, 0, &older(evicted.pop().unwrap()));
        assert!(!world.engines[0].loads.is_idle());
        compare_from(&mut world, 1, 50);
    }
    assert!((RECORDS..2 * RECORDS).all(|number| has(&world.engines[0], number)));
}

#[test]
fn records_before_one_that_is_being_loaded_are_fetched_at_once_and_that_one_when_it_is_there() {
    let mut world = world(0, 60);
    let evicted: Vec<usize> = (0..60).filter(|number| !has(&world.engines[0], *number)).collect();
    let here = keep_to_itself(&mut world, 0, &record(70));
    world.load_us = 1_000_000;
    let asked = keep_to_itself(&mut world, 0, &older(evicted[0]));
    let fetch = |world: &mut World, hashes: &[KeyHash]| {
        let hashes = pack(hashes.iter().map(|hash| hash.0));
        let link = world.engines[0].peer(entry(1).id()).unwrap().link.as_ref().unwrap().id;
        let origin = crate::engine::write::Origin::Peer { member: entry(1).id(), link, request: u64::MAX };
        world.compared.clear();
        world.engines[0].compare_for_peer(origin, Compare::Fetch { hashes }, true);
        compare_from(world, 2, 50);
    };
    let answers = |world: &World| -> Vec<(Vec<u8>, u32)> {
        let fetched = |compared: &(usize, Compared)| match &compared.1 {
            Compared::Fetched { records, done, .. } => Some((records.clone(), *done)),
            _ => None,
        };
        world.compared.iter().filter_map(fetched).collect()
    };
    fetch(&mut world, &[here, asked]);
    assert_eq!(answers(&world), [(record(70).view().bytes().to_vec(), 1)]);
    fetch(&mut world, &[asked, here]);
    assert_eq!(answers(&world), []);
    compare_from(&mut world, 2, 1_000);
    let both = [record(evicted[0]).view().bytes(), record(70).view().bytes()].concat();
    assert_eq!(answers(&world), [(both, 2)]);
}

/// The pass that a member has under way, as it stands now.
fn pass_of(world: &mut World, at: usize, peer: usize) -> Pass {
    let engine = &mut world.engines[at];
    engine.end_pass();
    engine.begin_pass(entry(peer).id(), false);
    let mut pass = engine.anti_entropy.pass.take().unwrap();
    pass.asked = None;
    pass
}

#[test]
fn what_is_to_be_pushed_and_is_being_loaded_is_waited_for() {
    let mut world = world(0, 60);
    let evicted = (0..60).find(|number| !has(&world.engines[0], *number)).unwrap();
    let lacks = record(evicted);
    let hash = lacks.view().key_hash();
    world.engines[1].forget(lacks.view(), hash);
    world.load_us = 300_000;
    keep_to_itself(&mut world, 0, &older(evicted));
    let mut pass = pass_of(&mut world, 0, 1);
    pass.stage = Stage::Push;
    pass.push.insert(hash.0);
    let number = pass.number();
    world.engines[0].resume_pass(pass);
    compare_from(&mut world, 0, 200);
    let is_under_way =
        |world: &World| world.engines[0].anti_entropy.pass.as_ref().is_some_and(|p| p.number() == number);
    assert!(is_under_way(&world) && !has(&world.engines[1], evicted));
    compare_from(&mut world, 0, 200);
    assert!(!is_under_way(&world));
    assert_eq!(world.engines[1].peek(lacks.view().key_ref().unwrap()), Some(lacks.view()));
}

#[test]
fn of_what_redb_has_and_memory_has_an_unmerged_part_both_are_sent() {
    let mut world = world(0, 60);
    let evicted = (0..60).find(|number| !has(&world.engines[0], *number)).unwrap();
    let hash = record(evicted).view().key_hash();
    world.load_us = u64::MAX / 2;
    keep_to_itself(&mut world, 0, &older(evicted));
    let newest = |world: &World| world.engines[0].newest_of(record(evicted).view(), hash);
    assert_eq!(newest(&world), record(evicted));
    let stamp = Timestamp { time: 9_999_999, member: entry(0).id() };
    let newer = Record::value(record(evicted).view().key_ref().unwrap(), stamp, None, b"newer");
    keep_to_itself(&mut world, 0, &newer);
    assert_eq!(newest(&world), newer);
}

#[test]
fn a_peer_that_walks_through_redb_for_longer_than_an_answer_may_take_is_waited_for() {
    const RECORDS: usize = 800;
    let mut world = world(0, RECORDS);
    let new = record(RECORDS);
    keep_to_itself(&mut world, 1, &new);
    world.pages_a_tick = 1;
    assert!(RECORDS as u64 * TICK_US > ANSWER_US);
    // Sums, then a list: two walks, and others of redb's beside them.
    compare_from(&mut world, 1, 300_000);
    assert!(has(&world.engines[0], RECORDS));
    compare_from(&mut world, 1, 15_000);
    let lag_us = |world: &World| {
        let known = world.engines[1].peer_convergence().find(|peer| peer.member == entry(0).id());
        known.and_then(|peer| peer.lag_us).unwrap()
    };
    assert!(lag_us(&world) < 15_000_000, "the next ones find nothing");
}

#[test]
fn a_peer_whose_redb_answers_nothing_is_not_waited_for() {
    let mut world = world(0, 60);
    keep_to_itself(&mut world, 1, &record(60));
    world.pages_a_tick = 0;
    compare_from(&mut world, 1, 11_000);
    let pass =
        |world: &World| world.engines[1].anti_entropy.pass.as_ref().map(|pass| (pass.peer, pass.number()));
    let waits = pass(&world).unwrap();
    assert_eq!(waits.0, entry(0).id());
    compare_from(&mut world, 1, 35_000);
    assert_ne!(pass(&world), Some(waits));
}

#[test]
fn a_listing_that_nobody_waits_for_any_more_is_not_begun() {
    let mut world = world(0, 60);
    world.pages_a_tick = 0;
    // Two wait: the first one's walk does not come on, so nobody works for the second.
    for at in [1, 2] {
        let link = world.engines[0].peer(entry(at).id()).unwrap().link.as_ref().unwrap().id;
        let origin = crate::engine::write::Origin::Peer { member: entry(at).id(), link, request: u64::MAX };
        let grain = Grain { bits: 0, salt: 0 };
        let question = Compare::Sums { leaves: (0..64).map(|leaf| (0, leaf)).collect(), grain };
        world.engines[0].compare_for_peer(origin, question, true);
    }
    world.cut(0, 1);
    world.cut(0, 2);
    world.pass(29_000);
    assert!(!world.engines[0].anti_entropy.answers.listings.is_empty());
    world.pass(2_000);
    assert!(world.engines[0].anti_entropy.answers.listings.is_empty());
}

#[test]
fn what_is_in_redb_only_is_named_once_in_a_walk_and_not_with_each_page() {
    const RECORDS: usize = 300;
    let mut world = world(0, RECORDS);
    let lacks = |world: &World| (0..RECORDS).filter(|number| !has(&world.engines[1], *number)).count();
    for number in 0..200 {
        world.engines[1].forget(record(number).view(), record(number).view().key_hash());
    }
    assert_eq!(lacks(&world), 200);
    world.questions.clear();
    compare_from(&mut world, 1, 11_000);
    assert_eq!(lacks(&world), 0);
    let named = |question: &(usize, Compare)| match &question.1 {
        Compare::FetchStored { hashes, .. } => Some(hashes.len() / 8),
        _ => None,
    };
    let named: Vec<usize> = world.questions.iter().filter_map(named).collect();
    assert!(named.len() == 1 && named[0] > 150, "{named:?}");
}

#[test]
fn an_answer_without_room_for_a_record_of_a_page_goes_on_behind_the_one_before_it() {
    let mut world = world(0, 60);
    let mut evicted: Vec<Record> =
        (0..60).filter(|number| !has(&world.engines[0], *number)).map(record).collect();
    evicted.sort_by_key(|record| record.view().key().to_vec());
    // Since redb had them they became large.
    let bytes = [200_000, 400_000, 200_000];
    let stamp = Timestamp { time: 5_000_000, member: entry(0).id() };
    let large: Vec<Record> = std::iter::zip(&evicted, bytes)
        .map(|(old, bytes)| Record::value(old.view().key_ref().unwrap(), stamp, None, &vec![7; bytes]))
        .collect();
    let hashes = large.iter().map(|large| keep_to_itself(&mut world, 0, large).0);
    let hashes = pack(hashes.collect::<Vec<_>>());
    let link = world.engines[0].peer(entry(1).id()).unwrap().link.as_ref().unwrap().id;
    let origin = crate::engine::write::Origin::Peer { member: entry(1).id(), link, request: u64::MAX };
    world.engines[0].lanes.pages.clear();
    let mut page_after = |after: &Record| {
        let question = Compare::FetchStored { hashes: hashes.clone(), after: name(after) };
        world.engines[0].compare_for_peer(origin, question, true);
        let wanted = world.engines[0].lanes.pages.pop().unwrap();
        assert_eq!(wanted.after, name(after));
        let page = evicted.iter().skip_while(|record| name(record) <= name(after)).take(3);
        let records: Vec<u8> = page.flat_map(|record| record.view().bytes().to_vec()).collect();
        let found = PageFound { records, next: Some(name(&evicted[3])), ..PageFound::default() };
        world.compared.clear();
        world.engines[0].page_loaded(wanted.id, Some(found));
        world.carry();
        world.compared.last().unwrap().1.clone()
    };
    let answer = |record: &Record, next: Option<&Record>| Compared::FetchedStored {
        records: record.view().bytes().to_vec(),
        next: next.map(name),
    };
    assert!(page_after(&evicted[0]) == answer(&large[1], Some(&evicted[1])), "two don't fit");
    assert!(page_after(&evicted[1]) == answer(&large[2], None), "redb has no more of them");
}

fn name(record: &Record) -> (String, Vec<u8>) {
    (record.view().collection().to_owned(), record.view().key().to_vec())
}

#[test]
fn what_differs_is_exchanged_before_more_than_one_list_names_is_remembered() {
    let mut world = world(0, 60);
    let mut pass = pass_of(&mut world, 1, 0);
    pass.parts = (0..64).map(|leaf| ((0, leaf), vec![1])).collect();
    pass.own = (0..64).map(|leaf| ((0, leaf), Vec::new())).collect();
    pass.wanted = (0..MAX_ENTRIES as u64).collect();
    world.carry();
    world.questions.clear();
    world.engines[1].ask_for_lists(pass);
    compare_from(&mut world, 1, 1_000);
    // The peer has none of them, so all can be asked for in a moment.
    let fetches = world.questions.iter().take_while(|question| matches!(question.1, Compare::Fetch { .. }));
    let named = fetches
        .map(|question| if let Compare::Fetch { hashes } = &question.1 { hashes.len() / 8 } else { 0 });
    assert_eq!(named.sum::<usize>(), MAX_ENTRIES);
    let lists =
        |question: &(usize, Compare)| matches!(&question.1, Compare::List { parts, .. } if parts.len() == 64);
    assert!(world.questions.iter().any(lists));
    assert!(world.engines[1].anti_entropy.pass.is_none(), "all parts were listed, and it was completed");
}

#[test]
fn a_counter_that_began_over_nothing_reaches_an_owner_whose_tombstone_settled() {
    let mut world = world(0, 60);
    // Nothing is dropped while a member is away.
    world.cut(0, 2);
    world.cut(1, 2);
    let key = KeyRef::new("c", b"counted").unwrap();
    let stamp = Timestamp { time: 7, member: entry(2).id() };
    keep_to_itself(&mut world, 0, &Record::tombstone(key, stamp));
    assert!(world.engines[0].records.settle(key, key.hash(), stamp));
    let pairs = [Pair { member: entry(1).id(), incarnation: 1, plus: 3, minus: 0 }];
    let counter = Record::counter(key, Timestamp::ZERO, 1, None, 0, &pairs);
    keep_to_itself(&mut world, 1, &counter);
    compare_from(&mut world, 0, 25_000);
    assert_eq!(world.engines[0].peek(key), Some(counter.view()));
    assert_eq!(roots(&world, 0), roots(&world, 1));
}

#[test]
fn of_large_records_no_more_are_named_than_twice_as_many_as_an_answer_has_room_for() {
    const RECORDS: usize = 2_000;
    let mut world = world(2, 60);
    let stamp = Timestamp { time: 5_000_000, member: entry(0).id() };
    for number in 0..RECORDS {
        let key = format!("large{number}");
        let key = KeyRef::new("c", key.as_bytes()).unwrap();
        keep_to_itself(&mut world, 0, &Record::value(key, stamp, None, &[7; 5_000]));
    }
    world.questions.clear();
    compare_from(&mut world, 1, 12_000);
    assert_eq!(roots(&world, 0), roots(&world, 1));
    let named = |question: &(usize, Compare)| match &question.1 {
        Compare::Fetch { hashes } => Some(hashes.len() / 8),
        _ => None,
    };
    let named: Vec<usize> = world.questions.iter().filter_map(named).collect();
    // Some 100 fit.
    assert!(named.iter().skip(1).all(|named| *named < 250), "{named:?}");
    assert!(named.len() < 30, "{named:?}");
}

#[test]
fn a_key_that_redb_never_tells_does_not_stop_all_comparing() {
    const RECORDS: usize = 400;
    let mut world = world(0, RECORDS);
    for new in (RECORDS..2 * RECORDS).map(record) {
        keep_to_itself(&mut world, 1, &new);
    }
    let evicted = (0..RECORDS).find(|number| !has(&world.engines[0], *number)).unwrap();
    world.load_us = u64::MAX / 2;
    keep_to_itself(&mut world, 0, &older(evicted));
    let before = world.engines[0].counters().passes;
    compare_from(&mut world, 0, 120_000);
    assert!(world.engines[0].counters().passes > before, "the third member had its turn");
    assert!(!has(&world.engines[0], RECORDS), "the second one waits for the key");
}

#[test]
fn who_shares_nothing_any_more_differs_in_nothing() {
    let (mut world, other) = (world(0, 60), entry(1).id());
    let engine = &mut world.engines[0];
    engine.end_pass();
    let peer = engine.peer_mut(other).unwrap();
    peer.compared.differing = 3;
    // It is complete for nothing, as one that began to copy everything.
    peer.complete.as_mut().unwrap().1.fill(0);
    engine.begin_pass(other, false);
    let told = engine.peer_convergence().find(|peer| peer.member == other).unwrap();
    assert_eq!(told.differing_leaves, 0);
}
