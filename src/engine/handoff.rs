//! Handoff: taking the step that is under way, when those that it makes owners are ready.
//!
//! A step ([`Step`]: a replication factor moves by one, a member leaves, a member changes its zone)
//! moves partitions to other owners. (One that only places a collection by itself moves none, and waits for those to know of
//! it that any other waits for: no other step can be taken then by members that don't.) Those copy them as `copying` tells, and the step is taken by
//! one write to roster or settings, which every member follows. Invariants:
//!
//! - A step is taken only when, of each partition that it moves, every member that it makes an owner has
//!   said that it is complete, and so has every other owner to come that can be reached, at least so many
//!   that every quorum has one among them: who was damaged may still need the owner that goes.
//! - So many old owners of each partition, of those classes that the step is about, that every quorum has one among them must
//!   have said that they know of the step, all under one placement. Whoever knows of it refuses writes of members that
//!   don't, so whatever has met its level is known to a quorum of the owners to come.
//! - Knowledge is told when it is durable (see `tell_complete`), and so is completeness.
//! - A leaving member goes by its own hand, and only when nobody lacks anything that it holds; the last
//!   member never goes.
//!
//! Who writes: of a replication factor the member with the lowest id among those that agree and can be
//! reached. If two do, they write the same. Zone and leave are written by the member itself.

use super::Engine;
use super::membership::NOBODY;
use super::operation::Change;
use crate::model::key::{ROSTER, SETTINGS};
use crate::model::placement::{Owner, OwnerSet, Step};
use crate::model::roster::{Removal, RosterEntry, removal_key};
use crate::model::settings::REPLICATION_FACTOR_IN_FORCE;
use crate::model::settings::collection::IN_FORCE_PREFIX;
use crate::model::{KeyRef, MemberId};

/// Why a member that left by itself is fenced.
pub const LEFT: &str = "left";

impl Engine {
    /// Takes the step that is under way, if all is ready and it is this member's to take.
    pub(super) fn take_step(&mut self) {
        self.refresh_placement();
        let Some(step) = self.placement.step() else { return };
        if self.now.mono_us < self.step_after_us || !self.is_to_take(step) || !self.is_agreed_on(step) {
            return;
        }
        // The write takes its time; it ends, one way or the other, by then.
        self.step_after_us = self.now.mono_us + 2_000 * self.settings.write_timeout_ms;
        match step {
            Step::Copies { class: 0, copies } => self.write_in_force(REPLICATION_FACTOR_IN_FORCE, copies),
            Step::Copies { class, copies } => {
                let collection = self.placement.layout().collections().get(class - 1);
                if let Some(name) = collection.map(|collection| format!("{IN_FORCE_PREFIX}{collection}")) {
                    self.write_in_force(&name, copies);
                }
            }
            Step::Own => {
                let collection = self.settings.unplaced().next();
                if let Some(name) = collection.map(|collection| format!("{IN_FORCE_PREFIX}{collection}")) {
                    self.write_in_force(&name, self.settings.replication_factor_in_force);
                }
            }
            Step::Zone(member) => {
                let Some(entry) = self.roster.get(member).map(|known| known.entry.clone()) else { return };
                let Some(zone) = entry.next_zone.clone() else { return };
                self.write_roster_entry(member, &RosterEntry { zone, next_zone: None, ..entry });
            }
            Step::Leave(member) => {
                let name = self.roster.get(member).map(|known| known.entry.name.clone());
                let removal = Removal { name: name.unwrap_or_default(), reason: LEFT.to_owned() };
                self.write_removal(NOBODY, member, &removal);
            }
        }
    }

    fn write_in_force(&mut self, name: &str, copies: u8) {
        if let Ok(key) = KeyRef::new(SETTINGS, name.as_bytes()) {
            let value = copies.to_string();
            self.write_system(NOBODY, key, Change::Set { value: value.as_bytes(), expiry_ms: None });
        }
    }

    fn is_to_take(&self, step: Step) -> bool {
        let me = self.identity.member;
        match step {
            Step::Copies { .. } | Step::Own => self.agreeing().next() == Some(me),
            Step::Zone(member) => member == me,
            Step::Leave(member) => member == me && self.may_go() && self.has_handed_over(),
        }
    }

