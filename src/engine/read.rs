//! Reading: from memory when this member is a complete owner, else from others; loads from redb.
//!
//! Level `one` takes one complete owner's answer; if no owner is complete, all that can be reached
//! are merged. Higher levels merge the answers of so many owners in each owner set, and send the
//! newest record to every owner whose answer was older.

use super::Engine;
use super::Load;
use super::Mode;
use super::hints::HintKey;
use super::operation::{Completion, OperationError, Outcome, Read};
use super::records::Standing;
use super::requests::Purpose;
use super::table::SlotId;
use super::write::{Job, Origin};
use crate::model::merge::{Merged, merge};
use crate::model::placement::OwnerSet;
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRef, MemberId, Record, RecordRef};
use crate::protocol::message::{Failure, Reply, Request, WriteRequest};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    hash: KeyHash,
    set: Arc<OwnerSet>,
    level: Level,
    /// Take what there is: no owner is complete.
    any: bool,
    answers: Vec<(MemberId, Option<Record>)>,
    waiting: usize,
    deadline_us: u64,
}

/// Who waits for a key to be loaded.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A client's local read.
    Read(u64),
    /// A peer's read.
    Peer(Origin),
    /// The local part of a gather.
    Gather(GatherId),
    /// A write that must know what is there.
    Write(Origin, WriteRequest, u64),
    /// A hint to send.
    Hint(MemberId),
    /// The slot only has to be merged with what redb holds.
    Resolve,
}

/// Keys that are being loaded.
#[derive(Debug, Default)]
pub(super) struct Loads {
    waiting: BTreeMap<HintKey, Vec<Waiter>>,
}

impl Loads {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a write of this key waits for a load: later ones wait behind it.
    pub(super) fn has_writer(&self, key: KeyRef<'_>) -> bool {
        let is_write = |waiter: &Waiter| matches!(waiter, Waiter::Write(..));
        !self.waiting.is_empty()
            && self.waiting.get(&HintKey::of(key)).is_some_and(|waiters| waiters.iter().any(is_write))
    }
}

