//! Records that come, go and leave memory while they are sorted, against a model.

use crate::engine::copying::tests::{World, record};
use crate::engine::journal::{self, Entry};
use crate::engine::operation::Change;
use crate::engine::records::Records;
use crate::engine::table::{DIRTY, GONE, SETTLED, SHADOW, SlotId, UNRESOLVED};
use crate::engine::{Bounds, Engine, Identity, NOBODY};
use crate::model::hash_tree::{Group, HashTrees};
use crate::model::key::SETTINGS;
use crate::model::placement::Layout;
use crate::model::settings::collection::IN_FORCE_PREFIX;
use crate::model::settings::log;
use crate::model::{KeyRef, MemberId, Now, Record, RecordRef, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const BITS: u8 = 1;
const KEYS: u8 = 12;

/// What happens to the records of one member.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Write(u8),
    /// What comes late: memory must ask redb about it.
    Older(u8),
    Delete(u8),
    Load(u8),
    Forget(u8),
    Settle(u8),
    Checkpoint,
    Evict,
    Sort(usize),
    /// Another class comes, or goes.
    Other(bool),
}

fn any_event() -> impl Strategy<Value = Happens> {
    let key = 0..KEYS;
    prop_oneof![
        4 => key.clone().prop_map(Happens::Write),
        2 => key.clone().prop_map(Happens::Older),
        1 => key.clone().prop_map(Happens::Delete),
        2 => key.clone().prop_map(Happens::Load),
        1 => key.clone().prop_map(Happens::Forget),
        1 => key.prop_map(Happens::Settle),
        2 => Just(Happens::Checkpoint),
        2 => Just(Happens::Evict),
        3 => (1usize..4).prop_map(Happens::Sort),
        1 => any::<bool>().prop_map(Happens::Other),
    ]
}

fn name(number: u8) -> (&'static str, [u8; 1]) {
    (if number.is_multiple_of(3) { "other" } else { "sorted" }, [number + 1])
}

/// A member's records and what its redb has.
struct Model {
    records: Records,
    layout: Arc<Layout>,
    redb: BTreeMap<(String, Vec<u8>), Record>,
    time: u64,
    checkpoint: u32,
}

impl Model {
    /// Some records, of which memory has `in_memory` bytes.
    fn new(stored: u8, in_memory: usize) -> Self {
        let layout = Arc::new(Layout::new(BITS, std::iter::empty()));
        let (records, redb) = (Records::new(BITS), BTreeMap::new());
        let mut model = Self { records, layout, redb, time: 10, checkpoint: 0 };
        for number in 0..stored {
            let record = model.make(number, true);
            model.records.restore(record.view(), in_memory);
            model.redb.insert(names(record.view()), record);
        }
        model
    }

    fn make(&mut self, number: u8, lives: bool) -> Record {
        self.time += 1;
        let (collection, key) = name(number);
        let key = KeyRef::new(collection, &key).unwrap();
        let stamp = Timestamp { time: self.time, member: MemberId(1) };
        if lives { Record::value(key, stamp, None, b"v") } else { Record::tombstone(key, stamp) }
    }

    fn apply(&mut self, record: &Record) {
        self.records.apply(record.view(), record.view().key_hash());
    }

    fn load(&mut self, number: u8) {
        let (collection, key) = name(number);
        let names = (collection.to_owned(), key.to_vec());
        let key = KeyRef::new(collection, &key).unwrap();
        let loaded = self.redb.get(&names).cloned();
        self.records.resolve(key, key.hash(), loaded.as_ref().map(Record::view));
    }

    fn slots(&self) -> Vec<SlotId> {
        self.records.table.sweep(0, self.records.table.slots()).collect()
    }

    /// As a checkpoint does it: what is dirty goes to redb, and what it takes the place of leaves the tree.
    fn checkpoint(&mut self) {
        self.checkpoint += 1;
        for id in self.slots() {
            let table = &self.records.table;
            if !table.has(id, DIRTY) || table.has_any(id, UNRESOLVED | SETTLED) {
                continue;
            }
            let record = table.record(id).map(Record::copy_of).unwrap();
            let is_gone = table.has(id, GONE);
            let names = names(record.view());
            let replaced = if is_gone { self.redb.remove(&names) } else { self.redb.insert(names, record) };
            match replaced {
                Some(older) => self.records.unshadow(id, Some(older.view().element())),
                None => self.records.table.clear_flags(id, SHADOW),
            }
            if is_gone {
                self.records.table.remove(id);
            } else {
                self.records.table.hand_out(id, self.checkpoint);
            }
        }
    }

