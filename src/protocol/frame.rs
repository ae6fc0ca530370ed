//! Frames: one turn's worth of traffic from a member to a peer.
//!
//! ```text
//! version u8 · time u64 · wall_ms u64 · placement u64 · durable u64 · written u64 · fsynced u64
//! exceptions u16 × (first u64 · count u32 · kind u8 · time u64 · member u64)
//! first_record u64 · records u32 · their bytes u32 · (purpose u8 · record)…
//! messages u16 × (length u32 · bytes)
//! ```
//!
//! Records on a link are numbered from 1. `written` and `fsynced` confirm the peer's records up to
//! and including that number; the exceptions name those for which a plain confirmation would be
//! untrue. Numbers are little endian.

use super::ProtocolError;
use crate::model::{MemberId, RecordRef, Timestamp};

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 6 * 8;
const EXCEPTION_BYTES: usize = 8 + 4 + 1 + 16;
/// Exceptions in one frame; more wait for the next.
pub const MAX_EXCEPTIONS: usize = 4_096;
/// Messages in one frame; more wait for the next.
pub const MAX_MESSAGES: usize = 4_096;

/// What every frame says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The sender's hybrid time: at least every stamp that it gave or saw.
    pub time: u64,
    /// The sender's wall clock in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Digest of the sender's placement.
    pub placement: u64,
    /// The sender's journal is fsynced up to here, in bytes of its present life; 0 if it can't tell.
    pub durable: u64,
    /// The receiver's records up to here are written.
    pub written: u64,
    /// The receiver's records up to here are fsynced.
    pub fsynced: u64,
}

/// Why a record was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// A client's write that is in progress: the receiver may refuse it.
    Fresh = 0,
    /// A hint, repair or handoff: never refused.
    Repair = 1,
}

/// Records that are not simply stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Number of the first record that it is about.
    pub first: u64,
    /// How many records, at least 1.
    pub count: u32,
    /// What happened to them.
    pub verdict: Verdict,
}

/// What an owner did with a record instead of storing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has a newer one, with this stamp.
    Superseded(Timestamp),
    /// The stamp is too far ahead of its wall clock.
    ClockAhead,
    /// The sender's placement is not its own: both exchange rosters and settings.
    Placement,
    /// Its storage takes no writes.
    Storage,
}

/// Bytes of a frame beside its records and messages.
#[must_use]
pub const fn overhead_bytes(exceptions: usize) -> usize {
    FIXED_BYTES + 2 + exceptions * EXCEPTION_BYTES + 8 + 4 + 4 + 2
}

/// Writes a frame. Parts come in this order: exceptions, records, messages; what is left out is
/// written as empty.
pub fn encode(
    out: &mut Vec<u8>,
    header: &Header,
    exceptions: &[Exception],
    records: Records<'_>,
    messages: Messages<'_>,
) {
    out.push(VERSION);
    let Header { time, wall_ms, placement, durable, written, fsynced } = *header;
    for number in [time, wall_ms, placement, durable, written, fsynced] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&u16::try_from(exceptions.len()).unwrap_or(u16::MAX).to_le_bytes());
    for exception in exceptions {
        let (kind, stamp) = match exception.verdict {
            Verdict::Superseded(stamp) => (0, stamp),
            Verdict::ClockAhead => (1, Timestamp::ZERO),
            Verdict::Placement => (2, Timestamp::ZERO),
            Verdict::Storage => (3, Timestamp::ZERO),
        };
        out.extend_from_slice(&exception.first.to_le_bytes());
        out.extend_from_slice(&exception.count.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&stamp.time.to_le_bytes());
        out.extend_from_slice(&stamp.member.0.to_le_bytes());
    }
    out.extend_from_slice(&records.first.to_le_bytes());
    out.extend_from_slice(&records.count.to_le_bytes());
    out.extend_from_slice(&u32::try_from(records.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(records.bytes);
    out.extend_from_slice(&messages.count.to_le_bytes());
    out.extend_from_slice(messages.bytes);
}

/// Records of a frame: each a purpose byte and canonical bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Records<'a> {
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Their bytes.
    pub bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records one by one; an error ends the frame.
    pub fn iter(self) -> impl Iterator<Item = Result<(u64, Purpose, RecordRef<'a>), ProtocolError>> {
        let (mut rest, mut number, mut left) = (self.bytes, self.first, self.count);
        std::iter::from_fn(move || {
            if left == 0 {
                let trailing = rest.len();
                rest = &[];
                return (trailing > 0).then_some(Err(ProtocolError::Trailing(trailing)));
            }
            left -= 1;
            let parsed = parse_record(rest);
            match parsed {
                Ok((purpose, record, tail)) => {
                    rest = tail;
                    number += 1;
                    Some(Ok((number - 1, purpose, record)))
                }
                Err(error) => {
                    (left, rest) = (0, &[]);
                    Some(Err(error))
                }
            }
        })
    }
}

