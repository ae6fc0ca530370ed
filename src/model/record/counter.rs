//! Counters: what is particular to the body of a record that is one.
//!
//! ```text
//!  0..8   base
//!  8..10  number of pairs
//! 10..    pairs, 32 bytes each: member, incarnation, plus, minus
//!         birth (17 bytes: time, member, epoch), if the counter was stamped anew
//! ```

use super::{HAS_BIRTH, Kind, Record, RecordRef, write_record};
use crate::model::key::KeyRef;
use crate::model::limits::MAX_COUNTER_PAIRS;
use crate::model::timestamp::{MemberId, Timestamp};

const PAIR_BYTES: usize = 32;
const BIRTH_BYTES: usize = 17;

/// One member's share of a counter in one of its lives. Only that life ever raises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Who counted.
    pub member: MemberId,
    /// In which of its lives.
    pub incarnation: u64,
    /// Sum of the increments.
    pub plus: u64,
    /// Sum of the decrements.
    pub minus: u64,
}

/// The stamp and epoch under which a counter's pairs began to count. Giving a counter another expiry stamps it
/// anew and leaves its birth, so that what others count meanwhile joins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Birth {
    /// The stamp.
    pub timestamp: Timestamp,
    /// The epoch: see [`RecordRef::epoch`].
    pub epoch: u8,
}

impl<'a> RecordRef<'a> {
    /// The number that a counter's (or expired counter's) pairs add to.
    #[must_use]
    pub fn base(self) -> i64 {
        i64::from_le_bytes(self.body().first_chunk().copied().unwrap_or_default())
    }

    /// Under which stamp and epoch a counter's pairs began; of other kinds their own.
    #[must_use]
    pub fn birth(self) -> Birth {
        if self.byte(18) & HAS_BIRTH == 0 {
            return Birth { timestamp: self.timestamp(), epoch: self.epoch() };
        }
        let start = self.bytes.len().saturating_sub(BIRTH_BYTES);
        let time = u64::from_le_bytes(self.array(start));
        let member = MemberId(u64::from_le_bytes(self.array(start + 8)));
        Birth { timestamp: Timestamp { time, member }, epoch: self.byte(start + 16) }
    }

    /// Whether a birth is one that a member gives: before the own stamp, and of a deletion only with base zero.
    pub(super) fn has_earlier_birth(self) -> bool {
        let Birth { timestamp, epoch } = self.birth();
        let base_fits = epoch == 1 && timestamp != Timestamp::ZERO || self.base() == 0;
        timestamp < self.timestamp() && matches!(epoch, 1..=3) && base_fits
    }

    /// A counter's pairs, in order of member and incarnation; nothing for other kinds.
    pub fn pairs(self) -> impl Iterator<Item = Pair> + use<'a> {
        let birth = if self.byte(18) & HAS_BIRTH == 0 { 0 } else { BIRTH_BYTES };
        let body = self.body();
        let end = body.len().saturating_sub(birth);
        let pairs = if self.kind == Kind::Counter { body.get(10..end) } else { None };
        pairs.unwrap_or_default().chunks_exact(PAIR_BYTES).map(decode_pair)
    }

    /// A counter's number: its base and all that was counted, kept within `i64`.
    #[must_use]
    pub fn total(self) -> i64 {
        let counted: i128 = self.pairs().map(|p| i128::from(p.plus) - i128::from(p.minus)).sum();
        let total = (i128::from(self.base()) + counted).clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(total).unwrap_or_default()
    }
}

impl Record {
    /// A counter of epoch 1, 2 or 3, the last two without an expiry. `pairs` are sorted by member and
    /// incarnation, at most [`MAX_COUNTER_PAIRS`].
    #[must_use]
    pub fn counter(
        key: KeyRef<'_>,
        timestamp: Timestamp,
        epoch: u8,
        expiry_ms: Option<u64>,
        base: i64,
        pairs: &[Pair],
    ) -> Self {
        Self::counter_born(key, timestamp, Birth { timestamp, epoch }, expiry_ms, base, pairs)
    }

