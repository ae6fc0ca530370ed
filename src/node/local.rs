//! How a local task (a client's connection) uses this member: the trait [`Local`], the [`Mailbox`]
//! in which answers arrive, and [`LocalHandle`], the member itself.
//!
//! Everything here stays on the data thread, so a call is a function call and an answer is a push
//! onto a queue: no channel, no lock, no allocation per operation. A connection submits operations
//! under tokens of its own, goes to sleep, and is woken once however many answers came meanwhile.
//!
//! Invariants: an answer is pushed exactly once per submitted operation and never before it is
//! true; [`Local::read`] and [`Local::write`] take effect in the order of the calls.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::core::Shared;
use super::publish::Asked;
use crate::engine;
use crate::engine::operation::{OperationError, Outcome, Read, Scan, Wait, Write};
pub use crate::engine::watch::{ChangeKind, Interest, Kinds, NamedChange};
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRef, RecordRef};

/// Collections in [`LocalInfo`].
const SHOWN_COLLECTIONS: usize = 1_000;

/// A cheap handle on this member for tasks of its data thread.
pub trait Local: Clone + 'static {
    /// Answers a read at once, if this member may answer it alone and has the record in memory. `hash` is the key's.
    ///
    /// Calls `hit` with the record, which is readable at this moment, or with `None` if there
    /// surely is none, and returns what `hit` returns. `None` without a call of `hit` means that
    /// the answer needs a load, other members, or a level above `one`: use [`Local::read`] then.
    /// A write that was submitted before, even if it is not answered yet, is seen. `hit` must not use this
    /// handle: the table may be borrowed meanwhile.
    fn get_now<R>(
        &self,
        key: KeyRef<'_>,
        hash: KeyHash,
        hit: impl FnOnce(Option<RecordRef<'_>>) -> R,
    ) -> Option<R>;

    /// Tells which keys are read next: a hint, which makes their reads faster.
    fn foresee(&self, _keys: &[KeyHash]) {}

    /// Submits a read. `mailbox` gets [`Outcome::Found`] or [`Outcome::Failed`] under `token`,
    /// possibly before this returns.
    fn read(&self, mailbox: &Mailbox, token: u32, read: Read<'_>);

    /// Submits a write. `mailbox` gets [`Outcome::Stored`] or [`Outcome::Failed`] under `token`,
    /// possibly before this returns. Whatever is needed of `write` is copied during the call.
    fn write(&self, mailbox: &Mailbox, token: u32, write: Write<'_>);

    /// Waits for durable copies of writes. `mailbox` gets [`Outcome::Copies`] or [`Outcome::Failed`] under `token`,
    /// possibly before this returns.
    fn wait(&self, mailbox: &Mailbox, token: u32, wait: Wait);

    /// Submits a scan. `mailbox` gets [`Outcome::Page`] or [`Outcome::Failed`] under `token`, possibly
    /// before this returns.
    fn scan(&self, mailbox: &Mailbox, token: u32, scan: &Scan);

    /// Reads the clocks: what is expired is judged by this moment until they are read again. To be
    /// called once for a batch of operations. Returns milliseconds since the Unix epoch.
    fn read_clocks(&self) -> u64;

    /// What a client may be told about this member.
    fn info(&self) -> LocalInfo;

    /// Bytes that a value may have in this cluster.
    fn max_value_bytes(&self) -> usize;

    /// Whether so much waits for the disk that no further operation should be submitted.
    fn is_congested(&self) -> bool;

    /// Wakes the owner of `mailbox` (as [`Mailbox::wake`] does) once that is over. To be called when
    /// [`Local::is_congested`] said yes, each time before the owner goes to sleep.
    fn wake_when_relieved(&self, mailbox: &Mailbox);

    /// From now on `mailbox` gets changes of these kinds that match, of all members, without values: no earlier ones,
    /// and none again. Takes its part of what this member can watch until [`Local::unsubscribe`]; who ends ends its
    /// subscriptions first.
    ///
    /// # Errors
    /// [`OperationError`] when this member serves nobody, or watches too much.
    fn subscribe(
        &self,
        mailbox: &Mailbox,
        interest: &Interest,
        kinds: Kinds,
    ) -> Result<Subscription, OperationError>;

    /// Ends a subscription; what was pushed before may still be taken.
    fn unsubscribe(&self, subscription: Subscription);

    /// Where the RESP port counts what it does.
    fn resp_counts(&self) -> Rc<RespCounts>;
}

/// What a RESP port has done since the start; published with the member's metrics.
#[derive(Debug, Default)]
pub struct RespCounts {
    /// Connections that are open.
    pub connections: Cell<u64>,
    /// Connections that were accepted.
    pub accepted: Cell<u64>,
    /// Connections that were refused at the bound.
    pub rejected: Cell<u64>,
    /// Commands that were carried out or refused.
    pub commands: Cell<u64>,
    /// Errors among the replies.
    pub errors: Cell<u64>,
    /// Bytes that were received.
    pub bytes_received: Cell<u64>,
    /// Bytes that were sent.
    pub bytes_sent: Cell<u64>,
    /// Requests that were refused because they are too large; their connections were closed.
    pub too_large: Cell<u64>,
    /// Requests that were no RESP; their connections were closed.
    pub malformed: Cell<u64>,
    /// How often a connection's next command had to wait because too many before were not answered yet.
    pub held_pipeline: Cell<u64>,
    /// How often it had to wait because too many bytes of replies were not sent yet.
    pub held_output: Cell<u64>,
    /// Connections that were cut off because they did not read what they asked to be told.
    pub slow_listeners: Cell<u64>,
    /// Channels and patterns that were refused at a bound.
    pub refused_listeners: Cell<u64>,
    /// Bytes of memory of what waits for clients to read it.
    pub unsent_bytes: Cell<u64>,
    /// Connections that were cut off because their clients took nothing of what waited for them, or sent nothing more of a
    /// large command.
    pub stalled: Cell<u64>,
    /// Connections that were cut off because too much waited for all clients together.
    pub evicted: Cell<u64>,
    /// Connections that ended because their clients showed no token in time.
    pub unauthenticated: Cell<u64>,
}

/// Names a subscription of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscription(pub u64);

/// Changes, and the subscription that they are for.
pub type Changes = (Subscription, Rc<[NamedChange]>);

/// Changes that wait to be taken from one mailbox; further ones are dropped and counted.
const MAX_CHANGES: usize = 65_536;

/// An operation whose answer is timed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    /// The engine's token for it.
    pub(super) token: u64,
    /// When it was submitted, in microseconds of the member's clock.
    pub(super) since_us: u64,
}

/// A member in a few words and numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalInfo {
    /// The member's name.
    pub member: String,
    /// The cluster's name; empty while the member belongs to none.
    pub cluster: String,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Other members that seem alive.
    pub live_peers: usize,
    /// Members in the roster, this one included.
    pub members: usize,
    /// Copies that the cluster keeps of each record.
    pub replication_factor: u8,
    /// Records that this member holds, tombstones included.
    pub records: u64,
    /// Bytes of memory that the table of records takes.
    pub table_bytes: u64,
    /// The collections of the records in memory, and how many records each has, tombstones included. Not
    /// all of them if there are very many.
    pub collections: Vec<(String, u64)>,
    /// Reads that found a record, and those that found none, as far as this member could tell at once.
    pub reads_found: u64,
    /// See `reads_found`.
    pub reads_missing: u64,
}

