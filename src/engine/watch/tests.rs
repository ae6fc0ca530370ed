//! What those who watch are told, shown on engines whose frames are carried by hand.

use super::*;
use crate::engine::copying::tests::{World, entry, record};
use crate::engine::operation::{Change, Gone, Write};
use crate::engine::{Bounds, Identity, Loaded, NOBODY, TICK_US};
use crate::model::key::{ROSTER, SETTINGS};
use crate::model::roster::entry_key;
use crate::model::settings::Level;
use crate::model::{KeyRef, Now, Record, RecordRef};

const RECORDS: usize = 40;
const WALL_MS: u64 = 1_800_000_000_000;

/// Three complete members, all linked, that keep so many copies of each record.
fn world(copies: u8) -> World {
    let mut world = World::new(4, RECORDS);
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        world.link(one, other);
    }
    world.pass(1_000);
    for name in ["replication_factor_in_force", "replication_factor"] {
        let (key, value) = (KeyRef::new(SETTINGS, name.as_bytes()).unwrap(), copies.to_string());
        let change = Change::Set { value: value.as_bytes(), expiry_ms: None };
        world.engines[0].write_system(NOBODY, key, change);
    }
    world.pass(5_000);
    assert!(world.engines.iter().all(Engine::is_complete));
    world
}

fn key(name: &str) -> KeyRef<'_> {
    KeyRef::new("c", name.as_bytes()).unwrap()
}

fn write(engine: &mut Engine, name: &str, change: Change<'_>) {
    engine.write(1, Write { key: key(name), change, level: Some(Level::One), after: 0 });
}

fn set(engine: &mut Engine, name: &str, value: &[u8], expiry_ms: Option<u64>) {
    write(engine, name, Change::Set { value, expiry_ms });
}

/// Who owns a key, in order of preference.
fn owners(world: &World, name: &str) -> Vec<usize> {
    let owners = &world.engines[0].placement().set_of(key(name), key(name).hash()).owners;
    owners.iter().map(|owner| (0..3).find(|at| entry(*at).id() == owner.member).unwrap()).collect()
}

/// A name whose owners are just these.
fn name_owned_by(world: &World, wanted: &[usize]) -> String {
    let is_wanted = |name: &String| {
        let mut owners = owners(world, name);
        owners.sort_unstable();
        owners == wanted
    };
    (0..).map(|number| format!("n{number}")).find(is_wanted).unwrap()
}

/// Somebody who watches a whole collection.
struct Reader {
    at: usize,
    feed: u64,
    epoch: u64,
    /// Sources whose listing has not ended.
    lists: usize,
    records: BTreeMap<Vec<u8>, Record>,
    gaps: Vec<Gap>,
}

impl Reader {
    fn open(world: &mut World, at: usize) -> Self {
        let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
        let feed = world.engines[at].begin_feed(interest, Form::Latest).unwrap();
        let mut reader =
            Self { at, feed, epoch: 0, lists: usize::MAX, records: BTreeMap::new(), gaps: Vec::new() };
        reader.read(world);
        reader
    }

    /// Takes all that is told, until there is nothing more.
    fn read(&mut self, world: &mut World) {
        loop {
            world.carry();
            let outputs = world.engines[self.at].take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.take(&mut world.engines[self.at], output);
            }
        }
    }

    fn take(&mut self, engine: &mut Engine, output: Output) {
        match output {
            Output::Begun { epoch, sources, .. } => {
                (self.epoch, self.lists) = (epoch, sources);
                self.records.clear();
                for source in 0..sources {
                    engine.feed_page(source as u64, self.feed, epoch, source, None);
                }
            }
            Output::Changed { records, .. } => self.add(&records),
            Output::Page { token, page } => {
                let page = page.unwrap();
                self.add(&page.records);
                match page.resume {
                    None => self.lists -= 1,
                    after => {
                        let source = usize::try_from(token).unwrap();
                        engine.feed_page(token, self.feed, self.epoch, source, after);
                    }
                }
            }
            Output::Gap { reason, .. } => self.gaps.push(reason),
            Output::Named { .. } | Output::Ended { .. } => panic!("{output:?}"),
        }
    }

    fn add(&mut self, records: &[u8]) {
        let mut rest = records;
        while let Ok((record, tail)) = RecordRef::parse(rest) {
            rest = tail;
            self.records.insert(record.key().to_vec(), Record::copy_of(record));
        }
        assert!(rest.is_empty());
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        let record = self.records.get(name.as_bytes())?.view();
        record.kind().is_live().then(|| record.body())
    }
}

