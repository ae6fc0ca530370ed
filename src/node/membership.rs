//! How a member comes into a cluster: finding one through the seeds, being let in, coming back.
//!
//! States of a member: *no cluster* → (created | welcomed) → *in the roster* → complete → *ready*. How a
//! cluster is created is told in `founding`. Two things lead a member of a cluster back to where it asks
//! its seeds to be let in, without serving anybody meanwhile:
//!
//! - Its data directory has lost the roster. It never makes a new one: whoever lets it in again gives it
//!   theirs, and if nobody else was ever let in, it says that what it held is gone.
//! - It does not hold its name: two members let in two of one name at the same moment, and the other one's
//!   admission was earlier. Under another name it is let in anew.
//!
//! The interleaving to fear is a seed that is down and knows a cluster: silence therefore means wait. The other one is two
//! members of which only one knows the other as a seed: so to whoever answers that it knows no cluster, the asker is one.
//!
//! The cluster's facts are written to disk before anything else of it, and repeating what follows
//! them (the join) changes nothing; so a crash in between is repaired by the next start.

use super::core::{Core, Shared};
use super::founding::{self, Belonging, Content, Silence};
use super::handle::ControlError;
use super::handle::status::InitRequest;
use super::links::{name_is_taken, next_control, send_control};
use super::publish::reason_of_failure;
use super::{changes, departure, outdated, secrets};
use crate::model::limits::{MAX_MEMBERS, MAX_PARTITION_BITS};
use crate::model::roster::{MemberState, RosterEntry};
use crate::model::{MemberId, timestamp};
use crate::protocol::introduction::{ClusterFacts, Control, Introduction, Refusal};
use crate::transport::{self, Link, PeerInfo};
use rand::RngExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a joiner waits between two rounds over its seeds, at most.
const ROUND: Duration = Duration::from_millis(500);
/// How long a joiner's entry may take to get into the roster; less than a joiner waits.
const ENTRY_DEADLINE: Duration = Duration::from_secs(3);
/// How often the roster is looked at meanwhile.
const ENTRY_POLL: Duration = Duration::from_millis(10);

