//! Shows how kith's cost grows: with the number of records that a member holds, and with the number of members.
//!
//! Records are measured with real members on loopback. Members are too many to run: placement is computed, engines
//! exchange frames in one thread under a time of their own, and gossip runs over queues for a while.
//! `cargo bench --bench scale` is the whole command; the result is two tables in Markdown whose last columns tell the
//! growth. What grows with neither has a factor of 1 there, also on a machine that does other things.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod cluster;
mod compared;
mod engines;
mod gossip;
mod load;
mod options;
mod placement;
mod processes;
mod records;
mod report;
mod roster;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Context, Result};
use options::{Options, Part};
use report::{Growth, Report};
use std::process::ExitCode;

/// The one that the program has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    support::program::main("scale", options::HELP, Options::parse, run)
}

/// Says whether all was measured.
fn run(options: &Options) -> Result<bool> {
    let mut text = support::machine::describe()?;
    let mut is_whole = true;
    for part in &options.parts {
        let report = match part {
            Part::Records => of_records(options),
            Part::Members => of_members(options),
        };
        is_whole &= report.is_whole();
        text = format!("{text}\n{}", report.table());
    }
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(is_whole)
}

fn of_records(options: &Options) -> Report {
    let mut report = Report::new("records", options.records.clone(), Growth::PerRecord);
    for (column, records) in options.records.iter().enumerate() {
        report.measure(column, "a member", |report| records::measure(column, *records, options, report));
        report.measure(column, "two members", |report| compared::measure(column, *records, report));
    }
    report
}

fn of_members(options: &Options) -> Report {
    let mut report = Report::new("members", options.members.clone(), Growth::Exponent);
    // Memory of one size must not have been another one's before: it is kept until all are measured.
    let (mut placements, mut clusters) = (Vec::new(), Vec::new());
    for (column, members) in options.members.iter().enumerate() {
        report.measure(column, "placement", |report| {
            placements.extend(placement::measure(column, *members, report)?);
            Ok(())
        });
    }
    for (column, members) in options.members.iter().enumerate() {
        report.measure(column, "engines", |report| {
            clusters.extend(engines::measure(column, *members, report)?);
            Ok(())
        });
    }
    drop((placements, clusters));
    for (column, members) in options.members.iter().enumerate() {
        report.measure(column, "gossip", |report| gossip::measure(column, *members, options, report));
    }
    for (column, members) in options.members.iter().enumerate() {
        report.measure(column, "processes", |report| processes::measure(column, *members, report));
    }
    report
}
