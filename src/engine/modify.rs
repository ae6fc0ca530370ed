//! Reading and modifying in one step, at the key's home.
//!
//! The home is the first owner that can be reached, is complete and has a right clock; every member
//! computes it by itself. A front hands the change to whom it takes for the home. That one looks and
//! changes in one go on its data thread, so whatever goes through one home happens one after the
//! other. What must hold:
//!
//! - Only a complete owner looks: it lacks nothing but what is still on its way to it. Redb is asked first where it
//!   must be.
//! - Who is asked and takes an owner *before* itself for the home hands the change on to it; one behind
//!   itself never, so the change goes forward through the owners and nowhere in a circle. Who is no
//!   home by its own view and knows nobody before itself says that it is not ready, and the front asks anew.
//! - A change that found its condition unmet answers at once. One that was made is a write like any
//!   other: it waits for its level and may turn out superseded.
//!
//! The interleaving that two changes survive: members disagree about who is alive, two owners both take
//! themselves for the home, and each finds what was there before both. The later stamp wins, and the
//! other change is told superseded if it meets the later one in time. A plain write needs no home: one that is
//! stamped elsewhere at that moment is not seen by the change, and the later of both wins. Nor does
//! the next home see what other owners confirmed to a client when the home was lost, until it has come there too.

use super::Engine;
use super::operation::{Change, Completion, Modified, OperationError, Outcome, Stored};
use super::records::Standing;
use super::write::{Encoded, Job, Origin};
use crate::model::edit::{Edit, Edited, Modify, NewExpiry, Returns, edit};
use crate::model::merge::restamp_counter;
use crate::model::placement::{Owner, OwnerSet};
use crate::model::record::{LASTING_MS, append_value};
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef, Timestamp};
use crate::protocol::message::{Failure, Reply};
use smallvec::SmallVec;

/// What a change found, kept until its level is met.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) present: Option<Timestamp>,
    pub(super) record: Option<Record>,
}

/// Owners in order of preference: those that leave come last, for they can go only when nothing of their own
/// is under way.
pub(super) fn preferred(set: &OwnerSet) -> impl Iterator<Item = &Owner> {
    let stays = |owner: &&Owner| owner.in_new || !owner.in_old;
    set.owners.iter().filter(stays).chain(set.owners.iter().filter(move |owner| !stays(owner)))
}

impl Engine {
    /// Whom this member takes for a key's home; `None` while no complete owner can be reached.
    pub(super) fn home(&self, key: KeyRef<'_>, hash: KeyHash) -> Option<MemberId> {
        self.home_of(self.placement.partition_of(key, hash))
    }

    /// Whom this member takes for the home of a partition's keys; `None` while no complete owner can be reached.
    #[must_use]
    pub fn home_of(&self, partition: u16) -> Option<MemberId> {
        let is_complete = |member: MemberId| self.can_reach(member) && self.is_complete_at(member, partition);
        let set = self.placement.set(partition);
        let complete: SmallVec<[MemberId; 4]> =
            preferred(set).map(|owner| owner.member).filter(|member| is_complete(*member)).collect();
        let is_right = |member: &&MemberId| match self.peer(**member) {
            Some(peer) => self.has_right_clock(peer),
            None => self.may_stamp,
        };
        let is_ready =
            |member: &&MemberId| self.peer(**member).is_none_or(|p| self.now.mono_us >= p.not_ready_until_us);
        let right = || complete.iter().filter(is_right);
        right().find(is_ready).or_else(|| right().next()).or_else(|| complete.first()).copied()
    }

    /// A peer asks this member, as a home, to look and change.
    pub(super) fn modify_for_peer(&mut self, job: Job<'_>) {
        let me = self.identity.member;
        match self.home(job.key, job.hash) {
            Some(home) if home == me => self.stamp_write(job),
            Some(home) if self.is_before(home, me, &job) => {
                self.forward_write(job.origin, home, job.request(), job.give_up_us);
            }
            _ => self.reply(job.origin, Reply::Failed(Failure::NotReady)),
        }
    }

    fn is_before(&self, one: MemberId, other: MemberId, job: &Job<'_>) -> bool {
        let set = self.placement.set_of(job.key, job.hash);
        preferred(set).map(|owner| owner.member).find(|member| *member == one || *member == other)
            == Some(one)
    }

