//! Placement: which members own which partition.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each member has a score for each partition,
//! and the highest scores own it, distinct zones first. So placement is a pure function of roster
//! and settings, there is no table to agree on, and one member's coming or going moves only what it
//! must.
//!
//! What is to change is taken in *steps*: a joining member turns active, the replication factor in force
//! moves by one, a leaving member goes, a member's zone becomes its next one. Of joining members at most
//! [`MAX_ARRIVING`] count at a time, of the other steps one ([`Step`]); the rest waits its turn. A collection with a
//! replication factor of its own is placed by itself ([`Layout`]), by the same scores. Owner sets per
//! partition say what is changing: *old* (what is in force), *new* (after all steps that count), and one
//! for each step: what *old* becomes when that one alone is taken. Steps are taken one after the other, in
//! no order that anybody knows, so each of those sets may be the next one in
//! force; a level that is met in all of them is still met in whichever it is. Invariants: the scores
//! never change between versions; liveness plays no part; a higher replication factor only appends
//! owners; a member that does not hold its name (two may have been let in under one at the same time) owns
//! nothing. Which owners live, what is sent to them, and when a step is taken is left to the engine.

mod layout;
mod step;

pub use layout::Layout;
pub use step::Step;

use super::key::{KeyHash, KeyRef};
use super::limits::MAX_ARRIVING;
use super::roster::{MemberState, Roster};
use super::settings::Settings;
use super::timestamp::MemberId;
use smallvec::SmallVec;
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

/// The owners of all partitions under one roster and the replication factors of one moment.
#[derive(Debug, Clone)]
pub struct Placement {
    layout: Arc<Layout>,
    digest: u64,
    transition: u64,
    sets: Vec<Arc<OwnerSet>>,
    system: Arc<OwnerSet>,
    nobody: Arc<OwnerSet>,
    arriving: Vec<MemberId>,
    step: Option<Step>,
}

impl Placement {
    /// Computes the owners of all partitions, `1 << partition_bits` of each class.
    ///
    /// While no member is active or leaving, the new owners stand in for the old; while none but the one
    /// that leaves is there, it stays. Of the joining members only the first
    /// [`MAX_ARRIVING`] count: each of them gets every write of what it would own alone.
    #[must_use]
    pub fn compute(partition_bits: u8, roster: &Roster, settings: &Settings) -> Self {
        let factors = &settings.factors_in_force;
        let layout = Layout::new(partition_bits, factors.keys().map(String::as_str));
        let holders = roster.holders();
        let arriving = arriving(roster, &holders);
        let step = Step::of(roster, &holders, settings);
        let changing = Changing { roster, holders: &holders, arriving: &arriving };
        let mut known: Vec<(u8, Option<Step>, Vec<Arc<OwnerSet>>)> = Vec::new();
        let mut sets = Vec::with_capacity(layout.partitions());
        for class in 0..layout.classes() {
            let name = layout.collections().get(class.wrapping_sub(1));
            let in_force = name.and_then(|name| factors.get(name)).copied();
            let in_force = in_force.unwrap_or(settings.replication_factor_in_force);
            // What does not move this class is none for it.
            let step = step.filter(|step| step.moves(class)).map(Step::of_any_class);
            let same = known.iter().find(|(copies, other, _)| (*copies, *other) == (in_force, step));
            if let Some((.., same)) = same {
                sets.extend_from_slice(same);
                continue;
            }
            let own = changing.sets(layout.slices(), in_force, step);
            sets.extend_from_slice(&own);
            known.push((in_force, step, own));
        }
        let everyone = holders.iter().map(|member| Owner { member: *member, in_old: true, in_new: true });
        let transition = step::transition(roster, settings, step);
        Self {
            digest: step::digest(&layout, roster, &holders, settings, &arriving, transition),
            layout: Arc::new(layout),
            transition,
            sets,
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
    /// hold their names, all replication factors, the number of partitions, and
    /// [`Placement::transition`]. The names themselves and addresses play no part.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// How records are divided into partitions.
    #[must_use]
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The logarithm of the number of slices.
    #[must_use]
    pub fn partition_bits(&self) -> u8 {
        self.layout.partition_bits()
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

    /// The partition of a key, whose hash this is.
    #[must_use]
    pub fn partition_of(&self, key: KeyRef<'_>, hash: KeyHash) -> u16 {
        self.layout.partition_of(key, hash)
    }

    /// The owners of a key, whose hash this is.
    #[must_use]
    pub fn set_of(&self, key: KeyRef<'_>, hash: KeyHash) -> &Arc<OwnerSet> {
        if key.is_system() { &self.system } else { self.set(self.partition_of(key, hash)) }
    }
}

/// All but the replication factor that owner sets follow from.
#[derive(Debug, Clone, Copy)]
struct Changing<'a> {
    roster: &'a Roster,
    holders: &'a BTreeSet<MemberId>,
    arriving: &'a [MemberId],
}

impl Changing<'_> {
    /// The owners of each slice of a class.
    fn sets(self, slices: usize, in_force: u8, step: Option<Step>) -> Vec<Arc<OwnerSet>> {
        let choice = |joiners: &[MemberId], step: Option<Step>| {
            Choice::of(self.roster, self.holders, in_force, joiners, step)
        };
        let old = choice(&[], None);
        let new = choice(self.arriving, step);
        let (old, new) = match (old.candidates.is_empty(), new.candidates.is_empty()) {
            (true, _) => (new.clone(), new),
            (_, true) => (old.clone(), old),
            _ => (old, new),
        };
        let moves = old != new;
        let joiners = self.arriving.iter().filter(|_| moves);
        let alone: Vec<Choice> = joiners.map(|one| choice(&[*one], None)).collect();
        let stepped = step.filter(|_| moves).map(|step| choice(&[], Some(step)));
        let stepped = stepped.filter(|choice| !choice.candidates.is_empty());
        let sets = (0..slices).map_while(|slice| u16::try_from(slice).ok()).map(|slice| {
            let first = old.choose(slice);
            let second = if moves { new.choose(slice) } else { first.clone() };
            let alone: Vec<Chosen> = alone.iter().map(|side| side.choose(slice)).collect();
            let stepped = stepped.as_ref().map(|side| side.choose(slice));
            Arc::new(OwnerSet::of(&first, &second, &alone, stepped.as_ref()))
        });
        sets.collect()
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
        let copies = if let Some(Step::Copies { copies, .. }) = step { copies } else { in_force };
        Self { candidates: numbered.collect(), copies: usize::from(copies) }
    }

    /// A slice's owners in order of preference: the best of each zone, the best zones first;
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

#[cfg(test)]
mod tests;
