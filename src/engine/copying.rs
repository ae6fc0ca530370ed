//! Copying: how an owner of a partition becomes complete for it.
//!
//! A partition that this member owns is *complete*, or it is copied from the other owners, its
//! *sources*, one after the other: page after page of the one that was chosen, to its end. It is
//! complete when no source is left. New writes reach this member meanwhile, as it is in the owner
//! set.
//!
//! States of a source: *left* → *current* (at most one; at most one request of it is outstanding) →
//! gone, because it was copied to its end or was passed over. Invariants:
//!
//! - Only a copy vouches: of a source that was complete all the while. An owner must be vouched for by so
//!   many that every quorum of the old owners has one among them: what was acknowledged at a quorum is
//!   then here, too. So an owner that was damaged waits for others that are away, until they return
//!   or are removed. Once it is vouched for, sources that are out of reach, or not complete
//!   themselves, are passed over.
//! - Less is enough for an old owner in two cases. All other old owners were copied to their end, complete
//!   or not: there is nothing else to be had; but who is rebuilt waits for those that are complete but for what
//!   they catch up with. And if no owner ever said that it is complete: all
//!   owners in reach, and at least one, were copied to their end.
//! - A member that is no old owner (it joins, or an owner's place becomes its own with the next step) has
//!   no such way out: it copies from complete old owners only. Owners that answered it know that
//!   it comes and refuse, from then on, writes of members that
//!   don't know it; so nothing can reach a quorum behind its back. When another step is taken
//!   first, the old owners are others, and it copies from those: what had met its level when
//!   it was not known yet may be held by none of those that it had asked. That it is complete holds
//!   only for this life, these old owners and this transition.
//! - An owner says that it is complete when what it copied is fsynced: others may forget it then.
//! - Only the reply to the outstanding request moves a copy.
//! - Where a copy stands is kept through failures and changes of placement, for as long as its
//!   owners are the same and the source lives: a later life of it has other slots.
//! - At most [`COPIES_AT_ONCE`] requests are outstanding, so that the pages of a source never fill
//!   its outbox; and none is sent while more was taken than `repair_bytes_per_second` allows.
//!
//! - What a member that is no old owner copied from one source it does not copy again from the next: it tells
//!   the leaves of its hash tree, and records in equal ones are left out. A leaf that was equal at any
//!   moment since the copy began holds here whatever the source held in it then. Others copy
//!   everything from everyone: where records were lost, the tree does not tell.
//!
//! Pages are made by [`pages`].

mod pages;

use super::Engine;
use super::anti_entropy::lower;
use super::hints::HintKey;
use super::journal::{self, Entry};
use super::peer::Peer;
use super::requests::Purpose;
use super::table::{GONE, SETTLED};
use crate::model::{MemberId, RecordRef};
use crate::protocol::compare::pack;
use crate::protocol::message::{CopyCursor, Request};
use std::collections::BTreeMap;

/// Requests for pages that may be outstanding.
const COPIES_AT_ONCE: usize = 8;
/// Microseconds without a link after which a source counts as out of reach, though nobody said that
/// it is dead: it may never have been heard.
const PATIENCE_US: u64 = 10_000_000;
/// Where a copy begins.
const BEGIN: CopyCursor = CopyCursor::Table(0);

/// What a request for a page was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    partition: u16,
    number: u64,
}

/// The source that is copied from.
#[derive(Debug)]
struct Current {
    source: MemberId,
    life: Option<(u64, u64)>,
    next: CopyCursor,
    /// The outstanding request.
    asked: Option<Ticket>,
    /// It was a complete owner with each page so far.
    complete: bool,
}

/// A partition that is being copied.
#[derive(Debug)]
struct Copying {
    /// The other owners, when this began; only old ones if this member joins.
    owners: Vec<MemberId>,
    /// If this member joins, the transition during which it does.
    transition: Option<u64>,
    /// Those that are left.
    sources: Vec<MemberId>,
    current: Option<Current>,
    began_us: u64,
    /// Sources that were copied to their end.
    copied: usize,
    /// Those of them that were complete all the while.
    vouchers: Vec<MemberId>,
    /// How many of those it takes.
    needed: usize,
    /// Where in the journal ends what was copied, when nothing is left to be copied.
    ends_at: Option<u64>,
}

/// All partitions that are being copied.
#[derive(Debug, Default)]
pub(super) struct Copies {
    partitions: BTreeMap<u16, Copying>,
    tickets: u64,
    /// The old owners of partitions that this member completed without being one of them, and the
    /// transition during which it did.
    completed: BTreeMap<u16, (Vec<MemberId>, u64)>,
}

