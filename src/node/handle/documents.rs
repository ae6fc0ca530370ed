//! The JSON forms of records, operations and their answers, and bytes as text.
//!
//! Keys and values are bytes; JSON has only text. A field `key` or `value` holds what is UTF-8 as
//! it is; what is not goes under `key_base64` or `value_base64` (RFC 4648 §4). A document has
//! exactly one of the two. One form serves listings, batches, `kith export` and `kith import`, so
//! what one of them writes another one reads.
//!
//! Everything here comes from outside at one of its ends: decoding gives typed errors.

pub use super::base64::{decode_base64, encode_base64};
use super::read::{Object, whole};
use super::ttl::ttl_left;
pub use super::ttl::{MAX_TTL_MS, Ttl, TtlError, life_text, new_expiry, parse_life, parse_ttl, ttl_left_ms};
use super::{Answer, Key, Operation, OperationError, Row, Stored, readable_bytes};
use crate::model::edit::{Condition, Edit, Modify, Returns};
use crate::model::key::{DEFAULT, KeyError};
use crate::model::settings::Level;
use crate::model::{Kind, Record};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An answer that says why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDocument {
    /// The error's name for programs, in snake case.
    pub error: String,
    /// What happened and what to do.
    pub message: String,
}

/// Why a document is no operation. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It is no JSON, or has fields that it must not have.
    #[error("{0}")]
    Json(String),
    /// A field is missing, or given in both forms.
    #[error("give exactly one of `{0}` (text) and `{0}_base64` (bytes)")]
    OneOf(&'static str),
    /// A field does not go with the operation.
    #[error("`{field}` does not go with `{operation}`")]
    Stray {
        /// The field.
        field: &'static str,
        /// The operation.
        operation: &'static str,
    },
    /// An increment says by how much.
    #[error("an increment has a `delta`, a whole number")]
    NoDelta,
    /// A condition that can't be read.
    #[error("`if` is `absent`, `present` or a timestamp as a listing or a change gave it")]
    Condition,
    /// Text that is not base64.
    #[error("`{0}_base64` is not base64 (A-Z a-z 0-9 + /, padded with =)")]
    Base64(&'static str),
    /// A time to live that can't be read.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// A bad collection or key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What a line of a batch asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Stores a value; taken when a line names no other, so a file of records is a batch.
    #[default]
    Put,
    /// Deletes a key.
    Delete,
    /// Reads a key.
    Get,
    /// Adds to a counter.
    Increment,
}

/// Names of collections that a member holds records of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Collections {
    /// The names, in order, that who asks may read; some may have nothing under them any more.
    pub collections: Vec<String>,
    /// What to pass as `after` for those that follow; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Whether this may not be all: more collections are on disk than a member knows by name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut_off: bool,
    /// Whether who asks may read all collections; if not, others may be left out.
    pub may_read_all: bool,
}

/// A record, or an operation on one: a line of a batch, of a listing, of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What to do with it; absent in listings and exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<Verb>,
    /// The collection; absent for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The value, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// How long the record lives from now on. Absent: in listings for ever, in what is stored as the collection's
    /// `default_ttl` says. `none`: for ever, whatever that says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// What an increment adds.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole::optional")]
    pub delta: Option<i64>,
    /// What must hold for a put or a delete to be made: `absent`, `present`, or the timestamp of what is there.
    #[serde(default, rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The record's timestamp, in listings; ignored in a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

impl Entry {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// [`DocumentError::Json`].
    pub fn parse(json: &str) -> Result<Self, DocumentError> {
        let read = serde_json::from_str(json);
        // It is one line of many; which one, its reader knows.
        let told = |error: serde_json::Error| error.to_string().replace(" at line 1 column ", " at column ");
        read.map(|Object(entry)| entry).map_err(|error| DocumentError::Json(told(error)))
    }

    /// A record as a listing shows it at `wall_ms`. The collection is left to the caller.
    #[must_use]
    pub fn of_record(record: &Record, wall_ms: u64, with_value: bool) -> Self {
        let view = record.view();
        let (key, key_base64) = text_or_base64(view.key());
        let (value, value_base64) = match (with_value, view.kind()) {
            (false, _) => (None, None),
            // Only a value's bytes may be something else than text; they are not copied first.
            (true, Kind::Value) => text_or_base64(view.body()),
            (true, _) => text_or_base64(&readable_bytes(record)),
        };
        let ttl = ttl_left(view.expiry_ms(), wall_ms);
        let timestamp = Some(view.timestamp().to_string());
        Self { key, key_base64, value, value_base64, ttl, timestamp, ..Self::default() }
    }

    /// A row of a listing at `wall_ms`. The collection is left to the caller.
    #[must_use]
    pub fn of_row(row: &Row, wall_ms: u64) -> Self {
        match row {
            Row::Whole(record) => Self::of_record(record, wall_ms, true),
            Row::Key(row) => {
                let (key, key_base64) = text_or_base64(&row.key);
                let timestamp = Some(row.timestamp.to_string());
                Self { key, key_base64, ttl: ttl_left(row.expiry_ms, wall_ms), timestamp, ..Self::default() }
            }
        }
    }

