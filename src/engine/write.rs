//! Writing: from a client's change to the reply that its level is met.
//!
//! The front checks, the *stamper* stamps: the front itself if it owns the key and its clock is
//! right, else the first owner that can be reached, else (no owner lives) the front, which holds
//! the record as a hint. The stamper journals the record and queues it for every other owner; from
//! then on the write is [`super::pending`].

use super::Engine;
use super::Mode;
use super::hints::{Added, HintKey};
use super::journal;
use super::modify::{Looked, preferred};
use super::operation::{Change, Completion, OperationError, Outcome, Stored, Write};
use super::peer::Peer;
use super::pending::{Copy, Pending, short};
use super::records::Standing;
use super::table::{FOUND, GONE, SETTLED, SlotId};
use crate::model::key::{ROSTER, SECRETS, SETTINGS};
use crate::model::merge::{Found, increment};
use crate::model::record::{LASTING_MS, append_value};
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef, Timestamp};
use crate::protocol::frame::Purpose;
use crate::protocol::message::{Failure, Reply, WireChange, WriteRequest};
use smallvec::SmallVec;
use std::sync::Arc;

/// Who waits for a write or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this member.
    Client(u64),
    /// A peer's request on one of its links.
    Peer {
        /// The peer.
        member: MemberId,
        /// The link.
        link: u64,
        /// The request's id.
        request: u64,
    },
}

impl Origin {
    /// Whether both are requests of one peer.
    pub(super) fn is_of_same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Peer { member, .. }, Self::Peer { member: same, .. }) => member == same,
            _ => false,
        }
    }
}

/// What goes into the answer of a change whose record stands in the journal's lane.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Of an increment the number, of an edit the bytes of its value.
    pub(super) number: Option<i64>,
    /// What a look found.
    pub(super) looked: Option<Box<Looked>>,
}

/// A change on its way to a stamper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) origin: Origin,
    pub(super) key: KeyRef<'a>,
    pub(super) hash: KeyHash,
    pub(super) change: Change<'a>,
    pub(super) level: Level,
    pub(super) after: u64,
    /// When to stop looking for a stamper, in microseconds.
    pub(super) give_up_us: u64,
    /// Redb was asked for the key: the table has what there is.
    pub(super) is_loaded: bool,
}

impl<'a> Job<'a> {
    /// The job of a request; `None` when its names are no good.
    pub(super) fn of(origin: Origin, request: &'a WriteRequest, give_up_us: u64) -> Option<Self> {
        let key = KeyRef::new(&request.collection, &request.key).ok()?;
        let (change, level, after) = (change_of(&request.change), request.level, request.after);
        Some(Self { origin, key, hash: key.hash(), change, level, after, give_up_us, is_loaded: false })
    }

    pub(super) fn request(&self) -> WriteRequest {
        WriteRequest {
            collection: self.key.collection().to_owned(),
            key: self.key.key().to_vec(),
            change: wire_change(self.change),
            level: self.level,
            after: self.after,
        }
    }
}
impl Engine {
    /// Begins a client's write.
    pub(super) fn take_write(&mut self, token: u64, write: &Write<'_>, hash: KeyHash) {
        let origin = Origin::Client(token);
        if let Err(error) = self.check_write(write) {
            return self.fail(origin, error);
        }
        let Write { key, change, after, .. } = *write;
        let level = write.level.unwrap_or_else(|| self.settings.write_level_of(key.collection()));
        let give_up_us = self.give_up_us();
        self.begin_write(Job { origin, key, hash, change, level, after, give_up_us, is_loaded: false });
    }

    const fn give_up_us(&self) -> u64 {
        self.now.mono_us + 1_000 * self.settings.write_timeout_ms
    }

    /// A write of kith itself to a system collection. Every member owns those, so this one stamps,
    /// whatever its clock: what it wrote it must be able to show at once, to a member that it lets
    /// in.
    pub fn write_system(&mut self, token: u64, key: KeyRef<'_>, change: Change<'_>) {
        debug_assert!(key.is_system());
        let (origin, level, give_up_us) = (Origin::Client(token), Level::Available, self.give_up_us());
        let hash = key.hash();
        self.stamp_write(Job { origin, key, hash, change, level, after: 0, give_up_us, is_loaded: false });
    }

