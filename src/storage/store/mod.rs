//! The record store: every checkpointed record, in key order, in redb. Nothing else uses redb.
//!
//! Keys are the collection, a zero byte (no collection has one) and the key; values are canonical
//! records. Checkpoints are the only writers: one durable transaction with large sorted batches.
//! All calls are made on one thread, and loads may go on between the batches of a checkpoint.
//!
//! - A record that fails its checksum, or lies under another key than its own, is reported and never
//!   handed out.
//! - Each checkpoint stores how many records there are and the XOR of their elements, so that the
//!   scan at start notices records that are gone without a trace; it also has redb check its pages,
//!   because one bad bit in an inner page can hide good records from lookups.
//! - A store in which that finds damage is copied, as far as it is whole, and set aside under a
//!   telling name; one that can't be opened is set aside and a fresh one begun. redb's panics become
//!   errors.
//! - After a failed write redb refuses everything until it is reopened; that happens by itself, and
//!   what was committed is still there.

mod backend;
mod checkpoint;
mod rebuild;
mod scan;

pub use checkpoint::{Checkpoint, Mark, Replaced};
pub use scan::{NamedPage, Page, PageBounds, Scan};

use super::disk::{Disk, File};
use super::error::StorageError;
use crate::model::{KeyRef, Record, RecordRef};
use backend::{Backend, Gate};
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The file's name.
pub const STORE_FILE: &str = "records.redb";
/// Damaged records that are remembered until the next checkpoint removes them; the others are found
/// again at the next start.
const MAX_DAMAGED_KEYS: usize = 4_096;
const OPENING: &str = "opening the record store";
const READING: &str = "reading the record store";
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
const TOTALS: &str = "totals";
const POISONED: StorageError = StorageError::Poisoned { what: "record store" };

/// Bytes of the cache in which writes are gathered, at most half of it. They take their memory only while a checkpoint is
/// made.
const MOST_GATHERED_BYTES: usize = 8 << 20;

/// The record store of one member.
pub struct Store<D: Disk> {
    disk: D,
    cache_bytes: usize,
    wall_ms: u64,
    database: Option<Database>,
    /// What redb may do to the file since it was opened last.
    gate: Arc<Gate>,
    /// Redb shows parts of a checkpoint that is not committed, see [`Checkpoint`].
    tentative: bool,
    /// A snapshot, opened when it is first needed after a commit.
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    totals: Totals,
    damaged_keys: Vec<Box<[u8]>>,
    /// Shared with the checkpoint that is being written, if there is one.
    writing: Arc<()>,
    key: Vec<u8>,
}

/// What was found when the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreRecovery {
    /// There was no store: this is a new one.
    pub created: bool,
    /// The name under which a store that could not be opened was set aside, and why.
    pub set_aside: Option<(String, String)>,
    /// Records by the last checkpoint's count.
    pub records: u64,
    /// The first journal segment that is not contained in the store; 0 before the first checkpoint.
    pub journal_from: u64,
}

/// What the store has under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Nothing.
    Absent,
    /// This record, verified.
    Found(Record),
    /// Bytes that are not what was written; the next checkpoint removes them.
    Damaged,
}

/// What the last commit says that the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    records: u64,
    elements: u128,
    journal_from: u64,
}

impl Totals {
    const BYTES: usize = 33;
    const FORMAT: u8 = 1;

    fn add(&mut self, record: RecordRef<'_>) {
        self.records += 1;
        self.elements ^= record.element();
    }

    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES + 8);
        out.push(Self::FORMAT);
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.elements.to_le_bytes());
        out.extend_from_slice(&self.journal_from.to_le_bytes());
        let check = blake3::hash(&out);
        out.extend(check.as_bytes().iter().take(8));
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = || StorageError::damaged(STORE_FILE, "its totals do not match their checksum");
        let (fields, check) = bytes.split_at_checked(Self::BYTES).ok_or_else(damaged)?;
        if check.len() != 8 || !blake3::hash(fields).as_bytes().starts_with(check) {
            return Err(damaged());
        }
        match fields.first() {
            Some(&Self::FORMAT) => {}
            version => {
                let version = version.copied().unwrap_or_default().into();
                return Err(StorageError::Format { what: STORE_FILE.into(), version });
            }
        }
        let number = |at: usize| fields.get(at..).and_then(|tail| tail.first_chunk().copied());
        let elements = fields.get(9..).and_then(|tail| tail.first_chunk().copied());
        Ok(Self {
            records: u64::from_le_bytes(number(1).unwrap_or_default()),
            elements: u128::from_le_bytes(elements.unwrap_or_default()),
            journal_from: u64::from_le_bytes(number(25).unwrap_or_default()),
        })
    }
}

