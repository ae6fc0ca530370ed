//! What this member tells of convergence: over HTTP, in its status, and as metrics.

use super::control::{some_text, state};
use super::core::{Core, Shared};
use super::handle::ControlError;
use super::handle::convergence::{Convergence, PeerConvergence, Superseded, SupersededWrite};
use super::handle::status::State;
use super::{changes, membership};
use crate::engine::Engine;
use crate::model::MemberId;
use crate::model::roster::Roster;
use crate::telemetry::names::ConvergenceTotals;
use crate::telemetry::{Metrics, PeerTotals};
use std::collections::BTreeMap;

/// Partitions that a member owns, and those of them that it has completed.
pub(super) fn partitions(engine: &Engine) -> (usize, usize) {
    let me = engine.identity().member;
    let owned = (0..engine.placement().partitions()).filter_map(|at| u16::try_from(at).ok());
    let owned = owned.filter(|at| engine.placement().set(*at).contains(me)).count();
    (owned, engine.complete_partitions().iter().filter(|complete| **complete).count())
}

/// Owned partitions that are not complete.
pub(super) fn incomplete(engine: &Engine) -> usize {
    let me = engine.identity().member;
    let owned = (0u16..).take(engine.placement().partitions());
    let owned = owned.filter(|at| engine.placement().set(*at).contains(me));
    owned.filter(|at| engine.complete_partitions().get(usize::from(*at)) != Some(&true)).count()
}

/// Owned partitions' owners to come that a step waits for.
fn awaited(engine: &Engine) -> usize {
    let (ready, all) = engine.step_progress();
    all.saturating_sub(ready)
}