#[test]
fn whoever_owns_them_all_records_are_listed_and_every_change_follows() {
    for copies in [1, 2, 3] {
        let mut world = world(copies);
        let mut readers: Vec<Reader> = (0..3).map(|at| Reader::open(&mut world, at)).collect();
        for reader in &mut readers {
            assert_eq!((reader.lists, reader.records.len()), (0, RECORDS), "{copies} copies");
        }
        for at in 0..3 {
            set(&mut world.engines[at], &format!("k{at}"), b"new", None);
        }
        write(&mut world.engines[1], "k9", Change::Delete);
        world.pass(200);
        for reader in &mut readers {
            reader.read(&mut world);
            assert!((0..3).all(|at| reader.value(&format!("k{at}")) == Some(b"new")), "{copies} copies");
            assert_eq!(reader.value("k9"), None);
            assert!(reader.records.contains_key(&b"k9"[..]), "that it was deleted is told");
            assert_eq!(reader.gaps, []);
        }
    }
}

#[test]
fn a_watch_whose_source_is_lost_begins_anew_with_another_and_misses_nothing() {
    let mut world = world(2);
    let name = name_owned_by(&world, &[1, 2]);
    let mut reader = Reader::open(&mut world, 0);
    let source = owners(&world, &name)[0];
    let other = 3 - source;
    world.cut(0, source);
    set(&mut world.engines[source], &name, b"unseen", None);
    world.carry();
    set(&mut world.engines[other], &name, b"latest", None);
    world.pass(1_000);
    reader.read(&mut world);
    assert_eq!(reader.gaps, [Gap::Source]);
    assert_eq!((reader.lists, reader.value(&name)), (0, Some(&b"latest"[..])));
    assert_eq!(reader.records.len(), RECORDS + 1);
}

#[test]
fn between_a_gap_and_the_next_beginning_nothing_is_told_by_the_sources_that_are_left() {
    let mut world = world(1);
    let names = [0, 1, 2].map(|at| name_owned_by(&world, &[at]));
    let mut reader = Reader::open(&mut world, 0);
    world.cut(0, 1);
    let mut outputs = Vec::new();
    for name in [&names[0], &names[2]] {
        let at = owners(&world, name)[0];
        set(&mut world.engines[at], name, b"latest", None);
        world.carry();
        outputs.extend(world.engines[0].take_outputs());
    }
    assert!(matches!(outputs[..], [Output::Gap { reason: Gap::Source, .. }]), "{outputs:?}");
    assert_eq!(world.engines[2].watch_counts().1, 1, "its watch was not ended yet");
    world.link(0, 1);
    world.pass(1_000);
    reader.read(&mut world);
    let latest = [&names[0], &names[2]].map(|name| reader.value(name));
    assert_eq!((reader.lists, latest), (0, [Some(&b"latest"[..]); 2]));
}

#[test]
fn a_source_that_could_not_vouch_for_a_partition_for_a_moment_ends_its_watches_before_it_tells_anything() {
    let mut world = world(1);
    let name = name_owned_by(&world, &[1]);
    let (mut near, mut far) = (Reader::open(&mut world, 1), Reader::open(&mut world, 0));
    let partition = world.engines[1].placement().partition_of(key(&name), key(&name).hash());
    world.engines[1].lose_partition(partition);
    set(&mut world.engines[1], &name, b"maybe older", None);
    world.engines[1].complete[usize::from(partition)] = true;
    world.engines[1].end_turn();
    world.engines[1].written();
    let end = world.engines[1].positions().written;
    world.engines[1].synced(end);
    let outputs = world.engines[1].take_outputs();
    assert!(matches!(outputs.first(), Some(Output::Gap { reason: Gap::Source, .. })), "{outputs:?}");
    let told = |output: &&Output| matches!(output, Output::Changed { .. });
    assert!(outputs.iter().find(told).is_none(), "{outputs:?}");
    world.pass(1_000);
    near.read(&mut world);
    far.read(&mut world);
    assert_eq!(far.gaps, [Gap::Source]);
    assert_eq!(far.value(&name), Some(&b"maybe older"[..]), "it is listed by who vouches for it again");
}

