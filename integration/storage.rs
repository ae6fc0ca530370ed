//! Storage on disks that lose, tear, corrupt, lie and fill up.
//!
//! Each test states what must hold whatever the disk does: what was synced is there, what is damaged
//! is noticed and never served, what can be repeated says so.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may just fail")]

#[path = "support/disk.rs"]
mod disk;

use disk::{Operation, SimDisk, pick};
use kith::model::{KeyRange, KeyRef, MemberId, Record, RecordRef, Timestamp};
use kith::storage::disk::lock;
use kith::storage::{
    Checkpoint, Disk, Journal, JournalOptions, Loaded, OsDisk, PageBounds, Recovery, StorageError, Store,
    StoreRecovery, Syncer, small,
};
use std::collections::BTreeMap;
use std::io;

/// So little that redb writes pages long before a checkpoint is committed.
const CACHE: usize = 64 << 10;
const FIRST: &str = "journal-000001.log";
const OPTIONS: JournalOptions =
    JournalOptions { wall_ms: 1_234, seed: 99, first_needed: 0, reserve_bytes: 0, ahead_bytes: 0 };

fn open_journal<D: Disk>(disk: &D, options: JournalOptions) -> (Journal<D>, Recovery, Vec<Vec<u8>>) {
    try_open_journal(disk, options).unwrap()
}

type Opened<D> = (Journal<D>, Recovery, Vec<Vec<u8>>);

fn try_open_journal<D: Disk>(disk: &D, options: JournalOptions) -> Result<Opened<D>, StorageError> {
    let mut payloads = Vec::new();
    let (journal, recovery) = Journal::open(disk, &options, |payload| {
        payloads.push(payload.to_vec());
        Ok(())
    })?;
    Ok((journal, recovery, payloads))
}

/// Payloads of different lengths that differ in every byte.
fn payload(number: u8) -> Vec<u8> {
    vec![number; 20 + usize::from(number) * 37]
}

fn key(number: u32) -> Vec<u8> {
    format!("key-{number:05}").into_bytes()
}

fn number_of(key: &[u8]) -> u32 {
    std::str::from_utf8(&key[4..]).unwrap().parse().unwrap()
}

fn record(number: u32, time: u64) -> Record {
    record_of(number, time, 80)
}

fn record_of(number: u32, time: u64, bytes: usize) -> Record {
    let key = key(number);
    let value = [&time.to_le_bytes()[..], &vec![number as u8; bytes]].concat();
    let stamp = Timestamp { time, member: MemberId(1) };
    Record::value(KeyRef::new("default", &key).unwrap(), stamp, None, &value)
}

fn bytes_of(records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    records.into_iter().flat_map(|record| record.into_bytes().into_vec()).collect()
}

/// One checkpoint with these records.
fn checkpoint<D: Disk>(store: &mut Store<D>, records: &[u8], journal_from: u64) -> Result<(), StorageError> {
    let mut checkpoint = store.begin()?;
    store.write_batch(&mut checkpoint, records, None)?;
    store.commit(checkpoint, journal_from)
}

#[test]
fn what_was_appended_is_replayed_in_order_across_segments_and_lives() {
    let disk = SimDisk::new(1);
    let mut expected = Vec::new();
    for life in 0..3u8 {
        let options = JournalOptions { seed: u64::from(life), ahead_bytes: 4_096, ..OPTIONS };
        let (mut journal, recovery, replayed) = open_journal(&disk, options);
        assert_eq!(replayed, expected);
        assert!(recovery.is_whole() && recovery.set_aside.is_empty());
        for number in 0..4 {
            journal.append(&payload(life * 10 + number)).unwrap();
            expected.push(payload(life * 10 + number));
            if number == 1 {
                journal.syncer().prepare().unwrap();
                journal.rotate().unwrap();
            }
        }
        let appended: usize = expected.iter().rev().take(4).map(Vec::len).sum();
        assert_eq!(journal.position(), appended as u64);
        assert_eq!(journal.syncer().sync().unwrap(), journal.position());
        disk.crash();
    }
}

#[test]
fn what_a_start_replayed_is_there_after_a_power_cut_though_a_killed_process_never_synced_it() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (mut journal, ..) = open_journal(&disk, OPTIONS);
        journal.append(&payload(1)).unwrap();
        disk.kill();
        assert_eq!(open_journal(&disk, OPTIONS).2, [payload(1)]);
        disk.crash();
        let (_, recovery, replayed) = open_journal(&disk, OPTIONS);
        assert_eq!(replayed, [payload(1)], "seed {seed}");
        assert!(recovery.set_aside.is_empty());
    }
}

