//! What peers remember of this member's journal: how an fsync that lied is found out.
//!
//! A disk may say that it has what it has not. After a power cut the journal then ends cleanly, but
//! before what this member had confirmed, and nothing on its own disk tells. Its peers can tell:
//!
//! - Every frame says up to where its sender's journal is fsynced, in bytes of the sender's present
//!   life. It is the frame that confirms records, so whoever counted a copy was told the position too.
//! - A peer keeps the highest position of each of the last lives, in memory, and tells them whenever a
//!   link comes up, before anything that ends the catching up.
//! - Who forgets a deletion remembers durably: before an owner settles tombstones it journals how far the
//!   journals of all their owners were, each of which had confirmed them. So whoever comes back without what it
//!   confirmed then is told so, also by who restarted since.
//! - The first entry of a life and of each checkpoint names the life's incarnation, the position there,
//!   and where earlier lives ended. So a replay knows to the byte where the life before ended. A
//!   position is told only once that first entry is fsynced.
//!
//! A member that finds that a life of its ended before what a peer was told has lost what it had
//! acknowledged. It is complete for nothing until its partitions were copied from others, and says so.
//!
//! Not found: what was confirmed to nobody but a client of this member, if it was lost before the next
//! frame to any peer; what only peers were told that restarted meanwhile, unless it was forgotten that
//! something was deleted; what was told to peers that were not met in [`LIVES`] lives.

use super::Engine;
use super::journal::{self, Entry};
use crate::model::MemberId;
use crate::protocol::message::{Message, Notice};

/// Lives whose ends are remembered.
const LIVES: usize = 16;

/// Where lives ended: pairs of an incarnation and a position, incarnations rising.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ends(Vec<(u64, u64)>);

impl Ends {
    /// Raises the position of a life. The oldest of too many is forgotten.
    fn raise(&mut self, incarnation: u64, position: u64) {
        match self.0.binary_search_by_key(&incarnation, |(life, _)| *life) {
            Ok(at) => {
                if let Some((_, end)) = self.0.get_mut(at) {
                    *end = position.max(*end);
                }
            }
            Err(at) => self.0.insert(at, (incarnation, position)),
        }
        if self.0.len() > LIVES {
            self.0.remove(0);
        }
    }

    /// All that are remembered.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Where a life ended at the least. A life that left nothing ended at its begin; of one before all
    /// that are remembered nobody knows.
    fn of(&self, incarnation: u64) -> Option<u64> {
        match self.0.binary_search_by_key(&incarnation, |(life, _)| *life) {
            Ok(at) => self.0.get(at).map(|(_, end)| *end),
            Err(0) if self.0.len() >= LIVES => None,
            Err(_) => Some(0),
        }
    }
}

/// The lives of this member.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// While replaying: the life whose entries were read last, and where they ended.
    replayed: Option<(u64, u64)>,
    ends: Ends,
    /// Where the entry that names this life ends in the journal; none before it is written.
    named_at: Option<u64>,
    /// What an earlier life had acknowledged and this one did not find.
    shortfall: Option<Shortfall>,
}

/// What an fsync that lied has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// The peer that remembered.
    pub peer: MemberId,
    /// The life that had acknowledged it.
    pub incarnation: u64,
    /// The position up to which that life had said that it was fsynced, in bytes.
    pub told: u64,
    /// The position at which its journal ends, in bytes.
    pub found: u64,
}

impl Engine {
    /// An entry was replayed.
    pub(super) fn replayed_bytes(&mut self, bytes: u64) {
        if let Some((_, position)) = &mut self.lives.replayed {
            *position += bytes;
        }
    }

    /// The replay came to an entry that names a life, and the position before it.
    pub(super) fn replayed_place(&mut self, incarnation: u64, position: u64, ends: &[u8]) {
        let numbers = ends.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        for pair in numbers.collect::<Vec<_>>().chunks_exact(2) {
            if let [life, end] = *pair {
                self.lives.ends.raise(life, end);
            }
        }
        if let Some((before, end)) = self.lives.replayed.filter(|(before, _)| *before < incarnation) {
            self.lives.ends.raise(before, end);
        }
        self.lives.replayed = Some((incarnation, position));
    }

