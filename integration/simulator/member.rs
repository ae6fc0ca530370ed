//! A member: an engine and what drives it, as the node does: turns, journal, store, timers, starts.

use crate::disk::{Disk, Found, Key, Model};
use crate::plan::{Fault, MS, Plan, SECOND};
use crate::random::Random;
use crate::real::Real;
use crate::world::{Event, World};
use kith::engine::operation::{Change, Row};
use kith::engine::{
    Batch, CheckpointStep, Engine, Identity, Load, Loaded, Mode, NOBODY, PageFound, PageWanted, Range,
    Replaced, TICK_US,
};
use kith::model::key::{ROSTER, SETTINGS};
use kith::model::roster::{MemberState, RosterEntry, RosterMember, entry_key};
use kith::model::settings::Sync;
use kith::model::settings::log::{self, CHANGE_PREFIX};
use kith::model::{KeyRef, MemberId, Now};
use kith::protocol::frame::Frame;
use std::collections::BTreeMap;

/// The wall clock's reading when the world begins, in milliseconds.
pub const EPOCH_MS: u64 = 1_800_000_000_000;
/// A start serves after this time even if it is not complete.
const RECOVERY: u64 = 10 * SECOND;

/// Something that reaches a member and is taken in at its next turn.
#[derive(Debug)]
pub enum Input {
    Tick,
    Frame {
        from: usize,
        link: u64,
        bytes: Vec<u8>,
    },
    LinkUp {
        peer: usize,
        link: u64,
        life: (u64, u64),
    },
    LinkDown {
        peer: usize,
        link: u64,
    },
    Liveness {
        peer: usize,
        alive: bool,
    },
    Synced(u64),
    Loaded(Load, Option<Vec<u8>>, bool),
    LoadFailed(Load),
    Ranged(u64, Vec<Row>, Option<Vec<u8>>),
    RangeFailed(u64),
    Paged(u64, Option<PageFound>),
    Batched(Vec<Replaced>),
    Committed,
    CheckpointFailed,
    Operation(u64),
    Admit(usize),
    Setting(&'static str, String),
    /// A collection's own replication factor; none takes it back.
    Factor(&'static str, Option<String>),
    Leave,
    Zone(String),
    /// Somebody wants a member removed, since this moment.
    Remove {
        target: usize,
        asked: u64,
    },
}

/// A job of a member's disk.
#[derive(Debug)]
pub enum Job {
    Sync { appended: usize, position: u64 },
    Load(Load),
    Range(Range),
    Page(PageWanted),
    Begin,
    Batch(Batch),
    CommitBegins,
    Commit,
}

/// A wall clock, right or wrong.
#[derive(Debug, Default)]
struct WallClock {
    offset_ms: i64,
    frozen_ms: Option<u64>,
    /// Parts per million that it runs too fast or too slow.
    drift: i64,
}

impl WallClock {
    fn read(&self, now: u64) -> u64 {
        let since = i64::try_from(now / MS).unwrap_or(0);
        let right = EPOCH_MS.saturating_add_signed(since);
        self.frozen_ms
            .unwrap_or_else(|| right.saturating_add_signed(self.offset_ms + since * self.drift / 1_000_000))
    }
}

/// One member.
pub struct Member {
    pub index: usize,
    pub id: MemberId,
    entry: RosterEntry,
    pub engine: Option<Engine>,
    pub disk: Disk,
    /// What its store holds, looked up for the checks at the end.
    pub stored: BTreeMap<Key, Vec<u8>>,
    /// Rises with each start and each crash: what was meant for an earlier life is void.
    pub epoch: u64,
    incarnation: u64,
    life: u64,
    inbox: Vec<Input>,
    has_turn: bool,
    paused_until: u64,
    started_at: u64,
    pub lost: bool,
    /// It left, and is gone for good.
    pub left: bool,
    /// Others told it that it was removed.
    pub is_expelled: bool,
    /// Its place is for a copy of another one's data directory.
    pub is_twin: bool,
    /// What it told of its journal in this life: to whom, in which epoch of theirs, up to where.
    told: BTreeMap<(usize, u64), u64>,
    /// Who was told more than its disk kept.
    pub owed: Vec<(usize, u64)>,
    /// When the last frame of each peer came.
    frames: BTreeMap<usize, u64>,
    pub is_member: bool,
    may_be_wrong: bool,
    clock: WallClock,
    links: BTreeMap<usize, u64>,
    heard: BTreeMap<usize, u64>,
    sync_running: bool,
    sync_wanted: bool,
    last_sync: u64,
    store_free_at: u64,
    checkpoint_failed: bool,
    pub full_until: u64,
    retry_at: u64,
    slow_until: u64,
    /// The highest stamp of its clock that was shown to anybody.
    pub shown: u64,
    /// When it last had links to no majority.
    pub alone_at: u64,
    /// When its wall clock last was so far behind that it must follow others.
    pub behind_at: u64,
    /// Its clock's time after its last turn.
    pub clock_time: u64,
}

impl Member {
    pub fn new(index: usize, plan: &Plan, random: &mut Random) -> Self {
        let mut public_key = [0; 32];
        public_key[..8].copy_from_slice(&random.number().to_le_bytes());
        public_key[8] = u8::try_from(index).unwrap_or(0);
        let zone = if plan.zones { format!("z{}", random.below(3)) } else { String::new() };
        let is_founder = index < plan.members;
        let entry = RosterEntry {
            name: format!("m{index}"),
            public_key,
            address: format!("127.0.0.1:{}", 7400 + index),
            http_address: format!("127.0.0.1:{}", 8400 + index),
            zone,
            next_zone: None,
            state: if is_founder { MemberState::Active } else { MemberState::Joining },
            admitted: 1 + index as u64,
        };
        Self {
            index,
            id: entry.id(),
            entry,
            engine: None,
            disk: if plan.real_storage {
                Disk::Real(Box::new(Real::new(random.number())))
            } else {
                Disk::Model(Model::default())
            },
            stored: BTreeMap::new(),
            epoch: 0,
            incarnation: 0,
            life: 0,
            inbox: Vec::new(),
            has_turn: false,
            paused_until: 0,
            started_at: 0,
            lost: false,
            left: false,
            is_expelled: false,
            is_twin: false,
            told: BTreeMap::new(),
            owed: Vec::new(),
            frames: BTreeMap::new(),
            is_member: is_founder,
            may_be_wrong: index < (plan.members - 1) / 2,
            clock: WallClock::default(),
            links: BTreeMap::new(),
            heard: BTreeMap::new(),
            sync_running: false,
            sync_wanted: false,
            last_sync: 0,
            store_free_at: 0,
            checkpoint_failed: false,
            full_until: 0,
            retry_at: 0,
            slow_until: 0,
            shown: 0,
            alone_at: 0,
            behind_at: 0,
            clock_time: 0,
        }
    }

    pub const fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Whether it is up and not paused.
    pub const fn can_talk(&self, now: u64) -> bool {
        self.engine.is_some() && self.paused_until <= now
    }

    pub const fn is_paused(&self, now: u64) -> bool {
        self.paused_until > now
    }

    /// What its wall clock shows, right or wrong.
    pub fn wall_ms(&self, now: u64) -> u64 {
        self.clock.read(now)
    }

    /// Whether it never was up.
    pub const fn engine_is_new(&self) -> bool {
        self.incarnation == 0
    }

    pub const fn life(&self) -> (u64, u64) {
        (self.incarnation, self.life)
    }

    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// When the last frame of a peer came; 0 if none did.
    pub fn last_frame(&self, peer: usize) -> u64 {
        self.frames.get(&peer).copied().unwrap_or(0)
    }

    pub fn linked_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.links.keys().copied()
    }

    /// Its data directory is replaced.
    pub fn take_files(&mut self, disk: Disk, incarnation: u64) {
        (self.disk, self.incarnation) = (disk, incarnation);
        self.disk.crash(false, &mut Random::new(incarnation));
    }

    /// Notes whether a peer is heard now; returns for how long it was not.
    pub fn note_heard(&mut self, peer: usize, heard: bool, now: u64) -> u64 {
        let last = self.heard.entry(peer).or_insert(now);
        if heard {
            *last = now;
        }
        now - *last
    }

    /// What its engine believes of a peer; `None` when it knows nothing.
    pub fn believes_dead(&self, peer: usize, members: &[Self]) -> Option<bool> {
        let engine = self.engine.as_ref()?;
        engine.peer_facts(members[peer].id).map(|(_, dead, _)| dead)
    }

    fn now(&self, now: u64) -> Now {
        Now { wall_ms: self.clock.read(now), mono_us: now }
    }
}

impl World {
    /// Founds the cluster: the first member creates it, the others are let in.
    pub fn found(&mut self) {
        let entries: Vec<(MemberId, Vec<u8>)> =
            self.members.iter().filter(|m| m.is_member).map(|m| (m.id, m.entry.encode())).collect();
        let mut records: Vec<(&str, Vec<u8>, Vec<u8>)> =
            entries.into_iter().map(|(id, entry)| (ROSTER, entry_key(id), entry)).collect();
        let settings = self.plan.settings.records();
        records
            .extend(settings.map(|(name, value)| (SETTINGS, name.as_bytes().to_vec(), value.into_bytes())));
        self.start(0);
        let mut system = Vec::new();
        if let Some(engine) = &mut self.members[0].engine {
            engine.create(&records);
            engine.set_mode(Mode::Starting);
            system = engine.system_records();
        }
        self.wake(0);
        for member in 1..self.plan.members {
            self.start(member);
            if let Some(engine) = &mut self.members[member].engine {
                engine.welcome(&system);
                engine.set_mode(Mode::Starting);
            }
            self.wake(member);
        }
    }