    /// A page of so many of redb's records.
    fn sort(&mut self, most: usize) {
        let Some((collection, last)) = self.records.first_unsorted() else { return };
        let (collection, last) = (collection.to_owned(), last.to_vec());
        let of_collection = self.redb.iter().filter(|((other, key), _)| *other == collection && *key > last);
        let page: Vec<(&Vec<u8>, &Record)> =
            of_collection.map(|((_, key), record)| (key, record)).take(most).collect();
        let until = page.last().filter(|_| page.len() == most).map(|(key, _)| (*key).clone());
        let bytes: Vec<u8> = page.iter().flat_map(|(_, record)| record.view().bytes()).copied().collect();
        self.records.sort_on(&collection, &bytes, until.as_deref(), most);
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Write(number) => {
                let record = self.make(number, true);
                self.apply(&record);
            }
            Happens::Older(number) => {
                let now = std::mem::replace(&mut self.time, 4);
                let record = self.make(number, true);
                self.time = now;
                self.apply(&record);
            }
            Happens::Delete(number) => {
                let record = self.make(number, false);
                self.apply(&record);
            }
            Happens::Load(number) => self.load(number),
            Happens::Forget(number) | Happens::Settle(number) => {
                let (collection, key) = name(number);
                let key = KeyRef::new(collection, &key).unwrap();
                let here = self.records.table.find(key, key.hash());
                let here = here.and_then(|id| self.records.table.record(id)).map(Record::copy_of);
                let stored = self.redb.get(&(collection.to_owned(), key.key().to_vec())).cloned();
                let Some(record) = here.or(stored) else { return };
                let stamp = record.view().timestamp();
                if matches!(what, Happens::Forget(_)) {
                    self.records.forget(key, key.hash(), stamp);
                } else {
                    self.records.settle(key, key.hash(), stamp);
                }
            }
            Happens::Checkpoint => self.checkpoint(),
            Happens::Evict => {
                let slots = self.records.table.slots();
                self.records.evict(0, slots, self.checkpoint, false);
            }
            Happens::Sort(most) => self.sort(most),
            Happens::Other(comes) => {
                let other = comes.then_some("other");
                self.regroup(["sorted"].into_iter().chain(other));
            }
        }
    }

    fn regroup(&mut self, classes: impl Iterator<Item = &'static str>) {
        self.layout = Arc::new(Layout::new(BITS, classes));
        self.records.regroup(Arc::clone(&self.layout));
    }

    /// The trees of all that is held, from scratch.
    fn expected(&self) -> Vec<u128> {
        let layout = &self.layout;
        let mut trees = HashTrees::new(BITS);
        trees.regroup(&Layout::new(BITS, std::iter::empty()), layout);
        let mut held: BTreeMap<(String, Vec<u8>), Option<Record>> =
            self.redb.iter().map(|(names, record)| (names.clone(), Some(record.clone()))).collect();
        for id in self.slots() {
            let record = self.records.table.record(id).map(Record::copy_of).unwrap();
            let is_void = self.records.table.has_any(id, GONE | SETTLED);
            held.insert(names(record.view()), (!is_void).then_some(record));
        }
        for record in held.values().flatten() {
            let class = layout.class_of(record.view().collection());
            trees.toggle(Group::Class(class), record.view().key_hash(), record.view().element());
        }
        trees.roots().collect()
    }
}

