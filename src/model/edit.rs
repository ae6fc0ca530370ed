//! Changes that look at what is there: conditions, appending, expiries. What one does to a record is
//! told here; who carries it out, and when, is the engine's.
//!
//! A counter is read as its number in decimal text. What changes its text makes a value of it; what
//! changes its expiry leaves it a counter.

use super::merge::plain_number;
use super::record::{Kind, RecordRef};
use super::timestamp::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One look and, if the condition holds, one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modify {
    /// What must hold for anything to be changed.
    pub condition: Condition,
    /// What is done.
    pub edit: Edit,
    /// Which record the answer carries.
    pub returns: Returns,
}

/// What must hold of the readable record under a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// There is a value with exactly this timestamp. A counter never meets it: what is counted leaves its timestamp.
    Stamp(Timestamp),
    /// There is exactly this record, by its element.
    Element(u128),
}

/// How a record is changed. An edit that finds nothing to change is one whose condition does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// Stores a value.
    Set {
        /// Its bytes.
        value: Bytes,
        /// Its expiry.
        expiry: NewExpiry,
    },
    /// Leaves a tombstone, if there is something to delete.
    Delete,
    /// Adds bytes to the end of the value, which may be empty or absent before. The expiry stays.
    Append(Bytes),
    /// Writes bytes at an offset; what lies between the end and the offset becomes zero. The expiry stays.
    SetRange {
        /// Where the bytes go.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Adds to a decimal number, 0 if there is none. The expiry stays.
    Add(Decimal),
    /// Gives what is there another expiry, in milliseconds since the Unix epoch, or none. One that is
    /// over deletes.
    Expire {
        /// The expiry.
        at: Option<u64>,
        /// What must hold of the present one.
        when: ExpireWhen,
    },
}

/// The expiry of a value that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewExpiry {
    /// None is asked for: it has that of its collection's `default_ttl`, if there is one.
    None,
    /// That of what is replaced.
    Keep,
    /// Milliseconds since the Unix epoch; [`super::record::LASTING_MS`]: it has none.
    At(u64),
}

/// What must hold of the present expiry for another to take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireWhen {
    /// Nothing.
    Always,
    /// There is none.
    None,
    /// There is one.
    Some,
    /// The new one is later; none counts as never.
    Later,
    /// The new one is sooner; none counts as never.
    Sooner,
    /// There is one, and the new one is sooner.
    SomeSooner,
}

/// Which record an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returns {
    /// No record.
    Nothing,
    /// What was there.
    Before,
    /// What is there now.
    After,
}

/// A number with a fraction, as exactly as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decimal {
    /// In units of 10^-17, so that 0.1 and 0.2 are 0.3.
    Fixed(i128),
    /// The bits of a 64-bit floating-point number, where the former has no room.
    Float(u64),
}

impl Decimal {
    const ZERO: Self = Self::Fixed(0);

    /// Reads a decimal number, or an infinity in words, which no sum is made of; spaces around it are none of it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        let number: f64 = text.parse().ok()?;
        if is_plain != number.is_finite() || number.is_nan() {
            return None;
        }
        // In digits it has no exponent.
        let exactly = fixed(text).or_else(|| fixed(&number.to_string()));
        Some(exactly.map_or(Self::Float(number.to_bits()), Self::Fixed))
    }

    fn float(self) -> f64 {
        match self {
            Self::Fixed(number) => number as f64 / UNITS as f64,
            Self::Float(bits) => f64::from_bits(bits),
        }
    }
}

impl Modify {
    /// Bytes of values in it.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        match &self.edit {
            Edit::Set { value: bytes, .. } | Edit::Append(bytes) | Edit::SetRange { bytes, .. } => {
                bytes.len()
            }
            Edit::Delete | Edit::Add(_) | Edit::Expire { .. } => 0,
        }
    }
}

/// Why an edit was refused. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// What is there is no decimal number.
    #[error("value is not a valid float")]
    NotADecimal,
    /// The sum is no finite number.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// The value would be longer than values may be.
    #[error("the value would have {0} bytes, more than values may have")]
    TooLarge(u64),
}

/// What an edit makes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edited {
    /// The condition does not hold, or there is nothing to change.
    Unmet,
    /// A tombstone.
    Deleted,
    /// A value with an expiry.
    Value(Vec<u8>, Option<u64>),
    /// The same number, as a counter, with an expiry: so what others count meanwhile is not lost.
    Counter(Option<u64>),
}

