//! What programs with options have in common.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "programs for a terminal")]

use anyhow::Result;
use std::process::ExitCode;

/// Reads the command line (`parse` gives nothing where help is asked for) and runs the program, which says whether all went
/// as it should. Exit codes: 0, 1, and 2 for a command line that is wrong.
pub fn main<O>(
    name: &str,
    help: &str,
    parse: impl FnOnce(std::iter::Skip<std::env::Args>) -> Result<Option<O>>,
    run: impl FnOnce(&O) -> Result<bool>,
) -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{help}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{help}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
