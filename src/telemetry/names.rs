//! The one table of metrics: names, kinds, help texts, and the parts that they belong to.
//!
//! Each part gives two structs: *totals*, plain numbers that whoever counts fills in (for counters: since
//! the start), and handles, looked up once, through which they are published. Metrics with labels stand
//! in [`FAMILIES`]. Units end the names, as Prometheus has it: `_bytes`, `_seconds`, `_timestamp_seconds`,
//! with `_total` behind them where they are added up. `docs/MONITORING.md` lists all of it for people, and a test
//! holds that against this table.

use super::recorder::{Registry, Seconds};
use metrics::{Counter, Gauge};

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at the start of the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts samples in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// What it means, in a sentence.
    pub help: &'static str,
}

macro_rules! kind_of {
    (counter) => {
        Kind::Counter
    };
    (seconds) => {
        Kind::Counter
    };
    (gauge) => {
        Kind::Gauge
    };
}
macro_rules! number_of {
    (counter) => {
        u64
    };
    (seconds) => {
        f64
    };
    (gauge) => {
        f64
    };
}
macro_rules! handle_of {
    (counter) => {
        Counter
    };
    (seconds) => {
        Seconds
    };
    (gauge) => {
        Gauge
    };
}
macro_rules! publish {
    (counter, $handle:expr, $number:expr) => {
        $handle.absolute($number)
    };
    (seconds, $handle:expr, $number:expr) => {
        $handle.absolute($number)
    };
    (gauge, $handle:expr, $number:expr) => {
        $handle.set($number)
    };
}

