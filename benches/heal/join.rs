//! A fourth member joins, and takes its share of the records.

use super::load::{VALUE_BYTES, fill, key, record_bytes};
use super::options::Options;
use super::report::{Report, megabytes};
use super::support::members::{Member, Plan, together, wait_for, wait_until_equal};
use anyhow::{Result, bail};
use kith::model::KeyRef;
use kith::model::key::DEFAULT;
use kith::node::handle::status::{Cluster, Placement, Standing};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(180);
/// The bound of the time.
const MOST: Duration = Duration::from_secs(60);
/// The bound of the bytes beside the least that could be.
const MOST_BYTES: f64 = 1.2;

pub fn measure(directory: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let plan = Plan { cluster: "join", settings: "replication_factor = 2", memory: "" };
    let members = together(directory, 3, &plan)?;
    let [first, ..] = members.as_slice() else { bail!("three members") };
    fill(first.resp, 0..options.records, "x")?;
    let all: Vec<&Member> = members.iter().collect();
    wait_until_equal(&all, PATIENCE)?;

    let mut joiner = Member::new(directory, "joiner")?;
    joiner.write_config(&plan, false, &all.iter().map(|member| member.peers).collect::<Vec<_>>())?;
    joiner.start()?;
    let active = wait_for("the member is active everywhere", PATIENCE, || {
        all.iter().all(|member| is_active(member, &joiner.name))
    })?;
    let moved = joiner.link_bytes()?;
    let owned = owned_records(first, &joiner.name, options.records)?;
    let least = (owned * record_bytes(&key(0), VALUE_BYTES)?) as f64;
    wait_until_equal(&all.iter().copied().chain([&joiner]).collect::<Vec<_>>(), PATIENCE)?;

    report.timed(
        format!("a fourth member joins {} records, two copies of each: active", options.records),
        format!("{:.1} s", active.as_secs_f64()),
        format!("≤ {} s", MOST.as_secs()),
        active <= MOST,
    );
    let times = moved / least;
    report.amount(
        "bytes over its links until then, both directions",
        format!(
            "{}: {times:.2} times the {} of the {owned} records that it owns",
            megabytes(moved),
            megabytes(least)
        ),
        format!("≤ {MOST_BYTES} times"),
        times <= MOST_BYTES,
    );
    Ok(())
}

fn is_active(member: &Member, name: &str) -> bool {
    member.get_json::<Cluster>("/v1/cluster").is_ok_and(|cluster| {
        cluster.members.iter().any(|row| row.name == name && row.standing == Standing::Active)
    })
}

/// How many of the records are in partitions that a member owns.
fn owned_records(asked: &Member, name: &str, records: u64) -> Result<u64> {
    let placement: Placement = asked.get_json("/v1/cluster/placement")?;
    let rows = placement.rows.iter().filter(|row| row.owners.iter().any(|owner| owner.name == name));
    let owned: BTreeSet<u32> = rows.map(|row| row.partition).collect();
    let bits = u8::try_from(placement.partitions.trailing_zeros())?;
    let mut count = 0;
    for number in 0..records {
        let hash = KeyRef::new(DEFAULT, key(number).as_bytes())?.hash();
        count += u64::from(owned.contains(&u32::from(hash.partition(bits))));
    }
    Ok(count)
}
