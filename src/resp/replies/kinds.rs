//! What single operations are answered with.

use crate::engine::operation::{Modified, OperationError};
use crate::model::RecordRef;
use crate::resp::reply::{DIGITS, Encoder, readable};

/// What a read is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadReply {
    /// The value's bytes, or nil.
    Value,
    /// Their number; 0 without record.
    Length,
    /// Those from one to another, both counted from the end if they are below zero.
    Range(i64, i64),
    /// What clients call a record's type.
    Type,
    /// When the record expires; -1 without expiry, -2 without record.
    Expiry(Since, Unit),
}

/// From when on a time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The command.
    Now,
    /// The Unix epoch.
    Epoch,
}

/// What a time is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Rounded where it is shown.
    Seconds,
    /// As it is kept.
    Milliseconds,
}

impl ReadReply {
    /// Encodes the reply for what was found.
    pub fn encode(self, out: &mut Encoder<'_>, found: Option<RecordRef<'_>>, wall_ms: u64) {
        let mut digits = [0; DIGITS];
        let bytes = |digits| found.and_then(|record| readable(record, digits)).unwrap_or_default();
        match self {
            Self::Value => out.record(found),
            Self::Length => out.integer(i64::try_from(bytes(&mut digits).len()).unwrap_or(i64::MAX)),
            Self::Range(first, last) => out.bulk(part(bytes(&mut digits), first, last)),
            Self::Type => out.simple(if found.is_some() { "string" } else { "none" }),
            Self::Expiry(since, unit) => out.integer(match found.map(RecordRef::expiry_ms) {
                None => -2,
                Some(None) => -1,
                Some(Some(expiry_ms)) => shown(expiry_ms, wall_ms, since, unit),
            }),
        }
    }
}

/// The bytes from `first` to `last`; those that are not there are left out.
fn part(bytes: &[u8], first: i64, last: i64) -> &[u8] {
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    if first < 0 && last < 0 && first > last {
        return &[];
    }
    let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let (first, end) = (place(first), place(last).saturating_add(1).min(length));
    let range = usize::try_from(first).ok().zip(usize::try_from(end).ok());
    range.and_then(|(first, end)| bytes.get(first..end)).unwrap_or_default()
}

/// An expiry as clients are told it.
fn shown(expiry_ms: u64, wall_ms: u64, since: Since, unit: Unit) -> i64 {
    let from = match since {
        Since::Now => wall_ms,
        Since::Epoch => 0,
    };
    let time_ms = expiry_ms.saturating_sub(from);
    let shown = match unit {
        Unit::Seconds => time_ms.saturating_add(500) / 1_000,
        Unit::Milliseconds => time_ms,
    };
    i64::try_from(shown).unwrap_or(i64::MAX)
}

/// What a write is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteReply {
    /// The number after an increment; OK without. A write that met a newer record is answered so too: for
    /// its client it was stored, and the other write came after it.
    Plain,
    /// OK, whether or not there was anything to change.
    Ok,
    /// OK if something was changed, else nil.
    OkOrNil,
    /// OK if something was made where nothing was, and nothing newer was met; else nil. Who locks by this
    /// must not believe to have what another one got at the same time.
    Locked,
    /// The same as 1 or 0.
    LockedFlag,
    /// The same as nil or what was there.
    LockedRecord,
    /// 1 if something was changed, else 0.
    Flag,
    /// The value's length after it was changed.
    Length,
    /// The record that came back: a value's bytes, or nil.
    Record,
}

impl WriteReply {
    /// Encodes the reply for what a change came to.
    pub fn encode(self, out: &mut Encoder<'_>, modified: &Modified) {
        match (self, modified.stored) {
            (Self::Plain | Self::Ok, _) | (Self::OkOrNil, Some(_)) => out.ok(),
            (Self::OkOrNil, None) => out.nil(),
            (Self::Locked, Some(stored)) if !stored.superseded => out.ok(),
            (Self::Locked, _) => out.nil(),
            (Self::LockedFlag, stored) => {
                out.integer(i64::from(stored.is_some_and(|stored| !stored.superseded)));
            }
            // What came before it is not known here.
            (Self::LockedRecord, Some(stored)) if stored.superseded => {
                out.operation_error(&OperationError::Unknown { copies: stored.copies });
            }
            (Self::Flag, stored) => out.integer(i64::from(stored.is_some())),
            (Self::Length, stored) => out.integer(stored.and_then(|s| s.number).unwrap_or_default()),
            (Self::Record | Self::LockedRecord, _) => match &modified.record {
                Some(record) => out.record(Some(record.view())),
                None => out.nil(),
            },
        }
    }
}
