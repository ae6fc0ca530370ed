//! Two real members hold the same records, and one of them returns: what comparing costs when nothing differs,
//! and when so many records differ.
//!
//! So that hints don't repair what differs, the room for hints (at its least) is filled first, with records of long
//! keys; these come as hints, and their bytes are told apart. The time of a pass is what the member
//! itself tells when its first one is over: how long ago that began.

use super::load::{VALUE_BYTES, fill, key};
use super::records::{ALL_IN_MEMORY, PATIENT};
use super::report::{Report, bytes, seconds, short};
use super::support::members::{Member, Plan, together, wait_for, wait_until_equal};
use super::support::resp::Resp;
use anyhow::{Context, Result, bail};
use kith::model::key::DEFAULT;
use kith::model::{KeyRef, MemberId, Record, Timestamp};
use kith::node::handle::convergence::Convergence;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(600);
/// Records that differ, beside those of long keys that found no room among the hints.
const DIFFERING: u64 = 1_000;
/// The least `hint_bytes`.
const HINT_ROOM: u64 = 1 << 20;
/// So long that few of them fill that room.
const LONG_KEY_BYTES: usize = 1_000;

/// What one return cost.
struct Return {
    /// Seconds of the first pass of the member that returned.
    pass: f64,
    /// Seconds from its link to equal.
    equal: f64,
    /// Bytes between both meanwhile.
    bytes: f64,
    /// Seconds of processor time of both meanwhile.
    cpu: f64,
}

pub fn measure(column: usize, records: u64, report: &mut Report) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("kith-scale-").tempdir()?;
    let settings =
        format!("replication_factor = 2\nhint_bytes = \"1MiB\"\nmax_value_bytes = \"512KiB\"\n{PATIENT}");
    let plan = Plan { cluster: "scale", settings: &settings, memory: ALL_IN_MEMORY };
    let mut members = together(directory.path(), 2, &plan)?;
    let [stays, returns] = members.as_mut_slice() else { bail!("two members") };
    let began = Instant::now();
    fill(stays.resp, 0..records, "x")?;
    wait_until_equal(&[stays, returns], PATIENCE)?;
    let each = began.elapsed().as_secs_f64() / records as f64;
    report.add(column, "loading two members until both are equal", format!("{}/s", short(1.0 / each)), each);

    returns.stop()?;
    let same = come_back(stays, returns)?;
    returns.stop()?;
    let long = |n: u64| format!("{n:0LONG_KEY_BYTES$}");
    let long_keys = HINT_ROOM / LONG_KEY_BYTES as u64;
    Resp::connect(stays.resp)?.fill((0..long_keys).map(long), "x")?;
    let apart = usize::try_from(records / DIFFERING)?;
    fill(stays.resp, (0..records).step_by(apart).take(usize::try_from(DIFFERING)?), "y")?;
    let hinted = stays.convergence()?.hints;
    let differ = come_back(stays, returns)?;

    let kept = long_keys.checked_sub(hinted).context("records that differ were hinted, too")?;
    let least = DIFFERING * record_bytes(&key(0), VALUE_BYTES)? + kept * record_bytes(&long(0), 1)?;
    let wire = differ.bytes - (hinted * record_bytes(&long(0), 1)?) as f64;
    let what = format!("{DIFFERING} records differ");
    add(column, "nothing differs", &same, same.bytes, report);
    add(column, &what, &differ, wire, report);
    report.note(column, &format!("{what}: linked to equal"), seconds(differ.equal));
    let what = format!("{what}: processor time of both until then (growth in all)");
    report.add(column, &what, seconds(differ.cpu), differ.cpu);
    report.note(
        column,
        "… records that comparing had to send, and their bytes",
        format!("{}, {}", DIFFERING + kept, bytes(least as f64)),
    );
    Ok(())
}

/// None of these figures need grow with the records, so they are compared as they are.
fn add(column: usize, what: &str, cost: &Return, wire: f64, report: &mut Report) {
    report.add(column, &format!("{what}: a pass (growth in all)"), seconds(cost.pass), cost.pass);
    report.add(
        column,
        &format!("{what}: bytes until equal, gossip included (growth in all)"),
        bytes(wire),
        wire,
    );
}

/// Starts the member that is away and waits until both are equal and it has compared.
fn come_back(stays: &Member, returns: &mut Member) -> Result<Return> {
    let [sent, received] = stays.metrics(["kith_link_sent_bytes_total", "kith_link_received_bytes_total"])?;
    returns.start()?;
    wait_for("the members are linked", PATIENCE, || returns.sees(&stays.name, true))?;
    let linked = Instant::now();
    let cpu = stays.process()?.cpu_seconds()? + returns.process()?.cpu_seconds()?;
    let mut pass = None;
    wait_for("the member has compared", PATIENCE, || {
        let told = returns.get_json::<Convergence>("/v1/cluster/convergence");
        pass = told.ok().and_then(|told| told.peers.first()?.lag_ms);
        pass.is_some()
    })?;
    wait_until_equal(&[stays, returns], PATIENCE)?;
    let equal = linked.elapsed().as_secs_f64();
    let cpu = stays.process()?.cpu_seconds()? + returns.process()?.cpu_seconds()? - cpu;
    let [sent_then, received_then] =
        stays.metrics(["kith_link_sent_bytes_total", "kith_link_received_bytes_total"])?;
    let bytes = sent_then + received_then - sent - received;
    Ok(Return { pass: pass.unwrap_or_default() as f64 / 1e3, equal, bytes, cpu })
}

/// Bytes of such a record, as every member keeps and sends it.
fn record_bytes(key: &str, value_bytes: usize) -> Result<u64> {
    let timestamp = Timestamp { time: u64::MAX, member: MemberId::of_public_key(&[0; 32]) };
    let key = KeyRef::new(DEFAULT, key.as_bytes())?;
    Ok(Record::value(key, timestamp, None, &vec![0; value_bytes]).view().bytes().len() as u64)
}
