//! A pass: one comparison with one peer, as a state machine.
//!
//! ```text
//! roots → rest → roots again → per group of leaves: own table → own store → sums → lists
//!                                    → fetch → fetch from store → push → push from store
//!       → confirm
//! ```
//!
//! The lists of a group come in pieces; so many records as one may name are exchanged before the next is asked for.
//!
//! At most one request is outstanding, and only its answer moves the pass. Whatever goes wrong (the link, the
//! placement, an answer that says no) ends it; it begins anew later, and what was exchanged needn't be again.
//! Invariants of a pass that is completed: every leaf was equal at some moment since it began, or all records
//! in it that the peer listed were merged here, and all that it lacked were confirmed after fsync there. A
//! record that was pushed and whose link ended became a hint, and the pass failed with its link.

use super::super::pages::PageFor;
use super::super::requests::Purpose;
use super::answers::{differing, lower};
use super::exchange::{FIRST_HASHES, at_once};
use super::listing::{Content, Listing, MAX_ENTRIES};
use super::{AGAIN_US, ANSWER_US, Passed, RETRY_US, ROUND_US};
use crate::engine::{Engine, Name, PageFound};
use crate::model::{MemberId, RecordRef};
use crate::protocol::compare::{Compare, Compared, Grain, LeafId, Listed, MAX_GRAIN_BITS, pack, unpack};
use crate::protocol::message::Request;
use std::collections::{BTreeMap, BTreeSet};

/// Records of one leaf's part, about, so that a sum is cheaper than a list.
const RECORDS_PER_PART: usize = 4;
/// Microseconds until it is looked again whether a peer agrees about the placement.
const DISAGREE_US: u64 = 200_000;
/// Where redb's pages begin.
pub(super) const BEGIN: Name = (String::new(), Vec::new());

/// What a request of a pass was for: its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Ticket(u64);

/// A partition that is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// This member owns it and takes what it lacks.
    pub(super) takes: bool,
    /// Its root when the pass began.
    pub(super) root: u128,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The peer was asked for its leaves; the leaves that differed when it was asked before.
    Roots(Option<BTreeSet<LeafId>>),
    /// The second look comes at this time in microseconds.
    Rest(BTreeSet<LeafId>, u64),
    /// The own table is walked.
    OwnTable(Listing),
    /// Pages of the own redb come.
    OwnStore(Listing),
    Sums,
    Lists,
    /// Records are asked for; those that the peer has on the disk only come last.
    Fetch,
    FetchStored(BTreeSet<u64>, Name),
    Push,
    /// Pages of the own redb come, with what is to be pushed.
    PushStored,
    /// All was sent; the link's number of the last record.
    Confirm,
}

/// A comparison with one peer.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) peer: MemberId,
    pub(super) link: u64,
    pub(super) number: u64,
    pub(super) digest: u64,
    /// Somebody wants to be sure that the peer has it fsynced.
    pub(super) durable: bool,
    /// It only repeats an earlier one.
    repeats: bool,
    pub(super) shares: BTreeMap<u16, Share>,
    pub(super) stage: Stage,
    pub(super) asked: Option<Ticket>,
    /// When it moved last, in microseconds: what is being loaded is not waited for for ever.
    pub(super) moved_us: u64,
    /// Leaves that differ and were not listed yet.
    pub(super) left: BTreeSet<LeafId>,
    /// The collection that the present group of leaves is of, if that is placed by itself.
    pub(super) collection: Option<String>,
    pub(super) grain: Grain,
    /// What this member has in the leaves of the present group.
    pub(super) own: BTreeMap<LeafId, Vec<(Listed, bool)>>,
    /// Parts that differ and that the peer did not list yet.
    pub(super) parts: BTreeMap<LeafId, Vec<u8>>,
    pub(super) wanted: BTreeSet<u64>,
    pub(super) wanted_stored: BTreeSet<u64>,
    /// How many of the wanted are named in one request.
    pub(super) at_once: usize,
    pub(super) push: BTreeSet<u64>,
    pub(super) push_stored: BTreeSet<u64>,
    pub(super) last_pushed: u64,
}

