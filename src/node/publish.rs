//! What the data thread publishes now and then: metrics, and this member's facts for gossip.

use super::core::Shared;
use crate::engine::Mode;
use crate::gossip::{Facts, Phase, Standing};
use crate::model::roster::MemberState;
use crate::telemetry::Telemetry;
use crate::telemetry::names::{
    CheckpointTotals, ClockTotals, GossipTotals, HintsTotals, JournalTotals, LinksTotals, ReplicationTotals,
    RosterTotals, TableTotals,
};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often metrics are published.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// This member as gossip tells it.
pub(super) fn facts(shared: &Shared) -> Facts {
    let introduction = shared.introduction();
    let core = shared.core.borrow();
    let engine = &core.engine;
    let me = engine.identity().member;
    let owned = (0..engine.placement().partitions()).filter_map(|at| u16::try_from(at).ok());
    let owned = owned.filter(|at| engine.placement().set(*at).contains(me)).count();
    let complete = engine.complete_partitions().iter().filter(|complete| **complete).count();
    let phase = match engine.mode() {
        Mode::NoCluster | Mode::Starting => Phase::Starting,
        Mode::Serving => Phase::Ready,
        Mode::Stopping => Phase::Stopping,
    };
    Facts {
        name: introduction.name,
        address: introduction.address,
        http_address: introduction.http_address,
        zone: introduction.zone,
        incarnation: introduction.incarnation,
        life: introduction.life,
        phase,
        placement_digest: engine.placement().digest(),
        roster_digest: engine.roster().digest(),
        settings_digest: engine.settings().digest(),
        // To the minute: every change of a fact is gossiped to every member.
        clock_wall_ms: introduction.wall_ms - introduction.wall_ms % 60_000,
        complete_partitions: u32::try_from(complete).unwrap_or(u32::MAX),
        owned_partitions: u32::try_from(owned).unwrap_or(u32::MAX),
    }
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

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers by Prometheus' convention")]
fn publish(shared: &Shared, telemetry: &Telemetry) {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    let (engine, metrics) = (&core.engine, telemetry.metrics());
    let counters = engine.counters();
    let identity = engine.identity();
    let positions = engine.positions();
    metrics.journal.publish(&JournalTotals {
        bytes: positions.written,
        appends: core.appends,
        syncs: core.disks.syncs(),
        unsynced_bytes: engine.unsynced_bytes() as f64,
        size_bytes: engine.journal_bytes() as f64,
        ..JournalTotals::default()
    });
    metrics.checkpoint.publish(&CheckpointTotals {
        completed: counters.checkpoints,
        running: f64::from(u8::from(engine.is_checkpointing())),
        ..CheckpointTotals::default()
    });
    let (records, bytes, dirty) = engine.table_counts();
    metrics.table.publish(&TableTotals {
        records: records as f64,
        bytes: bytes as f64,
        dirty_records: dirty as f64,
        evictions: counters.evicted,
        loads: counters.loads,
        corrupt_records: counters.loads_damaged,
        ..TableTotals::default()
    });
    let complete = engine.complete_partitions().iter().filter(|complete| **complete).count();
    metrics.replication.publish(&ReplicationTotals {
        superseded: counters.superseded,
        read_repairs: counters.repairs,
        redirects: counters.refused_placement,
        stamps_refused: counters.refused_clock,
        expired: counters.expired,
        complete_partitions: complete as f64,
        ..ReplicationTotals::default()
    });
    let (_, pending, hint_bytes, dropped) = engine.hint_counts(identity.member);
    metrics.hints.publish(&HintsTotals {
        bytes: hint_bytes as f64,
        pending: pending as f64,
        dropped,
        delivered: counters.hints_sent,
        ..HintsTotals::default()
    });
    let others = engine.roster().len().saturating_sub(1);
    metrics.links.publish(&LinksTotals {
        up: core.links.len() as f64,
        down: others.saturating_sub(core.links.len()) as f64,
        ..LinksTotals::default()
    });
    let standing =
        |wanted: Standing| view.seen.members.values().filter(|seen| seen.standing == wanted).count();
    let wires = view.gossip.as_ref().map(|gossip| gossip.counters());
    metrics.gossip.publish(&GossipTotals {
        members_alive: standing(Standing::Alive) as f64,
        members_dead: standing(Standing::Dead) as f64,
        sent: wires.as_ref().map_or(0, |wires| wires.sent.load(Ordering::Relaxed)),
        ..GossipTotals::default()
    });
    let (offset_ms, may_stamp) = engine.clock_health();
    let ahead_ms = (engine.clock_time() >> 16).saturating_sub(engine.now().wall_ms);
    metrics.clock.publish(&ClockTotals {
        offset_seconds: offset_ms as f64 / 1_000.0,
        ahead_seconds: ahead_ms as f64 / 1_000.0,
        may_stamp: f64::from(u8::from(may_stamp)),
    });
    let in_state = |state: MemberState| {
        engine.roster().members().filter(|(_, known)| known.entry.state == state).count()
    };
    metrics.roster.publish(&RosterTotals {
        active: in_state(MemberState::Active) as f64,
        joining: in_state(MemberState::Joining) as f64,
        leaving: in_state(MemberState::Leaving) as f64,
        ready: f64::from(u8::from(*engine.mode() == Mode::Serving)),
        incarnation: identity.incarnation as f64,
    });
}