/// Applies a change to what is readable at `wall_ms`. The value will have `limit` bytes at most.
///
/// # Errors
/// [`EditError`].
pub fn edit(
    readable: Option<RecordRef<'_>>,
    modify: &Modify,
    wall_ms: u64,
    limit: usize,
) -> Result<Edited, EditError> {
    let holds = match modify.condition {
        Condition::Always => true,
        Condition::Absent => readable.is_none(),
        Condition::Present => readable.is_some(),
        Condition::Stamp(stamp) => {
            readable.is_some_and(|record| record.timestamp() == stamp && record.kind() == Kind::Value)
        }
        Condition::Element(element) => readable.is_some_and(|record| record.element() == element),
    };
    if !holds {
        return Ok(Edited::Unmet);
    }
    let expiry = readable.and_then(RecordRef::expiry_ms);
    Ok(match &modify.edit {
        Edit::Set { value, expiry: new } => {
            let expiry = match new {
                NewExpiry::None => None,
                NewExpiry::Keep => expiry,
                NewExpiry::At(at) => Some(*at),
            };
            Edited::Value(value.to_vec(), expiry)
        }
        Edit::Delete if readable.is_none() => Edited::Unmet,
        Edit::Delete => Edited::Deleted,
        Edit::Append(bytes) => {
            let mut value = text(readable);
            within(value.len() as u64 + bytes.len() as u64, limit)?;
            value.extend_from_slice(bytes);
            Edited::Value(value, expiry)
        }
        Edit::SetRange { offset, bytes } => {
            let mut value = text(readable);
            let end = offset.saturating_add(bytes.len() as u64).max(value.len() as u64);
            value.resize(within(end, limit)?, 0);
            let start = usize::try_from(*offset).unwrap_or(usize::MAX);
            if let Some(room) = value.get_mut(start..start.saturating_add(bytes.len())) {
                room.copy_from_slice(bytes);
            }
            Edited::Value(value, expiry)
        }
        Edit::Add(delta) => {
            let present = readable.map(|_| text(readable));
            Edited::Value(add(present.as_deref(), *delta)?.into_bytes(), expiry)
        }
        Edit::Expire { at, when } => match readable {
            Some(record) if may_expire(expiry, *at, *when) => {
                if at.is_some_and(|at| at <= wall_ms) {
                    Edited::Deleted
                } else if record.kind() == Kind::Counter || plain_number(record).is_some() {
                    Edited::Counter(*at)
                } else {
                    Edited::Value(record.body().to_vec(), *at)
                }
            }
            _ => Edited::Unmet,
        },
    })
}

fn may_expire(present: Option<u64>, new: Option<u64>, when: ExpireWhen) -> bool {
    let (present_or_never, new_or_never) = (present.unwrap_or(u64::MAX), new.unwrap_or(u64::MAX));
    match when {
        // An expiry that is not there can't be taken away.
        ExpireWhen::Always => new.is_some() || present.is_some(),
        ExpireWhen::None => present.is_none(),
        ExpireWhen::Some => present.is_some(),
        ExpireWhen::Later => new_or_never > present_or_never,
        ExpireWhen::Sooner => new_or_never < present_or_never,
        ExpireWhen::SomeSooner => present.is_some_and(|present| new_or_never < present),
    }
}

fn within(bytes: u64, limit: usize) -> Result<usize, EditError> {
    let fits = usize::try_from(bytes).ok().filter(|bytes| *bytes <= limit);
    fits.ok_or(EditError::TooLarge(bytes))
}

/// What a reader gets: a value's bytes, a counter's number, nothing of nothing.
fn text(readable: Option<RecordRef<'_>>) -> Vec<u8> {
    match readable {
        Some(record) if record.kind() == Kind::Counter => record.total().to_string().into_bytes(),
        Some(record) => record.body().to_vec(),
        None => Vec::new(),
    }
}

/// The sum of a decimal number in text (none is zero) and `delta`, in as few digits as tell it.
fn add(present: Option<&[u8]>, delta: Decimal) -> Result<String, EditError> {
    let present = match present {
        None => Decimal::ZERO,
        Some(text) => Decimal::parse(text).ok_or(EditError::NotADecimal)?,
    };
    if let (Decimal::Fixed(one), Decimal::Fixed(other)) = (present, delta)
        && let Some(sum) = one.checked_add(other)
    {
        return Ok(unfixed(sum));
    }
    let sum = present.float() + delta.float();
    if sum.is_finite() { Ok(format!("{sum}")) } else { Err(EditError::NotFinite) }
}

