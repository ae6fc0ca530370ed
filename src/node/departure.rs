//! How a member goes: by itself, or removed by another one. Its data directory may be outdated, too (`outdated`).
//!
//! A member that leaves hands over what it holds (`engine::handoff`) and then fences itself; it goes on to
//! answer until all that it can reach have its fence, and then serves nobody any more. Whoever is
//! removed without knowing is told so by every member that it contacts; it believes that unless it
//! has fenced that member itself. The process goes on in both cases, so that a person finds the reason in
//! its status.
//!
//! Who removes must have been heard by a majority of the roster *since it was asked*: what was
//! heard before a cut proves nothing, and of two sides of a cut one at most has a majority.

use super::changes::write_confirmed;
use super::control::alive;
use super::core::Shared;
use super::handle::ControlError;
use super::handle::status::Removed;
use super::outdated::Outdated;
use crate::engine::{LEFT, Mode, operation};
use crate::gossip::DEFAULT_SILENCE;
use crate::model::MemberId;
use crate::model::key::ROSTER;
use crate::model::roster::{MemberState, Removal, RosterEntry, entry_key, removal_key};
use crate::model::spelling::nearest;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long a removal waits to hear a majority.
const HEAR_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked who was heard.
const HEAR_POLL: Duration = Duration::from_millis(50);
/// How long a member that left waits for others to know it.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(15);
/// How long a fenced member keeps its link, so that it learns why it ends.
const FENCED_LINK: Duration = Duration::from_secs(5);

/// Why a member is in its cluster no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gone {
    /// It left.
    Left,
    /// It was removed: why, or who says so.
    Removed(String),
    /// Its data directory is a copy, or an old one that was restored.
    Outdated(Outdated),
}

impl Gone {
    /// What clients are told.
    const fn in_short(&self) -> operation::Gone {
        match self {
            Self::Left => operation::Gone::Left,
            Self::Removed(_) => operation::Gone::Removed,
            Self::Outdated(_) => operation::Gone::Outdated,
        }
    }
}

/// Whether this member is in its cluster no more, and why.
pub(super) fn gone(shared: &Shared) -> Option<Gone> {
    if let Some(outdated) = &shared.view.borrow().outdated {
        return Some(Gone::Outdated(outdated.clone()));
    }
    let core = shared.core.borrow();
    let removal = core.engine.roster().removal(core.engine.identity().member);
    match removal {
        Some(removal) if removal.reason == LEFT => Some(Gone::Left),
        Some(removal) => Some(Gone::Removed(removal.reason.clone())),
        None => {
            shared.view.borrow().expelled_by.as_ref().map(|name| Gone::Removed(format!("{name} says so")))
        }
    }
}

/// Turns clients away with the reason, if this member is in its cluster no more.
pub(super) fn stop_serving(shared: &Shared) {
    let Some(gone) = gone(shared).map(|gone| Mode::Gone(gone.in_short())) else { return };
    let mode = shared.core.borrow().engine.mode().clone();
    if mode != gone && mode != Mode::Stopping {
        shared.with(|core| core.engine.set_mode(gone));
    }
}

/// Refuses when this member is in its cluster no more.
pub(super) fn check(shared: &Shared) -> Result<(), ControlError> {
    let Some(gone) = gone(shared) else { return Ok(()) };
    let cluster =
        shared.core.borrow().cluster.as_ref().map(|cluster| cluster.name.clone()).unwrap_or_default();
    Err(match gone {
        Gone::Left => ControlError::Left(cluster),
        Gone::Removed(reason) => ControlError::Removed { cluster, reason },
        Gone::Outdated(Outdated { by, seen, own }) => {
            ControlError::Outdated { name: shared.config.name.clone(), by, seen, own }
        }
    })
}

/// Notes that a member says that this one was removed.
pub(super) fn note_expelled(shared: &Shared, by: MemberId, name: &str) {
    if !shared.core.borrow().engine.roster().is_removed(by) {
        shared.view.borrow_mut().expelled_by = Some(name.to_owned());
        shared.changed.notify_one();
    }
}

/// Whether a member that is gone may end its links: others know that it left, or had the time to learn it.
pub(super) fn may_hang_up(shared: &Shared, since: Instant) -> bool {
    let left = gone(shared) == Some(Gone::Left);
    !left || shared.core.borrow().engine.has_taken_leave() || since.elapsed() > FAREWELL_DEADLINE
}

/// Ends links to members that were fenced a while ago.
pub(super) fn drop_fenced(shared: &Shared, seen: &mut BTreeMap<MemberId, Instant>) {
    let fenced: Vec<MemberId> = {
        let core = shared.core.borrow();
        let roster = core.engine.roster();
        core.links.keys().copied().filter(|member| roster.is_removed(*member)).collect()
    };
    seen.retain(|member, _| fenced.contains(member));
    for member in fenced {
        if seen.entry(member).or_insert_with(Instant::now).elapsed() > FENCED_LINK {
            shared.with(|core| core.drop_link(member));
        }
    }
}

/// Answers `kith leave`: this member begins to hand over what it holds.
pub(super) async fn leave(shared: &Shared) -> Result<(), ControlError> {
    if gone(shared) == Some(Gone::Left) {
        return Ok(());
    }
    super::membership::check_records(shared)?;
    let entry = {
        let core = shared.core.borrow();
        let (me, roster) = (core.engine.identity().member, core.engine.roster());
        let entry = roster.get(me).map(|known| known.entry.clone()).ok_or(ControlError::Starting)?;
        match entry.state {
            MemberState::Leaving => return Ok(()),
            MemberState::Joining => return Err(ControlError::NotActive("it joins")),
            MemberState::Active if *core.engine.mode() != Mode::Serving => {
                return Err(ControlError::Starting);
            }
            MemberState::Active => {}
        }
        let mut others = roster.members().filter(|(member, known)| {
            *member != me && known.entry.state == MemberState::Active && roster.holds_its_name(*member)
        });
        others.next().ok_or(ControlError::LastMember)?;
        entry
    };
    tracing::info!("this member hands over what it holds, and leaves");
    let leaving = RosterEntry { state: MemberState::Leaving, next_zone: None, ..entry };
    write_confirmed(shared, &[(ROSTER, entry_key(leaving.id()), leaving.encode())]).await
}

