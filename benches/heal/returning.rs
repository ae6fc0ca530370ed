//! A member that was away during many writes returns while clients go on.
//!
//! Clients write all the time through the two members that stay, each with one request in flight, as fast as they are
//! answered. Their rate while the member takes what it missed is compared with the mean of the rates before it went and
//! after, when all three confirmed every write: so what else the machine does falls on both. They write the same keys again and again, so the number of records tells when the
//! member has all that it missed.

use super::load::{Load, VALUE_BYTES, fill, key, record_bytes};
use super::options::Options;
use super::report::{Report, megabytes};
use super::support::members::{Member, Plan, together, wait_for, wait_until_equal};
use anyhow::{Result, bail};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(10);
/// The bound of the time.
const MOST: Duration = Duration::from_secs(20);
/// The bound of the clients' rate.
const LEAST_SHARE: f64 = 0.8;

pub fn measure(directory: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let plan = Plan { cluster: "return", settings: "replication_factor = 3", memory: "" };
    let mut members = together(directory, 3, &plan)?;
    let [first, second, away] = members.as_mut_slice() else { bail!("three members") };
    let load = Load::start(&[first.resp, second.resp]);
    std::thread::sleep(WARM_UP);
    let together = load.rate(MEASURED);
    away.stop()?;
    fill(first.resp, 0..options.missed, "x")?;
    let alone = load.rate(WARM_UP);

    let (began, before) = (Instant::now(), load.acknowledged());
    away.start()?;
    let all = wait_for("the member has all that it missed", PATIENCE, || has_all(away, &[first, second]))?;
    let during = (load.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
    std::thread::sleep(WARM_UP);
    let afterwards = load.rate(MEASURED);
    load.stop()?;
    wait_until_equal(&[first, second, away], PATIENCE)?;

    let missed = options.missed * record_bytes(&key(0), VALUE_BYTES)?;
    report.timed(
        format!(
            "{} writes ({}) missed by one of three: has them all",
            options.missed,
            megabytes(missed as f64)
        ),
        format!("{:.1} s", all.as_secs_f64()),
        format!("≤ {} s", MOST.as_secs()),
        all <= MOST,
    );
    let share = during / ((together + afterwards) / 2.0);
    report.timed(
        "clients' writes meanwhile",
        format!(
            "{during:.0}/s: {:.0}% of {together:.0}/s before and {afterwards:.0}/s after ({alone:.0}/s while it was away)",
            share * 100.0,
        ),
        format!("≥ {:.0}%", LEAST_SHARE * 100.0),
        share >= LEAST_SHARE,
    );
    Ok(())
}

/// Whether a member that returned holds as many records as the others and nobody keeps anything for it,
/// as they published about a second ago.
fn has_all(away: &Member, others: &[&Member]) -> bool {
    let told = |member: &Member| member.metrics_of_late(["kith_table_records", "kith_hints_pending"]);
    let Ok([held, _]) = told(away) else { return false };
    others.iter().all(|other| told(other).is_ok_and(|[records, hints]| records <= held && hints == 0.0))
}
