//! What a thousand watches on a member cost its other clients.
//!
//! `cargo bench --bench watch` prints a table: what clients write in a second while nobody watches, while a thousand
//! watch what does not change, what changes now and then, and all that those clients write. The kinds take turns, so
//! that what else the machine does meets all of them. Those who watch read in this process, on the same machine; what
//! the member's own threads take for a write tells what they cost it.
#![expect(clippy::print_stdout, reason = "a program that prints its measurements; a panic ends it")]

#[path = "support/mod.rs"]
mod support;

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::members::{Member, Plan, together};
use support::resp::Resp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WATCHES: usize = 1_000;
const CLIENTS: u64 = 4;
const BATCH: u64 = 64;
const KEYS: u64 = 100_000;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
/// How often something changes that is watched and that clients don't write.
const NOW_AND_THEN: Duration = Duration::from_millis(50);

/// What is watched, as a prefix, and in words.
const KINDS: [(Option<&str>, &str); 4] = [
    (None, "nobody watches"),
    (Some("quiet/"), "1,000 watch what does not change"),
    (Some("some/"), "1,000 watch what changes 20 times a second"),
    (Some("key/"), "1,000 watch all that clients write"),
];

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let plan = Plan { cluster: "bench", settings: "", memory: "" };
    let member = together(directory.path(), 1, &plan)?.pop().context("one member")?;
    Resp::connect(member.resp)?.fill((0..KEYS).map(|n| format!("key/{n:012}")), &"x".repeat(100))?;
    let mut measured = [const { Vec::new() }; KINDS.len()];
    for _ in 0..ROUNDS {
        for ((prefix, _), rounds) in KINDS.into_iter().zip(&mut measured) {
            rounds.push(round(&member, prefix)?);
        }
    }
    println!(
        "| what | writes/s | beside nobody watching | the member's processor time, for a write | to those who watch |"
    );
    println!("|---|---|---|---|---|");
    let median = |rounds: &[Round], of: fn(&Round) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let alone = measured.first().map_or(0.0, |rounds| median(rounds, |round| round.writes));
    for ((_, what), rounds) in KINDS.iter().zip(&measured) {
        let (writes, bytes) = (median(rounds, |round| round.writes), median(rounds, |round| round.bytes));
        let (cores, each) =
            (median(rounds, |round| round.cpu), median(rounds, |round| 1e6 * round.cpu / round.writes));
        let share = 100.0 * writes / alone;
        println!(
            "| {what} | {writes:.0} | {share:.0}% | {cores:.2} cores, {each:.2} µs | {:.1} MB/s |",
            bytes / 1e6
        );
    }
    Ok(())
}

/// What was measured, in a second.
struct Round {
    writes: f64,
    /// Bytes that those who watch got.
    bytes: f64,
    /// Processor time of the member.
    cpu: f64,
}

fn round(member: &Member, prefix: Option<&str>) -> Result<Round> {
    let stop = Arc::new(AtomicBool::new(false));
    let (written, received) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
    let readers = prefix.map(|prefix| open(member.http, prefix, &received)).transpose()?;
    let before = received.load(Ordering::Relaxed);
    let cpu_before = member.process()?.cpu_seconds()?;
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let (stop, written) = (&stop, &written);
            clients.push(scope.spawn(move || write(member.resp, client, stop, written)));
        }
        let (stop_changes, port) = (Arc::clone(&stop), member.resp);
        clients.push(scope.spawn(move || change(port, &stop_changes)));
        std::thread::sleep(ROUND);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| anyhow::bail!("a panic")))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = |count: u64| count as f64 / seconds;
    let round = Round {
        writes: rate(written.load(Ordering::Relaxed)),
        bytes: rate(received.load(Ordering::Relaxed) - before),
        cpu: (member.process()?.cpu_seconds()? - cpu_before) / seconds,
    };
    if let Some(readers) = readers {
        readers.shutdown_timeout(Duration::from_secs(1));
    }
    Ok(round)
}

fn write(port: u16, client: u64, stop: &AtomicBool, written: &AtomicU64) -> Result<()> {
    let mut connection = Resp::connect(port)?;
    let value = "y".repeat(100);
    let mut at = client * 7_919;
    while !stop.load(Ordering::Relaxed) {
        let keys = (0..BATCH).map(|n| format!("key/{:012}", (at + n * 31) % KEYS));
        connection.fill(keys, &value)?;
        at += 1_009;
        written.fetch_add(BATCH, Ordering::Relaxed);
    }
    Ok(())
}

fn change(port: u16, stop: &AtomicBool) -> Result<()> {
    let mut connection = Resp::connect(port)?;
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        connection.fill(std::iter::once(format!("some/{}", n % 100)), &n.to_string())?;
        std::thread::sleep(NOW_AND_THEN);
    }
    Ok(())
}

/// Opens all watches and reads what they tell on a thread of its own; returns when each has the current state.
fn open(port: u16, prefix: &str, received: &Arc<AtomicU64>) -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let request = format!("GET /v1/watch/default?prefix={prefix} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let synced = Arc::new(AtomicU64::new(0));
    for _ in 0..WATCHES {
        let (request, received, synced) = (request.clone(), Arc::clone(received), Arc::clone(&synced));
        runtime.spawn(async move {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
            stream.write_all(request.as_bytes()).await?;
            let (mut buffer, mut is_synced) = (vec![0; 16 << 10], false);
            loop {
                let read = stream.read(&mut buffer).await?;
                received.fetch_add(read as u64, Ordering::Relaxed);
                let seen = buffer.get(..read).unwrap_or_default();
                // Of all keys nobody waits for the listing: it goes on while clients write.
                if !is_synced && seen.windows(6).any(|word| word == b"synced" || word == b"key/00") {
                    is_synced = true;
                    synced.fetch_add(1, Ordering::Relaxed);
                }
                if read == 0 {
                    return std::io::Result::Ok(());
                }
            }
        });
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while synced.load(Ordering::Relaxed) < WATCHES as u64 {
        anyhow::ensure!(
            Instant::now() < deadline,
            "{} watches have the state",
            synced.load(Ordering::Relaxed)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(runtime)
}