    /// The members that can be reached and have the same placement, this one included, by id.
    fn agreeing(&self) -> impl Iterator<Item = MemberId> + '_ {
        let owners = self.placement.system().owners.iter().map(|owner| owner.member);
        owners.filter(|member| self.can_reach(*member) && self.knows_placement(*member))
    }

    /// Whether a member said, since it has it durably, that its placement is this member's.
    fn knows_placement(&self, member: MemberId) -> bool {
        if member == self.identity.member {
            return self.positions.synced >= self.placement_position;
        }
        let told = self.peer(member).and_then(|peer| peer.complete.as_ref());
        told.is_some_and(|(digest, _)| *digest == self.placement.digest())
    }

    /// Whether the step could be taken, as far as its owners to be and the old owners are concerned.
    fn is_agreed_on(&self, step: Step) -> bool {
        let layout = self.placement.layout();
        let mut concerned = layout.every().filter(|at| step.concerns(layout.class_at(*at)));
        concerned.all(|partition| {
            let set = self.placement.set(partition);
            self.is_step_ready_in(partition, set) && self.is_step_known_in(set)
        })
    }

    fn is_step_ready_in(&self, partition: u16, set: &OwnerSet) -> bool {
        let is_complete = |owner: &&Owner| self.is_complete_at(owner.member, partition);
        let is_away = |owner: &Owner| owner.in_old && !self.can_reach(owner.member);
        let owners = set.after_step().len();
        set.after_step().all(|owner| is_complete(&owner) || is_away(owner))
            && set.after_step().filter(is_complete).count() >= owners - owners / 2
    }

    fn is_step_known_in(&self, set: &OwnerSet) -> bool {
        let old = set.old_len();
        set.old().filter(|member| self.knows_placement(*member)).count() >= old - old / 2
    }

    /// Whether anybody else is there to take over what this member holds.
    #[must_use]
    pub fn may_go(&self) -> bool {
        let me = self.identity.member;
        let others = self.roster.members().filter(|(member, _)| *member != me);
        let stays = |state| state != crate::model::roster::MemberState::Joining;
        others
            .into_iter()
            .any(|(member, known)| stays(known.entry.state) && self.placement.system().contains(member))
    }

    /// Whether every other owner durably holds all that this member holds.
    ///
    /// It stamps nothing any more, so what it stamped has arrived when no hints wait and nothing is on its way;
    /// what it holds besides was compared with all of them since it began to leave.
    #[must_use]
    pub fn has_handed_over(&self) -> bool {
        self.is_complete()
            && self.hints.pending() == 0
            && self.records_under_way() == 0
            && self.is_held_by_others()
    }

    /// Whether this member left or was removed, and every member that can be reached knows it durably.
    #[must_use]
    pub fn has_taken_leave(&self) -> bool {
        let me = self.identity.member;
        let mut reachable = self.peers.iter().filter(|peer| peer.is_reachable()).peekable();
        self.roster.is_removed(me)
            && reachable.peek().is_some()
            && self.positions.synced >= self.placement_position
            && reachable.all(|peer| self.hints.pending_for(peer.member) == 0)
            && self.records_under_way() == 0
    }

    /// Partitions whose owners change by the step under way: how many of them are ready, and how many there
    /// are.
    #[must_use]
    pub fn step_progress(&self) -> (usize, usize) {
        let partitions = (0..self.placement.partitions()).filter_map(|at| u16::try_from(at).ok());
        let waiting = partitions.filter(|at| self.placement.set(*at).after_step().len() > 0);
        waiting.fold((0, 0), |(ready, all), at| {
            let is_ready = self.is_step_ready_in(at, self.placement.set(at));
            (ready + usize::from(is_ready), all + 1)
        })
    }

    /// Whether a member was removed, and this member will know that after a power cut too: only then may it be told.
    #[must_use]
    pub fn has_fenced(&self, member: MemberId) -> bool {
        self.roster.is_removed(member) && self.positions.synced >= self.placement_position
    }

    /// Fences a member for good.
    pub fn write_removal(&mut self, token: u64, member: MemberId, removal: &Removal) {
        let (key, value) = (removal_key(member), removal.encode());
        if let Ok(key) = KeyRef::new(ROSTER, &key) {
            self.write_system(token, key, Change::Set { value: &value, expiry_ms: None });
        }
    }
}

#[cfg(test)]
mod tests;