#[test]
fn who_watches_when_others_become_owners_begins_anew_if_a_source_is_none_any_more() {
    let mut world = world(2);
    let mut reader = Reader::open(&mut world, 0);
    for name in ["replication_factor_in_force", "replication_factor"] {
        let key = KeyRef::new(SETTINGS, name.as_bytes()).unwrap();
        world.engines[0].write_system(NOBODY, key, Change::Set { value: b"1", expiry_ms: None });
    }
    world.pass(5_000);
    reader.read(&mut world);
    assert!(!reader.gaps.is_empty());
    set(&mut world.engines[2], "k3", b"new", None);
    world.pass(200);
    reader.read(&mut world);
    assert_eq!((reader.records.len(), reader.value("k3")), (RECORDS, Some(&b"new"[..])));
}

#[test]
fn a_peer_that_does_not_read_loses_its_watch_before_it_loses_its_link() {
    let mut world = world(1);
    let name = name_owned_by(&world, &[0]);
    let mut reader = Reader::open(&mut world, 1);
    let (_, told) = world.engines[0].watch_counts();
    let value = vec![7; 1 << 20];
    for _ in 0..24 {
        let engine = &mut world.engines[0];
        set(engine, &name, &value, None);
        engine.end_turn();
        engine.written();
        let end = engine.positions().written;
        engine.synced(end);
    }
    assert_eq!(world.engines[0].watch_counts().1, told - 1);
    assert!(world.engines[0].lanes.close.is_empty());
    set(&mut world.engines[0], &name, b"last", None);
    world.pass(1_000);
    reader.read(&mut world);
    assert_eq!((&reader.gaps[..], reader.value(&name)), (&[Gap::Source][..], Some(&b"last"[..])));
}

/// How many feeds of the first member are begun in one tick after the other, until all are.
fn begun_by_tick(world: &mut World, feeds: usize) -> Vec<usize> {
    let (mut by_tick, mut begun) = (Vec::new(), 0);
    while begun < feeds {
        assert!(by_tick.len() < 100, "{by_tick:?}");
        world.pass(TICK_US / 1_000);
        let outputs = world.engines[0].take_outputs();
        by_tick.push(outputs.iter().filter(|output| matches!(output, Output::Begun { .. })).count());
        begun += by_tick.last().unwrap();
    }
    by_tick
}

#[test]
fn however_many_feeds_seek_at_once_a_tick_begins_so_many_watches_and_none_is_forgotten() {
    const FEEDS: usize = 1_000;
    let mut world = world(1);
    for number in 0..FEEDS {
        let interest = Interest { collection: Some("c".to_owned()), prefix: number.to_string().into_bytes() };
        world.engines[0].begin_feed(interest, Form::Latest).unwrap();
    }
    // Each has all three members as its sources, and as its former ones.
    let began = begun_by_tick(&mut world, FEEDS);
    assert!(began.iter().all(|begun| 3 * begun <= seeking::WATCHES_A_TICK + 2), "{began:?}");
    assert!(world.engines.iter().all(|engine| engine.watch_counts().1 == FEEDS));
    world.cut(0, 1);
    world.pass(2_000);
    let outputs = world.engines[0].take_outputs();
    assert!(matches!(outputs[..], [Output::Gap { .. }, ..]) && outputs.len() == FEEDS);
    let told = world.engines.iter().map(|engine| engine.watch_counts().1);
    assert_eq!(told.collect::<Vec<_>>(), [0; 3], "whoever can't be begun is told by nobody");
    world.link(0, 1);
    let again = begun_by_tick(&mut world, FEEDS);
    assert!(again.iter().all(|begun| 3 * begun <= seeking::WATCHES_A_TICK + 2), "{again:?}");
    assert!(world.engines.iter().all(|engine| engine.watch_counts().1 == FEEDS));
}

#[test]
fn what_nobody_watches_any_more_is_noted_nowhere() {
    let mut world = world(1);
    let reader = Reader::open(&mut world, 0);
    assert!(world.engines.iter().all(|engine| engine.records.noted.is_active()));
    world.engines[0].end_feed(reader.feed);
    world.carry();
    for engine in &world.engines {
        assert_eq!(engine.watch_counts(), (0, 0));
        assert!(!engine.records.noted.is_active());
    }
    let reader = Reader::open(&mut world, 0);
    assert_eq!((reader.lists, reader.records.len()), (0, RECORDS));
    world.cut(0, 1);
    world.carry();
    assert!(!world.engines[1].records.noted.is_active(), "the link took the watch with it");
}