/// Where the answers to one task's operations arrive. Clones are the same mailbox.
#[derive(Clone, Default)]
pub struct Mailbox(Rc<Slot>);

#[derive(Default)]
struct Slot {
    answers: RefCell<VecDeque<(u32, Outcome)>>,
    changes: RefCell<VecDeque<Changes>>,
    /// How many changes wait, and how many were dropped.
    waiting_changes: Cell<usize>,
    missed_changes: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    asleep: Cell<bool>,
    closed: Cell<bool>,
    /// Where the node keeps this mailbox, and how many answers are still to come.
    place: Cell<Option<u32>>,
    expected: Cell<u32>,
    /// The one of its operations whose answer is timed.
    timed: Cell<Option<Timed>>,
    /// Whether the node will wake it when the disk has caught up.
    waits: Cell<bool>,
}

impl Mailbox {
    /// An empty mailbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The node's note of where it keeps this mailbox.
    pub(super) fn place(&self) -> &Cell<Option<u32>> {
        &self.0.place
    }

    /// The operation whose answer is timed.
    pub(super) fn timed(&self) -> &Cell<Option<Timed>> {
        &self.0.timed
    }

    /// The node's note that it will wake the owner when the disk has caught up.
    pub(super) fn waits(&self) -> &Cell<bool> {
        &self.0.waits
    }

    /// Answers that are still to come.
    pub(super) fn expected(&self) -> u32 {
        self.0.expected.get()
    }