    /// Everything is replayed: this life begins where the last one ended.
    pub(super) fn begin_life(&mut self) {
        if let Some((incarnation, end)) = self.lives.replayed.take() {
            self.lives.ends.raise(incarnation, end);
        }
        self.name_life();
        self.lives.named_at = Some(self.end());
    }

    /// Writes down which life this is, so that what was before can be dropped.
    pub(super) fn name_life(&mut self) {
        let ends: Vec<u8> = self
            .lives
            .ends
            .0
            .iter()
            .flat_map(|(life, end)| [*life, *end])
            .flat_map(u64::to_le_bytes)
            .collect();
        let incarnation = self.identity.incarnation;
        let bytes = journal::place_bytes(ends.len()) as u64;
        let entry = Entry::Place { incarnation, position: self.end() + bytes, ends: &ends };
        journal::append(&mut self.lanes.journal, &entry);
    }

    /// What a frame says of this member's journal; 0 as long as there is nothing to say.
    pub(super) fn durable_position(&self) -> u64 {
        self.lives.named_at.filter(|at| *at <= self.positions.synced).map_or(0, |_| self.positions.synced)
    }

    /// A peer said up to where its journal is fsynced.
    pub(super) fn remember_position(&mut self, member: MemberId, position: u64) {
        if let Some(peer) = self.peer_mut(member).filter(|_| position > 0) {
            peer.ends.raise(peer.linked_incarnation, position);
        }
    }

    /// How far the journals of these members are fsynced, as they said, and this member's own: member,
    /// incarnation, position.
    pub(super) fn journals_of(&self, members: impl Iterator<Item = MemberId>) -> Vec<(MemberId, u64, u64)> {
        let me = (self.identity.member, self.identity.incarnation, self.durable_position());
        let of = |member: MemberId| {
            let (incarnation, position) = self.peer(member)?.ends.iter().last()?;
            Some((member, incarnation, position))
        };
        std::iter::once(me).chain(members.filter_map(of)).collect()
    }

    /// Remembers durably how far the journals of others were fsynced.
    pub(super) fn remember_durably(&mut self, journals: &[(MemberId, u64, u64)]) {
        let me = self.identity.member;
        for (member, incarnation, position) in journals.iter().copied() {
            if member == me || self.roster.get(member).is_none() {
                continue;
            }
            self.told_of(member, incarnation, position);
            let entry = Entry::Told(member, incarnation, position);
            journal::append(&mut self.lanes.journal, &entry);
        }
    }

    /// A peer said once, to whomever, up to where its journal is fsynced.
    pub(super) fn told_of(&mut self, member: MemberId, incarnation: u64, position: u64) {
        let at = self.peer_at(member);
        if let Some(peer) = self.peers.get_mut(at).filter(|_| position > 0) {
            peer.ends.raise(incarnation, position);
        }
    }

    /// Tells a peer what it had told in earlier lives.
    pub(super) fn remind(&mut self, member: MemberId) {
        let Some(peer) = self.peer(member) else { return };
        let is_past = |(life, _): &(u64, u64)| *life < peer.linked_incarnation;
        let lives: Vec<_> = peer.ends.0.iter().copied().filter(is_past).collect();
        if !lives.is_empty() {
            self.send_message(member, &Message::Notice(Notice::Remembered { lives }));
        }
    }

    /// A peer told what this member had told it in earlier lives.
    pub(super) fn reminded(&mut self, peer: MemberId, lives: &[(u64, u64)]) {
        let mut is_short = false;
        for (incarnation, told) in lives.iter().copied() {
            let Some(found) = self.lives.ends.of(incarnation) else { continue };
            if incarnation < self.identity.incarnation && found < told {
                // So that others who remember the same change nothing, now or in a later life.
                self.lives.ends.raise(incarnation, told);
                self.lives.shortfall = Some(Shortfall { peer, incarnation, told, found });
                is_short = true;
            }
        }
        if is_short {
            self.counters.lost_syncs += 1;
            // In this order: what is durable of it at least goes on being found out.
            self.begin_rebuilding();
            self.name_life();
            self.lose_everything();
        }
    }

    /// What an earlier life of this member had acknowledged as fsynced and its disk did not keep.
    #[must_use]
    pub const fn shortfall(&self) -> Option<Shortfall> {
        self.lives.shortfall
    }
}

#[cfg(test)]
pub(super) mod tests;
