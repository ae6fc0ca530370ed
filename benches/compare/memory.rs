//! What records take of memory.

use super::load;
use super::servers::Target;
use crate::support::resp::Resp;
use anyhow::Result;
use std::fmt::Write as _;

/// Bytes of a value.
const VALUE_BYTES: usize = 100;

/// Resident memory in MB of the server that clients talk to, as the rounds go on.
pub struct Memory {
    keys: u64,
    servers: Vec<Resident>,
}

struct Resident {
    name: &'static str,
    idle: f64,
    filled: f64,
    /// The largest of the other processes.
    other: f64,
    after: f64,
}

impl Memory {
    pub const fn new(keys: u64) -> Self {
        Self { keys, servers: Vec::new() }
    }

    /// Writes every key once, and notes what that takes.
    pub fn fill(&mut self, target: &Target<'_>) -> Result<()> {
        let (idle, _) = target.resident_mb()?;
        fill(target, self.keys)?;
        let (filled, other) = target.resident_mb()?;
        self.servers.push(Resident { name: target.name, idle, filled, other, after: f64::NAN });
        Ok(())
    }

    /// Notes what a server takes once all was written many times.
    pub fn note_after(&mut self, target: &Target<'_>) -> Result<()> {
        load::rest(target)?;
        let (after, _) = target.resident_mb()?;
        self.servers.iter_mut().filter(|one| one.name == target.name).for_each(|one| one.after = after);
        Ok(())
    }

    pub fn table(&self) -> String {
        let mut text = format!(
            "\n| resident memory, MB | idle | with {} records of {VALUE_BYTES} bytes | its largest copy | bytes a record \
             beyond idle | after all rounds |\n|---|---|---|---|---|---|\n",
            self.keys
        );
        for Resident { name, idle, filled, other, after } in &self.servers {
            let each = (filled - idle) * 1e6 / self.keys as f64;
            // Writing to a string can't fail.
            _ = writeln!(text, "| {name} | {idle:.0} | {filled:.0} | {other:.0} | {each:.0} | {after:.0} |");
        }
        text
    }
}

/// Writes every key once, in order, and waits until the servers rest.
pub fn fill(target: &Target<'_>, keys: u64) -> Result<()> {
    target.prepare()?;
    let names = (0..keys).map(|number| format!("key:{number:012}"));
    Resp::connect(target.port)?.fill(names, &"x".repeat(VALUE_BYTES))?;
    load::rest(target)
}
