//! The data thread's state and its turn.
//!
//! Connections, links and the handle's requests call the engine whenever they have something, and
//! ask for a flush; the *flusher*, a local task woken once however many asked, ends the turn: one
//! journal write, at most one frame per peer, answers to their mailboxes. Woken behind everything
//! that was ready when it was asked for, it makes batches grow with load by itself.
//!
//! Invariant: the engine is borrowed only for the length of a call, never across an await.

mod damage;

use super::NodeError;
use super::access::{Guard, Publisher};
use super::clock::SystemClock;
use super::disks::{DiskAnswer, Disks, StoreJob};
use super::local::{Mailbox, RespCounts};
use super::publish::{Asked, Counts};
use super::secrets::{Proven, Secrets};
use crate::config::MemberConfig;
use crate::engine::operation::Completion;
use crate::engine::{self, CheckpointStep, Engine};
use crate::model::settings::Sync;
use crate::model::{MemberId, Now};
use crate::protocol::introduction::ClusterFacts;
use crate::storage::{Journal, Loaded, MAX_APPEND_BYTES, OsDisk, StorageError};
use crate::transport::{FrameKind, LinkWriter};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;

/// A mailbox's number in the upper half of a token.
const PLACE_BITS: u32 = 32;
/// How long the journal waits after it could not grow: the disk was full, or no file could be opened.
const JOURNAL_RETRY: Duration = Duration::from_millis(500);
/// A turn's bytes are appended before its end from this size on: together with what one more event
/// brings (a largest frame) they must fit into one write of the journal.
const EARLY_APPEND_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) link: u64,
    pub(super) writer: LinkWriter,
    pub(super) dialled: bool,
    /// The peer's incarnation and life.
    pub(super) life: (u64, u64),
    /// What the peer has proved.
    pub(super) proven: Proven,
    /// Wakes the task that sends what the socket did not take at once.
    pub(super) drain: Option<Waker>,
    /// Tells the link's tasks to end.
    pub(super) end: Rc<Notify>,
}

/// Everything that the data thread owns.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) journal: Journal<OsDisk>,
    pub(super) disks: Disks,
    pub(super) links: BTreeMap<MemberId, Outgoing>,
    pub(super) cluster: Option<ClusterFacts>,
    pub(super) counts: Counts,
    pub(super) watching: super::watch::Outlet,
    /// What was damaged or lost on the disk since the start, for people.
    pub(super) problems: Vec<String>,
    /// Damage that was told, to tell the next.
    told_damaged: u64,
    told_lost_syncs: u64,
    mailboxes: Vec<Option<Mailbox>>,
    /// To be woken when the disk has caught up.
    waiting: Vec<Mailbox>,
    free: Vec<u32>,
    segment: u64,
    frame: Vec<u8>,
    last_sync_us: u64,
    retry_us: u64,
    last_link: u64,
}

/// What the data thread's tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: RefCell<Core>,
    pub(super) clock: SystemClock,
    pub(super) config: MemberConfig,
    pub(super) secrets: Secrets,
    /// Tells the fronts which tokens are in force, and what they counted.
    pub(super) guard: (Publisher, Guard),
    pub(super) disk: OsDisk,
    /// The member's state beside the engine: refusals, steps, what gossip sees.
    pub(super) view: RefCell<super::view::View>,
    pub(super) flush_wanted: Cell<bool>,
    pub(super) flusher: RefCell<Option<Waker>>,
    /// Set once the member must stop, with the reason if it is an error.
    pub(super) fatal: RefCell<Option<NodeError>>,
    pub(super) stop: Notify,
    pub(super) changed: Notify,
    pub(super) resp: Rc<RespCounts>,
}

impl Core {
    pub(super) fn new(
        engine: Engine,
        journal: Journal<OsDisk>,
        disks: Disks,
        cluster: Option<ClusterFacts>,
    ) -> Self {
        Self {
            engine,
            journal,
            disks,
            links: BTreeMap::new(),
            cluster,
            counts: Counts::default(),
            watching: super::watch::Outlet::default(),
            problems: Vec::new(),
            told_damaged: 0,
            told_lost_syncs: 0,
            mailboxes: Vec::new(),
            waiting: Vec::new(),
            free: Vec::new(),
            segment: 0,
            frame: Vec::new(),
            last_sync_us: 0,
            retry_us: 0,
            last_link: 0,
        }
    }

    /// A number for a new link, never used before in this life.
    pub(super) const fn next_link(&mut self) -> u64 {
        self.last_link += 1;
        self.last_link
    }

