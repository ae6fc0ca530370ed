//! Reading: from memory when this member is a complete owner, else from others.
//!
//! Level `one` takes one complete owner's answer; if no owner is complete, all that can be reached
//! are merged. Higher levels merge the answers of so many owners in each owner set, and send the
//! newest record to every owner whose answer was older.

use super::Engine;
use super::Mode;
use super::hints::HintKey;
use super::loads::Waiter;
use super::operation::{Completion, OperationError, Outcome, Read};
use super::records::Standing;
use super::requests::Purpose;
use super::table::SlotId;
use super::write::Origin;
use crate::model::merge::{Merged, merge};
use crate::model::placement::{Owner, OwnerSet};
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef};
use crate::protocol::message::{Failure, Reply, Request};
use std::sync::Arc;

/// What an owner has under a key.
type Answer = (MemberId, Option<Record>);

/// Names a gather.
pub(super) type GatherId = u64;

/// What a reader gets at once, if it does.
#[derive(Debug)]
pub enum Local<'a> {
    /// The record, which a reader may see.
    Found(RecordRef<'a>),
    /// There surely is none for a reader.
    Missing,
    /// Others or the disk must be asked.
    Elsewhere,
}

/// A read that waits for answers of several owners.
#[derive(Debug)]
pub(super) struct Gather {
    token: u64,
    key: HintKey,
    hash: KeyHash,
    set: Arc<OwnerSet>,
    level: Level,
    /// Owners that answered under another placement, to be asked again.
    disagreed: Vec<MemberId>,
    /// Take what there is: no owner is complete.
    any: bool,
    /// Complete owners to ask when the one that is asked fails, the next one last.
    others: Vec<MemberId>,
    answers: Vec<Answer>,
    waiting: usize,
    deadline_us: u64,
}

impl Gather {
    /// Whether it must see what was written at a level that names how many owners. Owners that answer
    /// under another placement don't count then: a write may have met its level among owners that this
    /// member doesn't know yet, and of those that it asked, one of them at least knows better.
    const fn is_strict(&self) -> bool {
        matches!(self.level, Level::Quorum | Level::All)
    }
}

