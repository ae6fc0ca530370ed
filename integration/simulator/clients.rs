//! Clients and what they know: of each operation whether it was acknowledged, refused, or is in
//! doubt. What they are told is checked against that at once; the rest is checked at the end.

use crate::member::{EPOCH_MS, Input};
use crate::plan::{Fault, MS, Plan, SECOND};
use crate::random::Random;
use crate::world::{Event, World};
use kith::engine::operation::{
    Change, Completion, Modified, OperationError, Outcome, Page, Read, Row, Scan, Stored, Write,
};
use kith::engine::{Engine, Local, NOBODY};
use kith::model::edit::{Condition, Edit, ExpireWhen, Modify, NewExpiry, Returns};
use kith::model::settings::Level;
use kith::model::timestamp::time_of_ms;
use kith::model::{KeyRange, KeyRef, Kind, RecordRef, Timestamp};
use std::collections::BTreeMap;

/// Digits of an operation's number at the beginning of each value.
const NUMBER_DIGITS: usize = 16;
/// Bytes of a key in a world where hints shall find no room.
const LONG_KEY_BYTES: usize = 4_000;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Set {
        expiry_ms: Option<u64>,
    },
    Delete,
    Increment(i64),
    /// A value, if the condition holds.
    Edit(Condition),
    /// Reads and deletes.
    Take,
    /// Gives a counter an expiry, or takes it away.
    Expire(Option<u64>),
    Get,
    Scan,
}

impl Action {
    /// Whether nothing may be there once it is done, now or later.
    pub const fn ends(self) -> bool {
        matches!(self, Self::Delete | Self::Take | Self::Set { expiry_ms: Some(_) })
    }
}

/// What is known of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not answered yet.
    Open,
    /// A write that was acknowledged.
    Stored(Stored),
    /// Nothing was done.
    Refused,
    /// It may or may not have been done.
    Doubt,
    /// A read that was answered.
    Answered,
}

/// One operation of a client.
#[derive(Debug, Clone)]
pub struct Operation {
    session: Option<usize>,
    pub key: usize,
    pub action: Action,
    level: Option<Level>,
    after: u64,
    pub front: usize,
    epoch: u64,
    pub issued: u64,
    pub state: State,
    /// A reader was shown it.
    seen: bool,
    /// The highest stamp of a write of this key that a quorum confirmed before this was issued.
    floor: Timestamp,
    /// The same of one that all owners confirmed.
    floor_of_all: Timestamp,
    /// Each member's highest stamp that was shown before this was issued.
    shown: Vec<u64>,
    resume: Option<Vec<u8>>,
    /// Of a scan: from the last key to the first.
    reverse: bool,
}

/// A key that clients use.
#[derive(Debug, Clone)]
pub struct Key {
    pub collection: &'static str,
    pub name: String,
    /// The key's bytes: the name, and what makes it long.
    pub bytes: Vec<u8>,
    pub is_counter: bool,
    pub operations: Vec<u64>,
    floor: Timestamp,
    floor_of_all: Timestamp,
}

impl Key {
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef::new(self.collection, &self.bytes).expect("the simulator's names are good")
    }
}

#[derive(Debug)]
struct Session {
    front: usize,
    after: u64,
    waits_for: Option<u64>,
}

/// All clients and all that they know.
#[derive(Debug)]
pub struct Clients {
    sessions: Vec<Session>,
    pub keys: Vec<Key>,
    pub operations: BTreeMap<u64, Operation>,
    stamps: BTreeMap<(Timestamp, usize), u64>,
    /// Which operation found and changed a record, by key and stamp.
    found: BTreeMap<(usize, Timestamp), u64>,
    last: u64,
    /// Nobody asks for anything any more, so nothing hides what was lost.
    pub retired: bool,
    /// Pages of the last scan.
    pub pages: Vec<(Vec<u8>, Timestamp)>,
}