impl Pass {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether it moves with turns, not with answers.
    pub(super) const fn moves_with_turns(&self) -> bool {
        matches!(self.stage, Stage::OwnTable(_) | Stage::Push | Stage::Confirm)
    }

    /// Whether it can go on at once.
    pub(super) const fn wants_step(&self) -> bool {
        matches!(&self.stage, Stage::OwnTable(listing) if !listing.is_walked())
    }
}

impl Engine {
    /// Compares with a peer, unless there is nothing to compare.
    pub(super) fn begin_pass(&mut self, peer: MemberId, repeats: bool) {
        if self.is_sorting() {
            return self.compare_later(peer, RETRY_US);
        }
        let digest = self.placement.digest();
        let known =
            self.peer(peer).filter(|peer| peer.complete.as_ref().is_some_and(|(told, _)| *told == digest));
        let Some(link) = known.and_then(|peer| peer.link.as_ref()).map(|link| link.id) else {
            return self.compare_later(peer, DISAGREE_US);
        };
        self.anti_entropy.last += 1;
        let shares = self.shares_with(peer);
        let durable = shares.values().any(|share| !share.takes) || self.is_leaving;
        let pass = Pass {
            peer,
            link,
            number: self.anti_entropy.last,
            digest,
            durable,
            repeats,
            shares,
            stage: Stage::Confirm,
            asked: None,
            moved_us: self.now.mono_us,
            left: BTreeSet::new(),
            collection: None,
            grain: Grain { bits: 0, salt: self.anti_entropy.last ^ self.identity.life },
            own: BTreeMap::new(),
            parts: BTreeMap::new(),
            wanted: BTreeSet::new(),
            wanted_stored: BTreeSet::new(),
            at_once: FIRST_HASHES,
            push: BTreeSet::new(),
            push_stored: BTreeSet::new(),
            last_pushed: 0,
        };
        if let Some(peer) = self.peer_mut(peer) {
            peer.compared.is_needed = false;
        }
        if pass.shares.is_empty() {
            self.note_differing(peer, 0);
            return self.complete_pass(&pass);
        }
        let partitions = pass.shares.keys().copied().collect();
        self.ask_for_leaves(pass, partitions, None);
    }

    /// The partitions that both must hold, or that this member holds and the peer must. Partitions that one of
    /// both still copies are left to that.
    pub(super) fn shares_with(&self, peer: MemberId) -> BTreeMap<u16, Share> {
        let me = self.identity.member;
        let partitions = (0u16..).take(self.placement.partitions());
        let shared = partitions.filter_map(|partition| {
            let set = self.placement.set(partition);
            let known = self.peer(peer)?;
            if !set.contains(peer) || !known.was_complete(partition) {
                return None;
            }
            let takes = set.contains(me);
            let root = self.records.trees.tree(partition)?.root();
            let compares = if takes {
                self.complete.get(usize::from(partition)) == Some(&true)
            } else {
                self.records.holds_any(partition) && !self.rebuilding.is_active()
            };
            compares.then_some((partition, Share { takes, root }))
        });
        shared.collect()
    }

