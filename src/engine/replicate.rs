//! Links: frames in, frames out, confirmations, and hints on their way.
//!
//! A received record is merged and journalled in the turn that received it; its number is
//! confirmed with the journal's position. Records that are refused are named as exceptions, in the
//! same frame as the confirmation that passes them or before it, so a plain confirmation is always
//! true.

use super::journal::{self, Entry};
use super::loads::Waiter;
use super::operation::OperationError;
use super::peer::{Link, OnTheWay, Told};
use super::records::{Applied, Standing};
use super::table::{FOUND, UNRESOLVED};
use super::{Engine, Mode};
use crate::model::{KeyHash, MemberId, RecordRef, Timestamp};
use crate::protocol::ProtocolError;
use crate::protocol::frame::{self, Exception, Frame, Header, Messages, Purpose, Records, Verdict};
use crate::protocol::message::{self, Message, Notice, Request};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Received records whose keys are looked for together, see [`Table::warm`](super::table::Table::warm).
const RECORDS_AT_ONCE: usize = 64;
/// Hints that are looked up at a time for a peer.
const HINTS_AT_ONCE: usize = 16;
/// Such looks in one tick, while no client waits and while some do; fewer when the records are large, see
/// [`HINTS_WAIT_BYTES`].
const HINT_LOOKS: (usize, usize) = (128, 52);
/// Bytes of waiting records above which no hints are added.
const HINTS_WAIT_BYTES: usize = 256 << 10;
/// Microseconds without hints to a member that refused a record.
const HINT_RETRY_US: u64 = 1_000_000;

/// A fresh record that was received and must be compared with what redb holds before it is confirmed:
/// a write that meets a newer record is told so, wherever that one is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh {
    member: MemberId,
    link: u64,
    number: u64,
    pub(super) timestamp: Timestamp,
}

impl Engine {
    /// A link to a member is up; frames of its earlier links are void from now on. `link` was never
    /// used before.
    pub fn link_up(&mut self, member: MemberId, link: u64) {
        self.link_lost(member);
        let checkpoint = self.checkpoint.latest();
        let at = self.peer_at(member);
        if let Some(peer) = self.peers.get_mut(at) {
            peer.link = Some(Link::new(link, checkpoint));
            peer.dead = false;
            peer.unresponsive = false;
            (peer.exchange_after_us, peer.disagrees_since_us) = (0, None);
            peer.linked_us = self.now.mono_us;
            let incarnation = peer.life.map_or(0, |(incarnation, _)| incarnation);
            // What it said in a former life it does not vouch for in this one, until it says so again.
            peer.catching_up |= incarnation != peer.linked_incarnation;
            peer.linked_incarnation = incarnation;
            peer.has_hints = None;
        }
        self.compare_soon(member);
        self.hints.rewind(member);
        self.tell_system(member);
        // Before the hints: whoever lost what it had acknowledged must not have caught up without it.
        self.remind(member);
        self.greet_with_hints(member);
        self.tell_complete(Some(member));
        self.resend_writes(member);
        self.progress = true;
    }

    /// The link is gone. A link that was superseded already changes nothing.
    pub fn link_down(&mut self, member: MemberId, link: u64) {
        if self.has_link(member, link) {
            self.link_lost(member);
        }
    }

    /// Liveness says that a member is dead, or alive again.
    pub fn liveness(&mut self, member: MemberId, alive: bool) {
        let at = self.peer_at(member);
        if let Some(peer) = self.peers.get_mut(at) {
            peer.compared.is_needed |= std::mem::replace(&mut peer.dead, !alive) && alive;
        }
        self.progress = true;
        if !alive {
            self.requests_lost(member);
        }
    }

    pub(super) fn has_link(&self, member: MemberId, link: u64) -> bool {
        self.peer(member).and_then(|peer| peer.link.as_ref()).is_some_and(|known| known.id == link)
    }

    pub(super) fn link_lost(&mut self, member: MemberId) {
        let now_us = self.now.mono_us;
        let Some(peer) = self.peer_mut(member) else { return };
        let Some(link) = peer.link.take() else { return };
        peer.link_lost_us = now_us;
        for record in link.into_unconfirmed() {
            if record.hint.is_none() {
                self.hint_by_hash(member, record.hash);
            }
        }
        self.hints.rewind(member);
        self.writes_lost(member);
        self.requests_lost(member);
        self.watcher_lost(member);
    }

