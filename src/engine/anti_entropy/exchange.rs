//! The second half of a pass: what differs is known record by record, and is exchanged.

use super::super::pages::PageFor;
use super::answers::{MAX_LEAVES, PAGE_BYTES};
use super::listing::{Listing, bitmaps, slice_leaf_of};
use super::pass::{BEGIN, Pass, Stage};
use crate::engine::table::{SETTLED, SYSTEM};
use crate::engine::{Engine, PageFilter};
use crate::model::{KeyHash, Record, RecordRef};
use crate::protocol::compare::{Compare, LeafId, Listed, pack};
use crate::protocol::frame::Purpose;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Hashes in a request for records: in the first one, and at most.
pub(super) const FIRST_HASHES: usize = 1_024;
const MAX_HASHES: usize = 8_192;
/// Hashes in one request for records from redb, which is walked through for them.
const STORED_HASHES: usize = 32_768;
/// Fetched records whose keys are looked for together, see [`Table::warm`](crate::engine::table::Table::warm).
const MERGED_AT_ONCE: usize = 64;
/// Bytes that may wait for the peer while records are pushed.
const WAITING_BYTES: usize = 512 << 10;

/// Hashes to be named next, when so many had room in an answer: the others were named in vain.
pub(super) fn at_once(answered: u32) -> usize {
    (answered as usize).saturating_mul(2).clamp(1, MAX_HASHES)
}

impl Engine {
    /// Goes on with what differs in the present group of leaves, begins with the next group, or ends.
    pub(super) fn next_group(&mut self, mut pass: Pass) {
        if !pass.parts.is_empty() {
            return self.ask_for_lists(pass);
        }
        // What is listed tells the hashes of keys, and not which class they are of.
        let layout = self.placement.layout();
        let first = pass.left.first().map(|(partition, _)| layout.class_at(*partition));
        let is_alike = |leaf: &LeafId| Some(layout.class_at(leaf.0)) == first;
        pass.collection =
            pass.left.first().and_then(|(partition, _)| layout.collection_at(*partition)).map(str::to_owned);
        let leaves: Vec<LeafId> = pass.left.iter().copied().take_while(is_alike).take(MAX_LEAVES).collect();
        if leaves.is_empty() {
            pass.stage = Stage::Confirm;
        } else {
            let parts = leaves.into_iter().map(|leaf| (leaf, Vec::new()));
            pass.stage = Stage::OwnTable(Listing::list(parts, pass.grain, Arc::clone(layout)));
        }
        self.anti_entropy.pass = Some(pass);
    }

    pub(super) fn take_lists(&mut self, mut pass: Pass, leaves: u32, entries: &[u8]) {
        self.anti_entropy.budget.spend(entries.len());
        let layout = self.placement.layout();
        let bits = layout.partition_bits();
        let covered: Vec<LeafId> = pass.parts.keys().copied().take(leaves as usize).collect();
        if covered.is_empty() {
            return self.fail_pass(&pass);
        }
        // All leaves of a group are of one class.
        let class = covered.first().map_or(0, |(partition, _)| layout.class_at(*partition));
        let mut theirs: BTreeMap<LeafId, BTreeMap<u64, Listed>> = BTreeMap::new();
        for entry in Listed::unpack(entries) {
            let hash = KeyHash(entry.hash);
            let leaf = (layout.partition_in(class, hash), hash.leaf(bits));
            theirs.entry(leaf).or_default().insert(entry.hash, entry);
        }
        for leaf in covered {
            let (Some(parts), Some(own)) = (pass.parts.remove(&leaf), pass.own.remove(&leaf)) else {
                continue;
            };
            let is_listed = |hash: u64| {
                let part = pass.grain.part(hash, bits);
                parts.get(part / 8).is_some_and(|byte| byte >> (part % 8) & 1 == 1)
            };
            let takes = pass.shares.get(&leaf.0).is_some_and(|share| share.takes);
            let mut theirs = theirs.remove(&leaf).unwrap_or_default();
            for (own, settled) in own.iter().filter(|(own, _)| is_listed(own.hash)) {
                let their = theirs.remove(&own.hash);
                if their.is_none_or(|their| own.time >= their.time && own.mark != their.mark) && !settled {
                    pass.push.insert(own.hash);
                }
                // What settled here is as nothing to all but itself: also a counter that began over nothing counts.
                let lacks = |their: Listed| (*settled || their.time >= own.time) && own.mark != their.mark;
                if takes && their.is_some_and(lacks) {
                    pass.wanted.insert(own.hash);
                }
            }
            if takes {
                pass.wanted.extend(theirs.into_keys());
            }
        }
        self.ask_for_lists(pass);
    }