    /// Starts a member from what its disk holds.
    pub fn start(&mut self, index: usize) {
        let (now, life) = (self.now, self.random.number());
        let (bounds, bits) = (self.plan.bounds, self.plan.partition_bits);
        let member = &mut self.members[index];
        if member.lost || member.engine.is_some() {
            return;
        }
        member.frames.clear();
        member.incarnation += 1;
        member.epoch += 1;
        member.life = life;
        let who = Identity { member: member.id, incarnation: member.incarnation, life };
        let mut engine = Engine::new(who, bounds, bits);
        engine.advance(member.now(now));
        let (found, mut error) = match member.disk.open(&mut self.random) {
            Ok(found) => (found, None),
            Err(error) => (Found::default(), Some(error)),
        };
        let (records, payloads) = (found.records.len() as u64, found.payloads.len() as u64);
        let settings = found.settings.iter();
        engine.restore_layout(
            settings.filter_map(|record| Some(kith::model::RecordRef::parse(record).ok()?.0)),
        );
        for record in &found.records {
            match kith::model::RecordRef::parse(record) {
                Ok((record, _)) => engine.restore_record(record),
                Err(bad) => error = Some(bad.to_string()),
            }
        }
        for payload in &found.payloads {
            error = error.or(engine.restore_journal(payload).err().map(|error| error.to_string()));
        }
        engine.restored(found.journal_bytes, found.intact);
        let has_cluster = !engine.roster().is_empty();
        if has_cluster {
            engine.set_mode(Mode::Starting);
        }
        member.engine = Some(engine);
        (member.started_at, member.has_turn, member.paused_until) = (now, false, 0);
        (member.sync_running, member.sync_wanted, member.store_free_at) = (false, false, now);
        (member.retry_at, member.checkpoint_failed, member.last_sync) = (0, false, now);
        member.heard.clear();
        let epoch = member.epoch;
        let incarnation = member.incarnation;
        self.note("start", &[index as u64, incarnation, records, payloads], || {
            format!(
                "m{index} incarnation {incarnation}: {records} records, {payloads} journal entries, {}",
                if found.intact { "intact" } else { "damaged" }
            )
        });
        if let Some(error) = error {
            self.violate("a start reads what was written", None, format!("m{index}: {error}"));
        }
        if now > 0 && !has_cluster && !self.let_in(index) {
            self.members[index].engine = None;
            return self.schedule(500 * MS, Event::Start { member: index });
        }
        self.schedule(TICK_US, Event::Tick { member: index, epoch });
        for other in (0..self.members.len()).filter(|other| *other != index) {
            let after = self.random.between(1, 100) * MS;
            self.schedule(after, Event::Connect { one: index, other });
        }
        self.wake(index);
    }

