//! Scans: ordered pages of readable records.
//!
//! Each partition is asked of one complete owner (this member, when it is one), and the sorted
//! answers are merged. A part that was cut off by its limit bounds the whole page: beyond its last
//! key nothing is known of its partitions. A scan of what is *held* asks nobody else: that is how the data of a
//! member is read that is in its cluster no more.

use super::Engine;
use super::Mode;
use super::Range;
use super::operation::{Completion, OperationError, Outcome, Page, Scan};
use super::requests::Purpose;
use super::table::UNRESOLVED;
use super::write::Origin;
use crate::model::limits::MAX_SCAN_LIMIT;
use crate::model::{MemberId, Record, RecordRef};
use crate::protocol::message::{Failure, Reply, Request, ScanRequest};
use std::collections::BTreeMap;

/// Bytes of records in one part of a page.
const MAX_PART_BYTES: usize = 4 << 20;

/// A scan whose parts are being collected.
#[derive(Debug)]
pub(super) struct ScanGather {
    token: u64,
    limit: usize,
    waiting: usize,
    parts: Vec<Part>,
    failed: bool,
    deadline_us: u64,
}

/// One owner's part of a page.
#[derive(Debug, Default)]
struct Part {
    records: Vec<Record>,
    /// The key after which it was cut off.
    resume: Option<Vec<u8>>,
}

impl Part {
    /// A part of these records, cut off at its bounds.
    fn within(mut records: Vec<Record>, resume: Option<Vec<u8>>, limit: usize) -> Self {
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.view().bytes().len();
            bytes <= MAX_PART_BYTES
        };
        let count = records.iter().take_while(fits).count().clamp(1, limit.max(1));
        if records.len() <= count {
            return Self { records, resume };
        }
        records.truncate(count);
        let resume = records.last().map(|record| record.view().key().to_vec());
        Self { records, resume }
    }
}

