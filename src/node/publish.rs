//! What the data thread counts and publishes now and then: metrics, and this member's facts for
//! gossip.
//!
//! While a turn runs there are only additions to plain integers ([`Counts`]); once a second they are
//! copied into the handles of the metrics. Answers are timed with the times that turns read anyway:
//! of each connection one operation at a time, so that nothing is kept per operation. Reads that
//! memory answers at once take no turn; they are counted and not timed.

use super::convergence::{self, partitions};
use super::core::{Core, Shared};
use super::local::{Mailbox, Timed};
use super::settings;
use crate::engine::Mode;
use crate::engine::operation::{Change, Modified, OperationError, Outcome};
use crate::gossip::{Facts, Phase, Standing};
use crate::model::edit::Edit;
use crate::model::roster::MemberState;
use crate::model::timestamp::ms_of_time;
use crate::protocol::introduction::Refusal;
use crate::security::seal::sealed_bytes;
use crate::security::{self, HandshakeError};
use crate::storage::{Disk, OsDisk, store::STORE_FILE};
use crate::telemetry::names::{
    CheckpointTotals, ClockTotals, GossipTotals, HintsTotals, JournalTotals, LinksTotals, ReplicationTotals,
    RespTotals, RosterTotals, SecretsTotals, TableTotals, TlsTotals,
};
use crate::telemetry::{
    Latencies, Metrics, OPERATIONS, OUTCOMES, REJECTIONS, STORAGE_ERRORS, Tally, Telemetry,
};
use crate::transport::LinkError;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often metrics are published.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// Where a token says what was asked: above the mailbox's number, which stays far below.
const ASKED_BITS: u32 = 60;

/// What an operation asks: a place in [`OPERATIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Get,
    Set,
    Delete,
    Increment,
    Scan,
    Modify,
    Wait,
}

impl Asked {
    pub(super) const fn of(change: &Change<'_>) -> Self {
        match change {
            Change::Set { .. } => Self::Set,
            Change::Delete => Self::Delete,
            Change::Increment { .. } => Self::Increment,
            Change::Modify(modify) => match modify.edit {
                Edit::Set { .. } => Self::Set,
                Edit::Delete => Self::Delete,
                _ => Self::Modify,
            },
        }
    }

    /// A token that says what was asked.
    pub(super) const fn mark(self, token: u64) -> u64 {
        token | (self as u64) << ASKED_BITS
    }

    /// The token without what was asked.
    pub(super) const fn unmark(token: u64) -> u64 {
        token & ((1 << ASKED_BITS) - 1)
    }
}

/// The place in [`OUTCOMES`].
const fn place_of(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Found(None) => 1,
        Outcome::Stored(stored) if stored.superseded => 2,
        Outcome::Modified(Modified { stored: Some(stored), .. }) if stored.superseded => 2,
        Outcome::Modified(Modified { stored: None, .. }) => 6,
        Outcome::Stored(_)
        | Outcome::Modified(_)
        | Outcome::Found(Some(_))
        | Outcome::Page(_)
        | Outcome::Copies(_) => 0,
        Outcome::Failed(error) => match error {
            OperationError::SystemCollection
            | OperationError::ValueTooLarge { .. }
            | OperationError::Counter(_)
            | OperationError::Edit(_) => 3,
            OperationError::Unknown { .. } => 5,
            _ => 4,
        },
    }
}

/// What the data thread has counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) journal: JournalTotals,
    pub(super) links: LinksTotals,
    checkpoint: CheckpointTotals,
    operations: Tally<{ OPERATIONS.len() }, { OUTCOMES.len() }>,
    latencies: [Latencies; OPERATIONS.len()],
    found_at_once: Cell<u64>,
    missing_at_once: Cell<u64>,
    rejected: Tally<{ REJECTIONS.len() }, 1>,
    disk_errors: Tally<{ STORAGE_ERRORS.len() }, 1>,
    pub(super) turned_away: u64,
    pub(super) pending_handshakes: u64,
    pub(super) gossip_dropped: u64,
    /// The position that the oldest sync under way was asked for, and when.
    sync_asked: Option<(u64, u64)>,
    checkpoint_began_us: u64,
}

