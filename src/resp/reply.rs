//! Encodes replies, and gives each of a member's errors its RESP form.
//!
//! Redis clients look at an error's first word to decide whether to try again, so every
//! [`OperationError`] has the word by which clients already know its like:
//!
//! | error | first word | why this one |
//! |---|---|---|
//! | `NoCluster`, `NotEnoughOwners`, `Unreachable`, `Stopping`, `Gone` | `CLUSTERDOWN` | another member, or this one later, may answer; nothing was changed |
//! | `Starting` | `LOADING` | the same, and soon |
//! | `Overloaded`, `NoRoomForHint`, `Storage` | `OOM` | no write is taken for want of room; reads go on |
//! | `Unknown` | `UNKNOWN` | must not be repeated blindly, so no client's automatic retry may know it |
//! | `SystemCollection` | `NOPERM` | never allowed |
//! | `ValueTooLarge`, `Counter` | `ERR` | the request itself is wrong |

use super::parse::ProtocolError;
use crate::engine::operation::OperationError;
use crate::model::{Kind, RecordRef};

/// `+OK`.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(b"+OK\r\n");
}

/// The absence of a value.
pub fn nil(out: &mut Vec<u8>) {
    out.extend_from_slice(b"$-1\r\n");
}

/// A number.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    decimal(out, number);
    out.extend_from_slice(b"\r\n");
}

/// A string of bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'$');
    decimal(out, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The head of an array; its elements follow.
pub fn array(out: &mut Vec<u8>, elements: usize) {
    out.push(b'*');
    decimal(out, i64::try_from(elements).unwrap_or(i64::MAX));
    out.extend_from_slice(b"\r\n");
}

/// What a reader gets of a record: a value's bytes, a counter's number, nothing of other kinds.
pub fn record(out: &mut Vec<u8>, found: Option<RecordRef<'_>>) {
    match found {
        Some(record) if record.kind() == Kind::Value => bulk(out, record.body()),
        Some(record) if record.kind() == Kind::Counter => {
            let mut digits = [0; 20];
            bulk(out, format_decimal(&mut digits, record.total()));
        }
        Some(_) | None => nil(out),
    }
}

/// An error: its first word, then what happened. Line ends in `message` become spaces.
pub fn error(out: &mut Vec<u8>, word: &str, message: &[u8]) {
    out.push(b'-');
    out.extend_from_slice(word.as_bytes());
    out.push(b' ');
    out.extend(message.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// An error that a member gave for an operation.
pub fn operation_error(out: &mut Vec<u8>, refused: &OperationError) {
    error(out, first_word(refused), refused.to_string().as_bytes());
}

/// The last reply of a client that does not speak RESP.
pub fn protocol_error(out: &mut Vec<u8>, broken: ProtocolError) {
    error(out, "ERR", format!("Protocol error: {broken}").as_bytes());
}

/// The table at the head of this file.
const fn first_word(error: &OperationError) -> &'static str {
    match error {
        OperationError::NoCluster
        | OperationError::NotEnoughOwners { .. }
        | OperationError::Unreachable
        | OperationError::Stopping
        | OperationError::Gone(_) => "CLUSTERDOWN",
        OperationError::Starting => "LOADING",
        OperationError::Overloaded | OperationError::NoRoomForHint | OperationError::Storage(_) => "OOM",
        OperationError::Unknown { .. } => "UNKNOWN",
        OperationError::SystemCollection => "NOPERM",
        OperationError::ValueTooLarge { .. } | OperationError::Counter(_) | OperationError::Edit(_) => "ERR",
    }
}

fn decimal(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    out.extend_from_slice(format_decimal(&mut digits, number));
}

/// 20 bytes hold every `i64` with its sign.
fn format_decimal(room: &mut [u8; 20], number: i64) -> &[u8] {
    let (mut rest, mut start) = (number.unsigned_abs(), room.len());
    loop {
        start = start.saturating_sub(1);
        if let Some(place) = room.get_mut(start) {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        start = start.saturating_sub(1);
        if let Some(place) = room.get_mut(start) {
            *place = b'-';
        }
    }
    room.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::operation::Gone;
    use crate::model::merge::CounterError;
    use crate::model::record::Pair;
    use crate::model::settings::Level;
    use crate::model::{KeyRef, MemberId, Record, Timestamp};

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_written_as_rust_writes_them() {
        for number in [0, 7, -7, 10, 99, 100, i64::MAX, i64::MIN] {
            assert_eq!(encoded(|out| integer(out, number)), format!(":{number}\r\n"));
        }
    }

    #[test]
    fn a_counter_reads_as_its_number_and_a_tombstone_as_nothing() {
        let key = KeyRef::new("default", b"k").unwrap();
        let pair = Pair { member: MemberId(1), incarnation: 1, plus: 5, minus: 40 };
        let counter = Record::counter(key, Timestamp::ZERO, 1, None, 10, &[pair]);
        assert_eq!(encoded(|out| record(out, Some(counter.view()))), "$3\r\n-25\r\n");
        let tombstone = Record::tombstone(key, Timestamp::ZERO);
        assert_eq!(encoded(|out| record(out, Some(tombstone.view()))), "$-1\r\n");
        assert_eq!(encoded(|out| record(out, None)), "$-1\r\n");
    }

    #[test]
    fn every_error_is_one_line_that_begins_with_its_word() {
        let level = Level::All;
        let cases = [
            (OperationError::NoCluster, "-CLUSTERDOWN "),
            (OperationError::NotEnoughOwners { level, needed: 3, alive: 1 }, "-CLUSTERDOWN "),
            (OperationError::Unreachable, "-CLUSTERDOWN "),
            (OperationError::Stopping, "-CLUSTERDOWN "),
            (OperationError::Gone(Gone::Removed), "-CLUSTERDOWN this member was removed"),
            (OperationError::Starting, "-LOADING "),
            (OperationError::Overloaded, "-OOM "),
            (OperationError::NoRoomForHint, "-OOM "),
            (OperationError::Storage("a\r\nb".to_owned()), "-OOM "),
            (OperationError::Unknown { copies: 1 }, "-UNKNOWN "),
            (OperationError::SystemCollection, "-NOPERM "),
            (OperationError::ValueTooLarge { got: 2, limit: 1 }, "-ERR "),
            (CounterError::NotANumber.into(), "-ERR value is not an integer or out of range\r\n"),
        ];
        for (refused, start) in cases {
            let text = encoded(|out| operation_error(out, &refused));
            assert!(text.starts_with(start) && text.ends_with("\r\n"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}
