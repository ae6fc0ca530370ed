//! One member's metrics: the recorder, the handles of all parts, and the text that Prometheus reads.

use super::histogram::{Latencies, Published};
use super::labelled::{DENIALS, HttpRequests, Labelled, OPERATIONS, OUTCOMES, REJECTIONS, STORAGE_ERRORS};
use super::names::{self, Kind, Metric};
use super::open::Open;
use super::peers::Peers;
use super::process;
use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often [`Telemetry::run_upkeep`] should run.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static METADATA: Metadata<'static> = Metadata::new("kith", Level::INFO, None);

/// A counter of seconds. The recorder counts in whole numbers, so the lines of these are written by hand.
#[derive(Debug, Clone, Default)]
pub(super) struct Seconds(Arc<AtomicU64>);

impl Seconds {
    /// Publishes the total of now; one that fell back is ignored.
    pub fn absolute(&self, total: f64) {
        // The bits of numbers that are not negative are in the order of the numbers.
        self.0.fetch_max(total.max(0.0).to_bits(), Ordering::Relaxed);
    }

    fn total(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Where metrics are registered; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    recorder: Arc<PrometheusRecorder>,
    seconds: Arc<Mutex<Vec<(Metric, Seconds)>>>,
}

impl Registry {
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_counter(&Key::from_static_name(name), &METADATA)
    }

    pub fn seconds(&self, name: &'static str, help: &'static str) -> Seconds {
        let seconds = Seconds::default();
        let metric = Metric { name, kind: Kind::Counter, help };
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).push((metric, seconds.clone()));
        seconds
    }

    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_gauge(&Key::from_static_name(name), &METADATA)
    }

    pub fn labelled_counter(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(metric.name), None, metric.help.into());
        self.recorder.register_counter(&labelled(metric, labels), &METADATA)
    }

    fn labelled_gauge(&self, metric: Metric, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(metric.name), None, metric.help.into());
        self.recorder.register_gauge(&labelled(metric, labels), &METADATA)
    }

    fn render_seconds(&self, out: &mut String) {
        for (metric, seconds) in self.seconds.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            plain(*metric, seconds.total(), out);
        }
    }
}

fn labelled(metric: Metric, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect();
    Key::from_parts(metric.name, labels)
}

/// The two lines that begin a metric in Prometheus' text format.
pub(super) fn header(metric: Metric, out: &mut String) {
    // Writing into a String can't fail.
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
}

/// A metric without labels in Prometheus' text format.
pub(super) fn plain(metric: Metric, number: f64, out: &mut String) {
    header(metric, out);
    // Writing into a String can't fail.
    let _ = writeln!(out, "{} {number}", metric.name);
}

/// The handles of every part. Whoever counts keeps totals of its own and publishes them here.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The journal.
    pub journal: names::Journal,
    /// Checkpoints.
    pub checkpoint: names::Checkpoint,
    /// Records in memory and in the store.
    pub table: names::Table,
    /// What the engine does with its owners.
    pub replication: names::Replication,
    /// Whether members hold the same.
    pub convergence: names::Convergence,
    /// What is known of each other member.
    pub peers: Peers,
    /// Hints.
    pub hints: names::Hints,
    /// Links.
    pub links: names::Links,
    /// Gossip.
    pub gossip: names::Gossip,
    /// The clock.
    pub clock: names::Clock,
    /// RESP.
    pub resp: names::Resp,
    /// TLS with clients.
    pub tls: names::Tls,
    /// Open HTTP connections.
    pub http_open: Open,
    /// How many there may be.
    pub http_limit: Gauge,
    /// HTTP connections refused at the bound.
    pub http_rejected: Counter,
    /// Watches.
    pub watch: names::Watch,
    /// The cluster secret.
    pub secrets: names::Secrets,
    /// The roster.
    pub roster: names::Roster,
    /// HTTP requests.
    pub http: HttpRequests,
    /// Operations by [`OPERATIONS`] and [`OUTCOMES`].
    pub operations: Labelled<{ OPERATIONS.len() }, { OUTCOMES.len() }>,
    /// Refused handshakes by [`REJECTIONS`]; the column is 0.
    pub handshakes_rejected: Labelled<{ REJECTIONS.len() }, 1>,
    /// Errors of the disk by [`STORAGE_ERRORS`]; the column is 0.
    pub storage_errors: Labelled<{ STORAGE_ERRORS.len() }, 1>,
    /// Clients without the right token by [`DENIALS`]; the column is 0.
    pub clients_denied: Labelled<{ DENIALS.len() }, 1>,
    latencies: Arc<[Published; OPERATIONS.len()]>,
}

impl Metrics {
    fn register(registry: &Registry) -> Self {
        Self {
            journal: names::Journal::register(registry),
            checkpoint: names::Checkpoint::register(registry),
            table: names::Table::register(registry),
            replication: names::Replication::register(registry),
            convergence: names::Convergence::register(registry),
            peers: Peers::default(),
            hints: names::Hints::register(registry),
            links: names::Links::register(registry),
            gossip: names::Gossip::register(registry),
            clock: names::Clock::register(registry),
            resp: names::Resp::register(registry),
            tls: names::Tls::register(registry),
            http_open: Open::new(registry.gauge(names::HTTP_CONNECTIONS.name, names::HTTP_CONNECTIONS.help)),
            http_limit: registry
                .gauge(names::HTTP_CONNECTIONS_LIMIT.name, names::HTTP_CONNECTIONS_LIMIT.help),
            http_rejected: registry.counter(names::HTTP_REJECTED.name, names::HTTP_REJECTED.help),
            watch: names::Watch::register(registry),
            secrets: names::Secrets::register(registry),
            roster: names::Roster::register(registry),
            http: HttpRequests::new(registry),
            operations: Labelled::register(
                registry,
                names::OPERATIONS,
                ("op", OPERATIONS),
                Some(("outcome", OUTCOMES)),
            ),
            handshakes_rejected: Labelled::register(
                registry,
                names::HANDSHAKES_REJECTED,
                ("reason", REJECTIONS),
                None,
            ),
            storage_errors: Labelled::register(
                registry,
                names::STORAGE_ERRORS,
                ("action", STORAGE_ERRORS),
                None,
            ),
            clients_denied: Labelled::register(registry, names::CLIENTS_DENIED, ("reason", DENIALS), None),
            latencies: Arc::default(),
        }
    }