    /// Goes on with the pass under way as far as it can be gone now.
    pub(super) fn continue_pass(&mut self) {
        let Some(mut pass) = self.anti_entropy.pass.take() else { return };
        if !self.has_link(pass.peer, pass.link) || pass.digest != self.placement.digest() {
            return self.fail_pass(&pass);
        }
        let rests =
            self.anti_entropy.budget.is_spent() || self.storage_problem.is_some() || self.is_congested();
        match std::mem::replace(&mut pass.stage, Stage::Confirm) {
            Stage::Rest(differ, until_us) if self.now.mono_us >= until_us => {
                let partitions = differ.iter().map(|(partition, _)| *partition).collect();
                return self.ask_for_leaves(pass, partitions, Some(differ));
            }
            Stage::OwnTable(mut listing) => {
                let is_walking = !listing.is_walked();
                if !listing.walk_table(&self.records) {
                    if is_walking {
                        pass.moved_us = self.now.mono_us;
                    } else if self.is_stuck(&pass) {
                        return self.fail_pass(&pass);
                    }
                    pass.stage = Stage::OwnTable(listing);
                } else if self.records.has_evicted(&listing.bitmaps()) {
                    self.want_listed_page(PageFor::Own(pass.number), listing.of_store(), BEGIN);
                    pass.stage = Stage::OwnStore(listing);
                } else {
                    return self.ask_for_sums(pass, listing);
                }
            }
            Stage::Fetch if !rests && pass.asked.is_none() => return self.fetch(pass),
            Stage::FetchStored(batch, after) if !rests && pass.asked.is_none() => {
                let hashes = pack(batch.iter().copied());
                pass.stage = Stage::FetchStored(batch, after.clone());
                return self.ask_in_pass(pass, Compare::FetchStored { hashes, after });
            }
            Stage::Push if !rests => return self.push(pass),
            Stage::Confirm if pass.asked.is_none() => {
                let link = self.peer(pass.peer).and_then(|peer| peer.link.as_ref());
                if link.is_some_and(|link| link.fsynced() >= pass.last_pushed) {
                    return self.complete_pass(&pass);
                }
            }
            stage => pass.stage = stage,
        }
        self.anti_entropy.pass = Some(pass);
    }

    /// Whether what is being loaded was waited for for so long that other members had better have their turn.
    pub(super) const fn is_stuck(&self, pass: &Pass) -> bool {
        self.now.mono_us >= pass.moved_us.saturating_add(ANSWER_US)
    }

    /// Asks the peer; the pass is under way from now on.
    pub(super) fn ask_in_pass(&mut self, mut pass: Pass, question: Compare) {
        self.anti_entropy.last += 1;
        let ticket = Ticket(self.anti_entropy.last);
        pass.asked = Some(ticket);
        let until_us = self.now.mono_us + ANSWER_US;
        if self.ask_until(pass.peer, Request::Compare(question), Purpose::Compare(ticket), until_us) {
            self.anti_entropy.pass = Some(pass);
        } else {
            self.fail_pass(&pass);
        }
    }

    fn ask_for_leaves(
        &mut self,
        mut pass: Pass,
        partitions: BTreeSet<u16>,
        before: Option<BTreeSet<LeafId>>,
    ) {
        let trees = partitions.into_iter().filter_map(|at| Some((at, self.records.trees.tree(at)?.root())));
        let roots = trees.map(|(partition, root)| (partition, lower(root))).collect();
        let (durable, repeats) = (pass.durable, pass.repeats);
        pass.stage = Stage::Roots(before);
        self.ask_in_pass(pass, Compare::Roots { roots, durable, repeats });
    }

    /// The peer answered.
    pub(in crate::engine) fn take_compared(&mut self, ticket: Ticket, compared: Compared) {
        let Some(mut pass) = self.anti_entropy.pass.take() else { return };
        if pass.asked != Some(ticket) {
            self.anti_entropy.pass = Some(pass);
            return;
        }
        pass.asked = None;
        if pass.digest != self.placement.digest() {
            return self.fail_pass(&pass);
        }
        match (std::mem::replace(&mut pass.stage, Stage::Confirm), compared) {
            (Stage::Roots(before), Compared::Leaves(leaves)) => self.take_leaves(pass, before, &leaves),
            (Stage::Sums, Compared::Sums(sums)) => self.take_sums(pass, &sums),
            (Stage::Lists, Compared::Listed { leaves, entries }) => self.take_lists(pass, leaves, &entries),
            (Stage::Fetch, Compared::Fetched { records, done, stored }) => {
                self.anti_entropy.budget.spend(records.len());
                pass.at_once = at_once(done);
                let looked_at: Vec<u64> = pass.wanted.iter().copied().take(done as usize).collect();
                for hash in &looked_at {
                    pass.wanted.remove(hash);
                }
                pass.wanted_stored
                    .extend(unpack(&stored).filter(|hash| looked_at.binary_search(hash).is_ok()));
                if done == 0 || !self.merge_fetched(&records, |_| ()) {
                    return self.fail_pass(&pass);
                }
                pass.stage = Stage::Fetch;
                self.resume_pass(pass);
            }
            (Stage::FetchStored(mut batch, _), Compared::FetchedStored { records, next }) => {
                self.anti_entropy.budget.spend(records.len());
                if !self.merge_fetched(&records, |hash| _ = batch.remove(&hash.0)) {
                    return self.fail_pass(&pass);
                }
                pass.stage = match next {
                    Some(next) if !batch.is_empty() => Stage::FetchStored(batch, next),
                    _ => Stage::Fetch,
                };
                self.resume_pass(pass);
            }
            _ => self.fail_pass(&pass),
        }
    }

