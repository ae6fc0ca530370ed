//! Members are killed while clients write: who is dead is noticed by all, and nothing acknowledged is lost.

use super::load::{Load, count_lost};
use super::options::Options;
use super::report::Report;
use super::support::members::{Member, Plan, together, wait_for, wait_until_equal};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const WARM_UP: Duration = Duration::from_secs(2);
/// The bound of the time.
const MOST: Duration = Duration::from_secs(5);

pub fn measure(directory: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let plan = Plan { cluster: "kill", settings: "replication_factor = 3", memory: "" };
    let mut members = together(directory, 3, &plan)?;
    let load = Load::start(&members.iter().map(|member| member.resp).collect::<Vec<_>>());
    let mut times = Vec::new();
    for number in 0..options.kills {
        std::thread::sleep(WARM_UP);
        let at = number % members.len();
        let victim = members.get_mut(at).context("there are members")?;
        let name = victim.name.clone();
        victim.kill();
        let others = || members.iter().filter(|member| member.name != name);
        times.push(wait_for("all see it dead", PATIENCE, || others().all(|one| one.sees(&name, false)))?);
        let victim = members.get_mut(at).context("there are members")?;
        victim.start()?;
        victim.wait_until_ready()?;
        let others = || members.iter().filter(|member| member.name != name);
        wait_for("all see it alive, and it has what it missed", PATIENCE, || {
            others().all(|one| one.sees(&name, true)) && members.iter().all(has_caught_up)
        })?;
    }
    let acknowledged = load.acknowledged();
    let written = load.stop()?;
    wait_until_equal(&members.iter().collect::<Vec<_>>(), PATIENCE)?;
    let mut lost = 0;
    for member in &members {
        lost += count_lost(member.resp, &written)?;
    }

    times.sort_unstable();
    let seconds = |at: usize| times.get(at).map_or(0.0, Duration::as_secs_f64);
    report.timed(
        format!("a killed member is seen dead by all, {} kills under load", times.len()),
        format!("{:.1} s at most, {:.1} s in the median", seconds(times.len() - 1), seconds(times.len() / 2)),
        format!("≤ {} s", MOST.as_secs()),
        times.iter().all(|time| *time <= MOST),
    );
    report.amount(
        format!(
            "acknowledged writes lost, of {acknowledged} at the level `available`, read through each member"
        ),
        lost.to_string(),
        "0",
        lost == 0,
    );
    Ok(())
}

fn has_caught_up(member: &Member) -> bool {
    member.convergence().is_ok_and(|told| !told.catching_up && told.hints == 0)
}
