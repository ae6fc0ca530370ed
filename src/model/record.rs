//! Records and their one canonical byte form: the same for hash, wire, journal, table and redb.
//!
//! ```text
//!  0      format version (1)
//!  1..17  element: 128 bits of blake3 over all that follows (see [`RecordRef::compute_element`])
//! 17      kind
//! 18      flags: bit 0 = has an expiry; bit 1 = the body ends with a birth; bits 4..8 = the counter's epoch
//! 19      bytes of the collection's name
//! 20..22  bytes of the key            (little endian, like all numbers here)
//! 22..26  bytes of the body
//! 26..42  timestamp: time, member
//! 42..    collection, key, expiry (8 bytes, if it has one), body
//! ```
//!
//! [`RecordRef::parse`] checks the shape of bytes that nobody vouches for; [`RecordRef::verify`]
//! checks the element and is due whenever bytes come from a disk. Links are authenticated and
//! sealed, so what arrives on them needs the shape check only.
//!
//! The element is also the record's mark in the hash tree. A record with an expiry is hashed over
//! a digest of its body, and the tombstone that it becomes keeps that digest, so expiring changes
//! no mark. (A counter's tombstone keeps the base instead of the pairs, which members may hold
//! differently at that moment; its mark does change.)

mod counter;

pub use counter::{Birth, Pair};

use super::key::{KeyHash, KeyRef};
use super::limits::{MAX_COLLECTION_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use super::timestamp::{MemberId, TIME_BOUND, Timestamp};

/// The format's version, first byte of every record.
pub const FORMAT: u8 = 1;
/// Bytes before the collection's name.
pub const HEADER_BYTES: usize = 42;
/// In the place of a value's time to live, or of its expiry, in milliseconds: it has no end, whatever its collection's
/// `default_ttl` says. Only who asks for a value to be stored says so: the record that is stored has no expiry at all.
pub const LASTING_MS: u64 = u64::MAX;
const HAS_EXPIRY: u8 = 1;
const HAS_BIRTH: u8 = 2;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bytes that a client stored.
    Value = 0,
    /// A number that members may change at the same time without losing a change.
    Counter = 1,
    /// The mark of a deletion.
    Tombstone = 2,
    /// A value past its expiry: a tombstone that keeps the value's timestamp and element.
    ExpiredValue = 3,
    /// A counter past its expiry.
    ExpiredCounter = 4,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Value,
            1 => Self::Counter,
            2 => Self::Tombstone,
            3 => Self::ExpiredValue,
            4 => Self::ExpiredCounter,
            _ => return None,
        })
    }

    /// Whether a reader finds something: values and counters (their expiry is the reader's to
    /// check).
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Value | Self::Counter)
    }
}

/// Why bytes are not a record. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("a record is cut off")]
    CutOff,
    /// Written by a version of kith that this one does not know.
    #[error("record format {0} is unknown to this version of kith")]
    Format(u8),
    /// A field has a value that no version writes.
    #[error("a record has an impossible {0}")]
    Malformed(&'static str),
    /// The content does not match its hash: damage.
    #[error("a record does not match its checksum")]
    Damaged,
}

/// A view on the canonical bytes of one record, its shape checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

