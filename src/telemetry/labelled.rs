//! Metrics with labels: the fixed lists of label values, and handles for each that are looked up once.

use super::histogram::{Latencies, Published};
use super::names;
use super::recorder::Registry;
use metrics::Counter;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a client can ask; values of the label `op`.
pub const OPERATIONS: [&str; 7] = ["get", "set", "delete", "increment", "scan", "modify", "wait"];
/// How it can end; values of the label `outcome`. Of what is `refused` or `unavailable` nothing was
/// changed; the former is up to the client, the latter to the cluster.
pub const OUTCOMES: [&str; 7] =
    ["ok", "not_found", "superseded", "refused", "unavailable", "unknown", "condition_failed"];
/// Why there is no link; values of the label `reason`.
pub const REJECTIONS: [&str; 16] = [
    "wrong_cluster",
    "wrong_secret",
    "authentication",
    "protocol",
    "malformed",
    "timeout",
    "too_many",
    "connection",
    "setup",
    "name_taken",
    "removed",
    "clock",
    "old_life",
    "not_a_member",
    "cluster_full",
    "not_ready",
];
/// What the disk failed at; values of the label `action`. What it can't fail at without ending the
/// member is not among them.
pub const STORAGE_ERRORS: [&str; 3] = ["append", "checkpoint", "load"];
/// Why clients are not let in, or not let do what they ask; values of the label `reason`.
pub const DENIALS: [&str; 4] = ["missing", "wrong", "no_tokens", "forbidden"];
/// Routes times status codes that are told apart; beyond it they count as `other`.
const MAX_HTTP_SERIES: usize = 512;

/// Counts by two labels whose values have fixed places, since the start; for the thread that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally<const ROWS: usize, const COLUMNS: usize>(pub [[u64; COLUMNS]; ROWS]);

impl<const ROWS: usize, const COLUMNS: usize> Default for Tally<ROWS, COLUMNS> {
    fn default() -> Self {
        Self([[0; COLUMNS]; ROWS])
    }
}

impl<const ROWS: usize, const COLUMNS: usize> Tally<ROWS, COLUMNS> {
    /// Adds `count` at the places of the two values; places that don't exist are ignored.
    pub fn add(&mut self, row: usize, column: usize, count: u64) {
        if let Some(slot) = self.0.get_mut(row).and_then(|columns| columns.get_mut(column)) {
            *slot = slot.wrapping_add(count);
        }
    }
}

/// Handles for one counter per pair of label values.
#[derive(Debug, Clone)]
pub struct Labelled<const ROWS: usize, const COLUMNS: usize>([[Counter; COLUMNS]; ROWS]);

impl<const ROWS: usize, const COLUMNS: usize> Labelled<ROWS, COLUMNS> {
    pub(super) fn register(
        registry: &Registry,
        metric: names::Metric,
        rows: (&'static str, [&'static str; ROWS]),
        columns: Option<(&'static str, [&'static str; COLUMNS])>,
    ) -> Self {
        Self(std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                let mut labels = Vec::with_capacity(2);
                labels.extend(rows.1.get(row).map(|value| (rows.0, *value)));
                labels
                    .extend(columns.and_then(|(key, values)| values.get(column).map(|value| (key, *value))));
                registry.labelled_counter(metric, &labels)
            })
        }))
    }

    /// Publishes the totals of now.
    pub fn publish(&self, tally: &Tally<ROWS, COLUMNS>) {
        for (counters, totals) in self.0.iter().zip(&tally.0) {
            for (counter, total) in counters.iter().zip(totals) {
                counter.absolute(*total);
            }
        }
    }
}

/// HTTP requests by route and status code, and their latencies by route. A route is a pattern of the
/// router, never a path that a client sent.
#[derive(Debug, Clone)]
pub struct HttpRequests {
    registry: Registry,
    series: Arc<Mutex<HttpSeries>>,
}

#[derive(Debug, Default)]
struct HttpSeries {
    counters: BTreeMap<(&'static str, u16), Counter>,
    latencies: BTreeMap<&'static str, Latencies>,
}

impl HttpRequests {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), series: Arc::default() }
    }

    /// Counts one answered request.
    pub fn record(&self, route: &'static str, code: u16, micros: u64) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let full = series.counters.len() >= MAX_HTTP_SERIES && !series.counters.contains_key(&(route, code));
        let (route, code) = if full { ("other", 0) } else { (route, code) };
        let registry = &self.registry;
        let counter = series.counters.entry((route, code)).or_insert_with(|| {
            registry.labelled_counter(
                names::HTTP_REQUESTS,
                &[("route", route), ("code", code.to_string().as_str())],
            )
        });
        counter.increment(1);
        series.latencies.entry(route).or_default().record(micros);
    }

    pub(super) fn render(&self, out: &mut String) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.latencies.is_empty() {
            return;
        }
        super::recorder::header(names::HTTP_SECONDS, out);
        for (route, latencies) in &series.latencies {
            let published = Published::default();
            published.publish(latencies);
            published.render(names::HTTP_SECONDS.name, ("route", route), out);
        }
    }
}