    /// The engine's token for an operation of a mailbox.
    pub(super) fn token(&mut self, mailbox: &Mailbox, token: u32, asked: Asked) -> u64 {
        mailbox.expect();
        let place = match mailbox.place().get() {
            Some(place) => place,
            None => {
                let place = self.free.pop().unwrap_or_else(|| {
                    self.mailboxes.push(None);
                    u32::try_from(self.mailboxes.len() - 1).unwrap_or(u32::MAX)
                });
                if let Some(slot) = self.mailboxes.get_mut(place as usize) {
                    *slot = Some(mailbox.clone());
                }
                mailbox.place().set(Some(place));
                place
            }
        };
        let token = asked.mark(u64::from(place) << PLACE_BITS | u64::from(token));
        Counts::submitted(mailbox, token, self.engine.now().mono_us);
        token
    }

    /// Answers that clients wait for.
    pub(super) fn waiting_operations(&self) -> u64 {
        self.mailboxes.iter().flatten().map(|mailbox| u64::from(mailbox.expected())).sum()
    }

    /// Whether clients should wait for the disk. While it takes nothing at all they are told so instead.
    pub(super) fn is_congested(&self) -> bool {
        self.engine.is_congested() && self.engine.storage_problem().is_none()
    }

    pub(super) fn wake_when_relieved(&mut self, mailbox: &Mailbox) {
        if !mailbox.waits().replace(true) {
            self.counts.journal.waits += 1;
            self.waiting.push(mailbox.clone());
        }
    }

    fn wake_waiting(&mut self) {
        if self.waiting.is_empty() || self.is_congested() {
            return;
        }
        for mailbox in self.waiting.drain(..) {
            mailbox.waits().set(false);
            mailbox.wake();
        }
    }

    fn deliver(&mut self, now_us: u64) {
        for Completion { token, outcome } in self.engine.lanes.completions.drain(..) {
            if token == engine::NOBODY {
                if let engine::operation::Outcome::Failed(error) = outcome {
                    tracing::warn!(%error, "a change of the cluster's own records was not confirmed in time");
                }
                continue;
            }
            let place = usize::try_from(Asked::unmark(token) >> PLACE_BITS).unwrap_or(usize::MAX);
            let mailbox = self.mailboxes.get(place).and_then(Option::as_ref);
            self.counts.answered(mailbox, token, &outcome, now_us);
            if let Some(mailbox) = mailbox {
                mailbox.push(u32::try_from(token & u64::from(u32::MAX)).unwrap_or(0), outcome);
            }
        }
    }

