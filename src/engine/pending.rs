//! Pending writes: what is known of each owner's copy, and when that satisfies the write's level.
//!
//! States of one owner's copy: `Sent` until its link confirms the record's number; `Lost` when it could
//! not be sent, the link ended or it was refused (a hint is noted then); `Confirmed`. A write is
//! answered when the copies that are known satisfy its level in both owner sets, or its deadline
//! passes.
//!
//! The interleaving to fear is a change of placement meanwhile: an owner of the new placement
//! refuses what was sent under the old one. Both come to the same roster, by its records' own way or by an exchange;
//! then `rebase_writes` sends to the owners of the day what is still pending.

use super::Engine;
use super::modify::Looked;
use super::operation::{OperationError, Stored};
use super::peer::Peer;
use super::write::Origin;
use crate::model::placement::OwnerSet;
use crate::model::settings::{Level, Sync};
use crate::model::{KeyHash, Kind, MemberId, RecordRef, Timestamp};
use crate::protocol::frame::{Purpose, Verdict};
use smallvec::SmallVec;
use std::sync::Arc;

/// What is known of one owner's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// This member's own: durable with the journal's position.
    Own,
    /// Under way on the present link of the peer at that place, by that number.
    Sent(usize, u64),
    /// Not under way: a hint is noted.
    Lost,
    /// The owner has it durably, or something newer.
    Confirmed,
}

/// A write that waits for its level.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) origin: Origin,
    pub(super) hash: KeyHash,
    pub(super) timestamp: Timestamp,
    /// The journal's position after the own copy.
    pub(super) position: u64,
    pub(super) deadline_us: u64,
    pub(super) level: Level,
    pub(super) set: Arc<OwnerSet>,
    /// Old and new owners are the same.
    pub(super) is_settled: bool,
    /// What each owner of `set` has, in its order.
    pub(super) copies: SmallVec<[Copy; 4]>,
    pub(super) superseded: Option<Timestamp>,
    pub(super) number: Option<i64>,
    /// No owner could be reached: the own copy counts though this member is no owner, if none lives.
    pub(super) held: bool,
    /// What a look found before the change, for the answer.
    pub(super) looked: Option<Box<Looked>>,
}

/// What a pending write's copies mean for its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Wait,
    Met { copies: u16 },
    Missed { copies: u16 },
}
impl Engine {
    /// Answers every pending write whose level is met or whose deadline has passed.
    pub(super) fn settle_writes(&mut self) {
        if !std::mem::take(&mut self.progress) || self.writes.is_empty() {
            return;
        }
        // A member that was removed is in no owner set.
        let counts = |peer: &Peer| !self.roster.is_removed(peer.member);
        let all_expected = self.peers.iter().all(|peer| peer.is_expected() || !counts(peer));
        let mut pending = std::mem::take(&mut self.writes);
        // Who began first is answered first, mostly; then whoever waits on is not moved for that.
        while pending.front_mut().is_some_and(|write| self.settle(write, all_expected)) {
            pending.pop_front();
        }
        pending.retain_mut(|write| !self.settle(write, all_expected));
        self.writes = pending;
    }

    /// Answers a write, if it need not wait any longer.
    fn settle(&mut self, write: &mut Pending, all_expected: bool) -> bool {
        match self.judge(write, all_expected) {
            Judgement::Wait => return false,
            Judgement::Met { copies } => self.complete_write(write, copies),
            Judgement::Missed { copies } => self.fail(write.origin, OperationError::Unknown { copies }),
        }
        true
    }

