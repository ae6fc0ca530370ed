//! Placement: what computing it costs, what it takes in memory, and what one more member moves.

use super::engines::resident_bytes;
use super::load::scramble;
use super::report::{Report, bytes, seconds};
use super::roster::{COPIES, PARTITION_BITS, entry, roster, settings};
use anyhow::Result;
use kith::model::KeyRef;
use kith::model::placement::Placement;
use kith::model::roster::{MemberState, RosterEntry};
use std::hint::black_box;
use std::time::Instant;

/// Placements that are computed and kept.
const PLACEMENTS: usize = 400;
const LOOKUPS: u64 = 4_000_000;
/// Joiners whose share is averaged.
const JOINERS: u64 = 40;

/// Gives the placements back: their memory must not become that of the next ones.
pub fn measure(column: usize, members: u64, report: &mut Report) -> Result<Vec<Placement>> {
    let entries: Vec<RosterEntry> = (0..members).map(|number| entry(number, MemberState::Active)).collect();
    let (roster_of_all, settings) = (roster(&entries), settings());
    let compute = || Placement::compute(PARTITION_BITS, &roster_of_all, &settings);
    let placement = compute();
    let began = Instant::now();
    for _ in 0..PLACEMENTS {
        black_box(compute());
    }
    let time = began.elapsed().as_secs_f64() / PLACEMENTS as f64;
    report.add(column, "placement of 256 partitions, computed", seconds(time), time);
    let before = resident_bytes()?;
    let placements: Vec<Placement> = (0..PLACEMENTS).map(|_| compute()).collect();
    let memory = (resident_bytes()? - before).max(0.0) / PLACEMENTS as f64;
    report.add(column, "… its memory", bytes(memory), memory);

    let key = KeyRef::new("default", b"key")?;
    let mut hashes = Vec::new();
    for number in 0..4_096u64 {
        hashes.push(KeyRef::new("default", &scramble(number).to_le_bytes())?.hash());
    }
    let began = Instant::now();
    let mut owners = 0;
    for number in 0..LOOKUPS {
        let hash = hashes.get(scramble(number) as usize % hashes.len()).copied().unwrap_or(key.hash());
        owners += placement.set_of(key, hash).owners.len();
    }
    let time = began.elapsed().as_secs_f64() / LOOKUPS as f64;
    black_box(owners);
    report.add(column, "looking up the owners of a key's hash", seconds(time), time);
    share(column, members, &entries, &placement, report);
    Ok(placements)
}

/// The share of the partitions of which one more member becomes an owner.
fn share(column: usize, members: u64, entries: &[RosterEntry], before: &Placement, report: &mut Report) {
    let mut moved = 0;
    for number in members..members + JOINERS {
        let mut entries = entries.to_vec();
        entries.push(entry(number, MemberState::Active));
        let after = Placement::compute(PARTITION_BITS, &roster(&entries), &settings());
        let partitions = (0u16..).take(after.partitions());
        moved += partitions.filter(|at| before.set(*at).owners != after.set(*at).owners).count();
    }
    let share = moved as f64 / (JOINERS as f64 * before.partitions() as f64);
    let ideal = f64::from(COPIES) / (members + 1) as f64;
    report.add(
        column,
        "one more joins: share of partitions whose owners change",
        format!("{:.2}% ({:.2} times rf/n)", 100.0 * share, share / ideal),
        share,
    );
}
