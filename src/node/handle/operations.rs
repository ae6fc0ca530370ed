//! What is asked of keys, and what comes of it.

use super::{Modified, Stored};
use crate::model::edit::Modify;
use crate::model::key::{KeyError, KeyRef};
use crate::model::settings::Level;
use crate::model::{Kind, Record};
use bytes::Bytes;

/// A collection and key, checked when made, with its own memory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    collection: String,
    key: Bytes,
}

impl Key {
    /// Checks and keeps both names.
    ///
    /// # Errors
    /// [`KeyError`] tells which rule is broken.
    pub fn new(collection: impl Into<String>, key: impl Into<Bytes>) -> Result<Self, KeyError> {
        let (collection, key) = (collection.into(), key.into());
        KeyRef::new(&collection, &key)?;
        Ok(Self { collection, key })
    }

    /// The key as the engine takes it.
    ///
    /// # Errors
    /// Never: both names were checked when this was made.
    pub fn key_ref(&self) -> Result<KeyRef<'_>, KeyError> {
        KeyRef::new(&self.collection, &self.key)
    }

    /// The collection's name.
    #[must_use]
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The key's bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.key
    }
}

/// What a client asks of one key. A level of `None` takes the cluster's setting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `crate::engine::operation::{Read, Write}`")]
pub enum Operation {
    /// Reads a record.
    Get { key: Key, level: Option<Level> },
    /// Stores a value; it counts as deleted `ttl_ms` milliseconds after it was taken in: `None` as its collection's
    /// `default_ttl` says, [`crate::model::record::LASTING_MS`] never.
    Put { key: Key, value: Bytes, ttl_ms: Option<u64>, level: Option<Level>, after: u64 },
    /// Leaves a tombstone.
    Delete { key: Key, level: Option<Level>, after: u64 },
    /// Adds to a counter.
    Increment { key: Key, delta: i64, level: Option<Level>, after: u64 },
    /// Looks at what is there and changes it, at the key's home.
    Modify { key: Key, modify: Modify, level: Option<Level>, after: u64 },
}

impl Operation {
    /// The key that the operation is about.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Get { key, .. }
            | Self::Put { key, .. }
            | Self::Delete { key, .. }
            | Self::Increment { key, .. }
            | Self::Modify { key, .. } => key,
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        !matches!(self, Self::Get { .. })
    }

    /// A change is stamped above `time`.
    pub fn follow(&mut self, time: u64) {
        match self {
            Self::Get { .. } => {}
            Self::Put { after, .. }
            | Self::Delete { after, .. }
            | Self::Increment { after, .. }
            | Self::Modify { after, .. } => *after = time.max(*after),
        }
    }
}

/// What one operation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a read: the record, if there is a readable one.
    Found(Option<Record>),
    /// To a change.
    Stored(Stored),
    /// To a look with a change.
    Modified(Modified),
}

impl Answer {
    /// The time of what it tells, which a later change follows; 0 when it tells of no record.
    #[must_use]
    pub fn time(&self) -> u64 {
        let timestamp = match self {
            Self::Found(record) => record.as_ref().map(|record| record.view().timestamp()),
            Self::Stored(stored) => Some(stored.timestamp),
            Self::Modified(modified) => modified.stored.map(|stored| stored.timestamp).or(modified.present),
        };
        timestamp.map_or(0, |timestamp| timestamp.time)
    }
}

/// What a client reads from a record: a value's bytes, a counter's number as decimal text, nothing
/// from a tombstone.
#[must_use]
pub fn readable_bytes(record: &Record) -> Bytes {
    let view = record.view();
    match view.kind() {
        Kind::Value => Bytes::copy_from_slice(view.body()),
        Kind::Counter => Bytes::from(view.total().to_string()),
        Kind::Tombstone | Kind::ExpiredValue | Kind::ExpiredCounter => Bytes::new(),
    }
}
