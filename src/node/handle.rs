//! The door to a member for everything that does not run on its data thread: HTTP, the command
//! line's server, tests.
//!
//! A [`Handle`] is cheap to clone and may be used from any thread. It carries *batches* over one
//! bounded channel to the data thread and gets one answer per batch back, so the cost of crossing
//! threads is shared by a batch's operations. A full channel makes callers wait: that is the
//! member's backpressure towards them.
//!
//! Invariants: the answers of a batch are as many as its operations and in their order; a closed
//! channel or a dropped reply means that the member ended, and nothing else ([`Stopped`]).
//!
//! What the answers mean is decided by the engine; how they look as JSON is in [`documents`] and
//! [`status`].

mod base64;
pub mod convergence;
pub mod documents;
mod error;
pub mod events;
mod operations;
pub mod read;
pub mod secrets;
pub mod settings;
pub mod status;
pub mod tokens;
mod topology;
mod ttl;

use super::watch::{Hub, WatchRequest};
use crate::engine::collections::CollectionPage;
use crate::model::Record;
use crate::model::edit::Modify;
use crate::model::limits::MAX_VALUE_BYTES;
use crate::model::settings::Level;
use bytes::Bytes;
use convergence::{Convergence, Superseded};
use events::Events;
use status::{Cluster, InitRequest, Physical, Placement, Removed, Roster, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, oneshot};

pub use super::watch::{Cursor, CursorError, Watch};
pub use crate::engine::operation::{KeyRow, Modified, OperationError, Page, Row, Scan, Stored};
pub use crate::engine::watch::Interest;
pub use error::ControlError;
pub use operations::{Answer, Key, Operation, readable_bytes};

/// Requests that may wait for the data thread before callers have to.
const QUEUED_REQUESTS: usize = 256;
/// Operations in one batch. What one batch may hold of the data thread's time is bounded by it.
pub const MAX_BATCH_OPERATIONS: usize = 512;

/// The answers of one batch, in the order of its operations.
pub type Answers = Vec<Result<Answer, OperationError>>;

/// What arrives at the data thread.
#[derive(Debug)]
pub enum Request {
    /// Operations on keys: at most [`MAX_BATCH_OPERATIONS`], answered together.
    Operations {
        /// What is to be done; on each key in this order.
        operations: Vec<Operation>,
        /// Where the answers go.
        reply: oneshot::Sender<Answers>,
    },
    /// One page of a listing.
    Scan {
        /// Which.
        scan: Scan,
        /// Where the page goes.
        reply: oneshot::Sender<Result<Page, OperationError>>,
    },
    /// What watches need of the engine.
    Watch(WatchRequest),
    /// Anything about the member and its cluster rather than about keys.
    Control(Control),
}

/// A question about, or a change of, the member and its cluster. Each carries where its answer
/// goes.
#[derive(Debug)]
pub enum Control {
    /// How the member is; answered in every state.
    Status(oneshot::Sender<Status>),
    /// What the member noticed lately; answered in every state.
    Events {
        /// Only what came behind the event of this number.
        after: u64,
        /// Where it goes.
        reply: oneshot::Sender<Events>,
    },
    /// The members that gossip can see; answered in every state.
    Physical(oneshot::Sender<Physical>),
    /// The cluster and its members as the roster and liveness have them.
    Cluster(oneshot::Sender<Result<Cluster, ControlError>>),
    /// The roster's entries as they are replicated.
    Roster(oneshot::Sender<Result<Roster, ControlError>>),
    /// Who owns what.
    Placement {
        /// Only the partition of this key; `None` for all partitions.
        key: Option<Key>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Placement, ControlError>>,
    },
    /// What the member knows of whether all hold the same.
    Convergence {
        /// With the roots of its hash trees.
        roots: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Convergence, ControlError>>,
    },
    /// Names of collections that the member holds records of.
    Collections {
        /// Only names behind this one.
        after: String,
        /// How many at most.
        limit: usize,
        /// Where they go.
        reply: oneshot::Sender<Result<CollectionPage, ControlError>>,
    },
    /// The writes that the member knows to have lost.
    Superseded(oneshot::Sender<Result<Superseded, ControlError>>),
    /// Creates a cluster with this member as its first.
    Init {
        /// What the cluster is to be.
        request: InitRequest,
        /// Where the cluster goes once it exists.
        reply: oneshot::Sender<Result<Cluster, ControlError>>,
    },
    /// Joins the cluster of the member that listens for peers at an address.
    Join {
        /// `host:port` of its peer port.
        address: String,
        /// Where the cluster goes once this member was admitted.
        reply: oneshot::Sender<Result<Cluster, ControlError>>,
    },
    /// Lets this member hand over what it holds, and go. The answer comes when it has begun.
    Leave(oneshot::Sender<Result<Status, ControlError>>),
    /// Fences another member for good.
    Remove {
        /// Its name, or its id as text.
        name: String,
        /// Also where something may be lost.
        force: bool,
        /// Where the answer goes once it is durable.
        reply: oneshot::Sender<Result<Removed, ControlError>>,
    },
    /// The cluster's settings.
    Settings(settings::Control),
    /// The cluster's secret.
    Secrets(secrets::Control),
    /// The tokens of clients.
    Tokens(tokens::Control),
}