impl<D: Disk> Store<D> {
    /// Opens the store, or makes one. `cache_bytes` is the memory that redb may use for pages;
    /// `wall_ms` goes into the name of what is set aside.
    ///
    /// # Errors
    /// `Io`, `Full` and `Format` leave the file as it is; damage is no error, see
    /// [`StoreRecovery::set_aside`].
    pub fn open(disk: &D, cache_bytes: usize, wall_ms: u64) -> Result<(Self, StoreRecovery), StorageError> {
        let mut store = Self {
            disk: disk.clone(),
            cache_bytes,
            wall_ms,
            database: None,
            gate: Arc::default(),
            tentative: false,
            table: None,
            totals: Totals::default(),
            damaged_keys: Vec::new(),
            writing: Arc::new(()),
            key: Vec::new(),
        };
        let mut recovery = StoreRecovery::default();
        store.finish_rebuild()?;
        match store.connect() {
            Ok(created) => recovery.created = created,
            Err(StorageError::Damaged { detail, .. }) => {
                let aside = store.set_aside()?;
                recovery.set_aside = Some((aside, detail));
                recovery.created = store.connect()?;
            }
            Err(error) => return Err(error),
        }
        (recovery.records, recovery.journal_from) = (store.totals.records, store.totals.journal_from);
        Ok((store, recovery))
    }

    /// The record under one key, verified.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when redb itself is, see [`Store::rebuild`]; `Io` when the disk
    /// fails. Nothing is changed.
    pub fn load(&mut self, key: KeyRef<'_>) -> Result<Loaded, StorageError> {
        let mut name = std::mem::take(&mut self.key);
        encode_key(&mut name, key.collection().as_bytes(), key.key());
        let loaded = self.with_table(|table| {
            let Some(found) = table.get(name.as_slice()).map_err(from_redb(READING))? else {
                return Ok(Loaded::Absent);
            };
            let record = intact(&name, found.value());
            Ok(record.map_or(Loaded::Damaged, |record| Loaded::Found(Record::copy_of(record))))
        });
        if matches!(loaded, Ok(Loaded::Damaged)) {
            self.remember_damaged(&name);
        }
        self.key = name;
        loaded
    }