/// A local part that waits for a range of redb.
#[derive(Debug)]
enum RangeFor {
    Own(u64, ScanRequest),
    Peer(Origin, ScanRequest),
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
        let plan = self.plan_scan(scan);
        let Some(plan) = plan else {
            return self.fail(Origin::Client(token), OperationError::Unreachable);
        };
        self.requests.last_gather += 1;
        let id = self.requests.last_gather;
        // The own part is counted too, so that the gather can't end before all are asked.
        let deadline_us = self.now.mono_us + 2_000 * self.settings.write_timeout_ms;
        let gather = ScanGather { token, limit, waiting: 1, parts: Vec::new(), failed: false, deadline_us };
        self.requests.scans.insert(id, gather);
        let mut own = None;
        for (member, partitions) in plan {
            let request = ScanRequest {
                collection: scan.collection.clone(),
                prefix: scan.prefix.clone(),
                after: scan.after.clone(),
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

    /// Which member is asked for which partitions; `None` when no complete owner of one can be
    /// reached.
    fn plan_scan(&self, scan: &Scan) -> Option<BTreeMap<MemberId, Vec<u8>>> {
        let (me, digest) = (self.identity.member, self.placement.digest());
        let count = self.placement.partitions();
        let all_mine = scan.collection.starts_with(crate::model::key::SYSTEM_PREFIX);
        let mut plan: BTreeMap<MemberId, Vec<u8>> = BTreeMap::new();
        for partition in (0..count).filter_map(|partition| u16::try_from(partition).ok()) {
            let mine = all_mine || scan.held || self.is_complete_at(me, partition);
            let is_complete = |member: &MemberId| {
                self.peer(*member)
                    .is_some_and(|peer| peer.is_reachable() && peer.is_complete(partition, digest))
            };
            let owners = self.placement.set(partition).owners.iter().map(|owner| owner.member);
            let member = if mine { Some(me) } else { owners.clone().find(is_complete) };
            let bits = plan.entry(member?).or_insert_with(|| vec![0; count.div_ceil(8)]);
            if let Some(byte) = bits.get_mut(usize::from(partition / 8)) {
                *byte |= 1 << (partition % 8);
            }
        }
        Some(plan)
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

    /// Makes the own part, after asking redb if something may be there only.
    fn scan_own(&mut self, range: RangeFor) {
        if !self.records.any_evicted() {
            return self.finish_own(range, &[], None);
        }
        let scan = range.request();
        self.ranges.last += 1;
        let id = self.ranges.last;
        self.lanes.ranges.push(Range {
            id,
            collection: scan.collection.clone(),
            prefix: scan.prefix.clone(),
            after: scan.after.clone(),
            limit: (scan.limit as usize).min(MAX_SCAN_LIMIT),
        });
        self.ranges.waiting.insert(id, range);
    }

    /// A range's answer: canonical bytes of verified records in order of their keys, and the key
    /// after which it was cut off, if it was.
    pub fn range_loaded(&mut self, id: u64, records: &[u8], resume: Option<&[u8]>) {
        if let Some(range) = self.ranges.waiting.remove(&id) {
            self.finish_own(range, records, resume);
        }
    }

    /// A range could not be loaded.
    pub fn range_failed(&mut self, id: u64) {
        match self.ranges.waiting.remove(&id) {
            Some(RangeFor::Own(scan, _)) => self.scan_failed(scan),
            Some(RangeFor::Peer(origin, _)) => self.reply(origin, Reply::Failed(Failure::NotReady)),
            None => {}
        }
    }

    fn finish_own(&mut self, range: RangeFor, stored: &[u8], stored_resume: Option<&[u8]>) {
        let part = self.own_part(range.request(), stored, stored_resume);
        match range {
            RangeFor::Own(id, _) => self.add_part(id, part),
            RangeFor::Peer(origin, _) => {
                let records = part.records.iter().flat_map(|record| record.view().bytes()).copied().collect();
                self.reply(origin, Reply::Page { records, resume: part.resume });
            }
        }
    }

    /// Merges what the table has with what redb has; the table's record of a key is the newer one.
    fn own_part(&mut self, scan: &ScanRequest, stored: &[u8], stored_resume: Option<&[u8]>) -> Part {
        let wall_ms = self.wall_ms;
        let limit = (scan.limit as usize).clamp(1, MAX_SCAN_LIMIT);
        let mut found: BTreeMap<Vec<u8>, Option<Record>> = BTreeMap::new();
        let start = scan.after.as_deref().map_or(&scan.prefix[..], |after| after.max(&scan.prefix));
        let exclusive = scan.after.as_deref() == Some(start);
        let (collection, placement) = (scan.collection.as_bytes(), &self.placement);
        let (mut bytes, mut cut_off) = (0, None);
        let ids: Vec<_> =
            self.records.table.iter_from((collection, start), exclusive).take(16 * MAX_SCAN_LIMIT).collect();
        let looked_at = ids.len();
        let mut readable = 0;
        for (count, id) in ids.into_iter().enumerate() {
            let Some(record) = self.records.table.record(id) else { continue };
            let key = record.key();
            if record.collection_bytes() != collection || !key.starts_with(&scan.prefix) {
                break;
            }
            if stored_resume.is_some_and(|resume| key > resume) {
                break;
            }
            let mine = has_bit(&scan.partitions, placement.partition_of(self.records.table.hash(id)));
            if mine {
                let shows = record.is_readable(wall_ms) && !self.records.table.has(id, UNRESOLVED);
                readable += usize::from(shows);
                bytes += if shows { record.bytes().len() } else { 0 };
                found.insert(key.to_vec(), shows.then(|| Record::copy_of(record)));
            }
            if readable >= limit
                || bytes >= MAX_PART_BYTES
                || count + 1 == 16 * MAX_SCAN_LIMIT && looked_at == count + 1
            {
                cut_off = Some(key.to_vec());
                break;
            }
        }
        merge_stored(&mut found, stored, scan, cut_off.as_deref(), |record| {
            has_bit(&scan.partitions, placement.partition_of(record.key_hash()))
                && record.is_readable(wall_ms)
        });
        let bound = match (cut_off, stored_resume) {
            (Some(a), Some(b)) => Some(a.min(b.to_vec())),
            (a, b) => a.or_else(|| b.map(<[u8]>::to_vec)),
        };
        Part::within(found.into_values().flatten().collect(), bound, limit)
    }

    /// A peer's part arrived.
    pub(super) fn scan_answered(
        &mut self,
        id: u64,
        _member: MemberId,
        records: &[u8],
        resume: Option<Vec<u8>>,
    ) {
        let mut rest = records;
        let mut parsed = Vec::new();
        while !rest.is_empty() {
            match RecordRef::parse(rest) {
                Ok((record, tail)) => {
                    parsed.push(Record::copy_of(record));
                    rest = tail;
                }
                Err(_) => return self.scan_failed(id),
            }
        }
        self.add_part(id, Part { records: parsed, resume });
    }

    /// A part will not come.
    pub(super) fn scan_failed(&mut self, id: u64) {
        if let Some(gather) = self.requests.scans.get_mut(&id) {
            gather.failed = true;
            gather.waiting = gather.waiting.saturating_sub(1);
            self.judge_scan(id);
        }
    }

    fn add_part(&mut self, id: u64, part: Part) {
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
        let bound = gather.parts.iter().filter_map(|part| part.resume.clone()).min();
        let mut records: Vec<Record> = gather.parts.into_iter().flat_map(|part| part.records).collect();
        records.sort_by(|a, b| a.view().key().cmp(b.view().key()));
        if let Some(bound) = &bound {
            records.retain(|record| record.view().key() <= &bound[..]);
        }
        let cut = records.len() > gather.limit;
        records.truncate(gather.limit);
        let last = records.last().map(|record| record.view().key().to_vec());
        let resume = if cut { last } else { bound };
        let page = Page { more: resume.is_some(), records, resume };
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
            Self::Own(_, request) | Self::Peer(_, request) => request,
        }
    }
}

/// Adds what redb has and the table has not, up to where the table's part was cut off.
fn merge_stored(
    found: &mut BTreeMap<Vec<u8>, Option<Record>>,
    stored: &[u8],
    scan: &ScanRequest,
    cut_off: Option<&[u8]>,
    shows: impl Fn(RecordRef<'_>) -> bool,
) {
    let mut rest = stored;
    while let Ok((record, tail)) = RecordRef::parse(rest) {
        rest = tail;
        let key = record.key();
        let beyond = cut_off.is_some_and(|bound| key > bound);
        if beyond || !key.starts_with(&scan.prefix) {
            continue;
        }
        if !found.contains_key(key) && shows(record) {
            found.insert(key.to_vec(), Some(Record::copy_of(record)));
        }
    }
}

fn has_bit(bits: &[u8], at: u16) -> bool {
    bits.get(usize::from(at / 8)).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}