    pub(super) fn resume_pass(&mut self, pass: Pass) {
        self.anti_entropy.pass = Some(pass);
        self.continue_pass();
    }

    /// The peer can't answer, or not now.
    pub(in crate::engine) fn compare_failed(&mut self, ticket: Ticket) {
        if let Some(pass) = self.anti_entropy.pass.take_if(|pass| pass.asked == Some(ticket)) {
            self.fail_pass(&pass);
        }
    }

    pub(super) fn fail_pass(&mut self, pass: &Pass) {
        self.compare_later(pass.peer, if pass.repeats { ROUND_US } else { RETRY_US });
        if !pass.repeats {
            self.compare_surely(pass.peer);
        }
    }

    pub(super) fn compare_later(&mut self, peer: MemberId, after_us: u64) {
        let due_us = self.now.mono_us + after_us;
        if let Some(peer) = self.peer_mut(peer) {
            peer.compared.due_us = due_us;
        }
    }

    /// A peer refused records of its link: what the pass pushed may be among them, and somebody wants to be
    /// sure of that.
    pub(in crate::engine) fn spoil_pass(&mut self, peer: MemberId) {
        if let Some(pass) = self.anti_entropy.pass.take_if(|pass| pass.peer == peer && pass.durable) {
            self.fail_pass(&pass);
        }
    }

    pub(super) fn complete_pass(&mut self, pass: &Pass) {
        self.counters.passes += 1;
        let passed = Passed {
            digest: pass.digest,
            began_us: self.anti_entropy.began_us,
            ended_us: self.now.mono_us,
            roots: pass.shares.iter().map(|(partition, share)| (*partition, share.root)).collect(),
        };
        self.compare_later(pass.peer, ROUND_US);
        if let Some(peer) = self.peer_mut(pass.peer) {
            peer.compared.last = Some(passed);
        }
        self.catch_up();
    }

    fn take_leaves(&mut self, mut pass: Pass, before: Option<BTreeSet<LeafId>>, told: &[(u16, Vec<u8>)]) {
        self.anti_entropy.budget.spend(told.len() * 512);
        let known = told.iter().filter(|(partition, _)| pass.shares.contains_key(partition));
        let leaves = known.filter_map(|(partition, theirs)| {
            let own = self.records.trees.tree(*partition)?.leaves();
            Some(differing(*partition, own, theirs))
        });
        let differ: BTreeSet<LeafId> = leaves.flatten().collect();
        let Some(before) = before else {
            self.note_differing(pass.peer, differ.len());
            if differ.is_empty() {
                return self.complete_pass(&pass);
            }
            pass.stage = Stage::Rest(differ, self.now.mono_us + AGAIN_US);
            self.anti_entropy.pass = Some(pass);
            return;
        };
        pass.left = differ.intersection(&before).copied().collect();
        self.note_differing(pass.peer, pass.left.len());
        self.next_group(pass);
    }

    fn note_differing(&mut self, peer: MemberId, leaves: usize) {
        if let Some(peer) = self.peer_mut(peer) {
            peer.compared.differing = leaves;
        }
    }

