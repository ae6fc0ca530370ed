//! The longest that any request waits while kith does what a member must do beside answering.
//!
//! `cargo bench --bench stall` is the whole command. Three members, three copies of each record, and two loads of fixed rate
//! (`support::paced`) on two of the members: SET and GET of random keys. While they go on, nothing special happens,
//! checkpoints run, a member returns that missed writes, members compare themselves, and one is killed. Each wait is
//! counted from when the request was due. Beside them a small load goes to a server that only answers OK, and a file is
//! appended to and synced: what these wait, the machine keeps everybody waiting. (The disk is that of the members, so
//! it also tells what they keep each other waiting.)

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

#[path = "support/mod.rs"]
mod support;

use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::latencies::Latencies;
use support::limit::OkServer;
use support::members::{Member, Plan, together, wait_until_equal};
use support::paced::{Paced, PacedLoad, Test};
use support::resp::Resp;

const HELP: &str = "\
cargo bench --bench stall -- [OPTIONS]

  --rate N          SETs a second, and as many GETs                      [20000]
  --records N       records in the cluster before anything is measured   [2000000]
  --missed N        writes that the member misses that returns           [200000]
  --seconds N       length of the phases that end by themselves          [20]
  --sync LIST       always,interval or one of them                       [always]";

/// What no request should wait, unless a member was killed.
const BOUND_MS: f64 = 100.0;
const CONNECTIONS: usize = 50;
/// Of the load that shows the machine: as many looks in a second, at little cost.
const LIMIT_RATE: u64 = 2_000;
const LIMIT_CONNECTIONS: usize = 4;
/// Of the looks at the disk: an append of so much each time.
const DISK_PERIOD: Duration = Duration::from_millis(10);
const DISK_BYTES: usize = 4 << 10;
/// What happened is looked at so often, and a stall is told with the second in which it ended.
const SLICE: Duration = Duration::from_secs(1);
/// From the beginning of a load until it is measured.
const WARM_UP: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(180);
/// The least `journal_bytes`.
const SMALL_JOURNAL: &str = "journal_bytes = \"16MiB\"";
const CHECKPOINTS: f64 = 5.0;
/// Who is away so long with so many hints kept needs to be compared with.
const SMALL_HINTS: &str = "hint_bytes = \"1MiB\"\nmax_value_bytes = \"512KiB\"";

fn main() -> ExitCode {
    support::program::main("stall", HELP, Options::parse, |options| run(options).map(|()| true))
}

/// See [`HELP`].
struct Options {
    rate: u64,
    records: u64,
    missed: u64,
    seconds: u64,
    sync: Vec<String>,
}

impl Options {
    /// `None` when help is asked for.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let sync = vec!["always".to_owned()];
        let mut options = Self { rate: 20_000, records: 2_000_000, missed: 200_000, seconds: 20, sync };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                // Cargo says so to every benchmark.
                "--bench" => continue,
                _ => {}
            }
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--rate" => options.rate = number(&flag, &value)?,
                "--records" => options.records = number(&flag, &value)?,
                "--missed" => options.missed = number(&flag, &value)?,
                "--seconds" => options.seconds = number(&flag, &value)?,
                "--sync" => options.sync = value.split(',').map(way_of_syncing).collect::<Result<_>>()?,
                _ => bail!("{flag} is no option"),
            }
        }
        Ok(Some(options))
    }
}

fn number(flag: &str, value: &str) -> Result<u64> {
    let number = value.parse().with_context(|| format!("{flag} takes a number, not `{value}`"))?;
    ensure!(number > 0, "{flag} is at least 1");
    Ok(number)
}

fn way_of_syncing(word: &str) -> Result<String> {
    ensure!(["always", "interval"].contains(&word), "`{word}` is none of the choices");
    Ok(word.to_owned())
}

fn run(options: &Options) -> Result<()> {
    let mut text = support::machine::describe()?;
    let limit = OkServer::start()?;
    for sync in &options.sync {
        let mut stalls = Stalls { options, limit: &limit, rows: Vec::new() };
        let directory = tempfile::Builder::new().prefix("kith-stall-").tempdir()?;
        large(directory.path(), sync, &mut stalls)?;
        let directory = tempfile::Builder::new().prefix("kith-stall-").tempdir()?;
        small(directory.path(), sync, &mut stalls)?;
        _ = writeln!(text, "\n### sync {sync}\n\n{}", stalls.table());
    }
    println!("{text}");
    Ok(())
}

