//! The other side of a pass: answering what a peer wants to know. Nothing is kept between two requests.

use super::super::pages::PageFor;
use super::super::write::Origin;
use super::super::{Engine, Name, PageFilter, PageFound};
use super::ANSWER_US;
use super::listing::{Content, Listing};
use super::pass::BEGIN;
use crate::engine::peer::FRAME_ROOM;
use crate::model::limits::{LEAVES_PER_PARTITION, MAX_PARTITIONS};
use crate::model::placement::Layout;
use crate::model::{KeyHash, MemberId};
use crate::protocol::compare::{Compare, Compared, LeafId, MAX_GRAIN_BITS, pack, unpack};
use crate::protocol::message::{Failure, Reply};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Microseconds after which a peer that waits is told that its answer is being worked on.
pub(super) const WORKING_US: u64 = 5_000_000;
/// Listings that may wait for peers; further ones are asked for again.
const MAX_WAITING: usize = 64;
/// Leaves in one request.
pub(super) const MAX_LEAVES: usize = 4_096;
/// Bytes of a page of redb that a listing takes.
pub(super) const PAGE_BYTES: usize = 512 << 10;

// The leaves of all partitions, with their numbers and lengths, fit into one answer.
const _: () = assert!(MAX_PARTITIONS * (LEAVES_PER_PARTITION * 8 + 8) < FRAME_ROOM);

/// A listing for a peer.
#[derive(Debug)]
pub(super) struct Answer {
    origin: Origin,
    listing: Listing,
    durable: bool,
    number: u64,
    /// The table was walked; redb's pages come.
    in_store: bool,
    /// When the peer was told last that this is being worked on, or asked, in microseconds.
    told_us: u64,
}

/// What peers wait for.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The first one is being worked on.
    pub(super) listings: VecDeque<Answer>,
    /// The latest walk through redb for each member.
    pub(super) fetches: BTreeMap<MemberId, u64>,
}

impl Answers {
    pub(super) fn wants_step(&self) -> bool {
        self.listings.front().is_some_and(|answer| !answer.in_store && !answer.listing.is_walked())
    }
}