/// What came of asking one address for a cluster.
#[derive(Debug)]
pub(super) enum Found {
    /// This member is in.
    Joined,
    /// A member without a cluster: who, and whether it would create one.
    NoCluster(MemberId, bool),
    /// A member without a cluster that promised to create none.
    Promised {
        /// Where the promise can be given back.
        link: Box<Link>,
        /// Who else may have created one.
        callers: Vec<String>,
    },
    /// It is this member itself.
    Myself,
    /// It was refused, in words.
    Refused(String, &'static str),
    /// Nobody answered.
    Silent(String),
}

/// Looks for a cluster through the seeds whenever this member is in none, for ever.
pub(super) async fn find_cluster(shared: &Rc<Shared>) {
    let mut round: u32 = 0;
    loop {
        if is_member(shared) || departure::gone(shared).is_some() {
            round = 0;
        } else {
            let nobody_objects = ask_seeds(shared).await;
            if nobody_objects && shared.core.borrow().cluster.is_none() {
                create(shared).await;
            }
            round = round.saturating_add(1);
        }
        let jitter = transport::retry_delay(round, rand::rng().random::<u64>());
        sleep(jitter.min(ROUND) + Duration::from_millis(50)).await;
    }
}

/// Asks every seed to be let in. Says whether this member, if it may, is the one to create the cluster: all
/// answered that they know none, and no lower id would create one.
async fn ask_seeds(shared: &Rc<Shared>) -> bool {
    let me = shared.core.borrow().engine.identity().member;
    let mut first = true;
    let (mut silent, mut refusing) = (BTreeSet::new(), BTreeMap::new());
    let seeds = seeds(shared);
    for seed in &seeds {
        match ask(shared, seed, &Control::Join).await {
            Found::Joined => {
                shared.view.borrow_mut().forget_refusals(None, seed);
                return false;
            }
            Found::Myself => {}
            Found::NoCluster(member, bootstrap) => first &= !bootstrap || me < member,
            Found::Promised { .. } => first = false,
            Found::Refused(reason, _) => {
                first = false;
                shared.note_refusal(seed, None, &reason);
                refusing.insert(seed.clone(), reason);
            }
            Found::Silent(reason) => {
                first = false;
                shared.note_refusal(seed, None, &reason);
                silent.insert(seed.clone());
            }
        }
        if is_member(shared) {
            return false;
        }
    }
    shared.view.borrow_mut().refusing_seeds = refusing;
    note_silence(shared, silent);
    // One that asked during this round was told that there is no cluster, and not asked itself.
    first && self::seeds(shared).is_subset(&seeds)
}

/// Remembers which seeds did not answer, and tells of those that did before, or were never asked.
fn note_silence(shared: &Shared, silent: BTreeSet<String>) {
    let news = {
        let known = &mut shared.view.borrow_mut().silent_seeds;
        let news = !silent.is_subset(known);
        *known = silent;
        news
    };
    if news && shared.core.borrow().cluster.is_none() {
        tracing::info!("{}", what_is_awaited(shared));
    }
}

/// Why there is no cluster yet, and what a person can do about it.
pub(super) fn what_is_awaited(shared: &Shared) -> String {
    let view = shared.view.borrow();
    if let Some((seed, reason)) = view.refusing_seeds.first_key_value() {
        return format!("the seed {seed} can't let this member in: {reason}");
    }
    let silent: Vec<String> = view.silent_seeds.iter().cloned().collect();
    let (seeds, silent) = (if silent.len() == 1 { "seed" } else { "seeds" }, silent.join(", "));
    match (silent.is_empty(), shared.config.bootstrap) {
        (false, true) => {
            format!(
                "waiting for {seeds} {silent} before creating the cluster; start what is missing, or run `kith init`"
            )
        }
        (false, false) => {
            format!(
                "waiting for {seeds} {silent} to know a cluster; start what is missing, or run `kith init`"
            )
        }
        (true, true) => {
            "asking the seeds for a cluster; it is created when all answer that they know none".to_owned()
        }
        (true, false) => {
            "no seed knows a cluster yet; create one with `kith init`, or enter one with `kith join`"
                .to_owned()
        }
    }
}

/// Creates the cluster, if this member may; else it is tried again in the next round.
async fn create(shared: &Rc<Shared>) {
    if !shared.config.bootstrap {
        return;
    }
    let content = Content::new(shared, &InitRequest::default());
    let created = match &content {
        Ok(content) => founding::create(shared, content, Silence::Forbids).await,
        Err(error) => Err(error.clone()),
    };
    match created {
        Ok(()) => {}
        Err(error @ (ControlError::InvalidCluster(_) | ControlError::Storage(_))) => {
            tracing::error!(%error, "the cluster could not be created; it is tried again");
        }
        Err(error) => tracing::debug!(%error, "the cluster is not created yet"),
    }
}

/// Where a cluster is looked for: the configured seeds, and whoever came by; never this member itself.
pub(super) fn seeds(shared: &Shared) -> BTreeSet<String> {
    let view = shared.view.borrow();
    let all = shared.config.seeds.iter().chain(&view.callers);
    let others = all.filter(|seed| !view.own_addresses.contains(*seed) && **seed != view.address);
    others.cloned().collect()
}

/// Makes one that came by a seed, if it can lead to a cluster; false when there is no room to remember it.
pub(super) fn note_caller(shared: &Shared, theirs: &Introduction) -> bool {
    !theirs.bootstrap && theirs.cluster.is_none() || note_address(shared, &theirs.address)
}

/// Makes an address a seed; false when there is no room to remember it.
pub(super) fn note_address(shared: &Shared, address: &str) -> bool {
    let callers = &mut shared.view.borrow_mut().callers;
    if callers.len() < MAX_MEMBERS {
        callers.insert(address.to_owned());
    }
    callers.contains(address)
}

/// Whether this member is in the roster of its cluster, under a name that it holds.
pub(super) fn is_member(shared: &Shared) -> bool {
    let core = shared.core.borrow();
    let is_in = core.cluster.is_some() && core.engine.roster().holds_its_name(core.engine.identity().member);
    is_in && departure::gone(shared).is_none()
}

/// Refuses when this member is in its cluster no more, or has lost the cluster's roster: with it goes whoever
/// let it in.
pub(super) fn check_records(shared: &Shared) -> Result<(), ControlError> {
    departure::check(shared)?;
    let core = shared.core.borrow();
    let cluster = core.cluster.as_ref().ok_or(ControlError::NoCluster)?;
    if !core.engine.roster().is_empty() {
        return Ok(());
    }
    let what_now = if shared.view.borrow().creating.alone {
        "no other member was ever let in, so what it held is gone; start it with an empty data directory to create a new cluster"
    } else {
        "it asks its seeds for them; name any member of the cluster with `kith join ADDRESS`, or start it with an empty data directory to join as a new member"
    };
    let (name, id) = (cluster.name.clone(), uuid::Uuid::from_u128(cluster.id).to_string());
    Err(ControlError::RecordsLost { name, id, what_now })
}

/// Why this member does not serve, though it is in the roster: another one holds its name.
pub(super) fn name_lost(shared: &Shared) -> Option<String> {
    let core = shared.core.borrow();
    let roster = core.engine.roster();
    let entry = &roster.get(core.engine.identity().member)?.entry;
    let (_, holder) = roster.by_name(&entry.name).filter(|(id, _)| *id != entry.id())?;
    Some(format!(
        "the name `{}` is used by another member, at {}, that was let in before this one; choose another `name` in this member's config file and start it again",
        entry.name, holder.entry.address
    ))
}

/// Asks one address whether it knows a cluster, and joins it; `request` is to join, or a claim.
pub(super) async fn ask(shared: &Rc<Shared>, address: &str, request: &Control) -> Found {
    let mut link = match shared.dial(address).await {
        Ok(link) => link,
        Err(error) if error.must_be_mended() => {
            return Found::Refused(error.to_string(), reason_of_failure(&error));
        }
        Err(error) => return Found::Silent(error.to_string()),
    };
    if link.peer.member == shared.core.borrow().engine.identity().member {
        shared.view.borrow_mut().own_addresses.insert(address.to_owned());
        return Found::Myself;
    }
    let Ok(theirs) = Introduction::decode(&link.peer.introduction) else {
        return Found::Refused("its introduction makes no sense to this version".to_owned(), "malformed");
    };
    // What its introduction says of a cluster may be outdated by now: the answer counts.
    if !send_control(&mut link.writer, request).await {
        return Found::Silent("the connection ended".to_owned());
    }
    match next_control(&mut link.reader).await {
        Some(Control::Welcome { cluster, records }) => match enter(shared, &cluster, &records) {
            Ok(()) if is_member(shared) => {
                tracing::info!(cluster = cluster.name, through = theirs.name, "joined");
                Found::Joined
            }
            Ok(()) => Found::Refused("its roster lacks this member still".to_owned(), "not_ready"),
            Err(reason) => Found::Refused(reason, "bad_welcome"),
        },
        Some(Control::Refused(refusal)) => {
            shared.core.borrow_mut().counts.link_refused(&refusal);
            outdated::note(shared, link.peer.member, &theirs.name, &refusal);
            Found::Refused(format!("{} refuses this member: {refusal}", theirs.name), refusal_code(&refusal))
        }
        Some(Control::NoCluster) => Found::NoCluster(link.peer.member, theirs.bootstrap),
        Some(Control::Promised { callers }) if *request == Control::Claim => {
            Found::Promised { link: Box::new(link), callers }
        }
        Some(
            Control::Join
            | Control::Claim
            | Control::Promised { .. }
            | Control::Release
            | Control::SecretProof { .. },
        ) => Found::Refused("it answered something else".to_owned(), "malformed"),
        None => Found::Silent("it did not answer".to_owned()),
    }
}

/// The refusal's name for programs.
const fn refusal_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::OtherCluster { .. } => "other_cluster",
        Refusal::NameTaken(_) => "name_taken",
        Refusal::Removed => "removed",
        Refusal::Clock { .. } => "clock",
        Refusal::OldLife { .. } => "old_life",
        Refusal::NotAMember => "not_a_member",
        Refusal::Full(_) => "full",
        Refusal::NoCluster => "no_cluster",
        Refusal::NotReady(_) => "not_ready",
        Refusal::Creating(_) => "creating",
    }
}

