//! What a member tells about itself: status, members, placement; and the tasks that
//! answer a [`Handle`](super::handle::Handle)'s requests on the data thread.

use super::core::Shared;
use super::founding;
use super::handle::status::{
    ClockStatus, Cluster, ClusterName, HintStatus, Link, MemberRow, OwnerRow, PeerStatus, Physical,
    PhysicalRow, Placement, PlacementRow, Roster, RosterRow, ScrubStatus, Standing, State, Status,
    StorageStatus,
};
use super::handle::{Control, ControlError, Key, Operation, OperationError, Request, Requests};
use super::local::{Local, LocalHandle, Mailbox, next, relieved};
use super::view::{CUT_OFF, View};
use super::{batch, changes, convergence, departure, events, membership, secrets, settings, tokens, watch};
use crate::engine::Mode;
use crate::engine::operation::Outcome;
use crate::gossip::{self, Phase};
use crate::model::MemberId;
use crate::model::placement::OwnerSet;
use crate::model::roster::MemberState;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Answers the handle's requests for ever; each operation batch is a task of its own.
pub(super) async fn answer_requests(shared: Rc<Shared>, mut requests: Requests) {
    while let Some(request) = requests.recv().await {
        let shared = Rc::clone(&shared);
        match request {
            Request::Operations { operations, mut reply } => {
                tokio::task::spawn_local(async move {
                    let local = LocalHandle { shared };
                    // Who gives up asks for nothing any more. What was begun is carried out all the same.
                    if operations.iter().any(Operation::is_change) {
                        tokio::select! {
                            biased;
                            () = relieved(&local) => {}
                            () = reply.closed() => return,
                        }
                    }
                    let answers = batch::run(&local, &operations, || reply.is_closed()).await;
                    _ = reply.send(answers);
                });
            }
            Request::Scan { scan, reply } => {
                tokio::task::spawn_local(async move {
                    let mailbox = Mailbox::new();
                    LocalHandle { shared }.scan(&mailbox, 0, &scan);
                    let page = match next(&mailbox).await.1 {
                        Outcome::Page(page) => Ok(page),
                        Outcome::Failed(error) => Err(error),
                        Outcome::Stored(_)
                        | Outcome::Modified(_)
                        | Outcome::Found(_)
                        | Outcome::Copies(_) => Err(OperationError::Unreachable),
                    };
                    mailbox.close();
                    _ = reply.send(page);
                });
            }
            Request::Watch(request) => watch::answer(&shared, request),
            Request::Control(control) => answer_control(&shared, control),
        }
    }
}

fn answer_control(shared: &Rc<Shared>, control: Control) {
    // A reply that nobody waits for any more is no matter.
    match control {
        Control::Status(reply) => _ = reply.send(status(shared)),
        Control::Events { after, reply } => _ = reply.send(events::answer(shared, after)),
        Control::Physical(reply) => _ = reply.send(physical(shared)),
        Control::Cluster(reply) => _ = reply.send(cluster(shared)),
        Control::Roster(reply) => _ = reply.send(roster(shared)),
        Control::Placement { key, reply } => _ = reply.send(placement(shared, key.as_ref())),
        Control::Convergence { roots, reply } => _ = reply.send(convergence::answer(shared, roots)),
        Control::Collections { after, limit, reply } => {
            let known = membership::check_records(shared);
            _ = reply.send(known.map(|()| shared.core.borrow().engine.collections_after(&after, limit)));
        }
        Control::Superseded(reply) => _ = reply.send(convergence::superseded(shared)),
        Control::Init { request, reply } => {
            let shared = Rc::clone(shared);
            tokio::task::spawn_local(async move {
                let done = founding::init(&shared, &request).await;
                _ = reply.send(done.and_then(|()| cluster(&shared)));
            });
        }
        Control::Join { address, reply } => {
            let shared = Rc::clone(shared);
            tokio::task::spawn_local(async move {
                let joined = membership::join(&shared, address).await;
                _ = reply.send(joined.and_then(|()| cluster(&shared)));
            });
        }
        Control::Leave(reply) => {
            let shared = Rc::clone(shared);
            tokio::task::spawn_local(async move {
                _ = reply.send(departure::leave(&shared).await.map(|()| status(&shared)));
            });
        }
        Control::Remove { name, force, reply } => {
            let shared = Rc::clone(shared);
            tokio::task::spawn_local(async move {
                _ = reply.send(departure::remove(&shared, &name, force).await);
            });
        }
        Control::Tokens(control) => tokens::answer(shared, control),
        Control::Settings(control) => settings::answer(shared, control),
        Control::Secrets(control) => secrets::answer(shared, control),
    }
}

