//! Placement: which members own which partition.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each member has a score for each partition,
//! and the highest scores own it, distinct zones first. So placement is a pure function of roster
//! and settings, there is no table to agree on, and one member's coming or going moves only what it
//! must.
//!
//! What is to change is taken in *steps*: a joining member turns active, the replication factor in force
//! moves by one, a leaving member goes, a member's zone becomes its next one. Of joining members at most
//! [`MAX_ARRIVING`] count at a time, of the other steps one ([`Step`]); the rest waits its turn. Owner sets per
//! partition say what is changing: *old* (what is in force), *new* (after all steps that count), and one
//! for each step: what *old* becomes when that one alone is taken. Steps are taken one after the other, in
//! no order that anybody knows, so each of those sets may be the next one in
//! force; a level that is met in all of them is still met in whichever it is. Invariants: the scores
//! never change between versions; liveness plays no part; a higher replication factor only appends
//! owners; a member that does not hold its name (two may have been let in under one at the same time) owns
//! nothing. Which owners live, what is sent to them, and when a step is taken is left to the engine.

use super::key::KeyHash;
use super::limits::{MAX_ARRIVING, MAX_PARTITION_BITS};
use super::roster::{MemberState, Roster, RosterEntry};
use super::settings::Settings;
use super::timestamp::MemberId;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One member that must hold a partition. One that is neither old nor new will be an owner between two
/// steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The member.
    pub member: MemberId,
    /// Whether it is one of the old owners.
    pub in_old: bool,
    /// Whether it is one of the new owners.
    pub in_new: bool,
}

/// Places in [`OwnerSet::owners`].
pub type Side = SmallVec<[usize; 8]>;

/// The owners of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnerSet {
    /// In order of preference: the old owners, then those that are only new, then those that may be
    /// before the new ones are.
    pub owners: SmallVec<[Owner; 4]>,
    /// What the old owners become when one step is taken, if that is not simply the new owners.
    alone: Vec<Side>,
    /// Places of the members that own the partition once [`Placement::step`] is taken; empty if those are
    /// the old owners.
    stepped: Side,
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

    /// The members of the old owners.
    pub fn old(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.owners.iter().filter(|owner| owner.in_old).map(|owner| owner.member)
    }

    /// The sets in each of which a level must be met: the old owners first, and only those while
    /// nothing is moving.
    #[must_use]
    pub fn sides(&self) -> SmallVec<[Side; 2]> {
        let side = |fits: fn(&Owner) -> bool| {
            self.owners.iter().enumerate().filter(|(_, owner)| fits(owner)).map(|(at, _)| at).collect()
        };
        let mut sides: SmallVec<[Side; 2]> = SmallVec::new();
        sides.push(side(|owner| owner.in_old));
        if !self.is_settled() {
            sides.push(side(|owner| owner.in_new));
        }
        sides.extend(self.alone.iter().cloned());
        sides
    }

    /// The owners of the partition once [`Placement::step`] is taken; nobody if the step leaves the old
    /// owners as they are.
    pub fn after_step(&self) -> impl ExactSizeIterator<Item = &Owner> + '_ {
        let owners: SmallVec<[&Owner; 8]> =
            self.stepped.iter().filter_map(|at| self.owners.get(*at)).collect();
        owners.into_iter()
    }

    fn of(old: &[MemberId], new: &[MemberId], alone: &[Chosen], stepped: Option<&Chosen>) -> Self {
        let mut owners: SmallVec<[Owner; 4]> = SmallVec::new();
        for member in old.iter().chain(new).chain(alone.iter().chain(stepped).flatten()).copied() {
            if owners.iter().all(|owner| owner.member != member) {
                owners.push(Owner { member, in_old: old.contains(&member), in_new: new.contains(&member) });
            }
        }
        let mut set = Self { owners, alone: Vec::new(), stepped: Side::new() };
        let moves = |stepped: &&Chosen| {
            stepped.len() != old.len() || stepped.iter().any(|member| !old.contains(member))
        };
        let after = stepped.filter(moves).into_iter().flatten();
        set.stepped = after.filter_map(|member| set.position(*member)).collect();
        for chosen in alone.iter().chain(stepped) {
            let mut side: Side = chosen.iter().filter_map(|member| set.position(*member)).collect();
            side.sort_unstable();
            if !set.sides().contains(&side) {
                set.alone.push(side);
            }
        }
        set
    }
}

/// A change of the placement that is no join. At most one is under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The replication factor in force becomes this, one more or one less.
    Copies(u8),
    /// A leaving member goes.
    Leave(MemberId),
    /// A member's next zone becomes its zone.
    Zone(MemberId),
}

