//! What clients ask of a member and what they are told: plain data, the same for RESP, HTTP, links
//! and the simulator.
//!
//! Every operation carries a `token` that its caller chose; the answer comes as a [`Completion`]
//! with that token, exactly once, and never before it is true.

use crate::model::edit::{EditError, Modify};
use crate::model::merge::CounterError;
use crate::model::record::HEADER_BYTES;
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRange, KeyRef, Record, RecordRef, Timestamp};
pub use crate::protocol::message::KeyRow;
use std::fmt;

/// A change of one key.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// What is changed.
    pub key: KeyRef<'a>,
    /// How.
    pub change: Change<'a>,
    /// How many owners must have it; `None` takes the cluster's setting.
    pub level: Option<Level>,
    /// The highest time that this session saw: the stamp will exceed it. 0 for none.
    pub after: u64,
}

/// How a key is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Stores a value, with an expiry in milliseconds since the Unix epoch if it has one.
    Set {
        /// The value's bytes.
        value: &'a [u8],
        /// When it counts as deleted: `None` as its collection's `default_ttl` says, [`crate::model::record::LASTING_MS`]
        /// never.
        expiry_ms: Option<u64>,
    },
    /// Leaves a tombstone.
    Delete,
    /// Adds to a counter.
    Increment {
        /// What is added; may be negative.
        delta: i64,
    },
    /// Looks at what is there and changes it in one step, at the key's home: the first of its owners
    /// that can be reached, is complete and has a right clock. While members disagree about who that is, two
    /// changes may each find what was before both; then the later one wins.
    Modify(&'a Modify),
}

/// A read of one key.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    /// What is read.
    pub key: KeyRef<'a>,
    /// How many owners must answer; `None` takes the cluster's setting.
    pub level: Option<Level>,
}

/// Waiting until writes have so many durable copies, or the time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The writes: hashes of their keys, their stamps, and the copies that their answers told. None at all: nothing is
    /// waited for.
    pub writes: Vec<(KeyHash, Timestamp, u16)>,
    /// Of acknowledged writes that are not named, the fewest copies that an answer told.
    pub least: Option<u16>,
    /// How many copies are waited for.
    pub copies: u16,
    /// For how many milliseconds at most.
    pub timeout_ms: u64,
}

/// One page of an ordered listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The collection.
    pub collection: String,
    /// Which of its keys. What is beyond a page is [`KeyRange::beyond`] its `resume`.
    pub keys: KeyRange,
    /// From the last key to the first.
    pub reverse: bool,
    /// Without values: no page is cheaper.
    pub keys_only: bool,
    /// Keys at most; at least 1, at most [`crate::model::limits::MAX_SCAN_LIMIT`].
    pub limit: usize,
    /// Only what this member itself holds, whatever others hold and though it serves no more.
    pub held: bool,
}

/// The answer to an operation.
#[derive(Debug)]
pub struct Completion {
    /// What the caller named the operation.
    pub token: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// A write met its level.
    Stored(Stored),
    /// A look with a change, made or not.
    Modified(Modified),
    /// A read: the record if there is a readable one.
    Found(Option<Record>),
    /// A scan.
    Page(Page),
    /// A wait: the fewest durable copies that any of the writes has.
    Copies(u16),
    /// It was refused or its fate is unknown; the error says which.
    Failed(OperationError),
}

/// A write that met its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The write's own stamp; of a superseded write the stamp that won.
    pub timestamp: Timestamp,
    /// Owners that are known to hold it durably (in the sense of the setting `sync`).
    pub copies: u16,
    /// A newer record was met: this write is stored nowhere as the latest.
    pub superseded: bool,
    /// The hash of the key.
    pub hash: KeyHash,
    /// After an increment: the number as this member's merge sees it. After an edit of a value: its bytes.
    pub number: Option<i64>,
}

/// What [`Change::Modify`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modified {
    /// The change; `None` when its condition did not hold, and nothing was changed. One that is
    /// superseded looked at what another write had replaced already.
    pub stored: Option<Stored>,
    /// The timestamp of what was there, if a reader could see it.
    pub present: Option<Timestamp>,
    /// The record that was asked for, if a reader can see it.
    pub record: Option<Record>,
}

impl Modified {
    /// The change, or the timestamp of what is there instead. A change that lost to another one counts as one
    /// whose condition did not hold: it was judged by what the other one had replaced already. The number is left out: it
    /// is none of a counter.
    ///
    /// # Errors
    /// What is there, if anything is.
    pub fn made(&self) -> Result<Stored, Option<Timestamp>> {
        match self.stored {
            Some(stored) if stored.superseded => Err(Some(stored.timestamp)),
            Some(stored) => Ok(Stored { number: None, ..stored }),
            None => Err(self.present),
        }
    }
}

/// One page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What is readable, in the order of the scan.
    pub rows: Vec<Row>,
    /// The key that the page has come to, if more may follow beyond it. A page that is cut off may be
    /// empty: much was looked at and none of it was readable.
    pub resume: Option<Vec<u8>>,
}

/// A record as a page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// All of it.
    Whole(Record),
    /// All but its value, where only keys were asked for.
    Key(KeyRow),
}