    /// Records by the last checkpoint's count.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.totals.records
    }

    /// Bytes of the store's file.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn file_bytes(&self) -> Result<u64, StorageError> {
        let length = self.disk.open(STORE_FILE, false).and_then(|file| file.length());
        length.map_err(|error| StorageError::from_io(READING, error))
    }

    /// Opens the file; tells whether it was made.
    fn connect(&mut self) -> Result<bool, StorageError> {
        let failed = |error| StorageError::from_io(OPENING, error);
        let fresh = match self.disk.open(STORE_FILE, false) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(failed(error)),
        };
        let file = self.disk.open(STORE_FILE, true).map_err(failed)?;
        self.gate = Arc::default();
        let (database, totals) = open_database(file, Arc::clone(&self.gate), self.cache_bytes)?;
        if fresh {
            self.disk.sync_dir().map_err(failed)?;
        }
        (self.database, self.totals) = (Some(database), totals);
        Ok(fresh)
    }

    /// Closes the file. What no commit made durable is forgotten.
    fn disconnect(&mut self) {
        let (table, database) = (self.table.take(), self.database.take());
        if std::mem::take(&mut self.tentative) {
            self.gate.shut();
        }
        // Closing writes; it may fail or panic on a bad disk, and a reopening repairs what it left.
        let _ = catch_unwind(AssertUnwindSafe(|| drop((table, database))));
    }

    fn set_aside(&self) -> Result<String, StorageError> {
        let failed = |error| StorageError::from_io("setting the record store aside", error);
        let names = self.disk.list().map_err(failed)?;
        let telling = format!("{STORE_FILE}.damaged-{}", self.wall_ms);
        let later = (2..).map(|number| format!("{telling}-{number}"));
        let mut free = std::iter::once(telling.clone()).chain(later).filter(|name| !names.contains(name));
        let aside = free.next().unwrap_or_default();
        let moved = self.disk.rename(STORE_FILE, &aside).and_then(|()| self.disk.sync_dir());
        moved.map_err(failed)?;
        Ok(aside)
    }

    fn database(&mut self) -> Result<&Database, StorageError> {
        if self.tentative && !self.is_writing() {
            self.disconnect();
        }
        if self.database.is_none() {
            self.connect()?;
        }
        self.database.as_ref().ok_or(POISONED)
    }

    /// Reads through the snapshot; reopens once if an earlier failure poisoned the handle.
    fn with_table<T>(
        &mut self,
        mut read: impl FnMut(&RecordsTable) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut reopened = self.database.is_none();
        loop {
            if self.table.is_none() {
                let database = self.database()?;
                let opened = guarded(|| {
                    let transaction = database.begin_read().map_err(from_redb(READING))?;
                    transaction.open_table(RECORDS).map_err(from_redb(READING))
                });
                match opened {
                    Ok(table) => self.table = Some(table),
                    Err(StorageError::Poisoned { .. }) if !reopened => {
                        reopened = true;
                        self.disconnect();
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(table) = &self.table else { continue };
            match guarded(|| read(table)) {
                Err(StorageError::Poisoned { .. }) if !reopened => {
                    reopened = true;
                    self.disconnect();
                }
                Err(error) => {
                    self.disconnect();
                    return Err(error);
                }
                Ok(value) => return Ok(value),
            }
        }
    }

    /// Whether a checkpoint lives.
    fn is_writing(&self) -> bool {
        Arc::strong_count(&self.writing) > 1
    }

    fn remember_damaged(&mut self, key: &[u8]) {
        let known = self.damaged_keys.iter().any(|known| **known == *key);
        if !known && self.damaged_keys.len() < MAX_DAMAGED_KEYS {
            self.damaged_keys.push(key.into());
        }
    }
}

impl<D: Disk> Drop for Store<D> {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl<D: Disk> std::fmt::Debug for Store<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("disk", &self.disk)
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

type RecordsTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn open_database<F: File>(
    file: F,
    gate: Arc<Gate>,
    cache_bytes: usize,
) -> Result<(Database, Totals), StorageError> {
    let room = (cache_bytes / 2).min(MOST_GATHERED_BYTES);
    let backend = Backend::new(file, gate, room);
    guarded(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes - room);
        let database = builder.create_with_backend(backend).map_err(from_redb(OPENING))?;
        let totals = read_totals(&database)?;
        Ok((database, totals))
    })
}

/// What the last commit stored, making the tables where there are none.
fn read_totals(database: &Database) -> Result<Totals, StorageError> {
    let transaction = database.begin_read().map_err(from_redb(OPENING))?;
    match transaction.open_table(FACTS) {
        Ok(facts) => {
            transaction.open_table(RECORDS).map_err(from_redb(OPENING))?;
            let found = facts.get(TOTALS).map_err(from_redb(OPENING))?;
            let missing = || StorageError::damaged(STORE_FILE, "its totals are missing");
            return Totals::decode(found.ok_or_else(missing)?.value());
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(from_redb(OPENING)(error)),
    }
    match transaction.open_table(RECORDS) {
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        _ => return Err(StorageError::damaged(STORE_FILE, "its totals are missing")),
    }
    drop(transaction);
    let mut transaction = database.begin_write().map_err(from_redb(OPENING))?;
    transaction.set_quick_repair(true);
    transaction.open_table(RECORDS).map_err(from_redb(OPENING))?;
    checkpoint::write_totals(&transaction, Totals::default())?;
    transaction.commit().map_err(from_redb(OPENING))?;
    Ok(Totals::default())
}

/// Joins collection and key to the name under which redb keeps a record.
fn encode_key(out: &mut Vec<u8>, collection: &[u8], key: &[u8]) {
    out.clear();
    out.extend_from_slice(collection);
    out.push(0);
    out.extend_from_slice(key);
}

/// The record in `bytes`, if it is whole and `name` is its own.
fn intact<'a>(name: &[u8], bytes: &'a [u8]) -> Option<RecordRef<'a>> {
    let (record, rest) = RecordRef::parse(bytes).ok()?;
    let (collection, key) = (record.collection_bytes(), record.key());
    let own = name.split_at_checked(collection.len()).is_some_and(|(head, tail)| {
        head == collection && tail.split_first().is_some_and(|(zero, tail)| *zero == 0 && tail == key)
    });
    (own && rest.is_empty() && record.verify().is_ok()).then_some(record)
}

/// Runs redb, whose panics on damaged files become errors.
fn guarded<T>(run: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(StorageError::damaged(STORE_FILE, format!("redb panicked: {}", text.unwrap_or_default())))
    })
}

/// Gives redb's errors our words.
fn from_redb<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> StorageError {
    move |error| match error.into() {
        redb::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                StorageError::damaged(STORE_FILE, error.to_string())
            }
            _ => StorageError::from_io(doing, error),
        },
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::TransactionPoisoned => POISONED,
        error => StorageError::damaged(STORE_FILE, error.to_string()),
    }
}
