//! How a cluster is created: exactly once, and durably.
//!
//! **Once.** A cluster is created by `kith init`, or by a member with `bootstrap` when every seed but
//! itself has *answered* that it knows no cluster and no lower id would bootstrap. Those answers may be
//! outdated when the last of them comes, so whoever is about to create *claims* it first: it asks every
//! seed and every member that ever came by for a promise. The rules of a claim:
//!
//! - Who belongs to a cluster lets the claimant in instead: there is nothing left to create.
//! - Who promised creates nothing itself and promises nobody else, until it is released or
//!   [`PROMISE`] is over. A claim ends long before that ([`CLAIM_DEADLINE`]), so no creation ever relies
//!   on a promise that is over.
//! - Of two that claim at once the lower id goes on: it refuses the other, and the other gives up for it.
//!   What was collected by then does not matter, because nothing lies between the last look at the
//!   promises and the creation.
//! - Whoever came by may have created a cluster meanwhile. So a promise names all of them, and the
//!   claimant must ask them, too: two that know nothing but one common seed hear of each other there,
//!   also after a promise was over and nobody knows what became of it.
//! - Silence means wait for a member that bootstraps. It does not hold `kith init` up: a person may
//!   know that a seed will not come, and says so with it.
//!
//! **Durably.** The small file with the cluster's facts is written first, with a *mark*: the first records
//! themselves, stamps included. Then they go into the journal; once they are fsynced, the mark is
//! removed, and only then `init` answers and the member serves or lets anybody in. A start that finds the
//! mark stores the same records again, which changes nothing that was stored; a start without it never
//! does: a member that lost its records gets them from the others, or says that it can't
//! (`membership`). The file also tells whether another member was ever let in, so that one that has lost
//! its records knows if somebody has to know them.

use super::core::Shared;
use super::departure;
use super::handle::ControlError;
use super::handle::status::InitRequest;
use super::links::{next_control, send_control};
use super::membership::{self, Found};
use crate::model::key::{ROSTER, SETTINGS};
use crate::model::limits::MAX_PARTITION_BITS;
use crate::model::roster::{MemberState, entry_key};
use crate::model::settings::{DEFINITIONS, Settings};
use crate::model::{MemberId, timestamp};
use crate::protocol::introduction::{ClusterFacts, Control, Introduction, Refusal};
use crate::storage::{Disk, StorageError, small};
use crate::transport::Link;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// The small file with the cluster's facts.
const CLUSTER_FILE: &str = "cluster";
/// How long one member is waited for in a claim.
const CLAIM_ANSWER: Duration = Duration::from_secs(2);
/// How long a claim takes at most, from its first question to the creation.
const CLAIM_DEADLINE: Duration = Duration::from_secs(5);
/// How long a promise binds at most; well beyond the claim that it was given for.
const PROMISE: Duration = Duration::from_secs(12);
/// How often is looked whether the first records are durable, or another claim of this member is over.
const POLL: Duration = Duration::from_millis(10);
/// How long `init` waits for the disk before it tells that it is slow.
const INIT_DEADLINE: Duration = Duration::from_secs(30);
/// Between two tries to remove the mark.
const MARK_RETRY: Duration = Duration::from_secs(1);

/// What a member knows of its cluster before its records say anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Belonging {
    /// It creates the cluster; these first records may not be stored yet.
    Founding(Vec<u8>),
    /// It created the cluster and never let anybody in.
    Alone,
    /// There are, or were, other members.
    Together,
}

/// A member's part in the creation of its cluster, as far as memory knows it.
#[derive(Debug, Default)]
pub(super) struct Creating {
    /// A claim of this member is under way.
    claiming: bool,
    promise: Option<Promise>,
    promises: u64,
    /// The cluster is created and its first records are not known to be durable.
    pub(super) founding: bool,
    /// No other member was ever let in.
    pub(super) alone: bool,
}

/// To create no cluster.
#[derive(Debug)]
struct Promise {
    number: u64,
    to: MemberId,
    name: String,
    until_us: u64,
}

impl Creating {
    /// Whom this member has promised to create nothing.
    fn promised(&self, now_us: u64) -> Option<&Promise> {
        self.promise.as_ref().filter(|promise| now_us < promise.until_us)
    }