    /// The common case in a few comparisons: this runs for every pending write in every turn.
    fn judge(&mut self, write: &mut Pending, all_expected: bool) -> Judgement {
        let sync = self.settings.sync;
        let own = self.has_own_copy(write);
        let mut copies = 0;
        for copy in &mut write.copies {
            if let Copy::Sent(peer, number) = *copy
                && self.peers.get(peer).is_some_and(|peer| number <= peer.confirmed(sync))
            {
                *copy = Copy::Confirmed;
            }
            copies += usize::from(*copy == Copy::Confirmed || *copy == Copy::Own && own);
        }
        let late = self.now.mono_us >= write.deadline_us;
        if write.is_settled && !write.held {
            let owners = write.copies.len();
            let needed = match write.level {
                Level::One => 1,
                Level::Available | Level::Quorum => owners / 2 + 1,
                Level::All => owners,
            };
            if copies >= needed {
                return Judgement::Met { copies: short(copies) };
            }
            if !late && (all_expected || write.level != Level::Available) {
                return Judgement::Wait;
            }
        }
        self.judge_closely(write, own, copies, late)
    }

    fn has_own_copy(&self, write: &Pending) -> bool {
        let position = match self.settings.sync {
            Sync::Always => self.positions.synced,
            Sync::Interval => self.positions.written,
        };
        position >= write.position && self.is_covered(write.timestamp)
    }

    /// Owners of both sides, and owners that need not be waited for.
    fn judge_closely(&mut self, write: &Pending, own: bool, copies: usize, late: bool) -> Judgement {
        let mut expected: SmallVec<[bool; 8]> = SmallVec::new();
        for (owner, copy) in write.set.owners.iter().zip(&write.copies) {
            let peer = self.peer_mut(owner.member);
            if late
                && matches!(copy, Copy::Sent(..) | Copy::Lost)
                && let Some(peer) = peer
            {
                peer.unresponsive = true;
            }
            expected.push(*copy == Copy::Own || self.peer(owner.member).is_none_or(Peer::is_expected));
        }
        let has = |at: &usize| match write.copies.get(*at) {
            Some(Copy::Own) => own,
            Some(Copy::Confirmed) => true,
            _ => false,
        };
        // A hint counts only while no owner lives, and never for a level that names owners.
        let held = write.held
            && own
            && copies == 0
            && matches!(write.level, Level::One | Level::Available)
            && !expected.contains(&true);
        let copies = short(copies + usize::from(held));
        let met = write.set.sides().iter().all(|side| {
            let have = side.iter().filter(|at| has(at)).count() + usize::from(held);
            let hoped = side.iter().filter(|at| has(at) || expected.get(**at) == Some(&true)).count();
            let needed = match write.level {
                Level::One => 1,
                Level::Available => (side.len() / 2 + 1).min(hoped).max(1),
                Level::Quorum => side.len() / 2 + 1,
                Level::All => side.len(),
            };
            have >= needed
        });
        match (met, late) {
            (true, _) => Judgement::Met { copies },
            (false, true) => Judgement::Missed { copies },
            (false, false) => Judgement::Wait,
        }
    }

    /// Whether the stamp may be shown: the clock's own must be covered by a reservation. Those of
    /// others (a counter's base) need not, nor those that only exceed a record too far ahead.
    pub(super) fn is_covered(&self, stamp: Timestamp) -> bool {
        let given = stamp.member == self.identity.member && stamp.time <= self.clock.stamped();
        !given || self.clock.is_covered(stamp.time)
    }

    fn complete_write(&mut self, write: &mut Pending, copies: u16) {
        self.counters.superseded += u64::from(write.superseded.is_some());
        let stored = Stored {
            timestamp: write.superseded.unwrap_or(write.timestamp),
            copies,
            superseded: write.superseded.is_some(),
            hash: write.hash,
            number: write.number,
        };
        match write.looked.take() {
            None => self.answer(write.origin, stored),
            Some(looked) => self.answer_modified(write.origin, Some(stored), *looked),
        }
    }

