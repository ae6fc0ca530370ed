//! Collects figures by row and column, and writes a table whose last column tells how they grow.

use anyhow::{Error, Result};
use std::fmt::Write as _;

/// Characters of the reason for a failure: the end of a log may follow it.
const MOST_REASON: usize = 200;

/// What the last column tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// By what factor the cost of the last column exceeds the lowest one before it. Costs are of one record, so what
    /// is proportional to the records has 1, and small numbers of records that cost most at the start don't
    /// hide what grows.
    PerRecord,
    /// By what factor the last column exceeds the first, and the power of the number that this is.
    Exponent,
}

/// One figure.
struct Cell {
    text: String,
    /// What is compared between columns.
    cost: Option<f64>,
}

/// A table.
pub struct Report {
    subject: &'static str,
    columns: Vec<u64>,
    growth: Growth,
    rows: Vec<(String, Vec<Option<Cell>>)>,
    failures: Vec<String>,
}

impl Report {
    pub const fn new(subject: &'static str, columns: Vec<u64>, growth: Growth) -> Self {
        Self { subject, columns, growth, rows: Vec::new(), failures: Vec::new() }
    }

    /// A figure that is compared with those of other columns.
    pub fn add(&mut self, column: usize, what: &str, text: impl Into<String>, cost: f64) {
        self.put(column, what, Cell { text: text.into(), cost: Some(cost) });
    }

    /// A figure that explains others.
    pub fn note(&mut self, column: usize, what: &str, text: impl Into<String>) {
        self.put(column, what, Cell { text: text.into(), cost: None });
    }

    fn put(&mut self, column: usize, what: &str, cell: Cell) {
        let number = self.columns.get(column).copied().unwrap_or_default();
        eprintln!("{} {}: {what}: {}", short(number as f64), self.subject, cell.text);
        if !self.rows.iter().any(|(known, _)| known == what) {
            self.rows.push((what.to_owned(), self.columns.iter().map(|_| None).collect()));
        }
        let row = self.rows.iter_mut().find(|(known, _)| known == what);
        if let Some(place) = row.and_then(|(_, cells)| cells.get_mut(column)) {
            *place = Some(cell);
        }
    }

    /// Measures one thing; what fails is told under the table.
    pub fn measure(&mut self, column: usize, what: &str, work: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = work(self) {
            self.fail(column, what, &error);
        }
    }

    fn fail(&mut self, column: usize, what: &str, error: &Error) {
        let number = self.columns.get(column).copied().unwrap_or_default();
        let reason: String = format!("{error:#}").replace('\n', " ").chars().take(MOST_REASON).collect();
        let text = format!("Not measured: {what} with {} {}: {reason}", short(number as f64), self.subject);
        eprintln!("{text}");
        self.failures.push(text);
    }

    /// Whether nothing failed.
    pub const fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let heads =
            self.columns.iter().map(|number| format!(" {} {} |", short(*number as f64), self.subject));
        let growth = match self.growth {
            Growth::PerRecord => "growth per record",
            Growth::Exponent => "growth: factor, power",
        };
        let mut text = format!("| what |{} {growth} |\n", heads.collect::<String>());
        text.push_str(&format!("|---|{}---|\n", "---|".repeat(self.columns.len())));
        for (what, cells) in &self.rows {
            let shown =
                cells.iter().map(|cell| format!(" {} |", cell.as_ref().map_or("", |cell| &cell.text)));
            // A String takes whatever is written.
            _ = writeln!(text, "| {what} |{} {} |", shown.collect::<String>(), self.growth_of(cells));
        }
        for failure in &self.failures {
            _ = writeln!(text, "\n{failure}");
        }
        text
    }

    fn growth_of(&self, cells: &[Option<Cell>]) -> String {
        let costs: Vec<f64> = cells.iter().flatten().filter_map(|cell| cell.cost).collect();
        let Some((last, before)) = costs.split_last() else { return String::new() };
        let base = match self.growth {
            Growth::PerRecord => before.iter().copied().reduce(f64::min),
            Growth::Exponent => before.first().copied(),
        };
        let Some(base) = base.filter(|base| *base > 0.0) else { return String::new() };
        let factor = last / base;
        let span =
            self.columns.last().zip(self.columns.first()).map(|(last, first)| *last as f64 / *first as f64);
        match (self.growth, span) {
            (Growth::Exponent, Some(span)) if costs.len() == self.columns.len() => {
                format!("{factor:.2}, n^{:.2}", factor.ln() / span.ln())
            }
            (Growth::Exponent, _) => String::new(),
            (Growth::PerRecord, _) => format!("{factor:.2}"),
        }
    }
}

/// A number with three digits.
pub fn short(number: f64) -> String {
    let (scaled, unit) = match number.abs() {
        size if size >= 1e9 => (number / 1e9, " G"),
        size if size >= 1e6 => (number / 1e6, " M"),
        size if size >= 1e3 => (number / 1e3, " k"),
        _ => (number, ""),
    };
    let decimals = match scaled.abs() {
        size if size >= 100.0 || scaled == scaled.trunc() => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// Bytes as people read them.
pub fn bytes(bytes: f64) -> String {
    let text = short(bytes);
    if text.ends_with(char::is_alphabetic) { format!("{text}B") } else { format!("{text} B") }
}

/// A time as people read it.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        long if long >= 1.0 => format!("{} s", short(long)),
        brief if brief >= 1e-3 => format!("{} ms", short(brief * 1e3)),
        brief if brief >= 1e-6 => format!("{} µs", short(brief * 1e6)),
        brief => format!("{} ns", short(brief * 1e9)),
    }
}
