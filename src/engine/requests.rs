//! Requests between members and their answers: ids, deadlines, and what waits for which.
//!
//! A request lives until its reply, its deadline, or the end of the link it was sent on. A write
//! that was handed to a stamper and not answered is of unknown fate; one that surely was not sent
//! or not done is handed on to the next owner.

use super::Engine;
use super::anti_entropy;
use super::copying::Ticket;
use super::membership;
use super::operation::{OperationError, Row, Stored};
use super::read::GatherId;
use super::reclaim;
use super::scan::Part;
use super::write::{Job, Origin};
use crate::model::{KeyHash, MemberId, Timestamp};
use crate::protocol::compare::Compared;
use crate::protocol::message::{Failure, Message, Reply, Request, WriteRequest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Microseconds for which a member that could not stamp is asked after the others.
const NOT_READY_US: u64 = 200_000;
/// Writes that may wait to be tried again, and their bytes; further ones are refused.
const MAX_RETRIES: usize = 8_192;
const MAX_RETRY_BYTES: usize = 64 << 20;

/// What a request was for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A client's write, handed to a stamper; looked for until that time in microseconds.
    Write(Origin, WriteRequest, u64),
    /// One answer of a read.
    Read(GatherId),
    /// One answer of a scan.
    Scan(u64),
    /// An exchange of system records.
    System,
    /// A page of a partition.
    Copy(Ticket),
    /// A step of a pass.
    Compare(anti_entropy::Ticket),
    /// A step of reclaiming, asked of that member.
    Reclaim(reclaim::Ticket, MemberId),
    /// What a member has durably, for a wait.
    Durable(u64, MemberId, Vec<(u64, Timestamp)>),
    /// Changes are to be told, under that name.
    Watch(u64),
    /// A page of a feed's listing.
    FeedPage(u64),
}

#[derive(Debug)]
struct Sent {
    member: MemberId,
    deadline_us: u64,
    purpose: Purpose,
}

/// A write that surely was not done yet.
#[derive(Debug)]
struct Retry {
    again_us: u64,
    give_up_us: u64,
    origin: Origin,
    write: WriteRequest,
}

/// Requests that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Requests {
    sent: BTreeMap<u64, Sent>,
    last: u64,
    pub(super) gathers: BTreeMap<u64, super::read::Gather>,
    pub(super) scans: BTreeMap<u64, super::scan::ScanGather>,
    /// Writes that no stamper took for now.
    retries: Vec<Retry>,
    /// Their keys, and the bytes of their values.
    retrying: BTreeSet<KeyHash>,
    retry_bytes: usize,
    pub(super) last_gather: u64,
    /// Replies that wait for the journal's position.
    unsynced: VecDeque<(u64, Origin, Reply)>,
}

impl Requests {
    /// Whether no client waits for any of them.
    pub(super) fn is_empty(&self) -> bool {
        let waits = |sent: &Sent| matches!(sent.purpose, Purpose::Write(..));
        self.gathers.is_empty()
            && self.scans.is_empty()
            && self.retries.is_empty()
            && !self.sent.values().any(waits)
    }

    /// The last request that was sent.
    pub(super) const fn last_sent(&self) -> u64 {
        self.last
    }

    /// Whether all requests and gathers up to these have ended.
    pub(super) fn have_ended(&self, request: u64, gather: u64) -> bool {
        self.sent.first_key_value().is_none_or(|(id, _)| *id > request)
            && self.gathers.first_key_value().is_none_or(|(id, _)| *id > gather)
    }
}

impl Engine {
    /// Sends a request and remembers what for; false when there is no link.
    pub(super) fn ask(&mut self, member: MemberId, request: Request, purpose: Purpose) -> bool {
        // Longer than the time that the peer itself takes to give up.
        let deadline_us = self.now.mono_us + 2_000 * self.settings.write_timeout_ms;
        self.ask_until(member, request, purpose, deadline_us)
    }

    /// Sends a request that is given up at a time in microseconds; false when there is no link.
    pub(super) fn ask_until(
        &mut self,
        member: MemberId,
        request: Request,
        purpose: Purpose,
        deadline_us: u64,
    ) -> bool {
        self.requests.last += 1;
        let id = self.requests.last;
        if !self.send_request(member, id, request) {
            return false;
        }
        self.requests.sent.insert(id, Sent { member, deadline_us, purpose });
        true
    }