    /// Gives a member that knows no cluster the system records of one that does.
    fn let_in(&mut self, index: usize) -> bool {
        let id = self.members[index].id;
        let knows = |member: &Member| {
            let has_entry = |engine: &Engine| engine.roster().get(id).is_some();
            member.index != index && member.engine().is_some_and(has_entry)
        };
        let Some(contact) = self.members.iter().position(knows) else { return false };
        let records = self.members[contact].engine.as_mut().map(Engine::system_records).unwrap_or_default();
        if let Some(engine) = &mut self.members[index].engine {
            engine.welcome(&records);
            engine.set_mode(Mode::Starting);
        }
        true
    }

    /// A member's process stops in order; then it ends.
    fn stop(&mut self, index: usize) {
        let now = self.now;
        if self.members[index].is_paused(now) {
            return;
        }
        let Some(mut engine) = self.members[index].engine.take() else { return };
        self.note("stop", &[index as u64], || format!("m{index} stops in order"));
        engine.advance(self.members[index].now(now));
        engine.stop();
        self.append(index, &mut engine);
        self.members[index].engine = Some(engine);
    }

    /// Ends a member's process.
    pub fn crash(&mut self, index: usize, power_cut: bool, downtime: u64) {
        let Some(engine) = self.members[index].engine.take() else { return };
        let written = engine.positions().written;
        self.note("crash", &[index as u64, u64::from(power_cut)], || {
            format!("m{index} {}", if power_cut { "loses power" } else { "is killed" })
        });
        let member = &mut self.members[index];
        member.epoch += 1;
        member.inbox.clear();
        member.links.clear();
        let lost = member.disk.crash(power_cut, &mut self.random);
        let told = std::mem::take(&mut member.told);
        let kept = written.saturating_sub(lost);
        member.owed.extend(told.into_iter().filter(|(_, told)| *told > kept).map(|(to, _)| to));
        for other in (0..self.members.len()).filter(|other| *other != index) {
            self.break_link(index, other);
        }
        self.clients_lose_front(index);
        if !self.members[index].lost {
            self.schedule(downtime, Event::Start { member: index });
        }
    }

    /// Hands something to a member; it is taken in at its next turn.
    pub fn give(&mut self, index: usize, epoch: u64, input: Input) {
        let member = &mut self.members[index];
        if member.epoch == epoch && member.engine.is_some() {
            member.inbox.push(input);
            self.wake(index);
        }
    }

    /// Lets a member have a turn shortly.
    pub fn wake(&mut self, index: usize) {
        let member = &mut self.members[index];
        if !std::mem::replace(&mut member.has_turn, true) {
            let (epoch, pause) = (member.epoch, member.paused_until.saturating_sub(self.now));
            let after = pause + self.random.below(300);
            self.schedule(after, Event::Turn { member: index, epoch });
        }
    }

    pub fn tick(&mut self, index: usize, epoch: u64) {
        if self.members[index].epoch != epoch {
            return;
        }
        if !self.members[index].is_paused(self.now) {
            self.give(index, epoch, Input::Tick);
        }
        self.schedule(TICK_US, Event::Tick { member: index, epoch });
    }