/// The data thread's end of the channel. It ends when every handle is gone.
pub type Requests = mpsc::Receiver<Request>;

/// The member has ended, or is ending, without an answer. Of changes that were on their way it is
/// unknown whether they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this member has stopped; ask another member (whether a change was stored is unknown)")]
pub struct Stopped;

impl From<Stopped> for ControlError {
    fn from(_: Stopped) -> Self {
        Self::Stopping
    }
}

/// Asks a member, from any thread. Dropping all handles closes the data thread's [`Requests`].
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    hub: Arc<Hub>,
    max_value_bytes: Arc<AtomicUsize>,
}

impl Handle {
    /// A handle and the end that the data thread answers from.
    #[must_use]
    pub fn channel() -> (Self, Requests) {
        let (requests, receiver) = mpsc::channel(QUEUED_REQUESTS);
        let hub = Arc::new(Hub::new(requests.downgrade(), rand::random()));
        let max_value_bytes = Arc::new(AtomicUsize::new(MAX_VALUE_BYTES));
        (Self { requests, hub, max_value_bytes }, receiver)
    }

    /// Bytes that a value may have, as far as this member knows: the most that any may before it is told.
    #[must_use]
    pub fn max_value_bytes(&self) -> usize {
        self.max_value_bytes.load(Ordering::Relaxed)
    }