impl<'a> RecordRef<'a> {
    /// Splits the first record off `input`, checking its shape but not its element.
    ///
    /// # Errors
    /// [`RecordError`] when the bytes are no record of this version.
    pub fn parse(input: &'a [u8]) -> Result<(Self, &'a [u8]), RecordError> {
        let header = input.first_chunk::<HEADER_BYTES>().ok_or(RecordError::CutOff)?;
        if header[0] != FORMAT {
            return Err(RecordError::Format(header[0]));
        }
        let kind = Kind::of(header[17]).ok_or(RecordError::Malformed("kind"))?;
        let (flags, collection) = (header[18], usize::from(header[19]));
        let key = usize::from(u16::from_le_bytes([header[20], header[21]]));
        let body = u32::from_le_bytes([header[22], header[23], header[24], header[25]]) as usize;
        if collection == 0 || collection > MAX_COLLECTION_BYTES {
            return Err(RecordError::Malformed("collection"));
        }
        if key == 0 || key > MAX_KEY_BYTES {
            return Err(RecordError::Malformed("key length"));
        }
        if body > MAX_VALUE_BYTES {
            return Err(RecordError::Malformed("body length"));
        }
        let expiry = if flags & HAS_EXPIRY == 0 { 0 } else { 8 };
        let total = HEADER_BYTES + collection + key + expiry + body;
        let (bytes, rest) = input.split_at_checked(total).ok_or(RecordError::CutOff)?;
        let record = Self { bytes, kind };
        record.check_fields(flags)?;
        Ok((record, rest))
    }

    fn check_fields(self, flags: u8) -> Result<(), RecordError> {
        let name = std::str::from_utf8(self.collection_bytes());
        if !name.is_ok_and(|name| super::key::check_collection(name).is_ok()) {
            return Err(RecordError::Malformed("collection"));
        }
        let (epoch, has_expiry, body) = (flags >> 4, flags & HAS_EXPIRY != 0, self.body());
        let has_birth = flags & HAS_BIRTH != 0;
        let fits = match self.kind {
            Kind::Value => epoch == 0,
            Kind::Tombstone => epoch == 0 && !has_expiry && body.is_empty(),
            Kind::ExpiredValue => epoch == 0 && has_expiry && body.len() == 16,
            Kind::ExpiredCounter => epoch == 1 && has_expiry && body.len() == 8,
            Kind::Counter => {
                (epoch == 1 || matches!(epoch, 2 | 3) && !has_expiry && !has_birth)
                    && counter::has_shape(body, has_birth)
                    && (!has_birth || self.has_earlier_birth())
            }
        };
        let unknown_flags = flags & 0b0000_1100 != 0 || has_birth && self.kind != Kind::Counter;
        if self.timestamp().time >= TIME_BOUND {
            return Err(RecordError::Malformed("timestamp"));
        }
        if fits && !unknown_flags { Ok(()) } else { Err(RecordError::Malformed("field for its kind")) }
    }

    /// The record with which bytes begin that are known to be one's: nothing is checked.
    #[must_use]
    pub fn at_start_of(bytes: &'a [u8]) -> Self {
        let header = bytes.first_chunk::<HEADER_BYTES>().copied().unwrap_or([0; HEADER_BYTES]);
        let kind = Kind::of(header[17]).unwrap_or(Kind::Tombstone);
        let total = HEADER_BYTES
            + usize::from(header[19])
            + usize::from(u16::from_le_bytes([header[20], header[21]]))
            + if header[18] & HAS_EXPIRY == 0 { 0 } else { 8 }
            + u32::from_le_bytes([header[22], header[23], header[24], header[25]]) as usize;
        Self { bytes: bytes.get(..total).unwrap_or(bytes), kind }
    }

    /// Checks the element against the content.
    ///
    /// # Errors
    /// [`RecordError::Damaged`].
    pub fn verify(self) -> Result<(), RecordError> {
        if self.compute_element() == self.element() { Ok(()) } else { Err(RecordError::Damaged) }
    }

