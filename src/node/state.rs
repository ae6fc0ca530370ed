//! A member watches its own state: in a cluster → gossip, complete → serving; out of it again → it serves no
//! more. What gossip sees comes to the engine here, and what this member is goes to gossip.

use super::core::Shared;
use super::handle::status::StepOutcome;
use super::{NodeError, departure, membership, publish, secrets};
use crate::engine::Mode;
use crate::gossip::{self, Gossip, GossipConfig, Wires};
use crate::model::roster::MemberState;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a start waits for its partitions to be complete before it serves without them.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(30);
/// How often the node looks at its own state.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Watches for ever.
pub(super) async fn watch(shared: Rc<Shared>, wires: Wires, services: tokio::runtime::Handle) {
    let mut wires = Some(wires);
    let mut joined_at = None;
    let mut told_entry = false;
    let mut gone_since = None;
    let mut fenced = BTreeMap::new();
    loop {
        tokio::select! {
            () = shared.changed.notified() => (),
            () = tokio::time::sleep(WATCH_INTERVAL) => (),
        }
        secrets::follow(&shared);
        if !membership::is_member(&shared) {
            if joined_at.is_some() {
                let since = *gone_since.get_or_insert_with(std::time::Instant::now);
                if !departure::may_hang_up(&shared, since) {
                    continue;
                }
                joined_at = None;
                leave_cluster(&shared);
                told_entry = false;
            }
            departure::stop_serving(&shared);
            continue;
        }
        departure::drop_fenced(&shared, &mut fenced);
        if let Some(wires) = wires.take()
            && !start_gossip(&shared, wires, &services)
        {
            return;
        }
        let began = *joined_at.get_or_insert_with(|| {
            shared.with(|core| core.engine.set_mode(Mode::Starting));
            shared.view.borrow_mut().begin_step("recovery");
            std::time::Instant::now()
        });
        serve_when_ready(&shared, began);
        let serving = *shared.core.borrow().engine.mode() == Mode::Serving;
        if serving && !std::mem::replace(&mut told_entry, true) {
            membership::refresh_own_entry(&shared);
        }
        publish::tell_gossip(&shared);
    }
}

/// Stops serving: this member is in its cluster no more, or does not hold its name. Then it goes on looking
/// for its cluster.
fn leave_cluster(shared: &Shared) {
    let gone = departure::gone(shared);
    let reason = match departure::check(shared) {
        Err(error) => error.to_string(),
        Ok(()) => membership::name_lost(shared).unwrap_or_else(|| "it is not in the roster".to_owned()),
    };
    match gone {
        Some(departure::Gone::Left) => tracing::info!("{reason}"),
        // It was told when it was noted.
        Some(departure::Gone::Outdated(_)) => {}
        Some(departure::Gone::Removed(_)) | None => {
            tracing::error!("this member serves no more: {reason}");
        }
    }
    let mut view = shared.view.borrow_mut();
    view.end_step(StepOutcome::Failed(reason));
    if gone.is_none() {
        view.begin_step("cluster");
    }
    drop(view);
    shared.with(|core| {
        if gone.is_none() && *core.engine.mode() != Mode::Stopping {
            core.engine.set_mode(Mode::Starting);
        }
        let linked: Vec<_> = core.links.keys().copied().collect();
        linked.into_iter().for_each(|member| core.drop_link(member));
    });
}

fn serve_when_ready(shared: &Shared, began: std::time::Instant) {
    // Nobody can rely on a cluster whose first records are not known to be durable.
    if shared.view.borrow().creating.founding {
        return;
    }
    let ready = {
        let core = shared.core.borrow();
        if *core.engine.mode() != Mode::Starting {
            return;
        }
        let member = core.engine.identity().member;
        let state = core.engine.roster().get(member).map(|known| known.entry.state);
        let is_whole =
            core.engine.is_complete() && !core.engine.is_catching_up() && core.engine.takes_writes();
        let late = began.elapsed() > RECOVERY_DEADLINE;
        state.is_some_and(|state| state != MemberState::Joining) && (is_whole || late)
    };
    if ready {
        shared.with(|core| core.engine.set_mode(Mode::Serving));
        shared.view.borrow_mut().end_step(StepOutcome::Done);
        tracing::info!("ready");
    }
}

/// Starts gossip on the third runtime, and the task that takes what it sees.
fn start_gossip(shared: &Rc<Shared>, wires: Wires, services: &tokio::runtime::Handle) -> bool {
    let facts = publish::facts(shared);
    let cluster = shared.core.borrow().cluster.as_ref().map(|cluster| cluster.id).unwrap_or_default();
    let member = shared.core.borrow().engine.identity().member;
    let cluster = uuid::Uuid::from_u128(cluster).to_string();
    let mut config = GossipConfig::new(member, &cluster, shared.clock.origin(), facts);
    config.interval = Duration::from_millis(shared.core.borrow().engine.settings().gossip_interval_ms);
    let spawned = {
        let _guard = services.enter();
        Gossip::spawn(config, wires)
    };
    let gossip = match spawned {
        Ok(gossip) => Arc::new(gossip),
        Err(error) => {
            shared.fail(NodeError::PartEnded("gossip", error.to_string()));
            return false;
        }
    };
    let linked: Vec<_> = {
        let mut view = shared.view.borrow_mut();
        view.pulses = gossip.pulses();
        view.gossip = Some(Arc::clone(&gossip));
        shared.core.borrow().links.keys().copied().collect()
    };
    for member in linked {
        gossip.pulse(member).beat(shared.clock.now().mono_us);
        gossip.gossip_with(member);
    }
    let watcher = Rc::clone(shared);
    let (mut seen, ended) = (gossip.view(), gossip.ended());
    tokio::task::spawn_local(async move {
        let follow = async {
            while seen.changed().await.is_ok() {
                let now = seen.borrow_and_update().clone();
                follow_liveness(&watcher, now);
            }
        };
        let reason = tokio::select! { () = follow => None, reason = ended => Some(reason) };
        let reason = reason.map_or_else(|| "its view is gone".to_owned(), |reason| reason.to_string());
        watcher.fail(NodeError::PartEnded("gossip", reason));
    });
    true
}

fn follow_liveness(shared: &Shared, now: gossip::View) {
    let before = std::mem::replace(&mut shared.view.borrow_mut().seen, now.clone());
    for (member, seen) in &now.members {
        let known = before.members.get(member).map(|seen| seen.standing);
        if known == Some(seen.standing) || seen.standing == gossip::Standing::Unheard {
            continue;
        }
        let alive = seen.alive();
        tracing::info!(%member, alive, "liveness");
        shared.with(|core| core.engine.liveness(*member, alive));
    }
}
