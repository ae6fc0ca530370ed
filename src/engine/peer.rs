//! What the engine knows of each peer, and the state of the link to it.
//!
//! Records on a link are numbered from 1 and confirmed cumulatively, twice: once written, once
//! fsynced. A link's numbers, queues and marks end with it; what was not fsynced by then becomes
//! hints.

use crate::engine::Positions;
use crate::model::settings::Sync;
use crate::model::{KeyHash, MemberId, RecordRef};
use crate::protocol::ProtocolError;
use crate::protocol::frame::{Exception, MAX_EXCEPTIONS, MAX_MESSAGES, Purpose};
use crate::protocol::message::{self, Message};
use std::collections::VecDeque;

/// Frames with records that may be unconfirmed at a time: while both are, records wait, so that
/// batches grow with load.
const MAX_UNCONFIRMED_FRAMES: usize = 2;
/// Bytes of records or messages after which the next ones go into another frame.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of records that may wait for a peer; beyond it they become hints.
pub(super) const MAX_OUTBOX_BYTES: usize = 32 << 20;
/// Bytes of messages that may wait for a peer; beyond it the link is given up.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Records that may be unconfirmed after fsync; beyond it further ones become hints.
const MAX_UNSYNCED: usize = 1 << 21;

/// A member other than this one.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) member: MemberId,
    pub(super) link: Option<Link>,
    /// When the last link ended, in microseconds.
    pub(super) link_lost_us: u64,
    /// Liveness says that it is dead. Never heard is not dead.
    pub(super) dead: bool,
    /// It let a write time out, and has confirmed nothing since.
    pub(super) unresponsive: bool,
    /// Its wall clock minus this member's, in milliseconds.
    pub(super) clock_offset_ms: Option<i64>,
    /// The partitions it is a complete owner of, and under which placement it said so.
    pub(super) complete: Option<(u64, Vec<u8>)>,
    /// The highest incarnation seen, and its life.
    pub(super) life: Option<(u64, u64)>,
    /// A roster exchange is under way; not again before this time in microseconds.
    pub(super) exchange_after_us: u64,
    /// It refused records: no hints before this time in microseconds.
    pub(super) hints_after_us: u64,
}

impl Peer {
    pub(super) const fn new(member: MemberId) -> Self {
        Self {
            member,
            link: None,
            link_lost_us: 0,
            dead: false,
            unresponsive: false,
            clock_offset_ms: None,
            complete: None,
            life: None,
            exchange_after_us: 0,
            hints_after_us: 0,
        }
    }

    /// The highest record of the present link that counts as a copy; 0 without a link.
    pub(super) fn confirmed(&self, sync: Sync) -> u64 {
        self.link.as_ref().map_or(0, |link| link.confirmed(sync))
    }

    /// Whether it can be asked now.
    pub(super) const fn is_reachable(&self) -> bool {
        self.link.is_some() && !self.dead
    }

    /// Whether a write should wait for it.
    pub(super) const fn is_expected(&self) -> bool {
        !self.dead && !self.unresponsive
    }

    /// Whether it said that it is a complete owner of a partition under this placement.
    pub(super) fn is_complete(&self, partition: u16, placement: u64) -> bool {
        self.complete.as_ref().is_some_and(|(digest, _)| *digest == placement) && self.was_complete(partition)
    }

    /// Whether the last that it said, under whatever placement, was that it is a complete owner of a
    /// partition.
    pub(super) fn was_complete(&self, partition: u16) -> bool {
        self.complete.as_ref().is_some_and(|(_, bits)| {
            bits.get(usize::from(partition / 8)).is_some_and(|byte| byte >> (partition % 8) & 1 == 1)
        })
    }
}

/// Bytes that go into one frame.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
}

/// A queue of bytes for frames.
#[derive(Debug, Default)]
struct Chunks {
    queue: VecDeque<Chunk>,
    bytes: usize,
    spare: Vec<u8>,
}

impl Chunks {
    /// The chunk that the next item goes into.
    fn open(&mut self, max_items: u32) -> &mut Chunk {
        let full = |chunk: &Chunk| chunk.bytes.len() >= CHUNK_BYTES || chunk.count >= max_items;
        if self.queue.back().is_none_or(full) {
            let bytes = std::mem::take(&mut self.spare);
            self.queue.push_back(Chunk { bytes, count: 0 });
        }
        let last = self.queue.len().saturating_sub(1);
        #[expect(clippy::indexing_slicing, reason = "a chunk was pushed if there was none")]
        &mut self.queue[last]
    }