    /// Gives up the places of mailboxes whose owners are gone.
    fn sweep_mailboxes(&mut self) {
        for (place, slot) in self.mailboxes.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(Mailbox::is_over) {
                *slot = None;
                self.free.push(u32::try_from(place).unwrap_or(u32::MAX));
            }
        }
    }

    /// Ends a turn. Says whether another one is due at once.
    pub(super) fn turn(&mut self, clock: &SystemClock) -> Result<bool, StorageError> {
        let now = clock.now();
        self.engine.advance(now);
        self.engine.end_turn();
        self.append(now.mono_us)?;
        self.carry_out_storage();
        self.send_frames();
        self.deliver(now.mono_us);
        self.hand_on_changes();
        self.wake_waiting();
        Ok(self.engine.wants_turn())
    }

    /// Appends the turn's bytes to the journal in one write.
    fn append(&mut self, now_us: u64) -> Result<(), StorageError> {
        if now_us < self.retry_us {
            return Ok(());
        }
        if self.engine.lanes.rotate {
            match self.journal.rotate() {
                Ok(segment) => {
                    self.segment = segment;
                    self.engine.lanes.rotate = false;
                }
                Err(error) if error.may_pass() => return self.refuse_writes(&error, now_us),
                Err(error) => return Err(error),
            }
        }
        if self.engine.lanes.journal.is_empty() {
            return Ok(());
        }
        // More than one write takes waits here while the disk is full, or when many hints are repeated.
        while !self.engine.lanes.journal.is_empty() {
            let part = self.engine.next_append(MAX_APPEND_BYTES);
            let bytes = part.len();
            match self.journal.append(part) {
                Ok(()) => {}
                Err(error) if error.may_pass() => return self.refuse_writes(&error, now_us),
                Err(error) => return Err(error),
            }
            self.counts.journal.appends += 1;
            self.engine.appended(bytes);
        }
        if self.retry_us > 0 {
            tracing::info!("the disk takes writes again");
            self.retry_us = 0;
            self.engine.set_storage_problem(None);
        }
        let wanted = std::mem::take(&mut self.engine.lanes.sync);
        if wanted || self.engine.settings().sync == Sync::Always || self.is_congested() {
            self.sync(now_us);
        }
        Ok(())
    }

    fn sync(&mut self, now_us: u64) {
        self.disks.sync(self.engine.settings().sync == Sync::Always);
        self.last_sync_us = now_us;
        self.counts.sync_asked(self.engine.positions().written, now_us);
    }

    fn refuse_writes(&mut self, error: &StorageError, now_us: u64) -> Result<(), StorageError> {
        if self.retry_us == 0 {
            tracing::error!(%error, "writes are refused until this has passed");
        }
        self.counts.disk_failed("append");
        self.retry_us = now_us + u64::try_from(JOURNAL_RETRY.as_micros()).unwrap_or(u64::MAX);
        self.engine.set_storage_problem(Some(error.to_string()));
        Ok(())
    }

    fn carry_out_storage(&mut self) {
        if !self.engine.lanes.loads.is_empty() {
            self.disks.ask(StoreJob::Loads(std::mem::take(&mut self.engine.lanes.loads)));
        }
        for range in self.engine.lanes.ranges.drain(..) {
            self.disks.ask(StoreJob::Range(range));
        }
        for page in self.engine.lanes.pages.drain(..) {
            self.disks.ask(StoreJob::Page(page));
        }
        // A segment that could not be begun yet holds its checkpoint back.
        if self.engine.lanes.rotate {
            return;
        }
        match self.engine.lanes.checkpoint.take() {
            Some(CheckpointStep::Begin) => {
                self.counts.checkpoint_begun(self.engine.now().mono_us);
                self.disks.ask(StoreJob::Begin(self.segment));
            }
            Some(CheckpointStep::Batch(batch)) => self.disks.ask(StoreJob::Batch(batch)),
            Some(CheckpointStep::Commit) => self.disks.ask(StoreJob::Commit),
            None => {}
        }
    }

    /// Builds, seals and sends at most one frame for each peer.
    fn send_frames(&mut self) {
        let mut broken = Vec::new();
        for (member, outgoing) in &mut self.links {
            if outgoing.writer.is_blocked() {
                continue;
            }
            self.frame.clear();
            if !self.engine.take_frame(*member, &mut self.frame) {
                continue;
            }
            self.counts.frame_sent(self.frame.len());
            let sent = outgoing
                .writer
                .queue(FrameKind::Engine, &self.frame)
                .and_then(|()| outgoing.writer.try_flush());
            match sent {
                Ok(true) => {}
                Ok(false) => wake(&mut outgoing.drain),
                Err(error) => {
                    tracing::info!(%member, %error, "link lost");
                    broken.push(*member);
                }
            }
        }
        if self.frame.capacity() > 4 << 20 {
            self.frame = Vec::new();
        }
        for (member, reason) in std::mem::take(&mut self.engine.lanes.close) {
            tracing::warn!(%member, reason, "link given up");
            broken.push(member);
        }
        for member in broken {
            self.drop_link(member);
        }
    }

    /// Ends a link from this side.
    pub(super) fn drop_link(&mut self, member: MemberId) {
        if let Some(outgoing) = self.links.remove(&member) {
            self.counts.links.closed += 1;
            if let Some(drain) = outgoing.drain {
                drain.wake();
            }
            outgoing.end.notify_waiters();
            outgoing.end.notify_one();
            self.engine.link_down(member, outgoing.link);
        }
    }

    /// Ends all links for good, and the journal with what that leaves. Nothing may be asked of the engine any more.
    pub(super) fn end(&mut self, now: Now) {
        for outgoing in self.links.values_mut() {
            let goodbye = outgoing.writer.queue(FrameKind::Goodbye, b"the member stops");
            _ = goodbye.and_then(|()| outgoing.writer.try_flush());
        }
        self.engine.advance(now);
        self.engine.stop();
        // A start without it sends again what may be on its way; the disk threads sync it when they end.
        if let Err(error) = self.append(now.mono_us) {
            tracing::warn!(%error, "the journal could not be ended in order");
        }
    }

    /// Takes an answer of the disk threads. `Err` when the member must stop.
    pub(super) fn disk_answer(&mut self, answer: DiskAnswer) -> Result<(), StorageError> {
        match answer {
            DiskAnswer::Synced => {
                let durable = self.disks.durable();
                self.counts.synced(durable, self.engine.now().mono_us);
                self.engine.synced(durable);
            }
            DiskAnswer::Loaded(load, found) => {
                let found = match &found {
                    Ok(Loaded::Found(record)) => engine::Loaded::Found(record.view().bytes()),
                    Ok(Loaded::Absent) => engine::Loaded::Absent,
                    Ok(Loaded::Damaged) => engine::Loaded::Damaged,
                    Err(error) => {
                        tracing::error!(%error, "a record could not be loaded; it is tried again");
                        self.counts.disk_failed("load");
                        engine::Loaded::Failed
                    }
                };
                self.engine.loaded(&load, found);
            }
            DiskAnswer::Range(id, rows, resume) => self.engine.range_loaded(id, rows, resume),
            DiskAnswer::RangeFailed(id, error) => {
                tracing::error!(%error, "a range could not be loaded; the listing fails");
                self.counts.disk_failed("load");
                self.engine.range_failed(id);
            }
            DiskAnswer::Page(id, page) => self.engine.page_loaded(id, page),
            DiskAnswer::Damaged(names) => self.engine.found_damaged(&names),
            DiskAnswer::Rebuilt(aside) => {
                let problem = format!(
                    "the record store was damaged and set aside as {aside}; what was whole is kept, the rest comes from the others"
                );
                tracing::error!("{problem}");
                self.problems.push(problem);
                self.engine.store_rebuilt();
            }
            DiskAnswer::Batch(replaced) => self.engine.checkpoint_batch(&replaced),
            DiskAnswer::Committed(records, bytes) => {
                self.counts.checkpoint_ended(self.engine.now().mono_us);
                tracing::info!(records, bytes, "checkpoint done");
                self.engine.checkpoint_committed();
            }
            DiskAnswer::CheckpointFailed(error) => {
                tracing::error!(%error, "checkpoint failed; the journal is kept and it is tried again");
                self.counts.disk_failed("checkpoint");
                self.counts.checkpoint_ended(self.engine.now().mono_us);
                self.engine.checkpoint_failed();
            }
            DiskAnswer::Fatal(error) => return Err(error),
        }
        Ok(())
    }

    /// What is due with time.
    pub(super) fn tick(&mut self) {
        self.engine.tick();
        self.tell_damage();
        self.sweep_mailboxes();
        let now_us = self.engine.now().mono_us;
        let interval_us = self.engine.settings().sync_interval_ms * 1_000;
        let waits = self.engine.positions().written > self.engine.positions().synced;
        if waits && now_us >= self.last_sync_us + interval_us {
            self.sync(now_us);
        }
    }
}