impl Clients {
    pub fn new(plan: &Plan, random: &mut Random) -> Self {
        let named = |name: String| {
            let mut bytes = name.clone().into_bytes();
            bytes.resize(if plan.long_keys { LONG_KEY_BYTES } else { bytes.len() }, b'.');
            (name, bytes)
        };
        let register = |at: usize| Key {
            collection: if at % 5 == 4 { "other" } else { "default" },
            name: named(format!("k{at:02}")).0,
            bytes: named(format!("k{at:02}")).1,
            is_counter: false,
            operations: Vec::new(),
            floor: Timestamp::ZERO,
            floor_of_all: Timestamp::ZERO,
        };
        let counter = |at: usize| {
            let (name, bytes) = named(format!("c{at}"));
            Key { name, bytes, is_counter: true, ..register(0) }
        };
        let keys = (0..plan.keys).map(register).chain((0..plan.counters).map(counter)).collect();
        let session = |_| Session { front: random.index(plan.members), after: 0, waits_for: None };
        Self {
            sessions: (0..plan.sessions).map(session).collect(),
            keys,
            operations: BTreeMap::new(),
            stamps: BTreeMap::new(),
            found: BTreeMap::new(),
            last: 0,
            retired: false,
            pages: Vec::new(),
        }
    }

    /// The operation that wrote a value.
    pub fn written(&self, record: RecordRef<'_>) -> Option<&Operation> {
        let digits = record.body().get(..NUMBER_DIGITS).filter(|_| record.kind() == Kind::Value)?;
        let id = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        self.operations.get(&id)
    }

    /// Operations that wait for an answer.
    pub fn open(&self) -> impl Iterator<Item = (u64, &Operation)> {
        self.operations.iter().filter(|(_, op)| op.state == State::Open).map(|(id, op)| (*id, op))
    }
}

/// Whether an error says that nothing was changed. No arm for the rest: a new error must be judged.
fn is_refusal(error: &OperationError) -> bool {
    !matches!(error, OperationError::Unknown { .. })
}

/// A number that tells one answer from another, for the trace.
fn mark_of(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Stored(stored) => stored.timestamp.time,
        Outcome::Found(record) => record.as_ref().map_or(0, |record| record.view().timestamp().time),
        Outcome::Modified(modified) => modified.stored.map_or(1, |stored| stored.timestamp.time),
        Outcome::Page(page) => page.rows.len() as u64,
        Outcome::Copies(copies) => u64::from(*copies),
        Outcome::Failed(error) => error.code().len() as u64,
    }
}

impl World {
    /// A session's next step: an operation, unless it waits for one.
    pub fn session_step(&mut self, session: usize) {
        if !self.troubled || self.clients.retired || self.clients.sessions[session].waits_for.is_some() {
            return;
        }
        let front = self.clients.sessions[session].front;
        if self.random.chance(50) || !self.members[front].can_talk(self.now) {
            let other = self.random.index(self.members.len());
            self.clients.sessions[session].front = other;
        }
        let front = self.clients.sessions[session].front;
        if self.members[front].engine.is_none() {
            let after = self.random.between(5, 50) * MS;
            return self.schedule(after, Event::Session { session });
        }
        let key = self.random.index(self.clients.keys.len());
        let is_counter = self.clients.keys[key].is_counter;
        let action = match (self.random.below(100), is_counter) {
            (20..45, false) if self.plan.away || self.plan.rarer.late => Action::Delete,
            (10..20, false) if self.plan.away => Action::Set { expiry_ms: Some(self.expiry()) },
            (0..60, true) => Action::Increment(i64::try_from(self.random.below(12)).unwrap_or(0) - 3),
            (0..50, false) => Action::Set { expiry_ms: None },
            (50..53, false) => Action::Set { expiry_ms: Some(self.expiry()) },
            (53..62, false) => Action::Delete,
            (95.., _) => Action::Scan,
            _ => Action::Get,
        };
        let action = if self.plan.edits { self.or_edit(key, action) } else { action };
        let level = if self.random.chance(300) { None } else { self.random.pick(&Level::ALL) };
        let operation = self.issue(Some(session), front, key, action, level);
        self.clients.sessions[session].waits_for = Some(operation);
        let patience = 5 * SECOND;
        self.schedule(patience, Event::Patience { session, operation });
    }

