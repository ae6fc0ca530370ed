//! Collects the rounds and writes the tables.

use super::options::Fsync;
use super::servers::{KITH, LIMIT, REDIS};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// What is asked of every server.
#[derive(Clone, Copy)]
pub struct Case {
    /// redis-benchmark's name of the test.
    pub test: &'static str,
    /// Requests in flight on each connection.
    pub pipeline: u64,
    /// Keys, drawn at random.
    pub keys: u64,
    /// What kith should reach, as a multiple of what the other one does.
    pub target: Option<(f64, &'static str)>,
    /// What tells it from other cases with the same commands.
    pub note: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} in flight{}", self.test.to_uppercase(), self.pipeline, self.note)
    }
}

/// One round of one server.
#[derive(Clone, Copy)]
pub struct Measured {
    /// Requests per second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Seconds of processor time of all processes of the server for a million requests.
    pub cpu_per_million: f64,
}

/// All rounds of the servers that run together.
pub struct Report {
    title: String,
    servers: Vec<&'static str>,
    cases: Vec<Case>,
    rounds: BTreeMap<(String, &'static str), Vec<Measured>>,
}

/// The least, median and greatest of some figures.
pub struct Spread(pub f64, pub f64, pub f64);

impl Report {
    pub fn new(fsync: Fsync, servers: Vec<&'static str>) -> Self {
        Self { title: format!("fsync {fsync}"), servers, cases: Vec::new(), rounds: BTreeMap::new() }
    }

    pub fn add(&mut self, case: &Case, server: &'static str, measured: Measured) {
        if !self.cases.iter().any(|known| known.to_string() == case.to_string()) {
            self.cases.push(*case);
        }
        self.rounds.entry((case.to_string(), server)).or_default().push(measured);
    }

    /// The median rate of a server.
    pub fn rate(&self, case: &Case, server: &'static str) -> f64 {
        spread(self.figures(case, server, |m| m.rate)).1
    }

    /// Thousands of requests a second (median, and the least and greatest round), the median of the rounds'
    /// ratios, latencies, and processor time.
    pub fn table(&self) -> String {
        let mut text = format!("\n### {}\n\n| k/s: median (least–greatest) |", self.title);
        let each = |what: &'static str| {
            self.servers
                .iter()
                .filter(|server| **server != LIMIT)
                .map(move |server| format!("{server}: {what}"))
        };
        let ratios = ["kith / Redis", "kith / limit", "target"].map(str::to_owned);
        let servers = self.servers.iter().map(|server| (*server).to_owned());
        let headings: Vec<String> = servers
            .chain(ratios)
            .chain(each("p50 / p99 ms"))
            .chain(each("processor s per million, all three"))
            .collect();
        // Writing to a string can't fail.
        _ = writeln!(text, " {} |\n|---|{}", headings.join(" | "), "---|".repeat(headings.len()));
        for case in &self.cases {
            self.row(case, &mut text);
        }
        text
    }

    fn row(&self, case: &Case, text: &mut String) {
        _ = write!(text, "| {case} |");
        for server in &self.servers {
            let Spread(least, median, greatest) = spread(self.figures(case, server, |m| m.rate / 1_000.0));
            match median.is_nan() {
                true => text.push_str(" |"),
                false => _ = write!(text, " {median:.1} ({least:.1}–{greatest:.1}) |"),
            }
        }
        for other in [REDIS, LIMIT] {
            _ = write!(text, " {:.2} |", self.ratio(case, other));
        }
        _ = match case.target {
            Some((least, other)) => {
                let holds = if self.ratio(case, other) >= least { "holds" } else { "**not met**" };
                write!(text, " ≥ {least} × {other}: {holds} |")
            }
            None => write!(text, " |"),
        };
        let others = || self.servers.iter().filter(|server| **server != LIMIT);
        for server in others() {
            let median = |of: fn(&Measured) -> f64| spread(self.figures(case, server, of)).1;
            let (p50, p99) = (median(|m| m.p50_ms), median(|m| m.p99_ms));
            // What was not asked was not measured.
            match p50.is_nan() {
                true => text.push_str(" |"),
                false => _ = write!(text, " {p50:.2} / {p99:.2} |"),
            }
        }
        for server in others() {
            let median = spread(self.figures(case, server, |m| m.cpu_per_million)).1;
            match median.is_nan() {
                true => text.push_str(" |"),
                false => _ = write!(text, " {median:.1} |"),
            }
        }
        text.push('\n');
    }

    /// The median of what kith reached in each round, as a multiple of what another one did in the same.
    fn ratio(&self, case: &Case, other: &'static str) -> f64 {
        let (kith, other) = (self.figures(case, KITH, |m| m.rate), self.figures(case, other, |m| m.rate));
        spread(kith.iter().zip(other).map(|(kith, other)| kith / other).collect()).1
    }

    fn figures(&self, case: &Case, server: &'static str, of: fn(&Measured) -> f64) -> Vec<f64> {
        let rounds = self.rounds.get(&(case.to_string(), server));
        rounds.into_iter().flatten().map(of).collect()
    }
}

/// See [`Spread`].
pub fn spread(mut figures: Vec<f64>) -> Spread {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    let last = figures.len().saturating_sub(1);
    Spread(at(0), (at(last / 2) + at(last.div_ceil(2))) / 2.0, at(last))
}