fn short(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What `/v1/cluster/convergence` answers.
pub(super) fn answer(shared: &Shared, with_roots: bool) -> Result<Convergence, ControlError> {
    membership::check_records(shared)?;
    let state = state(shared);
    let core = shared.core.borrow();
    let told = of(&core, &shared.config.name, state).ok_or(ControlError::NoCluster)?;
    // Each is computed when it is asked for.
    let roots = with_roots.then(|| core.engine.owned_roots()).into_iter().flatten();
    Ok(Convergence { roots: roots.map(|(at, root)| (at, format!("{root:016x}"))).collect(), ..told })
}

/// What a member of a cluster knows of convergence, without the roots of its hash trees.
pub(super) fn of(core: &Core, name: &str, state: State) -> Option<Convergence> {
    core.cluster.as_ref()?;
    let engine = &core.engine;
    let identity = engine.identity();
    let tombstones = engine.tombstone_counts();
    let peers = engine.peer_convergence().map(|peer| {
        let entry = engine.roster().get(peer.member).map(|known| &known.entry);
        PeerConvergence {
            id: peer.member,
            name: entry.map(|entry| entry.name.clone()).unwrap_or_default(),
            http_address: entry.and_then(|entry| some_text(&entry.http_address)),
            reachable: peer.is_reachable,
            lag_ms: peer.lag_us.map(|lag| lag / 1_000),
            records_under_way: peer.records_under_way as u64,
            hints: peer.hints as u64,
            differing_leaves: peer.differing_leaves as u64,
            clock_offset_ms: peer.clock_offset_ms,
            tombstones_held_back: peer.tombstones_held_back as u64,
        }
    });
    Some(Convergence {
        id: identity.member,
        name: name.to_owned(),
        state,
        incarnation: identity.incarnation,
        placement_digest: format!("{:016x}", engine.placement().digest()),
        system_digest: format!("{:016x}", engine.system_digest()),
        catching_up: engine.is_catching_up(),
        owned_partitions: short(partitions(engine).0),
        incomplete_partitions: short(incomplete(engine)),
        changes: short(changes::transitions(engine).len()),
        awaited_partitions: short(awaited(engine)),
        foreign_partitions: short(engine.foreign_partitions().count()),
        unsorted_collections: short(engine.unsorted_collections()),
        wrong_leaves: engine.wrong_leaves() as u64,
        hints: engine.hint_counts(identity.member).1 as u64,
        tombstones_waiting: tombstones.waiting as u64,
        tombstones_settled: tombstones.settled as u64,
        quiet_rounds: engine.counters().quiet_rounds,
        superseded_records: engine.counters().superseded_records,
        clock_offset_ms: engine.clock_health().0,
        peers: peers.collect(),
        roots: BTreeMap::new(),
    })
}

/// What `/v1/cluster/superseded` answers.
pub(super) fn superseded(shared: &Shared) -> Result<Superseded, ControlError> {
    membership::check_records(shared)?;
    let core = shared.core.borrow();
    core.cluster.as_ref().ok_or(ControlError::NoCluster)?;
    Ok(Superseded {
        records: core.engine.counters().superseded_records,
        latest: core.engine.latest_superseded().map(SupersededWrite::of).collect(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers by Prometheus' convention")]
const fn gauge(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating-point numbers by Prometheus' convention")]
const fn seconds(micros: u64) -> f64 {
    micros as f64 / 1_000_000.0
}

/// Publishes the metrics of convergence.
pub(super) fn publish(engine: &Engine, metrics: &Metrics) {
    let (counters, tombstones) = (engine.counters(), engine.tombstone_counts());
    metrics.convergence.publish(&ConvergenceTotals {
        passes: counters.passes,
        repairs_sent: counters.repairs_sent,
        repairs_taken: counters.repairs_taken,
        superseded_records: counters.superseded_records,
        incomplete_partitions: gauge(incomplete(engine)),
        awaited_partitions: gauge(awaited(engine)),
        foreign_partitions: gauge(engine.foreign_partitions().count()),
        unsorted_collections: gauge(engine.unsorted_collections()),
        forgotten: counters.forgotten,
        tombstones_settled: counters.tombstones_settled,
        tombstones_reclaimed: counters.tombstones_reclaimed,
        waiting_tombstones: gauge(tombstones.waiting),
        settled_tombstones: gauge(tombstones.settled),
        quiet_rounds: counters.quiet_rounds,
    });
    let names = names(engine.roster());
    let peers = engine.peer_convergence().filter_map(|peer| {
        Some(PeerTotals {
            member: names.get(&peer.member)?.clone(),
            // What was never compared lags for ever.
            lag_seconds: peer.lag_us.map_or(f64::INFINITY, seconds),
            records_under_way: gauge(peer.records_under_way),
            hints: gauge(peer.hints),
            differing_leaves: gauge(peer.differing_leaves),
            tombstones_held_back: gauge(peer.tombstones_held_back),
        })
    });
    metrics.peers.publish(peers.collect());
}

/// What metrics call members. Of two that dispute a name only who holds it has one: no series may be there twice.
fn names(roster: &Roster) -> BTreeMap<MemberId, String> {
    let holders = roster.holders();
    let members = roster.members().filter(|(id, _)| holders.contains(id));
    members.map(|(id, known)| (id, known.entry.name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::model::roster::{MemberState, RosterEntry, entry_key};

    #[test]
    fn of_two_members_that_dispute_a_name_metrics_name_one() {
        let mut roster = Roster::default();
        let entries = [(1, "one"), (2, "same"), (3, "same")].map(|(number, name)| RosterEntry {
            name: name.to_owned(),
            public_key: [number; 32],
            address: "127.0.0.1:7400".to_owned(),
            http_address: "127.0.0.1:7401".to_owned(),
            zone: String::new(),
            next_zone: None,
            state: MemberState::Active,
            admitted: u64::from(number),
        });
        for entry in &entries {
            roster.apply(&entry_key(entry.id()), Some(&entry.encode()), Timestamp::ZERO);
        }
        let [one, holder, _] = entries.map(|entry| entry.id());
        let named = [(one, "one".to_owned()), (holder, "same".to_owned())];
        assert_eq!(names(&roster), BTreeMap::from(named));
    }
}
