//! What is changing in the cluster, and the writing of its own records.

use super::core::Shared;
use super::handle::ControlError;
use super::handle::status::{Change as Kind, Transition};
use super::local::{Mailbox, next};
use super::publish::Asked;
use crate::engine::Engine;
use crate::engine::operation::{Change, Outcome};
use crate::model::placement::Step;
use crate::model::roster::{MemberState, RosterEntry};
use crate::model::{KeyRef, MemberId};

/// Why a member that has new owners for everything does not leave yet.
const UNCONFIRMED: &str = "some members have not confirmed all that this one has for them";

/// Writes system records (collection, key and value of each) and waits until enough members have confirmed
/// them.
pub(super) async fn write_confirmed(
    shared: &Shared,
    records: &[(&str, Vec<u8>, Vec<u8>)],
) -> Result<(), ControlError> {
    let mailbox = Mailbox::new();
    let begun = shared.with(|core| {
        let mut begun = 0;
        for (collection, key, value) in records {
            if let Ok(key) = KeyRef::new(collection, key) {
                let token = core.token(&mailbox, begun, Asked::Set);
                core.engine.write_system(token, key, Change::Set { value, expiry_ms: None });
                begun += 1;
            }
        }
        begun
    });
    let mut result = Ok(());
    for _ in 0..begun {
        if let (_, Outcome::Failed(error)) = next(&mailbox).await {
            result = Err(ControlError::Unconfirmed(error.to_string()));
        }
    }
    mailbox.close();
    result
}

/// More copies than there are members can't be.
pub(super) fn check_copies(engine: &Engine, wanted: u8) -> Result<(), ControlError> {
    let present = engine.settings().replication_factor;
    let stays = |(_, entry): &(MemberId, &RosterEntry)| entry.state != MemberState::Leaving;
    let members = holders(engine).filter(stays).count();
    if usize::from(wanted) > members && wanted > present {
        return Err(ControlError::InvalidSettings(format!(
            "`replication_factor` can't be {wanted}: the cluster has {members} {} to hold one copy each; add members first",
            if members == 1 { "member" } else { "members" }
        )));
    }
    Ok(())
}

/// The members that hold their names.
fn holders(engine: &Engine) -> impl Iterator<Item = (MemberId, &RosterEntry)> {
    let owners = engine.placement().system().owners.iter().map(|owner| owner.member);
    owners.filter_map(|member| Some((member, &engine.roster().get(member)?.entry)))
}

/// Everything that is changing, what is under way first.
pub(super) fn transitions(engine: &Engine) -> Vec<Transition> {
    let settings = engine.settings();
    let mut all = Vec::new();
    if settings.replication_factor != settings.replication_factor_in_force {
        let of = |copies: u8| Some(copies.to_string());
        let (from, to) = (of(settings.replication_factor_in_force), of(settings.replication_factor));
        all.push(of_step(engine, Transition { from, to, ..blank(Kind::ReplicationFactor) }, None));
    }
    for (member, entry) in holders(engine) {
        let named = |kind| Transition { member: Some(entry.name.clone()), ..blank(kind) };
        match entry.state {
            MemberState::Joining => all.push(of_join(engine, named(Kind::Join), member)),
            MemberState::Leaving => all.push(of_step(engine, named(Kind::Leave), Some(member))),
            MemberState::Active if entry.changes_zone() => {
                let (from, to) = (Some(entry.zone.clone()), entry.next_zone.clone());
                all.push(of_step(engine, Transition { from, to, ..named(Kind::Zone) }, Some(member)));
            }
            MemberState::Active => {}
        }
    }
    all.sort_by_key(|transition| transition.waits);
    all
}

const fn blank(change: Kind) -> Transition {
    Transition {
        change,
        member: None,
        from: None,
        to: None,
        waits: false,
        partitions: 0,
        partitions_done: 0,
        reason: None,
    }
}

fn short(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn of_join(engine: &Engine, transition: Transition, member: MemberId) -> Transition {
    if !engine.placement().is_arriving(member) {
        let reason = Some("others join before it".to_owned());
        return Transition { waits: true, reason, ..transition };
    }
    let partitions = (0..engine.placement().partitions()).filter_map(|at| u16::try_from(at).ok());
    let owned: Vec<u16> = partitions.filter(|at| engine.placement().set(*at).contains(member)).collect();
    let done = owned.iter().filter(|at| engine.is_complete_at(member, **at)).count();
    let reason = if done < owned.len() { held_up(engine, "may have to wait") } else { None };
    Transition { partitions: short(owned.len()), partitions_done: short(done), reason, ..transition }
}

fn of_step(engine: &Engine, transition: Transition, member: Option<MemberId>) -> Transition {
    let step = engine.placement().step();
    if step.and_then(Step::member) != member {
        let reason = Some("another change is under way".to_owned());
        return Transition { waits: true, reason, ..transition };
    }
    let (done, all) = engine.step_progress();
    let leaves_here = transition.change == Kind::Leave && member == Some(engine.identity().member);
    let reason = if leaves_here && !engine.may_go() {
        Some("no other member is there to take over; add one".to_owned())
    } else if leaves_here && !engine.has_handed_over() {
        let unconfirmed = || (done == all).then(|| UNCONFIRMED.to_owned());
        held_up(engine, "waits").or_else(unconfirmed)
    } else if done < all {
        held_up(engine, "may have to wait")
    } else {
        None
    };
    Transition { partitions: short(all), partitions_done: short(done), reason, ..transition }
}

/// What may hold a change up, and what to do about it: members that can't be reached.
fn held_up(engine: &Engine, waits: &str) -> Option<String> {
    let away = holders(engine).filter(|(member, _)| !engine.can_reach(*member));
    let names: Vec<String> = away.map(|(_, entry)| format!("`{}`", entry.name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{waits} for {}, out of reach: start what is down, or `kith remove` what never comes back",
            names.join(", ")
        )
    })
}
