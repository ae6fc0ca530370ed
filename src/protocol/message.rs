//! Messages: requests with an id, their replies, and notices that nobody answers.
//!
//! Three types, so that a reply can never be taken for a request. Records inside are canonical
//! bytes, parsed by whoever uses them.

use super::ProtocolError;
use super::compare::{Compare, Compared};
use super::reclaim::{Reclaim, Reclaimed};
use super::watch::{NamedChange, WatchRequest};
use crate::model::edit::{EditError, Modify};
use crate::model::merge::CounterError;
use crate::model::settings::Level;
use crate::model::{KeyHash, KeyRange, Timestamp, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To be answered under the same id on the same link.
    Request(u64, Request),
    /// The answer to a request.
    Reply(u64, Reply),
    /// To be noted.
    Notice(Notice),
}

/// What a member asks of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Stamp and replicate a client's write, as an owner of its key.
    Write(WriteRequest),
    /// The record of a key as the peer holds it, tombstones included.
    Read {
        /// The collection.
        collection: String,
        /// The key.
        key: Vec<u8>,
    },
    /// A page of readable records, in order of their keys.
    Scan(ScanRequest),
    /// Take these records of system collections, and answer with one's own.
    System {
        /// Canonical bytes, one after the other.
        records: Vec<u8>,
    },
    /// A page of a partition's records, tombstones included.
    Copy {
        /// The partition.
        partition: u16,
        /// Where the page begins.
        from: CopyCursor,
        /// The 64 leaves (the lower half of each, eight bytes) of what the asking member holds of it: records
        /// in equal ones may be left out. Empty: none are.
        held: Vec<u8>,
    },
    /// What the peer holds of what both must.
    Compare(Compare),
    /// A step of reclaiming tombstones.
    Reclaim(Reclaim),
    /// Which of these writes the peer has durably.
    Durable {
        /// Hashes of keys, and stamps: the peer's record must have that one or a later one.
        writes: Vec<(u64, Timestamp)>,
    },
    /// Tell what changes, until the link ends or either side says so.
    Watch(WatchRequest),
}

/// Where a page of a copy begins: first comes what is in the peer's memory, then what only its redb
/// may have. Worth nothing to another member, or to a later life of the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyCursor {
    /// At this slot of the table.
    Table(u32),
    /// In redb, after this collection and key; both are empty at the beginning.
    Store {
        /// The collection.
        collection: String,
        /// The key.
        key: Vec<u8>,
    },
}

/// A client's write on its way to a stamper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// The collection.
    pub collection: String,
    /// The key.
    pub key: Vec<u8>,
    /// What is done to it.
    pub change: WireChange,
    /// How many owners must have it.
    pub level: Level,
    /// The stamp must exceed this time.
    pub after: u64,
}

impl WriteRequest {
    /// The hash of its key.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(self.collection.as_bytes(), &self.key)
    }

    /// Bytes of its names and its value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let value = match &self.change {
            WireChange::Set(value, _) => value.len(),
            WireChange::Modify(modify) => modify.bytes(),
            WireChange::Delete | WireChange::Increment(_) => 0,
        };
        self.collection.len() + self.key.len() + value
    }
}

/// How a key is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireChange {
    /// Store a value, with an expiry in milliseconds since the Unix epoch if one is asked for, or
    /// [`crate::model::record::LASTING_MS`] if none is wanted.
    Set(Vec<u8>, Option<u64>),
    /// Leave a tombstone.
    Delete,
    /// Add to a counter.
    Increment(i64),
    /// Look at what is there and change it, as the key's home.
    Modify(Box<Modify>),
}

/// A page of a scan, asked of one owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// The collection.
    pub collection: String,
    /// Which of its keys.
    pub keys: KeyRange,
    /// From the last key to the first.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
    /// Records at most.
    pub limit: u32,
    /// Only keys of these partitions: bit p of byte p/8.
    pub partitions: Vec<u8>,
}

/// A record's key and what is known of it without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The key.
    pub key: Vec<u8>,
    /// When the record was written, and by whom.
    pub timestamp: Timestamp,
    /// Milliseconds since the Unix epoch from which on it counts as deleted.
    pub expiry_ms: Option<u64>,
}