    /// One turn of a member's loop.
    pub fn turn(&mut self, index: usize, epoch: u64) {
        let now = self.now;
        let member = &mut self.members[index];
        if member.epoch != epoch || member.engine.is_none() {
            return;
        }
        member.has_turn = false;
        if member.is_paused(now) {
            return self.wake(index);
        }
        let Some(mut engine) = member.engine.take() else { return };
        engine.advance(member.now(now));
        let inputs = std::mem::take(&mut member.inbox);
        for input in inputs {
            self.take_in(index, &mut engine, input);
        }
        engine.advance(self.members[index].now(now));
        engine.end_turn();
        self.append(index, &mut engine);
        self.store_jobs(index, &mut engine);
        self.send_frames(index, &mut engine);
        self.told(index, &mut engine);
        let completions = std::mem::take(&mut engine.lanes.completions);
        engine.lanes.membership_changed = false;
        let again = engine.wants_turn();
        self.members[index].clock_time = engine.clock_time();
        self.check_bounds(index, &engine);
        if engine.linked().count() <= self.members.len() / 2 {
            self.members[index].alone_at = now;
        }
        let behind_ms = self.plan.settings.max_clock_ahead_ms / 2;
        if self.members[index].wall_ms(now) + behind_ms < EPOCH_MS + now / MS {
            self.members[index].behind_at = now;
        }
        self.members[index].engine = Some(engine);
        for completion in completions {
            self.complete(index, completion);
        }
        if again {
            self.wake(index);
        }
    }

    /// What is bounded stays below its bound, and a shortfall that was noticed is owed to nobody.
    fn check_bounds(&mut self, index: usize, engine: &Engine) {
        let (_, number, bytes, _) = engine.hint_counts(engine.identity().member);
        let bound = engine.settings().hint_bytes.max(self.plan.settings.hint_bytes);
        if bytes > bound {
            let text = format!("m{index} keeps {bytes} bytes of {number} hints, above {bound}");
            self.violate("hints are bounded", None, text);
        }
        if engine.shortfall().is_some() {
            self.members[index].owed.clear();
        }
    }

    fn take_in(&mut self, index: usize, engine: &mut Engine, input: Input) {
        let id = |world: &Self, peer: usize| world.members[peer].id;
        match input {
            Input::Tick => self.timer(index, engine),
            Input::Frame { from, link, bytes } => {
                self.note_told(from, index, link, &bytes);
                if let Err(error) = engine.frame(id(self, from), link, &bytes) {
                    self.note("refused", &[index as u64, link], || format!("m{index} link {link}: {error}"));
                    engine.link_down(id(self, from), link);
                    if self.members[index].links.get(&from) == Some(&link) {
                        self.members[index].links.remove(&from);
                        self.break_link(index, from);
                    }
                }
            }
            Input::LinkUp { peer, link, life } => self.link_up(index, engine, peer, link, life),
            Input::LinkDown { peer, link } => {
                engine.link_down(id(self, peer), link);
                if self.members[index].links.get(&peer) == Some(&link) {
                    self.members[index].links.remove(&peer);
                }
            }
            Input::Liveness { peer, alive } => {
                self.note("liveness", &[index as u64, peer as u64, u64::from(alive)], || {
                    format!("m{index} takes m{peer} for {}", if alive { "alive" } else { "dead" })
                });
                engine.liveness(id(self, peer), alive);
            }
            Input::Synced(position) => engine.synced(position),
            Input::Loaded(load, _, true) => engine.loaded(&load, Loaded::Damaged),
            Input::Loaded(load, record, false) => {
                engine.loaded(&load, record.as_deref().map_or(Loaded::Absent, Loaded::Found));
            }
            Input::LoadFailed(load) => engine.loaded(&load, Loaded::Failed),
            Input::RangeFailed(id) => engine.range_failed(id),
            Input::Ranged(id, rows, resume) => engine.range_loaded(id, rows, resume),
            Input::Paged(id, page) => engine.page_loaded(id, page),
            Input::Batched(replaced) => engine.checkpoint_batch(&replaced),
            Input::Committed => engine.checkpoint_committed(),
            Input::CheckpointFailed => engine.checkpoint_failed(),
            Input::Setting(name, value) => {
                self.note("setting", &[index as u64], || format!("m{index} sets {name} to {value}"));
                let settings = BTreeMap::from([(name.to_owned(), Some(value))]);
                self.change_settings(index, engine, &log::Change { settings, ..log::Change::default() });
            }
            Input::Factor(collection, copies) => {
                self.note("factor", &[index as u64], || {
                    format!("m{index} sets copies of {collection} to {copies:?}")
                });
                let values = BTreeMap::from([("replication_factor".to_owned(), copies)]);
                let collections = BTreeMap::from([(collection.to_owned(), values)]);
                self.change_settings(index, engine, &log::Change { collections, ..log::Change::default() });
            }
            Input::Leave | Input::Zone(_) => self.change_entry(index, engine, input),
            Input::Remove { target, asked } => self.ask_removal(index, engine, target, asked),
            Input::Operation(operation) => self.begin_operation(index, engine, operation),
            Input::Admit(joiner) => {
                let entry = self.members[joiner].entry.clone();
                engine.write_roster_entry(entry.id(), &entry);
                // A contact whose disk takes nothing lets nobody in.
                if self.members[joiner].is_member || engine.roster().get(entry.id()).is_none() {
                    return;
                }
                self.members[joiner].is_member = true;
                self.note("admit", &[index as u64, joiner as u64], || format!("m{index} lets m{joiner} in"));
                self.schedule(MS, Event::Start { member: joiner });
            }
        }
    }