    /// Promises a claimant to create nothing; else the name of the member that goes first.
    fn promise(&mut self, me: (MemberId, &str), to: (MemberId, &str), now_us: u64) -> Result<u64, String> {
        if self.claiming && me.0 < to.0 {
            return Err(me.1.to_owned());
        }
        if let Some(promise) = self.promised(now_us).filter(|promise| promise.to != to.0) {
            return Err(promise.name.clone());
        }
        self.promises += 1;
        let until_us = now_us.saturating_add(u64::try_from(PROMISE.as_micros()).unwrap_or(u64::MAX));
        let (number, name) = (self.promises, to.1.to_owned());
        self.promise = Some(Promise { number, to: to.0, name, until_us });
        Ok(number)
    }

    /// The claim that a promise was given for is over.
    fn release(&mut self, number: u64) {
        self.promise.take_if(|promise| promise.number == number);
    }

    /// Begins a claim; else the name of the member that was promised to go first.
    fn begin(&mut self, now_us: u64) -> Result<(), String> {
        if let Some(promise) = self.promised(now_us) {
            return Err(promise.name.clone());
        }
        self.claiming = true;
        Ok(())
    }
}

/// Writes what this member belongs to; durable when this returns.
pub(super) fn store_cluster<D: Disk>(
    disk: &D,
    facts: &ClusterFacts,
    belonging: &Belonging,
) -> Result<(), StorageError> {
    let (kind, records): (u8, &[u8]) = match belonging {
        Belonging::Together => (0, &[]),
        Belonging::Alone => (1, &[]),
        Belonging::Founding(records) => (2, records),
    };
    let facts = facts.encode();
    let mut content = vec![kind];
    content.extend(u32::try_from(facts.len()).unwrap_or(u32::MAX).to_le_bytes());
    content.extend(facts);
    content.extend(records);
    small::write_atomic(disk, CLUSTER_FILE, &content)
}

/// Reads what this member belongs to.
pub(super) fn load_cluster<D: Disk>(disk: &D) -> Result<Option<(ClusterFacts, Belonging)>, StorageError> {
    let Some(content) = small::read(disk, CLUSTER_FILE)? else { return Ok(None) };
    let parsed = parse_cluster(&content).filter(|(facts, _)| facts.partition_bits <= MAX_PARTITION_BITS);
    let damaged = || StorageError::damaged(CLUSTER_FILE, "its content makes no sense to this version");
    parsed.map(Some).ok_or_else(damaged)
}

fn parse_cluster(content: &[u8]) -> Option<(ClusterFacts, Belonging)> {
    let (kind, rest) = content.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (facts, records) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let belonging = match (kind, records) {
        (0, []) => Belonging::Together,
        (1, []) => Belonging::Alone,
        (2, records) => Belonging::Founding(records.to_vec()),
        _ => return None,
    };
    Some((ClusterFacts::decode(facts).ok()?, belonging))
}

/// What a cluster is to be.
#[derive(Debug)]
pub(super) struct Content {
    partition_bits: u8,
    settings: Settings,
}

impl Content {
    /// What the member's own file says, and a person asked for on top of it.
    pub(super) fn new(shared: &Shared, request: &InitRequest) -> Result<Self, ControlError> {
        let create = &shared.config.create;
        let partition_bits = match request.partitions {
            None => create.partition_bits,
            Some(count) => bits_of(count)?,
        };
        let mut changes: BTreeMap<&String, &String> = create.settings.iter().collect();
        changes.extend(&request.settings);
        let changes: Vec<(String, String)> =
            changes.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let canonical = Settings::default().validate_change(&changes).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            ControlError::InvalidCluster(problems.join("; "))
        })?;
        let settings =
            Settings::from_entries(canonical.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Ok(Self { partition_bits, settings })
    }

    /// Refuses what is not the content of the cluster that there is.
    fn compare(&self, shared: &Shared) -> Result<(), ControlError> {
        let core = shared.core.borrow();
        let cluster = core.cluster.as_ref().ok_or(ControlError::NoCluster)?;
        if cluster.partition_bits != self.partition_bits {
            return Err(ControlError::OtherContent("the number of partitions".to_owned()));
        }
        let present = core.engine.settings();
        // What kith manages itself follows from the rest, later.
        let differs = DEFINITIONS
            .iter()
            .find(|known| !known.managed && known.text(present) != known.text(&self.settings));
        differs.map_or(Ok(()), |known| Err(ControlError::OtherContent(format!("`{}`", known.name))))
    }
}

