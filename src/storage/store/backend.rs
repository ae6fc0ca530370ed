//! What redb works on: a file of the port, behind a gate that the store can shut.

use super::super::disk::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Redb writes a whole checkpoint before it syncs. A disk that has so much to do at once lets the journal's syncs
/// wait until all of it is done; so it is given to the disk in pieces.
const MOST_UNSYNCED_BYTES: usize = 1 << 20;

/// All is passed on to the file.
const OPEN: u8 = 0;
/// Writes are let fall: redb checks the file, and what it would repair must stay as it is.
const SEALED: u8 = 1;
/// Everything fails: a handle that was sealed, or has to forget what it did, is closed. It would write and read back
/// what was let fall, and its panics over that may come two at a time, which ends the process.
const SHUT: u8 = 2;

/// What one opening of the file may do, and what it did. A shut one is never opened again.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU8,
    written: AtomicU64,
}

impl Gate {
    /// From now on writes are let fall.
    pub(super) fn seal(&self) {
        self.state.store(SEALED, Ordering::Release);
    }

    /// From now on everything fails.
    pub(super) fn shut(&self) {
        self.state.store(SHUT, Ordering::Release);
    }

    /// Bytes that were written through it.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Lets redb work on a file of the port.
#[derive(Debug)]
pub(super) struct Backend<F> {
    file: F,
    gate: Arc<Gate>,
    /// Bytes that were written since the last sync.
    unsynced: AtomicUsize,
}

impl<F> Backend<F> {
    pub(super) fn new(file: F, gate: Arc<Gate>) -> Self {
        debug_assert_eq!(gate.state.load(Ordering::Acquire), OPEN);
        Self { file, gate, unsynced: AtomicUsize::new(0) }
    }

    fn look<T>(&self, look: impl FnOnce(&F) -> io::Result<T>) -> io::Result<T> {
        match self.gate.state.load(Ordering::Acquire) {
            SHUT => Err(io::Error::other("the file was shut")),
            _ => look(&self.file),
        }
    }

    fn change(&self, change: impl FnOnce(&F) -> io::Result<()>) -> io::Result<()> {
        match self.gate.state.load(Ordering::Acquire) {
            SEALED => Ok(()),
            _ => self.look(change),
        }
    }
}

impl<F: File> redb::StorageBackend for Backend<F> {
    fn len(&self) -> io::Result<u64> {
        self.look(File::length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.look(|file| file.read(offset, out))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(|file| file.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.change(File::sync_data)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.unsynced.fetch_add(bytes.len(), Ordering::Relaxed) >= MOST_UNSYNCED_BYTES {
            self.sync_data()?;
        }
        self.gate.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.change(|file| file.write(offset, bytes))
    }
}