pub(super) fn state(shared: &Shared) -> State {
    let core = shared.core.borrow();
    let member = core.engine.identity().member;
    let me = core.engine.roster().get(member);
    if let Some(gone) = departure::gone(shared) {
        return match gone {
            departure::Gone::Left => State::Left,
            departure::Gone::Removed(_) => State::Removed,
            departure::Gone::Outdated(_) => State::Outdated,
        };
    }
    match (core.engine.mode(), me.map(|known| known.entry.state)) {
        (Mode::Stopping | Mode::Gone(_), _) => State::Stopping,
        _ if core.cluster.is_none() => State::NoCluster,
        (_, None) if core.engine.roster().is_empty() => State::RecordsLost,
        (_, None) => State::Joining,
        _ if !core.engine.roster().holds_its_name(member) => State::NameTaken,
        (_, Some(MemberState::Joining)) => State::Joining,
        (Mode::Serving, _) => State::Ready,
        (Mode::Starting | Mode::NoCluster, Some(_)) => State::Starting,
    }
}

fn text_of(id: u128) -> String {
    uuid::Uuid::from_u128(id).to_string()
}

pub(super) fn status(shared: &Shared) -> Status {
    let state = state(shared);
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    let engine = &core.engine;
    let identity = engine.identity();
    let (records, bytes, _) = engine.table_counts();
    let (_, pending, hint_bytes, dropped) = engine.hint_counts(identity.member);
    let (offset_ms, may_stamp) = engine.clock_health();
    let problem = engine.storage_problem().map(str::to_owned);
    let mut warnings: Vec<String> = core.problems.clone();
    warnings.extend(view.cut_off.then(|| CUT_OFF.to_owned()));
    if state == State::RecordsLost {
        warnings.extend(membership::check_records(shared).err().map(|error| error.to_string()));
    }
    if state == State::NoCluster {
        warnings.push(membership::what_is_awaited(shared));
    }
    warnings.extend(membership::name_lost(shared));
    warnings.extend(departure::check(shared).err().map(|error| error.to_string()));
    if !may_stamp {
        warnings.push(format!(
            "this member's clock is {offset_ms} ms off the others' median, so others stamp its writes; set it (NTP)"
        ));
    }
    warnings.extend(tls_warning(shared));
    warnings.extend(settings::warnings(&core));
    warnings.extend(secrets::warnings(shared, &core));
    if dropped > 0 {
        warnings.push(format!(
            "{dropped} hints found no room in `hint_bytes`; bring the missing members back, they compare what they hold"
        ));
    }
    Status {
        id: identity.member,
        name: shared.config.name.clone(),
        cluster: core
            .cluster
            .as_ref()
            .map(|cluster| ClusterName { id: text_of(cluster.id), name: cluster.name.clone() }),
        state,
        start_steps: view.steps.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: identity.incarnation,
        uptime_ms: shared.clock.now().mono_us / 1_000,
        clock: ClockStatus { offset_ms, may_stamp },
        sync: engine.settings().sync.to_string(),
        storage: StorageStatus {
            journal_bytes: engine.journal_bytes(),
            table_records: records as u64,
            table_bytes: bytes as u64,
            records: engine.record_count(),
            accepts_writes: problem.is_none(),
            damaged_records: engine.counters().damaged_records,
            last_scrub: engine.last_scrub().map(|round| ScrubStatus {
                ended_ms: round.ended_ms,
                records: round.records,
                damaged: round.damaged,
            }),
            problems: problem.into_iter().collect(),
        },
        hints: HintStatus { pending: pending as u64, bytes: hint_bytes },
        transitions: changes::transitions(engine),
        convergence: convergence::of(&core, &shared.config.name, state),
        peers: peers(&core, &view),
        warnings,
    }
}

