//! What the engine knows of each peer, and the state of the link to it.
//!
//! Records on a link are numbered from 1 and confirmed cumulatively, twice: once written, once
//! fsynced. A link's numbers, queues and marks end with it; what was not fsynced by then becomes
//! hints.

mod chunks;

pub(super) use chunks::Chunk;

use super::anti_entropy::Compared;
use super::clocks::Reading;
use super::followers::Followers;
use super::remembered::Ends;
use crate::engine::Positions;
use crate::model::limits::{MAX_FRAME_BYTES, MAX_RECORD_BYTES};
use crate::model::settings::Sync;
use crate::model::{KeyHash, MemberId, RecordRef};
use crate::protocol::ProtocolError;
use crate::protocol::frame::{self, Exception, MAX_EXCEPTIONS, MAX_MESSAGES, Purpose};
use crate::protocol::message::{self, Message};
use chunks::{CHUNK_BYTES, Chunks};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Frames with records that may be unconfirmed at a time: while both are, records wait, so that
/// batches grow with load.
const MAX_UNCONFIRMED_FRAMES: usize = 2;
/// Bytes of records and messages in one frame: the rest is for its header and exceptions.
pub(super) const FRAME_ROOM: usize = MAX_FRAME_BYTES - (128 << 10);
const _: () = assert!(
    FRAME_ROOM > MAX_RECORD_BYTES && frame::overhead_bytes(MAX_EXCEPTIONS) < MAX_FRAME_BYTES - FRAME_ROOM
);
/// Bytes of records that may wait for a peer; beyond it they become hints.
pub(super) const MAX_OUTBOX_BYTES: usize = 32 << 20;
/// Bytes of messages that may wait for a peer; beyond it the link is given up.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Records that may be unconfirmed after fsync; beyond it further ones become hints.
const MAX_UNSYNCED: usize = 1 << 21;

/// What a peer said that it is a complete owner of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Digest of its placement.
    pub(super) placement: u64,
    /// The slices of class 0, a bit each.
    pub(super) of_others: Vec<u8>,
    /// Those of each collection that it knew to be a class.
    pub(super) classes: BTreeMap<String, Vec<u8>>,
}

/// A member other than this one.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) member: MemberId,
    pub(super) link: Option<Link>,
    /// When the last link ended, in microseconds.
    pub(super) link_lost_us: u64,
    /// When the present link came up, in microseconds.
    pub(super) linked_us: u64,
    /// It said on the present link whether it has hints for this member.
    pub(super) has_hints: Option<bool>,
    /// It was told on the present link that this member has hints for it.
    pub(super) told_hints: bool,
    /// When the last hint went to it, or a repair came from it, in microseconds.
    pub(super) hinted_us: u64,
    /// It could not stamp when it was asked: others are asked first before this time in microseconds.
    pub(super) not_ready_until_us: u64,
    /// Liveness says that it is dead. Never heard is not dead.
    pub(super) dead: bool,
    /// It let a write time out, and has confirmed nothing since.
    pub(super) unresponsive: bool,
    /// Its wall clock; `None` when it was never heard in this life.
    pub(super) clock: Option<Reading>,
    /// The highest hybrid time that it gave or saw, when it was last heard.
    pub(super) clock_time: u64,
    /// The partitions it is a complete owner of, and under which placement it said so.
    pub(super) complete: Option<(u64, Vec<u8>)>,
    /// The same as it said it.
    pub(super) told: Option<Told>,
    /// It has just started and may lack what was written meanwhile.
    pub(super) catching_up: bool,
    /// The highest incarnation seen, and its life.
    pub(super) life: Option<(u64, u64)>,
    /// The incarnation at the other end of the link.
    pub(super) linked_incarnation: u64,
    /// What it said of its lives' journals.
    pub(super) ends: Ends,
    /// Since when its frames tell another placement, in microseconds.
    pub(super) disagrees_since_us: Option<u64>,
    /// A roster exchange is under way; not again before this time in microseconds.
    pub(super) exchange_after_us: u64,
    /// It refused records: no hints before this time in microseconds.
    pub(super) hints_after_us: u64,
    /// What comparing with it has shown.
    pub(super) compared: Compared,
}

