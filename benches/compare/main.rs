//! Compares three kith members with Redis 7 (one primary, two replicas) and with the limit: a server
//! that answers OK and does nothing. `cargo bench --bench compare` is the whole command.
//!
//! All servers run at the same time on this machine, all rounds are interleaved (each round asks
//! every server the same), and medians are compared; so what else the machine does falls on all
//! alike. The result is a table in Markdown. Everything that is started is ended, by its process id,
//! and all data lies in one temporary directory.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod load;
mod machine;
mod options;
mod report;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Context, Result};
use options::{Fsync, Options};
use report::{Case, Report};
use servers::{Kith, OkServer, Redis, Target};
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    load::check_tools()?;
    let mut text = machine::describe()?;
    for &fsync in &options.fsync {
        text.push_str(&compare(options, fsync)?);
    }
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(())
}

/// All rounds with one way of syncing; servers end when this returns, however it does.
fn compare(options: &Options, fsync: Fsync) -> Result<String> {
    let directory = tempfile::Builder::new().prefix("kith-compare-").tempdir()?;
    let ok = OkServer::start()?;
    let redis = Redis::start(directory.path(), fsync)?;
    let kith = if options.kith { Some(Kith::start(directory.path(), fsync)?) } else { None };
    let mut targets = vec![ok.target(), redis.target()];
    if let Some(kith) = &kith {
        targets.push(kith.target()?);
    }
    for target in &targets {
        eprintln!("fsync {fsync}: filling {} with {} keys", target.name, options.keys);
        load::fill(target, options)?;
    }
    let mut report = Report::new(fsync, targets.iter().map(|target| target.name).collect());
    for case in cases(options, fsync) {
        for round in 0..case.rounds {
            for target in in_turn(&targets, round) {
                let result = load::measure(target, &case, options)
                    .with_context(|| format!("{case} against {}", target.name))?;
                eprintln!("fsync {fsync}: {case}, round {}: {} {:.0}/s", round + 1, target.name, result.rate);
                report.add(&case, target.name, result);
            }
        }
    }
    Ok(report.table())
}

/// Reads don't sync, so they are measured once.
fn cases(options: &Options, fsync: Fsync) -> Vec<Case> {
    let reads = fsync == Fsync::Interval || options.fsync.len() == 1;
    let case =
        |test, pipeline, requests| Case { test, pipeline, requests, rounds: options.rounds, long: false };
    let mut cases = Vec::new();
    for test in options.tests.iter().copied().filter(|test| *test == "set" || reads) {
        cases.push(case(test, 1, options.requests));
        cases.push(case(test, 16, options.pipelined));
    }
    if options.sustained > 0 && fsync == Fsync::Interval {
        cases.push(Case { rounds: 1, long: true, ..case("set", 16, options.sustained) });
    }
    cases
}

/// Every server begins a round equally often.
fn in_turn(targets: &[Target], round: usize) -> impl Iterator<Item = &Target> {
    targets.iter().cycle().skip(round % targets.len()).take(targets.len())
}