    /// Every other change of a register, and some of a counter, looks first.
    fn or_edit(&mut self, key: usize, action: Action) -> Action {
        match action {
            Action::Set { expiry_ms: None } if self.random.chance(500) => {
                let stored = |id: &u64| match self.clients.operations.get(id)?.state {
                    State::Stored(stored) => Some(stored.timestamp),
                    _ => None,
                };
                let last = self.clients.keys[key].operations.iter().rev().find_map(stored);
                let stamp = last.map_or(Condition::Absent, Condition::Stamp);
                let conditions = [Condition::Always, Condition::Absent, Condition::Present, stamp, stamp];
                Action::Edit(self.random.pick(&conditions).unwrap_or(stamp))
            }
            Action::Delete if self.random.chance(500) => Action::Take,
            Action::Increment(_) if self.random.chance(150) => {
                let far = EPOCH_MS + 10 * YEAR_MS + self.random.below(1_000);
                Action::Expire(if self.random.chance(700) { Some(far) } else { None })
            }
            other => other,
        }
    }

    fn expiry(&mut self) -> u64 {
        EPOCH_MS + self.now / MS + self.random.between(200, 8_000)
    }

    /// Hands an operation to a front.
    pub fn issue(
        &mut self,
        session: Option<usize>,
        front: usize,
        key: usize,
        action: Action,
        level: Option<Level>,
    ) -> u64 {
        self.clients.last += 1;
        let id = self.clients.last;
        let after = session.map_or(0, |session| self.clients.sessions[session].after);
        let epoch = self.members[front].epoch;
        let operation = Operation {
            session,
            key,
            action,
            level,
            after,
            front,
            epoch,
            issued: self.now,
            state: State::Open,
            seen: false,
            floor: self.clients.keys[key].floor,
            floor_of_all: self.clients.keys[key].floor_of_all,
            shown: self.members.iter().map(|member| member.shown).collect(),
            resume: None,
            reverse: id.is_multiple_of(2),
        };
        let name = self.clients.keys[key].name.clone();
        self.note("issue", &[id, front as u64, key as u64], || {
            format!("{id} {name} {action:?} {level:?} at m{front} after {after:x}")
        });
        self.clients.keys[key].operations.push(id);
        self.clients.operations.insert(id, operation);
        self.give(front, epoch, Input::Operation(id));
        id
    }

    /// The next page of a scan.
    pub fn scan_on(&mut self, front: usize, key: usize, resume: Option<Vec<u8>>, reverse: bool) -> u64 {
        let id = self.issue(None, front, key, Action::Scan, None);
        if let Some(operation) = self.clients.operations.get_mut(&id) {
            (operation.resume, operation.reverse) = (resume, reverse);
        }
        id
    }

