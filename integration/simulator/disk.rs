//! A member's disk as a model in memory: a journal of segments and a store with transactions, with what a
//! power cut leaves of them.
//!
//! Appends are kept in order; a power cut keeps all that was fsynced and a random prefix of the
//! rest, the last of it perhaps torn. A transaction of the store is there whole or not at all.

use crate::random::Random;
use crate::real::Real;
use kith::engine::operation::Row;
use kith::engine::{Batch, Load, PageFound, PageWanted, Range, Replaced};
use kith::model::key::SETTINGS;
use kith::model::{KeyRef, RecordRef};
use std::collections::{BTreeMap, VecDeque};

/// Collection and key.
pub type Key = (Vec<u8>, Vec<u8>);

/// What a member's disk is made of.
#[derive(Debug)]
pub enum Disk {
    Model(Model),
    /// The storage of the real member, over a disk that tears and reorders.
    Real(Box<Real>),
}

impl Disk {
    pub fn rotate(&mut self) -> Result<(), String> {
        match self {
            Self::Model(disk) => {
                disk.rotate();
                Ok(())
            }
            Self::Real(disk) => disk.rotate(),
        }
    }

    pub fn append(&mut self, payload: &[u8]) -> Result<(), String> {
        match self {
            Self::Model(disk) => {
                disk.append(payload);
                Ok(())
            }
            Self::Real(disk) => disk.append(payload),
        }
    }

    pub const fn appended(&self) -> usize {
        match self {
            Self::Model(disk) => disk.appended(),
            Self::Real(_) => 0,
        }
    }

    pub fn fsynced(&mut self, appended: usize) -> Result<(), String> {
        match self {
            Self::Model(disk) => {
                disk.fsynced(appended);
                Ok(())
            }
            Self::Real(disk) => disk.sync(),
        }
    }

    pub fn load(&mut self, load: &Load) -> Result<(Option<Vec<u8>>, bool), String> {
        match self {
            Self::Model(disk) => Ok(disk.load(load)),
            Self::Real(disk) => disk.load(load),
        }
    }

    pub fn range(&mut self, range: &Range) -> Result<(Vec<Row>, Option<Vec<u8>>), String> {
        match self {
            Self::Model(disk) => Ok(disk.range(range)),
            Self::Real(disk) => disk.range(range),
        }
    }

    pub fn page(&mut self, wanted: &PageWanted) -> Result<PageFound, String> {
        match self {
            Self::Model(disk) => Ok(disk.page(wanted)),
            Self::Real(disk) => disk.page(wanted),
        }
    }

    pub fn begin(&mut self) -> Result<(), String> {
        match self {
            Self::Model(_) => Ok(()),
            Self::Real(disk) => disk.begin(),
        }
    }

    pub fn batch(&mut self, batch: &Batch) -> Result<Vec<Replaced>, String> {
        match self {
            Self::Model(disk) => disk.batch(batch),
            Self::Real(disk) => disk.batch(batch),
        }
    }

    /// A commit was asked for: a crash from now on may come in the middle of it.
    pub fn committing(&mut self) {
        if let Self::Real(disk) = self {
            disk.committing = true;
        }
    }

    pub fn commit(&mut self) -> Result<(), String> {
        match self {
            Self::Model(disk) => {
                disk.commit();
                Ok(())
            }
            Self::Real(disk) => disk.commit(),
        }
    }

    pub fn abort(&mut self) {
        match self {
            Self::Model(disk) => disk.abort(),
            Self::Real(disk) => disk.abort(),
        }
    }

    pub fn damage(&mut self, random: &mut Random) {
        if let Self::Model(disk) = self {
            disk.damage(random);
        }
    }

    /// The process ends. Gives the bytes of the journal that are lost with the power, as far as that is
    /// known.
    pub fn crash(&mut self, power_cut: bool, random: &mut Random) -> u64 {
        match self {
            Self::Model(disk) => disk.crash(power_cut, random),
            Self::Real(disk) => {
                disk.crash(power_cut, random);
                0
            }
        }
    }

    /// From now on nothing that it says to be synced is.
    pub const fn lie(&mut self) {
        if let Self::Model(disk) = self {
            disk.lies = true;
        }
    }

    /// A copy of the files, as a backup of a running member makes it.
    pub fn copy(&self, random: &mut Random) -> Self {
        match self {
            Self::Model(disk) => Self::Model(disk.copy()),
            Self::Real(disk) => Self::Real(Box::new(disk.copy(random.number()))),
        }
    }

