//! Records that a peer lacks, as a list has shown: from memory, and what redb alone has.
//!
//! A walk through redb for some records goes on, page by page, until half an answer is full, all of them were found or redb
//! ends. It begins where the peer says, which knows of which collection they are. The peer names what it wants with each
//! question, and that is long: it had better not be asked for each page.

use super::super::loads::Waiter;
use super::super::pages::PageFor;
use super::super::write::Origin;
use super::super::{Engine, Name, PageFilter, PageFound};
use super::answers::{PAGE_BYTES, WORKING_US};
use super::listing::{bitmaps, slice_leaf_of};
use crate::engine::table::{SETTLED, SYSTEM, UNRESOLVED};
use crate::model::merge::{Merged, merge};
use crate::model::{KeyHash, Record, RecordRef};
use crate::protocol::compare::{Compared, pack, unpack};
use crate::protocol::message::{Failure, Reply};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of records in one answer, unless a single one has more.
const ANSWER_BYTES: usize = 512 << 10;
/// Keys of one request that are looked for together, see [`Table::warm`](crate::engine::table::Table::warm).
const FOUND_AT_ONCE: usize = 64;

/// A walk through redb for records that a peer wants.
#[derive(Debug)]
pub(in crate::engine) struct Fetching {
    origin: Origin,
    /// Its number: a later one for the same member takes its place.
    number: u64,
    /// What was not found yet.
    hashes: BTreeSet<u64>,
    filter: PageFilter,
    /// What was found so far, and after which name it goes on.
    records: Vec<u8>,
    after: Name,
    /// When the peer was told last that this is being worked on, or asked, in microseconds.
    told_us: u64,
}

impl Engine {
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
        let table = &self.records.table;
        let (mut records, mut stored, mut done) = (Vec::new(), Vec::new(), 0);
        'all: for some in hashes.chunks(FOUND_AT_ONCE * size_of::<u64>()) {
            table.warm(unpack(some).map(KeyHash));
            for hash in unpack(some) {
                match table.find_hash(KeyHash(hash)) {
                    Some(id) if table.has(id, UNRESOLVED) => break 'all,
                    Some(id) => {
                        let sendable = table.record(id).filter(|_| !table.has_any(id, SYSTEM | SETTLED));
                        let bytes = sendable.map(RecordRef::bytes).unwrap_or_default();
                        if !records.is_empty() && records.len() + bytes.len() > ANSWER_BYTES {
                            break 'all;
                        }
                        records.extend_from_slice(bytes);
                    }
                    None if self.records.evicted_count(KeyHash(hash)) > 0 => stored.push(hash),
                    None => {}
                }
                done += 1;
            }
        }
        Compared::Fetched { records, done, stored: pack(stored) }
    }

    /// A peer wants records that memory does not have.
    pub(super) fn fetch_stored_for_peer(&mut self, origin: Origin, hashes: &[u8], after: Name) {
        let bits = self.placement.partition_bits();
        let hashes: BTreeSet<u64> = unpack(hashes).collect();
        let leaves = bitmaps(hashes.iter().map(|hash| slice_leaf_of(KeyHash(*hash), bits)));
        let filter = PageFilter::Leaves(Arc::new(leaves));
        let told_us = self.now.mono_us;
        self.anti_entropy.last += 1;
        let number = self.anti_entropy.last;
        if let Origin::Peer { member, .. } = origin {
            self.anti_entropy.answers.fetches.insert(member, number);
        }
        self.fetch_on(Fetching { origin, number, hashes, filter, records: Vec::new(), after, told_us });
    }

    fn fetch_on(&mut self, fetching: Fetching) {
        let (filter, after) = (fetching.filter.clone(), fetching.after.clone());
        self.want_page(filter, after, PAGE_BYTES, PageFor::Fetch(fetching));
    }

    /// A page of redb for a peer that wants some records; none when it could not be read.
    pub(in crate::engine) fn fetched_page(&mut self, mut fetching: Fetching, page: Option<PageFound>) {
        let origin = fetching.origin;
        let Origin::Peer { member, link, .. } = origin else { return };
        if self.anti_entropy.answers.fetches.get(&member) != Some(&fetching.number) {
            return;
        }
        // It may have begun to distrust itself since it was asked.
        let layout = self.placement.layout();
        let partitions = fetching.hashes.iter().flat_map(|hash| layout.partitions_with(KeyHash(*hash)));
        let is_distrusted = self.distrusts_any(partitions);
        let Some(PageFound { records: found, next, .. }) = page.filter(|_| !is_distrusted) else {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        };
        let (mut rest, mut before) = (&found[..], None);
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            let hash = record.key_hash();
            if fetching.hashes.contains(&hash.0) {
                let newest = self.newest_of(record, hash);
                let bytes = newest.view().bytes();
                if !fetching.records.is_empty() && fetching.records.len() + bytes.len() > ANSWER_BYTES {
                    let name_of =
                        |record: RecordRef<'_>| (record.collection().to_owned(), record.key().to_vec());
                    fetching.after = before.map_or(fetching.after, name_of);
                    return self.reply_fetched(fetching, true);
                }
                fetching.records.extend_from_slice(bytes);
                fetching.hashes.remove(&hash.0);
            }
            (rest, before) = (tail, Some(record));
        }
        let is_more = next.is_some() && !fetching.hashes.is_empty();
        fetching.after = next.unwrap_or_default();
        if !is_more || fetching.records.len() >= ANSWER_BYTES / 2 {
            return self.reply_fetched(fetching, is_more);
        }
        if !self.has_link(member, link) {
            return;
        }
        if self.now.mono_us >= fetching.told_us.saturating_add(WORKING_US) {
            fetching.told_us = self.now.mono_us;
            self.reply(origin, Reply::Compared(Compared::Working));
        }
        self.fetch_on(fetching);
    }

    fn reply_fetched(&mut self, fetching: Fetching, is_more: bool) {
        let Fetching { origin, records, after, .. } = fetching;
        let next = is_more.then_some(after);
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
}