impl Engine {
    /// What a reader at level `one` gets without waiting for anything: the hot path of a read.
    #[must_use]
    pub fn read_now(&self, key: KeyRef<'_>) -> Local<'_> {
        let hash = key.hash();
        if self.mode != Mode::Serving || !self.is_complete_for(hash, key.is_system()) {
            return Local::Elsewhere;
        }
        match self.records.standing(key, hash) {
            Standing::Here(id) => {
                let record = self.records.table.record(id);
                let readable = record.filter(|record| record.is_readable(self.now.wall_ms));
                readable.map_or(Local::Missing, Local::Found)
            }
            Standing::Absent => Local::Missing,
            Standing::Unknown => Local::Elsewhere,
        }
    }

    /// A client's read. The answer comes under `token`, an [`Outcome::Found`] or
    /// [`Outcome::Failed`].
    pub fn read(&mut self, token: u64, read: Read<'_>) {
        match self.mode {
            Mode::NoCluster => return self.fail(Origin::Client(token), OperationError::NoCluster),
            Mode::Starting => return self.fail(Origin::Client(token), OperationError::Starting),
            Mode::Stopping => return self.fail(Origin::Client(token), OperationError::Stopping),
            Mode::Serving => {}
        }
        let hash = read.key.hash();
        let level = read.level.unwrap_or(self.settings.read_level);
        if level == Level::One || level == Level::Available {
            return self.read_one(token, read.key, hash);
        }
        self.gather(token, read.key, hash, level, false);
    }

    fn read_one(&mut self, token: u64, key: KeyRef<'_>, hash: KeyHash) {
        if self.is_complete_for(hash, key.is_system()) {
            return match self.records.standing(key, hash) {
                Standing::Here(id) => self.found(token, self.readable(id)),
                Standing::Absent => self.found(token, None),
                Standing::Unknown => self.load_then(key, hash, Waiter::Read(token)),
            };
        }
        let partition = self.placement.partition_of(hash);
        let digest = self.placement.digest();
        let set = Arc::clone(self.placement.set_of(hash, key.is_system()));
        let is_complete = |member: &MemberId| {
            self.peer(*member).is_some_and(|peer| peer.is_reachable() && peer.is_complete(partition, digest))
        };
        match set.owners.iter().map(|owner| owner.member).find(is_complete) {
            Some(member) => {
                let id = self.new_gather(token, key, hash, Level::One, false);
                self.ask_read(id, member, key);
            }
            None => self.gather(token, key, hash, Level::One, true),
        }
    }

    fn readable(&self, id: SlotId) -> Option<Record> {
        let record = self.records.table.record(id)?;
        record.is_readable(self.now.wall_ms).then(|| Record::copy_of(record))
    }

    fn found(&mut self, token: u64, record: Option<Record>) {
        self.lanes.completions.push(Completion { token, outcome: Outcome::Found(record) });
    }

    fn new_gather(
        &mut self,
        token: u64,
        key: KeyRef<'_>,
        hash: KeyHash,
        level: Level,
        any: bool,
    ) -> GatherId {
        self.requests.last_gather += 1;
        let id = self.requests.last_gather;
        let gather = Gather {
            token,
            hash,
            set: Arc::clone(self.placement.set_of(hash, key.is_system())),
            level,
            any,
            answers: Vec::new(),
            waiting: 0,
            deadline_us: self.now.mono_us + 1_000 * self.settings.write_timeout_ms,
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
            self.read_failed(id, member);
        }
    }

    /// Asks every owner that can be reached.
    fn gather(&mut self, token: u64, key: KeyRef<'_>, hash: KeyHash, level: Level, any: bool) {
        let id = self.new_gather(token, key, hash, level, any);
        let set = Arc::clone(self.placement.set_of(hash, key.is_system()));
        // What this member holds counts if it owns the key, and is better than nothing if not.
        let holds = set.contains(self.identity.member) || any;
        if let Some(gather) = self.requests.gathers.get_mut(&id) {
            gather.waiting += usize::from(holds);
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
            Standing::Absent => self.gather_own(id, None),
            Standing::Here(slot) => {
                let own = self.records.table.record(slot).map(Record::copy_of);
                self.gather_own(id, own);
            }
        }
    }

    fn gather_own(&mut self, id: GatherId, own: Option<Record>) {
        let me = self.identity.member;
        self.add_answer(id, me, own);
    }

    /// An owner answered a read.
    pub(super) fn read_answered(&mut self, id: GatherId, member: MemberId, record: Option<&[u8]>) {
        let parsed = record.map(|bytes| RecordRef::parse(bytes).map(|(record, _)| Record::copy_of(record)));
        match parsed.transpose() {
            Ok(record) => self.add_answer(id, member, record),
            Err(_) => self.read_failed(id, member),
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
    pub(super) fn read_failed(&mut self, id: GatherId, _member: MemberId) {
        if let Some(gather) = self.requests.gathers.get_mut(&id) {
            gather.waiting = gather.waiting.saturating_sub(1);
            self.judge_gather(id);
        }
    }

    fn judge_gather(&mut self, id: GatherId) {
        let Some(gather) = self.requests.gathers.get(&id) else { return };
        let answered = |member: MemberId| gather.answers.iter().any(|(other, _)| *other == member);
        let met_in = |side: &dyn Fn(&crate::model::placement::Owner) -> bool| {
            let owners = gather.set.owners.iter().filter(|owner| side(owner));
            let (mut all, mut have) = (0, 0);
            for owner in owners {
                all += 1;
                have += usize::from(answered(owner.member));
            }
            match gather.level {
                Level::One | Level::Available => !gather.answers.is_empty(),
                Level::Quorum => have > all / 2,
                Level::All => have == all,
            }
        };
        let met = met_in(&|owner| owner.in_old) && met_in(&|owner| owner.in_new);
        let finished = if gather.any { gather.waiting == 0 } else { met || gather.waiting == 0 };
        if finished {
            self.finish_gather(id, met);
        }
    }

    fn finish_gather(&mut self, id: GatherId, met: bool) {
        let Some(gather) = self.requests.gathers.remove(&id) else { return };
        let token = gather.token;
        if !met {
            return self.fail(Origin::Client(token), OperationError::Unreachable);
        }
        let newest = newest(&gather.answers);
        if let Some(newest) = &newest {
            self.repair(&gather, newest.view());
        }
        let readable = newest.filter(|record| record.view().is_readable(self.now.wall_ms));
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
            self.counters.repairs += 1;
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

    /// Ends gathers that waited too long, with what they have.
    pub(super) fn expire_gathers(&mut self) {
        let now = self.now.mono_us;
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
            Standing::Absent => self.reply(origin, Reply::Record(None)),
            Standing::Here(id) => {
                let record = self.records.table.record(id).map(|record| record.bytes().to_vec());
                self.reply(origin, Reply::Record(record));
            }
        }
    }

    /// Whether this member may answer for a key by itself.
    pub(super) fn is_complete_for(&self, hash: KeyHash, is_system: bool) -> bool {
        if is_system {
            return true;
        }
        let partition = self.placement.partition_of(hash);
        self.complete.get(usize::from(partition)) == Some(&true)
    }

    /// Loads a key, and lets `waiter` go on then.
    pub(super) fn load_then(&mut self, key: KeyRef<'_>, hash: KeyHash, waiter: Waiter) {
        let waiters = self.loads.waiting.entry(HintKey::of(key)).or_default();
        if waiters.is_empty() {
            self.lanes.loads.push(Load {
                hash,
                collection: key.collection().to_owned(),
                key: key.key().to_vec(),
            });
            self.counters.loads += 1;
        }
        waiters.push(waiter);
    }

    pub(super) fn resolve_later(&mut self, key: KeyRef<'_>, hash: KeyHash) {
        self.load_then(key, hash, Waiter::Resolve);
    }

    /// A load's answer: the record's canonical bytes, verified; `None` when redb has nothing.
    /// `damaged` tells that it had something that did not verify, so others must be asked.
    pub fn loaded(&mut self, load: &Load, record: Option<&[u8]>, damaged: bool) {
        let Ok(key) = KeyRef::new(&load.collection, &load.key) else { return };
        let Some(waiters) = self.loads.waiting.remove(&HintKey::of(key)) else { return };
        let hash = load.hash;
        if damaged {
            self.counters.loads_damaged += 1;
            self.lose_partition(self.placement.partition_of(hash));
        }
        self.counters.load_misses += u64::from(record.is_none() && !damaged);
        let record = record.and_then(|bytes| RecordRef::parse(bytes).ok()).map(|(record, _)| record);
        self.records.resolve(key, hash, record);
        for waiter in waiters {
            self.go_on(key, hash, waiter);
        }
    }

    fn go_on(&mut self, key: KeyRef<'_>, hash: KeyHash, waiter: Waiter) {
        let slot = self.records.table.find(key, hash);
        match waiter {
            Waiter::Resolve => {}
            Waiter::Read(token) if !self.is_complete_for(hash, key.is_system()) => {
                self.read_one(token, key, hash);
            }
            Waiter::Read(token) => {
                let record = slot.and_then(|slot| self.readable(slot));
                self.found(token, record);
            }
            Waiter::Peer(origin) => {
                let record = slot.and_then(|slot| self.records.table.record(slot));
                let record = record.map(|record| record.bytes().to_vec());
                self.reply(origin, Reply::Record(record));
            }
            Waiter::Gather(id) => {
                let own = slot.and_then(|slot| self.records.table.record(slot)).map(Record::copy_of);
                self.gather_own(id, own);
            }
            Waiter::Write(origin, write, give_up_us) => {
                if let Some(job) = Job::of(origin, &write, give_up_us) {
                    self.stamp_write(Job { is_loaded: true, ..job });
                }
            }
            Waiter::Hint(member) => {
                if let Some(slot) = slot {
                    self.send_hint(member, slot, hash);
                }
            }
        }
    }
}

/// The merge of all answers.
fn newest(answers: &[(MemberId, Option<Record>)]) -> Option<Record> {
    let mut newest: Option<Record> = None;
    for record in answers.iter().filter_map(|(_, record)| record.as_ref()) {
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
