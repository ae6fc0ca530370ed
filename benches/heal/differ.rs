//! Two members hold the same records but for one in a hundred: anti-entropy finds and exchanges them.
//!
//! One member is stopped while the other one takes new values. So that hints don't repair it, the room for
//! hints (at its least) is filled first, with records of long keys; these come as hints, and their
//! bytes are told apart. What is measured begins with the process of the member that returns.

use super::load::{VALUE_BYTES, fill, key, record_bytes};
use super::options::Options;
use super::report::{Report, megabytes};
use super::support::members::{Plan, together, wait_for, wait_until_equal};
use super::support::resp::Resp;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
/// One record of so many differs.
const ONE_IN: u64 = 100;
/// The least `hint_bytes`.
const HINT_ROOM: u64 = 1 << 20;
/// So long that few of them fill that room.
const LONG_KEY_BYTES: usize = 1_000;

pub fn measure(directory: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let settings = "replication_factor = 2\nhint_bytes = \"1MiB\"\nmax_value_bytes = \"512KiB\"";
    let plan = Plan { cluster: "differ", settings, memory: "" };
    let mut members = together(directory, 2, &plan)?;
    let [stays, returns] = members.as_mut_slice() else { bail!("two members") };
    fill(stays.resp, 0..options.records, "x")?;
    wait_until_equal(&[stays, returns], PATIENCE)?;
    returns.stop()?;

    let long = |n: u64| format!("{n:0LONG_KEY_BYTES$}");
    // Those that find no room differ like the others.
    let long_keys = HINT_ROOM / LONG_KEY_BYTES as u64;
    Resp::connect(stays.resp)?.fill((0..long_keys).map(long), "x")?;
    fill(stays.resp, (0..options.records).step_by(usize::try_from(ONE_IN)?), "y")?;
    let hinted = stays.convergence()?.hints;
    let short = options.records.div_ceil(ONE_IN);
    let differing = short + long_keys - hinted;

    let names = ["kith_link_sent_bytes_total", "kith_link_received_bytes_total"];
    let [sent_before, received_before] = stays.metrics(names)?;
    let began = Instant::now();
    returns.start()?;
    wait_for("the members are linked", PATIENCE, || returns.sees(&stays.name, true))?;
    let (linked, cpu) =
        (Instant::now(), [stays.process()?.cpu_seconds()?, returns.process()?.cpu_seconds()?]);
    wait_until_equal(&[stays, returns], PATIENCE)?;
    let (seconds, meanwhile) = (began.elapsed().as_secs_f64(), linked.elapsed().as_secs_f64());
    let cpu_then = [stays.process()?.cpu_seconds()?, returns.process()?.cpu_seconds()?];
    let [sent_then, received_then] = stays.metrics(names)?;
    let (sent_bytes, received_bytes) = (sent_then - sent_before, received_then - received_before);
    let wire = sent_bytes + received_bytes;

    let names = ["kith_comparison_passes_total", "kith_repairs_sent_total", "kith_repairs_taken_total"];
    let ([passes, sent, _], [own_passes, _, taken]) = (stays.metrics(names)?, returns.metrics(names)?);

    let long_bytes = record_bytes(&long(0), 1)?;
    let hint_bytes = hinted * long_bytes;
    let differing_bytes = short * record_bytes(&key(0), VALUE_BYTES)? + (long_keys - hinted) * long_bytes;
    let bound = (2 * differing_bytes + (1 << 20)) as f64;
    let repaired = wire - hint_bytes as f64;
    report.note(
        format!("{} records, two owners; differing, and not to be had by hints", options.records),
        format!("{differing} records, {}", megabytes(differing_bytes as f64)),
    );
    report.note(
        "records that comparing exchanged",
        format!(
            "{sent} sent by the one that stayed ({passes} passes), {taken} fetched by the other ({own_passes})"
        ),
    );
    report.note("start of the process to equal", format!("{seconds:.1} s, {meanwhile:.1} s of it linked"));
    report.amount(
        format!(
            "bytes between them, both directions, without {hinted} hints of {}",
            megabytes(hint_bytes as f64)
        ),
        format!(
            "{}: {} to the one that returned, {} from it",
            megabytes(repaired),
            megabytes(sent_bytes - hint_bytes as f64),
            megabytes(received_bytes)
        ),
        format!("≤ {} (twice what differs and 1 MiB)", megabytes(bound)),
        repaired <= bound,
    );
    for (who, (before, then)) in ["stayed", "returned"].iter().zip(cpu.iter().zip(cpu_then)) {
        // Processor time has a grain, and so have looks.
        let cores = (then - before) / meanwhile.max(0.1);
        report.timed(
            format!("processor time of the member that {who}, while linked"),
            format!("{:.2} s: {cores:.2} cores", then - before),
            "≤ 1 core",
            cores <= 1.0,
        );
    }
    Ok(())
}
