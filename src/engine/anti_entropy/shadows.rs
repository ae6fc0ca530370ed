//! What memory hides of redb, and when to compare in spite of it.
//!
//! A newer value merges over a record that left memory without asking redb, so the older one's element is still in the
//! tree: the slot *shadows* it. Until that is set right such a leaf differs from everybody's, and to list it takes a walk
//! through all of redb. So:
//!
//! - At each tick redb is asked for some of them. Under a load that exceeds memory more are made than that; then the next
//!   checkpoint sets them right, or the ticks do once the load rests.
//! - While there are more than one tick's worth, here or at the other end, passes that only repeat the last one are put off,
//!   [`PUT_OFF_US`] at most.
//!
//! A pass does not only repeat if it is *needed*: as the first over a link, under a placement, or after a peer came back or told
//! what it is complete for, and after a hint found no room; nor if anybody rests on it, to catch up, to leave, or to give up foreign
//! records.

use crate::engine::Engine;
use crate::engine::hints::HintKey;
use crate::engine::peer::Peer;
use crate::engine::table::SHADOW;

/// Microseconds after the end of a pass for which one that only repeats it is put off.
const PUT_OFF_US: u64 = 300_000_000;
/// Slots that are looked at in one tick for shadows that were not noted.
const SLOTS: usize = 32_768;

impl Engine {
    /// Whether comparing now would mean walking through all of redb for what is no difference.
    pub(super) const fn has_many_shadows(&self) -> bool {
        self.records.table.shadows() > self.bounds.lifts
    }

    /// Asks redb what some slots shadow: then its element leaves the tree. Clients' loads go first.
    pub(super) fn lift_shadows(&mut self) {
        let most = self.bounds.lifts.saturating_sub(self.loads.waiting());
        if self.records.table.shadows() == 0 || most == 0 {
            return;
        }
        for id in self.records.table.find_shadows(most, SLOTS) {
            let record = self.records.table.record(id).filter(|_| self.records.table.has(id, SHADOW));
            let Some(key) = record.and_then(|record| record.key_ref().ok()).map(HintKey::of) else {
                continue;
            };
            if let Some(key) = key.key() {
                self.resolve_later(key, key.hash());
            }
        }
    }

    /// Whether a pass with a peer would only repeat the last one.
    pub(super) fn repeats(&self, peer: &Peer) -> bool {
        let Some(last) = peer.compared.last.as_ref().filter(|_| !peer.compared.is_needed) else {
            return false;
        };
        let is_relied_on = self.is_leaving
            || self.is_catching_up()
            || peer.catching_up
            || self.foreign_partitions().next().is_some();
        !is_relied_on && self.now.mono_us < last.ended_us.saturating_add(PUT_OFF_US)
    }
}