impl Engine {
    /// What a reader at level `one` gets without waiting for anything: the hot path of a read. `hash` is the key's.
    #[must_use]
    pub fn read_now(&mut self, key: KeyRef<'_>, hash: KeyHash) -> Local<'_> {
        self.take_writes();
        if self.mode != Mode::Serving || !self.is_complete_for(key, hash) {
            return Local::Elsewhere;
        }
        match self.records.standing(key, hash) {
            Standing::Here(id) => {
                let record = self.records.table.record(id);
                match record.filter(|record| record.is_readable(self.wall_ms)) {
                    Some(record) if !self.is_covered(record.timestamp()) => Local::Elsewhere,
                    Some(record) => Local::Found(record),
                    None => Local::Missing,
                }
            }
            Standing::Absent => Local::Missing,
            Standing::Unknown => Local::Elsewhere,
        }
    }

    /// Brings what reads of these keys will need into the processor's cache: their waits for memory overlap then.
    pub fn foresee(&self, keys: &[KeyHash]) {
        self.records.table.warm(keys.iter().copied());
    }

    /// A client's read. The answer comes under `token`, an [`Outcome::Found`] or
    /// [`Outcome::Failed`].
    pub fn read(&mut self, token: u64, read: Read<'_>) {
        self.take_writes();
        match self.mode {
            Mode::NoCluster => return self.fail(Origin::Client(token), OperationError::NoCluster),
            Mode::Starting => return self.fail(Origin::Client(token), OperationError::Starting),
            Mode::Stopping => return self.fail(Origin::Client(token), OperationError::Stopping),
            Mode::Gone(gone) => return self.fail(Origin::Client(token), OperationError::Gone(gone)),
            Mode::Serving => {}
        }
        let hash = read.key.hash();
        let level = read.level.unwrap_or_else(|| self.settings.read_level_of(read.key.collection()));
        if level == Level::One || level == Level::Available {
            return self.read_one(token, read.key, hash);
        }
        let deadline_us = self.gather_deadline();
        self.gather(token, read.key, hash, level, deadline_us);
    }

    const fn gather_deadline(&self) -> u64 {
        self.now.mono_us + 1_000 * self.settings.write_timeout_ms
    }

    pub(super) fn read_one(&mut self, token: u64, key: KeyRef<'_>, hash: KeyHash) {
        if self.is_complete_for(key, hash) {
            return match self.records.standing(key, hash) {
                Standing::Here(id) => self.found(token, self.readable(id)),
                Standing::Absent => self.found(token, None),
                Standing::Unknown => self.load_then(key, hash, Waiter::Read(token)),
            };
        }
        self.read_elsewhere(token, key, hash);
    }

    /// Asks one complete owner after the other; all that can be reached if none is complete.
    pub(super) fn read_elsewhere(&mut self, token: u64, key: KeyRef<'_>, hash: KeyHash) {
        let partition = self.placement.partition_of(key, hash);
        let digest = self.placement.digest();
        let set = Arc::clone(self.placement.set_of(key, hash));
        let is_complete = |member: &MemberId| {
            self.peer(*member).is_some_and(|peer| peer.is_reachable() && peer.is_complete(partition, digest))
        };
        let owners = set.owners.iter().rev().map(|owner| owner.member);
        let mut others: Vec<MemberId> = owners.filter(is_complete).collect();
        match others.pop() {
            Some(member) => {
                let deadline_us = self.gather_deadline();
                let id = self.new_gather(token, key, hash, Level::One, deadline_us);
                if let Some(gather) = self.requests.gathers.get_mut(&id) {
                    gather.others = others;
                }
                self.ask_read(id, member, key);
            }
            None => {
                let deadline_us = self.gather_deadline();
                self.gather(token, key, hash, Level::One, deadline_us);
            }
        }
    }

    pub(super) fn readable(&self, id: SlotId) -> Option<Record> {
        let record = self.records.table.record(id)?;
        record.is_readable(self.wall_ms).then(|| Record::copy_of(record))
    }

    pub(super) fn found(&mut self, token: u64, record: Option<Record>) {
        self.show(Completion { token, outcome: Outcome::Found(record) });
    }

    /// Gives an answer, or holds it while it has own stamps that no durable reservation covers.
    pub(super) fn show(&mut self, completion: Completion) {
        let is_covered = |record: &Record| self.is_covered(record.view().timestamp());
        let may_show = match &completion.outcome {
            Outcome::Found(record) => record.iter().all(is_covered),
            Outcome::Page(page) => page.rows.iter().all(|row| self.is_covered(row.timestamp())),
            Outcome::Modified(modified) => {
                modified.record.iter().all(is_covered)
                    && modified.present.is_none_or(|at| self.is_covered(at))
            }
            Outcome::Stored(_) | Outcome::Copies(_) | Outcome::Failed(_) => true,
        };
        if may_show { &mut self.lanes.completions } else { &mut self.held }.push(completion);
    }

    fn new_gather(
        &mut self,
        token: u64,
        key: KeyRef<'_>,
        hash: KeyHash,
        level: Level,
        deadline_us: u64,
    ) -> GatherId {
        self.requests.last_gather += 1;
        let id = self.requests.last_gather;
        let gather = Gather {
            token,
            key: HintKey::of(key),
            hash,
            set: Arc::clone(self.placement.set_of(key, hash)),
            level,
            disagreed: Vec::new(),
            any: false,
            others: Vec::new(),
            answers: Vec::new(),
            waiting: 0,
            deadline_us,
        };
        self.requests.gathers.insert(id, gather);
        id
    }

    fn ask_read(&mut self, id: GatherId, member: MemberId, key: KeyRef<'_>) {
        let request = Request::Read { collection: key.collection().to_owned(), key: key.key().to_vec() };
        if let Some(gather) = self.requests.gathers.get_mut(&id) {
            gather.waiting += 1;
        }
        if !self.ask(member, request, Purpose::Read(id)) {
            self.read_failed(id);
        }
    }

    /// Asks every owner that can be reached; at level `one` because none is complete.
    fn gather(&mut self, token: u64, key: KeyRef<'_>, hash: KeyHash, level: Level, deadline_us: u64) {
        let id = self.new_gather(token, key, hash, level, deadline_us);
        let set = Arc::clone(self.placement.set_of(key, hash));
        let any = level == Level::One;
        // What this member holds counts if it owns the key, and is better than nothing if not.
        let holds = set.contains(self.identity.member) || any;
        if let Some(gather) = self.requests.gathers.get_mut(&id) {
            gather.waiting += usize::from(holds);
            gather.any = any;
        }
        for owner in &set.owners {
            if self.peer(owner.member).is_some_and(super::peer::Peer::is_reachable) {
                self.ask_read(id, owner.member, key);
            }
        }
        if !holds {
            return self.judge_gather(id);
        }
        match self.records.standing(key, hash) {
            Standing::Unknown => self.load_then(key, hash, Waiter::Gather(id)),
            Standing::Absent if self.lacks(key, hash) => self.read_failed(id),
            Standing::Absent => self.gather_own(id, None),
            Standing::Here(slot) => {
                let own = self.records.table.record(slot).map(Record::copy_of);
                self.gather_own(id, own);
            }
        }
    }

    pub(super) fn gather_own(&mut self, id: GatherId, own: Option<Record>) {
        let me = self.identity.member;
        self.add_answer(id, me, own);
    }

    /// An owner answered a read.
    pub(super) fn read_answered(
        &mut self,
        id: GatherId,
        member: MemberId,
        record: Option<&[u8]>,
        same_placement: bool,
    ) {
        if let Some(gather) = self.requests.gathers.get_mut(&id)
            && !same_placement
            && gather.is_strict()
        {
            gather.waiting = gather.waiting.saturating_sub(1);
            gather.disagreed.push(member);
            return;
        }
        let parsed = record.map(|bytes| RecordRef::parse(bytes).map(|(record, _)| Record::copy_of(record)));
        match parsed.transpose() {
            Ok(record) => self.add_answer(id, member, record),
            Err(_) => self.read_failed(id),
        }
    }

    fn add_answer(&mut self, id: GatherId, member: MemberId, record: Option<Record>) {
        if let Some(gather) = self.requests.gathers.get_mut(&id) {
            gather.waiting = gather.waiting.saturating_sub(1);
            gather.answers.push((member, record));
            self.judge_gather(id);
        }
    }

    /// An owner will not answer a read.
    pub(super) fn read_failed(&mut self, id: GatherId) {
        let Some(gather) = self.requests.gathers.get_mut(&id) else { return };
        gather.waiting = gather.waiting.saturating_sub(1);
        let Some(next) = gather.others.pop() else { return self.judge_gather(id) };
        let key = gather.key.clone();
        if let Some(key) = key.key() {
            self.ask_read(id, next, key);
        }
    }

    fn judge_gather(&mut self, id: GatherId) {
        let Some(gather) = self.requests.gathers.get(&id) else { return };
        let answered = |member: MemberId| gather.answers.iter().any(|(other, _)| *other == member);
        // What an owner does not have it can't tell, unless it is complete. (That of one who joins is
        // vouched for by the old owners, whose side must be met, too.)
        let knows = |owner: &Owner| !owner.in_old || self.is_vouched_for(gather, owner.member);
        let has = |at: &usize| {
            gather.set.owners.get(*at).is_some_and(|owner| answered(owner.member) && knows(owner))
        };
        let met = gather.set.sides().iter().all(|side| {
            let have = side.iter().filter(|at| has(at)).count();
            match gather.level {
                Level::One | Level::Available => !gather.answers.is_empty(),
                Level::Quorum => have > side.len() / 2,
                Level::All => have == side.len(),
            }
        });
        let waits = gather.waiting > 0 || !gather.disagreed.is_empty();
        let finished = if gather.any { !waits } else { met || !waits };
        if finished {
            self.finish_gather(id, met);
        }
    }

    /// Whether a member is a complete owner of the key that is read.
    fn is_vouched_for(&self, gather: &Gather, member: MemberId) -> bool {
        let is_complete = |key| self.is_complete_at(member, self.placement.partition_of(key, gather.hash));
        gather.key.key().is_some_and(|key| key.is_system() || is_complete(key))
    }

    fn finish_gather(&mut self, id: GatherId, met: bool) {
        let Some(gather) = self.requests.gathers.remove(&id) else { return };
        let token = gather.token;
        if !met {
            return self.fail(Origin::Client(token), OperationError::Unreachable);
        }
        // What an incomplete owner has may be older than what was deleted since: it is shown, and not spread.
        let vouches = |(member, _): &&Answer| self.is_vouched_for(&gather, *member);
        if let Some(vouched) = newest(gather.answers.iter().filter(vouches)) {
            self.repair(&gather, vouched.view());
        }
        let newest = newest(gather.answers.iter());
        let readable = newest.filter(|record| record.view().is_readable(self.wall_ms));
        self.found(token, readable);
    }

    /// Sends the newest record to every owner whose answer was older.
    fn repair(&mut self, gather: &Gather, newest: RecordRef<'_>) {
        let stale = |record: &Option<Record>| {
            record.as_ref().is_none_or(|record| !matches!(merge(record.view(), newest), Merged::Present))
        };
        let me = self.identity.member;
        let owners =
            gather.answers.iter().filter(|(member, record)| stale(record) && gather.set.contains(*member));
        for (member, _) in owners {
            self.counters.read_repairs += 1;
            if *member == me {
                self.merge(newest, gather.hash);
            } else if let Some(at) = self.peer_index.get(member).copied() {
                let link = self.peers.get_mut(at).and_then(|peer| peer.link.as_mut());
                if let Some(link) = link {
                    link.push_record(crate::protocol::frame::Purpose::Repair, newest, gather.hash, None);
                }
            }
        }
    }

    /// The placement changed: reads at levels that name owners begin anew with those of the day.
    pub(super) fn rebase_gathers(&mut self) {
        let strict: Vec<Gather> =
            self.requests.gathers.extract_if(.., |_, gather| gather.is_strict()).map(|(_, g)| g).collect();
        for Gather { token, key, hash, level, deadline_us, .. } in strict {
            if let Some(key) = key.key() {
                self.gather(token, key, hash, level, deadline_us);
            }
        }
    }

    /// Asks again who answered under another placement: meanwhile both may have the same.
    fn ask_again(&mut self) {
        let disagreed = |(id, gather): (&GatherId, &mut Gather)| {
            let members = std::mem::take(&mut gather.disagreed);
            (!members.is_empty()).then(|| (*id, gather.key.clone(), members))
        };
        let again: Vec<_> = self.requests.gathers.iter_mut().filter_map(disagreed).collect();
        for (id, key, members) in again {
            let Some(key) = key.key() else { continue };
            for member in members {
                self.ask_read(id, member, key);
            }
        }
    }

    /// Ends gathers that waited too long, with what they have.
    pub(super) fn expire_gathers(&mut self) {
        let now = self.now.mono_us;
        self.ask_again();
        let late: Vec<GatherId> = self
            .requests
            .gathers
            .iter()
            .filter(|(_, gather)| gather.deadline_us <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let any =
                self.requests.gathers.get(&id).is_some_and(|gather| gather.any && !gather.answers.is_empty());
            self.finish_gather(id, any);
        }
        self.expire_scans();
    }

    /// A peer reads a key as this member holds it.
    pub(super) fn read_for_peer(&mut self, origin: Origin, collection: &str, key: &[u8]) {
        let Ok(key) = KeyRef::new(collection, key) else {
            return self.reply(origin, Reply::Failed(Failure::NotReady));
        };
        let hash = key.hash();
        match self.records.standing(key, hash) {
            Standing::Unknown => self.load_then(key, hash, Waiter::Peer(origin)),
            Standing::Absent if self.lacks(key, hash) => self.reply(origin, Reply::Failed(Failure::NotReady)),
            Standing::Absent => self.reply(origin, Reply::Record(None)),
            Standing::Here(id) => {
                let record = self.records.table.record(id).map(|record| record.bytes().to_vec());
                self.reply(origin, Reply::Record(record));
            }
        }
    }

    /// Whether this member may answer for a key by itself.
    pub(super) fn is_complete_for(&self, key: KeyRef<'_>, hash: KeyHash) -> bool {
        if key.is_system() {
            return true;
        }
        let partition = self.placement.partition_of(key, hash);
        self.is_complete_at(self.identity.member, partition)
    }

    /// Whether a key's record was lost here and may still be had from others.
    fn lacks(&self, key: KeyRef<'_>, hash: KeyHash) -> bool {
        self.records.is_lost(hash) && !self.is_complete_for(key, hash)
    }
}

/// The merge of answers.
fn newest<'a>(answers: impl Iterator<Item = &'a Answer>) -> Option<Record> {
    let mut newest: Option<Record> = None;
    for record in answers.filter_map(|(_, record)| record.as_ref()) {
        newest = Some(match newest {
            None => record.clone(),
            Some(present) => match merge(present.view(), record.view()) {
                Merged::Present => present,
                Merged::Incoming => record.clone(),
                Merged::Joined(joined) => joined,
            },
        });
    }
    newest
}
