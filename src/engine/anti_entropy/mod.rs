//! Anti-entropy: comparing with other members what both must hold, and exchanging what differs.
//!
//! A *pass* ([`pass`]) is one comparison of all partitions that this member shares with one peer, from
//! the roots of the hash trees down to the records. At its end, this member holds whatever the peer held when
//! it began, and the peer holds, fsynced, whatever this member held then; both or newer. Everything that
//! must be sure of that is built on it: repairing what hints did not, catching up after a start, leaving, and
//! giving up records that this member does not own any more.
//!
//! One pass is under way at a time. Each peer's turn comes at once when a link to it comes up or the placement
//! changes (if both ends begin, nothing is done twice but the looking), and then every [`ROUND_US`], unless too much of
//! redb is hidden by memory ([`shadows`]).
//! What is exchanged is paced by the setting `repair_bytes_per_second`, and so are hints and copies. What hints carry is not
//! fetched a second time, from whomever: passes with peers whose links have just come up wait while hints come, from
//! any of them, for [`HINTS_US`] at most; and a peer that has just started compares by itself first.
//!
//! What a pass may rest on: records that are under way in both directions make trees differ for moments. So
//! what differs is looked at twice, [`AGAIN_US`] apart, and only leaves that differed both times are listed.

mod answers;
mod exchange;
mod fetching;
mod listing;
mod pass;
mod shadows;

pub(super) use answers::lower;
pub(super) use fetching::Fetching;
pub(super) use pass::Ticket;

use super::peer::Peer;
use super::{Engine, Mode};
use crate::model::MemberId;
use pass::Pass;
use std::collections::BTreeMap;

/// Microseconds between two passes with the same peer.
const ROUND_US: u64 = 10_000_000;
/// Microseconds until a pass that failed is tried again.
const RETRY_US: u64 = 1_000_000;
/// Microseconds that the member with the higher id waits for the other one to begin when their link
/// has come up: one pass repairs both.
const YIELD_US: u64 = 3_000_000;
/// Microseconds after a link came up during which a pass waits for hints.
const HINTS_US: u64 = 30_000_000;
/// Microseconds after which hints of which none was sent are not waited for any more.
const HINTS_REST_US: u64 = 3_000_000;
/// Microseconds between the two looks at what differs.
const AGAIN_US: u64 = 100_000;

/// Microseconds for an answer, or for a sign that the peer is at work on it: it may have to walk through all
/// that it holds.
pub(super) const ANSWER_US: u64 = 30_000_000;

/// What is known of comparisons with one peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Compared {
    /// When its next turn is, in microseconds.
    due_us: u64,
    /// Something may be missing, here or there, that nothing else brings than a pass that begins from now on.
    pub(super) is_needed: bool,
    /// The last pass that was completed in this life.
    pub(super) last: Option<Passed>,
    /// Leaves that differed when that was last looked at.
    pub(super) differing: usize,
}

/// A pass that was completed.
#[derive(Debug, Clone)]
pub(super) struct Passed {
    /// The placement that it ran under, from its begin to its end.
    pub(super) digest: u64,
    /// When it began, in microseconds.
    pub(super) began_us: u64,
    /// When it ended, in microseconds.
    ended_us: u64,
    /// The partitions that were compared, with the roots that they had here when it began: the peer
    /// has all that they were made of, fsynced if this member owns nothing of it or leaves.
    pub(super) roots: BTreeMap<u16, u128>,
}

/// Where comparisons stand.
#[derive(Debug, Default)]
pub(super) struct AntiEntropy {
    pass: Option<Pass>,
    /// When the last pass began, in microseconds.
    began_us: u64,
    answers: answers::Answers,
    /// Numbers of passes and requests, never given twice.
    last: u64,
    budget: Budget,
}

/// What may still be sent and taken now: bytes, fewer than none after a large record.
#[derive(Debug, Default)]
struct Budget {
    bytes: i64,
    filled_us: u64,
}

impl Budget {
    /// Adds what has become allowed since the last time; at most a quarter of a second's worth is saved up.
    fn fill(&mut self, now_us: u64, bytes_per_second: u64) {
        let passed = now_us.saturating_sub(self.filled_us).min(1_000_000);
        self.filled_us = now_us;
        let rate = i64::try_from(bytes_per_second).unwrap_or(i64::MAX);
        let more = i64::try_from(u128::from(bytes_per_second) * u128::from(passed) / 1_000_000);
        self.bytes = self.bytes.saturating_add(more.unwrap_or(rate)).min(rate / 4 + 1);
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    const fn is_spent(&self) -> bool {
        self.bytes < 0
    }
}

impl AntiEntropy {
    /// The last number that a pass was given.
    pub(super) const fn last_number(&self) -> u64 {
        self.last
    }

