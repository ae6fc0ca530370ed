//! Which records were still on their way when the process was killed.
//!
//! A record that waits in an outbox or on a link becomes a hint when the link ends; a process that is
//! killed can't write those hints any more, and the client may have its answer already, from the other
//! owners. So the journal gets a *mark* now and then, and says *settled* once every link has confirmed
//! after fsync what was queued before the mark. After a kill every record that was journalled since
//! the last settled mark is hinted to all its other owners; most have it, which costs a message and
//! changes nothing. A member that stops in order ends its links itself and settles what it journalled: its
//! start sends nothing again.
//!
//! Invariants: at most one mark waits at a time, so `settled` speaks of the latest one; a link that
//! ended has left its unconfirmed records as hints in the journal before its mark is settled.

use super::journal::{self, Entry};
use super::peer::Link;
use super::{Engine, Mode};
use crate::model::{KeyHash, MemberId};
use std::sync::Arc;

/// How far a link was filled: member, link, the last record that was queued.
type Filled = (MemberId, u64, u64);

/// Marks of this life, and what a replay finds between those of the last one.
#[derive(Debug, Default)]
pub(super) struct Settling {
    mark: Vec<Filled>,
    /// Records that were journalled in this life when it was set.
    marked: u64,
    waits: bool,
    before: Vec<KeyHash>,
    since: Vec<KeyHash>,
}

impl Settling {
    /// The replay met a record.
    pub(super) fn replayed_record(&mut self, hash: KeyHash) {
        self.since.push(hash);
    }

    /// The replay met a mark.
    pub(super) fn replayed_mark(&mut self) {
        self.before.append(&mut self.since);
    }

    /// The replay met the settling of the latest mark.
    pub(super) fn replayed_settled(&mut self) {
        self.before.clear();
    }

    /// The keys of what may have been on its way, each once.
    fn take_unsettled(&mut self) -> Vec<KeyHash> {
        let mut hashes = std::mem::take(&mut self.before);
        hashes.append(&mut self.since);
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }
}

impl Engine {
    /// Settles the mark that waits if it can be, and sets the next one if records were journalled since: also
    /// if none was queued, or a member that only takes others' records would send all of them back after a start.
    pub(super) fn settle_marks(&mut self) {
        if self.settling.waits {
            let is_settled = |(member, id, last): &Filled| {
                let link = self.peer(*member).and_then(|peer| peer.link.as_ref());
                link.filter(|link| link.id == *id).is_none_or(|link| link.fsynced() >= *last)
            };
            if !self.settling.mark.iter().all(is_settled) {
                return;
            }
            self.settling.waits = false;
            journal::append(&mut self.lanes.journal, &Entry::Settled);
        }
        let filled = |member: MemberId, link: &Link| (member, link.id, link.queued());
        let links = self.peers.iter().filter_map(|peer| Some(filled(peer.member, peer.link.as_ref()?)));
        let now: Vec<Filled> = links.filter(|(_, _, last)| *last > 0).collect();
        let journalled = self.counters.journal_records;
        if now != self.settling.mark || journalled != self.settling.marked {
            self.settling.mark = now;
            self.settling.marked = journalled;
            self.settling.waits = true;
            journal::append(&mut self.lanes.journal, &Entry::Mark);
        }
    }

    /// The member stops in order: what is still on its way becomes hints, and a start has nothing else to send. The
    /// journal's lane is to be appended once more, and no other event may follow.
    pub fn stop(&mut self) {
        self.set_mode(Mode::Stopping);
        let linked: Vec<MemberId> = self.linked().collect();
        for member in linked {
            self.link_lost(member);
        }
        // A mark may wait already: that one, and one behind all.
        self.settle_marks();
        self.settle_marks();
    }

    /// Hints what may not have arrived before this start.
    pub(super) fn hint_unsettled(&mut self) {
        let me = self.identity.member;
        for hash in self.settling.take_unsettled() {
            let Some(slot) = self.records.table.find_hash(hash) else { continue };
            let key = self.records.table.record(slot).and_then(|record| record.key_ref().ok());
            let Some(owners) = key.map(|key| Arc::clone(self.placement.set_of(key, hash))) else { continue };
            for owner in owners.owners.iter().filter(|owner| owner.member != me) {
                self.note_hint(owner.member, slot, hash);
            }
        }
    }

    /// Writes what is on its way as hints: the records before a checkpoint are not replayed any more.
    pub(super) fn append_unsettled(&mut self) {
        let mut out = std::mem::take(&mut self.lanes.journal);
        for peer in &self.peers {
            let waiting = peer.link.iter().flat_map(|link| link.on_the_way(1..u64::MAX));
            let slots = waiting.filter_map(|waiting| self.records.table.find_hash(waiting.hash));
            let records = slots.filter_map(|slot| self.records.table.record(slot));
            for key in records.filter_map(|record| record.key_ref().ok()) {
                journal::append(&mut out, &Entry::Hint(peer.member, super::hints::HintKey::of(key)));
            }
        }
        self.lanes.journal = out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::remembered::tests::World;
    use crate::model::KeyRef;

    fn key(number: u8) -> KeyHash {
        KeyRef::new("c", &[number]).unwrap().hash()
    }

    #[test]
    fn only_what_was_journalled_after_the_last_settled_mark_is_unsettled() {
        let mut replay = Settling::default();
        replay.replayed_record(key(1));
        replay.replayed_mark();
        replay.replayed_record(key(2));
        replay.replayed_settled();
        replay.replayed_mark();
        for number in [3, 2, 3] {
            replay.replayed_record(key(number));
        }
        let mut expected = vec![key(2), key(3)];
        expected.sort_unstable();
        assert_eq!(replay.take_unsettled(), expected);
        assert_eq!(replay.take_unsettled(), []);
    }

    #[test]
    fn a_mark_that_was_not_settled_keeps_what_was_before_it() {
        let mut replay = Settling::default();
        replay.replayed_record(key(1));
        replay.replayed_mark();
        assert_eq!(replay.take_unsettled(), [key(1)]);
    }

    #[test]
    fn who_stopped_in_order_has_nothing_to_send_at_its_start() {
        let mut world = World::new();
        world.put(b"k");
        world.stop(1);
        world.start_again(1);
        assert!(world.has(1, b"k"));
        assert_eq!(world.members[1].engine.hints.pending(), 0);
    }

    #[test]
    fn who_was_killed_sends_what_it_journalled_at_last_to_all_other_owners() {
        let mut world = World::new();
        world.put(b"k");
        world.start_again(1);
        assert_eq!(world.members[1].engine.hints.pending(), 2);
    }

    #[test]
    fn who_stops_in_order_hints_what_the_others_have_not_confirmed() {
        let mut world = World::new();
        world.syncs = false;
        world.put(b"k");
        world.stop(0);
        world.start_again(0);
        let hints = &world.members[0].engine.hints;
        let pending = [1, 2].map(|at| hints.pending_for(world.members[at].engine.identity().member));
        assert_eq!(pending, [1, 0], "the third one has it fsynced");
    }
}
