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
use crate::model::edit::EditError;
use crate::model::{Kind, RecordRef};

/// Bytes that hold every `i64` with its sign.
pub const DIGITS: usize = 20;

/// Which form replies have. A connection begins with the older one and asks for the newer one with HELLO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What Redis has always spoken.
    #[default]
    Resp2,
    /// With types for maps, sets, nothing, text and what was not asked for.
    Resp3,
}

/// Appends replies to bytes that will be sent, in the protocol of their connection.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Encoder<'a> {
    /// Appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A word of kith's own.
    pub fn simple(&mut self, word: &str) {
        self.out.push(b'+');
        self.line(word.as_bytes());
    }

    /// The absence of a value.
    pub fn nil(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.extend_from_slice(b"$-1\r\n"),
            Protocol::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// A number.
    pub fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    /// A string of bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.counted(b'$', bytes.len());
        self.line(bytes);
    }

    /// Text for people.
    pub fn text(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.counted(b'=', "txt:".len() + text.len());
                self.out.extend_from_slice(b"txt:");
                self.line(text.as_bytes());
            }
        }
    }

    /// The head of an array; its elements follow.
    pub fn array(&mut self, elements: usize) {
        self.counted(b'*', elements);
    }

    /// The head of a set; its elements follow.
    pub fn set(&mut self, elements: usize) {
        self.counted(if self.protocol == Protocol::Resp3 { b'~' } else { b'*' }, elements);
    }

    /// The head of what was not asked for; its elements follow.
    pub fn push(&mut self, elements: usize) {
        self.counted(if self.protocol == Protocol::Resp3 { b'>' } else { b'*' }, elements);
    }

    /// The head of a map; names and values follow in turn.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.counted(b'*', 2 * pairs),
            Protocol::Resp3 => self.counted(b'%', pairs),
        }
    }

    /// Replies that were encoded before, in the same protocol.
    pub fn encoded(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// What a reader gets of a record: a value's bytes, a counter's number, nothing of other kinds.
    pub fn record(&mut self, found: Option<RecordRef<'_>>) {
        let mut digits = [0; DIGITS];
        match found.and_then(|record| readable(record, &mut digits)) {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// An error: its first word, then what happened. Line ends in `message` become spaces, those at its end nothing.
    pub fn error(&mut self, word: &str, message: &[u8]) {
        self.out.push(b'-');
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b' ');
        let end = message.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        self.out.extend(
            message.iter().take(end).map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
        );
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error that a member gave for an operation.
    pub fn operation_error(&mut self, refused: &OperationError) {
        match refused {
            OperationError::Edit(EditError::TooLarge(_)) => {
                self.error("ERR", b"string exceeds maximum allowed size (proto-max-bulk-len)");
            }
            _ => self.error(first_word(refused), refused.to_string().as_bytes()),
        }
    }

    /// The last reply of a client that does not speak RESP.
    pub fn protocol_error(&mut self, broken: ProtocolError) {
        self.error("ERR", format!("Protocol error: {broken}").as_bytes());
    }

    fn counted(&mut self, kind: u8, count: usize) {
        self.head(kind, i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn head(&mut self, kind: u8, number: i64) {
        let mut digits = [0; DIGITS];
        self.out.push(kind);
        self.line(format_decimal(&mut digits, number));
    }

    fn line(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }
}

/// What a reader gets of a record; a counter's number is written into `digits`.
pub fn readable<'a>(record: RecordRef<'a>, digits: &'a mut [u8; DIGITS]) -> Option<&'a [u8]> {
    match record.kind() {
        Kind::Value => Some(record.body()),
        Kind::Counter => Some(format_decimal(digits, record.total())),
        Kind::Tombstone | Kind::ExpiredValue | Kind::ExpiredCounter => None,
    }
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
        OperationError::ValueTooLarge { .. }
        | OperationError::Counter(_)
        | OperationError::Edit(_)
        | OperationError::TooManyWatches => "ERR",
    }
}

fn format_decimal(room: &mut [u8; DIGITS], number: i64) -> &[u8] {
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

    fn encoded_in(protocol: Protocol, encode: impl FnOnce(&mut Encoder<'_>)) -> String {
        let mut out = Vec::new();
        encode(&mut Encoder::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    }

    fn encoded(encode: impl FnOnce(&mut Encoder<'_>)) -> String {
        encoded_in(Protocol::Resp2, encode)
    }

    #[test]
    fn numbers_are_written_as_rust_writes_them() {
        for number in [0, 7, -7, 10, 99, 100, i64::MAX, i64::MIN] {
            assert_eq!(encoded(|out| out.integer(number)), format!(":{number}\r\n"));
        }
    }

    #[test]
    fn a_counter_reads_as_its_number_and_a_tombstone_as_nothing() {
        let key = KeyRef::new("default", b"k").unwrap();
        let pair = Pair { member: MemberId(1), incarnation: 1, plus: 5, minus: 40 };
        let counter = Record::counter(key, Timestamp::ZERO, 1, None, 10, &[pair]);
        assert_eq!(encoded(|out| out.record(Some(counter.view()))), "$3\r\n-25\r\n");
        let tombstone = Record::tombstone(key, Timestamp::ZERO);
        assert_eq!(encoded(|out| out.record(Some(tombstone.view()))), "$-1\r\n");
        assert_eq!(encoded(|out| out.record(None)), "$-1\r\n");
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
            let text = encoded(|out| out.operation_error(&refused));
            assert!(text.starts_with(start) && text.ends_with("\r\n"), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn what_resp3_has_types_for_is_told_apart_there_only() {
        let everything = |out: &mut Encoder<'_>| {
            out.map(1);
            out.set(0);
            out.text("a");
            out.nil();
        };
        assert_eq!(encoded_in(Protocol::Resp2, everything), "*2\r\n*0\r\n$1\r\na\r\n$-1\r\n");
        assert_eq!(encoded_in(Protocol::Resp3, everything), "%1\r\n~0\r\n=5\r\ntxt:a\r\n_\r\n");
    }
}
