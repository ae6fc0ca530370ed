//! Writing: one checkpoint becomes durable and visible at once.
//!
//! redb takes large sorted batches many times faster than single records, so a checkpoint takes
//! records as one run of bytes in key order, as often as its caller likes to pause, and becomes
//! visible and durable with its commit. Dropped before, it leaves nothing.
//!
//! Inside, it is many transactions: all but the last are not made durable, and their ends are where redb computes the
//! checksums of the pages that they wrote. In a single one redb would do that at its end, for pages that its cache has
//! given to the file long ago: it would read every one of them back, and write it a second time. What such
//! parts did is forgotten when the file is closed without a commit, and nobody reads it until then, because
//! the snapshot for loads is opened before the first of them.

use super::backend::Gate;
use super::{FACTS, POISONED, RECORDS, Store, TOTALS, Totals, encode_key, from_redb, guarded, intact};
use crate::model::{KeyHash, KeyRef, RecordRef, Timestamp};
use crate::storage::disk::Disk;
use crate::storage::error::StorageError;
use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};
use std::sync::Arc;

/// A part ends when this share of redb's cache was written to the file since the one before ended. Half of the cache
/// holds what is not written, so the pages of the part are still there.
const PART_OF_CACHE: usize = 8;

const WRITING: &str = "writing a checkpoint";

/// What identifies a version of a record: its mark in the hash tree and its stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The record's element.
    pub element: u128,
    /// The record's timestamp.
    pub timestamp: Timestamp,
}

/// An older version that a checkpoint replaced or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// The hash of its key.
    pub hash: KeyHash,
    /// What it was; `None` when it is damaged, so that nobody can tell.
    pub was: Option<Mark>,
}

/// A checkpoint that is being written. Dropped without a commit, it changes nothing.
pub struct Checkpoint {
    transaction: Option<WriteTransaction>,
    totals: Totals,
    key: Vec<u8>,
    /// How many of the damaged records that the store knows are removed with it.
    removed_damaged: usize,
    /// The opening of the file that it works on.
    gate: Arc<Gate>,
    /// What had been written there when the last part ended.
    written: u64,
    _writing: Arc<()>,
}

impl<D: Disk> Store<D> {
    /// Begins a checkpoint. Loads show the state before it until it is committed. Damaged records
    /// that were found since the last one are removed with it.
    ///
    /// # Errors
    /// [`StorageError::Busy`] while another checkpoint lives; else as [`Store::load`].
    pub fn begin(&mut self) -> Result<Checkpoint, StorageError> {
        if self.is_writing() {
            return Err(StorageError::Busy);
        }
        let transaction = match self.begin_write() {
            Err(StorageError::Poisoned { .. }) => {
                self.disconnect();
                self.begin_write()
            }
            begun => begun,
        };
        let transaction = transaction.inspect_err(|_| self.disconnect())?;
        let mut checkpoint = Checkpoint {
            transaction: Some(transaction),
            totals: self.totals,
            key: Vec::new(),
            removed_damaged: self.damaged_keys.len(),
            gate: Arc::clone(&self.gate),
            written: self.gate.written(),
            _writing: Arc::clone(&self.writing),
        };
        let damaged = &self.damaged_keys;
        checkpoint.run(|table, totals, _| {
            for key in damaged {
                let old = table.get(&**key).map_err(from_redb(WRITING))?;
                // An earlier checkpoint may have put a whole one in its place.
                let old = old.map(|old| old.value().to_vec()).filter(|old| intact(key, old).is_none());
                if let Some(old) = old {
                    totals.forget(&old);
                    table.remove(&**key).map_err(from_redb(WRITING))?;
                }
            }
            Ok(())
        })?;
        Ok(checkpoint)
    }

    fn begin_write(&mut self) -> Result<WriteTransaction, StorageError> {
        // The snapshot of before: loads must not see what is not committed.
        self.with_table(|_| Ok(()))?;
        begin_part(self.database()?)
    }

