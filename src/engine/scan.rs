//! Scans: ordered pages of readable records, from the first key to the last or the other way.
//!
//! Each partition is asked of one complete owner (this member, when it is one), and the sorted
//! answers are merged. A part that was cut off by one of its bounds bounds the whole page: beyond the key that
//! it has come to, in the direction of the scan, nothing is known of its partitions. A scan of what is *held* asks nobody
//! else: that is how the data of a member is read that is in its cluster no more.
//!
//! What a page costs is bounded by its rows, their bytes and the records looked at for it, wanted or not. Of a
//! scan for keys only no value is copied, nor sent.

use super::Engine;
use super::Mode;
use super::Range;
use super::operation::{Completion, OperationError, Outcome, Page, Row, Scan};
use super::requests::Purpose;
use super::table::UNRESOLVED;
use super::write::Origin;
use crate::model::limits::MAX_SCAN_LIMIT;
use crate::model::{KeyHash, MemberId, RecordRef};
use crate::protocol::message::{Failure, Reply, Request, ScanRequest};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Bytes of rows in one part of a page, and on a page.
const MAX_PART_BYTES: usize = 4 << 20;
/// Records in the table that one part looks at: other partitions' and what can't be read any more count, too.
const MAX_LOOKED_AT: usize = 2 * MAX_SCAN_LIMIT;

/// A scan whose parts are being collected.
#[derive(Debug)]
pub(super) struct ScanGather {
    token: u64,
    limit: usize,
    reverse: bool,
    waiting: usize,
    parts: Vec<Part>,
    failed: bool,
    deadline_us: u64,
}

/// One owner's part of a page.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) rows: Vec<Row>,
    /// The key that it has come to, when it was cut off.
    pub(super) resume: Option<Vec<u8>>,
}

impl Part {
    /// Canonical bytes of its whole rows, one after the other, and where it was cut off.
    fn into_bytes(self) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut records = Vec::with_capacity(self.rows.iter().map(Row::bytes).sum());
        for row in &self.rows {
            if let Row::Whole(record) = row {
                records.extend_from_slice(record.view().bytes());
            }
        }
        (records, self.resume)
    }

    /// A part of these rows, cut off at its bounds.
    fn within(mut rows: Vec<Row>, resume: Option<Vec<u8>>, limit: usize) -> Self {
        let mut bytes = 0;
        let fits = |row: &&Row| {
            bytes += row.bytes();
            bytes <= MAX_PART_BYTES
        };
        let count = rows.iter().take_while(fits).count().min(limit).max(1);
        if rows.len() <= count {
            return Self { rows, resume };
        }
        rows.truncate(count);
        let resume = rows.last().map(|row| row.key().to_vec());
        Self { rows, resume }
    }
}

/// How two keys follow each other in a scan.
fn in_order(reverse: bool, a: &[u8], b: &[u8]) -> Ordering {
    if reverse { b.cmp(a) } else { a.cmp(b) }
}

/// Of the places where parts of a scan were cut off the one that it comes to first.
fn nearest(reverse: bool, places: impl Iterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
    places.min_by(|a, b| in_order(reverse, a, b))
}

/// What the table knows of a scan's next keys, in its order.
#[derive(Debug, Default)]
struct Known {
    rows: Vec<Row>,
    /// Keys under which nothing is readable, whatever redb has; only if that has anything.
    hidden: Vec<Vec<u8>>,
    /// The key that it has come to, when more is there.
    cut_off: Option<Vec<u8>>,
}

/// A local part that waits for a range of redb.
#[derive(Debug)]
enum RangeFor {
    Own(u64, ScanRequest),
    Peer(Origin, ScanRequest),
    /// A page of a feed's listing.
    Feed(u64, ScanRequest),
}

/// Ranges that are being loaded.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    waiting: BTreeMap<u64, RangeFor>,
    last: u64,
}