    /// A front begins an operation.
    pub fn begin_operation(&mut self, index: usize, engine: &mut Engine, id: u64) {
        let Some(operation) = self.clients.operations.get(&id).cloned() else { return };
        if self.members[index].is_expelled {
            let outcome = Outcome::Failed(OperationError::Stopping);
            return self.complete(index, Completion { token: id, outcome });
        }
        let name = self.clients.keys[operation.key].clone();
        let (key, level) = (name.as_ref(), operation.level);
        let write = |change| Write { key, change, level, after: operation.after };
        match operation.action {
            Action::Set { expiry_ms } => {
                let value = self.value(id);
                engine.write(id, write(Change::Set { value: &value, expiry_ms }));
            }
            Action::Edit(condition) => {
                let edit = Edit::Set { value: self.value(id).into(), expiry: NewExpiry::None };
                let modify = Modify { condition, edit, returns: Returns::Before };
                engine.write(id, write(Change::Modify(&modify)));
            }
            Action::Take => {
                let condition = Condition::Always;
                let modify = Modify { condition, edit: Edit::Delete, returns: Returns::Before };
                engine.write(id, write(Change::Modify(&modify)));
            }
            Action::Expire(at) => {
                let edit = Edit::Expire { at, when: ExpireWhen::Always };
                let modify = Modify { condition: Condition::Always, edit, returns: Returns::After };
                engine.write(id, write(Change::Modify(&modify)));
            }
            Action::Delete => engine.write(id, write(Change::Delete)),
            Action::Increment(delta) => engine.write(id, write(Change::Increment { delta })),
            Action::Get if level == Some(Level::One) && self.random.chance(500) => {
                let found = match engine.read_now(key, key.hash()) {
                    Local::Found(record) => Some(kith::model::Record::copy_of(record)),
                    Local::Missing => None,
                    Local::Elsewhere => return engine.read(id, Read { key, level }),
                };
                self.check_own(&operation, found.as_ref().map(kith::model::Record::view));
                let outcome = Outcome::Found(found);
                self.complete(index, Completion { token: id, outcome });
            }
            Action::Get => engine.read(id, Read { key, level }),
            Action::Scan => {
                let limit = 1 + self.random.index(12);
                let (collection, reverse) = (name.collection.to_owned(), operation.reverse);
                let keys = operation.keys(key);
                let keys_only = id.is_multiple_of(3);
                engine.scan(id, &Scan { collection, keys, reverse, keys_only, limit, held: false });
            }
        }
    }

    /// A value that names the operation that writes it.
    fn value(&mut self, id: u64) -> Vec<u8> {
        let mut value = format!("{id:0NUMBER_DIGITS$x}").into_bytes();
        value.resize(NUMBER_DIGITS + self.random.index(1 + self.plan.padding as usize), b'.');
        value
    }

    /// A front answers.
    pub fn complete(&mut self, index: usize, Completion { token, outcome }: Completion) {
        if token == NOBODY {
            return;
        }
        let Some(operation) = self.clients.operations.get(&token).cloned() else {
            return self.violate(
                "an answer has a question",
                None,
                format!("m{index} token {token}: {outcome:?}"),
            );
        };
        let key = operation.key;
        let name = self.clients.keys[key].name.clone();
        let time = mark_of(&outcome);
        self.note("answer", &[token, index as u64, time], || match &outcome {
            Outcome::Page(page) => {
                format!("{token} by m{index}: {} keys, more: {}", page.rows.len(), page.resume.is_some())
            }
            outcome => format!("{token} {name} by m{index}: {outcome:?}"),
        });
        let is_asked = operation.front == index && operation.epoch == self.members[index].epoch;
        if operation.state != State::Open || !is_asked {
            let text = format!("m{index} answers {token} again: {outcome:?}; it was {:?}", operation.state);
            return self.violate("an operation is answered once", Some(key), text);
        }
        let state = match outcome {
            Outcome::Stored(stored) => {
                self.check_stored(token, &operation, stored);
                // The worst moment: it was acknowledged just now.
                if self.troubled && self.plan.knows(Fault::PowerCut) && self.random.chance(5) {
                    let everywhere = self.random.chance(500);
                    self.schedule(0, Event::PowerCut { everywhere });
                }
                State::Stored(stored)
            }
            Outcome::Found(record) => {
                self.check_found(&operation, record.as_ref().map(kith::model::Record::view));
                State::Answered
            }
            Outcome::Modified(modified) => {
                self.check_modified(token, &operation, &modified);
                match modified.stored {
                    Some(stored) => State::Stored(stored),
                    None => self.was_refused(token, &operation, "its condition did not hold"),
                }
            }
            Outcome::Page(page) => {
                self.check_page(&operation, &page);
                State::Answered
            }
            Outcome::Copies(_) => {
                return self.violate("an answer fits its question", Some(key), format!("{token}: copies"));
            }
            Outcome::Failed(error) if is_refusal(&error) => {
                self.was_refused(token, &operation, &error.to_string())
            }
            Outcome::Failed(_) => State::Doubt,
        };
        if let Some(operation) = self.clients.operations.get_mut(&token) {
            operation.state = state;
        }
        if let Some(session) = operation.session
            && self.clients.sessions[session].waits_for == Some(token)
        {
            self.clients.sessions[session].waits_for = None;
            let think = self.plan.think;
            let after = self.random.delay(think);
            self.schedule(after, Event::Session { session });
        }
    }