#[test]
fn a_journal_cut_at_any_byte_opens_with_every_whole_frame() {
    let disk = SimDisk::new(2);
    let (mut journal, ..) = open_journal(&disk, OPTIONS);
    let mut ends = vec![journal.segment_bytes()];
    for number in 0..4 {
        journal.append(&payload(number)).unwrap();
        ends.push(journal.segment_bytes());
    }
    let whole = disk.content(FIRST);
    for length in 0..whole.len() {
        for garbage in [false, true] {
            let mut bytes = whole[..length].to_vec();
            if garbage {
                bytes.extend([0xA5; 30]);
            }
            let copy = SimDisk::new(3);
            copy.set_content(FIRST, &bytes);
            let (journal, recovery, replayed) = open_journal(&copy, OPTIONS);
            let expected = ends.iter().skip(1).filter(|end| **end <= length as u64).count();
            assert_eq!(replayed, (0..expected as u8).map(payload).collect::<Vec<_>>(), "cut at {length}");
            let at_an_end = length == 0 || ends.contains(&(length as u64));
            // Before the first frame ends, the second copy of the segment's header may be cut.
            if length as u64 >= ends[0] || length == 0 {
                assert_eq!(recovery.torn_tail, !at_an_end || garbage, "cut at {length}");
            }
            assert!(!recovery.damaged);
            drop(journal);
            let (_, again, replayed_again) = open_journal(&copy, JournalOptions { seed: 5, ..OPTIONS });
            assert_eq!(replayed_again, replayed);
            assert!(again.is_whole(), "reported once only, cut at {length}: {again:?}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_journal_is_noticed_and_never_replayed() {
    let disk = SimDisk::new(4);
    let (mut journal, ..) = open_journal(&disk, OPTIONS);
    for number in 0..4 {
        journal.append(&payload(number)).unwrap();
        journal.syncer().sync().unwrap();
    }
    let last = journal.segment_bytes() as usize - payload(3).len() - 40;
    let length = disk.content(FIRST).len();
    for bit in (0..length * 8).step_by(5) {
        let copy = disk.copy(6);
        copy.flip_bit(FIRST, bit);
        let (_, recovery, replayed) = open_journal(&copy, OPTIONS);
        assert!(replayed.iter().all(|found| (0..4).any(|number| payload(number) == *found)));
        if bit / 8 < 1_024 {
            assert_eq!(replayed.len(), 4, "one of two headers is enough");
        } else if bit / 8 < last {
            assert_eq!(replayed.len(), 3);
            assert!(recovery.damaged, "bit {bit}");
            assert_eq!(recovery.set_aside, ["journal-000001.damaged-1234-frame"]);
            assert!(copy.names().contains(&recovery.set_aside[0]));
        } else {
            assert_eq!(replayed.len(), 3);
            assert!(recovery.torn_tail, "nothing later proves that it had been durable");
        }
        let (_, again, replayed_again) = open_journal(&copy, JournalOptions { seed: 7, ..OPTIONS });
        assert_eq!(replayed_again, replayed, "what was whole is kept");
        assert!(again.is_whole(), "reported once only");
    }
}

#[test]
fn a_value_that_looks_like_a_frame_is_not_taken_for_one() {
    let disk = SimDisk::new(5);
    let (mut journal, ..) = open_journal(&disk, OPTIONS);
    journal.append(&payload(1)).unwrap();
    let frame = disk.content(FIRST)[1_024..].to_vec();
    let other = SimDisk::new(5);
    let (mut journal, ..) = open_journal(&other, JournalOptions { seed: 100, ..OPTIONS });
    journal.append(&frame).unwrap();
    other.flip_bit(FIRST, 1_024 * 8);
    let (_, recovery, replayed) = open_journal(&other, OPTIONS);
    assert!(replayed.is_empty() && recovery.torn_tail);
}

#[test]
fn lost_files_are_noticed() {
    let disk = SimDisk::new(8);
    let (mut journal, ..) = open_journal(&disk, OPTIONS);
    for number in 0..3 {
        journal.append(&payload(number)).unwrap();
        journal.rotate().unwrap();
    }
    journal.syncer().sync().unwrap();
    let lose = |name: &str, first_needed| {
        let copy = disk.copy(1);
        copy.remove(name).unwrap();
        open_journal(&copy, JournalOptions { first_needed, ..OPTIONS }).1
    };
    assert_eq!(lose(FIRST, 0).missing_segments, 1);
    assert_eq!(lose(FIRST, 2).missing_segments, 0, "the store has it");
    assert_eq!(lose("journal-000002.log", 1).missing_segments, 1);
    let empty = SimDisk::new(1);
    assert_eq!(open_journal(&empty, JournalOptions { first_needed: 7, ..OPTIONS }).1.missing_segments, 1);
    assert_eq!(empty.names(), ["journal-000008.log"]);
}

#[test]
fn a_failed_sync_or_write_stops_the_journal() {
    for operation in [Operation::Sync, Operation::Write] {
        let disk = SimDisk::new(9);
        let (mut journal, ..) = open_journal(&disk, OPTIONS);
        journal.append(&payload(1)).unwrap();
        let syncer = journal.syncer();
        assert_eq!(syncer.sync().unwrap(), payload(1).len() as u64);
        disk.fail_next(operation, io::ErrorKind::Other);
        let failed = journal.append(&payload(2)).and_then(|()| syncer.sync().map(drop));
        assert!(matches!(failed, Err(StorageError::Io { .. })));
        assert!(matches!(journal.append(&payload(3)), Err(StorageError::Poisoned { .. })));
        assert!(matches!(journal.rotate(), Err(StorageError::Poisoned { .. })));
        assert!(matches!(syncer.sync(), Err(StorageError::Poisoned { .. })));
        disk.crash();
        assert_eq!(open_journal(&disk, OPTIONS).2[0], payload(1));
    }
}

#[test]
fn a_full_disk_is_a_typed_error_and_appends_resume_when_there_is_space() {
    for reserve_bytes in [0, 500] {
        let disk = SimDisk::new(10);
        let options = JournalOptions { reserve_bytes, ahead_bytes: 1_000, ..OPTIONS };
        let (mut journal, ..) = open_journal(&disk, options);
        let syncer: Syncer<_> = journal.syncer();
        disk.set_capacity(4_000);
        let mut expected = Vec::new();
        loop {
            match journal.append(&payload(7)) {
                Ok(()) => expected.push(payload(7)),
                Err(error) => break assert!(error.may_pass(), "{error}"),
            }
            syncer.sync().unwrap();
            syncer.prepare().unwrap();
        }
        assert!(expected.len() > 2);
        assert!(disk.free_space().unwrap() >= reserve_bytes, "the reserve is left alone");
        assert!(journal.append(&payload(7)).unwrap_err().may_pass());
        assert_eq!(syncer.sync().unwrap(), journal.position());
        let copy = disk.copy(1);
        copy.set_capacity(u64::MAX);
        copy.crash();
        assert_eq!(open_journal(&copy, OPTIONS).2, expected);
        disk.set_capacity(10_000);
        journal.append(&payload(8)).unwrap();
        expected.push(payload(8));
        syncer.sync().unwrap();
        disk.set_capacity(u64::MAX);
        disk.crash();
        let (_, recovery, replayed) = open_journal(&disk, OPTIONS);
        assert_eq!(replayed, expected);
        assert!(recovery.is_whole());
    }
}

#[test]
fn a_small_file_has_the_old_or_the_new_content_wherever_the_power_fails() {
    for count in 1..12 {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            small::write_atomic(&disk, "identity", b"old").unwrap();
            disk.crash_after(count);
            let written = small::write_atomic(&disk, "identity", &[7; 3_000]).is_ok();
            disk.crash();
            let found = small::read(&disk, "identity").unwrap().unwrap();
            assert!(found == [7; 3_000] || (found == b"old" && !written));
            small::write_atomic(&disk, "identity", b"next").unwrap();
        }
    }
}

/// A member's storage as the node drives it, and what it may say to others.
struct Member {
    disk: SimDisk,
    /// The newest stamp of each key that was synced.
    synced: BTreeMap<u32, u64>,
    clock: u64,
    random: u64,
}

struct Opening {
    journal: Journal<SimDisk>,
    store: Store<SimDisk>,
    found: BTreeMap<Vec<u8>, u64>,
    whole: bool,
}

impl Member {
    fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), synced: BTreeMap::new(), clock: 1, random: seed }
    }

    fn open(&mut self) -> Result<Opening, StorageError> {
        let mut found = BTreeMap::new();
        let mut see = |record: RecordRef<'_>| {
            let newest = found.entry(record.key().to_vec()).or_insert(0);
            *newest = record.timestamp().time.max(*newest);
        };
        let (mut store, store_recovery) = Store::open(&self.disk, CACHE, self.clock)?;
        let scan = store.for_each(&mut see)?;
        let options = JournalOptions {
            seed: pick(&mut self.random, u64::MAX),
            first_needed: store_recovery.journal_from,
            ahead_bytes: 3_000,
            ..OPTIONS
        };
        let (journal, recovery) = Journal::open(&self.disk, &options, |payload| {
            let mut rest = payload;
            while !rest.is_empty() {
                let (record, after) = RecordRef::parse(rest).unwrap();
                record.verify().unwrap();
                see(record);
                rest = after;
            }
            Ok(())
        })?;
        let whole =
            scan.complete && scan.set_aside.is_none() && !recovery.damaged && recovery.missing_segments == 0;
        let whole = whole && store_recovery.set_aside.is_none() && recovery.set_aside.is_empty();
        Ok(Opening { journal, store, found, whole })
    }

    /// Turns, syncs, and every few turns a checkpoint, until something fails.
    fn work(&mut self, turns: u32, opening: &mut Opening) -> Result<(), StorageError> {
        let (journal, store) = (&mut opening.journal, &mut opening.store);
        let syncer = journal.syncer();
        // What was replayed is not in the store yet, and leaves the journal with the next checkpoint.
        let mut dirty: BTreeMap<u32, u64> =
            opening.found.iter().map(|(key, time)| (number_of(key), *time)).collect();
        let mut unsynced = BTreeMap::new();
        for turn in 0..turns {
            let mut batch = Vec::new();
            for _ in 0..1 + pick(&mut self.random, 6) {
                let number = pick(&mut self.random, 40) as u32;
                self.clock += 1;
                batch.push(record(number, self.clock));
                unsynced.insert(number, self.clock);
                dirty.insert(number, self.clock);
            }
            journal.append(&bytes_of(batch))?;
            if turn % 3 == 2 {
                assert_eq!(syncer.sync()?, journal.position());
                self.synced.append(&mut unsynced);
                syncer.prepare()?;
            }
            if turn % 7 == 6 {
                let segment = journal.rotate()?;
                syncer.sync()?;
                self.synced.append(&mut unsynced);
                let records =
                    bytes_of(std::mem::take(&mut dirty).into_iter().map(|(n, time)| record(n, time)));
                checkpoint(store, &records, segment)?;
                syncer.drop_before(segment)?;
            }
        }
        Ok(())
    }

    fn assert_synced_is_there(&self, opening: &Opening, context: &str) {
        for (number, time) in &self.synced {
            let found = opening.found.get(&key(*number)).copied().unwrap_or_default();
            assert!(found >= *time, "key {number}: synced {time}, found {found}, {context}");
        }
    }
}