    fn hint_by_hash(&mut self, member: MemberId, hash: KeyHash) {
        // A client's record is not evicted while it is on its way; a repair's may be.
        if let Some(slot) = self.records.table.find_hash(hash) {
            self.note_hint(member, slot, hash);
        }
    }

    /// A frame of an authenticated link.
    ///
    /// # Errors
    /// [`ProtocolError`] when the frame makes no sense: the link must be closed. What it carried
    /// before the senseless part was taken in.
    pub fn frame(&mut self, member: MemberId, link: u64, bytes: &[u8]) -> Result<(), ProtocolError> {
        if !self.has_link(member, link) {
            return Ok(());
        }
        let frame = Frame::parse(bytes)?;
        if let Some(link) = self.peer_mut(member).and_then(|peer| peer.link.as_mut()) {
            link.note_heard();
        }
        let same_placement = frame.header.placement == self.placement.digest();
        let mut resend = false;
        for exception in frame.exceptions() {
            let exception = exception?;
            resend |= same_placement && exception.verdict == Verdict::Placement;
            self.take_exception(member, exception);
        }
        self.note_header(member, &frame.header);
        if resend {
            self.resend_writes(member);
        }
        self.take_confirmation(member, &frame.header)?;
        self.take_records(member, frame.records, same_placement)?;
        for bytes in frame.messages() {
            match message::decode(bytes?)? {
                Message::Request(id, request) => self.take_request(member, link, id, request, same_placement),
                Message::Reply(id, reply) => self.take_reply(member, id, reply, same_placement),
                Message::Notice(Notice::Complete { placement, partitions, catching_up }) => {
                    let told = Told { placement, of_others: partitions, classes: BTreeMap::new() };
                    self.take_complete(member, told, catching_up);
                }
                Message::Notice(Notice::CompleteIn { placement, partitions, classes, catching_up }) => {
                    let told = Told { placement, of_others: partitions, classes };
                    self.take_complete(member, told, catching_up);
                }
                Message::Notice(Notice::Hints { pending }) => {
                    if let Some(peer) = self.peer_mut(member) {
                        peer.has_hints = Some(pending);
                    }
                    self.catch_up();
                }
                Message::Notice(Notice::Changed { watch, records }) => {
                    self.peer_changed(member, watch, records)
                }
                Message::Notice(Notice::Named { watch, changes }) => self.peer_named(member, watch, changes),
                Message::Notice(Notice::WatchEnded { watch }) => self.watch_ended(member, watch),
                Message::Notice(Notice::Unwatch { watch }) => self.unwatch(member, watch),
                Message::Notice(Notice::Remembered { lives }) => self.reminded(member, &lives),
                Message::Notice(Notice::System { digest }) => {
                    if digest != self.system_digest() {
                        self.exchange_system(member);
                    }
                }
            }
        }
        Ok(())
    }

    fn note_header(&mut self, member: MemberId, header: &Header) {
        self.note_clock(member, header.wall_ms, header.time);
        self.remember_position(member, header.durable);
        let agrees = header.placement == self.placement.digest();
        let (mut agreed_again, now) = (false, self.now.mono_us);
        if let Some(peer) = self.peer_mut(member) {
            if agrees {
                agreed_again = peer.exchange_after_us > 0 || peer.disagrees_since_us.is_some();
                (peer.exchange_after_us, peer.disagrees_since_us) = (0, None);
            } else {
                peer.disagrees_since_us.get_or_insert(now);
            }
        }
        if agreed_again {
            self.resend_writes(member);
        }
    }

    fn take_exception(&mut self, member: MemberId, exception: Exception) {
        let end = exception.first.saturating_add(exception.count.into());
        if !matches!(exception.verdict, Verdict::Superseded(_)) {
            let link = self.peer(member).and_then(|peer| peer.link.as_ref());
            let lost = link.map(|link| link.on_the_way(exception.first..end).collect::<Vec<_>>());
            for OnTheWay { hash, hint } in lost.unwrap_or_default() {
                match hint {
                    Some(_) => self.hints.again(member, hash),
                    None => self.hint_by_hash(member, hash),
                }
            }
            self.rest_hints(member);
            self.spoil_pass(member);
        }
        self.writes_excepted(member, exception.first..end, exception.verdict);
    }