    /// The canonical bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// What the record is.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// When it was written, and by whom. A counter's is its base's.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp {
            time: u64::from_le_bytes(self.array(26)),
            member: MemberId(u64::from_le_bytes(self.array(34))),
        }
    }

    /// The record's mark in the hash tree: 128 bits over key, timestamp, kind and content.
    #[must_use]
    pub fn element(self) -> u128 {
        u128::from_le_bytes(self.array(1))
    }

    /// What a counter's base extends: 1 for something live or nothing, 2 for something deleted or
    /// expired, 3 for a settled tombstone (the last two have no expiry of their own); 0 for all but
    /// counters.
    #[must_use]
    pub fn epoch(self) -> u8 {
        self.byte(18) >> 4
    }

    /// The collection's name.
    #[must_use]
    pub fn collection(self) -> &'a str {
        // Checked in `parse`; the fallback can't be reached.
        std::str::from_utf8(self.collection_bytes()).unwrap_or_default()
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(self) -> &'a [u8] {
        let start = HEADER_BYTES + self.collection_length();
        self.slice(start, start + self.key_length())
    }

    /// Collection and key, joined as they are in the record: unique per key only together with
    /// the collection's length.
    #[must_use]
    pub fn collection_bytes(self) -> &'a [u8] {
        self.slice(HEADER_BYTES, HEADER_BYTES + self.collection_length())
    }

    /// Whether this record is the one of `key`.
    #[must_use]
    pub fn is_of(self, key: KeyRef<'_>) -> bool {
        self.key() == key.key() && self.collection_bytes() == key.collection().as_bytes()
    }

    /// Collection and key.
    ///
    /// # Errors
    /// Never for a parsed record: its names were checked.
    pub fn key_ref(self) -> Result<KeyRef<'a>, super::key::KeyError> {
        KeyRef::new(self.collection(), self.key())
    }

    /// The hash that places this record.
    #[must_use]
    pub fn key_hash(self) -> KeyHash {
        KeyHash::of(self.collection_bytes(), self.key())
    }

    /// Milliseconds since the Unix epoch from which on the record counts as deleted.
    #[must_use]
    pub fn expiry_ms(self) -> Option<u64> {
        let start = HEADER_BYTES + self.collection_length() + self.key_length();
        (self.byte(18) & HAS_EXPIRY != 0).then(|| u64::from_le_bytes(self.array(start)))
    }

    /// Whether a reader finds something at this moment.
    #[must_use]
    pub fn is_readable(self, wall_ms: u64) -> bool {
        self.kind.is_live() && self.expiry_ms().is_none_or(|expiry| wall_ms < expiry)
    }

    /// A value's bytes; of other kinds their encoded content.
    #[must_use]
    pub fn body(self) -> &'a [u8] {
        self.slice(self.bytes.len() - self.body_length(), self.bytes.len())
    }

    /// The element that the content calls for.
    ///
    /// Records without expiry are hashed in one go: this is paid for every write.
    #[must_use]
    pub fn compute_element(self) -> u128 {
        if self.expiry_ms().is_none() {
            return truncate(blake3::hash(self.slice(17, self.bytes.len())));
        }
        let digest = match self.kind {
            Kind::ExpiredValue => self.body().first_chunk().copied().unwrap_or_default(),
            _ => truncate(blake3::hash(self.body())).to_le_bytes(),
        };
        let kind = if self.kind == Kind::ExpiredValue { Kind::Value } else { self.kind };
        let names = self.slice(26, self.bytes.len() - self.body_length());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind as u8]).update(self.slice(18, 22)).update(names).update(&digest);
        truncate(hasher.finalize())
    }

    fn byte(self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or_default()
    }

    fn slice(self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    fn array<const N: usize>(self, start: usize) -> [u8; N] {
        let found = self.bytes.get(start..).and_then(|tail| tail.first_chunk());
        found.copied().unwrap_or([0; N])
    }

    fn collection_length(self) -> usize {
        usize::from(self.byte(19))
    }

    fn key_length(self) -> usize {
        usize::from(u16::from_le_bytes(self.array(20)))
    }

    fn body_length(self) -> usize {
        u32::from_le_bytes(self.array(22)) as usize
    }
}

impl std::fmt::Debug for RecordRef<'_> {
    /// Names and lengths only: values stay out of logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("kind", &self.kind)
            .field("collection", &self.collection())
            .field("key", &String::from_utf8_lossy(self.key()))
            .field("timestamp", &self.timestamp())
            .field("body_bytes", &self.body_length())
            .finish_non_exhaustive()
    }
}