impl Counts {
    /// An operation begins; it is timed unless another one of its mailbox is.
    pub(super) fn submitted(mailbox: &Mailbox, token: u64, now_us: u64) {
        if mailbox.timed().get().is_none() {
            mailbox.timed().set(Some(Timed { token, since_us: now_us }));
        }
    }

    /// An operation was answered.
    pub(super) fn answered(&mut self, mailbox: Option<&Mailbox>, token: u64, outcome: &Outcome, now_us: u64) {
        let asked = usize::try_from(token >> ASKED_BITS).unwrap_or(usize::MAX);
        self.operations.add(asked, place_of(outcome), 1);
        if let Some(mailbox) = mailbox
            && let Some(timed) = mailbox.timed().get().filter(|timed| timed.token == token)
        {
            mailbox.timed().set(None);
            if let Some(latencies) = self.latencies.get_mut(asked) {
                latencies.record(now_us.saturating_sub(timed.since_us));
            }
        }
    }

    /// A read was answered at once with a record.
    pub(super) fn found_at_once(&self) {
        self.found_at_once.set(self.found_at_once.get() + 1);
    }

    /// A read was answered at once: there is none.
    pub(super) fn missing_at_once(&self) {
        self.missing_at_once.set(self.missing_at_once.get() + 1);
    }

    /// Reads that were answered at once: with a record, and without.
    pub(super) fn reads_at_once(&self) -> (u64, u64) {
        (self.found_at_once.get(), self.missing_at_once.get())
    }

    /// A sync was asked for of everything up to a position.
    pub(super) fn sync_asked(&mut self, position: u64, now_us: u64) {
        self.sync_asked.get_or_insert((position, now_us));
    }

    /// Everything up to a position is durable.
    pub(super) fn synced(&mut self, durable: u64, now_us: u64) {
        if let Some((_, asked_us)) = self.sync_asked.take_if(|(position, _)| *position <= durable) {
            self.journal.last_sync_seconds = seconds(now_us.saturating_sub(asked_us));
            self.journal.sync_busy_seconds += self.journal.last_sync_seconds;
        }
    }

    pub(super) const fn checkpoint_begun(&mut self, now_us: u64) {
        self.checkpoint_began_us = now_us;
    }

    /// A checkpoint was committed or given up.
    pub(super) fn checkpoint_ended(&mut self, now_us: u64) {
        self.checkpoint.last_seconds = seconds(now_us.saturating_sub(self.checkpoint_began_us));
        self.checkpoint.busy_seconds += self.checkpoint.last_seconds;
    }

    /// The disk failed at one of [`STORAGE_ERRORS`].
    pub(super) fn disk_failed(&mut self, action: &str) {
        if let Some(row) = STORAGE_ERRORS.iter().position(|known| *known == action) {
            self.disk_errors.add(row, 0, 1);
        }
    }

    pub(super) const fn frame_sent(&mut self, body_bytes: usize) {
        self.links.frames_sent += 1;
        self.links.bytes_sent += sealed_bytes(body_bytes) as u64;
    }

    pub(super) const fn frame_received(&mut self, body_bytes: usize) {
        self.links.frames_received += 1;
        self.links.bytes_received += sealed_bytes(body_bytes) as u64;
    }

    /// A link was refused for one of [`REJECTIONS`].
    pub(super) fn rejected(&mut self, reason: &str) {
        if let Some(row) = REJECTIONS.iter().position(|known| *known == reason) {
            self.rejected.add(row, 0, 1);
        }
    }

    /// A handshake did not come to its end.
    pub(super) fn handshake_failed(&mut self, error: &LinkError) {
        self.rejected(reason_of_failure(error));
    }

