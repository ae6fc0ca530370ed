//! What the command line says.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::PathBuf;

/// The answer to `--help`.
pub const HELP: &str = "\
cargo bench --bench compare -- [OPTIONS]

Starts kith, Redis 7 and a server that only answers OK, asks all of them the same in turn, and prints tables.

  --parts LIST      interval  fsync once a second: throughput, latency at half of
                              the load that each can take, processor time
                    always    fsync before each answer
                    sustained SETs of 16 in flight for many checkpoints, all records
                              in memory
                    evicting  the same with the memory that kith takes when nobody
                              says, where most records are on disk only
                    memory    what records take
                    store     reads of records that kith has on disk only
                    http      kith's HTTP beside etcd's put and get
                               [interval,always,sustained,evicting,memory,store,http]
  --rounds N        rounds of each case; their medians are compared       [5]
  --seconds N       how long a round lasts, about                         [10]
  --sustained N     SETs of the parts that last                  [20000000]
  --sustained-keys N  of so many keys                              [5000000]
  --keys N          keys of all other cases, drawn at random              [1000000]
  --out FILE        write the tables there, too";

/// When a server syncs what it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Within a second.
    Interval,
    /// Before it acknowledges.
    Always,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interval => "interval",
            Self::Always => "always",
        })
    }
}

/// A part of the comparison, with servers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Interval,
    Always,
    Sustained,
    Evicting,
    Memory,
    Store,
    Http,
}

/// Their names on the command line, in the order of the report.
const PARTS: [(&str, Part); 7] = [
    ("interval", Part::Interval),
    ("always", Part::Always),
    ("sustained", Part::Sustained),
    ("evicting", Part::Evicting),
    ("memory", Part::Memory),
    ("store", Part::Store),
    ("http", Part::Http),
];

/// See [`HELP`].
pub struct Options {
    pub parts: Vec<Part>,
    pub rounds: usize,
    pub seconds: u64,
    pub sustained: u64,
    pub sustained_keys: u64,
    pub keys: u64,
    pub out: Option<PathBuf>,
}

impl Options {
    /// `None` when help is asked for.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            parts: PARTS.iter().map(|(_, part)| *part).collect(),
            rounds: 5,
            seconds: 10,
            sustained: 20_000_000,
            sustained_keys: 5_000_000,
            keys: 1_000_000,
            out: None,
        };
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
                "--rounds" => options.rounds = usize::try_from(at_least_one(&flag, &value)?)?,
                "--seconds" => options.seconds = at_least_one(&flag, &value)?,
                "--sustained" => options.sustained = at_least_one(&flag, &value)?,
                "--sustained-keys" => options.sustained_keys = at_least_one(&flag, &value)?,
                "--keys" => options.keys = at_least_one(&flag, &value)?,
                "--out" => options.out = Some(PathBuf::from(value)),
                _ => bail!("{flag} is no option"),
            }
        }
        Ok(Some(options))
    }
}

fn number(flag: &str, value: &str) -> Result<u64> {
    value.parse().with_context(|| format!("{flag} takes a number, not `{value}`"))
}

fn at_least_one(flag: &str, value: &str) -> Result<u64> {
    match number(flag, value)? {
        0 => bail!("{flag} is at least 1"),
        number => Ok(number),
    }
}

fn part(word: &str) -> Result<Part> {
    let known = PARTS.iter().find(|(name, _)| *name == word);
    known.map(|(_, part)| *part).with_context(|| format!("`{word}` is no part"))
}