macro_rules! parts {
    ($($(#[doc = $part_doc:literal])+ $part:ident, $totals:ident {
        $($kind:ident $field:ident = $name:literal, $help:literal;)+
    })+) => {
        /// Every metric without labels.
        pub const PLAIN: &[Metric] = &[
            $($(Metric { name: $name, kind: kind_of!($kind), help: $help },)+)+
        ];
        $(
            $(#[doc = $part_doc])+
            ///
            /// Plain numbers, to be filled in by whoever counts and published about once a second.
            #[derive(Debug, Clone, Copy, PartialEq, Default)]
            pub struct $totals {
                $(#[doc = $help] pub $field: number_of!($kind),)+
            }

            $(#[doc = $part_doc])+
            ///
            /// Handles that were looked up once.
            #[derive(Debug, Clone)]
            pub struct $part {
                $($field: handle_of!($kind),)+
            }

            impl $part {
                pub(super) fn register(registry: &Registry) -> Self {
                    Self { $($field: registry.$kind($name, $help),)+ }
                }

                /// Publishes the totals of now; a counter that fell back is ignored.
                pub fn publish(&self, totals: &$totals) {
                    $(publish!($kind, self.$field, totals.$field);)+
                }
            }
        )+
    };
}

parts! {
    /// The journal: what is appended and synced before anything is acknowledged.
    Journal, JournalTotals {
        counter bytes = "kith_journal_bytes_total", "Bytes appended to the journal.";
        counter appends = "kith_journal_appends_total", "Writes to the journal; one has a turn's records.";
        counter records = "kith_journal_records_total", "Records appended to the journal.";
        counter syncs = "kith_journal_syncs_total", "Times that the journal was synced.";
        seconds sync_busy_seconds = "kith_journal_sync_busy_seconds_total", "Seconds during which a sync was waited for.";
        gauge last_sync_seconds = "kith_journal_last_sync_seconds", "Seconds from asking for the last sync to its end.";
        gauge size_bytes = "kith_journal_size_bytes", "Bytes of journal that no checkpoint covers yet.";
        gauge limit_bytes = "kith_journal_limit_bytes", "Bytes of journal at which a checkpoint begins.";
        gauge unsynced_bytes = "kith_journal_unsynced_bytes", "Bytes that are written and not synced yet.";
        counter replayed_records = "kith_journal_replayed_records_total", "Records replayed at the start.";
        counter waits = "kith_journal_waits_total", "Times that a client waited because too much waits for the disk.";
    }

    /// Checkpoints: moving changed records from the journal into the store.
    Checkpoint, CheckpointTotals {
        counter completed = "kith_checkpoints_total", "Checkpoints that were completed.";
        counter records = "kith_checkpoint_records_total", "Records that were given to checkpoints.";
        seconds busy_seconds = "kith_checkpoint_busy_seconds_total", "Seconds spent in checkpoints.";
        gauge last_seconds = "kith_checkpoint_last_seconds", "Seconds that the last checkpoint took.";
        gauge running = "kith_checkpoint_running", "1 while a checkpoint runs.";
    }

    /// The table of records in memory, and the store behind it.
    Table, TableTotals {
        gauge records = "kith_table_records", "Records in memory, tombstones included.";
        gauge bytes = "kith_table_bytes", "Bytes of the records in memory.";
        gauge limit_bytes = "kith_table_limit_bytes", "Bytes of records in memory beyond which records are evicted.";
        gauge dirty_records = "kith_table_dirty_records", "Records in memory that the store does not have yet.";
        counter evictions = "kith_table_evictions_total", "Records evicted because memory was full.";
        counter loads = "kith_store_loads_total", "Records read from the store because memory had them not.";
        counter load_misses = "kith_store_load_misses_total", "Keys that the store had not either.";
        counter damaged_records = "kith_damaged_records_total", "Records of the store that were found damaged, and are fetched from other members.";
        counter lost_syncs = "kith_lost_syncs_total", "Times that the disk turned out to have lost what it had said to have synced.";
        counter scrubbed_records = "kith_scrub_records_total", "Records that the scrub read from the store and found whole.";
        counter scrub_rounds = "kith_scrub_rounds_total", "Rounds of the scrub through all of the store.";
        gauge scrub_ended_seconds = "kith_scrub_last_round_end_timestamp_seconds", "When the last round of the scrub ended, since 1970; 0 before the first.";
        gauge scrub_damaged = "kith_scrub_last_round_damaged_records", "Damaged records that the last round of the scrub found.";
        counter mended_leaves = "kith_mended_leaves_total", "Leaves of hash trees that were made right after records had been lost.";
        gauge wrong_leaves = "kith_wrong_leaves", "Leaves of hash trees that are wrong because records were lost, until they are mended.";
        counter stores_rebuilt = "kith_stores_rebuilt_total", "Times that the store was found damaged at work and built anew.";
        gauge problems = "kith_storage_problems", "What was damaged or lost on the disk of this member since it started; its status tells more.";
        gauge store_bytes = "kith_store_bytes", "Bytes of the store's file.";
        gauge disk_free_bytes = "kith_disk_free_bytes", "Bytes free where the data directory is.";
        gauge accepts_writes = "kith_accepts_writes", "1 while the disk takes writes; 0 while it is full, and this member refuses them.";
    }

    /// Replication: what this member's engine does with its owners.
    Replication, ReplicationTotals {
        counter superseded = "kith_superseded_writes_total", "Writes that met a newer record and lost to it.";
        counter read_repairs = "kith_read_repairs_total", "Owners that were sent a newer record after a read.";
        counter redirects = "kith_placement_disagreements_total", "Records refused because members disagree about their owners.";
        counter stamps_refused = "kith_stamps_refused_total", "Writes refused because their stamp was too far ahead.";
        counter expired = "kith_expired_records_total", "Records that expired.";
        gauge owned_partitions = "kith_owned_partitions", "Partitions that this member owns.";
        gauge complete_partitions = "kith_complete_partitions", "Owned partitions that it has completed.";
        gauge waiting_operations = "kith_waiting_operations", "Operations of clients that are not answered yet.";
    }

    /// Convergence: whether members hold the same, and what is done for it.
    Convergence, ConvergenceTotals {
        counter passes = "kith_comparison_passes_total", "Comparisons with another member that were completed.";
        counter repairs_sent = "kith_repairs_sent_total", "Records sent to members that lacked them, as comparing showed.";
        counter repairs_taken = "kith_repairs_taken_total", "Records taken from members that had newer ones, as comparing showed.";
        counter superseded_records = "kith_superseded_records_total", "Fresh records of concurrent writes that met newer ones here and lost.";
        gauge incomplete_partitions = "kith_incomplete_partitions", "Owned partitions that are still copied, and of which nothing is read here.";
        gauge awaited_partitions = "kith_awaited_partitions", "Partitions whose owners to come are not all complete, so that the cluster's change waits.";
        gauge foreign_partitions = "kith_foreign_partitions", "Partitions that others own and of which records are kept here until all of them have these.";
        gauge unsorted_collections = "kith_unsorted_collections", "Collections that are still brought into hash trees of their own, until when nothing is compared.";
        counter forgotten = "kith_forgotten_records_total", "Records that were dropped because others own them, and tombstones that were reclaimed.";
        counter tombstones_settled = "kith_tombstones_settled_total", "Tombstones that left the hash trees because every owner had them.";
        counter tombstones_reclaimed = "kith_tombstones_reclaimed_total", "Tombstones that were dropped.";
        gauge waiting_tombstones = "kith_waiting_tombstones", "Tombstones in memory that are not settled.";
        gauge settled_tombstones = "kith_settled_tombstones", "Tombstones in memory that are settled and not dropped.";
        counter quiet_rounds = "kith_quiet_rounds_total", "Rounds at whose end all had arrived that was under way at their begin.";
    }

    /// Hints: records kept for owners that did not confirm.
    Hints, HintsTotals {
        gauge bytes = "kith_hint_bytes", "Bytes of hints that are kept.";
        gauge limit_bytes = "kith_hint_limit_bytes", "Bytes of hints beyond which there is no room for more.";
        gauge pending = "kith_hints_pending", "Hints that are kept.";
        counter stored = "kith_hints_stored_total", "Hints that were stored.";
        counter delivered = "kith_hints_delivered_total", "Hints that an owner confirmed.";
        counter dropped = "kith_hints_dropped_total", "Hints that found no room.";
    }

    /// Links to other members.
    Links, LinksTotals {
        gauge up = "kith_links_up", "Links that are up.";
        gauge down = "kith_links_down", "Members of the roster without a link.";
        counter opened = "kith_links_opened_total", "Links that came up.";
        counter closed = "kith_links_closed_total", "Links that went down.";
        counter handshakes = "kith_handshakes_total", "Handshakes that succeeded, whoever dialled.";
        gauge pending_handshakes = "kith_handshakes_pending", "Accepted connections whose handshake is not done.";
        counter frames_sent = "kith_frames_sent_total", "Frames of data and gossip sent to members.";
        counter frames_received = "kith_frames_received_total", "Frames received from members.";
        counter bytes_sent = "kith_link_sent_bytes_total", "Sealed bytes sent to members.";
        counter bytes_received = "kith_link_received_bytes_total", "Sealed bytes received from members.";
        gauge outbox_bytes = "kith_outbox_bytes", "Sealed bytes that sockets have not taken yet.";
    }

    /// Gossip.
    Gossip, GossipTotals {
        gauge members_alive = "kith_gossip_members_alive", "Members that are alive, this one not counted.";
        gauge members_dead = "kith_gossip_members_dead", "Members that were heard and are dead.";
        counter sent = "kith_gossip_messages_sent_total", "Gossip messages sent.";
        counter received = "kith_gossip_messages_received_total", "Gossip messages received and understood.";
        counter dropped = "kith_gossip_messages_dropped_total", "Gossip messages dropped because a queue was full.";
        counter refused = "kith_gossip_messages_refused_total", "Gossip messages refused as malformed.";
        counter restarts = "kith_gossip_restarts_total", "Times that gossip failed and was started again.";
    }

    /// The clock.
    Clock, ClockTotals {
        gauge offset_seconds = "kith_clock_offset_seconds", "Own wall clock minus the median of the live members'.";
        gauge offset_limit_seconds = "kith_clock_offset_limit_seconds", "How far the own wall clock may be off, either way, before others stamp instead.";
        gauge ahead_seconds = "kith_clock_ahead_seconds", "How far the Lamport clock is ahead of the wall clock.";
        gauge may_stamp = "kith_clock_may_stamp", "1 while the own clock is near enough to the others' to stamp.";
    }

    /// RESP.
    Resp, RespTotals {
        gauge connections = "kith_resp_connections", "Open RESP connections.";
        gauge connections_limit = "kith_resp_connections_limit", "RESP connections that may be open at a time.";
        counter accepted = "kith_resp_connections_total", "RESP connections that were accepted.";
        counter rejected = "kith_resp_connections_rejected_total", "RESP connections refused at the bound.";
        counter commands = "kith_resp_commands_total", "RESP commands that were carried out or refused.";
        counter errors = "kith_resp_errors_total", "Errors among the replies to RESP commands.";
        counter bytes_received = "kith_resp_received_bytes_total", "Bytes received over RESP.";
        counter bytes_sent = "kith_resp_sent_bytes_total", "Bytes sent over RESP.";
        counter too_large = "kith_resp_requests_too_large_total", "RESP requests refused for their size.";
        counter malformed = "kith_resp_requests_malformed_total", "Requests that were no RESP.";
        counter held_pipeline = "kith_resp_held_pipeline_total", "Times that a RESP connection waited because too many of its commands were unanswered.";
        counter held_output = "kith_resp_held_output_total", "Times that a RESP connection waited because its client did not read its replies.";
        counter slow_listeners = "kith_resp_slow_listeners_total", "RESP connections cut off because they did not read the messages of their channels.";
        gauge unsent_bytes = "kith_resp_unsent_bytes", "Memory of the replies and messages that wait for RESP clients to read them.";
        counter stalled = "kith_resp_stalled_total", "RESP connections cut off because their clients took nothing of what waited for them, or sent nothing more of a large command.";
        counter evicted = "kith_resp_evicted_total", "RESP connections cut off because too much waited for all clients together.";
        counter unauthenticated = "kith_resp_unauthenticated_total", "RESP connections ended because their clients showed no token in time.";
    }

    /// TLS with clients.
    Tls, TlsTotals {
        counter opened = "kith_tls_handshakes_total", "TLS handshakes with clients that succeeded.";
        counter failed = "kith_tls_handshakes_failed_total", "TLS handshakes with clients that failed or took too long.";
        counter crowded = "kith_tls_handshakes_rejected_total", "Clients turned away because too many TLS handshakes were under way.";
        gauge pending = "kith_tls_handshakes_pending", "TLS handshakes with clients that are under way.";
        gauge expires_seconds = "kith_tls_certificate_expiry_timestamp_seconds", "When the certificate that is shown ends, since 1970; 0 without TLS.";
        gauge stale = "kith_tls_certificate_stale", "1 while newer files of certificate and key can't be served.";
    }

    /// Watches.
    Watch, WatchTotals {
        gauge watches = "kith_watches", "Open watches over HTTP.";
        gauge subscriptions = "kith_watch_subscriptions", "Subscriptions to changes over RESP.";
        gauge feeds = "kith_watch_feeds", "Distinct collections and prefixes that are watched for clients.";
        gauge told = "kith_watch_told", "Watches that this member tells changes to, those of other members included.";
        gauge ring_bytes = "kith_watch_remembered_bytes", "Bytes of changes that are remembered for watches.";
        counter events = "kith_watch_events_total", "Puts and deletes that were given to watches.";
        counter resets = "kith_watch_resets_total", "Times that a watch began with the current state.";
        counter behind = "kith_watch_behind_total", "Those of them because it was read too slowly.";
        counter rejected = "kith_watch_rejected_total", "Watches, and channels and patterns over RESP, that were refused at a bound.";
    }

    /// The cluster secret.
    Secrets, SecretsTotals {
        gauge accepted = "kith_secrets_accepted", "Cluster secrets that this member accepts: 2 while the secret is being changed.";
        gauge file_outdated = "kith_secret_file_outdated", "1 while the member's file holds a cluster secret that the member does not accept.";
    }

    /// The roster as this member has it.
    Roster, RosterTotals {
        gauge active = "kith_roster_active_members", "Members that are active.";
        gauge joining = "kith_roster_joining_members", "Members that are joining.";
        gauge leaving = "kith_roster_leaving_members", "Members that are leaving.";
        gauge ready = "kith_ready", "1 once this member serves.";
        gauge incarnation = "kith_incarnation", "How often this member has started.";
    }
}

/// Operations by what was asked and how it ended.
pub const OPERATIONS: Metric = Metric {
    name: "kith_operations_total",
    kind: Kind::Counter,
    help: "Operations of clients that were answered, by what was asked and how it ended.",
};
/// How long operations took.
pub const OPERATION_SECONDS: Metric = Metric {
    name: "kith_operation_seconds",
    kind: Kind::Histogram,
    help: "Seconds from an operation to its answer, one at a time per connection; reads answered at once are left out.",
};
/// Links that never stood.
pub const HANDSHAKES_REJECTED: Metric = Metric {
    name: "kith_handshakes_rejected_total",
    kind: Kind::Counter,
    help: "Links that were refused by either side or failed before they stood, by reason.",
};
/// Errors of the disk.
pub const STORAGE_ERRORS: Metric = Metric {
    name: "kith_storage_errors_total",
    kind: Kind::Counter,
    help: "Errors of the disk that the member survived, by what was being done.",
};
/// Clients without the right token.
pub const CLIENTS_DENIED: Metric = Metric {
    name: "kith_clients_denied_total",
    kind: Kind::Counter,
    help: "Clients of HTTP and RESP that showed no token, a wrong one or one that allows too little, by reason.",
};
/// HTTP connections.
pub const HTTP_CONNECTIONS: Metric =
    Metric { name: "kith_http_connections", kind: Kind::Gauge, help: "Open HTTP connections." };
/// How many there may be.
pub const HTTP_CONNECTIONS_LIMIT: Metric = Metric {
    name: "kith_http_connections_limit",
    kind: Kind::Gauge,
    help: "HTTP connections that may be open at a time.",
};
/// HTTP connections for which there was no room.
pub const HTTP_REJECTED: Metric = Metric {
    name: "kith_http_connections_rejected_total",
    kind: Kind::Counter,
    help: "HTTP connections refused at the bound.",
};
/// HTTP requests.
pub const HTTP_REQUESTS: Metric = Metric {
    name: "kith_http_requests_total",
    kind: Kind::Counter,
    help: "HTTP requests that were answered, by route and status code.",
};
/// How long HTTP requests took.
pub const HTTP_SECONDS: Metric = Metric {
    name: "kith_http_request_seconds",
    kind: Kind::Histogram,
    help: "Seconds from receiving an HTTP request to its answer, by route.",
};
/// How far behind another member this one may be.
pub const PEER_LAG: Metric = Metric {
    name: "kith_peer_lag_seconds",
    kind: Kind::Gauge,
    help: "Seconds since the last completed comparison with a member began; infinite before the first.",
};
/// What another member did not confirm.
pub const PEER_UNDER_WAY: Metric = Metric {
    name: "kith_peer_records_under_way",
    kind: Kind::Gauge,
    help: "Records on their way to a member that it did not confirm after fsync.",
};
/// What is kept for another member.
pub const PEER_HINTS: Metric =
    Metric { name: "kith_peer_hints", kind: Kind::Gauge, help: "Hints that are kept for a member." };
/// What another member holds otherwise.
pub const PEER_DIFFERING: Metric = Metric {
    name: "kith_peer_differing_leaves",
    kind: Kind::Gauge,
    help: "Leaves of hash trees that differed from a member's when they were last compared.",
};
/// What another member holds back.
pub const PEER_TOMBSTONES: Metric = Metric {
    name: "kith_peer_tombstones_held_back",
    kind: Kind::Gauge,
    help: "Tombstones that can't be reclaimed before a member answers, of the last batch that waited for it.",
};
/// What runs.
pub const INFO: Metric = Metric {
    name: "kith_info",
    kind: Kind::Gauge,
    help: "Always 1; its labels say which member this is and which version runs.",
};
/// The process's memory. These names are those that programs of all kinds use for what every process has.
pub const PROCESS_MEMORY: Metric = Metric {
    name: "process_resident_memory_bytes",
    kind: Kind::Gauge,
    help: "Bytes of memory that this process uses.",
};
/// The processor's time.
pub const PROCESS_CPU: Metric = Metric {
    name: "process_cpu_seconds_total",
    kind: Kind::Counter,
    help: "Seconds of processor time that this process used, in itself and in the system.",
};
/// Open files.
pub const PROCESS_FILES: Metric = Metric {
    name: "process_open_fds",
    kind: Kind::Gauge,
    help: "Files and connections that this process has open.",
};
/// How many there may be.
pub const PROCESS_FILES_LIMIT: Metric = Metric {
    name: "process_max_fds",
    kind: Kind::Gauge,
    help: "Files and connections that the system lets it have open.",
};
/// Since when it runs.
pub const PROCESS_START: Metric = Metric {
    name: "process_start_time_seconds",
    kind: Kind::Gauge,
    help: "When this process started, since 1970.",
};

/// Every metric that has labels or is published apart from the parts.
pub const FAMILIES: &[Metric] = &[
    OPERATIONS,
    OPERATION_SECONDS,
    HANDSHAKES_REJECTED,
    STORAGE_ERRORS,
    CLIENTS_DENIED,
    HTTP_CONNECTIONS,
    HTTP_CONNECTIONS_LIMIT,
    HTTP_REJECTED,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    PEER_LAG,
    PEER_UNDER_WAY,
    PEER_HINTS,
    PEER_DIFFERING,
    PEER_TOMBSTONES,
    INFO,
    PROCESS_MEMORY,
    PROCESS_CPU,
    PROCESS_FILES,
    PROCESS_FILES_LIMIT,
    PROCESS_START,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in PLAIN.iter().chain(FAMILIES) {
            assert!(names.insert(metric.name), "{} stands twice", metric.name);
            assert!(["kith_", "process_"].iter().any(|own| metric.name.starts_with(own)), "{}", metric.name);
            let counted = metric.name.strip_suffix("_total");
            assert_eq!(counted.is_some(), metric.kind == Kind::Counter, "{}", metric.name);
            let name = counted.unwrap_or(metric.name);
            for unit in ["_bytes", "_seconds", "_timestamp_seconds"] {
                let inside = format!("{unit}_");
                assert!(!name.contains(&inside), "{}: its unit comes last", metric.name);
            }
            assert_eq!(metric.help.contains("since 1970"), is_moment(name), "{}", metric.name);
            assert!(metric.help.ends_with('.') && metric.help.len() > 10, "{}", metric.name);
            let fits = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.chars().all(fits), "{}", metric.name);
        }
    }

    /// Names of moments end so; one of them is older than the rule.
    fn is_moment(name: &str) -> bool {
        name.ends_with("_timestamp_seconds") || name == PROCESS_START.name
    }

    const TOLD: &str = include_str!("../../docs/MONITORING.md");

    #[test]
    fn the_page_on_monitoring_lists_every_metric_as_it_is_and_no_other() {
        let known: Vec<Metric> = PLAIN.iter().chain(FAMILIES).copied().collect();
        let row = |metric: &Metric| {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            format!("| `{}` | {kind} | {} |", metric.name, metric.help)
        };
        let missing: Vec<String> = known
            .iter()
            .map(row)
            .filter(|row| TOLD.lines().filter(|line| line == row).count() != 1)
            .collect();
        assert!(missing.is_empty(), "docs/MONITORING.md lacks, or has twice:\n{}", missing.join("\n"));
        let rows =
            TOLD.lines().filter(|line| ["| `kith_", "| `process_"].iter().any(|own| line.starts_with(own)));
        assert_eq!(rows.count(), known.len(), "docs/MONITORING.md has rows of metrics that there are not");
    }

    #[test]
    fn pages_name_no_metric_that_there_is_not() {
        let pages = [
            TOLD,
            include_str!("../../README.md"),
            include_str!("../../docs/ARCHITECTURE.md"),
            include_str!("../../docs/CLIENTS.md"),
            include_str!("../../docs/OPERATING.md"),
            include_str!("../../docs/RESP.md"),
            include_str!("../../docs/SECRETS.md"),
            include_str!("../terminal/assets/script/plots.js"),
        ];
        let known: BTreeSet<&str> = PLAIN.iter().chain(FAMILIES).map(|metric| metric.name).collect();
        let fits = |c: char| c.is_ascii_lowercase() || c == '_';
        for named in pages.iter().flat_map(|page| page.split(['`', '\''])) {
            let name = named.split_once('{').map_or(named, |(name, _)| name);
            let is_metric = name.starts_with("kith_") && name.chars().all(fits);
            assert!(!is_metric || known.contains(name), "`{named}` is no metric");
        }
    }

    #[test]
    fn the_page_on_monitoring_tells_the_values_of_every_label() {
        use crate::telemetry::{DENIALS, OPERATIONS, OUTCOMES, REJECTIONS, STORAGE_ERRORS};
        let lists: [&[&str]; 5] = [&OPERATIONS, &OUTCOMES, &REJECTIONS, &STORAGE_ERRORS, &DENIALS];
        for value in lists.into_iter().flatten() {
            assert!(TOLD.contains(&format!("`{value}`")), "docs/MONITORING.md does not tell of `{value}`");
        }
    }
}