/// Notices a panic while the engine is called, whoever called it: a connection's task would take it along,
/// and nobody knows any more what the engine's tables hold.
struct Call<'a>(&'a Shared);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(NodeError::Defect { part: "the engine", message: "it panicked".to_owned() });
        }
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Shared {
    pub(super) fn new(
        core: Core,
        clock: SystemClock,
        config: MemberConfig,
        secrets: Secrets,
        guard: (Publisher, Guard),
        disk: OsDisk,
        view: super::view::View,
    ) -> Self {
        Self {
            core: RefCell::new(core),
            clock,
            config,
            secrets,
            guard,
            disk,
            view: RefCell::new(view),
            flush_wanted: Cell::new(false),
            flusher: RefCell::new(None),
            fatal: RefCell::new(None),
            stop: Notify::new(),
            changed: Notify::new(),
            resp: Rc::default(),
        }
    }

    /// Calls the engine's owner within a turn, and sees to it that the turn ends.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core.borrow_mut();
        if !self.flush_wanted.replace(true) {
            core.engine.advance(self.clock.now());
            wake(&mut self.flusher.borrow_mut());
        }
        let call = Call(self);
        let done = act(&mut core);
        drop(call);
        if core.engine.lanes.journal.len() >= EARLY_APPEND_BYTES {
            let now_us = core.engine.now().mono_us;
            if let Err(error) = core.append(now_us) {
                self.storage_failed(error);
            }
        }
        done
    }

    /// Stops the member because of an error.
    pub(super) fn fail(&self, error: NodeError) {
        self.fatal.borrow_mut().get_or_insert(error);
        self.stop.notify_one();
    }

    pub(super) fn storage_failed(&self, source: StorageError) {
        let directory = self.config.data_dir.display().to_string();
        self.fail(NodeError::Storage { directory, source });
    }
}