/// What is wrong with the certificate for clients, or soon will be.
fn tls_warning(shared: &Shared) -> Option<String> {
    const SOON_S: u64 = 14 * 86_400;
    let door = shared.guard.1.tls.as_ref()?.status();
    let left_s = door.expires_s.saturating_sub(shared.clock.now().wall_ms / 1_000);
    match door.problem {
        Some(problem) => Some(format!("the old certificate is served on: {problem}")),
        None if left_s == 0 => Some("the certificate for clients has expired; replace its files".to_owned()),
        None if left_s < SOON_S => Some(format!(
            "the certificate for clients expires in {} days; replace its files, they are read again by themselves",
            left_s / 86_400
        )),
        None => None,
    }
}

fn peers(core: &super::core::Core, view: &View) -> Vec<PeerStatus> {
    let me = core.engine.identity().member;
    let members = core.engine.roster().members().filter(|(member, _)| *member != me);
    let mut peers: Vec<PeerStatus> = members
        .map(|(member, known)| {
            let link = if core.links.contains_key(&member) { Link::Up } else { Link::Down };
            let refusal = || view.refusal_of(&known.entry.name, &known.entry.address);
            PeerStatus {
                id: member,
                name: known.entry.name.clone(),
                address: known.entry.address.clone(),
                link,
                alive: alive(view, member),
                last_refusal: if link == Link::Up { None } else { refusal() },
            }
        })
        .collect();
    let known: BTreeSet<String> =
        peers.iter().flat_map(|peer| [peer.name.clone(), peer.address.clone()]).collect();
    let strangers = view.refusals().filter(|refused| {
        !known.contains(&refused.address) && refused.name.as_ref().is_none_or(|name| !known.contains(name))
    });
    peers.extend(strangers.map(|refused| PeerStatus {
        id: MemberId(0),
        name: refused.name.clone().unwrap_or_default(),
        address: refused.address.clone(),
        link: Link::Down,
        alive: None,
        last_refusal: Some(refused.reason.clone()),
    }));
    peers
}

pub(super) fn alive(view: &View, member: MemberId) -> Option<bool> {
    match view.seen.members.get(&member)?.standing {
        gossip::Standing::Alive => Some(true),
        gossip::Standing::Dead => Some(false),
        gossip::Standing::Unheard => None,
    }
}

fn physical(shared: &Shared) -> Physical {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    let identity = core.engine.identity();
    let mut members = vec![PhysicalRow {
        id: identity.member,
        name: shared.config.name.clone(),
        address: view.address.clone(),
        incarnation: identity.incarnation,
        alive: true,
    }];
    members.extend(view.seen.members.iter().map(|(member, seen)| {
        let facts = seen.facts.clone().unwrap_or_default();
        PhysicalRow {
            id: *member,
            name: facts.name,
            address: facts.address,
            incarnation: facts.incarnation,
            alive: seen.alive(),
        }
    }));
    Physical { seen_by: identity.member, members }
}

pub(super) fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

const fn standing(state: MemberState) -> Standing {
    match state {
        MemberState::Joining => Standing::Joining,
        MemberState::Active => Standing::Active,
        MemberState::Leaving => Standing::Leaving,
    }
}

