//! How a member comes into a cluster: creating one, finding one through the seeds, being let in.
//!
//! States of a member: *no cluster* → (created | welcomed) → *in the roster* → complete → *ready*.
//! A cluster is created exactly once: by `kith init`, or by a member with `bootstrap` when every
//! seed but itself has *answered* that it knows no cluster and no lower id would bootstrap. The
//! interleaving to fear is a seed that is down and knows a cluster: silence therefore means wait.
//! The other one is two members of which only one knows the other as a seed: so to whoever answers
//! that it knows no cluster, the one that asked is a seed from then on.
//!
//! The cluster's facts are written to disk before anything else of it, and repeating what follows
//! them (the first records, the join) changes nothing; so a crash in between is repaired by the
//! next start.

use super::core::Shared;
use super::handle::ControlError;
use super::handle::status::InitRequest;
use super::links::{name_is_taken, next_control, send_control};
use crate::model::key::{ROSTER, SETTINGS};
use crate::model::limits::{MAX_MEMBERS, MAX_PARTITION_BITS};
use crate::model::roster::{MemberState, RosterEntry, entry_key};
use crate::model::settings::Settings;
use crate::model::{MemberId, timestamp};
use crate::protocol::introduction::{ClusterFacts, Control, Introduction, Refusal};
use crate::storage::{OsDisk, StorageError, small};
use crate::transport::{self, Link};
use rand::RngExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;

/// The small file with the cluster's facts.
const CLUSTER_FILE: &str = "cluster";
/// How long a joiner waits between two rounds over its seeds, at most.
const ROUND: Duration = Duration::from_millis(500);
/// How long a joiner's entry may take to get into the roster; less than a joiner waits.
const ENTRY_DEADLINE: Duration = Duration::from_secs(3);
/// How often the roster is looked at meanwhile.
const ENTRY_POLL: Duration = Duration::from_millis(10);

/// What came of asking one address for a cluster.
#[derive(Debug)]
enum Found {
    /// This member is in.
    Joined,
    /// A member without a cluster: who, and whether it would create one.
    NoCluster(MemberId, bool),
    /// It is this member itself.
    Myself,
    /// It was refused, in words.
    Refused(String, &'static str),
    /// Nobody answered.
    Silent(String),
}

/// Looks for a cluster through the seeds until this member is in one.
pub(super) async fn find_cluster(shared: &Rc<Shared>) {
    let mut round: u32 = 0;
    loop {
        if is_member(shared) {
            return;
        }
        let mut lowest = true;
        let mut silent = 0;
        let me = shared.core.borrow().engine.identity().member;
        let seeds = seeds(shared);
        for seed in &seeds {
            if shared.view.borrow().own_addresses.contains(seed) || *seed == shared.view.borrow().address {
                continue;
            }
            match ask(shared, seed).await {
                Found::Joined => return,
                Found::Myself => {}
                Found::NoCluster(member, bootstrap) => lowest &= !bootstrap || me < member,
                Found::Refused(reason, _) => {
                    silent += 1;
                    shared.note_refusal(seed, None, &reason);
                }
                Found::Silent(reason) => {
                    silent += 1;
                    shared.note_refusal(seed, None, &reason);
                }
            }
            if is_member(shared) {
                return;
            }
        }
        let known = shared.core.borrow().cluster.is_some();
        // One that asked during this round was told that there is no cluster, and not asked itself.
        let all_asked = shared.view.borrow().callers.is_subset(&seeds);
        if shared.config.bootstrap && silent == 0 && lowest && all_asked && !known {
            let create = &shared.config.create;
            match create_cluster(shared, create.partition_bits, &create.settings) {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, "the cluster could not be created; it is tried again"),
            }
        }
        round = round.saturating_add(1);
        let jitter = transport::retry_delay(round, rand::rng().random::<u64>());
        sleep(jitter.min(ROUND) + Duration::from_millis(50)).await;
    }
}

/// Where a cluster is looked for: the configured seeds, and whoever came by.
fn seeds(shared: &Shared) -> BTreeSet<String> {
    shared.config.seeds.iter().chain(&shared.view.borrow().callers).cloned().collect()
}

/// Makes one that came by a seed; false when there is no room to remember it.
pub(super) fn note_caller(shared: &Shared, theirs: &Introduction) -> bool {
    let callers = &mut shared.view.borrow_mut().callers;
    // Only these can lead to a cluster.
    if !theirs.bootstrap && theirs.cluster.is_none() {
        return true;
    }
    if callers.len() < MAX_MEMBERS {
        callers.insert(theirs.address.clone());
    }
    callers.contains(&theirs.address)
}