    fn was_refused(&mut self, token: u64, operation: &Operation, why: &str) -> State {
        if operation.seen {
            let text = format!("{token} was refused ({why}) and had been read before");
            self.violate("what is refused is not done", Some(operation.key), text);
        }
        State::Refused
    }

    /// What was looked at fits the condition; and where members never disagree, no two changes found the
    /// same record.
    fn check_modified(&mut self, token: u64, operation: &Operation, modified: &Modified) {
        let Modified { stored, present, record } = modified;
        let key = operation.key;
        self.saw(operation, present.map_or(0, |present| present.time));
        if let Some(record) = record {
            self.check_shown(key, record.view());
        }
        let Some(stored) = stored else { return };
        self.check_stored(token, operation, *stored);
        let fits = match operation.action {
            Action::Edit(Condition::Absent) => present.is_none(),
            Action::Edit(Condition::Present) | Action::Take | Action::Expire(_) => present.is_some(),
            Action::Edit(Condition::Stamp(stamp)) => *present == Some(stamp),
            Action::Edit(Condition::Always) => true,
            _ => false,
        };
        if !fits {
            let text = format!("{token} {:?} found {present:?} and was stored", operation.action);
            return self.violate("a change was made only if its condition held", Some(key), text);
        }
        let (Some(present), true) = (present, self.plan.is_calm() && self.troubled) else { return };
        // A counter keeps its stamp while it is counted on.
        if !self.clients.keys[key].is_counter
            && let Some(other) = self.clients.found.insert((key, *present), token)
        {
            let text = format!("{other} and {token} both found {present}");
            self.violate("what goes through one home happens one after the other", Some(key), text);
        }
    }

    fn effective_level(&self, operation: &Operation) -> Level {
        let settings = &self.plan.settings;
        let is_read = operation.action == Action::Get;
        operation.level.unwrap_or(if is_read { settings.read_level } else { settings.write_level })
    }

    /// What a session has seen, its next write must follow.
    fn saw(&mut self, operation: &Operation, time: u64) {
        if let Some(session) = operation.session {
            let session = &mut self.clients.sessions[session];
            session.after = session.after.max(time);
        }
    }

    /// Whether a stamp must exceed what its session has seen. Not if that is itself the stamp of a
    /// clock that was far ahead; nor if the stamper's clock is behind and it sees too few others to
    /// know.
    fn must_follow(&self, operation: &Operation, stamp: Timestamp) -> bool {
        let ahead_ms = self.plan.settings.max_clock_ahead_ms;
        let now_ms = EPOCH_MS + self.now / MS;
        let Some(stamper) = self.members.iter().find(|member| member.id == stamp.member) else { return true };
        let is_behind = stamper.behind_at >= operation.issued;
        let is_sane = operation.after <= time_of_ms(now_ms + ahead_ms / 2);
        is_sane && !(is_behind && stamper.alone_at >= operation.issued)
    }

    fn check_stored(&mut self, token: u64, operation: &Operation, stored: Stored) {
        let (key, stamp) = (operation.key, stored.timestamp);
        if matches!(operation.action, Action::Get | Action::Scan) {
            return self.violate("an answer fits its question", Some(key), format!("{token}: {stored:?}"));
        }
        if matches!(operation.action, Action::Increment(_)) {
            return;
        }
        self.saw(operation, stamp.time);
        let old = stamp.time <= operation.after;
        if old && !stored.superseded && self.must_follow(operation, stamp) {
            let text = format!("{token} got {stamp}, though the session had seen {:x}", operation.after);
            return self.violate("a session's write follows what it has seen", Some(key), text);
        }
        if stored.superseded {
            return;
        }
        // Of a copied data directory two may stamp until one of them is refused.
        if !self.plan.knows(Fault::Copied) {
            self.check_stamp(token, operation, stamp);
        }
        let level = self.effective_level(operation);
        if matches!(level, Level::Quorum | Level::All) && !self.is_removing_since(operation.issued) {
            if stamp <= operation.floor && !self.plan.may_forget() {
                let text =
                    format!("{token} got {stamp}, not superseded, at {level}, after {}", operation.floor);
                return self.violate("superseded is told", Some(key), text);
            }
            let floor = &mut self.clients.keys[key].floor;
            *floor = stamp.max(*floor);
        }
        if level == Level::All {
            let floor = &mut self.clients.keys[key].floor_of_all;
            *floor = stamp.max(*floor);
        }
    }

