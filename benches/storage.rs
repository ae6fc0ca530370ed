//! What storage can do on this machine, beside the limit measured in the same run.
//!
//! `cargo bench --bench storage` prints one table; `benches/RESULTS.md` keeps a measured one.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::unwrap_used, reason = "a failed measurement may just end")]

use kith::model::{KeyRef, MemberId, Record, RecordRef, Timestamp};
use kith::storage::{Disk, File, Journal, JournalOptions, Loaded, OsDisk, Store};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const RECORDS: u32 = 1_000_000;
const RECORD_BYTES: usize = 136;
const WRITERS: usize = 16;
const ROUNDS: usize = 3;
const MEASURED: Duration = Duration::from_secs(2);
const CACHE_BYTES: usize = 512 << 20;
/// What a member takes when nobody says.
const SMALL_CACHE_BYTES: usize = 16 << 20;
/// Of the records of the last checkpoint, one in so many is written anew.
const EACH: u32 = 3;
const OPTIONS: JournalOptions =
    JournalOptions { wall_ms: 0, seed: 1, first_needed: 0, reserve_bytes: 64 << 20, ahead_bytes: 16 << 20 };

fn main() {
    // Beside the build, on the disk that is measured; a temporary directory may be memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("| what | figure | target |");
    println!("|---|---|---|");
    for batch in [64, 256] {
        group_commit(place.path(), batch);
    }
    replay(place.path());
    checkpoint_and_read(place.path());
    checkpoint_here_and_there(place.path());
}

/// A record of 136 bytes.
fn record(number: u32, time: u64) -> Record {
    let key = format!("key:{number:012}");
    let key = KeyRef::new("default", key.as_bytes()).unwrap();
    let bytes = RECORD_BYTES - 42 - 7 - 16;
    Record::value(key, Timestamp { time, member: MemberId(1) }, None, &vec![7; bytes])
}

fn batch_of(count: u32) -> Vec<u8> {
    (0..count).flat_map(|number| record(number, 1).into_bytes().into_vec()).collect()
}

fn disk(place: &std::path::Path, name: &str) -> OsDisk {
    OsDisk::new(place.join(name)).unwrap()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// 16 writers that wait for their batch to be durable, and the same bytes as bare appends: in
/// batches of one writer, and of all that were waiting when the last sync ended.
fn group_commit(place: &std::path::Path, batch: u32) {
    let payload = batch_of(batch);
    assert_eq!(payload.len(), batch as usize * RECORD_BYTES);
    let (mut bare, mut grouped, mut journal) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("append-{batch}-{round}");
        let sync = |bytes: &[u8], name: &str| {
            let file = disk(place, name).open("plain", true).unwrap();
            let (began, mut offset) = (Instant::now(), 0);
            while began.elapsed() < MEASURED {
                file.write(offset, bytes).unwrap();
                file.sync_data().unwrap();
                offset += bytes.len() as u64;
            }
            offset as f64 / RECORD_BYTES as f64 / began.elapsed().as_secs_f64()
        };
        bare.push(sync(&payload, &format!("{name}-bare")));
        journal.push(journal_throughput(&disk(place, &name), &payload, batch));
        grouped.push(sync(&payload.repeat(WRITERS), &format!("{name}-grouped")));
    }
    let (bare, grouped, journal) = (median(bare), median(grouped), median(journal));
    println!(
        "| always, {WRITERS} writers, batches of {batch} | {:.0} k records/s | |\n\
         | the same as bare append + fdatasync of one batch | {:.0} k records/s: {:.0}% of it | ≥ 60% |\n\
         | the same as bare append + fdatasync of {WRITERS} batches at once | {:.0} k records/s: {:.0}% of it | ≥ 60% |",
        journal / 1e3,
        bare / 1e3,
        100.0 * journal / bare,
        grouped / 1e3,
        100.0 * journal / grouped,
    );
}

/// As a member does it: writers hand batches to one appender and wait for a position; a second
/// thread syncs whatever was appended meanwhile.
fn journal_throughput(disk: &OsDisk, payload: &[u8], batch: u32) -> f64 {
    let (journal, _) = Journal::open(disk, &OPTIONS, |_| Ok(())).unwrap();
    let syncer = journal.syncer();
    syncer.sync().unwrap();
    syncer.prepare().unwrap();
    let waiting = Mutex::new((journal, 0u64));
    let (durable, working, confirmed) = (AtomicU64::new(0), AtomicUsize::new(WRITERS), AtomicU64::new(0));
    let (appended, synced) = (Condvar::new(), (Mutex::new(()), Condvar::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut done = 0;
            while working.load(Ordering::Acquire) > 0 {
                {
                    let guard = waiting.lock().unwrap();
                    let wait = Duration::from_millis(50);
                    let _ =
                        appended.wait_timeout_while(guard, wait, |(_, position)| *position == done).unwrap();
                }
                done = syncer.sync().unwrap();
                {
                    let _guard = synced.0.lock().unwrap();
                    durable.store(done, Ordering::Release);
                }
                synced.1.notify_all();
                syncer.prepare().unwrap();
            }
        });
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while began.elapsed() < MEASURED {
                    let own = {
                        let mut guard = waiting.lock().unwrap();
                        guard.0.append(payload).unwrap();
                        guard.1 = guard.0.position();
                        guard.1
                    };
                    appended.notify_one();
                    let guard = synced.0.lock().unwrap();
                    let wait = |(): &mut ()| durable.load(Ordering::Acquire) < own;
                    drop(synced.1.wait_while(guard, wait).unwrap());
                    confirmed.fetch_add(u64::from(batch), Ordering::Relaxed);
                }
                working.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
    confirmed.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Replaying a million records, each verified.
fn replay(place: &std::path::Path) {
    let disk = disk(place, "replay");
    let (mut journal, _) = Journal::open(&disk, &OPTIONS, |_| Ok(())).unwrap();
    for start in (0..RECORDS).step_by(64) {
        let batch: Vec<u8> = (start..start + 64).flat_map(|n| record(n, 1).into_bytes().into_vec()).collect();
        journal.append(&batch).unwrap();
    }
    journal.syncer().sync().unwrap();
    drop(journal);
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        let (began, mut count) = (Instant::now(), 0);
        let opened = Journal::open(&disk, &OPTIONS, |payload| {
            let mut rest = payload;
            while let Ok((record, after)) = RecordRef::parse(rest) {
                record.verify().unwrap();
                count += 1;
                rest = after;
            }
            Ok(())
        });
        assert!(opened.unwrap().1.is_whole());
        assert_eq!(count, RECORDS);
        figures.push(began.elapsed().as_secs_f64());
    }
    println!("| replay of 1 M journalled records | {:.2} s | < 3 s |", median(figures));
}