impl Engine {
    /// A client's scan. The answer comes under `token`, an [`Outcome::Page`] or
    /// [`Outcome::Failed`].
    pub fn scan(&mut self, token: u64, scan: &Scan) {
        self.take_writes();
        let refusal = match self.mode {
            Mode::NoCluster => Some(OperationError::NoCluster),
            Mode::Stopping => Some(OperationError::Stopping),
            Mode::Starting | Mode::Gone(_) if scan.held => None,
            Mode::Starting => Some(OperationError::Starting),
            Mode::Gone(gone) => Some(OperationError::Gone(gone)),
            Mode::Serving => None,
        };
        if let Some(error) = refusal {
            return self.fail(Origin::Client(token), error);
        }
        let limit = scan.limit.clamp(1, MAX_SCAN_LIMIT);
        let plan = self.plan_parts(Some(&scan.collection), scan.held);
        let Some(plan) = plan else {
            return self.fail(Origin::Client(token), OperationError::Unreachable);
        };
        self.requests.last_gather += 1;
        let id = self.requests.last_gather;
        // The own part is counted too, so that the gather can't end before all are asked.
        let deadline_us = self.now.mono_us + 2_000 * self.settings.write_timeout_ms;
        let (reverse, parts) = (scan.reverse, Vec::new());
        let gather = ScanGather { token, limit, reverse, waiting: 1, parts, failed: false, deadline_us };
        self.requests.scans.insert(id, gather);
        let mut own = None;
        for (member, partitions) in plan {
            let request = ScanRequest {
                collection: scan.collection.clone(),
                keys: scan.keys.clone(),
                reverse: scan.reverse,
                keys_only: scan.keys_only,
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
                partitions,
            };
            if member == self.identity.member {
                own = Some(request);
                continue;
            }
            if let Some(gather) = self.requests.scans.get_mut(&id) {
                gather.waiting += 1;
            }
            if !self.ask(member, Request::Scan(request), Purpose::Scan(id)) {
                self.scan_failed(id);
            }
        }
        match own {
            Some(request) => self.scan_own(RangeFor::Own(id, request)),
            None => self.add_part(id, Part::default()),
        }
    }

    /// Which member is asked for which partitions of those that a collection has records in, of all for no collection;
    /// `None` when no complete owner of one can be reached.
    pub(super) fn plan_parts(
        &self,
        collection: Option<&str>,
        held: bool,
    ) -> Option<BTreeMap<MemberId, Vec<u8>>> {
        let (me, digest) = (self.identity.member, self.placement.digest());
        let (layout, count) = (self.placement.layout(), self.placement.partitions());
        let all_mine = collection.is_some_and(|name| name.starts_with(crate::model::key::SYSTEM_PREFIX));
        let class = collection.map(|name| layout.class_of(name));
        let is_asked_for = |at: &u16| class.is_none_or(|class| layout.class_at(*at) == class);
        let mut plan: BTreeMap<MemberId, Vec<u8>> = BTreeMap::new();
        for partition in layout.every().filter(is_asked_for) {
            let mine = all_mine || held || self.is_complete_at(me, partition);
            let is_complete = |member: &MemberId| {
                self.peer(*member)
                    .is_some_and(|peer| peer.is_reachable() && peer.is_complete(partition, digest))
            };
            let owners = self.placement.set(partition).owners.iter().map(|owner| owner.member);
            let member = if mine { Some(me) } else { owners.clone().find(is_complete) };
            set_bit(plan.entry(member?).or_insert_with(|| vec![0; count.div_ceil(8)]), partition);
        }
        Some(plan)
    }

    /// The partitions that each member owns.
    pub(super) fn partitions_by_owner(&self) -> BTreeMap<MemberId, Vec<u8>> {
        let count = self.placement.partitions();
        let mut owned: BTreeMap<MemberId, Vec<u8>> = BTreeMap::new();
        for partition in (0..count).filter_map(|partition| u16::try_from(partition).ok()) {
            for owner in &self.placement.set(partition).owners {
                set_bit(owned.entry(owner.member).or_insert_with(|| vec![0; count.div_ceil(8)]), partition);
            }
        }
        owned
    }

