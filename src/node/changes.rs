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
use crate::model::settings::Settings;
use crate::model::{KeyRef, MemberId};
use crate::protocol::CLASSES;
use crate::protocol::introduction::Refusal;
use std::collections::BTreeMap;

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

/// More copies than there are members can't be, of whatever collection; what is so already may stay.
pub(super) fn check_copies(engine: &Engine, wanted: &Settings) -> Result<(), ControlError> {
    let present = engine.settings();
    check_number(engine, wanted.replication_factor, present.replication_factor)?;
    for (collection, own) in &wanted.collections {
        if let Some(copies) = own.replication_factor {
            check_number(engine, copies, present.replication_factor_of(collection))?;
        }
    }
    Ok(())
}

fn check_number(engine: &Engine, wanted: u8, present: u8) -> Result<(), ControlError> {
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

/// Who speaks a protocol in which collections can't be placed by themselves must be upgraded before one is. `spoken` is what
/// the last link to each member spoke: who was never linked may be old.
pub(super) fn check_versions(
    engine: &Engine,
    spoken: &BTreeMap<MemberId, u16>,
    wanted: &Settings,
) -> Result<(), ControlError> {
    let is_news = |name: &str| !engine.settings().unplaced().any(|known| known == name);
    if !wanted.unplaced().any(is_news) {
        return Ok(());
    }
    let me = engine.identity().member;
    let others = engine.roster().members().filter(|(member, _)| *member != me);
    let mut old = others.filter(|(member, _)| spoken.get(member).is_none_or(|spoken| *spoken < CLASSES));
    let Some((member, known)) = old.next() else { return Ok(()) };
    let name = &known.entry.name;
    let why = if spoken.contains_key(&member) {
        format!("`{name}` runs a version of kith that does not know that; upgrade it first")
    } else {
        format!(
            "which version of kith `{name}` runs is not known, for it could not be reached since this member started; start it, or `kith remove {name}` if it never comes back"
        )
    };
    Err(ControlError::InvalidSettings(format!(
        "a collection can't have a `replication_factor` of its own yet: {why}"
    )))
}

/// Refuses who speaks a protocol in which collections can't be placed by themselves once one is, or shall be.
pub(super) fn refuse_old(settings: &Settings, protocol: u16) -> Result<(), Refusal> {
    let is_needed = !settings.factors_in_force.is_empty() || settings.unplaced().next().is_some();
    if protocol >= CLASSES || !is_needed {
        return Ok(());
    }
    let why = "a collection has a `replication_factor` of its own, which the version of kith of the member that asks does not know; upgrade that member";
    Err(Refusal::NotReady(why.to_owned()))
}

/// The members that hold their names.
fn holders(engine: &Engine) -> impl Iterator<Item = (MemberId, &RosterEntry)> {
    let owners = engine.placement().system().owners.iter().map(|owner| owner.member);
    owners.filter_map(|member| Some((member, &engine.roster().get(member)?.entry)))
}

/// Everything that is changing, what is under way first.
pub(super) fn transitions(engine: &Engine) -> Vec<Transition> {
    let (settings, step) = (engine.settings(), engine.placement().step());
    let mut all = Vec::new();
    if settings.replication_factor != settings.replication_factor_in_force {
        let of = |copies: u8| Some(copies.to_string());
        let (from, to) = (of(settings.replication_factor_in_force), of(settings.replication_factor));
        let is_its = step.and_then(Step::class) == Some(0);
        all.push(of_step(engine, Transition { from, to, ..blank(Kind::ReplicationFactor) }, is_its));
    }
    all.extend(of_collections(engine));
    for (member, entry) in holders(engine) {
        let named = |kind| Transition { member: Some(entry.name.clone()), ..blank(kind) };
        match entry.state {
            MemberState::Joining => all.push(of_join(engine, named(Kind::Join), member)),
            MemberState::Leaving => {
                let is_its = step.and_then(Step::member) == Some(member);
                all.push(of_step(engine, named(Kind::Leave), is_its));
            }
            MemberState::Active if entry.changes_zone() => {
                let (from, to) = (Some(entry.zone.clone()), entry.next_zone.clone());
                let is_its = step.and_then(Step::member) == Some(member);
                all.push(of_step(engine, Transition { from, to, ..named(Kind::Zone) }, is_its));
            }
            MemberState::Active => {}
        }
    }
    all.sort_by_key(|transition| transition.waits);
    all
}

/// Collections whose replication factor changes, or that are to be placed by themselves first.
fn of_collections(engine: &Engine) -> Vec<Transition> {
    let (settings, step) = (engine.settings(), engine.placement().step());
    let of = |copies: u8| Some(copies.to_string());
    let named = |collection: &str, in_force: u8| Transition {
        collection: Some(collection.to_owned()),
        from: of(in_force),
        to: of(settings.replication_factor_of(collection)),
        ..blank(Kind::ReplicationFactor)
    };
    let unplaced = settings.unplaced().enumerate().map(|(at, collection)| {
        let transition = named(collection, settings.replication_factor_in_force);
        of_step(engine, transition, at == 0 && step == Some(Step::Own))
    });
    let moving = settings.factors_in_force.iter().enumerate().filter_map(|(at, (collection, in_force))| {
        let transition = named(collection, *in_force);
        let is_its = step.and_then(Step::class) == Some(at + 1);
        (transition.from != transition.to).then(|| of_step(engine, transition, is_its))
    });
    unplaced.chain(moving).collect()
}

const fn blank(change: Kind) -> Transition {
    Transition {
        change,
        member: None,
        collection: None,
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

/// How far a change is that waits for its turn unless the step under way `is_its`.
fn of_step(engine: &Engine, transition: Transition, is_its: bool) -> Transition {
    if !is_its {
        let reason = Some("another change is under way".to_owned());
        return Transition { waits: true, reason, ..transition };
    }
    let (done, all) = engine.step_progress();
    let me = Some(engine.identity().member);
    let leaves_here =
        transition.change == Kind::Leave && engine.placement().step().and_then(Step::member) == me;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Bounds, Identity};
    use crate::model::Now;
    use crate::model::key::ROSTER;
    use crate::model::roster::entry_key;
    use crate::model::settings::log;

    fn entry(number: u8) -> RosterEntry {
        RosterEntry {
            name: format!("m{number}"),
            public_key: [number; 32],
            address: "127.0.0.1:7400".to_owned(),
            http_address: "127.0.0.1:7401".to_owned(),
            zone: String::new(),
            next_zone: None,
            state: MemberState::Active,
            admitted: u64::from(number),
        }
    }

    /// The first of three members, and the settings that give a collection a factor of its own.
    fn first() -> (Engine, Settings) {
        let who = Identity { member: entry(1).id(), incarnation: 1, life: 1 };
        let mut engine = Engine::new(who, Bounds::default(), 1);
        engine.advance(Now { wall_ms: 1_800_000_000_000, mono_us: 0 });
        let records = (1..=3).map(|number| (ROSTER, entry_key(entry(number).id()), entry(number).encode()));
        engine.create(&records.collect::<Vec<_>>());
        let values = BTreeMap::from([("replication_factor".to_owned(), Some("2".to_owned()))]);
        let collections = BTreeMap::from([("c".to_owned(), values)]);
        let change = log::Change { collections, ..log::Change::default() };
        let (_, wanted) = engine.settings().check_change(&change).unwrap();
        (engine, wanted)
    }

    #[test]
    fn a_collection_gets_a_factor_of_its_own_once_every_member_is_known_to_understand_it() {
        let (engine, wanted) = first();
        let mut spoken = BTreeMap::from([(entry(2).id(), CLASSES)]);
        let check = |spoken: &BTreeMap<MemberId, u16>| {
            check_versions(&engine, spoken, &wanted).map_err(|error| error.to_string())
        };
        let told = check(&spoken).unwrap_err();
        assert!(told.contains("`m3`") && told.contains("`kith remove m3`"), "it is away: {told}");
        spoken.insert(entry(3).id(), CLASSES - 1);
        let told = check(&spoken).unwrap_err();
        assert!(told.contains("`m3`") && told.contains("upgrade it first"), "{told}");
        spoken.insert(entry(3).id(), CLASSES);
        assert_eq!(check(&spoken), Ok(()));
        assert!(
            check_versions(&engine, &BTreeMap::new(), engine.settings()).is_ok(),
            "nothing of that changes"
        );
    }

    #[test]
    fn who_does_not_understand_factors_of_collections_is_refused_while_there_are_any() {
        let (engine, wanted) = first();
        assert_eq!(refuse_old(engine.settings(), CLASSES - 1), Ok(()));
        let factors_in_force = BTreeMap::from([("c".to_owned(), 3)]);
        let in_force = Settings { factors_in_force, ..engine.settings().clone() };
        for settings in [wanted, in_force] {
            assert_eq!(refuse_old(&settings, CLASSES), Ok(()));
            let refused = refuse_old(&settings, CLASSES - 1).unwrap_err();
            assert!(refused.to_string().contains("upgrade that member"), "{refused}");
        }
    }
}