    pub fn open(&mut self, random: &mut Random) -> Result<Found, String> {
        match self {
            Self::Model(disk) => Ok(disk.open()),
            Self::Real(disk) => disk.open(random.number()),
        }
    }

    pub fn stored(&mut self) -> Result<BTreeMap<Key, Vec<u8>>, String> {
        match self {
            Self::Model(disk) => Ok(disk.stored()),
            Self::Real(disk) => disk.stored(),
        }
    }
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Found {
    /// Those of kith's own settings, which a start reads first; they are among the records too.
    pub settings: Vec<Vec<u8>>,
    pub records: Vec<Vec<u8>>,
    pub payloads: Vec<Vec<u8>>,
    pub journal_bytes: u64,
    pub intact: bool,
}

/// The model of one member's disk.
#[derive(Debug, Default, Clone)]
pub struct Model {
    segments: VecDeque<Vec<Vec<u8>>>,
    /// Appends ever made and not lost again; how many of them are fsynced.
    appended: usize,
    synced: usize,
    /// Segments that a commit drops.
    before_checkpoint: usize,
    store: BTreeMap<Key, Vec<u8>>,
    /// What it changes; nothing where it removes.
    transaction: BTreeMap<Key, Option<Vec<u8>>>,
    damaged: BTreeMap<Key, ()>,
    torn: bool,
    /// It says that it has synced what it has not.
    lies: bool,
}

fn key_of(record: RecordRef<'_>) -> Key {
    (record.collection_bytes().to_vec(), record.key().to_vec())
}

impl Model {
    /// Begins a new segment.
    pub fn rotate(&mut self) {
        self.before_checkpoint = self.segments.len();
        self.segments.push_back(Vec::new());
    }

    /// Appends to the journal.
    pub fn append(&mut self, payload: &[u8]) {
        if self.segments.is_empty() {
            self.segments.push_back(Vec::new());
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.push(payload.to_vec());
            self.appended += 1;
        }
    }

    /// Appends so far: what an fsync that begins now will cover.
    pub const fn appended(&self) -> usize {
        self.appended
    }

    /// An fsync that covers so many appends is done.
    pub fn fsynced(&mut self, appended: usize) {
        if !self.lies {
            self.synced = self.synced.max(appended);
        }
    }

    /// Looks a key up; the second value tells of damage.
    pub fn load(&mut self, load: &Load) -> (Option<Vec<u8>>, bool) {
        let key = (load.collection.as_bytes().to_vec(), load.key.clone());
        if self.damaged.remove(&key).is_some() {
            self.store.remove(&key);
            return (None, true);
        }
        (self.store.get(&key).cloned(), false)
    }

    /// Looks a range up: what it tells, and the key that it has come to if it was cut off.
    pub fn range(&mut self, range: &Range) -> (Vec<Row>, Option<Vec<u8>>) {
        let collection = range.collection.as_bytes();
        let fits = |(name, key): &(Vec<u8>, Vec<u8>)| name == collection && range.keys.contains(key);
        let mut fitting = self.store.iter().filter(|(name, _)| fits(name));
        let (mut rows, mut count, mut last) = (Vec::new(), 0, None);
        while let Some(((_, key), record)) = if range.reverse { fitting.next_back() } else { fitting.next() }
        {
            if count == range.limit {
                return (rows, last);
            }
            count += 1;
            let record = RecordRef::parse(record).unwrap().0;
            rows.extend(range.row(record).map(|(row, _)| row));
            last = Some(key.clone());
        }
        (rows, None)
    }

    /// A page of records, so small that walks take many.
    pub fn page(&mut self, wanted: &PageWanted) -> PageFound {
        const RECORDS: usize = 16;
        let mut page = PageFound::default();
        let after = (wanted.after.0.as_bytes().to_vec(), wanted.after.1.clone());
        let mut damaged = Vec::new();
        let later = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        for (count, (names, record)) in self.store.range(later).enumerate() {
            if count == RECORDS {
                break;
            }
            let collection = String::from_utf8_lossy(&names.0).into_owned();
            let wants = KeyRef::new(&collection, &names.1).is_ok_and(|key| wanted.wants(key, record));
            page.next = (count + 1 == RECORDS).then(|| (collection.clone(), names.1.clone()));
            if wants && self.damaged.contains_key(names) {
                damaged.push(names.clone());
                page.damaged.push((collection, names.1.clone()));
            } else if wants {
                page.records.extend_from_slice(record);
                page.count += 1;
            }
        }
        for names in damaged {
            self.damaged.remove(&names);
            self.store.remove(&names);
        }
        page
    }