/// Members with default memory: nothing happens, one returns, one is killed.
fn large(directory: &Path, sync: &str, stalls: &mut Stalls) -> Result<()> {
    let Options { records, missed, seconds, .. } = *stalls.options;
    let settings = format!("replication_factor = 3\nsync = \"{sync}\"");
    let plan = Plan { cluster: "stall", settings: &settings, memory: "" };
    let mut members = filled(directory, &plan, records)?;
    let [first, second, third] = members.as_mut_slice() else { bail!("three members") };
    let loads = stalls.loads(directory, first, second)?;
    let so_long = |began: Instant| began.elapsed() >= Duration::from_secs(seconds);
    let began = Instant::now();
    stalls.observe("nothing special happens", &loads, BOUND_MS, || Ok(so_long(began)))?;

    third.stop()?;
    Resp::connect(first.resp)?.fill((records..records + missed).map(key), &value())?;
    loads.skip()?;
    third.start()?;
    let what = format!("a member returns that missed {missed} writes and those of the load meanwhile");
    stalls.observe(&what, &loads, BOUND_MS, || Ok(has_all(third, &[first, second])))?;

    loads.skip()?;
    third.kill();
    let name = third.name.clone();
    let began = Instant::now();
    let is_over = || Ok(so_long(began) && first.sees(&name, false) && second.sees(&name, false));
    stalls.observe("a member is killed (the requests go to the others)", &loads, f64::INFINITY, is_over)
}

/// Members with little room for their journals and for hints: checkpoints run, and a member is compared with.
fn small(directory: &Path, sync: &str, stalls: &mut Stalls) -> Result<()> {
    let records = stalls.options.records;
    let settings = format!("replication_factor = 3\nsync = \"{sync}\"\n{SMALL_HINTS}");
    let plan = Plan { cluster: "stall", settings: &settings, memory: SMALL_JOURNAL };
    let mut members = filled(directory, &plan, records)?;
    let [first, second, third] = members.as_mut_slice() else { bail!("three members") };
    let loads = stalls.loads(directory, first, second)?;
    let checkpoints =
        |member: &Member| member.metrics_of_late(["kith_checkpoints_total"]).map(|[count]| count);
    let before = checkpoints(first)?;
    let what = format!("{CHECKPOINTS} checkpoints of each member, one every 16 MiB of journal");
    stalls.observe(&what, &loads, BOUND_MS, || Ok(checkpoints(first)? >= before + CHECKPOINTS))?;

    third.stop()?;
    // What the load writes takes all the room for hints; what is written then has to be found by comparing.
    std::thread::sleep(Duration::from_secs(stalls.options.seconds));
    let missed = (records..records + records / 100).map(key);
    Resp::connect(first.resp)?.fill(missed, &value())?;
    loads.skip()?;
    third.start()?;
    let others = [&*first, &*second];
    let mut sent = 0.0;
    let mut repaired = || {
        let [taken] = third.metrics_of_late(["kith_repairs_taken_total"]).unwrap_or_default();
        sent = taken;
        for other in others {
            let [repairs] = other.metrics_of_late(["kith_repairs_sent_total"])?;
            sent += repairs;
        }
        Ok(has_all(third, &others))
    };
    stalls.observe(
        "anti-entropy repairs a member whose hints found no room",
        &loads,
        BOUND_MS,
        &mut repaired,
    )?;
    eprintln!("repaired by comparing: {sent} records");
    Ok(())
}

fn key(number: u64) -> String {
    format!("key:{number:012}")
}

fn value() -> String {
    "x".repeat(100)
}

/// Members that hold the records, equal and at rest.
fn filled(directory: &Path, plan: &Plan, records: u64) -> Result<Vec<Member>> {
    let members = together(directory, 3, plan)?;
    let first = members.first().context("three members")?;
    eprintln!("filling {records} records");
    Resp::connect(first.resp)?.fill((0..records).map(key), &value())?;
    wait_until_equal(&members.iter().collect::<Vec<_>>(), PATIENCE)?;
    Ok(members)
}

/// Whether a member that returned holds as many records as the others and nobody keeps anything for it,
/// as they published about a second ago.
fn has_all(returned: &Member, others: &[&Member]) -> bool {
    let told = |member: &Member| member.metrics_of_late(["kith_table_records", "kith_hints_pending"]);
    let Ok([held, _]) = told(returned) else { return false };
    others.iter().all(|other| told(other).is_ok_and(|[records, hints]| records <= held && hints == 0.0))
}

/// What goes on while something is observed.
struct Loads {
    set: PacedLoad,
    get: PacedLoad,
    limit: PacedLoad,
    disk: Disk,
}

impl Loads {
    /// What was answered until now is nobody's.
    fn skip(&self) -> Result<()> {
        self.take().map(|_| ())
    }

    fn take(&self) -> Result<[Latencies; 4]> {
        let take = |load: &PacedLoad| load.phase().map(|phase| phase.latencies);
        Ok([take(&self.set)?, take(&self.get)?, take(&self.limit)?, self.disk.take()?])
    }
}