    /// Makes a change of settings at a member.
    fn change_settings(&self, index: usize, engine: &mut Engine, change: &log::Change) {
        let version = format!("{CHANGE_PREFIX}{}-{index}", self.now);
        if let Ok(key) = KeyRef::new(SETTINGS, version.as_bytes()) {
            let change = change.to_bytes();
            engine.write_system(NOBODY, key, Change::Set { value: &change, expiry_ms: None });
        }
    }

    /// Notes that a frame came, and up to where it says that its sender's journal is fsynced.
    fn note_told(&mut self, from: usize, index: usize, link: u64, bytes: &[u8]) {
        if self.members[index].links.get(&from) != Some(&link) {
            return;
        }
        self.members[index].frames.insert(from, self.now);
        if let Ok(frame) = Frame::parse(bytes) {
            let to = (index, self.members[index].epoch);
            let told = self.members[from].told.entry(to).or_insert(0);
            *told = frame.header.durable.max(*told);
        }
    }

    /// Somebody changes a setting that no check of the simulator relies on.
    fn change_setting(&mut self, index: usize) {
        let kinds = if self.plan.more_settings { 6 } else { 3 };
        // Who acknowledges before the fsync may lose it with the power.
        let may_be_lost = self.plan.knows(Fault::PowerCut);
        let (name, value) = match self.random.below(kinds) {
            3 => ("repair_bytes_per_second", format!("{}KiB", 64 << self.random.below(9))),
            4 => ("scrub_bytes_per_second", format!("{}KiB", self.random.below(2) * 64)),
            5 if may_be_lost => return,
            5 => ("sync", ["always", "interval"][self.random.index(2)].to_owned()),
            0 => ("write_timeout", format!("{}ms", self.random.between(200, 1_500))),
            1 => ("sync_interval", format!("{}ms", self.random.between(50, 1_000))),
            _ => ("hint_bytes", format!("{}MiB", self.random.between(64, 512))),
        };
        if self.serves(index) {
            let epoch = self.members[index].epoch;
            self.give(index, epoch, Input::Setting(name, value));
        }
    }

    /// Somebody changes how many members hold the records of a collection.
    fn change_factor(&mut self, index: usize) {
        if !self.serves(index) {
            return;
        }
        let most = self.members.iter().filter(|member| member.is_member && !member.left).count().min(5);
        let least = self.plan.least_factor();
        let copies = least + self.random.index((most + 1).saturating_sub(least).max(1));
        let copies = self.random.chance(850).then(|| copies.to_string());
        let collection = ["default", "other", "nobodys"][self.random.index(3)];
        let epoch = self.members[index].epoch;
        self.give(index, epoch, Input::Factor(collection, copies));
    }

    /// Somebody changes what moves data.
    fn change_placement(&mut self, index: usize) {
        let epoch = self.members[index].epoch;
        if !self.serves(index) {
            return;
        }
        let input = match self.random.below(4) {
            0 | 1 => {
                let most = self.members.iter().filter(|member| member.is_member && !member.left).count();
                let copies = 1 + self.random.index(most.min(5));
                Input::Setting("replication_factor", copies.to_string())
            }
            2 => Input::Zone(format!("z{}", self.random.below(3))),
            // Less than half of all clocks may be wrong, and each may be needed.
            _ if self.plan.knows(Fault::Clock) => return,
            _ if self.plan.rarer.lonely => return self.leave_alone(index),
            _ => Input::Leave,
        };
        self.give(index, epoch, input);
    }

    /// A member is cut off from all others for a while, and leaves meanwhile.
    fn leave_alone(&mut self, index: usize) {
        let time = self.random.between(2_000, 6_000) * MS;
        for other in (0..self.members.len()).filter(|other| *other != index) {
            self.cut(index, other, time);
            self.cut(other, index, time);
        }
        let (after, epoch) = (self.random.below(time), self.members[index].epoch);
        self.schedule(after, Event::Input { member: index, epoch, input: Input::Leave });
    }

    fn change_entry(&mut self, index: usize, engine: &mut Engine, input: Input) {
        let id = self.members[index].id;
        let Some(entry) = engine.roster().get(id).map(|known| known.entry.clone()) else { return };
        let is_active = |known: &RosterMember| known.entry.state == MemberState::Active;
        let stay = engine.roster().members().filter(|(_, known)| is_active(known)).count();
        let entry = match input {
            Input::Zone(zone) => RosterEntry { next_zone: Some(zone), ..entry },
            // Enough stay that a quorum of them is one of the whole cluster.
            _ if entry.state == MemberState::Active && stay > 2 => {
                RosterEntry { state: MemberState::Leaving, next_zone: None, ..entry }
            }
            _ => return,
        };
        let text = format!("m{index} becomes {:?} {:?}", entry.state, entry.next_zone);
        self.note("entry", &[index as u64], || text);
        engine.write_roster_entry(id, &entry);
    }

