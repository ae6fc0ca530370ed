//! What one member costs: a read from memory, idle memory, and a start with a million records.
//!
//! `cargo bench --bench member` prints a table; figures next to a limit measured in the same run
//! where there is one. Everything that it starts it ends by itself; data is in a temporary
//! directory.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a program that prints its measurements; a panic ends it"
)]

#[path = "support/mod.rs"]
mod support;

use anyhow::{Context, Result};
use kith::engine::operation::{Change, Write};
use kith::engine::{Bounds, Engine, Identity, Local, Mode};
use kith::model::key::{ROSTER, SETTINGS};
use kith::model::roster::{MemberState, RosterEntry, entry_key};
use kith::model::settings::Settings;
use kith::model::{KeyHash, KeyRef, MemberId, Now};
use std::hint::black_box;
use std::time::{Duration, Instant};
use support::members::{Member, Plan, together};
use support::resp::Resp;

/// The one that the program has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: u64 = 1_000_000;
const READS: u64 = 2_000_000;
/// Reads that a client with that many in flight sends together.
const TOGETHER: usize = 16;

fn main() -> Result<()> {
    println!("| what | measured | bound |\n|---|---|---|");
    let (read, together, probe) = read_from_memory();
    println!("| random read of one of {RECORDS} records in memory | {read:.0} ns | < 500 ns |");
    println!("| … of which the next {TOGETHER} are told together | {together:.0} ns | |");
    println!("| … of it a random access to 1 GiB of plain memory, as the limit | {probe:.0} ns | |");
    starts("512MiB", "the journal")?;
    // So small that most of them are in the store when the member stops.
    starts("16MiB", "the store, and the last in the journal")
}

/// Starts a member, fills it, and starts it again.
fn starts(journal_bytes: &str, place: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let memory = format!("journal_bytes = \"{journal_bytes}\"");
    let plan = Plan { cluster: "bench", settings: "", memory: &memory };
    let mut member = together(directory.path(), 1, &plan)?.pop().context("one member")?;
    println!("| resident memory of an idle member | {:.1} MB | < 40 MB |", member.process()?.resident_mb()?);
    let loaded = fill(&member)?;
    println!(
        "| {RECORDS} records of 100 bytes loaded, one member, fsync always | {:.1} s | |",
        loaded.as_secs_f64()
    );
    println!("| resident memory with them | {:.0} MB | |", member.process()?.resident_mb()?);
    member.stop()?;
    let began = Instant::now();
    member.start()?;
    member.wait_until_ready()?;
    println!("| start to ready, all in {place} | {:.2} s | < 3 s |", began.elapsed().as_secs_f64());
    println!("| resident memory then | {:.0} MB | |", member.process()?.resident_mb()?);
    Ok(())
}

/// Nanoseconds of a random read through the engine, alone and told of with others, and of a random access to
/// plain memory.
fn read_from_memory() -> (f64, f64, f64) {
    let public_key = [7; 32];
    let member = MemberId::of_public_key(&public_key);
    let mut engine = Engine::new(Identity { member, incarnation: 1, life: 1 }, Bounds::default(), 8);
    engine.advance(Now { wall_ms: 1_700_000_000_000, mono_us: 1 });
    let entry = RosterEntry {
        name: "one".to_owned(),
        public_key,
        address: "127.0.0.1:1".to_owned(),
        http_address: "127.0.0.1:2".to_owned(),
        zone: String::new(),
        next_zone: None,
        state: MemberState::Active,
        admitted: 1,
    };
    let mut first = vec![(ROSTER, entry_key(member), entry.encode())];
    first.extend(
        Settings::default()
            .records()
            .map(|(name, value)| (SETTINGS, name.as_bytes().to_vec(), value.into_bytes())),
    );
    engine.create(&first);
    engine.set_mode(Mode::Serving);
    for n in 0..RECORDS {
        let key = format!("key:{n:012}");
        if let Ok(key) = KeyRef::new("default", key.as_bytes()) {
            let change = Change::Set { value: &[b'x'; 100], expiry_ms: None };
            engine.write(n, Write { key, change, level: None, after: 0 });
        }
        if n % 1_000 == 999 {
            engine.end_turn();
            engine.written();
            let position = engine.positions().written;
            engine.synced(position);
            engine.lanes.completions.clear();
            engine.lanes.checkpoint = None;
            engine.lanes.rotate = false;
        }
    }
    let keys: Vec<String> = (0..READS).map(|n| format!("key:{:012}", scramble(n) % RECORDS)).collect();
    let read = read_all(&mut engine, &keys, 1);
    let together = read_all(&mut engine, &keys, TOGETHER);
    let memory = vec![1u8; 1 << 30];
    let began = Instant::now();
    let mut at = 0u64;
    for n in 0..READS {
        at += u64::from(memory[(scramble(n + at) % (1 << 30)) as usize]);
    }
    black_box(at);
    (read, together, began.elapsed().as_secs_f64() * 1e9 / READS as f64)
}

/// Nanoseconds of a read when so many are told of before the first of them.
fn read_all(engine: &mut Engine, keys: &[String], together: usize) -> f64 {
    let began = Instant::now();
    let mut found = 0u64;
    for part in keys.chunks(together) {
        let part: Vec<KeyRef<'_>> =
            part.iter().filter_map(|key| KeyRef::new("default", key.as_bytes()).ok()).collect();
        let hashes: Vec<KeyHash> = part.iter().map(|key| key.hash()).collect();
        if together > 1 {
            engine.foresee(&hashes);
        }
        for (key, hash) in part.into_iter().zip(hashes) {
            if let Local::Found(record) = engine.read_now(key, hash) {
                found += record.body().len() as u64;
            }
        }
    }
    assert_eq!(found, READS * 100, "every key is found");
    began.elapsed().as_secs_f64() * 1e9 / READS as f64
}

/// An even spread without a generator's state (the finalizer of SplitMix64).
fn scramble(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Sets every record once through one pipelined connection.
fn fill(member: &Member) -> Result<Duration> {
    let mut connection = Resp::connect(member.resp)?;
    let began = Instant::now();
    connection.fill((0..RECORDS).map(|n| format!("key:{n:012}")), &"x".repeat(100))?;
    Ok(began.elapsed())
}
