//! What the command line says.

use anyhow::{Context, Result, bail};
use kith::model::limits::MAX_MEMBERS;
use std::path::PathBuf;
use std::time::Duration;

/// The answer to `--help`.
pub const HELP: &str = "\
cargo bench --bench scale -- [OPTIONS]

  --parts LIST      records: real members that hold so many records
                    members: placement, engines and gossip of so many members  [both]
  --records LIST    numbers of records of 100 bytes       [10k,100k,1M]
  --all             10M records, too: some 10 GB of memory and of disk
  --members LIST    numbers of members                    [3,10,50,200]
  --seconds N       seconds of each load, and twice as many of gossip  [5]
  --out FILE        write the tables there, too

Numbers may end in k or M; lists must rise.";

/// The bound of `--records`.
const MOST_RECORDS: u64 = 100_000_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Records,
    Members,
}

/// See [`HELP`].
pub struct Options {
    pub parts: Vec<Part>,
    pub records: Vec<u64>,
    pub members: Vec<u64>,
    pub load: Duration,
    pub out: Option<PathBuf>,
}

impl Options {
    /// `None` when help is asked for.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            parts: vec![Part::Records, Part::Members],
            records: vec![10_000, 100_000, 1_000_000],
            members: vec![3, 10, 50, 200],
            load: Duration::from_secs(5),
            out: None,
        };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--all" => {
                    options.records = vec![10_000, 100_000, 1_000_000, 10_000_000];
                    continue;
                }
                // Cargo says so to every benchmark.
                "--bench" => continue,
                _ => {}
            }
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--parts" => options.parts = value.split(',').map(part).collect::<Result<_>>()?,
                "--records" => options.records = list(&flag, &value, 1_000..=MOST_RECORDS)?,
                "--members" => options.members = list(&flag, &value, 2..=MAX_MEMBERS as u64)?,
                "--seconds" => options.load = Duration::from_secs(number(&flag, &value, &(1..=600))?),
                "--out" => options.out = Some(PathBuf::from(value)),
                _ => bail!("{flag} is no option"),
            }
        }
        Ok(Some(options))
    }
}

fn part(word: &str) -> Result<Part> {
    match word {
        "records" => Ok(Part::Records),
        "members" => Ok(Part::Members),
        _ => bail!("`{word}` is none of the choices"),
    }
}

fn list(flag: &str, value: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<Vec<u64>> {
    let numbers: Vec<u64> =
        value.split(',').map(|word| number(flag, word, &bounds)).collect::<Result<_>>()?;
    if !numbers.is_sorted_by(|one, next| one < next) {
        bail!("{flag} takes a list that rises");
    }
    Ok(numbers)
}

fn number(flag: &str, word: &str, bounds: &std::ops::RangeInclusive<u64>) -> Result<u64> {
    let (digits, unit) = match (word.strip_suffix('k'), word.strip_suffix('M')) {
        (Some(digits), _) => (digits, 1_000),
        (_, Some(digits)) => (digits, 1_000_000),
        _ => (word, 1),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let number = number.with_context(|| format!("{flag} takes numbers, not `{word}`"))?;
    if !bounds.contains(&number) {
        bail!("{flag} takes numbers from {} to {}", bounds.start(), bounds.end());
    }
    Ok(number)
}
