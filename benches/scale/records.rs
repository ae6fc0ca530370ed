//! One real member that holds so many records: loading, serving, memory, starts, a checkpoint.
//!
//! All records stay in memory, whatever their number, so that only their number differs. What must be in the journal
//! is there because the journal may be as large as it likes; then the member is started with the smallest
//! journal, and what it finds is over the bound: a checkpoint begins by itself.

use super::load::{Command, fill, run};
use super::options::Options;
use super::report::{Report, bytes, seconds, short};
use super::support::members::{Member, Plan, together, wait_for};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// A disk that is busy with a checkpoint of millions, or with others, may take longer for an fsync than the default waits.
pub const PATIENT: &str = "write_timeout = \"30s\"";
/// Nothing is evicted, and no checkpoint begins for the journal's size.
pub const ALL_IN_MEMORY: &str = "table_bytes = \"64GiB\"\njournal_bytes = \"64GiB\"";
/// Nothing is evicted, and the journal is as small as it may be.
const SMALL_JOURNAL: &str = "table_bytes = \"64GiB\"\njournal_bytes = \"16MiB\"";
/// More bytes than the small journal's bound.
const FILLER: (u64, usize) = (40, 512 << 10);
/// Right after loading, resident memory is that of buffers, too; and a start waits out what its clock had reserved.
const REST: Duration = Duration::from_secs(2);
/// Fewer dirty records than a checkpoint leaves that is not done.
const FEW_DIRTY: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(600);

pub fn measure(column: usize, records: u64, options: &Options, report: &mut Report) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("kith-scale-").tempdir()?;
    let plan = Plan { cluster: "scale", settings: PATIENT, memory: ALL_IN_MEMORY };
    let mut member = together(directory.path(), 1, &plan)?.pop().context("one member")?;
    load(column, records, &member, report)?;
    member.stop()?;
    start(column, records, &mut member, "the journal", report)?;
    let is_told = rest(column, &member, report)?;
    for command in [Command::Get, Command::Set] {
        serve(column, records, command, &member, options.load, report)?;
    }
    // So that there is more than the journal's bound, however few the records are.
    let mut connection = super::support::resp::Resp::connect(member.resp)?;
    connection.fill((0..FILLER.0).map(|_| "filler".to_owned()), &"x".repeat(FILLER.1))?;
    member.stop()?;
    checkpoint(column, &mut member, is_told, report)?;
    member.stop()?;
    start(column, records, &mut member, "the store", report)?;
    member.stop()?;
    note_disk(column, records, directory.path(), report)
}

fn load(column: usize, records: u64, member: &Member, report: &mut Report) -> Result<()> {
    let process = member.process()?;
    let (idle, cpu) = (process.resident_mb()? * 1e6, process.cpu_seconds()?);
    let began = Instant::now();
    fill(member.resp, 0..records, "x")?;
    let each = began.elapsed().as_secs_f64() / records as f64;
    let cpu = process.cpu_seconds()? - cpu;
    report.add(column, "loading, one connection, 1,000 in flight", format!("{}/s", short(1.0 / each)), each);
    let million = cpu / records as f64 * 1e6;
    report.add(column, "… processor time of a million", seconds(million), million);
    std::thread::sleep(REST);
    let with = process.resident_mb()? * 1e6;
    report.note(
        column,
        "resident memory, idle and with the records",
        format!("{}, {}", bytes(idle), bytes(with)),
    );
    let each = (with - idle) / records as f64;
    report.add(column, "… bytes of a record, key and value of 116", short(each), each);
    Ok(())
}

fn start(column: usize, records: u64, member: &mut Member, place: &str, report: &mut Report) -> Result<()> {
    std::thread::sleep(REST);
    let began = Instant::now();
    member.start()?;
    member.wait_until_ready()?;
    let time = began.elapsed().as_secs_f64();
    let cpu = member.process()?.cpu_seconds()?;
    let [replayed] = member.metrics(["kith_journal_replayed_records_total"])?;
    report.note(column, &format!("start to ready, records in {place}"), seconds(time));
    report.note(column, &format!("… records replayed from the journal then, with {place}"), short(replayed));
    let million = time / records as f64 * 1e6;
    report.add(column, &format!("… start of a million records in {place}"), seconds(million), million);
    let million = cpu / records as f64 * 1e6;
    report.add(column, &format!("… processor time of that, {place}"), seconds(million), million);
    let resident = member.process()?.resident_mb()? * 1e6;
    report.add(
        column,
        &format!("… resident memory then, {place}"),
        bytes(resident),
        resident / records as f64,
    );
    Ok(())
}

fn serve(
    column: usize,
    records: u64,
    command: Command,
    member: &Member,
    time: Duration,
    report: &mut Report,
) -> Result<()> {
    let process = member.process()?;
    let (cpu, began) = (process.cpu_seconds()?, Instant::now());
    let answered = run(member.resp, command, records, time)? as f64;
    let each = began.elapsed().as_secs_f64() / answered;
    let million = (process.cpu_seconds()? - cpu) / answered * 1e6;
    let name = command.name();
    let what = format!("{name}, 32 connections, 16 in flight on each");
    report.add(column, &what, format!("{}/s", short(1.0 / each)), each);
    report.add(column, &format!("… {name}: processor time of a million"), seconds(million), million);
    Ok(())
}

/// Starts the member with a journal over its bound, and waits for the checkpoint.
fn checkpoint(column: usize, member: &mut Member, is_told: bool, report: &mut Report) -> Result<()> {
    let plan = Plan { cluster: "scale", settings: PATIENT, memory: SMALL_JOURNAL };
    member.write_config(&plan, true, &[])?;
    member.start()?;
    member.wait_until_ready()?;
    let names = ["kith_checkpoints_total", "kith_table_dirty_records"];
    wait_for("the checkpoint is done", PATIENCE, || {
        member.metrics_of_late(names).is_ok_and(|[done, dirty]| done > 0.0 && dirty < FEW_DIRTY)
    })?;
    if !is_told {
        tell_checkpoint(column, member, report)?;
    }
    Ok(())
}

/// Waits for the checkpoint that begins by itself when more records are dirty than may be, and tells it; says whether there was one.
fn rest(column: usize, member: &Member, report: &mut Report) -> Result<bool> {
    let names = ["kith_checkpoints_total", "kith_checkpoint_running"];
    let [done, running] = member.metrics(names)?;
    if done + running < 1.0 {
        return Ok(false);
    }
    wait_for("the checkpoint is done", PATIENCE, || {
        member.metrics_of_late(names).is_ok_and(|[done, running]| done > 0.0 && running == 0.0)
    })?;
    tell_checkpoint(column, member, report)?;
    Ok(true)
}

fn tell_checkpoint(column: usize, member: &Member, report: &mut Report) -> Result<()> {
    let names =
        ["kith_checkpoints_total", "kith_checkpoint_busy_seconds_total", "kith_checkpoint_records_total"];
    let [count, time, records] = member.metrics(names)?;
    let text = format!("{} in {count}, {}", short(records), seconds(time));
    report.note(column, "records in checkpoints, time", text);
    report.add(column, "… checkpointed", format!("{}/s", short(records / time)), time / records);
    Ok(())
}

/// What the data takes on the disk in the end.
fn note_disk(column: usize, records: u64, directory: &Path, report: &mut Report) -> Result<()> {
    let mut total = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(place) = left.pop() {
        for entry in std::fs::read_dir(place)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                left.push(entry.path());
            } else {
                total += about.len();
            }
        }
    }
    let each = total as f64 / records as f64;
    report.add(column, "bytes on the disk of a record, in the end", short(each), each);
    Ok(())
}