    /// A peer asks for a part.
    pub(super) fn scan_for_peer(&mut self, origin: Origin, scan: &ScanRequest, same_placement: bool) {
        if !same_placement {
            return self.reply(origin, Reply::Failed(Failure::Placement));
        }
        let partitions = (0..self.placement.partitions()).map_while(|at| u16::try_from(at).ok());
        let mut wanted = partitions.filter(|partition| has_bit(&scan.partitions, *partition));
        let incomplete = wanted.any(|partition| !self.is_complete_at(self.identity.member, partition));
        if incomplete {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        self.scan_own(RangeFor::Peer(origin, scan.clone()));
    }

    /// This member's own page of a feed's listing.
    pub(super) fn scan_own_for_feed(&mut self, token: u64, request: ScanRequest) {
        self.scan_own(RangeFor::Feed(token, request));
    }

    /// Makes the own part, after asking redb if something may be there only.
    fn scan_own(&mut self, range: RangeFor) {
        if !self.records.any_evicted() {
            return self.finish_own(range, Vec::new(), None);
        }
        let scan = range.request();
        self.ranges.last += 1;
        let id = self.ranges.last;
        self.lanes.ranges.push(Range {
            id,
            collection: scan.collection.clone(),
            keys: scan.keys.clone(),
            reverse: scan.reverse,
            keys_only: scan.keys_only,
            limit: (scan.limit as usize).min(MAX_SCAN_LIMIT),
        });
        self.ranges.waiting.insert(id, range);
    }

    /// A range's answer: its rows in the order that was asked for ([`Range::row`]), and the key that it has
    /// come to, if it was cut off.
    pub fn range_loaded(&mut self, id: u64, rows: Vec<Row>, resume: Option<Vec<u8>>) {
        if let Some(range) = self.ranges.waiting.remove(&id) {
            self.finish_own(range, rows, resume);
        }
    }

    /// A range could not be loaded.
    pub fn range_failed(&mut self, id: u64) {
        match self.ranges.waiting.remove(&id) {
            Some(RangeFor::Own(scan, _)) => self.scan_failed(scan),
            Some(RangeFor::Peer(origin, _)) => self.reply(origin, Reply::Failed(Failure::NotReady)),
            Some(RangeFor::Feed(token, _)) => self.feed_page_failed(token),
            None => {}
        }
    }

    /// Partitions are numbered anew: parts that wait for redb are of no use.
    pub(super) fn fail_ranges(&mut self) {
        let waiting: Vec<u64> = self.ranges.waiting.keys().copied().collect();
        for id in waiting {
            self.range_failed(id);
        }
    }

    fn finish_own(&mut self, range: RangeFor, stored: Vec<Row>, stored_resume: Option<Vec<u8>>) {
        let part = self.own_part(range.request(), stored, stored_resume);
        self.note_listed(&range.request().collection, &part.rows);
        match range {
            RangeFor::Own(id, _) => self.add_part(id, part),
            RangeFor::Peer(origin, request) if request.keys_only => {
                let Part { rows, resume } = part;
                let key = |row| if let Row::Key(key) = row { Some(key) } else { None };
                let keys = rows.into_iter().filter_map(key).collect();
                self.reply(origin, Reply::Keys { keys, resume });
            }
            RangeFor::Peer(origin, _) => {
                let (records, resume) = part.into_bytes();
                self.reply(origin, Reply::Page { records, resume });
            }
            RangeFor::Feed(token, _) => {
                let (records, resume) = part.into_bytes();
                self.feed_page_came(token, records, resume);
            }
        }
    }

    /// Merges what the table has with what redb has; the table's record of a key is the newer one.
    fn own_part(&self, scan: &ScanRequest, stored: Vec<Row>, stored_resume: Option<Vec<u8>>) -> Part {
        let limit = (scan.limit as usize).clamp(1, MAX_SCAN_LIMIT);
        let (until, class) = (stored_resume.as_deref(), self.placement.layout().class_of(&scan.collection));
        let Known { mut rows, hidden, cut_off } = self.known(scan, limit, until, !stored.is_empty());
        if !stored.is_empty() {
            let reverse = scan.reverse;
            let is_news = |row: &Row| {
                let key = row.key();
                let is_within =
                    cut_off.as_deref().is_none_or(|bound| in_order(reverse, key, bound) != Ordering::Greater);
                let is_known = hidden.binary_search_by(|other| in_order(reverse, other, key)).is_ok()
                    || rows.binary_search_by(|other| in_order(reverse, other.key(), key)).is_ok();
                is_within
                    && !is_known
                    && row.expiry_ms().is_none_or(|expiry| self.wall_ms < expiry)
                    && self.is_wanted(scan, class, KeyHash::of(scan.collection.as_bytes(), key))
            };
            let news: Vec<Row> = stored.into_iter().filter(is_news).collect();
            rows.extend(news);
            rows.sort_by(|a, b| in_order(reverse, a.key(), b.key()));
        }
        let bound = nearest(scan.reverse, [cut_off, stored_resume].into_iter().flatten());
        Part::within(rows, bound, limit)
    }

    /// What the table has of a scan's next keys, as far as `until`.
    fn known(&self, scan: &ScanRequest, limit: usize, until: Option<&[u8]>, hides: bool) -> Known {
        let (mut known, mut bytes, mut looked_at) = (Known::default(), 0, 0);
        let (table, class) = (&self.records.table, self.placement.layout().class_of(&scan.collection));
        let mut ids = table.range(scan.collection.as_bytes(), &scan.keys);
        let mut next = || if scan.reverse { ids.next_back() } else { ids.next() };
        while let Some(id) = next() {
            let Some(record) = table.record(id) else { continue };
            let key = record.key();
            if until.is_some_and(|until| in_order(scan.reverse, key, until) == Ordering::Greater) {
                break;
            }
            looked_at += 1;
            if self.is_wanted(scan, class, table.hash(id)) {
                if record.is_readable(self.wall_ms) && !table.has(id, UNRESOLVED) {
                    let row = Row::of(record, scan.keys_only);
                    bytes += row.bytes();
                    known.rows.push(row);
                } else if hides {
                    known.hidden.push(key.to_vec());
                }
            }
            if known.rows.len() >= limit || bytes >= MAX_PART_BYTES || looked_at >= MAX_LOOKED_AT {
                known.cut_off = next().map(|_| key.to_vec());
                break;
            }
        }
        known
    }

    /// Whether a key belongs to one of the partitions that a part is about.
    fn is_wanted(&self, scan: &ScanRequest, class: usize, hash: KeyHash) -> bool {
        has_bit(&scan.partitions, self.placement.layout().partition_in(class, hash))
    }

    /// A peer's part arrived.
    pub(super) fn scan_answered(&mut self, id: u64, records: &[u8], resume: Option<Vec<u8>>) {
        let mut rest = records;
        let mut rows = Vec::new();
        while !rest.is_empty() {
            match RecordRef::parse(rest) {
                Ok((record, tail)) => {
                    rows.push(Row::of(record, false));
                    rest = tail;
                }
                Err(_) => return self.scan_failed(id),
            }
        }
        self.add_part(id, Part { rows, resume });
    }

    /// A part will not come.
    pub(super) fn scan_failed(&mut self, id: u64) {
        if let Some(gather) = self.requests.scans.get_mut(&id) {
            gather.failed = true;
            gather.waiting = gather.waiting.saturating_sub(1);
            self.judge_scan(id);
        }
    }

    /// A part is there.
    pub(super) fn add_part(&mut self, id: u64, part: Part) {
        if let Some(gather) = self.requests.scans.get_mut(&id) {
            gather.parts.push(part);
            gather.waiting = gather.waiting.saturating_sub(1);
            self.judge_scan(id);
        }
    }

    fn judge_scan(&mut self, id: u64) {
        if self.requests.scans.get(&id).is_none_or(|gather| gather.waiting > 0) {
            return;
        }
        let Some(gather) = self.requests.scans.remove(&id) else { return };
        let token = gather.token;
        if gather.failed {
            return self.fail(Origin::Client(token), OperationError::Unreachable);
        }
        let reverse = gather.reverse;
        let bound = nearest(reverse, gather.parts.iter().filter_map(|part| part.resume.clone()));
        let mut rows: Vec<Row> = gather.parts.into_iter().flat_map(|part| part.rows).collect();
        rows.sort_by(|a, b| in_order(reverse, a.key(), b.key()));
        if let Some(bound) = &bound {
            rows.retain(|row| in_order(reverse, row.key(), bound) != Ordering::Greater);
        }
        let Part { rows, resume } = Part::within(rows, bound, gather.limit);
        let page = Page { rows, resume };
        self.show(Completion { token, outcome: Outcome::Page(page) });
    }

    /// Ends scans that waited too long.
    pub(super) fn expire_scans(&mut self) {
        let now = self.now.mono_us;
        let late = self.requests.scans.iter().filter(|(_, gather)| gather.deadline_us <= now);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            if let Some(gather) = self.requests.scans.remove(&id) {
                self.fail(Origin::Client(gather.token), OperationError::Unreachable);
            }
        }
    }
}