fn truncate(hash: blake3::Hash) -> u128 {
    u128::from_le_bytes(hash.as_bytes().first_chunk().copied().unwrap_or_default())
}

/// An owned record: its canonical bytes in one allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Box<[u8]>);

impl Record {
    /// The record's view.
    #[must_use]
    pub fn view(&self) -> RecordRef<'_> {
        let kind = self.0.get(17).copied().and_then(Kind::of).unwrap_or(Kind::Tombstone);
        RecordRef { bytes: &self.0, kind }
    }

    /// A value. `value` must not exceed [`MAX_VALUE_BYTES`]; callers check the setting first.
    #[must_use]
    pub fn value(key: KeyRef<'_>, timestamp: Timestamp, expiry_ms: Option<u64>, value: &[u8]) -> Self {
        let mut out = Vec::new();
        write_record(&mut out, Kind::Value, 0, key, timestamp, expiry_ms, &[value]);
        Self(out.into_boxed_slice())
    }

    /// The mark of a deletion.
    #[must_use]
    pub fn tombstone(key: KeyRef<'_>, timestamp: Timestamp) -> Self {
        let mut out = Vec::new();
        write_record(&mut out, Kind::Tombstone, 0, key, timestamp, None, &[]);
        Self(out.into_boxed_slice())
    }

    /// The tombstone that `record` becomes past its expiry: the same timestamp, and for a value
    /// the same element. `None` when the record has no expiry or has become one already.
    #[must_use]
    pub fn expired(record: RecordRef<'_>) -> Option<Self> {
        let expiry = record.expiry_ms();
        let key = record.key_ref().ok()?;
        let (kind, body) = match record.kind() {
            Kind::Value => (Kind::ExpiredValue, truncate(blake3::hash(record.body())).to_le_bytes().to_vec()),
            Kind::Counter => (Kind::ExpiredCounter, record.base().to_le_bytes().to_vec()),
            Kind::Tombstone | Kind::ExpiredValue | Kind::ExpiredCounter => return None,
        };
        expiry?;
        let mut out = Vec::new();
        write_record(&mut out, kind, record.epoch() << 4, key, record.timestamp(), expiry, &[&body]);
        Some(Self(out.into_boxed_slice()))
    }

    /// A copy of a record that was parsed.
    #[must_use]
    pub fn copy_of(record: RecordRef<'_>) -> Self {
        Self(record.bytes.into())
    }

    /// Becomes a copy of `record`, in the same allocation if the length allows.
    pub fn assign(&mut self, record: RecordRef<'_>) {
        if self.0.len() == record.bytes.len() {
            self.0.copy_from_slice(record.bytes);
        } else {
            self.0 = record.bytes.into();
        }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn into_bytes(self) -> Box<[u8]> {
        self.0
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

/// Appends one value record to `out` without an allocation of its own: the hot path of a write.
pub fn append_value(
    out: &mut Vec<u8>,
    key: KeyRef<'_>,
    timestamp: Timestamp,
    expiry_ms: Option<u64>,
    value: &[u8],
) {
    write_record(out, Kind::Value, 0, key, timestamp, expiry_ms, &[value]);
}

fn write_record(
    out: &mut Vec<u8>,
    kind: Kind,
    flags: u8,
    key: KeyRef<'_>,
    timestamp: Timestamp,
    expiry_ms: Option<u64>,
    body: &[&[u8]],
) {
    let start = out.len();
    let (collection, key) = (key.collection().as_bytes(), key.key());
    let body_bytes: usize = body.iter().map(|part| part.len()).sum();
    out.reserve(HEADER_BYTES + collection.len() + key.len() + 8 + body_bytes);
    out.push(FORMAT);
    out.extend_from_slice(&[0; 16]);
    out.push(kind as u8);
    out.push(u8::from(expiry_ms.is_some()) | flags);
    out.push(u8::try_from(collection.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&u32::try_from(body_bytes).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&timestamp.time.to_le_bytes());
    out.extend_from_slice(&timestamp.member.0.to_le_bytes());
    out.extend_from_slice(collection);
    out.extend_from_slice(key);
    if let Some(expiry) = expiry_ms {
        out.extend_from_slice(&expiry.to_le_bytes());
    }
    for part in body {
        out.extend_from_slice(part);
    }
    let bytes = out.get(start..).unwrap_or_default();
    let element = RecordRef { bytes, kind }.compute_element().to_le_bytes();
    if let Some(room) = out.get_mut(start + 1..start + 17) {
        room.copy_from_slice(&element);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn key() -> KeyRef<'static> {
        KeyRef::new("default", b"k").unwrap()
    }

    /// Every kind of record of one key, with few distinct stamps so that ties happen.
    pub(crate) fn any_record() -> impl Strategy<Value = Record> {
        let stamp = (0u64..4, 0u64..3).prop_map(|(time, m)| Timestamp { time, member: MemberId(m) });
        let expiry = prop::option::of(0u64..3);
        let pairs = prop::collection::btree_map((0u64..3, 0u64..2), (0u64..9, 0u64..9), 0..4);
        (stamp, expiry, 0usize..6, pairs, 0i64..3, 1u8..4).prop_map(
            |(stamp, expiry, kind, pairs, base, epoch)| {
                let pairs: Vec<_> = pairs
                    .into_iter()
                    .map(|((m, incarnation), (plus, minus))| Pair {
                        member: MemberId(m),
                        incarnation,
                        plus,
                        minus,
                    })
                    .collect();
                let value = Record::value(key(), stamp, expiry, &base.to_le_bytes());
                let lasts = expiry.filter(|_| epoch == 1);
                let zero = if epoch == 1 && stamp != Timestamp::ZERO { base } else { 0 };
                let counter = Record::counter(key(), stamp, epoch, lasts, zero, &pairs);
                match kind {
                    0 => value,
                    1 => counter,
                    2 => Record::tombstone(key(), stamp),
                    3 => Record::expired(value.view()).unwrap_or(value),
                    4 => {
                        // Of one member, so that its birth tells its stamp.
                        let timestamp = Timestamp { time: stamp.time + 10 + base.unsigned_abs(), ..stamp };
                        let birth = Birth { timestamp: stamp, epoch };
                        Record::counter_born(key(), timestamp, birth, expiry, zero, &pairs)
                    }
                    _ => Record::expired(counter.view()).unwrap_or(counter),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_parses_back_whole_and_verifies(record in any_record(), tail in any::<[u8; 3]>()) {
            let mut bytes = record.clone().into_bytes().into_vec();
            bytes.extend_from_slice(&tail);
            let (view, rest) = RecordRef::parse(&bytes).unwrap();
            prop_assert_eq!(rest, &tail);
            prop_assert_eq!(view, record.view());
            prop_assert!(view.verify().is_ok());
            prop_assert!(view.is_of(key()));
        }

        #[test]
        fn a_flipped_bit_never_passes(record in any_record(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = record.into_bytes().into_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let passed = RecordRef::parse(&bytes).is_ok_and(|(view, rest)| rest.is_empty() && view.verify().is_ok());
            prop_assert!(!passed);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((view, _)) = RecordRef::parse(&bytes) {
                let _ = (view.verify(), view.total(), view.pairs().count());
            }
        }
    }

    #[test]
    fn expiring_keeps_a_values_timestamp_and_element() {
        let stamp = Timestamp { time: 5, member: MemberId(1) };
        let value = Record::value(key(), stamp, Some(9), b"secret");
        let gone = Record::expired(value.view()).unwrap();
        assert_eq!(gone.view().element(), value.view().element());
        assert_eq!(gone.view().timestamp(), stamp);
        assert!(gone.view().verify().is_ok());
        assert!(!gone.view().is_readable(0));
        assert!(Record::expired(gone.view()).is_none());
    }
}