    /// A member's clock gives each stamp once and ever higher ones. A stamp just above a record from
    /// the far future is not its clock's; it is unlike all others of its key.
    fn check_stamp(&mut self, token: u64, operation: &Operation, stamp: Timestamp) {
        let key = operation.key;
        let stamper = self.members.iter().position(|member| member.id == stamp.member);
        let of_clock = stamper.is_some_and(|at| stamp.time <= self.members[at].clock_time);
        let place = if of_clock { usize::MAX } else { key };
        if let Some(other) = self.clients.stamps.insert((stamp, place), token) {
            return self.violate(
                "no stamp is given twice",
                Some(key),
                format!("{stamp} to {other} and {token}"),
            );
        }
        let Some(at) = stamper.filter(|_| of_clock) else { return };
        if stamp.time <= operation.shown[at] {
            let text = format!("{token} got {stamp}, when m{at} had shown {:x}", operation.shown[at]);
            return self.violate("a member's stamps rise", Some(key), text);
        }
        self.members[at].shown = self.members[at].shown.max(stamp.time);
    }

    /// Checks a record that somebody was shown: that it was written, to this key, and not refused.
    pub fn check_shown(&mut self, key: usize, record: RecordRef<'_>) {
        let is_counter = self.clients.keys[key].is_counter;
        if record.kind() != Kind::Value {
            if is_counter != (record.kind() == Kind::Counter) {
                self.violate("reads show what was written", Some(key), format!("{record:?}"));
            }
            return;
        }
        let number = record.body().get(..NUMBER_DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
        let id = number.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0);
        let wrong = match self.clients.operations.get_mut(&id) {
            Some(operation) if operation.key == key && operation.state != State::Refused => {
                operation.seen = true;
                None
            }
            Some(operation) => Some(format!("{operation:?}")),
            None => Some("nothing".to_owned()),
        };
        if let Some(wrong) = wrong {
            self.violate(
                "reads show what was written",
                Some(key),
                format!("{record:?} of {id}, which is {wrong}"),
            );
        }
    }

    fn check_found(&mut self, operation: &Operation, record: Option<RecordRef<'_>>) {
        let key = operation.key;
        if let Some(record) = record {
            if !record.is_of(self.clients.keys[key].as_ref()) {
                return self.violate("a read is of its key", Some(key), format!("{record:?}"));
            }
            self.check_shown(key, record);
            self.saw(operation, record.timestamp().time);
        }
        let level = self.effective_level(operation);
        let is_sure = matches!(level, Level::Quorum | Level::All)
            && !self.clients.keys[key].is_counter
            && !self.plan.may_forget()
            && !self.is_removing_since(operation.issued);
        if !is_sure || operation.floor == Timestamp::ZERO {
            return;
        }
        let (shown, floor) = (record.map(RecordRef::timestamp), operation.floor);
        if shown.map_or_else(|| !self.may_be_gone(key, floor), |stamp| stamp < floor) {
            let text = format!("a read at {level} shows {shown:?} after a write at a quorum with {floor}");
            self.violate("a quorum read sees every quorum write", Some(key), text);
        }
    }

    /// Whether a key may have been deleted since a stamp.
    fn may_be_gone(&self, key: usize, floor: Timestamp) -> bool {
        let known = self.clients.keys[key].operations.iter().filter_map(|id| self.clients.operations.get(id));
        let mut deletes = known.filter(|operation| operation.action.ends());
        deletes.any(|operation| match operation.state {
            State::Open | State::Doubt => true,
            State::Stored(stored) => stored.superseded || stored.timestamp >= floor,
            State::Refused | State::Answered => false,
        })
    }