fn parse_record(bytes: &[u8]) -> Result<(Purpose, RecordRef<'_>, &[u8]), ProtocolError> {
    let (purpose, rest) = bytes.split_first().ok_or(ProtocolError::CutOff)?;
    let purpose = match purpose {
        0 => Purpose::Fresh,
        1 => Purpose::Repair,
        _ => return Err(ProtocolError::Malformed("purpose")),
    };
    let (record, rest) = RecordRef::parse(rest)?;
    Ok((purpose, record, rest))
}

/// Messages of a frame, each with its length before it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Messages<'a> {
    /// How many.
    pub count: u16,
    /// Their bytes.
    pub bytes: &'a [u8],
}

/// A frame that was received, its outer shape checked.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it says first.
    pub header: Header,
    exceptions: &'a [u8],
    /// Its records.
    pub records: Records<'a>,
    messages: Messages<'a>,
}

impl<'a> Frame<'a> {
    /// Checks the outer shape of a frame.
    ///
    /// # Errors
    /// [`ProtocolError`] when it has none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut input = Input(bytes);
        let version = input.take(1)?.first().copied().unwrap_or_default();
        if version != VERSION {
            return Err(ProtocolError::Version(version));
        }
        debug_assert_eq!(FIXED_BYTES, 49);
        let header = Header {
            time: input.u64()?,
            wall_ms: input.u64()?,
            placement: input.u64()?,
            durable: input.u64()?,
            written: input.u64()?,
            fsynced: input.u64()?,
        };
        let count = usize::from(input.u16()?);
        if count > MAX_EXCEPTIONS {
            return Err(ProtocolError::Malformed("number of exceptions"));
        }
        let exceptions = input.take(count * EXCEPTION_BYTES)?;
        let (first, count, length) = (input.u64()?, input.u32()?, input.u32()?);
        if first.checked_add(count.into()).is_none() {
            return Err(ProtocolError::Malformed("record number"));
        }
        let records = Records { first, count, bytes: input.take(length as usize)? };
        let messages = Messages { count: input.u16()?, bytes: input.0 };
        Ok(Self { header, exceptions, records, messages })
    }

    /// The exceptions one by one.
    pub fn exceptions(&self) -> impl Iterator<Item = Result<Exception, ProtocolError>> + use<'a> {
        self.exceptions.chunks_exact(EXCEPTION_BYTES).map(|bytes| {
            let mut input = Input(bytes);
            let (first, count) = (input.u64()?, input.u32()?);
            let kind = input.take(1)?.first().copied().unwrap_or_default();
            let stamp = Timestamp { time: input.u64()?, member: MemberId(input.u64()?) };
            let verdict = match kind {
                0 => Verdict::Superseded(stamp),
                1 => Verdict::ClockAhead,
                2 => Verdict::Placement,
                3 => Verdict::Storage,
                _ => return Err(ProtocolError::Malformed("verdict")),
            };
            Ok(Exception { first, count, verdict })
        })
    }

    /// The messages' bytes one by one; an error ends the frame.
    pub fn messages(&self) -> impl Iterator<Item = Result<&'a [u8], ProtocolError>> + use<'a> {
        let (mut input, mut left) = (Input(self.messages.bytes), self.messages.count);
        std::iter::from_fn(move || {
            if left == 0 {
                let trailing = input.0.len();
                input = Input(&[]);
                return (trailing > 0).then_some(Err(ProtocolError::Trailing(trailing)));
            }
            left -= 1;
            let message = input.u32().and_then(|length| input.take(length as usize));
            if message.is_err() {
                (left, input) = (0, Input(&[]));
            }
            Some(message)
        })
    }
}