impl Step {
    /// The step whose turn it is: of the replication factor; else of the leaving member, else of the
    /// member that changes its zone, whose entry is the oldest.
    fn of(roster: &Roster, holders: &BTreeSet<MemberId>, settings: &Settings) -> Option<Self> {
        let (in_force, wanted) = (settings.replication_factor_in_force, settings.replication_factor);
        match in_force.cmp(&wanted) {
            Ordering::Less => return Some(Self::Copies(in_force + 1)),
            Ordering::Greater => return Some(Self::Copies(in_force - 1)),
            Ordering::Equal => {}
        }
        let oldest = |fits: fn(&RosterEntry) -> bool| {
            let members = roster.members().filter(|(id, known)| holders.contains(id) && fits(&known.entry));
            members.map(|(id, known)| (known.timestamp, id)).min().map(|(_, id)| id)
        };
        let leaves = oldest(|entry| entry.state == MemberState::Leaving).map(Self::Leave);
        let moves = |entry: &RosterEntry| entry.state == MemberState::Active && entry.changes_zone();
        leaves.or_else(|| oldest(moves).map(Self::Zone))
    }

    /// The member whose roster entry this step follows from.
    #[must_use]
    pub const fn member(self) -> Option<MemberId> {
        match self {
            Self::Copies(_) => None,
            Self::Leave(member) | Self::Zone(member) => Some(member),
        }
    }
}

/// The owners of all partitions under one roster and one replication factor.
#[derive(Debug, Clone)]
pub struct Placement {
    partition_bits: u8,
    digest: u64,
    transition: u64,
    sets: Vec<Arc<OwnerSet>>,
    system: Arc<OwnerSet>,
    nobody: Arc<OwnerSet>,
    arriving: Vec<MemberId>,
    step: Option<Step>,
}

impl Placement {
    /// Computes the owners of `1 << partition_bits` partitions (more bits than
    /// [`MAX_PARTITION_BITS`] count as that many).
    ///
    /// While no member is active or leaving, the new owners stand in for the old; while none but the one
    /// that leaves is there, it stays. Of the joining members only the first
    /// [`MAX_ARRIVING`] count: each of them gets every write of what it would own alone.
    #[must_use]
    pub fn compute(partition_bits: u8, roster: &Roster, settings: &Settings) -> Self {
        let partition_bits = partition_bits.min(MAX_PARTITION_BITS);
        let holders = roster.holders();
        let arriving = arriving(roster, &holders);
        let step = Step::of(roster, &holders, settings);
        let choice = |joiners: &[MemberId], step: Option<Step>| {
            Choice::of(roster, &holders, settings.replication_factor_in_force, joiners, step)
        };
        let old = choice(&[], None);
        let new = choice(&arriving, step);
        let (old, new) = match (old.candidates.is_empty(), new.candidates.is_empty()) {
            (true, _) => (new.clone(), new),
            (_, true) => (old.clone(), old),
            _ => (old, new),
        };
        let moves = old != new;
        let alone: Vec<Choice> = arriving.iter().filter(|_| moves).map(|one| choice(&[*one], None)).collect();
        let stepped = step.filter(|_| moves).map(|step| choice(&[], Some(step)));
        let stepped = stepped.filter(|choice| !choice.candidates.is_empty());
        let sets = (0..1u16 << partition_bits).map(|partition| {
            let first = old.choose(partition);
            let second = if moves { new.choose(partition) } else { first.clone() };
            let alone: Vec<Chosen> = alone.iter().map(|side| side.choose(partition)).collect();
            let stepped = stepped.as_ref().map(|side| side.choose(partition));
            Arc::new(OwnerSet::of(&first, &second, &alone, stepped.as_ref()))
        });
        let everyone = holders.iter().map(|member| Owner { member: *member, in_old: true, in_new: true });
        let transition = transition(roster, settings, step);
        Self {
            partition_bits,
            digest: digest(partition_bits, roster, &holders, settings, &arriving, transition),
            transition,
            sets: sets.collect(),
            system: Arc::new(OwnerSet { owners: everyone.collect(), ..OwnerSet::default() }),
            nobody: Arc::default(),
            arriving,
            step,
        }
    }

