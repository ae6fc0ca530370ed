//! What memory hides of redb, before trees are compared.
//!
//! A newer value merges over a record that left memory without asking redb, so the older one's element is still in the
//! tree. Until that is set right such a leaf differs from everybody's, and to list it takes a walk through all of redb. So:
//!
//! - While there are a few, redb is asked for them when a pass begins, here and at its other end: before the second look the
//!   trees are right.
//! - While there are many, as under a load that exceeds memory, the passes that only repeat earlier ones are put off
//!   ([`PUT_OFF_US`] at most). The next checkpoint sets all of them right, and one is asked for as soon as the load rests.
//!
//! Never put off are a first pass over a link, and what catching up, leaving, or giving up foreign records rests on.

use crate::engine::Engine;
use crate::engine::peer::Peer;

/// Shadows that redb is asked for one by one.
pub(in crate::engine) const MAX_LIFTED: usize = 1_024;
/// Microseconds for which passes are put off.
const PUT_OFF_US: u64 = 300_000_000;
/// Microseconds without anything new in the journal after which the load rests.
const CALM_US: u64 = 5_000_000;

/// Since when nothing came into the journal.
#[derive(Debug, Default)]
pub(super) struct Calm {
    end: u64,
    since_us: u64,
}

impl Engine {
    fn has_many_shadows(&self) -> bool {
        self.records.table.shadows() > MAX_LIFTED
    }

    /// Asks redb for what is hidden, if that is little.
    pub(super) fn lift_few_shadows(&mut self) {
        if !self.has_many_shadows() {
            let shadows = self.records.table.take_noted_shadows();
            self.lift_shadows(&shadows);
        }
    }

    /// Asks for a checkpoint when many are in the way of passes and nothing else would bring it.
    pub(super) fn clear_shadows_in_calm(&mut self) {
        let (end, now) = (self.end(), self.now.mono_us);
        let calm = &mut self.anti_entropy.calm;
        if std::mem::replace(&mut calm.end, end) != end {
            calm.since_us = now;
        }
        let rests = now >= calm.since_us.saturating_add(CALM_US);
        if rests && self.has_many_shadows() && !self.is_checkpointing() {
            self.want_checkpoint();
        }
    }

    /// Whether the turn of a peer had better wait.
    pub(super) fn puts_off(&self, peer: &Peer) -> bool {
        let Some(last) = peer.compared.last.as_ref().filter(|_| self.has_many_shadows()) else {
            return false;
        };
        let repeats = last.digest == self.placement.digest() && last.began_us >= peer.linked_us;
        let is_relied_on = self.is_leaving || self.is_catching_up() || peer.catching_up;
        repeats
            && !is_relied_on
            && self.now.mono_us < last.began_us.saturating_add(PUT_OFF_US)
            && self.shares_with(peer.member).values().all(|share| share.takes)
    }
}
