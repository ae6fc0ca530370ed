//! What a watch gives, as server-sent events; and cursors.

use crate::model::{Kind, Record, RecordRef};
use crate::node::handle::documents::{Entry, ErrorDocument};
use bytes::Bytes;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// A place in what a watch gave: where another one can go on, at the same member while it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The member's life.
    pub(super) life: u64,
    /// The feed, between two gaps.
    pub(super) stretch: u64,
    /// The last change that was given. 0: in the middle of a listing.
    pub(super) place: u64,
}

/// Text that no watch gave as a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cursor is the `id` of an event of a watch, as it was given; leave it out to begin with the current state"
)]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}-{:x}", self.life, self.stretch, self.place)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let number = |text: &str| {
            let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_hex { u64::from_str_radix(text, 16).map_err(|_| CursorError) } else { Err(CursorError) }
        };
        let mut parts = text.split('-').map(number);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(life), Some(stretch), Some(place), None) => {
                Ok(Self { life: life?, stretch: stretch?, place: place? })
            }
            _ => Err(CursorError),
        }
    }
}

/// A change as text, whole or without its cursor.
#[derive(Debug, Clone)]
pub(super) struct Text {
    bytes: Bytes,
    /// Where the cursor's line begins.
    id_at: usize,
}

impl Text {
    /// Appends it, with its cursor or without.
    pub(super) fn append(&self, out: &mut Vec<u8>, with_cursor: bool) {
        if with_cursor {
            out.extend_from_slice(&self.bytes);
        } else {
            out.extend_from_slice(self.bytes.get(..self.id_at).unwrap_or_default());
            out.push(b'\n');
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[derive(Serialize)]
struct Deleted {
    #[serde(flatten)]
    entry: Entry,
    expired: bool,
}

/// A record as a listing or a change gives it, without the line that ends an event. Whether its time is over the
/// engine decides, which may go by other clocks than this machine's, and tells it; until then the record is the latest.
pub(super) fn append_record(out: &mut Vec<u8>, record: RecordRef<'_>, wall_ms: u64, with_value: bool) {
    let is_live = record.kind().is_live();
    out.extend_from_slice(if is_live { b"event: put\ndata: " } else { b"event: delete\ndata: " });
    let entry = Entry::of_record(&Record::copy_of(record), wall_ms, with_value && is_live);
    // Neither document can fail to become JSON, and JSON has no line breaks in it.
    if is_live {
        _ = serde_json::to_writer(&mut *out, &entry);
    } else {
        let expired = matches!(record.kind(), Kind::ExpiredValue | Kind::ExpiredCounter);
        _ = serde_json::to_writer(&mut *out, &Deleted { entry: Entry { ttl: None, ..entry }, expired });
    }
    out.push(b'\n');
}

/// A change with its cursor.
pub(super) fn text_of(record: RecordRef<'_>, wall_ms: u64, with_value: bool, cursor: Cursor) -> Text {
    let mut bytes = Vec::with_capacity(record.bytes().len() + 160);
    append_record(&mut bytes, record, wall_ms, with_value);
    let id_at = bytes.len();
    bytes.extend_from_slice(format!("id: {cursor}\n\n").as_bytes());
    Text { bytes: bytes.into(), id_at }
}

/// All that was known may be wrong: the current state follows.
pub(super) fn append_reset(out: &mut Vec<u8>, reason: &str, cursor: Cursor) {
    out.extend_from_slice(
        format!("event: reset\ndata: {{\"reason\":\"{reason}\"}}\nid: {cursor}\n\n").as_bytes(),
    );
}

/// The current state was given: what was not listed is gone.
pub(super) fn append_synced(out: &mut Vec<u8>, cursor: Cursor) {
    out.extend_from_slice(format!("event: synced\ndata: {{}}\nid: {cursor}\n\n").as_bytes());
}

/// The end, for a reason.
pub(super) fn append_error(out: &mut Vec<u8>, code: &str, message: &str) {
    let document = ErrorDocument { error: code.to_owned(), message: message.to_owned() };
    out.extend_from_slice(b"event: error\ndata: ");
    _ = serde_json::to_writer(&mut *out, &document);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, MemberId, Timestamp};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_given(life: u64, stretch: u64, place: u64) {
            let cursor = Cursor { life, stretch, place };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn other_text_is_no_cursor(text in "[0-9a-z+ -]{0,40}") {
            let is_cursor = text.split('-').count() == 3 && text.split('-').all(|part| {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit()) && u64::from_str_radix(part, 16).is_ok()
            });
            prop_assert_eq!(text.parse::<Cursor>().is_ok(), is_cursor);
        }
    }

    #[test]
    fn an_event_is_one_line_of_data_whatever_the_value_holds() {
        let key = KeyRef::new("c", b"k\n\r\n").unwrap();
        let stamp = Timestamp { time: 1, member: MemberId(1) };
        let record = Record::value(key, stamp, None, b"a\r\nevent: delete\n\n\xe2\x80\xa8");
        let mut out = Vec::new();
        append_record(&mut out, record.view(), 0, true);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.split(['\n', '\r']).count(), 3, "{text}");
        assert!(text.starts_with("event: put\ndata: {") && text.ends_with("}\n"), "{text}");
    }
    #[test]
    fn a_machine_whose_clock_is_ahead_withholds_no_change_of_what_expires() {
        let key = KeyRef::new("c", b"k").unwrap();
        let record = Record::value(key, Timestamp { time: 1, member: MemberId(1) }, Some(1_000), b"new");
        let mut out = Vec::new();
        append_record(&mut out, record.view(), 3_600_000, true);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("event: put\n") && text.contains("\"value\":\"new\""), "{text}");
        assert!(text.contains("\"ttl\":\"1ms\""), "{text}");
    }
}