    /// Whether no pass up to this number is under way.
    pub(super) fn has_ended(&self, number: u64) -> bool {
        self.pass.as_ref().is_none_or(|pass| pass.number() > number)
    }
}

impl Engine {
    /// Begins the next pass that is due, or goes on with the one under way. Called at each tick.
    pub(super) fn compare_with_peers(&mut self) {
        self.anti_entropy.budget.fill(self.now.mono_us, self.settings.repair_bytes_per_second);
        let now = self.now.mono_us;
        self.wait_for_hints();
        self.lift_shadows();
        // What a removed member sends nobody takes.
        let is_removed = self.roster.is_removed(self.identity.member);
        let rests = self.storage_problem.is_some()
            || self.mode == Mode::NoCluster
            || is_removed
            || self.is_listening();
        while self.anti_entropy.pass.is_none() && !rests {
            let is_due = |peer: &&Peer| peer.is_reachable() && peer.compared.due_us <= now;
            let due = self.peers.iter().filter(is_due).min_by_key(|peer| peer.compared.due_us);
            let Some((member, repeats)) = due.map(|peer| (peer.member, self.repeats(peer))) else { break };
            if repeats && self.has_many_shadows() {
                self.compare_later(member, ROUND_US);
                continue;
            }
            self.anti_entropy.began_us = now;
            self.begin_pass(member, repeats);
        }
        self.continue_pass();
    }

    /// Gives up the pass under way.
    pub(super) fn end_pass(&mut self) {
        if let Some(pass) = self.anti_entropy.pass.take() {
            self.fail_pass(&pass);
        }
    }

    /// Puts off the turns of peers whose links have just come up: of all while hints come from any, of those that
    /// hints go to, and of those that have just started.
    fn wait_for_hints(&mut self) {
        let (now, me, starts) = (self.now.mono_us, self.identity.member, self.is_catching_up());
        let is_new = |peer: &Peer| now < peer.linked_us + HINTS_US;
        let moves = |peer: &Peer| now < peer.linked_us.max(peer.hinted_us) + HINTS_REST_US;
        let brings = |peer: &Peer| peer.is_reachable() && peer.has_hints != Some(false) && moves(peer);
        let hints_come = self.peers.iter().any(|peer| is_new(peer) && brings(peer));
        for peer in self.peers.iter_mut().filter(|peer| is_new(peer)) {
            let hints_go = self.hints.pending_for(peer.member) > 0 && moves(peer);
            if hints_come || hints_go || peer.catching_up && !starts {
                let begins = starts || !peer.catching_up && me < peer.member;
                let wait_us = if begins { 0 } else { YIELD_US };
                peer.compared.due_us = peer.compared.due_us.max(now + 1 + wait_us);
            }
        }
    }

    /// Whether more may be sent or taken for repair now.
    pub(super) const fn may_repair(&self) -> bool {
        !self.anti_entropy.budget.is_spent()
    }

    /// So many bytes of records were sent or taken for repair, beside what passes exchange.
    pub(super) fn note_repair(&mut self, bytes: usize) {
        self.anti_entropy.budget.spend(bytes);
    }

    /// A link to a member has come up: both compare, one of them at once.
    pub(super) fn compare_soon(&mut self, member: MemberId) {
        let begins = self.identity.member < member || self.is_catching_up();
        let due_us = self.now.mono_us + if begins { 0 } else { YIELD_US };
        if let Some(peer) = self.peer_mut(member) {
            peer.compared.due_us = due_us;
            peer.compared.is_needed = true;
        }
    }

    /// A pass with a member is needed, but not sooner than its turn comes.
    pub(super) fn compare_surely(&mut self, member: MemberId) {
        if let Some(peer) = self.peer_mut(member) {
            peer.compared.is_needed = true;
        }
    }

    /// A peer told for which partitions it is complete: there may be more to compare.
    pub(super) fn compare_at_once(&mut self, member: MemberId) {
        let now = self.now.mono_us;
        if let Some(peer) = self.peer_mut(member) {
            peer.compared.due_us = peer.compared.due_us.min(now);
            peer.compared.is_needed = true;
        }
    }

    /// The placement changed: what passes have shown counts under the former one only.
    pub(super) fn compare_anew(&mut self) {
        let now = self.now.mono_us;
        for peer in &mut self.peers {
            peer.compared.due_us = peer.compared.due_us.min(now);
            peer.compared.is_needed = true;
        }
    }

    /// Whether something of a comparison can be done at once, without any other event.
    pub(super) fn wants_compare_step(&self) -> bool {
        self.anti_entropy.answers.wants_step()
            || self.anti_entropy.pass.as_ref().is_some_and(Pass::wants_step)
    }

    /// A bounded part of what comparisons have to look at in memory.
    pub(super) fn step_comparing(&mut self) {
        self.step_answers();
        if self.anti_entropy.pass.as_ref().is_some_and(Pass::moves_with_turns) {
            self.continue_pass();
        }
    }

    /// Whether every other owner of what this member holds has it durably, as passes under the present placement
    /// have shown.
    pub(super) fn is_held_by_others(&self) -> bool {
        let (me, digest) = (self.identity.member, self.placement.digest());
        let has = |member: MemberId, partition: u16| {
            let last = self.peer(member).and_then(|peer| peer.compared.last.as_ref());
            last.is_some_and(|last| {
                let is_later = last.began_us >= self.foreign.repaired_us;
                is_later && last.digest == digest && last.roots.contains_key(&partition)
            })
        };
        let partitions = (0u16..).take(self.placement.partitions());
        let mut held = partitions.filter(|partition| self.records.holds_any(*partition));
        self.loads.is_idle()
            && held.all(|partition| {
                let owners = self.placement.set(partition).owners.iter().map(|owner| owner.member);
                owners.filter(|owner| *owner != me).all(|owner| has(owner, partition))
            })
    }

    /// Whether a pass with this member was completed in this life.
    pub(super) fn was_compared(&self, member: MemberId) -> bool {
        self.peer(member).is_some_and(|peer| peer.compared.last.is_some())
    }
}

#[cfg(test)]
mod tests;