/// Decimal places of a number in fixed point.
const PLACES: usize = 17;
/// Its units in 1.
const UNITS: u128 = 10u128.pow(PLACES as u32);

/// A number in digits in fixed point; `None` when it does not fit, or has an exponent.
fn fixed(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > PLACES || whole.len() > 20 {
        return None;
    }
    format!("{whole}{fraction:0<PLACES$}").parse().ok()
}

fn unfixed(number: i128) -> String {
    let (sign, digits) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
    let (whole, fraction) = (digits / UNITS, digits % UNITS);
    let fraction = format!("{fraction:0>PLACES$}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::KeyRef;
    use super::super::merge::{Found, increment};
    use super::super::record::{Pair, Record};
    use super::super::timestamp::MemberId;
    use super::*;

    const STAMP: Timestamp = Timestamp { time: 5, member: MemberId(1) };

    fn value(body: &[u8], expiry: Option<u64>) -> Record {
        Record::value(KeyRef::new("default", b"k").unwrap(), STAMP, expiry, body)
    }

    fn counter(number: i64) -> Record {
        let pair = Pair { member: MemberId(1), incarnation: 1, plus: 2, minus: 0 };
        Record::counter(KeyRef::new("default", b"k").unwrap(), STAMP, 1, None, number - 2, &[pair])
    }

    fn run(record: Option<&Record>, condition: Condition, change: Edit) -> Result<Edited, EditError> {
        let modify = Modify { condition, edit: change, returns: Returns::Nothing };
        edit(record.map(Record::view), &modify, 100, 10)
    }

    const fn set(expiry: NewExpiry) -> Edit {
        Edit::Set { value: Bytes::from_static(b"v"), expiry }
    }

    const fn append(bytes: &'static [u8]) -> Edit {
        Edit::Append(Bytes::from_static(bytes))
    }

    #[test]
    fn conditions_look_at_what_is_readable() {
        let there = value(b"x", None);
        let wrong = Timestamp { time: 6, ..STAMP };
        let cases = [
            (Condition::Always, true, true),
            (Condition::Absent, false, true),
            (Condition::Present, true, false),
            (Condition::Stamp(STAMP), true, false),
            (Condition::Stamp(wrong), false, false),
        ];
        for (condition, over_something, over_nothing) in cases {
            let met = |record| run(record, condition, set(NewExpiry::None)) != Ok(Edited::Unmet);
            assert_eq!((met(Some(&there)), met(None)), (over_something, over_nothing), "{condition:?}");
        }
    }

    #[test]
    fn what_was_counted_on_since_it_was_seen_is_not_what_was_seen() {
        let seen = value(b"5", None);
        let key = KeyRef::new("default", b"k").unwrap();
        let counted = increment(key, Found::Record(seen.view()), 0, (MemberId(2), 1), 1).unwrap();
        assert_eq!(counted.view().timestamp(), STAMP);
        for condition in [Condition::Stamp(STAMP), Condition::Element(seen.view().element())] {
            assert_eq!(run(Some(&counted), condition, set(NewExpiry::None)), Ok(Edited::Unmet));
            assert_ne!(run(Some(&seen), condition, set(NewExpiry::None)), Ok(Edited::Unmet));
        }
        let exactly = Condition::Element(counted.view().element());
        assert_ne!(run(Some(&counted), exactly, set(NewExpiry::None)), Ok(Edited::Unmet));
    }

    #[test]
    fn a_value_keeps_or_loses_its_expiry_as_asked() {
        let there = value(b"x", Some(500));
        for (expiry, expected) in
            [(NewExpiry::None, None), (NewExpiry::Keep, Some(500)), (NewExpiry::At(7), Some(7))]
        {
            let edited = run(Some(&there), Condition::Always, set(expiry));
            assert_eq!(edited, Ok(Edited::Value(b"v".to_vec(), expected)));
        }
        let longer = run(Some(&there), Condition::Always, append(b"y"));
        assert_eq!(longer, Ok(Edited::Value(b"xy".to_vec(), Some(500))));
    }

    #[test]
    fn ranges_are_filled_with_zeros_and_bounded() {
        let at = |offset, bytes: &'static [u8]| Edit::SetRange { offset, bytes: Bytes::from_static(bytes) };
        let there = value(b"abc", None);
        let cases: [(Option<&Record>, Edit, &[u8]); 4] = [
            (Some(&there), at(1, b"X"), b"aXc"),
            (Some(&there), at(5, b"X"), b"abc\0\0X"),
            (None, at(1, b"X"), b"\0X"),
            (Some(&counter(42)), append(b"!"), b"42!"),
        ];
        for (record, change, expected) in cases {
            assert_eq!(run(record, Condition::Always, change), Ok(Edited::Value(expected.to_vec(), None)));
        }
        for (offset, expected) in [(10, 11), (u64::MAX, u64::MAX)] {
            let refused = run(None, Condition::Always, at(offset, b"X"));
            assert_eq!(refused, Err(EditError::TooLarge(expected)));
        }
        let refused = run(Some(&there), Condition::Always, append(b"12345678"));
        assert_eq!(refused, Err(EditError::TooLarge(11)));
    }

    #[test]
    fn expiries_change_under_their_conditions() {
        let (with, without) = (value(b"x", Some(500)), value(b"x", None));
        use ExpireWhen::{Always, Later, None as Unset, Some as Has, Sooner};
        let cases = [
            (Some(600), Always, true, true),
            (None, Always, true, false),
            (Some(600), Unset, false, true),
            (Some(600), Has, true, false),
            (Some(600), Later, true, false),
            (Some(400), Later, false, false),
            (Some(400), Sooner, true, true),
            (Some(600), Sooner, false, true),
        ];
        for (at, when, over_with, over_without) in cases {
            for (record, expected) in [(&with, over_with), (&without, over_without)] {
                let edited = run(Some(record), Condition::Always, Edit::Expire { at, when });
                let met = Edited::Value(b"x".to_vec(), at);
                assert_eq!(edited, Ok(if expected { met } else { Edited::Unmet }), "{at:?} {when:?}");
            }
        }
        let over = |record| run(record, Condition::Always, Edit::Expire { at: Some(100), when: Always });
        assert_eq!(over(Some(&with)), Ok(Edited::Deleted));
        assert_eq!(over(None), Ok(Edited::Unmet));
        let counted = counter(3);
        let later = Edit::Expire { at: Some(101), when: Always };
        assert_eq!(run(Some(&counted), Condition::Always, later), Ok(Edited::Counter(Some(101))));
    }

    #[test]
    fn decimals_add_up_as_people_expect() {
        let sum = |present: &[u8], delta: &str| {
            let present = (!present.is_empty()).then(|| value(present, None));
            let delta = Decimal::parse(delta.as_bytes()).unwrap();
            run(present.as_ref(), Condition::Always, Edit::Add(delta))
        };
        let cases: [(&[u8], &str, &str); 11] = [
            (b"0.1", "0.2", "0.3"),
            (b"", "-1.5", "-1.5"),
            (b"5.0e3", "200.0", "5200"),
            (b"3", "-3", "0"),
            (b"10.50", ".1", "10.6"),
            (b"-0.25", "+0.5", "0.25"),
            (b"-.5", "1.", "0.5"),
            (b"9223372036854775807", "1.5e2", "9223372036854775957"),
            (b"-150", "9223372036854775807", "9223372036854775657"),
            (b"1e30", "1.0", "1000000000000000000000000000000"),
            (b"1e20", "-1e20", "0"),
        ];
        for (present, delta, expected) in cases {
            let expected = Edited::Value(expected.as_bytes().to_vec(), None);
            assert_eq!(sum(present, delta), Ok(expected));
        }
        for endless in [&b"inf"[..], b"-Inf", b"+INFINITY"] {
            assert_eq!(sum(endless, "1"), Err(EditError::NotFinite), "{endless:?}");
        }
        for wrong in [&b"x"[..], b" 1", b"infx", b"nan", b"-nan", b"1e999", b"0x10"] {
            assert_eq!(sum(wrong, "1"), Err(EditError::NotADecimal), "{wrong:?}");
        }
        let empty = value(b"", None);
        let over_empty = run(Some(&empty), Condition::Always, Edit::Add(Decimal::Fixed(1)));
        assert_eq!(over_empty, Err(EditError::NotADecimal));
        assert_eq!(sum(b"1e308", "1e308"), Err(EditError::NotFinite));
        assert_eq!(sum(b"1", "inf"), Err(EditError::NotFinite));
        assert_eq!(sum(b"x", "inf"), Err(EditError::NotADecimal));
        let none = Edit::Add(Decimal::Float(f64::NAN.to_bits()));
        assert_eq!(run(None, Condition::Always, none), Err(EditError::NotFinite));
    }
}