fn cluster(shared: &Shared) -> Result<Cluster, ControlError> {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    membership::check_records(shared)?;
    let cluster = core.cluster.as_ref().ok_or(ControlError::NoCluster)?;
    let engine = &core.engine;
    let identity = engine.identity();
    let mut owned: BTreeMap<MemberId, u32> = BTreeMap::new();
    for at in (0u16..).take(engine.placement().partitions()) {
        for owner in &engine.placement().set(at).owners {
            *owned.entry(owner.member).or_default() += 1;
        }
    }
    let offsets = engine.peer_convergence().filter_map(|peer| Some((peer.member, peer.clock_offset_ms?)));
    let offsets = offsets.chain([(identity.member, engine.clock_health().0)]);
    let offsets: BTreeMap<MemberId, i64> = offsets.collect();
    let rows = engine.roster().members().map(|(member, known)| {
        let mine = member == identity.member;
        let facts = view.seen.members.get(&member).and_then(|seen| seen.facts.as_ref());
        let alive = if mine { Some(true) } else { alive(&view, member) };
        let is_ready = || facts.map(|facts| facts.phase == Phase::Ready && alive == Some(true));
        let version = || facts.and_then(|facts| some_text(&facts.version));
        MemberRow {
            id: member,
            name: known.entry.name.clone(),
            address: known.entry.address.clone(),
            http_address: some_text(&known.entry.http_address),
            zone: some_text(&known.entry.zone),
            standing: standing(known.entry.state),
            alive,
            ready: if mine { Some(*engine.mode() == Mode::Serving) } else { is_ready() },
            version: if mine { Some(env!("CARGO_PKG_VERSION").to_owned()) } else { version() },
            clock_offset_ms: offsets.get(&member).copied(),
            incarnation: if mine { Some(identity.incarnation) } else { facts.map(|facts| facts.incarnation) },
            partitions: owned.get(&member).copied().unwrap_or(0),
            this_member: mine,
        }
    });
    let mut members: Vec<MemberRow> = rows.collect();
    members.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
    Ok(Cluster {
        id: text_of(cluster.id),
        name: cluster.name.clone(),
        partitions: u32::try_from(engine.placement().layout().slices()).unwrap_or(u32::MAX),
        replication_factor: engine.settings().replication_factor.into(),
        placement_digest: format!("{:016x}", engine.placement().digest()),
        members,
    })
}

fn roster(shared: &Shared) -> Result<Roster, ControlError> {
    let core = shared.core.borrow();
    membership::check_records(shared)?;
    let roster = core.engine.roster();
    let entries = roster.members().map(|(member, known)| RosterRow {
        id: member,
        name: known.entry.name.clone(),
        public_key: known.entry.public_key.iter().map(|byte| format!("{byte:02x}")).collect(),
        address: known.entry.address.clone(),
        zone: some_text(&known.entry.zone),
        standing: standing(known.entry.state),
        timestamp: known.timestamp.to_string(),
    });
    Ok(Roster { digest: format!("{:016x}", roster.digest()), entries: entries.collect() })
}

fn placement(shared: &Shared, key: Option<&Key>) -> Result<Placement, ControlError> {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    membership::check_records(shared)?;
    let engine = &core.engine;
    let me = engine.identity().member;
    let wanted =
        key.and_then(|key| key.key_ref().ok()).map(|key| engine.placement().partition_of(key, key.hash()));
    let names: BTreeMap<MemberId, String> =
        engine.roster().members().map(|(member, known)| (member, known.entry.name.clone())).collect();
    let row = |partition: u16, set: &OwnerSet| {
        let owners: Vec<OwnerRow> = set
            .owners
            .iter()
            .map(|owner| OwnerRow {
                id: owner.member,
                name: names.get(&owner.member).cloned().unwrap_or_default(),
                old: owner.in_old,
                new: owner.in_new,
                alive: owner.member == me || alive(&view, owner.member) != Some(false),
                complete: engine.is_complete_at(owner.member, partition),
            })
            .collect();
        let home = engine.home_of(partition).and_then(|home| names.get(&home).cloned());
        let collection = engine.placement().layout().collection_at(partition).map(str::to_owned);
        PlacementRow { partition: partition.into(), collection, home, owners }
    };
    let partitions = (0..engine.placement().partitions()).filter_map(|at| u16::try_from(at).ok());
    let rows = partitions.filter(|at| wanted.is_none_or(|wanted| wanted == *at));
    Ok(Placement {
        partitions: u32::try_from(engine.placement().partitions()).unwrap_or(u32::MAX),
        digest: format!("{:016x}", engine.placement().digest()),
        rows: rows.map(|at| row(at, engine.placement().set(at))).collect(),
    })
}