    pub(super) fn forward_write(
        &mut self,
        origin: Origin,
        stamper: MemberId,
        write: WriteRequest,
        give_up_us: u64,
    ) {
        let purpose = Purpose::Write(origin, write.clone(), give_up_us);
        if !self.ask(stamper, Request::Write(write.clone()), purpose) {
            self.retry_write(origin, write, give_up_us);
        }
    }

    /// Whether an earlier write of this key waits to be tried again.
    pub(super) fn is_retrying(&self, hash: KeyHash) -> bool {
        self.requests.retrying.contains(&hash)
    }

    /// Tries a write again shortly.
    pub(super) fn retry_write(&mut self, origin: Origin, write: WriteRequest, give_up_us: u64) {
        let bytes = self.requests.retry_bytes + write.bytes();
        if self.requests.retries.len() >= MAX_RETRIES || bytes > MAX_RETRY_BYTES {
            return self.fail(origin, OperationError::Overloaded);
        }
        let again_us = self.now.mono_us + super::TICK_US;
        self.requests.retrying.insert(KeyHash::of(write.collection.as_bytes(), &write.key));
        self.requests.retry_bytes = bytes;
        self.requests.retries.push(Retry { again_us, give_up_us, origin, write });
    }

    /// Sends a reply to a peer, unless the link that asked is gone.
    pub(super) fn reply(&mut self, origin: Origin, reply: Reply) {
        if let Origin::Peer { member, link, request } = origin
            && self.has_link(member, link)
            && !self.send_message(member, &Message::Reply(request, reply))
        {
            // It was larger than a frame.
            self.send_message(member, &Message::Reply(request, Reply::Failed(Failure::NotReady)));
        }
    }

    /// Sends a reply once all that it rests on is fsynced.
    pub(super) fn reply_synced(&mut self, origin: Origin, reply: Reply) {
        let end = self.end();
        if self.positions.synced >= end {
            return self.reply(origin, reply);
        }
        self.lanes.sync = true;
        self.requests.unsynced.push_back((end, origin, reply));
    }

    /// The journal was synced: replies that waited for it go out.
    pub(super) fn release_replies(&mut self) {
        let synced = self.positions.synced;
        while let Some((_, origin, reply)) = self.requests.unsynced.pop_front_if(|(end, ..)| *end <= synced) {
            self.reply(origin, reply);
        }
    }