#[test]
fn what_is_lost_on_the_way_to_who_reads_is_a_gap_and_is_listed_again() {
    let mut world = world(1);
    let mut reader = Reader::open(&mut world, 0);
    set(&mut world.engines[0], "k5", b"lost", None);
    world.pass(200);
    assert!(!world.engines[0].take_outputs().is_empty());
    world.engines[0].outputs_lost();
    world.pass(1_000);
    reader.read(&mut world);
    assert_eq!((&reader.gaps[..], reader.value("k5")), (&[Gap::Overflow][..], Some(&b"lost"[..])));
}

/// A member that is alone and holds these records.
fn alone(records: impl Iterator<Item = Record>) -> Engine {
    alone_with(Bounds::default(), records)
}

/// The same with other bounds.
pub(in crate::engine) fn alone_with(bounds: Bounds, records: impl Iterator<Item = Record>) -> Engine {
    let who = Identity { member: entry(0).id(), incarnation: 1, life: 1 };
    let mut engine = Engine::new(who, bounds, 4);
    engine.advance(Now { wall_ms: WALL_MS, mono_us: 0 });
    for record in records {
        engine.restore_record(record.view());
    }
    engine.restored(0, true);
    engine.create(&[(ROSTER, entry_key(entry(0).id()), entry(0).encode())]);
    engine.set_mode(Mode::Serving);
    engine.tick();
    turn(&mut engine);
    engine
}

pub(in crate::engine) fn turn(engine: &mut Engine) {
    engine.end_turn();
    engine.written();
    let end = engine.positions().written;
    engine.synced(end);
}

#[test]
fn nothing_is_told_while_no_durable_reservation_covers_its_stamp() {
    let mut engine = alone(std::iter::empty());
    let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
    engine.begin_feed(interest, Form::Latest).unwrap();
    turn(&mut engine);
    engine.take_outputs();
    // Behind all that is reserved.
    engine.advance(Now { wall_ms: WALL_MS + 60_000, mono_us: 60_000_000 });
    set(&mut engine, "k", b"v", None);
    engine.end_turn();
    engine.written();
    assert!(engine.take_outputs().is_empty(), "a power cut could take the stamp back");
    let end = engine.positions().written;
    engine.synced(end);
    assert!(matches!(&engine.take_outputs()[..], [Output::Changed { .. }]));
}

#[test]
fn each_change_is_told_by_name_in_the_order_in_which_it_came_and_that_nothing_was_deleted_is_not() {
    let mut engine = alone(std::iter::empty());
    let interest = Interest { collection: None, prefix: b"k".to_vec() };
    let all = engine.begin_feed(interest.clone(), Form::Each(Kinds::ALL)).unwrap();
    let some = engine.begin_feed(interest, Form::Each(Kinds::of(ChangeKind::Delete))).unwrap();
    write(&mut engine, "k-none", Change::Delete);
    set(&mut engine, "k2", b"a", None);
    set(&mut engine, "k1", b"b", None);
    set(&mut engine, "other", b"b", None);
    write(&mut engine, "k2", Change::Delete);
    write(&mut engine, "k3", Change::Increment { delta: 1 });
    turn(&mut engine);
    let mut told = BTreeMap::new();
    for output in engine.take_outputs() {
        if let Output::Named { feed, changes } = output {
            let names =
                changes.into_iter().map(|change| (change.kind, String::from_utf8(change.key).unwrap()));
            told.insert(feed, names.collect::<Vec<_>>());
        }
    }
    let named = |kind, name: &str| (kind, name.to_owned());
    assert_eq!(
        told[&all],
        [
            named(ChangeKind::Set, "k2"),
            named(ChangeKind::Set, "k1"),
            named(ChangeKind::Delete, "k2"),
            named(ChangeKind::Increment, "k3"),
        ]
    );
    assert_eq!(told[&some], [named(ChangeKind::Delete, "k2")]);
}