impl Copying {
    const fn new(
        owners: Vec<MemberId>,
        sources: Vec<MemberId>,
        transition: Option<u64>,
        began_us: u64,
    ) -> Self {
        Self {
            owners,
            transition,
            sources,
            current: None,
            began_us,
            copied: 0,
            vouchers: Vec::new(),
            needed: 1,
            ends_at: None,
        }
    }

    /// Whether this member is no old owner.
    const fn joins(&self) -> bool {
        self.transition.is_some()
    }

    /// Whether what was copied is enough, if nothing more can be had.
    const fn is_vouched_for(&self) -> bool {
        self.vouchers.len() >= self.needed
    }

    fn is_asked(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.asked.is_some())
    }
}

impl Copies {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Forgets what was copied, and where.
    pub(super) fn begin_anew(&mut self) {
        self.partitions.clear();
        self.completed.clear();
    }

    fn outstanding(&self) -> usize {
        self.partitions.values().filter(|copying| copying.is_asked()).count()
    }

    /// Whether all that there is to be copied was.
    pub(super) fn has_all(&self) -> bool {
        self.partitions.values().all(|copying| copying.sources.is_empty())
    }

    /// The copy whose outstanding request has this ticket.
    fn awaiting(&mut self, ticket: Ticket) -> Option<&mut Current> {
        let current = self.partitions.get_mut(&ticket.partition)?.current.as_mut()?;
        (current.asked == Some(ticket)).then_some(current)
    }
}

impl Engine {
    /// Finds out which partitions this member owns and is not complete for.
    pub(super) fn plan_copying(&mut self) {
        let me = self.identity.member;
        let mut before = std::mem::take(&mut self.copying.partitions);
        let mut lost = Vec::new();
        for partition in 0..self.complete.len() {
            let Ok(number) = u16::try_from(partition) else { continue };
            let set = self.placement.set(number);
            let Some(complete) = self.complete.get_mut(partition) else { continue };
            let old: Vec<MemberId> = set.old().collect();
            let joins = !old.contains(&me);
            // Every quorum of the old owners has one among so many.
            let needed = old.len() - old.len() / 2;
            let transition = self.placement.transition();
            let holds = |known: &(Vec<MemberId>, u64)| known.0 == old && known.1 == transition;
            if !set.contains(me) || joins && !self.copying.completed.get(&number).is_some_and(holds) {
                lost.extend(std::mem::take(complete).then_some(number));
            }
            if set.contains(me) && !*complete {
                let all = set.owners.iter().map(|owner| owner.member);
                let others = || all.filter(|member| *member != me).collect();
                let owners: Vec<MemberId> = if joins { old } else { others() };
                let transition = joins.then_some(transition);
                let is_same =
                    |copying: &Copying| copying.owners == owners && copying.transition == transition;
                let kept = before.remove(&number).filter(is_same);
                let began_us = self.now.mono_us;
                let begin = || Copying::new(owners.clone(), owners.clone(), transition, began_us);
                let copying = Copying { needed, ..kept.unwrap_or_else(begin) };
                self.copying.partitions.insert(number, copying);
            }
        }
        if !lost.is_empty() {
            self.note_complete();
        }
        for partition in lost {
            self.unvouch(partition);
        }
    }

    /// Passes over sources that are not needed, ends copies that have none left, and asks for the
    /// next pages of the others.
    pub(super) fn continue_copying(&mut self) {
        self.activate_when_complete();
        let partitions: Vec<u16> = self.copying.partitions.keys().copied().collect();
        let mut finished = false;
        for partition in &partitions {
            self.pass_over_sources(*partition);
            finished |= self.finish_copy(*partition);
        }
        let mut room = COPIES_AT_ONCE.saturating_sub(self.copying.outstanding());
        for partition in partitions {
            if room == 0 {
                break;
            }
            room -= usize::from(self.ask_for_page(partition));
        }
        if finished {
            self.note_complete();
            self.tell_complete(None);
        }
    }

    fn pass_over_sources(&mut self, partition: u16) {
        self.copy_again_from_complete(partition);
        let Some(copying) = self.copying.partitions.get(&partition) else { return };
        let digest = self.placement.digest();
        let is_out = |member: &MemberId| self.is_out_of_reach(*member, copying.began_us);
        let is_useless = |member: &MemberId| {
            is_out(member)
                || self
                    .peer(*member)
                    .is_some_and(|peer| peer.is_reachable() && !peer.is_complete(partition, digest))
        };
        let was_complete =
            |member: &MemberId| self.peer(*member).is_some_and(|peer| peer.was_complete(partition));
        let set = self.placement.set(partition);
        // A member that is to be an owner and never was complete has nothing that an old owner lacks.
        let is_idle_newcomer = |member: &MemberId| {
            set.old().all(|old| old != *member) && is_out(member) && !was_complete(member)
        };
        let left: Vec<MemberId> = if copying.is_vouched_for() {
            copying.sources.iter().copied().filter(|member| !is_useless(member)).collect()
        } else if !copying.joins()
            && (copying.sources.iter().all(is_idle_newcomer)
                || copying.copied > 0
                    && copying.sources.iter().all(is_out)
                    && !copying.owners.iter().any(was_complete))
        {
            Vec::new()
        } else {
            return;
        };
        if let Some(copying) = self.copying.partitions.get_mut(&partition) {
            if copying.current.as_ref().is_some_and(|current| !left.contains(&current.source)) {
                copying.current = None;
            }
            copying.sources = left;
        }
    }