    fn timer(&mut self, index: usize, engine: &mut Engine) {
        // Who left and was cut off before all knew it is told so when it returns, and has ended, too.
        let is_told = self.members[index].is_expelled && engine.roster().is_removed(engine.identity().member);
        if (engine.has_taken_leave() || is_told) && !std::mem::replace(&mut self.members[index].left, true) {
            self.note("left", &[index as u64], || format!("m{index}"));
            self.members[index].lost = true;
            let epoch = self.members[index].epoch;
            self.schedule(1, Event::Gone { member: index, epoch });
        }
        if *engine.mode() == Mode::Starting {
            let state = engine.roster().get(engine.identity().member).map(|known| known.entry.state);
            let is_whole = engine.is_complete() && !engine.is_catching_up();
            let late = self.now > self.members[index].started_at + RECOVERY;
            if state.is_some_and(|state| state != MemberState::Joining) && (is_whole || late) {
                engine.set_mode(Mode::Serving);
                self.open_watches(index, engine);
                let complete = engine.is_complete();
                self.note("serves", &[index as u64], || format!("m{index}, complete: {complete}"));
            }
        }
        self.drop_fenced(index, engine);
        engine.tick();
        let due = self.members[index].last_sync + engine.settings().sync_interval_ms * MS;
        if engine.positions().written > engine.positions().synced && self.now >= due {
            self.sync(index, engine);
        }
    }

    fn link_up(&mut self, index: usize, engine: &mut Engine, peer: usize, link: u64, life: (u64, u64)) {
        if self.is_broken(link) {
            return;
        }
        let id = self.members[peer].id;
        if let Err(seen) = engine.check_life(id, life.0, life.1) {
            if self.plan.knows(Fault::Copied) {
                let epoch = self.members[peer].epoch;
                self.schedule(MS, Event::Refused { member: peer, epoch });
                return self.break_link(index, peer);
            }
            let text =
                format!("m{index} takes incarnation {} of m{peer} for a copy, having seen {seen}", life.0);
            return self.violate("a member that restarts is known again", None, text);
        }
        // Of two with one key the later one has the link.
        let older = |at: &usize| *at != peer && self.members[*at].id == id;
        let older = self.members[index].linked_slots().find(older);
        if let Some(older) = older {
            self.members[index].links.remove(&older);
            self.break_link(index, older);
        }
        engine.link_up(id, link);
        self.members[index].links.insert(peer, link);
    }

    /// Appends the turn's bytes to the journal, as the node does.
    fn append(&mut self, index: usize, engine: &mut Engine) {
        let now = self.now;
        let member = &mut self.members[index];
        if now < member.retry_at {
            return;
        }
        let full = now < member.full_until;
        if engine.lanes.rotate {
            if full {
                member.retry_at = now + 100 * MS;
                return engine.set_storage_problem(Some("the disk is full".to_owned()));
            }
            if let Err(error) = member.disk.rotate() {
                return self.violate("the storage works", None, format!("m{index}: {error}"));
            }
            engine.lanes.rotate = false;
        }
        if engine.lanes.journal.is_empty() {
            return;
        }
        if full {
            member.retry_at = now + 100 * MS;
            return engine.set_storage_problem(Some("the disk is full".to_owned()));
        }
        if let Err(error) = member.disk.append(&engine.lanes.journal) {
            return self.violate("the storage works", None, format!("m{index}: {error}"));
        }
        if member.retry_at > 0 {
            member.retry_at = 0;
            engine.set_storage_problem(None);
        }
        engine.written();
        let wanted = std::mem::take(&mut engine.lanes.sync);
        if wanted || engine.settings().sync == Sync::Always {
            self.sync(index, engine);
        }
    }

    fn sync(&mut self, index: usize, engine: &Engine) {
        let member = &mut self.members[index];
        member.last_sync = self.now;
        if std::mem::replace(&mut member.sync_running, true) {
            member.sync_wanted = true;
            return;
        }
        let job = Job::Sync { appended: member.disk.appended(), position: engine.positions().written };
        let (epoch, after) = (member.epoch, self.disk_delay(index));
        self.schedule(after, Event::Disk { member: index, epoch, job });
    }

    fn disk_delay(&mut self, index: usize) -> u64 {
        let usual = self.plan.disk_delay;
        if self.now < self.members[index].slow_until {
            self.random.between(usual, usual * 100)
        } else if self.troubled {
            self.random.delay(usual)
        } else {
            self.random.calm_delay(usual)
        }
    }

    fn store_jobs(&mut self, index: usize, engine: &mut Engine) {
        for load in std::mem::take(&mut engine.lanes.loads) {
            self.ask_store(index, Job::Load(load));
        }
        for range in std::mem::take(&mut engine.lanes.ranges) {
            self.ask_store(index, Job::Range(range));
        }
        for page in std::mem::take(&mut engine.lanes.pages) {
            self.ask_store(index, Job::Page(page));
        }
        if engine.lanes.rotate {
            return;
        }
        match engine.lanes.checkpoint.take() {
            Some(CheckpointStep::Begin) => self.ask_store(index, Job::Begin),
            Some(CheckpointStep::Batch(batch)) => self.ask_store(index, Job::Batch(batch)),
            Some(CheckpointStep::Commit) => self.ask_for_commit(index),
            None => {}
        }
    }

