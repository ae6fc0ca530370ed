//! Compares three kith members with Redis 7 (one primary, two replicas), with etcd, and with the limit: a
//! server that answers OK and does nothing. `cargo bench --bench compare` is the whole command.
//!
//! The servers of a part run at the same time on this machine, and all rounds are interleaved (each round asks
//! every server the same), so what else the machine does falls on all alike. Who was asked is left to rest
//! before the next one is, and what it does meanwhile counts as its processor time. The result are
//! tables in Markdown. Everything that is started is ended, by its process id, and all data lies in one
//! temporary directory.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod etcd;
mod load;
mod machine;
mod memory;
mod options;
mod report;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod tail;
mod web;

use anyhow::{Context, Result};
use options::{Fsync, Options, Part};
use report::{Case, Report};
use servers::{KITH_ONE, Kith, LIMIT, REDIS, Redis, Target};
use std::process::ExitCode;
use support::limit::OkServer;
use tail::Tail;

/// Bytes of kith's table when its records should be on disk only, the least that it takes, and of redb's cache that
/// has them all.
const STORE: &str = "table_bytes = \"16MiB\"\nstore_cache_bytes = \"1GiB\"\njournal_bytes = \"64MiB\"";

/// Bytes of kith's table that have all records of the part that lasts.
const ALL_IN_MEMORY: &str = "table_bytes = \"4GiB\"";

fn main() -> ExitCode {
    support::program::main("compare", options::HELP, Options::parse, |options| run(options).map(|()| true))
}

fn run(options: &Options) -> Result<()> {
    load::check_tools()?;
    let mut text = machine::describe()?;
    for part in &options.parts {
        text.push_str(&match part {
            Part::Interval => interval(options)?,
            Part::Always => always(options)?,
            Part::Sustained => sustained(options, ALL_IN_MEMORY, ", sustained", Some((1.2, REDIS)))?,
            Part::Evicting => sustained(options, "", ", sustained, 512 MiB of them in kith's memory", None)?,
            Part::Memory => memory(options)?,
            Part::Store => store(options)?,
            Part::Http => web::compare(options.rounds, options.seconds)?,
        });
        // What comes later may fail.
        if let Some(path) = &options.out {
            std::fs::write(path, &text).with_context(|| format!("{} can't be written", path.display()))?;
        }
    }
    println!("{text}");
    Ok(())
}

/// Everything with an fsync each second.
fn interval(options: &Options) -> Result<String> {
    let directory = directory()?;
    let ok = OkServer::start()?;
    let redis = Redis::start(directory.path(), Fsync::Interval)?;
    let kith = Kith::start(directory.path(), Fsync::Interval, "")?;
    let (redis, kith, one) = (redis.target(), kith.target()?, kith.target_one()?);
    let targets = [servers::limit(&ok), redis, kith, one];
    for target in [&redis, &kith] {
        load::fill(target, 0..options.keys)?;
    }
    let case = |test, pipeline, least, other| Case {
        test,
        pipeline,
        keys: options.keys,
        target: Some((least, other)),
        note: "",
    };
    let writes = [case("set", 1, 1.0, REDIS), case("set", 16, 1.7, REDIS)];
    let reads = [
        case("get", 1, 1.0, REDIS),
        case("get", 16, 1.2, REDIS),
        Case {
            target: Some((0.9, LIMIT)),
            note: " (the same, beside the limit)",
            ..case("get", 1, 0.0, LIMIT)
        },
    ];
    let mut report = Report::new(Fsync::Interval, targets.iter().map(|target| target.name).collect());
    for case in &writes {
        measure(case, &targets, options, &mut report)?;
    }
    for case in &reads {
        // A read is the same whatever writes wait for.
        let targets: Vec<Target<'_>> = targets.into_iter().filter(|target| target.name != KITH_ONE).collect();
        measure(case, &targets, options, &mut report)?;
    }
    let mut tail = Tail::default();
    for case in writes.iter().chain(&reads[..2]) {
        for round in 0..options.rounds {
            for target in in_turn(&[redis, kith], round) {
                tail.measure(target, case, report.rate(case, target.name) / 2.0, options.seconds)?;
            }
        }
    }
    Ok([report.table(), tail.table()].concat())
}