/// Reads numbers off the front of bytes that nobody vouches for.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(ProtocolError::CutOff)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        self.take(N)?.first_chunk().copied().ok_or(ProtocolError::CutOff)
    }

    fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyRef, Record};
    use proptest::prelude::*;

    fn any_exception() -> impl Strategy<Value = Exception> {
        let stamp = (any::<u64>(), any::<u64>());
        (any::<u64>(), 1u32.., 0u8..4, stamp).prop_map(|(first, count, kind, (time, member))| Exception {
            first,
            count,
            verdict: match kind {
                0 => Verdict::Superseded(Timestamp { time, member: MemberId(member) }),
                1 => Verdict::ClockAhead,
                2 => Verdict::Placement,
                _ => Verdict::Storage,
            },
        })
    }

    fn sample(exceptions: &[Exception], values: &[Vec<u8>], messages: &[Vec<u8>]) -> Vec<u8> {
        let mut records = Vec::new();
        for value in values {
            let key = KeyRef::new("default", b"k").unwrap();
            records.push(u8::from(value.len() % 2 == 1));
            records.extend_from_slice(Record::value(key, Timestamp::ZERO, None, value).view().bytes());
        }
        let mut packed = Vec::new();
        for message in messages {
            packed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_le_bytes());
            packed.extend_from_slice(message);
        }
        let header = Header { time: 1, wall_ms: 2, placement: 3, durable: 6, written: 4, fsynced: 5 };
        let count = u32::try_from(values.len()).unwrap();
        let mut out = Vec::new();
        let records = Records { first: 9, count, bytes: &records };
        let messages = Messages { count: u16::try_from(messages.len()).unwrap(), bytes: &packed };
        encode(&mut out, &header, exceptions, records, messages);
        out
    }

    proptest! {
        #[test]
        fn a_frame_arrives_as_it_was_sent(
            exceptions in prop::collection::vec(any_exception(), 0..5),
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
        ) {
            let bytes = sample(&exceptions, &values, &messages);
            let frame = Frame::parse(&bytes).unwrap();
            prop_assert_eq!(frame.header.fsynced, 5);
            prop_assert_eq!(frame.exceptions().collect::<Result<Vec<_>, _>>().unwrap(), exceptions);
            let got: Vec<_> = frame.records.iter().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(got.len(), values.len());
            for ((number, purpose, record), (at, value)) in got.into_iter().zip((9..).zip(&values)) {
                prop_assert_eq!((number, record.body()), (at, &value[..]));
                prop_assert_eq!(purpose == Purpose::Repair, value.len() % 2 == 1);
            }
            prop_assert_eq!(frame.messages().collect::<Result<Vec<_>, _>>().unwrap(), messages);
        }

        #[test]
        fn a_cut_or_altered_frame_is_an_error_or_harmless_and_never_a_panic(
            cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), by in 1u8..
        ) {
            let mut bytes = sample(&[], &[vec![1; 30]], &[vec![2; 9]]);
            let at = flip.index(bytes.len());
            bytes[at] ^= by;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(frame) = Frame::parse(&bytes) {
                let _ = (frame.exceptions().count(), frame.records.iter().count(), frame.messages().count());
            }
        }
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut bytes = sample(&[], &[], &[]);
        bytes.push(0);
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!(frame.messages().next(), Some(Err(ProtocolError::Trailing(1))));
    }
}
