//! What the figures were measured on.

use anyhow::Result;
use std::process::Command;

/// The head of the report.
pub fn describe() -> Result<String> {
    Ok(format!(
        "{}Servers: kith {}, {}.\n\
         Load: redis-benchmark, 50 connections, values of 100 bytes, random keys; everything shares this machine.\n",
        crate::support::machine::describe()?,
        env!("CARGO_PKG_VERSION"),
        first_line("redis-server", "--version"),
    ))
}

fn first_line(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split(" sha=").next().unwrap_or_default().trim().to_owned()
}