#[test]
fn what_was_listed_expires_in_time_however_long_the_sweep_takes() {
    const MANY: usize = 150_000;
    let expires = {
        let record = record(MANY);
        Record::value(key("late"), record.view().timestamp(), Some(WALL_MS + 700), b"v")
    };
    let mut engine = alone((0..MANY).map(record).chain([expires]));
    let interest = Interest { collection: Some("c".to_owned()), prefix: b"late".to_vec() };
    let feed = engine.begin_feed(interest, Form::Latest).unwrap();
    turn(&mut engine);
    engine.feed_page(1, feed, 1, 0, None);
    turn(&mut engine);
    let listed = engine.take_outputs();
    assert!(matches!(&listed[..], [Output::Begun { .. }, Output::Page { page: Some(_), .. }]), "{listed:?}");
    let mut told_ms = None;
    for tick in 1..20 {
        let mono_us = tick * TICK_US;
        engine.advance(Now { wall_ms: WALL_MS + mono_us / 1_000, mono_us });
        engine.tick();
        turn(&mut engine);
        if engine.take_outputs().iter().any(|output| matches!(output, Output::Changed { .. })) {
            told_ms.get_or_insert(mono_us / 1_000);
        }
    }
    assert_eq!(told_ms, Some(700));
}

#[test]
fn what_expires_while_only_redb_has_it_is_told_when_redb_answers_however_late_and_at_which_attempt() {
    let late = Record::value(key("late"), record(0).view().timestamp(), Some(WALL_MS + 100), b"v");
    let bounds = Bounds { table_bytes: 0, ..Bounds::default() };
    let mut engine = alone_with(bounds, std::iter::once(late.clone()));
    let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
    let feed = engine.begin_feed(interest, Form::Latest).unwrap();
    turn(&mut engine);
    engine.feed_page(1, feed, 1, 0, None);
    let range = engine.lanes.ranges.pop().unwrap();
    engine.range_loaded(range.id, vec![range.row(late.view()).unwrap().0], None);
    turn(&mut engine);
    engine.take_outputs();
    let mut mono_us = 0;
    let mut load_after = |engine: &mut Engine, wait_ms: u64| {
        let until = mono_us + 1_000 * wait_ms;
        while mono_us < until {
            mono_us += TICK_US;
            engine.advance(Now { wall_ms: WALL_MS + mono_us / 1_000, mono_us });
            engine.tick();
            turn(engine);
        }
        assert!(engine.take_outputs().is_empty(), "nobody can know yet what became of it");
        std::mem::take(&mut engine.lanes.loads)
    };
    let [first] = &load_after(&mut engine, 600)[..] else { panic!("it is asked for once") };
    engine.loaded(first, Loaded::Failed);
    let [second] = &load_after(&mut engine, 2_000)[..] else { panic!("it is asked for again") };
    engine.loaded(second, Loaded::Found(late.view().bytes()));
    turn(&mut engine);
    let told = engine.take_outputs();
    let [Output::Changed { records, .. }] = &told[..] else { panic!("{told:?}") };
    assert!(!RecordRef::parse(records).unwrap().0.kind().is_live());
}

#[test]
fn what_others_tell_is_bounded_also_where_nothing_is_owned_and_the_disk_stands_still() {
    let mut world = world(1);
    let reader = Reader::open(&mut world, 0);
    let engine = &mut world.engines[0];
    let sources = &engine.watches.feeds[&reader.feed].sources;
    let source_at = |at| sources.iter().find(|source| source.member == entry(at).id()).unwrap();
    let (member, watch) = (source_at(1).member, source_at(1).watch);
    // As if it owned nothing.
    engine.watches.told.remove(source_at(0).watch);
    let record = Record::value(key("k"), record(0).view().timestamp(), None, &vec![7; 1 << 20]);
    for _ in 0..64 {
        engine.peer_changed(member, watch, record.view().bytes().to_vec());
        engine.end_turn();
    }
    assert!(engine.watches.output_bytes <= MAX_OUTPUT_BYTES);
}

#[test]
fn who_serves_nobody_any_more_ends_its_feeds_with_the_reason_and_begins_none() {
    let mut engine = alone(std::iter::empty());
    let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
    let feed = engine.begin_feed(interest.clone(), Form::Latest).unwrap();
    engine.take_outputs();
    engine.set_mode(Mode::Gone(Gone::Left));
    let error = OperationError::Gone(Gone::Left);
    let ended = Output::Ended { feed, error: error.clone() };
    assert_eq!(format!("{:?}", engine.take_outputs()), format!("{:?}", [ended]));
    assert_eq!(engine.begin_feed(interest, Form::Latest), Err(error));
}