    /// Where the data thread tells [`Self::max_value_bytes`].
    pub(super) fn told_max_value_bytes(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.max_value_bytes)
    }

    /// Whether the member has ended: nothing that is asked will be answered.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.requests.is_closed()
    }

    /// Carries out operations and gives their answers in order. Those on one key take effect in their order, those on
    /// different keys in any; more than [`MAX_BATCH_OPERATIONS`] are carried in several batches, one after the other.
    ///
    /// # Errors
    /// [`Stopped`]. What happened to single operations is in the answers.
    pub async fn run(&self, operations: Vec<Operation>) -> Result<Answers, Stopped> {
        let mut answers = Vec::with_capacity(operations.len());
        let mut operations = operations.into_iter();
        let mut seen = 0;
        loop {
            let mut batch: Vec<_> = operations.by_ref().take(MAX_BATCH_OPERATIONS).collect();
            batch.iter_mut().for_each(|operation| operation.follow(seen));
            if batch.is_empty() {
                return Ok(answers);
            }
            let expected = batch.len();
            // Whoever else has something to write at this moment prepares it first. The data thread is woken once then and does
            // all of it in one turn: one write to the journal, one frame to each peer.
            if batch.iter().any(Operation::is_change) {
                tokio::task::yield_now().await;
            }
            let part: Answers = self.ask(|reply| Request::Operations { operations: batch, reply }).await?;
            debug_assert_eq!(part.len(), expected, "each operation is answered once");
            seen = part.iter().flatten().map(Answer::time).fold(seen, u64::max);
            answers.extend(part);
        }
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// [`OperationError`]; when the member ended, [`OperationError::Stopping`] for a read and
    /// [`OperationError::Unknown`] for a change.
    pub async fn run_one(&self, operation: Operation) -> Result<Answer, OperationError> {
        let lost = match operation {
            Operation::Get { .. } => OperationError::Stopping,
            _ => OperationError::Unknown { copies: 0 },
        };
        match self.run(vec![operation]).await {
            Ok(answers) => answers.into_iter().next().unwrap_or(Err(lost)),
            Err(Stopped) => Err(lost),
        }
    }

    /// The record of a key, if there is a readable one.
    ///
    /// # Errors
    /// As [`Self::run_one`].
    pub async fn get(&self, key: Key, level: Option<Level>) -> Result<Option<Record>, OperationError> {
        match self.run_one(Operation::Get { key, level }).await? {
            Answer::Found(record) => Ok(record),
            Answer::Stored(_) | Answer::Modified(_) => Ok(None),
        }
    }

    /// Stores a value without expiry, at the cluster's level.
    ///
    /// # Errors
    /// As [`Self::run_one`].
    pub async fn put(&self, key: Key, value: Bytes) -> Result<Stored, OperationError> {
        self.change(Operation::Put { key, value, ttl_ms: None, level: None, after: 0 }).await
    }

    /// Deletes a key, at the cluster's level.
    ///
    /// # Errors
    /// As [`Self::run_one`].
    pub async fn delete(&self, key: Key) -> Result<Stored, OperationError> {
        self.change(Operation::Delete { key, level: None, after: 0 }).await
    }

    /// Carries out a change; a read is answered as a change of unknown fate.
    ///
    /// # Errors
    /// As [`Self::run_one`].
    pub async fn change(&self, operation: Operation) -> Result<Stored, OperationError> {
        match self.run_one(operation).await? {
            Answer::Stored(stored) => Ok(stored),
            Answer::Found(_) | Answer::Modified(_) => Err(OperationError::Unknown { copies: 0 }),
        }
    }

    /// Looks at what is under a key and changes it.
    ///
    /// # Errors
    /// As [`Self::run_one`].
    pub async fn modify(
        &self,
        key: Key,
        modify: Modify,
        level: Option<Level>,
        after: u64,
    ) -> Result<Modified, OperationError> {
        match self.run_one(Operation::Modify { key, modify, level, after }).await? {
            Answer::Modified(modified) => Ok(modified),
            Answer::Stored(_) | Answer::Found(_) => Err(OperationError::Unknown { copies: 0 }),
        }
    }

    /// One page of a listing.
    ///
    /// # Errors
    /// [`OperationError`]; [`OperationError::Stopping`] when the member ended.
    pub async fn scan(&self, scan: Scan) -> Result<Page, OperationError> {
        self.ask(|reply| Request::Scan { scan, reply }).await.unwrap_or(Err(OperationError::Stopping))
    }

    /// Opens a watch of a collection's keys that begin with a prefix: from a cursor if it is one that this member
    /// still remembers, else from the current state.
    ///
    /// # Errors
    /// [`OperationError`] when this member serves nobody or has too many watches.
    pub async fn watch(
        &self,
        interest: Interest,
        with_values: bool,
        cursor: Option<Cursor>,
    ) -> Result<Watch, OperationError> {
        self.hub.watch(interest, with_values, cursor).await
    }

    /// Ends all watches: each is told that the member stops.
    pub fn end_watches(&self) {
        self.hub.close();
    }

    pub(super) const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// How the member is.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn status(&self) -> Result<Status, Stopped> {
        self.ask(|reply| Request::Control(Control::Status(reply))).await
    }

    /// The members that gossip can see.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn physical(&self) -> Result<Physical, Stopped> {
        self.ask(|reply| Request::Control(Control::Physical(reply))).await
    }

    /// The cluster and its members.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn cluster(&self) -> Result<Cluster, ControlError> {
        self.ask(|reply| Request::Control(Control::Cluster(reply))).await?
    }

    /// The roster as it is replicated.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn roster(&self) -> Result<Roster, ControlError> {
        self.ask(|reply| Request::Control(Control::Roster(reply))).await?
    }

    /// Who owns the partition of a key, or every partition.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn placement(&self, key: Option<Key>) -> Result<Placement, ControlError> {
        self.ask(|reply| Request::Control(Control::Placement { key, reply })).await?
    }

    /// What the member knows of whether all hold the same, with the roots of its hash trees if wanted.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn convergence(&self, roots: bool) -> Result<Convergence, ControlError> {
        self.ask(|reply| Request::Control(Control::Convergence { roots, reply })).await?
    }

    /// The writes that the member knows to have lost.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn superseded(&self) -> Result<Superseded, ControlError> {
        self.ask(|reply| Request::Control(Control::Superseded(reply))).await?
    }

    /// The next names of collections that the member holds records of.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn collections(&self, after: String, limit: usize) -> Result<CollectionPage, ControlError> {
        self.ask(|reply| Request::Control(Control::Collections { after, limit, reply })).await?
    }

    /// Creates a cluster; repeating it with the same content changes nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn init(&self, request: InitRequest) -> Result<Cluster, ControlError> {
        self.ask(|reply| Request::Control(Control::Init { request, reply })).await?
    }

    /// Joins the cluster of the member whose peer port is at `address`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn join(&self, address: String) -> Result<Cluster, ControlError> {
        self.ask(|reply| Request::Control(Control::Join { address, reply })).await?
    }

    /// Lets the member hand over what it holds and go; its status tells how far that is. Repeating it
    /// changes nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn leave(&self) -> Result<Status, ControlError> {
        self.ask(|reply| Request::Control(Control::Leave(reply))).await?
    }

    /// Fences a member for good, by its name or id; with `force` also where something may be lost.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn remove(&self, name: String, force: bool) -> Result<Removed, ControlError> {
        self.ask(|reply| Request::Control(Control::Remove { name, force, reply })).await?
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::KeyError;
    use crate::model::{KeyHash, Timestamp};

    fn key(name: &str) -> Key {
        Key::new("default", name.to_owned()).unwrap()
    }

    fn stored(copies: u16) -> Result<Answer, OperationError> {
        Ok(Answer::Stored(Stored {
            timestamp: Timestamp::ZERO,
            copies,
            superseded: false,
            hash: KeyHash(0),
            number: None,
        }))
    }

    #[tokio::test]
    async fn a_long_batch_is_cut_and_its_answers_keep_their_order() {
        let (handle, mut requests) = Handle::channel();
        let responder = tokio::spawn(async move {
            let mut batches = Vec::new();
            let mut answered = 0;
            while let Some(Request::Operations { operations, reply }) = requests.recv().await {
                batches.push(operations.len());
                let first = answered;
                answered += u16::try_from(operations.len()).unwrap();
                reply.send((first..answered).map(stored).collect()).unwrap();
            }
            batches
        });
        let count = MAX_BATCH_OPERATIONS + 3;
        let answers = handle.run(vec![Operation::Get { key: key("a"), level: None }; count]).await.unwrap();
        drop(handle);
        assert_eq!(responder.await.unwrap(), [MAX_BATCH_OPERATIONS, 3]);
        let expected: Answers = (0..u16::try_from(count).unwrap()).map(stored).collect();
        assert_eq!(answers, expected);
    }

    #[tokio::test]
    async fn a_change_whose_member_ended_is_of_unknown_fate_and_a_read_is_not() {
        let (handle, requests) = Handle::channel();
        drop(requests);
        assert!(handle.is_stopped());
        let put = handle.put(key("a"), Bytes::from_static(b"1")).await;
        assert_eq!(put, Err(OperationError::Unknown { copies: 0 }));
        assert_eq!(handle.get(key("a"), None).await, Err(OperationError::Stopping));
        assert_eq!(handle.status().await, Err(Stopped));
        assert_eq!(handle.cluster().await, Err(ControlError::Stopping));
    }

    #[tokio::test]
    async fn a_reply_that_is_dropped_counts_as_stopped() {
        let (handle, mut requests) = Handle::channel();
        tokio::spawn(async move { drop(requests.recv().await) });
        assert_eq!(handle.run(vec![Operation::Get { key: key("a"), level: None }]).await, Err(Stopped));
    }

    #[test]
    fn a_key_that_breaks_a_rule_is_never_made() {
        assert_eq!(Key::new("default", Bytes::new()), Err(KeyError::Empty));
        assert_eq!(Key::new("no spaces", "k"), Err(KeyError::Collection));
    }
}
