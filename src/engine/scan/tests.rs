//! Pages, shown on engines whose frames are carried by hand, joined and compared with what is there.

use super::*;
use crate::engine::NOBODY;
use crate::engine::copying::tests::{World, record};
use crate::engine::operation::{Change, Write};
use crate::model::{KeyRange, KeyRef, Record};

const TOKEN: u64 = 77;

/// Answers what the first member asks of its redb, as redb would.
fn answer_ranges(world: &mut World) {
    let ranges = std::mem::take(&mut world.engines[0].lanes.ranges);
    for range in ranges {
        let mut stored: Vec<&Record> =
            world.stored.iter().filter(|record| range.keys.contains(record.view().key())).collect();
        stored.sort_by(|a, b| in_order(range.reverse, a.view().key(), b.view().key()));
        let resume = stored.get(range.limit).map(|_| stored[range.limit - 1].view().key().to_vec());
        let shown = stored.iter().take(range.limit);
        let rows = shown.filter_map(|record| range.row(record.view())).map(|(row, _)| row).collect();
        world.engines[0].range_loaded(range.id, rows, resume);
    }
}

fn page(world: &mut World, at: usize, scan: &Scan) -> Page {
    world.engines[at].scan(TOKEN, scan);
    for _ in 0..4 {
        answer_ranges(world);
        world.carry();
    }
    let completions = &mut world.engines[at].lanes.completions;
    let found = completions.iter().position(|completion| completion.token == TOKEN).unwrap();
    match completions.remove(found).outcome {
        Outcome::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

/// The keys of all pages of a scan, in their order.
fn all_keys(world: &mut World, at: usize, mut scan: Scan) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    loop {
        let page = page(world, at, &scan);
        assert!(page.rows.len() <= scan.limit);
        assert!(page.rows.iter().all(|row| matches!(row, Row::Key(_)) == scan.keys_only));
        keys.extend(page.rows.iter().map(|row| row.key().to_vec()));
        let Some(come_to) = page.resume else { return keys };
        scan.keys = scan.keys.beyond(&come_to, scan.reverse);
    }
}

/// All of the first so many records but the dead ones, of a range.
fn expected(records: usize, keys: &KeyRange, reverse: bool, dead: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
    let alive = (0..records).filter(|number| !dead(*number)).map(record);
    let mut fitting: Vec<Vec<u8>> = alive.map(|record| record.view().key().to_vec()).collect();
    fitting.retain(|key| keys.contains(key));
    fitting.sort_by(|a, b| in_order(reverse, a, b));
    fitting
}

/// Scans of every kind, each joined from pages, show what is there and in its order.
fn assert_all_scans(world: &mut World, at: usize, records: usize, dead: impl Fn(usize) -> bool) {
    let ranges = [
        KeyRange::default(),
        KeyRange::with_prefix(b"k1"),
        KeyRange::default().starting_at(b"k15").ending_before(b"k3"),
        KeyRange::default().starting_at(b"k3").ending_before(b"k15"),
        KeyRange::with_prefix(b"x"),
    ];
    for (keys, limit) in ranges.iter().flat_map(|keys| [1, 3, 1_000].map(|limit| (keys, limit))) {
        for (reverse, keys_only) in [(false, false), (false, true), (true, false), (true, true)] {
            let collection = "c".to_owned();
            let scan = Scan { collection, keys: keys.clone(), reverse, keys_only, limit, held: false };
            let shown = format!("{scan:?} at {at}");
            assert_eq!(all_keys(world, at, scan), expected(records, keys, reverse, &dead), "{shown}");
        }
    }
}

#[test]
fn pages_of_several_owners_join_to_all_keys_in_order_in_both_directions() {
    let mut world = World::joining(4, 40);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(60_000);
    let owners: std::collections::BTreeSet<_> = (0..40)
        .map(|number| {
            let record = record(number);
            let key = record.view().key_ref().unwrap();
            world.engines[0].placement().set_of(key, key.hash()).owners[0].member
        })
        .collect();
    assert!(owners.len() > 1, "no member owns all: {owners:?}");
    for at in 0..3 {
        assert_all_scans(&mut world, at, 40, |_| false);
    }
}

#[test]
fn pages_show_what_only_redb_holds_and_nothing_of_it_that_the_table_knows_to_be_dead() {
    let mut world = World::with_table(2, 40, 2_000);
    for number in (0..40).step_by(3) {
        let name = format!("k{number}");
        let key = KeyRef::new("c", name.as_bytes()).unwrap();
        world.engines[0].write(NOBODY, Write { key, change: Change::Delete, level: None, after: 0 });
    }
    world.pass(100);
    assert!(world.engines[0].records.any_evicted());
    assert_all_scans(&mut world, 0, 40, |number| number % 3 == 0);
}

#[test]
fn a_page_ends_where_enough_was_looked_at_though_nothing_of_it_can_be_read() {
    let mut world = World::new(2, 0);
    for number in 0..=MAX_LOOKED_AT {
        let tombstone = record(number);
        let key = tombstone.view().key_ref().unwrap();
        let tombstone = Record::tombstone(key, tombstone.view().timestamp());
        world.engines[0].restore_record(tombstone.view());
    }
    let (collection, keys) = ("c".to_owned(), KeyRange::default());
    let scan = Scan { collection, keys, reverse: false, keys_only: true, limit: 5, held: true };
    let page = page(&mut world, 0, &scan);
    assert_eq!(page.rows, []);
    assert!(page.resume.is_some());
}