/// A checkpoint of a million records, once more over them, the scan at a start, and point reads.
fn checkpoint_and_read(place: &std::path::Path) {
    let disk = disk(place, "store");
    let (mut store, _) = Store::open(&disk, CACHE_BYTES, 0).unwrap();
    for (time, what) in [(1, "into an empty store"), (2, "over as many older ones")] {
        let records: Vec<u8> = (0..RECORDS).flat_map(|n| record(n, time).into_bytes().into_vec()).collect();
        let (began, mut replaced) = (Instant::now(), Vec::new());
        let mut checkpoint = store.begin().unwrap();
        for batch in records.chunks(RECORD_BYTES * 20_000) {
            store.write_batch(&mut checkpoint, batch, Some(&mut replaced)).unwrap();
        }
        store.commit(checkpoint, 1).unwrap();
        let rate = f64::from(RECORDS) / began.elapsed().as_secs_f64();
        println!("| checkpoint of 1 M records {what} | {:.0} k records/s | ≥ 300 k |", rate / 1e3);
        assert_eq!(replaced.len(), if time == 1 { 0 } else { RECORDS as usize });
    }
    drop(store);
    let began = Instant::now();
    let (mut store, _) = Store::open(&disk, CACHE_BYTES, 0).unwrap();
    let opened = began.elapsed();
    let mut elements = 0;
    let scan = store.for_each(&mut |record| elements ^= record.element()).unwrap();
    assert!(scan.complete && scan.set_aside.is_none() && elements != 0);
    println!(
        "| opening it, scanning all and checking every page | {:.2} s, {:.2} s of it opening | |",
        began.elapsed().as_secs_f64(),
        opened.as_secs_f64()
    );
    for measured in [false, true] {
        let (began, mut random, reads) = (Instant::now(), 1u64, 500_000);
        for _ in 0..reads {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (random >> 33) % u64::from(RECORDS);
            let key = format!("key:{number:012}");
            let found = store.load(KeyRef::new("default", key.as_bytes()).unwrap()).unwrap();
            assert!(matches!(found, Loaded::Found(_)));
        }
        if measured {
            let micros = began.elapsed().as_secs_f64() * 1e6 / f64::from(reads);
            println!("| point read from a warm store, verified | {micros:.2} µs | < 5 µs |");
        }
    }
}

/// A checkpoint of some of two million records, all over the store, so that every leaf changes, with the small cache that
/// members have.
fn checkpoint_here_and_there(place: &std::path::Path) {
    let disk = disk(place, "sparse");
    let (mut store, _) = Store::open(&disk, SMALL_CACHE_BYTES, 0).unwrap();
    for (time, each) in [(1, 1), (2, EACH), (3, EACH), (4, EACH)] {
        let chosen = |n: &u32| n.wrapping_mul(2_654_435_769).rotate_left(7).is_multiple_of(each);
        let numbers: Vec<u32> = (0..2 * RECORDS).filter(chosen).collect();
        let records: Vec<u8> =
            numbers.iter().flat_map(|n| record(*n, time).into_bytes().into_vec()).collect();
        let (began, mut replaced) = (Instant::now(), Vec::new());
        let written = written_bytes();
        let mut checkpoint = store.begin().unwrap();
        for batch in records.chunks(RECORD_BYTES * 2_000) {
            store.write_batch(&mut checkpoint, batch, Some(&mut replaced)).unwrap();
        }
        store.commit(checkpoint, 1).unwrap();
        let rate = numbers.len() as f64 / began.elapsed().as_secs_f64();
        assert_eq!(replaced.len(), if time == 1 { 0 } else { numbers.len() });
        println!(
            "| checkpoint of {} of 2 M records, a cache of 16 MiB | {:.0} k records/s | |\n\
             | … bytes that were written for each of them | {:.0} | |",
            if each == 1 { "all".into() } else { format!("each {each}rd") },
            rate / 1e3,
            (written_bytes() - written) as f64 / numbers.len() as f64,
        );
    }
    println!("| … the file afterwards | {:.0} MB | |", store.file_bytes().unwrap() as f64 / 1e6);
}

/// Bytes that this process gave to the system to write so far.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}