impl Engine {
    /// A peer compares itself with this member.
    pub(in crate::engine) fn compare_for_peer(
        &mut self,
        origin: Origin,
        question: Compare,
        same_placement: bool,
    ) {
        if !same_placement {
            return self.reply(origin, Reply::Failed(Failure::Placement));
        }
        let layout = Arc::clone(self.placement.layout());
        if self.is_sorting() || self.distrusts_any(partitions_of(&question, &layout)) {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        match question {
            Compare::Roots { repeats: true, .. } if self.has_many_shadows() => {
                self.reply(origin, Reply::Failed(Failure::NotReady));
            }
            Compare::Roots { roots, durable, .. } if roots.len() <= self.placement.partitions() => {
                let leaves = self.leaves_of_other_roots(&roots);
                self.reply_durably(origin, Compared::Leaves(leaves), durable);
            }
            Compare::Sums { leaves, grain } if leaves.len() <= MAX_LEAVES && grain.bits <= MAX_GRAIN_BITS => {
                self.list_for_peer(origin, Listing::sums(leaves.into_iter(), grain, layout), false);
            }
            Compare::List { parts, grain, durable } if parts.len() <= MAX_LEAVES => {
                self.list_for_peer(origin, Listing::list(parts.into_iter(), grain, layout), durable);
            }
            Compare::Roots { .. } | Compare::Sums { .. } | Compare::List { .. } => {
                self.reply(origin, Reply::Failed(Failure::NotReady))
            }
            Compare::Fetch { hashes } => self.fetch_for_peer(origin, hashes),
            Compare::FetchStored { hashes, after } => self.fetch_stored_for_peer(origin, &hashes, after),
        }
    }

    fn leaves_of_other_roots(&self, roots: &[(u16, u64)]) -> Vec<(u16, Vec<u8>)> {
        let trees = roots.iter().filter_map(|(partition, root)| {
            let tree = self.records.trees.tree(*partition)?;
            (lower(tree.root()) != *root)
                .then(|| (*partition, pack(tree.leaves().iter().copied().map(lower))))
        });
        trees.collect()
    }

    fn list_for_peer(&mut self, origin: Origin, listing: Listing, durable: bool) {
        // Whoever asks anew does not wait for its last question any more.
        self.anti_entropy.answers.listings.retain(|answer| !answer.origin.is_of_same(origin));
        if self.anti_entropy.answers.listings.len() >= MAX_WAITING {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        self.anti_entropy.last += 1;
        let number = self.anti_entropy.last;
        let told_us = self.now.mono_us;
        let answer = Answer { origin, listing, durable, number, in_store: false, told_us };
        self.anti_entropy.answers.listings.push_back(answer);
    }

    /// Partitions are numbered anew: whoever waits for a listing asks anew.
    pub(in crate::engine) fn refuse_listings(&mut self) {
        for answer in std::mem::take(&mut self.anti_entropy.answers.listings) {
            self.reply(answer.origin, Reply::Failed(Failure::Placement));
        }
    }

    /// Tells the peer that the first listing is for that it comes on. The others are told nothing: while they wait
    /// for their turn their passes had better go on with somebody else.
    fn tell_working(&mut self) {
        let now_us = self.now.mono_us;
        let first = self.anti_entropy.answers.listings.front_mut();
        let first = first.filter(|answer| now_us >= answer.told_us.saturating_add(WORKING_US));
        if let Some(answer) = first {
            answer.told_us = now_us;
            let origin = answer.origin;
            self.reply(origin, Reply::Compared(Compared::Working));
        }
    }

    /// Goes on with the first listing.
    pub(super) fn step_answers(&mut self) {
        let now_us = self.now.mono_us;
        let is_awaited = |answer: &Answer| now_us < answer.told_us.saturating_add(ANSWER_US);
        self.anti_entropy.answers.listings.retain(is_awaited);
        if self.anti_entropy.answers.wants_step() {
            self.tell_working();
        }
        let Some(answer) = self.anti_entropy.answers.listings.front_mut() else { return };
        if answer.in_store || !answer.listing.walk_table(&self.records) {
            return;
        }
        if self.records.has_evicted(&answer.listing.bitmaps()) {
            answer.in_store = true;
            let (number, walk) = (answer.number, answer.listing.of_store());
            self.want_listed_page(PageFor::Answer(number), walk, BEGIN);
        } else {
            self.finish_answer();
        }
    }

    pub(super) fn want_listed_page(
        &mut self,
        what: PageFor,
        (collection, filter): (Option<String>, PageFilter),
        after: Name,
    ) {
        self.want_page_of(collection, filter, after, PAGE_BYTES, what);
    }

    /// A page of redb for the first listing; none when it could not be read.
    pub(in crate::engine) fn answer_page(&mut self, number: u64, page: Option<PageFound>) {
        let Some(answer) = self.anti_entropy.answers.listings.front_mut().filter(|a| a.number == number)
        else {
            return;
        };
        let Some(PageFound { records, next, .. }) = page else {
            let origin = answer.origin;
            self.anti_entropy.answers.listings.pop_front();
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        };
        answer.listing.take_page(&records, &self.records);
        match next {
            Some(after) => {
                let walk = answer.listing.of_store();
                self.want_listed_page(PageFor::Answer(number), walk, after);
                self.tell_working();
            }
            None => self.finish_answer(),
        }
    }

    fn finish_answer(&mut self) {
        let Some(mut answer) = self.anti_entropy.answers.listings.pop_front() else { return };
        answer.listing.finish();
        // It may have begun to distrust itself since it was asked.
        if self.distrusts_any(answer.listing.leaves.keys().map(|(partition, _)| *partition)) {
            return self.reply(answer.origin, Reply::Failed(Failure::NotReady));
        }
        let (mut sums, mut entries) = (Vec::new(), Vec::new());
        let leaves = u32::try_from(answer.listing.leaves.len()).unwrap_or(u32::MAX);
        let mut lists = false;
        for content in answer.listing.leaves.values() {
            match content {
                Content::Sums(parts) => sums.extend(pack(parts.iter().copied())),
                Content::List(_, list) => {
                    lists = true;
                    // What left the tree here needn't be taken by anybody.
                    list.iter()
                        .filter(|(_, settled)| !settled)
                        .for_each(|(entry, _)| entry.pack(&mut entries));
                }
            }
        }
        let compared = if lists { Compared::Listed { leaves, entries } } else { Compared::Sums(sums) };
        self.reply_durably(answer.origin, compared, answer.durable);
    }

    /// Answers, if it must be, once all that the answer rests on is fsynced.
    fn reply_durably(&mut self, origin: Origin, compared: Compared, durable: bool) {
        let reply = Reply::Compared(compared);
        if durable { self.reply_synced(origin, reply) } else { self.reply(origin, reply) }
    }

    /// Whether nobody may take what this member holds of some of these partitions: it may be older than what was
    /// deleted and reclaimed since.
    pub(super) fn distrusts_any(&self, mut partitions: impl Iterator<Item = u16>) -> bool {
        self.is_listening() || partitions.any(|partition| self.distrusts(partition))
    }
}

/// The partitions that are asked about.
fn partitions_of<'a>(question: &'a Compare, layout: &'a Layout) -> impl Iterator<Item = u16> + 'a {
    let (mut roots, mut sums, mut lists, mut fetched) = (&[][..], &[][..], &[][..], &[][..]);
    match question {
        Compare::Roots { roots: asked, .. } => roots = asked,
        Compare::Sums { leaves, .. } => sums = leaves,
        Compare::List { parts, .. } => lists = parts,
        Compare::Fetch { hashes } | Compare::FetchStored { hashes, .. } => fetched = hashes,
    }
    let roots = roots.iter().map(|(partition, _)| *partition);
    let sums = sums.iter().map(|(partition, _)| *partition);
    let lists = lists.iter().map(|((partition, _), _)| *partition);
    let fetched = unpack(fetched).flat_map(move |hash| layout.partitions_with(KeyHash(hash)));
    roots.chain(sums).chain(lists).chain(fetched)
}

/// What of a root or leaf travels.
#[expect(clippy::cast_possible_truncation, reason = "half of a number is what is wanted")]
pub(in crate::engine) const fn lower(sum: u128) -> u64 {
    sum as u64
}

/// Leaves in which this member's tree differs from what a peer told of its own.
pub(super) fn differing(partition: u16, own: &[u128], theirs: &[u8]) -> Vec<LeafId> {
    if theirs.len() != LEAVES_PER_PARTITION * 8 {
        return Vec::new();
    }
    let pairs = (0u8..).zip(own.iter().copied().map(lower)).zip(unpack(theirs));
    pairs.filter(|((_, own), theirs)| own != theirs).map(|((leaf, _), _)| (partition, leaf)).collect()
}