    /// Publishes the latencies of operations, in the order of [`OPERATIONS`].
    pub fn publish_latencies(&self, latencies: &[Latencies; OPERATIONS.len()]) {
        for (published, totals) in self.latencies.iter().zip(latencies) {
            published.publish(totals);
        }
    }

    fn render_latencies(&self, out: &mut String) {
        header(names::OPERATION_SECONDS, out);
        for (operation, published) in OPERATIONS.iter().zip(self.latencies.iter()) {
            published.render(names::OPERATION_SECONDS.name, ("op", operation), out);
        }
    }
}

/// One member's metrics. Clones are the same; there are hundreds of handles in each, so nobody clones it for a request.
#[derive(Debug, Clone)]
pub struct Telemetry {
    metrics: Metrics,
    registry: Registry,
    handle: PrometheusHandle,
    started: SystemTime,
}

impl Telemetry {
    /// A recorder of its own with every metric registered at 0, for the member of this name; `version` is
    /// the program's.
    #[must_use]
    pub fn new(member: &str, version: &str) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let registry = Registry { recorder: Arc::new(recorder), seconds: Arc::default() };
        registry.labelled_gauge(names::INFO, &[("member", member), ("version", version)]).set(1.0);
        let metrics = Metrics::register(&registry);
        Self { metrics, registry, handle, started: SystemTime::now() }
    }

    /// The handles of every part.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = self.handle.render();
        self.registry.render_seconds(&mut out);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        process::render(started.as_secs_f64(), &mut out);
        self.metrics.render_latencies(&mut out);
        self.metrics.http.render(&mut out);
        self.metrics.peers.render(&mut out);
        out
    }

    /// Bounds the recorder's memory: to be called every [`UPKEEP_INTERVAL`], whether anybody reads or not.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Tally, names::JournalTotals};

    #[test]
    fn every_metric_is_rendered_with_its_help_from_the_start() {
        let telemetry = Telemetry::new("edge1", "1.2.3");
        telemetry.metrics().http.record("/v1/status", 200, 1_500);
        telemetry.metrics().peers.publish(vec![crate::telemetry::PeerTotals::default()]);
        let text = telemetry.render();
        for metric in names::PLAIN.iter().chain(names::FAMILIES) {
            assert!(text.contains(&format!("# HELP {} {}", metric.name, metric.help)), "{}", metric.name);
        }
        assert!(text.contains("kith_info{member=\"edge1\",version=\"1.2.3\"} 1"), "{text}");
    }

    #[test]
    fn published_totals_are_rendered() {
        let telemetry = Telemetry::new("one", "0");
        let metrics = telemetry.metrics();
        let totals = JournalTotals { bytes: 77, size_bytes: 1.5, ..JournalTotals::default() };
        metrics.journal.publish(&JournalTotals { sync_busy_seconds: 2.25, ..totals });
        metrics.journal.publish(&JournalTotals { sync_busy_seconds: 1.0, ..totals });
        let mut tally = Tally::default();
        tally.add(1, 2, 5);
        tally.add(99, 99, 5);
        metrics.operations.publish(&tally);
        metrics.handshakes_rejected.publish(&Tally([[1]; REJECTIONS.len()]));
        let mut latencies = [Latencies::default(); OPERATIONS.len()];
        latencies[0].record(30);
        metrics.publish_latencies(&latencies);
        let text = telemetry.render();
        for line in [
            "kith_journal_bytes_total 77",
            "kith_journal_size_bytes 1.5",
            "kith_journal_sync_busy_seconds_total 2.25",
            "kith_operations_total{op=\"set\",outcome=\"superseded\"} 5",
            "kith_handshakes_rejected_total{reason=\"wrong_secret\"} 1",
            "kith_operation_seconds_bucket{op=\"get\",le=\"0.00005\"} 1",
        ] {
            assert!(text.lines().any(|rendered| rendered == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn series_of_http_are_bounded() {
        let telemetry = Telemetry::new("one", "0");
        for code in 0..2_000 {
            telemetry.metrics().http.record("/v1/kv/{collection}/{key}", code, 1);
        }
        let text = telemetry.render();
        assert!(text.matches("kith_http_requests_total{").count() < 600);
        assert!(text.contains("kith_http_requests_total{route=\"other\",code=\"0\"}"), "{text}");
    }

    #[test]
    fn two_members_in_one_process_count_apart() {
        let (one, two) = (Telemetry::new("one", "0"), Telemetry::new("two", "0"));
        one.metrics().journal.publish(&JournalTotals { bytes: 1, ..JournalTotals::default() });
        assert!(two.render().contains("kith_journal_bytes_total 0"));
    }
}