    /// Counts an operation whose answer is still to come.
    pub(super) fn expect(&self) {
        self.0.expected.set(self.0.expected.get() + 1);
    }

    /// Whether the owner is gone and no answer is to come.
    pub(super) fn is_over(&self) -> bool {
        self.0.closed.get() && self.0.expected.get() == 0
    }

    /// Delivers an answer and wakes the owner if it sleeps. Dropped if the owner is gone.
    pub fn push(&self, token: u32, outcome: Outcome) {
        self.0.expected.set(self.0.expected.get().saturating_sub(1));
        if self.0.closed.get() {
            return;
        }
        self.0.answers.borrow_mut().push_back((token, outcome));
        self.wake();
    }

    /// Delivers changes and wakes the owner; says whether there still is one. Dropped, and counted, if too many wait.
    pub fn push_changes(&self, subscription: Subscription, changes: &Rc<[NamedChange]>) -> bool {
        let slot = &*self.0;
        let waiting = slot.waiting_changes.get() + changes.len();
        if slot.closed.get() {
            return false;
        }
        if waiting > MAX_CHANGES {
            slot.missed_changes.set(slot.missed_changes.get() + changes.len() as u64);
            return true;
        }
        slot.waiting_changes.set(waiting);
        slot.changes.borrow_mut().push_back((subscription, Rc::clone(changes)));
        self.wake();
        true
    }

    /// The oldest changes that were not taken yet.
    #[must_use]
    pub fn pop_changes(&self) -> Option<Changes> {
        let changes = self.0.changes.borrow_mut().pop_front()?;
        self.0.waiting_changes.set(self.0.waiting_changes.get().saturating_sub(changes.1.len()));
        Some(changes)
    }

    /// Changes that were dropped because too many waited to be taken.
    #[must_use]
    pub fn missed_changes(&self) -> u64 {
        self.0.missed_changes.get()
    }

    /// Wakes the owner if it sleeps; an owner that runs looks into the mailbox before it sleeps.
    pub fn wake(&self) {
        if self.0.asleep.replace(false)
            && let Some(waker) = self.0.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Called by the owner when it begins to run: pushes need not wake it until it sleeps again.
    pub fn attend(&self) {
        self.0.asleep.set(false);
    }

    /// The oldest answer that was not taken yet.
    #[must_use]
    pub fn pop(&self) -> Option<(u32, Outcome)> {
        self.0.answers.borrow_mut().pop_front()
    }

    /// Called by the owner before it goes to sleep: the next [`Mailbox::push`] or
    /// [`Mailbox::wake`] wakes it. Returns false, and arms nothing, if answers or changes are waiting.
    #[must_use]
    pub fn sleep(&self, waker: &Waker) -> bool {
        if !self.0.answers.borrow().is_empty() || !self.0.changes.borrow().is_empty() {
            return false;
        }
        let mut stored = self.0.waker.borrow_mut();
        if !stored.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *stored = Some(waker.clone());
        }
        self.0.asleep.set(true);
        true
    }

    /// Called by the owner when it ends: what is there and what still comes is dropped.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.answers.borrow_mut().clear();
        self.0.changes.borrow_mut().clear();
        self.0.waker.borrow_mut().take();
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("answers", &self.0.answers.borrow().len()).finish_non_exhaustive()
    }
}

/// The next answer that comes.
pub(super) async fn next(mailbox: &Mailbox) -> (u32, Outcome) {
    std::future::poll_fn(|context| {
        mailbox.attend();
        match mailbox.pop() {
            Some(answer) => Poll::Ready(answer),
            None => {
                // Nothing was there just now, and nothing comes while this task runs.
                let _asleep = mailbox.sleep(context.waker());
                Poll::Pending
            }
        }
    })
    .await
}

/// Waits while too much waits for the disk.
pub(super) async fn relieved(local: &impl Local) {
    if !local.is_congested() {
        return;
    }
    let mailbox = Mailbox::new();
    std::future::poll_fn(|context| {
        mailbox.attend();
        if !local.is_congested() {
            return Poll::Ready(());
        }
        local.wake_when_relieved(&mailbox);
        // No answers come here, so it always falls asleep.
        let _asleep = mailbox.sleep(context.waker());
        Poll::Pending
    })
    .await;
}

/// The member, for tasks of its data thread.
#[derive(Debug, Clone)]
pub struct LocalHandle {
    pub(super) shared: Rc<Shared>,
}