/// A file that is appended to and synced, again and again, in a thread that ends with this value.
struct Disk {
    stop: Arc<AtomicBool>,
    latencies: Arc<Mutex<Latencies>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Disk {
    fn start(directory: &Path) -> Result<Self> {
        let mut file = File::create(directory.join("disk"))?;
        let (stop, latencies) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Latencies>>::default());
        let (of_thread, noted) = (Arc::clone(&stop), Arc::clone(&latencies));
        let thread = std::thread::spawn(move || {
            while !of_thread.load(Ordering::Relaxed) {
                let began = Instant::now();
                file.write_all(&[0; DISK_BYTES])?;
                file.sync_data()?;
                let latency = began.elapsed();
                noted.lock().unwrap_or_else(PoisonError::into_inner).add(latency);
                std::thread::sleep(DISK_PERIOD.saturating_sub(latency));
            }
            Ok(())
        });
        Ok(Self { stop, latencies, thread: Some(thread) })
    }

    fn take(&self) -> Result<Latencies> {
        ensure!(
            self.thread.as_ref().is_some_and(|thread| !thread.is_finished()),
            "the disk could not be written to"
        );
        Ok(std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// All that was observed.
struct Stalls<'a> {
    options: &'a Options,
    limit: &'a OkServer,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    bound_ms: f64,
    /// SET, GET, the limit, and the disk.
    latencies: [Latencies; 4],
}

impl Stalls<'_> {
    fn loads(&self, directory: &Path, first: &Member, second: &Member) -> Result<Loads> {
        let Options { rate, records, .. } = *self.options;
        let ports = vec![first.resp, second.resp];
        let load = |test| {
            Paced { ports: ports.clone(), test, keys: records, rate, connections: CONNECTIONS }.start()
        };
        let limit = Paced {
            ports: vec![self.limit.port],
            test: Test::Set,
            keys: records,
            rate: LIMIT_RATE,
            connections: LIMIT_CONNECTIONS,
        };
        let loads = Loads {
            set: load(Test::Set)?,
            get: load(Test::Get)?,
            limit: limit.start()?,
            disk: Disk::start(directory)?,
        };
        std::thread::sleep(WARM_UP);
        loads.skip()?;
        Ok(loads)
    }

    /// Watches the loads until `is_over`.
    fn observe(
        &mut self,
        what: &str,
        loads: &Loads,
        bound_ms: f64,
        mut is_over: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        let mut all: [Latencies; 4] = Default::default();
        let mut is_last = false;
        while !is_last {
            ensure!(began.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
            // One more slice has what was under way when it was over.
            is_last = is_over()?;
            std::thread::sleep(SLICE);
            let slice = loads.take()?;
            let longest = slice.each_ref().map(Latencies::longest_ms);
            if longest.iter().any(|longest| *longest > BOUND_MS) {
                let [set, get, limit, disk] = longest;
                eprintln!(
                    "{what}: until {:.0} s waits of SET {set:.0} ms, GET {get:.0} ms, limit {limit:.0} ms, \
                     disk {disk:.0} ms",
                    began.elapsed().as_secs_f64()
                );
            }
            for (all, slice) in all.iter_mut().zip(&slice) {
                all.merge(slice);
            }
        }
        eprintln!("{what}: {:.0} s", began.elapsed().as_secs_f64());
        self.rows.push(Row { what: what.to_owned(), bound_ms, latencies: all });
        Ok(())
    }

    fn table(&self) -> String {
        let mut text =
            "| meanwhile | requests | in a second | p50 ms | p99 | p99.9 | longest | limit: p99.9 | longest \
                        | disk: longest | bound | |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
                .to_owned();
        for Row { what, bound_ms, latencies: [set, get, limit, disk] } in &self.rows {
            for (test, of) in [("SET", set), ("GET", get)] {
                let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| of.within_ms(share));
                let (longest, limit_p999, limit_longest) =
                    (of.longest_ms(), limit.within_ms(0.999), limit.longest_ms());
                let (bound, verdict) = match (bound_ms.is_finite(), longest <= *bound_ms) {
                    (false, _) => (String::new(), ""),
                    (true, true) => (format!("≤ {bound_ms} ms"), "holds"),
                    (true, false) => (format!("≤ {bound_ms} ms"), "**not met**"),
                };
                // A String takes whatever is written.
                _ = writeln!(
                    text,
                    "| {what} | {} {test} | {:.0} | {p50:.2} | {p99:.1} | {p999:.1} | {longest:.1} | {limit_p999:.1} \
                     | {limit_longest:.1} | {:.1} | {bound} | {verdict} |",
                    of.count(),
                    of.rate(),
                    disk.longest_ms(),
                );
            }
        }
        text
    }
}