    /// Who was copied before it was complete itself, and is now, can vouch when it is copied once more.
    /// Not while nobody vouches and a complete owner is out of reach: the other may have become complete
    /// without having heard of that one. Nobody vouches twice.
    fn copy_again_from_complete(&mut self, partition: u16) {
        let Some(copying) = self.copying.partitions.get(&partition) else { return };
        // Who joins keeps those that can't vouch yet among its sources.
        if copying.joins() || copying.is_vouched_for() {
            return;
        }
        let digest = self.placement.digest();
        let vouches = |member: &MemberId| {
            self.peer(*member).is_some_and(|peer| peer.is_reachable() && peer.is_complete(partition, digest))
        };
        let is_missed = |member: &MemberId| {
            self.peer(*member).is_some_and(|peer| !peer.is_reachable() && peer.was_complete(partition))
        };
        if copying.vouchers.is_empty() && copying.owners.iter().any(is_missed) {
            return;
        }
        let is_done =
            |member: &MemberId| copying.sources.contains(member) || copying.vouchers.contains(member);
        let others = copying.owners.iter().copied();
        let again: Vec<MemberId> = others.filter(|member| !is_done(member) && vouches(member)).collect();
        if let Some(copying) = self.copying.partitions.get_mut(&partition) {
            copying.sources.extend(again);
        }
    }

    /// Whether a source is dead, or was without a link for too long since the copy wanted it.
    fn is_out_of_reach(&self, member: MemberId, began_us: u64) -> bool {
        let since_us = match self.peer(member) {
            Some(peer) if peer.dead => return true,
            Some(peer) if peer.link.is_some() => return false,
            Some(peer) => began_us.max(peer.link_lost_us),
            None => began_us,
        };
        self.now.mono_us >= since_us + PATIENCE_US
    }

    fn finish_copy(&mut self, partition: u16) -> bool {
        if self.roster_distrusted && self.roster.len() <= 1 {
            return false;
        }
        let end = self.end();
        let Some(copying) = self.copying.partitions.get_mut(&partition) else { return false };
        if !copying.sources.is_empty() {
            copying.ends_at = None;
            return false;
        }
        if self.rebuilding.is_dropping_from(partition) {
            return false;
        }
        if self.positions.synced < *copying.ends_at.get_or_insert(end) {
            self.lanes.sync = true;
            return false;
        }
        if self.copying.partitions.remove(&partition).is_some_and(|copying| copying.joins()) {
            let old = self.placement.set(partition).old().collect();
            self.copying.completed.insert(partition, (old, self.placement.transition()));
        }
        if let Some(complete) = self.complete.get_mut(usize::from(partition)) {
            *complete = true;
        }
        true
    }

    /// Asks for the next page of a partition, if that can be done now.
    fn ask_for_page(&mut self, partition: u16) -> bool {
        let rests = self.storage_problem.is_some() || self.is_congested() || !self.may_repair();
        let Some(copying) = self.copying.partitions.get(&partition).filter(|c| !rests && !c.is_asked())
        else {
            return false;
        };
        let Some(source) = self.choose_source(partition, copying) else { return false };
        let life = self.peer(source).and_then(|peer| peer.life);
        let going_on = copying.current.as_ref().filter(|now| now.source == source && now.life == life);
        let (next, complete) = going_on.map_or((BEGIN, true), |now| (now.next.clone(), now.complete));
        if next == BEGIN {
            self.rebuilding.restart(partition);
        }
        let held = self.leaves_to_leave_out(partition, copying);
        self.copying.tickets += 1;
        let ticket = Ticket { partition, number: self.copying.tickets };
        let request = Request::Copy { partition, from: next.clone(), held };
        let asked = self.ask(source, request, Purpose::Copy(ticket)).then_some(ticket);
        if let Some(copying) = self.copying.partitions.get_mut(&partition) {
            copying.current = Some(Current { source, life, next, asked, complete });
        }
        asked.is_some()
    }