#[test]
fn what_was_synced_is_there_wherever_the_power_fails() {
    let mut total = 0;
    for count in 1.. {
        let mut member = Member::new(count);
        let mut opening = member.open().unwrap();
        member.disk.crash_after(count);
        let done = member.work(16, &mut opening);
        let finished = !member.disk.is_off();
        assert_eq!(done.is_ok(), finished, "only the power fails: {done:?}");
        drop(opening);
        // The power also fails while the damage is being looked at.
        for round in 0..3 {
            member.disk.crash();
            member.disk.crash_after(1 + (count + round * 5) % 23);
            drop(member.open());
        }
        member.disk.crash();
        let mut opening = member.open().unwrap();
        member.assert_synced_is_there(&opening, &format!("power failed at change {count}"));
        assert!(opening.whole, "an honest disk is never called damaged, change {count}");
        member.work(4, &mut opening).unwrap();
        total = count;
        if finished {
            break;
        }
    }
    assert!(total > 60, "{total} changes");
}

#[test]
fn a_disk_that_fails_now_and_then_loses_nothing_that_was_synced() {
    for seed in 0..60 {
        let mut member = Member::new(seed);
        for life in 0..4 {
            member.disk.set_errors_per_mille([0, 10, 100][(seed % 3) as usize]);
            if let Ok(mut opening) = member.open() {
                member.assert_synced_is_there(&opening, &format!("seed {seed}, life {life}"));
                let _ = member.work(12, &mut opening);
            }
            member.disk.set_errors_per_mille(0);
            member.disk.crash();
        }
        let opening = member.open().unwrap();
        member.assert_synced_is_there(&opening, &format!("seed {seed}"));
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out_or_did_no_harm() {
    let mut found_out = 0;
    for seed in 0..60 {
        let mut member = Member::new(seed);
        let mut opening = member.open().unwrap();
        member.work(9, &mut opening).unwrap();
        member.disk.set_lying_fsync(true);
        member.work(12, &mut opening).unwrap();
        drop(opening);
        member.disk.crash();
        member.disk.set_lying_fsync(false);
        // Nothing wrong is ever shown (`open` verifies), whatever is left.
        match member.open() {
            Ok(opening) => found_out += u32::from(!opening.whole),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(found_out > 0);
}

fn filled_store(disk: &SimDisk, records: u32) -> Store<SimDisk> {
    let (mut store, recovery) = Store::open(disk, CACHE, 1).unwrap();
    assert!(recovery.created);
    checkpoint(&mut store, &bytes_of((0..records).map(|number| record(number, 5))), 3).unwrap();
    store
}

#[test]
fn a_checkpoint_tells_what_it_replaced_and_is_there_after_a_crash() {
    let disk = SimDisk::new(11);
    let mut store = filled_store(&disk, 100);
    let mut writing = store.begin().unwrap();
    assert!(matches!(store.begin(), Err(StorageError::Busy)));
    let mut replaced = Vec::new();
    store.write_batch(&mut writing, &bytes_of([record(7, 6), record(200, 6)]), Some(&mut replaced)).unwrap();
    store.remove(&mut writing, [KeyRef::new("default", &key(8)).unwrap()], Some(&mut replaced)).unwrap();
    let old: Vec<Record> = vec![record(7, 5), record(8, 5)];
    for (replaced, old) in replaced.iter().zip(&old) {
        let was = replaced.was.unwrap();
        let (hash, old) = (replaced.hash, old.view());
        assert_eq!((hash, was.element, was.timestamp), (old.key_hash(), old.element(), old.timestamp()));
    }
    assert_eq!(replaced.len(), 2);
    let load = |store: &mut Store<SimDisk>, number| {
        store.load(KeyRef::new("default", &key(number)).unwrap()).unwrap()
    };
    assert_eq!(load(&mut store, 7), Loaded::Found(record(7, 5)), "loads go on, and show the last commit");
    store.commit(writing, 9).unwrap();
    assert_eq!(load(&mut store, 7), Loaded::Found(record(7, 6)));
    assert_eq!(load(&mut store, 8), Loaded::Absent);
    drop(store.begin().unwrap());
    disk.crash();
    drop(store);
    let (mut store, recovery): (_, StoreRecovery) = Store::open(&disk, CACHE, 1).unwrap();
    assert_eq!((recovery.records, recovery.journal_from, recovery.created), (100, 9, false));
    let mut count = 0;
    let scan = store.for_each(&mut |_| count += 1).unwrap();
    assert_eq!((count, scan.records, scan.damaged, scan.complete), (100, 100, 0, true));
}

/// Records whose pages redb's cache has no room for.
const MANY: u32 = 5_000;

/// The time that every record of [`MANY`] has: all have the same one, and nothing is damaged or lacks.
fn only_time(store: &mut Store<SimDisk>) -> u64 {
    let mut times = BTreeMap::new();
    let scan = store.for_each(&mut |record| *times.entry(record.timestamp().time).or_insert(0) += 1).unwrap();
    assert_eq!((scan.records, scan.damaged, scan.complete), (u64::from(MANY), 0, true));
    let only = times.into_iter().next().unwrap();
    assert_eq!(only.1, MANY);
    only.0
}

/// Puts all of [`MANY`] into a checkpoint, in batches; loads show the ones before meanwhile.
fn write_many(store: &mut Store<SimDisk>, time: u64) -> Result<Checkpoint, StorageError> {
    let mut writing = store.begin()?;
    let first = key(0);
    let before = store.load(KeyRef::new("default", &first).unwrap())?;
    for start in (0..MANY).step_by(500) {
        let batch = bytes_of((start..start + 500).map(|number| record(number, time)));
        store.write_batch(&mut writing, &batch, None)?;
        assert_eq!(store.load(KeyRef::new("default", &first).unwrap())?, before);
    }
    Ok(writing)
}

#[test]
fn a_checkpoint_that_the_cache_has_no_room_for_is_there_as_a_whole_or_not_at_all() {
    let disk = SimDisk::new(12);
    let mut store = filled_store(&disk, MANY);
    drop(write_many(&mut store, 6).unwrap());
    assert_eq!(only_time(&mut store), 5, "one that is dropped");
    let writing = write_many(&mut store, 7).unwrap();
    drop(store);
    drop(writing);
    let mut store = Store::open(&disk, CACHE, 1).unwrap().0;
    assert_eq!(only_time(&mut store), 5, "one whose store is closed");
    let mut first = store.begin().unwrap();
    let many = bytes_of((0..MANY).map(|number| record(number, 8)));
    disk.set_errors_per_mille(1_000);
    let failed = store.write_batch(&mut first, &many, None);
    disk.set_errors_per_mille(0);
    assert!(matches!(failed, Err(StorageError::Io { .. })), "{failed:?}");
    assert!(store.commit(first, 9).is_err());
    assert_eq!(only_time(&mut store), 5, "one that failed");
    let writing = write_many(&mut store, 9).unwrap();
    store.commit(writing, 9).unwrap();
    disk.crash();
    drop(store);
    let mut store = Store::open(&disk, CACHE, 1).unwrap().0;
    assert_eq!(only_time(&mut store), 9);
    let before = disk.operations();
    let writing = write_many(&mut store, 10).unwrap();
    store.commit(writing, 10).unwrap();
    let operations = disk.operations() - before;
    for count in (1..operations).step_by(operations as usize / 30) {
        let disk = disk.copy(count);
        let mut store = Store::open(&disk, CACHE, 1).unwrap().0;
        disk.crash_after(count);
        let done = write_many(&mut store, 11).and_then(|writing| store.commit(writing, 11));
        drop(store);
        disk.crash();
        let mut store = Store::open(&disk, CACHE, 1).unwrap().0;
        let time = only_time(&mut store);
        assert!(time == 11 || (time == 10 && done.is_err()), "{time} after {count} operations, {done:?}");
    }
}

#[test]
fn a_checkpoint_that_the_cache_has_no_room_for_writes_each_page_about_once() {
    let disk = SimDisk::new(13);
    let mut store = Store::open(&disk, 2 << 20, 1).unwrap().0;
    let many = |time| bytes_of((0..12_000).map(|number| record_of(number, time, 900)));
    checkpoint(&mut store, &many(5), 1).unwrap();
    let pages = disk.content("records.redb").len() as u64 / 4_096;
    let before = disk.operations();
    checkpoint(&mut store, &many(6), 2).unwrap();
    let operations = disk.operations() - before;
    assert!(operations < pages * 5 / 4, "{operations} operations for {pages} pages");
}

const EVERYTHING: PageBounds =
    PageBounds { looked_at: usize::MAX, read_bytes: usize::MAX, bytes: usize::MAX };

/// The number of an intact record, and its bytes.
fn row(found: RecordRef<'_>) -> Option<(u32, usize)> {
    let number = number_of(found.key());
    assert!(found.key() == b"key-1" || found.bytes() == record(number, 5).view().bytes());
    Some((number, found.bytes().len()))
}

#[test]
fn pages_of_a_range_join_to_the_whole_range() {
    let disk = SimDisk::new(12);
    let mut store = filled_store(&disk, 50);
    let other = Record::value(KeyRef::new("zebra", b"key-1").unwrap(), Timestamp::ZERO, None, b"");
    let mut writing = store.begin().unwrap();
    store.write_batch(&mut writing, other.view().bytes(), None).unwrap();
    store.commit(writing, 3).unwrap();
    let all = usize::MAX;
    for (looked_at, read_bytes, bytes) in
        [(7, all, all), (1_000, 500, all), (1_000, all, 500), (1, 1, 1), (1_000, all, all)]
    {
        let bounds = PageBounds { looked_at, read_bytes, bytes };
        for reverse in [false, true] {
            let (mut numbers, mut keys) = (Vec::new(), KeyRange::with_prefix(b"key-0000"));
            loop {
                let page = store.range("default", &keys, reverse, bounds, row).unwrap();
                assert!((1..=looked_at).contains(&page.rows.len()));
                numbers.extend(page.rows);
                let Some(come_to) = page.next_after else { break };
                keys = keys.beyond(&come_to, reverse);
            }
            let expected: Vec<u32> = if reverse { (0..10).rev().collect() } else { (0..10).collect() };
            assert_eq!(numbers, expected, "{bounds:?}");
        }
    }
    for reverse in [false, true] {
        let count = |store: &mut Store<SimDisk>, collection, keys| {
            store.range(collection, &keys, reverse, EVERYTHING, row).unwrap().rows.len()
        };
        assert_eq!(count(&mut store, "default", KeyRange::default()), 50);
        assert_eq!(count(&mut store, "zebra", KeyRange::default()), 1);
        assert_eq!(count(&mut store, "none", KeyRange::default()), 0);
        let reversed = KeyRange { start: key(9), end: Some(key(3)) };
        assert_eq!(count(&mut store, "default", reversed), 0);
    }
}

#[test]
fn the_records_of_one_collection_are_read_by_themselves() {
    let disk = SimDisk::new(12);
    let mut store = filled_store(&disk, 20);
    let of = |collection: &str| {
        let key = KeyRef::new(collection, b"key-1").unwrap();
        Record::value(key, Timestamp::ZERO, None, b"v").into_bytes().into_vec()
    };
    let mut writing = store.begin().unwrap();
    let others: Vec<u8> = ["defaul", "default1"].into_iter().flat_map(of).collect();
    store.write_batch(&mut writing, &others, None).unwrap();
    store.commit(writing, 3).unwrap();
    let all: Vec<Record> = (0..20).map(|number| record(number, 5)).collect();
    assert_eq!(store.collection("default").unwrap(), all);
    assert_eq!(
        (store.collection("default1").unwrap().len(), store.collection("none").unwrap().len()),
        (1, 0)
    );
}

#[test]
fn a_flipped_bit_in_the_store_is_noticed_and_never_served() {
    let disk = SimDisk::new(13);
    drop(filled_store(&disk, 400));
    let length = disk.content("records.redb").len();
    let mut random = 7;
    let mut outcomes = [0u32; 3];
    for _ in 0..400 {
        let copy = disk.copy(1);
        let bit = pick(&mut random, length as u64 * 8) as usize;
        copy.flip_bit("records.redb", bit);
        let (mut store, recovery) = Store::open(&copy, CACHE, 77).unwrap();
        if let Some((name, _)) = recovery.set_aside {
            assert_eq!(name, "records.redb.damaged-77");
            assert!(copy.names().contains(&name) && recovery.created && store.records() == 0);
            outcomes[0] += 1;
            continue;
        }
        // As a start does it, which must harm nothing.
        for found in store.collection("default").unwrap() {
            assert_eq!(found, record(number_of(found.view().key()), 5));
        }
        let mut shown = 0;
        let scan = store.for_each(&mut |found| {
            shown += 1;
            assert_eq!(found.bytes(), record(number_of(found.key()), 5).view().bytes());
        });
        let scan = scan.unwrap();
        assert!(!scan.complete || shown == 400, "bit {bit}: {shown} records pass for all");
        assert!(scan.damaged == 0 || !scan.complete);
        outcomes[if scan.set_aside.is_some() { 1 } else { 2 }] += 1;
        for number in 0..400 {
            match store.load(KeyRef::new("default", &key(number)).unwrap()) {
                Ok(Loaded::Found(found)) => assert_eq!(found, record(number, 5)),
                Ok(Loaded::Absent) => assert!(!scan.complete, "bit {bit}: {number} is gone without a word"),
                other => panic!("bit {bit}: {other:?} although the store was checked"),
            }
        }
    }
    assert!(outcomes[1] > 0 && outcomes[2] > 0, "{outcomes:?}");
}

/// A store of 20 records of which number 11 is damaged.
fn damaged_store(seed: u64) -> (SimDisk, Store<SimDisk>) {
    let disk = SimDisk::new(seed);
    drop(filled_store(&disk, 20));
    let content = disk.content("records.redb");
    let body = record(11, 5).view().body().to_vec();
    let at = content.windows(body.len()).position(|part| part == body).unwrap();
    disk.flip_bit("records.redb", at * 8);
    let store = Store::open(&disk, CACHE, 70).unwrap().0;
    (disk, store)
}

#[test]
fn a_damaged_record_that_is_met_at_work_is_removed_by_the_next_checkpoint() {
    let (_disk, mut store) = damaged_store(14);
    let name = key(11);
    let damaged = KeyRef::new("default", &name).unwrap();
    assert_eq!(store.load(damaged).unwrap(), Loaded::Damaged);
    let page = store
        .range("default", &KeyRange::default(), false, EVERYTHING, |found| Some((found.key().to_vec(), 0)));
    let page = page.unwrap();
    assert_eq!((page.rows.len(), page.damaged), (19, vec![("default".to_owned(), key(11))]));
    checkpoint(&mut store, &bytes_of([record(0, 6)]), 4).unwrap();
    assert_eq!(store.load(damaged).unwrap(), Loaded::Absent);
    let page = store
        .range("default", &KeyRange::default(), false, EVERYTHING, |found| Some((found.key().to_vec(), 0)));
    let page = page.unwrap();
    assert_eq!((page.rows.len(), page.damaged), (19, vec![]));
    // Nor does the next start miss anything.
    let scan = store.for_each(&mut |_| {}).unwrap();
    assert_eq!((scan.records, scan.complete, scan.set_aside), (19, true, None));
}

#[test]
fn a_damaged_record_that_was_overwritten_meanwhile_is_not_removed() {
    let (_disk, mut store) = damaged_store(18);
    let name = key(11);
    let damaged = KeyRef::new("default", &name).unwrap();
    let mut writing = store.begin().unwrap();
    assert_eq!(store.load(damaged).unwrap(), Loaded::Damaged);
    let mut replaced = Vec::new();
    store.write_batch(&mut writing, record(11, 6).view().bytes(), Some(&mut replaced)).unwrap();
    assert_eq!((replaced.len(), replaced[0].was), (1, None));
    store.commit(writing, 4).unwrap();
    checkpoint(&mut store, &bytes_of([record(0, 6)]), 5).unwrap();
    assert_eq!(store.load(damaged).unwrap(), Loaded::Found(record(11, 6)));
    let scan = store.for_each(&mut |_| {}).unwrap();
    assert_eq!((scan.records, scan.complete, scan.set_aside), (20, true, None));
}

#[test]
fn what_a_checkpoint_removes_is_told_and_gone() {
    let disk = SimDisk::new(19);
    let mut store = filled_store(&disk, 20);
    let (first, absent) = (key(3), key(30));
    let keys = [&first, &absent].map(|name| KeyRef::new("default", name).unwrap());
    let (mut writing, mut removed) = (store.begin().unwrap(), Vec::new());
    store.remove(&mut writing, keys, Some(&mut removed)).unwrap();
    store.commit(writing, 4).unwrap();
    let was = record(3, 5);
    assert_eq!(removed.len(), 1);
    assert_eq!((removed[0].hash, removed[0].was.unwrap().element), (keys[0].hash(), was.view().element()));
    assert_eq!(store.load(keys[0]).unwrap(), Loaded::Absent);
    let scan = store.for_each(&mut |_| {}).unwrap();
    assert_eq!((scan.records, scan.complete), (19, true));
}

#[test]
fn pages_of_all_records_join_to_all_that_is_wanted_and_name_what_is_damaged() {
    let (_disk, mut store) = damaged_store(20);
    let generous = PageBounds { looked_at: 1_000, read_bytes: usize::MAX, bytes: usize::MAX };
    for bounds in [
        generous,
        PageBounds { looked_at: 3, ..generous },
        PageBounds { read_bytes: 300, ..generous },
        PageBounds { bytes: 300, ..generous },
        PageBounds { looked_at: 0, read_bytes: 0, bytes: 0 },
    ] {
        let (mut all, mut damaged, mut pages) = (Vec::new(), Vec::new(), 0);
        let mut after = (String::new(), Vec::new());
        loop {
            let is_odd = |key: KeyRef<'_>, _: &[u8]| number_of(key.key()) % 2 == 1;
            let page = store.page((&after.0, &after.1), is_odd, bounds).unwrap();
            pages += 1;
            all.extend(page.records);
            damaged.extend(page.damaged);
            match page.next_after {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(all, bytes_of((0..20).filter(|n| n % 2 == 1 && *n != 11).map(|n| record(n, 5))));
        assert_eq!(damaged, [("default".to_owned(), key(11))]);
        assert_eq!(pages > 1, bounds != generous, "{bounds:?}");
    }
}

#[test]
fn a_damaged_name_is_damage_of_the_store_which_can_be_rebuilt() {
    let name = [b"default\0".as_slice(), &key(11)].concat();
    // The last letter; the zero between collection and key.
    for at in [name.len() - 1, 7] {
        let disk = SimDisk::new(21);
        drop(filled_store(&disk, 20));
        let content = disk.content("records.redb");
        let found = content.windows(name.len()).position(|part| part == name).unwrap();
        disk.flip_bit("records.redb", (found + at) * 8 + 6);
        let mut store = Store::open(&disk, CACHE, 1).unwrap().0;
        let bounds = PageBounds { looked_at: 100, read_bytes: usize::MAX, bytes: usize::MAX };
        let page = store.page(("", b""), |_, _| true, bounds);
        assert!(matches!(page, Err(StorageError::Damaged { .. })), "{page:?}");
        store.rebuild().unwrap();
        let page = store.page(("", b""), |_, _| true, bounds).unwrap();
        assert_eq!((page.count, page.damaged.len()), (19, 0));
    }
}

#[test]
fn stores_that_are_set_aside_one_after_the_other_are_all_kept() {
    let (disk, mut store) = damaged_store(22);
    assert_eq!(store.rebuild().unwrap(), "records.redb.damaged-70");
    assert_eq!(store.rebuild().unwrap(), "records.redb.damaged-70-2");
    assert_eq!(disk.names(), ["records.redb", "records.redb.damaged-70", "records.redb.damaged-70-2"]);
    assert_eq!(store.records(), 19);
}

#[test]
fn a_store_with_damage_is_rebuilt_from_what_is_whole() {
    let (disk, mut store) = damaged_store(17);
    let mut shown = 0;
    let scan = store.for_each(&mut |_| shown += 1).unwrap();
    assert_eq!((shown, scan.records, scan.damaged, scan.complete), (19, 19, 1, false));
    assert_eq!(scan.set_aside.unwrap(), "records.redb.damaged-70");
    assert_eq!(disk.names(), ["records.redb", "records.redb.damaged-70"]);
    disk.crash();
    drop(store);
    let (mut store, recovery) = Store::open(&disk, CACHE, 71).unwrap();
    assert_eq!((recovery.records, recovery.journal_from), (19, 3));
    let scan = store.for_each(&mut |_| {}).unwrap();
    assert_eq!((scan.records, scan.damaged, scan.complete, scan.set_aside), (19, 0, true, None));
}

#[test]
fn a_sound_store_is_not_set_aside_however_it_grew_and_shrank() {
    for seed in 0..250 {
        let mut random = seed;
        let disk = SimDisk::new(seed);
        let (mut store, _) = Store::open(&disk, CACHE, 1).unwrap();
        for time in 1..=pick(&mut random, 12) {
            let (first, count) = (pick(&mut random, 100), pick(&mut random, 60));
            let numbers = (first..first + count).map(|number| number as u32);
            let mut writing = store.begin().unwrap();
            if pick(&mut random, 3) == 0 {
                let keys: Vec<Vec<u8>> = numbers.map(key).collect();
                let keys = keys.iter().map(|key| KeyRef::new("default", key).unwrap());
                store.remove(&mut writing, keys, None).unwrap();
            } else {
                let bytes = [80, 8_000][pick(&mut random, 2) as usize];
                let records = bytes_of(numbers.map(|number| record_of(number, time, bytes)));
                store.write_batch(&mut writing, &records, None).unwrap();
            }
            store.commit(writing, time).unwrap();
            if pick(&mut random, 3) == 0 {
                let scan = store.for_each(&mut |_| {}).unwrap();
                assert_eq!((scan.complete, scan.set_aside), (true, None), "seed {seed}");
            }
            if pick(&mut random, 4) == 0 {
                disk.crash();
                drop(store);
                store = Store::open(&disk, CACHE, 1).unwrap().0;
            }
        }
        let scan = store.for_each(&mut |_| {}).unwrap();
        assert_eq!((scan.complete, scan.set_aside), (true, None), "seed {seed}");
    }
}

#[test]
fn a_rebuilding_that_the_power_interrupts_loses_nothing() {
    for count in 1.. {
        let (disk, mut store) = damaged_store(count);
        let before = disk.operations();
        disk.crash_after(count);
        let done = store.for_each(&mut |_| {}).is_ok();
        drop(store);
        let finished = done && !disk.is_off();
        disk.crash();
        let (mut store, _) = Store::open(&disk, CACHE, 72).unwrap();
        assert_eq!(store.for_each(&mut |_| {}).unwrap().records, 19, "power failed at change {count}");
        if finished {
            assert!(disk.operations() - before > 10);
            break;
        }
    }
}

#[test]
fn a_store_that_is_no_store_is_set_aside_and_reported() {
    let disk = SimDisk::new(15);
    drop(filled_store(&disk, 100));
    let content = disk.content("records.redb");
    let halves =
        [content[..content.len() / 2].to_vec(), [vec![0; 8_192], content[8_192..].to_vec()].concat()];
    for bytes in [b"not a database".to_vec(), vec![0; 100_000], content[..100].to_vec()].iter().chain(&halves)
    {
        let copy = SimDisk::new(1);
        copy.set_content("records.redb", bytes);
        let (mut store, recovery) = Store::open(&copy, CACHE, 5).unwrap();
        let (aside, _) = recovery.set_aside.unwrap();
        assert_eq!(copy.content(&aside).len(), bytes.len().max(copy.content(&aside).len()));
        checkpoint(&mut store, &bytes_of([record(1, 1)]), 1).unwrap();
    }
}

#[test]
fn a_checkpoint_on_a_full_disk_fails_cleanly_and_succeeds_when_there_is_space() {
    let disk = SimDisk::new(16);
    let mut store = filled_store(&disk, 100);
    let many = bytes_of((0..20_000).map(|number| record(number, 9)));
    disk.set_capacity(disk.used() + 100_000);
    for _ in 0..3 {
        let failed = checkpoint(&mut store, &many, 4).unwrap_err();
        assert!(failed.may_pass(), "{failed}");
        let name = key(5);
        let loaded = store.load(KeyRef::new("default", &name).unwrap()).unwrap();
        assert_eq!(loaded, Loaded::Found(record(5, 5)), "reads go on");
    }
    disk.set_capacity(u64::MAX);
    checkpoint(&mut store, &many, 4).unwrap();
    assert_eq!(store.records(), 20_000);
    disk.crash();
    drop(store);
    assert_eq!(Store::open(&disk, CACHE, 1).unwrap().1.records, 20_000);
}

const CHILD: &str = "KITH_TEST_LOCKED_DIRECTORY";

#[test]
fn a_second_process_is_kept_out_of_a_data_directory() {
    if let Some(directory) = std::env::var_os(CHILD) {
        let refused = lock(&OsDisk::new(directory).unwrap()).unwrap_err();
        assert!(refused.to_string().contains("another kith uses this data directory"));
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let disk = OsDisk::new(place.path()).unwrap();
    let _held = lock(&disk).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_second_process_is_kept_out_of_a_data_directory"])
        .env(CHILD, place.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}