fn names(record: RecordRef<'_>) -> (String, Vec<u8>) {
    (record.collection().to_owned(), record.key().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_meanwhile_each_tree_has_the_records_of_its_class_in_the_end(
        stored in 0..=KEYS,
        in_memory in prop::sample::select(vec![0usize, 300, usize::MAX]),
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut model = Model::new(stored, in_memory);
        model.regroup(["sorted"].into_iter());
        for event in &events {
            model.happen(*event);
        }
        while model.records.unsorted() > 0 {
            model.sort(2);
        }
        // What is hidden is set right as ever.
        for number in 0..KEYS {
            model.load(number);
        }
        model.checkpoint();
        let roots: Vec<u128> = model.records.trees.roots().collect();
        prop_assert_eq!(roots, model.expected());
    }
}

/// Gives the collection of all records a factor of its own, and waits until it is to be sorted.
fn place_by_itself(world: &mut World) {
    let key = KeyRef::new(SETTINGS, b"change/1").unwrap();
    let values = BTreeMap::from([("replication_factor".to_owned(), Some("3".to_owned()))]);
    let collections = [("c".to_owned(), values)].into();
    let change = log::Change { collections, ..log::Change::default() }.to_bytes();
    world.engines[0].write_system(NOBODY, key, Change::Set { value: &change, expiry_ms: None });
    while world.engines[0].settings().factors_in_force.is_empty() {
        world.pass(50);
    }
    assert_eq!(world.engines[0].unsorted_collections(), 1);
}

#[test]
fn who_is_rebuilt_judges_nothing_before_all_is_sorted() {
    let mut world = World::with_table(2, 60, 0);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(9_000);
    world.pages_a_tick = 0;
    place_by_itself(&mut world);
    world.engines[0].begin_rebuilding();
    world.pass(5_000);
    assert_eq!(world.engines[0].unsorted_collections(), 1);
    assert!(world.engines[0].rebuilding.is_active(), "what it holds for others may be in no tree yet");
    world.pages_a_tick = usize::MAX;
    world.pass(5_000);
    assert_eq!(world.engines[0].unsorted_collections(), 0);
    assert!(!world.engines[0].rebuilding.is_active());
}

#[test]
fn a_start_sums_each_record_up_in_its_class_unless_the_journal_alone_knows_of_that() {
    const RECORDS: usize = 50;
    let factor = {
        let name = format!("{IN_FORCE_PREFIX}c");
        let stamp = Timestamp { time: 5, member: MemberId(1) };
        Record::value(KeyRef::new(SETTINGS, name.as_bytes()).unwrap(), stamp, None, b"2")
    };
    let start = |is_in_redb: bool, table_bytes: usize| {
        let who = Identity { member: MemberId(1), incarnation: 1, life: 1 };
        let mut engine = Engine::new(who, Bounds { table_bytes, ..Bounds::default() }, BITS);
        engine.advance(Now { wall_ms: 1_800_000_000_000, mono_us: 0 });
        engine.restore_layout(is_in_redb.then_some(factor.view()).into_iter());
        if is_in_redb {
            engine.restore_record(factor.view());
        }
        for number in 0..RECORDS {
            engine.restore_record(record(number).view());
        }
        if !is_in_redb {
            let mut payload = Vec::new();
            journal::append(&mut payload, &Entry::Record(factor.view()));
            engine.restore_journal(&payload).unwrap();
        }
        engine.restored(0, true);
        assert_eq!(engine.placement().layout().collections(), ["c"]);
        engine
    };
    let mut sorted = start(false, usize::MAX);
    for _ in 0..100 {
        sorted.end_turn();
    }
    assert_eq!(sorted.unsorted_collections(), 0);
    for table_bytes in [0, 2_000, usize::MAX] {
        let known = start(true, table_bytes);
        assert_eq!(known.unsorted_collections(), 0);
        assert!(known.roots().eq(sorted.roots()), "{table_bytes}");
    }
    assert!(sorted.roots().take(1 << BITS).all(|root| root == 0));
    assert_eq!(start(false, 0).unsorted_collections(), 1, "it takes a walk");
}

#[test]
fn records_that_only_redb_has_come_into_the_trees_of_their_collection() {
    const RECORDS: usize = 200;
    let mut world = World::with_table(2, RECORDS, 0);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(9_000);
    assert!(world.engines.iter().all(Engine::is_complete));
    // So that the walk takes its time.
    world.pages_a_tick = 3;
    place_by_itself(&mut world);
    let newer = Timestamp { time: 1 << 40, member: MemberId(9) };
    for number in (0..RECORDS).step_by(7) {
        let key = record(number);
        let newer = Record::value(key.view().key_ref().unwrap(), newer, None, b"newer");
        for engine in &mut world.engines {
            engine.merge(newer.view(), newer.view().key_hash());
        }
    }
    for _ in 0..1_000 {
        world.pass(50);
        assert!(world.engines[0].is_complete(), "it vouches for its records all the while");
    }
    let roots = |at: usize| world.engines[at].roots().collect::<Vec<u128>>();
    assert_eq!(world.engines[0].unsorted_collections(), 0);
    assert_eq!(roots(0), roots(1));
    assert!(roots(1)[..4].iter().all(|root| *root == 0));
}