    fn check_write(&self, write: &Write<'_>) -> Result<(), OperationError> {
        match self.mode {
            Mode::NoCluster => return Err(OperationError::NoCluster),
            Mode::Starting => return Err(OperationError::Starting),
            Mode::Stopping => return Err(OperationError::Stopping),
            Mode::Gone(gone) => return Err(OperationError::Gone(gone)),
            Mode::Serving => {}
        }
        if write.key.is_system() {
            return Err(OperationError::SystemCollection);
        }
        self.check_value(write.change)
    }

    fn check_value(&self, change: Change<'_>) -> Result<(), OperationError> {
        let limit = usize::try_from(self.settings.max_value_bytes).unwrap_or(usize::MAX);
        match change {
            Change::Set { value, .. } if value.len() > limit => {
                Err(OperationError::ValueTooLarge { got: value.len(), limit })
            }
            Change::Modify(modify) if modify.bytes() > limit => {
                Err(OperationError::ValueTooLarge { got: modify.bytes(), limit })
            }
            _ => Ok(()),
        }
    }

    /// A peer asks this member to stamp a client's write.
    pub(super) fn write_for_peer(&mut self, origin: Origin, request: &WriteRequest, same_placement: bool) {
        let Some(job) = Job::of(origin, request, self.give_up_us()) else {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        };
        // Of kith's own records, members whose clock is off hand on their roster entries.
        let is_system = job.key.is_system();
        let owns = self.placement.set_of(job.key, job.hash).contains(self.identity.member);
        if !same_placement || !owns {
            return self.reply(origin, Reply::Failed(Failure::Placement));
        }
        let serves = matches!(self.mode, Mode::Starting | Mode::Serving);
        if !serves || !is_system && !self.takes_writes() || is_system && job.key.collection() != ROSTER {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        if matches!(job.change, Change::Increment { .. }) && !self.is_complete_for(job.key, job.hash) {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        }
        match self.check_value(job.change) {
            Ok(()) if matches!(job.change, Change::Modify(_)) => self.modify_for_peer(job),
            Ok(()) => self.stamp_write(job),
            Err(error) => self.fail(origin, error),
        }
    }

    /// Finds the stamper and hands the write to it, behind earlier writes of the same key.
    pub(super) fn begin_write(&mut self, job: Job<'_>) {
        if self.is_retrying(job.hash) {
            return self.retry_write(job.origin, job.request(), job.give_up_us);
        }
        match self.stamper(&job) {
            Some(stamper) if stamper == self.identity.member => self.stamp_write(job),
            Some(stamper) => self.forward_write(job.origin, stamper, job.request(), job.give_up_us),
            None => self.retry_write(job.origin, job.request(), job.give_up_us),
        }
    }

    /// Who stamps: this member if it is a complete owner with a right clock that stays, else the first owner like
    /// that which takes writes now; then the same of owners that are not complete, then any owner, then this member, which holds the write
    /// for its owners. An increment extends what it finds, so only complete owners take it; and a write before it goes
    /// the same way, lest it be stamped elsewhere and replace what was counted after it. `None` while there is none, or
    /// while nobody's clock was heard.
    fn stamper(&self, job: &Job<'_>) -> Option<MemberId> {
        let me = self.identity.member;
        if job.key.is_system() {
            return Some(me);
        }
        if !self.takes_writes() {
            return None;
        }
        if matches!(job.change, Change::Modify(_)) {
            return self.home(job.key, job.hash);
        }
        let counts = matches!(job.change, Change::Increment { .. });
        let partition = self.placement.partition_of(job.key, job.hash);
        let set = self.placement.set(partition);
        let digest = self.placement.digest();
        let stamps = set.contains(me) && self.may_stamp && !self.is_leaving;
        let is_complete = set.contains(me) && self.is_complete_for(job.key, job.hash);
        if stamps && is_complete {
            return Some(me);
        }
        let others =
            || preferred(set).filter_map(|owner| self.peer(owner.member)).filter(|p| p.is_reachable());
        let complete = || others().filter(|peer| peer.is_complete(partition, digest));
        if counts {
            let anybody = || if is_complete { Some(me) } else { complete().next().map(|peer| peer.member) };
            return self.first_right(complete).or_else(anybody);
        }
        // A value waits for no complete owner that can't take it now.
        let takes_now = |peer: &&Peer| {
            self.now.mono_us >= peer.not_ready_until_us && !peer.unresponsive && self.has_right_clock(peer)
        };
        if let Some(owner) = complete().find(takes_now) {
            return Some(owner.member);
        }
        if stamps {
            return Some(me);
        }
        let anybody = || if set.contains(me) { Some(me) } else { others().next().map(|peer| peer.member) };
        self.first_right(others).or_else(anybody).or(Some(me))
    }

    /// The first peer with a right clock, if there can be one that takes writes now.
    fn first_right<'a, I: Iterator<Item = &'a Peer>>(&'a self, peers: impl Fn() -> I) -> Option<MemberId> {
        let is_ready = |peer: &&Peer| self.now.mono_us >= peer.not_ready_until_us;
        let right = || peers().filter(|peer| self.has_right_clock(peer));
        right().find(is_ready).or_else(|| right().next()).map(|peer| peer.member)
    }

    /// Stamps a write, journals it, and sends it to the other owners.
    pub(super) fn stamp_write(&mut self, job: Job<'_>) {
        if let Err(error) = self.check_stamper(&job) {
            return self.fail(job.origin, error);
        }
        // Some changes extend what is there; and what memory knows of an evicted record's time is that
        // of its whole leaf.
        let far = self.records.evicted_time(job.hash) > self.foreign_bound();
        let must_know =
            (job.change.extends() || far) && self.records.standing(job.key, job.hash) == Standing::Unknown;
        if !job.is_loaded && (must_know || self.loads.has_writer(job.key)) {
            let waiter = super::loads::Waiter::Write(job.origin, job.request(), job.give_up_us);
            return self.load_then(job.key, job.hash, waiter);
        }
        let start = self.lanes.journal.len();
        journal::begin_record(&mut self.lanes.journal);
        let encoded = match job.change {
            Change::Modify(modify) => self.encode_modify(&job, modify),
            _ => self.encode_change(&job).map(|number| Some(Encoded { number, looked: None })),
        };
        match encoded {
            Ok(Some(encoded)) => {
                self.counters.journal_records += 1;
                self.replicate_new(&job, start + 1, encoded);
                self.reserve_clock();
            }
            Ok(None) => self.lanes.journal.truncate(start),
            Err(error) => {
                self.lanes.journal.truncate(start);
                self.fail(job.origin, error);
            }
        }
    }

    /// Refuses what this member can't stamp or hold now.
    fn check_stamper(&self, job: &Job<'_>) -> Result<(), OperationError> {
        if let Some(error) = self.storage_error() {
            return Err(error);
        }
        // kith's own few records are never turned away: who writes them does not wait.
        if !job.key.is_system() && self.unsynced_bytes() > 2 * self.bounds.unsynced_bytes {
            return Err(OperationError::Overloaded);
        }
        let set = self.placement.set_of(job.key, job.hash);
        let (member, level) = (self.identity.member, job.level);
        let may_have = |owner: MemberId| owner == member || self.peer(owner).is_none_or(|peer| !peer.dead);
        let alive = set.owners.iter().filter(|owner| may_have(owner.member)).count();
        let holds = !set.contains(member);
        // Who left or was removed holds nothing for others: nobody takes it from there.
        if holds && !job.key.is_system() && self.roster.is_removed(member) {
            return Err(OperationError::Stopping);
        }
        if holds && !self.hints.has_room(&HintKey::of(job.key), set.owners.len(), self.settings.hint_bytes) {
            return Err(OperationError::NoRoomForHint);
        }
        for side in set.sides() {
            let count =
                side.iter().filter(|at| set.owners.get(**at).is_some_and(|o| may_have(o.member))).count();
            let needed = match level {
                Level::One | Level::Available => 0,
                Level::Quorum => side.len() / 2 + 1,
                Level::All => side.len(),
            };
            if count < needed {
                return Err(OperationError::NotEnoughOwners {
                    level,
                    needed: short(needed),
                    alive: short(alive),
                });
            }
        }
        Ok(())
    }

    /// Appends the record of a change to the journal's lane. Returns a counter's number.
    fn encode_change(&mut self, job: &Job<'_>) -> Result<Option<i64>, OperationError> {
        let (key, hash) = (job.key, job.hash);
        if let Change::Increment { delta } = job.change {
            let slot = self.records.table.find_any(key, hash).filter(|id| !self.records.table.has(*id, GONE));
            let present = slot.and_then(|id| self.records.table.record(id));
            let life = (self.identity.member, self.identity.incarnation);
            let found = match (slot, present) {
                (Some(slot), Some(record)) if self.records.table.has(slot, SETTLED) => {
                    Found::Settled(record.timestamp())
                }
                (_, present) => present.map_or(Found::Nothing, Found::Record),
            };
            let record = increment(key, found, self.wall_ms, life, delta)?;
            self.lanes.journal.extend_from_slice(record.view().bytes());
            return Ok(Some(record.view().total()));
        }
        let held = self.held_time(key, hash);
        let timestamp = self.stamp_over(held, job.after);
        match job.change {
            Change::Set { value, expiry_ms } => {
                let expiry_ms = expiry_ms.or_else(|| self.default_expiry(key));
                let expiry_ms = expiry_ms.filter(|end| *end != LASTING_MS);
                append_value(&mut self.lanes.journal, key, timestamp, expiry_ms, value);
            }
            Change::Delete | Change::Increment { .. } | Change::Modify(_) => {
                let record = Record::tombstone(key, timestamp);
                self.lanes.journal.extend_from_slice(record.view().bytes());
            }
        }
        Ok(None)
    }

    /// The time that a change of a key must exceed: that of the record that it replaces; of settings, that of their last change,
    /// and of the secret, that of all that were added, whatever clock stamped it: what is asked for later is to hold.
    fn held_time(&mut self, key: KeyRef<'_>, hash: KeyHash) -> u64 {
        let held = self.records.time_of(key, hash);
        match key.collection() {
            SETTINGS => held.max(self.settings_log().last_time()),
            SECRETS => held.max(self.latest_rotations().last_added()),
            _ => held,
        }
    }

    /// When a value ends that is stored in a key's collection without a time to live.
    pub(super) fn default_expiry(&self, key: KeyRef<'_>) -> Option<u64> {
        let ttl_ms = self.settings.of(key.collection()).and_then(|own| own.default_ttl_ms);
        ttl_ms.map(|ttl_ms| self.wall_ms.saturating_add(ttl_ms))
    }

    /// A stamp above that of the record that is there, and above what the session saw.
    ///
    /// Neither may drag the clock into the future, else all that this member stamps from then on would
    /// be refused: what it does not follow from a peer is exceeded by just so much, and the clock stays
    /// where it is. Of a session's claim only so much counts as fresh writes of that time are taken.
    /// Such a stamp needs no reservation: each life adds its own number, so none is given twice.
    pub(super) fn stamp_over(&mut self, held: u64, after: u64) -> Timestamp {
        let floor = after.min(self.foreign_bound()).max(held);
        if floor > self.follow_bound().max(self.clock.time()) {
            let time = floor.saturating_add(1).saturating_add(self.identity.incarnation);
            return Timestamp { time, member: self.identity.member };
        }
        self.clock.stamp(self.wall_ms, floor)
    }

    /// Merges the record that stands in the journal's lane from `start` on, sends it to the other
    /// owners, and lets the write wait for its level.
    fn replicate_new(&mut self, job: &Job<'_>, start: usize, encoded: Encoded) {
        let (key, hash) = (job.key, job.hash);
        let journal = std::mem::take(&mut self.lanes.journal);
        let record = journal.get(start..).and_then(|bytes| RecordRef::parse(bytes).ok());
        if let Some((record, _)) = record {
            let (slot, _, unresolved) = self.records.apply(record, hash);
            // An increment extends what it finds; all else is new.
            if !matches!(job.change, Change::Increment { .. }) {
                self.records.table.clear_flags(slot, FOUND);
            }
            if unresolved {
                self.resolve_later(key, hash);
            }
            self.note_system(record);
            let set = Arc::clone(self.placement.set_of(key, hash));
            let copies = set.owners.iter().map(|owner| self.send_copy(owner.member, slot, record, hash));
            let copies: SmallVec<[Copy; 4]> = copies.collect();
            let held = !set.contains(self.identity.member) && copies.iter().all(|copy| *copy == Copy::Lost);
            let timeout_us = self.settings.write_timeout_ms * 1_000;
            self.writes.push_back(Pending {
                origin: job.origin,
                hash,
                timestamp: record.timestamp(),
                position: self.taken + journal.len() as u64,
                deadline_us: self.now.mono_us + timeout_us,
                level: job.level,
                is_settled: set.is_settled(),
                set,
                copies,
                superseded: None,
                number: encoded.number,
                held,
                looked: encoded.looked,
            });
        }
        // Hints were noted meanwhile: they follow the record.
        let hints = std::mem::replace(&mut self.lanes.journal, journal);
        self.lanes.journal.extend_from_slice(&hints);
    }

    /// Sends a record to one owner, or notes a hint for it.
    fn send_copy(&mut self, member: MemberId, slot: SlotId, record: RecordRef<'_>, hash: KeyHash) -> Copy {
        if member == self.identity.member {
            return Copy::Own;
        }
        let at = self.peer_at(member);
        let link = self.peers.get_mut(at).filter(|peer| !peer.dead).and_then(|peer| peer.link.as_mut());
        let sent = link.and_then(|link| link.push_record(Purpose::Fresh, record, hash, None));
        match sent {
            Some(number) => Copy::Sent(at, number),
            None => {
                self.note_hint(member, slot, hash);
                Copy::Lost
            }
        }
    }

    /// Notes durably that `member` lacks the record in a slot.
    pub(super) fn note_hint(&mut self, member: MemberId, slot: SlotId, hash: KeyHash) {
        let Some(key) = self.records.table.record(slot).and_then(|record| record.key_ref().ok()) else {
            return;
        };
        // Nobody is sent what is not believed.
        if self.is_disbelieved(slot) {
            return;
        }
        self.note_hint_of(member, hash, HintKey::of(key));
    }

    pub(super) fn note_hint_of(&mut self, member: MemberId, hash: KeyHash, key: HintKey) {
        // Nobody else takes the record.
        let Some(name) = key.key() else { return };
        let is_refused = !name.is_system() && self.roster.is_removed(self.identity.member);
        if is_refused || !self.placement.set_of(name, hash).contains(member) {
            return;
        }
        match self.hints.add(member, hash, key.clone(), self.settings.hint_bytes) {
            Added::New => {
                self.counters.hints_stored += 1;
                journal::append(&mut self.lanes.journal, &journal::Entry::Hint(member, key));
            }
            Added::NoRoom => self.compare_surely(member),
            Added::Already => {}
        }
    }

    /// Reserves the clock's next stretch when it runs out.
    fn reserve_clock(&mut self) {
        if let Some(time) = self.clock.wants_reservation() {
            journal::append(&mut self.lanes.journal, &journal::Entry::Reservation(time));
            self.reservations.push_back((self.end(), time));
            self.lanes.sync = true;
        }
    }

    /// Answers a write that met its level.
    pub(super) fn answer(&mut self, origin: Origin, stored: Stored) {
        match origin {
            Origin::Client(token) => {
                self.lanes.completions.push(Completion { token, outcome: Outcome::Stored(stored) });
            }
            Origin::Peer { .. } => {
                let Stored { timestamp, copies, superseded, number, .. } = stored;
                self.reply(origin, Reply::Stored { timestamp, copies, superseded, number });
            }
        }
    }

    /// Answers an operation that was refused or whose fate is unknown.
    pub(super) fn fail(&mut self, origin: Origin, error: OperationError) {
        match origin {
            Origin::Client(token) => {
                self.lanes.completions.push(Completion { token, outcome: Outcome::Failed(error) });
            }
            Origin::Peer { .. } => {
                let failure = super::requests::failure_of(error);
                self.reply(origin, Reply::Failed(failure));
            }
        }
    }
}

fn wire_change(change: Change<'_>) -> WireChange {
    match change {
        Change::Set { value, expiry_ms } => WireChange::Set(value.to_vec(), expiry_ms),
        Change::Delete => WireChange::Delete,
        Change::Increment { delta } => WireChange::Increment(delta),
        Change::Modify(modify) => WireChange::Modify(Box::new(modify.clone())),
    }
}

/// The change that came over a link.
pub(super) fn change_of(change: &WireChange) -> Change<'_> {
    match change {
        WireChange::Set(value, expiry_ms) => Change::Set { value, expiry_ms: *expiry_ms },
        WireChange::Delete => Change::Delete,
        WireChange::Increment(delta) => Change::Increment { delta: *delta },
        WireChange::Modify(modify) => Change::Modify(modify),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NOBODY;
    use crate::engine::copying::tests::World;
    use crate::model::edit::{Condition, Edit, Modify, NewExpiry, Returns};
    use crate::model::key::SETTINGS;
    use crate::model::rotation::{Envelope, KeyId, Note, SEALED_BYTES, State, Step};
    use bytes::Bytes;

    #[test]
    fn a_secret_that_is_added_later_takes_the_place_of_one_that_a_clock_ahead_stamped() {
        let mut world = World::new(1, 0);
        let [old, early, late] = [1, 2, 3].map(|byte| KeyId([byte; 8]));
        let sealed = Envelope { to: [4; SEALED_BYTES], from: [5; SEALED_BYTES] };
        let state = |to, added| State { number: 1, step: Step::Added, added, to, from: old };
        let engine = &mut world.engines[0];
        let member = engine.identity().member;
        let day_ms = 24 * 60 * 60 * 1_000;
        let time = crate::model::timestamp::time_of_ms(engine.now().wall_ms + day_ms);
        // It was used meanwhile, so its own record need not be there any more.
        let ahead = State { step: Step::Used, ..state(early, Timestamp { time, member }) };
        for (state, note) in
            [(ahead, Note::of_step(&ahead)), (state(late, Timestamp::ZERO), Note::of_added(old, &sealed))]
        {
            let (key, value) = (state.key(), note.to_bytes());
            let set = Change::Set { value: &value, expiry_ms: None };
            engine.write_system(NOBODY, KeyRef::new(SECRETS, &key).unwrap(), set);
        }
        let added = engine.peek(KeyRef::new(SECRETS, &state(late, Timestamp::ZERO).key()).unwrap()).unwrap();
        assert!(added.timestamp().time > time, "{:?}", added.timestamp());
    }

    #[test]
    fn a_value_that_is_to_last_has_no_end_where_others_get_the_one_of_their_collection() {
        let mut world = World::new(1, 0);
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            world.link(one, other);
        }
        world.pass(1_000);
        let change = KeyRef::new(SETTINGS, b"change/0123456789").unwrap();
        let hour = br#"{"collections":{"c":{"default_ttl":"1h"}},"member":"m0"}"#;
        world.engines[0].write_system(NOBODY, change, Change::Set { value: hour, expiry_ms: None });
        world.carry();
        let modify = |expiry| {
            let (condition, edit) = (Condition::Absent, Edit::Set { value: Bytes::from("v"), expiry });
            Modify { condition, edit, returns: Returns::Nothing }
        };
        let (lasting, unsaid) = (modify(NewExpiry::At(LASTING_MS)), modify(NewExpiry::None));
        let set = |expiry_ms| Change::Set { value: b"v", expiry_ms };
        let changes = [
            ("unsaid", set(None), true),
            ("lasting", set(Some(LASTING_MS)), false),
            ("modified", Change::Modify(&unsaid), true),
            ("modified to last", Change::Modify(&lasting), false),
        ];
        for (at, (name, change, ends)) in (0..3).flat_map(|at| changes.map(|change| (at, change))) {
            let name = format!("{name} at {at}");
            let key = KeyRef::new("c", name.as_bytes()).unwrap();
            world.engines[at].write(NOBODY, Write { key, change, level: Some(Level::One), after: 0 });
            world.carry();
            for engine in &world.engines {
                let stored = engine.peek(key).unwrap();
                assert_eq!(stored.expiry_ms().is_some(), ends, "{name}: {:?}", stored.expiry_ms());
            }
        }
    }
}