/// Answers `kith remove NAME`.
pub(super) async fn remove(shared: &Rc<Shared>, name: &str, force: bool) -> Result<Removed, ControlError> {
    let asked_us = shared.clock.now().mono_us;
    super::membership::check_records(shared)?;
    let target = match find(shared, name)? {
        Found::Member(id, name) => Removed { id, name, warnings: Vec::new() },
        Found::Removed(removed) => return Ok(removed),
    };
    let mut warnings = Vec::new();
    // First: who hears no majority does not know who lives, either. From then on nothing is waited for.
    if let Err((live, members)) = hear_majority(shared, asked_us).await {
        if !force {
            return Err(ControlError::NoMajority { live, members });
        }
        warnings.push(format!(
            "only {live} of {members} members were heard: writes that the others took alone are lost if they don't come back, and if they removed this side meanwhile, both refuse each other"
        ));
    }
    let is_alive = lives(shared, target.id);
    if is_alive && !force {
        return Err(ControlError::Alive(target.name));
    }
    if is_alive {
        warnings.push(format!("`{}` was alive: writes that only it had taken are lost", target.name));
    }
    let partitions = lonely_partitions(shared, target.id);
    if partitions > 0 {
        if !force {
            return Err(ControlError::LastCopy { name: target.name, partitions });
        }
        warnings.push(format!(
            "of {partitions} partitions no other live owner is known to hold everything: what only `{}` had is lost",
            target.name
        ));
    }
    let by = format!("removed by {}{}", shared.config.name, if force { ", forced" } else { "" });
    let removal = Removal { name: target.name.clone(), reason: by };
    tracing::warn!(name = target.name, id = %target.id, force, "member removed");
    write_confirmed(shared, &[(ROSTER, removal_key(target.id), removal.encode())]).await?;
    Ok(Removed { warnings, ..target })
}

/// Whether a member lives, as far as is known here. A link alone proves nothing: where a network loses all, it stands
/// long after the last frame.
fn lives(shared: &Shared, member: MemberId) -> bool {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    let silent_us = shared.clock.now().mono_us.saturating_sub(view.last_heard_us(member));
    let is_linked = core.links.contains_key(&member) && u128::from(silent_us) < DEFAULT_SILENCE.as_micros();
    is_linked || alive(&view, member) == Some(true)
}

enum Found {
    Member(MemberId, String),
    Removed(Removed),
}

/// The member of a name or id; one that was removed already needs nothing more.
fn find(shared: &Shared, name: &str) -> Result<Found, ControlError> {
    let core = shared.core.borrow();
    let roster = core.engine.roster();
    let by_id = || roster.members().find(|(id, _)| id.to_string() == name);
    if let Some((id, known)) = roster.by_name(name).or_else(by_id) {
        let name = known.entry.name.clone();
        if id == core.engine.identity().member {
            return Err(ControlError::Oneself(name));
        }
        return Ok(Found::Member(id, name));
    }
    let fenced = roster.removed().find(|(id, removal)| removal.name == name || id.to_string() == name);
    if let Some((id, removal)) = fenced {
        let warnings =
            vec![format!("it was gone from the cluster already ({}); nothing was changed", removal.reason)];
        return Ok(Found::Removed(Removed { id, name: removal.name.clone(), warnings }));
    }
    let names = roster.members().map(|(_, known)| known.entry.name.as_str());
    let shown: String = name.chars().take(100).collect();
    let nearest = nearest(&shown, names).map(str::to_owned);
    Err(ControlError::UnknownMember { nearest, name: shown })
}

/// Partitions that a member owns and no other live owner is known to be complete for.
fn lonely_partitions(shared: &Shared, member: MemberId) -> usize {
    let (core, view) = (shared.core.borrow(), shared.view.borrow());
    let (engine, me) = (&core.engine, core.engine.identity().member);
    let partitions = (0..engine.placement().partitions()).filter_map(|at| u16::try_from(at).ok());
    let is_there = |owner: MemberId| owner == me || alive(&view, owner) == Some(true);
    let is_lonely = |partition: &u16| {
        let set = engine.placement().set(*partition);
        let mut others = set.owners.iter().map(|owner| owner.member).filter(|owner| *owner != member);
        set.old().any(|owner| owner == member)
            && !others.any(|owner| is_there(owner) && engine.is_complete_at(owner, *partition))
    };
    partitions.filter(is_lonely).count()
}

/// Waits until a majority of the roster, this member included, was heard after a moment; else how many of
/// how many were.
async fn hear_majority(shared: &Shared, after_us: u64) -> Result<(), (usize, usize)> {
    let deadline = Instant::now() + HEAR_DEADLINE;
    loop {
        let heard = {
            let (core, view) = (shared.core.borrow(), shared.view.borrow());
            let me = core.engine.identity().member;
            core.engine.roster().majority(me, |member| view.last_heard_us(member) > after_us)
        };
        if heard.is_ok() || Instant::now() > deadline {
            return heard;
        }
        sleep(HEAR_POLL).await;
    }
}
