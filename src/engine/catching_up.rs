//! After a start: taking what others keep for this member before it answers for itself.
//!
//! What a member missed while it was away comes as hints. Until they have come, what it holds is older
//! than what was acknowledged meanwhile, so it is no complete owner of anything: its reads and those of
//! others go elsewhere. Every member tells a peer when their link comes up whether it has hints for it,
//! and again when the last one was confirmed.
//!
//! It ends when all that can be reached have none, and were compared with since the start: comparing finds
//! what hints had no room for. Completeness itself is durable and does not change meanwhile.

use super::Engine;
use super::peer::Peer;
use crate::model::MemberId;
use crate::protocol::message::{Message, Notice};

/// Microseconds that members have after a start to be linked, before they count as out of reach.
const LINK_US: u64 = 2_000_000;

impl Engine {
    pub(super) fn begin_catching_up(&mut self) {
        self.catching_up_since_us = (self.roster.len() > 1).then_some(self.now.mono_us);
    }

    /// Whether others may hold newer records than this member, which started a short while ago.
    #[must_use]
    pub const fn is_catching_up(&self) -> bool {
        self.catching_up_since_us.is_some()
    }

    /// Ends the catching up when nothing more is to come.
    pub(super) fn catch_up(&mut self) {
        if self.catching_up_since_us.is_some_and(|since_us| self.has_caught_up(since_us)) {
            self.catching_up_since_us = None;
            self.tell_complete(None);
        }
    }

    fn has_caught_up(&self, since_us: u64) -> bool {
        let passed_us = self.now.mono_us.saturating_sub(since_us);
        let has_none = |member: MemberId| match self.peer(member) {
            Some(peer) if peer.is_reachable() => peer.has_hints == Some(false) && self.was_compared(member),
            _ => passed_us >= LINK_US,
        };
        let me = self.identity.member;
        self.roster.members().all(|(member, _)| member == me || has_none(member))
    }

    /// What a peer that was just linked is told first.
    pub(super) fn greet_with_hints(&mut self, member: MemberId) {
        let pending = self.hints.pending_for(member) > 0;
        if let Some(peer) = self.peer_mut(member) {
            peer.told_hints = pending;
        }
        self.send_message(member, &Message::Notice(Notice::Hints { pending }));
    }

    /// Tells peers that their last hint was confirmed.
    pub(super) fn tell_hints(&mut self) {
        let is_done = |peer: &&Peer| peer.told_hints && self.hints.pending_for(peer.member) == 0;
        let done: Vec<MemberId> = self.peers.iter().filter(is_done).map(|peer| peer.member).collect();
        for member in done {
            self.greet_with_hints(member);
        }
    }
}