    /// The store does one job after the other.
    fn ask_store(&mut self, index: usize, job: Job) {
        let delay = self.disk_delay(index);
        let member = &mut self.members[index];
        member.store_free_at = member.store_free_at.max(self.now) + delay;
        let (epoch, after) = (member.epoch, member.store_free_at - self.now);
        self.schedule(after, Event::Disk { member: index, epoch, job });
    }

    /// A commit takes its time, and the power may fail in the middle of it; but the store begins it
    /// only when it has done what it was asked before.
    fn ask_for_commit(&mut self, index: usize) {
        let member = &self.members[index];
        let (epoch, after) = (member.epoch, member.store_free_at.saturating_sub(self.now));
        self.schedule(after, Event::Disk { member: index, epoch, job: Job::CommitBegins });
        self.ask_store(index, Job::Commit);
    }

    pub fn disk_done(&mut self, index: usize, epoch: u64, job: Job) {
        if self.members[index].epoch != epoch {
            return;
        }
        match self.carry_out(index, job) {
            Ok(Some(input)) => self.give(index, epoch, input),
            Ok(None) => {}
            Err(error) => self.violate("the storage works", None, format!("m{index}: {error}")),
        }
    }

    /// Does a job of a disk; tells what the member is to hear of it.
    fn carry_out(&mut self, index: usize, job: Job) -> Result<Option<Input>, String> {
        let fails = self.troubled && self.plan.knows(Fault::Checkpoint) && self.random.chance(150);
        let member = &mut self.members[index];
        Ok(Some(match job {
            Job::Sync { appended, position } => {
                member.disk.fsynced(appended)?;
                member.sync_running = false;
                if std::mem::take(&mut member.sync_wanted)
                    && let Some(engine) = member.engine.take()
                {
                    self.sync(index, &engine);
                    self.members[index].engine = Some(engine);
                }
                Input::Synced(position)
            }
            Job::Load(load) if fails => Input::LoadFailed(load),
            Job::Range(range) if fails => Input::RangeFailed(range.id),
            Job::Load(load) => {
                let (record, damaged) = member.disk.load(&load)?;
                Input::Loaded(load, record, damaged)
            }
            Job::Range(range) => {
                let (rows, resume) = member.disk.range(&range)?;
                Input::Ranged(range.id, rows, resume)
            }
            Job::Page(wanted) if fails => Input::Paged(wanted.id, None),
            Job::Page(wanted) => Input::Paged(wanted.id, Some(member.disk.page(&wanted)?)),
            Job::Begin => {
                member.checkpoint_failed = false;
                member.disk.begin()?;
                return Ok(None);
            }
            Job::Batch(_) | Job::CommitBegins | Job::Commit if member.checkpoint_failed => return Ok(None),
            Job::CommitBegins => {
                member.disk.committing();
                return Ok(None);
            }
            Job::Batch(_) | Job::Commit if fails => {
                member.checkpoint_failed = true;
                member.disk.abort();
                Input::CheckpointFailed
            }
            Job::Batch(batch) => Input::Batched(member.disk.batch(&batch)?),
            Job::Commit => {
                member.disk.commit()?;
                Input::Committed
            }
        }))
    }

    fn send_frames(&mut self, index: usize, engine: &mut Engine) {
        let links: Vec<(usize, u64)> =
            self.members[index].links.iter().map(|(peer, link)| (*peer, *link)).collect();
        for (peer, link) in links {
            let mut bytes = Vec::new();
            if !engine.take_frame(self.members[peer].id, &mut bytes) {
                continue;
            }
            self.members[index].clock_time = engine.clock_time();
            self.watch_frame(index, &bytes);
            self.send(index, peer, link, bytes);
        }
        for (id, reason) in std::mem::take(&mut engine.lanes.close) {
            let linked = self.members[index].linked_slots().find(|at| self.members[*at].id == id);
            if let Some(peer) = linked {
                self.note("close", &[index as u64, peer as u64], || format!("m{index} to m{peer}: {reason}"));
                if let Some(link) = self.members[index].links.remove(&peer) {
                    engine.link_down(id, link);
                    self.break_link(index, peer);
                }
            }
        }
    }

    /// Looks into a frame for the stamps that it shows.
    fn watch_frame(&mut self, index: usize, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else {
            return self.violate("a member's frames have a shape", None, format!("m{index}"));
        };
        for record in frame.records.iter().flatten() {
            let (number, purpose, record) = record;
            let stamp = record.timestamp();
            if stamp.member == self.members[index].id && stamp.time <= self.members[index].clock_time {
                self.members[index].shown = self.members[index].shown.max(stamp.time);
            }
            self.note("record", &[number, stamp.time, stamp.member.0], || {
                format!(
                    "m{index} sends {} {:?} {stamp} as {purpose:?} {number}",
                    String::from_utf8_lossy(
                        record.key().split(|byte| *byte == b'.').next().unwrap_or_default()
                    ),
                    record.kind()
                )
            });
        }
    }