    /// A request arrived.
    pub(super) fn take_request(
        &mut self,
        member: MemberId,
        link: u64,
        id: u64,
        request: Request,
        same_placement: bool,
    ) {
        let origin = Origin::Peer { member, link, request: id };
        // Who is fenced learns that it is, and else nothing is done for it.
        if self.roster.is_removed(member) && !matches!(request, Request::System { .. }) {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        match request {
            Request::Write(write) => self.write_for_peer(origin, &write, same_placement),
            Request::Read { collection, key } => self.read_for_peer(origin, &collection, &key),
            Request::Scan(scan) => self.scan_for_peer(origin, &scan, same_placement),
            Request::System { records } => {
                self.take_system(&records);
                let records = self.system_records();
                self.reply(origin, Reply::System { records });
            }
            Request::Copy { partition, from, held } => {
                self.copy_for_peer(origin, partition, from, &held, same_placement);
            }
            Request::Compare(question) => self.compare_for_peer(origin, question, same_placement),
            Request::Reclaim(question) => self.reclaim_for_peer(origin, &question, same_placement),
            Request::Durable { writes } => self.durable_for_peer(origin, &writes),
            Request::Watch(request) => self.watch_for_peer(origin, request, same_placement),
        }
    }

    /// A reply arrived. One that nobody waits for any more is dropped.
    pub(super) fn take_reply(&mut self, member: MemberId, id: u64, reply: Reply, same_placement: bool) {
        match self.requests.sent.get(&id) {
            Some(sent) if sent.member == member => {}
            _ => return,
        }
        if self.roster.is_removed(member) {
            return self.give_up(id);
        }
        let Some(sent) = self.requests.sent.remove(&id) else { return };
        match (sent.purpose, reply) {
            (purpose @ Purpose::Compare(_), Reply::Compared(Compared::Working)) if same_placement => {
                let deadline_us = self.now.mono_us + anti_entropy::ANSWER_US;
                self.requests.sent.insert(id, Sent { member, deadline_us, purpose });
            }
            (Purpose::Write(origin, write, give_up_us), reply) => {
                self.write_answered(member, origin, write, give_up_us, reply);
            }
            (Purpose::Read(gather), Reply::Record(record)) => {
                self.read_answered(gather, member, record.as_deref(), same_placement);
            }
            (Purpose::Read(gather), _) => self.read_failed(gather),
            (Purpose::Scan(scan), Reply::Page { records, resume }) => {
                self.scan_answered(scan, &records, resume);
            }
            (Purpose::Scan(scan), Reply::Keys { keys, resume }) => {
                self.add_part(scan, Part { rows: keys.into_iter().map(Row::Key).collect(), resume });
            }
            (Purpose::Scan(scan), _) => self.scan_failed(scan),
            (Purpose::System, Reply::System { records }) => self.take_system(&records),
            (Purpose::System, _) => {}
            (Purpose::Copy(ticket), Reply::Copied { records, settled, next }) if same_placement => {
                self.take_copied(ticket, &records, &settled, next);
            }
            (Purpose::Copy(ticket), _) => self.copy_failed(ticket),
            (Purpose::Compare(ticket), Reply::Compared(compared)) if same_placement => {
                self.take_compared(ticket, compared);
            }
            (Purpose::Compare(ticket), _) => self.compare_failed(ticket),
            (Purpose::Reclaim(ticket, member), Reply::Reclaimed(answer)) if same_placement => {
                self.take_reclaimed(ticket, member, &answer);
            }
            (Purpose::Reclaim(ticket, member), _) => self.reclaim_failed(ticket, member),
            (Purpose::Durable(wait, member, writes), Reply::Durable { has }) => {
                self.durable_answered(wait, member, &writes, &has);
            }
            (Purpose::Durable(wait, ..), _) => self.durable_failed(wait),
            (Purpose::Watch(_), Reply::Watching) => {}
            (Purpose::Watch(watch), _) => self.watch_ended(member, watch),
            (Purpose::FeedPage(token), Reply::Page { records, resume }) => {
                self.feed_page_came(token, records, resume);
            }
            (Purpose::FeedPage(token), _) => self.feed_page_failed(token),
        }
    }

    fn write_answered(
        &mut self,
        member: MemberId,
        origin: Origin,
        write: WriteRequest,
        give_up_us: u64,
        reply: Reply,
    ) {
        match reply {
            Reply::Stored { timestamp, copies, superseded, number } => {
                self.answer(origin, Stored { timestamp, copies, superseded, hash: write.hash(), number });
            }
            Reply::Modified { stored, present, record } => {
                let stored = stored.map(|(timestamp, copies, superseded, number)| Stored {
                    timestamp,
                    copies,
                    superseded,
                    hash: write.hash(),
                    number,
                });
                self.modified_elsewhere(origin, stored, present, record.as_deref());
            }
            Reply::Failed(failure @ (Failure::Placement | Failure::NotReady)) => {
                let until_us = self.now.mono_us + NOT_READY_US;
                if failure == Failure::NotReady
                    && let Some(peer) = self.peer_mut(member)
                {
                    peer.not_ready_until_us = until_us;
                }
                self.retry_write(origin, write, give_up_us);
            }
            Reply::Failed(failure) => self.fail(origin, error_of(failure, write.level)),
            _ => self.fail(origin, OperationError::Unknown { copies: 0 }),
        }
    }

    /// A peer can't answer any more.
    pub(super) fn requests_lost(&mut self, member: MemberId) {
        let lost: Vec<u64> =
            self.requests.sent.iter().filter(|(_, sent)| sent.member == member).map(|(id, _)| *id).collect();
        for id in lost {
            self.give_up(id);
        }
        self.source_lost(member);
    }

    /// Gives up what passed its deadline, and tries again what waits for that.
    pub(super) fn expire_requests(&mut self) {
        let now = self.now.mono_us;
        let late: Vec<u64> = self
            .requests
            .sent
            .iter()
            .filter(|(_, sent)| sent.deadline_us <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.give_up(id);
        }
        let retries = std::mem::take(&mut self.requests.retries);
        let (due, later): (Vec<Retry>, _) = retries.into_iter().partition(|retry| retry.again_us <= now);
        self.requests.retries = later;
        let waiting = self.requests.retries.iter().map(|retry| &retry.write);
        self.requests.retry_bytes = waiting.clone().map(WriteRequest::bytes).sum();
        self.requests.retrying =
            waiting.map(|write| KeyHash::of(write.collection.as_bytes(), &write.key)).collect();
        for Retry { give_up_us, origin, write, .. } in due {
            match Job::of(origin, &write, give_up_us) {
                Some(job) if now < give_up_us => self.begin_write(job),
                _ => self.fail(origin, OperationError::Unreachable),
            }
        }
        self.expire_gathers();
    }

    /// A write is not handed on: it may have been done, and done again later it would win over what
    /// others wrote after seeing it.
    fn give_up(&mut self, id: u64) {
        let Some(sent) = self.requests.sent.remove(&id) else { return };
        match sent.purpose {
            Purpose::Write(origin, ..) => self.fail(origin, OperationError::Unknown { copies: 0 }),
            Purpose::Read(gather) => self.read_failed(gather),
            Purpose::Scan(scan) => self.scan_failed(scan),
            Purpose::System => {}
            Purpose::Copy(ticket) => self.copy_failed(ticket),
            Purpose::Compare(ticket) => self.compare_failed(ticket),
            Purpose::Reclaim(ticket, member) => self.reclaim_failed(ticket, member),
            Purpose::Durable(wait, ..) => self.durable_failed(wait),
            Purpose::Watch(watch) => self.watch_given_up(sent.member, watch),
            Purpose::FeedPage(token) => self.feed_page_failed(token),
        }
    }

    /// Sends this member's system records to a peer and takes its own, unless that is under way or has just been done.
    pub(super) fn exchange_system(&mut self, member: MemberId) {
        let now = self.now.mono_us;
        let asks = |sent: &Sent| sent.member == member && matches!(sent.purpose, Purpose::System);
        let is_under_way = self.requests.sent.values().any(asks);
        let Some(peer) = self.peer_mut(member) else { return };
        if is_under_way || peer.exchange_after_us > now || peer.link.is_none() {
            return;
        }
        peer.exchange_after_us = now + membership::EXCHANGE_US;
        let records = self.system_records();
        self.ask(member, Request::System { records }, Purpose::System);
    }
}

/// What a peer is told of an error.
pub(super) fn failure_of(error: OperationError) -> Failure {
    match error {
        OperationError::ValueTooLarge { got, limit } => Failure::ValueTooLarge(got as u64, limit as u64),
        OperationError::Counter(error) => Failure::Counter(error),
        OperationError::Edit(error) => Failure::Edit(error),
        OperationError::Overloaded | OperationError::NoRoomForHint => Failure::Overloaded,
        OperationError::Storage(problem) => Failure::Storage(problem),
        OperationError::NotEnoughOwners { needed, alive, .. } => Failure::NotEnoughOwners(needed, alive),
        OperationError::Unknown { copies } => Failure::Unknown(copies),
        OperationError::NoCluster
        | OperationError::Starting
        | OperationError::Stopping
        | OperationError::Gone(_)
        | OperationError::SystemCollection
        | OperationError::TooManyWatches
        | OperationError::Unreachable => Failure::NotReady,
    }
}

/// What a client is told of a peer's failure.
fn error_of(failure: Failure, level: crate::model::settings::Level) -> OperationError {
    match failure {
        Failure::Placement | Failure::NotReady => OperationError::Unreachable,
        Failure::Storage(problem) => OperationError::Storage(problem),
        Failure::Overloaded => OperationError::Overloaded,
        Failure::ValueTooLarge(got, limit) => OperationError::ValueTooLarge {
            got: usize::try_from(got).unwrap_or(usize::MAX),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        },
        Failure::Counter(error) => OperationError::Counter(error),
        Failure::Edit(error) => OperationError::Edit(error),
        Failure::NotEnoughOwners(needed, alive) => OperationError::NotEnoughOwners { level, needed, alive },
        Failure::Unknown(copies) => OperationError::Unknown { copies },
    }
}