    /// The step under way that is no join.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        self.step
    }

    /// Tells the step under way from every other one, also from one that looks the same and was begun
    /// anew: what was true of an owner to be during the earlier one need not be true now.
    #[must_use]
    pub const fn transition(&self) -> u64 {
        self.transition
    }

    /// Whether a joining member is among those that own partitions already; others wait for it.
    #[must_use]
    pub fn is_arriving(&self, member: MemberId) -> bool {
        self.arriving.contains(&member)
    }

    /// 64 bits over all that placement depends on: members, their states and zones, whether they
    /// hold their names, both replication factors, the number of partitions, and
    /// [`Placement::transition`]. The names themselves and addresses play no part.
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

    /// The owners of the system collections: every member that holds its name, by id, whatever its
    /// state.
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
    /// Equal for members that share a zone, and for no others.
    zone: usize,
}

/// The joining members that count, those first that were admitted first.
fn arriving(roster: &Roster, holders: &BTreeSet<MemberId>) -> Vec<MemberId> {
    let members = roster.members().filter(|(member, _)| holders.contains(member));
    let joining = members.filter(|(_, known)| known.entry.state == MemberState::Joining);
    let mut joining: Vec<_> = joining.map(|(member, known)| (known.entry.admitted, member)).collect();
    joining.sort_unstable();
    joining.into_iter().take(MAX_ARRIVING).map(|(_, member)| member).collect()
}

/// Members that were chosen, in order of preference.
type Chosen = SmallVec<[MemberId; 8]>;

/// Who may be chosen, and how many are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    candidates: Vec<Candidate>,
    copies: usize,
}

/// The best candidates so far, highest score first.
type Ranking = SmallVec<[(u64, Candidate); 8]>;

impl Choice {
    /// What is in force, changed by these joining members and this step.
    fn of(
        roster: &Roster,
        holders: &BTreeSet<MemberId>,
        in_force: u8,
        joiners: &[MemberId],
        step: Option<Step>,
    ) -> Self {
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        let counts = |member: MemberId, state: MemberState| match state {
            MemberState::Joining => joiners.contains(&member),
            MemberState::Active => true,
            MemberState::Leaving => step != Some(Step::Leave(member)),
        };
        let members = roster.members().filter(|(member, _)| holders.contains(member));
        let members = members.filter(|(member, known)| counts(*member, known.entry.state));
        let numbered = members.enumerate().map(|(number, (member, known))| {
            let next = known.entry.next_zone.as_deref().filter(|_| step == Some(Step::Zone(member)));
            let name = next.unwrap_or(&known.entry.zone);
            let zone = if name.is_empty() { number } else { *zones.entry(name).or_insert(number) };
            Candidate { member, zone }
        });
        let copies = if let Some(Step::Copies(copies)) = step { copies } else { in_force };
        Self { candidates: numbered.collect(), copies: usize::from(copies) }
    }

    /// The partition's owners in order of preference: the best of each zone, the best zones first;
    /// and if there are not enough zones, the best of the others.
    fn choose(&self, partition: u16) -> Chosen {
        let scored =
            || self.candidates.iter().map(|candidate| (score(candidate.member, partition), *candidate));
        let mut chosen = Ranking::new();
        for (score, candidate) in scored() {
            // Most end here: one pass over all members must stay cheap.
            if !fits(&chosen, self.copies, score, candidate) {
                continue;
            }
            match chosen.iter().position(|(_, other)| other.zone == candidate.zone) {
                Some(rival)
                    if chosen.get(rival).is_some_and(|rival| rank(rival) > rank(&(score, candidate))) =>
                {
                    continue;
                }
                Some(rival) => drop(chosen.remove(rival)),
                None => {}
            }
            insert(&mut chosen, self.copies, score, candidate);
        }
        if chosen.len() < self.copies.min(self.candidates.len()) {
            let missing = self.copies - chosen.len();
            let mut others = Ranking::new();
            for (score, candidate) in scored() {
                let taken = chosen.iter().any(|(_, other)| other.member == candidate.member);
                if !taken && fits(&others, missing, score, candidate) {
                    insert(&mut others, missing, score, candidate);
                }
            }
            chosen.extend(others);
        }
        chosen.iter().map(|(_, candidate)| candidate.member).collect()
    }
}

/// What decides: the score, and for equal scores the id.
const fn rank((score, candidate): &(u64, Candidate)) -> (u64, MemberId) {
    (*score, candidate.member)
}

/// Whether a candidate belongs among the best `length`.
fn fits(ranking: &Ranking, length: usize, score: u64, candidate: Candidate) -> bool {
    ranking.len() < length || ranking.last().is_some_and(|worst| rank(worst) < rank(&(score, candidate)))
}

