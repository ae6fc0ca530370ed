//! Clients' writes of this turn, before anything is done about them.
//!
//! A write begins with looking for its key's record, which is somewhere in memory where nobody looked
//! for long. Waiting for that memory takes longer than all else that a write asks of the processor, so
//! writes are taken in together: their records are looked for all at once ([`Table::warm`]), and then
//! one after the other, in their order.
//!
//! Invariant: the inbox is empty when a turn ends, and before anything is read for a client.
//!
//! [`Table::warm`]: super::table::Table::warm

use super::Engine;
use super::operation::{Change, Write};
use crate::model::edit::Modify;
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRef};
use std::ops::Range;

/// Writes that are taken in together. More would push each other out of the processor's cache.
const MAX_WRITES: usize = 64;
/// Bytes of names and values that wait, unless one write has more.
const MAX_BYTES: usize = 64 << 10;

/// Writes that wait for the end of the turn.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    writes: Vec<Queued>,
    /// Their names and values.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Queued {
    token: u64,
    hash: KeyHash,
    collection: Range<usize>,
    key: Range<usize>,
    change: QueuedChange,
    level: Option<Level>,
    after: u64,
}

#[derive(Debug)]
enum QueuedChange {
    Set { value: Range<usize>, expiry_ms: Option<u64> },
    Delete,
    Increment { delta: i64 },
    Modify(Box<Modify>),
}

impl Inbox {
    fn push(&mut self, token: u64, write: Write<'_>) {
        let Write { key, change, level, after } = write;
        let collection = self.keep(key.collection().as_bytes());
        let hash = key.hash();
        let key = self.keep(key.key());
        let change = match change {
            Change::Set { value, expiry_ms } => QueuedChange::Set { value: self.keep(value), expiry_ms },
            Change::Delete => QueuedChange::Delete,
            Change::Increment { delta } => QueuedChange::Increment { delta },
            Change::Modify(modify) => QueuedChange::Modify(Box::new(modify.clone())),
        };
        self.writes.push(Queued { token, hash, collection, key, change, level, after });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn is_full(&self) -> bool {
        self.writes.len() >= MAX_WRITES || self.bytes.len() >= MAX_BYTES
    }

    fn clear(&mut self) {
        self.writes.clear();
        self.bytes.clear();
        self.bytes.shrink_to(2 * MAX_BYTES);
    }
}

impl Queued {
    fn write<'a>(&'a self, bytes: &'a [u8]) -> Option<Write<'a>> {
        let part = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        let collection = std::str::from_utf8(part(&self.collection)).ok()?;
        let change = match &self.change {
            QueuedChange::Set { value, expiry_ms } => {
                Change::Set { value: part(value), expiry_ms: *expiry_ms }
            }
            QueuedChange::Delete => Change::Delete,
            QueuedChange::Increment { delta } => Change::Increment { delta: *delta },
            QueuedChange::Modify(modify) => Change::Modify(modify),
        };
        let key = KeyRef::new(collection, part(&self.key)).ok()?;
        Some(Write { key, change, level: self.level, after: self.after })
    }
}

impl Engine {
    /// A client's write. The answer comes under `token`, an [`Outcome::Stored`] or
    /// [`Outcome::Failed`]. It takes effect in this turn, behind earlier writes and before whatever
    /// is read later.
    ///
    /// [`Outcome::Stored`]: super::operation::Outcome::Stored
    /// [`Outcome::Failed`]: super::operation::Outcome::Failed
    pub fn write(&mut self, token: u64, write: Write<'_>) {
        self.inbox.push(token, write);
        if self.inbox.is_full() {
            self.take_writes();
        }
    }

    /// Takes in the writes that wait.
    pub(super) fn take_writes(&mut self) {
        if self.inbox.writes.is_empty() {
            return;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        self.records.table.warm(inbox.writes.iter().map(|queued| queued.hash));
        for queued in &inbox.writes {
            if let Some(write) = queued.write(&inbox.bytes) {
                self.take_write(queued.token, &write, queued.hash);
            }
        }
        inbox.clear();
        self.inbox = inbox;
    }
}