    fn take_confirmation(&mut self, member: MemberId, header: &Header) -> Result<(), ProtocolError> {
        let sync = self.settings.sync;
        let Some(at) = self.peer_index.get(&member).copied() else { return Ok(()) };
        let Some(peer) = self.peers.get_mut(at) else { return Ok(()) };
        let Some(link) = peer.link.as_mut() else { return Ok(()) };
        let mut done = Vec::new();
        let note = |record: OnTheWay| {
            if let Some(version) = record.hint {
                done.push((record.hash, version));
            }
        };
        if link.confirm((header.written, header.fsynced), sync, note)? {
            peer.unresponsive = false;
            self.progress = true;
        }
        for (hash, version) in done {
            self.counters.hints_delivered += u64::from(self.hint_done(member, hash, Some(version)));
        }
        Ok(())
    }

    /// Discards a hint; says whether there was one.
    pub(super) fn hint_done(&mut self, member: MemberId, hash: KeyHash, version: Option<u32>) -> bool {
        let done = self.hints.done(member, hash, version);
        let there_was = done.is_some();
        if let Some(key) = done {
            journal::append(&mut self.lanes.journal, &Entry::HintDone(member, key));
        }
        there_was
    }

    /// The record of a hint could not be read: it is sent later.
    pub(super) fn hint_again(&mut self, member: MemberId, hash: KeyHash) {
        self.hints.again(member, hash);
        self.rest_hints(member);
    }

    fn rest_hints(&mut self, member: MemberId) {
        let hints_after_us = self.now.mono_us + HINT_RETRY_US;
        if let Some(peer) = self.peer_mut(member) {
            peer.hints_after_us = hints_after_us;
        }
    }

    fn take_records(
        &mut self,
        member: MemberId,
        records: Records<'_>,
        same_placement: bool,
    ) -> Result<(), ProtocolError> {
        let mut parsed = records.iter();
        let mut batch: SmallVec<[_; RECORDS_AT_ONCE]> = SmallVec::new();
        loop {
            batch.clear();
            let mut senseless = None;
            for one in parsed.by_ref().take(RECORDS_AT_ONCE) {
                match one {
                    Ok((number, purpose, record)) => {
                        batch.push((number, purpose, record, record.key_hash()));
                    }
                    Err(error) => {
                        senseless = Some(error);
                        break;
                    }
                }
            }
            if batch.is_empty() {
                return senseless.map_or(Ok(()), Err);
            }
            self.records.table.warm(batch.iter().map(|(.., hash)| *hash));
            if batch.iter().any(|(_, purpose, ..)| *purpose == Purpose::Repair) {
                self.note_hinted(member);
            }
            for (number, purpose, record, hash) in &batch {
                let verdict = self.take_record(member, *purpose, *record, *hash, same_placement);
                let position = self.end();
                let waits =
                    verdict.is_none() && *purpose == Purpose::Fresh && self.is_unresolved(*record, *hash);
                let link = self.peer_mut(member).and_then(|peer| peer.link.as_mut());
                let Some(link) = link else { return Ok(()) };
                if let Some(verdict) = verdict {
                    link.except(Exception { first: *number, count: 1, verdict });
                }
                link.mark_received(*number, position)?;
                if waits && let Ok(key) = record.key_ref() {
                    link.hold(*number);
                    let fresh =
                        Fresh { member, link: link.id, number: *number, timestamp: record.timestamp() };
                    self.load_then(key, *hash, Waiter::Fresh(fresh));
                }
            }
            if let Some(error) = senseless {
                return Err(error);
            }
        }
    }

    fn note_hinted(&mut self, member: MemberId) {
        let now_us = self.now.mono_us;
        if let Some(peer) = self.peer_mut(member) {
            peer.hinted_us = now_us;
        }
    }

    fn is_unresolved(&self, record: RecordRef<'_>, hash: KeyHash) -> bool {
        if self.loads.is_idle() {
            return false;
        }
        let slot = self.records.table.find_like(record, hash);
        slot.is_some_and(|slot| self.records.table.has(slot, UNRESOLVED))
    }