    /// What a source is told of this member's leaves, lest it sends again what another one has sent.
    fn leaves_to_leave_out(&self, partition: u16, copying: &Copying) -> Vec<u8> {
        // Who is rebuilt must know all that a source has.
        let all = self.records.wrong > 0 || self.rebuilding.is_active();
        let tells = copying.joins() && copying.copied > 0 && !all && !self.is_sorting();
        let tree = self.records.trees.tree(partition).filter(|_| tells);
        tree.map_or_else(Vec::new, |tree| pack(tree.leaves().iter().copied().map(lower)))
    }

    /// The source to go on with: the current one while it can be asked, else a complete one, else
    /// any, unless only complete ones are of use.
    fn choose_source(&self, partition: u16, copying: &Copying) -> Option<MemberId> {
        let digest = self.placement.digest();
        let reachable = || {
            let peers = copying.sources.iter().filter_map(|member| self.peer(*member));
            peers.filter(|peer| Peer::is_reachable(peer))
        };
        let current = copying.current.as_ref().map(|current| current.source);
        let chosen = reachable()
            .find(|peer| Some(peer.member) == current)
            .or_else(|| reachable().find(|peer| peer.is_complete(partition, digest)))
            .or_else(|| reachable().find(|peer| !copying.joins() && !self.waits_for(peer, partition)));
        chosen.map(|peer| peer.member)
    }

    /// Whether a source is of no use before it is complete: it says that it is but for what it just catches up with,
    /// and only complete owners tell who is rebuilt what it is to drop.
    fn waits_for(&self, source: &Peer, partition: u16) -> bool {
        self.rebuilding.is_active() && source.was_complete(partition)
    }

    /// A page arrived.
    pub(super) fn take_copied(
        &mut self,
        ticket: Ticket,
        records: &[u8],
        settled: &[u8],
        next: Option<CopyCursor>,
    ) {
        let Some(source) = self.copying.awaiting(ticket).map(|current| current.source) else { return };
        self.note_repair(records.len() + settled.len());
        let mut rest = records;
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            self.note_copied(ticket.partition, source, record, hash);
            self.merge(record, hash);
        }
        if !rest.is_empty() || !self.take_settled(settled) {
            return self.copy_failed(ticket);
        }
        let partition = ticket.partition;
        let is_complete = self.is_complete_at(source, partition);
        let is_waited_for = self.peer(source).is_some_and(|source| self.waits_for(source, partition));
        let Some(current) = self.copying.awaiting(ticket) else { return };
        current.asked = None;
        current.complete &= is_complete;
        match next {
            Some(next) => {
                // A page without anything waits for redb at its source; so does the next one.
                let moved = !records.is_empty() || !settled.is_empty() || current.next != next;
                current.next = next;
                if moved {
                    self.ask_for_page(partition);
                }
            }
            None => {
                if let Some(copying) = self.copying.partitions.get_mut(&partition) {
                    let vouches = copying.current.take().is_some_and(|current| current.complete);
                    // A joiner has no use for what was not complete, until it is.
                    let is_done = vouches || !copying.joins() && !is_waited_for;
                    copying.sources.retain(|member| *member != source || !is_done);
                    copying.copied += 1;
                    copying.vouchers.extend(vouches.then_some(source));
                    let is_believed = vouches && copying.is_vouched_for();
                    self.source_ended(partition, is_believed);
                }
                self.continue_copying();
            }
        }
    }

    /// Tombstones that settled at a source do so here, unless something else is here. Says whether these are
    /// records all through.
    fn take_settled(&mut self, records: &[u8]) -> bool {
        let (mut rest, mut is_known) = (records, true);
        while let Ok((tombstone, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let (Ok(key), hash) = (tombstone.key_ref(), tombstone.key_hash()) else { return false };
            let present = self.records.table.find_any(key, hash);
            if present.is_none() && !self.is_surely_absent(key, hash) {
                // The page is asked for again, when redb has answered.
                is_known = false;
                continue;
            }
            // A newer one that settled stays, and so does whatever came on top.
            let is_older = |id| {
                let record = self.records.table.record(id);
                self.records.table.has_any(id, SETTLED | GONE)
                    && record.is_some_and(|record| record.timestamp() < tombstone.timestamp())
            };
            let is_gone = |id| self.records.table.has(id, GONE);
            if present.is_none_or(|id| is_gone(id) || is_older(id)) {
                self.merge(tombstone, hash);
                if self.records.settle(key, hash, tombstone.timestamp()) {
                    let entry = Entry::TombstoneSettled(HintKey::of(key), tombstone.timestamp());
                    journal::append(&mut self.lanes.journal, &entry);
                }
            }
        }
        rest.is_empty() && is_known
    }

    /// A page will not come; it is asked for again at a tick.
    pub(super) fn copy_failed(&mut self, ticket: Ticket) {
        if let Some(current) = self.copying.awaiting(ticket) {
            current.asked = None;
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
