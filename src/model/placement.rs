//! Placement: which members own which partition.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each member has a score for each partition,
//! and the highest scores own it, distinct zones first. So placement is a pure function of roster
//! and settings, there is no table to agree on, and one member's coming or going moves only what it
//! must.
//!
//! Two owner sets per partition say what is changing: *old* (active and leaving members, the
//! replication factor in force) and *new* (active and joining members, the replication factor to
//! be). Invariants: the scores never change between versions; liveness plays no part; a higher
//! replication factor only appends owners. Which owners live, and what is sent to them, is left to
//! the engine.

use super::key::KeyHash;
use super::limits::MAX_PARTITION_BITS;
use super::roster::{MemberState, Roster};
use super::settings::Settings;
use super::timestamp::MemberId;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One member that must hold a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The member.
    pub member: MemberId,
    /// Whether it is one of the old owners.
    pub in_old: bool,
    /// Whether it is one of the new owners.
    pub in_new: bool,
}

/// The owners of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnerSet {
    /// In order of preference: the old owners, then those that are only new.
    pub owners: SmallVec<[Owner; 4]>,
}

impl OwnerSet {
    /// Whether a member is one of the owners.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.position(member).is_some()
    }

    /// A member's place in the order of preference.
    #[must_use]
    pub fn position(&self, member: MemberId) -> Option<usize> {
        self.owners.iter().position(|owner| owner.member == member)
    }

    /// How many old owners there are.
    #[must_use]
    pub fn old_len(&self) -> usize {
        self.owners.iter().filter(|owner| owner.in_old).count()
    }

    /// How many new owners there are.
    #[must_use]
    pub fn new_len(&self) -> usize {
        self.owners.iter().filter(|owner| owner.in_new).count()
    }

    /// Whether old and new owners are the same: nothing is moving.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owners.iter().all(|owner| owner.in_old && owner.in_new)
    }

    fn of(old: &[MemberId], new: &[MemberId]) -> Self {
        let first =
            old.iter().map(|member| Owner { member: *member, in_old: true, in_new: new.contains(member) });
        let only_new = new.iter().filter(|member| !old.contains(member));
        let last = only_new.map(|member| Owner { member: *member, in_old: false, in_new: true });
        Self { owners: first.chain(last).collect() }
    }
}

/// The owners of all partitions under one roster and one replication factor.
#[derive(Debug, Clone)]
pub struct Placement {
    partition_bits: u8,
    digest: u64,
    sets: Vec<Arc<OwnerSet>>,
    system: Arc<OwnerSet>,
    nobody: Arc<OwnerSet>,
}

impl Placement {
    /// Computes the owners of `1 << partition_bits` partitions (more bits than
    /// [`MAX_PARTITION_BITS`] count as that many).
    ///
    /// While no member is active or leaving, the new owners stand in for the old; while none is
    /// active or joining, the old stand in for the new.
    #[must_use]
    pub fn compute(partition_bits: u8, roster: &Roster, settings: &Settings) -> Self {
        let partition_bits = partition_bits.min(MAX_PARTITION_BITS);
        let candidates = candidates(roster);
        let old = side(&candidates, MemberState::Joining, settings.replication_factor_in_force);
        let new = side(&candidates, MemberState::Leaving, settings.replication_factor);
        let (old, new) = match (old.candidates.is_empty(), new.candidates.is_empty()) {
            (true, _) => (new.clone(), new),
            (_, true) => (old.clone(), old),
            _ => (old, new),
        };
        let sets = (0..1u16 << partition_bits).map(|partition| {
            let first = old.choose(partition);
            let second = if old == new { first.clone() } else { new.choose(partition) };
            Arc::new(OwnerSet::of(&first, &second))
        });
        let everyone = roster.members().map(|(member, _)| Owner { member, in_old: true, in_new: true });
        Self {
            partition_bits,
            digest: digest(partition_bits, roster, settings),
            sets: sets.collect(),
            system: Arc::new(OwnerSet { owners: everyone.collect() }),
            nobody: Arc::default(),
        }
    }