impl Peer {
    pub(super) fn new(member: MemberId) -> Self {
        Self {
            member,
            link: None,
            link_lost_us: 0,
            linked_us: 0,
            has_hints: None,
            told_hints: false,
            hinted_us: 0,
            not_ready_until_us: 0,
            dead: false,
            unresponsive: false,
            clock: None,
            clock_time: 0,
            complete: None,
            told: None,
            catching_up: false,
            life: None,
            linked_incarnation: 0,
            ends: Ends::default(),
            disagrees_since_us: None,
            exchange_after_us: 0,
            hints_after_us: 0,
            compared: Compared::default(),
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
        let agrees = self.complete.as_ref().is_some_and(|(digest, _)| *digest == placement);
        agrees && !self.catching_up && self.was_complete(partition)
    }

    /// Whether the last that it said, under whatever placement, was that it is a complete owner of a
    /// partition.
    pub(super) fn was_complete(&self, partition: u16) -> bool {
        self.complete.as_ref().is_some_and(|(_, bits)| {
            bits.get(usize::from(partition / 8)).is_some_and(|byte| byte >> (partition % 8) & 1 == 1)
        })
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
    followers: Followers,
    /// Room to encode a message in.
    message: Vec<u8>,
    next: u64,
    sent: u64,
    frames: VecDeque<u64>,
    on_the_way: VecDeque<OnTheWay>,
    written: u64,
    fsynced: u64,
    received: u64,
    marks: VecDeque<(u64, u64)>,
    synced_mark: u64,
    /// Received records that must not be confirmed yet.
    held: BTreeSet<u64>,
    heard: bool,
    told_written: u64,
    told_fsynced: u64,
    exceptions: VecDeque<Exception>,
    /// The first record that was queued while a checkpoint was the latest, and that checkpoint;
    /// rising, and not without those of records that are on their way.
    checkpoints: VecDeque<(u64, u32)>,
}

impl Link {
    /// A link that begins while `checkpoint` is the latest.
    pub(super) fn new(id: u64, checkpoint: u32) -> Self {
        Self {
            id,
            records: Chunks::default(),
            messages: Chunks::default(),
            followers: Followers::default(),
            message: Vec::new(),
            next: 1,
            sent: 0,
            frames: VecDeque::new(),
            on_the_way: VecDeque::new(),
            written: 0,
            fsynced: 0,
            received: 0,
            marks: VecDeque::new(),
            synced_mark: 0,
            held: BTreeSet::new(),
            heard: false,
            told_written: 0,
            told_fsynced: 0,
            exceptions: VecDeque::new(),
            checkpoints: VecDeque::from([(1, checkpoint)]),
        }
    }

    /// Notes that a frame came.
    pub(super) const fn note_heard(&mut self) {
        self.heard = true;
    }

    /// Whether a frame came on this link.
    pub(super) const fn was_heard(&self) -> bool {
        self.heard
    }

    /// Records that were queued and are not confirmed after fsync.
    pub(super) fn under_way(&self) -> usize {
        self.on_the_way.len()
    }

    /// Whether all that was queued is confirmed after fsync.
    pub(super) fn is_quiet(&self) -> bool {
        self.on_the_way.is_empty()
    }

    /// Notes that a checkpoint began.
    pub(super) fn checkpoint_began(&mut self, number: u32) {
        while self.checkpoints.get(1).is_some_and(|(first, _)| *first <= self.fsynced + 1) {
            self.checkpoints.pop_front();
        }
        self.checkpoints.push_back((self.next, number));
    }

    /// The checkpoint that was the latest when the oldest record that is still on its way was
    /// queued; `None` when none is.
    pub(super) fn oldest_checkpoint(&self) -> Option<u32> {
        let behind = self.checkpoints.partition_point(|(first, _)| *first <= self.fsynced + 1);
        let (_, number) = self.checkpoints.get(behind.checked_sub(1)?)?;
        (!self.on_the_way.is_empty()).then_some(*number)
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
        let chunk = self.records.open(1 + record.bytes().len(), u32::MAX);
        chunk.bytes.push(purpose as u8);
        chunk.bytes.extend_from_slice(record.bytes());
        chunk.count += 1;
        self.records.bytes += 1 + record.bytes().len();
        self.on_the_way.push_back(OnTheWay { hash, hint });
        self.next += 1;
        Some(self.next - 1)
    }

    /// Queues a message; fails when it is larger than a frame.
    pub(super) fn push_message(&mut self, message: &Message) -> Result<(), ProtocolError> {
        // How long it is shows only when it is encoded.
        let mut bytes = std::mem::take(&mut self.message);
        bytes.clear();
        let encoded = message::encode(&mut bytes, message);
        let fits = bytes.len() <= FRAME_ROOM;
        if encoded.is_ok() && fits && Followers::is_for(message) {
            self.followers.push(self.queued(), &bytes);
        } else if encoded.is_ok() && fits {
            let chunk = self.messages.open(bytes.len(), MAX_MESSAGES.try_into().unwrap_or(u32::MAX));
            chunk.bytes.extend_from_slice(&bytes);
            chunk.count += 1;
            self.messages.bytes += bytes.len();
        }
        if bytes.capacity() <= 2 * CHUNK_BYTES {
            self.message = bytes;
        }
        if fits { encoded } else { Err(ProtocolError::Message("it is larger than a frame".to_owned())) }
    }

    /// Partitions are numbered anew: messages that wait go by the numbers of the placement before, and say so when they leave.
    pub(super) fn end_placement(&mut self, before: u64) {
        for chunk in &mut self.messages.queue {
            chunk.placement.get_or_insert(before);
        }
    }

    /// Whether so many messages wait that the peer seems not to read.
    pub(super) const fn is_overfull(&self) -> bool {
        self.messages.bytes + self.followers.bytes() > MAX_MESSAGE_BYTES
    }

    /// Bytes of messages that wait to be sent.
    pub(super) const fn waiting_message_bytes(&self) -> usize {
        self.messages.bytes
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

    /// Lets nothing be confirmed from a received record on, until it is released.
    pub(super) fn hold(&mut self, number: u64) {
        self.held.insert(number);
    }

    /// What became of a received record is known.
    pub(super) fn release(&mut self, number: u64) {
        self.held.remove(&number);
    }

    /// Notes what happened to a received record that is not simply stored. It was not confirmed yet.
    pub(super) fn except(&mut self, exception: Exception) {
        // They stand in the order of their numbers; only one that was held comes late.
        let at = self.exceptions.partition_point(|other| other.first < exception.first);
        let before = at.checked_sub(1).and_then(|before| self.exceptions.get_mut(before));
        match before {
            Some(last)
                if last.verdict == exception.verdict
                    && last.first + u64::from(last.count) == exception.first
                    && last.count < u32::MAX =>
            {
                last.count += 1;
            }
            _ => self.exceptions.insert(at, exception),
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

    /// Whether a frame is due, and what it confirms. While `hold`, it shows no stamp. Records also
    /// wait while too many frames are unconfirmed.
    pub(super) fn due(&mut self, positions: Positions, sync: Sync, hold: bool) -> Option<Parts> {
        let count = if hold { 0 } else { self.exceptions.len().min(MAX_EXCEPTIONS) };
        // An exception must not come later than the confirmation that it is an exception to.
        let bound = self.exceptions.get(count).map_or(u64::MAX, |next| next.first.saturating_sub(1));
        let bound = self.held.first().map_or(bound, |held| bound.min(held.saturating_sub(1)));
        let (written, fsynced) = self.confirmable(positions);
        let (written, fsynced) = (written.min(bound), fsynced.min(bound));
        let news = match sync {
            Sync::Always => fsynced > self.told_fsynced,
            Sync::Interval => written > self.told_written || fsynced > self.told_fsynced,
        };
        // What goes by a placement before is alone in its frame.
        let placement = self.messages.queue.front().and_then(|chunk| chunk.placement).filter(|_| !hold);
        let may_send = !hold && placement.is_none() && self.frames.len() < MAX_UNCONFIRMED_FRAMES;
        let records = may_send && !self.records.queue.is_empty();
        let leaving = if records { self.records.queue.front().map_or(0, |chunk| chunk.count) } else { 0 };
        let messages = !hold
            && (!self.messages.queue.is_empty() || self.followers.is_due(self.sent + u64::from(leaving)));
        if !(news || records || messages || count > 0) {
            return None;
        }
        let exceptions: Vec<_> = self.exceptions.drain(..count).collect();
        (self.told_written, self.told_fsynced) = (written, fsynced);
        let records = if records { self.records.take(FRAME_ROOM) } else { None }.unwrap_or_default();
        let room = FRAME_ROOM - records.bytes.len();
        let taken = if messages { self.messages.take(room) } else { None };
        let first = self.sent + 1;
        if records.count > 0 {
            self.sent += u64::from(records.count);
            self.frames.push_back(self.sent);
        }
        let mut messages_taken = taken.unwrap_or_default();
        if messages && placement.is_none() {
            self.followers.take(self.sent, room, &mut messages_taken);
        }
        let messages = messages_taken;
        Some(Parts { written, fsynced, exceptions, first, records, messages, placement })
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
    /// The placement that the messages go by, if it is not the present one.
    pub(super) placement: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::MAX_VALUE_BYTES;
    use crate::model::settings::Level;
    use crate::model::{KeyRef, Record, Timestamp};
    use crate::protocol::message::{Reply, Request, WireChange, WriteRequest};

    fn push(link: &mut Link, key: &[u8], bytes: usize) {
        let key = KeyRef::new("c", key).unwrap();
        let record = Record::value(key, Timestamp::ZERO, None, &vec![0; bytes]);
        link.push_record(Purpose::Fresh, record.view(), key.hash(), None).unwrap();
    }

    #[test]
    fn a_frame_stays_within_its_bound_whatever_waits() {
        let mut link = Link::new(1, 0);
        push(&mut link, b"a", CHUNK_BYTES - 100);
        push(&mut link, b"b", MAX_VALUE_BYTES);
        for _ in 0..2 {
            link.push_message(&Message::Reply(1, Reply::Record(Some(vec![0; 400 << 10])))).unwrap();
        }
        link.push_message(&Message::Reply(1, Reply::Record(Some(vec![0; MAX_RECORD_BYTES])))).unwrap();
        let mut counts = Vec::new();
        while let Some(parts) = link.due(Positions::default(), Sync::Always, false) {
            assert!(parts.records.bytes.len() + parts.messages.bytes.len() <= FRAME_ROOM);
            counts.push((parts.records.count, parts.messages.count));
            link.recycle(parts);
        }
        assert_eq!(counts, [(1, 1), (1, 0), (0, 1), (0, 1)]);
    }

    #[test]
    fn a_write_that_is_asked_of_a_peer_does_not_overtake_records_and_other_messages_do() {
        let mut link = Link::new(1, 0);
        let frame = |link: &mut Link| {
            let parts = link.due(Positions::default(), Sync::Always, false);
            parts.map(|parts| (parts.records.count, parts.messages.count))
        };
        let request = WriteRequest {
            collection: "c".to_owned(),
            key: b"a".to_vec(),
            change: WireChange::Delete,
            level: Level::One,
            after: 0,
        };
        for _ in 0..2 {
            push(&mut link, b"a", 1);
            assert_eq!(frame(&mut link), Some((1, 0)));
        }
        push(&mut link, b"a", 1);
        link.push_message(&Message::Request(1, Request::Write(request.clone()))).unwrap();
        assert_eq!(frame(&mut link), None, "two frames are unconfirmed");
        link.push_message(&Message::Reply(1, Reply::Record(None))).unwrap();
        assert_eq!(frame(&mut link), Some((0, 1)));
        link.confirm((1, 1), Sync::Always, |_| ()).unwrap();
        assert_eq!(frame(&mut link), Some((1, 1)));
        link.push_message(&Message::Request(2, Request::Write(request))).unwrap();
        assert_eq!(frame(&mut link), Some((0, 1)), "nothing was queued before it that did not leave");
    }

    #[test]
    fn a_message_that_fits_no_frame_is_refused_and_leaves_nothing() {
        let mut link = Link::new(1, 0);
        let large = Message::Reply(1, Reply::Record(Some(vec![0; FRAME_ROOM])));
        assert!(link.push_message(&large).is_err());
        assert!(link.due(Positions::default(), Sync::Always, false).is_none());
    }

    #[test]
    fn what_was_queued_before_partitions_were_numbered_anew_leaves_alone_under_the_placement_before() {
        let mut link = Link::new(1, 0);
        let reply = Message::Reply(1, Reply::Record(None));
        link.push_message(&reply).unwrap();
        link.end_placement(7);
        link.push_message(&reply).unwrap();
        link.end_placement(8);
        link.push_message(&reply).unwrap();
        push(&mut link, b"a", 1);
        let held = link.due(Positions::default(), Sync::Always, true);
        assert!(held.is_none(), "nothing leaves while stamps are held back");
        let mut frames = Vec::new();
        while let Some(parts) = link.due(Positions::default(), Sync::Always, false) {
            frames.push((parts.records.count, parts.messages.count, parts.placement));
        }
        assert_eq!(frames, [(0, 1, Some(7)), (0, 1, Some(8)), (1, 1, None)]);
    }

    #[test]
    fn while_stamps_are_held_back_only_confirmations_are_sent() {
        let mut link = Link::new(1, 0);
        push(&mut link, b"a", 1);
        link.push_message(&Message::Reply(1, Reply::Record(None))).unwrap();
        link.mark_received(1, 5).unwrap();
        link.mark_received(2, 6).unwrap();
        link.except(Exception { first: 2, count: 1, verdict: frame::Verdict::Superseded(Timestamp::ZERO) });
        let positions = Positions { written: 9, synced: 9 };
        let held = link.due(positions, Sync::Always, true).unwrap();
        assert_eq!((held.fsynced, held.exceptions.len()), (1, 0));
        assert_eq!((held.records.count, held.messages.count), (0, 0));
        assert!(link.due(positions, Sync::Always, true).is_none());
        let shown = link.due(positions, Sync::Always, false).unwrap();
        assert_eq!((shown.fsynced, shown.exceptions.len()), (2, 1));
        assert_eq!((shown.records.count, shown.messages.count), (1, 1));
    }

    #[test]
    fn the_oldest_record_on_its_way_names_the_checkpoint_that_was_the_latest_then() {
        let mut link = Link::new(1, 3);
        link.checkpoint_began(4);
        assert_eq!(link.oldest_checkpoint(), None);
        push(&mut link, b"a", 1);
        link.checkpoint_began(5);
        push(&mut link, b"b", 1);
        assert_eq!(link.oldest_checkpoint(), Some(4));
        assert!(link.due(Positions::default(), Sync::Always, false).is_some());
        link.confirm((1, 1), Sync::Always, |_| ()).unwrap();
        assert_eq!(link.oldest_checkpoint(), Some(5));
    }
}