fn bits_of(partitions: u32) -> Result<u8, ControlError> {
    let bits = u8::try_from(partitions.trailing_zeros()).unwrap_or(u8::MAX);
    if partitions.is_power_of_two() && bits <= MAX_PARTITION_BITS {
        return Ok(bits);
    }
    let most = 1u32 << MAX_PARTITION_BITS;
    Err(ControlError::InvalidCluster(format!("`partitions` is a power of two up to {most}")))
}

/// Answers `kith init`. Repeating it with the same content changes nothing.
pub(super) async fn init(shared: &Rc<Shared>, request: &InitRequest) -> Result<(), ControlError> {
    departure::check(shared)?;
    let content = Content::new(shared, request)?;
    while shared.view.borrow().creating.claiming {
        sleep(POLL).await;
    }
    if shared.core.borrow().cluster.is_none() {
        create(shared, &content, Silence::Passes).await?;
    }
    membership::check_records(shared)?;
    let settled = async {
        while shared.view.borrow().creating.founding {
            sleep(POLL).await;
        }
    };
    if timeout(INIT_DEADLINE, settled).await.is_err() {
        return Err(ControlError::Storage("the cluster's first records are not on the disk yet".to_owned()));
    }
    content.compare(shared)
}

/// What it means for a claim that a member does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It may know a cluster.
    Forbids,
    /// A person decided.
    Passes,
}

/// Claims the creation of a cluster and creates it with this member as its first, unless that turns out to be
/// somebody else's; done, too, if this member was let in somewhere meanwhile.
pub(super) async fn create(
    shared: &Rc<Shared>,
    content: &Content,
    silence: Silence,
) -> Result<(), ControlError> {
    let now_us = shared.clock.now().mono_us;
    let begun = {
        let creating = &mut shared.view.borrow_mut().creating;
        if creating.claiming { Err(shared.config.name.clone()) } else { creating.begin(now_us) }
    };
    begun.map_err(ControlError::Creating)?;
    let mut promises = Vec::new();
    let claimed = claim(shared, silence, &mut promises).await;
    // From here to the creation nothing is waited for.
    let created = claimed.and_then(|()| {
        let goes_first = {
            let view = shared.view.borrow();
            let promise = view.creating.promised(shared.clock.now().mono_us);
            promise.map(|promise| promise.name.clone())
        };
        match goes_first {
            Some(name) => Err(ControlError::Creating(name)),
            None if shared.core.borrow().cluster.is_some() => Ok(()),
            None => begin_founding(shared, content),
        }
    });
    shared.view.borrow_mut().creating.claiming = false;
    if created.is_err() {
        join_all(promises.iter_mut().map(|link| send_control(&mut link.writer, &Control::Release))).await;
    }
    created
}

