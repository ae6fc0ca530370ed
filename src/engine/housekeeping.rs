//! What is due with time: deadlines, hints, expiry, eviction, copies, and comparing what all must know.

use super::Engine;
use super::membership::DISAGREE_US;
use super::peer::Link;
use crate::model::MemberId;
use crate::protocol::message::{Message, Notice};

/// Slots that are looked at for expiry at a time; four times as many for eviction.
const SLOTS: usize = 4_096;
/// Memory that tombstones may take at the least, however small the table's is.
const MIN_DEAD_BYTES: usize = 1 << 20;
/// Memory of a tombstone, about.
const TOMBSTONE_BYTES: usize = 160;
/// Microseconds between two times that the peers are told the digest of the system records.
const COMPARE_SYSTEM_US: u64 = 3_000_000;

impl Engine {
    /// Time passed. Called every [`TICK_US`](super::TICK_US).
    pub fn tick(&mut self) {
        self.progress = true;
        self.check_clock();
        self.settle_writes();
        self.expire_requests();
        self.step_waits();
        self.retry_loads();
        self.send_hints();
        self.tell_hints();
        self.catch_up();
        self.compare_with_peers();
        self.drop_foreign();
        self.rebuild();
        self.step_quiet();
        self.reclaim();
        self.compare_system();
        self.settle_marks();
        self.continue_copying();
        self.take_step();
        self.continue_scrub();
        self.continue_mending();
        self.tick_watches();
        self.sweep();
    }

    /// The upper half of the root of the system records' hash tree.
    #[must_use]
    pub fn system_digest(&self) -> u64 {
        u64::try_from(self.records.trees.system().root() >> 64).unwrap_or_default()
    }

    /// Exchanges roster and settings with peers whose placement stays another one, and tells all peers now and then what they
    /// are here. A change reaches every member by itself; what
    /// was under way when its author was lost does not.
    fn compare_system(&mut self) {
        let now = self.now.mono_us;
        let is_due = |since: u64| now >= since.saturating_add(DISAGREE_US);
        let disagree = self.peers.iter().filter(|peer| peer.disagrees_since_us.is_some_and(is_due));
        for member in disagree.map(|peer| peer.member).collect::<Vec<_>>() {
            self.exchange_system(member);
        }
        if now < self.compare_system_us {
            return;
        }
        self.compare_system_us = self.now.mono_us + COMPARE_SYSTEM_US;
        let members: Vec<_> = self.linked().collect();
        for member in members {
            self.tell_system(member);
        }
    }

    /// Tells a peer what roster and settings are here: whoever has others exchanges them. On a new link no more is said, for all
    /// of them on each link would be the square of the members' number when a member starts.
    pub(super) fn tell_system(&mut self, member: MemberId) {
        let message = Message::Notice(Notice::System { digest: self.system_digest() });
        self.send_message(member, &message);
    }

    /// Expiry and eviction, a bounded part of the table at a time.
    fn sweep(&mut self) {
        // Not beyond the table's end, so that each lap meets every slot once and can count.
        let left = self.records.table.slots().saturating_sub(self.expiry_hand as usize);
        let (hand, expired, dead) =
            self.records.expire(self.expiry_hand, SLOTS.min(left.max(1)), self.wall_ms);
        self.expiry_hand = hand;
        self.counters.expired += expired as u64;
        for id in dead {
            self.count_tombstone(id);
            self.note_tombstone(id);
        }
        if hand == 0 {
            self.end_counting();
        }
        // What is on its way becomes a hint if its link ends, and for that it must be found here.
        let links = self.peers.iter().filter_map(|peer| peer.link.as_ref());
        let under_way = links.filter_map(Link::oldest_checkpoint).min();
        let before = under_way.map_or(u32::MAX, |oldest| oldest.saturating_sub(1));
        let committed = self.checkpoint.committed().min(before);
        // Tombstones wait in memory to be reclaimed, but no more of them than there is room for.
        let dead = self.tombstone_counts().waiting.saturating_mul(TOMBSTONE_BYTES);
        let keeps_dead =
            !self.is_reclaiming_held_back() && dead < MIN_DEAD_BYTES.max(self.bounds.table_bytes / 4);
        let evicted = self.records.evict(self.bounds.table_bytes, 4 * SLOTS, committed, keeps_dead);
        self.counters.evicted += evicted as u64;
        if evicted > 0 {
            self.forget_absent();
        }
    }
}