/// Writes with an fsync before each answer.
fn always(options: &Options) -> Result<String> {
    let directory = directory()?;
    let ok = OkServer::start()?;
    let redis = Redis::start(directory.path(), Fsync::Always)?;
    let kith = Kith::start(directory.path(), Fsync::Always, "")?;
    let targets = [servers::limit(&ok), redis.target(), kith.target()?, kith.target_one()?];
    for target in &targets[1..3] {
        load::fill(target, 0..options.keys)?;
    }
    let mut report = Report::new(Fsync::Always, targets.iter().map(|target| target.name).collect());
    for (pipeline, least) in [(1, 1.0), (16, 1.4)] {
        let case = Case { test: "set", pipeline, keys: options.keys, target: Some((least, REDIS)), note: "" };
        measure(&case, &targets, options, &mut report)?;
    }
    Ok(report.table())
}

/// Writes that go on for many checkpoints.
fn sustained(
    options: &Options,
    memory: &str,
    note: &'static str,
    target: Option<(f64, &'static str)>,
) -> Result<String> {
    let directory = directory()?;
    let redis = Redis::start(directory.path(), Fsync::Interval)?;
    let kith = Kith::start(directory.path(), Fsync::Interval, memory)?;
    let targets = [redis.target(), kith.target()?];
    let case = Case { test: "set", pipeline: 16, keys: options.sustained_keys, target, note };
    let mut report = Report::new(Fsync::Interval, targets.iter().map(|target| target.name).collect());
    for target in &targets {
        let measured = load::measure(target, &case, options.sustained)?;
        eprintln!("fsync interval: {case}: {} {:.0}/s", target.name, measured.rate);
        report.add(&case, target.name, measured);
    }
    Ok(report.table())
}

/// What records take of memory.
fn memory(options: &Options) -> Result<String> {
    let directory = directory()?;
    let redis = Redis::start(directory.path(), Fsync::Interval)?;
    let kith = Kith::start(directory.path(), Fsync::Interval, "")?;
    memory::compare(&redis.target(), &kith.target()?, options.keys)
}

/// Reads of records that kith has on disk only.
fn store(options: &Options) -> Result<String> {
    let directory = directory()?;
    let ok = OkServer::start()?;
    let redis = Redis::start(directory.path(), Fsync::Interval)?;
    let kith = Kith::start(directory.path(), Fsync::Interval, STORE)?;
    let targets = [servers::limit(&ok), redis.target(), kith.target()?];
    for target in targets.iter().skip(1) {
        load::fill(target, 0..options.keys)?;
    }
    eprintln!("fsync interval: {:.1}% of kith's records are in memory", 100.0 * kith.share_in_memory()?);
    let case = Case {
        test: "get",
        pipeline: 16,
        keys: options.keys,
        target: Some((0.5, REDIS)),
        note: ", from redb's cache",
    };
    let mut report = Report::new(Fsync::Interval, targets.iter().map(|target| target.name).collect());
    measure(&case, &targets, options, &mut report)?;
    Ok(report.table())
}

/// All rounds of one case.
fn measure(case: &Case, targets: &[Target<'_>], options: &Options, report: &mut Report) -> Result<()> {
    let requests: Vec<u64> =
        targets.iter().map(|target| load::requests(target, case, options.seconds)).collect::<Result<_>>()?;
    for round in 0..options.rounds {
        let both: Vec<(&Target<'_>, u64)> = targets.iter().zip(requests.iter().copied()).collect();
        for (target, requests) in in_turn(&both, round) {
            let measured = load::measure(target, case, *requests)
                .with_context(|| format!("{case} against {}", target.name))?;
            eprintln!("{case}, round {}: {} {:.0}/s", round + 1, target.name, measured.rate);
            report.add(case, target.name, measured);
        }
    }
    Ok(())
}

fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("kith-compare-").tempdir()?)
}

/// Every server begins a round equally often.
fn in_turn<T>(all: &[T], round: usize) -> impl Iterator<Item = &T> {
    all.iter().cycle().skip(round % all.len()).take(all.len())
}
