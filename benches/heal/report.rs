//! Collects the figures beside their bounds, and writes the table.

use super::options::Part;
use anyhow::Error;
use std::fmt::Write as _;

/// What a figure must keep.
enum Bound {
    /// Nothing: it explains others.
    None,
    /// At most so much; it depends on what else the machine does.
    Timed(String, bool),
    /// An amount, whatever the machine does.
    Amount(String, bool),
}

/// All rows, in order.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String, Bound)>,
    is_broken: bool,
}

impl Report {
    /// A figure that explains others.
    pub fn note(&mut self, what: impl Into<String>, measured: impl Into<String>) {
        self.add(what.into(), measured.into(), Bound::None);
    }

    /// A time, or what follows from times.
    pub fn timed(
        &mut self,
        what: impl Into<String>,
        measured: impl Into<String>,
        bound: impl Into<String>,
        holds: bool,
    ) {
        self.add(what.into(), measured.into(), Bound::Timed(bound.into(), holds));
    }

    /// An amount.
    pub fn amount(
        &mut self,
        what: impl Into<String>,
        measured: impl Into<String>,
        bound: impl Into<String>,
        holds: bool,
    ) {
        self.is_broken |= !holds;
        self.add(what.into(), measured.into(), Bound::Amount(bound.into(), holds));
    }

    /// A part that could not be carried out.
    pub fn failed(&mut self, part: Part, error: &Error) {
        let reason = format!("{error:#}").replace('\n', " ");
        self.amount(format!("{part:?}"), format!("not measured: {reason}"), "it is", false);
    }

    fn add(&mut self, what: String, measured: String, bound: Bound) {
        eprintln!("{what}: {measured}");
        self.rows.push((what, measured, bound));
    }

    /// Whether all amounts are within their bounds.
    pub const fn holds(&self) -> bool {
        !self.is_broken
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let mut text = "| what | measured | bound | |\n|---|---|---|---|\n".to_owned();
        for (what, measured, bound) in &self.rows {
            let (bound, verdict) = match bound {
                Bound::None => ("", ""),
                Bound::Timed(bound, true) | Bound::Amount(bound, true) => (bound.as_str(), "holds"),
                Bound::Timed(bound, false) | Bound::Amount(bound, false) => (bound.as_str(), "**not met**"),
            };
            // A String takes whatever is written.
            _ = writeln!(text, "| {what} | {measured} | {bound} | {verdict} |");
        }
        text
    }
}

/// Bytes as people read them.
pub fn megabytes(bytes: f64) -> String {
    format!("{:.2} MB", bytes / 1e6)
}