    /// A peer did not simply store records of its link.
    pub(super) fn writes_excepted(
        &mut self,
        member: MemberId,
        numbers: std::ops::Range<u64>,
        verdict: Verdict,
    ) {
        for write in &mut self.writes {
            let Some(at) = write.set.position(member) else { continue };
            let Some(copy) = write.copies.get_mut(at) else { continue };
            if matches!(copy, Copy::Sent(_, number) if numbers.contains(number)) {
                match verdict {
                    Verdict::Superseded(winner) => {
                        write.superseded = write.superseded.max(Some(winner));
                    }
                    Verdict::ClockAhead | Verdict::Placement | Verdict::Storage => *copy = Copy::Lost,
                }
            }
        }
        self.progress = true;
    }

    /// A link ended: what it did not confirm is no longer under way.
    pub(super) fn writes_lost(&mut self, member: MemberId) {
        for write in &mut self.writes {
            let at = write.set.position(member);
            if let Some(copy) = at.and_then(|at| write.copies.get_mut(at))
                && matches!(copy, Copy::Sent(..))
            {
                *copy = Copy::Lost;
            }
        }
        self.progress = true;
    }

    /// Sends to a peer what pending writes could not send to it before. Called when a link comes
    /// up and when the peer's placement is found to agree again.
    pub(super) fn resend_writes(&mut self, member: MemberId) {
        let mut writes = std::mem::take(&mut self.writes);
        for write in &mut writes {
            let at = write.set.position(member);
            if at.and_then(|at| write.copies.get(at)) == Some(&Copy::Lost) {
                let copy = self.resend(member, write);
                if let Some(slot) = at.and_then(|at| write.copies.get_mut(at)) {
                    *slot = copy;
                }
            }
        }
        self.writes = writes;
    }

    /// Sends the newest record of a write's key. Where that is another write's, this one never
    /// reaches the owner: it is superseded.
    fn resend(&mut self, member: MemberId, write: &mut Pending) -> Copy {
        let hash = write.hash;
        let Some(slot) = self.records.table.find_hash(hash) else { return Copy::Lost };
        let Some(at) = self.peer_index.get(&member).copied() else { return Copy::Lost };
        let record = self.records.table.record(slot);
        // What was counted is within a counter that was stamped anew since.
        let is_within = write.number.is_some() && write.looked.is_none();
        let newest = record.filter(|record| !is_within || record.kind() != Kind::Counter);
        let newest = newest.map(RecordRef::timestamp);
        write.superseded = write.superseded.max(newest.filter(|newest| *newest > write.timestamp));
        let link = self.peers.get_mut(at).and_then(|peer| peer.link.as_mut());
        let sent =
            link.zip(record).and_then(|(link, record)| link.push_record(Purpose::Fresh, record, hash, None));
        sent.map_or(Copy::Lost, |number| Copy::Sent(at, number))
    }

    /// The placement changed: pending writes go to the owners of the day.
    pub(super) fn rebase_writes(&mut self) {
        let mut writes = std::mem::take(&mut self.writes);
        for write in &mut writes {
            let Some(slot) = self.records.table.find_hash(write.hash) else { continue };
            let Some(key) = self.records.table.record(slot).and_then(|r| r.key_ref().ok()) else { continue };
            let set = Arc::clone(self.placement.set_of(key, write.hash));
            if set == write.set || set.owners.is_empty() {
                continue;
            }
            let mut copies: SmallVec<[Copy; 4]> = SmallVec::new();
            for owner in &set.owners {
                let known = write.set.position(owner.member).and_then(|at| write.copies.get(at)).copied();
                let copy = match known {
                    Some(copy) => copy,
                    None if owner.member == self.identity.member => Copy::Own,
                    None => self.resend(owner.member, write),
                };
                if known.is_none() && copy == Copy::Lost {
                    self.note_hint(owner.member, slot, write.hash);
                }
                copies.push(copy);
            }
            write.is_settled = set.is_settled();
            write.held &= !set.contains(self.identity.member);
            (write.set, write.copies) = (set, copies);
        }
        self.writes = writes;
        self.progress = true;
    }
}

/// A count as the answers carry it.
pub(super) fn short(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
