//! Finding damage that no record shows, and saving what is whole.
//!
//! redb's own repair may go back to an older commit, whose journal is long gone. So its check runs
//! on a sealed file, where it changes nothing, and what is whole is copied into a fresh store. Closing a handle
//! writes, too, so one that was sealed is shut first.

use super::scan::visit_all;
use super::{
    Disk, File, OPENING, READING, RECORDS, STORE_FILE, Store, Totals, checkpoint, from_redb, guarded,
    open_database,
};
use crate::storage::error::StorageError;
use std::sync::Arc;

const FRESH_FILE: &str = "records.redb.new";
const REBUILDING: &str = "rebuilding the record store";

impl<D: Disk> Store<D> {
    /// Copies every whole record that can still be reached into a fresh store, and sets the old one
    /// aside; returns its new name. What could not be reached must come from the peers.
    ///
    /// # Errors
    /// The store stays as it is. [`StorageError::Busy`] while a checkpoint lives; `Full` when there
    /// is no space for a copy.
    pub fn rebuild(&mut self) -> Result<String, StorageError> {
        if self.is_writing() {
            return Err(StorageError::Busy);
        }
        // The snapshot is all that is needed; it may itself fail to open, and then nothing is saved.
        match self.with_table(|_| Ok(())) {
            Ok(()) | Err(StorageError::Damaged { .. } | StorageError::Poisoned { .. }) => {}
            Err(error) => return Err(error),
        }
        let failed = |error| StorageError::from_io(REBUILDING, error);
        let copied = self.copy_whole_records();
        self.disconnect();
        if let Err(error) = copied {
            // It is removed at the next start if not now.
            let _ = self.disk.remove(FRESH_FILE);
            return Err(error);
        }
        self.disk.sync_dir().map_err(failed)?;
        let aside = self.set_aside()?;
        self.finish_rebuild()?;
        self.damaged_keys.clear();
        self.connect()?;
        Ok(aside)
    }

    fn copy_whole_records(&self) -> Result<(), StorageError> {
        let failed = |error| StorageError::from_io(REBUILDING, error);
        let file = self.disk.open(FRESH_FILE, true).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        let (database, _) = open_database(file, Arc::default(), self.cache_bytes)?;
        let journal_from = self.totals.journal_from;
        guarded(|| {
            let mut transaction = database.begin_write().map_err(from_redb(REBUILDING))?;
            transaction.set_quick_repair(true);
            let mut totals = Totals { journal_from, ..Totals::default() };
            let mut target = transaction.open_table(RECORDS).map_err(from_redb(REBUILDING))?;
            if let Some(source) = &self.table {
                // Where reading ends for good, the copy ends.
                visit_all(source, &mut 0, |name, record| {
                    target.insert(name, record.bytes()).map_err(from_redb(REBUILDING))?;
                    totals.add(record);
                    Ok(())
                })?;
            }
            drop(target);
            checkpoint::write_totals(&transaction, totals)?;
            transaction.commit().map_err(from_redb(REBUILDING))?;
            drop(database);
            Ok(())
        })
    }

    /// Ends or undoes a rebuilding that a crash interrupted.
    pub(super) fn finish_rebuild(&self) -> Result<(), StorageError> {
        let names = self.disk.list().map_err(|error| StorageError::from_io(OPENING, error))?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if !has(FRESH_FILE) {
            return Ok(());
        }
        let done = if has(STORE_FILE) {
            self.disk.remove(FRESH_FILE)
        } else {
            self.disk.rename(FRESH_FILE, STORE_FILE)
        };
        done.and_then(|()| self.disk.sync_dir()).map_err(|error| StorageError::from_io(REBUILDING, error))
    }

    /// Whether every page of the file is as redb wrote it.
    pub(super) fn is_sound(&mut self) -> Result<bool, StorageError> {
        self.table = None;
        self.database()?;
        let Some(mut database) = self.database.take() else { return Ok(false) };
        self.gate.seal();
        let sound = guarded(|| database.check_integrity().map_err(from_redb(READING)));
        self.gate.shut();
        // How it ends says nothing about the file.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
        match sound {
            Err(StorageError::Damaged { .. } | StorageError::Poisoned { .. }) => Ok(false),
            checked => checked,
        }
    }
}