    /// A page of the own redb for the pass; none when it could not be read.
    pub(in crate::engine) fn own_page(&mut self, number: u64, page: Option<PageFound>) {
        let Some(mut pass) = self.anti_entropy.pass.take_if(|pass| pass.number == number) else { return };
        let Some(PageFound { records, next, .. }) = page else { return self.fail_pass(&pass) };
        match std::mem::replace(&mut pass.stage, Stage::Confirm) {
            Stage::OwnStore(mut listing) => {
                listing.take_page(&records, &self.records);
                if let Some(after) = next {
                    self.want_listed_page(PageFor::Own(number), listing.of_store(), after);
                    pass.stage = Stage::OwnStore(listing);
                    self.anti_entropy.pass = Some(pass);
                } else {
                    self.ask_for_sums(pass, listing);
                }
            }
            Stage::PushStored => {
                let mut rest = &records[..];
                while let Ok((record, tail)) = RecordRef::parse(rest) {
                    rest = tail;
                    let hash = record.key_hash();
                    if !pass.push_stored.contains(&hash.0) {
                        continue;
                    }
                    let newest = self.newest_of(record, hash);
                    if !self.push_record(&mut pass, newest.view(), hash) {
                        return self.fail_pass(&pass);
                    }
                }
                match next {
                    Some(after) => {
                        self.want_push_page(&pass, after);
                        pass.stage = Stage::PushStored;
                        self.anti_entropy.pass = Some(pass);
                    }
                    None => {
                        pass.push_stored.clear();
                        self.next_group(pass);
                    }
                }
            }
            stage => {
                pass.stage = stage;
                self.anti_entropy.pass = Some(pass);
            }
        }
    }

    /// What this member has is known: now the peer's sums.
    fn ask_for_sums(&mut self, mut pass: Pass, mut listing: Listing) {
        listing.finish();
        let mut own = BTreeMap::new();
        for (leaf, content) in listing.leaves {
            pass.left.remove(&leaf);
            if let Content::List(_, entries) = content {
                own.insert(leaf, entries);
            }
        }
        let entries: usize = own.values().map(Vec::len).sum();
        let per_leaf = (entries / own.len().max(1)).min(MAX_ENTRIES) / RECORDS_PER_PART;
        let bits = per_leaf.checked_ilog2().map_or(0, |bits| bits + 1);
        pass.grain.bits = u8::try_from(bits).unwrap_or(MAX_GRAIN_BITS).min(MAX_GRAIN_BITS);
        pass.own = own;
        let (leaves, grain) = (pass.own.keys().copied().collect(), pass.grain);
        pass.stage = Stage::Sums;
        self.ask_in_pass(pass, Compare::Sums { leaves, grain });
    }

    fn take_sums(&mut self, mut pass: Pass, theirs: &[u8]) {
        self.anti_entropy.budget.spend(theirs.len());
        let (grain, bits) = (pass.grain, self.placement.partition_bits());
        let parts = grain.parts();
        if theirs.len() != pass.own.len() * parts * 8 {
            return self.fail_pass(&pass);
        }
        for ((leaf, entries), theirs) in pass.own.iter().zip(theirs.chunks_exact(parts * 8)) {
            let mut sums = vec![0u64; parts];
            // The marks were made with this salt already; only the parts are new.
            for (entry, _) in entries.iter().filter(|(_, settled)| !settled) {
                if let Some(sum) = sums.get_mut(grain.part(entry.hash, bits)) {
                    *sum ^= entry.mark;
                }
            }
            let mut differ = vec![0u8; parts.div_ceil(8)];
            let pairs = sums.iter().copied().zip(unpack(theirs)).enumerate();
            for (part, _) in pairs.filter(|(_, (own, theirs))| own != theirs) {
                if let Some(byte) = differ.get_mut(part / 8) {
                    *byte |= 1 << (part % 8);
                }
            }
            if differ.iter().any(|byte| *byte != 0) {
                pass.parts.insert(*leaf, differ);
            }
        }
        self.ask_for_lists(pass);
    }

    pub(super) fn ask_for_lists(&mut self, mut pass: Pass) {
        if pass.parts.is_empty() {
            pass.own.clear();
        }
        // What is known to differ is exchanged before more of it is asked for.
        if pass.parts.is_empty() || pass.wanted.len() + pass.push.len() >= MAX_ENTRIES {
            pass.stage = Stage::Fetch;
            return self.resume_pass(pass);
        }
        let parts = pass.parts.iter().map(|(leaf, parts)| (*leaf, parts.clone())).collect();
        let (grain, durable) = (pass.grain, pass.durable);
        pass.stage = Stage::Lists;
        self.ask_in_pass(pass, Compare::List { parts, grain, durable });
    }
}