    /// A fault of one member.
    pub fn member_fault(&mut self, fault: Fault) {
        let index = self.random.index(self.members.len());
        match fault {
            Fault::Kill => {
                let downtime = self.random.duration(3 * SECOND);
                // By the time, so that nothing more is drawn.
                if self.plan.stops && self.now.is_multiple_of(2) {
                    self.stop(index);
                }
                self.crash(index, false, downtime);
            }
            Fault::PowerCut => {
                let everywhere = self.random.chance(150);
                self.power_cut(everywhere);
            }
            Fault::Pause => {
                let time = self.random.duration(2 * SECOND);
                self.members[index].paused_until = self.now + time;
                self.note("pause", &[index as u64, time], || format!("m{index} for {} ms", time / MS));
            }
            Fault::Clock => self.clock_fault(index),
            Fault::DiskFull => {
                let time = self.random.duration(2 * SECOND);
                self.members[index].full_until = self.now + time;
                self.note("full", &[index as u64, time], || format!("m{index} for {} ms", time / MS));
            }
            Fault::DiskSlow => {
                let time = self.random.duration(2 * SECOND);
                self.members[index].slow_until = self.now + time;
                self.note("slow", &[index as u64, time], || format!("m{index} for {} ms", time / MS));
            }
            Fault::Damage => {
                // Only one member's disk goes bad.
                let last = self.plan.members - 1;
                self.members[last].disk.damage(&mut self.random);
            }
            Fault::Join => self.admit(),
            Fault::Setting => self.change_setting(index),
            Fault::Transition => self.change_placement(index),
            Fault::Factor => self.change_factor(index),
            Fault::Removal => self.try_removal(index),
            Fault::Copied => self.copy_fault(),
            Fault::Lost => {
                let last = self.plan.members - 1;
                self.members[last].lost = true;
                self.crash(last, true, 0);
            }
            _ => {}
        }
    }

    /// The power fails for one member, or for all at the same moment.
    pub fn power_cut(&mut self, everywhere: bool) {
        let one = self.random.index(self.members.len());
        self.clients.retired |= everywhere && self.random.chance(500);
        for index in 0..self.members.len() {
            if everywhere || index == one {
                let downtime = self.random.duration(3 * SECOND);
                self.crash(index, true, downtime);
            }
        }
    }

    fn admit(&mut self) {
        let joiner = self.members.iter().position(|member| !member.is_member && !member.is_twin);
        let contact = self.random.index(self.plan.members);
        if let Some(joiner) = joiner.filter(|_| self.serves(contact)) {
            let epoch = self.members[contact].epoch;
            self.give(contact, epoch, Input::Admit(joiner));
        }
    }

    /// A certain member asks to be let in.
    pub fn admit_at(&mut self, joiner: usize) {
        let contact = self.random.index(self.plan.members);
        if self.serves(contact) {
            let epoch = self.members[contact].epoch;
            self.give(contact, epoch, Input::Admit(joiner));
        }
    }

    /// A member's place is taken by a copy of another one.
    pub fn become_twin(&mut self, twin: usize, of: usize) {
        let (id, entry) = (self.members[of].id, self.members[of].entry.clone());
        let member = &mut self.members[twin];
        (member.id, member.entry, member.is_member) = (id, entry, true);
    }

    /// One member is away from now on, nearly to the end.
    pub fn go_away(&mut self) {
        let last = self.plan.members - 1;
        let downtime = self.plan.trouble.saturating_sub(SECOND);
        self.crash(last, false, downtime);
    }

    /// Clocks of a minority go wrong, in all the ways that clocks do.
    fn clock_fault(&mut self, index: usize) {
        if !self.members[index].may_be_wrong {
            return;
        }
        let kind = self.random.below(5);
        let range = match self.random.below(3) {
            0 => 3_000,
            1 => 60_000,
            _ => self.plan.clock_range_ms,
        };
        let offset =
            i64::try_from(self.random.below(2 * range)).unwrap_or(0) - i64::try_from(range).unwrap_or(0);
        let (now, drift) = (self.now, i64::try_from(self.random.below(20_000)).unwrap_or(0) - 10_000);
        let clock = &mut self.members[index].clock;
        match kind {
            0 | 1 => clock.offset_ms = offset,
            2 => clock.frozen_ms = Some(clock.read(now)),
            3 => clock.drift = drift,
            _ => (clock.offset_ms, clock.drift) = (0, 0),
        }
        if kind == 2 {
            let after = self.random.below(5 * SECOND);
            self.schedule(after, Event::Thaw { member: index });
        }
        self.note("clock", &[index as u64, kind, offset.unsigned_abs()], || {
            format!("m{index} kind {kind}: offset {offset} ms, drift {drift}")
        });
    }

    pub fn thaw(&mut self, index: usize) {
        self.members[index].clock.frozen_ms = None;
    }

    /// What ails single members ends.
    pub fn mend_members(&mut self) {
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            (member.paused_until, member.full_until, member.slow_until) = (self.now, 0, 0);
            member.clock.frozen_ms = None;
            member.has_turn = false;
            self.wake(index);
        }
    }

    /// The next fault of those that this world knows.
    pub fn fault(&mut self) {
        if !self.troubled {
            return;
        }
        if let Some(fault) = self.random.pick(&self.plan.faults) {
            match fault {
                Fault::Reset
                | Fault::Duplicate
                | Fault::OneWay
                | Fault::Cut
                | Fault::Flap
                | Fault::Slow
                | Fault::Hostile => self.network_fault(fault),
                Fault::Lost if self.random.chance(800) => {}
                Fault::Liveness | Fault::Checkpoint => {}
                fault => self.member_fault(fault),
            }
        }
        let after = self.random.delay(self.plan.fault_every);
        self.schedule(after, Event::Fault);
    }
}