    /// Puts canonical records, one behind the other and sorted by collection and key, into a
    /// checkpoint. They are not verified again. What they replace is verified and appended to `out`, if there is one.
    ///
    /// # Errors
    /// The checkpoint is lost, and nothing was changed. [`StorageError::Full`] may pass by itself.
    pub fn write_batch(
        &mut self,
        checkpoint: &mut Checkpoint,
        records: &[u8],
        mut out: Option<&mut Vec<Replaced>>,
    ) -> Result<(), StorageError> {
        let part_bytes = (self.cache_bytes / PART_OF_CACHE) as u64;
        let mut rest = records;
        while !rest.is_empty() {
            if checkpoint.gate.written() - checkpoint.written >= part_bytes {
                self.end_part(checkpoint)?;
            }
            let (gate, written) = (Arc::clone(&checkpoint.gate), checkpoint.written);
            checkpoint.run(|table, totals, key| {
                while !rest.is_empty() && gate.written() - written < part_bytes {
                    let not_one = |error| StorageError::damaged("a batch of records", format!("{error}"));
                    let (record, after) = RecordRef::parse(rest).map_err(not_one)?;
                    rest = after;
                    encode_key(key, record.collection_bytes(), record.key());
                    let old = table.insert(key.as_slice(), record.bytes()).map_err(from_redb(WRITING))?;
                    if let Some(old) = old {
                        totals.take(key, old.value(), record.key_hash(), out.as_deref_mut());
                    }
                    totals.add(record);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Takes keys out of the store with a checkpoint. What was there is verified and appended to `out`, if there is one.
    ///
    /// # Errors
    /// As [`Store::write_batch`].
    pub fn remove<'k>(
        &mut self,
        checkpoint: &mut Checkpoint,
        keys: impl IntoIterator<Item = KeyRef<'k>>,
        mut out: Option<&mut Vec<Replaced>>,
    ) -> Result<(), StorageError> {
        checkpoint.run(|table, totals, name| {
            for key in keys {
                encode_key(name, key.collection().as_bytes(), key.key());
                if let Some(old) = table.remove(name.as_slice()).map_err(from_redb(WRITING))? {
                    totals.take(name, old.value(), key.hash(), out.as_deref_mut());
                }
            }
            Ok(())
        })
    }

    /// Has redb finish the pages that were written so far, and goes on in a new transaction.
    fn end_part(&mut self, checkpoint: &mut Checkpoint) -> Result<(), StorageError> {
        let begun = checkpoint.take_transaction(&self.gate).and_then(|mut transaction| {
            let database = self.database.as_ref().ok_or(POISONED)?;
            self.tentative = true;
            guarded(|| {
                transaction.set_durability(Durability::None).map_err(from_redb(WRITING))?;
                transaction.commit().map_err(from_redb(WRITING))
            })?;
            begin_part(database)
        });
        checkpoint.transaction = Some(begun.inspect_err(|_| self.disconnect())?);
        checkpoint.written = checkpoint.gate.written();
        Ok(())
    }

    /// Makes a checkpoint durable and visible. `journal_from` is the first journal segment with
    /// records that it does not contain; it must have been synced already, because the next start
    /// will miss it otherwise.
    ///
    /// # Errors
    /// Nothing was changed: the state is the one of the last commit.
    /// [`StorageError::Full`]: write the checkpoint again when there is space.
    pub fn commit(&mut self, mut checkpoint: Checkpoint, journal_from: u64) -> Result<(), StorageError> {
        checkpoint.totals.journal_from = journal_from;
        let totals = checkpoint.totals;
        // The snapshot would keep the pages that this commit frees.
        self.table = None;
        let committed = checkpoint.take_transaction(&self.gate).and_then(|mut transaction| {
            guarded(|| {
                // Opening after a crash then needn't walk the whole file.
                transaction.set_quick_repair(true);
                write_totals(&transaction, totals)?;
                transaction.commit().map_err(from_redb(WRITING))
            })
        });
        committed.inspect_err(|_| self.disconnect())?;
        (self.totals, self.tentative) = (totals, false);
        self.damaged_keys.drain(..checkpoint.removed_damaged.min(self.damaged_keys.len()));
        Ok(())
    }
}

fn begin_part(database: &Database) -> Result<WriteTransaction, StorageError> {
    guarded(|| database.begin_write().map_err(from_redb(WRITING)))
}

type Records<'a> = Table<'a, &'static [u8], &'static [u8]>;

impl Checkpoint {
    /// One step; a failed one ends the transaction, because redb lets nothing follow it.
    fn run(
        &mut self,
        step: impl FnOnce(&mut Records<'_>, &mut Totals, &mut Vec<u8>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let Some(transaction) = &self.transaction else { return Err(POISONED) };
        let (totals, key) = (&mut self.totals, &mut self.key);
        let done = guarded(|| {
            let mut table = transaction.open_table(RECORDS).map_err(from_redb(WRITING))?;
            step(&mut table, totals, key)
        });
        if done.is_err() {
            let failed = self.transaction.take();
            // Aborting touches the disk that just failed.
            let _ = guarded(|| {
                drop(failed);
                Ok(())
            });
        }
        done
    }

    /// Takes the transaction if it is one of this opening of the file.
    fn take_transaction(&mut self, gate: &Arc<Gate>) -> Result<WriteTransaction, StorageError> {
        let transaction = self.transaction.take().ok_or(POISONED)?;
        if Arc::ptr_eq(&self.gate, gate) { Ok(transaction) } else { Err(POISONED) }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("totals", &self.totals).finish_non_exhaustive()
    }
}

impl Totals {
    /// Takes an old version out.
    fn take(&mut self, name: &[u8], old: &[u8], hash: KeyHash, out: Option<&mut Vec<Replaced>>) {
        if let Some(out) = out {
            // Its element left the disk long after it was last verified.
            let was =
                intact(name, old).map(|old| Mark { element: old.element(), timestamp: old.timestamp() });
            out.push(Replaced { hash, was });
        }
        self.forget(old);
    }

    /// Takes bytes out that were counted when they were written. A damaged record's element is where it was
    /// put; if that is what changed, the totals are wrong, and the next start looks at everything.
    fn forget(&mut self, old: &[u8]) {
        let element = old.get(1..).and_then(|tail| tail.first_chunk().copied()).map(u128::from_le_bytes);
        self.elements ^= element.unwrap_or_default();
        self.records = self.records.saturating_sub(1);
    }
}

pub(super) fn write_totals(transaction: &WriteTransaction, totals: Totals) -> Result<(), StorageError> {
    let mut facts = transaction.open_table(FACTS).map_err(from_redb(WRITING))?;
    facts.insert(TOTALS, totals.encode().as_slice()).map_err(from_redb(WRITING))?;
    Ok(())
}