    /// 64 bits over all that placement depends on: members, their states and zones, both
    /// replication factors, and the number of partitions. Names and addresses play no part.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The logarithm of the number of partitions.
    #[must_use]
    pub const fn partition_bits(&self) -> u8 {
        self.partition_bits
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.sets.len()
    }

    /// The owners of a partition; nobody if there is no such partition.
    #[must_use]
    pub fn set(&self, partition: u16) -> &Arc<OwnerSet> {
        self.sets.get(usize::from(partition)).unwrap_or(&self.nobody)
    }

    /// The owners of the system collections: every member, by id, whatever its state.
    #[must_use]
    pub const fn system(&self) -> &Arc<OwnerSet> {
        &self.system
    }

    /// The partition of a key.
    #[must_use]
    pub const fn partition_of(&self, hash: KeyHash) -> u16 {
        hash.partition(self.partition_bits)
    }

    /// The owners of a key.
    #[must_use]
    pub fn set_of(&self, hash: KeyHash, is_system: bool) -> &Arc<OwnerSet> {
        if is_system { &self.system } else { self.set(self.partition_of(hash)) }
    }
}

/// A member that may own partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    member: MemberId,
    state: MemberState,
    /// Equal for members that share a zone, and for no others.
    zone: usize,
}

fn candidates(roster: &Roster) -> Vec<Candidate> {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    let numbered = roster.members().enumerate().map(|(number, (member, known))| {
        let name = known.entry.zone.as_str();
        let zone = if name.is_empty() { number } else { *zones.entry(name).or_insert(number) };
        Candidate { member, state: known.entry.state, zone }
    });
    numbered.collect()
}

/// The old or the new side: who may be chosen, and how many are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    candidates: Vec<Candidate>,
    copies: usize,
}

fn side(candidates: &[Candidate], without: MemberState, replication_factor: u8) -> Side {
    let candidates = candidates.iter().filter(|candidate| candidate.state != without).copied();
    Side { candidates: candidates.collect(), copies: usize::from(replication_factor) }
}

impl Side {
    /// The partition's owners in order of preference: each the best of those whose zone is not
    /// used yet, and once all zones are used, the best of the others.
    fn choose(&self, partition: u16) -> SmallVec<[MemberId; 8]> {
        let mut chosen: SmallVec<[Candidate; 8]> = SmallVec::new();
        let scored: Vec<(u64, Candidate)> = self
            .candidates
            .iter()
            .map(|candidate| (score(candidate.member, partition), *candidate))
            .collect();
        while chosen.len() < self.copies.min(scored.len()) {
            let free = scored.iter().filter(|(_, candidate)| !chosen.contains(candidate));
            let best = free.max_by_key(|(score, candidate)| {
                let new_zone = chosen.iter().all(|other| other.zone != candidate.zone);
                (new_zone, *score, candidate.member)
            });
            match best {
                Some((_, candidate)) => chosen.push(*candidate),
                None => break,
            }
        }
        chosen.iter().map(|candidate| candidate.member).collect()
    }
}

/// A member's score for a partition. It decides where data lies and so must never change; two
/// rounds of the finalizer of `SplitMix64` (Steele, Lea and Flood, 2014) spread it evenly.
const fn score(member: MemberId, partition: u16) -> u64 {
    let step = (partition as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mix(mix(member.0).wrapping_add(step))
}

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

fn digest(partition_bits: u8, roster: &Roster, settings: &Settings) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("kith 2026 placement digest");
    hasher.update(&[partition_bits, settings.replication_factor_in_force, settings.replication_factor]);
    for (id, member) in roster.members() {
        let state = match member.entry.state {
            MemberState::Joining => 0,
            MemberState::Active => 1,
            MemberState::Leaving => 2,
        };
        let zone = member.entry.zone.as_bytes();
        hasher.update(&id.0.to_le_bytes()).update(&[state]);
        hasher.update(&(zone.len() as u64).to_le_bytes()).update(zone);
    }
    let head = hasher.finalize().as_bytes().first_chunk().copied();
    u64::from_le_bytes(head.unwrap_or_default())
}
