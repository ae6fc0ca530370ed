//! Whether this member and the others hold the same, as far as this one can tell: what it waits for,
//! for whom it keeps what, and which writes lost.
//!
//! Nothing here decides anything, and nothing of it is remembered beyond this life. Two things are kept for it: how many
//! tombstones the last whole lap of the sweep met, because looking at all records for a gauge would stop the
//! data thread, and the latest writes that lost.
//!
//! A write is known to have lost where its record comes fresh from its stamper and meets a newer one. Of what a
//! repair or a hint brings that can't be told: the newer record's writer may well have seen it.

use super::Engine;
use super::peer::Link;
use super::table::{GONE, SETTLED, SYSTEM, SlotId, UNRESOLVED};
use crate::model::hash_tree::HashTree;
use crate::model::{KeyRef, MemberId, Timestamp};
use std::collections::VecDeque;

/// Writes that lost of which more than their number is kept.
const KEPT: usize = 64;

/// What is known of convergence with one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerConvergence {
    /// The member.
    pub member: MemberId,
    /// A link to it is up, and it is not known to be dead.
    pub is_reachable: bool,
    /// Microseconds since the last comparison with it began that was completed under the present placement:
    /// whatever it held then is here. `None` before the first.
    pub lag_us: Option<u64>,
    /// Records that wait for its link or were sent, and that it did not confirm after fsync.
    pub records_under_way: usize,
    /// Hints that are kept for it.
    pub hints: usize,
    /// Leaves of hash trees that differed when that was last looked at.
    pub differing_leaves: usize,
    /// Its wall clock minus the median of all, in milliseconds; `None` if it was not heard in this life.
    pub clock_offset_ms: Option<i64>,
    /// Tombstones of the last batch that it held back.
    pub tombstones_held_back: usize,
}

/// Tombstones in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tombstones {
    /// They wait until every owner has them and nothing older is under way.
    pub waiting: usize,
    /// They left the hash trees and wait to be dropped.
    pub settled: usize,
}

/// A write that lost: a newer record was there when its own came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// The collection.
    pub collection: String,
    /// The key.
    pub key: Vec<u8>,
    /// The stamp of the write that lost.
    pub timestamp: Timestamp,
    /// The stamp of the record that won.
    pub winner: Timestamp,
    /// When this member noticed, in milliseconds since the Unix epoch.
    pub noticed_ms: u64,
}

/// What is kept to be shown.
#[derive(Debug, Default)]
pub(super) struct Convergence {
    /// What the present lap of the sweep has met so far, and the last whole one met.
    counting: Tombstones,
    counted: Tombstones,
    superseded: VecDeque<Superseded>,
}

impl Engine {
    /// What is known of convergence with each other member of the roster, by id.
    pub fn peer_convergence(&self) -> impl Iterator<Item = PeerConvergence> + '_ {
        let me = self.identity.member;
        let members = self.roster.members().map(|(member, _)| member).filter(move |member| *member != me);
        members.map(|member| self.convergence_with(member))
    }

    fn convergence_with(&self, member: MemberId) -> PeerConvergence {
        let peer = self.peer(member);
        let digest = self.placement.digest();
        let last = peer.and_then(|peer| peer.compared.last.as_ref()).filter(|last| last.digest == digest);
        PeerConvergence {
            member,
            is_reachable: peer.is_some_and(super::peer::Peer::is_reachable),
            lag_us: last.map(|last| self.now.mono_us.saturating_sub(last.began_us)),
            records_under_way: peer.and_then(|peer| peer.link.as_ref()).map_or(0, Link::under_way),
            hints: self.hints.pending_for(member),
            differing_leaves: peer.map_or(0, |peer| peer.compared.differing),
            clock_offset_ms: peer.and_then(|peer| {
                // Both are distances to this member's clock.
                Some(self.clock_offset_ms(peer)?.saturating_add(self.clock_health().0))
            }),
            tombstones_held_back: self
                .reclaiming_waits_for()
                .find(|(by, _)| *by == member)
                .map_or(0, |by| by.1),
        }
    }

    /// The lower halves of the roots of the hash trees of all partitions that this member owns: equal roots,
    /// equal records.
    pub fn owned_roots(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let me = self.identity.member;
        let partitions = (0u16..).take(self.placement.partitions());
        let owned = partitions.filter(move |at| self.placement.set(*at).contains(me));
        owned.filter_map(|at| {
            let root = self.records.trees.tree(at).map(HashTree::root)?;
            Some((at, super::anti_entropy::lower(root)))
        })
    }

    /// Tombstones in memory, as the last whole lap of the sweep met them.
    #[must_use]
    pub const fn tombstone_counts(&self) -> Tombstones {
        self.convergence.counted
    }

    /// The sweep met a tombstone.
    pub(super) fn count_tombstone(&mut self, id: SlotId) {
        let table = &self.records.table;
        if table.has_any(id, SYSTEM | GONE | UNRESOLVED) {
            return;
        }
        let counting = &mut self.convergence.counting;
        if table.has(id, SETTLED) {
            counting.settled += 1;
        } else {
            counting.waiting += 1;
        }
    }

    /// A lap of the sweep has ended.
    pub(super) fn end_counting(&mut self) {
        self.convergence.counted = std::mem::take(&mut self.convergence.counting);
    }

    /// A fresh record of a client met a newer one.
    pub(super) fn note_superseded(&mut self, key: KeyRef<'_>, timestamp: Timestamp, winner: Timestamp) {
        if key.is_system() {
            return;
        }
        self.counters.superseded_records += 1;
        let kept = &mut self.convergence.superseded;
        // While many lose, the room of the oldest is used again.
        let oldest = if kept.len() < KEPT { None } else { kept.pop_front() };
        let (mut collection, mut name) =
            oldest.map_or_else(Default::default, |oldest| (oldest.collection, oldest.key));
        collection.clear();
        collection.push_str(key.collection());
        name.clear();
        name.extend_from_slice(key.key());
        let noticed_ms = self.now.wall_ms;
        kept.push_back(Superseded { collection, key: name, timestamp, winner, noticed_ms });
    }

    /// The latest writes that are known here to have lost, the last one first.
    pub fn latest_superseded(&self) -> impl Iterator<Item = &Superseded> {
        self.convergence.superseded.iter().rev()
    }
}

#[cfg(test)]
mod tests;
