//! A member's disk as the real member has it: journal and record store over a simulated disk that
//! loses, tears and reorders what was not synced, also in the middle of a commit.

use crate::disk::{Found, Key};
use crate::random::Random;
use crate::support::SimDisk;
use kith::engine::operation::Row;
use kith::engine::{Batch, Load, PageFound, PageWanted, Range, Replaced};
use kith::model::key::SETTINGS;
use kith::model::{KeyRef, RecordRef};
use kith::storage::{Checkpoint, Journal, JournalOptions, Loaded, PageBounds, StorageError, Store, Syncer};
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of pages that redb may keep.
/// So little that redb writes pages while a checkpoint is made, though there are few records.
const CACHE_BYTES: usize = 64 << 10;
/// Bytes in one answer of a range.
const RANGE_BYTES: usize = 4 << 20;
/// Looked at for one page.
const PAGE_RECORDS: usize = 16;
const PAGE_READ_BYTES: usize = 64 << 10;

struct Open {
    journal: Journal<SimDisk>,
    syncer: Syncer<SimDisk>,
    store: Store<SimDisk>,
    checkpoint: Option<Checkpoint>,
}

/// One member's real storage.
pub struct Real {
    disk: SimDisk,
    open: Option<Open>,
    segment: u64,
    pub committing: bool,
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Real").field("segment", &self.segment).finish_non_exhaustive()
    }
}

fn told(error: StorageError) -> String {
    error.to_string()
}