    /// A member that answers by itself vouches for the partition: it has what all owners confirmed. Not
    /// where it may have been replaced as an owner without having heard of it.
    fn check_own(&mut self, operation: &Operation, record: Option<RecordRef<'_>>) {
        let (key, floor) = (operation.key, operation.floor_of_all);
        let moves = [Fault::Transition, Fault::Factor, Fault::Removal, Fault::Copied, Fault::Lie];
        let may_be_replaced = self.plan.joiners > 0 || moves.into_iter().any(|fault| self.plan.knows(fault));
        if may_be_replaced || self.clients.keys[key].is_counter || floor == Timestamp::ZERO {
            return;
        }
        let shown = record.map(RecordRef::timestamp);
        if shown.map_or_else(|| !self.may_be_gone(key, floor), |stamp| stamp < floor) {
            let text = format!("m{} shows {shown:?} after all owners confirmed {floor}", operation.front);
            self.violate("a complete owner has what all owners confirmed", Some(key), text);
        }
    }

    fn check_page(&mut self, operation: &Operation, page: &Page) {
        let collection = self.clients.keys[operation.key].collection;
        let mut rest = operation.keys(self.clients.keys[operation.key].as_ref());
        for row in &page.rows {
            let found = self
                .clients
                .keys
                .iter()
                .position(|key| key.collection == collection && key.bytes == row.key());
            if !rest.contains(row.key()) {
                return self.violate("a page is in order", found, format!("{row:?}, not of {rest:?}"));
            }
            rest = rest.beyond(row.key(), operation.reverse);
            match (found, row) {
                (Some(key), Row::Whole(record)) => self.check_shown(key, record.view()),
                (Some(_), Row::Key(_)) => {}
                (None, _) => self.violate("reads show what was written", None, format!("{row:?}")),
            }
            if operation.session.is_none() {
                self.clients.pages.push((row.key().to_vec(), row.timestamp()));
            }
        }
        if operation.session.is_none() && page.resume.is_some() {
            self.scan_on(operation.front, operation.key, page.resume.clone(), operation.reverse);
        }
    }

    /// A session stops waiting and goes on elsewhere; the operation stays open.
    pub fn lose_patience(&mut self, session: usize, operation: u64) {
        if self.clients.sessions[session].waits_for == Some(operation) {
            self.clients.sessions[session].waits_for = None;
            self.clients.sessions[session].front = self.random.index(self.members.len());
            self.session_step(session);
        }
    }

    /// A front is gone, and with it the answers to what was asked of it.
    pub fn clients_lose_front(&mut self, front: usize) {
        let mut left = Vec::new();
        for operation in self.clients.operations.values_mut() {
            if operation.front == front && operation.state == State::Open {
                operation.state = State::Doubt;
                left.extend(operation.session);
            }
        }
        for session in left {
            self.clients.sessions[session].waits_for = None;
            let after = self.random.between(1, 200) * MS;
            self.schedule(after, Event::Session { session });
        }
    }
}

impl Operation {
    /// What a scan is still about: all keys, or, of a session's, those from its own key on or those before it.
    fn keys(&self, own: KeyRef<'_>) -> KeyRange {
        let all = KeyRange::default();
        let keys = match (self.session, self.issued % 3) {
            (Some(_), 0) => all.starting_at(own.key()),
            (Some(_), 1) => all.ending_before(own.key()),
            _ => all,
        };
        match &self.resume {
            Some(resume) => keys.beyond(resume, self.reverse),
            None => keys,
        }
    }

    /// A line about it.
    pub fn line(&self, id: u64) -> String {
        format!(
            "{id} {:?} {:?} at m{} issued at {}.{:06} after {:x}: {:?}",
            self.action,
            self.level,
            self.front,
            self.issued / SECOND,
            self.issued % SECOND,
            self.after,
            self.state
        )
    }
}