    /// A record to be stored.
    #[must_use]
    pub fn put(collection: &str, key: &[u8], value: &[u8]) -> Self {
        let (value, value_base64) = text_or_base64(value);
        Self { value, value_base64, ..Self::about(Verb::Put, collection, key) }
    }

    /// An operation on a key, without what it needs beside the key.
    #[must_use]
    pub fn about(verb: Verb, collection: &str, key: &[u8]) -> Self {
        let (key, key_base64) = text_or_base64(key);
        let collection = (collection != DEFAULT).then(|| collection.to_owned());
        let op = (verb != Verb::Put).then_some(verb);
        Self { op, collection, key, key_base64, ..Self::default() }
    }

    /// The key's bytes.
    ///
    /// # Errors
    /// [`DocumentError::OneOf`], [`DocumentError::Base64`].
    pub fn key_bytes(&self) -> Result<Bytes, DocumentError> {
        bytes_of("key", self.key.as_ref(), self.key_base64.as_ref())
    }

    /// The value's bytes.
    ///
    /// # Errors
    /// [`DocumentError::OneOf`], [`DocumentError::Base64`].
    pub fn value_bytes(&self) -> Result<Bytes, DocumentError> {
        bytes_of("value", self.value.as_ref(), self.value_base64.as_ref())
    }

    /// The operation that this line of a batch asks for at `wall_ms`.
    ///
    /// # Errors
    /// [`DocumentError`] names the field that is wrong.
    pub fn operation(
        &self,
        level: Option<Level>,
        after: u64,
        wall_ms: u64,
    ) -> Result<Operation, DocumentError> {
        let collection = self.collection.as_deref().unwrap_or(DEFAULT);
        let key = Key::new(collection, self.key_bytes()?)?;
        let verb = self.op.unwrap_or_default();
        self.check_strays(verb)?;
        let modify = |condition, edit| {
            let modify = Modify { condition, edit, returns: Returns::Nothing };
            Operation::Modify { key: key.clone(), modify, level, after }
        };
        Ok(match verb {
            Verb::Put => {
                let ttl_ms = self.ttl.as_ref().map(Ttl::as_ms).transpose()?;
                let value = self.value_bytes()?;
                match self.condition()? {
                    None => Operation::Put { key, value, ttl_ms, level, after },
                    Some(condition) => {
                        let expiry = new_expiry(ttl_ms, wall_ms);
                        modify(condition, Edit::Set { value, expiry })
                    }
                }
            }
            Verb::Delete => match self.condition()? {
                None => Operation::Delete { key, level, after },
                Some(Condition::Absent) => {
                    return Err(DocumentError::Stray { field: "if", operation: "delete" });
                }
                Some(condition) => modify(condition, Edit::Delete),
            },
            Verb::Get => Operation::Get { key, level },
            Verb::Increment => {
                let delta = self.delta.ok_or(DocumentError::NoDelta)?;
                Operation::Increment { key, delta, level, after }
            }
        })
    }

    fn condition(&self) -> Result<Option<Condition>, DocumentError> {
        let Some(text) = &self.condition else { return Ok(None) };
        Ok(Some(match text.as_str() {
            "absent" => Condition::Absent,
            "present" => Condition::Present,
            stamp => Condition::Stamp(stamp.parse().map_err(|_| DocumentError::Condition)?),
        }))
    }

