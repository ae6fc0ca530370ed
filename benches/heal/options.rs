//! What the command line says.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The answer to `--help`.
pub const HELP: &str = "\
cargo bench --bench heal -- [OPTIONS]

  --parts LIST      differ: records that differ on two members
                    return: a member that was away during writes
                    join: one more member
                    kill: members killed under load         [all of them]
  --records N       records of 100 bytes of differ and join [1000000]
  --missed N        writes that the member misses           [200000]
  --kills N         kills                                   [10]
  --out FILE        write the table there, too";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Two members hold different records.
    Differ,
    /// A member returns.
    Return,
    /// A member joins.
    Join,
    /// Members are killed.
    Kill,
}

impl Part {
    const ALL: [(&'static str, Self); 4] =
        [("differ", Self::Differ), ("return", Self::Return), ("join", Self::Join), ("kill", Self::Kill)];
}

/// See [`HELP`].
pub struct Options {
    pub parts: Vec<Part>,
    pub records: u64,
    pub missed: u64,
    pub kills: usize,
    pub out: Option<PathBuf>,
}

impl Options {
    /// `None` when help is asked for.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let parts = Part::ALL.map(|(_, part)| part).to_vec();
        let mut options = Self { parts, records: 1_000_000, missed: 200_000, kills: 10, out: None };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                // Cargo says so to every benchmark.
                "--bench" => continue,
                _ => {}
            }
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--parts" => options.parts = value.split(',').map(part).collect::<Result<_>>()?,
                "--records" => options.records = number(&flag, &value, 1_000)?,
                "--missed" => options.missed = number(&flag, &value, 1)?,
                "--kills" => options.kills = usize::try_from(number(&flag, &value, 1)?)?,
                "--out" => options.out = Some(PathBuf::from(value)),
                _ => bail!("{flag} is no option"),
            }
        }
        Ok(Some(options))
    }
}

fn part(word: &str) -> Result<Part> {
    let known = Part::ALL.into_iter().find(|(name, _)| *name == word);
    known.map(|(_, part)| part).with_context(|| format!("`{word}` is none of the choices"))
}

fn number(flag: &str, value: &str, least: u64) -> Result<u64> {
    let number: u64 = value.parse().with_context(|| format!("{flag} takes a number, not `{value}`"))?;
    if number < least {
        bail!("{flag} is at least {least}");
    }
    Ok(number)
}