/// Enters the cluster that let this member in; refuses, in words, what can't be one or is not the
/// one that this member belongs to by now.
fn enter(shared: &Shared, cluster: &ClusterFacts, records: &[u8]) -> Result<(), String> {
    if cluster.partition_bits > MAX_PARTITION_BITS {
        return Err("it tells a number of partitions that no cluster has".to_owned());
    }
    if shared.core.borrow().cluster.as_ref().is_some_and(|known| known.id != cluster.id) {
        return Err("this member belongs to another cluster meanwhile".to_owned());
    }
    let stored = founding::store_cluster(&shared.disk, cluster, &Belonging::Together);
    stored.map_err(|error| error.to_string())?;
    shared.view.borrow_mut().creating.alone = false;
    shared.with(|core| {
        core.engine.set_partition_bits(cluster.partition_bits);
        core.cluster = Some(cluster.clone());
        core.engine.welcome(records);
        core.engine.latest_rotations();
    });
    // Whoever is in has what the others will go by.
    secrets::follow(shared);
    Ok(())
}

/// This member as the roster has it.
pub(super) fn own_entry(shared: &Shared, state: MemberState, admitted: u64) -> RosterEntry {
    let introduction = shared.introduction();
    RosterEntry {
        name: introduction.name,
        public_key: shared.secrets.credentials().identity.public_key(),
        address: introduction.address,
        http_address: introduction.http_address,
        zone: introduction.zone,
        next_zone: None,
        state,
        admitted,
    }
}

