//! What the command line says.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::PathBuf;

/// The answer to `--help`.
pub const HELP: &str = "\
cargo bench --bench compare -- [OPTIONS]

  --rounds N        rounds of each case; medians are compared            [5]
  --requests N      requests of a round with 1 in flight                 [200000]
  --pipelined N     requests of a round with 16 in flight                [1000000]
  --sustained N     requests of one long SET round with 16 in flight,
                    for several checkpoints; 0 for none                  [0]
  --keys N          random keys                                          [1000000]
  --tests LIST      set,get or one of them                               [set,get]
  --fsync LIST      interval (once a second), always, or both            [interval,always]
  --out FILE        write the table there, too
  --without-kith    only Redis and the limit";

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

/// See [`HELP`].
pub struct Options {
    pub rounds: usize,
    pub requests: u64,
    pub pipelined: u64,
    pub sustained: u64,
    pub keys: u64,
    pub tests: Vec<&'static str>,
    pub fsync: Vec<Fsync>,
    pub out: Option<PathBuf>,
    pub kith: bool,
}

impl Options {
    /// `None` when help is asked for.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            rounds: 5,
            requests: 200_000,
            pipelined: 1_000_000,
            sustained: 0,
            keys: 1_000_000,
            tests: vec!["set", "get"],
            fsync: vec![Fsync::Interval, Fsync::Always],
            out: None,
            kith: true,
        };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                // Cargo says so to every benchmark.
                "--bench" => continue,
                "--without-kith" => {
                    options.kith = false;
                    continue;
                }
                _ => {}
            }
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--rounds" => options.rounds = usize::try_from(at_least_one(&flag, &value)?)?,
                "--requests" => options.requests = at_least_one(&flag, &value)?,
                "--pipelined" => options.pipelined = at_least_one(&flag, &value)?,
                "--sustained" => options.sustained = number(&flag, &value)?,
                "--keys" => options.keys = at_least_one(&flag, &value)?,
                "--tests" => options.tests = list(&value, test)?,
                "--fsync" => options.fsync = list(&value, fsync)?,
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

fn list<T>(value: &str, one: fn(&str) -> Option<T>) -> Result<Vec<T>> {
    value
        .split(',')
        .map(|word| one(word).with_context(|| format!("`{word}` is none of the choices")))
        .collect()
}

fn test(word: &str) -> Option<&'static str> {
    ["set", "get"].into_iter().find(|known| *known == word)
}

fn fsync(word: &str) -> Option<Fsync> {
    [Fsync::Interval, Fsync::Always].into_iter().find(|known| known.to_string() == word)
}
