//! The two threads that block on the disk: one syncs the journal, one works on redb.
//!
//! Two, because a checkpoint's batches take milliseconds and an acknowledgement waits for nothing
//! but its fsync. Requests to sync are merged: a sync covers everything that was written when it
//! began. Answers come back over a channel that wakes the data thread.

use super::NodeError;
use crate::engine::operation::Row;
use crate::engine::{Batch, Load, Name, PageFound, PageWanted, Range, Replaced};
use crate::model::KeyRef;
use crate::storage::{Checkpoint, Loaded, OsDisk, PageBounds, StorageError, Store, Syncer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::sync::mpsc as answers;

/// Bytes in one answer to a range.
const RANGE_BYTES: usize = 4 << 20;
/// Bytes of records that are read for one, also where only their keys are wanted.
const RANGE_READ_BYTES: usize = 16 << 20;
/// What is looked at for one page: other jobs wait meanwhile, some milliseconds.
const PAGE_RECORDS: usize = 4_096;
const PAGE_READ_BYTES: usize = 4 << 20;

/// What the store thread is asked to do.
#[derive(Debug)]
pub(super) enum StoreJob {
    /// Load keys.
    Loads(Vec<Load>),
    /// Load a range.
    Range(Range),
    /// Load a page of records.
    Page(PageWanted),
    /// Begin a checkpoint; the journal before this segment is dropped after its commit.
    Begin(u64),
    /// Write sorted records into the checkpoint, and remove others.
    Batch(Batch),
    /// Commit it.
    Commit,
}

/// What the threads answer.
#[derive(Debug)]
pub(super) enum DiskAnswer {
    /// The journal is durable up to the position in [`Disks::durable`].
    Synced,
    /// What there is under a key.
    Loaded(Load, Result<Loaded, StorageError>),
    /// A range was loaded.
    Range(u64, Vec<Row>, Option<Vec<u8>>),
    /// A range could not be loaded.
    RangeFailed(u64, StorageError),
    /// A page of records was loaded, or could not be.
    Page(u64, Option<PageFound>),
    /// Records of the store are damaged.
    Damaged(Vec<Name>),
    /// The store was damaged and built anew; this was set aside.
    Rebuilt(String),
    /// A batch is in the checkpoint.
    Batch(Vec<Replaced>),
    /// A checkpoint was committed: records in the store and bytes of its file.
    Committed(u64, u64),
    /// A checkpoint was given up.
    CheckpointFailed(StorageError),
    /// The journal can't be synced: the member must stop.
    Fatal(StorageError),
}

#[derive(Debug, Default)]
struct Wanted {
    sync: bool,
    /// Whether space should be prepared behind the sync.
    ahead: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct SyncState {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    durable: AtomicU64,
    syncs: AtomicU64,
}

/// Both threads. Dropping it ends them, after a last sync.
#[derive(Debug)]
pub(super) struct Disks {
    state: Arc<SyncState>,
    jobs: Option<mpsc::Sender<StoreJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl Disks {
    /// Starts both threads.
    pub(super) fn start(
        syncer: Syncer<OsDisk>,
        store: Store<OsDisk>,
    ) -> Result<(Self, answers::UnboundedReceiver<DiskAnswer>), NodeError> {
        // As many answers as there were questions, and those are bounded by whoever asks.
        let (sender, receiver) = answers::unbounded_channel();
        let state = Arc::new(SyncState::default());
        let (jobs, incoming) = mpsc::channel();
        let failed = |source| NodeError::System { what: "a thread", source };
        let sync = {
            let (state, syncer, sender) = (Arc::clone(&state), syncer.clone(), sender.clone());
            std::thread::Builder::new()
                .name("kith-sync".to_owned())
                .spawn(move || sync_loop(&state, &syncer, &sender))
                .map_err(failed)?
        };
        let worker =
            StoreWorker { store, syncer, checkpoint: None, failed: false, segment: 0, answers: sender };
        let store = std::thread::Builder::new()
            .name("kith-store".to_owned())
            .spawn(move || worker.run(&incoming))
            .map_err(failed)?;
        Ok((Self { state, jobs: Some(jobs), threads: vec![sync, store] }, receiver))
    }

    /// Asks for a sync of everything that is written by now. `ahead` tells that somebody waits for it and for those that come
    /// next: space that was prepared makes them faster, but appends may have to wait while it is.
    pub(super) fn sync(&self, ahead: bool) {
        let mut wanted = self.state.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.ahead |= ahead;
        if !std::mem::replace(&mut wanted.sync, true) {
            self.state.changed.notify_one();
        }
    }

    /// Everything before this position of the journal is durable.
    pub(super) fn durable(&self) -> u64 {
        self.state.durable.load(Ordering::Acquire)
    }

    /// Syncs that were made.
    pub(super) fn syncs(&self) -> u64 {
        self.state.syncs.load(Ordering::Relaxed)
    }

    /// Hands a job to the store thread.
    pub(super) fn ask(&self, job: StoreJob) {
        if let Some(jobs) = &self.jobs {
            // Fails only when the thread has panicked, which its missing answers tell.
            _ = jobs.send(job);
        }
    }

    /// Whether both threads run.
    pub(super) fn are_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.jobs = None;
        self.state.wanted.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.state.changed.notify_one();
        for thread in self.threads.drain(..) {
            _ = thread.join();
        }
    }
}

fn sync_loop(state: &SyncState, syncer: &Syncer<OsDisk>, answers: &answers::UnboundedSender<DiskAnswer>) {
    loop {
        let (stop, ahead) = {
            let wanted = state.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |wanted: &mut Wanted| !wanted.sync && !wanted.stop;
            let waited = state.changed.wait_while(wanted, idle);
            let mut wanted = waited.unwrap_or_else(PoisonError::into_inner);
            wanted.sync = false;
            (wanted.stop, std::mem::take(&mut wanted.ahead))
        };
        match syncer.sync() {
            Ok(position) => {
                state.durable.fetch_max(position, Ordering::AcqRel);
                state.syncs.fetch_add(1, Ordering::Relaxed);
                _ = answers.send(DiskAnswer::Synced);
            }
            Err(error) => {
                _ = answers.send(DiskAnswer::Fatal(error));
                return;
            }
        }
        if stop {
            return;
        }
        if ahead && let Err(error) = syncer.prepare() {
            _ = answers.send(DiskAnswer::Fatal(error));
            return;
        }
    }
}

struct StoreWorker {
    store: Store<OsDisk>,
    syncer: Syncer<OsDisk>,
    checkpoint: Option<Checkpoint>,
    /// The checkpoint under way failed; what still comes of it is passed over.
    failed: bool,
    segment: u64,
    answers: answers::UnboundedSender<DiskAnswer>,
}

impl StoreWorker {
    fn run(mut self, jobs: &mpsc::Receiver<StoreJob>) {
        while let Ok(job) = jobs.recv() {
            let answer = match job {
                StoreJob::Loads(loads) => {
                    for load in loads {
                        let found = self.load(&load);
                        _ = self.answers.send(DiskAnswer::Loaded(load, found));
                    }
                    continue;
                }
                StoreJob::Range(range) => self.range(&range),
                StoreJob::Page(page) => self.page(&page),
                StoreJob::Begin(segment) => {
                    (self.segment, self.failed, self.checkpoint) = (segment, false, None);
                    match self.store.begin() {
                        Ok(checkpoint) => {
                            self.checkpoint = Some(checkpoint);
                            continue;
                        }
                        Err(error) => self.give_up(error),
                    }
                }
                StoreJob::Batch(_) | StoreJob::Commit if self.failed => continue,
                StoreJob::Batch(batch) => self.batch(&batch),
                StoreJob::Commit => self.commit(),
            };
            _ = self.answers.send(answer);
        }
    }

    /// Reads from the store. One that is damaged is built anew from what is whole, and asked again.
    fn read<T>(
        &mut self,
        read: impl Fn(&mut Store<OsDisk>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match read(&mut self.store) {
            Err(StorageError::Damaged { what, detail }) => {
                tracing::error!(what, detail, "the record store is damaged; it is built anew");
                if self.checkpoint.is_some() {
                    let failed = self.give_up(StorageError::damaged(what, detail));
                    _ = self.answers.send(failed);
                }
                let aside = self.store.rebuild()?;
                _ = self.answers.send(DiskAnswer::Rebuilt(aside));
                read(&mut self.store)
            }
            done => done,
        }
    }

    fn load(&mut self, load: &Load) -> Result<Loaded, StorageError> {
        let Ok(key) = KeyRef::new(&load.collection, &load.key) else { return Ok(Loaded::Absent) };
        self.read(|store| store.load(key))
    }

    fn range(&mut self, range: &Range) -> DiskAnswer {
        let bounds = PageBounds { looked_at: range.limit, read_bytes: RANGE_READ_BYTES, bytes: RANGE_BYTES };
        let read = |store: &mut Store<OsDisk>| {
            store.range(&range.collection, &range.keys, range.reverse, bounds, |record| range.row(record))
        };
        match self.read(read) {
            Ok(page) => {
                if !page.damaged.is_empty() {
                    _ = self.answers.send(DiskAnswer::Damaged(page.damaged));
                }
                DiskAnswer::Range(range.id, page.rows, page.next_after)
            }
            Err(error) => DiskAnswer::RangeFailed(range.id, error),
        }
    }

    fn page(&mut self, wanted: &PageWanted) -> DiskAnswer {
        let after = (wanted.after.0.as_str(), wanted.after.1.as_slice());
        let bounds =
            PageBounds { looked_at: PAGE_RECORDS, read_bytes: PAGE_READ_BYTES, bytes: wanted.limit_bytes };
        let read =
            |store: &mut Store<OsDisk>| store.page(after, |key, bytes| wanted.wants(key, bytes), bounds);
        match self.read(read) {
            Ok(page) => {
                let found = PageFound {
                    records: page.records,
                    count: page.count,
                    damaged: page.damaged,
                    next: page.next_after,
                };
                DiskAnswer::Page(wanted.id, Some(found))
            }
            Err(error) => {
                tracing::error!(%error, "a page of records could not be loaded; it is asked for again");
                DiskAnswer::Page(wanted.id, None)
            }
        }
    }

    fn batch(&mut self, batch: &Batch) -> DiskAnswer {
        let Some(checkpoint) = &mut self.checkpoint else {
            return self.give_up(StorageError::Poisoned { what: "checkpoint" });
        };
        let mut replaced = Vec::new();
        let removed = batch.removed.iter().filter_map(|(collection, key)| KeyRef::new(collection, key).ok());
        let told = batch.hides.then_some(&mut replaced);
        let done = self.store.write_batch(checkpoint, &batch.records, told);
        let told = batch.hides.then_some(&mut replaced);
        match done.and_then(|()| self.store.remove(checkpoint, removed, told)) {
            Ok(()) => {
                let replaced = replaced
                    .iter()
                    .map(|old| Replaced { hash: old.hash, element: old.was.map(|mark| mark.element) });
                DiskAnswer::Batch(replaced.collect())
            }
            Err(error) => self.give_up(error),
        }
    }

    fn commit(&mut self) -> DiskAnswer {
        let Some(checkpoint) = self.checkpoint.take() else {
            return self.give_up(StorageError::Poisoned { what: "checkpoint" });
        };
        // The new segment repeats the small state, so it must be durable before the old ones go.
        let done = self.syncer.sync().and_then(|_| self.store.commit(checkpoint, self.segment));
        match done {
            Ok(()) => {
                // Redb knows that it needs them no more, so they only take space until the next drop.
                if let Err(error) = self.syncer.drop_before(self.segment) {
                    tracing::warn!(%error, "old journal segments are dropped with the next checkpoint");
                }
                DiskAnswer::Committed(self.store.records(), self.store.file_bytes().unwrap_or(0))
            }
            Err(error) => self.give_up(error),
        }
    }

    fn give_up(&mut self, error: StorageError) -> DiskAnswer {
        (self.checkpoint, self.failed) = (None, true);
        DiskAnswer::CheckpointFailed(error)
    }
}