/// Answers `kith join ADDRESS`.
pub(super) async fn join(shared: &Rc<Shared>, address: String) -> Result<(), ControlError> {
    departure::check(shared)?;
    if is_member(shared) {
        return join_again(shared, address).await;
    }
    match ask(shared, &address, &Control::Join).await {
        Found::Joined => Ok(()),
        Found::Refused(message, code) => {
            Err(ControlError::Refused { address, code: code.to_owned(), message })
        }
        Found::NoCluster(..) | Found::Promised { .. } => Err(ControlError::Refused {
            address,
            code: "no_cluster".to_owned(),
            message: "it belongs to no cluster yet; create one there with `kith init`".to_owned(),
        }),
        Found::Myself => Err(ControlError::Refused {
            address,
            code: "itself".to_owned(),
            message: "that is this member's own address; give another member's".to_owned(),
        }),
        Found::Silent(reason) => Err(ControlError::Unreachable { address, reason }),
    }
}

/// Answers `kith join ADDRESS` of a member that is in a cluster: fine if it is the same one.
async fn join_again(shared: &Rc<Shared>, address: String) -> Result<(), ControlError> {
    let ours = {
        let core = shared.core.borrow();
        if core.engine.roster().members().any(|(_, known)| known.entry.address == address) {
            return Ok(());
        }
        core.cluster.clone().ok_or(ControlError::NoCluster)?
    };
    let link = match shared.dial(&address).await {
        Ok(link) => link,
        Err(error) => return Err(ControlError::Unreachable { address, reason: error.to_string() }),
    };
    let theirs = Introduction::decode(&link.peer.introduction).ok().and_then(|theirs| theirs.cluster);
    if theirs.is_some_and(|theirs| theirs.id == ours.id) {
        return Ok(());
    }
    Err(ControlError::OtherCluster { name: ours.name, id: uuid::Uuid::from_u128(ours.id).to_string() })
}

/// Serves a link of one that wants to join, or that only looks for a cluster.
pub(super) async fn serve_joiner(shared: &Rc<Shared>, mut link: Link, theirs: &Introduction) {
    let address = theirs.address.clone();
    let asked = next_control(&mut link.reader).await;
    if !matches!(asked, Some(Control::Join | Control::Claim)) {
        return;
    }
    if shared.core.borrow().cluster.is_none() {
        if asked == Some(Control::Claim) {
            founding::answer_claim(shared, link, theirs).await;
        } else if note_caller(shared, theirs) {
            send_control(&mut link.writer, &Control::NoCluster).await;
        }
        return;
    }
    match validate(shared, &link, theirs) {
        Ok(()) => {
            let member = link.peer.member;
            if let Err(error) = founding::note_others(shared) {
                tracing::error!(%error, "nobody can be let in");
                let refusal = Refusal::NotReady("its storage failed".to_owned());
                return shared.refuse(link, &address, Some(&theirs.name), refusal).await;
            }
            shared.with(|core| {
                if !core.engine.roster().holds_its_name(member) {
                    let entry = RosterEntry {
                        name: theirs.name.clone(),
                        public_key: link.peer.public_key,
                        address: theirs.address.clone(),
                        http_address: theirs.http_address.clone(),
                        zone: theirs.zone.clone(),
                        next_zone: None,
                        state: MemberState::Joining,
                        admitted: admission_time(core),
                    };
                    core.engine.write_roster_entry(member, &entry);
                }
            });
            // Another member may have to write it, and nobody may be able to just now.
            if let Err(refusal) = is_entered(shared, &link.peer).await {
                return shared.refuse(link, &address, Some(&theirs.name), refusal).await;
            }
            let (cluster, records) = shared.with(|core| (core.cluster.clone(), core.engine.system_records()));
            let Some(cluster) = cluster else { return };
            tracing::info!(name = theirs.name, address, "let in");
            send_control(&mut link.writer, &Control::Welcome { cluster, records }).await;
        }
        Err(refusal) => shared.refuse(link, &address, Some(&theirs.name), refusal).await,
    }
}