impl Real {
    pub fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), open: None, segment: 0, committing: false }
    }

    /// Another disk with the same files, as they are now.
    pub fn copy(&self, seed: u64) -> Self {
        let disk = self.disk.copy(seed);
        disk.kill();
        Self { disk, open: None, segment: 0, committing: false }
    }

    fn storage(&mut self) -> Result<&mut Open, String> {
        self.open.as_mut().ok_or_else(|| "the storage is closed".to_owned())
    }

    pub fn rotate(&mut self) -> Result<(), String> {
        self.segment = self.storage()?.journal.rotate().map_err(told)?;
        Ok(())
    }

    pub fn append(&mut self, payload: &[u8]) -> Result<(), String> {
        self.storage()?.journal.append(payload).map_err(told)
    }

    pub fn sync(&mut self) -> Result<(), String> {
        let open = self.storage()?;
        open.syncer.sync().and_then(|_| open.syncer.prepare()).map_err(told)
    }

    pub fn load(&mut self, load: &Load) -> Result<(Option<Vec<u8>>, bool), String> {
        let key = KeyRef::new(&load.collection, &load.key).map_err(|error| error.to_string())?;
        Ok(match self.storage()?.store.load(key).map_err(told)? {
            Loaded::Found(record) => (Some(record.into_bytes().into_vec()), false),
            Loaded::Absent => (None, false),
            Loaded::Damaged => (None, true),
        })
    }

    pub fn range(&mut self, range: &Range) -> Result<(Vec<Row>, Option<Vec<u8>>), String> {
        let store = &mut self.storage()?.store;
        let bounds = PageBounds { looked_at: range.limit, read_bytes: PAGE_READ_BYTES, bytes: RANGE_BYTES };
        let row = |record: RecordRef<'_>| range.row(record);
        let page = store.range(&range.collection, &range.keys, range.reverse, bounds, row).map_err(told)?;
        Ok((page.rows, page.next_after))
    }

    /// A page of records, so small that walks take many.
    pub fn page(&mut self, wanted: &PageWanted) -> Result<PageFound, String> {
        let after = (wanted.after.0.as_str(), wanted.after.1.as_slice());
        let store = &mut self.storage()?.store;
        let bounds =
            PageBounds { looked_at: PAGE_RECORDS, read_bytes: PAGE_READ_BYTES, bytes: wanted.limit_bytes };
        let page = store.page(after, |key, bytes| wanted.wants(key, bytes), bounds).map_err(told)?;
        Ok(PageFound {
            records: page.records,
            count: page.count,
            damaged: page.damaged,
            next: page.next_after,
        })
    }

    pub fn begin(&mut self) -> Result<(), String> {
        let open = self.storage()?;
        open.checkpoint = None;
        open.checkpoint = Some(open.store.begin().map_err(told)?);
        Ok(())
    }

    pub fn batch(&mut self, batch: &Batch) -> Result<Vec<Replaced>, String> {
        let open = self.storage()?;
        let checkpoint = open.checkpoint.as_mut().ok_or("no checkpoint was begun")?;
        let mut replaced = Vec::new();
        open.store
            .write_batch(checkpoint, &batch.records, batch.hides.then_some(&mut replaced))
            .map_err(told)?;
        let removed = batch.removed.iter().filter_map(|(collection, key)| KeyRef::new(collection, key).ok());
        open.store.remove(checkpoint, removed, batch.hides.then_some(&mut replaced)).map_err(told)?;
        let told = |old: &kith::storage::Replaced| Replaced {
            hash: old.hash,
            element: old.was.as_ref().map(|mark| mark.element),
        };
        Ok(replaced.iter().map(told).collect())
    }

    /// Commits as the node does: the journal first, for it repeats the small state.
    pub fn commit(&mut self) -> Result<(), String> {
        self.committing = false;
        let segment = self.segment;
        let open = self.storage()?;
        let checkpoint = open.checkpoint.take().ok_or("no checkpoint was begun")?;
        open.syncer.sync().map_err(told)?;
        open.store.commit(checkpoint, segment).map_err(told)?;
        open.syncer.drop_before(segment).map_err(told)
    }

    pub fn abort(&mut self) {
        self.committing = false;
        if let Some(open) = &mut self.open {
            open.checkpoint = None;
        }
    }

    /// The process ends at once: no handle writes anything after it.
    pub fn crash(&mut self, power_cut: bool, random: &mut Random) {
        let in_commit = std::mem::take(&mut self.committing);
        if power_cut && in_commit {
            self.disk.crash_after(random.between(1, 30));
            // It may come to its end before the power fails.
            let _ = self.commit();
        }
        if power_cut {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
        self.open = None;
        self.segment = 0;
    }

    pub fn open(&mut self, seed: u64) -> Result<Found, String> {
        let (mut store, found) = Store::open(&self.disk, CACHE_BYTES, 0).map_err(told)?;
        let settings = store.collection(SETTINGS).map_err(told)?;
        let settings = settings.into_iter().map(|record| record.into_bytes().into_vec()).collect();
        let mut records = Vec::new();
        let scan = store.for_each(&mut |record| records.push(record.bytes().to_vec())).map_err(told)?;
        let options = JournalOptions {
            wall_ms: 0,
            seed,
            first_needed: found.journal_from,
            reserve_bytes: 0,
            ahead_bytes: 8_192,
        };
        let mut payloads = Vec::new();
        let opened = Journal::open(&self.disk, &options, |payload| {
            payloads.push(payload.to_vec());
            Ok(())
        });
        let (journal, recovery) = opened.map_err(told)?;
        if found.set_aside.is_some() || recovery.damaged || recovery.missing_segments > 0 {
            return Err(format!("a crash is taken for damage: {found:?}, {recovery:?}"));
        }
        let intact = recovery.is_whole() && (scan.complete || found.created);
        let syncer = journal.syncer();
        self.open = Some(Open { journal, syncer, store, checkpoint: None });
        Ok(Found { settings, records, payloads, journal_bytes: recovery.payload_bytes, intact })
    }

    pub fn stored(&mut self) -> Result<BTreeMap<Key, Vec<u8>>, String> {
        let mut all = BTreeMap::new();
        let Some(open) = &mut self.open else { return Ok(all) };
        let mut show = |record: RecordRef<'_>| {
            let key = (record.collection_bytes().to_vec(), record.key().to_vec());
            all.insert(key, record.bytes().to_vec());
        };
        open.store.for_each(&mut show).map_err(told)?;
        Ok(all)
    }
}
