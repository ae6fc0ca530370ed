//! What engines exchange, and what they take in memory: while links come up, when nothing happens, and when the
//! roster changes.

use super::cluster::{Cluster, Traffic};
use super::report::{Report, bytes, seconds, short};
use super::roster::entry;
use anyhow::{Context, Result};
use kith::engine::Engine;
use kith::model::roster::MemberState;

/// Engines of which the memory of one is taken, at the least.
const ENGINES: u64 = 60;
/// Until all hints that could come have come, and all have compared.
const SETTLED_US: u64 = 40_000_000;
/// Two rounds of comparing, in which nothing happens.
const IDLE_US: u64 = 20_000_000;
/// How long what follows from a change is counted.
const AFTER_US: u64 = 5_000_000;
const PATIENCE_US: u64 = 30_000_000;

/// Gives the clusters back: their memory must not become that of the next ones.
pub fn measure(column: usize, members: u64, report: &mut Report) -> Result<Vec<Cluster>> {
    let entries: Vec<_> = (0..members).map(|number| entry(number, MemberState::Active)).collect();
    let before = resident_bytes()?;
    let mut clusters = Vec::new();
    for _ in 0..ENGINES.div_ceil(members) {
        clusters.push(Cluster::new(&entries)?);
    }
    let unlinked = resident_bytes()?;
    for cluster in &mut clusters {
        cluster.link()?;
        cluster.run(AFTER_US)?;
    }
    let linked = resident_bytes()?;
    let engines = members as f64 * clusters.len() as f64;
    let each = (linked - before) / engines;
    report.add(column, "memory of an engine without records", bytes(each), each);
    let link = (linked - unlinked) / engines / (members - 1) as f64;
    report.add(column, "… of it for each link", bytes(link), link);

    let cluster = clusters.first_mut().context("there is a cluster")?;
    let forming = cluster.traffic();
    add(column, members, "links come up one after the other, and 5 s", forming, report);
    cluster.run(SETTLED_US)?;
    let before = cluster.traffic();
    cluster.run(IDLE_US)?;
    let idle = cluster.traffic().since(before);
    idling(column, members, idle, report);
    change(column, members, cluster, idle, report)?;
    Ok(clusters)
}

fn add(column: usize, members: u64, what: &str, traffic: Traffic, report: &mut Report) {
    let each = traffic.bytes as f64 / members as f64;
    report.add(column, &format!("{what}: bytes a member"), bytes(each), each);
    let messages = traffic.messages as f64 / members as f64;
    report.add(column, &format!("{what}: messages a member"), short(messages), messages);
}

fn idling(column: usize, members: u64, idle: Traffic, report: &mut Report) {
    let time = IDLE_US as f64 / 1e6;
    let (all, frames) = (idle.bytes as f64 / time, idle.frames as f64 / time);
    let (each, each_frames) = (all / members as f64, frames / members as f64);
    report.add(column, "idle engines: bytes a second, all", bytes(all), all);
    report.add(column, "idle engines: bytes a second, each", bytes(each), each);
    report.add(column, "idle engines: frames a second, all", short(frames), frames);
    report.add(column, "idle engines: frames a second, each", short(each_frames), each_frames);
}

/// One more member is let in, which never comes: what follows is the roster's and the placement's alone.
fn change(
    column: usize,
    members: u64,
    cluster: &mut Cluster,
    idle: Traffic,
    report: &mut Report,
) -> Result<()> {
    let joiner = entry(members, MemberState::Joining);
    let knows = |engine: &Engine| engine.roster().get(joiner.id()).is_some();
    let before = cluster.traffic();
    cluster.write_entry(&joiner)?;
    let time = cluster.run_until(knows, PATIENCE_US)? as f64 / 1e6;
    let until = cluster.traffic().since(before);
    report.add(column, "roster changes: time until all know, 0.5 to 1 ms a frame", seconds(time), time);
    add(column, members, "… until then", until, report);
    cluster.run(AFTER_US)?;
    let after = cluster.traffic().since(before);
    let share = AFTER_US as f64 / IDLE_US as f64;
    let beyond = |all: u64, idle: u64| (all as f64 - idle as f64 * share).max(0.0);
    let all = Traffic {
        bytes: beyond(after.bytes, idle.bytes) as u64,
        frames: beyond(after.frames, idle.frames) as u64,
        messages: beyond(after.messages, idle.messages) as u64,
    };
    add(column, members, "… within 5 s, beyond idle", all, report);
    Ok(())
}

/// Resident memory of this program.
pub fn resident_bytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib * 1_024.0)
}