/// What a peer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A write met its level.
    Stored {
        /// Its stamp, or the one that won.
        timestamp: Timestamp,
        /// Owners that hold it durably.
        copies: u16,
        /// Whether another won.
        superseded: bool,
        /// The number after an increment.
        number: Option<i64>,
    },
    /// A look with a change, made or not.
    Modified {
        /// The change, as [`Reply::Stored`] has it; none when the condition did not hold.
        stored: Option<(Timestamp, u16, bool, Option<i64>)>,
        /// The timestamp of what was there.
        present: Option<Timestamp>,
        /// The record that was asked for, in canonical bytes.
        record: Option<Vec<u8>>,
    },
    /// The record, if there is one.
    Record(Option<Vec<u8>>),
    /// A page of a scan.
    Page {
        /// Canonical bytes, one after the other.
        records: Vec<u8>,
        /// The key that it has come to, when more may follow.
        resume: Option<Vec<u8>>,
    },
    /// A page of a scan that asked for keys only.
    Keys {
        /// In the order of the scan.
        keys: Vec<KeyRow>,
        /// The key that it has come to, when more may follow.
        resume: Option<Vec<u8>>,
    },
    /// The peer's records of system collections.
    System {
        /// Canonical bytes, one after the other.
        records: Vec<u8>,
    },
    /// A page of a partition.
    Copied {
        /// Canonical bytes, one after the other.
        records: Vec<u8>,
        /// Tombstones that settled at the peer, likewise: they do so here.
        settled: Vec<u8>,
        /// Where to go on; none at the end.
        next: Option<CopyCursor>,
    },
    /// What the peer holds.
    Compared(Compared),
    /// The answer to a step of reclaiming.
    Reclaimed(Reclaimed),
    /// Which writes the peer has durably.
    Durable {
        /// One for each write that was asked for, in order.
        has: Vec<Has>,
    },
    /// It was not done.
    Failed(Failure),
    /// Changes are told from now on.
    Watching,
}

/// Whether a member has a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Has {
    /// It has something older, or can't tell.
    No,
    /// It has it, or something newer.
    Yes,
    /// It was a deletion that all owners had confirmed, and is being forgotten.
    Forgotten,
    /// It has nothing under the key.
    Nothing,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Nothing was done: the two members' placements differ; both exchange rosters and settings.
    Placement,
    /// Nothing was done: the peer is no complete owner, or not ready.
    NotReady,
    /// Nothing was done: the peer's storage takes no writes.
    Storage(String),
    /// Nothing was done: memory for what is not on disk yet is used up.
    Overloaded,
    /// Nothing was done: the value is too large.
    ValueTooLarge(u64, u64),
    /// Nothing was done: what is there can't be counted on.
    Counter(CounterError),
    /// Nothing was done: what is there can't be edited so.
    Edit(EditError),
    /// Nothing was done: too few owners can be reached.
    NotEnoughOwners(u16, u16),
    /// It may or may not last; copies that were confirmed.
    Unknown(u16),
}

/// What a member tells its peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The partitions that it is a complete owner of, under a placement.
    Complete {
        /// Digest of the placement.
        placement: u64,
        /// Bit p of byte p/8.
        partitions: Vec<u8>,
        /// It has just started and may lack what was written meanwhile: nobody reads from it yet.
        catching_up: bool,
    },
    /// Whether it has hints for the receiver: records that the receiver lacks.
    Hints {
        /// Told when the link comes up, and taken back once the last hint was confirmed.
        pending: bool,
    },
    /// What its roster and settings are, told now and then: who has others exchanges them.
    System {
        /// The upper half of the root of the system records' hash tree.
        digest: u64,
    },
    /// What the receiver said, in lives before its present one, of how far its journal was fsynced.
    Remembered {
        /// Incarnations, each with a position in bytes of that life.
        lives: Vec<(u64, u64)>,
    },
    /// Keys changed that the receiver watches.
    Changed {
        /// The receiver's name for its watch.
        watch: u64,
        /// Canonical bytes of their latest records, one after the other.
        records: Vec<u8>,
    },
    /// Likewise, without values.
    Named {
        /// The receiver's name for its watch.
        watch: u64,
        /// One after the other.
        changes: Vec<NamedChange>,
    },
    /// Nothing more is told of a watch of the receiver's: it must look for another source.
    WatchEnded {
        /// The receiver's name for it.
        watch: u64,
    },
    /// Nothing more need be told of a watch of the sender's.
    Unwatch {
        /// The sender's name for it.
        watch: u64,
    },
    /// As [`Notice::Complete`], where collections are placed by themselves.
    CompleteIn {
        /// Digest of the placement.
        placement: u64,
        /// Of all other collections: bit p of byte p/8.
        partitions: Vec<u8>,
        /// Likewise of each of those, by its name.
        classes: BTreeMap<String, Vec<u8>>,
        /// It has just started and may lack what was written meanwhile: nobody reads from it yet.
        catching_up: bool,
    },
}