    /// Redb was asked what it holds of a fresh record's key: now it is known whether that is newer.
    pub(super) fn release_fresh(&mut self, fresh: Fresh, verdict: Option<Verdict>) {
        let link = self.peer_mut(fresh.member).and_then(|peer| peer.link.as_mut());
        let Some(link) = link.filter(|link| link.id == fresh.link) else { return };
        link.release(fresh.number);
        if let Some(verdict) = verdict {
            link.except(Exception { first: fresh.number, count: 1, verdict });
        }
    }

    /// Merges one received record; tells what is to be excepted from its confirmation.
    fn take_record(
        &mut self,
        member: MemberId,
        purpose: Purpose,
        record: RecordRef<'_>,
        hash: KeyHash,
        same_placement: bool,
    ) -> Option<Verdict> {
        if self.storage_problem.is_some() || self.mode == Mode::NoCluster {
            return Some(Verdict::Storage);
        }
        if purpose == Purpose::Fresh {
            let bound = self.foreign_bound().saturating_add(u16::MAX.into());
            let overwrites = || record.key_ref().is_ok_and(|key| self.records.time_of(key, hash) > bound);
            if record.timestamp().time > bound && !overwrites() {
                self.counters.refused_clock += 1;
                return Some(Verdict::ClockAhead);
            }
            let is_system = record.collection().starts_with(crate::model::key::SYSTEM_PREFIX);
            if !same_placement && !is_system {
                self.counters.refused_placement += 1;
                return Some(Verdict::Placement);
            }
        }
        let is_system = record.collection().starts_with(crate::model::key::SYSTEM_PREFIX);
        // What a removed member still sends may be older than what was reclaimed since.
        let owns = || {
            let key = record.key_ref();
            key.is_ok_and(|key| self.placement.set_of(key, hash).contains(self.identity.member))
        };
        if !is_system && (self.roster.is_removed(member) || !owns()) {
            return Some(Verdict::Placement);
        }
        let applied = self.merge(record, hash);
        if purpose == Purpose::Repair && matches!(applied, Applied::Stored | Applied::Joined) {
            self.foreign.repaired_us = self.now.mono_us;
        }
        match applied {
            Applied::Superseded(winner) if purpose == Purpose::Fresh => {
                if let Ok(key) = record.key_ref() {
                    self.note_superseded(key, record.timestamp(), winner);
                }
                Some(Verdict::Superseded(winner))
            }
            _ => None,
        }
    }

    /// Merges a record into the table and journals what changed.
    pub(super) fn merge(&mut self, record: RecordRef<'_>, hash: KeyHash) -> Applied {
        let (slot, applied, unresolved) = self.records.apply(record, hash);
        self.counters.journal_records += u64::from(matches!(applied, Applied::Stored | Applied::Joined));
        // Somebody else has just what is here now.
        if applied == Applied::Stored
            || applied == Applied::Same && self.records.table.record(slot) == Some(record)
        {
            self.records.table.clear_flags(slot, FOUND);
        }
        match applied {
            Applied::Stored => {
                journal::append(&mut self.lanes.journal, &Entry::Record(record));
                self.note_system(record);
            }
            Applied::Joined => {
                if let Some(joined) = self.records.table.record(slot) {
                    journal::append(&mut self.lanes.journal, &Entry::Record(joined));
                }
            }
            Applied::Same | Applied::Superseded(_) => {}
        }
        if unresolved && let Ok(key) = record.key_ref() {
            self.resolve_later(key, hash);
        }
        applied
    }