    /// What is silently ignored is usually a mistake.
    fn check_strays(&self, verb: Verb) -> Result<(), DocumentError> {
        let operation = match verb {
            Verb::Put => "put",
            Verb::Delete => "delete",
            Verb::Get => "get",
            Verb::Increment => "increment",
        };
        let put = verb == Verb::Put;
        let fields = [
            ("value", put || (self.value.is_none() && self.value_base64.is_none())),
            ("ttl", put || self.ttl.is_none()),
            ("if", put || verb == Verb::Delete || self.condition.is_none()),
            ("delta", verb == Verb::Increment || self.delta.is_none()),
        ];
        match fields.into_iter().find(|(_, fits)| !fits) {
            Some((field, _)) => Err(DocumentError::Stray { field, operation }),
            None => Ok(()),
        }
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Listing {
    /// The collection.
    pub collection: String,
    /// Records in the order that was asked for.
    pub entries: Vec<Entry>,
    /// What to give as `after` for the next page, percent-encoded already; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How an operation ended, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A change met its level.
    Stored,
    /// A change met a newer record, which stays.
    Superseded,
    /// A read found a record.
    Found,
    /// A read found none.
    NotFound,
    /// A change whose condition did not hold: nothing was changed.
    ConditionFailed,
    /// It did not complete.
    Failed,
}

/// What an operation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// How it ended.
    pub outcome: Ending,
    /// Of a change its stamp (of a superseded one the stamp that won), of a read the record's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Owners that are known to hold a change durably.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u16>,
    /// A counter's number after an increment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// The value found, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value found, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// How long what was found lives still; absent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// The error's name for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What happened and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Outcome {
    /// With nothing but its ending.
    #[must_use]
    pub const fn new(outcome: Ending) -> Self {
        Self {
            outcome,
            timestamp: None,
            copies: None,
            number: None,
            value: None,
            value_base64: None,
            ttl: None,
            error: None,
            message: None,
        }
    }

    /// Of a change.
    #[must_use]
    pub fn of_stored(stored: &Stored) -> Self {
        let outcome = if stored.superseded { Ending::Superseded } else { Ending::Stored };
        Self {
            timestamp: Some(stored.timestamp.to_string()),
            copies: Some(stored.copies),
            number: stored.number,
            ..Self::new(outcome)
        }
    }

    /// Of any operation, told at `wall_ms`.
    #[must_use]
    pub fn of_answer(answer: &Result<Answer, OperationError>, wall_ms: u64) -> Self {
        match answer {
            Ok(Answer::Stored(stored)) => Self::of_stored(stored),
            Ok(Answer::Modified(modified)) => match modified.made() {
                Ok(stored) => Self::of_stored(&stored),
                Err(present) => Self {
                    timestamp: present.map(|present| present.to_string()),
                    ..Self::new(Ending::ConditionFailed)
                },
            },
            Ok(Answer::Found(None)) => Self::new(Ending::NotFound),
            Ok(Answer::Found(Some(record))) => {
                let (value, value_base64) = text_or_base64(&readable_bytes(record));
                let timestamp = Some(record.view().timestamp().to_string());
                let ttl = ttl_left(record.view().expiry_ms(), wall_ms);
                Self { timestamp, value, value_base64, ttl, ..Self::new(Ending::Found) }
            }
            Err(error) => Self {
                error: Some(error.code().to_owned()),
                message: Some(error.to_string()),
                ..Self::new(Ending::Failed)
            },
        }
    }

    /// The bytes that a read found.
    ///
    /// # Errors
    /// [`DocumentError::OneOf`], [`DocumentError::Base64`].
    pub fn value_bytes(&self) -> Result<Bytes, DocumentError> {
        bytes_of("value", self.value.as_ref(), self.value_base64.as_ref())
    }
}

/// The answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcomes {
    /// One per operation, in their order.
    pub results: Vec<Outcome>,
}

/// Bytes for a pair of fields: as text if they are UTF-8, else as base64.
#[must_use]
pub fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(encode_base64(bytes))),
    }
}

fn bytes_of(
    name: &'static str,
    text: Option<&String>,
    base64: Option<&String>,
) -> Result<Bytes, DocumentError> {
    match (text, base64) {
        (Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        (None, Some(base64)) => decode_base64(base64).map(Bytes::from).ok_or(DocumentError::Base64(name)),
        _ => Err(DocumentError::OneOf(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, MemberId, Timestamp};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_a_listing_writes_a_batch_reads(key in prop::collection::vec(any::<u8>(), 1..20),
                                               value in prop::collection::vec(any::<u8>(), 0..20)) {
            let stamp = Timestamp { time: 9 << 16, member: MemberId(3) };
            let record = Record::value(KeyRef::new("c", &key).unwrap(), stamp, Some(5_000), &value);
            let json = serde_json::to_string(&Entry::of_record(&record, 2_000, true)).unwrap();
            let operation = Entry::parse(&json).unwrap().operation(None, 0, 0).unwrap();
            let expected = Operation::Put {
                key: Key::new(DEFAULT, key).unwrap(),
                value: value.into(),
                ttl_ms: Some(3_000),
                level: None,
                after: 0,
            };
            prop_assert_eq!(operation, expected);
        }
    }

    #[test]
    fn a_bad_line_names_what_is_wrong_with_it() {
        let wrong = [
            (r#"{"key":"a"}"#, "`value`"),
            (r#"{"value":"a"}"#, "`key`"),
            (r#"{"key":"a","key_base64":"YQ==","value":"b"}"#, "`key`"),
            (r#"{"key_base64":"Y","value":"b"}"#, "base64"),
            (r#"{"key":"a","value":3}"#, "string"),
            (r#"{"key":"a","valu":"b"}"#, "valu"),
            (r#"{"op":"delete","key":"a","value":"b"}"#, "does not go with `delete`"),
            (r#"{"op":"increment","key":"a"}"#, "delta"),
            (r#"{"op":"increment","key":"a","delta":1,"if":"absent"}"#, "`if` does not go with"),
            (r#"{"op":"delete","key":"a","if":"absent"}"#, "`if` does not go with `delete`"),
            (r#"{"key":"a","value":"b","if":"newer"}"#, "`absent`, `present` or a timestamp"),
            (r#"{"key":"a","value":"b","ttl":0}"#, "length of time"),
            (r#"{"key":"","value":"b"}"#, "at least one byte"),
            ("nonsense", "expected"),
        ];
        for (json, part) in wrong {
            let error = Entry::parse(json).and_then(|e| e.operation(None, 0, 0)).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