    /// A counter whose pairs began under `birth`: its own stamp, or, of one that was stamped anew, an earlier one.
    /// Else as [`Self::counter`].
    #[must_use]
    pub fn counter_born(
        key: KeyRef<'_>,
        timestamp: Timestamp,
        birth: Birth,
        expiry_ms: Option<u64>,
        base: i64,
        pairs: &[Pair],
    ) -> Self {
        let is_first = birth.timestamp == timestamp;
        let epoch = if is_first { birth.epoch } else { 1 };
        debug_assert!(pairs.is_sorted_by_key(|p| (p.member, p.incarnation)));
        debug_assert!(epoch == 1 || matches!(epoch, 2 | 3) && expiry_ms.is_none());
        let mut body = Vec::with_capacity(10 + pairs.len() * PAIR_BYTES + BIRTH_BYTES);
        body.extend_from_slice(&base.to_le_bytes());
        body.extend_from_slice(&u16::try_from(pairs.len()).unwrap_or(u16::MAX).to_le_bytes());
        for pair in pairs {
            for number in [pair.member.0, pair.incarnation, pair.plus, pair.minus] {
                body.extend_from_slice(&number.to_le_bytes());
            }
        }
        if !is_first {
            body.extend_from_slice(&birth.timestamp.time.to_le_bytes());
            body.extend_from_slice(&birth.timestamp.member.0.to_le_bytes());
            body.push(birth.epoch);
        }
        let flags = epoch << 4 | if is_first { 0 } else { HAS_BIRTH };
        let mut out = Vec::new();
        write_record(&mut out, Kind::Counter, flags, key, timestamp, expiry_ms, &[&body]);
        Self(out.into_boxed_slice())
    }
}

/// Base, number of pairs, pairs in strictly rising order, and the birth if there is one: one byte form per
/// counter.
pub(super) fn has_shape(body: &[u8], has_birth: bool) -> bool {
    let birth = if has_birth { BIRTH_BYTES } else { 0 };
    let pairs = body.len().checked_sub(birth).and_then(|end| body.get(10..end));
    let Some(pairs) = pairs else { return false };
    let count = usize::from(u16::from_le_bytes(
        body.get(8..10).and_then(|b| b.first_chunk().copied()).unwrap_or_default(),
    ));
    let owners = || pairs.chunks_exact(PAIR_BYTES).map(decode_pair).map(|p| (p.member, p.incarnation));
    count <= MAX_COUNTER_PAIRS && pairs.len() == count * PAIR_BYTES && owners().is_sorted_by(|a, b| a < b)
}

fn decode_pair(bytes: &[u8]) -> Pair {
    let number = |at: usize| {
        let found = bytes.get(at..).and_then(|tail| tail.first_chunk());
        u64::from_le_bytes(found.copied().unwrap_or_default())
    };
    Pair { member: MemberId(number(0)), incarnation: number(8), plus: number(16), minus: number(24) }
}

#[cfg(test)]
mod tests {
    use super::super::RecordError;
    use super::super::tests::key;
    use super::*;

    #[test]
    fn a_birth_comes_before_the_own_stamp() {
        let stamp = |time| Timestamp { time, member: MemberId(1) };
        let birth = Birth { timestamp: stamp(5), epoch: 3 };
        let record = Record::counter_born(key(), stamp(9), birth, Some(100), 0, &[]);
        let bytes = record.view().bytes();
        assert!(RecordRef::parse(bytes).is_ok());
        let at = bytes.len() - BIRTH_BYTES;
        for time in [9u64, 10, u64::MAX] {
            let mut bytes = bytes.to_vec();
            bytes[at..at + 8].copy_from_slice(&time.to_le_bytes());
            assert_eq!(RecordRef::parse(&bytes).err(), Some(RecordError::Malformed("field for its kind")));
        }
        let mut counted = bytes.to_vec();
        counted[at - 10] = 1;
        assert!(RecordRef::parse(&counted).is_err(), "what extends a deletion counts from zero");
    }
}