    fn take(&mut self) -> Option<Chunk> {
        let chunk = self.queue.pop_front()?;
        self.bytes -= chunk.bytes.len();
        Some(chunk)
    }

    /// Keeps an allocation that was used up, unless it is a huge one.
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() <= 2 * CHUNK_BYTES {
            bytes.clear();
            self.spare = bytes;
        }
    }
}

/// A record on its way: what becomes a hint if the link ends first.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnTheWay {
    pub(super) hash: KeyHash,
    /// It was sent for a hint of this version, which is done with its confirmation.
    pub(super) hint: Option<u32>,
}

/// One link's state.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u64,
    records: Chunks,
    messages: Chunks,
    next: u64,
    sent: u64,
    frames: VecDeque<u64>,
    on_the_way: VecDeque<OnTheWay>,
    written: u64,
    fsynced: u64,
    received: u64,
    marks: VecDeque<(u64, u64)>,
    synced_mark: u64,
    told_written: u64,
    told_fsynced: u64,
    exceptions: VecDeque<Exception>,
}

impl Link {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            records: Chunks::default(),
            messages: Chunks::default(),
            next: 1,
            sent: 0,
            frames: VecDeque::new(),
            on_the_way: VecDeque::new(),
            written: 0,
            fsynced: 0,
            received: 0,
            marks: VecDeque::new(),
            synced_mark: 0,
            told_written: 0,
            told_fsynced: 0,
            exceptions: VecDeque::new(),
        }
    }

    /// Queues a record and returns its number; `None` when too much waits already.
    pub(super) fn push_record(
        &mut self,
        purpose: Purpose,
        record: RecordRef<'_>,
        hash: KeyHash,
        hint: Option<u32>,
    ) -> Option<u64> {
        if self.records.bytes >= MAX_OUTBOX_BYTES || self.on_the_way.len() >= MAX_UNSYNCED {
            return None;
        }
        let chunk = self.records.open(u32::MAX);
        chunk.bytes.push(purpose as u8);
        chunk.bytes.extend_from_slice(record.bytes());
        chunk.count += 1;
        self.records.bytes += 1 + record.bytes().len();
        self.on_the_way.push_back(OnTheWay { hash, hint });
        self.next += 1;
        Some(self.next - 1)
    }

    /// Queues a message.
    pub(super) fn push_message(&mut self, message: &Message) -> Result<(), ProtocolError> {
        let chunk = self.messages.open(MAX_MESSAGES.try_into().unwrap_or(u32::MAX));
        let before = chunk.bytes.len();
        message::encode(&mut chunk.bytes, message)?;
        chunk.count += 1;
        let added = chunk.bytes.len() - before;
        self.messages.bytes += added;
        Ok(())
    }

    /// Whether so many messages wait that the peer seems not to read.
    pub(super) const fn is_overfull(&self) -> bool {
        self.messages.bytes > MAX_MESSAGE_BYTES
    }

    /// Bytes of records that wait to be sent.
    pub(super) const fn waiting_bytes(&self) -> usize {
        self.records.bytes
    }

    /// The last record that was queued; 0 for none.
    pub(super) const fn queued(&self) -> u64 {
        self.next - 1
    }

    /// The last record that the peer has fsynced; 0 for none.
    pub(super) const fn fsynced(&self) -> u64 {
        self.fsynced
    }

    /// The highest of this link's records that counts as a copy.
    pub(super) const fn confirmed(&self, sync: Sync) -> u64 {
        match sync {
            Sync::Always => self.fsynced,
            Sync::Interval => self.written,
        }
    }

    /// Takes the peer's confirmations. Calls `synced` for every record that is now fsynced there.
    pub(super) fn confirm(
        &mut self,
        (written, fsynced): (u64, u64),
        sync: Sync,
        mut synced: impl FnMut(OnTheWay),
    ) -> Result<bool, ProtocolError> {
        if written > self.sent || fsynced > written {
            return Err(ProtocolError::Malformed("confirmation"));
        }
        let before = self.confirmed(sync);
        self.written = self.written.max(written);
        while self.fsynced < fsynced {
            self.fsynced += 1;
            if let Some(record) = self.on_the_way.pop_front() {
                synced(record);
            }
        }
        let confirmed = self.confirmed(sync);
        while self.frames.front().is_some_and(|last| *last <= confirmed) {
            self.frames.pop_front();
        }
        Ok(confirmed > before)
    }

    /// Notes that the peer's record `number` was taken in and is durable with the journal's
    /// `position`. Numbers come without a gap.
    pub(super) fn mark_received(&mut self, number: u64, position: u64) -> Result<(), ProtocolError> {
        if number != self.received + 1 {
            return Err(ProtocolError::Malformed("record number"));
        }
        self.received = number;
        match self.marks.back_mut() {
            Some(last) if last.1 == position => last.0 = number,
            _ => self.marks.push_back((number, position)),
        }
        Ok(())
    }

    /// Notes what happened to a received record that is not simply stored.
    pub(super) fn except(&mut self, exception: Exception) {
        match self.exceptions.back_mut() {
            Some(last)
                if last.verdict == exception.verdict
                    && last.first + u64::from(last.count) == exception.first
                    && last.count < u32::MAX =>
            {
                last.count += 1;
            }
            _ => self.exceptions.push_back(exception),
        }
    }

    /// What may be confirmed to the peer now: written and fsynced.
    fn confirmable(&mut self, positions: Positions) -> (u64, u64) {
        while let Some((number, _)) = self.marks.front().filter(|(_, at)| *at <= positions.synced) {
            self.synced_mark = *number;
            self.marks.pop_front();
        }
        let written = self.marks.partition_point(|(_, at)| *at <= positions.written);
        let last = written.checked_sub(1).and_then(|at| self.marks.get(at));
        (last.map_or(self.synced_mark, |(number, _)| *number), self.synced_mark)
    }

    /// Whether a frame is due, and what it confirms. Records wait while `hold_records` or while
    /// too many frames are unconfirmed.
    pub(super) fn due(&mut self, positions: Positions, sync: Sync, hold_records: bool) -> Option<Parts> {
        let (written, fsynced) = self.confirmable(positions);
        let news = match sync {
            Sync::Always => fsynced > self.told_fsynced,
            Sync::Interval => written > self.told_written || fsynced > self.told_fsynced,
        };
        let may_send = !hold_records && self.frames.len() < MAX_UNCONFIRMED_FRAMES;
        let records = may_send && !self.records.queue.is_empty();
        let messages = !self.messages.queue.is_empty();
        // An exception must not come later than the confirmation that it is an exception to.
        if !(news || records || messages || !self.exceptions.is_empty()) {
            return None;
        }
        let exceptions: Vec<_> = self.exceptions.drain(..self.exceptions.len().min(MAX_EXCEPTIONS)).collect();
        let bound = self.exceptions.front().map_or(u64::MAX, |next| next.first.saturating_sub(1));
        (self.told_written, self.told_fsynced) = (written.min(bound), fsynced.min(bound));
        let records = if records { self.records.take() } else { None };
        let first = self.sent + 1;
        if let Some(chunk) = &records {
            self.sent += u64::from(chunk.count);
            self.frames.push_back(self.sent);
        }
        Some(Parts {
            written: self.told_written,
            fsynced: self.told_fsynced,
            exceptions,
            first,
            records: records.unwrap_or_default(),
            messages: self.messages.take().unwrap_or_default(),
        })
    }

    /// Gives the allocations of a frame's parts back.
    pub(super) fn recycle(&mut self, parts: Parts) {
        self.records.recycle(parts.records.bytes);
        self.messages.recycle(parts.messages.bytes);
    }

    /// What is on its way under these numbers.
    pub(super) fn on_the_way(&self, numbers: std::ops::Range<u64>) -> impl Iterator<Item = OnTheWay> + '_ {
        let at = |number: u64| number.saturating_sub(self.fsynced + 1);
        let skip = usize::try_from(at(numbers.start)).unwrap_or(usize::MAX);
        let end = usize::try_from(at(numbers.end)).unwrap_or(usize::MAX);
        self.on_the_way.iter().take(end).skip(skip).copied()
    }

    /// What was on its way when the link ended.
    pub(super) fn into_unconfirmed(self) -> VecDeque<OnTheWay> {
        self.on_the_way
    }
}

/// What goes into a frame.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) written: u64,
    pub(super) fsynced: u64,
    pub(super) exceptions: Vec<Exception>,
    pub(super) first: u64,
    pub(super) records: Chunk,
    pub(super) messages: Chunk,
}