    /// Builds the frame that is due for a peer, if one is. Called at most once a turn for each.
    pub fn take_frame(&mut self, member: MemberId, out: &mut Vec<u8>) -> bool {
        // Whatever this member says may show or rest on its last stamp.
        let hold = !self.clock.is_covered(self.clock.stamped());
        let (positions, sync) = (self.positions, self.settings.sync);
        let header = Header {
            time: self.time_to_tell(),
            wall_ms: self.now.wall_ms,
            placement: self.placement.digest(),
            durable: self.durable_position(),
            ..Header::default()
        };
        let Some(link) = self.peer_mut(member).and_then(|peer| peer.link.as_mut()) else { return false };
        let Some(parts) = link.due(positions, sync, hold) else { return false };
        let placement = parts.placement.unwrap_or(header.placement);
        let header = Header { placement, written: parts.written, fsynced: parts.fsynced, ..header };
        let records = Records { first: parts.first, count: parts.records.count, bytes: &parts.records.bytes };
        let count = u16::try_from(parts.messages.count).unwrap_or(u16::MAX);
        let messages = Messages { count, bytes: &parts.messages.bytes };
        frame::encode(out, &header, &parts.exceptions, records, messages);
        link.recycle(parts);
        if link.is_overfull() {
            self.lanes.close.push((member, "it does not read what it is sent"));
        }
        true
    }

    /// Members that a link is up to.
    pub fn linked(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.peers.iter().filter(|peer| peer.link.is_some()).map(|peer| peer.member)
    }

    /// Sends hints to members that can be reached, as long as little else waits for them.
    pub(super) fn send_hints(&mut self) {
        if self.is_listening() {
            return;
        }
        self.hints.forget(|member| self.roster.is_removed(member));
        let members: Vec<MemberId> = self
            .peers
            .iter()
            .filter(|peer| peer.hints_after_us <= self.now.mono_us)
            // Before it tells whether it has hints it tells what this member may have lost: nothing of that may go out.
            .filter(|peer| peer.has_hints.is_some())
            .filter(|peer| self.hints.pending_for(peer.member) > 0)
            .map(|peer| peer.member)
            .collect();
        let (looks, looks_beside_clients) = HINT_LOOKS;
        let looks = if self.writes.is_empty() { looks } else { looks_beside_clients };
        for member in members {
            for _ in 0..looks {
                let waiting = self.peer(member).and_then(|peer| peer.link.as_ref()).map(Link::waiting_bytes);
                let has_room = waiting.is_some_and(|bytes| bytes < HINTS_WAIT_BYTES);
                if !has_room || !self.may_repair() {
                    break;
                }
                self.send_next_hints(member);
            }
        }
    }

    fn send_next_hints(&mut self, member: MemberId) {
        let next = self.hints.next(member, HINTS_AT_ONCE);
        self.records.table.warm(next.iter().map(|(hash, _)| *hash));
        for (hash, key) in next {
            let Some(key) = key.key() else { continue };
            match self.records.standing(key, hash) {
                Standing::Here(slot) => self.send_hint(member, slot, hash),
                Standing::Unknown => self.load_then(key, hash, Waiter::Hint(member)),
                // There is nothing that the member could lack.
                Standing::Absent => _ = self.hint_done(member, hash, None),
            }
        }
    }

    /// Sends the record in a slot to a peer that has a hint for it, never to be refused.
    pub(super) fn send_hint(&mut self, member: MemberId, slot: super::table::SlotId, hash: KeyHash) {
        let Some(version) = self.hints.version(member, hash) else { return };
        let Some(at) = self.peer_index.get(&member).copied() else { return };
        let Some(peer) = self.peers.get_mut(at) else { return };
        let sent = peer.link.as_mut().zip(self.records.table.record(slot)).and_then(|(link, record)| {
            let sent = link.push_record(Purpose::Repair, record, hash, Some(version));
            sent.map(|_| record.bytes().len())
        });
        peer.hinted_us = self.now.mono_us;
        match sent {
            Some(bytes) => self.note_repair(bytes),
            None => self.hints.again(member, hash),
        }
    }

    /// Sends a request to a peer; false when there is no link.
    pub(super) fn send_request(&mut self, member: MemberId, id: u64, request: Request) -> bool {
        self.send_message(member, &Message::Request(id, request))
    }

    pub(super) fn send_message(&mut self, member: MemberId, message: &Message) -> bool {
        let link = self.peer_mut(member).and_then(|peer| peer.link.as_mut());
        link.is_some_and(|link| link.push_message(message).is_ok())
    }

    /// Whether records of clients can be taken at all.
    pub(super) fn storage_error(&self) -> Option<OperationError> {
        self.storage_problem.clone().map(OperationError::Storage)
    }
}