    /// Looks at what is there, and appends the record of the change to the journal's lane. `None` when nothing
    /// is to be changed; the answer was given then.
    pub(super) fn encode_modify(
        &mut self,
        job: &Job<'_>,
        modify: &Modify,
    ) -> Result<Option<Encoded>, OperationError> {
        let (key, hash, start) = (job.key, job.hash, self.lanes.journal.len());
        let present = match self.records.standing(key, hash) {
            Standing::Here(slot) => self.records.table.record(slot),
            Standing::Absent | Standing::Unknown => None,
        };
        let readable = present.filter(|record| record.is_readable(self.wall_ms));
        let limit = usize::try_from(self.settings.max_value_bytes).unwrap_or(usize::MAX);
        let edited = edit(readable, modify, self.wall_ms, limit)?;
        let counter = readable.filter(|_| matches!(edited, Edited::Counter(_))).map(Record::copy_of);
        let before = readable.filter(|_| modify.returns == Returns::Before).map(Record::copy_of);
        let mut looked = Looked { present: readable.map(RecordRef::timestamp), record: before };
        if edited == Edited::Unmet {
            let now = readable.filter(|_| modify.returns == Returns::After).map(Record::copy_of);
            looked.record = looked.record.or(now);
            self.answer_modified(job.origin, None, looked);
            return Ok(None);
        }
        // What is edited keeps the end that it has, or has none.
        let stores = readable.is_none() || matches!(modify.edit, Edit::Set { expiry: NewExpiry::None, .. });
        let default_expiry = if stores { self.default_expiry(key) } else { None };
        let timestamp = self.stamp_over(self.records.time_of(key, hash), job.after);
        let journal = &mut self.lanes.journal;
        let number = match (edited, counter) {
            (Edited::Value(value, expiry_ms), _) => {
                let expiry_ms = expiry_ms.or(default_expiry).filter(|end| *end != LASTING_MS);
                append_value(journal, key, timestamp, expiry_ms, &value);
                i64::try_from(value.len()).unwrap_or(i64::MAX)
            }
            (Edited::Counter(expiry_ms), Some(counter)) => {
                let restamped = restamp_counter(key, counter.view(), timestamp, expiry_ms);
                journal.extend_from_slice(restamped.as_ref().unwrap_or(&counter).view().bytes());
                counter.view().total()
            }
            (Edited::Deleted | Edited::Unmet | Edited::Counter(_), _) => {
                journal.extend_from_slice(Record::tombstone(key, timestamp).view().bytes());
                0
            }
        };
        if modify.returns == Returns::After {
            let written = self.lanes.journal.get(start..).and_then(|bytes| RecordRef::parse(bytes).ok());
            let written = written.map(|(record, _)| record).filter(|record| record.is_readable(self.wall_ms));
            looked.record = written.map(Record::copy_of);
        }
        Ok(Some(Encoded { number: Some(number), looked: Some(Box::new(looked)) }))
    }

    /// Answers a look with a change.
    pub(super) fn answer_modified(&mut self, origin: Origin, stored: Option<Stored>, looked: Looked) {
        let Looked { present, record } = looked;
        match origin {
            Origin::Client(token) => {
                let modified = Modified { stored, present, record };
                self.show(Completion { token, outcome: Outcome::Modified(modified) });
            }
            Origin::Peer { .. } => {
                let stored = stored.map(|s| (s.timestamp, s.copies, s.superseded, s.number));
                let record = record.map(|record| record.into_bytes().into_vec());
                self.reply(origin, Reply::Modified { stored, present, record });
            }
        }
    }

    /// The home's answer arrived.
    pub(super) fn modified_elsewhere(
        &mut self,
        origin: Origin,
        stored: Option<Stored>,
        present: Option<Timestamp>,
        record: Option<&[u8]>,
    ) {
        let record = record.map(|bytes| RecordRef::parse(bytes).map(|(record, _)| Record::copy_of(record)));
        match record.transpose() {
            Ok(record) => self.answer_modified(origin, stored, Looked { present, record }),
            Err(_) => self.fail(origin, OperationError::Unknown { copies: 0 }),
        }
    }
}

impl Change<'_> {
    /// Whether what is there must be known before it is changed.
    pub(super) const fn extends(&self) -> bool {
        matches!(self, Self::Increment { .. } | Self::Modify(_))
    }
}