const fn codec() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ limits::MAX_FRAME_BYTES }>()
}

/// Appends a message, its length before it.
///
/// # Errors
/// [`ProtocolError::Message`] when it exceeds a frame; `out` is as before then.
pub fn encode(out: &mut Vec<u8>, message: &Message) -> Result<(), ProtocolError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let written = bincode::serde::encode_into_std_write(message, out, codec());
    let length = written.ok().filter(|n| *n <= limits::MAX_FRAME_BYTES).and_then(|n| u32::try_from(n).ok());
    let Some((room, length)) = out.get_mut(start..start + 4).zip(length) else {
        out.truncate(start);
        return Err(ProtocolError::Message("it is larger than a frame".to_owned()));
    };
    room.copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Decodes a message from all of `bytes`.
///
/// # Errors
/// [`ProtocolError`] when the bytes are no message, or more than one.
pub fn decode(bytes: &[u8]) -> Result<Message, ProtocolError> {
    decode_whole(bytes)
}

/// Decodes a value from all of `bytes`, within the limit of a frame.
pub(super) fn decode_whole<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ProtocolError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, codec())
        .map_err(|error| ProtocolError::Message(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        trailing => Err(ProtocolError::Trailing(trailing)),
    }
}

/// Encodes a value by the codec of messages.
pub(super) fn encode_whole<T: Serialize>(value: &T) -> Result<Vec<u8>, ProtocolError> {
    bincode::serde::encode_to_vec(value, codec()).map_err(|error| ProtocolError::Message(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let write = WriteRequest {
            collection: "c".into(),
            key: vec![1],
            change: WireChange::Set(vec![2; 300], Some(7)),
            level: Level::Quorum,
            after: u64::MAX,
        };
        let messages = [
            Message::Request(1, Request::Write(write)),
            Message::Request(
                2,
                Request::Copy { partition: 3, from: CopyCursor::Table(4), held: vec![7; 512] },
            ),
            Message::Reply(5, Reply::Failed(Failure::Counter(CounterError::Overflow))),
            Message::Reply(6, Reply::Record(Some(vec![9; 70_000]))),
            Message::Notice(Notice::Complete { placement: 8, partitions: vec![255; 32], catching_up: true }),
            Message::Notice(Notice::Hints { pending: true }),
            Message::Notice(Notice::System { digest: 9 }),
            Message::Notice(Notice::Remembered { lives: vec![(1, 2), (3, u64::MAX)] }),
        ];
        for message in messages {
            let mut out = Vec::new();
            encode(&mut out, &message).unwrap();
            assert_eq!(decode(&out[4..]), Ok(message));
        }
    }

    #[test]
    fn a_length_that_promises_more_than_there_is_allocates_nothing_and_fails() {
        // Reply 1 (Record), Some, a vector of 2^60 bytes.
        let bytes = [1, 1, 1, 1, 253, 0, 0, 0, 0, 0, 0, 0, 16];
        assert!(decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_message_with_a_tail_is_refused(tail in prop::collection::vec(any::<u8>(), 1..9)) {
            let mut out = Vec::new();
            encode(&mut out, &Message::Request(1, Request::Copy { partition: 1, from: CopyCursor::Table(2), held: Vec::new() })).unwrap();
            out.extend_from_slice(&tail);
            prop_assert_eq!(decode(&out[4..]), Err(ProtocolError::Trailing(tail.len())));
        }
    }
}
