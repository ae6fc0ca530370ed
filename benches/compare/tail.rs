//! How long the slowest requests wait when a server has half of the load that it can take.

use super::load::{self, CONNECTIONS};
use super::report::{Case, spread};
use super::servers::{KITH, REDIS, Target};
use crate::support::paced::{Paced, Test};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// All rounds, by case and server.
#[derive(Default)]
pub struct Tail {
    cases: Vec<String>,
    rounds: BTreeMap<(String, &'static str), Vec<Waits>>,
}

#[derive(Clone, Copy)]
struct Waits {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
}

impl Tail {
    /// One round of one server.
    pub fn measure(&mut self, target: &Target<'_>, case: &Case, rate: f64, seconds: u64) -> Result<()> {
        target.prepare()?;
        let load = Paced {
            ports: vec![target.port],
            test: if case.test == "get" { Test::Get } else { Test::Set },
            keys: case.keys,
            rate: rate as u64,
            connections: usize::try_from(CONNECTIONS)?,
        };
        let phase = load.run(Duration::from_secs(seconds))?;
        load::rest(target)?;
        let latencies = phase.latencies;
        if phase.is_overloaded {
            eprintln!("{case}: {rate:.0}/s was too much for {}", target.name);
        }
        let waits = Waits {
            rate,
            p50_ms: latencies.within_ms(0.5),
            p99_ms: latencies.within_ms(0.99),
            longest_ms: latencies.longest_ms(),
        };
        eprintln!("half of {case}: {} p99 {:.2} ms", target.name, waits.p99_ms);
        let case = case.to_string();
        if !self.cases.contains(&case) {
            self.cases.push(case.clone());
        }
        self.rounds.entry((case, target.name)).or_default().push(waits);
        Ok(())
    }

    /// Medians of the rounds; of the longest waits the greatest.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "\n| half of what it can take of | Redis: k/s | p50 / p99 / longest ms | kith: k/s | p50 / p99 / longest ms | p99: kith / Redis | \
             target |\n|---|---|---|---|---|---|---|\n",
        );
        for case in &self.cases {
            // Writing to a string can't fail.
            _ = write!(text, "| {case} |");
            for server in [REDIS, KITH] {
                let median = |of: fn(&Waits) -> f64| median(self.figures(case, server, of));
                let longest = self.figures(case, server, |waits| waits.longest_ms).fold(0.0, f64::max);
                _ = write!(
                    text,
                    " {:.0} | {:.2} / {:.2} / {longest:.1} |",
                    median(|waits| waits.rate / 1_000.0),
                    median(|waits| waits.p50_ms),
                    median(|waits| waits.p99_ms),
                );
            }
            let p99 = |server| self.figures(case, server, |waits| waits.p99_ms);
            let ratio = median(p99(KITH).zip(p99(REDIS)).map(|(kith, redis)| kith / redis));
            let holds = if ratio <= 1.0 { "holds" } else { "**not met**" };
            _ = writeln!(text, " {ratio:.2} | ≤ 1: {holds} |");
        }
        text
    }

    fn figures(&self, case: &str, server: &'static str, of: fn(&Waits) -> f64) -> impl Iterator<Item = f64> {
        self.rounds.get(&(case.to_owned(), server)).into_iter().flatten().map(of)
    }
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    spread(figures.collect()).1
}