impl Local for LocalHandle {
    fn get_now<R>(
        &self,
        key: KeyRef<'_>,
        hash: KeyHash,
        hit: impl FnOnce(Option<RecordRef<'_>>) -> R,
    ) -> Option<R> {
        let core = &mut *self.shared.core.borrow_mut();
        if matches!(core.engine.settings().read_level_of(key.collection()), Level::Quorum | Level::All) {
            return None;
        }
        match core.engine.read_now(key, hash) {
            engine::Local::Found(record) => {
                core.counts.found_at_once();
                Some(hit(Some(record)))
            }
            engine::Local::Missing => {
                core.counts.missing_at_once();
                Some(hit(None))
            }
            engine::Local::Elsewhere => None,
        }
    }

    fn foresee(&self, keys: &[KeyHash]) {
        self.shared.core.borrow().engine.foresee(keys);
    }

    fn read(&self, mailbox: &Mailbox, token: u32, read: Read<'_>) {
        self.shared.with(|core| {
            let token = core.token(mailbox, token, Asked::Get);
            core.engine.read(token, read);
        });
    }

    fn write(&self, mailbox: &Mailbox, token: u32, write: Write<'_>) {
        self.shared.with(|core| {
            let token = core.token(mailbox, token, Asked::of(&write.change));
            core.engine.write(token, write);
        });
    }

    fn wait(&self, mailbox: &Mailbox, token: u32, wait: Wait) {
        self.shared.with(|core| {
            let token = core.token(mailbox, token, Asked::Wait);
            core.engine.wait(token, wait);
        });
    }

    fn scan(&self, mailbox: &Mailbox, token: u32, scan: &Scan) {
        self.shared.with(|core| {
            let token = core.token(mailbox, token, Asked::Scan);
            core.engine.scan(token, scan);
        });
    }

    fn read_clocks(&self) -> u64 {
        let now = self.shared.clock.now();
        self.shared.core.borrow_mut().engine.advance(now);
        now.wall_ms
    }

    fn is_congested(&self) -> bool {
        self.shared.core.borrow().is_congested()
    }

    fn wake_when_relieved(&self, mailbox: &Mailbox) {
        self.shared.core.borrow_mut().wake_when_relieved(mailbox);
    }

    fn subscribe(
        &self,
        mailbox: &Mailbox,
        interest: &Interest,
        kinds: Kinds,
    ) -> Result<Subscription, OperationError> {
        self.shared.with(|core| core.subscribe(mailbox, interest, kinds))
    }

    fn unsubscribe(&self, subscription: Subscription) {
        self.shared.with(|core| core.unsubscribe(subscription));
    }

    fn resp_counts(&self) -> Rc<RespCounts> {
        Rc::clone(&self.shared.resp)
    }

    fn max_value_bytes(&self) -> usize {
        self.shared.core.borrow().max_value_bytes()
    }

    fn info(&self) -> LocalInfo {
        let core = self.shared.core.borrow();
        let (records, table_bytes, _) = core.engine.table_counts();
        let now = self.shared.clock.now();
        LocalInfo {
            member: self.shared.config.name.clone(),
            cluster: core.cluster.as_ref().map(|cluster| cluster.name.clone()).unwrap_or_default(),
            uptime_seconds: now.mono_us / 1_000_000,
            live_peers: core.links.len(),
            members: core.engine.roster().len(),
            replication_factor: core.engine.settings().replication_factor,
            records: records as u64,
            table_bytes: table_bytes as u64,
            collections: core.engine.collections(SHOWN_COLLECTIONS),
            reads_found: core.counts.reads_at_once().0,
            reads_missing: core.counts.reads_at_once().1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn many_answers_wake_the_sleeper_once() {
        let (mailbox, count) = (Mailbox::new(), Arc::new(Count(AtomicUsize::new(0))));
        let waker = Waker::from(Arc::clone(&count));
        assert!(mailbox.sleep(&waker));
        for token in 0..3 {
            mailbox.push(token, Outcome::Found(None));
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(!mailbox.sleep(&waker), "there are answers to take first");
        let tokens: Vec<u32> = std::iter::from_fn(|| mailbox.pop()).map(|(token, _)| token).collect();
        assert_eq!(tokens, [0, 1, 2]);
        assert!(mailbox.sleep(&waker));
    }

    #[test]
    fn a_closed_mailbox_keeps_nothing() {
        let mailbox = Mailbox::new();
        mailbox.push(1, Outcome::Found(None));
        mailbox.close();
        mailbox.push(2, Outcome::Found(None));
        assert!(mailbox.pop().is_none());
    }
}