    /// A member, this or another one, refused a link after its handshake.
    pub(super) fn link_refused(&mut self, refusal: &Refusal) {
        self.rejected(reason_of_refusal(refusal));
    }
}

/// Why there is no link, for programs.
pub(super) const fn reason_of_failure(error: &LinkError) -> &'static str {
    match error {
        LinkError::Io(_) | LinkError::CutOff => "connection",
        LinkError::Handshake(HandshakeError::Refused(refusal) | HandshakeError::RefusedByPeer(refusal)) => {
            match refusal {
                security::Refusal::WrongCluster { .. } => "wrong_cluster",
                security::Refusal::IncompatibleProtocol { .. } => "protocol",
                security::Refusal::UnknownKeyId | security::Refusal::RetiredSecret => "wrong_secret",
                security::Refusal::Authentication => "authentication",
                security::Refusal::Timeout => "timeout",
                security::Refusal::Malformed => "malformed",
                security::Refusal::Busy => "too_many",
            }
        }
        LinkError::Handshake(_) => "setup",
        LinkError::Seal(_) | LinkError::UnknownKind(_) | LinkError::Oversize(_) | LinkError::Full => {
            "malformed"
        }
    }
}

const fn reason_of_refusal(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::OtherCluster { .. } => "wrong_cluster",
        Refusal::NameTaken(_) => "name_taken",
        Refusal::Removed => "removed",
        Refusal::Clock { .. } => "clock",
        Refusal::OldLife { .. } => "old_life",
        Refusal::NotAMember => "not_a_member",
        Refusal::Full(_) => "cluster_full",
        Refusal::NoCluster | Refusal::NotReady(_) | Refusal::Creating(_) => "not_ready",
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers by Prometheus' convention")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}

/// This member as gossip tells it.
pub(super) fn facts(shared: &Shared) -> Facts {
    let introduction = shared.introduction();
    let core = shared.core.borrow();
    let engine = &core.engine;
    let (owned, complete) = partitions(engine);
    let phase = match engine.mode() {
        Mode::NoCluster | Mode::Starting => Phase::Starting,
        Mode::Serving => Phase::Ready,
        Mode::Stopping | Mode::Gone(_) => Phase::Stopping,
    };
    let facts = Facts {
        name: introduction.name,
        address: introduction.address,
        http_address: introduction.http_address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: introduction.zone,
        incarnation: introduction.incarnation,
        life: introduction.life,
        phase,
        placement_digest: engine.placement().digest(),
        roster_digest: engine.roster().digest(),
        settings_digest: engine.settings_applied().log,
        settings_version: settings::version(engine),
        settings_refused: u32::try_from(engine.settings_applied().refused.len()).unwrap_or(u32::MAX),
        // To the minute: every change of a fact is gossiped to every member.
        clock_wall_ms: introduction.wall_ms - introduction.wall_ms % 60_000,
        complete_partitions: u32::try_from(complete).unwrap_or(u32::MAX),
        owned_partitions: u32::try_from(owned).unwrap_or(u32::MAX),
        ..Facts::default()
    };
    shared.secrets.tell(facts)
}

/// Tells gossip this member's facts, if they changed.
pub(super) fn tell_gossip(shared: &Shared) {
    let Some(gossip) = shared.view.borrow().gossip.clone() else { return };
    if let Err(error) = gossip.update_facts(&facts(shared)) {
        tracing::warn!(%error, "gossip keeps the old facts");
    }
}

/// Publishes metrics for ever.
pub(super) async fn publish_metrics(shared: Rc<Shared>, telemetry: Telemetry) {
    loop {
        tokio::time::sleep(PUBLISH_INTERVAL).await;
        publish(&shared, &telemetry);
    }
}

fn publish(shared: &Shared, telemetry: &Telemetry) {
    let core = shared.core.borrow();
    let metrics = telemetry.metrics();
    publish_storage(&core, &shared.disk, metrics);
    publish_engine(&core, metrics);
    convergence::publish(&core.engine, metrics);
    publish_operations(&core, metrics);
    publish_links(&core, metrics);
    publish_gossip(&core, shared, metrics);
    metrics.clients_denied.publish(&Tally(shared.guard.1.access.counts().totals().map(|count| [count])));
    let tls = shared.guard.1.tls.as_ref().map(|door| door.status()).unwrap_or_default();
    metrics.tls.publish(&TlsTotals {
        opened: tls.opened,
        failed: tls.failed,
        crowded: tls.crowded,
        pending: gauge(tls.pending),
        expires_seconds: gauge(tls.expires_s),
        stale: f64::from(u8::from(tls.problem.is_some())),
    });
    let (accepted, outdated) = shared.secrets.counts();
    metrics.secrets.publish(&SecretsTotals {
        accepted: gauge_of_count(accepted),
        file_outdated: f64::from(u8::from(outdated)),
    });
    let resp = &shared.resp;
    core.watching.publish(&core.engine, resp.refused_listeners.get(), metrics);
    metrics.resp.publish(&RespTotals {
        connections: gauge(resp.connections.get()),
        connections_limit: gauge_of_count(shared.config.limits.resp_connections),
        accepted: resp.accepted.get(),
        rejected: resp.rejected.get(),
        commands: resp.commands.get(),
        errors: resp.errors.get(),
        bytes_received: resp.bytes_received.get(),
        bytes_sent: resp.bytes_sent.get(),
        too_large: resp.too_large.get(),
        malformed: resp.malformed.get(),
        held_pipeline: resp.held_pipeline.get(),
        held_output: resp.held_output.get(),
        slow_listeners: resp.slow_listeners.get(),
        unsent_bytes: gauge(resp.unsent_bytes.get()),
        stalled: resp.stalled.get(),
        evicted: resp.evicted.get(),
        unauthenticated: resp.unauthenticated.get(),
    });
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers by Prometheus' convention")]
pub(super) const fn gauge(number: u64) -> f64 {
    number as f64
}

const fn gauge_of_count(count: usize) -> f64 {
    gauge(count as u64)
}

fn publish_storage(core: &Core, disk: &OsDisk, metrics: &Metrics) {
    let (engine, counts, counters) = (&core.engine, &core.counts, core.engine.counters());
    metrics.journal.publish(&JournalTotals {
        bytes: engine.positions().written,
        records: counters.journal_records,
        replayed_records: counters.replayed_records,
        syncs: core.disks.syncs(),
        unsynced_bytes: gauge(engine.unsynced_bytes()),
        size_bytes: gauge(engine.journal_bytes()),
        limit_bytes: gauge(engine.journal_limit_bytes()),
        ..counts.journal
    });
    metrics.checkpoint.publish(&CheckpointTotals {
        completed: counters.checkpoints,
        records: counters.checkpoint_records,
        running: f64::from(u8::from(engine.is_checkpointing())),
        ..counts.checkpoint
    });
    metrics.storage_errors.publish(&counts.disk_errors);
    let (records, bytes, dirty) = engine.table_counts();
    let scrub = engine.last_scrub().unwrap_or_default();
    let store = std::fs::metadata(disk.directory().join(STORE_FILE));
    metrics.table.publish(&TableTotals {
        records: gauge_of_count(records),
        bytes: gauge_of_count(bytes),
        limit_bytes: gauge_of_count(engine.bounds().table_bytes),
        dirty_records: gauge_of_count(dirty),
        evictions: counters.evicted,
        loads: counters.loads,
        load_misses: counters.load_misses,
        damaged_records: counters.damaged_records,
        lost_syncs: counters.lost_syncs,
        scrubbed_records: counters.scrubbed_records,
        scrub_rounds: counters.scrub_rounds,
        scrub_ended_seconds: gauge(scrub.ended_ms) / 1_000.0,
        scrub_damaged: gauge(scrub.damaged),
        mended_leaves: counters.mended_leaves,
        wrong_leaves: gauge_of_count(engine.wrong_leaves()),
        stores_rebuilt: counters.stores_rebuilt,
        problems: gauge_of_count(core.problems.len()),
        // What the system does not say is not 0.
        store_bytes: store.map_or(f64::NAN, |store| gauge(store.len())),
        disk_free_bytes: disk.free_space().map_or(f64::NAN, gauge),
        accepts_writes: f64::from(u8::from(engine.storage_problem().is_none())),
    });
}

fn publish_engine(core: &Core, metrics: &Metrics) {
    let (engine, counters) = (&core.engine, core.engine.counters());
    let (owned, complete) = partitions(engine);
    metrics.replication.publish(&ReplicationTotals {
        superseded: counters.superseded,
        read_repairs: counters.read_repairs,
        redirects: counters.refused_placement,
        stamps_refused: counters.refused_clock,
        expired: counters.expired,
        owned_partitions: gauge_of_count(owned),
        complete_partitions: gauge_of_count(complete),
        waiting_operations: gauge(core.waiting_operations()),
    });
    let (_, pending, hint_bytes, dropped) = engine.hint_counts(engine.identity().member);
    metrics.hints.publish(&HintsTotals {
        bytes: gauge(hint_bytes),
        limit_bytes: gauge(engine.settings().hint_bytes),
        pending: gauge_of_count(pending),
        stored: counters.hints_stored,
        delivered: counters.hints_delivered,
        dropped,
    });
    let (offset_ms, may_stamp) = engine.clock_health();
    let offset = gauge(offset_ms.unsigned_abs()) / 1_000.0;
    let ahead_ms = ms_of_time(engine.clock_time()).saturating_sub(engine.now().wall_ms);
    metrics.clock.publish(&ClockTotals {
        offset_seconds: if offset_ms < 0 { -offset } else { offset },
        offset_limit_seconds: gauge(engine.clock_offset_limit_ms()) / 1_000.0,
        ahead_seconds: gauge(ahead_ms) / 1_000.0,
        may_stamp: f64::from(u8::from(may_stamp)),
    });
    let in_state = |state: MemberState| {
        let members = engine.roster().members();
        gauge_of_count(members.filter(|(_, known)| known.entry.state == state).count())
    };
    metrics.roster.publish(&RosterTotals {
        active: in_state(MemberState::Active),
        joining: in_state(MemberState::Joining),
        leaving: in_state(MemberState::Leaving),
        ready: f64::from(u8::from(*engine.mode() == Mode::Serving)),
        incarnation: gauge(engine.identity().incarnation),
    });
}

fn publish_operations(core: &Core, metrics: &Metrics) {
    let counts = &core.counts;
    let mut operations = counts.operations;
    operations.add(Asked::Get as usize, 0, counts.found_at_once.get());
    operations.add(Asked::Get as usize, 1, counts.missing_at_once.get());
    metrics.operations.publish(&operations);
    metrics.publish_latencies(&counts.latencies);
}

fn publish_links(core: &Core, metrics: &Metrics) {
    let counts = &core.counts;
    let others = core.engine.roster().len().saturating_sub(1);
    metrics.links.publish(&LinksTotals {
        up: gauge_of_count(core.links.len()),
        down: gauge_of_count(others.saturating_sub(core.links.len())),
        pending_handshakes: gauge(counts.pending_handshakes),
        outbox_bytes: gauge_of_count(core.links.values().map(|link| link.writer.buffered()).sum()),
        ..counts.links
    });
    let mut rejected = counts.rejected;
    if let Some(row) = REJECTIONS.iter().position(|reason| *reason == "too_many") {
        rejected.add(row, 0, counts.turned_away);
    }
    metrics.handshakes_rejected.publish(&rejected);
}

fn publish_gossip(core: &Core, shared: &Shared, metrics: &Metrics) {
    let view = shared.view.borrow();
    let standing = |wanted: Standing| {
        gauge_of_count(view.seen.members.values().filter(|seen| seen.standing == wanted).count())
    };
    let mut totals = GossipTotals {
        members_alive: standing(Standing::Alive),
        members_dead: standing(Standing::Dead),
        dropped: core.counts.gossip_dropped,
        ..GossipTotals::default()
    };
    if let Some(wires) = view.gossip.as_ref().map(|gossip| gossip.counters()) {
        totals.sent = wires.sent.load(Ordering::Relaxed);
        totals.received = wires.received.load(Ordering::Relaxed);
        totals.dropped += wires.dropped.load(Ordering::Relaxed);
        totals.refused = wires.refused.load(Ordering::Relaxed);
        totals.restarts = wires.restarts.load(Ordering::Relaxed);
    }
    metrics.gossip.publish(&totals);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;
    use crate::model::{KeyHash, MemberId, Timestamp};
    use crate::node::handle::status::State;
    use crate::node::handle::{Key, Operation};
    use crate::node::tests::{Plan, until};
    use crate::telemetry::tests::{parse, value};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn stored(superseded: bool) -> Outcome {
        let (timestamp, number) = (Timestamp { time: 1, member: MemberId(1) }, None);
        Outcome::Stored(engine::operation::Stored {
            timestamp,
            copies: 1,
            superseded,
            hash: KeyHash(0),
            number,
        })
    }

    #[test]
    fn what_is_counted_has_a_place_in_its_list() {
        let names = [
            Asked::Get,
            Asked::Set,
            Asked::Delete,
            Asked::Increment,
            Asked::Scan,
            Asked::Modify,
            Asked::Wait,
        ]
        .map(|asked| OPERATIONS[asked as usize]);
        assert_eq!(names, OPERATIONS);
        let outcomes = [
            stored(false),
            Outcome::Found(None),
            stored(true),
            Outcome::Failed(OperationError::SystemCollection),
            Outcome::Failed(OperationError::Overloaded),
            Outcome::Failed(OperationError::Unknown { copies: 0 }),
            Outcome::Modified(Modified { stored: None, present: None, record: None }),
        ];
        assert_eq!(outcomes.map(|outcome| OUTCOMES[place_of(&outcome)]), OUTCOMES);
        let mut counts = Counts::default();
        counts.handshake_failed(&HandshakeError::from(security::Refusal::Busy).into());
        counts.handshake_failed(&LinkError::CutOff);
        counts.link_refused(&Refusal::NotAMember);
        counts.link_refused(&Refusal::Full(3));
        counts.disk_failed("append");
        counts.disk_failed("checkpoint");
        assert_eq!(counts.rejected.0.iter().flatten().sum::<u64>(), 4);
        assert_eq!(counts.disk_errors.0, [[1], [1], [0]]);
    }

    #[test]
    fn one_operation_of_a_mailbox_is_timed_at_a_time() {
        let (mailbox, mut counts) = (Mailbox::new(), Counts::default());
        let tokens = [1, 2].map(|token| Asked::Set.mark(token));
        for (token, now_us) in tokens.into_iter().zip([100, 150]) {
            Counts::submitted(&mailbox, token, now_us);
        }
        for (token, now_us) in tokens.into_iter().zip([300, 400]) {
            counts.answered(Some(&mailbox), token, &stored(false), now_us);
        }
        assert_eq!(counts.operations.0[Asked::Set as usize][0], 2);
        let mut expected = Latencies::default();
        expected.record(200);
        assert_eq!(counts.latencies[Asked::Set as usize], expected);
    }

    #[test]
    fn a_sync_takes_from_when_it_was_asked_for_until_all_that_was_asked_for_is_durable() {
        let mut counts = Counts::default();
        counts.sync_asked(100, 1_000_000);
        counts.sync_asked(200, 1_500_000);
        counts.synced(50, 1_600_000);
        assert!(counts.journal.last_sync_seconds.abs() < f64::EPSILON, "an earlier one ended");
        counts.synced(200, 3_000_000);
        assert!((counts.journal.last_sync_seconds - 2.0).abs() < 1e-9);
    }

    /// Waits until each series has at least its value.
    async fn until_published(telemetry: &Telemetry, expected: &[(&str, f64)]) {
        until("what is published", async || {
            let families = parse(&telemetry.render());
            let missing = expected.iter().find(|(series, least)| value(&families, series) < *least);
            missing.map_or(Ok(()), |(series, least)| {
                Err(format!("{series} is {}, expected at least {least}", value(&families, series)))
            })
        })
        .await;
    }

    #[tokio::test]
    async fn a_member_publishes_what_its_clients_did() {
        let directory = tempfile::tempdir().unwrap();
        // A write that waits for the disk longer than `write_timeout` ends as unknown, and a disk that others
        // use as well may take longer than usual over what is written here.
        let plan = Plan { bootstrap: true, write_timeout: "1m", ..Plan::new("one") };
        let member = plan.start(directory.path());
        member.until(State::Ready).await;
        let (handle, telemetry, resp) = (&member.handle, &member.telemetry, member.resp);
        let mut stream = tokio::net::TcpStream::connect(resp).await.unwrap();
        let commands = b"SET a 1\r\nGET a\r\nGET none\r\nINCR a\r\nDEL a\r\nFOO\r\n";
        stream.write_all(commands).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).await.unwrap();
        assert!(replies.starts_with("+OK\r\n$1\r\n1\r\n$-1\r\n:2\r\n:1\r\n-ERR"), "{replies}");
        handle.put(Key::new("default", "b").unwrap(), bytes::Bytes::from_static(b"2")).await.unwrap();
        let expected = [
            ("kith_operations_total{op=\"set\",outcome=\"ok\"}", 2.0),
            ("kith_operations_total{op=\"get\",outcome=\"not_found\"}", 1.0),
            ("kith_operations_total{op=\"increment\",outcome=\"ok\"}", 1.0),
            ("kith_operations_total{op=\"delete\",outcome=\"ok\"}", 1.0),
            ("kith_operation_seconds_count{op=\"set\"}", 2.0),
            ("kith_resp_commands_total", 6.0),
            ("kith_resp_errors_total", 1.0),
            ("kith_resp_connections_total", 1.0),
            ("kith_journal_records_total", 4.0),
            ("kith_journal_appends_total", 1.0),
            ("kith_journal_syncs_total", 1.0),
            ("kith_journal_last_sync_seconds", 1e-6),
            ("kith_store_bytes", 1.0),
            ("kith_disk_free_bytes", 1.0),
            ("kith_accepts_writes", 1.0),
            ("kith_journal_limit_bytes", 1.0),
            ("kith_table_limit_bytes", 1.0),
            ("kith_hint_limit_bytes", 1.0),
            ("kith_clock_offset_limit_seconds", 5.0),
            ("kith_resp_connections_limit", 1.0),
            ("kith_journal_sync_busy_seconds_total", 1e-6),
            ("kith_owned_partitions", 256.0),
            ("kith_complete_partitions", 256.0),
            ("kith_ready", 1.0),
            ("kith_table_records", 2.0),
            ("kith_tombstones_settled_total", 1.0),
            ("kith_quiet_rounds_total", 1.0),
        ];
        until_published(telemetry, &expected).await;
        let value_of_1_mib = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        let put = |key: u8| {
            let key = Key::new("default", vec![key]).unwrap();
            Operation::Put { key, value: value_of_1_mib.clone(), ttl_ms: None, level: None, after: 0 }
        };
        let answers = handle.run((0..80).map(put).collect()).await.unwrap();
        let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert!(failed.is_empty(), "more than may wait for the disk was not taken: {failed:?}");
        until_published(telemetry, &[("kith_journal_waits_total", 1.0)]).await;
        member.stop().await;
    }
}
