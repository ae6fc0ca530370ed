//! Who watches: each member that serves has some watches, and what they are told is checked at once. Within an
//! epoch a key's record only moves forward in the order of merging, whatever happens to whom; and when all has come to
//! rest each watch has what the owners hold, with nothing but what it was told.

use crate::clients::State;
use crate::member::Member;
use crate::random::Random;
use crate::world::World;
use kith::engine::Engine;
use kith::engine::watch::{ChangeKind, Form, Interest, Kinds, Output};
use kith::model::merge::{Merged, merge};
use kith::model::{Kind, Record, RecordRef, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Of a thousand turns with something to tell so many lose it.
const LOST: u64 = 4;

/// One watch of one life of a member.
#[derive(Debug)]
struct Watcher {
    front: usize,
    /// The front's life.
    life: u64,
    feed: u64,
    /// Which collection it has the records of; none: it is told of all changes by name.
    collection: Option<&'static str>,
    /// The epoch that it is in, and pages that are still to come.
    begun: Option<(u64, usize)>,
    records: BTreeMap<Vec<u8>, Record>,
    named: BTreeSet<(String, Vec<u8>)>,
    /// It had a gap since it was last asked.
    had_gap: bool,
}

impl Watcher {
    const fn has_all(&self) -> bool {
        matches!(self.begun, Some((_, 0)))
    }
}

/// All watches.
#[derive(Debug)]
pub struct Watchers {
    all: Vec<Watcher>,
    /// Pages that were asked for: of which feed of whom, in which epoch, of which source.
    pages: BTreeMap<u64, (usize, u64, u64, usize)>,
    last_page: u64,
    random: Random,
}

impl Watchers {
    pub fn new(seed: u64) -> Self {
        Self { all: Vec::new(), pages: BTreeMap::new(), last_page: 0, random: Random::new(seed) }
    }

    fn at(&mut self, front: usize, feed: u64) -> Option<&mut Watcher> {
        self.all.iter_mut().find(|watcher| (watcher.front, watcher.feed) == (front, feed))
    }
}

/// Whether a record may follow another one under its key.
fn may_follow(before: RecordRef<'_>, after: RecordRef<'_>) -> bool {
    // What was deleted may have been forgotten since: who counts then begins over nothing.
    let is_anew = !before.kind().is_live() && after.timestamp() == Timestamp::ZERO;
    let is_later = match merge(before, after) {
        Merged::Incoming => true,
        Merged::Present => before.element() == after.element(),
        Merged::Joined(joined) => joined.view() == after,
    };
    is_later || is_anew
}

impl World {
    /// A member serves: some watch there from now on.
    pub fn open_watches(&mut self, index: usize, engine: &mut Engine) {
        if !self.plan.watched {
            return;
        }
        let life = self.members[index].epoch;
        self.watchers.all.retain(|watcher| watcher.front != index);
        let wanted = [Some("default"), Some("other"), None];
        for collection in wanted.into_iter().skip(index % 3) {
            let interest = Interest { collection: collection.map(str::to_owned), prefix: Vec::new() };
            let form = if collection.is_some() { Form::Latest } else { Form::Each(Kinds::ALL) };
            match engine.begin_feed(interest, form) {
                Ok(feed) => self.watchers.all.push(Watcher {
                    front: index,
                    life,
                    feed,
                    collection,
                    begun: None,
                    records: BTreeMap::new(),
                    named: BTreeSet::new(),
                    had_gap: false,
                }),
                Err(error) => {
                    self.violate("who serves can be watched at", None, format!("m{index}: {error}"));
                }
            }
        }
    }

    /// What a member tells those who watch at the end of its turn.
    pub fn told(&mut self, index: usize, engine: &mut Engine) {
        let mut outputs = engine.take_outputs();
        if outputs.is_empty() {
            return;
        }
        if self.watchers.random.chance(LOST) {
            outputs.retain(|output| matches!(output, Output::Ended { .. }));
            engine.outputs_lost();
            self.note("told", &[index as u64], || format!("m{index} can't keep what is told"));
            self.wake(index);
        }
        for output in outputs {
            self.take_output(index, engine, output);
        }
    }

    fn take_output(&mut self, index: usize, engine: &mut Engine, output: Output) {
        match output {
            Output::Begun { feed, epoch, sources } => {
                let Some(watcher) = self.watchers.at(index, feed) else { return };
                watcher.begun = Some((epoch, if watcher.collection.is_some() { sources } else { 0 }));
                watcher.records.clear();
                if watcher.collection.is_some() {
                    for source in 0..sources {
                        self.ask_for_page(index, engine, (feed, epoch, source), None);
                    }
                }
            }
            Output::Changed { feed, records } => self.take_records(index, feed, &records, "change"),
            Output::Named { feed, changes } => {
                for change in changes {
                    self.take_named(index, feed, &change);
                }
            }
            Output::Page { token, page } => {
                let Some((front, feed, epoch, source)) = self.watchers.pages.remove(&token) else { return };
                let watcher = self.watchers.at(front, feed).filter(|watcher| {
                    front == index && watcher.begun.is_some_and(|(begun, _)| begun == epoch)
                });
                let Some(watcher) = watcher else { return };
                let Some(page) = page else {
                    let after = None;
                    return self.ask_for_page(index, engine, (feed, epoch, source), after);
                };
                if page.resume.is_none()
                    && let Some((_, pages)) = &mut watcher.begun
                {
                    *pages -= 1;
                }
                self.take_records(index, feed, &page.records, "page");
                if page.resume.is_some() {
                    self.ask_for_page(index, engine, (feed, epoch, source), page.resume);
                }
            }
            Output::Gap { feed, reason } => {
                self.note("gap", &[index as u64, feed], || format!("m{index} feed {feed}: {reason:?}"));
                if let Some(watcher) = self.watchers.at(index, feed) {
                    (watcher.begun, watcher.had_gap) = (None, true);
                }
            }
            Output::Ended { feed, .. } => {
                self.watchers.all.retain(|watcher| (watcher.front, watcher.feed) != (index, feed));
            }
        }
    }

    fn ask_for_page(
        &mut self,
        index: usize,
        engine: &mut Engine,
        (feed, epoch, source): (u64, u64, usize),
        after: Option<Vec<u8>>,
    ) {
        self.watchers.last_page += 1;
        let token = self.watchers.last_page;
        self.watchers.pages.insert(token, (index, feed, epoch, source));
        engine.feed_page(token, feed, epoch, source, after);
        self.wake(index);
    }

    fn take_records(&mut self, index: usize, feed: u64, records: &[u8], what: &str) {
        let mut rest = records;
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            self.take_record(index, feed, record, what);
        }
        if !rest.is_empty() {
            self.violate("what is told are records", None, format!("m{index}, {} bytes", rest.len()));
        }
    }

    fn take_record(&mut self, index: usize, feed: u64, record: RecordRef<'_>, what: &str) {
        let key = self.clients.keys.iter().position(|key| record.is_of(key.as_ref()));
        let time = record.timestamp().time;
        let name = key.map(|key| self.clients.keys[key].name.clone()).unwrap_or_default();
        self.note("watch", &[index as u64, feed, time], || {
            format!("m{index} feed {feed} {what} {name} {record:?}")
        });
        let Some(watcher) = self.watchers.at(index, feed) else { return };
        let is_its = watcher.collection == Some(record.collection());
        if watcher.begun.is_none() || !is_its {
            let text = format!("m{index} feed {feed}: {record:?}");
            return self.violate("a watch is told what it watches, while it does", key, text);
        }
        let before = watcher.records.insert(record.key().to_vec(), Record::copy_of(record));
        if let Some(before) = before.filter(|before| !may_follow(before.view(), record)) {
            let text = format!("m{index} feed {feed} {what}: {record:?} after {before:?}");
            return self.violate("a watch is never told older after newer", key, text);
        }
        if record.kind() == Kind::Value {
            let written = self.clients.written(record);
            let is_known = written
                .is_some_and(|operation| Some(operation.key) == key && operation.state != State::Refused);
            if !is_known {
                let text = format!("m{index} feed {feed}: {record:?}, {written:?}");
                self.violate("a watch is told what was written", key, text);
            }
        }
    }

    fn take_named(&mut self, index: usize, feed: u64, change: &kith::engine::watch::NamedChange) {
        let place =
            |key: &crate::clients::Key| key.collection == change.collection && key.bytes == change.key;
        let key = self.clients.keys.iter().position(place);
        let counts = key.map(|key| self.clients.keys[key].is_counter);
        let is_possible = match change.kind {
            ChangeKind::Set | ChangeKind::Delete | ChangeKind::Expire => counts == Some(false),
            ChangeKind::Increment => counts == Some(true),
        };
        if !is_possible {
            self.violate("a change is what clients do", key, format!("m{index} feed {feed}: {change:?}"));
        }
        if let Some(watcher) = self.watchers.at(index, feed) {
            watcher.named.insert((change.collection.clone(), change.key.clone()));
        }
    }

    /// From now on each change by name counts.
    pub fn forget_named(&mut self) {
        for watcher in &mut self.watchers.all {
            watcher.named.clear();
            watcher.had_gap = !watcher.has_all();
        }
    }

    /// A watch that does not have yet what the owners hold.
    pub fn unwatched(&self) -> Option<String> {
        for (index, engine) in self.live().filter(|_| self.plan.watched) {
            let life = self.members[index].epoch;
            let mut its = self.watchers.all.iter().filter(|watcher| watcher.front == index);
            if self.serves(index) && its.clone().count() != 3 - index % 3 {
                return Some(format!("m{index} has {} watches", its.count()));
            }
            let late = its.clone().find(|watcher| !watcher.has_all() || watcher.life != life);
            if let Some(late) = late {
                return Some(format!("m{index} feed {}: {:?}", late.feed, late.begun));
            }
            let lacking = its.find_map(|watcher| self.lacks(watcher, engine));
            if lacking.is_some() {
                return lacking;
            }
        }
        None
    }

    fn lacks(&self, watcher: &Watcher, engine: &Engine) -> Option<String> {
        let collection = watcher.collection?;
        for (at, key) in self.clients.keys.iter().enumerate().filter(|(_, key)| key.collection == collection)
        {
            let set = engine.placement().set_of(key.as_ref(), key.as_ref().hash());
            let owners = set.owners.iter().filter_map(|owner| {
                self.members.iter().position(|member: &Member| member.id == owner.member && !member.lost)
            });
            let held: Vec<Option<Record>> = owners.map(|owner| self.held(owner, at)).collect();
            let live =
                |record: &Option<Record>| record.clone().filter(|record| record.view().kind().is_live());
            let told = live(&watcher.records.get(&key.bytes).cloned());
            let mut held = held.iter().map(live);
            let first = held.next()?;
            // What expires is gone for one sooner than for the other.
            let expires =
                [&first, &told].into_iter().flatten().any(|record| record.view().expiry_ms().is_some());
            if told != first && !(expires && first.is_some()) {
                return Some(format!(
                    "m{} feed {} has {told:?} of {}, owners {first:?}",
                    watcher.front, watcher.feed, key.name
                ));
            }
        }
        None
    }

    /// A watch that was not told by name of what was written since.
    pub fn unnamed(&self) -> Option<String> {
        let by_name = |watcher: &&Watcher| {
            watcher.collection.is_none() && !watcher.had_gap && self.serves(watcher.front)
        };
        for watcher in self.watchers.all.iter().filter(by_name) {
            let was_told = |key: &&crate::clients::Key| {
                watcher.named.contains(&(key.collection.to_owned(), key.bytes.clone()))
            };
            if let Some(key) = self.clients.keys.iter().find(|key| !was_told(key)) {
                return Some(format!("m{} feed {}: nothing of {}", watcher.front, watcher.feed, key.name));
            }
        }
        None
    }
}