/// Asks everybody who may know of a cluster, or may be about to create one, for a promise. `Ok` when nobody
/// objects, or this member was let in.
async fn claim(shared: &Rc<Shared>, silence: Silence, promises: &mut Vec<Link>) -> Result<(), ControlError> {
    let began = Instant::now();
    let mut asked = BTreeSet::new();
    let mut silent = None;
    let mut refused = None;
    loop {
        let addresses: Vec<String> = membership::seeds(shared).difference(&asked).cloned().collect();
        if addresses.is_empty() {
            break;
        }
        let ask = async |address: &String| {
            let found = timeout(CLAIM_ANSWER, membership::ask(shared, address, &Control::Claim)).await;
            found.unwrap_or_else(|_| Found::Silent("it did not answer".to_owned()))
        };
        let answers = join_all(addresses.iter().map(ask)).await;
        for (address, found) in addresses.into_iter().zip(answers) {
            match found {
                Found::Joined => return Ok(()),
                Found::Myself => {}
                Found::Promised { link, callers } => {
                    promises.push(*link);
                    for caller in callers {
                        membership::note_address(shared, &caller);
                    }
                }
                Found::Refused(message, code) => {
                    let (address, code) = (address.clone(), code.to_owned());
                    refused = Some(ControlError::Refused { address, code, message });
                }
                Found::NoCluster(..) => silent = Some((address.clone(), "it did not promise".to_owned())),
                Found::Silent(reason) => silent = Some((address.clone(), reason)),
            }
            asked.insert(address);
        }
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    match silent {
        Some((address, reason)) if silence == Silence::Forbids => {
            Err(ControlError::Unreachable { address, reason })
        }
        // What was promised first may be over.
        _ if began.elapsed() > CLAIM_DEADLINE => Err(ControlError::Unreachable {
            address: asked.into_iter().collect::<Vec<_>>().join(", "),
            reason: "they took too long to answer".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Answers a claim at a member that knows no cluster.
pub(super) async fn answer_claim(shared: &Rc<Shared>, mut link: Link, theirs: &Introduction) {
    let member = link.peer.member;
    let promised = {
        let me = shared.core.borrow().engine.identity().member;
        let now_us = shared.clock.now().mono_us;
        let known = membership::note_address(shared, &theirs.address);
        let creating = &mut shared.view.borrow_mut().creating;
        if known {
            let promised = creating.promise((me, &shared.config.name), (member, &theirs.name), now_us);
            promised.map_err(Refusal::Creating)
        } else {
            Err(Refusal::NotReady("it can't remember more members that look for a cluster".to_owned()))
        }
    };
    let number = match promised {
        Ok(number) => number,
        Err(refusal) => return shared.refuse(link, &theirs.address, Some(&theirs.name), refusal).await,
    };
    let callers = {
        let view = shared.view.borrow();
        view.callers.iter().filter(|caller| **caller != theirs.address).cloned().collect()
    };
    if !send_control(&mut link.writer, &Control::Promised { callers }).await {
        return;
    }
    // A link that ends tells nothing: the claim may go on with what was promised.
    if next_control(&mut link.reader).await == Some(Control::Release) {
        shared.view.borrow_mut().creating.release(number);
    }
}

/// Creates the cluster: writes the mark, then the first records.
fn begin_founding(shared: &Rc<Shared>, content: &Content) -> Result<(), ControlError> {
    let cluster = ClusterFacts {
        id: uuid::Uuid::new_v4().as_u128(),
        name: shared.config.cluster.clone(),
        partition_bits: content.partition_bits,
    };
    let admitted = timestamp::time_of_ms(shared.clock.now().wall_ms);
    let entry = membership::own_entry(shared, MemberState::Active, admitted);
    let records = shared.with(|core| {
        let mut entries = vec![(ROSTER, entry_key(core.engine.identity().member), entry.encode())];
        let settings = content.settings.records();
        entries
            .extend(settings.map(|(name, value)| (SETTINGS, name.as_bytes().to_vec(), value.into_bytes())));
        core.engine.stamp_first_records(&entries)
    });
    store_cluster(&shared.disk, &cluster, &Belonging::Founding(records.clone()))
        .map_err(|error| ControlError::Storage(error.to_string()))?;
    let id = uuid::Uuid::from_u128(cluster.id);
    tracing::info!(cluster = cluster.name, %id, "cluster created");
    found(shared, cluster, &records);
    Ok(())
}

/// Stores a cluster's first records, whether for the first time or again, and removes the mark once they are
/// durable.
pub(super) fn found(shared: &Rc<Shared>, cluster: ClusterFacts, records: &[u8]) {
    {
        let creating = &mut shared.view.borrow_mut().creating;
        (creating.founding, creating.alone) = (true, true);
    }
    let position = shared.with(|core| {
        core.engine.set_partition_bits(cluster.partition_bits);
        core.cluster = Some(cluster.clone());
        core.engine.store_first_records(records)
    });
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        while shared.core.borrow().engine.positions().synced < position {
            sleep(POLL).await;
        }
        while let Err(error) = store_cluster(&shared.disk, &cluster, &Belonging::Alone) {
            tracing::error!(%error, "the creation of the cluster could not be finished; it is tried again");
            sleep(MARK_RETRY).await;
        }
        shared.view.borrow_mut().creating.founding = false;
        shared.changed.notify_one();
    });
}

/// Notes durably that there are other members, before the first of them is let in.
pub(super) fn note_others(shared: &Shared) -> Result<(), StorageError> {
    if !shared.view.borrow().creating.alone {
        return Ok(());
    }
    if let Some(cluster) = &shared.core.borrow().cluster {
        store_cluster(&shared.disk, cluster, &Belonging::Together)?;
    }
    shared.view.borrow_mut().creating.alone = false;
    Ok(())
}

#[cfg(test)]
mod tests;