pub(super) fn is_member(shared: &Shared) -> bool {
    let core = shared.core.borrow();
    core.cluster.is_some() && core.engine.roster().get(core.engine.identity().member).is_some()
}

/// Asks one address whether it knows a cluster, and joins it.
async fn ask(shared: &Rc<Shared>, address: &str) -> Found {
    let mut link = match shared.dial(address).await {
        Ok(link) => link,
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
    if !send_control(&mut link.writer, &Control::Join).await {
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
            Found::Refused(format!("{} refuses this member: {refusal}", theirs.name), refusal_code(&refusal))
        }
        Some(Control::NoCluster) => Found::NoCluster(link.peer.member, theirs.bootstrap),
        Some(Control::Join) => Found::Refused("it answered something else".to_owned(), "malformed"),
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
    store_cluster(shared, cluster, false).map_err(|error| error.to_string())?;
    shared.with(|core| {
        core.engine.set_partition_bits(cluster.partition_bits);
        core.cluster = Some(cluster.clone());
        core.engine.welcome(records);
    });
    Ok(())
}

/// The file's content: whether this member created the cluster, then the cluster's facts.
fn store_cluster(shared: &Shared, cluster: &ClusterFacts, created: bool) -> Result<(), StorageError> {
    let mut content = vec![u8::from(created)];
    content.extend(cluster.encode());
    small::write_atomic(&shared.disk, CLUSTER_FILE, &content)
}

/// Reads the cluster that this member belongs to, and whether it created it.
pub(super) fn load_cluster(disk: &OsDisk) -> Result<Option<(ClusterFacts, bool)>, StorageError> {
    let Some(content) = small::read(disk, CLUSTER_FILE)? else { return Ok(None) };
    let parsed = content
        .split_first()
        .and_then(|(created, facts)| ClusterFacts::decode(facts).ok().map(|facts| (facts, *created == 1)))
        .filter(|(facts, _)| facts.partition_bits <= MAX_PARTITION_BITS);
    let damaged = || StorageError::damaged(CLUSTER_FILE, "its content makes no sense to this version");
    parsed.map(Some).ok_or_else(damaged)
}

/// Creates a cluster with this member as its first.
pub(super) fn create_cluster(
    shared: &Shared,
    partition_bits: u8,
    changes: &BTreeMap<String, String>,
) -> Result<(), ControlError> {
    let changes: Vec<(String, String)> = changes.iter().map(|(a, b)| (a.clone(), b.clone())).collect();
    let canonical = Settings::default().validate_change(&changes).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        ControlError::InvalidCluster(problems.join("; "))
    })?;
    let settings =
        Settings::from_entries(canonical.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let cluster = ClusterFacts {
        id: uuid::Uuid::new_v4().as_u128(),
        name: shared.config.cluster.clone(),
        partition_bits,
    };
    store_cluster(shared, &cluster, true).map_err(|error| ControlError::Storage(error.to_string()))?;
    plant(shared, &cluster, &settings);
    let id = uuid::Uuid::from_u128(cluster.id);
    tracing::info!(cluster = cluster.name, %id, "cluster created");
    Ok(())
}

/// Writes the first records of a cluster.
pub(super) fn plant(shared: &Shared, cluster: &ClusterFacts, settings: &Settings) {
    let entry = own_entry(shared, MemberState::Active, timestamp::time_of_ms(shared.clock.now().wall_ms));
    shared.with(|core| {
        core.engine.set_partition_bits(cluster.partition_bits);
        core.cluster = Some(cluster.clone());
        let member = core.engine.identity().member;
        let mut entries = vec![(ROSTER, entry_key(member), entry.encode())];
        entries.extend(
            settings.records().map(|(name, value)| (SETTINGS, name.as_bytes().to_vec(), value.into_bytes())),
        );
        core.engine.create(&entries);
    });
}

fn own_entry(shared: &Shared, state: MemberState, admitted: u64) -> RosterEntry {
    let introduction = shared.introduction();
    RosterEntry {
        name: introduction.name,
        public_key: shared.credentials.identity.public_key(),
        address: introduction.address,
        http_address: introduction.http_address,
        zone: introduction.zone,
        state,
        admitted,
    }
}