/// The hybrid time of an admission now. The clock alone stands still while nothing is stamped, and of two
/// admissions the earlier one wins the name.
fn admission_time(core: &Core) -> u64 {
    core.engine.clock_time().max(timestamp::time_of_ms(core.engine.now().wall_ms))
}

/// Waits until a member is in the roster under its name; why it can't be welcomed, if it did not come to that.
async fn is_entered(shared: &Shared, peer: &PeerInfo) -> Result<(), Refusal> {
    let entered = async {
        while !shared.core.borrow().engine.roster().holds_its_name(peer.member) {
            sleep(ENTRY_POLL).await;
        }
    };
    let late = |_| Refusal::NotReady("it can't change the roster now".to_owned());
    tokio::time::timeout(ENTRY_DEADLINE, entered).await.map_err(late)?;
    secrets::judge(shared, peer.key)
}

/// Why one can't be let in.
fn validate(shared: &Shared, link: &Link, theirs: &Introduction) -> Result<(), Refusal> {
    secrets::judge(shared, link.peer.key)?;
    let mut core = shared.core.borrow_mut();
    let member = link.peer.member;
    if let (Some(ours), Some(other)) = (&core.cluster, &theirs.cluster)
        && ours.id != other.id
    {
        let text = |id: u128| uuid::Uuid::from_u128(id).to_string();
        return Err(Refusal::OtherCluster { ours: text(ours.id), theirs: text(other.id) });
    }
    if *core.engine.mode() != crate::engine::Mode::Serving {
        return Err(Refusal::NotReady("it is still starting".to_owned()));
    }
    let roster = core.engine.roster();
    if core.engine.has_fenced(member) {
        return Err(Refusal::Removed);
    }
    if roster.is_removed(member) {
        return Err(Refusal::NotReady("it is writing down a removal".to_owned()));
    }
    if name_is_taken(roster, member, &theirs.name) {
        return Err(Refusal::NameTaken(theirs.name.clone()));
    }
    if roster.len() >= MAX_MEMBERS && roster.get(member).is_none() {
        return Err(Refusal::Full(roster.len()));
    }
    let wall_ms = i64::try_from(shared.clock.now().wall_ms).unwrap_or(i64::MAX);
    let offset_ms = i64::try_from(theirs.wall_ms).unwrap_or(i64::MAX).saturating_sub(wall_ms);
    let allowed_ms = core.engine.settings().max_clock_ahead_ms;
    if offset_ms.unsigned_abs() > allowed_ms {
        return Err(Refusal::Clock { offset_ms, allowed_ms });
    }
    changes::refuse_old(core.engine.settings(), link.peer.protocol)?;
    let seen = core.engine.check_life(member, theirs.incarnation, theirs.life);
    seen.map_err(|seen| Refusal::OldLife { seen, got: theirs.incarnation })
}

/// Keeps the own roster entry true: a member that was restarted elsewhere tells its new address, and one
/// whose file names another zone moves there.
pub(super) fn refresh_own_entry(shared: &Shared) {
    let introduction = shared.introduction();
    shared.with(|core| {
        let member = core.engine.identity().member;
        let roster = core.engine.roster();
        let Some(known) = roster.get(member).map(|known| known.entry.clone()) else { return };
        let renamed = known.name != introduction.name;
        if renamed && name_is_taken(roster, member, &introduction.name) {
            return;
        }
        let entry = RosterEntry {
            // A name is held from the admission under it.
            admitted: if renamed { admission_time(core) } else { known.admitted },
            name: introduction.name,
            address: introduction.address,
            http_address: introduction.http_address,
            next_zone: (known.zone != introduction.zone).then_some(introduction.zone),
            ..known.clone()
        };
        if entry != known {
            core.engine.write_roster_entry(member, &entry);
        }
    });
}

#[cfg(test)]
mod tests;