impl Row {
    /// What a page shows of a record that is readable.
    #[must_use]
    pub fn of(record: RecordRef<'_>, keys_only: bool) -> Self {
        if !keys_only {
            return Self::Whole(Record::copy_of(record));
        }
        let (key, timestamp) = (record.key().to_vec(), record.timestamp());
        Self::Key(KeyRow { key, timestamp, expiry_ms: record.expiry_ms() })
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Whole(record) => record.view().key(),
            Self::Key(row) => &row.key,
        }
    }

    /// When the record was written, and by whom.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        match self {
            Self::Whole(record) => record.view().timestamp(),
            Self::Key(row) => row.timestamp,
        }
    }

    /// Milliseconds since the Unix epoch from which on the record counts as deleted.
    #[must_use]
    pub fn expiry_ms(&self) -> Option<u64> {
        match self {
            Self::Whole(record) => record.view().expiry_ms(),
            Self::Key(row) => row.expiry_ms,
        }
    }

    /// Bytes that it takes on a page, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Whole(record) => record.view().bytes().len(),
            Self::Key(row) => HEADER_BYTES + row.key.len(),
        }
    }
}

/// Why a member is in its cluster no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It left.
    Left,
    /// It was removed.
    Removed,
    /// Its data directory is a copy, or an old one that was restored.
    Outdated,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Left => "left its cluster",
            Self::Removed => "was removed from its cluster",
            Self::Outdated => "runs on an outdated data directory",
        })
    }
}

/// Why an operation did not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// Nothing was changed: this member belongs to no cluster yet.
    #[error(
        "this member belongs to no cluster yet; create one with `kith init` or join one with `kith join`"
    )]
    NoCluster,
    /// Nothing was changed: the member is starting.
    #[error("this member is still starting; try again shortly, or ask another member")]
    Starting,
    /// Nothing was changed: the member stops.
    #[error("this member is shutting down; ask another member")]
    Stopping,
    /// Nothing was changed: the member is in its cluster no more.
    #[error("this member {0}; ask another member, and `kith status` on this one says what to do")]
    Gone(Gone),
    /// Nothing was changed: names of system collections are kith's own.
    #[error("collections that begin with `_system_` can't be written by clients")]
    SystemCollection,
    /// Nothing was changed: the value is larger than the setting allows.
    #[error("the value has {got} bytes; `max_value_bytes` allows {limit}")]
    ValueTooLarge {
        /// Its size in bytes.
        got: usize,
        /// The setting's value.
        limit: usize,
    },
    /// Nothing was changed: what is there can't be counted on.
    #[error(transparent)]
    Counter(#[from] CounterError),
    /// Nothing was changed: what is there can't be edited so.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Nothing was changed: memory for what is not on disk yet is used up.
    #[error("too much is waiting to be written to disk; try again shortly")]
    Overloaded,
    /// Nothing was changed: the disk is full or failing.
    #[error("this member's storage accepts no writes ({0}); make room or ask another member")]
    Storage(String),
    /// Nothing was changed: no owner lives and the room for hints is used up.
    #[error(
        "no owner of this key can be reached and the room for hints is used up; try again when one is back"
    )]
    NoRoomForHint,
    /// Nothing was changed: the level can't be met by the members that are alive.
    #[error(
        "level `{level}` needs {needed} owners and only {alive} can be reached; use a lower level or try again"
    )]
    NotEnoughOwners {
        /// The level that was asked for.
        level: Level,
        /// Owners it needs.
        needed: u16,
        /// Owners that seem alive.
        alive: u16,
    },
    /// The fate is unknown: the write may or may not be stored, and may still spread.
    #[error(
        "the level was not met in time: {copies} copies are known; whether the write lasts is unknown, so read before you repeat it"
    )]
    Unknown {
        /// Copies that were confirmed.
        copies: u16,
    },
    /// Nothing is watched: there are too many watches already.
    #[error(
        "this member has as many watches as it takes; ask another member, or watch longer prefixes by fewer watches"
    )]
    TooManyWatches,
    /// Nothing was read: no owner answered in time.
    #[error("no owner answered in time; try again")]
    Unreachable,
}

impl OperationError {
    /// The error's name for programs, in snake case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCluster => "no_cluster",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Gone(Gone::Left) => "left",
            Self::Gone(Gone::Removed) => "removed",
            Self::Gone(Gone::Outdated) => "outdated",
            Self::SystemCollection => "system_collection",
            Self::ValueTooLarge { .. } => "value_too_large",
            Self::Counter(CounterError::NotANumber) => "not_a_number",
            Self::Counter(CounterError::Overflow) => "overflow",
            Self::Counter(CounterError::TooManyPairs) => "too_many_pairs",
            Self::Edit(EditError::NotADecimal) => "not_a_number",
            Self::Edit(EditError::NotFinite) => "overflow",
            Self::Edit(_) => "value_too_large",
            Self::Overloaded => "overloaded",
            Self::Storage(_) => "storage",
            Self::NoRoomForHint => "no_room_for_hint",
            Self::NotEnoughOwners { .. } => "not_enough_owners",
            Self::Unknown { .. } => "unknown",
            Self::TooManyWatches => "too_many_watches",
            Self::Unreachable => "unreachable",
        }
    }
}