/// Answers `kith init`. Repeating it with the same content changes nothing.
pub(super) fn init(shared: &Shared, request: &InitRequest) -> Result<(), ControlError> {
    let bits = match request.partitions {
        None => shared.config.create.partition_bits,
        Some(count) => {
            let bits = u8::try_from(count.trailing_zeros()).unwrap_or(u8::MAX);
            if !count.is_power_of_two() || bits > MAX_PARTITION_BITS {
                let most = 1u32 << MAX_PARTITION_BITS;
                return Err(ControlError::InvalidCluster(format!(
                    "`partitions` is a power of two up to {most}"
                )));
            }
            bits
        }
    };
    let mut settings = shared.config.create.settings.clone();
    settings.extend(request.settings.iter().map(|(name, value)| (name.clone(), value.clone())));
    let present = shared.core.borrow().cluster.clone();
    let Some(present) = present else { return create_cluster(shared, bits, &settings) };
    if present.partition_bits != bits {
        return Err(ControlError::OtherContent("a number of partitions".to_owned()));
    }
    let changes: Vec<(String, String)> = settings.into_iter().collect();
    let wanted = Settings::default().validate_change(&changes).unwrap_or_default();
    let now = shared.core.borrow().engine.settings().entries();
    let differs = |(name, value): &(String, String)| {
        now.iter().any(|entry| entry.name == *name && entry.value != *value)
    };
    match wanted.iter().find(|change| differs(change)) {
        Some((name, _)) => Err(ControlError::OtherContent(format!("`{name}`"))),
        None => Ok(()),
    }
}

/// Answers `kith join ADDRESS`.
pub(super) async fn join(shared: &Rc<Shared>, address: String) -> Result<(), ControlError> {
    if is_member(shared) {
        return join_again(shared, address).await;
    }
    match ask(shared, &address).await {
        Found::Joined => Ok(()),
        Found::Refused(message, code) => {
            Err(ControlError::Refused { address, code: code.to_owned(), message })
        }
        Found::NoCluster(..) => Err(ControlError::Refused {
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
    match next_control(&mut link.reader).await {
        Some(Control::Join) => {}
        _ => return,
    }
    if shared.core.borrow().cluster.is_none() {
        if note_caller(shared, theirs) {
            send_control(&mut link.writer, &Control::NoCluster).await;
        }
        return;
    }
    match validate(shared, &link, theirs) {
        Ok(()) => {
            let member = link.peer.member;
            shared.with(|core| {
                if core.engine.roster().get(member).is_none() {
                    let entry = RosterEntry {
                        name: theirs.name.clone(),
                        public_key: link.peer.public_key,
                        address: theirs.address.clone(),
                        http_address: theirs.http_address.clone(),
                        zone: theirs.zone.clone(),
                        state: MemberState::Joining,
                        admitted: core.engine.clock_time(),
                    };
                    core.engine.write_roster_entry(member, &entry);
                }
            });
            // Another member may have to write it, and nobody may be able to just now.
            if !is_entered(shared, member).await {
                let refusal = Refusal::NotReady("it can't change the roster now".to_owned());
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

/// Waits until a member is in the roster; false when it did not come to that in time.
async fn is_entered(shared: &Shared, member: MemberId) -> bool {
    let entered = async {
        while shared.core.borrow().engine.roster().get(member).is_none() {
            sleep(ENTRY_POLL).await;
        }
    };
    tokio::time::timeout(ENTRY_DEADLINE, entered).await.is_ok()
}

/// Why one can't be let in.
fn validate(shared: &Shared, link: &Link, theirs: &Introduction) -> Result<(), Refusal> {
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
    if roster.is_removed(member) {
        return Err(Refusal::Removed);
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
    let seen = core.engine.check_life(member, theirs.incarnation, theirs.life);
    seen.map_err(|seen| Refusal::OldLife { seen, got: theirs.incarnation })
}

/// Keeps the own roster entry true: a member that was restarted elsewhere tells its new address.
pub(super) fn refresh_own_entry(shared: &Shared) {
    let introduction = shared.introduction();
    shared.with(|core| {
        let member = core.engine.identity().member;
        let Some(known) = core.engine.roster().get(member).map(|known| known.entry.clone()) else { return };
        let entry = RosterEntry {
            name: introduction.name,
            address: introduction.address,
            http_address: introduction.http_address,
            zone: introduction.zone,
            ..known.clone()
        };
        if entry != known {
            core.engine.write_roster_entry(member, &entry);
        }
    });
}
