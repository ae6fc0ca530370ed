//! Collects the rounds and writes the table.

use super::options::Fsync;
use super::servers::{KITH, LIMIT, REDIS};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// What is asked of every server.
pub struct Case {
    /// redis-benchmark's name of the test.
    pub test: &'static str,
    /// Requests in flight on each connection.
    pub pipeline: usize,
    /// Requests of one round.
    pub requests: u64,
    /// How often it is measured.
    pub rounds: usize,
    /// Whether it is the one that lasts.
    pub long: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = if self.long { ", long" } else { "" };
        write!(f, "{} {}{length}", self.test.to_uppercase(), self.pipeline)
    }
}

/// One round of one server.
#[derive(Clone, Copy)]
pub struct Measured {
    /// Requests per second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// All rounds with one way of syncing.
pub struct Report {
    fsync: Fsync,
    servers: Vec<&'static str>,
    cases: Vec<String>,
    rounds: BTreeMap<(String, &'static str), Vec<Measured>>,
}

impl Report {
    pub const fn new(fsync: Fsync, servers: Vec<&'static str>) -> Self {
        Self { fsync, servers, cases: Vec::new(), rounds: BTreeMap::new() }
    }

    pub fn add(&mut self, case: &Case, server: &'static str, measured: Measured) {
        let case = case.to_string();
        if !self.cases.contains(&case) {
            self.cases.push(case.clone());
        }
        self.rounds.entry((case, server)).or_default().push(measured);
    }

    /// Thousands of requests a second (median, and the least and greatest round), ratios of medians, and
    /// latencies.
    pub fn table(&self) -> String {
        let mut text = format!("\n### fsync {}\n\n| k/s: median (least–greatest) |", self.fsync);
        let columns = self.servers.iter().map(|server| (*server).to_owned());
        let ratios = [(KITH, REDIS), (KITH, LIMIT), (REDIS, LIMIT)];
        let ratios = ratios.into_iter().filter(|(server, _)| self.servers.contains(server));
        let headings = columns
            .chain(ratios.clone().map(|(server, other)| format!("{server} / {other}")))
            .chain(self.servers.iter().map(|server| format!("{server}: p50 / p99 ms")));
        let headings: Vec<String> = headings.collect();
        // Writing to a string can't fail.
        _ = writeln!(text, " {} |\n|---|{}", headings.join(" | "), "---|".repeat(headings.len()));
        for case in &self.cases {
            _ = write!(text, "| {case} |");
            for server in &self.servers {
                let (least, median, greatest) = self.spread(case, server, |m| m.rate / 1_000.0);
                _ = write!(text, " {median:.1} ({least:.1}–{greatest:.1}) |");
            }
            for (server, other) in ratios.clone() {
                let rate = |server| self.spread(case, server, |m| m.rate).1;
                _ = write!(text, " {:.2} |", rate(server) / rate(other));
            }
            for server in &self.servers {
                let latency = |of: fn(&Measured) -> f64| self.spread(case, server, of).1;
                _ = write!(text, " {:.2} / {:.2} |", latency(|m| m.p50_ms), latency(|m| m.p99_ms));
            }
            text.push('\n');
        }
        text
    }

    /// The least, median and greatest of one figure over the rounds.
    fn spread(&self, case: &str, server: &'static str, of: fn(&Measured) -> f64) -> (f64, f64, f64) {
        let rounds = self.rounds.get(&(case.to_owned(), server));
        let mut figures: Vec<f64> = rounds.into_iter().flatten().map(of).collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let last = figures.len().saturating_sub(1);
        (at(0), (at(last / 2) + at(last.div_ceil(2))) / 2.0, at(last))
    }
}
