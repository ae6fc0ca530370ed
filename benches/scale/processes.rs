//! Links of real members: how many there are, and what one takes.
//!
//! Only so many processes are started as a small machine carries; of larger clusters nothing is said.

use super::report::{Report, bytes, short};
use super::support::members::{Plan, together, wait_for};
use anyhow::{Context, Result};
use std::time::Duration;

/// Processes at the most.
const MOST: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of starting is given back by then.
const REST: Duration = Duration::from_secs(15);

pub fn measure(column: usize, members: u64, report: &mut Report) -> Result<()> {
    let links = (members - 1) as f64;
    report.add(column, "connections of a member: one to each other one", short(links), links);
    if members > MOST {
        return Ok(());
    }
    let directory = tempfile::Builder::new().prefix("kith-scale-").tempdir()?;
    let plan = Plan { cluster: "scale", settings: "replication_factor = 3", memory: "" };
    let running = together(directory.path(), usize::try_from(members)?, &plan)?;
    wait_for("all are linked", PATIENCE, || {
        running.iter().all(|member| {
            member.metrics_of_late(["kith_links_up"]).is_ok_and(|[up]| (up - links).abs() < 0.5)
        })
    })?;
    std::thread::sleep(REST);
    let mut resident = 0.0;
    for member in &running {
        resident += member.process()?.resident_mb()? * 1e6;
    }
    let each = resident / running.len() as f64;
    report.note(column, "resident memory of a real idle member", bytes(each));
    let first = running.first().context("there are members")?;
    let names = ["kith_link_sent_bytes_total", "kith_frames_sent_total"];
    let before = first.metrics(names)?;
    std::thread::sleep(Duration::from_secs(20));
    let then = first.metrics(names)?;
    // Metrics are published behind a rest of 1.5 s.
    let [wire, frames] = [0, 1]
        .map(|at: usize| then.get(at).zip(before.get(at)).map_or(0.0, |(then, before)| then - before) / 21.5);
    report.note(
        column,
        "real idle member: sealed bytes and frames a second that it sends",
        format!("{}, {}", bytes(wire), short(frames)),
    );
    Ok(())
}
