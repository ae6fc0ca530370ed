//! Measures how kith heals, with real members on loopback: what repairing costs in time, bytes and processor
//! time, beside the bounds that it should keep. `cargo bench --bench heal` is the whole command.
//!
//! Each part has a cluster of its own, waits for conditions and not for ever, and ends all that it started.
//! The result is a table in Markdown. The exit status is 1 when a bound of an amount (bytes, lost
//! writes) is broken or a part could not be carried out; times depend on what else the machine does.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod differ;
mod join;
mod kill;
mod load;
mod options;
mod report;
mod returning;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Context, Result};
use options::{Options, Part};
use report::Report;
use std::process::ExitCode;

fn main() -> ExitCode {
    support::program::main("heal", options::HELP, Options::parse, run)
}

/// Says whether all was carried out and all bounds of amounts hold.
fn run(options: &Options) -> Result<bool> {
    let mut report = Report::default();
    for part in &options.parts {
        let directory = tempfile::Builder::new().prefix("kith-heal-").tempdir()?;
        let measured = match part {
            Part::Differ => differ::measure(directory.path(), options, &mut report),
            Part::Return => returning::measure(directory.path(), options, &mut report),
            Part::Join => join::measure(directory.path(), options, &mut report),
            Part::Kill => kill::measure(directory.path(), options, &mut report),
        };
        if let Err(error) = measured {
            report.failed(*part, &error);
        }
    }
    let text = format!("{}\n{}", support::machine::describe()?, report.table());
    println!("{text}");
    if let Some(path) = &options.out {
        std::fs::write(path, &text).with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(report.holds())
}
