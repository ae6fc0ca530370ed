//! Steps: changes of the placement that are no joins, one at a time, and what members must agree about.

use super::Layout;
use crate::model::roster::{MemberState, Roster, RosterEntry};
use crate::model::settings::Settings;
use crate::model::timestamp::MemberId;
use std::collections::BTreeSet;

/// A change of the placement that is no join. At most one is under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A collection that shall have a replication factor of its own is placed by itself from now on, where it was: the
    /// first of [`Settings::unplaced`].
    Own,
    /// The replication factor in force of a class becomes this, one more or one less.
    Copies {
        /// The class, see [`Layout`].
        class: usize,
        /// Members that hold each record.
        copies: u8,
    },
    /// A leaving member goes.
    Leave(MemberId),
    /// A member's next zone becomes its zone.
    Zone(MemberId),
}

impl Step {
    /// The step whose turn it is: a collection is placed by itself, before anything else could move it; else the
    /// cluster's replication factor moves, else that of a collection; else of the leaving member, else of the
    /// member that changes its zone, whose entry is the oldest.
    pub(super) fn of(roster: &Roster, holders: &BTreeSet<MemberId>, settings: &Settings) -> Option<Self> {
        if settings.unplaced().next().is_some() {
            return Some(Self::Own);
        }
        let own = settings.factors_in_force.iter();
        let own = own.map(|(collection, copies)| (*copies, settings.replication_factor_of(collection)));
        let of_cluster = (settings.replication_factor_in_force, settings.replication_factor);
        let mut factors = std::iter::once(of_cluster).chain(own).enumerate();
        let moves = factors.find(|(_, (in_force, wanted))| in_force != wanted);
        if let Some((class, (in_force, wanted))) = moves {
            let copies = if in_force < wanted { in_force + 1 } else { in_force - 1 };
            return Some(Self::Copies { class, copies });
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
            Self::Own | Self::Copies { .. } => None,
            Self::Leave(member) | Self::Zone(member) => Some(member),
        }
    }

    /// The class whose replication factor moves.
    #[must_use]
    pub const fn class(self) -> Option<usize> {
        match self {
            Self::Copies { class, .. } => Some(class),
            Self::Own | Self::Leave(_) | Self::Zone(_) => None,
        }
    }

    /// Whether owners of a class must know of it before it is taken: of what it moves, and of what it divides.
    #[must_use]
    pub const fn concerns(self, class: usize) -> bool {
        match self {
            Self::Own => class == 0,
            Self::Copies { .. } | Self::Leave(_) | Self::Zone(_) => self.moves(class),
        }
    }

    /// Whether it may change the owners of a class.
    pub(super) const fn moves(self, class: usize) -> bool {
        match self {
            Self::Own => false,
            Self::Copies { class: moved, .. } => moved == class,
            Self::Leave(_) | Self::Zone(_) => true,
        }
    }

    /// The same step, taken by another class.
    pub(super) const fn of_any_class(self) -> Self {
        match self {
            Self::Copies { copies, .. } => Self::Copies { class: 0, copies },
            other => other,
        }
    }
}

/// Tells a step from every other one.
pub(super) fn transition(roster: &Roster, settings: &Settings, step: Option<Step>) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("kith 2026 placement transition");
    let entry = step.and_then(Step::member).and_then(|member| roster.get(member));
    match (step, entry) {
        (Some(Step::Copies { class: 0, .. }), _) => {
            hasher.update(&settings.replication_factor_time.to_le_bytes())
        }
        (Some(Step::Copies { class, .. }), _) => {
            let collection = settings.factors_in_force.keys().nth(class - 1);
            of_collection(&mut hasher, settings, collection.map_or("", String::as_str))
        }
        (Some(Step::Own), _) => {
            let collection = settings.unplaced().next().unwrap_or_default();
            of_collection(hasher.update(b"own"), settings, collection)
        }
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

/// What all members agree about that place every record alike.
pub(super) fn digest(
    layout: &Layout,
    roster: &Roster,
    holders: &BTreeSet<MemberId>,
    settings: &Settings,
    arriving: &[MemberId],
    transition: u64,
) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("kith 2026 placement digest");
    let of_cluster = [settings.replication_factor_in_force, settings.replication_factor];
    hasher.update(&[layout.partition_bits()]).update(&of_cluster);
    // Without any, members that know nothing of classes have the same digest.
    for (collection, in_force) in &settings.factors_in_force {
        hasher.update(&[length_of(collection)]).update(collection.as_bytes());
        hasher.update(&[*in_force, settings.replication_factor_of(collection)]);
    }
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

/// What tells a change of a collection's replication factor from every other one: it may follow the cluster's.
fn of_collection<'a>(
    hasher: &'a mut blake3::Hasher,
    settings: &Settings,
    collection: &str,
) -> &'a mut blake3::Hasher {
    let set_at = settings.factor_times.get(collection).copied().unwrap_or_default();
    hasher.update(&[length_of(collection)]).update(collection.as_bytes());
    hasher.update(&set_at.to_le_bytes()).update(&settings.replication_factor_time.to_le_bytes())
}

/// Names of collections have 64 bytes at most.
fn length_of(collection: &str) -> u8 {
    u8::try_from(collection.len()).unwrap_or(u8::MAX)
}

fn head(hasher: &blake3::Hasher) -> u64 {
    let head = hasher.finalize().as_bytes().first_chunk().copied();
    u64::from_le_bytes(head.unwrap_or_default())
}