    /// Puts a batch into the transaction.
    pub fn batch(&mut self, batch: &Batch) -> Result<Vec<Replaced>, String> {
        let (mut rest, mut replaced, mut before) = (&batch.records[..], Vec::new(), None);
        while !rest.is_empty() {
            let (record, tail) = RecordRef::parse(rest).map_err(|error| format!("in a batch: {error}"))?;
            record.verify().map_err(|error| format!("in a batch: {error}"))?;
            rest = tail;
            let key = key_of(record);
            if before.is_some_and(|before| before >= key) {
                return Err("a batch is not sorted".to_owned());
            }
            before = Some(key.clone());
            self.change(key, Some(record.bytes().to_vec()), &mut replaced);
        }
        for (collection, key) in &batch.removed {
            self.change((collection.clone().into_bytes(), key.clone()), None, &mut replaced);
        }
        Ok(replaced)
    }

    fn change(&mut self, key: Key, to: Option<Vec<u8>>, replaced: &mut Vec<Replaced>) {
        let old = match self.transaction.get(&key) {
            Some(changed) => changed.as_ref(),
            None => self.store.get(&key),
        };
        if let Some((old, _)) = old.and_then(|old| RecordRef::parse(old).ok()) {
            replaced.push(Replaced { hash: old.key_hash(), element: Some(old.element()) });
        }
        self.damaged.remove(&key);
        self.transaction.insert(key, to);
    }

    /// Makes the journal durable, commits the transaction, and drops the journal that it covers.
    pub fn commit(&mut self) {
        self.synced = self.appended;
        for (key, changed) in std::mem::take(&mut self.transaction) {
            match changed {
                Some(record) => _ = self.store.insert(key, record),
                None => _ = self.store.remove(&key),
            }
        }
        for _ in 0..std::mem::take(&mut self.before_checkpoint) {
            self.segments.pop_front();
        }
    }

    /// Gives the transaction up.
    pub fn abort(&mut self) {
        self.transaction.clear();
    }

    /// Marks a random record of the store as damaged.
    pub fn damage(&mut self, random: &mut Random) {
        let at = random.index(self.store.len());
        if let Some(key) = self.store.keys().nth(at) {
            self.damaged.insert(key.clone(), ());
        }
    }

    /// All that the files hold; a transaction is not among it.
    pub fn copy(&self) -> Self {
        let mut copy = self.clone();
        copy.transaction.clear();
        copy.before_checkpoint = 0;
        copy
    }

    /// The process ends; with `power_cut` what was not fsynced may be gone: so many bytes of the journal.
    pub fn crash(&mut self, power_cut: bool, random: &mut Random) -> u64 {
        self.transaction.clear();
        self.before_checkpoint = 0;
        let mut bytes = 0;
        if !power_cut {
            return bytes;
        }
        let unsynced = self.appended - self.synced.min(self.appended);
        let lost = random.index(unsynced + 1);
        for _ in 0..lost {
            while self.segments.back().is_some_and(Vec::is_empty) {
                self.segments.pop_back();
            }
            if let Some(payload) = self.segments.back_mut().and_then(Vec::pop) {
                bytes += payload.len() as u64;
                self.appended -= 1;
            }
        }
        // A lie leaves a clean end: nothing on the disk itself tells.
        self.torn |= lost > 0 && !self.lies && random.chance(500);
        bytes
    }

    /// What a start finds; all of it is durable from then on, if the disk is honest.
    pub fn open(&mut self) -> Found {
        self.fsynced(self.appended);
        let payloads: Vec<Vec<u8>> = self.segments.iter().flatten().cloned().collect();
        let journal_bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
        let damaged = !self.damaged.is_empty();
        for (key, ()) in std::mem::take(&mut self.damaged) {
            self.store.remove(&key);
        }
        let is_setting = |(key, _): &(&Key, _)| key.0 == SETTINGS.as_bytes();
        Found {
            settings: self.store.iter().filter(is_setting).map(|(_, record)| record.clone()).collect(),
            records: self.store.values().cloned().collect(),
            payloads,
            journal_bytes,
            intact: !std::mem::take(&mut self.torn) && !damaged,
        }
    }

    /// All that the store holds.
    pub fn stored(&self) -> BTreeMap<Key, Vec<u8>> {
        self.store.clone()
    }
}
