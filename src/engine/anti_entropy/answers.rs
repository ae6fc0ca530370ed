//! The other side of a pass: answering what a peer wants to know. Nothing is kept between two requests.

use super::super::loads::Waiter;
use super::super::pages::PageFor;
use super::super::write::Origin;
use super::super::{Engine, PageFilter, PageFound};
use super::ANSWER_US;
use super::listing::{Content, Listing, bitmaps, leaf_of};
use crate::engine::table::{SETTLED, SYSTEM, UNRESOLVED};
use crate::model::limits::LEAVES_PER_PARTITION;
use crate::model::merge::{Merged, merge};
use crate::model::{KeyHash, Record, RecordRef};
use crate::protocol::compare::{Compare, Compared, LeafId, MAX_GRAIN_BITS, pack, unpack};
use crate::protocol::message::{Failure, Reply};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Bytes of records in one answer, unless a single one has more.
const ANSWER_BYTES: usize = 512 << 10;
/// Microseconds after which a peer that waits is told that its answer is being worked on.
const WORKING_US: u64 = 5_000_000;
/// Listings that may wait for peers; further ones are asked for again.
const MAX_WAITING: usize = 64;
/// Leaves in one request.
pub(super) const MAX_LEAVES: usize = 4_096;
/// Bytes of a page of redb that a listing takes.
pub(super) const PAGE_BYTES: usize = 512 << 10;

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
        let bits = self.placement.partition_bits();
        match question {
            Compare::Roots { roots, durable } if roots.len() <= self.placement.partitions() => {
                let leaves = self.leaves_of_other_roots(&roots);
                self.reply_durably(origin, Compared::Leaves(leaves), durable);
            }
            Compare::Sums { leaves, grain } if leaves.len() <= MAX_LEAVES && grain.bits <= MAX_GRAIN_BITS => {
                self.list_for_peer(origin, Listing::sums(leaves.into_iter(), grain, bits), false);
            }
            Compare::List { parts, grain, durable } if parts.len() <= MAX_LEAVES => {
                self.list_for_peer(origin, Listing::list(parts.into_iter(), grain, bits), durable);
            }
            Compare::Roots { .. } | Compare::Sums { .. } | Compare::List { .. } => {
                self.reply(origin, Reply::Failed(Failure::NotReady))
            }
            Compare::Fetch { hashes } => self.fetch_for_peer(origin, hashes),
            Compare::FetchStored { hashes, after } => {
                let hashes: BTreeSet<u64> = unpack(&hashes).collect();
                let leaves = bitmaps(hashes.iter().map(|hash| leaf_of(KeyHash(*hash), bits)));
                let filter = PageFilter::Leaves(Arc::new(leaves));
                self.want_page(filter, after, ANSWER_BYTES, PageFor::Fetch(origin, hashes));
            }
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
        let leaves = answer.listing.bitmaps();
        if self.records.has_evicted(&leaves) {
            answer.in_store = true;
            let number = answer.number;
            self.want_listed_page(PageFor::Answer(number), leaves, (String::new(), Vec::new()));
        } else {
            self.finish_answer();
        }
    }

    pub(super) fn want_listed_page(
        &mut self,
        what: PageFor,
        leaves: BTreeMap<u16, u64>,
        after: (String, Vec<u8>),
    ) {
        self.want_page(PageFilter::Leaves(Arc::new(leaves)), after, PAGE_BYTES, what);
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
                let leaves = answer.listing.bitmaps();
                self.want_listed_page(PageFor::Answer(number), leaves, after);
                self.tell_working();
            }
            None => self.finish_answer(),
        }
    }

    fn finish_answer(&mut self) {
        let Some(mut answer) = self.anti_entropy.answers.listings.pop_front() else { return };
        answer.listing.finish();
        self.lift_shadows(&answer.listing.shadows);
        let (mut sums, mut entries) = (Vec::new(), Vec::new());
        let leaves = u32::try_from(answer.listing.leaves.len()).unwrap_or(u32::MAX);
        let mut lists = false;
        for content in answer.listing.leaves.values() {
            match content {
                Content::Sums(parts) => sums.extend(parts.iter().flat_map(|sum| sum.to_le_bytes())),
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

    /// A peer wants records from memory. Those before one that is being loaded go at once; if it is the first,
    /// they wait for it.
    pub(in crate::engine) fn fetch_for_peer(&mut self, origin: Origin, hashes: Vec<u8>) {
        let first = unpack(&hashes).next().map(KeyHash);
        if let Some((key, hash)) = first.and_then(|hash| Some((self.unresolved(hash)?, hash)))
            && let Ok(key) = key.view().key_ref()
        {
            return self.load_then(key, hash, Waiter::Fetch(origin, hashes));
        }
        let found = self.fetch_from_table(&hashes);
        self.reply(origin, Reply::Compared(found));
    }

    /// What is under a key about which redb has to be asked first.
    pub(super) fn unresolved(&self, hash: KeyHash) -> Option<Record> {
        let table = &self.records.table;
        let id = table.find_hash(hash).filter(|id| table.has(*id, UNRESOLVED))?;
        table.record(id).map(Record::copy_of)
    }

    fn fetch_from_table(&self, hashes: &[u8]) -> Compared {
        let (mut records, mut stored, mut done) = (Vec::new(), Vec::new(), 0);
        for hash in unpack(hashes) {
            match self.records.table.find_hash(KeyHash(hash)) {
                Some(id) => {
                    let table = &self.records.table;
                    if table.has(id, UNRESOLVED) {
                        break;
                    }
                    let sendable = !table.has_any(id, SYSTEM | SETTLED);
                    let bytes =
                        table.record(id).filter(|_| sendable).map(RecordRef::bytes).unwrap_or_default();
                    if !records.is_empty() && records.len() + bytes.len() > ANSWER_BYTES {
                        break;
                    }
                    records.extend_from_slice(bytes);
                }
                None if self.records.evicted_count(KeyHash(hash)) > 0 => stored.push(hash),
                None => {}
            }
            done += 1;
        }
        Compared::Fetched { records, done, stored: pack(stored) }
    }

    /// A page of redb for a peer that wants these records.
    pub(in crate::engine) fn fetched_page(
        &mut self,
        origin: Origin,
        hashes: &BTreeSet<u64>,
        page: Option<PageFound>,
    ) {
        let Some(PageFound { records: found, next, .. }) = page else {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        };
        let mut rest = &found[..];
        let mut records = Vec::new();
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            let hash = record.key_hash();
            if !hashes.contains(&hash.0) {
                continue;
            }
            records.extend_from_slice(self.newest_of(record, hash).view().bytes());
        }
        self.reply(origin, Reply::Compared(Compared::FetchedStored { records, next }));
    }

    /// What is held under the key of a record that redb has: what has come into memory meanwhile is newer, or the
    /// same, or waits to be merged with just that record.
    pub(super) fn newest_of(&self, stored: RecordRef<'_>, hash: KeyHash) -> Record {
        let table = &self.records.table;
        let Some(id) = table.find_like(stored, hash) else { return Record::copy_of(stored) };
        let Some(present) = table.record(id) else { return Record::copy_of(stored) };
        if !table.has(id, UNRESOLVED) {
            return Record::copy_of(present);
        }
        match merge(present, stored) {
            Merged::Present => Record::copy_of(present),
            Merged::Incoming => Record::copy_of(stored),
            Merged::Joined(record) => record,
        }
    }

    /// Answers, if it must be, once all that the answer rests on is fsynced.
    fn reply_durably(&mut self, origin: Origin, compared: Compared, durable: bool) {
        let reply = Reply::Compared(compared);
        if durable { self.reply_synced(origin, reply) } else { self.reply(origin, reply) }
    }
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