    pub(super) fn fetch(&mut self, mut pass: Pass) {
        if pass.wanted.is_empty() {
            let later = pass.wanted_stored.iter().copied().nth(STORED_HASHES);
            let later = later.map(|first| pass.wanted_stored.split_off(&first)).unwrap_or_default();
            let batch = std::mem::replace(&mut pass.wanted_stored, later);
            let begin = (pass.collection.clone().unwrap_or_default(), Vec::new());
            pass.stage = if batch.is_empty() { Stage::Push } else { Stage::FetchStored(batch, begin) };
            return self.resume_pass(pass);
        }
        let hashes = pack(pass.wanted.iter().copied().take(pass.at_once));
        pass.stage = Stage::Fetch;
        self.ask_in_pass(pass, Compare::Fetch { hashes });
    }

    /// Merges what was fetched, and tells of which keys; says whether it was records all through.
    pub(super) fn merge_fetched(&mut self, records: &[u8], mut of: impl FnMut(KeyHash)) -> bool {
        let mut rest = records;
        let mut batch: SmallVec<[_; MERGED_AT_ONCE]> = SmallVec::new();
        loop {
            batch.clear();
            while batch.len() < MERGED_AT_ONCE
                && let Ok((record, tail)) = RecordRef::parse(rest)
            {
                rest = tail;
                batch.push((record, record.key_hash()));
            }
            if batch.is_empty() {
                return rest.is_empty();
            }
            self.records.table.warm(batch.iter().map(|(_, hash)| *hash));
            for (record, hash) in &batch {
                of(*hash);
                if !record.collection().starts_with(crate::model::key::SYSTEM_PREFIX) {
                    self.counters.repairs_taken += 1;
                    self.merge(*record, *hash);
                }
            }
        }
    }

    pub(super) fn push(&mut self, mut pass: Pass) {
        while let Some(hash) = pass.push.first().copied() {
            let link = self.peer(pass.peer).and_then(|peer| peer.link.as_ref());
            let full = link.is_none_or(|link| link.waiting_bytes() > WAITING_BYTES);
            // What is being loaded is waited for, so that all of it is sent.
            let loads = self.unresolved(KeyHash(hash)).is_some();
            if loads && self.is_stuck(&pass) {
                return self.fail_pass(&pass);
            }
            if full || loads || self.anti_entropy.budget.is_spent() {
                if !loads {
                    pass.moved_us = self.now.mono_us;
                }
                pass.stage = Stage::Push;
                self.anti_entropy.pass = Some(pass);
                return;
            }
            pass.push.pop_first();
            pass.moved_us = self.now.mono_us;
            let table = &self.records.table;
            match table.find_hash(KeyHash(hash)) {
                Some(id) if table.has_any(id, SYSTEM | SETTLED) => {}
                Some(id) => {
                    let Some(record) = table.record(id).map(Record::copy_of) else { continue };
                    if !self.push_record(&mut pass, record.view(), KeyHash(hash)) {
                        return self.fail_pass(&pass);
                    }
                }
                None if self.records.evicted_count(KeyHash(hash)) > 0 => _ = pass.push_stored.insert(hash),
                None => {}
            }
        }
        if pass.push_stored.is_empty() {
            return self.next_group(pass);
        }
        self.want_push_page(&pass, BEGIN);
        pass.stage = Stage::PushStored;
        self.anti_entropy.pass = Some(pass);
    }

    pub(super) fn push_record(&mut self, pass: &mut Pass, record: RecordRef<'_>, hash: KeyHash) -> bool {
        self.anti_entropy.budget.spend(record.bytes().len());
        let link = self.peer_mut(pass.peer).and_then(|peer| peer.link.as_mut());
        let sent = link.and_then(|link| link.push_record(Purpose::Repair, record, hash, None));
        self.counters.repairs_sent += u64::from(sent.is_some());
        pass.last_pushed = sent.unwrap_or(pass.last_pushed);
        sent.is_some()
    }

    pub(super) fn want_push_page(&mut self, pass: &Pass, after: (String, Vec<u8>)) {
        let bits = self.placement.partition_bits();
        let leaves = bitmaps(pass.push_stored.iter().map(|hash| slice_leaf_of(KeyHash(*hash), bits)));
        let filter = PageFilter::Leaves(Arc::new(leaves));
        self.want_page_of(pass.collection.clone(), filter, after, PAGE_BYTES, PageFor::Own(pass.number));
    }
}