#[test]
fn a_large_record_behind_small_ones_is_told_to_a_peer() {
    let mut world = world(1);
    let is_its = |name: &String| owners(&world, name) == [0];
    let names: Vec<String> = (0..).map(|number| format!("m{number}")).filter(is_its).take(41).collect();
    let setting = KeyRef::new(SETTINGS, b"max_value_bytes").unwrap();
    world.engines[0].write_system(NOBODY, setting, Change::Set { value: b"8388608", expiry_ms: None });
    world.pass(2_000);
    let mut reader = Reader::open(&mut world, 1);
    // One after the other they are less than a message, and with the large one behind them more than a frame.
    let (small, large) = (vec![1; 5_000], vec![2; 8 << 20]);
    for name in &names[..40] {
        set(&mut world.engines[0], name, &small, None);
    }
    set(&mut world.engines[0], &names[40], &large, None);
    world.pass(5_000);
    reader.read(&mut world);
    let missing = names.iter().filter(|name| reader.value(name).is_none()).count();
    assert_eq!((missing, reader.gaps.as_slice()), (0, &[][..]));
}

#[test]
fn of_many_who_watch_large_changes_those_are_told_that_there_is_room_for() {
    const WATCHES: usize = 99;
    let mut engine = alone(std::iter::empty());
    for length in 1..=WATCHES {
        let interest = Interest { collection: Some("c".to_owned()), prefix: vec![b'a'; length] };
        engine.begin_feed(interest, Form::Latest).unwrap();
    }
    turn(&mut engine);
    engine.take_outputs();
    let stem = "a".repeat(WATCHES);
    for number in 0..4 {
        set(&mut engine, &format!("{stem}{number}"), &vec![7; 1 << 20], None);
    }
    turn(&mut engine);
    let outputs = engine.take_outputs();
    assert!(outputs.iter().map(Output::bytes).sum::<usize>() <= MAX_OUTPUT_BYTES);
    let mut told = BTreeMap::<u64, usize>::new();
    let mut gaps = BTreeSet::new();
    for output in &outputs {
        match output {
            Output::Changed { feed, records } => *told.entry(*feed).or_default() += records.len(),
            Output::Gap { feed, reason: Gap::Overflow } => _ = gaps.insert(*feed),
            other => panic!("{other:?}"),
        }
    }
    assert!(!told.is_empty() && told.values().all(|bytes| *bytes >= 4 << 20), "{told:?}");
    assert!(gaps.is_disjoint(&told.keys().copied().collect()), "{gaps:?} {told:?}");
    assert_eq!(told.len() + gaps.len(), WATCHES);
}

#[test]
fn a_watch_that_was_given_up_is_not_told_to_for_ever() {
    let mut world = world(1);
    let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
    let feed = world.engines[1].begin_feed(interest, Form::Latest).unwrap();
    // What was asked waits on the way for longer than the front waits for an answer.
    let now = world.engines[1].now;
    let late = Now { wall_ms: now.wall_ms + 60_000, mono_us: now.mono_us + 60_000_000 };
    world.engines[1].advance(late);
    world.engines[1].tick();
    world.engines[1].end_feed(feed);
    world.carry();
    world.pass(2_000);
    world.carry();
    for engine in &world.engines {
        assert_eq!(engine.watch_counts(), (0, 0), "nobody watches any more");
    }
}

#[test]
fn whoever_waits_for_a_page_that_is_lost_on_the_way_hears_that_it_will_not_come() {
    let mut engine = alone(std::iter::empty());
    let interest = Interest { collection: Some("c".to_owned()), prefix: Vec::new() };
    let feed = engine.begin_feed(interest, Form::Latest).unwrap();
    turn(&mut engine);
    let begun = engine.take_outputs();
    let [Output::Begun { epoch, .. }] = begun[..] else { panic!("{begun:?}") };
    engine.feed_page(7, feed, epoch, 0, None);
    turn(&mut engine);
    engine.outputs_lost();
    let told = engine.take_outputs();
    assert!(matches!(told[..], [Output::Page { token: 7, page: None }, Output::Gap { .. }]), "{told:?}");
}