impl RangeFor {
    const fn request(&self) -> &ScanRequest {
        match self {
            Self::Own(_, request) | Self::Peer(_, request) | Self::Feed(_, request) => request,
        }
    }
}

impl Range {
    /// What the range's answer tells of a record, which is intact, and how many bytes that has; nothing of what
    /// can't be read.
    #[must_use]
    pub fn row(&self, record: RecordRef<'_>) -> Option<(Row, usize)> {
        let row = record.kind().is_live().then(|| Row::of(record, self.keys_only))?;
        let bytes = row.bytes();
        Some((row, bytes))
    }
}

/// Whether a partition is in a set.
pub(super) fn has_bit(bits: &[u8], at: u16) -> bool {
    bits.get(usize::from(at / 8)).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

/// Puts a partition into a set.
fn set_bit(bits: &mut [u8], at: u16) {
    if let Some(byte) = bits.get_mut(usize::from(at / 8)) {
        *byte |= 1 << (at % 8);
    }
}

/// Whether a set has all partitions of another one.
pub(super) fn has_all_bits(bits: &[u8], wanted: &[u8]) -> bool {
    bits.len() == wanted.len() && bits.iter().zip(wanted).all(|(bits, wanted)| wanted & !bits == 0)
}

#[cfg(test)]
mod tests;