fn insert(ranking: &mut Ranking, length: usize, score: u64, candidate: Candidate) {
    let place = ranking.partition_point(|better| rank(better) > rank(&(score, candidate)));
    ranking.insert(place, (score, candidate));
    ranking.truncate(length);
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

fn transition(roster: &Roster, settings: &Settings, step: Option<Step>) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("kith 2026 placement transition");
    let entry = step.and_then(Step::member).and_then(|member| roster.get(member));
    match (step, entry) {
        (Some(Step::Copies(_)), _) => hasher.update(&settings.replication_factor_time.to_le_bytes()),
        (Some(step), Some(known)) => {
            let kind = [0, u8::from(matches!(step, Step::Leave(_)))];
            hasher.update(&kind).update(&known.timestamp.time.to_le_bytes())
        }
        _ => &mut hasher,
    };
    for (member, _) in roster.removed() {
        hasher.update(&member.0.to_le_bytes());
    }
    head(&hasher)
}

fn digest(
    partition_bits: u8,
    roster: &Roster,
    holders: &BTreeSet<MemberId>,
    settings: &Settings,
    arriving: &[MemberId],
    transition: u64,
) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("kith 2026 placement digest");
    hasher.update(&[partition_bits, settings.replication_factor_in_force, settings.replication_factor]);
    hasher.update(&transition.to_le_bytes());
    for (id, member) in roster.members() {
        let state = match member.entry.state {
            MemberState::Joining if arriving.contains(&id) => 0,
            MemberState::Active => 1,
            MemberState::Leaving => 2,
            MemberState::Joining => 3,
        };
        hasher.update(&id.0.to_le_bytes()).update(&[state, u8::from(holders.contains(&id))]);
        for zone in [Some(&member.entry.zone), member.entry.next_zone.as_ref()] {
            let bytes = zone.map(String::as_bytes).unwrap_or_default();
            hasher.update(&[u8::from(zone.is_some())]);
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    head(&hasher)
}

fn head(hasher: &blake3::Hasher) -> u64 {
    let head = hasher.finalize().as_bytes().first_chunk().copied();
    u64::from_le_bytes(head.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::limits::{MAX_MEMBERS, MAX_REPLICATION_FACTOR};
    use super::super::roster::{RosterEntry, entry_key, removal_key};
    use super::super::timestamp::Timestamp;
    use super::*;
    use MemberState::{Active, Joining, Leaving};
    use proptest::prelude::*;

    fn entry(number: u16, state: MemberState, zone: &str) -> RosterEntry {
        let mut public_key = [0; 32];
        public_key[..2].copy_from_slice(&number.to_le_bytes());
        RosterEntry {
            name: format!("member{number}"),
            public_key,
            address: "127.0.0.1:7400".to_owned(),
            http_address: "127.0.0.1:7401".to_owned(),
            zone: zone.to_owned(),
            next_zone: None,
            state,
            admitted: u64::from(number),
        }
    }

    fn add(roster: &mut Roster, entry: &RosterEntry) -> MemberId {
        let id = entry.id();
        assert!(roster.apply(&entry_key(id), Some(&entry.encode()), Timestamp { time: 1, member: id }));
        id
    }

    /// Members 0, 1, 2… in the states and zones given.
    fn roster(members: &[(MemberState, &str)]) -> Roster {
        let mut roster = Roster::default();
        for (number, (state, zone)) in (0..).zip(members) {
            add(&mut roster, &entry(number, *state, zone));
        }
        roster
    }

    fn id(number: u16) -> MemberId {
        entry(number, Active, "").id()
    }

    fn copies(in_force: u8, target: u8) -> Settings {
        Settings { replication_factor: target, replication_factor_in_force: in_force, ..Settings::default() }
    }

    fn members(set: &OwnerSet) -> Vec<MemberId> {
        set.owners.iter().map(|owner| owner.member).collect()
    }

    fn every_set(placement: &Placement) -> impl Iterator<Item = &OwnerSet> {
        (0..placement.partitions()).map(|partition| &**placement.set(partition as u16))
    }

    /// Said otherwise than in `choose`: rank all, take the first of each zone, then the rest.
    fn reference(roster: &Roster, partition: u16, copies: usize) -> Vec<MemberId> {
        let mut ranked: Vec<(u64, MemberId, String)> = roster
            .members()
            .map(|(id, known)| (score(id, partition), id, known.entry.zone.clone()))
            .collect();
        ranked.sort_by_key(|(score, id, _)| std::cmp::Reverse((*score, *id)));
        let mut seen = BTreeSet::new();
        let (first, rest): (Vec<_>, Vec<_>) =
            ranked.into_iter().partition(|(_, _, zone)| zone.is_empty() || seen.insert(zone.clone()));
        first.into_iter().chain(rest).map(|(_, id, _)| id).take(copies).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn owners_are_distinct_as_many_as_there_can_be_and_in_distinct_zones_first(
            zones in prop::collection::vec(prop::sample::select(vec!["", "a", "b", "c"]), 0..12),
            factor in 1..=MAX_REPLICATION_FACTOR,
        ) {
            let states: Vec<_> = zones.iter().map(|zone| (Active, *zone)).collect();
            let roster = roster(&states);
            let placement = Placement::compute(4, &roster, &copies(factor, factor));
            let expected = zones.len().min(factor.into());
            for partition in 0..16 {
                let owners = members(placement.set(partition));
                prop_assert_eq!(&owners, &reference(&roster, partition, expected));
                prop_assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), expected);
            }
        }

        #[test]
        fn a_newcomer_displaces_owners_and_moves_nothing_else(
            count in 1u16..12,
            factor in 1..=MAX_REPLICATION_FACTOR,
        ) {
            let mut roster = roster(&vec![(Active, ""); count.into()]);
            let before = Placement::compute(6, &roster, &copies(factor, factor));
            let newcomer = add(&mut roster, &entry(count, Active, ""));
            let after = Placement::compute(6, &roster, &copies(factor, factor));
            for (old, new) in every_set(&before).zip(every_set(&after)) {
                let (old, new) = (members(old), members(new));
                let stayed: Vec<_> = new.iter().copied().filter(|owner| *owner != newcomer).collect();
                prop_assert!(old.starts_with(&stayed));
                prop_assert!(new.len() >= old.len());
            }
        }

        #[test]
        fn old_and_new_owners_are_those_of_the_rosters_before_and_after(
            states in prop::collection::vec(prop::sample::select(vec![Joining, Active, Leaving]), 1..10),
            zones in prop::collection::vec(prop::sample::select(vec!["", "a", "b"]), 10),
            in_force in 1..=MAX_REPLICATION_FACTOR,
            target in 1..=MAX_REPLICATION_FACTOR,
        ) {
            let joining = states.iter().enumerate().filter(|(_, state)| **state == Joining);
            let waits: BTreeSet<usize> = joining.map(|(number, _)| number).skip(MAX_ARRIVING).collect();
            let leaving = (0..states.len()).filter(|at| in_force == target && states[*at] == Leaving);
            let leaves = leaving.min_by_key(|at| id(*at as u16));
            let side = |fits: &dyn Fn(usize) -> bool| {
                let mut roster = Roster::default();
                for (number, (state, zone)) in states.iter().zip(&zones).enumerate() {
                    if fits(number) && !waits.contains(&number) {
                        add(&mut roster, &entry(number as u16, *state, zone));
                    }
                }
                roster
            };
            let all: Vec<_> = states.iter().copied().zip(zones.iter().copied()).collect();
            let placement = Placement::compute(3, &roster(&all), &copies(in_force, target));
            let (before, after) = (side(&|at| states[at] != Joining), side(&|at| Some(at) != leaves));
            let next = (in_force + u8::from(in_force < target)) - u8::from(in_force > target);
            let (before, in_force) = if before.is_empty() { (&after, next) } else { (&before, in_force) };
            let (after, next) = if after.is_empty() { (before, in_force) } else { (&after, next) };
            for partition in 0..8 {
                let set = placement.set(partition);
                let old: Vec<_> = set.owners.iter().filter(|o| o.in_old).map(|o| o.member).collect();
                let mut new: Vec<_> = set.owners.iter().filter(|o| o.in_new).map(|o| o.member).collect();
                prop_assert_eq!(&old, &reference(before, partition, in_force.into()));
                prop_assert!(members(set).starts_with(&old));
                let mut expected = reference(after, partition, next.into());
                let joining = states.iter().filter(|state| **state == Joining).count();
                if joining + usize::from(placement.step().is_some()) <= 1 {
                    let same = old.iter().collect::<BTreeSet<_>>() == expected.iter().collect();
                    prop_assert_eq!(set.is_settled(), same);
                }
                new.sort();
                expected.sort();
                prop_assert_eq!(new, expected);
                prop_assert_eq!((set.old_len(), set.new_len()), (old.len(), set.owners.iter().filter(|o| o.in_new).count()));
            }
        }

        /// Whichever step is taken first: the owner sets then were among those in which levels had to be met.
        #[test]
        fn whichever_step_is_taken_the_owners_then_were_a_side_before(
            states in prop::collection::vec(prop::sample::select(vec![Joining, Leaving, Active, Active]), 1..9),
            zones in prop::collection::vec(prop::sample::select(vec!["", "a", "b"]), 9),
            next_zones in prop::collection::vec(prop::sample::select(vec![None, None, Some(""), Some("c")]), 9),
            in_force in 1..=MAX_REPLICATION_FACTOR,
            up in 0..=2u8,
        ) {
            prop_assume!(states.contains(&Active));
            let settings = copies(in_force, (in_force + 1).saturating_sub(up).clamp(1, MAX_REPLICATION_FACTOR));
            let mut entries: Vec<RosterEntry> =
                (0..).zip(states.iter().zip(&zones)).map(|(at, (state, zone))| entry(at, *state, zone)).collect();
            for (entry, next) in entries.iter_mut().zip(&next_zones) {
                entry.next_zone = next.map(str::to_owned);
            }
            let of = |entries: &[RosterEntry], settings: &Settings| {
                let mut roster = Roster::default();
                entries.iter().for_each(|entry| _ = add(&mut roster, entry));
                Placement::compute(3, &roster, settings)
            };
            let before = of(&entries, &settings);
            let mut afters = Vec::new();
            for at in (0..entries.len()).filter(|at| before.is_arriving(entries[*at].id())) {
                let mut entries = entries.clone();
                entries[at].state = Active;
                afters.push((of(&entries, &settings), false));
            }
            match before.step() {
                Some(Step::Copies(next)) => {
                    let settings = Settings { replication_factor_in_force: next, ..settings };
                    afters.push((of(&entries, &settings), true));
                }
                Some(Step::Leave(member)) => {
                    entries.retain(|entry| entry.id() != member);
                    afters.push((of(&entries, &settings), true));
                }
                Some(Step::Zone(member)) => {
                    let entry = entries.iter_mut().find(|entry| entry.id() == member).unwrap();
                    entry.zone = entry.next_zone.take().unwrap();
                    afters.push((of(&entries, &settings), true));
                }
                None => {}
            }
            let nobody = BTreeSet::new();
            for (after, is_step) in &afters {
                for (before, after) in every_set(&before).zip(every_set(after)) {
                    let now: BTreeSet<_> = before.old().collect();
                    let next: BTreeSet<_> = after.old().collect();
                    let of_side = |side: &Side| side.iter().map(|at| before.owners[*at].member).collect();
                    prop_assert!(before.sides().iter().any(|side| next == of_side(side)));
                    if *is_step {
                        let stepped: BTreeSet<_> = before.after_step().map(|owner| owner.member).collect();
                        prop_assert_eq!(&stepped, if next == now { &nobody } else { &next });
                        prop_assert!(next.difference(&now).count() <= 1, "a step moves only what it must");
                        prop_assert!(now.difference(&next).count() <= 1);
                    }
                }
            }
        }
    }

    #[test]
    fn one_step_is_under_way_at_a_time_copies_first_then_who_leaves_then_zones() {
        let mut many = roster(&[(Active, "a"), (Leaving, "a"), (Leaving, "b"), (Active, "b")]);
        let moving = RosterEntry { next_zone: Some("c".to_owned()), ..entry(3, Active, "b") };
        let stamp = |time| Timestamp { time, member: id(0) };
        many.apply(&entry_key(id(3)), Some(&moving.encode()), stamp(2));
        many.apply(&entry_key(id(1)), Some(&entry(1, Leaving, "a").encode()), stamp(9));
        many.apply(&entry_key(id(2)), Some(&entry(2, Leaving, "b").encode()), stamp(8));
        let step = |roster: &Roster, settings| Placement::compute(4, roster, &settings).step();
        assert_eq!(step(&many, copies(2, 5)), Some(Step::Copies(3)));
        assert_eq!(step(&many, copies(4, 1)), Some(Step::Copies(3)));
        assert_eq!(step(&many, copies(2, 2)), Some(Step::Leave(id(2))), "it was the first to say so");
        many.apply(&removal_key(id(2)), None, Timestamp::ZERO);
        assert_eq!(step(&many, copies(2, 2)), Some(Step::Leave(id(1))));
        many.apply(&removal_key(id(1)), None, Timestamp::ZERO);
        assert_eq!(step(&many, copies(2, 2)), Some(Step::Zone(id(3))));
        let moved = entry(3, Active, "c");
        many.apply(&entry_key(id(3)), Some(&moved.encode()), stamp(10));
        assert_eq!(step(&many, copies(2, 2)), None);
    }

    #[test]
    fn the_last_member_does_not_leave() {
        let alone = roster(&[(Leaving, "")]);
        let placement = Placement::compute(4, &alone, &copies(2, 2));
        assert!(every_set(&placement).all(|set| set.is_settled() && set.contains(id(0))));
    }

    #[test]
    fn a_step_that_is_begun_anew_is_told_from_the_one_before() {
        let members = roster(&[(Active, ""); 4]);
        let at = |time| Settings { replication_factor_time: time, ..copies(2, 3) };
        let of = |settings| Placement::compute(4, &members, &settings);
        assert_ne!(of(at(1)).digest(), of(at(2)).digest());
        assert_ne!(of(at(1)).transition(), of(at(2)).transition());
        let settled = |time| Settings { replication_factor_time: time, ..copies(3, 3) };
        assert_eq!(of(settled(1)).digest(), of(settled(2)).digest(), "nothing is changing");
    }

    #[test]
    fn a_fourth_member_takes_its_share_and_nothing_else_moves() {
        let settings = copies(2, 2);
        let before = Placement::compute(8, &roster(&[(Active, ""); 3]), &settings);
        let after = Placement::compute(8, &roster(&[(Active, ""); 4]), &settings);
        let mut moved = 0;
        for (old, new) in every_set(&before).zip(every_set(&after)) {
            moved += members(new).iter().filter(|owner| !old.contains(**owner)).count();
        }
        // A fair share is 2 of 4 members, so half of 256 partitions with a standard deviation of
        // 8; had the table been dealt anew, three quarters of 512 copies would be in question.
        assert!((96..=160).contains(&moved), "{moved} copies moved");
    }

    #[test]
    fn every_member_owns_about_as_much() {
        for (count, factor) in [(3usize, 1u8), (5, 3), (8, 3), (20, 2)] {
            let placement =
                Placement::compute(12, &roster(&vec![(Active, ""); count]), &copies(factor, factor));
            let fair = 4096.0 * f64::from(factor) / count as f64;
            for number in 0..count {
                let owned =
                    every_set(&placement).filter(|set| set.contains(id(number as u16))).count() as f64;
                let home =
                    every_set(&placement).filter(|set| set.position(id(number as u16)) == Some(0)).count();
                assert!((owned / fair - 1.0).abs() < 5.0 / fair.sqrt(), "{owned} for {fair}");
                let fair_home = 4096.0 / count as f64;
                assert!(
                    (home as f64 / fair_home - 1.0).abs() < 5.0 / fair_home.sqrt(),
                    "{home} for {fair_home}"
                );
            }
        }
    }

    #[test]
    fn a_higher_replication_factor_appends_owners() {
        let roster = roster(&[(Active, "a"), (Active, "a"), (Active, "b"), (Active, ""), (Active, "b")]);
        let placement = Placement::compute(8, &roster, &copies(2, 4));
        for set in every_set(&placement) {
            assert_eq!((set.old_len(), set.new_len(), set.owners.len()), (2, 3, 3));
            assert!(!set.is_settled() && set.after_step().filter(|owner| !owner.in_old).count() == 1);
        }
    }

    #[test]
    fn a_removed_member_owns_nothing() {
        let mut roster = roster(&[(Active, ""); 3]);
        roster.apply(&removal_key(id(1)), None, Timestamp::ZERO);
        let placement = Placement::compute(8, &roster, &copies(3, 3));
        assert!(every_set(&placement).all(|set| !set.contains(id(1)) && set.owners.len() == 2));
        assert!(!placement.system().contains(id(1)));
    }

    #[test]
    fn of_two_members_of_one_name_only_the_one_admitted_first_owns_anything() {
        let settings = copies(3, 3);
        let mut both = roster(&[(Active, ""); 3]);
        let alone = Placement::compute(8, &both, &settings);
        let twin = RosterEntry { name: "member0".to_owned(), admitted: 1, ..entry(3, Joining, "") };
        let (first, second) = (id(0), add(&mut both, &twin));
        assert!(both.holds_its_name(first) && !both.holds_its_name(second));
        let placement = Placement::compute(8, &both, &settings);
        assert!(every_set(&placement).zip(every_set(&alone)).all(|(set, before)| set == before));
        assert_eq!(placement.system(), alone.system());
        assert_ne!(placement.digest(), alone.digest(), "who knows of the second tells who does not");

        both.apply(&removal_key(first), None, Timestamp::ZERO);
        assert!(both.holds_its_name(second), "the name is free again");
        assert!(Placement::compute(8, &both, &settings).system().contains(second));
        // The digest tells which of the two is out, though both rosters hold the same members.
        let named = |first_admitted: u64| {
            let mut roster = Roster::default();
            add(&mut roster, &RosterEntry { admitted: first_admitted, ..entry(0, Active, "") });
            add(
                &mut roster,
                &RosterEntry { name: "member0".to_owned(), admitted: 5, ..entry(1, Active, "") },
            );
            Placement::compute(8, &roster, &settings).digest()
        };
        assert_ne!(named(4), named(6));
    }

    #[test]
    fn an_empty_roster_gives_no_owners_and_no_panic() {
        let placement = Placement::compute(8, &Roster::default(), &Settings::default());
        assert!(every_set(&placement).all(|set| set.owners.is_empty() && set.is_settled()));
        assert!(placement.set(256).owners.is_empty());
        assert_eq!(Placement::compute(255, &Roster::default(), &Settings::default()).partitions(), 4096);
    }

    #[test]
    fn system_collections_live_on_every_member() {
        let roster = roster(&[(Joining, ""), (Active, "a"), (Leaving, "a")]);
        let placement = Placement::compute(8, &roster, &copies(1, 1));
        let mut expected = vec![id(0), id(1), id(2)];
        expected.sort();
        assert_eq!(members(placement.system()), expected);
        assert!(placement.system().is_settled());
        let hash = KeyHash(0xAB00_0000_0000_0000);
        assert_eq!(placement.set_of(hash, true), placement.system());
        assert_eq!(placement.set_of(hash, false), placement.set(0xAB));
    }

    #[test]
    fn the_digest_follows_what_placement_depends_on_and_nothing_else() {
        let digest = |members: &[(MemberState, &str)], settings: &Settings, bits| {
            Placement::compute(bits, &roster(members), settings).digest()
        };
        let base = [(Active, "a"), (Active, "")];
        let settings = copies(2, 2);
        let known = digest(&base, &settings, 8);
        let mut moves = roster(&base);
        let moving = RosterEntry { next_zone: Some("b".to_owned()), ..entry(0, Active, "a") };
        moves.apply(&entry_key(id(0)), Some(&moving.encode()), Timestamp { time: 1, member: id(1) });
        let moving = Placement::compute(8, &moves, &settings).digest();
        let unlike = [
            digest(&base[..1], &settings, 8),
            digest(&[(Active, "a"), (Leaving, "")], &settings, 8),
            digest(&[(Active, "a"), (Joining, "")], &settings, 8),
            digest(&[(Active, ""), (Active, "a")], &settings, 8),
            moving,
            digest(&[(Active, "ab"), (Active, "")], &settings, 8),
            digest(&base, &copies(2, 3), 8),
            digest(&base, &copies(3, 2), 8),
            digest(&base, &settings, 7),
        ];
        let distinct: BTreeSet<u64> = unlike.into_iter().chain([known]).collect();
        assert_eq!(distinct.len(), unlike.len() + 1);

        let mut renamed = roster(&base);
        let mut other = entry(1, Active, "");
        other.name = "other".to_owned();
        other.address = "10.0.0.1:1".to_owned();
        let stamp = Timestamp { time: 99, member: id(0) };
        assert!(renamed.apply(&entry_key(id(1)), Some(&other.encode()), stamp));
        let settings = Settings { write_timeout_ms: 77, ..settings };
        assert_eq!(Placement::compute(8, &renamed, &settings).digest(), known);
    }

    #[test]
    fn scores_never_change_between_versions() {
        let known = [
            (0x0000_0000_0000_0000, 0, 0xE220_A839_7B1D_CDAF),
            (0x0000_0000_0000_0001, 0, 0xBFEF_8030_DDC2_D772),
            (0x0123_4567_89AB_CDEF, 255, 0x91E6_E455_8F43_E6B4),
            (0xFFFF_FFFF_FFFF_FFFF, 4095, 0xE190_9508_F5A6_33D4),
        ];
        for (member, partition, expected) in known {
            assert_eq!(score(MemberId(member), partition), expected);
        }
    }

    #[test]
    fn the_largest_cluster_is_placed() {
        let zones = ["a", "b", "c"];
        let states: Vec<_> = (0..MAX_MEMBERS).map(|number| (Active, zones[number % 3])).collect();
        let placement = Placement::compute(8, &roster(&states), &copies(6, MAX_REPLICATION_FACTOR));
        assert!(every_set(&placement).all(|set| set.owners.len() == 7 && set.old_len() == 6));
    }
}
